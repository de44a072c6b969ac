//! `quoin scheduler`, `quoin worker` and `quoin run`: the scheduler's processes, and what a test team
//! types.
//!
//! Exit codes of `run` are those of test tools: 0 passed, 1 tests failed, 2 wrong usage, 3 the store
//! or the scheduler is at fault, 5 canceled.

use super::client::{Access, Client};
use super::coordinator::{self, Control, RunStatus};
use super::execute::{self, Executor, Rule};
use super::keys;
use super::leader;
use super::model::{Environment, Labels, Refusal, RunSpec, Status, TestCase, check_id};
use super::service::ServiceArgs;
use super::submit::{self, SubmitError};
use super::worker;
use crate::ctl;
use crate::logging;
use crate::tls::{DialOptions, Dialer};
use clap::{Args, Subcommand};
use serde::Deserialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

/// Test cases failed.
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const INFRASTRUCTURE: u8 = 3;
const CANCELED: u8 = 5;

/// Serves as a scheduler beside others: one leads, the others wait.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// The name under which it is shown
    #[arg(long, default_value = "scheduler")]
    name: String,
    #[command(flatten)]
    services: ServiceArgs,
}

/// Serves as a worker: runs test cases.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// No two workers share a name
    #[arg(long)]
    name: String,
    /// Where others find it; its name if it is not given
    #[arg(long)]
    address: Option<String>,
    /// How many tasks may run at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    capacity: u32,
    /// How many tasks it takes ahead for each slot, at most
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(0..=1_000))]
    prefetch: u32,
    /// What it is, for cases that require it: name=value
    #[arg(long = "label", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Run cases of kind command, with this process's rights
    #[arg(long)]
    allow_command: bool,
    /// Let cases call addresses of this machine
    #[arg(long)]
    allow_loopback: bool,
    /// Let cases call a private target: host, *.domain, address or network
    #[arg(long = "allow-target")]
    allow_targets: Vec<Rule>,
    /// Seconds without a sign of life after which its tasks are given to others
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=60))]
    ttl: u32,
    /// Folder for outputs that are too long for a record, of this worker alone [default:
    /// NAME-artifacts]
    #[arg(long)]
    artifacts: Option<PathBuf>,
}

/// Submits runs and looks at them.
#[derive(Debug, Subcommand)]
pub enum RunAction {
    /// Writes the cases and environments of a plan file and submits its run
    Submit {
        /// JSON: {"cases": [...], "environments": [...], "run": {...}}
        file: PathBuf,
        /// Wait for its end, and exit as it went
        #[arg(long)]
        wait: bool,
    },
    /// Shows how far a run is
    Show { run: String },
    /// Gives nothing more of a run out
    Pause { run: String },
    /// Lets a paused run go on
    Resume { run: String },
    /// Ends a run: what runs is stopped, what waits is dropped
    Cancel { run: String },
}

/// A plan file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plan {
    cases: Vec<TestCase>,
    environments: Vec<Environment>,
    run: RunSpec,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is name=value".into()),
    }
}

/// How the options say the store is reached. Without a scheme an endpoint is plain, unless files
/// for TLS are named.
fn access(options: &ctl::Options) -> Result<Access, String> {
    let [ca, cert, key] = options.tls_files().map_err(|error| error.to_string())?;
    let wants_tls = ca.is_some() || cert.is_some();
    let read = |file: PathBuf| {
        std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))
    };
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        (None, None) => None,
        _ => return Err("--cert and --key belong together".into()),
    };
    let scheme = if wants_tls { "https" } else { "http" };
    let endpoints = options.given_endpoints().into_iter().map(|endpoint| {
        if endpoint.contains("://") { endpoint } else { format!("{scheme}://{endpoint}") }
    });
    Ok(Access {
        endpoints: endpoints.collect(),
        user: options.name_and_password().map_err(|error| error.to_string())?,
        authorities: ca.map(read).transpose()?,
        identity,
    })
}

/// Done when the process is asked to end; never, if it cannot hear of that: its default ends it then.
async fn asked_to_end() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut end), Ok(mut interrupt)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn log() -> Result<(), Box<dyn std::error::Error>> {
    logging::install(LevelFilter::INFO, true, logging::Format::Json, vec![Box::new(io::stderr())])?;
    Ok(())
}

fn complain(text: impl std::fmt::Display, code: u8) -> ExitCode {
    // Nobody may listen.
    let _closed = writeln!(io::stderr(), "Error: {text}");
    ExitCode::from(code)
}

pub async fn schedule(args: SchedulerArgs, options: &ctl::Options) -> ExitCode {
    if let Err(error) = log() {
        return complain(error, INFRASTRUCTURE);
    }
    let access = match access(options) {
        Ok(access) => access,
        Err(error) => return complain(error, USAGE),
    };
    let services = match args.services.start(access.clone()) {
        Ok(services) => services,
        Err(error) => return complain(error, USAGE),
    };
    leader::run(access, args.name, coordinator::Settings::default(), asked_to_end()).await;
    if let Some(services) = services {
        services.stop();
    }
    ExitCode::SUCCESS
}

pub async fn work(args: WorkerArgs, options: &ctl::Options) -> ExitCode {
    if let Err(error) = log() {
        return complain(error, INFRASTRUCTURE);
    }
    if let Err(error) = check_id("worker", &args.name) {
        return complain(error, USAGE);
    }
    let artifacts = args.artifacts.unwrap_or_else(|| format!("{}-artifacts", args.name).into());
    let mut settings = execute::Settings::new(artifacts);
    settings.allows_commands = args.allow_command;
    settings.targets.loopback = args.allow_loopback;
    settings.targets.allowed = args.allow_targets;
    let dialer = match Dialer::new(DialOptions::default()) {
        Ok(dialer) => dialer,
        Err(error) => return complain(error, INFRASTRUCTURE),
    };
    let executor = match Executor::open(settings, dialer) {
        Ok(executor) => Arc::new(executor),
        Err(error) => return complain(error, INFRASTRUCTURE),
    };
    let settings = worker::Settings {
        address: args.address.unwrap_or_else(|| args.name.clone()),
        name: args.name,
        capacity: args.capacity,
        prefetch: args.prefetch,
        labels: Labels::from_iter(args.labels),
        ttl: args.ttl,
    };
    let access = match access(options) {
        Ok(access) => access,
        Err(error) => return complain(error, USAGE),
    };
    worker::run(access, settings, executor, asked_to_end()).await;
    ExitCode::SUCCESS
}

pub async fn run(action: RunAction, options: &ctl::Options) -> ExitCode {
    let access = match access(options) {
        Ok(access) => access,
        Err(error) => return complain(error, USAGE),
    };
    let client = match Client::connect(&access).await {
        Ok(client) => client,
        Err(error) => return complain(error, INFRASTRUCTURE),
    };
    let done = match action {
        RunAction::Submit { file, wait } => return submit_plan(&client, &file, wait).await,
        RunAction::Show { run } => return show(&client, &run).await,
        RunAction::Pause { run } => submit::control(&client, &run, Control::Paused).await,
        RunAction::Resume { run } => submit::control(&client, &run, Control::Running).await,
        RunAction::Cancel { run } => submit::control(&client, &run, Control::Canceled).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refused(&error),
    }
}

fn refused(error: &SubmitError) -> ExitCode {
    let code = if matches!(error, SubmitError::Refused(_)) { USAGE } else { INFRASTRUCTURE };
    complain(error, code)
}

async fn submit_plan(client: &Client, file: &PathBuf, wait: bool) -> ExitCode {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => return complain(format!("{}: {error}", file.display()), USAGE),
    };
    let plan: Plan = match serde_json::from_slice(&text) {
        Ok(plan) => plan,
        Err(error) => return complain(format!("{}: {error}", file.display()), USAGE),
    };
    match take(client, plan).await {
        Ok(run) if !wait => {
            say(&run);
            ExitCode::SUCCESS
        }
        Ok(run) => {
            say(&run);
            follow(client, &run).await
        }
        Err(error) => refused(&error),
    }
}

/// Writes what a plan holds; returns the run's id.
async fn take(client: &Client, plan: Plan) -> Result<String, SubmitError> {
    for case in &plan.cases {
        submit::put_case(client, case).await?;
    }
    for environment in &plan.environments {
        submit::put_environment(client, environment).await?;
    }
    let now = SystemTime::now();
    let submitted = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let spec = RunSpec {
        id: format!("{submitted:011x}{:05x}", rand::random::<u32>() & 0xf_ffff),
        gmt_create: humantime::format_rfc3339_seconds(now).to_string(),
        submitted,
        ..plan.run
    };
    let made = submit::submit(client, &spec).await?;
    for warning in made.plan.warnings {
        let _closed = writeln!(io::stderr(), "Warning: {warning}");
    }
    Ok(made.run)
}

fn say(text: &str) {
    // A reader that closes the pipe early has seen enough.
    let _closed = writeln!(io::stdout(), "{text}");
}

async fn status(client: &Client, run: &str) -> Result<RunStatus, SubmitError> {
    if let Some(kv) = client.get(&keys::status(run)).await? {
        return serde_json::from_slice(&kv.value)
            .map_err(|error| SubmitError::Store(error.to_string()));
    }
    match client.get(&keys::run(run)).await? {
        Some(_) => Ok(RunStatus { state: "accepted".into(), ..Default::default() }),
        None => Err(Refusal::new(404, format!("unknown run {run}")).into()),
    }
}

async fn show(client: &Client, run: &str) -> ExitCode {
    match status(client, run).await {
        Ok(found) => {
            say(&line(&found));
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

/// One line that says how far a run is.
fn line(found: &RunStatus) -> String {
    let totals = &found.totals;
    let mut line = format!("{}: {} of {} ended", found.state, totals.ended(), totals.total);
    for status in Status::ALL.into_iter().filter(|status| status.is_terminal()) {
        let count = totals.get(status);
        if count > 0 {
            // It cannot fail.
            let _infallible = write!(line, ", {count} {}", status.word());
        }
    }
    if totals.flaky > 0 {
        let _infallible = write!(line, ", {} flaky", totals.flaky);
    }
    if let Some(ended) = found.ended {
        let seconds = ended.saturating_sub(found.started) as f64 / 1_000.0;
        let _infallible = write!(line, " in {seconds:.3} s");
    }
    line
}

/// Waits for the end of a run.
async fn follow(client: &Client, run: &str) -> ExitCode {
    loop {
        match status(client, run).await {
            Ok(found) if found.ended.is_some() => {
                say(&line(&found));
                return match found.state.as_str() {
                    "passed" => ExitCode::SUCCESS,
                    "canceled" => ExitCode::from(CANCELED),
                    _ => ExitCode::from(FAILED),
                };
            }
            Ok(_) => {}
            Err(error) => return refused(&error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
