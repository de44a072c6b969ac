//! The plain HTTP pages on the client listener: /health, /livez, /readyz, /version.

use super::maintenance::COMPATIBLE_VERSION;
use super::status::text;
use crate::error::RequestError;
use crate::pb::etcdserverpb::{AlarmMember, AlarmType, RangeRequest};
use crate::replica::Handle;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;

/// The checks behind a page, by the names under which they are listed.
const LIVE: [&str; 1] = ["serializable_read"];
const READY: [&str; 4] =
    ["data_corruption", "serializable_read", "linearizable_read", "non_learner"];

/// The pages of the client listener. Unknown paths are answered as Go's HTTP server does.
pub fn pages(handle: Handle) -> Router {
    Router::new()
        .route("/health", any(health))
        .route("/livez", any(livez))
        .route("/livez/{check}", any(livez_check))
        .route("/readyz", any(readyz))
        .route("/readyz/{check}", any(readyz_check))
        .route("/version", any(version))
        .fallback(other)
        .with_state(handle)
}

/// /version alone, which the peer listener has too.
pub fn version_page(handle: Handle) -> Router {
    Router::new().route("/version", any(version)).with_state(handle)
}

/// The answer to any other path.
pub async fn not_found() -> Response {
    let mut response = (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    no_sniff(&mut response);
    response
}

/// Any path that is no page: for a gRPC call, the name of what is not offered.
async fn other(uri: Uri, headers: HeaderMap) -> Response {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let method = uri.path().trim_start_matches('/');
        let text = format!("etcdserver: {method} is not offered by this version");
        return tonic::Status::unimplemented(text).into_http();
    }
    not_found().await
}

fn no_sniff(response: &mut Response) {
    response
        .headers_mut()
        .insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn only_get(method: &Method) -> Result<(), Response> {
    if method == Method::GET {
        return Ok(());
    }
    let mut headers = HeaderMap::new();
    headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
    Err((StatusCode::METHOD_NOT_ALLOWED, headers, "Method Not Allowed\n").into_response())
}

fn json(status: StatusCode, body: String) -> Response {
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn version(State(handle): State<Handle>, method: Method) -> Response {
    if let Err(refused) = only_get(&method) {
        return refused;
    }
    let cluster = handle.cluster_version();
    let storage = cluster.clone().unwrap_or_else(|| "unknown".to_owned());
    let cluster = cluster.unwrap_or_else(|| "not_decided".to_owned());
    let body = format!(
        r#"{{"etcdserver":"{COMPATIBLE_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#
    );
    json(StatusCode::OK, body)
}

/// The values of a repeatable query parameter, decoded.
fn query_values(query: Option<&str>, name: &str) -> Vec<String> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

async fn health(
    State(handle): State<Handle>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    if let Err(refused) = only_get(&method) {
        return refused;
    }
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
        read_one_key(&handle, serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
    };
    match reason {
        None => json(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
        Some(reason) => {
            let body = serde_json::json!({"health": "false", "reason": reason});
            json(StatusCode::SERVICE_UNAVAILABLE, format!("{body}\n"))
        }
    }
}

/// The probe behind all checks: one key at most, without its value.
async fn read_one_key(handle: &Handle, serializable: bool) -> Result<(), String> {
    if !serializable {
        handle.read_barrier().await.map_err(|error| text(&error).into_owned())?;
    }
    let request = RangeRequest {
        key: Bytes::from_static(b"a"),
        keys_only: true,
        limit: 1,
        ..RangeRequest::default()
    };
    match handle.view().range(&request) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(text(&error).into_owned()),
        Err(fatal) => {
            handle.fail(fatal);
            Err(text(&RequestError::Stopped).into_owned())
        }
    }
}

async fn check(handle: &Handle, name: &str) -> Result<(), String> {
    match name {
        "serializable_read" => read_one_key(handle, true).await,
        "linearizable_read" => read_one_key(handle, false).await,
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

async fn run_checks(handle: &Handle, query: Option<&str>, names: &[&str]) -> Response {
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
        match check(handle, name).await {
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
    State(handle): State<Handle>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Ok(()) => run_checks(&handle, query.as_deref(), &LIVE).await,
        Err(refused) => refused,
    }
}

async fn readyz(
    State(handle): State<Handle>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    match only_get(&method) {
        Ok(()) => run_checks(&handle, query.as_deref(), &READY).await,
        Err(refused) => refused,
    }
}

async fn livez_check(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    one_check(&handle, &LIVE, &name, &method, query.as_deref()).await
}

async fn readyz_check(
    State(handle): State<Handle>,
    Path(name): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
) -> Response {
    one_check(&handle, &READY, &name, &method, query.as_deref()).await
}

async fn one_check(
    handle: &Handle,
    checks: &[&'static str],
    name: &str,
    method: &Method,
    query: Option<&str>,
) -> Response {
    if let Err(refused) = only_get(method) {
        return refused;
    }
    match checks.iter().find(|check| **check == name) {
        Some(check) => run_checks(handle, query, &[check]).await,
        None => not_found().await,
    }
}
