//! The pages of the peer listener: who is a member, the hash of the data, promotion of a learner.
//!
//! Their form is etcd's, texts and codes included, so that tools made for it read them.

use super::access::Access;
use super::cluster::ClusterService;
use super::http::{json, only_get, other, text_page, version};
use super::status::text;
use crate::error::RequestError;
use crate::mvcc::HashKv;
use crate::pb::etcdserverpb::Member;
use crate::peer::hash::{
    CLUSTER_HEADER, COMPACTED, FUTURE_REVISION, HASH_PATH, HashAnswer, HashHeader, HashQuestion,
    OTHER_CLUSTER,
};
use crate::replica::Handle;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use axum::routing::any;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the pages stand on.
#[derive(Clone)]
pub struct PeerPages {
    pub handle: Handle,
    pub cluster: ClusterService,
    pub access: Access,
    /// Whether this member's data is fit to be compared with: not before it was itself compared
    /// with that of others, if that was asked for.
    pub is_comparable: Arc<AtomicBool>,
}

/// The pages, and the answer to all else that no call takes.
pub(super) fn peer_pages(pages: PeerPages) -> Router {
    let own = Router::new()
        .route("/members", any(members))
        .route("/members/promote/{id}", any(promote))
        .route(HASH_PATH, any(hash))
        .with_state(pages.clone());
    Router::new()
        .route("/version", any(version))
        .fallback(other)
        .with_state(pages.handle)
        .merge(own)
}

/// A member as other members and their tools read it.
#[derive(Serialize)]
struct PeerMember<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[String]>::is_empty")]
    client_urls: &'a [String],
}

fn list_of(members: &[Member]) -> String {
    let list: Vec<PeerMember<'_>> = members
        .iter()
        .map(|member| PeerMember {
            id: member.id,
            peer_urls: &member.peer_ur_ls,
            is_learner: member.is_learner,
            name: &member.name,
            client_urls: &member.client_ur_ls,
        })
        .collect();
    format!("{}\n", serde_json::json!(list))
}

/// With the header that says which cluster this is.
fn of_cluster(handle: &Handle, mut response: Response) -> Response {
    if let Ok(cluster) = HeaderValue::from_str(&handle.cluster_id().to_string()) {
        response.headers_mut().insert(CLUSTER_HEADER, cluster);
    }
    response
}

async fn members(State(pages): State<PeerPages>, method: Method) -> Response {
    match only_get(&method) {
        Ok(()) => of_cluster(&pages.handle, json(list_of(&pages.handle.members()))),
        Err(refused) => refused,
    }
}

async fn hash(
    State(pages): State<PeerPages>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(refused) = only_get(&method) {
        return refused;
    }
    let handle = &pages.handle;
    let refused = |status, text: &str| text_page(status, format!("{text}\n"));
    let cluster = headers.get(CLUSTER_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
    if !cluster.is_empty() && cluster != handle.cluster_id().to_string().as_bytes() {
        return refused(StatusCode::PRECONDITION_FAILED, OTHER_CLUSTER);
    }
    let Ok(HashQuestion { revision }) = serde_json::from_slice(&body) else {
        return refused(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    if !pages.is_comparable.load(Ordering::Acquire) {
        let why = "the member's own data is not checked yet";
        return refused(StatusCode::SERVICE_UNAVAILABLE, why);
    }
    let view = handle.view().clone();
    let hashed = tokio::task::spawn_blocking(move || view.hash_kv(revision)).await;
    let error = match hashed {
        Ok(Ok(Ok(HashKv { hash, revision, compacted, current }))) => {
            let answer = HashAnswer {
                header: HashHeader { revision: current },
                hash,
                compact_revision: compacted,
                hash_revision: revision,
            };
            return of_cluster(handle, json(serde_json::json!(answer).to_string()));
        }
        Ok(Ok(Err(error))) => error,
        Ok(Err(fatal)) => {
            handle.fail(fatal);
            RequestError::Stopped
        }
        // Its thread is gone, as in a node that stops.
        Err(_) => RequestError::Stopped,
    };
    let text = match error {
        RequestError::Compacted => COMPACTED,
        RequestError::FutureRevision => FUTURE_REVISION,
        ref other => text(other),
    };
    tracing::warn!("requested-revision" = revision, error = text, "failed to get hashKV");
    refused(StatusCode::BAD_REQUEST, text)
}

async fn promote(
    State(pages): State<PeerPages>,
    Path(id): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if method != Method::POST {
        let mut refused = text_page(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        refused.headers_mut().insert(http::header::ALLOW, HeaderValue::from_static("POST"));
        return refused;
    }
    let Ok(member) = id.parse::<u64>() else {
        let why = format!("member {id} not found in cluster\n");
        return of_cluster(&pages.handle, text_page(StatusCode::NOT_FOUND, why));
    };
    let promoted = match pages.access.admin(&headers, &Extensions::new()).await {
        Ok(_) => pages.cluster.promote(member).await,
        Err(error) => Err(error),
    };
    let response = match promoted {
        Ok(members) => json(list_of(&members)),
        Err(error) => refused_promotion(member, &error),
    };
    of_cluster(&pages.handle, response)
}

fn refused_promotion(member: u64, error: &RequestError) -> Response {
    let text = match error {
        RequestError::MemberNotFound => "membership: ID not found",
        RequestError::NotLearner => "membership: can only promote a learner member",
        other => text(other),
    };
    tracing::warn!("member-id" = format!("{member:x}"), error = text, "failed to promote a member");
    let status = match error {
        RequestError::MemberNotFound => StatusCode::NOT_FOUND,
        RequestError::NotLearner | RequestError::LearnerNotReady => StatusCode::PRECONDITION_FAILED,
        _ => {
            let mut response = json(r#"{"message":"Internal Server Error"}"#.to_owned());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
    };
    text_page(status, format!("{text}\n"))
}
