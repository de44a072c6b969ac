//! Who may use the HTTP side of a client listener: hosts and origins of web pages.
//!
//! A page from elsewhere must not reach a server in its reader's network through a name that
//! it points at it: so the name in the request is checked, unless TLS has checked it. Origins only
//! get the headers by which a browser lets a page see answers. gRPC is not concerned: no
//! browser speaks it.

use super::http::text_page;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, HOST,
    ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use std::collections::BTreeSet;

/// The rules; `None` allows all.
#[derive(Clone, Debug, Default)]
pub struct Visitors {
    /// Origins of pages, as browsers send them; etcd's `--cors`.
    pub origins: Option<BTreeSet<String>>,
    /// Names by which clients may call this server, without port; etcd's `--host-whitelist`.
    pub hosts: Option<BTreeSet<String>>,
}

impl Visitors {
    /// Answers what is not to be served: requests for a name that is not ours, and a browser's
    /// question of what it may do.
    pub(super) fn intercept<B>(
        &self,
        request: &http::Request<B>,
        is_tls: bool,
    ) -> Option<Response> {
        if let Some(hosts) = &self.hosts
            && !is_tls
        {
            let host = host(request);
            if !hosts.contains(&host) {
                tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
                return Some(text_page(StatusCode::MISDIRECTED_REQUEST, misdirected(&host)));
            }
        }
        if request.method() != Method::OPTIONS {
            return None;
        }
        let mut response = StatusCode::OK.into_response();
        self.allow(request.headers(), response.headers_mut());
        Some(response)
    }

    /// Adds the headers for a browser if the page's origin is allowed.
    pub(super) fn allow(&self, asked: &HeaderMap, answer: &mut HeaderMap) {
        let origin = match &self.origins {
            None => HeaderValue::from_static("*"),
            Some(origins) => {
                let Some(origin) = asked.get(ORIGIN) else { return };
                if !origin.to_str().is_ok_and(|origin| origins.contains(origin)) {
                    return;
                }
                origin.clone()
            }
        };
        let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
        let headers = HeaderValue::from_static("accept, content-type, authorization");
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers);
    }
}

/// The name that a request was made for, without its port; empty if it has none.
fn host<B>(request: &http::Request<B>) -> String {
    let of_header = || request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or_else(of_header);
    let host = host.unwrap_or_default();
    let Some((name, _port)) = host.rsplit_once(':') else { return host.to_owned() };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.to_owned(),
        // An address of colons without a port: none of them parts it from one.
        None if name.contains(':') => host.to_owned(),
        None => name.to_owned(),
    }
}

fn misdirected(host: &str) -> String {
    format!(
        "This server is not known by the name {host:?} in the request's Host header, and refuses it \
         so that no web page reaches it under a name of its own (CVE-2018-5702).\n\
         Start it with --host-whitelist={host} to allow the name, or use https.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_name_of_a_request_is_found_without_its_port() {
        let table = [
            ("a.example", "a.example"),
            ("a.example:80", "a.example"),
            ("127.0.0.1:2379", "127.0.0.1"),
            ("[::1]:2379", "::1"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
            ("", ""),
        ];
        for (header, name) in table {
            let request = http::Request::builder().header(HOST, header).body(()).unwrap();
            assert_eq!(host(&request), name, "{header}");
        }
        let request = http::Request::builder().uri("http://b.example:1/x").body(()).unwrap();
        assert_eq!(host(&request), "b.example");
        assert_eq!(host(&http::Request::new(())), "");
    }

    #[test]
    fn names_that_are_not_ours_are_refused_without_tls() {
        let visitors = Visitors { hosts: set(&["good"]), origins: None };
        let request = |host: &str| http::Request::builder().header(HOST, host).body(()).unwrap();
        assert!(visitors.intercept(&request("good:1"), false).is_none());
        assert!(visitors.intercept(&request("evil"), true).is_none());
        let refused = visitors.intercept(&request("evil"), false).expect("an answer");
        assert_eq!(refused.status(), 421);
        assert!(refused.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
        assert!(Visitors::default().intercept(&request("evil"), false).is_none());
    }

    #[test]
    fn an_origin_is_allowed_by_its_whole_text() {
        let allowed = |origins: Option<BTreeSet<String>>, origin: Option<&str>| {
            let mut asked = HeaderMap::new();
            if let Some(origin) = origin {
                asked.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
            }
            let mut answer = HeaderMap::new();
            Visitors { origins, hosts: None }.allow(&asked, &mut answer);
            answer.get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|o| o.to_str().unwrap().to_owned())
        };
        let origins = || set(&["http://a:80"]);
        assert_eq!(allowed(None, None).as_deref(), Some("*"));
        assert_eq!(allowed(None, Some("http://x")).as_deref(), Some("*"));
        assert_eq!(allowed(origins(), Some("http://a:80")).as_deref(), Some("http://a:80"));
        assert_eq!(allowed(origins(), Some("http://a")), None);
        assert_eq!(allowed(origins(), None), None);
    }
}
