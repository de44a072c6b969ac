//! `quoin bench tasks`: loads for a test scheduler and its workers, which it expects to be there.
//!
//! It serves what the cases call, submits them as a run, waits for its end, and says how near that came to
//! the least possible time, where the rest went, and whether the record is right.

mod chaos;
mod loads;
mod service;

use super::BenchError;
use super::args::TeamArgs;
use crate::scheduler::client::{Access, Client, Commits};
use crate::scheduler::coordinator::RunStatus;
use crate::scheduler::keys;
use crate::scheduler::model::{Segment, Status, Totals};
use crate::scheduler::store::Change;
use crate::scheduler::submit::{self, SubmitError};
use crate::scheduler::view::{self, Loss};
pub(super) use chaos::run as chaos;
pub(super) use loads::Load;
use serde::Serialize;
use service::{Call, Service};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between a worker's clock and the leader's nothing is allowed on one machine but their rounding.
const SKEW_MS: u64 = 2;
/// Runs one after another in the load `single`.
const SINGLES: u32 = 500;

/// What came of a load. Times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct TasksOutcome {
    load: String,
    tasks: u64,
    slots: u32,
    /// From before the submit until the run had ended.
    took: f64,
    bound: f64,
    /// The time above the bound, in percent of it.
    over: f64,
    tasks_each_second: f64,
    /// From the submit to the first call: its median and 99th percentile over all runs.
    start: [f64; 2],
    /// From a worker's death until its tasks are recorded as lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<f64>,
    /// From an answer to the next call on that slot: median, 99th percentile, longest.
    hand_over: [f64; 3],
    /// Where slots stood idle, in seconds of one slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<Loss>,
    /// What is wrong with the record; empty if it is right.
    faults: Vec<String>,
    /// Whether the history was there to check, too.
    checked_history: bool,
    /// What was to be reached and was not.
    missed: Vec<String>,
}

impl TasksOutcome {
    /// Whether the record is right.
    pub(super) fn is_right(&self) -> bool {
        self.faults.is_empty()
    }
}

fn store(error: &SubmitError) -> BenchError {
    BenchError::Usage(format!("the scheduler's store: {error}"))
}

async fn connect(endpoints: &[String]) -> Result<Client, BenchError> {
    let access = Access { endpoints: endpoints.to_vec(), ..Access::default() };
    Client::connect(&access).await.map_err(|error| store(&error.into()))
}

/// An id for a run, and the time in milliseconds since 1970.
fn new_run() -> (String, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = now.as_millis() as u64;
    (format!("{now:011x}{:05x}", rand::random::<u32>() & 0xf_ffff), now)
}

/// Waits for the end of the run whose status is at this key, from a watch on it.
async fn end_of(commits: &mut Commits, key: &str) -> Result<Totals, BenchError> {
    loop {
        for commit in commits.next().await.map_err(|error| store(&error.into()))? {
            for change in commit.changes {
                let Change::Put(kv) = change else { continue };
                let status: RunStatus = serde_json::from_slice(&kv.value)
                    .map_err(|source| BenchError::Format { what: format!("read {key}"), source })?;
                if status.ended.is_some() {
                    return Ok(status.totals);
                }
            }
        }
    }
}

/// Runs a load to its end. `kill` is the process of a worker, for the load that wants one to die.
///
/// # Errors
/// When the store refuses the run or does not answer; when the run does not end in time.
pub(super) async fn run(
    load: Load,
    args: &TeamArgs,
    kill: Option<i32>,
) -> Result<TasksOutcome, BenchError> {
    let service = Service::start().await.map_err(BenchError::io("listen for cases"))?;
    let client = connect(&args.endpoints).await?;
    for case in load.cases(&service, args.case_time) {
        submit::put_case(&client, &case).await.map_err(|error| store(&error))?;
    }
    let usual = if load == Load::Lost { args.slots } else { load.size().1 };
    let repeats = args.repeats.unwrap_or(usual);
    let once = Once { client, service, load, args, kill, repeats };
    if load == Load::Tail {
        once.run().await?;
    }
    let mut runs = vec![once.run().await?];
    if load == Load::Single {
        for _ in 1..SINGLES {
            runs.push(once.run().await?);
        }
    }
    once.outcome(&runs).await
}

/// How to do a load once.
struct Once<'a> {
    client: Client,
    service: Service,
    load: Load,
    args: &'a TeamArgs,
    kill: Option<i32>,
    repeats: u32,
}

/// A load that was done.
struct Done {
    run: String,
    submitted: Instant,
    took: Duration,
    totals: Totals,
    calls: Vec<Call>,
    lost: Option<Duration>,
}

impl Once<'_> {
    async fn run(&self) -> Result<Done, BenchError> {
        let (run, now) = new_run();
        self.service.take();
        let spec = self.load.spec(run.clone(), now, self.repeats);
        let key = keys::status(&run);
        let watched = self.client.watch(&key, 0).await;
        let mut commits = watched.map_err(|error| store(&error.into()))?;
        let submitted = Instant::now();
        submit::submit(&self.client, &spec).await.map_err(|error| store(&error))?;
        let lost = match self.kill {
            Some(worker) => Some(self.lose(worker, &run).await?),
            None => None,
        };
        let ended = end_of(&mut commits, &key);
        let ended = tokio::time::timeout(self.args.timeout, ended).await;
        let Ok(totals) = ended else {
            let limit = self.args.timeout;
            return Err(BenchError::Usage(format!(
                "run {run} did not end within {limit:?}: are a scheduler and workers there, with {} \
                 slots and --allow-loopback?",
                self.args.slots
            )));
        };
        let took = submitted.elapsed();
        Ok(Done { run, submitted, took, totals: totals?, calls: self.service.take(), lost })
    }

    /// Kills a worker when all slots are busy, and waits until a task is recorded as lost.
    async fn lose(&self, worker: i32, run: &str) -> Result<Duration, BenchError> {
        let segments = self.client.watch(&keys::segments(run), 0).await;
        let mut commits = segments.map_err(|error| store(&error.into()))?;
        let deadline = Instant::now() + self.args.timeout;
        let in_time = |what: &str| match Instant::now() < deadline {
            true => Ok(()),
            false => Err(BenchError::Usage(format!("run {run}: {what} in time"))),
        };
        while self.service.came() < u64::from(self.args.slots) {
            in_time("not all slots were busy")?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let killed = Instant::now();
        rustix::process::Pid::from_raw(worker)
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL))
            .map_err(|error| BenchError::io("kill the worker")(error.into()))?;
        loop {
            in_time("no task was lost")?;
            for commit in commits.next().await.map_err(|error| store(&error.into()))? {
                for change in commit.changes {
                    let Change::Put(kv) = change else { continue };
                    let segment: Segment = serde_json::from_slice(&kv.value).unwrap_or_default();
                    if segment.rows.iter().any(|row| row.status == Status::Lost) {
                        return Ok(killed.elapsed());
                    }
                }
            }
        }
    }

    async fn outcome(&self, runs: &[Done]) -> Result<TasksOutcome, BenchError> {
        let (args, load) = (self.args, self.load);
        let mut faults = Vec::new();
        let (mut idle, mut checked_history) = (None, true);
        for done in runs {
            let verified = view::read::verify(&self.client, &done.run, SKEW_MS).await;
            let (book, audit, has_history) = verified.map_err(|error| store(&error))?;
            faults.extend(audit.faults.iter().map(|fault| fault.text.clone()));
            checked_history &= has_history;
            idle = view::numbers(&book).loss;
            let tasks = u64::from(load.size().0) * u64::from(self.repeats);
            let passed = done.totals.get(Status::Passed);
            if (passed, done.calls.len() as u64) != (tasks, tasks) {
                let calls = done.calls.len();
                faults.push(format!("{passed} of {tasks} tasks passed, with {calls} calls"));
            }
        }
        let mut gaps: Vec<Duration> =
            runs.iter().flat_map(|done| hand_overs(load, &done.calls)).collect();
        let first = |done: &Done| {
            let came = done.calls.iter().map(|call| call.came).min();
            came.unwrap_or(done.submitted) - done.submitted
        };
        let mut starts: Vec<Duration> = runs.iter().map(first).collect();
        let tasks: usize = runs.iter().map(|done| done.calls.len()).sum();
        let took: Duration = runs.iter().map(|done| done.took).sum();
        let bound: Duration = runs.iter().map(|done| load.bound(&done.calls, args.slots)).sum();
        let over = (took.as_secs_f64() / bound.as_secs_f64().max(1e-9) - 1.0) * 100.0;
        let start = [part(&mut starts, 0.5), part(&mut starts, 0.99)];
        let hand_over = [part(&mut gaps, 0.5), part(&mut gaps, 0.99), part(&mut gaps, 1.0)];
        let each_second = tasks as f64 / took.as_secs_f64();
        let lost = runs.iter().find_map(|done| done.lost).map(|lost| lost.as_secs_f64());
        let missed = args.goals.iter().filter_map(|goal| {
            let reached = match &*goal.measure {
                "took" => took.as_secs_f64(),
                "over" => over,
                "rate" => each_second,
                "start-p50" => start[0] * 1e3,
                "start-p99" => start[1] * 1e3,
                "lost" => lost.unwrap_or(f64::INFINITY),
                _ => hand_over[0] * 1e3,
            };
            (!goal.is_met(reached)).then(|| format!("{goal}, reached {reached:.2}"))
        });
        Ok(TasksOutcome {
            load: load.name(),
            tasks: tasks as u64,
            slots: args.slots,
            took: took.as_secs_f64(),
            bound: bound.as_secs_f64(),
            over,
            tasks_each_second: each_second,
            start,
            lost,
            hand_over,
            idle: idle.filter(|_| runs.len() == 1),
            faults,
            checked_history,
            missed: missed.collect(),
        })
    }
}

/// From each answer to the call that took its slot: the next one, where cases exclude themselves that of
/// the same case.
fn hand_overs(load: Load, calls: &[Call]) -> Vec<Duration> {
    let group = |call: &Call| if load == Load::Exclusive { call.case } else { 0 };
    let mut steps: Vec<(Instant, bool, u32)> = Vec::with_capacity(calls.len() * 2);
    for call in calls {
        steps.push((call.came, true, group(call)));
        steps.push((call.left, false, group(call)));
    }
    steps.sort_unstable();
    let mut free: BTreeMap<u32, VecDeque<Instant>> = BTreeMap::new();
    let mut gaps = Vec::new();
    for (at, is_call, group) in steps {
        let free = free.entry(group).or_default();
        if !is_call {
            free.push_back(at);
        } else if let Some(since) = free.pop_front() {
            gaps.push(at - since);
        }
    }
    gaps
}

/// The value below which this part of them lies, in seconds.
fn part(values: &mut [Duration], part: f64) -> f64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    let at = (last as f64 * part).round() as usize;
    values.get(at).map_or(0.0, Duration::as_secs_f64)
}

impl fmt::Display for TasksOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |seconds: f64| seconds * 1e3;
        writeln!(f, "{:<12}{} tasks on {} slots", self.load, self.tasks, self.slots)?;
        writeln!(
            f,
            "  took      {:.3} s, {:.0} a second; bound {:.3} s (+{:.2} %)",
            self.took, self.tasks_each_second, self.bound, self.over
        )?;
        let [p50, p99] = self.start.map(ms);
        writeln!(f, "  start     {p50:.2} ms after the submit (p99 {p99:.2})")?;
        let [p50, p99, most] = self.hand_over.map(ms);
        writeln!(f, "  hand-over p50 {p50:.2} ms, p99 {p99:.2} ms, longest {most:.2} ms")?;
        if let Some(lost) = self.lost {
            writeln!(f, "  lost      {lost:.2} s after the worker was killed")?;
        }
        if let Some(idle) = &self.idle {
            let seconds = |us: u64| us as f64 / 1e6;
            writeln!(
                f,
                "  idle      {:.2} s before the start, {:.2} waiting for predecessors, {:.2} for tags, \
                 {:.2} handing over, {:.2} with workers gone, {:.2} for other causes, {:.2} at the end",
                seconds(idle.start),
                seconds(idle.predecessor),
                seconds(idle.tag),
                seconds(idle.hand_over),
                seconds(idle.gone),
                seconds(idle.other),
                seconds(idle.tail)
            )?;
        }
        write_audit(f, &self.faults, self.checked_history)?;
        self.missed.iter().try_for_each(|goal| writeln!(f, "  MISSED    {goal}"))
    }
}

fn write_audit(
    f: &mut fmt::Formatter<'_>,
    faults: &[String],
    checked_history: bool,
) -> fmt::Result {
    let history = if checked_history { "record and history" } else { "record" };
    match faults.len() {
        0 => writeln!(f, "  audit     {history} are right")?,
        count => writeln!(f, "  audit     {count} FAULTS in {history}")?,
    }
    faults.iter().take(10).try_for_each(|fault| writeln!(f, "            {fault}"))
}
