//! The services over HTTP: what a page, a tool or `curl` gets.

use crate::cluster::{Cluster, Engine, eventually};
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

on_each_engine![
    definitions_are_created_read_changed_listed_and_deleted,
    each_bad_call_has_its_code_and_text,
    runs_are_submitted_once_and_followed,
    workers_queues_and_tags_are_shown_and_set,
    a_store_that_is_away_is_told,
];

/// Calls services as a tool does.
pub struct Caller {
    client: Client<HttpConnector, Body>,
    pub url: String,
    pub headers: Vec<(String, String)>,
}

pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }
}

impl Caller {
    pub fn new(url: &str) -> Caller {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Caller { client, url: url.to_owned(), headers: Vec::new() }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> hyper::Response<hyper::body::Incoming> {
        let url = format!("{}{path}", self.url);
        let mut request = hyper::Request::builder().method(method).uri(url);
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            request = request.header(name, value);
        }
        self.client.request(request.body(body.into()).unwrap()).await.unwrap()
    }

    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let answer = self.send(method, path, headers, body).await;
        let (parts, body) = answer.into_parts();
        let text = body.collect().await.unwrap().to_bytes();
        let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let body = serde_json::from_slice(&text)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&text).into_owned()));
        let headers = parts.headers.iter().map(header).collect();
        Answer { status: parts.status.as_u16(), headers, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.raw("GET", path, &[], "").await
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.raw(method, path, &[("content-type", "application/json")], body.to_string()).await
    }
}

async fn serving(engine: Engine) -> (Team, Caller) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    (team, caller)
}

fn case(id: &str) -> Value {
    json!({"id": id, "url": "http://127.0.0.1:1/", "output": "ok"})
}

fn ids(answer: &Answer) -> Vec<&str> {
    let items = answer.body["items"].as_array().unwrap();
    items.iter().map(|item| item["id"].as_str().unwrap()).collect()
}

async fn definitions_are_created_read_changed_listed_and_deleted(engine: Engine) {
    let (_team, caller) = serving(engine).await;
    for (kind, one) in [("testcases", case("a b")), ("environments", json!({"id": "a b"}))] {
        let list = format!("/v1/{kind}");
        let made = caller.call("POST", &list, one).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let path = format!("/v1/{kind}/a%20b");
        assert_eq!(made.headers["location"], path);
        let found = caller.get(&path).await;
        assert_eq!((found.status, &found.body), (200, &made.body));
        let version = found.body["version"].as_i64().unwrap();
        assert_eq!(found.headers["etag"], format!("\"{version}\""));
        assert!(found.body["gmt_create"].as_str().unwrap().ends_with('Z'), "{}", found.body);

        let mut changed = found.body.clone();
        changed["name"] = json!("first");
        let first = caller.call("PUT", &path, changed.clone()).await;
        assert_eq!((first.status, &first.body["name"]), (200, &json!("first")), "{}", first.body);
        assert_eq!(first.body["gmt_create"], found.body["gmt_create"]);
        let newer = first.body["version"].as_i64().unwrap();
        let late = caller.call("PUT", &path, changed).await;
        let text = format!("a b has version {newer}, not {version}");
        assert_eq!(late.status, 409);
        assert!(late.message().ends_with(&text), "{}", late.message());
        let tag = format!("\"{version}\"");
        let headers = [("content-type", "application/json"), ("if-match", tag.as_str())];
        let late = caller.raw("PATCH", &path, &headers, r#"{"name": "second"}"#).await;
        assert_eq!(late.status, 409);
        let patched = caller.call("PATCH", &path, json!({"name": "second"})).await;
        assert_eq!((patched.status, &patched.body["name"]), (200, &json!("second")));
        // What there is is not written over by who asks for a new one.
        let mut unversioned = found.body.clone();
        unversioned.as_object_mut().unwrap().remove("version");
        let unversioned = unversioned.to_string();
        let put = async |presence: &str| {
            let headers = [("content-type", "application/json"), (presence, "*")];
            caller.raw("PUT", &path, &headers, unversioned.clone()).await.status
        };
        assert_eq!((put("if-none-match").await, put("if-match").await), (412, 200));
        // What is put where nothing was is made.
        let other = format!("/v1/{kind}/c%20d");
        let mut body: Value = serde_json::from_str(&unversioned).unwrap();
        body["id"] = json!("c d");
        let new = caller.call("PUT", &other, body.clone()).await;
        assert_eq!(new.status, 201, "{}", new.body);
        assert_eq!(new.headers["location"], other);
        assert_eq!(caller.call("PUT", &other, body).await.status, 200);
        assert_eq!(caller.raw("DELETE", &other, &[], "").await.status, 200);

        let late = caller.raw("DELETE", &path, &[("if-match", &tag)], "").await;
        assert_eq!(late.status, 409);
        assert_eq!(caller.raw("DELETE", &path, &[], "").await.status, 200);
        assert_eq!(caller.get(&path).await.status, 404);
        assert_eq!(ids(&caller.get(&list).await), [""; 0]);
        assert_eq!(caller.raw("DELETE", &path, &[], "").await.status, 404);
        assert_eq!(caller.call("PATCH", &path, json!({})).await.status, 404);
        // Nor is there made what is not there by who asks to change it.
        assert_eq!((put("if-match").await, put("if-none-match").await), (412, 201));
        assert_eq!(caller.raw("DELETE", &path, &[], "").await.status, 200);
    }
    let again = caller.call("POST", "/v1/testcases", case("a b")).await;
    assert_eq!(again.status, 201, "a deleted one may come back: {}", again.body);
    assert_eq!(again.body["isDelete"], false);

    for number in 0..7 {
        let mut one = case(&format!("c{number}"));
        one["owner"] = json!(if number % 2 == 0 { "eve" } else { "odd" });
        one["labels"] = json!({"part": "pay"});
        one["mutual_tag"] = json!(if number == 3 { vec!["printer"] } else { vec![] });
        assert_eq!(caller.call("POST", "/v1/testcases", one).await.status, 201);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/testcases?limit=3".to_owned();
    loop {
        let page = caller.get(&path).await;
        let found = ids(&page);
        assert!(found.len() <= 3);
        seen.extend(found.into_iter().map(str::to_owned));
        let Some(next) = page.body["next"].as_str() else { break };
        path = format!("/v1/testcases?limit=3&next={next}");
    }
    assert_eq!(seen, ["a b", "c0", "c1", "c2", "c3", "c4", "c5", "c6"]);
    for (filter, wanted) in [
        ("owner=odd", vec!["c1", "c3", "c5"]),
        ("tag=printer", vec!["c3"]),
        ("label=part%3Dpay&owner=eve&limit=2", vec!["c0", "c2"]),
        ("text=C5", vec!["c5"]),
        ("kind=command", vec![]),
        ("state=enabled&text=a", vec!["a b"]),
    ] {
        let page = caller.get(&format!("/v1/testcases?{filter}")).await;
        assert_eq!(ids(&page), wanted, "{filter}");
    }

    // Long ones come in shorter pages, and all of them.
    for number in 0..19 {
        let mut one = case(&format!("long{number:02}"));
        one["input"] = json!("x".repeat(1_000_000));
        assert_eq!(caller.call("POST", "/v1/testcases", one).await.status, 201);
    }
    let page = caller.get("/v1/testcases?text=long&limit=1000").await;
    assert_eq!(ids(&page).len(), 17);
    let next = page.body["next"].as_str().unwrap();
    let rest = caller.get(&format!("/v1/testcases?text=long&limit=1000&next={next}")).await;
    assert_eq!((ids(&rest), &rest.body["next"]), (vec!["long17", "long18"], &Value::Null));
}

async fn each_bad_call_has_its_code_and_text(engine: Engine) {
    let (team, caller) = serving(engine).await;
    let post = ("POST", "/v1/testcases");
    let with = |field: &str, value: Value| {
        let mut case = case("bad");
        case[field] = value;
        case
    };
    let deep = (0..65).fold(json!(1), |inner, _| json!([inner]));
    let places = ("POST", "/v1/environments");
    let run = |more: Value| {
        let mut run = json!({"cases": [{"case": "one"}]});
        run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        run
    };
    assert_eq!(caller.call("POST", "/v1/testcases", case("one")).await.status, 201);
    let mut two = case("two");
    two["case_pre"] = json!("one");
    assert_eq!(caller.call("POST", "/v1/testcases", two).await.status, 201);
    let runs = ("POST", "/v1/runs");
    let verdict = ("POST", "/v1/runs/x/tasks/0/0/verdict");
    for ((method, path), body, status, text) in [
        (("GET", "/v1/testcases/x"), json!({}), 404, "unknown case x"),
        (("GET", "/v1/environments/x"), json!({}), 404, "unknown environment x"),
        (("GET", "/v1/runs/x"), json!({}), 404, "unknown run x"),
        (("GET", "/v1/runs/x/events"), json!({}), 404, "unknown run x"),
        (("POST", "/v1/runs/x/cancel"), json!({}), 404, "unknown run x"),
        (("POST", "/v1/instances/x/drain"), json!({}), 404, "unknown instance x"),
        (("GET", "/v1/nothing"), json!({}), 404, "there is nothing at /v1/nothing"),
        (("DELETE", "/v1/runs"), json!({}), 405, "DELETE does not go with /v1/runs"),
        (
            ("GET", "/v1/runs/x/tasks/a/0"),
            json!({}),
            400,
            "\"a\" in the path is not a whole number",
        ),
        (("GET", "/v1/testcases?limit=0"), json!({}), 400, "limit is not between 1 and 1000"),
        (("GET", "/v1/testcases?next=*"), json!({}), 400, "next is not what a list has said"),
        (("GET", "/v1/testcases?ower=a"), json!({}), 400, "not a valid query: ower: unknown field"),
        (post, json!([]), 400, "the body is not a JSON object"),
        (post, json!({"url": "http://a/"}), 400, "case without an id"),
        (("PUT", "/v1/queues/%20"), json!({"weight": 2}), 400, "queue without an id"),
        (("GET", "/v1/runs/x/compare?with=x&at=0"), json!({}), 404, "unknown run x"),
        (post, with("id", json!("a/b")), 400, "has a slash or control character"),
        (post, with("retires", json!(1)), 400, "unknown field `retires`"),
        (post, with("url", json!("ftp://a")), 400, "is not http or https"),
        (post, with("url", json!("http://169.254.1.1/")), 403, "a link-local address"),
        (post, with("match", json!("status")), 400, "is no status to compare with"),
        (post, with("output", Value::Null), 400, "match is exact, but there is no output"),
        (post, with("mutual_tag", json!("a/b")), 400, "has a slash or control character"),
        (post, with("mutual_tag", json!("")), 400, "a tag is empty"),
        (post, with("mutual_tag", json!("t".repeat(129))), 400, "a tag is longer than 128 bytes"),
        (
            post,
            with("mutual_tag", (0..17).map(|n| json!(format!("t{n}"))).collect()),
            400,
            "more than 16 tags",
        ),
        (post, with("case_pre", json!("bad")), 400, "waits for itself: bad -> bad"),
        (post, case("one"), 409, "there is a case one already"),
        (post, with("method", json!("connect")), 400, "case bad: method \"connect\" is not sent"),
        (post, with("headers", json!({"Content-Length": "9"})), 400, "cannot be sent"),
        (post, with("slow_ms", json!(u64::MAX)), 400, "slow_ms 18446744073709551615 is more than"),
        (post, with("steps", deep.clone()), 400, "case bad: steps is nested deeper than 64"),
        (places, json!({"id": "lab", "config": {"a": deep}}), 400, "its config is nested deeper"),
        (("PUT", "/v1/testcases/one"), Value::Null, 400, "the body is not a JSON object"),
        (
            ("PATCH", "/v1/testcases/one"),
            json!({"case_pre": "two"}),
            400,
            "cases wait for each other: one -> two -> one",
        ),
        (("PUT", "/v1/testcases/one"), case("other"), 400, "another id than the path"),
        (("PUT", "/v1/testcases/new"), json!({"version": 3}), 400, "is not http or https"),
        (runs, json!({"cases": [{"case": "nobody"}]}), 404, "unknown case nobody"),
        (runs, run(json!({"environments": ["x"]})), 404, "unknown environment x"),
        (runs, json!({"cases": ["nobody"]}), 404, "unknown case nobody"),
        (
            runs,
            json!({"cases": [7]}),
            400,
            "cases[0] is integer `7`, not the id of a case, or {case, repeats}",
        ),
        (runs, json!({"cases": [{"name": "one"}]}), 400, "unknown field `name`"),
        (runs, json!({"cases": [{"case": "two"}]}), 422, "case two waits for one, which is not"),
        (runs, run(json!({"repeats": 0})), 400, "case one: 0 repeats"),
        (
            runs,
            run(json!({"repeats": -1})),
            400,
            "not a valid run: repeats is integer `-1`, not a whole number from 0 to",
        ),
        (runs, run(json!({"repeats": 10_000_001})), 400, "are more than 10000000"),
        (runs, run(json!({"deadline_ms": 0})), 400, "deadline_ms 0 is not between 1 and"),
        (runs, run(json!({"no_worker_timeout_ms": 0})), 400, "is not between 1 and 31536000000"),
        (runs, run(json!({"no_worker_timeout_ms": u64::MAX})), 400, "is not between 1 and"),
        (post, with("est_ms", json!(u64::MAX)), 400, "est_ms 18446744073709551615 is more than"),
        (
            runs,
            run(json!({"name": "a\u{1b}[31m"})),
            400,
            "the run's name \"a\\u{1b}[31m\" has a control",
        ),
        (runs, run(json!({"owner": "x".repeat(257)})), 400, "the run's owner is longer than 256"),
        (runs, run(json!({"failures_max": 0})), 400, "failures_max 0 lets nothing start"),
        (runs, run(json!({"id": "mine"})), 400, "id is given by the scheduler"),
        (runs, json!({}), 400, "the run selects no cases"),
        (("PUT", "/v1/queues/q"), json!({"weight": 0}), 400, "weight is not between"),
        (("PUT", "/v1/tags/t"), json!({"capacity": 0}), 400, "capacity is 0"),
        (("POST", "/v1/tags/t/release"), json!({}), 400, "missing field `reason`"),
        (("POST", "/v1/tags/t/release"), json!({"reason": " "}), 400, "a release needs a reason"),
        (("POST", "/v1/tags/t/release"), json!({"reason": "x"}), 404, "nobody holds tag t"),
        (verdict, json!({"verdict": "perhaps"}), 400, "a verdict is passed, failed or error"),
        (verdict, json!({"verdict": "passed"}), 404, "unknown run x"),
        (("GET", "/v1/testcases/nobody/history"), json!({}), 404, "unknown case nobody"),
    ] {
        let answer = match method {
            "GET" => caller.get(path).await,
            _ => caller.call(method, path, body).await,
        };
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert!(answer.message().contains(text), "{method} {path}: {}", answer.message());
        assert_eq!(answer.body["error"]["status"], status);
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    let json = [("content-type", "application/json")];
    let empty = caller.raw("PUT", "/v1/testcases/one", &json, "").await;
    assert_eq!(empty.status, 400, "{}", empty.body);
    let both = [json[0], ("if-match", "*"), ("if-none-match", "*")];
    let both = caller.raw("PUT", "/v1/testcases/one", &both, case("one").to_string()).await;
    let told = "If-Match and If-None-Match exclude each other";
    assert_eq!((both.status, both.message()), (400, told));
    let unknown = caller.raw("TRACE", "/v1/runs", &[], "").await;
    assert_eq!((unknown.status, unknown.message()), (405, "TRACE does not go with /v1/runs"));
    let broken = caller.raw("POST", "/v1/runs", &json, "{").await;
    assert_eq!(broken.status, 400);
    assert!(broken.message().starts_with("the body is not JSON: "), "{}", broken.message());
    let twice = caller.raw("POST", "/v1/runs", &json, r#"{"name": "a", "name": "b"}"#).await;
    let told = "the body is ambiguous: field `name` is given twice at line 1 column 20";
    assert_eq!((twice.status, twice.message()), (400, told));
    for len in [(1 << 20) + 1, 8 << 20] {
        let long = caller.raw("POST", "/v1/testcases", &json, "x".repeat(len)).await;
        assert_eq!((long.status, long.message()), (413, "the body is longer than 1048576 bytes"));
    }
    let form = [("content-type", "text/plain")];
    assert_eq!(caller.raw("POST", "/v1/runs", &form, "{}").await.status, 415);
    let foreign = [json[0], ("origin", "http://evil.example")];
    assert_eq!(caller.raw("POST", "/v1/runs", &foreign, "{}").await.status, 403);
    let bent = caller.raw("GET", "/v1/testcases", &[("host", "evil.example")], "").await;
    assert_eq!(bent.status, 403, "{}", bent.body);
    let left = etcd_client::GetOptions::new().with_prefix().with_keys_only();
    let left = team.client().await.get("/tcss/v1/run/", Some(left)).await.unwrap();
    assert!(left.kvs().is_empty(), "something of a refused run was written");
}

async fn runs_are_submitted_once_and_followed(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    let service = Service::start().await;
    let mut one = case("one");
    one["url"] = json!(service.url("one", 20));
    assert_eq!(caller.call("POST", "/v1/testcases", one).await.status, 201);
    let spec = json!({"cases": [{"case": "one"}], "repeats": 40, "request_id": "r1"});
    let made = caller.call("POST", "/v1/runs", spec.clone()).await;
    assert_eq!((made.status, &made.body["tasks"]), (201, &json!(40)), "{}", made.body);
    let run = made.body["run"].as_str().unwrap().to_owned();
    assert_eq!(made.headers["location"], format!("/v1/runs/{run}"));
    let again = caller.call("POST", "/v1/runs", spec.clone()).await;
    assert_eq!((again.status, again.body), (200, json!({"run": run, "is_new": false})));
    let mut other = spec;
    other["repeats"] = json!(41);
    let other = caller.call("POST", "/v1/runs", other).await;
    assert_eq!(other.status, 409);
    assert!(other.message().contains(&run), "{}", other.message());

    // A run that waits for workers can be paused, and a full queue takes no second one.
    let path = format!("/v1/runs/{run}");
    assert_eq!(caller.call("POST", &format!("{path}/pause"), json!({})).await.status, 202);
    let paused = caller.get(&path).await;
    assert_eq!(paused.body["status"]["state"], "paused", "{}", paused.body);
    let queue = caller.call("PUT", "/v1/queues/default", json!({"runs_max": 1})).await;
    assert_eq!(queue.status, 200, "{}", queue.body);
    let full = json!({"cases": [{"case": "one"}]});
    let full = caller.call("POST", "/v1/runs", full).await;
    assert_eq!((full.status, full.message()), (429, "queue default is full: 1 runs are open"));
    assert_eq!(full.headers["retry-after"], "5");

    let events = caller.send("GET", &format!("{path}/events"), &[], "").await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    assert_eq!(caller.call("POST", &format!("{path}/resume"), json!({})).await.status, 202);
    team.start_worker("w1", 4, &[]).await;
    let begun = Instant::now();
    let followed = tokio::time::timeout(Duration::from_secs(60), events.into_body().collect());
    let text = followed.await.expect("the end of the run").unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    let events = seen(&text);
    let allowed = 2 + begun.elapsed().as_millis() as usize / 400;
    assert!(events.len() <= allowed, "{} events of {allowed}: {text}", events.len());
    let (name, id, last) = events.last().unwrap();
    assert_eq!((name.as_str(), &last["state"]), ("end", &json!("passed")), "{text}");
    assert_eq!(last["totals"]["02"], 40);
    let now = caller.get(&path).await;
    assert_eq!(now.body["status"]["version"].to_string(), *id);
    assert_eq!(now.body["spec"]["repeats"], 40);

    // Who has seen all but the end is told the end alone; who has seen that as well, once more.
    let back = [("last-event-id", "1")];
    let answer = caller.send("GET", &format!("{path}/events"), &back, "").await;
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    let events = seen(&String::from_utf8_lossy(&text));
    assert_eq!(events.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>(), ["end"]);
    let late = caller.call("POST", &format!("{path}/cancel"), json!({})).await;
    assert_eq!((late.status, late.message()), (409, &*format!("run {run} has ended")));
}

/// Events of a stream: name, id and data.
fn seen(text: &str) -> Vec<(String, String, Value)> {
    let events = text.split("\n\n").filter(|event| event.contains("data:"));
    let field = |event: &str, name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim().to_owned()
    };
    let parse = |event: &str| {
        let data = serde_json::from_str(&field(event, "data:")).unwrap();
        (field(event, "event:"), field(event, "id:"), data)
    };
    events.map(parse).collect()
}

async fn workers_queues_and_tags_are_shown_and_set(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    let service = Service::start().await;
    team.start_worker("w1", 2, &["--label", "os=linux"]).await;
    team.start_worker("w2", 3, &[]).await;
    let list = caller.get("/v1/instances?limit=1").await;
    assert_eq!(list.body["items"][0]["name"], "w1", "{}", list.body);
    assert_eq!(list.body["items"][0]["labels"], json!({"os": "linux"}));
    let next = list.body["next"].as_str().unwrap();
    let list = caller.get(&format!("/v1/instances?limit=1&next={next}")).await;
    assert_eq!(list.body["items"][0]["max_task_num"], 3);
    assert_eq!(list.body["next"], Value::Null);

    let mut long = case("long");
    long["url"] = json!(service.url("long", 20_000));
    long["mutual_tag"] = json!("printer");
    long["requires"] = json!({"os": "linux"});
    assert_eq!(caller.call("POST", "/v1/testcases", long).await.status, 201);
    let capacity = caller.call("PUT", "/v1/tags/scanner", json!({"capacity": 3})).await;
    assert_eq!(capacity.status, 200);
    let spec = json!({"cases": [{"case": "long"}], "repeats": 2});
    let made = caller.call("POST", "/v1/runs", spec).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    let holder = eventually("a holder of the tag", async || {
        let tags = caller.get("/v1/tags").await.body;
        let holder = tags["items"][0]["holders"][0].clone();
        if holder.is_null() { Err(tags.to_string()) } else { Ok(holder) }
    })
    .await;
    assert_eq!((&holder["worker"], &holder["run"]), (&json!("w1"), &json!(run)));
    let tags = caller.get("/v1/tags").await;
    let shown: Vec<_> = tags.body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| (tag["tag"].as_str().unwrap(), tag["capacity"].as_u64(), tag["held"].as_u64()))
        .collect();
    assert_eq!(shown, [("printer", Some(1), Some(1)), ("scanner", Some(3), Some(0))]);
    assert_eq!(caller.raw("DELETE", "/v1/tags/scanner", &[], "").await.status, 200);
    let instance = caller.get("/v1/instances/w1").await;
    assert_eq!(instance.body["task_num"], 1, "{}", instance.body);
    assert_eq!(instance.body["claims"][0]["tags"], json!(["printer/0"]));

    let set = caller.call("PUT", "/v1/queues/nightly", json!({"weight": 3, "limit": 5})).await;
    assert_eq!(set.status, 200, "{}", set.body);
    let found = caller.get("/v1/queues/nightly").await;
    assert_eq!((&found.body["weight"], &found.body["limit"]), (&json!(3), &json!(5)));
    assert_eq!(caller.get("/v1/queues").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(caller.raw("DELETE", "/v1/queues/nightly", &[], "").await.status, 200);
    assert_eq!(caller.get("/v1/queues/nightly").await.status, 404);

    let reason = json!({"reason": "it hangs"});
    assert_eq!(caller.call("POST", "/v1/tags/printer/release", reason).await.status, 202);
    eventually("another holder", async || {
        let tags = caller.get("/v1/tags").await.body;
        let next = &tags["items"][0]["holders"][0];
        let is_next = !next.is_null() && next["claim"] != holder["claim"];
        if is_next { Ok(()) } else { Err(tags.to_string()) }
    })
    .await;
    let cancel = format!("/v1/runs/{run}/cancel");
    assert_eq!(caller.call("POST", &cancel, json!({})).await.status, 202);
    team.ended(&run).await;

    let look = json!({"id": "look", "name": "look at it", "kind": "manual"});
    assert_eq!(caller.call("POST", "/v1/testcases", look).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "look"}]})).await;
    let run = made.body["run"].as_str().unwrap().to_owned();
    let verdict = format!("/v1/runs/{run}/tasks/0/0/verdict");
    eventually("a task that waits for a verdict", async || {
        let seen = json!({"verdict": "failed", "message": "it is green", "by": "Ann"});
        let answer = caller.call("POST", &verdict, seen).await;
        if answer.status == 202 { Ok(()) } else { Err(answer.body.to_string()) }
    })
    .await;
    assert_eq!(team.ended(&run).await.state, "failed");
    let task = caller.get(&format!("/v1/runs/{run}/tasks/0/0")).await;
    let attempt = &task.body["attempts"][0];
    assert_eq!((&attempt["worker"], &attempt["detail"]["by"]), (&json!("@people"), &json!("Ann")));
    let again = caller.call("POST", &verdict, json!({"verdict": "passed"})).await;
    assert_eq!(again.status, 409, "{}", again.body);
    let no_task = format!("/v1/runs/{run}/tasks/0/1/verdict");
    let nobody = caller.call("POST", &no_task, json!({"verdict": "passed"})).await;
    assert_eq!(nobody.status, 404, "{}", nobody.body);

    assert_eq!(caller.call("POST", "/v1/instances/w2/drain", json!({})).await.status, 202);
    let worker = team.workers.get_mut("w2").unwrap();
    assert_eq!(worker.end().await, crate::cluster::Exit::Code(0));
    assert_eq!(caller.get("/v1/instances/w2").await.status, 404);
}

async fn a_store_that_is_away_is_told(engine: Engine) {
    let (mut team, caller) = serving(engine).await;
    assert_eq!(caller.get("/v1/testcases").await.status, 200);
    team.cluster.members[0].kill();
    let away = caller.get("/v1/testcases").await;
    assert_eq!((away.status, away.headers["retry-after"].as_str()), (503, "1"), "{}", away.body);
    team.cluster.members[0].spawn();
    eventually("an answer", async || match caller.get("/v1/testcases").await {
        found if found.status == 200 => Ok(()),
        found => Err(found.body.to_string()),
    })
    .await;
    team.schedulers[0].ask_to_stop();
    assert_eq!(team.schedulers[0].end().await, crate::cluster::Exit::Code(0));
}
