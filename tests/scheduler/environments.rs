//! Checks of environments: what is found bad takes nothing more, says why, and goes on when it is good
//! again.

use crate::cluster::{Cluster, Engine, eventually};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use quoin::scheduler::model::Status;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use tokio::net::TcpListener;

on_each_engine![
    an_environment_that_is_found_bad_takes_nothing_until_it_is_good,
    an_environment_that_leads_to_secrets_is_refused_in_each_way,
];

/// Something that says how it is: its address, and what it answers.
async fn patient() -> (String, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/health", listener.local_addr().unwrap());
    let status = Arc::new(AtomicU16::new(200));
    let told = status.clone();
    let answer = async move || StatusCode::from_u16(told.load(Ordering::Relaxed)).unwrap();
    let router = Router::new().route("/health", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, status)
}

async fn has_health(caller: &Caller, health: &str) {
    eventually("health", async || {
        let found = caller.get("/v1/environments/lab").await;
        if found.body["health"] == health { Ok(()) } else { Err(found.body.to_string()) }
    })
    .await;
}

async fn an_environment_that_is_found_bad_takes_nothing_until_it_is_good(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    let service = Service::start().await;
    team.start_worker("w1", 2, &[]).await;
    let (url, status) = patient().await;
    let lab = json!({"id": "lab", "check": {"url": url, "every": 1}});
    assert_eq!(caller.call("POST", "/v1/environments", lab).await.status, 201);
    has_health(&caller, "good").await;
    status.store(503, Ordering::Relaxed);
    has_health(&caller, "bad").await;

    let case = json!({"id": "one", "url": service.url("one", 1), "output": "ok"});
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let spec = json!({"cases": [{"case": "one"}], "repeats": 3, "environments": ["lab"]});
    let run = caller.call("POST", "/v1/runs", spec).await.body["run"].as_str().unwrap().to_owned();
    let reason = format!("environment lab is closed, bad: {url} answered 503");
    eventually("the reason", async || {
        let (_, said, _) = team.says(&["run", "why", &run]).await;
        if said.contains(&reason) { Ok(()) } else { Err(said) }
    })
    .await;
    assert_eq!(service.calls().len(), 0, "nothing starts there");
    let (code, said, _) = team.says(&["env", "check", "lab"]).await;
    assert_eq!((code, said.trim()), (1, &*format!("lab: {url} answered 503; its health is bad")));

    status.store(204, Ordering::Relaxed);
    let ended = team.ended(&run).await;
    assert_eq!(ended.totals.get(Status::Passed), 3, "{ended:?}");
    has_health(&caller, "good").await;
    let last = caller.get("/v1/environments/lab/check").await.body;
    let times = ["checked", "next"].map(|name| last[name].as_u64().unwrap());
    assert_eq!((times[1] - times[0], &last["is_good"]), (1_000, &json!(true)), "{last}");

    // What people have set apart is theirs, whatever a check finds.
    let (code, ..) = team.says(&["env", "maintenance", "lab", "--reason", "new disks"]).await;
    assert_eq!(code, 0);
    let checked = caller.call("POST", "/v1/environments/lab/check", json!({})).await;
    assert_eq!(checked.status, 200, "{}", checked.body);
    let found = (&checked.body["is_good"], &checked.body["health"]);
    assert_eq!(found, (&json!(true), &json!("maintenance")));
    let lab = caller.get("/v1/environments/lab").await.body;
    assert_eq!(
        (&lab["health"], &lab["health_reason"]),
        (&json!("maintenance"), &json!("new disks"))
    );

    // Targets are those of services; and what cannot be checked says so.
    let far = json!({"id": "far", "check": {"url": "http://169.254.169.254/", "every": 60}});
    let plain = json!({"id": "plain"});
    assert_eq!(caller.call("POST", "/v1/environments", plain).await.status, 201);
    let refused = caller.call("POST", "/v1/environments", far.clone()).await;
    assert_eq!(refused.status, 403, "{}", refused.body);
    let file = team.file("far.json");
    std::fs::write(&file, json!([far]).to_string()).unwrap();
    assert_eq!(team.says(&["env", "put", &file]).await.0, 2);
    team.json(&["env", "put", &file, "--allow-target", "169.254.0.0/16"]).await;
    let found = team.json(&["env", "get", "far"]).await;
    assert_eq!(found["id"], "far");
    let checked = caller.call("POST", "/v1/environments/far/check", json!({})).await.body;
    assert!(checked["message"].as_str().unwrap().contains("a link-local address"), "{checked}");
    for (id, status, text) in [
        ("plain", 422, "environment plain names no check"),
        ("gone", 404, "unknown environment gone"),
    ] {
        let refused = caller.call("POST", &format!("/v1/environments/{id}/check"), json!({})).await;
        assert_eq!((refused.status, refused.message()), (status, text));
    }
}

async fn an_environment_that_leads_to_secrets_is_refused_in_each_way(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    let case = json!({"id": "one", "kind": "command", "command": ["true"]});
    for (place, is_refused) in [
        (json!({"check": {"url": "http://169.254.169.254/health", "every": 60}}), true),
        (
            json!({"check": {"url": "http://{{host}}/x", "every": 60}, "config": {"host": "[fe80::1]"}}),
            true,
        ),
        (json!({"config": {"base": "http://169.254.169.254/latest"}}), true),
        (json!({"config": {"urls": {"pay": ["https://0.0.0.0/pay"]}}}), true),
        (json!({"config": {"base": "http://10.0.0.1:8080"}}), false),
        (json!({"config": {"base": "http://lab.example", "note": "169.254.169.254"}}), false),
    ] {
        let is_there = caller.get("/v1/environments/lab").await.status == 200;
        let mut lab = place.clone();
        lab["id"] = json!("lab");
        let by_http = caller.call("PUT", "/v1/environments/lab", lab.clone()).await;
        let file = team.file("lab.json");
        std::fs::write(&file, json!({"environments": [lab]}).to_string()).unwrap();
        let (put, _, said) = team.says(&["env", "put", &file]).await;
        let plan = json!({
            "cases": [case], "environments": [lab],
            "run": {"cases": [{"case": "one"}], "environments": ["lab"]},
        });
        let submit = team.file("plan.json");
        std::fs::write(&submit, plan.to_string()).unwrap();
        let (submitted, _, told) = team.says(&["run", "submit", &submit]).await;
        let codes = (by_http.status, put, submitted);
        let made = if is_there { 200 } else { 201 };
        assert_eq!(codes, if is_refused { (403, 2, 2) } else { (made, 0, 0) }, "{place}: {told}");
        if is_refused {
            let why = by_http.message();
            assert!(why.starts_with("environment lab: "), "{why}");
            assert_eq!(said, format!("Error: {file}: line 1: {why}\n"));
            assert_eq!(told, format!("Error: {submit}: line 1: {why}\n"));
        }
    }
}
