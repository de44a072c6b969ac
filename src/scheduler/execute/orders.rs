//! Attempts that others carry out: what they are told, and how they are called.

use super::connect::Connector;
use super::fill::fill;
use super::targets::Targets;
use super::{Attempt, Outcome};
use crate::scheduler::coordinator::Rest;
use crate::tls::{self, Dialer};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::{Map, Value, json};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE_MAX: Duration = Duration::from_millis(1_500);
/// Of an answer; the verdict comes by another way.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Done when an attempt shall end early.
pub type Cancel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What runs attempts for a worker: this process, or somebody for whom it stands.
pub trait Runner: Send + Sync {
    /// Runs an attempt to its end, or until it is to end early. None if it could not be begun here: it is
    /// no attempt then, and others may have the task.
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Option<Outcome>> + Send + 'a>>;

    /// Nothing that was begun may go on behind this moment, unless a later one is said before: others
    /// may have it then.
    fn allow_until(&self, _moment: Instant) {}

    /// Whether, and why, nothing can be begun for a while. What says None when it is run changes this
    /// before.
    fn rests(&self) -> watch::Receiver<Option<Rest>> {
        watch::Sender::default().subscribe()
    }
}

impl Runner for super::Executor {
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Option<Outcome>> + Send + 'a>> {
        Box::pin(async move { Some(super::Executor::run(self, attempt, cancel).await) })
    }

    fn allow_until(&self, moment: Instant) {
        self.warden.allow_until(moment);
    }
}

impl Attempt<'_> {
    /// What another must know to carry it out, with the values of the environment in their places.
    ///
    /// # Errors
    /// What of the case names a value that the environment does not have.
    pub fn order(&self, record: &str) -> Result<Value, String> {
        let case = self.case;
        let of_map = |map: &std::collections::BTreeMap<String, String>| {
            let mut filled = Map::new();
            for (name, value) in map {
                filled.insert(name.clone(), fill(value, self.environment)?.into_owned().into());
            }
            Ok::<_, String>(filled)
        };
        let command: Result<Vec<String>, String> = case
            .command
            .iter()
            .map(|word| fill(word, self.environment).map(std::borrow::Cow::into_owned))
            .collect();
        let input = case.input.as_deref().map(|input| fill(input, self.environment)).transpose()?;
        Ok(json!({
            "recordId": record, "case": case.id, "kind": case.kind,
            "url": fill(&case.url, self.environment)?, "method": case.method,
            "headers": of_map(&case.headers)?, "command": command?,
            "variables": of_map(&case.variables)?, "input": input, "output": self.expected()?,
            "match": case.matching(), "environment": self.environment.map(|found| &found.id),
            "run": self.run, "task": self.task(), "attempt": self.attempt, "fence": self.fence,
            "deadline": self.deadline_ms() as u64,
        }))
    }
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// Nobody there, or nobody that may be called; in words.
    pub text: String,
    /// Whoever was called has heard nothing of it.
    pub is_unsent: bool,
}

impl From<CallError> for String {
    fn from(error: CallError) -> Self {
        error.text
    }
}

impl CallError {
    fn unsent(text: String) -> Self {
        Self { text, is_unsent: true }
    }
}

impl From<legacy::Error> for CallError {
    fn from(error: legacy::Error) -> Self {
        Self { text: tls::reason(&error), is_unsent: error.is_connect() }
    }
}

/// Calls services, within the bounds that cases have.
pub struct Caller {
    client: legacy::Client<Connector, Full<Bytes>>,
}

impl Caller {
    pub fn new(targets: Targets, dialer: Dialer) -> Self {
        let connector = Connector::new(targets, dialer, CONNECT_TIMEOUT);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(connector);
        Self { client }
    }

    /// Gets what is at a url, without reading it. Returns the status.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn get(&self, url: &str) -> Result<u16, CallError> {
        let mut request = Request::new(Full::new(Bytes::new()));
        let uri = url.parse::<Uri>();
        *request.uri_mut() =
            uri.map_err(|error| CallError::unsent(format!("not a url: {error}")))?;
        Ok(self.client.request(request).await?.status().as_u16())
    }

    /// Posts JSON. Returns the status, and the text of the answer as far as it is short.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn post(&self, url: &str, body: &Value) -> Result<(u16, String), CallError> {
        self.send(url, &[], body.to_string()).await
    }

    /// The same with further headers, and a text that is JSON.
    ///
    /// # Errors
    /// When there is no answer, or a header is none.
    pub async fn send(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<(u16, String), CallError> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        let unsent = CallError::unsent;
        let uri = url.parse::<Uri>();
        *request.uri_mut() = uri.map_err(|error| unsent(format!("url {url}: {error}")))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let value = HeaderValue::from_str(value);
            let value = value.map_err(|error| unsent(format!("{name}: {error}")))?;
            request.headers_mut().insert(*name, value);
        }
        let answer = self.client.request(request).await?;
        let status = answer.status().as_u16();
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}
