//! Leases: which commits their ends explain, and what they promise to their holders.

use super::facts::Facts;
use super::{History, Operation, Outcome, Request, Response, Rule, Store, Violation};
use bytes::Bytes;
use quoin::pb::mvccpb::Event;
use quoin::pb::mvccpb::event::EventType;
use std::collections::BTreeSet;

/// Whether a commit can be the end of a lease: revoked by a client, or expired in time.
pub fn explains(history: &History, facts: &Facts, store: &Store, revision: i64) -> bool {
    let Some(id) = ended_by(store, revision) else { return false };
    let seen = facts.first_seen(revision);
    let revoked = revokes(history, id).any(|operation| {
        !matches!(operation.outcome, Outcome::Refused(..)) && operation.invoked <= seen
    });
    revoked || (facts.is_granted(id, seen) && facts.alive_until(id) <= seen)
}

/// The lease whose keys are exactly what a commit deletes.
fn ended_by(store: &Store, revision: i64) -> Option<i64> {
    let events = store.events(revision)?;
    let is_delete = |event: &Event| event.r#type() == EventType::Delete;
    if !events.iter().all(is_delete) {
        return None;
    }
    let deleted: Vec<Bytes> =
        events.iter().filter_map(|event| Some(event.kv.as_ref()?.key.clone())).collect();
    let id = store.get(deleted.first()?, revision - 1)?.lease;
    (id != 0 && deleted == attached(store, id, revision - 1)).then_some(id)
}

/// In the order of the keys, as the end of a lease deletes them.
fn attached(store: &Store, id: i64, revision: i64) -> Vec<Bytes> {
    let all = store.range(&[0], &[0], revision);
    all.into_iter().filter(|kv| kv.lease == id).map(|kv| kv.key).collect()
}

fn revokes(history: &History, id: i64) -> impl Iterator<Item = &Operation> {
    history.operations.iter().filter(
        move |operation| matches!(&operation.request, Request::LeaseRevoke(r) if r.id == id),
    )
}

pub fn check(history: &History, facts: &Facts, store: &Store) -> Vec<Violation> {
    let mut violations = vec![];
    let mut ended: BTreeSet<i64> = BTreeSet::new();
    for commit in &history.commits {
        let revision = commit.revision;
        for event in &commit.events {
            let lease = event.kv.as_ref().map_or(0, |kv| kv.lease);
            if lease == 0 {
                continue;
            }
            if ended.contains(&lease) {
                let what = format!("revision {revision} uses lease {lease}, which has ended");
                violations.push(Violation::new(Rule::Lease, what));
            }
            if !facts.is_granted(lease, facts.first_seen(revision)) {
                let what = format!("revision {revision} uses lease {lease}, granted to nobody");
                violations.push(Violation::new(Rule::Lease, what));
            }
        }
        // A client may delete just the keys of a lease: then the lease goes on.
        if let Some(id) = ended_by(store, revision)
            && !facts.claimed.contains(&revision)
            && !has_unknown_delete(history, store, revision)
        {
            ended.insert(id);
        }
    }
    violations.extend(history.operations.iter().filter_map(|operation| {
        revoked_with_keys(store, operation).or_else(|| refused_too_early(history, facts, operation))
    }));
    violations
}

fn has_unknown_delete(history: &History, store: &Store, revision: i64) -> bool {
    history.operations.iter().any(|operation| {
        let applied = || store.apply(&operation.request, revision - 1);
        operation.outcome == Outcome::Unknown
            && applied().is_some_and(|a| store.events(revision) == Some(&a.events[..]))
    })
}

/// After a revoke no key has the lease any more.
fn revoked_with_keys(store: &Store, operation: &Operation) -> Option<Violation> {
    let Request::LeaseRevoke(request) = &operation.request else { return None };
    let revision = operation.revision()?;
    let left = attached(store, request.id, revision.min(store.revision()));
    (!left.is_empty()).then(|| {
        Violation::new(Rule::Lease, format!("{left:?} at {revision} in spite of {operation:?}"))
    })
}

/// A lease that its holder may count on is there.
fn refused_too_early(history: &History, facts: &Facts, operation: &Operation) -> Option<Violation> {
    let id = match (&operation.request, &operation.outcome) {
        (Request::Put(request), Outcome::Refused(_, text)) if text.contains("lease not found") => {
            request.lease
        }
        (Request::LeaseKeepAlive(request), Outcome::Answer(Response::LeaseKeepAlive(r)))
            if r.ttl <= 0 =>
        {
            request.id
        }
        _ => return None,
    };
    let granted = history.operations.iter().any(|other| {
        let given = matches!(other.answer(), Some(Response::LeaseGrant(r)) if r.id == id);
        given && other.returned < operation.invoked
    });
    let revoked = revokes(history, id).any(|other| other.invoked < operation.returned);
    let early = operation.returned < facts.alive_until(id);
    (granted && !revoked && early).then(|| {
        Violation::new(Rule::Lease, format!("lease {id} was still to live: {operation:?}"))
    })
}
