//! `quoin bench submit`: how long it takes until a run of very many tasks is there, and what memory that
//! costs whoever submits it and whoever leads the scheduler.
//!
//! The run is submitted by a process of its own, from the command line, as people do it.

use super::args::{Many, SubmitArgs};
use super::{BenchError, process};
use crate::scheduler::catalog;
use crate::scheduler::client::{Access, Client};
use crate::scheduler::coordinator::{Control, RunStatus};
use crate::scheduler::keys;
use crate::scheduler::model::TestCase;
use crate::scheduler::plan_file::Given;
use crate::scheduler::steer;
use crate::scheduler::store::Change;
use crate::scheduler::submit::SubmitError;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use std::fmt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// Cases that one writer writes, and how many writers there are at the same time.
const CASES_AT_ONCE: u32 = 64;
const WRITES_AT_ONCE: usize = 8;
/// Cases of a run of repeats.
const CASES_OF_REPEATS: u32 = 1_000;
/// Between looks at the memory of the process that submits.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(2);
/// A scheduler that takes longer for a run is not there.
const PATIENCE: Duration = Duration::from_secs(300);

/// What came of a submit. Times are in seconds, memory in bytes.
#[derive(Debug, Serialize)]
pub(super) struct SubmitOutcome {
    cases: u32,
    tasks: u64,
    /// From the start of the process that submits to its end.
    took: f64,
    /// Until the scheduler had taken the run, and ended all of its tasks as canceled.
    canceled_after: f64,
    submitter_peak: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduler_peak: Option<u64>,
    missed: Vec<String>,
}

/// Writes the cases, submits the run, and cancels it.
///
/// # Errors
/// When the store or the scheduler does not do what it should.
pub(super) async fn run(args: &SubmitArgs) -> Result<SubmitOutcome, BenchError> {
    let access = Access { endpoints: args.endpoints.clone(), ..Access::default() };
    let client = Client::connect(&access).await.map_err(|error| failed(error.into()))?;
    let cases = match args.what {
        Many::Repeats => CASES_OF_REPEATS.min(args.tasks),
        Many::Distinct => args.tasks,
    };
    let repeats = args.tasks.div_ceil(cases);
    let prefix = format!("bench-submit-{cases}-");
    write_cases(&client, &prefix, cases).await?;

    let started = Instant::now();
    let (output, status, submitter_peak) = submit(args, &prefix, repeats).await?;
    let took = started.elapsed();
    let submitted: serde_json::Value = serde_json::from_slice(&output).unwrap_or_default();
    let Some(run) = submitted["run"].as_str().filter(|_| status.success()) else {
        return Err(BenchError::Usage(format!("the submit ended with {status}")));
    };
    cancel(&client, run).await?;
    let canceled_after = started.elapsed();
    let scheduler_peak = args.scheduler_pid.and_then(process::peak);
    let missed = args.goals.iter().filter_map(|goal| {
        let reached = match &*goal.measure {
            "memory" => submitter_peak.max(scheduler_peak.unwrap_or(0)) as f64 / f64::from(1 << 20),
            _ => took.as_secs_f64(),
        };
        (!goal.is_met(reached)).then(|| format!("{goal}, reached {reached:.2}"))
    });
    Ok(SubmitOutcome {
        cases,
        tasks: u64::from(cases) * u64::from(repeats),
        took: took.as_secs_f64(),
        canceled_after: canceled_after.as_secs_f64(),
        submitter_peak,
        scheduler_peak,
        missed: missed.collect(),
    })
}

fn failed(error: SubmitError) -> BenchError {
    BenchError::Usage(format!("the scheduler's store: {error}"))
}

async fn write_cases(client: &Client, prefix: &str, cases: u32) -> Result<(), BenchError> {
    let case = |number: u32| {
        Given::from(TestCase {
            id: format!("{prefix}{number:07}"),
            url: format!("http://127.0.0.1:9/{number}"),
            input: Some("{}".into()),
            output: Some("ok".into()),
            slots: 1,
            timeout_ms: 60_000,
            ..TestCase::default()
        })
    };
    let write = |first: u32| {
        let some: Vec<_> = (first..cases.min(first + CASES_AT_ONCE)).map(case).collect();
        async move { catalog::put_all(client, &some).await.map(drop).map_err(failed) }
    };
    let writes = (0..cases).step_by(CASES_AT_ONCE as usize).map(write);
    stream::iter(writes).buffer_unordered(WRITES_AT_ONCE).try_collect().await
}

/// What the process that submits has printed, how it ended, and its peak of memory.
async fn submit(
    args: &SubmitArgs,
    prefix: &str,
    repeats: u32,
) -> Result<(Vec<u8>, ExitStatus, u64), BenchError> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let mut child = Command::new(program)
        .args(["run", "submit", "--json", "--endpoints", &args.endpoints.join(",")])
        .args(["--case", &format!("{prefix}*"), "--repeat", &repeats.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(BenchError::io("start a submit"))?;
    let pid = child.id();
    let mut output = Vec::new();
    let mut pipe = child.stdout.take();
    let read = async {
        match &mut pipe {
            Some(pipe) => pipe.read_to_end(&mut output).await.map(drop),
            None => Ok(()),
        }
    };
    tokio::pin!(read);
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    let mut peak = 0;
    loop {
        tokio::select! {
            done = &mut read => break done.map_err(BenchError::io("read what a submit says"))?,
            _ = ticks.tick() => peak = peak.max(pid.and_then(process::peak).unwrap_or(0)),
        }
    }
    let status = child.wait().await.map_err(BenchError::io("wait for a submit"))?;
    Ok((output, status, peak))
}

/// Cancels a run and waits for its end.
async fn cancel(client: &Client, run: &str) -> Result<(), BenchError> {
    let key = keys::status(run);
    let mut commits = client.watch(&key, 0).await.map_err(|error| failed(error.into()))?;
    steer::control(client, run, Control::Canceled).await.map_err(failed)?;
    let ended = async {
        loop {
            for commit in commits.next().await.map_err(|error| failed(error.into()))? {
                for change in commit.changes {
                    let Change::Put(kv) = change else { continue };
                    let status: RunStatus = serde_json::from_slice(&kv.value).unwrap_or_default();
                    if status.ended.is_some() {
                        return Ok(());
                    }
                }
            }
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.unwrap_or_else(|_| {
        let text = format!("run {run} did not end within {PATIENCE:?}: is a scheduler there?");
        Err(BenchError::Usage(text))
    })
}

impl fmt::Display for SubmitOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(f, "submit      {} tasks of {} cases", self.tasks, self.cases)?;
        writeln!(f, "  took      {:.3} s; canceled after {:.3} s", self.took, self.canceled_after)?;
        write!(f, "  memory    {:.0} MiB at most", mib(self.submitter_peak))?;
        match self.scheduler_peak {
            Some(peak) => writeln!(f, "; the scheduler {:.0} MiB", mib(peak))?,
            None => writeln!(f)?,
        }
        self.missed.iter().try_for_each(|goal| writeln!(f, "  MISSED    {goal}"))
    }
}
