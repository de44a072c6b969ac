//! The checker accepts what a correct store does, and names each promise when it is broken.

use super::*;
use quoin::pb::mvccpb::event::EventType;

/// A store that does one thing after another, and writes down who saw what.
#[derive(Default)]
struct Honest {
    store: Store,
    history: History,
    now: Time,
}

fn put(key: &'static str, value: impl Into<String>) -> Request {
    let value = value.into().into();
    Request::Put(PutRequest { key: key.into(), value, ..Default::default() })
}

fn put_leased(key: &'static str, lease: i64) -> Request {
    Request::Put(PutRequest { key: key.into(), lease, ..Default::default() })
}

fn get(key: &'static str) -> Request {
    Request::Range(RangeRequest { key: key.into(), ..Default::default() })
}

fn get_at(key: &'static str, revision: i64) -> Request {
    Request::Range(RangeRequest { key: key.into(), revision, ..Default::default() })
}

fn delete(key: &'static str) -> Request {
    Request::DeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() })
}

impl Honest {
    fn new() -> Honest {
        let history = History { second: 100, ..Default::default() };
        Honest { history, ..Default::default() }
    }

    /// Makes the request take effect now, and returns the answer to it.
    fn effect(&mut self, request: &Request) -> Response {
        let applied = self.store.apply(request, self.store.revision()).expect("it is modelled");
        if !applied.events.is_empty() {
            let commit = Commit { revision: self.store.revision() + 1, events: applied.events };
            self.store.commit(&commit).expect("the model commits what follows");
            self.history.commits.push(commit);
        }
        applied.response
    }

    fn record(&mut self, request: Request, outcome: Outcome) -> &mut Operation {
        self.now += 10;
        let (invoked, returned) = (self.now - 5, self.now);
        self.history.operations.push(Operation { invoked, returned, request, outcome });
        self.history.operations.last_mut().expect("just added")
    }

    /// A call that takes five units of time, after a pause of five.
    fn call(&mut self, request: Request) -> &mut Operation {
        let response = self.effect(&request);
        self.record(request, Outcome::Answer(response))
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.store.revision(), ..Default::default() })
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        let answer = LeaseGrantResponse { header: self.header(), id, ttl, error: String::new() };
        let answer = Outcome::Answer(Response::LeaseGrant(answer));
        self.record(Request::LeaseGrant(LeaseGrantRequest { id, ttl }), answer);
    }

    fn keep_alive(&mut self, id: i64, ttl: i64) {
        let answer = LeaseKeepAliveResponse { header: self.header(), id, ttl };
        let answer = Outcome::Answer(Response::LeaseKeepAlive(answer));
        self.record(Request::LeaseKeepAlive(LeaseKeepAliveRequest { id }), answer);
    }

    /// Deletes a lease's keys, as its expiry does.
    fn expire(&mut self, id: i64) {
        let kvs = self.store.range(&[0], &[0], self.store.revision());
        let revision = self.store.revision() + 1;
        let events = kvs
            .into_iter()
            .filter(|kv| kv.lease == id)
            .map(|kv| tombstone(kv.key, revision))
            .collect();
        let commit = Commit { revision, events };
        self.store.commit(&commit).expect("the keys were there");
        self.history.commits.push(commit);
    }

    fn revoke(&mut self, id: i64) {
        let answer = LeaseRevokeResponse { header: self.header() };
        let answer = Outcome::Answer(Response::LeaseRevoke(answer));
        self.record(Request::LeaseRevoke(LeaseRevokeRequest { id }), answer);
    }

    fn broken(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> =
            check(&self.history).into_iter().map(|violation| violation.rule).collect();
        rules.dedup();
        rules
    }
}

fn tombstone(key: bytes::Bytes, mod_revision: i64) -> Event {
    let kv = quoin::pb::mvccpb::KeyValue { key, mod_revision, ..Default::default() };
    Event { r#type: EventType::Delete as i32, kv: Some(kv), prev_kv: None }
}

/// Small and good enough to choose with.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }
}

/// Concurrent calls, each taking effect at a moment between its start and its end; some
/// with unknown outcome, of which some have no effect.
fn random_history(random: &mut Random, calls: u64) -> History {
    let keys = ["a", "b"];
    let mut planned = vec![];
    for number in 0..calls {
        let key = keys[random.below(2) as usize];
        let request = match random.below(6) {
            0 | 1 => put(key, number.to_string()),
            2 => delete(key),
            3 => get(key),
            4 => Request::Range(RangeRequest {
                key: "a".into(),
                range_end: "z".into(),
                ..Default::default()
            }),
            _ => swap(key, number),
        };
        let invoked = random.below(30);
        let effect = invoked + 1 + random.below(10);
        planned.push((effect, invoked, effect + 1 + random.below(10), request));
    }
    planned.sort_by_key(|(effect, ..)| *effect);
    let mut honest = Honest::new();
    for (_, invoked, returned, request) in planned {
        let outcome = match random.below(8) {
            0 => Outcome::Unknown,
            1 => {
                honest.effect(&request);
                Outcome::Unknown
            }
            _ => Outcome::Answer(honest.effect(&request)),
        };
        honest.history.operations.push(Operation { invoked, returned, request, outcome });
    }
    honest.history
}

/// Puts if the key is not there, else reads it.
fn swap(key: &'static str, number: u64) -> Request {
    use quoin::pb::etcdserverpb::{Compare, RequestOp, request_op};
    let Request::Put(put) = put(key, number.to_string()) else { unreachable!() };
    let Request::Range(range) = get(key) else { unreachable!() };
    let compare = Compare { key: key.into(), ..Default::default() };
    let op = |request| vec![RequestOp { request: Some(request) }];
    Request::Txn(TxnRequest {
        compare: vec![compare],
        success: op(request_op::Request::RequestPut(put)),
        failure: op(request_op::Request::RequestRange(range)),
    })
}

/// Breaks one thing, or nothing that matters.
fn damage(random: &mut Random, history: &mut History) {
    let count = history.operations.len() as u64;
    let at = random.below(count) as usize;
    let other = random.below(count) as usize;
    match random.below(5) {
        0 => {
            let operation = &mut history.operations[at];
            let length = operation.returned - operation.invoked;
            operation.invoked = random.below(60);
            operation.returned = operation.invoked + length;
        }
        1 => {
            let outcome = history.operations[at].outcome.clone();
            history.operations[at].outcome = history.operations[other].outcome.clone();
            history.operations[other].outcome = outcome;
        }
        2 => history.operations[at].outcome = Outcome::Unknown,
        3 => {
            if let Outcome::Answer(Response::Range(answer)) = &mut history.operations[at].outcome
                && let Some(kv) = answer.kvs.first_mut()
            {
                kv.value = "never written".into();
            }
        }
        _ => {
            history.operations.remove(at);
        }
    }
}

/// Tries every order that real time allows: slow, and without any idea of revisions' use.
fn is_linearizable(history: &History, store: &Store, placed: &mut Vec<usize>) -> bool {
    let answered = |at: &usize| history.operations[*at].answer().is_some();
    let all = 0..history.operations.len();
    let left: Vec<usize> = all.filter(|at| !placed.contains(at)).collect();
    let done = !left.iter().any(answered);
    if done && store.revision() as usize == history.commits.len() + 1 {
        return true;
    }
    left.iter().any(|&at| {
        let operation = &history.operations[at];
        let mut before = left.iter().filter(|other| answered(other));
        if before.any(|&other| history.operations[other].returned < operation.invoked) {
            return false;
        }
        let Some(applied) = store.apply(&operation.request, store.revision()) else {
            return false;
        };
        if operation.answer().is_some_and(|answer| *answer != applied.response) {
            return false;
        }
        let mut next = store.clone();
        if !applied.events.is_empty() {
            let commit = Commit { revision: store.revision() + 1, events: applied.events };
            if history.commits.get(store.revision() as usize - 1) != Some(&commit) {
                return false;
            }
            next.commit(&commit).expect("the model commits what follows");
        }
        placed.push(at);
        let found = is_linearizable(history, &next, placed);
        placed.pop();
        found
    })
}

#[test]
fn agrees_with_a_search_of_all_orders() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..3000 {
        let random = &mut Random(seed);
        let mut history = random_history(random, 6);
        if seed % 3 > 0 {
            damage(random, &mut history);
        }
        let violations = check(&history);
        let expected = is_linearizable(&history, &Store::default(), &mut vec![]);
        assert_eq!(violations.is_empty(), expected, "seed {seed}: {violations:#?}\n{history:#?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 1000 && bad > 500, "{good} good and {bad} bad histories");
}

#[test]
fn long_concurrent_histories_are_accepted() {
    for seed in 0..20 {
        let history = random_history(&mut Random(seed), 500);
        assert_eq!(check(&history), []);
    }
}

#[test]
fn a_lost_write_is_noticed() {
    let mut honest = Honest::new();
    honest.call(put("a", "1"));
    honest.call(put("a", "2"));
    assert_eq!(honest.broken(), []);
    // The last commit is gone, though it was acknowledged.
    honest.history.commits.pop();
    assert_eq!(honest.broken(), [Rule::WriteLost]);
}

#[test]
fn a_stale_read_is_noticed() {
    let mut honest = Honest::new();
    honest.call(put("a", "1"));
    let stale = honest.effect(&get("a"));
    honest.call(put("a", "2"));
    honest.record(get("a"), Outcome::Answer(stale.clone()));
    assert_eq!(honest.broken(), [Rule::RealTime]);
    // Allowed if it started before the write ended, or did not ask for the newest.
    honest.history.operations[2].invoked = honest.history.operations[1].returned;
    assert_eq!(honest.broken(), []);
    let local = RangeRequest { key: "a".into(), serializable: true, ..Default::default() };
    honest.record(Request::Range(local), Outcome::Answer(stale));
    assert_eq!(honest.broken(), []);
}

#[test]
fn a_revision_that_goes_back_is_noticed() {
    let mut honest = Honest::new();
    honest.call(put("a", "1"));
    honest.call(put("b", "2"));
    honest.history.operations.swap(0, 1);
    let times = |operation: &Operation| (operation.invoked, operation.returned);
    let (first, second) =
        (times(&honest.history.operations[0]), times(&honest.history.operations[1]));
    (honest.history.operations[0].invoked, honest.history.operations[0].returned) = second;
    (honest.history.operations[1].invoked, honest.history.operations[1].returned) = first;
    assert_eq!(honest.broken(), [Rule::RealTime]);
}

#[test]
fn commits_that_do_not_follow_are_noticed() {
    let honest = || {
        let mut honest = Honest::new();
        honest.call(put("a", "1"));
        honest.call(put("a", "2"));
        honest.call(delete("a"));
        honest
    };
    let break_with = |damage: fn(&mut Vec<Commit>)| {
        let mut honest = honest();
        damage(&mut honest.history.commits);
        honest.broken()
    };
    assert_eq!(honest().broken(), []);
    assert_eq!(break_with(|commits| drop(commits.remove(1))), [Rule::Commits]);
    assert_eq!(break_with(|commits| commits[1].events.clear()), [Rule::Commits]);
    assert_eq!(
        break_with(|commits| commits[1].events[0].kv.as_mut().expect("it has one").version = 1),
        [Rule::Commits]
    );
    assert_eq!(
        break_with(|commits| commits[2].events[0].kv.as_mut().expect("it has one").lease = 1),
        [Rule::Commits]
    );
}

#[test]
fn an_unknown_write_may_have_happened_once_or_not_at_all() {
    let mut honest = Honest::new();
    honest.call(put("a", "1"));
    honest.record(put("a", "2"), Outcome::Unknown);
    assert_eq!(honest.broken(), []);
    honest.effect(&put("a", "2"));
    honest.call(get("a"));
    assert_eq!(honest.broken(), []);
    honest.effect(&put("a", "2"));
    assert_eq!(honest.broken(), [Rule::CommitUnexplained]);
}

#[test]
fn an_unknown_write_is_not_seen_before_it_was_asked_for() {
    let mut honest = Honest::new();
    honest.effect(&put("a", "1"));
    honest.call(get("a"));
    honest.record(put("a", "1"), Outcome::Unknown);
    assert_eq!(honest.broken(), [Rule::CommitUnexplained]);
    honest.history.operations.swap(0, 1);
    honest.history.operations[0].invoked = 0;
    assert_eq!(honest.broken(), []);
}

#[test]
fn one_revision_belongs_to_one_write() {
    let mut honest = Honest::new();
    let twin = honest.call(put("a", "1")).clone();
    honest.history.operations.push(twin);
    assert_eq!(honest.broken(), [Rule::WriteLost]);
}

#[test]
fn errors_about_revisions_must_fit() {
    let compact = |revision| Request::Compact(CompactionRequest { revision, physical: false });
    let compacted =
        || Outcome::Refused(11, "etcdserver: mvcc: required revision has been compacted".into());
    let future =
        || Outcome::Refused(11, "etcdserver: mvcc: required revision is a future revision".into());
    let mut honest = Honest::new();
    honest.call(put("a", "1"));
    honest.call(put("a", "2"));
    honest.record(get_at("a", 4), future());
    let old = honest.call(get_at("a", 2)).clone();
    assert_eq!(honest.broken(), []);

    honest.record(get_at("a", 3), future());
    assert_eq!(honest.broken(), [Rule::Refusal]);
    honest.history.operations.pop();

    honest.record(get_at("a", 2), compacted());
    assert_eq!(honest.broken(), [Rule::Refusal]);
    honest.history.operations.pop();

    let answer = CompactionResponse { header: honest.header() };
    honest.record(compact(3), Outcome::Answer(Response::Compact(answer)));
    honest.record(get_at("a", 2), compacted());
    honest.record(compact(3), compacted());
    honest.call(get_at("a", 3));
    assert_eq!(honest.broken(), []);
    honest.record(get_at("a", 3), compacted());
    assert_eq!(honest.broken(), [Rule::Refusal]);
    honest.history.operations.pop();
    honest.record(old.request, old.outcome);
    assert_eq!(honest.broken(), [Rule::Answer]);
}

#[test]
fn a_lease_may_take_its_keys_when_its_time_is_over() {
    let mut honest = Honest::new();
    honest.grant(7, 2);
    honest.call(put_leased("a", 7));
    honest.call(put_leased("b", 7));
    honest.keep_alive(7, 2);
    let renewed = honest.now - 5;
    honest.now = renewed + 2 * honest.history.second;
    honest.expire(7);
    honest.call(get("a"));
    assert_eq!(honest.broken(), []);

    // Seen a moment too early.
    let last = honest.history.operations.last_mut().expect("there are some");
    (last.invoked, last.returned) = (renewed + 190, renewed + 199);
    assert_eq!(honest.broken(), [Rule::CommitUnexplained]);
    // Unless somebody may have revoked it.
    honest.history.operations.push(Operation {
        invoked: renewed + 100,
        returned: 0,
        request: Request::LeaseRevoke(LeaseRevokeRequest { id: 7 }),
        outcome: Outcome::Unknown,
    });
    assert_eq!(honest.broken(), []);
}

#[test]
fn a_lease_takes_all_its_keys_at_once() {
    let mut honest = Honest::new();
    honest.grant(7, 2);
    honest.call(put_leased("a", 7));
    honest.call(put_leased("b", 7));
    honest.now += 1000;
    honest.effect(&delete("a"));
    honest.call(get("b"));
    assert_eq!(honest.broken(), [Rule::CommitUnexplained]);
}

#[test]
fn an_ended_lease_takes_no_more_keys() {
    let mut honest = Honest::new();
    honest.grant(7, 2);
    honest.call(put_leased("a", 7));
    honest.expire(7);
    honest.revoke(7);
    assert_eq!(honest.broken(), []);
    honest.call(put_leased("a", 7));
    assert_eq!(honest.broken(), [Rule::Lease]);
}

#[test]
fn a_lease_is_granted_before_it_has_keys() {
    let mut honest = Honest::new();
    honest.call(put_leased("a", 7));
    assert_eq!(honest.broken(), [Rule::Lease]);
}

#[test]
fn a_revoke_leaves_no_key() {
    let mut honest = Honest::new();
    honest.grant(7, 2);
    honest.call(put_leased("a", 7));
    honest.revoke(7);
    assert_eq!(honest.broken(), [Rule::Lease]);
}

#[test]
fn a_living_lease_is_not_denied() {
    let mut honest = Honest::new();
    honest.grant(7, 2);
    let denied = || Outcome::Refused(5, "etcdserver: requested lease not found".into());
    honest.record(put_leased("a", 7), denied());
    assert_eq!(honest.broken(), [Rule::Lease]);
    honest.history.operations.pop();
    honest.now += 200;
    honest.record(put_leased("a", 7), denied());
    assert_eq!(honest.broken(), []);

    honest.grant(8, 2);
    honest.keep_alive(8, 0);
    assert_eq!(honest.broken(), [Rule::Lease]);
}

/// Four revisions, and a watch of all of them that got one response for each.
fn watched() -> Honest {
    let mut honest = Honest::new();
    honest.call(put("a", "1"));
    honest.call(put("b", "1"));
    honest.call(put("a", "2"));
    let all = DeleteRangeRequest { key: "a".into(), range_end: "z".into(), ..Default::default() };
    honest.call(Request::DeleteRange(all));
    let response = |revision, events: Vec<Event>| WatchResponse {
        header: Some(ResponseHeader { revision, ..Default::default() }),
        events,
        ..Default::default()
    };
    let mut responses = vec![WatchResponse { created: true, ..response(1, vec![]) }];
    let with_previous = |event: &Event| {
        let kv = event.kv.clone().unwrap_or_default();
        let previous = honest.store.get(&kv.key, kv.mod_revision - 1).cloned();
        Event { prev_kv: previous, ..event.clone() }
    };
    responses.extend(honest.history.commits.iter().map(|commit| {
        response(commit.revision, commit.events.iter().map(with_previous).collect())
    }));
    let request = WatchCreateRequest {
        key: "a".into(),
        range_end: "z".into(),
        start_revision: 2,
        prev_kv: true,
        ..Default::default()
    };
    honest.history.watches = vec![Watched { request, responses, complete_to: 5 }];
    honest
}

type Damage = fn(&mut Vec<WatchResponse>);

#[test]
fn a_watch_gets_every_event_once_and_whole() {
    let broken_by = |damage: fn(&mut Vec<WatchResponse>)| {
        let mut honest = watched();
        damage(&mut honest.history.watches[0].responses);
        honest.broken()
    };
    assert_eq!(watched().broken(), []);
    let faults: [(&str, Damage); 8] = [
        ("a missing event", |responses| drop(responses.remove(2))),
        ("a missing last event", |responses| drop(responses.pop())),
        ("an event twice", |responses| responses.push(responses[4].clone())),
        ("a wrong order", |responses| responses.swap(1, 2)),
        ("a previous value too much", |responses| {
            responses[1].events[0].prev_kv = responses[1].events[0].kv.clone();
        }),
        ("a previous value too few", |responses| responses[3].events[0].prev_kv = None),
        ("a torn revision", |responses| {
            let mut rest = responses[4].clone();
            responses[4].events.truncate(1);
            rest.events.remove(0);
            responses.push(rest);
        }),
        ("a bookmark ahead of an event", |responses| {
            let mut bookmark = responses[4].clone();
            bookmark.events.clear();
            responses.insert(4, bookmark);
        }),
    ];
    for (what, fault) in faults {
        assert_eq!(broken_by(fault), [Rule::Watch], "{what}");
    }
    // A revision may come in parts if each but the last says so.
    let parts = broken_by(|responses| {
        let mut rest = responses[4].clone();
        responses[4].events.truncate(1);
        responses[4].fragment = true;
        rest.events.remove(0);
        responses.push(rest);
    });
    assert_eq!(parts, []);
}

#[test]
fn a_watch_gets_only_what_it_asked_for() {
    let mut honest = watched();
    let watch = &mut honest.history.watches[0];
    watch.request.range_end = bytes::Bytes::new();
    assert_eq!(honest.broken(), [Rule::Watch]);
    for response in &mut honest.history.watches[0].responses {
        response.events.retain(|event| event.kv.as_ref().is_some_and(|kv| kv.key == "a"));
    }
    assert_eq!(honest.broken(), []);
    honest.history.watches[0].request.filters = vec![1];
    assert_eq!(honest.broken(), [Rule::Watch]);
    honest.history.watches[0].responses.pop();
    assert_eq!(honest.broken(), []);
}
