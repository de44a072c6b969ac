//! Runs one attempt of a case on a worker, and says what came of it.
//!
//! Everything that can go wrong with an attempt is an outcome: a verdict where the case could be
//! tried, an error where it could not. An attempt ends by its deadline plus a grace, whatever the
//! other side does, and leaves no process of its group behind. What it put out is kept within
//! bounds: a little in the record, the rest in artifacts.
//!
//! Left out: manual cases, whose verdict a person gives, and retries, which the planner decides.

mod artifacts;
mod command;
mod complaint;
mod connect;
mod fill;
mod http;
mod orders;
mod output;
mod report;
mod targets;
#[cfg(test)]
mod tests;
mod verdict;
mod warden;

pub use artifacts::Artifacts;
pub(super) use fill::fill;
pub use orders::{Caller, Cancel, Runner};
pub use targets::{Reach, Rule, Targets, reach};
pub use warden::{WARDEN, ward};

use crate::scheduler::model::{Environment, Kind, Status, TestCase};
use crate::tls::Dialer;
use output::Capture;
use report::Report;
use serde_json::Value;
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use warden::Warden;

/// One try of a task.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    pub case: &'a TestCase,
    /// Where `{{key}}` is looked up.
    pub environment: Option<&'a Environment>,
    pub run: &'a str,
    pub lane: u32,
    pub ordinal: u32,
    /// From 1.
    pub attempt: u32,
    /// The token of the claim, which the tested system may compare: an attempt with a smaller one
    /// has been replaced.
    pub fence: i64,
    /// The attempt is timed out when this has passed.
    pub deadline: Instant,
}

impl<'a> Attempt<'a> {
    /// The output that the case expects, with the values of the environment in their places.
    ///
    /// # Errors
    /// It names a value that the environment does not have.
    fn expected(&self) -> Result<Option<Cow<'a, str>>, String> {
        self.case.output.as_deref().map(|output| fill(output, self.environment)).transpose()
    }
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// `Passed`, `Failed`, `Error`, `Canceled` or `TimedOut`.
    pub status: Status,
    pub duration: Duration,
    /// For people: `message`, `http` (status of an answer), `exit` or `signal` (of a command),
    /// `leaked` (it left processes behind), `output` and `stderr` with what belongs to them where they were cut (`_tail`, `_bytes`, and
    /// `_artifact`, a digest). None where nothing is worth a word.
    pub detail: Option<Value>,
}

/// What a worker's operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    pub targets: Targets,
    /// Cases of kind command run programs with this process's rights.
    pub allows_commands: bool,
    /// This program, which with the argument `WARDEN` sees to it that commands end with their worker.
    pub warden: Option<PathBuf>,
    /// Where artifacts lie.
    pub folder: PathBuf,
    /// Of all artifacts; what was used longest ago goes first.
    pub artifacts_bytes_max: u64,
    /// Of one output; what is more is thrown away.
    pub artifact_bytes_max: u64,
    /// Of an output in a record, as bytes of JSON. Records travel through the store.
    pub record_bytes_max: usize,
    /// The same where the case passed, which most do.
    pub passed_bytes_max: usize,
    /// Longer outputs are not compared.
    pub compared_bytes_max: u64,
    /// To each address.
    pub connect_timeout: Duration,
    /// How long a connection waits for its next use: less than servers let it wait.
    pub idle_max: Duration,
    /// From the request to end to the kill.
    pub grace: Duration,
    /// For processes that a command leaves behind and that hold its output open.
    pub leak_grace: Duration,
}

impl Settings {
    /// Defaults, with artifacts in this folder: no commands, and public targets only.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            targets: Targets::default(),
            allows_commands: false,
            warden: None,
            folder: folder.into(),
            artifacts_bytes_max: 4 << 30,
            artifact_bytes_max: 64 << 20,
            record_bytes_max: 64 << 10,
            passed_bytes_max: 4 << 10,
            compared_bytes_max: 8 << 20,
            connect_timeout: Duration::from_secs(10),
            idle_max: Duration::from_millis(1_500),
            grace: Duration::from_secs(10),
            leak_grace: Duration::from_millis(200),
        }
    }
}

/// Runs attempts, many at a time.
pub struct Executor {
    settings: Settings,
    artifacts: Artifacts,
    client: http::Client,
    warden: Warden,
}

impl Executor {
    /// Takes the folder of artifacts over. `dialer` knows whom to trust, and what to show, when a
    /// url is https.
    ///
    /// # Errors
    /// When the folder cannot be used, or is used by another process.
    pub fn open(settings: Settings, dialer: Dialer) -> io::Result<Self> {
        let artifacts = Artifacts::open(&settings.folder, settings.artifacts_bytes_max)?;
        let client = http::client(&settings, dialer);
        let warden = Warden::new(settings.warden.clone());
        Ok(Self { settings, artifacts, client, warden })
    }

    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// Runs an attempt to its end. When `cancel` is done it is ended early: a call is dropped, a
    /// command asked to end and killed after the grace. Dropping the future ends all at once,
    /// without grace: for a worker that has lost its lease.
    pub async fn run(&self, attempt: Attempt<'_>, cancel: impl Future<Output = ()>) -> Outcome {
        let start = Instant::now();
        let report = match attempt.case.kind {
            Kind::Http => tokio::select! {
                biased;
                report = self.call(&attempt) => report,
                () = cancel => Report::new(Status::Canceled),
                () = tokio::time::sleep_until(attempt.deadline) => Report::timed_out(&attempt),
            },
            Kind::Command if !self.settings.allows_commands => {
                Report::error("this worker runs no commands")
            }
            Kind::Command => self.command(&attempt, cancel).await,
            Kind::Manual => Report::error("the verdict of a manual case is a person's"),
        };
        let (status, duration) = (report.status, start.elapsed());
        Outcome { status, duration, detail: report.detail(&self.artifacts, &self.settings).await }
    }

    fn capture(&self) -> Capture<'_> {
        Capture::new(&self.artifacts, self.settings.artifact_bytes_max)
    }
}

impl Attempt<'_> {
    /// The task's name, the same for all its attempts.
    fn task(&self) -> String {
        format!("{}-{}", self.lane, self.ordinal)
    }

    /// The deadline in milliseconds since 1970, for those who have another clock.
    fn deadline_ms(&self) -> u128 {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let deadline = SystemTime::now() + left;
        deadline.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis())
    }
}
