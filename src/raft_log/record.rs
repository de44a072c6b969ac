//! Bytes of the log: record groups and the records in them.
//!
//! A group is what one append wrote, all or nothing. Its head names its number in the log's
//! life, the last group that was known to be synced when it was written, and the checksum of
//! the group before it, so a group can be trusted alone and in its place. A head without
//! records is a mark: it tells that everything before it was synced, and the next group
//! overwrites it. All checksums start from the segment's own seed, so what an earlier use of
//! the same file left behind never counts.
//!
//! All numbers are little-endian, all lengths multiples of 8.

use super::payload_bytes;
use crate::types::{Index, Term};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState};

/// Length of a group's head.
pub(super) const GROUP_HEAD: usize = 32;
/// Length of a record's head.
pub(super) const RECORD_HEAD: usize = 32;

const KIND_NORMAL: u8 = 1;
const KIND_CONF_CHANGE: u8 = 2;
const KIND_CONF_CHANGE_V2: u8 = 3;
const KIND_HARD_STATE: u8 = 16;
const KIND_BASE: u8 = 17;
const KIND_RESET: u8 = 18;

/// Little-endian numbers at fixed places of a buffer that is known to be long enough.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}

/// `len` rounded up to the next multiple of 8.
const fn padded(len: usize) -> usize {
    len.next_multiple_of(8)
}

/// Length of the record of an entry with so many bytes of data and context.
pub(super) const fn entry_record_len(payload: usize) -> usize {
    RECORD_HEAD + padded(payload)
}

/// Length of the record of a hard state.
pub(super) const HARD_STATE_RECORD: usize = RECORD_HEAD + 8;

/// The head of a group, or a mark when `len` is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupHead {
    pub(super) crc: u32,
    /// Bytes of records that follow.
    pub(super) len: u32,
    /// `crc` of the head of the group before, or of the segment's header.
    pub(super) chain: u32,
    /// Checksum over the checksums of the records.
    pub(super) records: u32,
    /// Counts groups from 1 over the log's life. A mark has the number of the group to come.
    pub(super) number: u64,
    /// All groups up to this number were durable when the head was written.
    pub(super) synced: u64,
}

impl GroupHead {
    /// Writes the head, checksum included, into the first bytes of `to`; returns its checksum.
    pub(super) fn write(&self, seed: u32, to: &mut [u8]) -> u32 {
        to[4..8].copy_from_slice(&self.len.to_le_bytes());
        to[8..12].copy_from_slice(&self.chain.to_le_bytes());
        to[12..16].copy_from_slice(&self.records.to_le_bytes());
        to[16..24].copy_from_slice(&self.number.to_le_bytes());
        to[24..32].copy_from_slice(&self.synced.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &to[4..GROUP_HEAD]);
        to[0..4].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Reads a head at the start of `from`; `None` when there is none.
    pub(super) fn read(seed: u32, from: &[u8]) -> Option<Self> {
        if from.len() < GROUP_HEAD {
            return None;
        }
        let head = Self {
            crc: u32_at(from, 0),
            len: u32_at(from, 4),
            chain: u32_at(from, 8),
            records: u32_at(from, 12),
            number: u64_at(from, 16),
            synced: u64_at(from, 24),
        };
        (crc32c::crc32c_append(seed, &from[4..GROUP_HEAD]) == head.crc).then_some(head)
    }

    pub(super) fn is_mark(&self) -> bool {
        self.len == 0
    }
}

/// Builds one group in a buffer that is used again and again.
pub(super) struct GroupWriter<'a> {
    buffer: &'a mut Vec<u8>,
    seed: u32,
    records: u32,
}

impl<'a> GroupWriter<'a> {
    /// Starts a group of `len` bytes of records.
    pub(super) fn new(buffer: &'a mut Vec<u8>, seed: u32, len: usize) -> Self {
        buffer.clear();
        buffer.reserve(GROUP_HEAD + len);
        buffer.resize(GROUP_HEAD, 0);
        Self { buffer, seed, records: seed }
    }

    /// Adds an entry; returns where its record starts within the group.
    pub(super) fn entry(&mut self, entry: &Entry) -> usize {
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => KIND_NORMAL,
            EntryType::EntryConfChange => KIND_CONF_CHANGE,
            EntryType::EntryConfChangeV2 => KIND_CONF_CHANGE_V2,
        };
        self.record(kind, entry.index, entry.term, &entry.data, &entry.context)
    }

    pub(super) fn hard_state(&mut self, hard_state: &HardState) {
        let vote = hard_state.vote.to_le_bytes();
        self.record(KIND_HARD_STATE, hard_state.commit, hard_state.term, &vote, &[]);
    }

    pub(super) fn base(&mut self, index: Index, term: Term) {
        self.record(KIND_BASE, index, term, &[], &[]);
    }

    pub(super) fn reset(&mut self, index: Index, term: Term) {
        self.record(KIND_RESET, index, term, &[], &[]);
    }

    fn record(&mut self, kind: u8, index: u64, term: u64, data: &[u8], context: &[u8]) -> usize {
        let start = self.buffer.len();
        let payload = data.len() + context.len();
        let mut head = [0; RECORD_HEAD];
        head[4..8].copy_from_slice(&(payload as u32).to_le_bytes());
        head[8..16].copy_from_slice(&index.to_le_bytes());
        head[16..24].copy_from_slice(&term.to_le_bytes());
        head[24] = kind;
        head[28..32].copy_from_slice(&(context.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(data);
        self.buffer.extend_from_slice(context);
        self.buffer.resize(start + RECORD_HEAD + padded(payload), 0);
        let crc = crc32c::crc32c_append(self.seed, &self.buffer[start + 4..]).to_le_bytes();
        self.buffer[start..start + 4].copy_from_slice(&crc);
        self.records = crc32c::crc32c_append(self.records, &crc);
        start
    }

    /// Completes the group; returns the checksum of its head.
    pub(super) fn finish(self, chain: u32, number: u64, synced: u64) -> u32 {
        let len = (self.buffer.len() - GROUP_HEAD) as u32;
        let head = GroupHead { crc: 0, len, chain, records: self.records, number, synced };
        head.write(self.seed, &mut self.buffer[..GROUP_HEAD])
    }
}

/// A record as read back.
#[derive(Debug)]
pub(super) enum Record<'a> {
    Entry { index: Index, term: Term, kind: EntryType, data: &'a [u8], context: &'a [u8] },
    HardState(HardState),
    Base { index: Index, term: Term },
    Reset { index: Index, term: Term },
}

/// Reads the record at the start of `from` with its padded length; `None` when it is damaged.
pub(super) fn read_record(seed: u32, from: &[u8]) -> Option<(Record<'_>, usize)> {
    if from.len() < RECORD_HEAD {
        return None;
    }
    let payload = u32_at(from, 4) as usize;
    let len = RECORD_HEAD.checked_add(padded(payload)).filter(|len| *len <= from.len())?;
    if crc32c::crc32c_append(seed, &from[4..len]) != u32_at(from, 0) {
        return None;
    }
    let (index, term, kind) = (u64_at(from, 8), u64_at(from, 16), from[24]);
    let payload = &from[RECORD_HEAD..RECORD_HEAD + payload];
    let entry = |kind| {
        let (data, context) =
            payload.split_at_checked(payload.len().checked_sub(u32_at(from, 28) as usize)?)?;
        Some(Record::Entry { index, term, kind, data, context })
    };
    let record = match kind {
        KIND_NORMAL => entry(EntryType::EntryNormal)?,
        KIND_CONF_CHANGE => entry(EntryType::EntryConfChange)?,
        KIND_CONF_CHANGE_V2 => entry(EntryType::EntryConfChangeV2)?,
        KIND_HARD_STATE => {
            let vote = (payload.len() == 8).then(|| u64_at(payload, 0))?;
            let mut hard_state = HardState::default();
            (hard_state.commit, hard_state.term, hard_state.vote) = (index, term, vote);
            Record::HardState(hard_state)
        }
        KIND_BASE => Record::Base { index, term },
        KIND_RESET => Record::Reset { index, term },
        _ => return None,
    };
    Some((record, len))
}

/// The records of a group with the place of each in `body`; `None` when any is damaged.
pub(super) fn read_records<'a>(
    seed: u32,
    head: &GroupHead,
    body: &'a [u8],
) -> Option<Vec<(Record<'a>, usize)>> {
    let mut records = Vec::new();
    let (mut at, mut checksum) = (0, seed);
    while at < body.len() {
        let (record, len) = read_record(seed, &body[at..])?;
        checksum = crc32c::crc32c_append(checksum, &body[at..at + 4]);
        records.push((record, at));
        at += len;
    }
    (checksum == head.records).then_some(records)
}

/// Reads one entry whose record starts at `at` of `chunk`, sharing the chunk's bytes; `None` when
/// the record is damaged or is another one.
pub(super) fn read_entry(seed: u32, chunk: &Bytes, at: usize, index: Index) -> Option<Entry> {
    let (record, _) = read_record(seed, chunk.get(at..)?)?;
    match record {
        Record::Entry { index: found, term, kind, data, context } if found == index => {
            Some(make_entry(index, term, kind, chunk.slice_ref(data), chunk.slice_ref(context)))
        }
        _ => None,
    }
}

pub(super) fn make_entry(
    index: Index,
    term: Term,
    kind: EntryType,
    data: Bytes,
    context: Bytes,
) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(kind);
    (entry.index, entry.term, entry.data, entry.context) = (index, term, data, context);
    entry
}

/// Bytes that these entries take as records.
pub(super) fn entries_len(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry_record_len(payload_bytes(entry))).sum()
}
