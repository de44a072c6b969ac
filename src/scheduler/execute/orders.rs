//! Attempts that others carry out: what they are told, and how they are called.

use super::connect::Connector;
use super::fill::fill;
use super::targets::Targets;
use super::{Attempt, Outcome};
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
use tokio::time::Instant;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE_MAX: Duration = Duration::from_millis(1_500);
/// Of an answer; the verdict comes by another way.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Done when an attempt shall end early.
pub type Cancel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What runs attempts for a worker: this process, or somebody for whom it stands.
pub trait Runner: Send + Sync {
    /// Runs an attempt to its end, or until it is to end early.
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

    /// Nothing that was begun may go on behind this moment, unless a later one is said before: others
    /// may have it then.
    fn allow_until(&self, _moment: Instant) {}
}

impl Runner for super::Executor {
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(super::Executor::run(self, attempt, cancel))
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
            "variables": of_map(&case.variables)?, "input": input, "output": case.output,
            "match": case.matching(), "environment": self.environment.map(|found| &found.id),
            "run": self.run, "task": self.task(), "attempt": self.attempt, "fence": self.fence,
            "deadline": self.deadline_ms() as u64,
        }))
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
    /// In words: nobody there, or nobody that may be called.
    pub async fn get(&self, url: &str) -> Result<u16, String> {
        let mut request = Request::new(Full::new(Bytes::new()));
        *request.uri_mut() = url.parse::<Uri>().map_err(|error| format!("not a url: {error}"))?;
        let answer = self.client.request(request).await;
        Ok(answer.map_err(|error| tls::reason(&error))?.status().as_u16())
    }

    /// Posts JSON. Returns the status, and the text of the answer as far as it is short.
    ///
    /// # Errors
    /// In words: nobody there, or nobody that may be called.
    pub async fn post(&self, url: &str, body: &Value) -> Result<(u16, String), String> {
        self.send(url, &[], body.to_string()).await
    }

    /// The same with further headers, and a text that is JSON.
    ///
    /// # Errors
    /// In words: nobody there, nobody that may be called, or a header that is none.
    pub async fn send(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> Result<(u16, String), String> {
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.parse::<Uri>().map_err(|error| format!("url {url}: {error}"))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).map_err(|error| format!("{name}: {error}"))?;
            request.headers_mut().insert(*name, value);
        }
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| tls::reason(&error))?;
        let status = answer.status().as_u16();
        let text = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let text = text.map(|text| text.to_bytes()).unwrap_or_default();
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }
}
