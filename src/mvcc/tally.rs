//! What a writer has done since it was opened, counted as etcd counts it.

/// Each counts up from the start of the process, replayed entries included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub puts: u64,
    /// Bytes of their keys and values.
    pub put_bytes: u64,
    /// Ranges that requests deleted, and keys that went with their lease.
    pub deletes: u64,
    /// Ranges that writing requests read, what puts and deletions replace among them where they ask for it.
    pub ranges: u64,
    /// Requests that consisted of more than one of these.
    pub txns: u64,
    /// Versions removed by compaction.
    pub compacted: u64,
}

impl Tally {
    /// Puts, deletions and ranges.
    pub(super) fn operations(&self) -> u64 {
        self.puts + self.deletes + self.ranges
    }
}
