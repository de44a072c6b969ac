//! The scheduler's command line: its processes, and what a test team types.
//!
//! Exit codes are those of test tools: 0 passed or done, 1 tests failed, 2 wrong usage or input, 3 the
//! store or the scheduler is at fault, or full, 4 nothing to run, 5 canceled. Every listing is a table for
//! people, or with `--json` one JSON document.

mod cases;
mod desk;
mod environments;
mod flaky;
mod live;
mod named;
mod places;
mod reports;
mod results;
mod runs;
mod serve;
mod shelf;
mod stock;
mod submits;
mod terminal;
mod trends;

pub use serve::{Beside, SchedulerArgs, WorkerArgs, schedule, work};

use super::client::{Access, Patience};
use crate::ctl;
use clap::{Args, Subcommand};
use desk::Desk;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Test cases failed.
const FAILED: u8 = 1;
/// What was typed or handed in is wrong.
pub const USAGE: u8 = 2;
const INFRASTRUCTURE: u8 = 3;
const NOTHING: u8 = 4;
const CANCELED: u8 = 5;

/// What test teams do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Describes test cases
    Case(Group<cases::CaseAction>),
    /// Describes environments that cases run in
    Env(Group<environments::EnvAction>),
    /// Submits runs of test cases and looks at them
    Run(Group<runs::RunAction>),
    /// Looks at queues of runs and sets their parts
    Queue(Group<stock::QueueAction>),
    /// Looks at mutual-exclusion tags
    Tag(Group<stock::TagAction>),
    /// Looks at results, one by one
    Result(Group<results::ResultAction>),
    /// Writes a run's report
    Report(Group<reports::ReportAction>),
    /// Finds flaky cases, mutes and skips them
    Flaky(Group<flaky::FlakyAction>),
}

/// Whether a tool of this name is one of the scheduler's, whose exit codes are those above.
pub fn has(tool: &str) -> bool {
    let actions = Action::augment_subcommands(clap::Command::new("tools"));
    ["scheduler", "worker"].contains(&tool) || actions.find_subcommand(tool).is_some()
}

/// Commands on one kind of thing.
#[derive(Debug, Args)]
pub struct Group<A: Subcommand> {
    /// Print one JSON document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: A,
}

/// Looking at workers, and being one; `quoin worker --name` without a word more is `start` too.
#[derive(Debug, Subcommand)]
pub enum WorkerAction {
    /// Serves as a worker: runs test cases, as `quoin worker` with the same flags does
    Start(Box<serve::ServeArgs>),
    /// Lists workers
    Ls {
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Lets a worker finish what it has and leave
    Drain {
        worker: String,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
}

/// Does what was asked, and says how it went.
pub async fn run(action: Action, options: &ctl::Options) -> ExitCode {
    match action {
        Action::Case(group) => at_desk(group, options, cases::run).await,
        Action::Env(group) => at_desk(group, options, environments::run).await,
        Action::Run(group) => at_desk(group, options, runs::run).await,
        Action::Queue(group) => at_desk(group, options, stock::queue).await,
        Action::Tag(group) => at_desk(group, options, stock::tag).await,
        Action::Result(group) => at_desk(group, options, results::run).await,
        Action::Report(group) => at_desk(group, options, reports::run).await,
        Action::Flaky(group) => at_desk(group, options, flaky::run).await,
    }
}

async fn manage_workers(action: WorkerAction, options: &ctl::Options) -> ExitCode {
    let json =
        matches!(action, WorkerAction::Ls { json: true } | WorkerAction::Drain { json: true, .. });
    at_desk(Group { json, action }, options, stock::worker).await
}

async fn at_desk<A: Subcommand>(
    group: Group<A>,
    options: &ctl::Options,
    run: impl AsyncFnOnce(A, &Desk) -> Result<u8, desk::Trouble>,
) -> ExitCode {
    let mut access = match access(options) {
        Ok(access) => access,
        Err(error) => return complain(error, USAGE),
    };
    access.patience = match options.timeout_if_given() {
        Some(time) => Patience::All(time),
        None => Patience::Reads(options.command_timeout()),
    };
    let wants_json = group.json || options.write_out == "json";
    let desk = match Desk::open(&access, wants_json).await {
        Ok(desk) => desk,
        Err(error) => return complain(error, INFRASTRUCTURE),
    };
    match run(group.action, &desk).await {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => complain(&trouble, trouble.code()),
    }
}

/// How the options say the store is reached. Without a scheme an endpoint is plain, unless files
/// for TLS are named.
fn access(options: &ctl::Options) -> Result<Access, String> {
    let [ca, cert, key] = options.tls_files().map_err(|error| error.to_string())?;
    let wants_tls = ca.is_some() || cert.is_some();
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        (None, None) => None,
        _ => return Err("--cert and --key belong together".into()),
    };
    let scheme = if wants_tls { "https" } else { "http" };
    let endpoints = options.given_endpoints().into_iter().map(|endpoint| {
        if endpoint.contains("://") { endpoint } else { format!("{scheme}://{endpoint}") }
    });
    let access = Access {
        endpoints: endpoints.collect(),
        user: options.name_and_password().map_err(|error| error.to_string())?,
        authorities: ca.map(read).transpose()?,
        identity,
        ..Access::default()
    };
    access.check().map(|()| access)
}

fn read(file: PathBuf) -> Result<Vec<u8>, String> {
    std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))
}

fn complain(text: impl std::fmt::Display, code: u8) -> ExitCode {
    // Nobody may listen.
    let _closed = writeln!(io::stderr(), "Error: {text}");
    ExitCode::from(code)
}
