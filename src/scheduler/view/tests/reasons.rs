//! Why lanes wait.

use super::*;

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
    let held = "tag desk is held by case look, which a person judges; 1 lane waits for it";
    assert!(waiting(&store.book(), &store.kvs, 0).iter().any(|waiting| waiting.text == held));
}
