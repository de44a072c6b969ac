//! The log on disk: segment files, one write per append, one `fdatasync` per sync.
//!
//! See `record` and `segment` for the layout, `recovery` for what a start refuses, `read` for
//! the way back. One process at a time: the folder is locked. Appends go to the last segment;
//! when it is full, the next one, prepared meanwhile by a thread, takes its place. What it leaves out: any
//! repair, any retry. After a failed write or sync everything fails, since nobody knows
//! what the disk holds; a new start reads it afresh.

use super::content::Content;
use super::folder::{list, lock, sync_folder};
use super::order::{Tail, needs_sync};
use super::record::{
    GROUP_HEAD, GroupHead, GroupWriter, HARD_STATE_RECORD, RECORD_HEAD, entries_len,
    entry_record_len,
};
use super::recovery::{Recovered, recover};
use super::segment::{HEADER, Header, Segment, capacity, file_name, size_for};
use super::spare::{Spare, Spares};
use super::{LogStore, Surroundings, payload_bytes};
use crate::error::Fatal;
use crate::metrics::parts::Log;
use crate::types::{ClusterId, Index, MemberId, Term};
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use std::collections::VecDeque;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A larger write buffer is given back after use.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// Places within a segment are 32-bit numbers, with room for one very large group.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How and where the log is kept.
#[derive(Clone, Debug)]
pub struct DiskLogOptions {
    /// The log's folder; made if it is missing.
    pub folder: PathBuf,
    pub cluster: ClusterId,
    pub member: MemberId,
    /// Length of a segment: etcd's, and seconds of the highest load.
    pub segment_bytes: u64,
    /// Length of the very first segment; each next one is twice as long until `segment_bytes` is
    /// reached. Small, because it is written whole before a new member can start.
    pub first_segment_bytes: u64,
    /// Bytes of entries kept in memory: more than one snapshot interval of ordinary entries.
    pub cache_bytes: usize,
    /// Never wait for the disk. A power failure may then make the log unreadable.
    pub unsafe_no_fsync: bool,
    /// What writes and syncs take.
    pub numbers: Log,
}

impl DiskLogOptions {
    pub fn new(folder: PathBuf, cluster: ClusterId, member: MemberId) -> Self {
        Self {
            folder,
            cluster,
            member,
            segment_bytes: 64 << 20,
            first_segment_bytes: 2 << 20,
            cache_bytes: 64 << 20,
            unsafe_no_fsync: false,
            numbers: Log::default(),
        }
    }
}

/// See the module's comment.
///
/// Invariants: every segment but the last is synced; groups up to `synced` are durable; the
/// chain of groups in the files is the one that produced `content`.
pub struct DiskLog {
    options: DiskLogOptions,
    pub(super) segments: VecDeque<Segment>,
    pub(super) content: Content,
    spares: Spares,
    /// Number and head checksum of the last group written, and the last group synced.
    number: u64,
    chain: u32,
    synced: u64,
    needs_sync: bool,
    failed: bool,
    buffer: Vec<u8>,
    pub(super) surroundings: Surroundings,
    /// Locked as long as it is open.
    _lock: File,
    #[cfg(test)]
    faults: super::segment::Faults,
    /// Number, file and offset of each group written.
    #[cfg(test)]
    written: Vec<(u64, PathBuf, u64)>,
}

impl DiskLog {
    /// Whether the folder holds a log.
    pub fn exists(folder: &Path) -> Result<bool, Fatal> {
        if !folder.exists() {
            return Ok(false);
        }
        Ok(!list(folder)?.0.is_empty())
    }

    /// Opens the log in the folder, or begins one if there is none.
    ///
    /// # Errors
    /// When another process has it open, when it belongs to another member, and when something
    /// that was synced cannot be read.
    pub fn open(options: DiskLogOptions) -> Result<Self, Fatal> {
        assert!(
            (4096..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes)
                && (4096..=options.segment_bytes).contains(&options.first_segment_bytes),
            "segments are between 4 KiB and 1 GiB long"
        );
        let folder = options.folder.clone();
        let failed = |e: io::Error| Fatal::with(format!("open log folder {}", folder.display()), e);
        if !folder.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
            if let Some(parent) = folder.parent().filter(|parent| parent.is_dir()) {
                sync_folder(parent).map_err(failed)?;
            }
        }
        let lock = lock(&folder)?;
        let (files, spares) = list(&folder)?;
        for path in spares {
            std::fs::remove_file(&path).map_err(failed)?;
        }
        let fresh = files.is_empty();
        let recovered = if fresh {
            Recovered {
                segments: VecDeque::new(),
                content: Content::new((0, 0), HardState::default(), options.cache_bytes),
                number: 0,
                chain: 0,
            }
        } else {
            if !options.unsafe_no_fsync {
                // Names that an earlier process did not come to make durable.
                sync_folder(&folder).map_err(failed)?;
            }
            recover(&options, files)?
        };
        let mut log = Self {
            spares: Spares::start(&folder, !options.unsafe_no_fsync)?,
            options,
            segments: recovered.segments,
            content: recovered.content,
            number: recovered.number,
            chain: recovered.chain,
            synced: recovered.number,
            needs_sync: false,
            failed: false,
            buffer: Vec::new(),
            surroundings: Surroundings::default(),
            _lock: lock,
            #[cfg(test)]
            faults: super::segment::Faults::default(),
            #[cfg(test)]
            written: Vec::new(),
        };
        if fresh {
            log.begin_segment(0)?;
        } else {
            log.write_mark()?;
            log.retire_segments();
        }
        Ok(log)
    }

    fn active(&self) -> &Segment {
        self.segments.back().expect("a log has one segment from its opening on")
    }

    fn tail(&self) -> Tail<'_> {
        let content = &self.content;
        Tail { base: content.base.0, last: content.last(), hard_state: &content.hard_state }
    }

    /// Length of the segment after the present one.
    fn next_size(&self) -> u64 {
        let size = match self.segments.back() {
            Some(segment) => segment.header.size.saturating_mul(2),
            None => self.options.first_segment_bytes,
        };
        size.min(self.options.segment_bytes)
    }

    /// Begins the next segment, with room for a group of `len` bytes of records at least.
    /// Everything in the present one is synced first, so damage in it is never taken for a tear.
    fn begin_segment(&mut self, len: usize) -> Result<(), Fatal> {
        if self.synced < self.number {
            self.sync_all()?;
        }
        let spare = self.spares.take(size_for(len), self.next_size())?;
        let content = &self.content;
        let header = Header {
            cluster: self.options.cluster,
            member: self.options.member,
            sequence: self.segments.back().map_or(1, |segment| segment.header.sequence + 1),
            salt: rand::random(),
            size: spare.size,
            number: self.number + 1,
            chain: self.chain,
            base: content.base,
            last: (content.last(), content.term(content.last()).unwrap_or_default()),
            hard_state: content.hard_state.clone(),
        };
        let segment = self.name_segment(spare, header)?;
        self.chain = segment.seed;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Turns a spare file into a segment: header first, then the name, each durable.
    fn name_segment(&self, spare: Spare, header: Header) -> Result<Segment, Fatal> {
        let path = self.options.folder.join(file_name(header.sequence));
        let failed = |e: io::Error| Fatal::with(format!("begin log segment {}", path.display()), e);
        let (bytes, seed) = header.encode();
        #[cfg_attr(not(test), expect(unused_mut, reason = "tests let it fail"))]
        let mut file = spare.file;
        #[cfg(test)]
        file.set_faults(self.faults.clone());
        file.write_at(&bytes, 0).map_err(failed)?;
        // A recycled file must not show a mark or group of its former use at the first place:
        // the seed excludes it, and zeros make it plain.
        file.write_at(&[0; GROUP_HEAD], HEADER as u64).map_err(failed)?;
        if !self.options.unsafe_no_fsync {
            file.sync().map_err(failed)?;
        }
        std::fs::rename(&spare.path, &path).map_err(failed)?;
        if !self.options.unsafe_no_fsync {
            sync_folder(&self.options.folder).map_err(failed)?;
        }
        let floor = header.last.0;
        Ok(Segment { file, path, header, seed, end: HEADER as u64, floor })
    }

    /// Writes one group of `len` bytes of records; returns its segment's sequence and the offset
    /// of the first record.
    fn write_group(
        &mut self,
        len: usize,
        fill: impl FnOnce(&mut GroupWriter<'_>),
    ) -> Result<(u32, u32), Fatal> {
        if len > self.active().room() {
            self.begin_segment(len)?;
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let segment = self.active();
        let mut writer = GroupWriter::new(&mut buffer, segment.seed, len);
        fill(&mut writer);
        let chain = writer.finish(self.chain, self.number + 1, self.synced);
        debug_assert_eq!(buffer.len(), GROUP_HEAD + len);
        let at = segment.end;
        let begun = Instant::now();
        segment.write_at(&buffer, at)?;
        self.options.numbers.wrote(buffer.len(), begun.elapsed());
        let place = (segment.header.sequence as u32, at as u32 + GROUP_HEAD as u32);
        let end = at + buffer.len() as u64;
        if end > segment.header.size / 2 {
            self.spares.prepare(self.next_size());
        }
        #[cfg(test)]
        self.written.push((self.number + 1, self.active().path.clone(), at));
        (self.number, self.chain) = (self.number + 1, chain);
        if let Some(segment) = self.segments.back_mut() {
            segment.end = end;
        }
        if buffer.capacity() <= BUFFER_BYTES_MAX {
            self.buffer = buffer;
        }
        Ok(place)
    }

    fn write_append(
        &mut self,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<(), Fatal> {
        let largest = capacity(self.options.segment_bytes).saturating_sub(HARD_STATE_RECORD);
        let mut rest = entries;
        loop {
            // More than a segment holds goes into several groups. What the hard state says of
            // term and vote goes first, so that no entry is stored above the stored term; the
            // commit index only with the entries that it covers.
            let now = fitting(rest, largest);
            let is_last = now == rest.len();
            let hard_state = match hard_state {
                Some(hard_state) if !is_last => {
                    let mut early = hard_state.clone();
                    early.commit = self.content.hard_state.commit;
                    Some(early)
                }
                other => other.cloned(),
            };
            self.write_entries(&rest[..now], hard_state)?;
            rest = &rest[now..];
            if is_last {
                return Ok(());
            }
        }
    }

    fn write_entries(
        &mut self,
        entries: &[Entry],
        hard_state: Option<HardState>,
    ) -> Result<(), Fatal> {
        let hard_state_len = hard_state.as_ref().map_or(0, |_| HARD_STATE_RECORD);
        let len = entries_len(entries) + hard_state_len;
        let (segment, mut offset) = self.write_group(len, |writer| {
            for entry in entries {
                writer.entry(entry);
            }
            if let Some(hard_state) = &hard_state {
                writer.hard_state(hard_state);
            }
        })?;
        if let Some(first) = entries.first()
            && first.index <= self.content.last()
        {
            self.content.drop_back(first.index);
            self.lower_floors(first.index - 1);
        }
        for entry in entries {
            self.content.push(entry.clone(), segment, offset);
            offset += entry_record_len(payload_bytes(entry)) as u32;
        }
        if let Some(hard_state) = hard_state {
            self.needs_sync |= needs_sync(&self.content.hard_state, &hard_state);
            self.content.hard_state = hard_state;
        }
        self.needs_sync |= !entries.is_empty();
        Ok(())
    }

    fn lower_floors(&mut self, index: Index) {
        for segment in &mut self.segments {
            segment.floor = segment.floor.min(index);
        }
    }

    fn sync_all(&mut self) -> Result<(), Fatal> {
        if !self.options.unsafe_no_fsync {
            let begun = Instant::now();
            self.active().sync()?;
            self.options.numbers.fsync.observe_time(begun.elapsed());
        }
        self.synced = self.number;
        self.needs_sync = false;
        self.write_mark()
    }

    /// Notes behind the last group that all is synced. The note itself needs no sync: it only
    /// has to be there when somebody damages a group later.
    fn write_mark(&self) -> Result<(), Fatal> {
        let segment = self.active();
        let mut bytes = [0; GROUP_HEAD];
        let mark = GroupHead {
            crc: 0,
            len: 0,
            chain: self.chain,
            records: 0,
            number: self.number + 1,
            synced: self.synced,
        };
        mark.write(segment.seed, &mut bytes);
        segment.write_at(&bytes, segment.end)
    }

    /// Hands over the segments that hold no entry above the base. The base is synced by now.
    fn retire_segments(&mut self) {
        let base = self.content.base.0;
        let count = self.segments.iter().skip(1).take_while(|next| next.floor <= base).count();
        let retired: Vec<_> =
            self.segments.drain(..count).map(|old| (old.path, old.header.size)).collect();
        if !retired.is_empty() {
            let size = self.next_size();
            self.spares.retire(retired, size);
        }
    }

    /// Lets writes and syncs of the segments fail.
    #[cfg(test)]
    pub(super) fn set_faults(&mut self, faults: super::segment::Faults) {
        for segment in &mut self.segments {
            segment.file.set_faults(faults.clone());
        }
        self.faults = faults;
    }

    /// File and offset of each group that is not synced.
    #[cfg(test)]
    pub(super) fn unsynced_groups(&self) -> Vec<(PathBuf, u64)> {
        let unsynced = self.written.iter().filter(|(number, ..)| *number > self.synced);
        unsynced.map(|(_, path, at)| (path.clone(), *at)).collect()
    }

    /// Runs a write; once one has failed, none is tried again.
    fn guarded<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, Fatal>,
    ) -> Result<T, Fatal> {
        if self.failed {
            return Err(Fatal::new("write raft log after an earlier failure"));
        }
        let result = write(self);
        self.failed = result.is_err();
        result
    }
}

/// How many entries from the front go into one group: one at least, if any.
fn fitting(entries: &[Entry], len_max: usize) -> usize {
    let mut len = 0;
    let fits = entries.iter().take_while(|entry| {
        len += entry_record_len(payload_bytes(entry));
        len <= len_max
    });
    fits.count().max(1).min(entries.len())
}

impl LogStore for DiskLog {
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Fatal> {
        let content = &self.content;
        let term = |index| content.term(index).unwrap_or_default();
        self.tail().check_append(entries, hard_state, term)?;
        if entries.is_empty() && hard_state.is_none() {
            return Ok(());
        }
        self.guarded(|log| log.write_append(entries, hard_state))
    }

    fn sync(&mut self) -> Result<(), Fatal> {
        if !self.needs_sync && !self.failed {
            return Ok(());
        }
        self.guarded(Self::sync_all)
    }

    fn append_durably(&mut self, hard_state: &HardState) -> Result<(), Fatal> {
        self.append(&[], Some(hard_state))?;
        self.guarded(Self::sync_all)
    }

    fn truncate_front(&mut self, index: Index) -> Result<(), Fatal> {
        if index <= self.content.base.0 {
            return Ok(());
        }
        self.tail().check_truncate(index)?;
        let term = self.content.term(index).unwrap_or_default();
        self.guarded(|log| {
            log.write_group(RECORD_HEAD, |writer| writer.base(index, term))?;
            log.sync_all()
        })?;
        self.content.drop_front(index, term);
        self.retire_segments();
        Ok(())
    }

    fn reset(&mut self, index: Index, term: Term, hard_state: &HardState) -> Result<(), Fatal> {
        let hard_state = self.tail().check_reset(index, hard_state)?;
        self.guarded(|log| {
            log.write_group(RECORD_HEAD + HARD_STATE_RECORD, |writer| {
                writer.reset(index, term);
                writer.hard_state(&hard_state);
            })?;
            log.sync_all()
        })?;
        self.content.reset((index, term));
        self.content.hard_state = hard_state;
        self.lower_floors(index);
        self.retire_segments();
        Ok(())
    }

    fn set_conf_state(&mut self, conf_state: ConfState) {
        self.surroundings.conf_state = conf_state;
    }

    fn offer_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.surroundings.offered = snapshot;
    }

    fn take_snapshot_request(&mut self) -> bool {
        self.surroundings.requested.take()
    }

    fn hard_state(&self) -> HardState {
        self.content.hard_state.clone()
    }

    fn entry_bytes(&self) -> u64 {
        self.content.entry_bytes()
    }
}
