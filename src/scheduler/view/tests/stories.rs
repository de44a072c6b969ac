//! What happened, told again.

use super::*;

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

#[test]
fn a_story_ends_with_what_goes_on() {
    let mut store = Store::with_run(json!([command("a")]), 3);
    store.worker("w1", 2);
    store.results("w1", &[row(0, 0, 1, Status::Passed, 0, 100)]);
    store.claim("w1", vec![Item { lane: 0, from: 1, to: 3, attempt: 1 }], &[]);
    store.put(keys::beat("w1"), &json!([[RUN, 0, 1, 1, 1_050]]));
    let told = story(&store.book());
    let lines: Vec<String> = told.iter().map(|told| line(told, 1_000).trim().to_owned()).collect();
    assert_eq!(
        lines[1..],
        [
            "0.000 s    1 running      0 ended  w1 starts a#0",
            "0.050 s    2 running      0 ended  w1 starts a#1",
            "0.100 s    1 running      1 ended  w1 ends a#0: passed",
        ],
        "nobody says since when the third runs"
    );
}
