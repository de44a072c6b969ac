//! The `quoin` binary: chooses what to run and turns its end into an exit code.

use quoin::config::{self, ConfigError, Invocation, LogFormat, LogLevel, LogOutput, Notice};
use quoin::logging::{self, Sink};
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|arg| arg.to_str()) {
        Some("serve") => {
            args.remove(0);
            serve(args)
        }
        Some("bench" | "snapshot") => tool(),
        _ => serve(args),
    }
}

/// `quoin bench ...` and `quoin snapshot ...`, with a command line in the usual style.
fn tool() -> ExitCode {
    #[derive(clap::Parser)]
    #[command(name = "quoin", disable_version_flag = true)]
    enum Tool {
        /// Measure a server that speaks etcd's API
        Bench(quoin::bench::BenchArgs),
        /// Make, look at and restore backups
        Snapshot(quoin::snapshot_tool::SnapshotArgs),
    }
    let tool = <Tool as clap::Parser>::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    match tool {
        Tool::Bench(args) => match runtime.block_on(quoin::bench::run(args)) {
            Ok(code) => code,
            Err(error) => complain(&error),
        },
        Tool::Snapshot(args) => runtime.block_on(quoin::snapshot_tool::run(args)),
    }
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    let _closed = writeln!(std::io::stderr(), "quoin: {error}");
    ExitCode::FAILURE
}

fn serve(args: Vec<OsString>) -> ExitCode {
    match config::read(args, std::env::vars_os()) {
        Ok(Invocation::Print(page)) => {
            // A reader that closes the pipe early has seen enough.
            let _closed = std::io::stdout().write_all(page.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Start(config, notices)) => start(*config, &notices),
        Err(error) => refuse(&error),
    }
}

/// Says why the command line is refused, where etcd says it.
fn refuse(error: &ConfigError) -> ExitCode {
    match error.notice() {
        None => {
            let _closed = write!(std::io::stderr(), "{}\n\n{}", error.message, config::USAGE);
        }
        Some(notice) => {
            if install_log(LogLevel::Info, LogFormat::Json, &[LogOutput::Stderr]).is_ok() {
                log(&notice);
            }
        }
    }
    ExitCode::from(error.exit_code)
}

fn start(config: config::Config, notices: &[Notice]) -> ExitCode {
    if let Err(error) = install_log(config.log_level, config.log_format, &config.log_outputs) {
        let _closed = writeln!(std::io::stderr(), "failed to set the log up: {error}");
        return ExitCode::FAILURE;
    }
    notices.iter().for_each(log);
    tracing::info!(
        "quoin-version" = env!("CARGO_PKG_VERSION"),
        "etcd-version" = config::ETCD_VERSION,
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        engine = config.engine.name(),
        "snapshot-count" = config.snapshot_count,
        "snapshot-catchup-entries" = config.snapshot_catchup_entries,
        "v2-deprecation" = "write-only",
        "starting an etcd server"
    );
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let result = runtime.block_on(quoin::node::run(config));
    // Tasks that still wait for something must not hold the exit up.
    runtime.shutdown_background();
    match result {
        Ok(quoin::node::Exit::Signal(signal)) => {
            // Ends as the signal would have ended it, so that a supervisor sees the same status.
            let raised = signal_hook::low_level::emulate_default_handler(signal);
            raised.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
        }
        Ok(quoin::node::Exit::Removed) => end(0),
        Err(fatal) => {
            fail(&fatal);
            end(1)
        }
    }
}

/// Ends the process without the exit handlers of libraries: they would take apart what threads of
/// RocksDB, which nobody waits for here, still use.
fn end(status: i32) -> ! {
    signal_hook::low_level::exit(status)
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(zap_level = "fatal", error = %error, "the member cannot go on");
    ExitCode::FAILURE
}

fn install_log(level: LogLevel, format: LogFormat, outputs: &[LogOutput]) -> Result<(), String> {
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
    let mut sinks: Vec<Sink> = Vec::new();
    for output in outputs {
        sinks.push(match output {
            LogOutput::Stderr => Box::new(std::io::stderr()),
            LogOutput::Stdout => Box::new(std::io::stdout()),
            LogOutput::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.map_err(|error| format!("{}: {error}", path.display()))?)
            }
        });
    }
    logging::install(filter, format, sinks)
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
