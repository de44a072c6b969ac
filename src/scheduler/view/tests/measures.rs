//! How fast a run is, and how it is measured against its bound.

use super::*;

#[test]
fn a_run_is_as_fast_as_it_was_of_late() {
    let mut store = Store::with_run(json!([command("a")]), 4);
    store.worker("w1", 1);
    let pace = |store: &Store, now| Pace::of(&store.book(), now);
    assert_eq!(pace(&store, 2_000), Pace::default(), "nothing has run");
    let passed = |ordinal, at| row(0, ordinal, 1, Status::Passed, at, 1_000);
    store.results("w1", &[passed(0, 0), passed(1, 1_000)]);
    store.claim("w1", vec![Item { lane: 0, from: 2, to: 3, attempt: 1 }], &[]);
    store.put(keys::beat("w1"), &json!([[RUN, 0, 2, 1, 3_000]]));
    // Two tasks in three seconds; one slot was busy, and a task of a second is left behind one that ends now.
    let found = pace(&store, 4_000);
    assert!((found.rate.unwrap() - 2.0 / 3.0).abs() < 1e-9, "{found:?}");
    assert_eq!((found.ends, found.is_overdue), (Some(5_000), false));
    // What nobody works at has no end.
    store.kvs.retain(|kv| !kv.key.starts_with(keys::CLAIMS));
    assert_eq!(pace(&store, 4_000).ends, None);
    store.results("w1", &[passed(2, 2_000), passed(3, 3_000)]);
    store.ended("passed");
    assert_eq!(pace(&store, 99_000), Pace { rate: Some(1.0), ..Default::default() });
}

#[test]
fn the_time_between_two_tasks_is_in_the_expected_end() {
    let mut store = Store::with_run(json!([command("a")]), 200);
    store.worker("w1", 1);
    // A task of 10 ms each 40 ms; the one that runs is so young that nobody has said so.
    let rows: Vec<Row> =
        (0..100).map(|n| row(0, n, 1, Status::Passed, u64::from(n) * 40, 10)).collect();
    store.results("w1", &rows);
    store.claim("w1", vec![Item { lane: 0, from: 100, to: 101, attempt: 1 }], &[]);
    let found = Pace::of(&store.book(), 5_000);
    let ends = found.ends.unwrap();
    assert!((8_900..9_100).contains(&ends), "100 tasks of 40 ms are left: {found:?}");
    // What has been seen of this run counts, not what was known before.
    assert_eq!(numbers(&store.book()).left_work, 1_000_000);
}

#[test]
fn what_runs_for_longer_than_its_like_is_overdue() {
    let mut store = Store::with_run(json!([command("a")]), 3);
    store.worker("w1", 1);
    let rows = [row(0, 0, 1, Status::Passed, 0, 1_000), row(0, 1, 1, Status::Passed, 1_000, 1_000)];
    store.results("w1", &rows);
    store.claim("w1", vec![Item { lane: 0, from: 2, to: 3, attempt: 1 }], &[]);
    store.put(keys::beat("w1"), &json!([[RUN, 0, 2, 1, 3_000]]));
    let pace = |now| Pace::of(&store.book(), now);
    assert_eq!((pace(3_500).ends, pace(3_500).is_overdue), (Some(4_000), false));
    assert_eq!((pace(4_500).ends, pace(4_500).is_overdue), (None, true));
}

#[test]
fn slots_of_dead_workers_are_no_slots_of_now() {
    let mut store = Store::with_run(json!([command("a")]), 6);
    store.worker("stays", 1);
    store.results("gone", &[row(0, 0, 1, Status::Passed, 0, 100)]);
    store.results("stays", &[row(0, 1, 1, Status::Passed, 0, 100)]);
    let book = store.book();
    let found = numbers(&book);
    assert_eq!((found.slots, found.left), (1, 400_000));
    assert_eq!(found.bound_work, 300_000, "both have worked at it");
    let is_gone = ["gone", "stays", keys::PEOPLE].map(|worker| book.is_gone(worker));
    assert_eq!(is_gone, [true, false, false]);
    store.kvs.retain(|kv| kv.key != keys::worker("stays"));
    assert_eq!(numbers(&store.book()).slots, 0);
    store.ended("incomplete");
    assert_eq!(numbers(&store.book()).slots, 2, "they took part");
}

#[test]
fn a_lane_that_no_worker_fits_does_not_hide_what_others_wait_for() {
    let strange = with(command("strange"), "requires", json!({"gpu": "1"}));
    let tagged = with(command("tagged"), "mutual_tag", json!("printer"));
    let mut store = Store::with_run(json!([strange, tagged]), 2);
    store.worker("w1", 2);
    // One of the two slots is idle, since the other has the printer.
    store.results(
        "w1",
        &[row(1, 0, 1, Status::Passed, 0, 100), row(1, 1, 1, Status::Passed, 100, 100)],
    );
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.tag, loss.other, loss.hand_over), (100_000, 100_000, 0));
    let causes: Vec<_> = measured(&store.book()).1.iter().map(|gap| gap.cause).collect();
    assert_eq!(causes, ["tag", "other"]);
}

#[test]
fn what_waits_for_people_is_told_apart() {
    let tagged = |case| with(case, "mutual_tag", json!("printer"));
    let by_hand = with(tagged(json!({"id": "by hand", "kind": "manual"})), "steps", json!("look"));
    let after = with(command("after"), "case_pre", json!("by hand"));
    let mut store = Store::with_run(json!([command("a"), by_hand, tagged(command("b")), after]), 1);
    store.worker("w1", 1);
    // For 900 ms a person has the printer; the second verdict holds up nothing that is left.
    store.results(keys::PEOPLE, &[row(1, 0, 1, Status::Passed, 1_000, 0)]);
    let passed = |lane, at| row(lane, 0, 1, Status::Passed, at, 100);
    store.results("w1", &[passed(0, 0), passed(2, 1_000), passed(3, 1_100)]);
    let (found, gaps) = measured(&store.book());
    let loss = found.loss.unwrap();
    assert_eq!((loss.tag, loss.person, loss.other), (900_000, 0, 0), "{loss:?}");
    assert_eq!(gaps.iter().map(|gap| gap.cause).collect::<Vec<_>>(), ["tag"]);

    let by_hand = json!({"id": "by hand", "kind": "manual", "steps": "look"});
    let mut store = Store::with_run(json!([command("a"), by_hand]), 1);
    store.worker("w1", 1);
    store.results("w1", &[row(0, 0, 1, Status::Passed, 0, 100)]);
    store.results(keys::PEOPLE, &[row(1, 0, 1, Status::Passed, 5_000, 0)]);
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.person, loss.other, loss.tail), (4_900_000, 0, 0), "{loss:?}");
}

#[test]
fn what_nobody_knows_the_length_of_is_counted() {
    let known = with(command("known"), "est_ms", json!(5_000));
    let mut store = Store::with_run(json!([known, command("unknown")]), 4);
    store.worker("w1", 1);
    assert_eq!(numbers(&store.book()).guessed, 4);
    store.results("w1", &[row(1, 0, 1, Status::Passed, 0, 100)]);
    assert_eq!(numbers(&store.book()).guessed, 0, "one has told it");
}

#[test]
fn it_is_said_that_there_are_too_many_tasks_for_the_loss() {
    let cases: Vec<_> = (0..7_100).map(|n| command(&format!("c{n}"))).collect();
    let mut store = Store::with_run(json!(cases), 1);
    store.worker("w1", 1);
    let rows: Vec<Row> = (0..7_100).map(|n| row(n, 0, 1, Status::Passed, 0, 1)).collect();
    store.results("w1", &rows);
    let found = serde_json::to_value(numbers(&store.book())).unwrap();
    assert_eq!(found["loss_left_out"], "too many tasks for the loss by cause");
    assert!(found.get("loss").is_none());
    assert!(numbers_once(&store.book()).loss.is_some(), "who waits for it is told");
    let store = Store::with_run(json!([command("a")]), 1);
    assert_eq!(numbers(&store.book()).loss_left_out, None);
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
    let idle: Vec<_> = measured(&store.book())
        .1
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
    let found = numbers(&store.book());
    let loss = found.loss.unwrap();
    assert_eq!((loss.limit, loss.hand_over, loss.tail), (100_000, 20_000, 100_000));
    assert_eq!((found.bound_work, found.bound_limit), (100_000, 200_000));
    // It has been widened since, and then nothing but the queue is narrow.
    store.put(keys::environment("lab"), &json!({"id": "lab", "capacity": 2}));
    let found = numbers(&store.book());
    assert_eq!((found.loss.unwrap().limit, found.bound_limit), (0, 100_000));
    store.put(keys::queue("default"), &json!({"limit": 1}));
    let found = numbers(&store.book());
    assert_eq!(
        (found.loss.unwrap().limit, found.bound_limit, found.bound),
        (100_000, 200_000, 200_000)
    );
    assert_eq!(found.bound_tag, 0);
}

/// What a worker took with it: nobody knows since when it ran.
fn lost(ordinal: u32, at: u64) -> Row {
    row(0, ordinal, 1, Status::Lost, at, 0)
}

/// Slot time that went into nothing, in milliseconds; all parts of it are told.
fn all_lost(found: &Numbers) -> Loss {
    let loss = found.loss.unwrap();
    let parts = [loss.start, loss.predecessor, loss.tag, loss.hand_over, loss.gone, loss.other];
    let sum = parts.iter().sum::<u64>() + loss.tail;
    assert_eq!(sum + found.work, found.slots * found.makespan, "{loss:?}");
    loss
}

#[test]
fn slots_of_what_was_lost_are_not_busy_for_ever() {
    let mut store = Store::with_run(json!([command("a")]), 6);
    store.worker("w1", 2);
    // Killed while it had two of six; noticed after four seconds, and back after five more.
    let passed = |ordinal, attempt, at| row(0, ordinal, attempt, Status::Passed, at, 500);
    store.results("w1", &[passed(0, 1, 0), passed(1, 1, 0)]);
    store.results("w1", &[lost(2, 4_000), lost(3, 4_000)]);
    store.results("w1", &[passed(2, 2, 9_000), passed(3, 2, 9_000)]);
    store.results("w1", &[passed(4, 1, 9_500), passed(5, 1, 9_600)]);
    store.ended_at("passed", 11_200);
    let (found, gaps) = measured(&store.book());
    let loss = all_lost(&found);
    assert_eq!((loss.gone, loss.hand_over), (17_000_000, 100_000), "{loss:?}");
    assert_eq!((loss.other, loss.tail), (0, 300_000), "{loss:?}");
    let causes: Vec<_> =
        gaps.iter().map(|gap| (gap.from / 1_000, gap.to / 1_000, gap.cause)).collect();
    assert_eq!(
        causes,
        [(1_500, 10_000, "gone"), (10_500, 10_600, "hand_over"), (11_000, 11_200, "tail"),]
    );
}

#[test]
fn slots_of_a_lost_worker_are_handed_to_nobody() {
    let mut store = Store::with_run(json!([command("a")]), 5);
    store.worker("stays", 1);
    let passed = |ordinal, attempt, at| row(0, ordinal, attempt, Status::Passed, at, 500);
    let of_stays = [passed(1, 1, 0), passed(3, 1, 510), passed(4, 1, 1_020), passed(2, 2, 3_000)];
    store.results("goes", &[passed(0, 1, 0)]);
    store.results("stays", &of_stays[..3]);
    store.results("goes", &[lost(2, 2_500)]);
    store.results("stays", &of_stays[3..]);
    store.ended_at("passed", 5_000);
    let loss = all_lost(&numbers(&store.book()));
    // Gone from its last end, until nothing is left to start.
    assert_eq!((loss.gone, loss.tail), (2_500_000, 1_500_000), "{loss:?}");
    assert_eq!((loss.hand_over, loss.other), (20_000 + 980_000, 500_000), "{loss:?}");
}

#[test]
fn what_a_lost_attempt_is_known_to_have_taken_counts_as_lost_with_its_worker() {
    let mut store = Store::with_run(json!([command("a")]), 2);
    store.worker("w1", 1);
    let known = row(0, 0, 1, Status::Lost, 0, 700);
    let rest = [(0, 2, 700), (1, 1, 1_200)];
    let rest = rest.map(|(ordinal, attempt, at)| row(0, ordinal, attempt, Status::Passed, at, 500));
    store.results("w1", &[&[known][..], &rest].concat());
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.gone, loss.repeated), (700_000, 0), "{loss:?}");
}

#[test]
fn a_worker_that_is_not_there_has_no_idle_slots_while_the_run_goes_on() {
    let mut store = Store::with_run(json!([command("a")]), 5);
    store.worker("stays", 1);
    let passed = |ordinal, at| row(0, ordinal, 1, Status::Passed, at, 500);
    store.results("gone", &[passed(0, 0)]);
    store.results("stays", &[passed(1, 0), passed(2, 500), passed(3, 1_000)]);
    let loss = numbers(&store.book()).loss.unwrap();
    assert_eq!((loss.gone, loss.hand_over, loss.other), (1_000_000, 0, 0), "{loss:?}");
}
