//! What answers about leases, members, alarms and users look like.

use std::io::Write as _;

use prost::Message;
use serde_json::{Value, json};

use super::go::quote;
use super::json::{merged, message, with_hex_ids};
use super::look::{Look, Show};
use super::show_kv::{header, lease_id, member_id};
use super::table;
use crate::pb::authpb::Permission;
use crate::pb::authpb::permission::Type;
use crate::pb::etcdserverpb::{
    AlarmResponse, AlarmType, AuthRoleGetResponse, AuthRoleListResponse, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseTimeToLiveResponse, MemberListResponse,
    ResponseHeader,
};

/// An answer of which a person wants to know in a sentence or two that it is done.
pub(super) struct Done<'m, M> {
    /// The name of the message's type.
    pub(super) name: &'static str,
    pub(super) answer: &'m M,
    /// What a person reads, with its line breaks.
    pub(super) text: String,
    /// What stands among fields, where etcdctl offers them.
    pub(super) fields: Option<Option<ResponseHeader>>,
}

impl<M: Message> Show for Done<'_, M> {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        out.extend(self.text.as_bytes());
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.fields?.as_ref(), &mut out);
        Some(out)
    }

    fn json(&self, look: &Look) -> Option<Value> {
        let value = message(self.name, self.answer);
        let has_ids = self.name.starts_with("Member") && look.hex;
        Some(if has_ids { with_hex_ids(value) } else { value })
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

/// The header's fields at the top, as the client's own types have them.
fn flat(header: Option<&ResponseHeader>, rest: Value) -> Value {
    merged(message("ResponseHeader", &header.copied().unwrap_or_default()), rest)
}

impl Show for LeaseGrantResponse {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        put!(out, "lease {:016x} granted with TTL({}s)\n", self.id, self.ttl);
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        put!(out, "\"ID\" : {}\n\"TTL\" : {}\n", lease_id(look, self.id), self.ttl);
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        let rest = json!({"ID": self.id, "TTL": self.ttl, "Error": self.error});
        Some(flat(self.header.as_ref(), rest))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Show for LeaseKeepAliveResponse {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        put!(out, "lease {:016x} keepalived with TTL({})\n", self.id, self.ttl);
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        put!(out, "\"ID\" : {}\n\"TTL\" : {}\n", lease_id(look, self.id), self.ttl);
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(flat(self.header.as_ref(), json!({"ID": self.id, "TTL": self.ttl})))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// A lease's time, and whether its keys were asked for.
pub(super) struct TimeToLive {
    pub(super) answer: LeaseTimeToLiveResponse,
    pub(super) with_keys: bool,
}

impl Show for TimeToLive {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = &self.answer;
        if *granted_ttl == 0 && *ttl == -1 {
            put!(out, "lease {id:016x} already expired\n");
            return;
        }
        put!(out, "lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)");
        if self.with_keys {
            put!(out, ", attached keys([");
            out.extend(keys.join(&b' '));
            put!(out, "])");
        }
        put!(out, "\n");
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, keys, .. } = &self.answer;
        header(look, self.answer.header.as_ref(), &mut out);
        put!(out, "\"ID\" : {}\n\"TTL\" : {ttl}\n", lease_id(look, *id));
        put!(out, "\"GrantedTTL\" : {granted_ttl}\n");
        keys.iter().for_each(|key| put!(out, "\"Key\" : {}\n", quote(key)));
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        let LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = self.answer;
        let mut of_keys = self.answer.clone();
        of_keys.header = None;
        let keys = message("LeaseTimeToLiveResponse", &of_keys).get("keys").cloned();
        let rest = json!({"id": id, "ttl": ttl, "granted-ttl": granted_ttl, "keys": keys});
        Some(flat(self.answer.header.as_ref(), rest))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

impl Show for LeaseLeasesResponse {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        put!(out, "found {} leases\n", self.leases.len());
        self.leases.iter().for_each(|lease| put!(out, "{:016x}\n", lease.id));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        let ids = self.leases.iter().map(|lease| lease_id(look, lease.id));
        ids.for_each(|id| put!(out, "\"ID\" : {id}\n"));
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        let leases: Vec<Value> = self.leases.iter().map(|lease| json!({"id": lease.id})).collect();
        Some(flat(self.header.as_ref(), json!({"leases": leases})))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Show for MemberListResponse {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        self.rows().iter().for_each(|row| put!(out, "{}\n", row.join(", ")));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        for member in &self.members {
            put!(out, "\"ID\" : {}\n", member_id(look, member.id));
            put!(out, "\"Name\" : {}\n", quote(member.name.as_bytes()));
            for url in &member.peer_ur_ls {
                put!(out, "\"PeerURL\" : {}\n", quote(url.as_bytes()));
            }
            for url in &member.client_ur_ls {
                put!(out, "\"ClientURL\" : {}\n", quote(url.as_bytes()));
            }
            put!(out, "\"IsLearner\" : {}\n\n", member.is_learner);
        }
        Some(out)
    }

    fn json(&self, look: &Look) -> Option<Value> {
        let value = message("MemberListResponse", self);
        Some(if look.hex { with_hex_ids(value) } else { value })
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }

    fn table(&self) -> Option<String> {
        let titles = ["ID", "Status", "Name", "Peer Addrs", "Client Addrs", "Is Learner"];
        Some(table::render(&titles, &self.rows()))
    }
}

impl MemberListResponse {
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |member: &crate::pb::etcdserverpb::Member| {
            let status = if member.name.is_empty() { "unstarted" } else { "started" };
            vec![
                format!("{:x}", member.id),
                status.to_owned(),
                member.name.clone(),
                member.peer_ur_ls.join(","),
                member.client_ur_ls.join(","),
                member.is_learner.to_string(),
            ]
        };
        self.members.iter().map(row).collect()
    }
}

impl Show for AlarmResponse {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        for alarm in &self.alarms {
            put!(out, "memberID:{} alarm:{}\n", alarm.member_id, alarm.alarm().as_str_name());
        }
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        for alarm in &self.alarms {
            let kind = AlarmType::try_from(alarm.alarm).unwrap_or_default();
            put!(out, "\"MemberID\" : {}\n", member_id(look, alarm.member_id));
            put!(out, "\"AlarmType\" : {}\n\n", kind.as_str_name());
        }
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(message("AlarmResponse", self))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// What a role may do.
pub(super) struct Role<'m> {
    pub(super) name: &'m str,
    pub(super) answer: &'m AuthRoleGetResponse,
}

/// The end of a range that has none.
const OPEN: &[u8] = b"\0";

impl Show for Role<'_> {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        put!(out, "Role {}\n", self.name);
        if self.name == "root" && self.answer.perm.is_empty() {
            put!(out, "KV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n");
            return;
        }
        for (title, granting) in [("Read", Type::Read), ("Write", Type::Write)] {
            put!(out, "KV {title}:\n");
            let of_title = |permission: &&Permission| {
                permission.perm_type() == granting || permission.perm_type() == Type::Readwrite
            };
            self.answer.perm.iter().filter(of_title).for_each(|each| permission(each, out));
        }
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.answer.header.as_ref(), &mut out);
        for permission in &self.answer.perm {
            put!(out, "\"PermType\" :  {}\n", permission.perm_type().as_str_name());
            put!(out, "\"Key\" : {}\n", quote(&permission.key));
            put!(out, "\"RangeEnd\" : {}\n", quote(&permission.range_end));
        }
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(message("AuthRoleGetResponse", self.answer))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

fn permission(permission: &Permission, out: &mut Vec<u8>) {
    let Permission { key, range_end, .. } = permission;
    put!(out, "\t");
    if range_end.is_empty() {
        out.extend(key);
        put!(out, "\n");
        return;
    }
    put!(out, "[");
    out.extend(key);
    put!(out, ", ");
    match &range_end[..] {
        OPEN => put!(out, "<open ended>"),
        end => {
            out.extend(end);
            put!(out, ")");
        }
    }
    if !key.is_empty() && super::keys::end_of_prefix(key) == range_end[..] {
        put!(out, " (prefix ");
        out.extend(key);
        put!(out, ")");
    }
    put!(out, "\n");
}

impl Show for AuthRoleListResponse {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        self.roles.iter().for_each(|role| put!(out, "{role}\n"));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        header(look, self.header.as_ref(), &mut out);
        put!(out, "\"Roles\" :");
        self.roles.iter().for_each(|role| put!(out, " {}", quote(role.as_bytes())));
        put!(out, "\n");
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        Some(message("AuthRoleListResponse", self))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}
