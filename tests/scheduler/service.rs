//! A service under test: answers calls of test cases and remembers each with its times.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// One call as the service saw it.
#[derive(Clone, Debug)]
pub struct Call {
    pub case: String,
    pub run: String,
    /// Lane and ordinal.
    pub task: String,
    pub attempt: u32,
    pub fence: i64,
    pub start: Instant,
    /// None while it goes on, or when the caller went away.
    pub end: Option<Instant>,
}

#[derive(Clone, Default)]
pub struct Service {
    calls: Arc<Mutex<Vec<Call>>>,
    pub port: u16,
}

impl Service {
    /// Serves `POST /{case}/{milliseconds}` until the test is over; every answer is `ok`, but for
    /// cases whose names begin with `bad`.
    pub async fn start() -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = Service { port, ..Default::default() };
        let router = Router::new().route("/{case}/{ms}", post(answer)).with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        service
    }

    pub fn url(&self, case: &str, ms: u64) -> String {
        format!("http://127.0.0.1:{}/{case}/{ms}", self.port)
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }
}

async fn answer(
    State(service): State<Service>,
    Path((case, ms)): Path<(String, u64)>,
    headers: HeaderMap,
) -> &'static str {
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let is_bad = case.starts_with("bad");
    let call = Call {
        case,
        run: header("x-tcss-run"),
        task: header("x-tcss-task"),
        attempt: header("x-tcss-attempt").parse().unwrap(),
        fence: header("x-tcss-fence").parse().unwrap(),
        start: Instant::now(),
        end: None,
    };
    let place = {
        let mut calls = service.calls.lock().unwrap();
        calls.push(call);
        calls.len() - 1
    };
    // This is the work that the service does.
    tokio::time::sleep(Duration::from_millis(ms)).await;
    service.calls.lock().unwrap()[place].end = Some(Instant::now());
    if is_bad { "not ok" } else { "ok" }
}

/// A case that calls the service.
pub fn case(service: &Service, id: &str, ms: u64, more: Value) -> Value {
    let mut case = json!({"id": id, "url": service.url(id, ms), "output": "ok", "est_ms": ms});
    case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    case
}
