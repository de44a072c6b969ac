//! Webhooks: who is told of the end of runs, whatever becomes of leaders and of himself.

use crate::cluster::{Cluster, Engine, Exit, eventually};
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::Team;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use quoin::scheduler::hooks::{DELIVERY, SIGNATURE};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

on_each_engine![
    ends_of_runs_are_told_whatever_becomes_of_the_leader,
    cases_that_become_flaky_and_recover_are_told,
    webhooks_that_cannot_be_are_refused,
];

/// Somebody who wants to know, and takes nothing while he is busy.
#[derive(Clone, Default)]
struct Receiver {
    is_busy: Arc<Mutex<bool>>,
    refused: Arc<Mutex<usize>>,
    taken: Arc<Mutex<Vec<(String, String, String)>>>,
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> StatusCode {
    if *receiver.is_busy.lock().unwrap() {
        *receiver.refused.lock().unwrap() += 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    receiver.taken.lock().unwrap().push((header(DELIVERY), header(SIGNATURE), body));
    StatusCode::NO_CONTENT
}

/// HMAC-SHA256 as RFC 2104 has it, for keys of less than a block.
fn signature(secret: &[u8], body: &[u8]) -> String {
    let mut block = [0; 64];
    block[..secret.len()].copy_from_slice(secret);
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(body);
    let outer = Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c));
    let digest = outer.chain_update(inner.finalize()).finalize();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

async fn ends_of_runs_are_told_whatever_becomes_of_the_leader(engine: Engine) {
    let receiver = Receiver::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });

    let mut team = Team::new(Cluster::start(engine, 1).await);
    let secret = team.file("secret");
    std::fs::write(&secret, "known to both\n").unwrap();
    let words = ["--webhook-url", &url, "--webhook-secret-file", &secret];
    let words = [&words[..], &["--scheduler-listen-url", "none"]].concat();
    team.start_scheduler_with(&words).says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 4, &[]).await;
    let service = Service::start().await;
    let plan = |id: &str| {
        let case = case(&service, id, 1, json!({}));
        json!({"cases": [case], "run": {"name": "nightly", "cases": [{"case": id}]}})
    };
    let taken = async |count: usize| {
        eventually("deliveries", async || {
            let taken = receiver.taken.lock().unwrap().clone();
            if taken.len() >= count { Ok(taken) } else { Err(format!("{taken:?}")) }
        })
        .await
    };
    let first = team.submit(&plan("good")).await;
    let (delivery, signed, body) = taken(1).await[0].clone();
    assert_eq!(delivery, format!("run.ended-{first}"));
    assert_eq!(signed, signature(b"known to both", body.as_bytes()));
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&told["run"], &told["state"]), (&json!(first), &json!("passed")), "{told}");
    assert_eq!(told["name"], "nightly");

    *receiver.is_busy.lock().unwrap() = true;
    let second = team.submit(&plan("bad")).await;
    team.ended(&second).await;
    eventually("an attempt", async || match *receiver.refused.lock().unwrap() {
        0 => Err("none yet".to_owned()),
        _ => Ok(()),
    })
    .await;
    team.schedulers[0].kill();
    *receiver.is_busy.lock().unwrap() = false;
    team.start_scheduler_with(&words).says("leading the scheduler").await.unwrap();
    let all = taken(2).await;
    assert_eq!(all[1].0, format!("run.ended-{second}"), "{all:?}");
    let told: Value = serde_json::from_str(&all[1].2).unwrap();
    assert_eq!(told["failures"][0]["case"], "bad", "{told}");
    assert_eq!(all.len(), 2, "nothing is told again: {all:?}");
}

/// It passes and fails in turns, and then passes for long; the leader dies while it tells.
async fn cases_that_become_flaky_and_recover_are_told(engine: Engine) {
    let receiver = Receiver::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let secret = team.file("secret");
    std::fs::write(&secret, "known to both").unwrap();
    let words = ["--webhook-url", &url, "--webhook-secret-file", &secret];
    let words = [&words[..], &["--scheduler-listen-url", "none"]].concat();
    team.start_scheduler_with(&words).says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 1, &[]).await;
    let service = Service::start().await;
    let plan = |path: &str, repeats: u32| {
        let mut case = case(&service, path, 1, json!({}));
        case["id"] = "shaky-\u{e9}".into();
        let id = case["id"].clone();
        json!({"cases": [case], "run": {"cases": [{"case": id}], "repeats": repeats}})
    };
    let told = async |event: &str| {
        let found = eventually("deliveries", async || {
            let taken = receiver.taken.lock().unwrap().clone();
            let told = taken.iter().filter(|(delivery, ..)| delivery.starts_with(event)).cloned();
            let told: Vec<_> = told.collect();
            if told.is_empty() { Err(format!("{taken:?}")) } else { Ok(told) }
        })
        .await;
        let (delivery, signed, body) = found[0].clone();
        assert_eq!(signed, signature(b"known to both", body.as_bytes()));
        (delivery, serde_json::from_str::<Value>(&body).unwrap(), found.len())
    };
    let mut last = String::new();
    for path in ["good", "bad", "good", "bad", "good"] {
        last = team.submit(&plan(path, 1)).await;
        team.ended(&last).await;
    }
    let (delivery, body, _) = told("case.flaky").await;
    assert!(delivery.starts_with("case.flaky-shaky-%C3%A9--"), "{delivery}");
    assert_eq!((&body["case"], &body["environment"]), (&json!("shaky-\u{e9}"), &json!("")));
    assert_eq!((&body["last"], &body["run"]), (&json!("PFPFP"), &json!(last)), "{body}");
    assert_eq!(body["score"], 1.0, "{body}");

    *receiver.is_busy.lock().unwrap() = true;
    let calm = team.submit(&plan("good", 25)).await;
    team.ended(&calm).await;
    // The end of the run and the case, at least once each.
    eventually("attempts", async || match *receiver.refused.lock().unwrap() {
        refused @ 0..=1 => Err(refused.to_string()),
        _ => Ok(()),
    })
    .await;
    team.schedulers[0].kill();
    *receiver.is_busy.lock().unwrap() = false;
    team.start_scheduler_with(&words).says("leading the scheduler").await.unwrap();
    let (_, body, count) = told("case.recovered").await;
    assert_eq!((&body["case"], &body["event"]), (&json!("shaky-\u{e9}"), &json!("case.recovered")));
    assert!(body["score"].as_f64().unwrap() < 0.1, "{body}");
    assert_eq!((count, told("case.flaky").await.2), (1, 1), "nothing is told again");
    team.audit(&calm, 25).await;
}

async fn webhooks_that_cannot_be_are_refused(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let empty = team.file("empty");
    std::fs::write(&empty, "\n").unwrap();
    for (words, text) in [
        (&["--webhook-url", "ftp://a"][..], "webhook \"ftp://a\" is not http or https"),
        (&["--webhook-url", "http://a", "--webhook-secret-file", &empty], "is empty"),
        (&["--webhook-secret-file", "/nowhere/it-is"], "/nowhere/it-is: No such file"),
    ] {
        let process = team.start_scheduler_with(words);
        assert_eq!(process.end().await, Exit::Code(2));
        assert!(process.output().contains(text), "{text}: {}", process.output());
    }
}
