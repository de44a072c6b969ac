//! What answers about keys look like: ranges, writes, transactions, events.

use std::io::Write as _;

use prost::Message as _;
use serde_json::{Value, json};

use super::go::quote;
use super::json::message;
use super::look::{Look, Show};
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, TxnResponse, WatchResponse,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};

/// An id as etcdctl prints it among fields.
pub(super) fn member_id(look: &Look, id: u64) -> String {
    if look.hex { format!("{id:x}") } else { id.to_string() }
}

/// A lease's id as etcdctl prints it among fields.
pub(super) fn lease_id(look: &Look, id: i64) -> String {
    if look.hex { format!("{id:016x}") } else { id.to_string() }
}

/// The header's fields. The revision stands only where there is one.
pub(super) fn header(look: &Look, header: Option<&ResponseHeader>, out: &mut Vec<u8>) {
    let header = header.copied().unwrap_or_default();
    put!(out, "\"ClusterID\" : {}\n", member_id(look, header.cluster_id));
    put!(out, "\"MemberID\" : {}\n", member_id(look, header.member_id));
    if header.revision > 0 {
        put!(out, "\"Revision\" : {}\n", header.revision);
    }
    put!(out, "\"RaftTerm\" : {}\n", header.raft_term);
}

fn pair(look: &Look, kv: &KeyValue, out: &mut Vec<u8>) {
    let bytes = |bytes: &[u8], out: &mut Vec<u8>| {
        match look.hex {
            true => bytes.iter().for_each(|byte| put!(out, "\\x{byte:02x}")),
            false => out.extend(bytes),
        }
        out.push(b'\n');
    };
    if !look.value_only {
        bytes(&kv.key, out);
    }
    bytes(&kv.value, out);
}

fn pair_fields(look: &Look, prefix: &str, kv: &KeyValue, out: &mut Vec<u8>) {
    put!(out, "\"{prefix}Key\" : {}\n", quote(&kv.key));
    put!(out, "\"{prefix}CreateRevision\" : {}\n", kv.create_revision);
    put!(out, "\"{prefix}ModRevision\" : {}\n", kv.mod_revision);
    put!(out, "\"{prefix}Version\" : {}\n", kv.version);
    put!(out, "\"{prefix}Value\" : {}\n", quote(&kv.value));
    put!(out, "\"{prefix}Lease\" : {}\n", lease_id(look, kv.lease));
}

impl Show for RangeResponse {
    fn simple(&self, look: &Look, out: &mut Vec<u8>) {
        self.kvs.iter().for_each(|kv| pair(look, kv, out));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        self.kvs.iter().for_each(|kv| pair_fields(look, "", kv, &mut out));
        put!(out, "\"More\" : {}\n\"Count\" : {}\n", self.more, self.count);
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(message("RangeResponse", self))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Show for PutResponse {
    fn simple(&self, look: &Look, out: &mut Vec<u8>) {
        put!(out, "OK\n");
        self.prev_kv.iter().for_each(|kv| pair(look, kv, out));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        self.prev_kv.iter().for_each(|kv| pair_fields(look, "Prev", kv, &mut out));
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(message("PutResponse", self))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Show for DeleteRangeResponse {
    fn simple(&self, look: &Look, out: &mut Vec<u8>) {
        put!(out, "{}\n", self.deleted);
        self.prev_kvs.iter().for_each(|kv| pair(look, kv, out));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        put!(out, "\"Deleted\" : {}\n", self.deleted);
        self.prev_kvs.iter().for_each(|kv| pair_fields(look, "Prev", kv, &mut out));
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(message("DeleteRangeResponse", self))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Show for TxnResponse {
    fn simple(&self, look: &Look, out: &mut Vec<u8>) {
        put!(out, "{}\n", if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in &self.responses {
            put!(out, "\n");
            match &response.response {
                Some(Response::ResponseRange(answer)) => answer.simple(look, out),
                Some(Response::ResponsePut(answer)) => answer.simple(look, out),
                Some(Response::ResponseDeleteRange(answer)) => answer.simple(look, out),
                Some(Response::ResponseTxn(answer)) => answer.simple(look, out),
                None => {}
            }
        }
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        put!(out, "\"Succeeded\" : {}\n", self.succeeded);
        for response in &self.responses {
            let fields = match &response.response {
                Some(Response::ResponseRange(answer)) => answer.fields(look),
                Some(Response::ResponsePut(answer)) => answer.fields(look),
                Some(Response::ResponseDeleteRange(answer)) => answer.fields(look),
                Some(Response::ResponseTxn(answer)) => answer.fields(look),
                None => None,
            };
            out.extend(fields.unwrap_or_default());
        }
        Some(out)
    }

    fn json(&self, look: &Look) -> Option<Value> {
        let mut bare = self.clone();
        let responses = std::mem::take(&mut bare.responses);
        let mut value = message("TxnResponse", &bare);
        let wrapped = |(name, answer): (&str, Option<Value>)| json!({"Response": {name: answer}});
        let one = |response: &Option<Response>| match response {
            Some(Response::ResponseRange(answer)) => wrapped(("response_range", answer.json(look))),
            Some(Response::ResponsePut(answer)) => wrapped(("response_put", answer.json(look))),
            Some(Response::ResponseDeleteRange(answer)) => {
                wrapped(("response_delete_range", answer.json(look)))
            }
            Some(Response::ResponseTxn(answer)) => wrapped(("response_txn", answer.json(look))),
            None => json!({"Response": {}}),
        };
        if !responses.is_empty() {
            value["responses"] = responses.iter().map(|each| one(&each.response)).collect();
        }
        Some(value)
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

fn kind(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

/// What a watch is told, and the end of it.
impl Show for WatchResponse {
    fn simple(&self, look: &Look, out: &mut Vec<u8>) {
        for event in &self.events {
            put!(out, "{}\n", kind(event));
            event.prev_kv.iter().for_each(|kv| pair(look, kv, out));
            pair(look, event.kv.as_ref().unwrap_or(&KeyValue::default()), out);
        }
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        for event in &self.events {
            put!(out, "\"Type\" : {}\n", kind(event));
            event.prev_kv.iter().for_each(|kv| pair_fields(look, "Prev", kv, &mut out));
            let kv = event.kv.clone().unwrap_or_default();
            pair_fields(look, "", &kv, &mut out);
        }
        Some(out)
    }

    /// The client's own type, whose names and zeros etcdctl prints.
    fn json(&self, _look: &Look) -> Option<Value> {
        let events =
            message("WatchResponse", &Self { events: self.events.clone(), ..Self::default() });
        let none = if self.canceled { Value::Null } else { json!([]) };
        Some(json!({
            "Header": message("ResponseHeader", &self.header.unwrap_or_default()),
            "Events": events.get("events").cloned().unwrap_or(none),
            "CompactRevision": self.compact_revision,
            "Canceled": self.canceled,
            "Created": false,
            "CancelReason": self.cancel_reason,
        }))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        let told = Self {
            header: self.header,
            events: self.events.clone(),
            compact_revision: self.compact_revision,
            canceled: self.canceled,
            ..Self::default()
        };
        Some(told.encode_to_vec())
    }
}
