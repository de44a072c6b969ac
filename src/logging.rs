//! Log lines as etcd's supervisors expect them: one JSON object per line, zap's keys.
//!
//! Keys are `level`, `ts` (UTC, microseconds), `caller`, `msg`, then the event's fields in the
//! order given. Every line parses, panics and what is said before there is a log included. The
//! console format holds the same in text.

pub mod journal;
pub mod rotation;

use serde_json::{Map, Value};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::Mutex;
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Json,
    Console,
}

/// Where lines go: standard error, standard output or files, each gets all of them.
pub type Sink = Box<dyn std::io::Write + Send>;

/// The status of a process that panics: that of etcd.
const PANIC_STATUS: i32 = 2;

/// Installs the logger of the process. Without `errors`, lines of level error are left out too, and
/// only panic and fatal remain.
///
/// # Errors
/// When a logger is installed already.
pub fn install(
    level: LevelFilter,
    errors: bool,
    format: Format,
    sinks: Vec<Sink>,
) -> Result<(), String> {
    let layer = ZapLayer { format, errors, sinks: Mutex::new(sinks) };
    registry()
        .with(layer.with_filter(quiet_libraries(level)))
        .try_init()
        .map_err(|error| error.to_string())
}

/// Makes every panic from now on a line of the log, or of standard error as long as there is no log,
/// and the end of the process.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic_message(panic.payload());
        if tracing::dispatcher::has_been_set() {
            tracing::error!(zap_level = "panic", place, "{message}");
        } else {
            let fields = Map::from_iter([("place".to_owned(), place.into())]);
            let line = json("panic", "src/main.rs:1", &message, fields);
            let _lost = std::io::stderr().write_all(line.as_bytes());
        }
        // A node with a dead thread behind a live port would serve stale data. The exit handlers of
        // libraries would take apart what other threads still use.
        signal_hook::low_level::exit(PANIC_STATUS);
    }));
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "panicked".to_owned(),
    }
}

/// Libraries below warning level tell an operator nothing.
fn quiet_libraries(level: LevelFilter) -> tracing_subscriber::filter::Targets {
    tracing_subscriber::filter::Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("quoin", level)
        // A line for each connection of a client that names an address where a name belongs.
        .with_target("rustls::msgs", level.min(LevelFilter::ERROR))
}

struct ZapLayer {
    format: Format,
    errors: bool,
    sinks: Mutex<Vec<Sink>>,
}

impl<S: Subscriber> Layer<S> for ZapLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let caller = caller(event, &mut fields);
        if !self.errors && fields.level.is_none() {
            return;
        }
        let line = match self.format {
            Format::Json => json_line(event, &caller, fields),
            Format::Console => console_line(event, &caller, fields),
        };
        if let Ok(mut sinks) = self.sinks.lock() {
            for sink in sinks.iter_mut() {
                // Nowhere is left to report that the log itself cannot be written.
                let _lost = sink.write_all(line.as_bytes());
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    /// Replaces the level's name for the lines that zap calls fatal or panic.
    level: Option<String>,
    rest: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => drop(self.rest.insert(name.to_owned(), format!("{value:?}").into())),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            "zap_level" => self.level = Some(value.to_owned()),
            // Fields whose names are known only at run time, as a JSON object.
            "zap_fields" => {
                if let Ok(Value::Object(fields)) = serde_json::from_str(value) {
                    self.rest.extend(fields);
                }
            }
            name => drop(self.rest.insert(name.to_owned(), value.into())),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.rest.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.rest.insert(field.name().to_owned(), value.into());
    }
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// Where an event comes from. Those of libraries that log by the crate `log` have that in fields, which are
/// taken away.
fn caller(event: &Event<'_>, fields: &mut Fields) -> String {
    let metadata = event.metadata();
    let (file, line) = (fields.rest.remove("log.file"), fields.rest.remove("log.line"));
    fields.rest.retain(|name, _| !name.starts_with("log."));
    let file = file.as_ref().and_then(Value::as_str).or(metadata.file()).unwrap_or("unknown");
    let line = line.as_ref().and_then(Value::as_u64).or(metadata.line().map(u64::from));
    // The last two parts, as zap's short caller has them.
    let cut = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[cut..], line.unwrap_or(0))
}

fn timestamp() -> String {
    humantime::format_rfc3339_micros(SystemTime::now()).to_string()
}

fn json_line(event: &Event<'_>, caller: &str, fields: Fields) -> String {
    let level = fields.level.as_deref().unwrap_or(level_name(event.metadata().level()));
    json(level, caller, &fields.message, fields.rest)
}

fn json(level: &str, caller: &str, message: &str, fields: Map<String, Value>) -> String {
    let mut line = format!(
        r#"{{"level":{},"ts":"{}","caller":{},"msg":{}"#,
        Value::from(level),
        timestamp(),
        Value::from(caller),
        Value::from(message)
    );
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = write!(line, ",{}:{value}", Value::from(name));
    }
    line.push_str("}\n");
    line
}

fn console_line(event: &Event<'_>, caller: &str, fields: Fields) -> String {
    let level = fields.level.as_deref().unwrap_or(level_name(event.metadata().level()));
    let mut line = format!("{}\t{level}\t{}\t{}", timestamp(), caller, fields.message);
    if !fields.rest.is_empty() {
        let _ = write!(line, "\t{}", Value::from(fields.rest));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Set for the process that is to panic: whether it has a log.
    const ROLE: &str = "QUOIN_TEST_PANIC";

    /// Panics in a process of its own, which this same test is when it finds the variable.
    #[test]
    fn a_panic_is_a_line_of_json_and_ends_the_process() {
        if let Ok(role) = std::env::var(ROLE) {
            if role == "with a log" {
                let sinks: Vec<Sink> = vec![Box::new(std::io::stderr())];
                install(LevelFilter::INFO, true, Format::Json, sinks).unwrap();
            }
            end_on_panic();
            // Of another thread too.
            let _unreachable = std::thread::spawn(|| panic!("a \"quoted\" word")).join();
            return;
        }
        for role in ["with a log", "before there is one"] {
            let name = "logging::tests::a_panic_is_a_line_of_json_and_ends_the_process";
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--nocapture"])
                .env(ROLE, role)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{role}: {said}");
            let lines: Vec<Value> =
                said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(lines.len(), 1, "{role}: {said}");
            assert_eq!(lines[0]["level"], "panic");
            assert_eq!(lines[0]["msg"], "a \"quoted\" word");
            let place = lines[0]["place"].as_str().unwrap();
            assert!(place.starts_with("src/logging.rs:"), "{place}");
        }
    }
}
