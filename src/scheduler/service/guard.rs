//! What every call must be before it is looked at: for a host that is ours, from a page of ours if it
//! is a page's, from somebody who may call, and with JSON if it changes anything. It is noted here on
//! whose behalf it is done. Who shows something that does not count is refused, never served as nobody.
//!
//! A page of another site can make a browser send calls to where only that browser may reach. Such
//! calls say where they come from, or cannot say that they hold JSON; and a name that another site has
//! bent to our address is not one of ours.

use super::answer::Problem;
use super::ask::is_json;
use super::callers::{NO_USERS, Shown};
use super::routes::METRICS;
use super::{Behalf, Shared};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

const CALLS: &str = "/v1/";
/// What the calls are is no secret.
const DESCRIPTION: &str = "/v1/openapi.json";
/// Where who is nobody yet says who he is.
const LOGIN: &str = "/v1/login";
const OF_TOKEN: &str = "this scheduler answers those who have its token";
const PAGE_POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; \
                           form-action 'none'; frame-ancestors 'none'";

/// Who may call.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub(super) token: Option<String>,
    /// Who shows nothing is not served.
    pub(super) requires_auth: bool,
    /// Only this machine can reach the listener.
    pub(super) is_loopback: bool,
    pub(super) hosts: Vec<String>,
}

pub(super) async fn check(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let is_call = request.uri().path().starts_with(CALLS);
    let mut answer = match shared.inner.guard.admit(&request) {
        Ok(As::User(shown)) => as_user(&shared, &shown, request, next).await,
        Ok(As::Scheduler) => on_behalf(Behalf::Scheduler, request, next).await,
        Ok(As::Nobody) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    if answer.status() == StatusCode::UNAUTHORIZED {
        // Basic would make browsers ask by themselves, and send it with whatever they call then.
        let bearer = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(WWW_AUTHENTICATE, bearer);
    }
    let fixed: [(HeaderName, &'static str); 5] = [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        // A page of an older version must not outlive it, and lists change.
        (CACHE_CONTROL, if is_call { "no-store" } else { "no-cache" }),
    ];
    for (name, value) in fixed {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// As whom a call is done.
#[derive(Debug, PartialEq, Eq)]
enum As {
    /// What needs no rights.
    Nobody,
    Scheduler,
    User(Shown),
}

async fn on_behalf(behalf: Behalf, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(behalf);
    next.run(request).await
}

async fn as_user(shared: &Shared, shown: &Shown, request: Request, next: Next) -> Response {
    let answer = match shared.inner.callers.find(shown).await {
        Ok(client) => on_behalf(Behalf::User(client.into()), request, next).await,
        // What was shown can only have been meant for the scheduler's own token.
        Err(problem) if problem.message == NO_USERS && shared.inner.guard.token.is_some() => {
            Problem::new(401, OF_TOKEN).into_response()
        }
        Err(problem) => problem.into_response(),
    };
    if answer.status() == StatusCode::UNAUTHORIZED {
        // A password may give another token.
        shared.inner.callers.forget(shown);
    }
    answer
}

impl Rules {
    fn admit(&self, request: &Request) -> Result<As, Problem> {
        let headers = request.headers();
        let authority = request.uri().authority().map(|authority| authority.as_str());
        let host = authority.or_else(|| text(headers, &HOST)).unwrap_or_default();
        if headers.get_all(HOST).iter().count() > 1 {
            return Err(Problem::new(400, "more than one Host"));
        }
        if !self.is_ours(host) {
            return Err(Problem::new(403, format!("{host:?} is not a host of this scheduler")));
        }
        let path = request.uri().path();
        let is_call = path.starts_with(CALLS) || path == METRICS;
        if !is_call || path == DESCRIPTION {
            return Ok(As::Nobody);
        }
        let (behalf, has_word) = match path == LOGIN {
            true => (As::Nobody, false),
            false => self.behalf(headers)?,
        };
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(behalf);
        }
        // No other page knows the word; a password may be one that the browser sends by itself.
        if !has_word {
            check_origin(headers, host)?;
        }
        // Without a body there is nothing that it could be instead; other methods are nowhere served.
        let has_body = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
        if has_body && !is_json(request) {
            return Err(Problem::new(415, "the content type is not application/json"));
        }
        Ok(behalf)
    }

    /// Whether a host, with or without a port, is one under which this scheduler is called.
    fn is_ours(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        if self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return true;
        }
        let is_local = name.eq_ignore_ascii_case("localhost");
        match name.parse::<IpAddr>() {
            Ok(address) => !self.is_loopback || address.is_loopback(),
            // Where others can reach it too, a name protects nothing unless names were given.
            Err(_) => is_local || !self.is_loopback && self.hosts.is_empty(),
        }
    }

    /// As whom a call is done, and whether it has shown the scheduler's own token.
    fn behalf(&self, headers: &HeaderMap) -> Result<(As, bool), Problem> {
        let Some(said) = text(headers, &AUTHORIZATION) else {
            return match &self.token {
                None if !self.requires_auth => Ok((As::Scheduler, false)),
                None => Err(Problem::new(401, "this scheduler answers users of its store")),
                Some(_) => Err(Problem::new(401, OF_TOKEN)),
            };
        };
        let shown = Shown::parse(said)
            .ok_or_else(|| Problem::new(401, "Authorization is neither a token nor a password"))?;
        if let (Shown::Token(said), Some(token)) = (&shown, &self.token)
            && aws_lc_rs::constant_time::verify_slices_are_equal(said.as_bytes(), token.as_bytes())
                .is_ok()
        {
            return Ok((As::Scheduler, true));
        }
        Ok((As::User(shown), false))
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// Calls of pages must come from pages of the host that is called. Others say nothing of origins.
fn check_origin(headers: &HeaderMap, host: &str) -> Result<(), Problem> {
    let site = text(headers, &HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Problem::new(403, "pages of other sites may not change anything"));
    }
    let origin = text(headers, &ORIGIN);
    let is_own = |origin: &str| {
        origin.split_once("://").is_some_and(|(_, of)| of.eq_ignore_ascii_case(host))
    };
    match origin {
        Some(origin) if !is_own(origin) => {
            Err(Problem::new(403, format!("pages of {origin} may not change anything")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{As, METRICS, Rules, Shown};
    use axum::body::Body;
    use axum::extract::Request;

    fn status(rules: &Rules, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        rules.admit(&request).map_or_else(|problem| problem.status, |_| 200)
    }

    fn behalf(rules: &Rules, path: &str, said: &str) -> Result<As, u16> {
        let request = Request::builder().uri(path).header("host", "h");
        let request = match said {
            "" => request,
            said => request.header("authorization", said),
        };
        rules.admit(&request.body(Body::empty()).unwrap()).map_err(|problem| problem.status)
    }

    #[test]
    fn names_that_were_bent_to_this_machine_are_not_ours() {
        let rules = Rules { is_loopback: true, ..Rules::default() };
        for host in ["127.0.0.1:2390", "localhost:2390", "[::1]:2390", "LOCALHOST", "127.1.2.3"] {
            assert_eq!(status(&rules, "GET", "/", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example:2390", "10.0.0.1", "localhost.evil.example", "", "::1.evil"] {
            assert_eq!(status(&rules, "GET", "/", &[("host", host)]), 403, "{host}");
        }
        let named = Rules { hosts: vec!["tests.lab".into()], ..rules };
        assert_eq!(status(&named, "GET", "/", &[("host", "tests.lab:80")]), 200);
        let open = Rules::default();
        assert_eq!(status(&open, "GET", "/", &[("host", "any.name")]), 200);
        let open = Rules { hosts: vec!["tests.lab".into()], ..open };
        assert_eq!(status(&open, "GET", "/", &[("host", "any.name")]), 403);
    }

    #[test]
    fn pages_of_others_change_nothing() {
        let rules = Rules { is_loopback: true, ..Rules::default() };
        let (host, json) = (("host", "127.0.0.1:2390"), ("content-type", "application/json"));
        let post = |more: &[(&str, &str)]| {
            let headers: Vec<_> = [host, json].into_iter().chain(more.iter().copied()).collect();
            status(&rules, "POST", "/v1/runs", &headers)
        };
        assert_eq!(post(&[]), 200, "what is no page says nothing");
        assert_eq!(post(&[("origin", "http://127.0.0.1:2390")]), 200);
        assert_eq!(post(&[("sec-fetch-site", "same-origin")]), 200);
        for bad in [
            ("origin", "http://evil.example"),
            ("origin", "http://127.0.0.1:2391"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(post(&[bad]), 403, "{bad:?}");
        }
        let delete = [host, ("origin", "http://evil.example")];
        assert_eq!(status(&rules, "DELETE", "/v1/queues/q", &delete), 403);
        assert_eq!(status(&rules, "DELETE", "/v1/queues/q", &[host]), 200);
        for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
            let headers = [host, ("content-type", kind)];
            assert_eq!(status(&rules, "POST", "/v1/runs", &headers), 415, "{kind}");
        }
        let charset = [host, ("content-type", "Application/JSON; charset=utf-8")];
        assert_eq!(status(&rules, "PUT", "/v1/queues/q", &charset), 200);
    }

    #[test]
    fn who_calls_is_the_scheduler_a_user_or_nobody() {
        let (open, word) = (Rules::default(), Some("secret".to_owned()));
        let word = Rules { token: word, ..Rules::default() };
        let strict = Rules { requires_auth: true, ..Rules::default() };
        let both = Rules { requires_auth: true, ..word.clone() };
        let user = |token: &str| Ok(As::User(Shown::Token(token.into())));
        let run = "/v1/runs/r";
        for rules in [&open, &word, &strict, &both] {
            assert_eq!(behalf(rules, "/", ""), Ok(As::Nobody), "{rules:?}");
            assert_eq!(behalf(rules, "/v1/openapi.json", ""), Ok(As::Nobody), "{rules:?}");
            assert_eq!(behalf(rules, "/v1/login", ""), Ok(As::Nobody), "{rules:?}");
            assert_eq!(behalf(rules, run, "Bearer other"), user("other"), "{rules:?}");
            assert_eq!(
                behalf(rules, run, "Basic !"),
                Err(401),
                "what does not count is not passed over"
            );
        }
        assert_eq!(behalf(&open, run, ""), Ok(As::Scheduler));
        assert_eq!(behalf(&open, run, "Bearer secret"), user("secret"));
        for rules in [&word, &strict, &both] {
            assert_eq!(behalf(rules, run, ""), Err(401), "{rules:?}");
            assert_eq!(behalf(rules, METRICS, ""), Err(401), "{rules:?}");
        }
        assert_eq!(behalf(&strict, run, "Bearer secret"), user("secret"));
        for rules in [&word, &both] {
            assert_eq!(behalf(rules, run, "Bearer secret"), Ok(As::Scheduler));
            assert_eq!(behalf(rules, run, "bearer  secret "), Ok(As::Scheduler));
            for said in ["secre", "secrets"] {
                assert_eq!(behalf(rules, run, &format!("Bearer {said}")), user(said));
            }
        }
    }

    #[test]
    fn only_the_schedulers_own_token_stands_for_where_a_call_comes_from() {
        let rules = Rules { token: Some("secret".into()), ..Rules::default() };
        for (said, wanted) in
            [("Bearer secret", 200), ("Bearer user", 403), ("Basic ZXZlOnNlY3JldA==", 403)]
        {
            let headers = [
                ("host", "h"),
                ("authorization", said),
                ("origin", "http://other"),
                ("content-type", "application/json"),
            ];
            assert_eq!(status(&rules, "POST", "/v1/runs", &headers), wanted, "{said}");
        }
        let login =
            [("host", "h"), ("origin", "http://other"), ("content-type", "application/json")];
        assert_eq!(status(&rules, "POST", "/v1/login", &login), 403);
        assert_eq!(status(&rules, "POST", "/v1/login", &login[..1]), 415);
    }
}
