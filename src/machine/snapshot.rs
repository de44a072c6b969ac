//! A member's whole state as a sequence of blocks, the same for both engines.
//!
//! A block is a run of records (space, key, value). Versioned data (`kv`, `log`) is read in
//! pieces at a pinned revision while the machine goes on; the small tables are copied at the
//! moment of capture and come last, the applied index at the very end: a state that was only
//! half restored has none and is restored again.

use super::{Configuration, META_APPLIED, META_CLUSTER_VERSION, Machine};
use crate::error::Fatal;
use crate::mvcc::versions::Versions;
use crate::mvcc::{Pin, View};
use crate::planted::{self, Bug};
use crate::storage::{Engine, Flow, Space, WriteBatch};
use crate::types::{Index, Term};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Spaces that are read at the pinned revision, and those that are copied.
const VERSIONED: [Space; 2] = [Space::Kv, Space::Log];
const COPIED: [Space; 6] =
    [Space::Lease, Space::LeaseKey, Space::Member, Space::Auth, Space::Alarm, Space::Meta];

/// A state fixed at one applied index, read in pieces. Clones read independently.
#[derive(Clone)]
pub struct Capture {
    pub index: Index,
    pub term: Term,
    pub configuration: Configuration,
    revision: i64,
    /// -1 before the first compaction.
    compacted: i64,
    engine: Arc<dyn Engine>,
    view: View,
    /// The view's, at the capture.
    replacements: u64,
    /// Keeps what was visible at the capture from being removed while it is read.
    _pin: Arc<Pin>,
    copied: Arc<Vec<(Space, Bytes, Bytes)>>,
    position: Position,
}

#[derive(Clone)]
enum Position {
    /// The next key of this versioned space.
    Versioned(usize, Vec<u8>),
    /// The next of the copied records.
    Copied(usize),
}

impl Capture {
    pub(super) fn new(machine: &Machine) -> Result<Self, Fatal> {
        let view = machine.mvcc.view();
        // Holds all removal back: what is removed between the reading of two spaces would be in the
        // one and not in the other, and never go.
        let pin = Arc::new(view.pin(0));
        let mut copied = Vec::new();
        let mut applied = None;
        let lacks_leases = planted::has(Bug::SnapshotWithoutLeases);
        for space in COPIED.into_iter().filter(|s| !lacks_leases || *s != Space::Lease) {
            machine.engine.scan(space, &[], None, &mut |key, value| {
                let record = (space, Bytes::copy_from_slice(key), value.to_bytes());
                if space == Space::Meta && key == META_APPLIED {
                    applied = Some(record);
                } else {
                    copied.push(record);
                }
                Flow::Next
            })?;
        }
        copied.extend(applied);
        Ok(Self {
            index: machine.applied_index,
            term: machine.applied_term,
            configuration: machine.configuration.clone(),
            revision: machine.mvcc.revision(),
            compacted: view.compacted(),
            engine: machine.engine.clone(),
            replacements: view.replacements(),
            view,
            _pin: pin,
            copied: Arc::new(copied),
            position: Position::Versioned(0, Vec::new()),
        })
    }

    /// The next block of about `bytes_max` bytes (one record at least); `None` at the end.
    pub fn next_block(&mut self, bytes_max: usize) -> Result<Option<Bytes>, Fatal> {
        let mut block = BytesMut::with_capacity(bytes_max + 4096);
        while block.len() < bytes_max {
            let next = match &self.position {
                Position::Versioned(space, from) => {
                    match self.fill_versioned(VERSIONED[*space], from, bytes_max, &mut block)? {
                        Some(from) => Position::Versioned(*space, from),
                        None if space + 1 < VERSIONED.len() => {
                            Position::Versioned(space + 1, Vec::new())
                        }
                        None => Position::Copied(0),
                    }
                }
                Position::Copied(next) => match self.copied.get(*next) {
                    Some((space, key, value)) => {
                        put_record(&mut block, *space, key, value);
                        Position::Copied(next + 1)
                    }
                    None => break,
                },
            };
            self.position = next;
        }
        Ok((!block.is_empty()).then(|| block.freeze()))
    }

    /// All versions up to the captured revision, without what is compacted at the capture.
    pub fn versions(&self) -> Versions {
        Versions::new(self.revision, self.compacted)
    }

    /// The compacted revision, -1 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The versions are read here.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// The records of a small table, in the order of their keys.
    pub fn records(&self, space: Space) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        let records = self.copied.iter().filter(move |(found, ..)| *found == space);
        records.map(|(_, key, value)| (key, value))
    }

    /// The version that the members have agreed on, if they have.
    pub fn cluster_version(&self) -> Option<&str> {
        let mut meta = self.records(Space::Meta);
        let (_, version) = meta.find(|(key, _)| *key == META_CLUSTER_VERSION)?;
        std::str::from_utf8(version).ok()
    }

    /// Whether everything read so far was the captured state: a snapshot from the leader that is
    /// installed meanwhile replaces what is not yet read.
    pub fn is_intact(&self) -> bool {
        self.view.replacements() == self.replacements
    }

    /// Adds records from `from` on; returns where to go on, or `None` at the space's end.
    fn fill_versioned(
        &self,
        space: Space,
        from: &[u8],
        bytes_max: usize,
        block: &mut BytesMut,
    ) -> Result<Option<Vec<u8>>, Fatal> {
        // Bounds one scan, during which the memory engine holds the writer up.
        const PAIRS_MAX: usize = 512;
        let mut pairs = 0;
        let mut next = None;
        self.engine.scan(space, from, None, &mut |key, value| {
            if pairs == PAIRS_MAX || block.len() >= bytes_max {
                next = Some(key.to_vec());
                return Flow::Stop;
            }
            pairs += 1;
            if revision_of(space, key) <= self.revision {
                put_record(block, space, key, value.as_slice());
            }
            Flow::Next
        })?;
        Ok(next)
    }
}

/// The main revision in a key of a versioned space.
fn revision_of(space: Space, key: &[u8]) -> i64 {
    match space {
        Space::Kv => crate::mvcc::key::revision_in(key),
        _ => crate::mvcc::key::log_revision_in(key),
    }
}

/// Loads blocks into an emptied engine and makes the result durable where the engine can.
pub fn restore(
    engine: &dyn Engine,
    blocks: &mut dyn FnMut() -> Result<Option<Bytes>, Fatal>,
) -> Result<(), Fatal> {
    engine.clear()?;
    while let Some(mut block) = blocks()? {
        let mut batch = WriteBatch::new();
        while block.has_remaining() {
            let (space, key, value) = take_record(&mut block)
                .ok_or_else(|| Fatal::new("restore snapshot: a record is damaged"))?;
            batch.put(space, key, value);
        }
        engine.write(batch)?;
    }
    engine.flush()
}

fn put_record(block: &mut BytesMut, space: Space, key: &[u8], value: &[u8]) {
    block.reserve(9 + key.len() + value.len());
    block.put_u8(space as u8);
    block.put_u32(key.len() as u32);
    block.put_u32(value.len() as u32);
    block.put_slice(key);
    block.put_slice(value);
}

fn take_record(block: &mut Bytes) -> Option<(Space, Bytes, Bytes)> {
    if block.remaining() < 9 {
        return None;
    }
    let space = Space::from_number(block.get_u8())?;
    let (key_len, value_len) = (block.get_u32() as usize, block.get_u32() as usize);
    if block.remaining() < key_len.checked_add(value_len)? {
        return None;
    }
    // Copies: a slice would keep the whole block alive for as long as one key lives.
    let key = Bytes::copy_from_slice(&block.split_to(key_len));
    let value = Bytes::copy_from_slice(&block.split_to(value_len));
    Some((space, key, value))
}
