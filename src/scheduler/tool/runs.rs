//! `quoin run`: submits, looks at runs and steers them.

use super::desk::{Desk, Done, Trouble, duration, now_ms, percent, say, table, time};
use super::named::{parse_task, parse_tasks, task_name};
use super::submits::{self, SubmitArgs, Then, Which};
use super::{CANCELED, FAILED, USAGE, live, reports};
use crate::ctl;
use crate::scheduler::coordinator::Control;
use crate::scheduler::model::{Row, Status};
use crate::scheduler::steer;
use crate::scheduler::view::{
    self, Audit, Event, LaneView, Numbers, RunSummary, TaskView, Waiting, numbers_once, read,
    totals_line,
};
use clap::Subcommand;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write as _;

#[derive(Debug, Subcommand)]
pub enum RunAction {
    /// Writes the cases and environments of a plan file and submits its run, or runs cases by name
    Submit(Box<SubmitArgs>),
    /// Lists runs, the newest first
    Ls {
        /// Those in this state
        #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(view::STATES))]
        state: Option<String>,
        /// Whose they are
        #[arg(long)]
        owner: Option<String>,
        /// Those that were submitted before this one
        #[arg(long)]
        before: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Shows how far a run is
    Show { run: String },
    /// Shows how far a run was at an earlier revision of the store
    At {
        run: String,
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        rev: i64,
    },
    /// Shows a run live until its end, and exits as it went
    Watch { run: String },
    /// Says why tasks wait: all of a run, those of a case, or one
    Why {
        run: String,
        /// case, case@environment or case@environment#number
        task: Option<String>,
    },
    /// Measures a run against the least time in which it could be done
    Bound { run: String },
    /// Checks a run's record against all that the scheduler promises
    Verify {
        run: String,
        /// How far the clocks of workers may be apart, in milliseconds
        #[arg(long, default_value_t = 50)]
        skew: u64,
    },
    /// Tells what happened in a run again, in order, from its record
    Replay {
        run: String,
        /// Of one case only
        #[arg(long)]
        case: Option<String>,
    },
    /// Submits some tasks of a run again, as a new run that points to it: each case in the environments where
    /// there are any, as often as there are
    Rerun {
        run: String,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        then: Then,
    },
    /// Records a person's verdict on a task of a manual case
    Verdict {
        run: String,
        /// case@environment#number
        task: String,
        verdict: Opinion,
        /// What was seen
        #[arg(long, default_value = "")]
        message: String,
        /// Whose verdict it is
        #[arg(long, env = "USER", default_value = "")]
        by: String,
    },
    /// Gives nothing more of a run out
    Pause { run: String },
    /// Lets a paused run go on
    Resume { run: String },
    /// Ends a run: what runs is stopped, what waits is dropped
    Cancel { run: String },
}

/// What a person says of a task.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Opinion {
    Passed,
    Failed,
    /// No verdict could be reached
    Error,
}

pub(super) async fn run(action: RunAction, desk: &Desk) -> Done {
    let client = &desk.client;
    match action {
        RunAction::Submit(args) => {
            reports::check(&args.then.reports)?;
            let run = submits::submit(&args, desk).await?;
            then(run, &args.then, desk).await
        }
        RunAction::Rerun { run, which, then: after } => {
            reports::check(&after.reports)?;
            let book = read::book(client, &run).await?;
            let run = submits::rerun(&book, &which, desk).await?;
            then(run, &after, desk).await
        }
        RunAction::Ls { state, owner, before, limit } => {
            let is_wanted = |run: &RunSummary| {
                state.as_ref().is_none_or(|state| run.state == *state)
                    && owner.as_ref().is_none_or(|owner| run.owner == *owner)
            };
            let found = read::runs(client, is_wanted, before.as_deref(), limit).await?;
            desk.show(&json!({"runs": found.0, "next": found.1}), |_| list(&found.0));
            Ok(0)
        }
        RunAction::Show { run } => show(desk, &run, 0).await,
        RunAction::At { run, rev } => show(desk, &run, rev).await,
        RunAction::Replay { run, case } => replay(desk, &run, case.as_deref()).await,
        RunAction::Watch { run } => Ok(live::watch(desk, &run).await?.unwrap_or(0)),
        RunAction::Why { run, task } => why(desk, &run, task.as_deref()).await,
        RunAction::Bound { run } => {
            let book = read::book(client, &run).await?;
            desk.show(&numbers_once(&book), bound);
            Ok(0)
        }
        RunAction::Verify { run, skew } => verify(desk, &run, skew).await,
        RunAction::Verdict { run, task, verdict, message, by } => {
            judge(desk, &run, &task, verdict, json!({"message": message, "by": by})).await
        }
        RunAction::Pause { run } => control(desk, &run, Control::Paused).await,
        RunAction::Resume { run } => control(desk, &run, Control::Running).await,
        RunAction::Cancel { run } => control(desk, &run, Control::Canceled).await,
    }
}

async fn control(desk: &Desk, run: &str, wanted: Control) -> Done {
    steer::control(&desk.client, run, wanted).await?;
    desk.tell(&json!({"run": run, "control": wanted}));
    Ok(0)
}

async fn judge(desk: &Desk, run: &str, task: &str, opinion: Opinion, detail: Value) -> Done {
    let book = read::book(&desk.client, run).await?;
    let (lane, ordinal) = parse_task(&book, task)?;
    let alone = book.plan.lanes.get(lane as usize).is_some_and(|lane| lane.total == 1);
    let Some(ordinal) = ordinal.or_else(|| alone.then_some(0)) else {
        return Err(Trouble::Usage(format!("which task of {task} is it? name it case#number")));
    };
    let status = match opinion {
        Opinion::Passed => Status::Passed,
        Opinion::Failed => Status::Failed,
        Opinion::Error => Status::Error,
    };
    let start = now_ms();
    let detail = Some(detail);
    let row = Row { lane, ordinal, attempt: 0, status, start, duration: 0, detail };
    steer::verdict(&desk.client, run, &row).await?;
    let name = book.find_task(lane, ordinal).map(|task| task_name(&task));
    desk.tell(&json!({"run": run, "task": name, "status": status}));
    Ok(0)
}

/// Says the run's id, and follows the run if that was asked for.
async fn then(run: String, then: &Then, desk: &Desk) -> Done {
    if !then.wait && then.reports.is_empty() {
        desk.show(&json!({"run": run}), |_| run.clone());
        return Ok(0);
    }
    if !desk.wants_json {
        say(&run);
    }
    let Some(code) = live::watch(desk, &run).await? else {
        // Whoever asked for its end has not heard of it.
        return Ok(USAGE);
    };
    if !then.reports.is_empty() {
        let text = format!("no report is written: run {run} has ended");
        let written = async {
            let book = read::book(&desk.client, &run).await?;
            let files = then.reports.clone();
            let write = move || files.iter().try_for_each(|f| reports::write_as_named(&book, f));
            // A file system may take its time.
            let written = tokio::task::spawn_blocking(write).await;
            written.map_err(|ended| Trouble::Usage(ended.to_string()))?
        };
        live::after(written, text).await?;
    }
    Ok(code)
}

/// The exit code for how a run ended.
pub(super) fn code(state: &str) -> u8 {
    match state {
        "passed" => 0,
        "canceled" => CANCELED,
        _ => FAILED,
    }
}

/// One line that says how far a run is.
pub(super) fn line(found: &RunSummary) -> String {
    let mut line = format!("{}: {}", found.state, totals_line(&found.totals));
    if let Some(ended) = found.ended {
        let seconds = ended.saturating_sub(found.submitted) as f64 / 1_000.0;
        // It cannot fail.
        let _infallible = write!(line, " in {seconds:.3} s");
    }
    line
}

fn list(found: &[RunSummary]) -> String {
    let rows = found.iter().map(|run| {
        let took = run.ended.map(|end| duration(end.saturating_sub(run.submitted) * 1_000));
        [
            run.id.clone(),
            run.name.clone(),
            run.state.clone(),
            format!("{} of {}", run.totals.ended(), run.totals.total),
            run.totals.failures.to_string(),
            run.totals.flaky.to_string(),
            time(run.submitted),
            took.unwrap_or_default(),
        ]
    });
    let titles = ["run", "name", "state", "ended", "failures", "flaky", "submitted", "took"];
    table(titles, rows.collect())
}

async fn show(desk: &Desk, run: &str, revision: i64) -> Done {
    let book = read::book_at(&desk.client, run, revision).await?;
    let mut summary = read::summary(&desk.client, run, book.revision).await?;
    if summary.ended.is_none() {
        summary.state = book.state().to_owned();
        summary.totals = book.totals();
    }
    #[derive(Serialize)]
    struct Shown<'s> {
        #[serde(flatten)]
        summary: &'s RunSummary,
        running: u64,
        lanes: Vec<LaneView>,
        failures: Vec<TaskView>,
        revision: i64,
    }
    let failures = book.tasks(&crate::scheduler::view::Filter::failures(), (0, 0), 20).tasks;
    let running = book.running() + book.assigned();
    let (lanes, revision) = (book.lanes(), book.revision);
    let shown = Shown { summary: &summary, running, lanes, failures, revision };
    desk.show(&shown, |shown| {
        let mut text = line(&summary) + "\n";
        if shown.running > 0 {
            let _infallible = writeln!(text, "{} with workers", shown.running);
        }
        if shown.lanes.len() > 1 && shown.lanes.len() <= 50 {
            text += &lanes_table(&shown.lanes);
        }
        for task in &shown.failures {
            let _infallible = writeln!(text, "{}", failure(task));
        }
        text
    });
    Ok(0)
}

/// A column for each thing that there is in some lane.
fn lanes_table(lanes: &[LaneView]) -> String {
    let is_there = |status: &Status| lanes.iter().any(|lane| lane.totals.get(*status) > 0);
    let rare = [Status::Lost, Status::Skipped, Status::Canceled].into_iter().filter(is_there);
    let rare: Vec<Status> = rare.collect();
    let number = |count: u64| if count > 0 { count.to_string() } else { String::new() };
    let rows = lanes.iter().map(|lane| {
        let count = |status: &Status| lane.totals.get(*status);
        let failed = [Status::Failed, Status::Error, Status::TimedOut].iter().map(count).sum();
        let open = lane.totals.total.saturating_sub(lane.totals.ended());
        let mut row = vec![
            lane.case.clone(),
            lane.environment.clone(),
            lane.totals.total.to_string(),
            number(count(&Status::Passed)),
            number(failed),
        ];
        row.extend(rare.iter().map(count).map(number));
        row.push(lane.running.to_string());
        row.push(open.saturating_sub(lane.running.into()).to_string());
        row
    });
    let mut titles = vec!["case", "environment", "tasks", "passed", "failed"];
    titles.extend(rare.iter().map(|status| status.word()));
    titles.extend(["running", "waiting"]);
    ctl::table_text(&titles, &rows.collect::<Vec<_>>())
}

/// A task and what its last attempt said, in one line.
pub(super) fn failure(task: &TaskView) -> String {
    let mut line = format!("{} {}", task.word(), task_name(task));
    if task.attempts > 1 {
        let _infallible = write!(line, " after {} attempts", task.attempts);
    }
    let said = task.detail.as_ref().and_then(|detail| {
        let of = |name: &str| {
            detail.get(name).and_then(|value| value.as_str()).filter(|text| !text.is_empty())
        };
        of("message").or_else(|| of("stderr")).or_else(|| of("output"))
    });
    if let Some(said) = said {
        let _infallible = write!(line, ": {}", super::desk::cell(said, 160));
    }
    line
}

async fn why(desk: &Desk, run: &str, task: Option<&str>) -> Done {
    let (book, mut found) = read::why(&desk.client, run, now_ms()).await?;
    if let Some(task) = task {
        let (lanes, ordinal) = parse_tasks(&book, task)?;
        found.retain(|waiting| lanes.contains(&waiting.lane));
        if let ([lane], Some(ordinal)) = (&lanes[..], ordinal)
            && let Some(task) = book.find_task(*lane, ordinal)
            && task.status != Status::Pending
        {
            desk.show(&json!({"task": task}), |_| {
                let on = task.worker.as_ref().map(|worker| format!(" on {worker}"));
                let reason = task.reason.as_ref().map(|reason| format!(": {reason}"));
                let more = on.or(reason).unwrap_or_default();
                format!("{} is {}{more}", task_name(&task), task.status.word())
            });
            return Ok(0);
        }
    }
    let state = book.state().to_owned();
    desk.show(&json!({"state": state, "waiting": found}), |_| match found.is_empty() {
        true => format!("nothing waits; the run is {state}"),
        false => waiting(&found, now_ms()),
    });
    Ok(0)
}

/// A table of what waits for what, and for how long by now.
pub(super) fn waiting(found: &[Waiting], now: u64) -> String {
    let rows = found.iter().map(|waiting| {
        [
            waiting.case.clone(),
            waiting.environment.clone(),
            waiting.tasks.to_string(),
            duration(now.saturating_sub(waiting.since).saturating_mul(1_000)),
            waiting.text.clone(),
        ]
    });
    table(["case", "environment", "waiting", "for", "because"], rows.collect())
}

fn bound(found: &Numbers) -> String {
    let slots = match found.slots {
        0 => "0, no worker that is there could run it".to_owned(),
        slots => slots.to_string(),
    };
    let mut rows = vec![
        ["slots".to_owned(), slots],
        ["work".into(), duration(found.work)],
        ["bound by work over slots".into(), duration(found.bound_work)],
        ["bound by the busiest tag".into(), duration(found.bound_tag)],
        ["bound by environment or queue".into(), duration(found.bound_limit)],
        ["bound by the longest chain".into(), duration(found.bound_chain)],
        ["bound".into(), duration(found.bound)],
        ["took so far".into(), duration(found.makespan)],
    ];
    if found.guessed > 0 {
        rows.push(["tasks of unknown length, counted as 1 s".into(), found.guessed.to_string()]);
    }
    if found.left > 0 {
        rows.push(["left at least".into(), duration(found.left)]);
    }
    if let Some(efficiency) = found.efficiency {
        rows.push(["efficiency".into(), percent(efficiency)]);
    }
    if let Some(loss) = found.loss {
        let all = (found.slots * found.makespan).max(1) as f64;
        for (name, lost) in [
            ("until the first start", loss.start),
            ("waiting for predecessors", loss.predecessor),
            ("waiting for tags", loss.tag),
            ("waiting for environment or queue", loss.limit),
            ("waiting for people", loss.person),
            ("hand-over", loss.hand_over),
            ("workers gone", loss.gone),
            ("other causes", loss.other),
            ("tail", loss.tail),
            ("attempts in vain", loss.repeated),
        ] {
            rows.push([format!("slots lost: {name}"), percent(lost as f64 / all)]);
        }
    }
    if let Some(why) = found.loss_left_out {
        rows.push(["slots lost".to_owned(), why.to_owned()]);
    }
    table(["what", "value"], rows)
}

async fn replay(desk: &Desk, run: &str, case: Option<&str>) -> Done {
    let book = read::book(&desk.client, run).await?;
    let mut told = view::story(&book);
    told.retain(|told| match (&told.event, case) {
        (Event::Start(step) | Event::End { step, .. }, Some(case)) => *step.case == *case,
        _ => true,
    });
    desk.show(&told, |told| {
        let lines: Vec<_> = told.iter().map(|told| view::line(told, book.spec.submitted)).collect();
        lines.join("\n")
    });
    Ok(0)
}

async fn verify(desk: &Desk, run: &str, skew: u64) -> Done {
    let (book, audit, has_history) = read::verify(&desk.client, run, skew).await?;
    let is_clean = audit.is_clean();
    let shown = json!({
        "run": run, "state": book.state(), "clean": is_clean, "history": has_history, "audit": audit
    });
    desk.show(&shown, |_| verdict(&audit, has_history));
    Ok(if is_clean { 0 } else { FAILED })
}

fn verdict(audit: &Audit, has_history: bool) -> String {
    let rows = crate::scheduler::view::Rule::ALL.into_iter().map(|rule| {
        let faults = audit.faults.iter().filter(|fault| fault.rule == rule).count();
        let checked = audit.checked.get(&rule).copied().unwrap_or_default();
        let word = match (faults, checked) {
            (0, 0) => "not known".to_owned(),
            (0, _) => "holds".to_owned(),
            (faults, _) => format!("broken {faults} times"),
        };
        [rule.text().to_owned(), checked.to_string(), word]
    });
    let mut text = table(["promise", "checked", "verdict"], rows.collect());
    for fault in &audit.faults {
        let _infallible = writeln!(text, "{}", fault.text);
    }
    if !has_history {
        text += "The store has compacted the run's history: only what is recorded was checked.\n";
    }
    text
}
