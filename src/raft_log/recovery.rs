//! Reads the log's files at the start and tells a torn tail from damage.
//!
//! A crash may leave the groups after the last sync half written, in any order. So the first
//! group that cannot be read ends the log, and is cut off with all that follows, unless it
//! is known to have been synced: then the file was damaged later, the entries in it may have
//! been promised to others, and the start is refused. It is known from each later head, which
//! names the last group synced when it was written; from the mark behind each synced group;
//! from any later segment, which is begun only after all before it is synced; and from
//! the stored commit index. What it cannot see: a last group that was damaged after a power
//! failure which also lost the mark behind it.

use super::content::Content;
use super::disk::DiskLogOptions;
use super::record::{GROUP_HEAD, GroupHead, Record, make_entry, read_records, u64_at};
use super::segment::{HEADER, Header, LogFile, Segment, file_name};
use crate::error::Fatal;
use crate::types::{Index, Term};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

/// A log as found. Its groups are all durable; the mark behind the last one is still to be written.
pub(super) struct Recovered {
    pub(super) segments: VecDeque<Segment>,
    pub(super) content: Content,
    /// Number and head checksum of the last group.
    pub(super) number: u64,
    pub(super) chain: u32,
}

/// Reads all segments, given by sequence; there must be one at least.
///
/// # Errors
/// When a file cannot be read, belongs elsewhere, or lacks what was synced; with its name and offset.
pub(super) fn recover(
    options: &DiskLogOptions,
    files: BTreeMap<u64, PathBuf>,
) -> Result<Recovered, Fatal> {
    let mut replay: Option<Replay> = None;
    let count = files.len();
    for (position, (sequence, path)) in files.into_iter().enumerate() {
        let (segment, bytes) = load(options, sequence, path)?;
        let replay = match &mut replay {
            Some(replay) => {
                replay.check_follows(&segment)?;
                replay
            }
            None => replay.insert(Replay::start(options, &segment)),
        };
        replay.segments.push_back(segment);
        let groups = replay.walk(&bytes)?;
        if position + 1 == count {
            replay.settle_tail(options, &bytes, &groups)?;
        }
    }
    replay.ok_or_else(|| Fatal::new("open raft log without segments"))?.finish()
}

/// Opens and reads one file and checks that it belongs here.
fn load(
    options: &DiskLogOptions,
    sequence: u64,
    path: PathBuf,
) -> Result<(Segment, Vec<u8>), Fatal> {
    let shown = path.display();
    let refuse = |what: String| Fatal::new(format!("open raft log: segment {shown} {what}"));
    let failed = |e| Fatal::with(format!("read log segment {shown}"), e);
    let file = LogFile::open(&path).map_err(failed)?;
    let len = file.len().map_err(failed)?;
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| refuse("is too long".to_owned()))?];
    file.read_at(&mut bytes, 0).map_err(failed)?;
    let (header, seed) = Header::decode(&bytes).map_err(refuse)?;
    if header.cluster != options.cluster || header.member != options.member {
        return Err(refuse(format!(
            "belongs to member {} of cluster {}, this is member {} of cluster {}",
            header.member, header.cluster, options.member, options.cluster
        )));
    }
    if header.sequence != sequence {
        return Err(refuse(format!("is {} under another name", file_name(header.sequence))));
    }
    if header.size != len {
        return Err(refuse(format!(
            "is damaged at offset {len}: the file ends there instead of at {}",
            header.size
        )));
    }
    let floor = header.last.0;
    Ok((Segment { file, path, header, seed, end: HEADER as u64, floor }, bytes))
}

struct Replay {
    segments: VecDeque<Segment>,
    /// Based on the base or, as long as entries above it are in segments that are gone and
    /// something later must replace them, on the last of those entries.
    content: Content,
    base: (Index, Term),
    number: u64,
    chain: u32,
    synced: u64,
}

impl Replay {
    fn start(options: &DiskLogOptions, first: &Segment) -> Self {
        let header = &first.header;
        let content = Content::new(header.last, header.hard_state.clone(), options.cache_bytes);
        Self {
            segments: VecDeque::new(),
            content,
            base: header.base,
            number: header.number - 1,
            chain: first.header.chain,
            // A segment is begun after all before it is synced.
            synced: header.number - 1,
        }
    }

    /// Checks that nothing lies between the last segment and this one.
    fn check_follows(&self, next: &Segment) -> Result<(), Fatal> {
        let Some(last) = self.segments.back() else { return Ok(()) };
        let expected = last.header.sequence + 1;
        if next.header.sequence != expected {
            let missing = last.path.with_file_name(file_name(expected));
            return Err(Fatal::new(format!(
                "open raft log: segment {} is missing between {} and {}",
                missing.display(),
                last.path.display(),
                next.path.display()
            )));
        }
        if (next.header.number, next.header.chain) != (self.number + 1, self.chain) {
            return Err(self.damaged(last, last.end));
        }
        Ok(())
    }

    fn damaged(&self, segment: &Segment, at: u64) -> Fatal {
        Fatal::new(format!(
            "open raft log: segment {} is damaged at offset {at}: record group {} was synced and \
             cannot be read",
            segment.path.display(),
            self.number + 1
        ))
    }

    /// Takes in the readable groups of the segment added last; returns number and offset of each.
    fn walk(&mut self, bytes: &[u8]) -> Result<Vec<(u64, u64)>, Fatal> {
        let mut groups = Vec::new();
        let Some(segment) = self.segments.back() else { return Ok(groups) };
        let (seed, sequence) = (segment.seed, segment.header.sequence);
        // The checksum of a segment's header stands for that of the group before.
        self.chain = seed;
        let mut at = HEADER;
        while let Some(head) = bytes.get(at..).and_then(|rest| GroupHead::read(seed, rest)) {
            if head.number != self.number + 1 || head.chain != self.chain {
                break;
            }
            if head.is_mark() {
                self.synced = self.synced.max(head.synced);
                break;
            }
            let start = at + GROUP_HEAD;
            let Some(body) = bytes.get(start..start + head.len as usize) else { break };
            let Some(records) = read_records(seed, &head, body) else { break };
            for (record, place) in records {
                self.apply(record, sequence as u32, (start + place) as u32).map_err(|what| {
                    let path = self.segments.back().map(|segment| segment.path.display());
                    Fatal::new(format!(
                        "open raft log: segment {} is damaged at offset {}: {what}",
                        path.map(|path| path.to_string()).unwrap_or_default(),
                        start + place
                    ))
                })?;
            }
            groups.push((head.number, at as u64));
            (self.number, self.chain) = (head.number, head.crc);
            self.synced = self.synced.max(head.synced);
            at = start + body.len();
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.end = at as u64;
        }
        Ok(groups)
    }

    fn apply(&mut self, record: Record<'_>, segment: u32, offset: u32) -> Result<(), String> {
        match record {
            Record::Entry { index, term, kind, data, context } => {
                self.make_room(index)?;
                if self.content.term(index - 1).is_some_and(|before| before > term) {
                    return Err(format!("entry {index} of term {term} follows a later term"));
                }
                let copy = Bytes::copy_from_slice;
                let entry = make_entry(index, term, kind, copy(data), copy(context));
                self.content.push(entry, segment, offset);
            }
            Record::HardState(hard_state) => {
                let old = &self.content.hard_state;
                if hard_state.term < old.term || hard_state.commit < old.commit {
                    return Err("term or commit index falls".to_owned());
                }
                self.content.hard_state = hard_state;
            }
            Record::Base { index, term } => {
                if index < self.base.0 || index > self.content.last() {
                    return Err(format!("base {index} lies outside of the log"));
                }
                self.base = (index, term);
                if index >= self.content.base.0 {
                    self.content.drop_front(index, term);
                }
            }
            Record::Reset { index, term } => {
                if index < self.base.0 {
                    return Err(format!("snapshot {index} lies before the log's base"));
                }
                self.base = (index, term);
                self.content.reset(self.base);
                self.lower_floors(index);
            }
        }
        Ok(())
    }

    /// Drops what an entry at this index replaces.
    fn make_room(&mut self, index: Index) -> Result<(), String> {
        let last = self.content.last();
        if index == last + 1 {
            return Ok(());
        }
        if index > last {
            return Err(format!("entry {index} follows entry {last}"));
        }
        if index <= self.base.0.max(self.content.hard_state.commit) {
            return Err(format!("entry {index} replaces a committed one"));
        }
        if index > self.content.base.0 {
            self.content.drop_back(index);
        } else {
            // The term of the entry before is not known, and not needed: it is below the base
            // that a later record must set.
            self.content.reset((index - 1, 0));
        }
        self.lower_floors(index - 1);
        Ok(())
    }

    fn lower_floors(&mut self, index: Index) {
        for segment in &mut self.segments {
            segment.floor = segment.floor.min(index);
        }
    }

    /// Decides about what follows the last readable group in the last segment, makes durable
    /// what is kept, and blanks what could be taken for a group later.
    fn settle_tail(
        &mut self,
        options: &DiskLogOptions,
        bytes: &[u8],
        groups: &[(u64, u64)],
    ) -> Result<(), Fatal> {
        let Some(segment) = self.segments.back() else { return Ok(()) };
        let next = self.number + 1;
        let (mut stale, mut torn) = (Vec::new(), 0);
        let mut at = segment.end as usize;
        while at + GROUP_HEAD <= bytes.len() {
            // Few bytes look like a number that is close: spares nearly all checksums.
            let is_close = u64_at(bytes, at + 16).wrapping_sub(next) < 1 << 32;
            if is_close && let Some(head) = GroupHead::read(segment.seed, &bytes[at..]) {
                if head.synced >= next {
                    return Err(self.damaged(segment, segment.end));
                }
                torn += usize::from(!head.is_mark());
                stale.push(at as u64);
            }
            at += 8;
        }
        // A group that was never begun leaves nothing that could be told from a file's former use.
        if torn > 0 {
            let (path, offset) = (segment.path.display(), segment.end);
            tracing::warn!(
                %path, offset, groups = torn,
                "cut off the end of the raft log: it was not written whole, and nobody was told of it"
            );
        }
        // Written again, not only synced: after a sync that failed in an earlier life the
        // system holds pages for clean that never reached the disk.
        let unsynced = groups.iter().find(|(number, _)| *number > self.synced);
        if let Some((_, from)) = unsynced {
            segment.write_at(&bytes[*from as usize..segment.end as usize], *from)?;
        }
        for at in stale {
            segment.write_at(&[0; GROUP_HEAD], at)?;
        }
        if options.unsafe_no_fsync { Ok(()) } else { segment.sync() }
    }

    fn finish(mut self) -> Result<Recovered, Fatal> {
        let (Some(first), Some(last)) = (self.segments.front(), self.segments.back()) else {
            return Err(Fatal::new("open raft log without segments"));
        };
        if self.content.base.0 > self.base.0 {
            return Err(Fatal::new(format!(
                "open raft log: segments before {} are missing: entries {} to {}",
                first.path.display(),
                self.base.0 + 1,
                self.content.base.0
            )));
        }
        let (commit, last_index) = (self.content.hard_state.commit, self.content.last());
        if commit > last_index || commit < self.base.0 {
            return Err(Fatal::new(format!(
                "open raft log: segment {} is damaged at offset {}: entries {} to {last_index} are \
                 there but the committed entry is {commit}",
                last.path.display(),
                last.end,
                self.base.0 + 1,
            )));
        }
        self.content.base = self.base;
        Ok(Recovered {
            segments: self.segments,
            content: self.content,
            number: self.number,
            chain: self.chain,
        })
    }
}
