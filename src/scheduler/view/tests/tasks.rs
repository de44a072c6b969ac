//! How tasks stand, and the pages that list them.

use super::*;

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
