//! Workers that speak HTTP: a service to which tasks are pushed, and a client that pulls them.

use crate::cluster::{Cluster, Engine, eventually, within};
use crate::http::Caller;
use crate::on_each_engine;
use crate::team::Team;
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use quoin::scheduler::keys;
use quoin::scheduler::model::Status;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

on_each_engine![
    tasks_are_pushed_to_a_plain_service_and_called_back,
    tasks_are_pulled_by_a_client_that_asks,
    bad_registrations_and_results_are_refused,
    who_asks_no_more_gets_nothing_and_may_come_again,
    a_worker_that_was_written_by_hand_gets_nothing,
    a_service_is_told_that_its_task_is_canceled,
    a_client_is_told_that_its_task_is_canceled,
    a_client_gets_commands_only_if_it_wants_them,
    services_that_take_nothing_keep_nothing_from_others,
    a_service_that_is_registered_no_more_loses_nothing,
    a_service_that_was_full_is_not_told_of_a_cancel,
    what_a_client_has_no_more_is_given_to_others,
    a_service_that_does_not_say_whether_it_takes_a_task_may_have_it,
    a_client_is_told_that_the_store_is_away,
];

pub async fn serving(engine: Engine) -> (Team, Caller) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    (team, caller)
}

async fn submit(caller: &Caller, repeats: u32) -> String {
    for id in ["good", "bad"] {
        let case = json!({"id": id, "url": "http://{{host}}/x", "input": "in", "output": "ok"});
        let made = caller.call("POST", "/v1/testcases", case).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let lab = json!({"id": "lab", "config": {"host": "tested.lab"}});
    assert_eq!(caller.call("POST", "/v1/environments", lab).await.status, 201);
    let spec = json!({
        "cases": [{"case": "good"}, {"case": "bad"}], "repeats": repeats, "environments": ["lab"],
    });
    let made = caller.call("POST", "/v1/runs", spec).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["run"].as_str().unwrap().to_owned()
}

fn verdict(order: &Value) -> Value {
    let is_good = order["case"] == "good";
    json!({
        "recordId": order["recordId"], "status": if is_good { "02" } else { "failed" },
        "message": if is_good { Value::Null } else { json!("it was bad") }, "result": "said",
    })
}

/// A plain service: takes orders, refuses the first for being full, and calls back a little later.
#[derive(Clone, Default)]
struct Plain {
    orders: Arc<Mutex<Vec<Value>>>,
    most: Arc<Mutex<(usize, usize)>>,
}

async fn take(State(plain): State<Plain>, Json(order): Json<Value>) -> StatusCode {
    let is_first = plain.orders.lock().unwrap().is_empty();
    plain.orders.lock().unwrap().push(order.clone());
    if is_first {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    {
        let mut most = plain.most.lock().unwrap();
        most.0 += 1;
        most.1 = most.1.max(most.0);
    }
    tokio::spawn(async move {
        let callback = order["callback"].as_str().unwrap().to_owned();
        let caller = Caller::new("");
        plain.most.lock().unwrap().0 -= 1;
        let answer = caller.call("POST", &callback, verdict(&order)).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    });
    StatusCode::OK
}

async fn tasks_are_pushed_to_a_plain_service_and_called_back(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let plain = Plain::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/submit", post(take)).with_state(plain.clone());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let instance = json!({"name": "plain", "url": url, "max_task_num": 3});
    let made = caller.call("POST", "/v1/instances", instance.clone()).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(caller.call("POST", "/v1/instances", instance).await.status, 200);
    let run = submit(&caller, 10).await;
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 10, "{status:?}");
    assert_eq!(status.totals.get(Status::Failed), 10, "{status:?}");
    team.audit(&run, 20).await;
    let orders = plain.orders.lock().unwrap().clone();
    assert_eq!(orders.len(), 21, "each once, and once more the one that was refused");
    let order = &orders[1];
    let shown = [&order["url"], &order["input"], &order["output"]];
    assert_eq!(shown, [&json!("http://tested.lab/x"), &json!("in"), &json!("ok")]);
    assert!(plain.most.lock().unwrap().1 <= 3, "no more at once than it takes");
    let failures = caller.get(&format!("/v1/runs/{run}/tasks?status=failures&limit=1")).await;
    assert_eq!(failures.body["items"][0]["detail"]["message"], "it was bad", "{}", failures.body);
    assert_eq!(failures.body["items"][0]["worker"], "plain");
    // A verdict that comes again counts for nothing.
    let again = caller.call("POST", "/v1/claims/results", verdict(order)).await;
    assert_eq!(again.status, 409, "{}", again.body);

    assert_eq!(caller.raw("DELETE", "/v1/instances/plain", &[], "").await.status, 200);
    eventually("the worker's end", async || match caller.get("/v1/instances/plain").await {
        found if found.status == 404 => Ok(()),
        found => Err(found.body.to_string()),
    })
    .await;
}

async fn tasks_are_pulled_by_a_client_that_asks(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let asking = json!({"worker": "puller", "max_task_num": 4});
    let asked = Instant::now();
    let nothing = caller.call("POST", "/v1/claims?want=4&wait=1", asking.clone()).await;
    assert_eq!((nothing.status, nothing.body), (200, json!({"tasks": []})));
    assert!(asked.elapsed() >= Duration::from_secs(1), "it waits for tasks");
    let run = submit(&caller, 6).await;
    let (mut seen, mut recorded) = (Vec::new(), 0);
    while seen.len() < 12 {
        let found = caller.call("POST", "/v1/claims?want=4", asking.clone()).await;
        assert_eq!(found.status, 200, "{}", found.body);
        let orders = found.body["tasks"].as_array().unwrap().clone();
        assert!((1..=4).contains(&orders.len()), "{orders:?}");
        for order in &orders {
            let said = caller.call("POST", "/v1/claims/results", verdict(order)).await;
            assert_eq!(said.status, 202, "{}", said.body);
            let results: usize = team.results(&run).await.values().map(Vec::len).sum();
            recorded += 1;
            assert!(results >= recorded, "{results} of {recorded}: what was said is recorded");
        }
        seen.extend(orders);
    }
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 6, "{status:?}");
    assert_eq!(status.totals.get(Status::Failed), 6, "{status:?}");
    team.audit(&run, 12).await;
}

async fn who_asks_no_more_gets_nothing_and_may_come_again(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let asking = json!({"worker": "lab", "max_task_num": 4});
    let ask = async || caller.call("POST", "/v1/claims?wait=0", asking.clone()).await;
    assert_eq!(ask().await.status, 200);
    // Silent for half a minute.
    within(Duration::from_secs(60), "an end of its registration", async || {
        match team.schedulers[0].output().contains("that asks no more has been given up") {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    })
    .await;
    assert_eq!(caller.get("/v1/instances/lab").await.status, 404);
    assert_eq!(ask().await.status, 200);
}

async fn bad_registrations_and_results_are_refused(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    team.start_worker("w1", 1, &[]).await;
    let service =
        |name: &str, url: &str, most: u32| json!({"name": name, "url": url, "max_task_num": most});
    let local = "http://127.0.0.1:1";
    for (path, body, status, text) in [
        ("/v1/instances", service("a", local, 0), 400, "max_task_num is not between 1 and 10000"),
        ("/v1/instances", service("a", "ftp://x", 1), 400, "is not http or https"),
        ("/v1/instances", service("a/b", local, 1), 400, "has a slash or control character"),
        ("/v1/instances", service("a", "http://169.254.169.254", 1), 403, "a link-local address"),
        ("/v1/instances", service("a", "http://10.0.0.1", 1), 403, "a private address"),
        ("/v1/instances", service("w1", local, 1), 409, "there is a worker w1 already"),
        ("/v1/claims?want=0", json!({"worker": "p"}), 400, "want is not between 1 and 1000"),
        ("/v1/claims", json!({}), 400, "worker without an id"),
        ("/v1/claims", json!({"worker": "w1"}), 409, "there is a worker w1 already"),
        ("/v1/claims", json!({"worker": "@people"}), 400, "a name does not begin with @"),
        ("/v1/instances", service("@people", local, 1), 400, "a name does not begin with @"),
        ("/v1/claims/results", json!({"status": "02"}), 400, "a result without recordId"),
        ("/v1/claims/results", json!({"recordId": "r", "status": "02"}), 409, "nobody waits for"),
        ("/v1/claims/results", json!({"recordId": "r", "status": "05"}), 400, "status is none of"),
    ] {
        let answer = caller.call("POST", path, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.message().contains(text), "{path}: {}", answer.message());
    }
    let away = caller.call("POST", "/v1/instances", service("away", local, 1)).await;
    assert_eq!(away.status, 201, "{}", away.body);
    team.schedulers[0].says("a registered service cannot be reached").await.unwrap();
}

/// Keys that no worker writes are no workers, and disturb nobody.
async fn a_worker_that_was_written_by_hand_gets_nothing(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    let mut client = team.client().await;
    for (name, value) in [("a", "garbage"), ("b", r#"{"max_task_num": 8}"#), ("c", "{}")] {
        client.put(keys::worker(name), value, None).await.unwrap();
    }
    let run = submit(&caller, 3).await;
    team.start_worker("w1", 1, &["--allow-target", "tested.lab"]).await;
    let status = team.ended(&run).await;
    assert_eq!(status.totals.ended(), 6);
    for attempts in team.results(&run).await.values() {
        assert!(attempts.iter().all(|(.., worker)| worker == "w1"), "{attempts:?}");
    }
}

/// Submits one task, and waits until somebody has it.
async fn one_task(caller: &Caller, orders: &Mutex<Vec<Value>>) -> (String, Value) {
    let case =
        json!({"id": "long", "url": "http://tested.lab/x", "output": "ok", "mutual_tag": "desk"});
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "long"}]})).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    eventually("an order", async || match orders.lock().unwrap().first().cloned() {
        Some(order) => Ok((run.clone(), order)),
        None => Err("none yet".to_owned()),
    })
    .await
}

async fn a_service_is_told_that_its_task_is_canceled(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let (orders, canceled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let keep = |seen: &Arc<Mutex<Vec<Value>>>| {
        let seen = seen.clone();
        post(async move |Json(told): Json<Value>| seen.lock().unwrap().push(told))
    };
    let router = Router::new().route("/submit", keep(&orders)).route("/cancel", keep(&canceled));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let instance = json!({"name": "plain", "url": url, "max_task_num": 1});
    assert_eq!(caller.call("POST", "/v1/instances", instance).await.status, 201);
    let (run, order) = one_task(&caller, &orders).await;
    let stopped = json!({"recordId": order["recordId"], "status": "canceled"});
    let early = caller.call("POST", "/v1/claims/results", stopped.clone()).await;
    assert_eq!(early.status, 400, "nobody has canceled it: {}", early.body);
    let cancel = caller.call("POST", &format!("/v1/runs/{run}/cancel"), json!({})).await;
    assert_eq!(cancel.status, 202);
    eventually("word of it", async || match canceled.lock().unwrap().clone() {
        told if told == [json!({"recordId": order["recordId"]})] => Ok(()),
        told => Err(format!("{told:?}")),
    })
    .await;
    // It is not free before the service says so, or long after.
    let tags = caller.get("/v1/tags").await.body;
    assert_eq!(tags["items"][0]["tag"], "desk", "{tags}");
    let told = Instant::now();
    assert_eq!(caller.call("POST", "/v1/claims/results", stopped).await.status, 202);
    let status = team.ended(&run).await;
    assert!(told.elapsed() < Duration::from_secs(4), "{:?}", told.elapsed());
    assert_eq!(status.totals.get(Status::Canceled), 1, "{status:?}");
    team.audit(&run, 1).await;
}

async fn a_client_is_told_that_its_task_is_canceled(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let asking = json!({"worker": "puller", "max_task_num": 1});
    let orders = Mutex::new(Vec::new());
    let claim = async || loop {
        let given = caller.call("POST", "/v1/claims?wait=5", asking.clone()).await.body;
        if let Some(order) = given["tasks"].as_array().unwrap().first() {
            orders.lock().unwrap().push(order.clone());
            return;
        }
    };
    let ((), (run, order)) = tokio::join!(claim(), one_task(&caller, &orders));
    let record = order["recordId"].clone();
    let held = json!({"worker": "puller", "records": [record]});
    let renew = async || caller.call("POST", "/v1/claims/renew", held.clone()).await.body;
    assert_eq!(renew().await, json!({"canceled": [], "gone": []}));
    let asked = Instant::now();
    let cancel = async {
        let path = format!("/v1/runs/{run}/cancel");
        assert_eq!(caller.call("POST", &path, json!({})).await.status, 202);
    };
    let wait = caller.call("POST", "/v1/claims?wait=20", asking.clone());
    let ((), told) = tokio::join!(cancel, wait);
    assert_eq!(told.body, json!({"tasks": [], "canceled": [record]}));
    assert!(asked.elapsed() < Duration::from_secs(10), "it is told at once");
    assert_eq!(renew().await, json!({"canceled": [record], "gone": []}));
    // It says nothing, and the task ends all the same.
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Canceled), 1, "{status:?}");
    assert_eq!(renew().await, json!({"canceled": [], "gone": [record]}));
    let late = json!({"recordId": record, "status": "passed"});
    assert_eq!(caller.call("POST", "/v1/claims/results", late).await.status, 409);
    team.audit(&run, 1).await;
}

async fn a_client_gets_commands_only_if_it_wants_them(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let case = json!({"id": "script", "kind": "command", "command": ["make", "check"]});
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "script"}]})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let ask = async |asking: Value, wait: u32| {
        let given = caller.call("POST", &format!("/v1/claims?wait={wait}"), asking).await;
        assert_eq!(given.status, 200, "{}", given.body);
        given.body["tasks"].as_array().unwrap().clone()
    };
    assert_eq!(ask(json!({"worker": "plain"}), 1).await, [Value::Null; 0]);
    let key = keys::worker("plain");
    let found = team.client().await.get(key, None).await.unwrap();
    let info: Value = serde_json::from_slice(found.kvs()[0].value()).unwrap();
    assert_eq!(info["no_commands"], true, "{info}");
    let given = ask(json!({"worker": "able", "commands": true}), 20).await;
    assert_eq!(given[0]["command"], json!(["make", "check"]));
}

async fn a_client_is_told_that_the_store_is_away(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    let ask = async || caller.call("POST", "/v1/claims?wait=1", json!({"worker": "p"})).await;
    let given = ask().await;
    assert_eq!((given.status, given.body), (200, json!({"tasks": []})));
    team.cluster.kill(0);
    let refused = ask().await;
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert!(refused.message().contains("the store does not answer"), "{}", refused.body);
}

/// Serves `POST /submit` with this.
pub async fn service(
    answer: impl Fn(Value) -> StatusCode + Clone + Send + Sync + 'static,
) -> String {
    let submit = post(async move |Json(order): Json<Value>| answer(order));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/submit", submit);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

pub async fn register(caller: &Caller, name: &str, url: &str) {
    let instance = json!({"name": name, "url": url, "max_task_num": 2});
    let made = caller.call("POST", "/v1/instances", instance).await;
    assert_eq!(made.status, 201, "{}", made.body);
}

pub async fn serves(caller: &Caller, name: &str) {
    eventually("the service as a worker", async || {
        match caller.get(&format!("/v1/instances/{name}")).await.status {
            200 => Ok(()),
            other => Err(other.to_string()),
        }
    })
    .await;
}

/// One that is full, and one that goes away behind its registration: no attempt fails by them.
async fn services_that_take_nothing_keep_nothing_from_others(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    let full = service(|_| StatusCode::SERVICE_UNAVAILABLE).await;
    register(&caller, "full", &full).await;
    // Somebody is there when it is registered, and nobody when it gets a task.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    register(&caller, "gone", &url).await;
    let greeting = tokio::spawn(async move {
        axum::serve(listener, Router::new()).await.unwrap();
    });
    serves(&caller, "full").await;
    serves(&caller, "gone").await;
    greeting.abort();
    let service = crate::service::Service::start().await;
    let case = crate::service::case(&service, "short", 20, json!({"timeout_ms": 1_500}));
    let plan = json!({"cases": [case], "run": {"cases": [{"case": "short"}], "repeats": 30}});
    team.start_worker("w1", 1, &[]).await;
    let run = team.submit(&plan).await;
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 30, "{status:?}");
    for attempts in team.audit(&run, 30).await.values() {
        assert_eq!(
            attempts,
            &[(1, Status::Passed, "w1".to_owned())],
            "no attempt of others counts"
        );
    }
}

async fn a_service_that_is_registered_no_more_loses_nothing(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    let orders = Arc::new(Mutex::new(Vec::new()));
    let seen = orders.clone();
    let url = service(move |order| {
        seen.lock().unwrap().push(order);
        StatusCode::OK
    })
    .await;
    register(&caller, "plain", &url).await;
    let case =
        json!({"id": "once", "url": "http://tested.lab/x", "output": "ok", "on_lost": "never"});
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let spec = json!({"cases": [{"case": "once"}], "repeats": 4});
    let made = caller.call("POST", "/v1/runs", spec).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    let has = async |count: usize| {
        eventually("orders", async || {
            let orders = orders.lock().unwrap().clone();
            if orders.len() >= count { Ok(orders) } else { Err(format!("{orders:?}")) }
        })
        .await
    };
    let given = has(2).await;
    assert_eq!(caller.call("DELETE", "/v1/instances/plain", json!({})).await.status, 200);
    eventually("that it drains", async || {
        let shown = caller.get("/v1/instances/plain").await.body;
        if shown["draining"] == true { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    let early = json!({"name": "plain", "url": url, "max_task_num": 2});
    let early = caller.call("POST", "/v1/instances", early).await;
    assert_eq!(
        (early.status, early.message()),
        (409, "worker plain is leaving until its tasks have ended")
    );
    for order in &given {
        let said = json!({"recordId": order["recordId"], "status": "passed"});
        assert_eq!(caller.call("POST", "/v1/claims/results", said).await.status, 202);
    }
    eventually("its end", async || match caller.get("/v1/instances/plain").await.status {
        404 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    assert_eq!(orders.lock().unwrap().len(), 2, "it got nothing more");
    team.start_worker("w1", 2, &["--allow-target", "tested.lab"]).await;
    let status = team.ended(&run).await;
    assert_eq!(status.totals.get(Status::Passed), 2, "{status:?}");
    assert_eq!(status.totals.get(Status::Lost), 0, "{status:?}");
}

/// It has not taken the task, and its slot is free at once.
async fn a_service_that_was_full_is_not_told_of_a_cancel(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let (orders, canceled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let keep = |seen: &Arc<Mutex<Vec<Value>>>| {
        let seen = seen.clone();
        post(async move |Json(told): Json<Value>| {
            seen.lock().unwrap().push(told);
            StatusCode::SERVICE_UNAVAILABLE
        })
    };
    let router = Router::new().route("/submit", keep(&orders)).route("/cancel", keep(&canceled));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    register(&caller, "full", &url).await;
    let (run, _) = one_task(&caller, &orders).await;
    let asked = Instant::now();
    let cancel = caller.call("POST", &format!("/v1/runs/{run}/cancel"), json!({})).await;
    assert_eq!(cancel.status, 202);
    let status = team.ended(&run).await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(status.totals.get(Status::Canceled), 1, "{status:?}");
    assert_eq!(*canceled.lock().unwrap(), [Value::Null; 0]);
    team.audit(&run, 1).await;
}

async fn what_a_client_has_no_more_is_given_to_others(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let case = json!({"id": "long", "url": "http://tested.lab/x", "output": "ok"});
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "long"}]})).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    let ask = async |asking: Value| caller.call("POST", "/v1/claims?wait=3", asking).await;
    eventually("a task", async || {
        let given = ask(json!({"worker": "restarts"})).await.body;
        if given["tasks"].as_array().unwrap().is_empty() { Err(given.to_string()) } else { Ok(()) }
    })
    .await;
    let other = ask(json!({"worker": "restarts", "max_task_num": 4})).await;
    assert_eq!(other.status, 409, "{}", other.body);
    // It has begun anew, and knows of nothing.
    let again = eventually("the task again", async || {
        let given = ask(json!({"worker": "restarts", "records": []})).await.body;
        given["tasks"].get(0).cloned().ok_or(given.to_string())
    })
    .await;
    assert_eq!(again["attempt"], 2, "{again}");
    let said = json!({"recordId": again["recordId"], "status": "passed"});
    assert_eq!(caller.call("POST", "/v1/claims/results", said).await.status, 202);
    assert_eq!(team.ended(&run).await.state, "passed");
    let attempts: Vec<Status> =
        team.audit(&run, 1).await[&(0, 0)].iter().map(|(_, status, _)| *status).collect();
    assert_eq!(attempts, [Status::Lost, Status::Passed]);
}

async fn a_service_that_does_not_say_whether_it_takes_a_task_may_have_it(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let calls = Arc::new(Mutex::new(Vec::new()));
    let note = |word: &'static str, is_silent: bool| {
        let calls = calls.clone();
        post(async move |Json(_): Json<Value>| {
            calls.lock().unwrap().push(word);
            if is_silent {
                std::future::pending::<()>().await;
            }
        })
    };
    let router = Router::new().route("/submit", note("submit", true));
    let router = router.route("/cancel", note("cancel", false));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    register(&caller, "silent", &url).await;
    let case = json!({
        "id": "long", "url": "http://tested.lab/x", "output": "ok", "timeout_ms": 1_000,
        "mutual_tag": "desk",
    });
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let spec = json!({"cases": [{"case": "long"}], "repeats": 2});
    let made = caller.call("POST", "/v1/runs", spec).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    let status = team.ended(&run).await;
    assert_eq!((&*status.state, status.totals.get(Status::TimedOut)), ("failed", 2), "{status:?}");
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls, ["submit", "cancel", "submit", "cancel"], "one after the other");
}
