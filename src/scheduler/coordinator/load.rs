//! A new leader: builds itself from what the store holds at one revision.

use super::{Coordinator, Due, OpenedRun, Settings, Timer, people};
use crate::planted::{self, Bug};
use crate::scheduler::keys;
use crate::scheduler::planner::{Planner, RunNo};
use crate::scheduler::store::Kv;
use std::collections::{BTreeMap, BTreeSet};

impl Coordinator {
    /// Takes over. `leader` is its key and the revision of its last change; `kvs` are all keys below
    /// `PREFIX` and `ENVIRONMENTS` at `revision`, which is not older than that, but for runs that are
    /// not open. Commits follow from the next revision on.
    pub fn load(
        now: u64,
        settings: Settings,
        leader: (String, i64),
        kvs: &[Kv],
        revision: i64,
    ) -> Self {
        let checkpoint = settings.checkpoint;
        let planner = Planner::new();
        let workers = BTreeMap::from([(keys::PEOPLE.to_owned(), people(&planner))]);
        let mut new = Self {
            settings,
            leader,
            planner,
            runs: BTreeMap::new(),
            reading: BTreeMap::new(),
            unread: BTreeSet::new(),
            run_names: BTreeMap::new(),
            workers,
            claims: BTreeMap::new(),
            claim_keys: BTreeMap::new(),
            tags: BTreeMap::new(),
            timers: BTreeSet::from([(now + checkpoint, Timer::Books)]),
            sent: BTreeMap::new(),
            next_txn: 0,
            next_claim: 0,
            revision,
            requests: Vec::new(),
            due: Due::Nothing,
            books: Default::default(),
            over: Default::default(),
            drafts: BTreeMap::new(),
            histories: BTreeMap::new(),
            latest: BTreeMap::new(),
            resting_until: 0,
            counts: Default::default(),
        };
        let below = |prefix: &'static str| kvs.iter().filter(move |kv| kv.key.starts_with(prefix));
        new.load_settings(kvs);
        for kv in below(keys::WORKERS) {
            new.worker_there(now, kv);
        }
        let mut open: Vec<&Kv> = below(keys::OPEN).collect();
        open.sort_by_key(|kv| kv.create_revision);
        let mut started = Vec::new();
        for kv in open {
            let run = &kv.key[keys::OPEN.len()..];
            if let Some(number) = new.add_run(now, run, OpenedRun::read(run, kvs), kvs) {
                started.push((run, number));
            }
        }
        for kv in below(keys::CLAIMS) {
            if planted::has(Bug::ClaimLostAtLeaderChange) && !new.is_claimer_there(kv) {
                continue;
            }
            new.restore_claim(kv);
        }
        for kv in below(keys::TAGS).filter(|_| !planted::has(Bug::TagGivenTwice)) {
            new.tag_held(now, kv);
        }
        new.begin(now, &started);
        for key in new.claims.keys().cloned().collect::<Vec<_>>() {
            new.maybe_reclaim(now, &key);
        }
        new.end_mutes(now);
        new.look_at_drafts(now);
        new
    }

    fn begin(&mut self, now: u64, runs: &[(&str, RunNo)]) {
        for (run, number) in runs {
            self.planner.start_run(now, *number);
            self.apply_control(now, run);
        }
    }

    /// What was set, and what is known of the past.
    fn load_settings(&mut self, kvs: &[Kv]) {
        for kv in kvs {
            let key = kv.key.as_str();
            if key.starts_with(keys::STATS) {
                self.load_history(kv);
            } else if key.starts_with(keys::ENDED) {
                self.run_ended(key);
            } else if let Some(run) = key.strip_prefix(keys::ROLLS) {
                self.schedule_roll(run);
            } else {
                self.settings_changed(key, Some(kv));
            }
        }
    }
}
