//! Runs the golden scripts in `testscripts/`: one for each rule of who gets what and when. The time
//! is what the script says. Those `lane` lines make a run that stand before its `submit`; lanes are
//! named RUN/CASE, or RUN/CASE@ENVIRONMENT, and claims by the numbers that `decide` shows.

use super::play::plain;
use super::{
    Assignment, ClaimNo, LaneId, LockName, Note, Planner, RunNo, RunSetup, Tags, Verdict, WorkerNo,
};
use crate::scheduler::model::{
    Item, Labels, LanePlan, OnLost, PlannedPredecessor, Policy, Retries, Row, RunPlan, Scope,
    Status,
};
use goldenscript::ArgumentConsumer;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::Arc;
use test_each_file::test_each_path;

type Fallible<T> = Result<T, Box<dyn Error>>;

test_each_path! { in "src/scheduler/planner/testscripts" as scripts => run }

fn run(path: &std::path::Path) {
    goldenscript::run(&mut Script::default(), path).expect("script failed");
}

struct SubmittedRun {
    name: String,
    cases: Vec<String>,
}

/// Runs and workers by the names that the script gave them.
#[derive(Default)]
struct Script {
    planner: Option<Planner>,
    /// Milliseconds.
    now: u64,
    workers: BTreeMap<String, WorkerNo>,
    /// Of the run that is submitted next.
    lanes: Vec<LanePlan>,
    runs: BTreeMap<RunNo, SubmittedRun>,
    /// All that was ever given out.
    given: BTreeMap<ClaimNo, Assignment>,
    /// What is left of that with workers.
    claims: BTreeMap<ClaimNo, Assignment>,
    out: String,
}

/// `20ms`, `3s` or `2m`, in microseconds.
fn time(text: &str) -> Fallible<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or("a time has a unit")?;
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        other => return Err(format!("unknown unit {other}").into()),
    };
    Ok(number.parse::<u64>()? * unit)
}

fn millis(text: &str) -> Fallible<u64> {
    Ok(time(text)? / 1_000)
}

fn status(word: &str) -> Fallible<Status> {
    let is_meant = |status: &Status| status.word().replace(' ', "_") == word;
    let found = Status::ALL.into_iter().find(is_meant);
    Ok(found.ok_or_else(|| format!("unknown status {word}"))?)
}

/// `OS/LINUX`
fn label(text: &str) -> (String, String) {
    let (name, value) = text.split_once('/').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

/// A number, or `none`.
fn limit(text: &str) -> Fallible<u32> {
    Ok(if text == "none" { u32::MAX } else { text.parse()? })
}

/// Of ordinals from and to, without the latter.
fn interval(from: u32, to: u32) -> String {
    if to == from + 1 { from.to_string() } else { format!("{from}-{}", to - 1) }
}

fn words(verdict: Verdict) -> String {
    match verdict {
        Verdict::Ended(status, 0) => status.word().to_owned(),
        Verdict::Ended(status, tried) => format!("{}, {tried} before", status.word()),
        Verdict::GivenUp(status) => format!("{}, not tried again", status.word()),
        Verdict::Again(0) => "again".to_owned(),
        Verdict::Again(rest) => format!("again after {rest} ms"),
        Verdict::Refused => "refused".to_owned(),
    }
}

/// Equal ones that follow each other are counted.
fn sequence(names: &[String]) -> String {
    let groups = names.chunk_by(|left, right| left == right);
    let words = groups.map(|group| match group.len() {
        1 => group[0].clone(),
        count => format!("{count} {}", group[0]),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// CASE [total=N] [estimate=TIME|none] [priority=N] [slots=N] [env=NAME] [tag=NAME].. [label=K/V]..
/// [after=CASE[/run|repeat[/ended|passed|PART]]].. [global=CASE].. [retries=N] [infra=N]
/// [backoff=TIME] [on_lost=retry|never] [chain=B] [muted=B] [skipped=B] [manual=B]
fn lane(lanes: &[LanePlan], args: &mut ArgumentConsumer<'_>) -> Fallible<LanePlan> {
    let mut lane = plain(args.next_pos().ok_or("no case")?, 1, 1_000_000);
    lane.retries = Retries { test: 0, infra: 0, backoff_ms: 0 };
    let mut requires = Labels::new();
    while let Some((name, value)) = args.next_key() {
        match name {
            "total" => lane.total = value.parse()?,
            "estimate" if value == "none" => lane.estimate = None,
            "estimate" => lane.estimate = Some(time(value)?),
            "priority" => lane.priority = value.parse()?,
            "slots" => lane.slots = value.parse()?,
            "env" => lane.environment = value.into(),
            "tag" => lane.tags.push(value.into()),
            "label" => requires.extend([label(value)]),
            "after" => lane.predecessors.push(predecessor(lanes, value)?),
            "global" => lane.global_predecessors.push(value.into()),
            "retries" => lane.retries.test = value.parse()?,
            "infra" => lane.retries.infra = value.parse()?,
            "backoff" => lane.retries.backoff_ms = millis(value)?,
            "on_lost" if value == "never" => lane.on_lost = OnLost::Never,
            "on_lost" => lane.on_lost = OnLost::Retry,
            "chain" => lane.chain = value.parse()?,
            "muted" => lane.is_muted = value.parse()?,
            "skipped" => lane.is_skipped = value.parse()?,
            "manual" => lane.is_manual = value.parse()?,
            other => return Err(format!("unknown {other}").into()),
        }
    }
    lane.requires = Arc::new(requires);
    Ok(lane)
}

fn predecessor(lanes: &[LanePlan], text: &str) -> Fallible<PlannedPredecessor> {
    let mut parts = text.split('/');
    let case = parts.next().unwrap_or_default();
    let lane = lanes.iter().position(|lane| *lane.case == *case).ok_or("no such predecessor")?;
    let scope = match parts.next() {
        None | Some("run") => Scope::Run,
        Some("repeat") => Scope::Repeat,
        Some(other) => return Err(format!("unknown scope {other}").into()),
    };
    let policy = match parts.next() {
        None | Some("ended") => Policy::Ended,
        Some("passed") => Policy::Passed,
        Some(part) => Policy::Ratio(part.parse()?),
    };
    Ok(PlannedPredecessor { lane: lane as u32, scope, policy })
}

impl Script {
    fn planner(&mut self) -> &mut Planner {
        self.planner.get_or_insert_with(Planner::new)
    }

    fn run_no(&self, name: &str) -> Fallible<RunNo> {
        let found = self.runs.iter().find(|(_, run)| run.name == name);
        Ok(found.map(|(number, _)| *number).ok_or_else(|| format!("no run {name}"))?)
    }

    /// RUN/CASE, or RUN/CASE@ENVIRONMENT
    fn lane_id(&self, text: &str) -> Fallible<LaneId> {
        let (run, case) = text.split_once('/').ok_or("a lane is RUN/CASE")?;
        let run = self.run_no(run)?;
        let place = self.runs[&run].cases.iter().position(|of_run| of_run == case);
        Ok(LaneId { run, lane: place.ok_or_else(|| format!("no case {case}"))? as u32 })
    }

    fn name(&self, id: LaneId) -> String {
        let run = &self.runs[&id.run];
        format!("{}/{}", run.name, run.cases[id.lane as usize])
    }

    /// NAME [slots=N] [ahead=N] [label=K/V]..
    fn join(&mut self, args: &mut ArgumentConsumer<'_>) -> Fallible<()> {
        let name = args.next_pos().ok_or("no name")?;
        let slots = args.take_key("slots").unwrap_or("1").parse()?;
        let ahead = args.take_key("ahead").unwrap_or("0").parse()?;
        let mut labels = Labels::new();
        while let Some((name, value)) = args.next_key() {
            match name {
                "label" => labels.extend([label(value)]),
                other => return Err(format!("unknown {other}").into()),
            }
        }
        let number = self.planner().worker_joins(name.into(), &labels, slots, ahead);
        self.workers.insert(name.to_owned(), number);
        Ok(())
    }

    /// NAME [weight=N] [capacity=N|none] [closed=REASON|no]; weights are of queues only.
    fn set(&mut self, kind: &str, args: &mut ArgumentConsumer<'_>) -> Fallible<()> {
        let name: Arc<str> = args.next_pos().ok_or("no name")?.into();
        let lock = match kind {
            "tag" => LockName::Tag(name.clone()),
            "queue" => LockName::Queue(name.clone()),
            _ => LockName::Environment(name.clone()),
        };
        if let Some(weight) = args.take_key("weight") {
            self.planner().set_weight(&name, weight.parse()?);
        }
        if let Some(capacity) = args.take_key("capacity") {
            self.planner().set_capacity(&lock, limit(capacity)?);
        }
        if let Some(reason) = args.take_key("closed") {
            let reason = (reason != "no").then(|| reason.into());
            self.planner().set_closed(&lock, reason);
        }
        Ok(())
    }

    /// RUN [queue=NAME] [priority=N] [deadline=TIME] [no_worker_timeout=TIME] [failures_max=N]
    fn submit(&mut self, args: &mut ArgumentConsumer<'_>) -> Fallible<()> {
        let name = args.next_pos().ok_or("no run")?;
        let lanes = std::mem::take(&mut self.lanes);
        let cases = lanes.iter().map(|lane| match &*lane.environment {
            "" => lane.case.to_string(),
            environment => format!("{}@{environment}", lane.case),
        });
        let cases = cases.collect();
        let now = self.now;
        let run = RunSetup {
            name: name.into(),
            plan: RunPlan { lanes },
            queue: args.take_key("queue").unwrap_or("default").into(),
            priority: args.take_key("priority").unwrap_or("0").parse()?,
            deadline: args.take_key("deadline").map(millis).transpose()?.map(|after| now + after),
            no_worker_timeout: args.take_key("no_worker_timeout").map(millis).transpose()?,
            failures_max: args.take_key("failures_max").map(str::parse).transpose()?,
        };
        let number = self.planner().add_run(now, run);
        self.runs.insert(number, SubmittedRun { name: name.to_owned(), cases });
        self.planner().start_run(now, number);
        Ok(())
    }

    /// What is given out now.
    fn decide(&mut self) -> Vec<Assignment> {
        let now = self.now;
        let made = self.planner().decide(now);
        let by_number = || made.iter().map(|made| (made.claim, made.clone()));
        self.claims.extend(by_number());
        self.given.extend(by_number());
        made
    }

    fn show(&mut self, made: &Assignment) -> Fallible<()> {
        let Assignment { claim, worker, run, items, tags, urgent, .. } = made;
        let worker = self.planner().worker_name(*worker).unwrap_or_default();
        let items = items.iter().map(|item| {
            let name = self.name(LaneId { run: *run, lane: item.lane });
            let attempt = match item.attempt {
                1 => String::new(),
                attempt => format!(" (attempt {attempt})"),
            };
            format!("{name} {}{attempt}", interval(item.from, item.to))
        });
        let items = items.collect::<Vec<_>>().join(", ");
        let mut line = format!("{claim}: {worker} gets {items}");
        if !tags.is_empty() {
            let tags = tags.iter().map(|(tag, unit)| format!("{tag}/{unit}"));
            write!(line, ", holds {}", tags.collect::<Vec<_>>().join(" "))?;
        }
        writeln!(self.out, "{line}{}", if *urgent { "" } else { ", not urgent" })?;
        Ok(())
    }

    /// Each task of a claim by itself, in order.
    fn tasks(claim: &Assignment) -> Vec<Item> {
        let each = |item: &Item| {
            let item = *item;
            (item.from..item.to).map(move |from| Item { from, to: from + 1, ..item })
        };
        claim.items.iter().flat_map(each).collect()
    }

    /// Delivers what became of tasks of a claim; the others stay with it. `None` is given back.
    fn deliver(
        &mut self,
        claim: ClaimNo,
        ends: &[(Item, Option<Status>)],
        took: u64,
        tags: Tags,
    ) -> Fallible<()> {
        let now = self.now;
        let run = self.given.get(&claim).ok_or("no such claim")?.run;
        let mut left = Vec::new();
        if let Some(out) = self.claims.get_mut(&claim) {
            left = Self::tasks(out);
            left.retain(|task| !ends.iter().any(|(ended, _)| ended == task));
            out.items = left.clone();
        }
        let rows = ends.iter().filter_map(|(task, status)| {
            let start = now.saturating_sub(took / 1_000);
            let Item { lane, from: ordinal, attempt, .. } = *task;
            let status = (*status)?;
            Some(Row { lane, ordinal, attempt, status, start, duration: took, detail: None })
        });
        let rows: Vec<Row> = rows.collect();
        let verdicts = self.planner().deliver(now, claim, &rows, &left, tags);
        let ends: Vec<_> = rows.iter().zip(verdicts).collect();
        let are_alike = |(left, of_left): &(&Row, Verdict), (right, of_right): &(&Row, Verdict)| {
            left.lane == right.lane && left.ordinal + 1 == right.ordinal && of_left == of_right
        };
        for alike in ends.chunk_by(are_alike) {
            let (first, verdict) = alike[0];
            let name = self.name(LaneId { run, lane: first.lane });
            let ordinals = interval(first.ordinal, first.ordinal + alike.len() as u32);
            writeln!(self.out, "{name} {ordinals}: {}", words(verdict))?;
        }
        if left.is_empty() {
            self.claims.remove(&claim);
        }
        Ok(())
    }

    /// CLAIM [STATUS|back] [took=TIME] for all its tasks, or CLAIM CASE/ORDINAL=STATUS|back..
    fn end(&mut self, args: &mut ArgumentConsumer<'_>) -> Fallible<()> {
        let claim: ClaimNo = args.next_pos().ok_or("no claim")?.parse()?;
        let took = args.take_key("took").map_or(Ok(1_000_000), time)?;
        let given = self.given.get(&claim).ok_or("no such claim")?;
        let end = |word: &str| (word != "back").then(|| status(word)).transpose();
        let word = end(args.next_pos().unwrap_or("passed"))?;
        let cases = &self.runs[&given.run].cases;
        let mut ends = Vec::new();
        while let Some((task, word)) = args.next_key() {
            let is_meant = |item: &Item| format!("{}/{}", cases[item.lane as usize], item.from);
            let found = Self::tasks(given).into_iter().find(|item| is_meant(item) == task);
            ends.push((found.ok_or_else(|| format!("{task} is not in it"))?, end(word)?));
        }
        if ends.is_empty() {
            let left = Self::tasks(self.claims.get(&claim).unwrap_or(given));
            ends = left.into_iter().map(|task| (task, word)).collect();
        }
        self.deliver(claim, &ends, took, Tags::Free)
    }

    /// What the worker has is lost; its tags are not free before `release`.
    fn lose(&mut self, name: &str) -> Fallible<()> {
        let number = self.workers.remove(name).ok_or("no such worker")?;
        self.planner().worker_leaves(number);
        let claims = self.claims.values().filter(|claim| claim.worker == number);
        for claim in claims.cloned().collect::<Vec<_>>() {
            let lost = |task| (task, Some(Status::Lost));
            let ends: Vec<_> = Self::tasks(&claim).into_iter().map(lost).collect();
            self.deliver(claim.claim, &ends, 0, Tags::Draining)?;
        }
        Ok(())
    }

    /// TASKS [each=TIME] [by=run]: gives out and ends the oldest claim, until so many have passed.
    fn play(&mut self, args: &mut ArgumentConsumer<'_>) -> Fallible<()> {
        let mut left: usize = args.next_pos().ok_or("no tasks")?.parse()?;
        let each = args.take_key("each").map_or(Ok(0), millis)?;
        let by_run = args.take_key("by") == Some("run");
        let mut names = Vec::new();
        while left > 0 {
            self.decide();
            let Some(claim) = self.claims.values().next().cloned() else { break };
            self.now += each;
            let now = self.now;
            self.planner().advance(now);
            let tasks = Self::tasks(&claim);
            for task in &tasks {
                let name = self.name(LaneId { run: claim.run, lane: task.lane });
                let run = self.runs[&claim.run].name.clone();
                names.push(if by_run { run } else { name });
            }
            left = left.saturating_sub(tasks.len());
            let ends: Vec<_> = tasks.into_iter().map(|task| (task, Some(Status::Passed))).collect();
            let out = std::mem::take(&mut self.out);
            self.deliver(claim.claim, &ends, 1_000_000, Tags::Free)?;
            self.out = out;
        }
        writeln!(self.out, "{}", sequence(&names))?;
        Ok(())
    }

    fn show_totals(&mut self, name: &str) -> Fallible<()> {
        let run = self.run_no(name)?;
        let totals = self.planner().totals(run).ok_or("it is gone")?;
        write!(self.out, "{} tasks", totals.total)?;
        for (status, count) in totals.by_status.iter().filter(|(_, count)| **count > 0) {
            write!(self.out, ", {count} {}", status.word())?;
        }
        for (count, word) in [(totals.flaky, "flaky"), (totals.failures, "counted as failures")] {
            if count > 0 {
                write!(self.out, ", {count} {word}")?;
            }
        }
        writeln!(self.out)?;
        Ok(())
    }

    fn show_notes(&mut self) -> Fallible<()> {
        for note in self.planner().take_notes() {
            let run = |run: &RunNo| self.runs[run].name.clone();
            let line = match &note {
                Note::LaneChanged(id) => format!("{} changed", self.name(*id)),
                Note::LaneEnded(id) => format!("{} ended", self.name(*id)),
                Note::RunStopped(number) => format!("{} stopped", run(number)),
                Note::RunEnded(number) => format!("{} ended", run(number)),
            };
            writeln!(self.out, "{line}")?;
        }
        Ok(())
    }

    /// What concerns a run as a whole.
    fn steer(&mut self, command: &str, run: RunNo) {
        let now = self.now;
        match command {
            "pause" => self.planner().pause_run(run),
            "resume" => self.planner().resume_run(now, run),
            _ => self.planner().stop_run(now, run, Status::Canceled),
        }
    }
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Fallible<String> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "join" => self.join(&mut args)?,
            // It finishes what it has.
            "leave" => {
                let number = self.workers.remove(args.next_pos().ok_or("no worker")?);
                self.planner().worker_leaves(number.ok_or("no such worker")?);
            }
            // It takes nothing for a while.
            "rest" => {
                let number = self.workers.get(args.next_pos().ok_or("no worker")?).copied();
                self.planner().worker_rests(number.ok_or("no such worker")?);
            }
            "wake" => {
                let number = self.workers.get(args.next_pos().ok_or("no worker")?).copied();
                self.planner().worker_wakes(number.ok_or("no such worker")?);
            }
            "lose" => self.lose(args.next_pos().ok_or("no worker")?)?,
            // TAG UNIT: the hold-off after a lost worker is over.
            "release" => {
                let tag: Arc<str> = args.next_pos().ok_or("no tag")?.into();
                let unit = args.next_pos().ok_or("no unit")?.parse()?;
                self.planner().release_tag(&tag, unit);
            }
            kind @ ("tag" | "queue" | "env") => self.set(kind, &mut args)?,
            "lane" => self.lanes.push(lane(&self.lanes, &mut args)?),
            "submit" => self.submit(&mut args)?,
            "decide" => {
                let made = self.decide();
                if made.is_empty() {
                    writeln!(self.out, "nothing")?;
                }
                for made in &made {
                    self.show(made)?;
                }
            }
            "end" => self.end(&mut args)?,
            "play" => self.play(&mut args)?,
            // So much time passes.
            "wait" => {
                self.now += millis(args.next_pos().ok_or("no time")?)?;
                let now = self.now;
                self.planner().advance(now);
            }
            steer @ ("pause" | "resume" | "cancel") => {
                let run = self.run_no(args.next_pos().ok_or("no run")?)?;
                self.steer(steer, run);
            }
            "why" => {
                let name = args.next_pos().ok_or("no lane")?;
                let id = self.lane_id(name)?;
                let why = self.planner().why(id).ok_or("it is gone")?;
                writeln!(self.out, "{name}: {why:?}")?;
            }
            "totals" => self.show_totals(args.next_pos().ok_or("no run")?)?,
            other => return Err(format!("unknown command {other}").into()),
        }
        args.reject_next()?;
        self.show_notes()?;
        Ok(std::mem::take(&mut self.out))
    }
}
