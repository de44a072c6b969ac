//! What is counted of tasks that no attempt tells of.

use super::*;

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
