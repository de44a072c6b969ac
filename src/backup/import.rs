//! From etcd's database, or an export of ours, to the state of a new cluster.

use super::schema;
use crate::bolt::Database;
use crate::error::Fatal;
use crate::machine::{found, found_attachment, found_lease};
use crate::mvcc::versions::{attachments, take_in, take_in_compacted, take_in_mark};
use crate::pb::authpb::{Role, User};
use crate::pb::etcdserverpb::{AlarmMember, Member};
use crate::storage::{Engine, Space, WriteBatch};
use crate::types::Revision;
use prost::Message;
use std::collections::BTreeSet;

/// Bytes and records of one engine batch.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_RECORDS: usize = 1024;

/// What was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The present revision of the new state.
    pub revision: i64,
    pub compacted: Option<i64>,
    pub versions: u64,
    pub leases: u64,
}

/// Fills an empty engine with the database's content and the new cluster's members, and makes it
/// durable where the engine can. The state is complete only on success.
///
/// `bump` is added to the present revision, everything below the sum becomes compacted, and the sum is marked as etcd's
/// tool marks it.
///
/// # Errors
/// When the database is damaged or is not one of etcd's; the message says where.
pub fn import(
    database: &Database<'_>,
    engine: &dyn Engine,
    members: &[Member],
    bump: Option<u64>,
) -> Result<Imported, Fatal> {
    let buckets = database.buckets()?;
    for needed in [schema::KEY, schema::META] {
        if !buckets.iter().any(|bucket| bucket == needed) {
            return Err(Fatal::new(format!(
                "import database: it has no bucket \"{}\", so it is none of etcd's",
                needed.escape_ascii()
            )));
        }
    }
    let mut import = Import { database, engine, batch: WriteBatch::new(), bytes: 0 };
    let (latest, versions) = import.versions()?;
    let lease_ids = import.leases()?;
    import.attach(&lease_ids)?;
    import.auth()?;
    import.alarms()?;
    let compacted = import.compaction(latest, bump)?;
    let version = import.value(schema::CLUSTER, schema::CLUSTER_VERSION)?;
    let version = version.and_then(|version| String::from_utf8(version).ok());
    import.flush()?;
    found(&mut import.batch, members, version.as_deref());
    import.flush()?;
    engine.flush()?;
    let revision = latest.main.max(compacted.unwrap_or_default()).max(1);
    Ok(Imported { revision, compacted, versions, leases: lease_ids.len() as u64 })
}

struct Import<'a> {
    database: &'a Database<'a>,
    engine: &'a dyn Engine,
    batch: WriteBatch,
    /// Of the batch, about.
    bytes: usize,
}

impl Import<'_> {
    fn flush(&mut self) -> Result<(), Fatal> {
        self.bytes = 0;
        self.engine.write(std::mem::take(&mut self.batch))
    }

    fn flush_if_full(&mut self) -> Result<(), Fatal> {
        match self.bytes >= BATCH_BYTES || self.batch.len() >= BATCH_RECORDS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Walks one bucket; what goes wrong with a pair is told with the bucket's name.
    fn each(
        &mut self,
        bucket: &[u8],
        visit: &mut dyn FnMut(&mut Self, &[u8], &[u8]) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let database = self.database;
        database.walk(Some(bucket), &mut |_, key, value| {
            visit(self, key, value).map_err(|error| {
                Fatal::with(format!("import bucket \"{}\"", bucket.escape_ascii()), error)
            })?;
            self.bytes += key.len() + value.len();
            self.flush_if_full()
        })
    }

    fn value(&mut self, bucket: &[u8], wanted: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        let mut found = None;
        self.each(bucket, &mut |_, key, value| {
            if key == wanted {
                found = Some(value.to_vec());
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Takes all versions in; returns the last revision and their number.
    fn versions(&mut self) -> Result<(Revision, u64), Fatal> {
        let (mut latest, mut versions) = (Revision::default(), 0);
        self.each(schema::KEY, &mut |import, key, value| {
            let version = schema::decode_version(key, value)?;
            if let Some((revision, _)) = schema::decode_revision_key(key) {
                // The database's order is that of revisions, except for a tombstone's mark.
                if revision <= latest && versions > 0 {
                    return Err(Fatal::new(format!("revision {revision} comes twice")));
                }
                latest = revision;
            }
            if let Some(version) = version {
                take_in(&mut import.batch, &version)?;
                versions += 1;
            } else {
                // The last one is the one that etcd keeps.
                take_in_mark(&mut import.batch, latest);
            }
            Ok(())
        })?;
        self.flush()?;
        Ok((latest, versions))
    }

    fn leases(&mut self) -> Result<BTreeSet<i64>, Fatal> {
        let mut ids = BTreeSet::new();
        self.each(schema::LEASE, &mut |import, key, value| {
            let lease = schema::Lease::decode(value).map_err(|e| Fatal::with("decode lease", e))?;
            if lease.id.to_be_bytes() != key || lease.id == 0 {
                return Err(Fatal::new(format!(
                    "the lease at \"{}\" has id {:x}",
                    key.escape_ascii(),
                    lease.id
                )));
            }
            found_lease(&mut import.batch, lease.id, lease.ttl);
            ids.insert(lease.id);
            Ok(())
        })?;
        Ok(ids)
    }

    /// Attaches each key to the lease that its newest version names, if there is that lease.
    fn attach(&mut self, leases: &BTreeSet<i64>) -> Result<(), Fatal> {
        let engine = self.engine;
        attachments(engine, &mut |key, lease| {
            if leases.contains(&lease) {
                found_attachment(&mut self.batch, lease, key);
                self.bytes += key.len();
            }
            self.flush_if_full()
        })
    }

    fn auth(&mut self) -> Result<(), Fatal> {
        self.each(schema::AUTH, &mut |import, key, value| {
            match (key, value) {
                (schema::AUTH_ENABLED, [1]) => {
                    import.batch.put(Space::Auth, schema::OWN_AUTH_ENABLED, vec![1]);
                }
                (schema::AUTH_REVISION, first)
                    if first == schema::AUTH_REVISION_FIRST.to_be_bytes() => {}
                (schema::AUTH_REVISION, revision) if revision.len() == 8 => {
                    import.batch.put(Space::Auth, schema::OWN_AUTH_REVISION, revision.to_vec());
                }
                (schema::AUTH_REVISION, _) => return Err(Fatal::new("authRevision is no number")),
                _ => {}
            }
            Ok(())
        })?;
        self.each(schema::AUTH_USERS, &mut |import, key, value| {
            let user = User::decode(value).map_err(|e| Fatal::with("decode user", e))?;
            import.named(schema::OWN_USER, key, value, &user.name)
        })?;
        self.each(schema::AUTH_ROLES, &mut |import, key, value| {
            let role = Role::decode(value).map_err(|e| Fatal::with("decode role", e))?;
            import.named(schema::OWN_ROLE, key, value, &role.name)
        })
    }

    fn named(&mut self, prefix: &[u8], key: &[u8], value: &[u8], name: &[u8]) -> Result<(), Fatal> {
        if key != name || std::str::from_utf8(name).is_err() {
            let (key, name) = (key.escape_ascii(), name.escape_ascii());
            return Err(Fatal::new(format!("the record of \"{key}\" is that of \"{name}\"")));
        }
        self.batch.put(Space::Auth, [prefix, key].concat(), value.to_vec());
        Ok(())
    }

    fn alarms(&mut self) -> Result<(), Fatal> {
        self.each(schema::ALARM, &mut |import, key, _| {
            let alarm = AlarmMember::decode(key).map_err(|e| Fatal::with("decode alarm", e))?;
            let own = [&alarm.alarm.to_be_bytes()[..], &alarm.member_id.to_be_bytes()].concat();
            import.batch.put(Space::Alarm, own, Vec::new());
            Ok(())
        })
    }

    /// Notes the compacted revision: the database's own, or the bumped one. One that was still
    /// being carried out counts, and goes on at the first start.
    fn compaction(&mut self, latest: Revision, bump: Option<u64>) -> Result<Option<i64>, Fatal> {
        let mut compacted = None;
        for name in [schema::COMPACTION_SCHEDULED, schema::COMPACTION_FINISHED] {
            let Some(stored) = self.value(schema::META, name)? else { continue };
            match schema::decode_revision_key(&stored) {
                Some((revision, false)) => compacted = compacted.max(Some(revision.main)),
                _ => {
                    let name = name.escape_ascii();
                    return Err(Fatal::new(format!("import database: {name} is no revision")));
                }
            }
        }
        if let Some(bump) = bump {
            let present = latest.main.max(compacted.unwrap_or_default()).max(1);
            let bumped = i64::try_from(bump).ok().and_then(|bump| present.checked_add(bump));
            // Room for as many writes again as a store can ever have had.
            let Some(bumped) = bumped.filter(|bumped| *bumped < i64::MAX / 2) else {
                return Err(Fatal::new(format!(
                    "bump revision {present} by {bump}: it is too much"
                )));
            };
            compacted = Some(bumped);
            take_in_mark(&mut self.batch, Revision::new(bumped, 0));
        }
        if let Some(compacted) = compacted {
            take_in_compacted(&mut self.batch, compacted);
        }
        Ok(compacted)
    }
}
