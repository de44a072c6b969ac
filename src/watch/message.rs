//! What watchers are sent: events encoded once and shared, and the message around them.
//!
//! [`SharedEvent`] holds an event as it stands inside a `WatchResponse`, so that a
//! thousand streams that send it copy bytes and encode nothing. [`WatchMessage`] is a
//! `WatchResponse` whose events are such bytes; its variants are exactly the shapes that
//! the protocol knows. The member's part of the header is added when it is written.

use crate::error::Fatal;
use crate::pb::etcdserverpb::ResponseHeader;
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use std::borrow::Cow;
use std::sync::OnceLock;

/// Field numbers of `WatchResponse`, and of `prev_kv` in `Event`.
const HEADER: u32 = 1;
const WATCH_ID: u32 = 2;
const CREATED: u32 = 3;
const CANCELED: u32 = 4;
const COMPACT_REVISION: u32 = 5;
const CANCEL_REASON: u32 = 6;
const FRAGMENT: u32 = 7;
const EVENTS: u32 = 11;
const PREV_KV: u32 = 3;

/// The watch id of messages that belong to no watch: refusals, and progress of a whole stream.
pub const NO_WATCH: i64 = -1;

/// Most that a message's parts other than events and reason can take: header and numbers.
const ENVELOPE_BYTES_MAX: usize = 80;

/// The events of one revision that somebody wants, each encoded once.
#[derive(Debug)]
pub struct CommitEvents {
    pub revision: i64,
    /// In sub-revision order.
    pub events: Vec<SharedEvent>,
}

/// One event, encoded as a field of `WatchResponse`.
#[derive(Debug)]
pub struct SharedEvent {
    pub key: Bytes,
    pub is_put: bool,
    /// The revision that the event belongs to.
    revision: i64,
    /// Whether the event's key may have had a value before.
    replaces: bool,
    field: Bytes,
    /// Filled by the first watcher that asks for the previous value.
    field_with_previous: OnceLock<Bytes>,
}

impl SharedEvent {
    /// Encodes an event of this revision; a previous value in it is left out.
    pub fn new(revision: i64, event: &Event) -> Self {
        let is_put = event.r#type() == EventType::Put;
        let (key, version) =
            event.kv.as_ref().map_or((Bytes::new(), 0), |kv| (kv.key.clone(), kv.version));
        let field = match &event.prev_kv {
            None => field(event.encoded_len(), |buffer| event.encode_raw(buffer)),
            Some(_) => {
                let bare = Event { prev_kv: None, ..event.clone() };
                field(bare.encoded_len(), |buffer| bare.encode_raw(buffer))
            }
        };
        Self {
            key,
            is_put,
            revision,
            replaces: !is_put || version > 1,
            field,
            field_with_previous: OnceLock::new(),
        }
    }

    /// The event without previous value, as a field of `WatchResponse`.
    pub fn field(&self) -> &Bytes {
        &self.field
    }

    /// The event with the pair that it replaced, when there was one and it is still stored.
    /// `lookup` gets key and revision; it is called at most once for all watchers, or a few
    /// times when they ask at the same moment.
    pub fn field_with_previous(
        &self,
        lookup: impl FnOnce(&[u8], i64) -> Result<Option<KeyValue>, Fatal>,
    ) -> Result<&Bytes, Fatal> {
        if !self.replaces {
            return Ok(&self.field);
        }
        if let Some(field) = self.field_with_previous.get() {
            return Ok(field);
        }
        let combined = match lookup(&self.key, self.revision - 1)? {
            None => self.field.clone(),
            Some(previous) => {
                let body = self.body();
                let length = previous.encoded_len();
                let total =
                    body.len() + key_len(PREV_KV) + encoded_len_varint(length as u64) + length;
                field(total, |buffer| {
                    buffer.put_slice(body);
                    prost::encoding::message::encode(PREV_KV, &previous, buffer);
                })
            }
        };
        Ok(self.field_with_previous.get_or_init(|| combined))
    }

    /// The encoded `Event` message alone.
    fn body(&self) -> &[u8] {
        let mut rest = &self.field[key_len(EVENTS)..];
        while rest.first().is_some_and(|byte| byte & 0x80 != 0) {
            rest = &rest[1..];
        }
        rest.get(1..).unwrap_or_default()
    }
}

/// Writes an `events` field around a body of this length.
fn field(length: usize, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer =
        BytesMut::with_capacity(key_len(EVENTS) + encoded_len_varint(length as u64) + length);
    encode_key(EVENTS, WireType::LengthDelimited, &mut buffer);
    encode_varint(length as u64, &mut buffer);
    body(&mut buffer);
    buffer.freeze()
}

/// One message to a watching client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchMessage {
    pub watch_id: i64,
    /// The header's revision.
    pub revision: i64,
    pub body: Body,
}

/// The shapes of a `WatchResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// The watch exists; no event of it came before this.
    Created,
    /// The watch has ended: at the client's wish (0), or because it needs
    /// history from before this compaction.
    Canceled { compact_revision: i64 },
    /// The watch was never created.
    Refused { reason: Cow<'static, str> },
    /// All events up to the header's revision have been sent.
    Progress,
    /// Events; `more` when further parts of the same revision follow.
    Events { fields: Fields, more: bool },
}

/// Encoded events. One is by far the most frequent number, and needs no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fields {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Fields {
    pub fn as_slice(&self) -> &[Bytes] {
        match self {
            Fields::One(field) => std::slice::from_ref(field),
            Fields::Many(fields) => fields,
        }
    }

    fn len_bytes(&self) -> usize {
        self.as_slice().iter().map(Bytes::len).sum()
    }
}

impl WatchMessage {
    /// How many events it carries.
    pub fn events(&self) -> usize {
        match &self.body {
            Body::Events { fields, .. } => fields.as_slice().len(),
            _ => 0,
        }
    }

    pub fn is_progress(&self) -> bool {
        self.body == Body::Progress
    }

    /// Length on the wire, at most a few bytes too high: to reserve space and to decide on parts.
    pub fn len_bytes(&self) -> usize {
        let variable = match &self.body {
            Body::Events { fields, .. } => fields.len_bytes(),
            Body::Refused { reason } => reason.len(),
            Body::Created | Body::Canceled { .. } | Body::Progress => 0,
        };
        ENVELOPE_BYTES_MAX + variable
    }

    /// Writes the message as a `WatchResponse`. The header's revision is replaced by the
    /// message's own.
    pub fn encode(&self, header: &ResponseHeader, buffer: &mut impl BufMut) {
        let header = ResponseHeader { revision: self.revision, ..*header };
        prost::encoding::message::encode(HEADER, &header, buffer);
        number(WATCH_ID, self.watch_id, buffer);
        match &self.body {
            Body::Created => number(CREATED, 1, buffer),
            Body::Canceled { compact_revision } => {
                number(CANCELED, 1, buffer);
                number(COMPACT_REVISION, *compact_revision, buffer);
            }
            Body::Refused { reason } => {
                number(CREATED, 1, buffer);
                number(CANCELED, 1, buffer);
                encode_key(CANCEL_REASON, WireType::LengthDelimited, buffer);
                encode_varint(reason.len() as u64, buffer);
                buffer.put_slice(reason.as_bytes());
            }
            Body::Progress => {}
            Body::Events { fields, more } => {
                number(FRAGMENT, i64::from(*more), buffer);
                fields.as_slice().iter().for_each(|field| buffer.put_slice(field));
            }
        }
    }

    /// Hands out the message in parts that are each smaller than the limit, as far as
    /// single events allow.
    pub fn split(self, limit: usize, mut part: impl FnMut(WatchMessage)) {
        let Self { watch_id, revision, body } = self;
        let whole = |body| WatchMessage { watch_id, revision, body };
        let fields = match body {
            Body::Events { fields: Fields::Many(fields), .. } => fields,
            body => return part(whole(body)),
        };
        let mut fields = fields.into_iter().peekable();
        while fields.peek().is_some() {
            let mut size = ENVELOPE_BYTES_MAX;
            let mut taken = Vec::new();
            while let Some(field) =
                fields.next_if(|field| taken.is_empty() || size + field.len() < limit)
            {
                size += field.len();
                taken.push(field);
            }
            let more = fields.peek().is_some();
            part(whole(Body::Events { fields: Fields::Many(taken), more }));
        }
    }
}

/// Writes a number or flag as proto3 does: zero is left out.
fn number(tag: u32, value: i64, buffer: &mut impl BufMut) {
    if value != 0 {
        prost::encoding::int64::encode(tag, &value, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::WatchResponse;

    fn pair(key: &str, value: usize, version: i64) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: vec![b'v'; value].into(),
            create_revision: 2,
            mod_revision: 9,
            version,
            lease: 77,
        }
    }

    fn put(key: &str, value: usize, version: i64) -> Event {
        Event { r#type: 0, kv: Some(pair(key, value, version)), prev_kv: None }
    }

    fn delete(key: &str) -> Event {
        let kv = KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            mod_revision: 9,
            ..KeyValue::default()
        };
        Event { r#type: 1, kv: Some(kv), prev_kv: None }
    }

    fn header() -> ResponseHeader {
        ResponseHeader { cluster_id: u64::MAX, member_id: 3, revision: 0, raft_term: 4 }
    }

    fn decode(message: &WatchMessage) -> WatchResponse {
        let mut buffer = Vec::new();
        message.encode(&header(), &mut buffer);
        assert!(buffer.len() <= message.len_bytes());
        assert!(buffer.len() + ENVELOPE_BYTES_MAX >= message.len_bytes());
        WatchResponse::decode(&buffer[..]).unwrap()
    }

    fn events(events: &[Event]) -> Vec<Bytes> {
        events.iter().map(|event| SharedEvent::new(9, event).field().clone()).collect()
    }

    #[test]
    fn each_shape_is_what_the_generated_code_reads() {
        let header = Some(ResponseHeader { revision: 12, ..header() });
        let base = WatchResponse { header, watch_id: 5, ..WatchResponse::default() };
        let sent = [put("a", 300, 2), delete("b")];
        let cases = [
            (Body::Created, WatchResponse { created: true, ..base.clone() }),
            (Body::Progress, base.clone()),
            (
                Body::Canceled { compact_revision: 8 },
                WatchResponse { canceled: true, compact_revision: 8, ..base.clone() },
            ),
            (
                Body::Refused { reason: "no".into() },
                WatchResponse {
                    created: true,
                    canceled: true,
                    cancel_reason: "no".into(),
                    ..base.clone()
                },
            ),
            (
                Body::Events { fields: Fields::Many(events(&sent)), more: true },
                WatchResponse { fragment: true, events: sent.to_vec(), ..base },
            ),
        ];
        for (body, expected) in cases {
            assert_eq!(decode(&WatchMessage { watch_id: 5, revision: 12, body }), expected);
        }
    }

    #[test]
    fn a_previous_value_is_looked_up_once_and_only_where_one_can_be() {
        let (create, change, gone) = (put("a", 1, 1), put("b", 200, 2), delete("c"));
        for (event, expected) in [(create, 0), (change, 1), (gone, 1)] {
            let shared = SharedEvent::new(9, &event);
            let mut lookups = 0;
            for _ in 0..2 {
                let field = shared
                    .field_with_previous(|key, revision| {
                        lookups += 1;
                        assert_eq!((key, revision), (&shared.key[..], 8));
                        Ok(Some(pair("x", 100, 7)))
                    })
                    .unwrap()
                    .clone();
                let body = Body::Events { fields: Fields::One(field), more: false };
                let seen = decode(&WatchMessage { watch_id: 0, revision: 9, body }).events;
                let prev_kv = (expected > 0).then(|| pair("x", 100, 7));
                assert_eq!(seen, [Event { prev_kv, ..event.clone() }]);
            }
            assert_eq!(lookups, expected);
        }
    }

    #[test]
    fn parts_stay_below_the_limit_and_lose_nothing() {
        let sizes = [10, 900, 10, 10, 5000, 10, 400, 400, 400];
        let all: Vec<Event> =
            sizes.iter().enumerate().map(|(n, size)| put(&format!("k{n}"), *size, 1)).collect();
        let body = Body::Events { fields: Fields::Many(events(&all)), more: false };
        let mut parts = Vec::new();
        WatchMessage { watch_id: 1, revision: 9, body }.split(1024, |part| parts.push(part));
        let decoded: Vec<WatchResponse> = parts.iter().map(decode).collect();
        for (part, message) in parts.iter().zip(&decoded) {
            assert!(part.len_bytes() < 1024 || message.events.len() == 1);
            assert!(!message.events.is_empty());
        }
        let last = decoded.len() - 1;
        assert!(last > 2);
        assert!(decoded.iter().enumerate().all(|(n, part)| part.fragment == (n < last)));
        assert_eq!(decoded.into_iter().flat_map(|part| part.events).collect::<Vec<_>>(), all);
    }
}
