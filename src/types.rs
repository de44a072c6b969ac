//! The small types that every module shares: ids, revisions, key ranges.
//!
//! Plain data without behaviour beyond ordering, printing and containment.

use bytes::Bytes;
use std::fmt;

/// A member's id as etcd computes it: unique in the cluster, never used twice, never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// The cluster's id, fixed for its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

/// A client's lease. 0 means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A position in the raft log; the first entry has index 1.
pub type Index = u64;

/// A raft term.
pub type Term = u64;

impl fmt::Display for MemberId {
    /// Lowercase hexadecimal without leading zeros, as etcd prints ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Names one client request for the life of the cluster.
///
/// `boot` is drawn at random by each start of a process, so that a restarted
/// member never repeats an id; `sequence` counts from 1 within that start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    pub member: MemberId,
    pub boot: u64,
    pub sequence: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:x}/{}", self.member, self.boot, self.sequence)
    }
}

/// etcd's revision: `main` counts modifying requests (the empty store has 1),
/// `sub` counts the changes inside one request from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
}

impl Revision {
    pub const fn new(main: i64, sub: u32) -> Self {
        Self { main, sub }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.main, self.sub)
    }
}

/// An interval of user keys, normalised from etcd's (key, range_end) pair.
///
/// Check permissions on, and serve from, this value and never the raw pair, so that
/// both see the same keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: KeyEnd,
}

/// Where a [`KeyRange`] ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyEnd {
    /// Only the start key itself.
    Single,
    /// All keys from start up to, but without, this one. May lie before start: then the range is empty.
    Before(Bytes),
    /// All keys from start on.
    Unbounded,
}

impl KeyRange {
    /// Applies etcd's conventions: an empty `range_end` is a single key, a
    /// `range_end` of one zero byte has no upper bound.
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        let end = match &range_end[..] {
            [] => KeyEnd::Single,
            [0] => KeyEnd::Unbounded,
            _ => KeyEnd::Before(range_end),
        };
        Self { start: key, end }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            KeyEnd::Single => key == self.start,
            KeyEnd::Before(end) => key >= &self.start[..] && key < &end[..],
            KeyEnd::Unbounded => key >= &self.start[..],
        }
    }

    pub fn is_single(&self) -> bool {
        self.end == KeyEnd::Single
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, KeyEnd::Before(end) if *end <= self.start)
    }
}
