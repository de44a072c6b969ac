//! The plain HTTP pages for clients: health, version and variables.

use super::maintenance::COMPATIBLE_VERSION;
use super::status::text;
use crate::error::RequestError;
use crate::metrics::parts::Held;
use crate::metrics::{Metrics, text as metrics_text};
use crate::pb::etcdserverpb::{AlarmMember, AlarmType, RangeRequest};
use crate::replica::Handle;
use axum::Router;
use axum::extract::{FromRef, Path, RawQuery, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

/// The checks behind a page, by the names under which they are listed.
const LIVE: [&str; 1] = ["serializable_read"];
const READY: [&str; 4] =
    ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

/// What the pages stand on.
#[derive(Clone)]
struct Ground {
    handle: Handle,
    metrics: Arc<Metrics>,
}

impl FromRef<Ground> for Arc<Metrics> {
    fn from_ref(ground: &Ground) -> Arc<Metrics> {
        ground.metrics.clone()
    }
}

/// The pages of the client listener. Unknown paths are answered as Go's HTTP server does.
pub(super) fn pages(handle: Handle, metrics: Arc<Metrics>, with_profiles: bool) -> Router {
    let others = Router::new()
        .route("/version", any(version))
        .route("/debug/vars", any(super::vars::vars))
        .with_state(handle.clone());
    let pages = probes(handle, metrics).merge(others);
    if with_profiles { pages.merge(super::profiles::pages()) } else { pages }
}

/// What probes and collectors ask for: all that a listener for metrics has.
pub(super) fn probes(handle: Handle, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", any(metrics_page))
        .route("/health", any(health))
        .route("/livez", any(livez))
        .route("/livez/{check}", any(livez_check))
        .route("/readyz", any(readyz))
        .route("/readyz/{check}", any(readyz_check))
        .fallback(async || not_found())
        .with_state(Ground { handle, metrics })
}

/// All numbers, whatever the method: as etcd's page.
async fn metrics_page(State(metrics): State<Arc<Metrics>>) -> Response {
    let under_way = Held::new(&metrics.pages_under_way);
    let mut page = metrics.page().into_response();
    drop(under_way);
    metrics.pages.add(1);
    let kind = HeaderValue::from_static(metrics_text::CONTENT_TYPE);
    page.headers_mut().insert(header::CONTENT_TYPE, kind);
    page
}

/// The answer to any other path.
fn not_found() -> Response {
    text_page(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// A path that is no page, or no call.
pub(super) async fn other(request: axum::extract::Request) -> Response {
    match is_grpc(&request) {
        true => unknown_call(request.uri().clone()).await,
        false => not_found(),
    }
}

/// The answer to a gRPC call that no service has.
pub(super) async fn unknown_call(uri: Uri) -> Response {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    super::status::unknown_call(target, super::unary::is_service).into_http()
}

/// Whether a request is a gRPC call, which only HTTP/2 can carry.
pub(super) fn is_grpc<B>(request: &http::Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], |kind| kind.as_bytes());
    let is_its_kind = kind
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')));
    is_its_kind && request.version() == http::Version::HTTP_2
}

/// The answer of a listener for gRPC to what is no gRPC.
pub(super) fn only_grpc() -> Response {
    let text = "this address serves gRPC only; HTTP is on --listen-client-http-urls\n";
    text_page(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
}

/// An answer in plain text that a browser must not take for anything else.
pub(super) fn text_page(status: StatusCode, text: impl Into<String>) -> Response {
    let mut response = (status, text.into()).into_response();
    no_sniff(&mut response);
    response
}

fn no_sniff(response: &mut Response) {
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

pub(super) fn only_get(method: &Method) -> Result<(), Response> {
    if method == Method::GET {
        return Ok(());
    }
    let mut refused = text_page(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Err(refused)
}

pub(super) fn json(body: String) -> Response {
    let mut response = body.into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) async fn version(State(handle): State<Handle>, method: Method) -> Response {
    if let Err(refused) = only_get(&method) {
        return refused;
    }
    let cluster = handle.cluster_version();
    let storage = cluster.clone().unwrap_or_else(|| "unknown".to_owned());
    let cluster = cluster.unwrap_or_else(|| "not_decided".to_owned());
    let body = format!(
        r#"{{"etcdserver":"{COMPATIBLE_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#
    );
    json(body)
}

/// The values of a repeatable query parameter, decoded.
fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

async fn health(
    State(ground): State<Ground>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    if let Err(refused) = only_get(&method) {
        return refused;
    }
    let (handle, numbers) = (&ground.handle, &ground.metrics.probes);
    let excluded = query_values(query.as_deref(), "exclude");
    let alarms = handle.alarms();
    let mut alarms = alarms.iter().map(|alarm| alarm.alarm().as_str_name());
    let alarm = alarms.find(|name| !excluded.iter().any(|other| other == name));
    let serializable = query_values(query.as_deref(), "serializable").iter().any(|v| v == "true");
    let reason = if let Some(alarm) = alarm {
        Some(format!("ALARM {alarm}"))
    } else if !serializable && handle.leader().is_none() {
        Some("RAFT NO LEADER".to_owned())
    } else {
        read_one_key(&ground, serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
    };
    match reason {
        None => {
            numbers.healthy.add(1);
            r#"{"health":"true","reason":""}"#.into_response()
        }
        Some(reason) => {
            numbers.unhealthy.add(1);
            let body = serde_json::json!({"health": "false", "reason": reason});
            text_page(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
        }
    }
}

/// The probe behind all checks: one key at most, without its value. It counts as a client's range.
async fn read_one_key(ground: &Ground, serializable: bool) -> Result<(), String> {
    let begun = Instant::now();
    let read = read_first(ground, serializable).await;
    ground.metrics.calls.probed(read.is_ok(), begun.elapsed());
    read
}

async fn read_first(Ground { handle, metrics }: &Ground, serializable: bool) -> Result<(), String> {
    if !serializable {
        handle.read_barrier().await.map_err(|error| text(&error).to_owned())?;
    }
    let request = RangeRequest {
        key: Bytes::from_static(b"a"),
        keys_only: true,
        limit: 1,
        ..RangeRequest::default()
    };
    let begun = Instant::now();
    let read = handle.view().range(&request);
    let is_ok = matches!(read, Ok(Ok(_)));
    metrics.reads.range[usize::from(is_ok)].observe_time(begun.elapsed());
    metrics.reads.ranges.add(1);
    match read {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(text(&error).to_owned()),
        Err(fatal) => {
            handle.fail(fatal);
            Err(text(&RequestError::Stopped).to_owned())
        }
    }
}

async fn check(ground: &Ground, name: &str) -> Result<(), String> {
    let handle = &ground.handle;
    match name {
        "serializable_read" => read_one_key(ground, true).await,
        "linearizable_read" => read_one_key(ground, false).await,
        "data_corruption" => {
            let is_corrupt = |alarm: &AlarmMember| alarm.alarm() == AlarmType::Corrupt;
            match handle.alarms().iter().any(is_corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            }
        }
        "non_learner" if handle.is_learner() => Err("not supported for learner".to_owned()),
        _ => Ok(()),
    }
}

/// A page of checks, by the name that the metrics have for it.
type Checks<'a> = (&'static str, &'a [&'static str]);

async fn run_checks(ground: &Ground, query: Option<&str>, (page, names): Checks<'_>) -> Response {
    let excluded = query_values(query, "exclude");
    for name in excluded.iter().filter(|name| !names.contains(&name.as_str())) {
        tracing::warn!(check = name, "some health checks cannot be excluded");
    }
    let verbose = query.is_some_and(|query| {
        url::form_urlencoded::parse(query.as_bytes()).any(|(key, _)| key == "verbose")
    });
    let mut lines = String::new();
    let mut failed = false;
    for name in names.iter().filter(|name| !excluded.iter().any(|other| other == *name)) {
        let checked = check(ground, name).await;
        ground.metrics.probes.checked(page, name, checked.is_ok());
        match checked {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(reason) => {
                failed = true;
                lines.push_str(&format!("[-]{name} failed: {reason}\n"));
            }
        }
    }
    let mut response = match (failed, verbose) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{lines}\n")).into_response(),
        (false, true) => format!("{lines}ok\n").into_response(),
        (false, false) => "ok\n".into_response(),
    };
    no_sniff(&mut response);
    response
}

async fn livez(
    State(ground): State<Ground>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Ok(()) => run_checks(&ground, query.as_deref(), ("livez", &LIVE)).await,
        Err(refused) => refused,
    }
}

async fn readyz(
    State(ground): State<Ground>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Ok(()) => run_checks(&ground, query.as_deref(), ("readyz", &READY)).await,
        Err(refused) => refused,
    }
}

async fn livez_check(
    State(ground): State<Ground>,
    Path(name): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    one_check(&ground, ("livez", &LIVE), &name, &method, query.as_deref()).await
}

async fn readyz_check(
    State(ground): State<Ground>,
    Path(name): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    one_check(&ground, ("readyz", &READY), &name, &method, query.as_deref()).await
}

async fn one_check(
    ground: &Ground,
    (page, checks): Checks<'_>,
    name: &str,
    method: &Method,
    query: Option<&str>,
) -> Response {
    let Some(check) = checks.iter().find(|check| **check == name) else { return not_found() };
    match only_get(method) {
        Ok(()) => run_checks(ground, query, (page, &[check])).await,
        Err(refused) => refused,
    }
}
