//! Raft's reads of the log on disk: from memory, else from the segments, checked.

use super::disk::DiskLog;
use super::record::{entry_record_len, read_entry};
use crate::error::Fatal;
use crate::types::Index;
use bytes::Bytes;
use raft::eraftpb::{Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};
use std::ops::Range;

/// Read from disk in one piece at most, unless one entry is longer.
const READ_BYTES_MAX: usize = 4 << 20;

impl DiskLog {
    /// Reads entries from `low` up to, but without, `high` from their segments.
    fn read_stored(&self, low: Index, high: Index, to: &mut Vec<Entry>) -> Result<(), Fatal> {
        let mut next = low;
        while next < high {
            let Some(first) = self.content.slot(next) else { break };
            let end_of =
                |offset: u32, payload: u32| offset as usize + entry_record_len(payload as usize);
            let start = first.offset as usize;
            // As many as lie in one stretch of one segment.
            let (mut until, mut end) = (next + 1, end_of(first.offset, first.payload));
            while until < high
                && let Some(slot) = self.content.slot(until)
                && slot.segment == first.segment
                && end_of(slot.offset, slot.payload) - start <= READ_BYTES_MAX
            {
                end = end_of(slot.offset, slot.payload);
                until += 1;
            }
            self.read_stretch(first.segment, start, end, next..until, to)?;
            next = until;
        }
        Ok(())
    }

    fn read_stretch(
        &self,
        sequence: u32,
        start: usize,
        end: usize,
        indexes: Range<Index>,
        to: &mut Vec<Entry>,
    ) -> Result<(), Fatal> {
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.header.sequence as u32 == sequence)
            .ok_or_else(|| {
                Fatal::new(format!("read entry {}: its segment is gone", indexes.start))
            })?;
        let mut chunk = vec![0; end - start];
        segment
            .file
            .read_at(&mut chunk, start as u64)
            .map_err(|e| segment.failed("read", start as u64, e))?;
        let chunk = Bytes::from(chunk);
        for index in indexes {
            let offset = self.content.slot(index).map_or(0, |slot| slot.offset as usize);
            let entry = read_entry(segment.seed, &chunk, offset.saturating_sub(start), index);
            to.push(entry.ok_or_else(|| {
                Fatal::new(format!(
                    "read log segment {}: entry {index} is damaged at offset {offset}",
                    segment.path.display()
                ))
            })?);
        }
        Ok(())
    }
}

impl raft::Storage for DiskLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.content.hard_state.clone(), self.surroundings.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let content = &self.content;
        if low <= content.base.0 {
            return Err(StorageError::Compacted.into());
        }
        if high > content.last() + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let high = content.limit(low, high, max_size.into());
        let mut entries = Vec::with_capacity((high - low) as usize);
        let cached_from = content.cached_from().clamp(low, high);
        self.read_stored(low, cached_from, &mut entries)
            .map_err(|fatal| StorageError::Other(Box::new(fatal)))?;
        if cached_from < high {
            content.extend_cached(cached_from, high, &mut entries);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.content.base.0 {
            return Err(StorageError::Compacted.into());
        }
        self.content.term(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.content.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.content.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        self.surroundings.snapshot(request_index, self.content.base.0)
    }
}
