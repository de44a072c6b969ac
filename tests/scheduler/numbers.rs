//! What collectors of metrics find at a scheduler.

use crate::cluster::{Cluster, Engine, eventually};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::Team;
use serde_json::json;

on_each_engine![a_leader_shows_what_it_did_and_what_there_is];

async fn page(caller: &Caller) -> String {
    let answer = caller.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.headers["content-type"].starts_with("text/plain; version=0.0.4"));
    answer.body.as_str().unwrap().to_owned()
}

async fn shows(caller: &Caller, lines: &[&str]) {
    eventually("the numbers", async || {
        let page = page(caller).await;
        match lines.iter().find(|line| !page.lines().any(|found| found == **line)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing}: {page}")),
        }
    })
    .await;
}

async fn a_leader_shows_what_it_did_and_what_there_is(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let leader = Caller::new(&team.service_url(0).await);
    team.start_scheduler();
    let other = Caller::new(&team.service_url(1).await);
    let service = Service::start().await;
    let bad = case(&service, "bad", 1, json!({}));
    let good = case(&service, "good", 1, json!({"requires": {"os": "linux"}, "slots": 2}));
    let plan = json!({"cases": [bad, good], "run": {
        "cases": [{"case": "bad"}, {"case": "good", "repeats": 3}],
    }});
    let run = team.submit(&plan).await;
    shows(
        &leader,
        &[
            "quoin_scheduler_leading 1",
            "quoin_scheduler_wanted_slots{requires=\"\"} 1",
            "quoin_scheduler_wanted_slots{requires=\"os=linux\"} 6",
            "quoin_scheduler_open_runs{queue=\"default\",state=\"waiting\"} 1",
            "quoin_scheduler_open_tasks{queue=\"default\"} 4",
            "quoin_scheduler_attempts_total{status=\"passed\"} 0",
        ],
    )
    .await;
    team.start_worker("w1", 4, &["--label", "os=linux"]).await;
    assert_eq!(team.ended(&run).await.state, "failed");
    shows(
        &leader,
        &[
            "quoin_scheduler_tasks_given_total 4",
            "quoin_scheduler_attempts_total{status=\"passed\"} 3",
            "quoin_scheduler_attempts_total{status=\"failed\"} 1",
            "quoin_scheduler_runs_total{state=\"failed\"} 1",
            "quoin_scheduler_run_efficiency_ratio_count 1",
            "quoin_scheduler_workers{state=\"serving\"} 1",
            "quoin_scheduler_slots{state=\"serving\"} 4",
            "quoin_scheduler_tags_held 0",
        ],
    )
    .await;
    let quiet = page(&other).await;
    assert!(quiet.contains("quoin_scheduler_leading 0"), "{quiet}");
    assert!(!quiet.contains("quoin_scheduler_workers"), "each thing is told once: {quiet}");
}
