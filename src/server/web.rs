//! The HTTP side of a client listener: who may ask, then the gateway or a page.

use super::gateway::{self, Gateway};
use super::http::text_page;
use super::visitors::Visitors;
use crate::machine::AuthView;
use axum::Router;
use axum::response::{Html, IntoResponse as _, Response};
use http::header::LOCATION;
use http::{HeaderValue, Method, StatusCode, Uri};
use std::convert::Infallible;
use tonic::body::Body;
use tower::ServiceExt as _;

/// Former paths of the gateway, which mean the same as [`gateway::PREFIX`].
const FORMER_PREFIX: &str = "/v3beta/";

/// A call as JSON is never made in the name of a certificate, which its sender may expect.
const NAME_IGNORED: &str = "CommonName of client sending a request against gateway will be ignored \
                            and not used as expected\n";

/// Serves all that is no gRPC call.
#[derive(Clone)]
pub(super) struct Web {
    visitors: Visitors,
    /// `None` if it is not wanted: its paths are then like any other that is not there.
    gateway: Option<Gateway>,
    auth: AuthView,
    pages: Router,
}

impl Web {
    pub(super) fn new(
        visitors: Visitors,
        gateway: Option<Gateway>,
        auth: AuthView,
        pages: Router,
    ) -> Self {
        Self { visitors, gateway, auth, pages }
    }

    /// Answers a request; `is_tls` says whether it came over TLS, `is_named` whether from a client
    /// whose certificate names a user.
    pub(super) async fn serve(
        &self,
        mut request: http::Request<axum::body::Body>,
        is_tls: bool,
        is_named: bool,
    ) -> Result<http::Response<Body>, Infallible> {
        if let Some(answer) = self.visitors.intercept(&request, is_tls) {
            return Ok(answer.map(Body::new));
        }
        let asked = request.headers().clone();
        if let Some(rest) = request.uri().path().strip_prefix(FORMER_PREFIX)
            && let Ok(path) = format!("{}{rest}", gateway::PREFIX).parse::<Uri>()
        {
            *request.uri_mut() = path;
        }
        let path = request.uri().path();
        let is_call = self.gateway.is_some() && path.starts_with(gateway::PREFIX);
        if is_named && is_call && self.auth.is_enabled() {
            return Ok(text_page(StatusCode::BAD_REQUEST, NAME_IGNORED).map(Body::new));
        }
        let mut response = match (self.plain_path(request.uri().path()), &self.gateway) {
            (Some(path), _) => moved(&path, &request).map(Body::new),
            (None, Some(gateway)) if request.uri().path().starts_with(gateway::PREFIX) => {
                gateway.serve(request).await
            }
            _ => self.pages.clone().oneshot(request).await?.map(Body::new),
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.visitors.allow(&asked, response.headers_mut());
        }
        Ok(response)
    }

    /// Where a client is sent that writes a path with empty steps, dots, or without the slash
    /// that all paths of the gateway have; `None` for a path that is well written.
    fn plain_path(&self, path: &str) -> Option<String> {
        if self.gateway.is_some() && Some(path) == gateway::PREFIX.strip_suffix('/') {
            return Some(gateway::PREFIX.to_owned());
        }
        let mut steps = Vec::new();
        for step in path.split('/') {
            match step {
                "" | "." => {}
                ".." => drop(steps.pop()),
                step => steps.push(step),
            }
        }
        let slash = if path.ends_with('/') && !steps.is_empty() { "/" } else { "" };
        let plain = format!("/{}{slash}", steps.join("/"));
        Some(plain).filter(|plain| plain != path)
    }
}

/// Sends a client on to another path, in the form in which Go's HTTP server does.
fn moved<B>(path: &str, request: &http::Request<B>) -> Response {
    let query = request.uri().query().map_or(String::new(), |query| format!("?{query}"));
    let place = format!("{path}{query}");
    let Ok(location) = HeaderValue::from_str(&place) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let mut response = match *request.method() {
        Method::GET | Method::HEAD => {
            let place = place.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
            Html(format!("<a href=\"{place}\">Temporary Redirect</a>.\n\n")).into_response()
        }
        _ => ().into_response(),
    };
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    response
}
