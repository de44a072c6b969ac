//! What locks and elections share: a key under a prefix, owned by a lease, in a queue.
//!
//! The key is the queue's name, a slash and the lease in hexadecimal; the queue's order is that of
//! create revisions. Each waits for the key just before its own by a watch. It promises:
//! - who is told that it is first was first, and its key still stood, after the cluster had
//!   confirmed that this member's state is not an old one;
//! - a request that ends in any other way takes its key away: at once where it gets an error, by
//!   a task of its own where its client is gone;
//! - it takes no key away that another request of the same lease has asked for since: each
//!   request writes the key anew, and removal asks for the revision of that write.
//!
//! All that is read or changed for a client goes through the KV service, in the client's name.
//! What a member leaves behind that is killed, or that finds no leader, ends with the lease.

use super::header::Headers;
use super::kv::{KvService, read_long};
use super::lease::LeaseService;
use super::long_work::Kind;
use super::metadata;
use super::watch::WatchService;
use crate::error::RequestError;
use crate::mvcc::View;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::kv_server::Kv as _;
use crate::pb::etcdserverpb::lease_server::Lease as _;
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse,
    RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchCreateRequest, request_op,
    response_op,
};
use crate::pb::mvccpb::KeyValue;
use crate::replica::Handle;
use crate::watch::message::Body;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Status};

/// Seconds that a lease lives which a caller did not bring; nobody renews it.
const LEASE_TTL: i64 = 60;

/// Attempts to take an abandoned key away. Each lasts as long as any request may.
const REMOVALS_MAX: usize = 3;

/// The queues of one member's clients.
#[derive(Clone)]
pub(super) struct Queues {
    pub(super) handle: Handle,
    pub(super) headers: Headers,
    pub(super) kv: KvService,
    pub(super) leases: LeaseService,
    pub(super) watches: WatchService,
}

/// A client's credentials and wishes, as its request came with them.
#[derive(Clone)]
pub(super) struct Caller {
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Caller {
    /// Checks the call's metadata, and parts it from the message.
    pub(super) fn of<T>(handle: &Handle, request: Request<T>) -> Result<(Self, T), Status> {
        metadata::check(handle, request.metadata())?;
        let (mut metadata, extensions, message) = request.into_parts();
        // Checked; what is done for the call later on may wait for a leader.
        metadata.remove("hasleader");
        Ok((Self { metadata, extensions }, message))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }
}

/// What became of a place in a queue.
enum Standing {
    First { revision: i64 },
    Behind { key: Bytes, revision: i64 },
    Lost,
}

/// A key in a queue. Dropped before it was [kept](Place::keep), it leaves the queue.
pub(super) struct Place {
    queues: Queues,
    caller: Caller,
    prefix: Bytes,
    pub(super) key: Bytes,
    pub(super) lease: i64,
    pub(super) create_revision: i64,
    /// The revision of this request's own write.
    entered: i64,
    pub(super) header: Option<ResponseHeader>,
    is_first: bool,
    is_settled: bool,
}

impl Queues {
    /// Enters a queue under the caller's lease, or one that is granted here if that is 0.
    ///
    /// # Errors
    /// What the KV and Lease services refuse with, as [`kept`] passes it on.
    pub(super) async fn enter(
        &self,
        caller: Caller,
        name: &[u8],
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        let lease = self.lease(&caller, lease).await?;
        let (queues, prefix) = (self.clone(), prefix(name));
        let (teller, told) = oneshot::channel();
        // A write cannot be called back: where the client goes away meanwhile, the task that has
        // the place in its hands drops it.
        tokio::spawn(async move {
            let _place_or_error =
                teller.send(queues.take_place(caller, prefix, lease, value).await);
        });
        told.await.unwrap_or_else(|_| Err(RequestError::Stopped.into()))
    }

    /// The lease to work under.
    pub(super) async fn lease(&self, caller: &Caller, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = caller.request(LeaseGrantRequest { id: 0, ttl: LEASE_TTL });
        Ok(self.leases.lease_grant(grant).await.map_err(kept)?.into_inner().id)
    }

    async fn take_place(
        self,
        caller: Caller,
        prefix: Bytes,
        lease: i64,
        value: Bytes,
    ) -> Result<Place, Status> {
        let key = key(&prefix, lease);
        let put = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
        let own = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![],
            success: vec![
                op(request_op::Request::RequestPut(put)),
                op(request_op::Request::RequestRange(own)),
                op(request_op::Request::RequestRange(first_of(&prefix))),
            ],
            failure: vec![],
        };
        let TxnResponse { header, responses, .. } = self.txn(&caller, txn).await?;
        let mut found = responses.into_iter().filter_map(pair);
        let (Some(own), Some(first)) = (found.next(), found.next()) else {
            return Err(RequestError::Stopped.into());
        };
        Ok(Place {
            queues: self,
            caller,
            prefix,
            key,
            lease,
            create_revision: own.create_revision,
            entered: own.mod_revision,
            header,
            is_first: own.create_revision == first.create_revision,
            is_settled: false,
        })
    }

    /// The pair that is first under a name, with the header of the answer.
    pub(super) async fn first(
        &self,
        caller: &Caller,
        name: &[u8],
    ) -> Result<(Option<KeyValue>, Option<ResponseHeader>), Status> {
        let request = caller.request(first_of(&prefix(name)));
        let response = self.kv.range(request).await.map_err(kept)?.into_inner();
        Ok((response.kvs.into_iter().next(), response.header))
    }

    pub(super) async fn txn(
        &self,
        caller: &Caller,
        txn: TxnRequest,
    ) -> Result<TxnResponse, Status> {
        Ok(self.kv.txn(caller.request(txn)).await.map_err(kept)?.into_inner())
    }

    pub(super) async fn delete(
        &self,
        caller: &Caller,
        key: Bytes,
    ) -> Result<Option<ResponseHeader>, Status> {
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let response = self.kv.delete_range(caller.request(request)).await;
        Ok(response.map_err(kept)?.into_inner().header)
    }
}

impl Place {
    /// Waits until no older key is left.
    ///
    /// # Errors
    /// `lost` when the key is gone, with the lease or otherwise; `Stopped` when the node stops;
    /// availability errors. The key is gone then.
    pub(super) async fn first(&mut self, lost: RequestError) -> Result<(), Status> {
        if self.is_first {
            return Ok(());
        }
        let end = match self.wait().await {
            Ok(Some(revision)) => {
                self.header = Some(self.queues.headers.at(revision));
                return Ok(());
            }
            Ok(None) => lost.into(),
            Err(status) => status,
        };
        // Not settled before: a client that goes away meanwhile must not stop it.
        self.removal().run().await;
        self.is_settled = true;
        Err(end)
    }

    /// The key stays: it is the client's from now on.
    pub(super) fn keep(mut self) -> (Bytes, Option<ResponseHeader>) {
        self.is_settled = true;
        (std::mem::take(&mut self.key), self.header.take())
    }

    /// The revision at which this key was first, none when it is gone.
    async fn wait(&self) -> Result<Option<i64>, Status> {
        let mut is_confirmed = false;
        loop {
            match self.standing().await? {
                Standing::Lost => return Ok(None),
                Standing::First { revision } if is_confirmed => return Ok(Some(revision)),
                // The lease may have ended without this member's knowledge.
                Standing::First { .. } => {
                    self.queues.handle.read_barrier().await.map_err(|e| kept(e.into()))?;
                    is_confirmed = true;
                }
                Standing::Behind { key, revision } => self.until_deleted(key, revision).await?,
            }
        }
    }

    /// Looks at this member's own state, which is enough to know who is no longer there.
    async fn standing(&self) -> Result<Standing, Status> {
        let own = RangeRequest { key: self.key.clone(), ..RangeRequest::default() };
        let before = RangeRequest {
            sort_order: SortOrder::Descend.into(),
            max_create_revision: self.create_revision - 1,
            ..first_of(&self.prefix)
        };
        let look = TxnRequest {
            success: [own, before].map(|r| op(request_op::Request::RequestRange(r))).into(),
            ..TxnRequest::default()
        };
        let response = loop {
            let look = look.clone();
            let read = move |view: &View| view.txn_read_only(&look);
            match read_long(&self.queues.handle, Kind::Walk, read).await {
                // A snapshot is being put in place: a barrier ends when that is done.
                Err(status) if status.code() == Code::Unavailable => {
                    self.queues.handle.read_barrier().await.map_err(|e| kept(e.into()))?;
                }
                result => break result.map_err(kept)?,
            }
        };
        let revision = response.header.map_or(0, |header| header.revision);
        let mut found = response.responses.into_iter().map(pair);
        let own = found.next().flatten();
        if own.is_none_or(|own| own.create_revision != self.create_revision) {
            return Ok(Standing::Lost);
        }
        Ok(match found.next().flatten() {
            Some(older) => Standing::Behind { key: older.key, revision },
            None => Standing::First { revision },
        })
    }

    /// Returns when the older key or this one was deleted after the revision, or when that can no
    /// longer be told from history.
    async fn until_deleted(&self, older: Bytes, revision: i64) -> Result<(), Status> {
        let creates = [older, self.key.clone()].map(|key| WatchCreateRequest {
            key,
            start_revision: revision + 1,
            filters: vec![FilterType::Noput.into()],
            ..WatchCreateRequest::default()
        });
        let mut messages = self.queues.watches.follow(creates, false);
        loop {
            match messages.next().await {
                Some(Ok(message)) if message.body == Body::Created => {}
                Some(Err(status)) => return Err(kept(status)),
                Some(Ok(_)) | None => return Ok(()),
            }
        }
    }

    fn removal(&self) -> Removal {
        Removal {
            queues: self.queues.clone(),
            caller: self.caller.clone(),
            key: self.key.clone(),
            entered: self.entered,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        // Without a runtime the process is at its end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(self.removal().run());
        }
    }
}

/// A key to be taken away.
struct Removal {
    queues: Queues,
    caller: Caller,
    key: Bytes,
    entered: i64,
}

impl Removal {
    /// Takes the key away unless somebody wrote it since.
    async fn run(self) {
        let Self { queues, caller, key, entered } = self;
        let unchanged = Compare {
            key: key.clone(),
            target: CompareTarget::Mod.into(),
            result: CompareResult::Equal.into(),
            target_union: Some(TargetUnion::ModRevision(entered)),
            ..Compare::default()
        };
        let delete = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![unchanged],
            success: vec![op(request_op::Request::RequestDeleteRange(delete))],
            failure: vec![],
        };
        let mut status = queues.handle.status();
        for _ in 0..REMOVALS_MAX {
            match queues.kv.txn(caller.request(txn.clone())).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, "failed to take a key out of its queue");
                    // An error means that the node is gone.
                    if status.wait_for(|status| status.leader.is_some()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// An error of the services that a lock or an election stands on: etcd reaches them through a
/// client of its own, on whose way back the code is lost. A node that stops is told from it.
pub(super) fn kept(status: Status) -> Status {
    if status.message() == super::status::text(&RequestError::Stopped) {
        return status;
    }
    Status::unknown(status.message())
}

/// What the keys of a queue begin with.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// The end of the range of keys that begin with a prefix: a slash is what that ends with.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    end.pop();
    end.push(b'/' + 1);
    end.into()
}

fn key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

/// The oldest pair under a prefix.
fn first_of(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    }
}

pub(super) fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// The one pair that a range within a Txn found.
fn pair(response: ResponseOp) -> Option<KeyValue> {
    match response.response {
        Some(response_op::Response::ResponseRange(RangeResponse { kvs, .. })) => {
            kvs.into_iter().next()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_after_queue_and_lease() {
        let table: [(&[u8], i64, &[u8]); 5] = [
            (b"a", 1, b"a/1"),
            (b"a", 0x4ee7_a1fe_70c0_ca03, b"a/4ee7a1fe70c0ca03"),
            (b"", 255, b"/ff"),
            (b"a/b", -1, b"a/b/-1"),
            (b"\xff\0", i64::MIN, b"\xff\0/-8000000000000000"),
        ];
        for (name, lease, expected) in table {
            let prefix = prefix(name);
            let key = key(&prefix, lease);
            assert_eq!(key, expected);
            assert!(prefix < key && key < prefix_end(&prefix));
        }
    }

    #[test]
    fn an_error_keeps_its_text_and_loses_its_code() {
        let lease = Status::from(RequestError::LeaseNotFound);
        let passed = kept(lease.clone());
        assert_eq!((passed.code(), passed.message()), (Code::Unknown, lease.message()));
        assert_eq!(kept(RequestError::Stopped.into()).code(), Code::Unavailable);
    }
}
