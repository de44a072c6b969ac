//! `quoin result`: tasks of a run one by one, and the latest result of each case.

use super::desk::{Desk, Done, Trouble, cell, duration, json, plain, table, time};
use super::named::{parse_task, task_name};
use crate::scheduler::junit::{CASE_PROPERTY, Case, Reason, Report, Suite, write};
use crate::scheduler::keys;
use crate::scheduler::model::{Status, TestCase};
use crate::scheduler::report;
use crate::scheduler::view::{Attempt, Filter, TasksPage, read};
use clap::Subcommand;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

#[derive(Debug, Subcommand)]
pub enum ResultAction {
    /// Lists the tasks of a run
    Ls {
        run: String,
        /// pending, running, passed, failed, error, canceled, skipped, "timed out", lost, flaky, failures
        #[arg(long, value_parser = status)]
        status: Vec<String>,
        /// Of this case
        #[arg(long)]
        case: Option<String>,
        /// In this environment
        #[arg(long)]
        env: Option<String>,
        /// With this tag
        #[arg(long)]
        tag: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Where to go on: lane,number, as the page before says
        #[arg(long, value_parser = place, default_value = "0,0")]
        from: (u32, u32),
    },
    /// Shows all attempts of a task with their outputs
    Get {
        run: String,
        /// case@environment#number
        task: String,
    },
    /// Prints what each attempt of a task has said, as far as it is stored, and where the rest is
    Logs {
        run: String,
        /// case@environment#number
        task: String,
        /// Of this attempt only; 1 is the first
        #[arg(long)]
        attempt: Option<u32>,
    },
    /// Shows the latest result of a case, in each environment
    Latest { case: String },
}

/// What a task may be asked for by: statuses by their words or codes, flaky, and failures of all kinds.
fn status(text: &str) -> Result<String, String> {
    narrow(&mut Filter::default(), text).map(|()| text.to_owned())
}

fn place(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once(',');
    let parts = parts.and_then(|(lane, at)| Some((lane.parse().ok()?, at.parse().ok()?)));
    parts.ok_or_else(|| "it is not lane,number".into())
}

pub(super) async fn run(action: ResultAction, desk: &Desk) -> Done {
    match action {
        ResultAction::Ls { run, status, case, env, tag, limit, from } => {
            let mut filter = Filter { case, environment: env, tag, ..Default::default() };
            for word in &status {
                narrow(&mut filter, word).map_err(Trouble::Usage)?;
            }
            let book = read::book(&desk.client, &run).await?;
            desk.show(&book.tasks(&filter, from, limit), list);
        }
        ResultAction::Get { run, task } => get(desk, &run, &task).await?,
        ResultAction::Logs { run, task, attempt } => logs(desk, &run, &task, attempt).await?,
        ResultAction::Latest { case } => {
            let prefix = format!("{}{case}/", keys::RESULTS);
            let (kvs, _) = desk.client.prefix(&prefix, 0).await?;
            if kvs.is_empty() {
                return Err(Trouble::Nothing(format!("there is no result of case {case}")));
            }
            let values = kvs.iter().filter_map(|kv| {
                let value = serde_json::from_slice::<Value>(&kv.value).ok()?;
                Some(json!({"environment": kv.key.strip_prefix(&prefix), "result": value}))
            });
            desk.show(&values.collect::<Vec<_>>(), json);
        }
    }
    Ok(0)
}

fn narrow(filter: &mut Filter, word: &str) -> Result<(), String> {
    match word {
        "flaky" => filter.flaky = true,
        "failures" => filter.statuses.extend(Filter::failures().statuses),
        word => {
            let known = Status::ALL.into_iter().find(|status| {
                status.word() == word
                    || status.code() == word
                    || word == "timeout" && status.word() == "timed out"
            });
            let known = known.ok_or_else(|| {
                let words = Status::ALL.map(Status::word).join(", ");
                format!("there is no such status: known are {words}, flaky and failures")
            })?;
            filter.statuses.push(known);
        }
    }
    Ok(())
}

fn list(page: &TasksPage) -> String {
    let rows = page.tasks.iter().map(|task| {
        let mut status = task.word();
        if task.is_flaky {
            status += ", flaky";
        }
        let said = task.detail.as_ref().and_then(|detail| detail.get("message"));
        let said = said.and_then(Value::as_str).or(task.reason.as_deref());
        [
            task_name(task),
            status,
            task.attempts.to_string(),
            task.worker.clone().unwrap_or_default(),
            task.since.or(task.start).map(time).unwrap_or_default(),
            task.duration.map(duration).unwrap_or_default(),
            cell(said.unwrap_or_default(), 60),
        ]
    });
    let titles = ["task", "status", "attempts", "worker", "start", "took", "message"];
    let mut text = table(titles, rows.collect());
    if let Some((lane, ordinal)) = page.next {
        // It cannot fail.
        let _infallible = writeln!(text, "there are more: --from {lane},{ordinal}");
    }
    text
}

async fn get(desk: &Desk, run: &str, task: &str) -> Result<(), Trouble> {
    let book = read::book(&desk.client, run).await?;
    let (lane, ordinal) = parse_task(&book, task)?;
    let found = book.find_task(lane, ordinal.unwrap_or(0));
    let found = found.ok_or_else(|| Trouble::Usage(format!("run {run} has no task {task}")))?;
    let attempts: Vec<&Attempt> = book.attempts_of(lane, found.ordinal).collect();
    let values: Vec<Value> = attempts
        .iter()
        .map(|attempt| {
            let row = &attempt.row;
            json!({
                "attempt": row.attempt, "status": row.status, "worker": *attempt.worker,
                "start": attempt.start(), "duration": row.duration, "fence": attempt.claim,
                "revision": attempt.revision, "detail": row.detail,
            })
        })
        .collect();
    desk.show(&json!({"task": found, "attempts": values}), |_| {
        let reason = found.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
        let mut text = format!("{}: {}{reason}\n", task_name(&found), found.word());
        for attempt in attempts {
            let row = &attempt.row;
            let (took, began) = (duration(row.duration), time(row.start));
            let when = match attempt.start() {
                Some(_) => format!("in {took}, started {began}"),
                None => format!("which was noticed {began}"),
            };
            let _infallible = writeln!(
                text,
                "attempt {} on {}: {} {when}, fence {}",
                row.attempt,
                attempt.worker,
                row.status.word(),
                attempt.claim,
            );
            for (name, said) in report::sayings(row.detail.as_ref()) {
                let said = harmless(said.trim_end()).replace('\n', "\n    ");
                let _infallible = writeln!(text, "  {name}: {said}");
            }
        }
        text
    });
    Ok(())
}

/// What was stored of one stream of an attempt.
#[derive(Debug, PartialEq, Serialize)]
struct Log {
    attempt: u32,
    worker: String,
    /// message, output or stderr
    stream: &'static str,
    text: String,
    /// Its end, where `text` is its begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    tail: Option<String>,
    /// Of the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    /// The digest of the whole, and where its worker serves it, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Why there is no artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

/// What an attempt said. `served` is where its worker serves artifacts; empty if nowhere.
fn logs_of(attempt: &Attempt, served: &str) -> Vec<Log> {
    let detail = attempt.row.detail.as_ref();
    let streams = report::sayings(detail).into_iter().map(|(stream, text)| {
        let beside = |what: &str| detail.and_then(|detail| detail.get(format!("{stream}_{what}")));
        let word = |what: &str| beside(what).and_then(Value::as_str).map(str::to_owned);
        let artifact = word("artifact");
        let url = artifact.as_ref().filter(|_| !served.is_empty());
        Log {
            attempt: attempt.row.attempt,
            worker: attempt.worker.to_string(),
            stream,
            text: text.to_owned(),
            tail: word("tail"),
            bytes: beside("bytes").and_then(Value::as_u64),
            url: url.map(|digest| format!("{served}/{digest}")),
            artifact,
            fault: word("artifact_fault"),
        }
    });
    streams.collect()
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- attempt {} on {}: {}", self.attempt, self.worker, self.stream)?;
        writeln!(f, "{}", self.text.trim_end())?;
        let Some(tail) = &self.tail else { return Ok(()) };
        let bytes = self.bytes.unwrap_or_default();
        let place = match (&self.url, &self.artifact, &self.fault) {
            (Some(url), ..) => format!("all of it is at {url}"),
            (None, Some(digest), _) => {
                format!(
                    "worker {} had all of it as artifact {digest}, and is not here",
                    self.worker
                )
            }
            (None, None, Some(fault)) => format!("the rest is not kept: {fault}"),
            (None, None, None) => "the rest is not kept".to_owned(),
        };
        writeln!(f, "--- begin and end of {bytes} bytes; {place}")?;
        writeln!(f, "{}", tail.trim_end())
    }
}

/// What somebody else has written, without what would command a terminal.
fn harmless(text: &str) -> String {
    let line = |line: &str| plain(line.trim_end_matches('\r'), usize::MAX);
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

async fn logs(desk: &Desk, run: &str, task: &str, attempt: Option<u32>) -> Result<(), Trouble> {
    let book = read::book(&desk.client, run).await?;
    let (lane, ordinal) = parse_task(&book, task)?;
    let found = book.find_task(lane, ordinal.unwrap_or(0));
    let found = found.ok_or_else(|| Trouble::Usage(format!("run {run} has no task {task}")))?;
    let attempts = book.attempts_of(lane, found.ordinal);
    let wanted: Vec<&Attempt> =
        attempts.filter(|found| attempt.is_none_or(|n| n == found.row.attempt)).collect();
    if wanted.is_empty() {
        let name = task_name(&found);
        return Err(Trouble::Nothing(match attempt {
            Some(attempt) => format!("{name} has no attempt {attempt} that has ended"),
            None => format!("no attempt of {name} has ended: it is {}", found.status.word()),
        }));
    }
    let served = |worker: &str| book.workers.get(worker).map(|info| info.artifacts.as_str());
    let logs = wanted
        .iter()
        .flat_map(|attempt| logs_of(attempt, served(&attempt.worker).unwrap_or_default()));
    desk.show(&logs.collect::<Vec<_>>(), |logs| match logs.is_empty() {
        true => format!("{} has said nothing that was stored", task_name(&found)),
        false => {
            let text: String = logs.iter().map(Log::to_string).collect();
            // A file or a program gets what was said as it is.
            if std::io::stdout().is_terminal() { harmless(&text) } else { text }
        }
    });
    Ok(())
}

/// The latest results of cases as a JUnit report; cases without one are skipped tests.
pub(super) async fn latest_as_junit(desk: &Desk, cases: &[TestCase]) -> Result<String, Trouble> {
    let (kvs, _) = desk.client.prefix(keys::RESULTS, 0).await?;
    let mut suite = Suite { name: "latest results".into(), ..Default::default() };
    let own = |case: &TestCase| vec![(CASE_PROPERTY.to_owned(), case.id.clone())];
    for case in cases {
        let prefix = format!("{}{}/", keys::RESULTS, case.id);
        let mut is_known = false;
        let from = kvs.partition_point(|kv| kv.key < prefix);
        for kv in kvs[from..].iter().take_while(|kv| kv.key.starts_with(&prefix)) {
            let value: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
            let Ok(status) = serde_json::from_value(value["code"].clone())
                .or_else(|_| by_word(value["status"].as_str().unwrap_or_default()))
            else {
                continue;
            };
            is_known = true;
            // Of what passed it is what was put out.
            let logs = value["logs"].as_str().filter(|_| status.fails_run()).unwrap_or_default();
            let (message, text) = logs.split_once('\n').unwrap_or((logs, ""));
            let (message, text) = (message.to_owned(), text.to_owned());
            suite.cases.push(Case {
                name: case.id.clone(),
                class: kv.key[prefix.len()..].to_owned(),
                reason: Reason { message, kind: status.word().to_owned(), text },
                status,
                time_us: value["duration_ms"].as_u64().map(|ms| ms * 1_000),
                properties: own(case),
                ..Default::default()
            });
        }
        if !is_known {
            let reason = Reason { message: "it never ran".into(), ..Default::default() };
            let (name, status) = (case.id.clone(), Status::Skipped);
            let properties = own(case);
            suite.cases.push(Case { name, status, reason, properties, ..Default::default() });
        }
    }
    Ok(write(&Report { name: "cases".into(), suites: vec![suite] }))
}

fn by_word(word: &str) -> Result<Status, ()> {
    Status::ALL.into_iter().find(|status| status.word() == word || status.code() == word).ok_or(())
}
