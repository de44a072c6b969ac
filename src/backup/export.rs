//! From our state to etcd's database.

use super::schema;
use crate::bolt::{Sink, Writer};
use crate::error::Fatal;
use crate::machine::Capture;
use crate::mvcc::versions::{MARK, decode_mark};
use crate::pb::etcdserverpb::{AlarmMember, Member};
use crate::storage::Space;
use crate::types::{MemberId, Revision};
use prost::Message;

/// What is left to do for the owner of the file.
pub struct Exported {
    /// Belongs at the beginning of the file, over what was written there.
    pub head: Vec<u8>,
    /// Bytes of the file.
    pub len: u64,
}

/// The storage version of a database made from a state whose members have not yet agreed on one.
const STORAGE_VERSION: &str = "3.7.0";

/// The storage version that an export of the capture has.
pub fn version(capture: &Capture) -> &str {
    capture.cluster_version().unwrap_or(STORAGE_VERSION)
}

/// Writes the captured state into `sink`. Memory needed is independent of its size.
///
/// # Errors
/// The sink's; when the state cannot be read or was replaced meanwhile.
pub fn export(capture: &Capture, sink: &mut Sink<'_>) -> Result<Exported, Fatal> {
    let mut pass = |page: &[u8]| sink(page);
    let mut writer = Writer::new(&mut pass)?;
    alarms(capture, &mut writer)?;
    auth(capture, &mut writer)?;
    writer.begin_bucket(schema::CLUSTER)?;
    if let Some(version) = capture.cluster_version() {
        writer.put(schema::CLUSTER_VERSION, version.as_bytes())?;
    }
    versions(capture, &mut writer)?;
    leases(capture, &mut writer)?;
    members(capture, &mut writer)?;
    meta(capture, &mut writer)?;
    if !capture.is_intact() {
        return Err(Fatal::new("export state: it was replaced meanwhile"));
    }
    let (head, len) = writer.finish()?;
    Ok(Exported { head, len })
}

fn alarms(capture: &Capture, writer: &mut Writer<'_>) -> Result<(), Fatal> {
    let mut alarms = Vec::new();
    for (key, _) in capture.records(Space::Alarm) {
        let alarm = key.split_first_chunk::<4>().and_then(|(alarm, member)| {
            let member_id = u64::from_be_bytes(member.try_into().ok()?);
            Some(AlarmMember { member_id, alarm: i32::from_be_bytes(*alarm) })
        });
        alarms.push(alarm.ok_or_else(|| damaged("an alarm"))?.encode_to_vec());
    }
    alarms.sort();
    writer.begin_bucket(schema::ALARM)?;
    for alarm in alarms.iter().filter(|alarm| !alarm.is_empty()) {
        writer.put(alarm, &[])?;
    }
    Ok(())
}

fn auth(capture: &Capture, writer: &mut Writer<'_>) -> Result<(), Fatal> {
    let records = || capture.records(Space::Auth);
    let one = |wanted: &[u8]| records().find(|(key, _)| *key == wanted).map(|(_, value)| value);
    let is_enabled = one(schema::OWN_AUTH_ENABLED).is_some();
    let first_revision = schema::AUTH_REVISION_FIRST.to_be_bytes();
    writer.begin_bucket(schema::AUTH)?;
    if is_enabled {
        writer.put(schema::AUTH_ENABLED, &[1])?;
    }
    let revision = one(schema::OWN_AUTH_REVISION).map_or(&first_revision[..], |stored| stored);
    writer.put(schema::AUTH_REVISION, revision)?;
    for (bucket, prefix) in
        [(schema::AUTH_ROLES, schema::OWN_ROLE), (schema::AUTH_USERS, schema::OWN_USER)]
    {
        writer.begin_bucket(bucket)?;
        for (key, value) in records() {
            if let Some(name) = key.strip_prefix(prefix) {
                writer.put(name, value)?;
            }
        }
    }
    Ok(())
}

fn versions(capture: &Capture, writer: &mut Writer<'_>) -> Result<(), Fatal> {
    writer.begin_bucket(schema::KEY)?;
    let mut records = capture.records(Space::Meta);
    let mut mark = match records.find(|(key, _)| *key == MARK) {
        Some((_, stored)) => Some(decode_mark(stored)?),
        None => None,
    };
    let mut versions = capture.versions();
    while versions.next_piece(capture.engine(), &mut |version| {
        if let Some(mark) = mark.take_if(|mark| *mark < version.revision) {
            writer.put(&schema::revision_key(mark), &[])?;
        }
        let (key, value) = schema::encode_version(&version);
        writer.put(&key, &value)
    })? {}
    match mark {
        Some(mark) => writer.put(&schema::revision_key(mark), &[]),
        None => Ok(()),
    }
}

fn leases(capture: &Capture, writer: &mut Writer<'_>) -> Result<(), Fatal> {
    writer.begin_bucket(schema::LEASE)?;
    for (key, value) in capture.records(Space::Lease) {
        let (id, ttl) = number(key).zip(number(value)).ok_or_else(|| damaged("a lease"))?;
        let lease = schema::Lease { id, ttl, remaining_ttl: 0 };
        writer.put(key, &lease.encode_to_vec())?;
    }
    Ok(())
}

fn number(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.try_into().ok()?))
}

fn members(capture: &Capture, writer: &mut Writer<'_>) -> Result<(), Fatal> {
    let (mut members, mut removed) = (Vec::new(), Vec::new());
    for (id, value) in capture.records(Space::Member) {
        // An id that was a member's and never will be again.
        if value.is_empty() {
            let id = number(id).ok_or_else(|| Fatal::new("read members: a key is damaged"))?;
            removed.push(MemberId(id.cast_unsigned()).to_string());
            continue;
        }
        let member = Member::decode(&value[..]).map_err(|e| Fatal::with("read members", e))?;
        members.push(schema::encode_member(&member)?);
    }
    // By their ids as text.
    members.sort();
    writer.begin_bucket(schema::MEMBERS)?;
    for (key, value) in members {
        writer.put(&key, &value)?;
    }
    removed.sort();
    writer.begin_bucket(schema::MEMBERS_REMOVED)?;
    for id in removed {
        writer.put(id.as_bytes(), schema::REMOVED)?;
    }
    Ok(())
}

fn meta(capture: &Capture, writer: &mut Writer<'_>) -> Result<(), Fatal> {
    writer.begin_bucket(schema::META)?;
    let configuration = &capture.configuration;
    let conf_state = schema::encode_conf_state(&configuration.voters, &configuration.learners)?;
    writer.put(schema::CONF_STATE, &conf_state)?;
    writer.put(schema::CONSISTENT_INDEX, &capture.index.to_be_bytes())?;
    let compacted = capture.compacted();
    if compacted >= 0 {
        let compacted = schema::revision_key(Revision::new(compacted, 0));
        writer.put(schema::COMPACTION_FINISHED, &compacted)?;
        writer.put(schema::COMPACTION_SCHEDULED, &compacted)?;
    }
    writer.put(schema::STORAGE_VERSION, version(capture).as_bytes())?;
    writer.put(schema::TERM, &capture.term.to_be_bytes())
}

fn damaged(what: &str) -> Fatal {
    Fatal::new(format!("export state: the record of {what} is damaged"))
}
