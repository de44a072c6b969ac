//! What is kept of runs when their tasks have ended: latest results, histories, reports, runs that
//! are over, and their segments in blocks. Values and their JSON form, and how a run's results are
//! counted; who writes them when is the coordinator's.

mod block;
mod tally;
pub mod verdict;

pub use block::{Block, Packer, Rolled, unrolled};
pub use tally::{Failure, Group, Past, Report, Slow, Tally, Times, efficiency};

use super::analysis::{self, Ended, FlakeRule, Stats};
use super::model::{Row, Status, Totals};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes of text that a latest result holds; all of it is in the segment.
const LOGS_BYTES_MAX: usize = 4 * 1024;

/// The history of a case in an environment with what it was counted from: the value of
/// `stats/{case}/{environment}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Results recorded up to this revision are counted, each once, and later ones are not.
    pub folded: i64,
    /// Passes in a row, none of them after a retry, in runs for which the case was muted.
    #[serde(skip_serializing_if = "is_zero")]
    pub clean: u32,
    /// When there were so many that the mute may end, in milliseconds since 1970, until it is otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<u64>,
    #[serde(flatten)]
    pub stats: Stats,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl History {
    /// Takes in an end of a task; whether a muted case has recovered by it.
    /// What says nothing of the case changes nothing.
    pub fn add(&mut self, ended: &Ended<'_>, is_muted: bool, rule: &FlakeRule) -> bool {
        self.stats.add(ended);
        if !ended.verdict.is_of_case() {
            return false;
        }
        let is_clean = is_muted && ended.verdict == analysis::Verdict::Passed;
        self.clean = if is_clean { self.clean + 1 } else { 0 };
        if !is_clean {
            self.recovered = None;
        }
        let has_recovered = self.clean >= rule.recovers_after;
        if has_recovered {
            (self.clean, self.recovered) = (0, Some(ended.at));
        }
        has_recovered
    }
}

/// How a case in an environment came out last: the value of `/results/{case}/{environment}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latest {
    /// In a word: passed, failed, error, timed out, lost, canceled.
    pub status: String,
    /// The same as records carry it.
    pub code: String,
    pub run: String,
    pub lane: u32,
    pub ordinal: u32,
    pub attempt: u32,
    pub worker: String,
    /// Milliseconds since 1970.
    pub start: u64,
    pub duration_ms: u64,
    /// At which it was recorded.
    pub revision: i64,
    /// The begin of what it put out or said, for people; the record has all of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub logs: String,
}

impl Latest {
    /// Of the end of a task, recorded at a revision.
    pub fn of(run: &str, worker: &str, revision: i64, row: &Row) -> Self {
        Self {
            status: row.status.word().to_owned(),
            code: row.status.code().to_owned(),
            run: run.to_owned(),
            lane: row.lane,
            ordinal: row.ordinal,
            attempt: row.attempt,
            worker: worker.to_owned(),
            start: row.start,
            duration_ms: row.duration / 1_000,
            revision,
            logs: logs(row.detail.as_ref()),
        }
    }
}

/// What a detail says: its message, then what was put out.
fn logs(detail: Option<&Value>) -> String {
    let parts = ["message", "output", "stderr"].into_iter();
    let parts = parts.filter_map(|name| detail?.get(name)?.as_str());
    let mut text = parts.collect::<Vec<_>>().join("\n");
    cut(&mut text, LOGS_BYTES_MAX);
    text
}

/// The message of a detail, for people.
pub fn message(detail: Option<&Value>) -> &str {
    detail.and_then(|detail| detail.get("message")).and_then(Value::as_str).unwrap_or_default()
}

/// Shortens a text to whole characters.
fn cut(text: &mut String, bytes_max: usize) {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
}

/// A run that is over, in short: the value of `ended/{time}-{run}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndedRun {
    pub run: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// passed, failed, canceled, incomplete.
    pub state: String,
    pub totals: Totals,
    /// Attempts beyond the first of their tasks; none where nobody has counted them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u64>,
    /// The lower bound as a part of the time it took, from 0 to 1; none where nobody has measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efficiency: Option<f64>,
    /// When it was submitted, in milliseconds since 1970.
    pub started: u64,
    pub ended: u64,
    pub queue: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<String>,
}

/// What a worker runs now, in a beat: `[run, lane, ordinal, attempt, start in milliseconds]`.
pub type Running = (String, u32, u32, u32, u64);

/// Whether a status says that the task has run.
pub fn has_run(status: Status) -> bool {
    !matches!(status, Status::Pending | Status::Running | Status::Canceled | Status::Skipped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_history_is_one_object_with_what_it_was_counted_from() {
        let mut history = History { folded: 7, ..Default::default() };
        history.stats.n = 3;
        history.stats.durations = vec![5];
        let text = serde_json::to_string(&history).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["folded"], &value["n"]), (&json!(7), &json!(3)));
        assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
    }

    #[test]
    fn a_latest_result_says_the_begin_of_what_there_is() {
        let detail = json!({"message": "no", "output": "é".repeat(5_000)});
        let row = Row {
            lane: 1,
            ordinal: 2,
            attempt: 3,
            status: Status::Failed,
            start: 4,
            duration: 5_600,
            detail: Some(detail),
        };
        let latest = Latest::of("r", "w", 9, &row);
        assert_eq!((latest.status.as_str(), latest.code.as_str()), ("failed", "03"));
        assert_eq!((latest.duration_ms, latest.revision), (5, 9));
        assert!(latest.logs.starts_with("no\né") && latest.logs.len() <= LOGS_BYTES_MAX);
    }
}
