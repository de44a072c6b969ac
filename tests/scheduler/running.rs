//! A run is called running while workers have something of it, and what runs is shown while it does.

use crate::cluster::{Cluster, Engine, eventually};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::Team;
use serde_json::{Value, json};

on_each_engine![
    a_run_says_running_only_while_something_of_it_runs,
    a_run_that_has_just_ended_is_not_told_from_before,
];

async fn says(what: &str, wanted: &str, ask: impl AsyncFn() -> Value) {
    eventually(what, async || match ask().await {
        found if found == wanted => Ok(()),
        found => Err(format!("{found}, not {wanted}")),
    })
    .await;
}

async fn a_run_says_running_only_while_something_of_it_runs(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    let service = Service::start().await;
    let cases = vec![case(&service, "long", 60_000, json!({"timeout_ms": 120_000}))];
    let plan = json!({"cases": cases, "run": {"cases": [{"case": "long"}], "repeats": 2}});
    let run = team.submit(&plan).await;
    let of_run = format!("/v1/runs/{run}");
    let shown = async || caller.get(&of_run).await.body["status"]["state"].clone();
    let listed = async || caller.get("/v1/runs").await.body["items"][0]["state"].clone();
    says("a run without workers", "waiting", shown).await;
    says("a run without workers", "waiting", listed).await;
    let found = caller.get("/v1/runs?state=waiting").await.body;
    assert_eq!(found["items"][0]["run"], json!(run), "{found}");

    team.start_worker("w1", 1, &["--prefetch", "0"]).await;
    team.start_worker("w2", 1, &["--label", "never=used"]).await;
    says("a run with a worker", "running", shown).await;
    // Two slots and two tasks: each runs, and its worker says since when within a second.
    eventually("tasks that run", async || {
        let tasks = caller.get(&format!("{of_run}/tasks")).await.body;
        let since: Vec<u64> =
            (0..2).filter_map(|at| tasks["items"][at]["since"].as_u64()).collect();
        let timeline = caller.get(&format!("{of_run}/timeline")).await.body;
        let running = timeline["running"].as_array().unwrap();
        let told: Vec<u64> = running.iter().filter_map(|task| task[4].as_u64()).collect();
        match since.len() == 2 && told == since {
            true => Ok(timeline["slots"].as_array().unwrap().len()),
            false => Err(format!("{tasks} {timeline}")),
        }
    })
    .await;

    // With its workers nothing of it runs.
    team.workers.clear();
    says("a run whose workers are dead", "waiting", shown).await;
    says("a run whose workers are dead", "waiting", listed).await;
    // No slot is left, and what the dead ones did is history.
    eventually("slots of dead workers", async || {
        let bound = caller.get(&format!("{of_run}/bound")).await.body;
        let timeline = caller.get(&format!("{of_run}/timeline")).await.body;
        let is_so = bound["slots"] == 0 && timeline["gone"] == json!([0, 1]);
        if is_so { Ok(()) } else { Err(format!("{bound} {timeline}")) }
    })
    .await;
    // With nobody who leads, nobody writes that down.
    team.start_worker("w3", 1, &[]).await;
    says("a run with another worker", "running", shown).await;
    team.schedulers.clear();
    team.workers.clear();
    let asked = async || team.json(&["run", "ls"]).await["runs"][0]["state"].clone();
    eventually("a run without anybody", async || {
        let told = team.json(&["run", "show", &run]).await["state"].clone();
        match (asked().await, told) {
            (listed, told) if listed == "running" && told == "running" => Err(listed.to_string()),
            (listed, told) => Ok((listed, told)),
        }
    })
    .await;
}

async fn a_run_that_has_just_ended_is_not_told_from_before(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    team.start_worker("w1", 4, &["--allow-command"]).await;
    let bad = json!({"id": "bad", "kind": "command", "command": ["sh", "-c", "sleep 0.5; exit 1"]});
    let plan = json!({"cases": [bad], "run": {"cases": [{"case": "bad", "repeats": 4}]}});
    let run = team.submit(&plan).await;
    let of_run = format!("/v1/runs/{run}");
    // Whoever looks at it has it kept as it was.
    eventually("an end that is seen at once", async || {
        let lanes = caller.get(&format!("{of_run}/lanes")).await.body;
        match caller.get(&of_run).await.body["status"]["ended"].is_null() {
            false => Ok(()),
            true => Err(lanes.to_string()),
        }
    })
    .await;
    let again = caller.call("POST", &format!("{of_run}/rerun"), json!({"which": "failed"})).await;
    assert_eq!(again.status, 201, "{}", again.body);
    let lanes = caller.get(&format!("{of_run}/lanes")).await.body;
    assert_eq!(lanes["items"][0]["totals"]["failures"], 4, "{lanes}");
}
