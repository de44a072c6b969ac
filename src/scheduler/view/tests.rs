//! Views of runs whose keys are made up here, so that what they show is known.

use super::{
    Filter, Pace, Rule, RunBook, TaskView, audit,
    foreign::{Names, foreign},
    gaps, idleness, is_undisturbed, line, numbers, replay, state_of, story, waiting,
};
use crate::scheduler::coordinator::{Control, LanePack, RunStatus, TagHold, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{
    Claim, Definitions, Environment, Item, LaneCheckpoint, Ordinals, Row, RunSpec, Segment, Status,
    TestCase, Totals,
};
use crate::scheduler::record::{Block, Rolled};
use crate::scheduler::store::{Change, Commit, Kv};
use serde::Serialize;
use serde_json::json;

pub(super) const RUN: &str = "r1";

/// Keys of a store, each written once.
#[derive(Default)]
pub(super) struct Store {
    kvs: Vec<Kv>,
    revision: i64,
}

impl Store {
    fn put(&mut self, key: String, value: &impl Serialize) {
        self.revision += 1;
        let (create_revision, mod_revision) = (self.revision, self.revision);
        let value = serde_json::to_vec(value).unwrap();
        self.kvs.push(Kv { key, value, create_revision, mod_revision, lease: 0 });
    }

    /// A run of cases that need nothing from outside, submitted at 1 s.
    fn with_run(cases: serde_json::Value, repeats: u32) -> Self {
        Self::with_run_in(cases, repeats, &[])
    }

    pub(super) fn with_run_in(cases: serde_json::Value, repeats: u32, places: &[&str]) -> Self {
        let mut store = Self::default();
        let cases: Vec<TestCase> = serde_json::from_value(cases).unwrap();
        let selected: Vec<_> = cases.iter().map(|case| json!({"case": case.id})).collect();
        let spec = json!({"id": RUN, "cases": selected, "repeats": repeats, "submitted": 1_000, "environments": places});
        let spec: RunSpec = serde_json::from_value(spec).unwrap();
        let environments =
            places.iter().map(|id| Environment { id: (*id).into(), ..Default::default() });
        let environments = environments.collect();
        let total = cases.len() as u32;
        let definitions = Definitions { total, cases, environments, ..Default::default() };
        store.put(keys::definitions(RUN, 0), &definitions);
        store.put(keys::run(RUN), &spec);
        store.put(keys::open(RUN), &RUN);
        store
    }

    pub(super) fn results(&mut self, worker: &str, rows: &[Row]) {
        let name = format!("1-{}", self.revision);
        let segment = Segment { claim: self.revision, rows: rows.to_vec() };
        self.put(keys::segment(RUN, worker, &name, 0), &segment);
    }

    fn claim(&mut self, worker: &str, items: Vec<Item>, tags: &[&str]) {
        let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let claim = Claim { run: RUN.into(), items, tags, slots: 1, ..Default::default() };
        self.put(keys::claim(worker, 1, self.revision as u64), &claim);
    }

    fn worker(&mut self, name: &str, slots: u32) {
        self.worker_that_says(name, &WorkerInfo { max_task_num: slots, ..Default::default() });
    }

    fn worker_that_says(&mut self, name: &str, info: &impl Serialize) {
        self.put(keys::worker(name), info);
        self.kvs.iter_mut().filter(|kv| kv.key == keys::worker(name)).for_each(|kv| kv.lease = 7);
    }

    pub(super) fn ended(&mut self, state: &str) {
        self.ended_at(state, 9_000);
    }

    fn ended_at(&mut self, state: &str, ended: u64) {
        self.kvs.retain(|kv| kv.key != keys::open(RUN));
        let totals = self.book().totals();
        let status = RunStatus {
            state: state.into(),
            totals,
            started: 1_000,
            ended: Some(ended),
            revision: self.revision,
            ..Default::default()
        };
        self.put(keys::status(RUN), &status);
    }

    pub(super) fn book(&self) -> RunBook {
        RunBook::new(RUN, &self.kvs, self.revision).unwrap()
    }
}

pub(super) fn command(id: &str) -> serde_json::Value {
    json!({"id": id, "kind": "command", "command": ["true"]})
}

pub(super) fn row(lane: u32, ordinal: u32, attempt: u32, status: Status, at: u64, ms: u64) -> Row {
    let (start, duration) = (1_000 + at, ms * 1_000);
    Row { lane, ordinal, attempt, status, start, duration, detail: None }
}

pub(super) fn with(
    mut case: serde_json::Value,
    field: &str,
    value: serde_json::Value,
) -> serde_json::Value {
    case[field] = value;
    case
}

#[test]
fn tasks_are_pending_running_or_ended() {
    let retried = with(command("a"), "retries", json!({"test": 1}));
    let mut store = Store::with_run(json!([retried, command("b")]), 3);
    store.claim("w2", vec![Item { lane: 1, from: 0, to: 2, attempt: 1 }], &[]);
    store
        .results("w1", &[row(0, 0, 1, Status::Passed, 0, 10), row(0, 1, 1, Status::Failed, 0, 10)]);
    store.results("w1", &[row(0, 1, 2, Status::Passed, 20, 10)]);
    let book = store.book();
    let page = book.tasks(&Filter::default(), (0, 0), 10);
    let shown: Vec<_> =
        page.tasks.iter().map(|t| (t.lane, t.ordinal, t.status, t.attempts)).collect();
    use Status::{Passed, Pending, Running};
    assert_eq!(
        shown,
        [
            (0, 0, Passed, 1),
            (0, 1, Passed, 2),
            (0, 2, Pending, 0),
            (1, 0, Running, 0),
            (1, 1, Running, 0),
            (1, 2, Pending, 0)
        ]
    );
    assert!(page.tasks[1].is_flaky && !page.tasks[0].is_flaky);
    assert_eq!(page.tasks[3].worker.as_deref(), Some("w2"));
    assert_eq!((book.totals().ended(), book.running(), book.totals().flaky), (2, 2, 1));
}

#[test]
fn a_run_is_running_while_workers_have_something_of_it() {
    use Control::{Canceled, Paused, Running};
    for (written, wanted, is_held, expected) in [
        ("", Running, None, "accepted"),
        ("", Running, Some(true), "running"),
        ("accepted", Running, Some(false), "accepted"),
        ("accepted", Paused, None, "paused"),
        ("running", Running, None, "running"),
        ("running", Running, Some(false), "waiting"),
        ("waiting", Running, None, "waiting"),
        ("waiting", Running, Some(true), "running"),
        ("paused", Running, None, "waiting"),
        ("running", Paused, Some(true), "paused"),
        ("paused", Canceled, Some(false), "canceling"),
        ("failed", Canceled, Some(false), "failed"),
        ("passed", Running, Some(false), "passed"),
    ] {
        let found = state_of(written, wanted, is_held);
        assert_eq!(found, expected, "{written:?} {wanted:?} {is_held:?}");
    }
    let mut store = Store::with_run(json!([command("a")]), 3);
    let running = RunStatus { state: "running".into(), ..Default::default() };
    store.put(keys::status(RUN), &running);
    assert_eq!(store.book().state(), "waiting", "nobody leads who would write it");
    store.put(keys::leader(1), &"");
    assert_eq!(store.book().state(), "waiting", "nobody holds that key");
    store.kvs.iter_mut().filter(|kv| kv.key == keys::leader(1)).for_each(|kv| kv.lease = 1);
    assert_eq!(store.book().state(), "running", "it may be between two tasks");
    store.kvs.retain(|kv| kv.key != keys::status(RUN));
    store.put(keys::status(RUN), &RunStatus { state: "waiting".into(), ..running });
    assert_eq!(store.book().state(), "waiting");
    store.claim("w", vec![Item { lane: 0, from: 0, to: 1, attempt: 1 }], &[]);
    assert_eq!(store.book().state(), "running");
}

#[test]
fn what_is_muted_is_told_as_such() {
    let muted = with(command("a"), "state", json!("muted"));
    let muted = with(muted, "state_reason", json!("ticket 7"));
    let mut store = Store::with_run(json!([muted, command("b")]), 1);
    store.results("w", &[row(0, 0, 1, Status::Failed, 0, 10), row(1, 0, 1, Status::Failed, 0, 10)]);
    let book = store.book();
    let words: Vec<_> =
        book.tasks(&Filter::default(), (0, 0), 10).tasks.iter().map(TaskView::word).collect();
    assert_eq!(words, ["failed, muted", "failed"]);
    let groups = book.failure_groups();
    assert_eq!((groups.len(), groups[0].tasks, groups[0].muted), (1, 2, 1));
    let muted: Vec<bool> = groups[0].lanes.iter().map(|lane| lane.is_muted).collect();
    assert_eq!(muted, [true, false]);
    let html = crate::scheduler::report::html(&book);
    assert!(html.contains("failed, muted") && html.contains("a#0 (muted: ticket 7)"), "{html}");
}

#[test]
fn what_a_worker_has_and_does_not_run_is_assigned() {
    let mut store = Store::with_run(json!([command("a"), command("b")]), 5);
    store
        .worker_that_says("w1", &WorkerInfo { max_task_num: 2, prefetch: 2, ..Default::default() });
    store.claim("w1", vec![Item { lane: 1, from: 0, to: 4, attempt: 1 }], &[]);
    // It runs as many as it has slots.
    assert_eq!((store.book().running(), store.book().assigned()), (2, 2));
    // What it said of another run takes a slot; of what it has no more, none.
    let beat = json!([[RUN, 1, 2, 1, 1_500], ["other", 1, 3, 1, 1_500], [RUN, 1, 4, 1, 1_500]]);
    store.put(keys::beat("w1"), &beat);
    let book = store.book();
    assert_eq!((book.running(), book.assigned()), (1, 3));
    let lane = &book.lanes()[1];
    assert_eq!((lane.running, lane.assigned), (1, 3));
    let task = |ordinal| {
        let task = book.find_task(1, ordinal).unwrap();
        (task.status, task.is_assigned, task.worker.is_some())
    };
    assert_eq!(task(0), (Status::Pending, true, true));
    store.kvs.retain(|kv| !kv.key.starts_with(keys::BEATS));
    store.put(keys::beat("w1"), &json!([[RUN, 1, 2, 1, 1_500], [RUN, 1, 4, 1, 1_500]]));
    assert_eq!((store.book().running(), store.book().assigned()), (2, 2), "0 has begun since");
    assert_eq!(task(2), (Status::Running, false, true));
    assert_eq!(task(4), (Status::Pending, false, false));
    let running = Filter { statuses: vec![Status::Running], ..Default::default() };
    assert_eq!(book.tasks(&running, (0, 0), 9).tasks.len(), 1);
    // Tasks of a claim with tags go one by one.
    let mut store = Store::with_run(json!([command("a")]), 5);
    store.worker("w1", 4);
    store.claim("w1", vec![Item { lane: 0, from: 0, to: 3, attempt: 1 }], &["printer/0"]);
    assert_eq!((store.book().running(), store.book().assigned()), (1, 2));
}

#[test]
fn a_run_is_as_fast_as_it_was_of_late() {
    let mut store = Store::with_run(json!([command("a")]), 4);
    store.worker("w1", 1);
    let pace = |store: &Store, now| {
        let book = store.book();
        Pace::of(&book, &numbers(&book), now)
    };
    assert_eq!(pace(&store, 2_000), Pace::default(), "nothing has run");
    let passed = |ordinal, at| row(0, ordinal, 1, Status::Passed, at, 1_000);
    store.results("w1", &[passed(0, 0), passed(1, 1_000)]);
    store.claim("w1", vec![Item { lane: 0, from: 2, to: 3, attempt: 1 }], &[]);
    store.put(keys::beat("w1"), &json!([[RUN, 0, 2, 1, 3_000]]));
    // Two tasks in three seconds; one slot was busy, and two tasks of a second are left.
    let found = pace(&store, 4_000);
    assert!((found.rate.unwrap() - 2.0 / 3.0).abs() < 1e-9, "{found:?}");
    assert_eq!(found.ends, Some(6_000));
    // What nobody works at has no end.
    store.kvs.retain(|kv| !kv.key.starts_with(keys::CLAIMS));
    assert_eq!(pace(&store, 4_000).ends, None);
    store.results("w1", &[passed(2, 2_000), passed(3, 3_000)]);
    store.ended("passed");
    assert_eq!(pace(&store, 99_000), Pace { rate: Some(1.0), ends: None });
}

#[test]
fn failures_are_grouped_by_what_they_said() {
    let mut store = Store::with_run(json!([command("a"), command("b")]), 3);
    let failed = |lane, ordinal, status, text: &str| Row {
        detail: Some(json!({ "message": text })),
        ..row(lane, ordinal, 1, status, 0, 1)
    };
    store.results(
        "w1",
        &[
            failed(0, 0, Status::Failed, "got 503 of 10.0.0.1"),
            failed(0, 1, Status::TimedOut, "too slow"),
            failed(1, 0, Status::Failed, "got 500 of 10.0.0.2"),
            row(1, 1, 1, Status::Passed, 0, 1),
        ],
    );
    let book = store.book();
    let groups = book.failure_groups();
    let shown: Vec<_> = groups.iter().map(|group| (group.tasks, group.lanes.len())).collect();
    assert_eq!(shown, [(2, 2), (1, 1)], "{groups:?}");
    assert_eq!(groups[0].message, "got 503 of 10.0.0.1");
    assert_eq!(groups[1].by_status, [(Status::TimedOut, 1)].into());
    let alike = Filter { fingerprint: Some(groups[0].fingerprint.clone()), ..Filter::failures() };
    let found = book.tasks(&alike, (0, 0), 9).tasks;
    let found: Vec<_> = found.iter().map(|task| (task.lane, task.ordinal)).collect();
    assert_eq!(found, [(0, 0), (1, 0)]);
}

#[test]
fn pages_follow_each_other_without_gaps() {
    let mut store = Store::with_run(json!([command("a"), command("b")]), 5);
    let rows: Vec<Row> = (0..5).map(|n| row(1, n, 1, Status::Failed, 0, 1)).collect();
    store.results("w1", &rows);
    let book = store.book();
    for (filter, count) in [(Filter::default(), 10), (Filter::failures(), 5)] {
        let (mut from, mut seen) = ((0, 0), Vec::new());
        loop {
            let page = book.tasks(&filter, from, 3);
            assert!(page.tasks.len() <= 3);
            seen.extend(page.tasks.iter().map(|task| (task.lane, task.ordinal)));
            let Some(next) = page.next else { break };
            from = next;
        }
        let all: Vec<_> = (0..10).map(|n| (n / 5, n % 5)).skip(10 - count).collect();
        assert_eq!(seen, all);
    }
    let only = Filter { case: Some("a".into()), ..Default::default() };
    assert!(book.tasks(&only, (0, 0), 9).tasks.iter().all(|task| task.case == "a"));
}

#[test]
fn what_ended_without_an_attempt_is_known_by_its_checkpoint() {
    let mut store = Store::with_run(json!([command("a")]), 4);
    store.results("w1", &[row(0, 1, 1, Status::Canceled, 0, 1)]);
    let mut known = LaneCheckpoint::default();
    known.ended.insert_range(0, 4);
    known.totals.add(Status::Canceled, 4);
    let pack = LanePack { folded: store.revision, lanes: [(0, known)].into() };
    store.put(keys::lanes(RUN, 0), &pack);
    let book = store.book();
    assert_eq!(book.totals().get(Status::Canceled), 4);
    let page = book.tasks(&Filter::default(), (0, 0), 9);
    assert!(page.tasks.iter().all(|task| task.status == Status::Canceled));
}

#[test]
fn a_run_that_was_rolled_up_shows_the_same() {
    let mut store = Store::with_run(json!([command("a"), command("b")]), 3);
    store.results(
        "w-1",
        &[row(0, 0, 1, Status::Passed, 0, 10), row(0, 1, 1, Status::Failed, 0, 10)],
    );
    store.results("w-1", &[row(0, 2, 1, Status::Passed, 20, 10)]);
    let mut known = LaneCheckpoint::default();
    known.ended.insert_range(0, 3);
    known.totals.add(Status::Skipped, 3);
    store
        .put(keys::lanes(RUN, 0), &LanePack { folded: store.revision, lanes: [(1, known)].into() });
    store.ended("failed");
    let page = store.book().tasks(&Filter::default(), (0, 0), 10);
    assert_eq!(page.tasks[5].status, Status::Skipped);
    let is_segment = |kv: &Kv| kv.key.starts_with(keys::SEGMENTS);
    let segments = store.kvs.iter().filter(|kv| is_segment(kv)).filter_map(Rolled::of).collect();
    store.kvs.retain(|kv| !is_segment(kv) && !kv.key.contains("/lane/"));
    store.put(keys::block(RUN, 0), &Block { segments });
    let rolled = store.book();
    assert_eq!(rolled.tasks(&Filter::default(), (0, 0), 10), page);
    assert_eq!(rolled.totals().get(Status::Skipped), 3);
    assert!(audit(&rolled, 0).is_clean());
}

#[test]
fn each_reason_has_its_words() {
    let cases = json!([
        with(command("first"), "mutual_tag", json!("printer")),
        with(command("second"), "case_pre", json!("first")),
        with(command("far"), "requires", json!({"os": "plan9"})),
        command("plain"),
    ]);
    let mut store = Store::with_run(cases, 3);
    store.worker("w1", 1);
    store.claim("w1", vec![Item { lane: 0, from: 0, to: 1, attempt: 1 }], &["printer/0"]);
    let hold = TagHold { run: RUN.into(), worker: "w1".into(), ..Default::default() };
    store.put(keys::tag("printer", 0), &hold);
    let found = waiting(&store.book(), &store.kvs, 5_000);
    let shown: Vec<_> =
        found.iter().map(|w| (w.lane, w.tasks, w.reason, w.text.as_str())).collect();
    assert_eq!(
        shown,
        [
            (0, 2, "tag", "tag printer is held by case first on w1; 1 lane waits for it"),
            (1, 3, "predecessor", "case first must end first: 3 of 3 repeats are open"),
            (2, 3, "label", "no worker with os=plan9 runs commands"),
            (3, 3, "slot", "all workers that could run it are full"),
        ]
    );
    assert_eq!(found[0].holders[0].worker, "w1");
}

#[test]
fn commands_wait_for_a_worker_that_runs_them() {
    let http = json!({"id": "call", "url": "http://shop.test/", "match": "status"});
    let far = with(command("far"), "requires", json!({"os": "plan9"}));
    let mut store = Store::with_run(json!([http, command("local"), far]), 1);
    let says = |store: &Store| -> Vec<String> {
        let found = waiting(&store.book(), &store.kvs, 5_000);
        found.into_iter().map(|w| format!("{} {}: {}", w.case, w.reason, w.text)).collect()
    };
    assert_eq!(says(&store)[1], "local label: there is no worker");
    let strict = WorkerInfo { max_task_num: 4, no_commands: true, ..Default::default() };
    store.worker_that_says("w1", &strict);
    assert_eq!(
        says(&store),
        [
            "call slot: all workers that could run it are full",
            "local label: no worker runs commands",
            "far label: no worker with os=plan9 runs commands",
        ]
    );
    // One that says nothing of commands takes them.
    store.worker_that_says("w2", &json!({"max_task_num": 1}));
    assert_eq!(says(&store)[1], "local slot: all workers that could run it are full");
}

#[test]
fn what_rests_or_is_with_people_waits_for_that() {
    let rested =
        with(command("rested"), "retries", json!({"test": 1, "infra": 0, "backoff_ms": 20_000}));
    let look = with(json!({"id": "look", "kind": "manual"}), "mutual_tag", json!("desk"));
    let mut store = Store::with_run(json!([rested, look]), 3);
    store.worker("w1", 4);
    let failed = |ordinal| row(0, ordinal, 1, Status::Failed, 500, 1_000);
    store.results("w1", &[failed(0), failed(1), row(0, 2, 1, Status::Passed, 0, 10)]);
    store.claim(keys::PEOPLE, vec![Item { lane: 1, from: 0, to: 1, attempt: 1 }], &["desk/0"]);
    let hold =
        TagHold { run: RUN.into(), worker: keys::PEOPLE.into(), lane: 1, ..Default::default() };
    store.put(keys::tag("desk", 0), &hold);
    let shown = |now| -> Vec<_> {
        let found = waiting(&store.book(), &store.kvs, now).into_iter();
        found.map(|w| (w.case, w.tasks, w.reason)).collect()
    };
    let of = |case: &str, tasks, reason| (case.to_owned(), tasks, reason);
    let people = [of("look", 1, "verdict"), of("look", 2, "tag")];
    assert_eq!(shown(22_499), [vec![of("rested", 2, "rest")], people.to_vec()].concat());
    assert_eq!(shown(22_500), [vec![of("rested", 2, "slot")], people.to_vec()].concat());
}

#[test]
fn what_would_have_been_tried_again_ends_with_its_last_attempt_when_its_run_is_stopped() {
    let retried = with(command("a"), "retries", json!({"test": 3, "backoff_ms": 0}));
    let mut store = Store::with_run(json!([retried]), 4);
    store.worker("w1", 4);
    // The first rests when the run is stopped, and is skipped; two end behind that, and one never began.
    store.results("w1", &[row(0, 0, 1, Status::Failed, 0, 10)]);
    store.results("w1", &[row(0, 1, 1, Status::Failed, 0, 20), row(0, 2, 1, Status::Lost, 0, 0)]);
    let mut ended = Ordinals::new();
    ended.insert_range(0, 4);
    let mut totals = Totals::of(4);
    totals.add(Status::Skipped, 2);
    totals.add(Status::Failed, 1);
    totals.add(Status::Lost, 1);
    totals.failures = 2;
    let of = |book: &RunBook| -> Vec<Status> {
        let tasks = book.tasks(&Filter::default(), (0, 0), 10).tasks;
        tasks.iter().map(|task| task.status).collect()
    };
    let expected = [Status::Skipped, Status::Failed, Status::Lost, Status::Skipped];
    // While it goes on a checkpoint tells it,
    let checkpoint = LaneCheckpoint { ended, totals: totals.clone(), ..Default::default() };
    store.put(keys::lanes(RUN, 0), &LanePack { folded: 9, lanes: [(0, checkpoint)].into() });
    assert_eq!(of(&store.book()), expected);
    assert!(store.book().totals().is_same(&totals), "{:?}", store.book().totals());
    // and then its status.
    let status =
        RunStatus { state: "failed".into(), totals, ended: Some(9_000), ..Default::default() };
    store.kvs.retain(|kv| kv.key != keys::open(RUN) && kv.key != keys::lanes(RUN, 0));
    store.put(keys::status(RUN), &status);
    let book = store.book();
    assert_eq!(of(&book), expected);
    assert_eq!(audit(&book, 0).faults, []);
    assert_eq!(book.failure_groups().iter().map(|group| group.tasks).sum::<u64>(), 2);
    let told: Vec<_> = book.given_up().iter().map(|end| (end.row.ordinal, end.ended)).collect();
    assert_eq!(told, [(1, Some(Status::Failed)), (2, Some(Status::Lost))]);
}

#[test]
fn what_never_ran_of_a_run_that_has_ended_stays_in_its_lane() {
    // One lane waits when the run is canceled; one was skipped before, and one partly.
    let mut store = Store::with_run(json!([command("a"), command("b"), command("c")]), 3);
    let ended = |counts: &[(Status, u64)]| {
        let mut known = LaneCheckpoint { totals: Totals::of(3), ..Default::default() };
        known.ended.insert_range(0, 3);
        counts.iter().for_each(|(status, count)| known.totals.add(*status, *count));
        known
    };
    use Status::{Canceled, Skipped};
    let lanes = [
        (0, ended(&[(Canceled, 3)])),
        (1, ended(&[(Skipped, 3)])),
        (2, ended(&[(Canceled, 2), (Skipped, 1)])),
    ];
    let mut totals = Totals::of(0);
    lanes.iter().for_each(|(_, known)| totals.merge(&known.totals));
    store.put(keys::lanes(RUN, 0), &LanePack { folded: 9, lanes: lanes.into() });
    let status =
        RunStatus { state: "canceled".into(), totals, ended: Some(9_000), ..Default::default() };
    store.put(keys::status(RUN), &status);
    store.kvs.retain(|kv| kv.key != keys::open(RUN));
    let book = store.book();
    let tasks = book.tasks(&Filter::default(), (0, 0), 9).tasks;
    let found: Vec<Status> = tasks.iter().map(|task| task.status).collect();
    assert_eq!(found[..6], [Canceled, Canceled, Canceled, Skipped, Skipped, Skipped]);
    assert_eq!(found[6..].iter().filter(|status| **status == Canceled).count(), 2);
    assert_eq!(audit(&book, 0).faults, []);
}

#[test]
fn a_tag_whose_capacity_changes_is_asked_of_the_history() {
    let tagged = with(command("a"), "mutual_tag", json!("printer"));
    let mut store = Store::with_run(json!([tagged]), 2);
    store.worker("w1", 2);
    store.results(
        "w1",
        &[row(0, 0, 1, Status::Passed, 0, 100), row(0, 1, 1, Status::Passed, 0, 100)],
    );
    assert_eq!(audit(&store.book(), 0).faults.len(), 1);
    store.put(keys::tag_definition("printer"), &json!({"capacity": 1}));
    assert_eq!(audit(&store.book(), 0).faults, [], "two may have had it before");
}

#[test]
fn slots_that_are_not_there_bound_nothing() {
    let gpu = with(command("a"), "requires", json!({"gpu": "1"}));
    let mut store = Store::with_run(json!([gpu]), 3);
    store.worker("w1", 2);
    let found = numbers(&store.book());
    assert_eq!((found.slots, found.bound_work, found.efficiency), (0, 0, None));
    assert_eq!(found.bound_chain, 1_000_000, "one of them");
}

#[test]
fn slots_that_leave_are_handed_to_nobody() {
    let mut store = Store::with_run(json!([command("a")]), 4);
    store.worker("stays", 1);
    let leaving = WorkerInfo { max_task_num: 1, draining: true, ..Default::default() };
    store.worker_that_says("leaves", &leaving);
    let passed = |ordinal, at| row(0, ordinal, 1, Status::Passed, at, 100);
    store.results("leaves", &[passed(0, 0)]);
    store.results("stays", &[passed(1, 0), passed(2, 100), passed(3, 200)]);
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.hand_over, loss.other, loss.tail), (0, 100_000, 100_000));
}

#[test]
fn a_run_is_measured_against_its_bound() {
    let cases = json!([command("a"), with(command("b"), "case_pre", json!("a"))]);
    let mut store = Store::with_run(cases, 2);
    store.worker("w1", 2);
    // 100 ms until the start; 50 ms between the stages; the last slot is idle for 100 ms.
    store.results("w1", &[row(0, 0, 1, Status::Passed, 100, 200)]);
    store.results("w1", &[row(0, 1, 1, Status::Passed, 100, 100)]);
    store.results("w1", &[row(1, 0, 1, Status::Passed, 350, 200)]);
    store.results("w1", &[row(1, 1, 1, Status::Passed, 350, 100)]);
    store.ended_at("passed", 1_550);
    let found = numbers(&store.book());
    assert_eq!((found.slots, found.work, found.makespan), (2, 600_000, 550_000));
    assert_eq!((found.bound_work, found.bound_tag, found.bound_chain), (300_000, 0, 400_000));
    assert!((found.efficiency.unwrap() - 400.0 / 550.0).abs() < 1e-9);
    let idle: Vec<_> = gaps(&store.book())
        .iter()
        .map(|gap| (gap.from / 1_000, gap.to / 1_000, gap.cause))
        .collect();
    let causes = [
        (1_000, 1_100, "start"),
        (1_200, 1_300, "predecessor"),
        (1_300, 1_350, "hand_over"),
        (1_450, 1_550, "tail"),
    ];
    assert_eq!(idle, causes);
    let loss = found.loss.unwrap();
    assert_eq!(
        (loss.start, loss.predecessor, loss.hand_over, loss.tail),
        (200_000, 100_000, 100_000, 100_000)
    );
    let all = loss.start + loss.predecessor + loss.hand_over + loss.tail + loss.tag;
    assert_eq!(all + found.work, found.slots * found.makespan);
}

#[test]
fn what_is_not_handed_over_is_not_called_so() {
    let mut store = Store::with_run(json!([command("a")]), 4);
    store.worker("fit", 1);
    let strict = WorkerInfo { max_task_num: 3, no_commands: true, ..Default::default() };
    store.worker_that_says("strict", &strict);
    // The fit worker is busy for 300 ms; then the run is paused for 5 s. The strict one could do nothing: its
    // slots are none of the run's.
    let passed = |ordinal, at| row(0, ordinal, 1, Status::Passed, at, 100);
    store.results("fit", &[passed(0, 0), passed(1, 100), passed(2, 200), passed(3, 5_300)]);
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.start, loss.hand_over, loss.tag, loss.predecessor), (0, 0, 0, 0));
    assert_eq!((loss.other, loss.tail), (5_000_000, 0));

    // A rest before another attempt.
    let retries = json!({"test": 1, "infra": 0, "backoff_ms": 2_000});
    let mut store = Store::with_run(json!([with(command("a"), "retries", retries)]), 1);
    store.worker("w1", 1);
    let rows = [row(0, 0, 1, Status::Failed, 0, 100), row(0, 0, 2, Status::Passed, 2_100, 100)];
    store.results("w1", &rows);
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.other, loss.hand_over, loss.tail), (2_000_000, 0, 0));

    // A full environment of a worker with more slots.
    let (case, mut store) = (command("a"), Store::default());
    let place = serde_json::from_value(json!({"id": "lab", "capacity": 1})).unwrap();
    let case: TestCase = serde_json::from_value(case).unwrap();
    let spec = json!({"id": RUN, "cases": [{"case": "a"}], "repeats": 2, "submitted": 1_000,
        "environments": ["lab"]});
    let (cases, environments) = (vec![case], vec![place]);
    let definitions = Definitions { total: 1, cases, environments, ..Default::default() };
    store.put(keys::definitions(RUN, 0), &definitions);
    store.put(keys::run(RUN), &spec);
    store.put(keys::open(RUN), &RUN);
    store.worker("w1", 2);
    store.results("w1", &[passed(0, 0), passed(1, 110)]);
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.other, loss.hand_over, loss.tail), (100_000, 20_000, 100_000));
}

/// A run that went as it should, with order and a tag.
fn sound() -> Store {
    let cases = json!([
        with(command("a"), "mutual_tag", json!("printer")),
        with(command("b"), "case_pre", json!("a")),
    ]);
    let mut store = Store::with_run(cases, 2);
    store.worker("w1", 2);
    store.results(
        "w1",
        &[row(0, 0, 1, Status::Passed, 0, 100), row(0, 1, 1, Status::Passed, 100, 100)],
    );
    store.results(
        "w1",
        &[row(1, 0, 1, Status::Passed, 200, 100), row(1, 1, 1, Status::Passed, 200, 100)],
    );
    store
}

#[test]
fn a_sound_run_is_clean() {
    let mut store = sound();
    store.ended("passed");
    let found = audit(&store.book(), 0);
    assert!(found.is_clean(), "{found:?}");
    for rule in
        [Rule::OneResult, Rule::Tags, Rule::Order, Rule::Slots, Rule::Attempts, Rule::Totals]
    {
        assert!(found.checked[&rule] > 0, "{rule:?}");
    }
}

#[test]
fn keys_of_others_are_told() {
    let mut store = sound();
    store.claim("w1", vec![Item { lane: 0, from: 0, to: 1, attempt: 1 }], &["t/0"]);
    let hold = TagHold { run: RUN.into(), claim: "1-9".into(), ..Default::default() };
    store.put(keys::tag("t", 0), &hold);
    store.ended("passed");
    let own = foreign(RUN, &store.kvs);
    assert!(own.is_clean(), "{own:?}");
    assert!(own.checked[&Rule::Foreign] >= 7, "{own:?}");
    let strange = [
        keys::worker("by-hand"),
        format!("{}notes", keys::run_parts(RUN)),
        format!("{}mine", keys::segments(RUN)),
        keys::claim("w1", 1, 99),
        keys::tag("t", 1),
    ];
    strange.iter().for_each(|key| store.put(key.clone(), &"written by hand"));
    let found = foreign(RUN, &store.kvs);
    let texts: Vec<&str> = found.faults.iter().map(|fault| fault.text.as_str()).collect();
    let wanted = strange.map(|key| format!("{key} is nothing that the scheduler writes"));
    assert_eq!(texts, wanted);
}

/// What the names of all keys tell, with the run's own left out.
fn named(store: &Store) -> Vec<String> {
    let mut names = Names::new(RUN);
    store.kvs.iter().for_each(|kv| names.look(&Kv { value: Vec::new(), ..kv.clone() }));
    names.finish().faults.into_iter().map(|fault| fault.text).collect()
}

#[test]
fn keys_of_no_part_of_the_program_are_told() {
    let mut store = sound();
    let leased = |store: &mut Store, key: String, value: serde_json::Value, lease: i64| {
        store.put(key, &value);
        store.kvs.last_mut().unwrap().lease = lease;
    };
    leased(&mut store, keys::leader(9), json!({"id": "s"}), 9);
    leased(&mut store, keys::beat("w1"), json!([[RUN, 0, 0, 1, 5]]), 7);
    leased(&mut store, keys::request("a/b"), json!({"run": RUN}), 7);
    leased(&mut store, keys::late("gone", "w-1-1-0"), json!({}), 7);
    let own = [
        keys::run("over"),
        keys::definitions("over", 0),
        keys::status("over"),
        keys::control("over"),
        keys::lanes("over", 600),
        keys::forced("over", "w1", "1-1"),
        keys::block("over", 0),
        keys::segment("over", "w1", "1-1", 0),
        keys::ended(5, "over"),
        keys::roll("over"),
        keys::open("over"),
        // A submit that goes on.
        keys::definitions("soon", 0),
        keys::command("w1", keys::DRAIN),
        keys::command("w1", "1-1"),
        keys::queue("nightly"),
        keys::stats("pay", "lab"),
        keys::stats("pay", ""),
        keys::check("lab"),
        keys::check_wish("lab"),
        keys::hook("0123456789abcdef"),
        keys::instance("lab1"),
        keys::tag("t", 0),
        keys::tag_definition("t"),
    ];
    own.iter().for_each(|key| store.put(key.clone(), &json!({})));
    assert_eq!(named(&store), [""; 0]);
    assert!(foreign(RUN, &store.kvs[..store.kvs.len() - own.len()]).is_clean());

    let strange = [
        "foo",
        "foo/",
        "foo/bar",
        "run/",
        "run/over/notes",
        "run/over/lane/1",
        "rseg/over/mine",
        "rblock/over/x",
        "rblock/over",
        "ended/now",
        "open/",
        "roll/a/b",
        "late/over",
        "late/over/x",
        "req/",
        "req/x",
        "cmd/w1",
        "cmd/w1/a/b",
        "stats/pay",
        "hook/here",
        "queue/",
        "check/a/b",
        "instance/",
        "recheck/",
    ];
    let strange = strange.map(|name| format!("{}{name}", keys::PREFIX));
    strange.iter().for_each(|key| store.put(key.clone(), &json!({})));
    let texts = named(&store);
    let wanted = strange.clone().map(|key| format!("{key} is nothing that the scheduler writes"));
    assert_eq!(texts[..], wanted[..texts.len()], "as many as are told");
    for (n, key) in strange.iter().enumerate() {
        store.kvs.retain(|kv| !strange.contains(&kv.key));
        store.put(key.clone(), &json!({}));
        assert_eq!(named(&store), wanted[n..=n]);
    }
    store.kvs.retain(|kv| !strange.contains(&kv.key));
    store.kvs.retain(|kv| kv.key != keys::run("over"));
    let texts = named(&store);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].ends_with("is of run over, which does not exist, and 8 more"), "{texts:?}");

    let mut values = Store::default();
    leased(&mut values, keys::leader(9), json!({"id": "s"}), 0);
    leased(&mut values, keys::leader(8), json!({"id": "s"}), 9);
    leased(&mut values, keys::beat("w1"), json!("alive"), 7);
    leased(&mut values, keys::beat("w1"), json!([]), 0);
    leased(&mut values, keys::open(RUN), json!("another"), 0);
    for kv in &values.kvs {
        assert!(!foreign(RUN, std::slice::from_ref(kv)).is_clean(), "{}", kv.key);
    }
}

#[test]
fn each_broken_promise_is_found() {
    use Status::Passed;
    let broken: [(&[Row], &[Rule]); 5] = [
        (&[row(1, 1, 2, Passed, 400, 10)], &[Rule::Final]),
        (&[row(0, 0, 3, Passed, 500, 10)], &[Rule::Final, Rule::Attempts, Rule::Order]),
        (&[row(0, 0, 2, Passed, 150, 10)], &[Rule::Final, Rule::Tags]),
        (&[row(0, 0, 2, Passed, 195, 50)], &[Rule::Final, Rule::Order, Rule::Slots]),
        (&[row(1, 0, 2, Passed, 210, 50)], &[Rule::Final, Rule::Slots]),
    ];
    for (rows, rules) in broken {
        let mut store = sound();
        store.results("w1", rows);
        store.ended("passed");
        let found = audit(&store.book(), 0);
        let mut seen: Vec<Rule> = found.faults.iter().map(|fault| fault.rule).collect();
        seen.dedup();
        for rule in rules {
            assert!(seen.contains(rule), "{rule:?} of {rows:?}: {found:?}");
        }
    }
    let mut store = sound();
    store.ended("passed");
    store.kvs.retain(|kv| !kv.key.contains("1-5"));
    let found = audit(&store.book(), 0);
    assert!(found.faults.iter().any(|fault| fault.rule == Rule::OneResult), "{found:?}");
    let mut store = sound();
    store.ended("passed");
    store.claim("w1", vec![Item { lane: 0, from: 0, to: 1, attempt: 1 }], &[]);
    store.claim("w2", vec![Item { lane: 0, from: 0, to: 2, attempt: 1 }], &[]);
    let found = audit(&store.book(), 0);
    assert!(found.faults.iter().any(|fault| fault.rule == Rule::OneClaim), "{found:?}");
    assert!(found.faults.iter().any(|fault| fault.rule == Rule::Balance), "{found:?}");
}

#[test]
fn the_history_is_checked_commit_by_commit() {
    let item = |from, to| Item { lane: 0, from, to, attempt: 1 };
    let claim = |number: u64, epoch, items, at| {
        let claim = Claim { run: RUN.into(), epoch, items, ..Default::default() };
        let value = serde_json::to_vec(&claim).unwrap();
        let key = keys::claim("w1", epoch, number);
        let kv = Kv { key, value, create_revision: at, mod_revision: at, lease: 0 };
        Commit { revision: at, changes: vec![Change::Put(kv)] }
    };
    let gone = |key: String, at| Commit { revision: at, changes: vec![Change::Delete { key }] };
    let tag = |at| {
        let kv = Kv {
            key: keys::tag("t", 0),
            create_revision: at,
            mod_revision: at,
            ..Default::default()
        };
        Commit { revision: at, changes: vec![Change::Put(kv)] }
    };
    let sound = vec![
        claim(1, 5, vec![item(0, 2)], 10),
        tag(11),
        gone(keys::claim("w1", 5, 1), 12),
        gone(keys::tag("t", 0), 13),
        claim(2, 7, vec![item(1, 2)], 14),
        tag(15),
        gone(keys::claim("w1", 7, 2), 16),
        gone(keys::open(RUN), 17),
    ];
    let found = replay(RUN, sound.clone());
    assert!(found.is_clean(), "{found:?}");
    for (left_out, rule) in [(2, Rule::OneClaim), (3, Rule::Tags), (6, Rule::Balance)] {
        let mut commits = sound.clone();
        commits.remove(left_out);
        let found = replay(RUN, commits);
        assert!(found.faults.iter().any(|fault| fault.rule == rule), "{rule:?}: {found:?}");
    }
    let mut commits = sound;
    commits.insert(5, claim(3, 6, vec![item(5, 6)], 15));
    let found = replay(RUN, commits);
    assert!(found.faults.iter().any(|fault| fault.rule == Rule::Leaders), "{found:?}");
}

#[test]
fn a_worker_that_is_left_waiting_is_found() {
    let cases = json!([with(command("a"), "mutual_tag", json!("printer")), command("b")]);
    let run_on = |gap: u64, info: &WorkerInfo| {
        let mut store = Store::with_run(cases.clone(), 2);
        store.worker_that_says("w1", info);
        let (a, b) = (row(0, 0, 1, Status::Passed, 0, 100), row(1, 0, 1, Status::Passed, 0, 9_000));
        let (c, d) = (
            row(0, 1, 1, Status::Passed, 9_000, 100),
            row(1, 1, 1, Status::Passed, 9_100 + gap, 100),
        );
        store.results("w1", &[a, b, c, d]);
        store.ended("passed");
        idleness(&store.book())
    };
    let with_slots = |slots| WorkerInfo { max_task_num: slots, ..Default::default() };
    let run = |gap, slots| run_on(gap, &with_slots(slots));
    // With two slots one is free for 8.9 s from the end of the first; with one, b fills it until 9 s.
    let found = run(0, 2);
    let told = &found.faults[0];
    assert_eq!((found.count, told.rule), (1, Rule::Idleness), "{found:?}");
    assert_eq!(told.text, "worker w1 had room for 8900 ms while case a could run");
    assert_eq!(run(0, 1).count, 0);
    assert_eq!(run(4_800, 1).count, 0);
    let found = run(5_200, 1);
    assert_eq!(found.count, 1, "{found:?}");
    assert!(found.checked[&Rule::Idleness] > 0);
    // One that asks when it likes is nobody's to wait for.
    assert_eq!(run_on(0, &WorkerInfo { at_will: true, ..with_slots(2) }).count, 0);
}

#[test]
fn only_a_run_that_had_the_workers_for_itself_is_asked_for_idleness() {
    let put = |key: String, value: serde_json::Value, created: i64| {
        let value = value.to_string().into_bytes();
        let kv = Kv { key, value, create_revision: created, mod_revision: 9, lease: 0 };
        Commit { revision: 9, changes: vec![Change::Put(kv)] }
    };
    let claim = |run: &str, epoch: i64| {
        put(keys::claim("w", epoch, 1), json!({"run": run, "epoch": epoch}), 9)
    };
    let end = Commit { revision: 9, changes: vec![Change::Delete { key: keys::open(RUN) }] };
    let alone = [put(keys::open(RUN), json!(RUN), 9), claim(RUN, 5), claim(RUN, 5), end.clone()];
    assert!(is_undisturbed(RUN, &[], &alone));
    assert!(!is_undisturbed(RUN, &[Kv::default()], &alone));
    assert!(!is_undisturbed(RUN, &[], &alone[..3]), "it goes on");
    let gone = Commit { revision: 9, changes: vec![Change::Delete { key: keys::worker("w") }] };
    for other in [
        claim("other", 5),
        claim(RUN, 6),
        put(keys::open("other"), json!("other"), 9),
        put(keys::control(RUN), json!({}), 9),
        put(keys::worker("w"), json!({}), 1),
        put(keys::queue("default"), json!({}), 9),
        put(keys::tag_definition("t"), json!({}), 9),
        gone,
    ] {
        let commits = [claim(RUN, 5), other.clone(), end.clone()];
        assert!(!is_undisturbed(RUN, &[], &commits), "{other:?}");
    }
    assert!(is_undisturbed(RUN, &[], &[claim(RUN, 5), put(keys::worker("w"), json!({}), 9), end]));
}

#[test]
fn what_was_lost_or_forced_says_why() {
    let mut store = Store::with_run(json!([command("a")]), 6);
    let lost = |ordinal| Row { duration: 0, ..row(0, ordinal, 1, Status::Lost, 700, 0) };
    let canceled = |ordinal| row(0, ordinal, 1, Status::Canceled, 700, 10);
    store.results("w1", &[row(0, 0, 1, Status::Passed, 0, 500), lost(1), lost(2), lost(3)]);
    store.results("w2", &[canceled(4), canceled(5)]);
    let claim =
        store.kvs.iter().find_map(|kv| keys::parse_segment(&kv.key).filter(|k| k.1 == "w2"));
    let claim = claim.unwrap().2.to_owned();
    let force = |reason: &str| json!({"tag": "t", "reason": reason, "by": "ann"});
    store.put(keys::forced(RUN, "w2", &claim), &force("it hangs"));
    store.put(keys::forced(RUN, "w1", &claim), &force("not this one"));
    assert!(foreign(RUN, &store.kvs).is_clean());
    let book = store.book();
    let said = |ordinal| {
        let task = book.find_task(0, ordinal).unwrap();
        let message = task.detail.map(|detail| detail["message"].as_str().unwrap().to_owned());
        (message, task.start.is_some(), task.duration.is_some())
    };
    assert_eq!(said(0), (None, true, true));
    let text = "worker w1 lost its lease; whether this had begun there is not known";
    assert_eq!(said(2), (Some(text.to_owned()), false, false));
    let text = "forced by ann, tag t was released: it hangs";
    assert_eq!(said(5), (Some(text.to_owned()), true, true));
    // Nobody knows of the lost that they ran.
    assert_eq!(story(&book).iter().map(|told| told.running).max(), Some(2));
}

#[test]
fn no_more_are_told_to_run_than_a_worker_has_slots() {
    let mut store = Store::with_run(json!([command("a")]), 9);
    store.worker("w1", 2);
    // Each ends within the millisecond in which the next one starts, and some take no time.
    let at =
        |ordinal, start, duration| Row { duration, ..row(0, ordinal, 1, Status::Passed, start, 0) };
    store.results("w1", &[at(0, 0, 10_700), at(1, 0, 20_900), at(2, 10, 10_100), at(3, 20, 300)]);
    store.results("w1", &[at(4, 20, 0), at(5, 20, 0), at(6, 20, 0), at(7, 20, 0), at(8, 20, 9)]);
    store.ended("passed");
    let told = story(&store.book());
    assert_eq!(told.iter().map(|told| told.running).max(), Some(2), "{told:#?}");
    assert_eq!(told.last().map(|told| (told.running, told.ended)), Some((0, 9)));
    assert!(told.is_sorted_by_key(|told| told.at_us));
}

#[test]
fn a_story_is_told_in_order_from_the_record() {
    let mut store = Store::with_run(
        json!([{"id": "a", "kind": "command", "command": ["a"], "retries": {"test": 1}}]),
        2,
    );
    let row = |ordinal, attempt, status, start, ms: u64| Row {
        lane: 0,
        ordinal,
        attempt,
        status,
        start,
        duration: ms * 1_000,
        detail: None,
    };
    // What is recorded first need not have happened first.
    store.results("w2", &[row(1, 1, Status::Passed, 1_010, 500)]);
    store
        .results("w1", &[row(0, 1, Status::Failed, 1_005, 5), row(0, 2, Status::Passed, 1_010, 0)]);
    store.ended("passed");
    let told = story(&store.book());
    let lines: Vec<String> = told.iter().map(|told| line(told, 1_000)).collect();
    let shown: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    assert_eq!(
        shown,
        [
            "0.000 s    0 running      0 ended  submitted: 2 tasks in 1 lanes",
            "0.005 s    1 running      0 ended  w1 starts a#0",
            "0.010 s    0 running      0 ended  w1 ends a#0: failed, to be tried again",
            "0.010 s    1 running      0 ended  w2 starts a#1",
            "0.010 s    2 running      0 ended  w1 starts a#0, attempt 2",
            "0.010 s    1 running      1 ended  w1 ends a#0, attempt 2: passed",
            "0.510 s    0 running      2 ended  w2 ends a#1: passed",
            "8.000 s    0 running      2 ended  passed: 2 of 2 ended, 2 passed, 1 flaky",
        ]
    );
    let json = serde_json::to_value(&told[2]).unwrap();
    assert_eq!(
        (&json["event"], &json["status"], &json["again"]),
        (&json!("end"), &json!("03"), &json!(true))
    );
}
