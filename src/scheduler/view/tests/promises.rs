//! What a record must hold.

use super::*;

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
    // A store that is asked for keys alone tells neither values nor leases.
    let name = |kv: &Kv| Kv { value: Vec::new(), lease: 0, ..kv.clone() };
    for kv in &store.kvs {
        match LEASED.iter().any(|prefix| kv.key.starts_with(prefix)) {
            true => names.look_leased(kv),
            false => names.look(&name(kv)),
        }
    }
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
