//! /debug/vars: the command line, limits, memory and raft state of this process as one JSON object.

use super::http::only_get;
use crate::metrics::process::{memory, open_files_max};
use crate::replica::Handle;
use axum::extract::State;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

/// Serves the page.
pub(super) async fn vars(State(handle): State<Handle>, method: Method) -> Response {
    if let Err(refused) = only_get(&method) {
        return refused;
    }
    let memory = memory().resident;
    let members = [
        (
            "cmdline",
            json!(
                std::env::args_os()
                    .map(|arg| arg.to_string_lossy().into_owned())
                    .collect::<Vec<_>>()
            ),
        ),
        ("file_descriptor_limit", json!(open_files_max())),
        // Of Go's many names those that have a meaning here.
        ("memstats", json!({"Alloc": memory, "HeapAlloc": memory, "Sys": memory})),
        ("raft.status", raft_status(&handle)),
    ];
    let lines: Vec<String> =
        members.iter().map(|(name, value)| format!("{}: {value}", json!(name))).collect();
    let mut page = format!("{{\n{}\n}}\n", lines.join(",\n")).into_response();
    let kind = HeaderValue::from_static("application/json; charset=utf-8");
    page.headers_mut().insert(header::CONTENT_TYPE, kind);
    page
}

fn raft_status(handle: &Handle) -> Value {
    let status = handle.status().borrow().clone();
    let id = |id: u64| format!("{id:x}");
    let state = match (status.is_leader, status.leader) {
        (true, _) => "StateLeader",
        (false, Some(_)) => "StateFollower",
        (false, None) => "StateCandidate",
    };
    json!({
        "id": handle.member_id().to_string(),
        "term": handle.term(),
        "vote": id(status.vote),
        "commit": handle.commit_index(),
        "lead": id(status.leader.map_or(0, |leader| leader.0)),
        "raftState": state,
        "applied": handle.applied_index(),
        "progress": {},
        "leadtransferee": "0",
    })
}
