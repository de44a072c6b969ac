#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::scheduler::store::{Change, Commit, Kv};

const NAME: &str = "w";
const REGISTRATION: i64 = 10;
/// A claim's key.
const KEY: &str = "/tcss/v1/claim/w/5-1";

/// An agent with one slot and without a claim, whose lease ends late.
fn agent() -> Agent {
    Agent::new(NAME, REGISTRATION, Settings { flush_ms: 0, ..Default::default() }, 1_000_000)
}

fn claim(ordinals: std::ops::Range<u32>) -> Claim {
    let item = Item { lane: 0, from: ordinals.start, to: ordinals.end, attempt: 1 };
    let (run, items) = ("r".into(), vec![item]);
    Claim { run, registration: REGISTRATION, items, slots: 1, ..Default::default() }
}

/// What the watch brings of a claim that was created at revision 20.
fn put(claim: &Claim, mod_revision: i64) -> Commit {
    let kv = Kv {
        key: KEY.into(),
        value: serde_json::to_vec(claim).unwrap(),
        create_revision: 20,
        mod_revision,
        lease: 0,
    };
    Commit { revision: mod_revision, changes: vec![Change::Put(kv)] }
}

fn delete(revision: i64) -> Commit {
    Commit { revision, changes: vec![Change::Delete { key: KEY.into() }] }
}

fn command(command: &Command, revision: i64) -> Commit {
    let kv = Kv {
        key: keys::command(NAME, "5-1"),
        value: serde_json::to_vec(command).unwrap(),
        create_revision: revision,
        mod_revision: revision,
        lease: 0,
    };
    Commit { revision, changes: vec![Change::Put(kv)] }
}

/// Ordinals of what starts now, and of what stops.
fn started(requests: &[Request]) -> (Vec<u32>, Vec<u32>) {
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for request in requests {
        match request {
            Request::Start { task, .. } => starts.push(task.ordinal),
            Request::Stop { task } => stops.push(task.ordinal),
            Request::Try(..) | Request::Late { .. } => {}
        }
    }
    (starts, stops)
}

/// Deliveries of results that are sent now.
fn sent(requests: &[Request]) -> Vec<TxnNo> {
    let numbers = requests.iter().filter_map(|request| match request {
        Request::Try(number, txn) if !txn.compares.is_empty() => Some(*number),
        _ => None,
    });
    numbers.collect()
}

/// Ends a task, and says what is to be done then.
fn end(agent: &mut Agent, ordinal: u32) -> Vec<Request> {
    let task = Task { claim: KEY.into(), lane: 0, ordinal };
    let row = Row {
        lane: 0,
        ordinal,
        attempt: 1,
        status: Status::Passed,
        start: 0,
        duration: 1,
        detail: None,
    };
    agent.finished(1, &task, row);
    agent.work(1)
}

/// An agent that has delivered the first of two tasks at revision 21 and runs the second.
fn half_done() -> Agent {
    let mut agent = agent();
    agent.commit(1, &put(&claim(0..2), 20));
    assert_eq!(started(&agent.work(1)).0, [0]);
    let requests = end(&mut agent, 0);
    assert_eq!(started(&requests).0, [1]);
    agent.outcome(1, sent(&requests)[0], &Outcome::Committed { revision: 21 });
    agent
}

/// The same, whose second result is on its way.
fn nearly_done() -> (Agent, TxnNo) {
    let mut agent = half_done();
    let requests = end(&mut agent, 1);
    let delivery = sent(&requests)[0];
    (agent, delivery)
}

#[test]
fn an_own_delivery_that_the_watch_brings_late_begins_nothing() {
    let (mut agent, delivery) = nearly_done();
    agent.outcome(1, delivery, &Outcome::Committed { revision: 22 });
    assert!(agent.is_idle());
    agent.commit(1, &put(&claim(1..2), 21));
    assert_eq!(agent.work(1), []);
    assert!(agent.is_idle());
    agent.commit(1, &delete(22));
    assert_eq!(agent.work(1), []);
}

#[test]
fn a_claim_that_was_taken_back_does_not_come_back_with_an_older_value() {
    let (mut agent, delivery) = nearly_done();
    let found = vec![None, None];
    agent.outcome(1, delivery, &Outcome::Refused { revision: 22, found });
    assert!(agent.is_idle());
    agent.work(1);
    agent.commit(1, &put(&claim(1..2), 21));
    assert_eq!(agent.work(1), []);
}

#[test]
fn what_a_watch_brings_again_begins_nothing() {
    let (mut agent, delivery) = nearly_done();
    agent.outcome(1, delivery, &Outcome::Committed { revision: 22 });
    for commit in [put(&claim(0..2), 20), put(&claim(1..2), 21), delete(22)] {
        agent.commit(1, &commit);
        assert_eq!(agent.work(1), []);
    }
    // As a reading would show it at a member that is behind.
    agent.commit(1, &Commit { revision: 30, ..put(&claim(1..2), 21) });
    assert_eq!(agent.work(1), []);
}

#[test]
fn an_older_value_of_an_open_claim_begins_nothing_again() {
    let mut agent = half_done();
    agent.commit(1, &put(&claim(0..2), 20));
    assert_eq!(agent.work(1), []);
    let requests = end(&mut agent, 1);
    let Some(Request::Try(_, txn)) = requests.first() else { panic!("{requests:?}") };
    assert_eq!(txn.compares, [Compare::ChangedAt(KEY.into(), 21)]);
}

#[test]
fn claims_of_one_commit_all_begin() {
    let mut agent = agent();
    let mut commit = put(&claim(0..1), 20);
    let Change::Put(kv) = &commit.changes[0] else { panic!("{commit:?}") };
    let other = Kv { key: "/tcss/v1/claim/w/5-2".into(), ..kv.clone() };
    commit.changes.push(Change::Put(other));
    agent.commit(1, &commit);
    assert_eq!(started(&agent.work(1)).0, [0]);
    assert_eq!(started(&end(&mut agent, 0)).0, [0]);
}

#[test]
fn nothing_more_starts_of_a_claim_that_is_taken_while_a_part_is_delivered() {
    let mut agent = agent();
    agent.commit(1, &put(&claim(0..3), 20));
    agent.work(1);
    let requests = end(&mut agent, 0);
    assert_eq!(started(&requests).0, [1]);
    agent.commit(1, &delete(22));
    assert_eq!(started(&agent.work(1)), (vec![], vec![1]));
    assert_eq!(started(&end(&mut agent, 1)), (vec![], vec![]));
    // The part came before that.
    agent.outcome(1, sent(&requests)[0], &Outcome::Committed { revision: 21 });
    let requests = agent.work(1);
    assert!(matches!(requests[..], [Request::Late { .. }]), "{requests:?}");
    assert!(agent.is_idle());
}

#[test]
fn a_part_that_was_delivered_before_its_claim_was_taken_leaves_nothing() {
    let mut agent = agent();
    agent.commit(1, &put(&claim(0..3), 20));
    agent.work(1);
    let requests = end(&mut agent, 0);
    // Its first answer was lost, and meanwhile the claim was taken.
    let found = vec![Some(Kv::default()), None];
    agent.outcome(1, sent(&requests)[0], &Outcome::Refused { revision: 22, found });
    assert_eq!(started(&agent.work(1)), (vec![], vec![1]));
    assert!(agent.is_idle());
}

#[test]
fn a_cancel_that_comes_before_its_claim_is_heeded() {
    let mut agent = agent();
    agent.commit(1, &command(&Command::Cancel { claim: "5-1".into(), overdue: false }, 21));
    agent.work(1);
    agent.commit(1, &put(&claim(0..2), 20));
    let requests = agent.work(1);
    assert!(started(&requests).0.is_empty(), "{requests:?}");
    assert_eq!(sent(&requests).len(), 1);
    assert!(agent.early.is_empty());
}

#[test]
fn commands_about_claims_that_are_over_are_not_kept() {
    let mut agent = agent();
    let cancel = Command::Cancel { claim: "5-1".into(), overdue: false };
    agent.commit(1, &command(&cancel, REGISTRATION));
    assert!(agent.early.is_empty());
    agent.commit(1, &command(&cancel, 23));
    assert_eq!(agent.early.len(), 1);
    agent.commit(1, &delete(23));
    assert!(agent.early.is_empty());
}
