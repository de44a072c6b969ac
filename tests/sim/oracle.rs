//! What must hold between members at every step, whatever the clients see.

use super::member::Running;
use super::rights::Rights;
use crate::checker;
use prost::Message;
use quoin::mvcc::key::{log_revision_in, revision_in};
use quoin::pb::etcdserverpb::{RangeRequest, RangeResponse};
use quoin::pb::mvccpb::Event;
use quoin::storage::{Flow, Space};
use quoin::types::{Index, Term};
use raft::eraftpb::EntryType;
use raft::{GetEntriesContext, Storage};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// States are compared at applied indexes that are multiples of this.
const COMPARED_EVERY: Index = 8;

#[derive(Default)]
pub struct Oracle {
    /// At most one leader for each term.
    leaders: BTreeMap<Term, u64>,
    /// Term and digest of each committed entry.
    committed: BTreeMap<Index, (Term, u64)>,
    /// The last entry known to be committed in or before a term, by that term.
    committed_in: BTreeMap<Term, Index>,
    /// The events of each revision.
    commits: BTreeMap<i64, checker::Commit>,
    /// What they make together, as far as they are known without a gap.
    store: checker::Store,
    /// Digest of the state at an applied index.
    states: BTreeMap<Index, (u64, u64)>,
    /// None is kept in worlds without auth.
    pub rights: Rights,
    with_auth: bool,
}

impl Oracle {
    pub fn new(with_auth: bool) -> Self {
        Self { with_auth, ..Self::default() }
    }

    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// Looks at a member after one of its rounds.
    pub fn look(&mut self, id: u64, running: &mut Running) -> Result<(), String> {
        let status = running.replica.status();
        self.check_committed(id, running, status.commit_index, status.term)?;
        if self.with_auth {
            self.rights.check_replies(&self.store).map_err(|e| format!("member {id}: {e}"))?;
        }
        if status.is_leader {
            let leader = *self.leaders.entry(status.term).or_insert(id);
            if leader != id {
                return Err(format!("{leader} and {id} both lead in term {}", status.term));
            }
            self.check_leader(id, running, status.last_index, status.term)?;
        }
        let applied = status.applied_index;
        if applied != running.compared && applied.is_multiple_of(COMPARED_EVERY) {
            running.compared = applied;
            self.check_state(id, running)?;
        }
        Ok(())
    }

    /// Committed entries are the same everywhere, and stay.
    fn check_committed(
        &mut self,
        id: u64,
        running: &mut Running,
        commit: Index,
        member_term: Term,
    ) -> Result<(), String> {
        let log = running.replica.log();
        let read = |e: raft::Error| format!("member {id}: {e}");
        let (first, last) = (log.first_index().map_err(read)?, log.last_index().map_err(read)?);
        let until = commit.min(last);
        if running.checked + 1 < first {
            // A snapshot brought it here; its term must be that of the entry.
            let term = log.term(first - 1).map_err(read)?;
            let known = self.committed.get(&(first - 1)).map(|(term, _)| *term);
            if known.is_some_and(|known| known != term) {
                return Err(format!("member {id} has term {term} at {}, not {known:?}", first - 1));
            }
            running.checked = first - 1;
        }
        if until <= running.checked {
            return Ok(());
        }
        let context = GetEntriesContext::empty(false);
        let entries = log.entries(running.checked + 1, until + 1, None, context).map_err(read)?;
        for entry in entries {
            if self.with_auth {
                let is_change = entry.get_entry_type() != EntryType::EntryNormal;
                let command = if is_change { &entry.context } else { &entry.data };
                self.rights.entry(entry.index, command)?;
            }
            let mut hasher = DefaultHasher::new();
            (&entry.data, &entry.context).hash(&mut hasher);
            let found = (entry.term, hasher.finish());
            let known = *self.committed.entry(entry.index).or_insert(found);
            if known != found {
                return Err(format!(
                    "member {id} has another committed entry {} than the others: term {} instead \
                     of {}",
                    entry.index, found.0, known.0
                ));
            }
        }
        running.checked = until;
        let known = self.committed_in.entry(member_term).or_default();
        *known = until.max(*known);
        Ok(())
    }

    /// A leader has every entry that was committed in an earlier term.
    fn check_leader(
        &self,
        id: u64,
        running: &Running,
        last: Index,
        term: Term,
    ) -> Result<(), String> {
        let earlier = self.committed_in.range(..term).map(|(_, index)| *index).max();
        let Some(known) = earlier else { return Ok(()) };
        if last < known {
            return Err(format!("leader {id} of term {term} ends at {last}, {known} is committed"));
        }
        let expected = self.committed.get(&known).map(|(term, _)| *term);
        match running.replica.log().term(known) {
            Ok(found) if Some(found) != expected => {
                Err(format!("leader {id} has term {found} at committed {known}, not {expected:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Applied commits are the same everywhere, and each member applies every revision once.
    pub fn commit(
        &mut self,
        id: u64,
        running: &mut Running,
        commit: quoin::mvcc::Commit,
    ) -> Result<(), String> {
        let revision = commit.revision;
        if revision != running.revision + 1 {
            return Err(format!("member {id} applies {revision} after {}", running.revision));
        }
        running.revision = revision;
        self.note(id, commit)
    }

    fn note(&mut self, id: u64, commit: quoin::mvcc::Commit) -> Result<(), String> {
        let events = commit.events.into_iter().map(|event| Event { prev_kv: None, ..event });
        let commit = checker::Commit { revision: commit.revision, events: events.collect() };
        match self.commits.get(&commit.revision) {
            Some(known) if *known != commit => {
                Err(format!("member {id} applied {commit:?}, others {known:?}"))
            }
            Some(_) => Ok(()),
            None => {
                self.commits.insert(commit.revision, commit);
                while let Some(next) = self.commits.get(&(self.store.revision() + 1)) {
                    self.store.commit(next).map_err(|e| format!("{e:?}"))?;
                }
                Ok(())
            }
        }
    }

    /// What a member finds applied when it starts, in case it died before it could tell of it.
    pub fn found(&mut self, id: u64, running: &Running) -> Result<(), String> {
        let mut next = self.commits.last_key_value().map_or(2, |(revision, _)| revision + 1);
        while next <= running.view.revision() {
            let history = running.view.history(next, &|_| true, usize::MAX, usize::MAX);
            match history.map_err(|e| format!("member {id}: {e}"))? {
                Ok(history) => {
                    next = history.next;
                    history.commits.into_iter().try_for_each(|commit| self.note(id, commit))?;
                }
                Err(_compacted) => break,
            }
        }
        Ok(())
    }

    /// All commits from the first one on; `None` when some were never seen.
    pub fn history(&self) -> Option<Vec<checker::Commit>> {
        let is_whole =
            self.commits.keys().zip(2..).all(|(revision, expected)| *revision == expected);
        is_whole.then(|| self.commits.values().cloned().collect())
    }

    /// The whole state is the same at the same applied index, and what the commits made it.
    pub fn check_state(&mut self, id: u64, running: &Running) -> Result<(), String> {
        let machine = running.replica.machine();
        let shown = everything(running).map_err(|e| format!("member {id}: {e}"))?;
        let revision = machine.view().revision();
        if revision <= self.store.revision() {
            let expected = self.store.range(&[0], &[0], revision);
            if shown.kvs != expected {
                return Err(format!(
                    "member {id} shows {:?} at revision {revision}, not {expected:?}",
                    shown.kvs
                ));
            }
        }
        check_layout(running).map_err(|e| format!("member {id}: {e}"))?;
        if self.with_auth {
            let checked = self.rights.check_state(machine.applied_index(), machine.auth());
            checked.map_err(|e| format!("member {id}: {e}"))?;
        }
        let digest = digest(running, &shown);
        let (known, by) = *self.states.entry(machine.applied_index()).or_insert((digest, id));
        if known != digest {
            return Err(format!(
                "members {by} and {id} differ in their state at index {}",
                machine.applied_index()
            ));
        }
        Ok(())
    }
}

fn everything(running: &Running) -> Result<RangeResponse, String> {
    let everything =
        RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let answer = running.view.range(&everything).map_err(|e| e.to_string())?;
    answer.map_err(|e| format!("{e:?}"))
}

/// Every stored version has its entry in the log of changes, or it is never removed.
fn check_layout(running: &Running) -> Result<(), String> {
    let engine = running.replica.machine().engine();
    let mut logged = BTreeSet::new();
    let mut orphan = None;
    let scanned = engine.scan(Space::Log, &[], None, &mut |key, _| {
        logged.insert(log_revision_in(key));
        Flow::Next
    });
    scanned.map_err(|e| e.to_string())?;
    let scanned = engine.scan(Space::Kv, &[], None, &mut |key, _| {
        let revision = revision_in(key);
        if !logged.contains(&revision) {
            orphan = Some(revision);
        }
        Flow::Next
    });
    scanned.map_err(|e| e.to_string())?;
    match orphan {
        Some(revision) => Err(format!("a version of {revision} is not in the log of changes")),
        None => Ok(()),
    }
}

/// A digest of all replicated state that can be seen.
fn digest(running: &Running, shown: &RangeResponse) -> u64 {
    let machine = running.replica.machine();
    let mut hasher = DefaultHasher::new();
    let view = machine.view();
    (view.revision(), view.compacted(), machine.applied_term()).hash(&mut hasher);
    shown.encode_to_vec().hash(&mut hasher);
    for (id, ttl) in machine.leases().iter() {
        (id, ttl).hash(&mut hasher);
        for key in machine.leases().keys(id).into_iter().flatten() {
            key.hash(&mut hasher);
        }
    }
    (machine.cluster_version(), machine.downgrade_target()).hash(&mut hasher);
    for member in machine.members().all().values() {
        member.encode_to_vec().hash(&mut hasher);
    }
    machine.members().removed().hash(&mut hasher);
    machine.configuration().encode_to_vec().hash(&mut hasher);
    hasher.finish()
}
