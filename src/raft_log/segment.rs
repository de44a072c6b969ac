//! One file of the log: its header, and reading, writing and syncing it.
//!
//! A segment has its full size, written with zeros, before it gets its name, so that syncing
//! a group never waits for the file system to record a new length. Its header repeats what the
//! log was when the segment was begun, so that older segments can be removed.

use super::record::{GROUP_HEAD, u32_at, u64_at};
use crate::error::Fatal;
use crate::types::{ClusterId, Index, MemberId, Term};
use raft::eraftpb::HardState;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of the header; groups follow it.
pub(super) const HEADER: usize = 512;
const MAGIC: &[u8; 8] = b"quoinlog";
const FORMAT: u32 = 1;
/// Place of the checksum over all that stands before it in the header.
const CHECKSUM_AT: usize = HEADER - 4;
/// Zeros are written in pieces of this size, and synced after so many bytes.
const ZEROS: usize = 1 << 20;
const FILL_SYNC_BYTES: u64 = 4 << 20;

/// A segment's header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Header {
    pub(super) cluster: ClusterId,
    pub(super) member: MemberId,
    /// Counts segments from 1; also the file's name.
    pub(super) sequence: u64,
    /// Random, so that nobody can make a value that looks like a record of this segment.
    pub(super) salt: u64,
    /// Length of the file.
    pub(super) size: u64,
    /// Number of the first group in it.
    pub(super) number: u64,
    /// Checksum of the head of the last group before.
    pub(super) chain: u32,
    /// The log at that moment: base, last entry, hard state.
    pub(super) base: (Index, Term),
    pub(super) last: (Index, Term),
    pub(super) hard_state: HardState,
}

impl Header {
    /// The bytes, and the seed of all checksums in the segment.
    pub(super) fn encode(&self) -> ([u8; HEADER], u32) {
        let mut bytes = [0; HEADER];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.chain.to_le_bytes());
        let numbers = [
            self.cluster.0,
            self.member.0,
            self.sequence,
            self.salt,
            self.size,
            self.number,
            self.base.0,
            self.base.1,
            self.last.0,
            self.last.1,
            self.hard_state.term,
            self.hard_state.vote,
            self.hard_state.commit,
        ];
        for (position, number) in numbers.into_iter().enumerate() {
            let at = 16 + 8 * position;
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let seed = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&seed.to_le_bytes());
        (bytes, seed)
    }

    /// # Errors
    /// When the bytes are no header of this format; the text says what is wrong.
    pub(super) fn decode(bytes: &[u8]) -> Result<(Self, u32), String> {
        if bytes.len() < HEADER {
            return Err("is too short for a header".to_owned());
        }
        if &bytes[0..8] != MAGIC {
            return Err("is damaged at offset 0: no header of a log segment".to_owned());
        }
        let format = u32_at(bytes, 8);
        let seed = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        let is_whole = seed == u32_at(bytes, CHECKSUM_AT);
        if format != FORMAT && is_whole {
            return Err(format!("has format {format}, this version reads format {FORMAT} only"));
        }
        if !is_whole {
            return Err("is damaged at offset 0: the header's checksum is wrong".to_owned());
        }
        let number = |position: usize| u64_at(bytes, 16 + 8 * position);
        let mut hard_state = HardState::default();
        (hard_state.term, hard_state.vote, hard_state.commit) =
            (number(10), number(11), number(12));
        let header = Self {
            cluster: ClusterId(number(0)),
            member: MemberId(number(1)),
            sequence: number(2),
            salt: number(3),
            size: number(4),
            number: number(5),
            chain: u32_at(bytes, 12),
            base: (number(6), number(7)),
            last: (number(8), number(9)),
            hard_state,
        };
        Ok((header, seed))
    }
}

/// A file of the log, or a spare one. In tests its writes and syncs can be made to fail.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    #[cfg(test)]
    faults: Faults,
}

/// Failures to come: the number of writes and syncs that still succeed.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(pub(super) std::sync::Arc<parking_lot::Mutex<(Option<u32>, Option<u32>)>>);

#[cfg(test)]
impl Faults {
    fn take(counter: &mut Option<u32>, error: i32) -> io::Result<()> {
        match counter {
            Some(0) => Err(io::Error::from_raw_os_error(error)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl LogFile {
    fn options() -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        options
    }

    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::over(Self::options().open(path)?))
    }

    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self::over(Self::options().create(true).truncate(true).open(path)?))
    }

    fn over(file: File) -> Self {
        Self {
            file,
            #[cfg(test)]
            faults: Faults::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        #[cfg(test)]
        Faults::take(&mut self.faults.0.lock().0, 28)?;
        self.file.write_all_at(bytes, at)
    }

    pub(super) fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    /// Makes the content durable, and its length if that has changed.
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let failing @ Some(_) = &mut self.faults.0.lock().1 {
            // Without the real one: such tests run through thousands.
            return Faults::take(failing, 5);
        }
        self.file.sync_data()
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Writes zeros from the start up to `size`, synced piece by piece so that no large
    /// write-back delays the syncs of the log. `go_on` is asked before each piece; false ends the work.
    pub(super) fn fill(
        &self,
        size: u64,
        synced: bool,
        go_on: &dyn Fn() -> bool,
    ) -> io::Result<bool> {
        let zeros = vec![0; ZEROS.min(size as usize)];
        let mut at = 0;
        while at < size {
            if !go_on() {
                return Ok(false);
            }
            let piece = (size - at).min(ZEROS as u64);
            self.write_at(&zeros[..piece as usize], at)?;
            at += piece;
            if synced && (at % FILL_SYNC_BYTES == 0 || at == size) {
                self.sync()?;
            }
        }
        Ok(true)
    }
}

/// A segment in use.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: LogFile,
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) seed: u32,
    /// Where the next group goes.
    pub(super) end: u64,
    /// Live entries of earlier segments lie at or below this index.
    pub(super) floor: Index,
}

impl Segment {
    /// Bytes of records that one more group may have; behind it, space for a mark.
    pub(super) fn room(&self) -> usize {
        room(self.header.size, self.end)
    }

    pub(super) fn failed(&self, verb: &str, at: u64, error: io::Error) -> Fatal {
        Fatal::with(format!("{verb} log segment {} at offset {at}", self.path.display()), error)
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), Fatal> {
        self.file.write_at(bytes, at).map_err(|e| self.failed("write", at, e))
    }

    pub(super) fn sync(&self) -> Result<(), Fatal> {
        self.file.sync().map_err(|e| self.failed("sync", self.end, e))
    }
}

fn room(size: u64, end: u64) -> usize {
    (size.saturating_sub(end) as usize).saturating_sub(2 * GROUP_HEAD)
}

/// Bytes of records in the largest group that a segment of this size can hold.
pub(super) fn capacity(size: u64) -> usize {
    room(size, HEADER as u64)
}

/// The size of a segment that holds one group of `len` bytes of records.
pub(super) fn size_for(len: usize) -> u64 {
    (HEADER + 2 * GROUP_HEAD + len).next_multiple_of(4096) as u64
}

/// The file name of a segment.
pub(super) fn file_name(sequence: u64) -> String {
    format!("{sequence:016x}.log")
}

/// The sequence in a segment's file name; `None` for other files.
pub(super) fn sequence_in(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}
