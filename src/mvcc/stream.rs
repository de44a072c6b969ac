//! Answering a RangeRequest in chunks, so that a large answer never lies in memory as a whole.

use super::encoded::{STEP_SCANS, Step};
use super::pins::Pin;
use super::range::header;
use super::reader::{Arena, Walk};
use super::view::View;
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse};
use crate::pb::mvccpb::KeyValue;
use crate::types::KeyRange;

/// Keys in the first chunk, as etcd has it: the client sees something early.
const FIRST_CHUNK_KEYS: usize = 10;

/// What a pair takes in an encoded message beside key and value, at most: six tags, two lengths of
/// up to five bytes, four numbers of up to ten.
const PAIR_OVERHEAD: usize = 6 + 2 * 5 + 4 * 10;

/// A range on its way out. All chunks but the last carry pairs only; the last one has header, `more`
/// and the exact count.
///
/// Only for requests in key order without filters: other wishes are ignored. Its revision is held
/// against removal until it is dropped, or has become too old.
pub struct RangeStream {
    view: View,
    /// The view's, at the begin.
    replacements: u64,
    pin: Pin,
    at: i64,
    walk: Walk,
    arena: Arena,
    /// The present revision at the begin, for the header.
    current: i64,
    keys_only: bool,
    /// Pairs that may still be answered.
    left: u64,
    /// Whether keys beyond those answered make `more` true.
    is_limited: bool,
    bytes_max: usize,
    /// Keys found, answered or not.
    count: i64,
    answered: i64,
    /// Of the chunk that is being made.
    kvs: Vec<KeyValue>,
    bytes: usize,
    is_ended: bool,
}

impl View {
    /// Begins to answer a range in chunks of at most `bytes_max` (one pair at least), all at one
    /// revision.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range_stream(
        &self,
        request: &RangeRequest,
        bytes_max: usize,
    ) -> Result<Result<RangeStream, RequestError>, Fatal> {
        self.at_revision(request.revision, false, |at, current| {
            let range = KeyRange::new(request.key.clone(), request.range_end.clone());
            let limit = u64::try_from(request.limit).unwrap_or_default();
            Ok(Ok(RangeStream {
                view: self.clone(),
                replacements: self.replacements(),
                pin: self.shared().pins.pin(at, true),
                at,
                walk: Walk::new(&range, at),
                arena: Arena::default(),
                current,
                keys_only: request.keys_only,
                left: match limit {
                    _ if request.count_only => 0,
                    0 => u64::MAX,
                    limit => limit,
                },
                is_limited: !request.count_only && limit > 0,
                bytes_max,
                count: 0,
                answered: 0,
                kvs: vec![],
                bytes: 0,
                is_ended: false,
            }))
        })
    }
}

impl RangeStream {
    /// The next chunk; `None` after the last one.
    ///
    /// # Errors
    /// See [`RangeStream::step`].
    pub fn next_chunk(&mut self) -> Result<Result<Option<RangeResponse>, RequestError>, Fatal> {
        loop {
            match self.step()? {
                Ok(Step::GoOn) => {}
                Ok(Step::Made(chunk)) => return Ok(Ok(Some(chunk))),
                Ok(Step::Over) => return Ok(Ok(None)),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    /// Goes on for a bounded time to make the next chunk.
    ///
    /// # Errors
    /// `Compacted` when the stream took so long that its revision is held no more;
    /// `TimeoutWaitAppliedIndex` when a snapshot has replaced what it was reading.
    pub fn step(&mut self) -> Result<Result<Step<RangeResponse>, RequestError>, Fatal> {
        if self.is_ended {
            return Ok(Ok(Step::Over));
        }
        let Self { walk, view, arena, count, left, kvs, bytes, .. } = self;
        let is_first = self.answered == 0;
        let (mut is_full, mut scans) = (false, 0);
        while !is_full && !walk.is_done() && scans < STEP_SCANS {
            scans += 1;
            walk.advance(view.shared().source(), &mut |found| {
                *count += 1;
                if *left == 0 {
                    return Ok(true);
                }
                *left -= 1;
                let kv = arena.pair(found, !self.keys_only)?;
                *bytes += kv.key.len() + kv.value.len() + PAIR_OVERHEAD;
                kvs.push(kv);
                is_full = *bytes >= self.bytes_max || is_first && kvs.len() == FIRST_CHUNK_KEYS;
                Ok(!is_full)
            })?;
        }
        if self.view.replacements() != self.replacements {
            return Ok(Err(RequestError::TimeoutWaitAppliedIndex));
        }
        // Asked in this order: while it was held it could not go.
        if !self.pin.is_held() && self.at < self.view.compacted() {
            return Ok(Err(RequestError::Compacted));
        }
        if !is_full && !self.walk.is_done() {
            return Ok(Ok(Step::GoOn));
        }
        let kvs = std::mem::take(&mut self.kvs);
        self.bytes = 0;
        self.answered += kvs.len() as i64;
        if !self.walk.is_done() {
            return Ok(Ok(Step::Made(RangeResponse { kvs, ..Default::default() })));
        }
        self.is_ended = true;
        let more = self.is_limited && self.count > self.answered;
        let last = RangeResponse { header: header(self.current), kvs, more, count: self.count };
        Ok(Ok(Step::Made(last)))
    }
}
