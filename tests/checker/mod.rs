//! Decides whether what clients saw can be explained by one store with one order of revisions.
//!
//! Every answer names its revision, so no search is needed: the commits give the state at each
//! revision, each answer is compared whole with what a naive model answers at its revision,
//! and one sweep in time shows whether an operation came before one that had already ended.
//! Writes with unknown outcome are placed by matching them with the commits that no answered
//! write explains. Nothing is known here of processes, networks or clocks: a history is data.
//!
//! What it needs: all commits from an empty store on (a watch over all keys from revision 2
//! gives them), and requests whose answers are determined, so no sorting among equals.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test crate uses a part")]

mod answers;
mod facts;
mod lease;
mod order;
mod placing;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use store::{Applied, Store};

use quoin::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, TxnRequest, TxnResponse, WatchCreateRequest, WatchResponse,
};
use quoin::pb::mvccpb::Event;

/// Any steadily growing count, the same for all clients; [`History::second`] says how much of
/// it is a second.
pub type Time = u64;

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    LeaseKeepAlive(LeaseKeepAliveRequest),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseKeepAlive(LeaseKeepAliveResponse),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Answer(Response),
    /// An error after which the request has surely no effect: its gRPC code and its text.
    Refused(i32, String),
    /// It may have taken effect, may still do so, or never will.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    pub invoked: Time,
    /// When the outcome was known; ignored for an unknown one.
    pub returned: Time,
    pub request: Request,
    pub outcome: Outcome,
}

/// All changes of one revision, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Commit {
    pub revision: i64,
    pub events: Vec<Event>,
}

/// What one watch got, from its `created` on.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    pub request: WatchCreateRequest,
    pub responses: Vec<WatchResponse>,
    /// It must have got everything up to here; 0 if nobody waited for it.
    pub complete_to: i64,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub operations: Vec<Operation>,
    pub commits: Vec<Commit>,
    pub watches: Vec<Watched>,
    pub second: Time,
}

/// Which promise is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Revisions go up by one, and the metadata of each event follows from those before it.
    Commits,
    /// An answered write stands in the commits, as its answer says and nowhere else.
    WriteLost,
    /// A commit comes from a client's write, or from a lease that ended.
    CommitUnexplained,
    /// An answer is what the store holds at the answer's revision.
    Answer,
    /// An error fits the requests around it.
    Refusal,
    /// What started after something ended is not ordered before it.
    RealTime,
    /// A lease takes its keys with it at once, and neither too early nor more than once.
    Lease,
    /// A watch gets each matching event once, in order, whole revisions at a time.
    Watch,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

impl Violation {
    pub fn new(rule: Rule, what: impl Into<String>) -> Violation {
        Violation { rule, what: what.into() }
    }
}

/// All violations found; none means that the history is strictly serializable.
pub fn check(history: &History) -> Vec<Violation> {
    let store = match Store::replay(&history.commits) {
        Ok(store) => store,
        // Nothing can be compared with commits that contradict themselves.
        Err(violation) => return vec![violation],
    };
    let mut violations = answers::check(history, &store);
    violations.extend(order::check(history));
    let facts = facts::Facts::gather(history);
    violations.extend(placing::check(history, &facts, &store));
    violations.extend(lease::check(history, &facts, &store));
    violations.extend(watch::check(history, &store));
    violations
}

impl Operation {
    pub fn answer(&self) -> Option<&Response> {
        match &self.outcome {
            Outcome::Answer(response) => Some(response),
            _ => None,
        }
    }

    /// The revision that the answer names.
    pub fn revision(&self) -> Option<i64> {
        Some(self.answer()?.header().map_or(0, |header| header.revision))
    }
}

impl Response {
    pub fn header(&self) -> Option<&ResponseHeader> {
        match self {
            Response::Range(response) => response.header.as_ref(),
            Response::Put(response) => response.header.as_ref(),
            Response::DeleteRange(response) => response.header.as_ref(),
            Response::Txn(response) => response.header.as_ref(),
            Response::Compact(response) => response.header.as_ref(),
            Response::LeaseGrant(response) => response.header.as_ref(),
            Response::LeaseRevoke(response) => response.header.as_ref(),
            Response::LeaseKeepAlive(response) => response.header.as_ref(),
        }
    }

    /// Whether the answer says that its revision was made by this very request.
    pub fn has_changed(&self) -> bool {
        match self {
            Response::Put(_) => true,
            Response::DeleteRange(response) => response.deleted > 0,
            Response::Txn(response) => store::has_changed(response),
            _ => false,
        }
    }

    /// Without what depends on which member answered, and when.
    pub fn without_member(&self) -> Response {
        let mut response = self.clone();
        let header = match &mut response {
            Response::Range(response) => &mut response.header,
            Response::Put(response) => &mut response.header,
            Response::DeleteRange(response) => &mut response.header,
            Response::Txn(response) => &mut response.header,
            Response::Compact(response) => &mut response.header,
            Response::LeaseGrant(response) => &mut response.header,
            Response::LeaseRevoke(response) => &mut response.header,
            Response::LeaseKeepAlive(response) => &mut response.header,
        };
        if let Some(header) = header {
            *header = ResponseHeader { revision: header.revision, ..Default::default() };
        }
        response
    }
}
