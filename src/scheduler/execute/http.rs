//! Cases of kind http: one request, one answer, compared.
//!
//! Redirects are answers like any other. Connections are kept and used again. The body alone decides
//! unless the case compares the status: an error page can be what is expected.

use super::connect::Connector;
use super::fill::fill;
use super::report::Report;
use super::verdict::compare_code;
use super::{Attempt, Executor, Settings};
use crate::scheduler::model::{OWN_HEADERS, OutputMatch, Status};
use crate::tls::{self, Dialer};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::IgnoredAny;
use std::error::Error;

pub(super) type Client = legacy::Client<Connector, Full<Bytes>>;

pub(super) fn client(settings: &Settings, dialer: Dialer) -> Client {
    let connector = Connector::new(settings.targets.clone(), dialer, settings.connect_timeout);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(settings.idle_max)
        .build(connector)
}

impl Executor {
    /// Calls whom the case names, and judges the answer.
    pub(super) async fn call(&self, attempt: &Attempt<'_>) -> Report {
        let (request, expected) = match (request(attempt), attempt.expected()) {
            (Ok(request), Ok(expected)) => (request, expected),
            (Err(message), _) | (_, Err(message)) => return Report::error(message),
        };
        let expected = expected.as_deref();
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Report::error(failure(&error)),
        };
        let status = answer.status();
        let mut report = Report::new(Status::Passed);
        report.code = Some(("http", status.as_u16().into()));
        let mut body = answer.into_body();
        let mut capture = self.capture();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    if let Some(bytes) = frame.data_ref() {
                        capture.push(bytes).await;
                    }
                }
                Err(error) => {
                    report.status = Status::Error;
                    report.message = Some(format!("read the answer: {}", failure(&error)));
                    break;
                }
            }
            // The rest is not read: it would be thrown away.
            if capture.is_full() {
                break;
            }
        }
        report.output = capture.finish().await;
        if report.status == Status::Error {
            return report;
        }
        let case = attempt.case;
        match case.matching() {
            OutputMatch::Status => {
                let verdict = compare_code(expected, status.as_u16().into(), status.is_success());
                report.decide(verdict);
            }
            how => {
                let bytes_max = self.settings.compared_bytes_max;
                report.judge(how, expected, &self.artifacts, bytes_max).await;
            }
        }
        // What is just as it should be needs no word.
        if report.status == Status::Passed && status.is_success() {
            report.code = None;
            if case.matching() == OutputMatch::Exact {
                report.output = Default::default();
            }
        }
        report
    }
}

/// The innermost cause is what names the address or the certificate.
fn failure(error: &(dyn Error + 'static)) -> String {
    tls::reason(error)
}

fn request(attempt: &Attempt<'_>) -> Result<Request<Full<Bytes>>, String> {
    let case = attempt.case;
    let url = fill(&case.url, attempt.environment)?;
    let mut url = url::Url::parse(&url).map_err(|error| format!("url {url:?}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("url {url}: not http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("url with a user in it: send the header authorization instead".into());
    }
    url.set_fragment(None);
    let mut headers = headers(attempt)?;
    let method = case.method.as_deref().unwrap_or("POST").to_ascii_uppercase();
    let method = match Method::from_bytes(method.as_bytes()) {
        Ok(Method::CONNECT) | Err(_) => return Err(format!("method {method:?} is not sent")),
        Ok(method) => method,
    };
    let body = match &case.input {
        Some(input) => fill(input, attempt.environment)?.into_owned(),
        None => String::new(),
    };
    if !body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        let is_json = serde_json::from_str::<IgnoredAny>(&body).is_ok();
        let kind = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = method;
    let uri = url.as_str().parse::<http::Uri>();
    *request.uri_mut() = uri.map_err(|error| format!("url {url}: {error}"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Those of the case, and those that tell the other side who asks.
fn headers(attempt: &Attempt<'_>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static("quoin"));
    for (name, value) in &attempt.case.headers {
        let invalid = || format!("header {name:?} cannot be sent");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
        if OWN_HEADERS.contains(&key.as_str()) {
            return Err(invalid());
        }
        let value = fill(value, attempt.environment)?;
        headers.insert(key, HeaderValue::from_str(&value).map_err(|_| invalid())?);
    }
    let about = [
        ("x-tcss-run", attempt.run.to_owned()),
        ("x-tcss-task", attempt.task()),
        ("x-tcss-attempt", attempt.attempt.to_string()),
        ("x-tcss-fence", attempt.fence.to_string()),
        ("x-tcss-deadline", attempt.deadline_ms().to_string()),
    ];
    for (name, value) in about {
        let value = HeaderValue::try_from(value).map_err(|_| format!("{name} cannot be sent"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}
