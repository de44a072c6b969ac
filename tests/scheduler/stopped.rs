//! Runs that start nothing more: what workers were given ahead is skipped, what runs goes on.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::{Results, Team};
use quoin::scheduler::model::Status;
use serde_json::json;

on_each_engine![
    what_was_given_ahead_is_skipped_after_enough_failures,
    what_was_given_ahead_is_skipped_at_the_deadline,
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
