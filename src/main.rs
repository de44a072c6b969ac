//! The `quoin` binary: chooses what to run and turns its end into an exit code.

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use quoin::config::{
    self, Config, ConfigError, ErrorKind, Invocation, LogFormat, LogLevel, LogOutput, LogRotation,
    Notice,
};
use quoin::ctl;
use quoin::logging::journal::{self, Journal};
use quoin::logging::rotation::{RotatingFile, Rules};
use quoin::logging::{self, Sink};
use quoin::node::{self, Start};
use quoin::scheduler::execute::{WARDEN, ward};
use quoin::scheduler::tool::{self as scheduler_tool, Beside};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|arg| arg.to_str()) {
        Some("serve") => {
            args.remove(0);
            let scheduler = take_scheduler(&mut args);
            serve_with(args, scheduler)
        }
        Some(WARDEN) if args.len() == 1 => {
            ward();
            ExitCode::SUCCESS
        }
        Some("help") if args.len() == 1 => serve(vec!["--help".into()]),
        Some("help") if args.len() == 2 && args[1] == "tools" => tool(vec!["--help".into()]),
        Some("grpc-proxy") => {
            complain(&io::Error::other("grpc-proxy is not offered; see 'gateway start --help'"))
        }
        Some(first) if is_for_tools(first) => tool(args),
        _ => serve(args),
    }
}

/// An etcd-compatible key-value server, and the tools that go with it
#[derive(Parser)]
#[command(
    name = "quoin",
    disable_version_flag = true,
    max_term_width = 100,
    after_help = "The server: quoin [serve] [its flags], which quoin --help lists."
)]
struct Line {
    #[command(flatten)]
    options: ctl::Options,
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Subcommand)]
enum Tool {
    #[command(flatten)]
    Ctl(ctl::Action),
    /// Makes, looks at and restores backups
    Snapshot(quoin::snapshot_tool::SnapshotArgs),
    /// Measures a server that speaks etcd's API, or a test scheduler with its workers
    Bench(quoin::bench::BenchArgs),
    /// Passes connections on to a cluster
    Gateway(quoin::gateway::GatewayArgs),
    /// Serves as a test scheduler beside others
    Scheduler(quoin::scheduler::tool::SchedulerArgs),
    /// Serves as a worker of the test scheduler, or looks at workers
    Worker(quoin::scheduler::tool::WorkerArgs),
    #[command(flatten)]
    Team(quoin::scheduler::tool::Action),
    /// Prints the version of this program, and that of etcdctl whose words it has
    Version(VersionArgs),
    /// Prints a script with which a shell completes command lines
    Completion(CompletionArgs),
}

/// etcdctl takes any, and looks at none.
#[derive(Args)]
struct VersionArgs {
    #[arg(hide = true)]
    ignored: Vec<OsString>,
}

/// The first page of `quoin help completion` says how to use each script.
#[derive(Args)]
#[command(after_help = "\
bash:        source <(quoin completion bash)
zsh:         quoin completion zsh > \"${fpath[1]}/_quoin\"
fish:        quoin completion fish | source
powershell:  quoin completion powershell | Out-String | Invoke-Expression")]
struct CompletionArgs {
    /// The shell
    shell: clap_complete::Shell,
}

/// Flags that the server has too, with another meaning, or would refuse as etcd does: they do not tell whom a
/// line is for.
const SHARED_FLAGS: [&str; 2] = ["max-request-bytes", "debug"];

/// Whether a command line that begins so is for one of the tools: it names one, or a flag of theirs.
fn is_for_tools(first: &str) -> bool {
    let line = Line::command();
    let flag = first.strip_prefix("--").map(|flag| flag.split('=').next().unwrap_or_default());
    match flag {
        None => {
            let mut names =
                line.get_subcommands().flat_map(|tool| tool.get_name_and_visible_aliases());
            first == "help" || first.starts_with("-w") || names.any(|name| name == first)
        }
        Some(flag) => {
            !SHARED_FLAGS.contains(&flag)
                && line.get_arguments().any(|arg| arg.get_long() == Some(flag))
        }
    }
}

/// Everything but the server, with a command line in the usual style.
fn tool(args: Vec<OsString>) -> ExitCode {
    let mut command = ctl::with_rules(Line::command());
    let word = ctl::word(&command, &args).map(str::to_owned);
    let is_bench = word.as_deref() == Some("bench");
    let is_for_teams = is_bench || word.as_deref().is_some_and(scheduler_tool::has);
    let refuse = |failure: &ctl::Failure| match (ctl::report(failure), is_for_teams) {
        (_, true) => ExitCode::from(scheduler_tool::USAGE),
        (code, false) => code,
    };
    let args = match ctl::plain_switches(&command, args) {
        Ok(args) => args,
        Err(failure) => return refuse(&failure),
    };
    let named = std::iter::once(OsString::from(program())).chain(args.iter().cloned());
    let matches = command.try_get_matches_from_mut(named);
    let Line { options, tool } = match matches.and_then(|found| Line::from_arg_matches(&found)) {
        Ok(line) => line,
        Err(error) if is_bench && quoin::bench::names_no_load(&error) => {
            return show_loads(&mut command, &error);
        }
        Err(error) if ctl::is_help(&error) => {
            // A reader that closes the pipe early has seen enough.
            let _closed = write!(std::io::stdout(), "{}", error.render());
            return ExitCode::SUCCESS;
        }
        Err(error) => match ctl::help_instead(&mut command, &args, &error) {
            Some(page) => {
                // As above.
                let _closed = io::stdout().write_all(page.as_bytes());
                return ExitCode::SUCCESS;
            }
            None => return refuse(&ctl::complaint(&error)),
        },
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let code = match tool {
        Tool::Ctl(action) => match runtime.block_on(ctl::run(&options, action)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => ctl::report(&failure),
        },
        Tool::Snapshot(args) => runtime.block_on(quoin::snapshot_tool::run(args, &options)),
        Tool::Bench(args) => match runtime.block_on(quoin::bench::run(args)) {
            Ok(code) => code,
            Err(error) => complain(&error),
        },
        Tool::Gateway(args) => match runtime.block_on(quoin::gateway::run(args)) {
            Ok(code) => code,
            Err(error) => complain(&*error),
        },
        Tool::Scheduler(args) => runtime.block_on(quoin::scheduler::tool::schedule(args, &options)),
        Tool::Worker(args) => runtime.block_on(quoin::scheduler::tool::work(args, &options)),
        Tool::Team(action) => runtime.block_on(quoin::scheduler::tool::run(action, &options)),
        Tool::Version(VersionArgs { ignored: _ }) => {
            // A reader that closes the pipe early has seen enough.
            let _closed = io::stdout().write_all(config::tool_version().as_bytes());
            ExitCode::SUCCESS
        }
        Tool::Completion(CompletionArgs { shell }) => complete(shell),
    };
    // A thread may still read standard input.
    runtime.shutdown_background();
    code
}

/// Tells, of a line that names no load, or one that there is not, which there are.
fn show_loads(command: &mut clap::Command, error: &clap::Error) -> ExitCode {
    if error.kind() == clap::error::ErrorKind::InvalidSubcommand {
        ctl::report(&ctl::complaint(error));
    }
    let page = command.find_subcommand_mut("bench").map(clap::Command::render_help);
    // Nobody may listen.
    let _closed = write!(io::stderr(), "{}", page.unwrap_or_default());
    ExitCode::from(scheduler_tool::USAGE)
}

fn complete(shell: clap_complete::Shell) -> ExitCode {
    let server =
        clap::Command::new("serve").about("Runs a member, as `quoin` with flags alone does");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Line::command().subcommand(server), "quoin", &mut script);
    match std::io::stdout().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error),
    }
}

/// The name that this program was started by, as texts for the user have it.
fn program() -> &'static str {
    let path = std::env::args_os().next().unwrap_or_default();
    match Path::new(&path).file_name() {
        Some(name) if name == "etcd" => "etcd",
        _ => "quoin",
    }
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    let _closed = writeln!(io::stderr(), "quoin: {error}");
    ExitCode::FAILURE
}

/// Takes the flags of a scheduler out of those of a member: none if it shall have none beside it.
fn take_scheduler(args: &mut Vec<OsString>) -> Option<Vec<OsString>> {
    let is_wanted = args.iter().any(|arg| arg == "--scheduler");
    let (mut own, mut left) = (Vec::new(), Vec::new());
    let mut given = args.drain(..);
    while let Some(arg) = given.next() {
        let flag = arg.to_string_lossy().into_owned();
        if flag == "--scheduler" {
            continue;
        } else if !flag.starts_with("--scheduler-") {
            left.push(arg);
            continue;
        }
        own.push(arg);
        if !flag.contains('=') {
            own.extend(given.next());
        }
    }
    drop(given);
    *args = left;
    is_wanted.then_some(own)
}

fn serve(args: Vec<OsString>) -> ExitCode {
    serve_with(args, None)
}

/// Serves as a member; with flags of a scheduler, as one beside it.
fn serve_with(args: Vec<OsString>, scheduler: Option<Vec<OsString>>) -> ExitCode {
    logging::end_on_panic();
    let scheduler = match scheduler.map(Beside::new).transpose() {
        Ok(scheduler) => scheduler,
        Err(error) => return ctl::report(&ctl::complaint(&error)),
    };
    match config::read_as(program(), args, std::env::vars_os()) {
        Ok(Invocation::Print(page)) => {
            // A reader that closes the pipe early has seen enough.
            let _closed = io::stdout().write_all(page.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Start(config, notices)) => start(*config, &notices, scheduler),
        Err(error) => refuse(&error),
    }
}

/// Says why the command line is refused, where etcd says it.
fn refuse(error: &ConfigError) -> ExitCode {
    match error.notice() {
        None => {
            let _closed = write!(io::stderr(), "{}\n\n{}", error.message, config::usage(program()));
        }
        Some(notice) => {
            let stderr: Vec<Sink> = vec![Box::new(io::stderr())];
            if install_log(LogLevel::Info, LogFormat::Json, stderr).is_ok() {
                log(&notice);
            }
        }
    }
    ExitCode::from(error.exit_code)
}

fn start(config: Config, notices: &[Notice], scheduler: Option<Beside>) -> ExitCode {
    let sinks = match open_log(&config) {
        Ok(sinks) => sinks,
        Err(message) => {
            return refuse(&ConfigError { exit_code: 1, kind: ErrorKind::Flags, message });
        }
    };
    if let Err(error) = install_log(config.log_level, config.log_format, sinks) {
        return refuse(&ConfigError { exit_code: 1, kind: ErrorKind::Flags, message: error });
    }
    notices.iter().for_each(log);
    let is_initialized = config.data_dir.join("member").exists();
    tracing::info!(zap_fields = config.told(is_initialized), "starting an etcd server");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(STARTS_NOT, &error),
    };
    if let Some(scheduler) = scheduler {
        let listened = config.listen_client_urls.iter().map(ToString::to_string).collect();
        let advertised = config.advertise_client_urls.iter().map(ToString::to_string).collect();
        if let Err(error) = runtime.block_on(scheduler.start(listened, advertised)) {
            return fail(STARTS_NOT, &io::Error::other(error));
        }
    }
    let result = match runtime.block_on(node::start(config)) {
        Ok(Start::Node(node)) => runtime.block_on(node.run()).map_err(|fatal| (GOES_NOT_ON, fatal)),
        Ok(Start::Ended(exit)) => Ok(exit),
        Err(fatal) => Err((STARTS_NOT, fatal)),
    };
    // Tasks that still wait for something must not hold the exit up.
    runtime.shutdown_background();
    match result {
        Ok(node::Exit::Signal(signal)) => {
            // Ends as the signal would have ended it, so that a supervisor sees the same status.
            let raised = signal_hook::low_level::emulate_default_handler(signal);
            raised.map_or_else(|error| fail(GOES_NOT_ON, &error), |()| ExitCode::SUCCESS)
        }
        Ok(node::Exit::Removed) => end(0),
        Err((what, fatal)) => {
            fail(what, &fatal);
            end(1)
        }
    }
}

/// Ends the process without the exit handlers of libraries: they would take apart what threads of
/// RocksDB, which nobody waits for here, still use.
fn end(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}

/// What etcd says of whatever keeps it from starting.
const STARTS_NOT: &str = "discovery failed";
const GOES_NOT_ON: &str = "the member cannot go on";

fn fail(what: &str, error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(zap_level = "fatal", error = %error, "{what}");
    ExitCode::FAILURE
}

fn install_log(level: LogLevel, format: LogFormat, sinks: Vec<Sink>) -> Result<(), String> {
    let filter = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Dpanic | LogLevel::Panic | LogLevel::Fatal => {
            LevelFilter::ERROR
        }
    };
    let format = match format {
        LogFormat::Json => logging::Format::Json,
        LogFormat::Console => logging::Format::Console,
    };
    logging::install(filter, level <= LogLevel::Error, format, sinks)
}

/// Opens all that the log goes to.
fn open_log(config: &Config) -> Result<Vec<Sink>, String> {
    let open = |output: &LogOutput| -> Result<Sink, String> {
        match output {
            LogOutput::Stderr => Ok(Box::new(io::stderr())),
            LogOutput::Stdout => Ok(Box::new(io::stdout())),
            LogOutput::Journal => {
                let program = std::env::args_os().next().unwrap_or_default();
                let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
                match Journal::connect(Path::new(journal::SOCKET), &name) {
                    Ok(journal) => Ok(Box::new(journal)),
                    Err(error) => Err(format!(
                        "can't find journal (dial unixgram {}: connect: {})",
                        journal::SOCKET,
                        ctl::os_words(&error)
                    )),
                }
            }
            LogOutput::File(path) => open_log_file(path, config.log_rotation).map_err(|error| {
                let path = path.display();
                format!("open sink {:?}: open {path}: {}", path.to_string(), ctl::os_words(&error))
            }),
        }
    };
    config.log_outputs.iter().map(open).collect()
}

fn open_log_file(path: &Path, rotation: Option<LogRotation>) -> io::Result<Sink> {
    let Some(rotation) = rotation else {
        return Ok(Box::new(OpenOptions::new().create(true).append(true).open(path)?));
    };
    let rules = Rules {
        size_max: rotation.size_max,
        age_max: rotation.age_max,
        backups_max: rotation.backups_max,
        local_time: rotation.local_time,
        compress: rotation.compress,
    };
    Ok(Box::new(RotatingFile::open(path, rules)?))
}

fn log(notice: &Notice) {
    let level = match notice.level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Dpanic | LogLevel::Panic | LogLevel::Fatal => "fatal",
    };
    let fields: serde_json::Map<_, _> = notice
        .fields
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.as_str().into()))
        .collect();
    let (message, fields) = (&notice.message, serde_json::Value::from(fields).to_string());
    match notice.level {
        LogLevel::Debug => tracing::debug!(zap_fields = fields, "{message}"),
        LogLevel::Info => tracing::info!(zap_fields = fields, "{message}"),
        LogLevel::Warn => tracing::warn!(zap_fields = fields, "{message}"),
        _ => tracing::error!(zap_level = level, zap_fields = fields, "{message}"),
    }
}
