//! The test scheduler as its users have it: processes on a real cluster, calls of a real service.
//!
//! With `QUOIN_TEST_BINARY` the store is another server, for example etcd.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod admission;
mod beside;
mod browser;
mod chaos;
mod commands;
mod environments;
mod failures;
mod full;
mod hooks;
mod http;
mod kept;
mod members;
mod numbers;
mod page;
mod refusals;
mod remote;
mod resting;
mod roles;
mod running;
mod service;
mod stopped;
mod submits;
mod team;
mod told;
mod usage;

use cluster::{Cluster, Engine, Setup, eventually};
use http::Caller;
use kept::what_is_kept_of_runs;
use quoin::scheduler::keys;
use quoin::scheduler::model::Status;
use serde_json::{Value, json};
use service::{Call, Service, case};
use std::collections::{BTreeMap, BTreeSet};
use submits::{
    a_run_may_have_very_many_cases, a_submit_sees_what_was_written_before,
    many_definitions_are_written_together,
};
use team::Team;

on_each_engine![
    cases_run_in_order_and_apart,
    what_a_killed_worker_had_is_run_by_another,
    commands_end_with_their_worker,
    commands_end_when_their_worker_is_stopped,
    long_outputs_are_served_by_their_worker,
    a_worker_whose_key_was_deleted_registers_anew,
    a_killed_leader_is_replaced,
    a_scheduler_that_is_asked_to_end_leaves_the_lead,
    a_killed_member_loses_nothing,
    a_worker_that_was_paused_for_long_is_not_heard,
    failures_are_tried_again_and_told,
    a_canceled_run_stops_what_runs,
    what_is_kept_of_runs,
    a_worker_that_is_asked_to_end_finishes_first,
    a_worker_that_is_asked_twice_ends_at_once,
    a_worker_that_drains_ends_though_its_lease_was_lost,
    a_worker_that_comes_back_is_still_asked_to_leave,
    the_example_passes_on_a_store_with_users,
    a_run_may_have_very_many_cases,
    a_submit_sees_what_was_written_before,
    many_definitions_are_written_together,
    a_run_is_replayed_when_the_history_is_gone,
];

fn plan(cases: Vec<Value>, repeats: u32) -> Value {
    let selected: Vec<Value> = cases.iter().map(|case| json!({"case": case["id"]})).collect();
    json!({"cases": cases, "run": {"cases": selected, "repeats": repeats}})
}

async fn team(engine: Engine, members: usize, workers: &[(&str, u32)]) -> (Team, Service) {
    let cluster = Setup::new(engine, members).fast_elections().start().await;
    let mut team = Team::new(cluster);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    for (name, capacity) in workers {
        team.start_worker(name, *capacity, &[]).await;
    }
    (team, Service::start().await)
}

fn of_case<'a>(calls: &'a [Call], case: &str) -> Vec<&'a Call> {
    calls.iter().filter(|call| call.case == case).collect()
}

async fn cases_run_in_order_and_apart(engine: Engine) {
    let (team, service) = team(engine, 1, &[("w1", 5), ("w2", 5)]).await;
    let cases = vec![
        case(&service, "first", 20, json!({})),
        case(&service, "second", 20, json!({"case_pre": "first"})),
        case(&service, "alone", 10, json!({"mutual_tag": "printer"})),
        case(&service, "apart", 10, json!({"mutual_tag": ["printer", "scanner"]})),
    ];
    let run = team.submit(&plan(cases, 30)).await;
    let status = team.ended(&run).await;
    assert_eq!((status.state.as_str(), status.totals.get(Status::Passed)), ("passed", 120));
    team.audit(&run, 120).await;
    let calls = service.calls();
    let tasks: BTreeSet<&str> = calls.iter().map(|call| call.task.as_str()).collect();
    assert_eq!((calls.len(), tasks.len()), (120, 120), "each task is run once where nothing fails");
    assert!(calls.iter().all(|call| call.run == run && call.attempt == 1));
    let last = of_case(&calls, "first").iter().map(|call| call.end.unwrap()).max().unwrap();
    assert!(of_case(&calls, "second").iter().all(|call| call.start >= last));
    let mut held: Vec<&Call> = of_case(&calls, "alone");
    held.extend(of_case(&calls, "apart"));
    held.sort_by_key(|call| call.start);
    for pair in held.windows(2) {
        assert!(pair[0].end.unwrap() <= pair[1].start, "{pair:?} hold one tag at a time");
    }
}

async fn what_a_killed_worker_had_is_run_by_another(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[("w1", 4), ("w2", 4)]).await;
    let cases = vec![
        case(&service, "plain", 30, json!({})),
        case(&service, "tagged", 30, json!({"mutual_tag": "printer"})),
    ];
    let run = team.submit(&plan(cases, 60)).await;
    team.has_results(&run, 10).await;
    team.workers.get_mut("w1").unwrap().kill();
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 120, "{status:?}");
    let results = team.audit(&run, 120).await;
    let lost = results.values().flatten().filter(|(_, status, _)| *status == Status::Lost);
    let lost: Vec<_> = lost.collect();
    assert!(lost.iter().all(|(.., worker)| worker == "w1") && !lost.is_empty(), "{lost:?}");
    let ((lane, ordinal), _) =
        results.iter().find(|(_, attempts)| attempts[0].1 == Status::Lost).unwrap();
    let name = format!("{}#{ordinal}", ["plain", "tagged"][*lane as usize]);
    let (_, said, _) = team.says(&["result", "get", &run, &name]).await;
    assert!(said.contains("message: worker w1 lost its lease; whether this had begun"), "{said}");
    let told = team.json(&["run", "replay", &run]).await;
    let running = told.as_array().unwrap().iter().map(|told| told["running"].as_u64().unwrap());
    assert!(running.max() <= Some(8), "{told}");
    let again = results.values().filter(|attempts| attempts.len() > 1);
    assert!(again.clone().all(|attempts| attempts.last().unwrap().2 == "w2"));
}

/// Nothing that a killed worker ran goes on beside what is given to another.
async fn commands_end_with_their_worker(engine: Engine) {
    a_command_ends_after(engine, |worker| worker.kill()).await;
}

async fn commands_end_when_their_worker_is_stopped(engine: Engine) {
    a_command_ends_after(engine, |worker| worker.pause()).await;
}

async fn a_command_ends_after(engine: Engine, what: impl FnOnce(&mut cluster::Process)) {
    let (mut team, _service) = team(engine, 1, &[]).await;
    team.start_worker("w1", 1, &["--allow-command"]).await;
    let file = team.file("numbers");
    let script = format!("while true; do (sleep 1000 & echo $$ >{file}; wait); done");
    let case = json!({"id": "long", "kind": "command", "command": ["sh", "-c", script]});
    team.submit(&plan(vec![case], 1)).await;
    let number = eventually("a command", async || match std::fs::read_to_string(&file) {
        Ok(text) if text.ends_with('\n') => Ok(text.trim().to_owned()),
        other => Err(format!("{other:?}")),
    })
    .await;
    // Whoever inherits it may not ask how it ended.
    let is_there = || {
        std::fs::read_to_string(format!("/proc/{number}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(is_there());
    what(team.workers.get_mut("w1").unwrap());
    eventually(
        "the end of its command",
        async || if is_there() { Err(number.clone()) } else { Ok(()) },
    )
    .await;
}

async fn a_worker_whose_key_was_deleted_registers_anew(engine: Engine) {
    let (team, service) = team(engine, 1, &[("w1", 4)]).await;
    let plan = plan(vec![case(&service, "plain", 30, json!({}))], 40);
    let run = team.submit(&plan).await;
    team.has_results(&run, 4).await;
    team.client().await.delete(keys::worker("w1"), None).await.unwrap();
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 40, "{status:?}");
    team.audit(&run, 40).await;
}

/// What is too long for a record can be had from the worker.
async fn long_outputs_are_served_by_their_worker(engine: Engine) {
    let (mut team, _service) = team(engine, 1, &[]).await;
    team.start_worker("w1", 1, &["--allow-command"]).await;
    let command = json!(["sh", "-c", "yes 0123456789 | head -c 200000; exit 1"]);
    let run = team
        .submit(&plan(vec![json!({"id": "long", "kind": "command", "command": command})], 1))
        .await;
    team.ended(&run).await;
    let shown = team.json(&["result", "get", &run, "long#0"]).await;
    let digest = shown["attempts"][0]["detail"]["output_artifact"].as_str().unwrap().to_owned();
    let worker = &team.json(&["worker", "ls"]).await[0];
    let url = worker["artifacts"].as_str().unwrap().to_owned();
    let (base, path) = url.split_at(url.rfind('/').unwrap());
    let found = Caller::new(base).raw("GET", &format!("{path}/{digest}"), &[], "").await;
    assert_eq!((found.status, &*found.headers["content-length"]), (200, "200000"));
    let text = found.body.as_str().unwrap();
    assert!(text.len() == 200_000 && text.starts_with("0123456789\n01"));
    for wrong in ["0".repeat(64), "../w1-artifacts/lock".into(), "x".into()] {
        let found = Caller::new(base).raw("GET", &format!("{path}/{wrong}"), &[], "").await;
        assert_eq!(found.status, 404, "{wrong}");
    }
}

async fn a_killed_leader_is_replaced(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[("w1", 4)]).await;
    team.start_scheduler();
    let cases = vec![
        case(&service, "first", 20, json!({})),
        case(&service, "second", 20, json!({"case_pre": "first", "mutual_tag": "printer"})),
    ];
    let run = team.submit(&plan(cases, 100)).await;
    team.has_results(&run, 20).await;
    team.schedulers[0].kill();
    team.schedulers[1].says("leading the scheduler").await.unwrap();
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 200, "{status:?}");
    team.audit(&run, 200).await;
    assert_eq!(service.calls().len(), 200, "what ran goes on without a leader");
}

async fn a_scheduler_that_is_asked_to_end_leaves_the_lead(engine: Engine) {
    let (mut team, _service) = team(engine, 1, &[]).await;
    assert_eq!(team.leaders().await, 1);
    let scheduler = &mut team.schedulers[0];
    scheduler.ask_to_stop();
    assert_eq!(scheduler.end().await, cluster::Exit::Code(0));
    assert_eq!(team.leaders().await, 0, "the next one need not wait");
}

async fn a_killed_member_loses_nothing(engine: Engine) {
    let (mut team, service) = team(engine, 3, &[("w1", 4), ("w2", 4)]).await;
    let cases = vec![
        case(&service, "plain", 20, json!({})),
        case(&service, "tagged", 20, json!({"mutual_tag": "printer"})),
    ];
    let run = team.submit(&plan(cases, 150)).await;
    team.has_results(&run, 20).await;
    let leader = team.cluster.leader().await;
    team.cluster.members[leader].kill();
    team.cluster.members[leader].spawn();
    team.cluster.members[leader].ready().await.unwrap();
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 300, "{status:?}");
    team.audit(&run, 300).await;
}

async fn a_worker_that_was_paused_for_long_is_not_heard(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[("w1", 1)]).await;
    let slow = case(&service, "slow", 1_000, json!({"mutual_tag": "printer"}));
    let run = team.submit(&plan(vec![slow], 1)).await;
    cluster::eventually("a call", async || match service.calls().len() {
        0 => Err("none yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    team.workers.get_mut("w1").unwrap().pause();
    team.start_worker("w2", 1, &[]).await;
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 1, "{status:?}");
    // It wakes with a result in its hand.
    let paused = team.workers.get_mut("w1").unwrap();
    paused.resume();
    paused.says("registers anew").await.unwrap();
    let results = team.audit(&run, 1).await;
    let attempts: Vec<_> = results[&(0, 0)].iter().map(|(_, s, w)| (*s, w.as_str())).collect();
    assert_eq!(attempts, [(Status::Lost, "w1"), (Status::Passed, "w2")]);
    let fences: Vec<i64> = service.calls().iter().map(|call| call.fence).collect();
    assert!(fences[0] < fences[1], "the service can tell who is late: {fences:?}");
}

async fn failures_are_tried_again_and_told(engine: Engine) {
    let (team, service) = team(engine, 1, &[("w1", 4)]).await;
    let retries = json!({"retries": {"test": 2, "infra": 1, "backoff_ms": 10}});
    let mut unreachable = case(&service, "unreachable", 1, retries.clone());
    unreachable["url"] = json!("http://127.0.0.1:1/");
    let cases = vec![
        case(&service, "bad", 1, retries),
        case(&service, "good", 1, json!({})),
        case(&service, "badmuted", 1, json!({"state": "muted", "state_reason": "it shakes"})),
        unreachable,
        case(&service, "after", 1, json!({"case_pre": {"case": "bad", "policy": "passed"}})),
    ];
    let run = team.submit(&plan(cases, 2)).await;
    let status = team.ended(&run).await;
    assert_eq!(status.state, "failed");
    let counts: BTreeMap<_, _> = status.totals.by_status.iter().map(|(s, n)| (*s, *n)).collect();
    let wanted =
        [(Status::Passed, 2), (Status::Failed, 4), (Status::Error, 2), (Status::Skipped, 2)];
    assert_eq!(counts, BTreeMap::from(wanted));
    assert_eq!(status.totals.failures, 4, "muted cases do not fail a run");
    let calls = service.calls();
    assert_eq!(of_case(&calls, "bad").len(), 6, "three attempts of each");
    assert!(of_case(&calls, "after").is_empty());
    let shown = team.run(&["show", &run]).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.starts_with("failed: 10 of 10 ended, 2 passed, 4 failed, 2 error, 2 skipped"),
        "{shown}"
    );
}

async fn a_canceled_run_stops_what_runs(engine: Engine) {
    let (team, service) = team(engine, 1, &[("w1", 2)]).await;
    let cases =
        vec![case(&service, "long", 20_000, json!({})), case(&service, "next", 1, json!({}))];
    let run = team.submit(&plan(cases, 50)).await;
    cluster::eventually("two calls", async || match service.calls().len() {
        2.. => Ok(()),
        calls => Err(format!("{calls}")),
    })
    .await;
    assert!(team.run(&["cancel", &run]).await.status.success());
    let status = team.ended(&run).await;
    assert_eq!(status.state, "canceled");
    assert_eq!(status.totals.get(Status::Canceled), 100, "{status:?}");
    let again = team.run(&["cancel", &run]).await;
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&again.stderr), format!("Error: run {run} has ended\n"));
}

async fn a_worker_that_is_asked_to_end_finishes_first(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[("w1", 2)]).await;
    let run = team.submit(&plan(vec![case(&service, "case", 300, json!({}))], 6)).await;
    team.has_results(&run, 1).await;
    let worker = team.workers.get_mut("w1").unwrap();
    worker.ask_to_stop();
    assert_eq!(worker.end().await, cluster::Exit::Code(0));
    team.start_worker("w2", 2, &[]).await;
    team.ended(&run).await;
    let results = team.audit(&run, 6).await;
    assert!(results.values().all(|attempts| attempts.len() == 1), "nothing is lost: {results:?}");
}

async fn a_worker_that_is_asked_twice_ends_at_once(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[]).await;
    team.start_worker("w1", 1, &["--ttl", "2"]).await;
    team.submit(&plan(vec![case(&service, "long", 60_000, json!({}))], 1)).await;
    eventually("a call", async || if service.calls().is_empty() { Err("".into()) } else { Ok(()) })
        .await;
    let worker = team.workers.get_mut("w1").unwrap();
    worker.interrupt();
    worker.says("asked again, it ends at once").await.unwrap();
    worker.interrupt();
    assert_eq!(worker.end().await, cluster::Exit::Code(3));
}

async fn a_worker_that_drains_ends_though_its_lease_was_lost(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[]).await;
    team.start_worker("w1", 1, &["--ttl", "2"]).await;
    team.submit(&plan(vec![case(&service, "long", 60_000, json!({}))], 1)).await;
    eventually("a call", async || if service.calls().is_empty() { Err("".into()) } else { Ok(()) })
        .await;
    let (code, ..) = team.says(&["worker", "drain", "w1"]).await;
    assert_eq!(code, 0);
    let mut client = team.client().await;
    let mut worker = async || {
        let found = client.get(keys::worker("w1"), None).await.map_err(|e| e.to_string())?;
        Ok::<_, String>(found.kvs().first().map(|kv| kv.value_str().unwrap().to_owned()))
    };
    eventually("word that it drains", async || match worker().await? {
        Some(info) if info.contains("\"draining\":true") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    team.workers.get_mut("w1").unwrap().pause();
    eventually("the end of its lease", async || match worker().await? {
        None => Ok(()),
        Some(info) => Err(info),
    })
    .await;
    let process = team.workers.get_mut("w1").unwrap();
    process.resume();
    assert_eq!(process.end().await, cluster::Exit::Code(0));
    assert_eq!(process.output().matches("registered as a worker").count(), 1);
}

async fn a_worker_that_comes_back_is_still_asked_to_leave(engine: Engine) {
    let (mut team, _service) = team(engine, 1, &[]).await;
    let caller = Caller::new(&team.service_url(0).await);
    for by_http in [false, true] {
        team.start_worker("w1", 1, &["--ttl", "2"]).await;
        team.workers.get_mut("w1").unwrap().kill();
        // It is dead, and the store does not know yet.
        match by_http {
            true => {
                let asked = caller.call("POST", "/v1/instances/w1/drain", json!({})).await;
                assert_eq!(asked.status, 202, "{}", asked.body);
            }
            false => assert_eq!(team.says(&["worker", "drain", "w1"]).await.0, 0),
        }
        team.start_worker("w1", 1, &["--ttl", "2"]).await;
        assert_eq!(team.workers.get_mut("w1").unwrap().end().await, cluster::Exit::Code(0));
    }
    // It has done what it was asked: the next one stays.
    let options = etcd_client::GetOptions::new().with_prefix().with_count_only();
    let left = team.client().await.get(keys::commands("w1"), Some(options)).await.unwrap();
    assert_eq!(left.count(), 0);
    team.start_worker("w1", 1, &["--allow-command"]).await;
    let here = json!({"id": "here", "kind": "command", "command": ["true"]});
    let run = team.submit(&plan(vec![here], 1)).await;
    assert_eq!(team.ended(&run).await.state, "passed");
}

async fn the_example_passes_on_a_store_with_users(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client_of(0).await;
    client.role_add("team").await.unwrap();
    let prefixes =
        ["/tcss/", "/testcases/", "/environments/", "/services/", "/results/", "/reports/"];
    for prefix in prefixes {
        let whole = etcd_client::Permission::read_write(prefix).with_prefix();
        client.role_grant_permission("team", whole).await.unwrap();
    }
    for (user, role) in [("root", "root"), ("tester", "team")] {
        client.user_add(user, "secret", None).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    client.auth_enable().await.unwrap();
    let mut team = Team::new(cluster);
    team.access = vec!["--user".into(), "tester:secret".into()];
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 4, &["--allow-command"]).await;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/web-shop.yaml");
    let base = format!("base={}", team.cluster.endpoints()[0]);
    let run = team.submit_words(&[example, "--set", &base]).await;
    cluster::eventually("end of the run", async || {
        let shown = team.run(&["show", &run]).await;
        let shown = String::from_utf8(shown.stdout).unwrap();
        match shown.starts_with("passed: 49 of 49 ended, 49 passed in ") {
            true => Ok(()),
            false => Err(shown),
        }
    })
    .await;
    team.access = Vec::new();
    let nobody = team.run(&["show", &run]).await;
    assert_eq!(nobody.status.code(), Some(3), "{}", String::from_utf8_lossy(&nobody.stderr));
}

async fn a_run_is_replayed_when_the_history_is_gone(engine: Engine) {
    let (mut team, service) = team(engine, 1, &[("w1", 2)]).await;
    let cases = vec![
        case(&service, "first", 20, json!({})),
        case(&service, "second", 5, json!({"case_pre": "first"})),
    ];
    let run = team.submit(&plan(cases, 3)).await;
    team.ended(&run).await;
    let told = async || team.json(&["run", "replay", &run]).await;
    let before = told().await;
    let mut client = team.client().await;
    let now = client.get("-", None).await.unwrap().header().unwrap().revision();
    client.compact(now, None).await.unwrap();
    let after = told().await;
    assert_eq!(before, after, "it is told from the record");
    let events: Vec<&str> =
        after.as_array().unwrap().iter().map(|told| told["event"].as_str().unwrap()).collect();
    assert_eq!((events.len(), events[0], events[13]), (14, "submitted", "over"), "{events:?}");
    let place = |event: &str, case: &str, is_last: bool| {
        let told = after.as_array().unwrap().iter();
        let mut places = told.enumerate().filter(|(_, t)| t["event"] == event && t["case"] == case);
        let found = if is_last { places.next_back() } else { places.next() };
        found.unwrap().1["at_us"].as_u64().unwrap()
    };
    // Starts are known to the millisecond.
    assert!(place("end", "first", true) < place("start", "second", false) + 1_000);
    let (code, said, _) = team.says(&["run", "replay", &run, "--case", "second"]).await;
    assert_eq!((code, said.lines().count()), (0, 8), "{said}");
    assert!(said.trim_end().ends_with("passed: 6 of 6 ended, 6 passed"), "{said}");
    // Page by page over HTTP it is the same.
    let caller = Caller::new(&team.service_url(0).await);
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let page = caller.get(&format!("/v1/runs/{run}/replay?limit=5{next}")).await.body;
        pages.push(page["items"].as_array().unwrap().clone());
        let Some(token) = page["next"].as_str() else { break };
        next = format!("&next={token}");
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [5, 5, 4]);
    assert_eq!(json!(pages.concat()), after);
}
