//! The pages below `/debug/pprof/`, for an operator who asks for them with `--enable-pprof`.
//!
//! etcd shows profiles that Go's runtime takes of itself. There is no such runtime here, and nothing in this
//! process stops its threads to look at them: only the command line is shown, and for the rest a page says
//! what takes their place.

use super::http::text_page;
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;

/// What Go's page lists.
const OF_GO: [&str; 9] =
    ["allocs", "block", "goroutine", "heap", "mutex", "profile", "symbol", "threadcreate", "trace"];

/// What is said instead of a profile.
const INSTEAD: &str = "This server is not written in Go and takes no profiles of itself.\n\
    CPU: perf record -g -p PID, then perf report; the program carries its symbols.\n\
    Memory, threads, open files: /debug/vars and process_* in /metrics.\n\
    Slow calls: --log-level=debug and --warning-unary-request-duration.\n";

pub(super) fn pages() -> Router {
    Router::new()
        .route("/debug/pprof/", any(index))
        .route("/debug/pprof/cmdline", any(command_line))
        .route("/debug/pprof/{name}", any(profile))
}

async fn index() -> Response {
    text_page(StatusCode::OK, format!("cmdline\n\n{INSTEAD}"))
}

async fn command_line() -> Response {
    let arguments = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let mut page = arguments.collect::<Vec<_>>().join("\0").into_response();
    let no_sniff = HeaderValue::from_static("nosniff");
    page.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, no_sniff);
    page
}

async fn profile(Path(name): Path<String>) -> Response {
    let mut page = match OF_GO.contains(&&name[..]) {
        true => text_page(StatusCode::NOT_IMPLEMENTED, INSTEAD),
        false => text_page(StatusCode::NOT_FOUND, "Unknown profile\n"),
    };
    // So tools for Go's profiles know that a text is no profile.
    page.headers_mut().insert("x-go-pprof", HeaderValue::from_static("1"));
    page
}
