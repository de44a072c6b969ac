//! Answering a RangeRequest in encoded form: what a large answer weighs in memory is then what
//! it weighs on the wire, once, and each value is copied once.

use super::range::{header, is_in_key_order};
use super::reader::{Found, Walk};
use super::view::View;
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use crate::pb::mvccpb::KeyValue;
use crate::types::KeyRange;
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// Bytes of a piece: a few HTTP/2 frames, and small enough for the allocator to use again.
const PIECE_LEN: usize = 128 << 10;

/// Number of `kvs` in RangeResponse.
const KVS: u32 = 2;

/// A RangeResponse whose pairs are encoded, each as a whole field.
#[derive(Debug)]
pub struct EncodedRange {
    pub header: Option<ResponseHeader>,
    pub pairs: Vec<Bytes>,
    pub more: bool,
    pub count: i64,
}

impl View {
    /// Answers like [`View::range`].
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range_encoded(
        &self,
        request: &RangeRequest,
    ) -> Result<Result<EncodedRange, RequestError>, Fatal> {
        if !is_in_key_order(request) {
            return Ok(self.range(request)?.map(EncodedRange::from));
        }
        let limit = u64::try_from(request.limit).ok().filter(|limit| *limit > 0);
        self.at_revision(request.revision, false, |at, current| {
            let range = KeyRange::new(request.key.clone(), request.range_end.clone());
            let mut walk = Walk::new(&range, at);
            let mut pieces = Pieces::default();
            let mut count = 0;
            while !walk.is_done() {
                walk.advance(self.shared().source(), &mut |found| {
                    count += 1;
                    if !request.count_only && limit.is_none_or(|limit| count <= limit) {
                        pieces.push_found(found, !request.keys_only)?;
                    }
                    Ok(true)
                })?;
            }
            Ok(Ok(EncodedRange {
                header: header(current),
                pairs: pieces.finish(),
                more: !request.count_only && limit.is_some_and(|limit| count > limit),
                count: count.cast_signed(),
            }))
        })
    }
}

impl From<RangeResponse> for EncodedRange {
    fn from(response: RangeResponse) -> Self {
        let mut pieces = Pieces::default();
        response.kvs.iter().for_each(|kv| pieces.push(kv));
        let RangeResponse { header, more, count, .. } = response;
        Self { header, pairs: pieces.finish(), more, count }
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

    fn push_found(&mut self, found: Found<'_>, with_value: bool) -> Result<(), Fatal> {
        let escaped = found.escaped();
        let version = found.version()?;
        let (value, lease) =
            if with_value { (version.value_slice(), version.put.lease) } else { (&[][..], 0) };
        let (create, count) = (version.put.create, version.put.version);
        super::key::with_user_key(escaped, |user_key| {
            // In the order of the fields' numbers, as the generated code has it.
            let numbers = [(2, create), (3, version.revision.main), (4, count)];
            let len = bytes_len(1, user_key)
                + numbers.iter().map(|(tag, number)| number_len(*tag, *number)).sum::<usize>()
                + bytes_len(5, value)
                + number_len(6, lease);
            let frame = key_len(KVS) + encoded_len_varint(len as u64);
            let out = self.room(frame + len);
            encode_key(KVS, WireType::LengthDelimited, out);
            encode_varint(len as u64, out);
            put_bytes(1, user_key, out);
            numbers.iter().for_each(|(tag, number)| put_number(*tag, *number, out));
            put_bytes(5, value, out);
            put_number(6, lease, out);
        })
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.full.push(self.open.freeze());
        }
        self.full
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
