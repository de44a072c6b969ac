//! From what happened to what is recorded of it.

use super::artifacts::Artifacts;
use super::output::{Output, shorten};
use super::verdict::{self, Objection};
use super::{Attempt, Settings};
use crate::scheduler::model::{OutputMatch, Status};
use serde_json::{Map, Value};

/// Of a message in a record, as bytes of JSON.
const MESSAGE_BYTES_MAX: usize = 2_048;

/// What is known of an attempt that has ended.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) status: Status,
    pub(super) message: Option<String>,
    /// Name of a number, and the number: status of an answer, exit code.
    pub(super) code: Option<(&'static str, i32)>,
    /// Name of the signal that ended the command.
    pub(super) signal: Option<String>,
    /// The command left processes behind that held its output open; they were killed.
    pub(super) has_leaked: bool,
    pub(super) output: Output,
    pub(super) stderr: Output,
}

impl Report {
    pub(super) fn new(status: Status) -> Self {
        let (message, code, signal) = (None, None, None);
        let (output, stderr) = (Output::default(), Output::default());
        Self { status, message, code, signal, has_leaked: false, output, stderr }
    }

    pub(super) fn error(message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..Self::new(Status::Error) }
    }

    pub(super) fn timed_out(attempt: &Attempt<'_>) -> Self {
        let message = Some(format!("not done within {} ms", attempt.case.timeout_ms));
        Self { message, ..Self::new(Status::TimedOut) }
    }

    /// Compares the output with what is expected, and so decides.
    pub(super) async fn judge(
        &mut self,
        how: OutputMatch,
        expected: Option<&str>,
        artifacts: &Artifacts,
        bytes_max: u64,
    ) {
        let verdict = if matches!(how, OutputMatch::Status | OutputMatch::None) {
            Ok(())
        } else if let Some(expected) = expected
            && how == OutputMatch::Exact
            && !self.output.is_held()
            && self.output.bytes != expected.len() as u64
        {
            let (expected, got) = (expected.len(), self.output.bytes);
            Err(Objection::Differs(format!("expected {expected} bytes, got {got}")))
        } else if self.output.is_held() {
            compare(how, expected, &self.output, artifacts, bytes_max)
        } else {
            // Long: a thread of its own, since others wait for this one.
            let output = std::mem::take(&mut self.output);
            let (expected, artifacts) = (expected.map(str::to_owned), artifacts.clone());
            let compared = tokio::task::spawn_blocking(move || {
                let verdict = compare(how, expected.as_deref(), &output, &artifacts, bytes_max);
                (verdict, output)
            });
            match compared.await {
                Ok((verdict, output)) => {
                    self.output = output;
                    verdict
                }
                Err(error) => Err(Objection::Unusable(error.to_string())),
            }
        };
        self.decide(verdict);
    }

    pub(super) fn decide(&mut self, verdict: Result<(), Objection>) {
        (self.status, self.message) = match verdict {
            Ok(()) => (Status::Passed, None),
            Err(Objection::Differs(why)) => (Status::Failed, Some(why)),
            Err(Objection::Unusable(why)) => (Status::Error, Some(why)),
        };
    }

    /// For people; none where all went as expected and nothing unexpected was put out.
    pub(super) async fn detail(self, artifacts: &Artifacts, settings: &Settings) -> Option<Value> {
        let mut object = Map::new();
        let bytes_max = match self.status {
            Status::Passed => settings.passed_bytes_max,
            _ => settings.record_bytes_max,
        };
        if let Some(message) = &self.message {
            object.insert("message".into(), shorten(message, MESSAGE_BYTES_MAX).into());
        }
        if let Some((name, code)) = self.code {
            object.insert(name.into(), code.into());
        }
        if let Some(signal) = self.signal {
            object.insert("signal".into(), signal.into());
        }
        if self.has_leaked {
            object.insert("leaked".into(), true.into());
        }
        let both = self.output.bytes > 0 && self.stderr.bytes > 0;
        let each = if both { bytes_max / 2 } else { bytes_max };
        self.output.describe(artifacts, each, "output", &mut object).await;
        self.stderr.describe(artifacts, each, "stderr", &mut object).await;
        (!object.is_empty()).then_some(Value::Object(object))
    }
}

fn compare(
    how: OutputMatch,
    expected: Option<&str>,
    output: &Output,
    artifacts: &Artifacts,
    bytes_max: u64,
) -> Result<(), Objection> {
    let content = output.content(artifacts, bytes_max).map_err(Objection::Unusable)?;
    verdict::compare(how, expected, &content)
}
