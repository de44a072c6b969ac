//! `quoin scheduler` and `quoin worker`: the scheduler's processes.

use super::{INFRASTRUCTURE, USAGE, WorkerAction, access, complain, read};
use crate::ctl;
use crate::logging;
use crate::scheduler::client::Access;
use crate::scheduler::coordinator;
use crate::scheduler::execute::{self, Caller, Executor, Rule, Targets};
use crate::scheduler::hooks::Hooks;
use crate::scheduler::leader;
use crate::scheduler::model::{Labels, check_id};
use crate::scheduler::numbers::Numbers;
use crate::scheduler::service::ServiceArgs;
use crate::scheduler::worker;
use crate::tls::{DialOptions, Dialer};
use clap::Args;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;
use url::Url;

/// Serves as a scheduler beside others: one leads, the others wait.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    /// The name under which it is shown
    #[arg(long, alias = "scheduler-name", default_value = "scheduler")]
    name: String,
    /// Runs that are kept when they have ended, with results and report; 0 for all
    #[arg(long, alias = "scheduler-keep-runs", default_value_t = 1_000)]
    keep_runs: usize,
    /// Days for which they are kept; 0 for ever
    #[arg(
        long,
        alias = "scheduler-keep-days",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(0..=100_000)
    )]
    keep_days: u64,
    /// Posted to when a run has ended, at least once each; several are told side by side
    #[arg(long = "webhook-url", alias = "scheduler-webhook-url")]
    webhook_urls: Vec<String>,
    /// File with the secret with which these posts are signed, in the header X-Quoin-Signature
    #[arg(long, alias = "scheduler-webhook-secret-file")]
    webhook_secret_file: Option<PathBuf>,
    #[command(flatten)]
    services: ServiceArgs,
}

impl SchedulerArgs {
    /// Who is told of ends of runs.
    ///
    /// # Errors
    /// In words for the operator.
    fn hooks(&self) -> Result<Hooks, String> {
        for url in &self.webhook_urls {
            let known = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            known.ok_or_else(|| format!("webhook {url:?} is not http or https"))?;
        }
        let secret = self.webhook_secret_file.as_ref().map(|file| {
            let shown = file.display();
            let text =
                std::fs::read_to_string(file).map_err(|error| format!("{shown}: {error}"))?;
            match text.trim() {
                "" => Err(format!("{shown} is empty")),
                secret => Ok(Hooks::key(secret.as_bytes())),
            }
        });
        // Whoever may set them may name any address.
        let anywhere = ["0.0.0.0/0", "::/0"].map(str::parse::<Rule>).into_iter().flatten();
        let targets = Targets { allowed: anywhere.collect(), ..Targets::default() };
        let dialer = Dialer::new(DialOptions::default()).map_err(|error| error.to_string())?;
        let caller = Some(Arc::new(Caller::new(targets, dialer)));
        Ok(Hooks { urls: self.webhook_urls.clone(), secret: secret.transpose()?, caller })
    }

    fn settings(&self) -> coordinator::Settings {
        coordinator::Settings {
            keep_runs: self.keep_runs,
            keep_ms: self.keep_days * coordinator::DAY_MS,
            ..Default::default()
        }
    }
}

/// Serves as a worker: runs test cases.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WorkerArgs {
    #[command(subcommand)]
    pub(super) action: Option<WorkerAction>,
    #[command(flatten)]
    serve: Option<ServeArgs>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
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
    /// Where it serves them to whoever looks at results, as http://ADDRESS:PORT; none for nowhere
    #[arg(long, default_value = "http://127.0.0.1:0")]
    artifacts_listen_url: String,
    /// Where others find that, if not at the address at which it listens
    #[arg(long)]
    artifacts_url: Option<String>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, _)) if name.starts_with('@') => Err("a label cannot begin with @".into()),
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is name=value".into()),
    }
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

/// The same for a worker, which ends what it has begun; asked again, it ends at once, and its tasks with it.
async fn asked_to_drain() {
    asked_to_end().await;
    tracing::info!("takes nothing more and ends what it has begun; asked again, it ends at once");
    tokio::spawn(async {
        asked_to_end().await;
        tracing::warn!("ends at once: what it had begun counts as lost");
        std::process::exit(INFRASTRUCTURE.into());
    });
}

fn log() -> Result<(), Box<dyn std::error::Error>> {
    logging::install(LevelFilter::INFO, true, logging::Format::Json, vec![Box::new(io::stderr())])?;
    Ok(())
}

pub async fn schedule(args: SchedulerArgs, options: &ctl::Options) -> ExitCode {
    if let Err(error) = log() {
        return complain(error, INFRASTRUCTURE);
    }
    let access = match access(options) {
        Ok(access) => access,
        Err(error) => return complain(error, USAGE),
    };
    let settings = args.settings();
    let caller = match args.services.caller() {
        Ok(caller) => Arc::new(caller),
        Err(error) => return complain(error, INFRASTRUCTURE),
    };
    let hooks = match args.hooks() {
        Ok(hooks) => hooks,
        Err(error) => return complain(error, USAGE),
    };
    let numbers = Arc::new(Numbers::new());
    let services = match args.services.start(access.clone(), numbers.clone()) {
        Ok(services) => services,
        Err(error) => return complain(error, USAGE),
    };
    leader::run(access, args.name, (settings, caller, hooks), numbers, asked_to_end()).await;
    if let Some(services) = services {
        services.stop();
    }
    ExitCode::SUCCESS
}

pub async fn work(args: WorkerArgs, options: &ctl::Options) -> ExitCode {
    let args = match (args.action, args.serve) {
        (Some(WorkerAction::Start(args)), _) => *args,
        (Some(action), _) => return super::manage_workers(action, options).await,
        (None, Some(args)) => args,
        (None, None) => return complain("--name is missing", USAGE),
    };
    if let Err(error) = log() {
        return complain(error, INFRASTRUCTURE);
    }
    if let Err(error) = check_id("worker", &args.name) {
        return complain(error, USAGE);
    }
    if args.name.starts_with('@') {
        return complain("a worker's name cannot begin with @", USAGE);
    }
    let artifacts = args.artifacts.unwrap_or_else(|| format!("{}-artifacts", args.name).into());
    let mut settings = execute::Settings::new(artifacts);
    settings.allows_commands = args.allow_command;
    settings.warden = std::env::current_exe().ok();
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
    let served = match args.artifacts_listen_url.as_str() {
        "none" => String::new(),
        listen => match super::shelf::serve(listen, executor.artifacts().clone()).await {
            Ok(url) => url,
            Err(error) => {
                return complain(format!("--artifacts-listen-url {listen}: {error}"), USAGE);
            }
        },
    };
    let settings = worker::Settings {
        artifacts: args.artifacts_url.unwrap_or(served),
        address: args.address.unwrap_or_else(|| args.name.clone()),
        name: args.name,
        capacity: args.capacity,
        prefetch: args.prefetch,
        labels: Labels::from_iter(args.labels),
        no_commands: !args.allow_command,
        at_will: false,
        ttl: args.ttl,
    };
    let access = match access(options) {
        Ok(access) => access,
        Err(error) => return complain(error, USAGE),
    };
    worker::run(access, settings, executor, asked_to_drain()).await;
    ExitCode::SUCCESS
}

/// How a scheduler reaches the member in whose process it is.
#[derive(Debug, Default, Args)]
struct StoreArgs {
    /// Who asks the store, as name:password
    #[arg(long, value_name = "USER", env = "QUOIN_SCHEDULER_STORE_USER")]
    scheduler_store_user: Option<String>,
    /// Certificates of authorities that may vouch for the member
    #[arg(long, value_name = "FILE")]
    scheduler_store_cacert: Option<PathBuf>,
    /// The certificate to show to the member
    #[arg(long, value_name = "FILE", requires = "scheduler_store_key")]
    scheduler_store_cert: Option<PathBuf>,
    /// The private key of that certificate
    #[arg(long, value_name = "FILE", requires = "scheduler_store_cert")]
    scheduler_store_key: Option<PathBuf>,
}

impl StoreArgs {
    fn access(self, endpoint: String) -> Result<Access, String> {
        let user = self.scheduler_store_user.map(|user| {
            user.split_once(':')
                .map(|(name, password)| (name.to_owned(), password.to_owned()))
                .ok_or("--scheduler-store-user is name:password")
        });
        let authorities = self.scheduler_store_cacert.map(read).transpose()?;
        let identity = match (self.scheduler_store_cert, self.scheduler_store_key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        let (endpoints, user) = (vec![endpoint], user.transpose()?);
        Ok(Access { endpoints, user, authorities, identity, ..Access::default() })
    }
}

/// A scheduler in the process of a member, which is its store.
#[derive(Debug)]
pub struct Beside {
    args: SchedulerArgs,
    store: StoreArgs,
}

impl Beside {
    /// From its flags.
    ///
    /// # Errors
    ///
    /// When they are wrong.
    pub fn new(flags: Vec<OsString>) -> Result<Self, clap::Error> {
        #[derive(clap::Parser)]
        #[command(name = "quoin serve --scheduler")]
        struct Line {
            #[command(flatten)]
            args: SchedulerArgs,
            #[command(flatten)]
            store: StoreArgs,
        }
        // A member's own flags have names that these begin with.
        let line = std::iter::once(OsString::from("quoin")).chain(flags);
        let Line { args, store } = clap::Parser::try_parse_from(line)?;
        Ok(Self { args, store })
    }

    /// Begins to stand for election, once the member answers: at the first of these addresses that
    /// knows no TLS, or else at the first of those that it advertises. It ends with the process.
    ///
    /// # Errors
    ///
    /// When the files for the store cannot be read, or there is no such address.
    pub async fn start(self, listened: Vec<String>, advertised: Vec<String>) -> Result<(), String> {
        let plain = listened.iter().find(|url| url.starts_with("http://"));
        // Those who listen everywhere can be found here.
        let plain =
            plain.map(|url| url.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:"));
        let secure = || advertised.into_iter().find(|url| url.starts_with("https://"));
        let endpoint = plain.or_else(secure).ok_or(
            "--scheduler needs a client address with http, or one with https that is advertised",
        )?;
        let access = self.store.access(endpoint)?;
        let settings = self.args.settings();
        let caller = Arc::new(self.args.services.caller()?);
        let hooks = self.args.hooks()?;
        let numbers = Arc::new(Numbers::new());
        let services = self.args.services.start(access.clone(), numbers.clone())?;
        tokio::spawn(async move {
            let (name, never) = (self.args.name, std::future::pending());
            leader::run(access, name, (settings, caller, hooks), numbers, never).await;
            drop(services);
        });
        Ok(())
    }
}
