//! Definitions of runs that do not exist: a submit that takes several transactions writes them first,
//! and one that dies on the way leaves them behind.

use super::{Coordinator, Request, Sent, Timer};
use crate::scheduler::keys;
use crate::scheduler::store::{Compare, Kv, Op, Txn};
use std::collections::BTreeMap;

/// A run that has definitions but does not exist, or not yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub run: String,
    /// The definitions that were written last, and when.
    pub key: String,
    pub revision: i64,
}

/// Finds them among all keys below `RUNS`.
pub fn drafts(kvs: &[Kv]) -> Vec<Draft> {
    let mut found: BTreeMap<&str, &Kv> = BTreeMap::new();
    for kv in kvs {
        let rest = kv.key.strip_prefix(keys::RUNS).unwrap_or_default();
        if let Some((run, part)) = rest.split_once('/')
            && part.starts_with("def/")
        {
            let last = found.entry(run).or_insert(kv);
            if kv.mod_revision > last.mod_revision {
                *last = kv;
            }
        }
    }
    for kv in kvs {
        found.remove(kv.key.strip_prefix(keys::RUNS).unwrap_or_default());
    }
    let drafts = found.into_iter().map(|(run, kv)| Draft {
        run: run.to_owned(),
        key: kv.key.clone(),
        revision: kv.mod_revision,
    });
    drafts.collect()
}

impl Coordinator {
    /// Asks which there are, now and again.
    pub(super) fn look_at_drafts(&mut self, now: u64) {
        self.timers.insert((now + self.settings.abandoned, Timer::Drafts));
        self.requests.push(Request::ReadDrafts);
    }

    /// What `drafts` has found, in answer to `Request::ReadDrafts`. Those that are as they were the last
    /// time are removed, unless they change or begin to exist meanwhile.
    pub fn drafts_read(&mut self, found: Vec<Draft>) {
        let before = std::mem::take(&mut self.drafts);
        for Draft { run, key, revision } in found {
            if before.get(&run) == Some(&revision) {
                let compares =
                    vec![Compare::Absent(keys::run(&run)), Compare::ChangedAt(key, revision)];
                let then = vec![Op::delete_all(keys::definition_packs(&run))];
                self.send(Sent::Other, Txn { compares, then, ..Default::default() });
            }
            self.drafts.insert(run, revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::coordinator::Settings;

    fn kv(key: &str, revision: i64) -> Kv {
        let (create_revision, mod_revision) = (revision, revision);
        Kv { key: format!("{}{key}", keys::RUNS), create_revision, mod_revision, ..Kv::default() }
    }

    #[test]
    fn drafts_are_definitions_without_a_run() {
        let kvs = [
            kv("a", 9),
            kv("a-b/def/0000000000", 3),
            kv("a-b/def/0000000900", 5),
            kv("a-b/def/0000000100", 4),
            kv("a/def/0000000000", 8),
            kv("a/status", 10),
            kv("gone/status", 2),
        ];
        let key = kvs[2].key.clone();
        assert_eq!(drafts(&kvs), [Draft { run: "a-b".into(), key, revision: 5 }]);
    }

    /// What is deleted, of the requests of a coordinator.
    fn removals(requests: Vec<Request>) -> Vec<Txn> {
        let txns = requests.into_iter().filter_map(|request| match request {
            Request::Try(_, txn) => Some(txn),
            _ => None,
        });
        txns.filter(|txn| txn.then.iter().any(|op| matches!(op, Op::DeleteRange(..)))).collect()
    }

    #[test]
    fn a_submit_that_died_is_removed_when_nothing_has_changed_for_long() {
        let settings = Settings::default();
        let hour = settings.abandoned;
        let leader = (keys::leader(1), 7);
        let mut coordinator = Coordinator::load(1_000, settings, leader, &[], 7);
        let kvs = [kv("dead/def/0000000000", 3), kv("slow/def/0000000000", 4)];
        assert!(coordinator.work(1_000).contains(&Request::ReadDrafts));
        coordinator.drafts_read(drafts(&kvs));
        assert_eq!(removals(coordinator.work(1_001)), []);
        assert!(coordinator.next_timer().is_some_and(|at| at <= 1_000 + hour));

        coordinator.tick(999 + hour);
        assert!(!coordinator.work(999 + hour).contains(&Request::ReadDrafts));
        coordinator.tick(1_000 + hour);
        assert!(coordinator.work(1_000 + hour).contains(&Request::ReadDrafts));
        // One goes on, and one begins.
        let kvs = [
            kvs[0].clone(),
            kvs[1].clone(),
            kv("slow/def/0000000100", 9),
            kv("new/def/0000000000", 10),
        ];
        coordinator.drafts_read(drafts(&kvs));
        let removals = removals(coordinator.work(1_001 + hour));
        let [txn] = &removals[..] else { panic!("{removals:?}") };
        assert_eq!(txn.then, [Op::delete_all(keys::definition_packs("dead"))]);
        // Not if it is there now, nor if its submit goes on, nor by a leader that is none any more.
        for compare in [
            Compare::ChangedAt(keys::leader(1), 7),
            Compare::Absent(keys::run("dead")),
            Compare::ChangedAt(keys::definitions("dead", 0), 3),
        ] {
            assert!(txn.compares.contains(&compare), "{compare:?}");
        }
    }
}
