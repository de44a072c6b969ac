//! The hash of another member's data: question and answer in etcd's form, a page with JSON.
//!
//! Promises that an answer comes from a member of the same cluster. Which revision to ask for, and
//! what a difference means, is for others to say.

use crate::types::ClusterId;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::ServiceExt as _;

/// Where the page is.
pub const HASH_PATH: &str = "/members/hashkv";
/// The header that names the cluster, in hexadecimal, on both ways.
pub const CLUSTER_HEADER: &str = "x-etcd-cluster-id";

/// Refusals, as etcd words them.
pub const OTHER_CLUSTER: &str = "cluster ID mismatch";
pub const COMPACTED: &str = "mvcc: required revision has been compacted";
pub const FUTURE_REVISION: &str = "mvcc: required revision is a future revision";

/// Far above what an answer takes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Up to which revision to hash; 0 is the present one.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HashQuestion {
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: i64,
}

/// A hash and what it covers. As in etcd's pages, zeros are left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashAnswer {
    pub header: HashHeader,
    #[serde(skip_serializing_if = "is_zero")]
    pub hash: u32,
    /// -1 before the first compaction.
    #[serde(skip_serializing_if = "is_zero")]
    pub compact_revision: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub hash_revision: i64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HashHeader {
    /// The member's present revision.
    #[serde(skip_serializing_if = "is_zero")]
    pub revision: i64,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// Why a member gave no hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashError {
    FutureRevision,
    Compacted,
    OtherCluster,
    /// It did not answer in time, or with something else.
    NoAnswer(String),
}

impl std::fmt::Display for HashError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FutureRevision => FUTURE_REVISION,
            Self::Compacted => COMPACTED,
            Self::OtherCluster => OTHER_CLUSTER,
            Self::NoAnswer(why) => why,
        })
    }
}

/// Asks the member behind a connection for its hash up to a revision.
///
/// # Errors
/// As [`HashError`] tells.
pub async fn ask_hash(
    channel: Channel,
    cluster: ClusterId,
    revision: i64,
    timeout: Duration,
) -> Result<HashAnswer, HashError> {
    match tokio::time::timeout(timeout, ask(channel, cluster, revision)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(HashError::NoAnswer("no answer in time".to_owned())),
    }
}

async fn ask(channel: Channel, cluster: ClusterId, revision: i64) -> Result<HashAnswer, HashError> {
    let no_answer = |why: &dyn std::fmt::Display| HashError::NoAnswer(why.to_string());
    let question = serde_json::to_vec(&HashQuestion { revision }).map_err(|e| no_answer(&e))?;
    let request = Request::get(HASH_PATH)
        .header(header::CONTENT_TYPE, "application/json")
        .header(CLUSTER_HEADER, cluster.to_string())
        .body(Body::new(Full::from(question)))
        .map_err(|e| no_answer(&e))?;
    let response = channel.oneshot(request).await.map_err(|e| no_answer(&e))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|e| no_answer(&e))?.to_bytes();
    if status == StatusCode::OK {
        return serde_json::from_slice(&body).map_err(|e| no_answer(&e));
    }
    let text = String::from_utf8_lossy(&body);
    Err(match status {
        StatusCode::BAD_REQUEST if text.contains(COMPACTED) => HashError::Compacted,
        StatusCode::BAD_REQUEST if text.contains(FUTURE_REVISION) => HashError::FutureRevision,
        StatusCode::PRECONDITION_FAILED if text.contains(OTHER_CLUSTER) => HashError::OtherCluster,
        _ => HashError::NoAnswer(format!("{status}: {}", text.trim_end())),
    })
}
