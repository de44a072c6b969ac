//! Answers: JSON values with their version, and errors, all of one shape.

use crate::scheduler::catalog::Stored;
use crate::scheduler::model::Refusal;
use crate::scheduler::submit::SubmitError;
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Seconds after which it is worth asking again.
const STORE_IS_AWAY_S: u32 = 1;
const STORE_IS_FULL_S: u32 = 30;
const QUEUE_IS_FULL_S: u32 = 5;

/// Why a call is not answered as it was meant to be:
/// `{"error": {"status": 404, "reason": "not found", "message": "unknown case pay"}}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) message: String,
    retry_after: Option<u32>,
}

impl Problem {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Self {
        let retry_after = (status == 429).then_some(QUEUE_IS_FULL_S);
        Self { status, message: message.into(), retry_after }
    }

    pub(super) fn unknown(what: &str, id: &str) -> Self {
        Self::new(404, format!("unknown {what} {id}"))
    }

    /// What the store says, as far as it says something about the call.
    fn of_store(text: &str) -> Self {
        if text.contains("database space exceeded") {
            let retry_after = Some(STORE_IS_FULL_S);
            return Self { retry_after, ..Self::new(429, "the store is full") };
        }
        if text.contains("request is too large") {
            return Self::new(413, "it is larger than the store takes");
        }
        if text.contains("permission denied") {
            return Self::new(403, "the store does not let this user do that");
        }
        if text.contains("invalid auth token") {
            return Self::new(401, "the store does not know this token, or not any more");
        }
        if text.contains("required revision has been compacted") {
            return Self::new(422, "the store has that revision no more");
        }
        let message = format!("the store does not answer: {text}");
        Self { retry_after: Some(STORE_IS_AWAY_S), ..Self::new(503, message) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status, refusal.message)
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Refused(refusal) => refusal.into(),
            SubmitError::Nothing(text) => Self::new(404, text),
            SubmitError::Store(text) | SubmitError::Answer(text) => Self::of_store(&text),
        }
    }
}

impl From<etcd_client::Error> for Problem {
    fn from(error: etcd_client::Error) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_store(status.message()),
            error => Self::of_store(&error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let reason = status.canonical_reason().unwrap_or("error").to_lowercase();
        let error = json!({"status": self.status, "reason": reason, "message": self.message});
        let mut answer = answer(status, &json!({ "error": error }));
        if let Some(seconds) = self.retry_after {
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        answer
    }
}

/// An answer with a JSON body.
pub(super) fn answer(status: StatusCode, value: &impl Serialize) -> Response {
    // Maps with other keys than strings are all that JSON cannot hold.
    let text = serde_json::to_vec(value).unwrap_or_default();
    (status, [(CONTENT_TYPE, JSON)], text).into_response()
}

pub(super) fn ok(value: &impl Serialize) -> Response {
    answer(StatusCode::OK, value)
}

/// A definition, with its version in the body and as the entity's tag.
pub(super) fn stored<T: Serialize>(status: StatusCode, found: &Stored<T>) -> Response {
    let mut answer = answer(status, found);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", found.version)) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// Says where something is that was made.
pub(super) fn located(mut answer: Response, path: &str) -> Response {
    if let Ok(path) = HeaderValue::from_str(path) {
        answer.headers_mut().insert(LOCATION, path);
    }
    answer
}

pub(super) async fn no_such_path(uri: axum::http::Uri) -> Problem {
    Problem::new(404, format!("there is nothing at {}", uri.path()))
}

pub(super) async fn no_such_method(method: axum::http::Method, uri: axum::http::Uri) -> Problem {
    Problem::new(405, format!("{method} does not go with {}", uri.path()))
}
