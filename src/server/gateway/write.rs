//! From the wire form of a message to JSON, by its descriptor.
//!
//! Follows protobuf's mapping as etcd's gateway applies it: names as in `.proto` files, fields
//! in the order of their numbers, zero values left out, 64-bit integers as strings, bytes in
//! base64, enums by name. No blanks anywhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use std::fmt::Write as _;

/// What JSON has for a message cannot be told: its bytes are not of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt;

/// Appends the message as a JSON object.
pub(super) fn to_json(
    message: &[u8],
    descriptor: &MessageDescriptor,
    out: &mut String,
) -> Result<(), Corrupt> {
    let mut fields = split(message)?;
    // Equal numbers keep their order: they are a list's elements.
    fields.sort_by_key(|(number, _)| *number);
    out.push('{');
    let mut is_first = true;
    for same in fields.chunk_by(|one, other| one.0 == other.0) {
        let Some(field) = descriptor.get_field(same[0].0) else { continue };
        let from = out.len();
        if !is_first {
            out.push(',');
        }
        quote(field.name(), out);
        out.push(':');
        let is_shown = match field.is_list() {
            true => list(&field, same, out)?,
            // Of a field that is there twice, the last one counts.
            false => match &same[same.len() - 1].1 {
                value if value.is_zero() && leaves_zero_out(&field) => false,
                value => {
                    single(&field, value, out)?;
                    true
                }
            },
        };
        match is_shown {
            true => is_first = false,
            false => out.truncate(from),
        }
    }
    out.push('}');
    Ok(())
}

/// Appends a string with its quotes.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' => push(out, format_args!("\\u{:04x}", u32::from(character))),
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// Appends what is formatted: a string takes everything.
fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _never_fails = out.write_fmt(text);
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
}

impl Value<'_> {
    fn is_zero(&self) -> bool {
        match self {
            Value::Varint(value) => *value == 0,
            Value::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// Whether a zero of the field is as good as none: not for messages, nor for one of several.
fn leaves_zero_out(field: &FieldDescriptor) -> bool {
    !matches!(field.kind(), Kind::Message(_)) && field.containing_oneof().is_none()
}

/// The fields of a message as they come.
fn split(mut message: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Corrupt> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let (number, kind) = decode_key(&mut message).map_err(|_| Corrupt)?;
        let value = match kind {
            WireType::Varint => Value::Varint(decode_varint(&mut message).map_err(|_| Corrupt)?),
            WireType::LengthDelimited => {
                let length = decode_varint(&mut message).map_err(|_| Corrupt)?;
                let length = usize::try_from(length).map_err(|_| Corrupt)?;
                let bytes = message.get(..length).ok_or(Corrupt)?;
                message.advance(length);
                Value::Bytes(bytes)
            }
            _ => return Err(Corrupt),
        };
        fields.push((number, value));
    }
    Ok(fields)
}

/// Returns whether there is anything to show.
fn list(
    field: &FieldDescriptor,
    values: &[(u32, Value<'_>)],
    out: &mut String,
) -> Result<bool, Corrupt> {
    let is_number = !matches!(field.kind(), Kind::Message(_) | Kind::String | Kind::Bytes);
    out.push('[');
    let mut is_first = true;
    let mut comma = |out: &mut String| {
        if !std::mem::replace(&mut is_first, false) {
            out.push(',');
        }
    };
    for (_, value) in values {
        match value {
            Value::Bytes(packed) if is_number => {
                let mut packed = *packed;
                while !packed.is_empty() {
                    let number = decode_varint(&mut packed).map_err(|_| Corrupt)?;
                    comma(out);
                    single(field, &Value::Varint(number), out)?;
                }
            }
            value => {
                comma(out);
                single(field, value, out)?;
            }
        }
    }
    out.push(']');
    Ok(!is_first)
}

fn single(field: &FieldDescriptor, value: &Value<'_>, out: &mut String) -> Result<(), Corrupt> {
    match (field.kind(), value) {
        (Kind::Message(inner), Value::Bytes(bytes)) => to_json(bytes, &inner, out)?,
        (Kind::String, Value::Bytes(bytes)) => {
            quote(std::str::from_utf8(bytes).map_err(|_| Corrupt)?, out);
        }
        (Kind::Bytes, Value::Bytes(bytes)) => {
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        (Kind::Bool, Value::Varint(value)) => {
            out.push_str(if *value == 0 { "false" } else { "true" });
        }
        (Kind::Int64, Value::Varint(value)) => push(out, format_args!("\"{}\"", *value as i64)),
        (Kind::Uint64, Value::Varint(value)) => push(out, format_args!("\"{value}\"")),
        (Kind::Int32, Value::Varint(value)) => push(out, format_args!("{}", *value as i32)),
        (Kind::Uint32, Value::Varint(value)) => push(out, format_args!("{}", *value as u32)),
        (Kind::Enum(names), Value::Varint(value)) => match names.get_value(*value as i32) {
            Some(known) => quote(known.name(), out),
            None => push(out, format_args!("{}", *value as i32)),
        },
        _ => return Err(Corrupt),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::response_op::Response;
    use crate::pb::etcdserverpb::{
        AlarmMember, AlarmResponse, DeleteRangeResponse, HashKvResponse, PutResponse,
        RangeResponse, ResponseHeader, ResponseOp, StatusResponse, TxnResponse, WatchResponse,
    };
    use crate::pb::mvccpb::{Event, KeyValue};
    use crate::server::gateway::schema::method;
    use prost::Message;

    fn json(path: &str, message: &impl Message) -> String {
        let mut out = String::new();
        let wire = message.encode_to_vec();
        to_json(&wire, &method(path).expect("a path").output, &mut out).expect("JSON");
        out
    }

    #[test]
    fn answers_look_as_they_do_from_etcd() {
        let header =
            Some(ResponseHeader { cluster_id: u64::MAX, member_id: 1, revision: -1, raft_term: 0 });
        let kv = KeyValue {
            key: "foo".into(),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            value: "\u{fb}".into(),
            lease: 0,
        };
        let range =
            RangeResponse { header, kvs: vec![kv.clone(), kv.clone()], more: true, count: 2 };
        let pair = r#"{"key":"Zm9v","create_revision":"2","mod_revision":"3","version":"2","value":"w7s="}"#;
        let shown =
            r#""header":{"cluster_id":"18446744073709551615","member_id":"1","revision":"-1"}"#;
        assert_eq!(
            json("kv/range", &range),
            format!(r#"{{{shown},"kvs":[{pair},{pair}],"more":true,"count":"2"}}"#)
        );
        let op = |response| ResponseOp { response: Some(response) };
        let txn = TxnResponse {
            header: None,
            succeeded: false,
            responses: vec![
                op(Response::ResponsePut(PutResponse::default())),
                op(Response::ResponseDeleteRange(DeleteRangeResponse {
                    deleted: 1,
                    ..Default::default()
                })),
                ResponseOp::default(),
            ],
        };
        assert_eq!(
            json("kv/txn", &txn),
            r#"{"responses":[{"response_put":{}},{"response_delete_range":{"deleted":"1"}},{}]}"#
        );
        let delete = Event { r#type: 1, kv: Some(KeyValue::default()), prev_kv: None };
        let put = Event { r#type: 0, kv: None, prev_kv: Some(kv) };
        let watch =
            WatchResponse { watch_id: -1, events: vec![delete, put], ..WatchResponse::default() };
        assert_eq!(
            json("watch", &watch),
            format!(
                r#"{{"watch_id":"-1","events":[{{"type":"DELETE","kv":{{}}}},{{"prev_kv":{pair}}}]}}"#
            )
        );
        let hash =
            HashKvResponse { hash: u32::MAX, compact_revision: -1, ..HashKvResponse::default() };
        assert_eq!(
            json("maintenance/hashkv", &hash),
            r#"{"hash":4294967295,"compact_revision":"-1"}"#
        );
        let alarm = |alarm| AlarmMember { member_id: 7, alarm };
        let alarms = AlarmResponse { header: None, alarms: vec![alarm(1), alarm(9)] };
        assert_eq!(
            json("maintenance/alarm", &alarms),
            r#"{"alarms":[{"memberID":"7","alarm":"NOSPACE"},{"memberID":"7","alarm":9}]}"#
        );
        let status = StatusResponse {
            version: "a\"\\\u{8}\u{c}\n\r\t\u{1}é\u{7f}</".into(),
            errors: vec![String::new(), "x".into()],
            ..StatusResponse::default()
        };
        assert_eq!(
            json("maintenance/status", &status),
            "{\"version\":\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001é\u{7f}</\",\"errors\":[\"\",\"x\"]}"
        );
    }

    #[test]
    fn fields_may_come_in_any_order() {
        let kv = KeyValue { key: "a".into(), ..KeyValue::default() };
        let mut wire = RangeResponse { count: 3, ..RangeResponse::default() }.encode_to_vec();
        wire.extend(
            RangeResponse { kvs: vec![kv.clone()], ..RangeResponse::default() }.encode_to_vec(),
        );
        wire.extend(RangeResponse { count: 4, ..RangeResponse::default() }.encode_to_vec());
        wire.extend(RangeResponse { kvs: vec![kv], ..RangeResponse::default() }.encode_to_vec());
        let mut out = String::new();
        to_json(&wire, &method("kv/range").unwrap().output, &mut out).unwrap();
        assert_eq!(out, r#"{"kvs":[{"key":"YQ=="},{"key":"YQ=="}],"count":"4"}"#);
    }

    #[test]
    fn bytes_of_another_type_are_refused() {
        let output = &method("kv/range").unwrap().output;
        for wire in [&b"\x0a"[..], b"\x0a\x05ab", b"\x08\x01", b"\x0d\0\0\0\0", b"\xff"] {
            assert_eq!(to_json(wire, output, &mut String::new()), Err(Corrupt), "{wire:?}");
        }
    }
}
