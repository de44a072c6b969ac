//! `quoin bench chaos`: a load on workers of its own, one of which is killed every few seconds.
//!
//! The workers are child processes, each this same program under a name that nobody else has. They alone take
//! the tasks of this load. What is recorded in the end must be as if nobody had died: each task passed once.
//! However this ends, short of being killed itself, no worker is left behind, and a run that goes on is canceled.

use super::loads::Load;
use super::service::Service;
use super::{SKEW_MS, connect, end_of, new_run, store};
use crate::bench::BenchError;
use crate::bench::args::ChaosArgs;
use crate::scheduler::client::Client;
use crate::scheduler::coordinator::Control;
use crate::scheduler::keys;
use crate::scheduler::model::{RunSpec, Status};
use crate::scheduler::planner::LOST_MAX;
use crate::scheduler::view::{self, RunBook};
use crate::scheduler::{steer, submit};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, interval_at, timeout};

/// The label that binds this load's cases and workers to each other.
const LABEL: &str = "bench-chaos";
/// Between looks whether a worker has ended by itself.
const LOOK: Duration = Duration::from_millis(200);
/// Workers that are asked to end are killed after so long.
const GRACE: Duration = Duration::from_secs(5);

/// What came of it. Times are in seconds.
#[derive(Debug, Serialize)]
pub(in crate::bench) struct ChaosOutcome {
    run: String,
    tasks: u64,
    workers: u32,
    slots: u32,
    /// Workers that were killed.
    killed: u32,
    /// From before the submit until the run had ended.
    took: f64,
    /// The least time in which the calls that were answered could have been made, had nobody died.
    bound: f64,
    /// The time above the bound.
    time_lost: f64,
    /// Tasks that did not pass, but for those that were given up.
    lost: u64,
    /// Tasks that were recorded as lost after so many of their attempts as the scheduler allows.
    given_up: u64,
    /// Results that passed beyond the first of a task.
    doubled: u64,
    /// Attempts beyond the first of a task.
    retried: u64,
    /// What is wrong with the record or its counts; empty if they are right.
    faults: Vec<String>,
    /// Whether the history was there to check, too.
    checked_history: bool,
}

impl ChaosOutcome {
    pub(in crate::bench) fn is_right(&self) -> bool {
        self.faults.is_empty() && self.killed > 0
    }
}

/// Runs the load to its end.
///
/// # Errors
/// When the store refuses the run or does not answer; when the run does not end in time, a worker ends by itself,
/// or somebody interrupts it.
pub(in crate::bench) async fn run(args: &ChaosArgs) -> Result<ChaosOutcome, BenchError> {
    let client = connect(&args.endpoints).await?;
    let service = Service::start().await.map_err(BenchError::io("listen for cases"))?;
    let (run, now) = new_run();
    let mut interrupts = Interrupts::new()?;
    let mut workers = Workers::new(args, &run)?;
    let load = Load::Chaos;
    let repeats = args.repeats.unwrap_or(load.size().1);
    for mut case in load.cases(&service, args.case_time) {
        case.requires.insert(LABEL.to_owned(), run.clone());
        submit::put_case(&client, &case).await.map_err(|error| store(&error))?;
    }
    let spec = load.spec(run.clone(), now, repeats);
    let done = tokio::select! {
        done = workers.run(&client, &spec) => done,
        error = interrupts.come() => Err(error),
    };
    let took = match done {
        Ok(took) => took,
        Err(error) => {
            workers.kill_all().await;
            // There may be no run, or no store to say it to; what is reported is why it came to this.
            let _best_effort = steer::control(&client, &run, Control::Canceled).await;
            return Err(error);
        }
    };
    let killed = workers.killed;
    workers.leave().await;
    let verified = view::read::verify(&client, &run, SKEW_MS).await;
    let (book, audit, checked_history) = verified.map_err(|error| store(&error))?;
    let counts = Counts::of(&book, u64::from(load.size().0) * u64::from(repeats));
    let mut faults: Vec<String> = audit.faults.into_iter().map(|fault| fault.text).collect();
    faults.extend(counts.faults());
    let slots = args.workers * args.capacity();
    let bound = load.bound(&service.take(), slots).as_secs_f64();
    Ok(ChaosOutcome {
        run,
        tasks: counts.tasks,
        workers: args.workers,
        slots,
        killed,
        took: took.as_secs_f64(),
        bound,
        time_lost: took.as_secs_f64() - bound,
        lost: counts.lost(),
        given_up: counts.given_up,
        doubled: counts.doubled,
        retried: counts.retried,
        faults,
        checked_history,
    })
}

/// What asks this process to end. Heard from before the first worker is there.
struct Interrupts([tokio::signal::unix::Signal; 3]);

impl Interrupts {
    fn new() -> Result<Self, BenchError> {
        let listen = |kind| signal(kind).map_err(BenchError::io("listen for signals"));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn come(&mut self) -> BenchError {
        let [interrupt, end, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = end.recv() => {}
            _ = hangup.recv() => {}
        }
        BenchError::Usage("interrupted: the run is canceled".into())
    }
}

/// The workers of this load. What is left of them is killed when this is dropped.
struct Workers<'a> {
    args: &'a ChaosArgs,
    run: String,
    /// For their outputs and logs.
    folder: PathBuf,
    children: Vec<(String, Child)>,
    started: u32,
    killed: u32,
}

impl<'a> Workers<'a> {
    fn new(args: &'a ChaosArgs, run: &str) -> Result<Self, BenchError> {
        let folder = std::env::temp_dir().join(format!("quoin-chaos-{run}"));
        std::fs::create_dir(&folder).map_err(BenchError::io("make a folder for workers"))?;
        let run = run.to_owned();
        Ok(Self { args, run, folder, children: Vec::new(), started: 0, killed: 0 })
    }

    fn start(&mut self) -> Result<(), BenchError> {
        let failed = || BenchError::io("start a worker");
        self.started += 1;
        let name = format!("chaos-{}-{}", self.run, self.started);
        let log = std::fs::File::create(self.log(&name)).map_err(failed())?;
        let child = Command::new(std::env::current_exe().map_err(failed())?)
            .args(["worker", "--name", &name, "--allow-loopback"])
            .args(["--label", &format!("{LABEL}={}", self.run)])
            .args(["--capacity", &self.args.capacity().to_string()])
            .args(["--ttl", &self.args.ttl.to_string()])
            .args(["--artifacts-listen-url", "none", "--artifacts"])
            .arg(self.folder.join(&name))
            .args(["--endpoints", &self.args.endpoints.join(",")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for this process alone: it decides what becomes of them.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed())?;
        self.children.push((name, child));
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// Starts all, and submits a run; how long that took until its end.
    async fn run(&mut self, client: &Client, spec: &RunSpec) -> Result<Duration, BenchError> {
        for _ in 0..self.args.workers {
            self.start()?;
        }
        let submitted = Instant::now();
        submit::submit(client, spec).await.map_err(|error| store(&error))?;
        self.suffer(client).await?;
        Ok(submitted.elapsed())
    }

    /// Kills one after another, each replaced at once, until the run has ended.
    async fn suffer(&mut self, client: &Client) -> Result<(), BenchError> {
        let key = keys::status(&self.run);
        let watched = client.watch(&key, 0).await;
        let mut commits = watched.map_err(|error| store(&error.into()))?;
        let ended = timeout(self.args.timeout, end_of(&mut commits, &key));
        let mut ended = std::pin::pin!(ended);
        let mut kills =
            interval_at(tokio::time::Instant::now() + self.args.kill_every, self.args.kill_every);
        kills.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = interval(LOOK);
        let mut is_due = false;
        loop {
            tokio::select! {
                ended = &mut ended => return match ended {
                    Ok(ended) => ended.map(drop),
                    Err(_) => Err(BenchError::Usage(format!(
                        "run {} did not end within {:?}: is a scheduler there?",
                        self.run, self.args.timeout
                    ))),
                },
                _ = kills.tick() => is_due = true,
                _ = looks.tick() => {
                    self.check_alive()?;
                    // Where all were always about to begin, nobody would get anything done.
                    if is_due && self.are_registered(client).await {
                        is_due = false;
                        self.replace_one().await?;
                    }
                }
            }
        }
    }

    async fn replace_one(&mut self) -> Result<(), BenchError> {
        let one = rand::random_range(0..self.children.len());
        let (_, mut child) = self.children.swap_remove(one);
        child.kill().await.map_err(BenchError::io("kill a worker"))?;
        self.killed += 1;
        self.start()
    }

    async fn are_registered(&self, client: &Client) -> bool {
        let keys: Vec<String> = self.children.iter().map(|(name, _)| keys::worker(name)).collect();
        client.get_all(&keys).await.is_ok_and(|found| found.len() == keys.len())
    }

    /// That none has ended by itself.
    fn check_alive(&mut self) -> Result<(), BenchError> {
        for (name, child) in &mut self.children {
            let ended = child.try_wait().map_err(BenchError::io("look at a worker"))?;
            if let Some(status) = ended {
                let log = self.folder.join(format!("{name}.log"));
                // Without its log there is its status.
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let last = said.lines().next_back().unwrap_or_default();
                return Err(BenchError::Usage(format!("worker {name} ended, {status}: {last}")));
            }
        }
        Ok(())
    }

    async fn kill_all(&mut self) {
        for (_, child) in &mut self.children {
            // One that is gone already is what is wanted.
            let _gone = child.kill().await;
        }
    }

    /// Lets them leave in peace, so that nobody has to wait for their leases.
    async fn leave(mut self) {
        for (_, child) in &self.children {
            if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                // As above.
                let _gone = kill_process(pid, Signal::TERM);
            }
        }
        let all = self.children.iter_mut().map(|(_, child)| child.wait());
        let _late = timeout(GRACE, futures_util::future::join_all(all)).await;
        self.kill_all().await;
    }
}

impl Drop for Workers<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _gone = child.start_kill();
        }
        // What is left is in the folder for temporary files.
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

/// How often tasks were recorded.
#[derive(Debug, Default, PartialEq)]
struct Counts {
    tasks: u64,
    /// Tasks that passed.
    passed: u64,
    given_up: u64,
    doubled: u64,
    retried: u64,
}

impl Counts {
    fn of(book: &RunBook, tasks: u64) -> Self {
        let rows = book.attempts.iter().map(|attempt| &attempt.row);
        Self::count(tasks, rows.map(|row| ((row.lane, row.ordinal), row.status)))
    }

    /// From the ends of all attempts by their tasks.
    fn count(tasks: u64, ends: impl Iterator<Item = ((u32, u32), Status)>) -> Self {
        let mut found: BTreeMap<(u32, u32), (u64, u64, u32)> = BTreeMap::new();
        for (task, status) in ends {
            let (attempts, passed, lost) = found.entry(task).or_default();
            *attempts += 1;
            *passed += u64::from(status == Status::Passed);
            *lost += u32::from(status == Status::Lost);
        }
        let mut counts = Self { tasks, ..Self::default() };
        for (attempts, passed, lost) in found.into_values() {
            counts.given_up += u64::from(passed == 0 && lost >= LOST_MAX);
            counts.passed += passed.min(1);
            counts.doubled += passed.saturating_sub(1);
            counts.retried += attempts - 1;
        }
        counts
    }

    fn lost(&self) -> u64 {
        self.tasks.saturating_sub(self.passed + self.given_up)
    }

    fn faults(&self) -> impl Iterator<Item = String> {
        let Self { tasks, passed, given_up, doubled, .. } = self;
        let lost = (passed + given_up != *tasks)
            .then(|| format!("{passed} of {tasks} tasks passed, and {given_up} were given up"));
        let doubled = (*doubled > 0).then(|| format!("{doubled} results were recorded twice"));
        lost.into_iter().chain(doubled)
    }
}

impl fmt::Display for ChaosOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tasks, workers, slots, killed, took, bound, time_lost, .. } = self;
        let name = "chaos";
        writeln!(
            f,
            "{name:<12}{tasks} tasks on {workers} workers with {slots} slots; {killed} killed"
        )?;
        writeln!(f, "  took      {took:.3} s; bound {bound:.3} s; {time_lost:.3} s lost")?;
        let Self { lost, doubled, retried, given_up, .. } = self;
        let counts = format!("{lost} lost, {doubled} doubled, {retried} retried");
        writeln!(f, "  tasks     {counts}, {given_up} given up after {LOST_MAX} losses")?;
        super::write_audit(f, &self.faults, self.checked_history)?;
        if *killed == 0 {
            let way = "give it more --repeats, or less --kill-every";
            writeln!(f, "  TOO SHORT no worker was killed before the run had ended: {way}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, LOST_MAX};
    use crate::scheduler::model::Status::{Failed, Lost, Passed};

    #[test]
    fn what_is_lost_or_doubled_is_counted_and_a_fault() {
        let ends = [((0, 0), Lost), ((0, 0), Passed), ((0, 1), Passed), ((1, 0), Passed)];
        let good = Counts::count(3, ends.into_iter());
        let wanted = Counts { tasks: 3, passed: 3, given_up: 0, doubled: 0, retried: 1 };
        assert_eq!(good, wanted);
        assert_eq!((good.lost(), good.faults().count()), (0, 0));
        let given_up = [((2, 0), Lost); LOST_MAX as usize];
        let more = [((0, 1), Passed), ((1, 1), Failed), ((1, 2), Lost)];
        let bad = Counts::count(7, ends.into_iter().chain(more).chain(given_up));
        assert_eq!((bad.lost(), bad.faults().count()), (3, 2));
        let wanted = Counts { tasks: 7, passed: 3, given_up: 1, doubled: 1, retried: 4 };
        assert_eq!(bad, wanted);
    }
}
