//! The store of the scheduler's simulation: transactions, leases and history as etcd has them.

use quoin::scheduler::store::{Change, Commit, Compare, Kv, Op, Outcome, Txn};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Store {
    pub kvs: BTreeMap<String, Kv>,
    pub revision: i64,
    /// One for each revision, from the first.
    pub history: Vec<Commit>,
    /// Time to live, and when it ends, in milliseconds.
    leases: BTreeMap<i64, (u64, u64)>,
}

impl Store {
    pub fn txn(&mut self, txn: &Txn) -> Outcome {
        if !txn.compares.iter().all(|compare| self.holds(compare)) {
            let found = txn.otherwise.iter().map(|op| match op {
                Op::Get(key) => self.kvs.get(key).cloned(),
                Op::Put { .. } | Op::Delete(_) | Op::DeleteRange(..) => {
                    panic!("a refused transaction only reads")
                }
            });
            return Outcome::Refused { revision: self.revision, found: found.collect() };
        }
        let dead = |op: &Op| matches!(op, Op::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease));
        if txn.then.iter().any(dead) {
            // etcd answers with an error: nothing has happened.
            return Outcome::Refused { revision: self.revision, found: Vec::new() };
        }
        let mut written = BTreeSet::new();
        let mut changes = Vec::new();
        for op in &txn.then {
            match op {
                Op::Put { key, value, lease } => {
                    assert!(written.insert(key), "{key} is written twice in one transaction");
                    changes.push(self.put(key, value.clone(), *lease));
                }
                Op::Delete(key) => {
                    assert!(written.insert(key), "{key} is written twice in one transaction");
                    if self.kvs.remove(key).is_some() {
                        changes.push(Change::Delete { key: key.clone() });
                    }
                }
                Op::DeleteRange(first, end) => {
                    let range = self.kvs.range(first.clone()..end.clone());
                    for key in range.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
                        assert!(!written.contains(&key), "{key} is written and deleted");
                        self.kvs.remove(&key);
                        changes.push(Change::Delete { key });
                    }
                }
                Op::Get(_) => {}
            }
        }
        assert!(txn.compares.len() + txn.then.len() <= 128 + 8, "a transaction is too large");
        self.commit(changes);
        Outcome::Committed { revision: self.revision }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let find = |key: &String| self.kvs.get(key);
        match compare {
            Compare::Absent(key) => find(key).is_none(),
            Compare::CreatedAt(key, at) => find(key).map_or(0, |kv| kv.create_revision) == *at,
            Compare::NotCreatedAt(key, at) => find(key).map_or(0, |kv| kv.create_revision) != *at,
            Compare::ChangedAt(key, at) => find(key).map_or(0, |kv| kv.mod_revision) == *at,
        }
    }

    fn put(&mut self, key: &str, value: Vec<u8>, lease: i64) -> Change {
        let revision = self.revision + 1;
        let kv = self.kvs.entry(key.to_owned()).or_insert_with(|| Kv {
            key: key.to_owned(),
            create_revision: revision,
            ..Default::default()
        });
        kv.value = value;
        kv.mod_revision = revision;
        kv.lease = lease;
        Change::Put(kv.clone())
    }

    fn commit(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.history.push(Commit { revision: self.revision, changes });
        }
    }

    pub fn grant(&mut self, now: u64, ttl: u64) -> i64 {
        let id = self.leases.keys().last().map_or(1, |last| last + 1);
        self.leases.insert(id, (ttl, now + ttl));
        id
    }

    pub fn keep_alive(&mut self, now: u64, lease: i64) -> bool {
        match self.leases.get_mut(&lease) {
            Some((ttl, ends)) => {
                *ends = now + *ttl;
                true
            }
            None => false,
        }
    }

    pub fn revoke(&mut self, lease: i64) {
        // Numbers are not used again.
        if let Some(entry) = self.leases.get_mut(&lease) {
            *entry = (0, 0);
        }
        self.expire(1);
    }

    /// Ends leases whose time has come, each in a revision of its own.
    pub fn expire(&mut self, now: u64) {
        let ended = self.leases.iter().filter(|(_, (_, ends))| *ends < now);
        let ended: Vec<i64> = ended.map(|(lease, _)| *lease).collect();
        for lease in ended {
            let is_last = self.leases.keys().last() == Some(&lease);
            // The highest is kept as a mark, so that its number does not come again.
            if is_last {
                self.leases.insert(lease + 1, (u64::MAX / 4, u64::MAX / 2));
            }
            self.leases.remove(&lease);
            let keys = self.kvs.values().filter(|kv| kv.lease == lease);
            let keys: Vec<String> = keys.map(|kv| kv.key.clone()).collect();
            let changes = keys.into_iter().map(|key| {
                self.kvs.remove(&key);
                Change::Delete { key }
            });
            let changes = changes.collect();
            self.commit(changes);
        }
    }

    pub fn below(&self, prefix: &str) -> impl Iterator<Item = &Kv> {
        let range = self.kvs.range(prefix.to_owned()..);
        let prefix = prefix.to_owned();
        range.take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, kv)| kv)
    }

    pub fn commits_after(&self, revision: i64) -> &[Commit] {
        &self.history[revision as usize..]
    }
}
