//! The load generator: `quoin bench put|range|txn|watch|lease` against any etcd endpoint, and
//! `quoin bench tasks|b1|b2|b3|noop|chaos` against the test scheduler.
//!
//! It measures what the server costs, so it stays cheap itself: one thread for each processor it
//! may use, each with its own connections and its own counters, HTTP/2 frames written without a
//! client library between, answers decoded only where a check needs them. Latency is taken from
//! the moment a request was due (with `--rate`) or was begun. Every answer counts: an error is
//! kept by code and text, and makes the exit status 1.
//!
//! It knows nothing of the server but the wire: the same program drives Quoin and etcd.
//! Left out: TLS, authentication, and anything that needs more than one machine.

mod args;
mod kv;
mod lease;
mod load;
mod outcome;
mod planner;
mod process;
mod report;
mod submit;
mod tasks;
mod watch;
mod wire;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

pub use args::BenchArgs;
use args::{Kind, LoadArgs, TeamArgs};
use clap::error::ErrorKind;
use outcome::Outcome;
use serde::Serialize;
use tasks::Load;
pub use wire::CallError;

/// Why a run could not start or could not be finished.
#[derive(Debug)]
pub enum BenchError {
    /// The options contradict each other or cannot be met; the text names them.
    Usage(String),
    /// A server did not accept the connection or the call that the run depends on.
    Call { what: String, source: CallError },
    /// Reading or writing a file, or the process table.
    Io { what: String, source: io::Error },
    /// A result file that is not one.
    Format { what: String, source: serde_json::Error },
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BenchError::Usage(text) => f.write_str(text),
            BenchError::Call { what, source } => write!(f, "{what}: {source}"),
            BenchError::Io { what, source } => write!(f, "{what}: {source}"),
            BenchError::Format { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl Error for BenchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            BenchError::Usage(_) => None,
            BenchError::Call { source, .. } => Some(source),
            BenchError::Io { source, .. } => Some(source),
            BenchError::Format { source, .. } => Some(source),
        }
    }
}

impl BenchError {
    fn call(what: impl Into<String>) -> impl FnOnce(CallError) -> Self {
        let what = what.into();
        move |source| BenchError::Call { what, source }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| BenchError::Io { what, source }
    }
}

/// Runs one load to its end and prints what came of it on standard output.
///
/// The exit status is 0 when every request was answered as it should be, 1 when any was not.
///
/// # Errors
/// When the run cannot start: options, connection, process table.
pub async fn run(args: BenchArgs) -> Result<ExitCode, BenchError> {
    let outcome = match &args.kind {
        Kind::Put(put) => kv::put(put).await?,
        Kind::Range(range) => kv::range(range).await?,
        Kind::Txn(txn) => kv::txn(txn).await?,
        Kind::Watch(watch) => watch::run(watch).await?,
        Kind::Lease(lease) => lease::run(lease).await?,
        Kind::Idle(idle) => process::idle(idle).await?,
        Kind::Tasks(tasks) => return team(tasks.load, &tasks.team, tasks.kill).await,
        Kind::B1(args) => return team(Load::Plain, args, None).await,
        Kind::B2(args) => return team(Load::Chain, args, None).await,
        Kind::B3(args) => return team(Load::Exclusive, args, None).await,
        Kind::Noop(args) => return team(Load::Noop, args, None).await,
        Kind::Chaos(chaos) => {
            let outcome = tasks::chaos(chaos).await?;
            print(&if chaos.json { line(&outcome)? } else { outcome.to_string() })?;
            return Ok(if outcome.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Kind::Planner(planner) => {
            print(&planner::run(planner)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Kind::Submit(submit) => {
            let outcome = submit::run(submit).await?;
            print(&if submit.json { line(&outcome)? } else { outcome.to_string() })?;
            return Ok(ExitCode::SUCCESS);
        }
        Kind::Report(options) => {
            print(&report::run(options)?)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let (json, labels) = args.kind.presentation();
    let outcome = Outcome { labels, ..outcome };
    print(&if json { outcome.to_json()? } else { outcome.to_string() })?;
    Ok(if outcome.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a command line is refused because it names no load, or one that there is not.
pub fn names_no_load(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidSubcommand
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// A load for the test scheduler.
async fn team(load: Load, args: &TeamArgs, kill: Option<i32>) -> Result<ExitCode, BenchError> {
    let outcome = tasks::run(load, args, kill).await?;
    print(&if args.json { line(&outcome)? } else { outcome.to_string() })?;
    Ok(if outcome.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(outcome: &impl Serialize) -> Result<String, BenchError> {
    serde_json::to_string(outcome)
        .map(|line| line + "\n")
        .map_err(|source| BenchError::Format { what: "write the result".to_owned(), source })
}

/// Writes to standard output; a reader that has gone away is no error.
fn print(text: &str) -> Result<(), BenchError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(BenchError::io("write the result")),
    }
}
