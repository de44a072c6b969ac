//! Answering a RangeRequest in encoded form: what a large answer weighs in memory is then what
//! it weighs on the wire, once, and each value is copied once.
//!
//! An answer may also have less room than it weighs. What does not fit is then only measured, and read a second
//! time, at the same revision, when it is to be sent.

use super::pins::Pin;
use super::range::{Filters, header, is_sorted};
use super::reader::{Version, Walk};
use super::view::View;
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::pb::mvccpb::KeyValue;
use crate::types::{KeyEnd, KeyRange};
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Bytes of a piece: a few HTTP/2 frames, and small enough for the allocator to use again.
const PIECE_LEN: usize = if cfg!(test) { 64 } else { 128 << 10 };

/// Engine scans in a step of bounded work: a few milliseconds at most.
pub(super) const STEP_SCANS: usize = if cfg!(test) { 2 } else { 16 };
/// Bytes of pairs in such a step.
const STEP_BYTES: usize = if cfg!(test) { 64 } else { 4 << 20 };

/// Number of `kvs` in RangeResponse.
const KVS: u32 = 2;

/// A RangeResponse whose pairs are encoded, each as a whole field.
pub struct EncodedRange {
    pub header: Option<ResponseHeader>,
    pub pairs: Vec<Bytes>,
    /// The pairs behind those, if there was no room for all.
    pub rest: Option<Box<EncodedRest>>,
    pub more: bool,
    pub count: i64,
}

impl EncodedRange {
    /// Bytes of all pairs.
    pub fn pairs_len(&self) -> u64 {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len);
        self.pairs.iter().map(|piece| piece.len() as u64).sum::<u64>() + rest
    }
}

/// A range in key order that is being answered in encoded form, in steps of bounded work. Its revision is held
/// against removal until this is dropped.
pub struct RangeEncoding {
    view: View,
    /// The view's, at the begin.
    replacements: u64,
    _pin: Pin,
    at: i64,
    /// The present revision at the begin, for the header.
    current: i64,
    walk: Walk,
    end: KeyEnd,
    pick: Pick,
    count_only: bool,
    /// The most pairs that are answered.
    limit: Option<u64>,
    /// Keys found.
    count: u64,
    /// Of those that pass the filters; not told further once there are more than the limit.
    matched: u64,
    pieces: Pieces,
    unheld: Option<Unheld>,
}

/// The pairs of a range from some key on, which are encoded when they are asked for. Their revision is
/// held against removal until this is dropped, or has become too old.
pub struct EncodedRest {
    /// Bytes of the pairs that are still to come.
    len: u64,
    view: View,
    /// The view's, when the pairs were measured.
    replacements: u64,
    pin: Pin,
    at: i64,
    walk: Walk,
    pick: Pick,
    pieces: Pieces,
}

/// Which versions are answered, and what of them.
#[derive(Clone, Copy)]
struct Pick {
    filters: Filters,
    with_values: bool,
}

/// Pairs that are only measured.
struct Unheld {
    from: Bytes,
    len: u64,
}

impl View {
    /// Answers like [`View::range`], all at once. `room` is asked before so many bytes more are held; once it
    /// refuses, nothing more is. Of a sorted range all is held: its order is known only when all of it is there.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range_encoded(
        &self,
        request: &RangeRequest,
        room: &dyn Fn(usize) -> bool,
    ) -> Result<Result<EncodedRange, RequestError>, Fatal> {
        if is_sorted(request) {
            let answer = self.range(request)?.map(EncodedRange::from);
            if let Ok(answer) = &answer {
                answer.pairs.iter().for_each(|piece| _ = room(piece.len()));
            }
            return Ok(answer);
        }
        loop {
            let mut encoding = match self.begin_encoding(request)? {
                Ok(encoding) => encoding,
                Err(error) => return Ok(Err(error)),
            };
            while !encoding.is_done() {
                encoding.step(room)?;
            }
            if let Some(range) = encoding.finish() {
                return Ok(Ok(range));
            }
        }
    }

    /// Begins to answer a range that is not sorted.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn begin_encoding(
        &self,
        request: &RangeRequest,
    ) -> Result<Result<RangeEncoding, RequestError>, Fatal> {
        self.at_revision(request.revision, false, |at, current| {
            let range = KeyRange::new(request.key.clone(), request.range_end.clone());
            Ok(Ok(RangeEncoding {
                view: self.clone(),
                replacements: self.replacements(),
                _pin: self.pin(at),
                at,
                current,
                walk: Walk::new(&range, at),
                end: range.end,
                pick: Pick { filters: Filters::of(request), with_values: !request.keys_only },
                count_only: request.count_only,
                limit: u64::try_from(request.limit).ok().filter(|limit| *limit > 0),
                count: 0,
                matched: 0,
                pieces: Pieces::default(),
                unheld: None,
            }))
        })
    }
}

impl RangeEncoding {
    /// Whether all keys have been looked at.
    pub fn is_done(&self) -> bool {
        self.walk.is_done()
    }

    /// Goes on for a bounded time. `room` is asked before so many bytes more are held; once it refuses, nothing
    /// more is.
    pub fn step(&mut self, room: &dyn Fn(usize) -> bool) -> Result<(), Fatal> {
        let Self { walk, view, pick, pieces, unheld, .. } = self;
        let (count, matched, limit) = (&mut self.count, &mut self.matched, self.limit);
        let (mut scans, mut bytes) = (0, 0);
        while !walk.is_done() && scans < STEP_SCANS && bytes < STEP_BYTES {
            scans += 1;
            walk.advance(view.shared().source(), &mut |found| {
                *count += 1;
                if self.count_only || limit.is_some_and(|limit| *matched > limit) {
                    return Ok(true);
                }
                let (escaped, version) = (found.escaped(), found.version()?);
                if !pick.filters.pass(&version) {
                    return Ok(true);
                }
                *matched += 1;
                if limit.is_some_and(|limit| *matched > limit) {
                    return Ok(true);
                }
                Encoded::of(escaped, &version, pick.with_values, |pair| {
                    if unheld.is_none() && !pieces.has_room(pair.len(), room) {
                        *unheld = Some(Unheld { from: pair.user_key.to_vec().into(), len: 0 });
                    }
                    bytes += pair.len();
                    match unheld {
                        Some(unheld) => unheld.len += pair.len() as u64,
                        None => pair.put(pieces.room(pair.len())),
                    }
                })?;
                Ok(bytes < STEP_BYTES)
            })?;
        }
        Ok(())
    }

    /// The answer, when all keys have been looked at; `None` where a snapshot has replaced them meanwhile, and it is
    /// to be begun again.
    pub fn finish(self) -> Option<EncodedRange> {
        if self.view.replacements() != self.replacements {
            return None;
        }
        let rest = self.unheld.map(|unheld| {
            Box::new(EncodedRest {
                len: unheld.len,
                pin: self.view.shared().pins.pin(self.at, true),
                view: self.view,
                replacements: self.replacements,
                at: self.at,
                walk: Walk::new(&KeyRange { start: unheld.from, end: self.end }, self.at),
                pick: self.pick,
                pieces: Pieces::default(),
            })
        });
        Some(EncodedRange {
            header: header(self.current),
            pairs: self.pieces.finish(),
            rest,
            more: self.limit.is_some_and(|limit| self.matched > limit),
            count: self.count.cast_signed(),
        })
    }
}

/// What a step of bounded work has come to.
#[derive(Debug, PartialEq)]
pub enum Step<T> {
    /// Nothing yet: there is more to look at.
    GoOn,
    Made(T),
    /// All is made.
    Over,
}

impl EncodedRest {
    /// Goes on for a bounded time to make the next pairs, in pieces.
    ///
    /// # Errors
    /// `Compacted` when it took so long that the revision is held no more; `TimeoutWaitAppliedIndex` when
    /// a snapshot has replaced what was measured.
    pub fn step(&mut self) -> Result<Result<Step<Vec<Bytes>>, RequestError>, Fatal> {
        let Self { len, walk, pick, pieces, .. } = self;
        let mut scans = 0;
        while *len > 0 && pieces.full.is_empty() && !walk.is_done() && scans < STEP_SCANS {
            scans += 1;
            walk.advance(self.view.shared().source(), &mut |found| {
                let (escaped, version) = (found.escaped(), found.version()?);
                if !pick.filters.pass(&version) {
                    return Ok(true);
                }
                Encoded::of(escaped, &version, pick.with_values, |pair| {
                    *len = len.saturating_sub(pair.len() as u64);
                    pair.put(pieces.room(pair.len()));
                })?;
                // What follows the last measured pair is beyond the request's limit.
                Ok(*len > 0 && pieces.full.is_empty())
            })?;
        }
        if self.view.replacements() != self.replacements {
            return Ok(Err(RequestError::TimeoutWaitAppliedIndex));
        }
        // Asked in this order: while it was held it could not go.
        if !self.pin.is_held() && self.at < self.view.compacted() {
            return Ok(Err(RequestError::Compacted));
        }
        let is_over = self.len == 0 || self.walk.is_done();
        if !is_over && self.pieces.full.is_empty() {
            return Ok(Ok(Step::GoOn));
        }
        let made = std::mem::take(&mut self.pieces).finish();
        Ok(Ok(if made.is_empty() { Step::Over } else { Step::Made(made) }))
    }
}

impl From<RangeResponse> for EncodedRange {
    fn from(response: RangeResponse) -> Self {
        let mut pieces = Pieces::default();
        response.kvs.iter().for_each(|kv| pieces.push(kv));
        let RangeResponse { header, more, count, .. } = response;
        Self { header, pairs: pieces.finish(), rest: None, more, count }
    }
}

#[derive(Default)]
struct Pieces {
    full: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    /// Where so many bytes can be appended.
    fn room(&mut self, len: usize) -> &mut BytesMut {
        if self.open.capacity() - self.open.len() < len {
            let next = BytesMut::with_capacity(len.max(PIECE_LEN));
            let full = std::mem::replace(&mut self.open, next).freeze();
            if !full.is_empty() {
                self.full.push(full);
            }
        }
        &mut self.open
    }

    fn push(&mut self, kv: &KeyValue) {
        let len = prost::encoding::message::encoded_len(KVS, kv);
        prost::encoding::message::encode(KVS, kv, self.room(len));
    }

    /// Whether so many bytes can be appended, asking for memory where that takes some.
    fn has_room(&self, len: usize, room: &dyn Fn(usize) -> bool) -> bool {
        self.open.capacity() - self.open.len() >= len || room(len.max(PIECE_LEN))
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(self.open.freeze());
        }
        self.full
    }
}

/// A pair as a field of the response.
struct Encoded<'a> {
    user_key: &'a [u8],
    /// In the order of the fields' numbers, as the generated code has it.
    numbers: [(u32, i64); 3],
    value: &'a [u8],
    lease: i64,
    /// Of the pair alone.
    pair_len: usize,
}

impl Encoded<'_> {
    fn of(
        escaped: &[u8],
        version: &Version<'_>,
        with_value: bool,
        then: impl FnOnce(&Encoded<'_>),
    ) -> Result<(), Fatal> {
        let put = &version.put;
        let (value, lease) =
            if with_value { (version.value_slice(), put.lease) } else { (&[][..], 0) };
        super::key::with_user_key(escaped, |user_key| {
            let numbers = [(2, put.create), (3, version.revision.main), (4, put.version)];
            let pair_len = bytes_len(1, user_key)
                + numbers.iter().map(|(tag, number)| number_len(*tag, *number)).sum::<usize>()
                + bytes_len(5, value)
                + number_len(6, lease);
            then(&Encoded { user_key, numbers, value, lease, pair_len });
        })
    }

    fn len(&self) -> usize {
        key_len(KVS) + encoded_len_varint(self.pair_len as u64) + self.pair_len
    }

    fn put(&self, out: &mut BytesMut) {
        encode_key(KVS, WireType::LengthDelimited, out);
        encode_varint(self.pair_len as u64, out);
        put_bytes(1, self.user_key, out);
        self.numbers.iter().for_each(|(tag, number)| put_number(*tag, *number, out));
        put_bytes(5, self.value, out);
        put_number(6, self.lease, out);
    }
}

fn bytes_len(tag: u32, bytes: &[u8]) -> usize {
    match bytes.len() {
        0 => 0,
        len => key_len(tag) + encoded_len_varint(len as u64) + len,
    }
}

fn number_len(tag: u32, number: i64) -> usize {
    match number {
        0 => 0,
        number => key_len(tag) + encoded_len_varint(number.cast_unsigned()),
    }
}

/// A field; left out when it is empty, as protobuf has it.
fn put_bytes(tag: u32, bytes: &[u8], out: &mut BytesMut) {
    if !bytes.is_empty() {
        encode_key(tag, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}

fn put_number(tag: u32, number: i64, out: &mut BytesMut) {
    if number != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(number.cast_unsigned(), out);
    }
}
