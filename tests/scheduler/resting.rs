//! Services to which tasks are pushed, and which are full, away or late.

use crate::cluster::{Engine, eventually};
use crate::on_each_engine;
use crate::remote::{register, serves, service, serving};
use axum::Json;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use quoin::scheduler::model::Status;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

on_each_engine![
    a_service_that_is_full_rests_and_says_why,
    a_service_that_is_away_stays_a_worker_for_a_while,
    the_time_of_a_pushed_task_runs_from_when_it_was_sent,
];

fn case() -> Value {
    json!({"id": "long", "url": "http://tested.lab/x", "output": "ok"})
}

/// It would be skipped if nobody could run it for half a second.
async fn impatient_run(caller: &crate::http::Caller) -> String {
    assert_eq!(caller.call("POST", "/v1/testcases", case()).await.status, 201);
    let spec = json!({"cases": [{"case": "long"}], "no_worker_timeout_ms": 500});
    let made = caller.call("POST", "/v1/runs", spec).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["run"].as_str().unwrap().to_owned()
}

async fn a_service_that_is_full_rests_and_says_why(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let is_full = Arc::new(AtomicBool::new(true));
    let (orders, full) = (Arc::new(Mutex::new(Vec::new())), is_full.clone());
    let seen = orders.clone();
    let url = service(move |order| {
        if full.load(Ordering::Relaxed) {
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        seen.lock().unwrap().push(order);
        StatusCode::OK
    })
    .await;
    register(&caller, "lab1", &url).await;
    serves(&caller, "lab1").await;
    let shown = async || caller.get("/v1/instances/lab1").await.body;
    let registration = shown().await["registration"].clone();
    let run = impatient_run(&caller).await;
    let text = eventually("a reason", async || {
        let why = team.json(&["run", "why", &run]).await;
        let text = why["waiting"][0]["text"].as_str().unwrap_or_default().to_owned();
        if text.contains("rests") { Ok(text) } else { Err(why.to_string()) }
    })
    .await;
    assert!(text.starts_with("worker lab1 rests for ") && text.ends_with(": it answers 503"));
    let resting = shown().await;
    assert_eq!((&resting["registration"], &resting["draining"]), (&registration, &json!(false)));
    assert_eq!(resting["resting"]["why"], "it answers 503", "{resting}");
    let (_, table, _) = team.says(&["worker", "ls"]).await;
    assert!(table.contains("rests: it answers 503"), "{table}");

    is_full.store(false, Ordering::Relaxed);
    let order = eventually("the order", async || {
        orders.lock().unwrap().first().cloned().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    assert_eq!((&order["attempt"], shown().await["resting"].clone()), (&json!(1), Value::Null));
    let said = json!({"recordId": order["recordId"], "status": "passed"});
    assert_eq!(caller.call("POST", "/v1/claims/results", said).await.status, 202);
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 1, "{status:?}");
    assert_eq!(shown().await["registration"], registration, "it is the same worker still");
    team.audit(&run, 1).await;
}

async fn a_service_that_is_away_stays_a_worker_for_a_while(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move { axum::serve(listener, Router::new()).await.unwrap() });
    register(&caller, "lab1", &format!("http://{address}")).await;
    serves(&caller, "lab1").await;
    served.abort();
    let run = impatient_run(&caller).await;
    // It is looked again several times.
    let mut until = Vec::new();
    eventually("several rests", async || {
        let shown = caller.get("/v1/instances/lab1").await.body;
        let rest = shown["resting"]["until"].as_u64();
        let why = shown["resting"]["why"].to_string();
        if let Some(rest) = rest.filter(|rest| !until.contains(rest)) {
            until.push(rest);
        }
        if until.len() > 1 && why.contains("refused") { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let orders = Arc::new(Mutex::new(Vec::new()));
    let seen = orders.clone();
    let take = post(async move |Json(order): Json<Value>| seen.lock().unwrap().push(order));
    let listener = TcpListener::bind(address).await.unwrap();
    let router = Router::new().route("/submit", take);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let order = eventually("the order", async || {
        orders.lock().unwrap().first().cloned().ok_or_else(|| "none yet".to_owned())
    })
    .await;
    let said = json!({"recordId": order["recordId"], "status": "passed"});
    assert_eq!(caller.call("POST", "/v1/claims/results", said).await.status, 202);
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 1, "{status:?}");
}

async fn the_time_of_a_pushed_task_runs_from_when_it_was_sent(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let note = |wait: Duration| {
        let calls = calls.clone();
        post(async move |Json(_): Json<Value>| {
            calls.lock().unwrap().push(Instant::now());
            tokio::time::sleep(wait).await;
        })
    };
    let router = Router::new().route("/submit", note(Duration::from_secs(4)));
    let router = router.route("/cancel", note(Duration::ZERO));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    register(&caller, "late", &url).await;
    let mut case = case();
    case["timeout_ms"] = 5_000.into();
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "long"}]})).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::TimedOut), 1, "{status:?}");
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 2, "submit and cancel");
    let time = calls[1] - calls[0];
    let bounds = Duration::from_millis(4_900)..Duration::from_millis(8_500);
    assert!(bounds.contains(&time), "{time:?}");
}
