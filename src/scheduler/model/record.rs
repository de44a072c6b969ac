//! What the store keeps of a run that goes on: claims, packed results, and checkpoints of lanes.

use super::{Ordinals, Status};
use serde::de::{self, SeqAccess, Visitor};
use serde::ser::SerializeTuple;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Tasks of a lane that follow each other, for the same attempt: `[lane, from, to, attempt]`,
/// without `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32, u32)", into = "(u32, u32, u32, u32)")]
pub struct Item {
    pub lane: u32,
    pub from: u32,
    pub to: u32,
    /// From 1.
    pub attempt: u32,
}

impl Item {
    pub fn count(&self) -> u32 {
        self.to - self.from
    }
}

impl From<(u32, u32, u32, u32)> for Item {
    fn from((lane, from, to, attempt): (u32, u32, u32, u32)) -> Self {
        // An interval that ends before it starts holds nothing.
        Self { lane, from, to: to.max(from), attempt }
    }
}

impl From<Item> for (u32, u32, u32, u32) {
    fn from(item: Item) -> Self {
        (item.lane, item.from, item.to, item.attempt)
    }
}

/// Tasks given to one worker: the value of `claim/{worker}/{seq}`. Its create revision is the fencing
/// token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    pub run: String,
    /// Create revision of the leader's key.
    pub epoch: i64,
    /// Create revision of the worker's key.
    pub registration: i64,
    pub items: Vec<Item>,
    /// Keys of the tags it holds, behind `tag/`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Milliseconds since 1970 at which the leader looks after it.
    pub deadline: u64,
    /// Of a worker's capacity, for each of its tasks.
    pub slots: u32,
    /// Somebody waits for its end: results are not gathered.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub urgent: bool,
}

/// The end of one attempt: `[lane, ordinal, attempt, status, start, duration]`, and what there is to
/// say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub lane: u32,
    pub ordinal: u32,
    pub attempt: u32,
    pub status: Status,
    /// Milliseconds since 1970.
    pub start: u64,
    /// Microseconds.
    pub duration: u64,
    /// Output, message, digest: an object for people.
    pub detail: Option<Value>,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_tuple(6 + usize::from(self.detail.is_some()))?;
        row.serialize_element(&self.lane)?;
        row.serialize_element(&self.ordinal)?;
        row.serialize_element(&self.attempt)?;
        row.serialize_element(&self.status)?;
        row.serialize_element(&self.start)?;
        row.serialize_element(&self.duration)?;
        if let Some(detail) = &self.detail {
            row.serialize_element(detail)?;
        }
        row.end()
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[lane, ordinal, attempt, status, start, duration] with an optional detail")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut row: A) -> Result<Row, A::Error> {
        let short = |place| de::Error::invalid_length(place, &self);
        let lane = row.next_element()?.ok_or_else(|| short(0))?;
        let ordinal = row.next_element()?.ok_or_else(|| short(1))?;
        let attempt = row.next_element()?.ok_or_else(|| short(2))?;
        let status = row.next_element()?.ok_or_else(|| short(3))?;
        let start = row.next_element()?.ok_or_else(|| short(4))?;
        let duration = row.next_element()?.ok_or_else(|| short(5))?;
        let detail = row.next_element()?;
        if row.next_element::<de::IgnoredAny>()?.is_some() {
            return Err(de::Error::invalid_length(8, &self));
        }
        Ok(Row { lane, ordinal, attempt, status, start, duration, detail })
    }
}

/// Ends of attempts, packed: the value of `rseg/{run}/{worker}-{seq}-{part}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The claim that they belong to, by its create revision; 0 where there was none.
    #[serde(default)]
    pub claim: i64,
    pub rows: Vec<Row>,
}

/// How many tasks of a lane or a run ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub total: u64,
    #[serde(flatten)]
    pub by_status: BTreeMap<Status, u64>,
    /// Passed after a failed attempt.
    pub flaky: u64,
    /// Ended such that the run has failed: those of muted cases do not count.
    pub failures: u64,
}

impl Totals {
    pub fn of(total: u64) -> Self {
        Self { total, ..Default::default() }
    }

    pub fn add(&mut self, status: Status, count: u64) {
        if count > 0 {
            *self.by_status.entry(status).or_default() += count;
        }
    }

    /// Whether these are the same counts; none and zero are.
    pub fn is_same(&self, other: &Totals) -> bool {
        let counts = |totals: &Totals| (totals.total, totals.flaky, totals.failures);
        counts(self) == counts(other)
            && Status::ALL.into_iter().all(|status| self.get(status) == other.get(status))
    }

    pub fn merge(&mut self, other: &Totals) {
        self.total += other.total;
        self.flaky += other.flaky;
        self.failures += other.failures;
        for (status, count) in &other.by_status {
            self.add(*status, *count);
        }
    }

    pub fn get(&self, status: Status) -> u64 {
        self.by_status.get(&status).copied().unwrap_or_default()
    }

    /// Of those that went wrong, such as do not count: their cases are muted.
    pub fn muted(&self) -> u64 {
        let failing = Status::ALL.into_iter().filter(|status| status.fails_run());
        let all: u64 = failing.map(|status| self.get(status)).sum();
        all.saturating_sub(self.failures)
    }

    pub fn ended(&self) -> u64 {
        self.by_status.iter().filter(|(status, _)| status.is_terminal()).map(|(_, n)| n).sum()
    }
}

/// What is known of a lane up to a revision, so that a new leader need not read all segments again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneCheckpoint {
    pub ended: Ordinals,
    pub totals: Totals,
    /// Those that passed, where a successor waits for each repeat by itself.
    #[serde(skip_serializing_if = "Ordinals::is_empty")]
    pub passed: Ordinals,
    /// By ordinal.
    pub tried: BTreeMap<u32, Tried>,
}

/// Failed attempts of a task that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tried {
    /// Failed, or timed out.
    pub test: u32,
    /// Without a verdict.
    pub infra: u32,
    pub lost: u32,
    /// The worker that lost it first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_by: Option<String>,
    pub lost_by_several: bool,
    /// It is not tried again before, in milliseconds since 1970; none: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rests_until: Option<u64>,
}

impl Tried {
    /// The number of the next attempt.
    pub fn next(&self) -> u32 {
        1 + self.test + self.infra + self.lost
    }
}
