//! Messages as JSON in the form that Go's library gives to etcd's messages.
//!
//! Fields have the names of the `.proto` files and come in the order of their numbers; zeros and
//! empty fields are left out; numbers stay numbers, enums too; bytes are base64. That is not the
//! JSON of the gateway. Every message is translated by its descriptor, none by hand.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Value as Field};
use serde_json::{Map, Number, Value};
use std::sync::LazyLock;

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::pb::DESCRIPTORS).expect("compiled together with the messages")
});

/// A message of etcd's main package, by its name there.
pub(super) fn message<M: Message>(name: &str, message: &M) -> Value {
    let descriptor = POOL
        .get_message_by_name(&format!("etcdserverpb.{name}"))
        .expect("only messages of the package are printed");
    let bytes = message.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, &bytes[..])
        .expect("what was encoded from a message of this type");
    object(&dynamic)
}

fn object(message: &DynamicMessage) -> Value {
    let mut fields: Vec<(FieldDescriptor, &Field)> = message.fields().collect();
    fields.sort_by_key(|(field, _)| field.number());
    let mut object = Map::new();
    for (field, value) in fields {
        if field.supports_presence() || !is_empty(value) {
            object.insert(field.name().to_owned(), json(value));
        }
    }
    Value::Object(object)
}

fn is_empty(value: &Field) -> bool {
    match value {
        Field::Bool(value) => !value,
        Field::I32(0) | Field::I64(0) | Field::U32(0) | Field::U64(0) => true,
        Field::EnumNumber(0) => true,
        Field::String(text) => text.is_empty(),
        Field::Bytes(bytes) => bytes.is_empty(),
        Field::List(items) => items.is_empty(),
        _ => false,
    }
}

fn json(value: &Field) -> Value {
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(number) | Field::EnumNumber(number) => Value::from(*number),
        Field::I64(number) => Value::from(*number),
        Field::U32(number) => Value::from(*number),
        Field::U64(number) => Value::from(*number),
        Field::F32(number) => Value::from(*number),
        Field::F64(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        Field::String(text) => Value::from(text.as_str()),
        Field::Bytes(bytes) => Value::from(BASE64_STANDARD.encode(bytes)),
        Field::Message(message) => object(message),
        Field::List(items) => items.iter().map(json).collect(),
        // No answer of etcd has one.
        Field::Map(_) => Value::Null,
    }
}

/// A line of output, with the characters escaped that Go's library escapes.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut text = value.to_string();
    for (c, escaped) in [
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u{2028}", "\\u2028"),
        ("\u{2029}", "\\u2029"),
    ] {
        if text.contains(c) {
            text = text.replace(c, escaped);
        }
    }
    text.push('\n');
    text.into_bytes()
}

/// Writes the ids of a cluster and of members in hexadecimal numbers.
pub(super) fn with_hex_ids(mut answer: Value) -> Value {
    let hex = |value: &mut Value| {
        if let Some(id) = value.as_u64() {
            *value = Value::from(format!("{id:x}"));
        }
    };
    for name in ["cluster_id", "member_id"] {
        if let Some(id) = answer.pointer_mut(&format!("/header/{name}")) {
            hex(id);
        }
    }
    if let Some(id) = answer.pointer_mut("/member/ID") {
        hex(id);
    }
    for member in answer.get_mut("members").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(id) = member.get_mut("ID") {
            hex(id);
        }
    }
    answer
}

/// Appends the fields of one object to another.
pub(super) fn merged(first: Value, second: Value) -> Value {
    let (Value::Object(mut fields), Value::Object(more)) = (first, second) else {
        return Value::Null;
    };
    fields.extend(more);
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::{Member, MemberListResponse, RangeResponse, ResponseHeader};
    use crate::pb::mvccpb::KeyValue;

    #[test]
    fn messages_as_go_writes_them() {
        let header = ResponseHeader { cluster_id: u64::MAX, revision: 3, ..Default::default() };
        let kv = KeyValue { key: "a".into(), value: "<\u{ff}".into(), ..KeyValue::default() };
        let range = RangeResponse {
            header: Some(header),
            kvs: vec![kv, KeyValue::default()],
            ..RangeResponse::default()
        };
        let text = r#"{"header":{"cluster_id":18446744073709551615,"revision":3},"kvs":[{"key":"YQ==","value":"PMO/"},{}]}"#;
        assert_eq!(message("RangeResponse", &range).to_string(), text);
        let empty = RangeResponse { header: Some(ResponseHeader::default()), ..Default::default() };
        assert_eq!(message("RangeResponse", &empty).to_string(), r#"{"header":{}}"#);
    }

    #[test]
    fn ids_in_hexadecimal_numbers() {
        let member = Member { id: 0xabc, name: "<&>".to_owned(), ..Member::default() };
        let list = MemberListResponse {
            header: Some(ResponseHeader { cluster_id: 16, member_id: 17, ..Default::default() }),
            members: vec![member],
        };
        let value = with_hex_ids(message("MemberListResponse", &list));
        let text = concat!(
            r#"{"header":{"cluster_id":"10","member_id":"11"},"#,
            r#""members":[{"ID":"abc","name":"\u003c\u0026\u003e"}]}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line(&value)).unwrap(), text);
    }
}
