//! Answering a RangeRequest in encoded form: what a large answer weighs in memory is then what
//! it weighs on the wire, once, and each value is copied once.
//!
//! An answer may also have less room than it weighs. What does not fit is then only measured, and read a second
//! time, at the same revision, when it is to be sent.

use super::pins::Pin;
use super::range::{header, is_in_key_order};
use super::reader::{Version, Walk};
use super::view::View;
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::pb::mvccpb::KeyValue;
use crate::types::KeyRange;
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Bytes of a piece: a few HTTP/2 frames, and small enough for the allocator to use again.
const PIECE_LEN: usize = if cfg!(test) { 64 } else { 128 << 10 };

/// Number of `kvs` in RangeResponse.
const KVS: u32 = 2;

/// A RangeResponse whose pairs are encoded, each as a whole field.
pub struct EncodedRange {
    pub header: Option<ResponseHeader>,
    pub pairs: Vec<Bytes>,
    /// The pairs behind those, if there was no room for all.
    pub rest: Option<EncodedRest>,
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
    with_values: bool,
}

impl View {
    /// Answers like [`View::range`]. `room` is asked before so many bytes more are held; once it
    /// refuses, nothing more is.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range_encoded(
        &self,
        request: &RangeRequest,
        room: &dyn Fn(usize) -> bool,
    ) -> Result<Result<EncodedRange, RequestError>, Fatal> {
        if !is_in_key_order(request) {
            // The order is known only when all of it is there.
            let answer = self.range(request)?.map(EncodedRange::from);
            if let Ok(answer) = &answer {
                answer.pairs.iter().for_each(|piece| _ = room(piece.len()));
            }
            return Ok(answer);
        }
        let limit = u64::try_from(request.limit).ok().filter(|limit| *limit > 0);
        self.at_revision(request.revision, false, |at, current| {
            let replacements = self.replacements();
            let range = KeyRange::new(request.key.clone(), request.range_end.clone());
            let mut walk = Walk::new(&range, at);
            let mut pieces = Pieces::default();
            let mut unheld: Option<Unheld> = None;
            let mut count = 0;
            while !walk.is_done() {
                walk.advance(self.shared().source(), &mut |found| {
                    count += 1;
                    if request.count_only || limit.is_some_and(|limit| count > limit) {
                        return Ok(true);
                    }
                    let escaped = found.escaped();
                    let pair =
                        Encoded::of(escaped, &found.version()?, !request.keys_only, |pair| {
                            if unheld.is_none() && !pieces.has_room(pair.len(), room) {
                                unheld =
                                    Some(Unheld { from: pair.user_key.to_vec().into(), len: 0 });
                            }
                            match &mut unheld {
                                Some(unheld) => unheld.len += pair.len() as u64,
                                None => pair.put(pieces.room(pair.len())),
                            }
                        });
                    pair.map(|()| true)
                })?;
            }
            let rest = unheld.map(|unheld| EncodedRest {
                len: unheld.len,
                view: self.clone(),
                replacements,
                pin: self.shared().pins.pin(at, true),
                at,
                walk: Walk::new(&KeyRange { start: unheld.from, end: range.end.clone() }, at),
                with_values: !request.keys_only,
            });
            Ok(Ok(EncodedRange {
                header: header(current),
                pairs: pieces.finish(),
                rest,
                more: !request.count_only && limit.is_some_and(|limit| count > limit),
                count: count.cast_signed(),
            }))
        })
    }
}

/// Pairs that are only measured.
struct Unheld {
    from: Bytes,
    len: u64,
}

impl EncodedRest {
    /// The next pairs, in pieces; `None` after the last.
    ///
    /// # Errors
    /// `Compacted` when it took so long that the revision is held no more; `TimeoutWaitAppliedIndex` when
    /// a snapshot has replaced what was measured.
    pub fn next_pieces(&mut self) -> Result<Result<Option<Vec<Bytes>>, RequestError>, Fatal> {
        let mut pieces = Pieces::default();
        let source = self.view.shared().source();
        while self.len > 0 && pieces.full.is_empty() && !self.walk.is_done() {
            self.walk.advance(source, &mut |found| {
                let escaped = found.escaped();
                Encoded::of(escaped, &found.version()?, self.with_values, |pair| {
                    self.len = self.len.saturating_sub(pair.len() as u64);
                    pair.put(pieces.room(pair.len()));
                })?;
                // What follows the last measured pair is beyond the request's limit.
                Ok(self.len > 0 && pieces.full.is_empty())
            })?;
        }
        if self.view.replacements() != self.replacements {
            return Ok(Err(RequestError::TimeoutWaitAppliedIndex));
        }
        // Asked in this order: while it was held it could not go.
        if !self.pin.is_held() && self.at < self.view.compacted() {
            return Ok(Err(RequestError::Compacted));
        }
        let pieces = pieces.finish();
        Ok(Ok((!pieces.is_empty()).then_some(pieces)))
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
