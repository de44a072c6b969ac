//! Runs that start nothing more: what workers were given ahead is skipped, what runs goes on.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::{Results, Team};
use quoin::scheduler::keys;
use quoin::scheduler::model::Status;
use serde_json::json;

on_each_engine![
    what_was_given_ahead_is_skipped_after_enough_failures,
    what_was_given_ahead_is_skipped_at_the_deadline,
    a_last_attempt_before_a_stop_is_the_result,
    what_was_lost_before_a_cancel_is_told_as_lost,
    a_key_that_nobody_holds_does_not_lead,
    what_failed_runs_again_where_it_failed,
    a_run_that_nobody_can_read_is_canceled,
];

/// One worker with one slot that takes much ahead.
async fn team(engine: Engine) -> (Team, Service) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 1, &["--prefetch", "8"]).await;
    (team, Service::start().await)
}

/// How many ended so.
fn ended(results: &Results, wanted: Status) -> usize {
    let last = results.values().filter_map(|attempts| attempts.last());
    last.filter(|(_, status, _)| *status == wanted).count()
}

async fn what_was_given_ahead_is_skipped_after_enough_failures(engine: Engine) {
    let (team, service) = team(engine).await;
    // Thought to be short: many are given ahead.
    let bad = case(&service, "bad", 1_000, json!({"est_ms": 10}));
    let plan = json!({"cases": [bad], "run": {
        "cases": [{"case": "bad", "repeats": 60}], "failures_max": 1,
    }});
    let run = team.submit(&plan).await;
    let status = team.ended(&run).await;
    assert_eq!(status.state, "failed");
    let (results, calls) = (team.results(&run).await, service.calls());
    // The next one has begun when the failure is told.
    assert!(calls.len() <= 2, "{calls:?}");
    assert_eq!(ended(&results, Status::Failed), calls.len());
    assert!(ended(&results, Status::Skipped) >= 3, "nothing was given ahead: {results:?}");
}

async fn what_was_given_ahead_is_skipped_at_the_deadline(engine: Engine) {
    let (team, service) = team(engine).await;
    let slow = case(&service, "slow", 1_500, json!({}));
    let plan = json!({"cases": [slow], "run": {
        "cases": [{"case": "slow", "repeats": 6}], "deadline_ms": 1_000,
    }});
    let run = team.submit(&plan).await;
    let status = team.ended(&run).await;
    assert_eq!(status.state, "incomplete");
    let results = team.results(&run).await;
    let (passed, calls) = (ended(&results, Status::Passed), service.calls());
    assert_eq!(calls.len(), passed, "what had begun goes on, nothing else begins: {calls:?}");
    assert_eq!(passed, 1);
    assert!(ended(&results, Status::Skipped) >= 1, "nothing was given ahead: {results:?}");
}

/// That what is told of a run that has ended agrees with its totals, in each way.
async fn is_told_alike(team: &Team, run: &str, word: &str, count: usize) {
    let (code, said, _) = team.says(&["run", "verify", run]).await;
    assert_eq!(code, 0, "{said}");
    let found = team.json(&["result", "ls", run, "--status", word]).await;
    let tasks = found["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), count, "{found}");
    let (_, said, _) = team.says(&["report", "junit", run]).await;
    assert_eq!(said.matches("<failure").count() + said.matches("<error").count(), count, "{said}");
    let (code, again, said) = team.says(&["run", "rerun", run, "--failed"]).await;
    assert_eq!(code, 0, "{said}");
    let again = team.json(&["run", "show", again.trim()]).await;
    assert_eq!(again["totals"]["total"], count, "{again}");
}

async fn a_last_attempt_before_a_stop_is_the_result(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 4, &["--allow-command"]).await;
    let bad = json!({
        "id": "bad", "kind": "command", "command": ["sh", "-c", "sleep 1.5; echo oops; exit 1"],
        "retries": {"test": 2, "backoff_ms": 10},
    });
    let plan = json!({"cases": [bad], "run": {
        "cases": [{"case": "bad", "repeats": 4}], "deadline_ms": 500,
    }});
    let file = crate::commands::write(&team, "bad.json", &plan.to_string());
    let (code, said, _) = team.says(&["run", "submit", &file, "--wait"]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("FFFF") && said.contains("oops"), "{said}");
    let listed = team.json(&["run", "ls"]).await;
    let run = listed["runs"][0]["id"].as_str().unwrap();
    is_told_alike(&team, run, "failed", 4).await;
}

async fn what_was_lost_before_a_cancel_is_told_as_lost(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    for name in ["w1", "w2"] {
        team.start_worker(name, 2, &[]).await;
    }
    let service = Service::start().await;
    let slow = case(&service, "slow", 60_000, json!({"timeout_ms": 120_000}));
    let plan = json!({"cases": [slow], "run": {"cases": [{"case": "slow", "repeats": 4}]}});
    let run = team.submit(&plan).await;
    crate::cluster::eventually("tasks that run", async || match service.calls().len() {
        4 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    team.workers.remove("w1");
    assert_eq!(team.says(&["run", "cancel", &run]).await.0, 0);
    let status = team.ended(&run).await;
    let counts = (status.totals.get(Status::Canceled), status.totals.get(Status::Lost));
    assert_eq!((&*status.state, counts), ("canceled", (2, 2)));
    is_told_alike(&team, &run, "lost", 2).await;
}

async fn a_key_that_nobody_holds_does_not_lead(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let key = format!("{}hand", keys::LEADERS);
    team.client().await.put(key, "x", None).await.unwrap();
    let service = Service::start().await;
    let short = case(&service, "short", 1, json!({}));
    let plan = json!({"cases": [short], "run": {"cases": [{"case": "short"}]}});
    let run = team.submit(&plan).await;
    // Nobody leads yet, and that is what is said.
    let why = team.json(&["run", "why", &run]).await;
    assert_eq!(
        (&why["state"], &why["waiting"][0]["reason"]),
        (&json!("accepted"), &json!("label"))
    );
    team.start_worker("w1", 1, &[]).await;
    let why = team.json(&["run", "why", &run]).await;
    assert_eq!(why["waiting"][0]["reason"], "scheduler", "{why}");
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    assert_eq!(team.ended(&run).await.state, "passed");
}

async fn a_run_that_nobody_can_read_is_canceled(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let plan = json!({"cases": [{"id": "a", "kind": "command", "command": ["true"]}],
        "run": {"cases": ["a"], "queue": "small"}});
    let runs = [team.submit(&plan).await, team.submit(&plan).await];
    let mut client = team.client().await;
    for run in &runs {
        client.put(keys::definitions(run, 0), "garbage", None).await.unwrap();
    }
    // One before somebody leads, the other after that.
    assert_eq!(team.says(&["run", "cancel", &runs[0]]).await.0, 0);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    assert_eq!(team.ended(&runs[0]).await.state, "canceled");
    assert_eq!(team.says(&["run", "cancel", &runs[1]]).await.0, 0);
    assert_eq!(team.ended(&runs[1]).await.state, "canceled");
    // It is over for its queue, too.
    assert_eq!(team.says(&["queue", "runs", "small", "1"]).await.0, 0);
    team.start_worker("w1", 1, &["--allow-command"]).await;
    let next = team.submit(&plan).await;
    assert_eq!(team.ended(&next).await.state, "passed");
}

async fn what_failed_runs_again_where_it_failed(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 4, &["--allow-command"]).await;
    let case = |id: &str, passes_in: &str| {
        let script = format!(
            "echo {id} in {{{{place}}}}; case {passes_in} in *{{{{place}}}}*) ;; *) exit 1;; esac"
        );
        json!({"id": id, "kind": "command", "command": ["sh", "-c", script]})
    };
    let mut last = case("last", "none");
    last["case_pre"] = json!(["half"]);
    let place = |id: &str| json!({"id": id, "config": {"place": id}});
    let plan = json!({
        "cases": [case("good", "north,south"), case("half", "south"), last],
        "environments": [place("north"), place("south")],
        "run": {
            "cases": [{"case": "good"}, {"case": "half", "repeats": {"north": 2, "south": 1}}, {"case": "last"}],
            "environments": ["north", "south"],
        },
    });
    let run = team.submit(&plan).await;
    assert_eq!(team.ended(&run).await.totals.total, 7);
    let (code, again, said) = team.says(&["run", "rerun", &run, "--failed"]).await;
    assert_eq!(code, 0, "{said}");
    let again = again.trim();
    team.ended(again).await;
    let found = team.json(&["result", "ls", again]).await;
    let tasks = found["tasks"].as_array().unwrap();
    let tasks = tasks.iter().map(|task| {
        let words = [&task["case"], &task["environment"], &task["status"]];
        words.map(|word| word.as_str().unwrap().to_owned()).join(" ")
    });
    let mut tasks: Vec<String> = tasks.collect();
    tasks.sort_unstable();
    let expected = ["half north 03", "half north 03", "last north 03", "last south 03"];
    assert_eq!(tasks, expected);
    // What ran is what is told, and what does not run is told of nowhere.
    let shown = team.json(&["run", "show", again]).await;
    assert_eq!(shown["lanes"].as_array().map(Vec::len), Some(3), "{shown}");
    let (_, report, _) = team.says(&["report", "junit", again]).await;
    assert_eq!(report.matches("<testsuite ").count(), 3, "{report}");
    let outputs = ["half in north", "last in north", "last in south"];
    let times = outputs.map(|said| report.matches(&format!("<system-out>{said}")).count());
    assert_eq!(times, [2, 1, 1], "{report}");
    for told in ["verify", "bound", "why"] {
        let (code, said, _) = team.says(&["run", told, again]).await;
        assert_eq!(code, 0, "{told}: {said}");
        assert!(!said.contains("good"), "{told}: {said}");
    }
}
