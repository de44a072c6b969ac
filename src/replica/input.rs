//! Everything that can happen to a replica, and everything it can ask for in return.
//!
//! Both are closed sets of plain data: nothing else wakes a member, and nothing else
//! leaves it. Times are milliseconds of a monotonic clock that the owner passes in.

use crate::error::{Fatal, RequestError};
use crate::machine::{Capture, Response};
use crate::mvcc::Commit;
use crate::pb::quoinpb::{self, PeerMessage};
use crate::types::{Index, MemberId, RequestId, Term};
use bytes::Bytes;

/// Milliseconds since some start, never falling.
pub type Millis = u64;

/// The closed set of inputs of [`super::Replica::step`].
pub enum Input {
    /// A clock tick, once per heartbeat interval. After a pause of the process one tick comes,
    /// not the missed ones, so that a pause never looks like a silent leader.
    Tick { now: Millis },
    /// An encoded command to replicate. Answered by [`Reply::Applied`] or an error.
    Propose { id: RequestId, command: Vec<u8>, deadline: Millis },
    /// A wait until this member's state is as new as the cluster's was at the call.
    Read { id: RequestId, deadline: Millis },
    /// A lease renewal or a question for its remaining time, which only the leader can answer.
    Lease { id: RequestId, call: LeaseCall, deadline: Millis },
    /// This member's own list of leases.
    LeaseList { id: RequestId },
    /// Give up the space that compaction freed on this member.
    Defragment { id: RequestId },
    /// The keys that this member knows to be attached to one lease, or to any.
    LeaseKeys { id: RequestId, lease: Option<i64> },
    /// A message from another member.
    Peer(PeerMessage),
    /// A message to this member could not be sent.
    Unreachable(MemberId),
    /// The transfer of a snapshot has ended.
    SnapshotSent { to: MemberId, delivered: bool },
    /// A snapshot has arrived whole and was checked.
    SnapshotReceived(ReceivedSnapshot),
    /// What [`Effect::Flush`] or [`Effect::StoreSnapshot`] asked for is durable.
    Persisted { index: Index, bytes: u64 },
    /// Another member knows that this one was removed.
    ToldRemoved,
    /// Hand the leadership over, to the best follower or to the one named.
    TransferLeader { to: Option<MemberId> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseCall {
    Renew { lease: i64 },
    TimeToLive { lease: i64, keys: bool },
}

impl LeaseCall {
    pub(super) fn to_message(self, id: RequestId) -> quoinpb::LeaseCall {
        let (lease, renew, keys) = match self {
            LeaseCall::Renew { lease } => (lease, true, false),
            LeaseCall::TimeToLive { lease, keys } => (lease, false, keys),
        };
        quoinpb::LeaseCall { id: Some(id.into()), lease, renew, keys }
    }

    pub(super) fn from_message(message: &quoinpb::LeaseCall) -> Self {
        match message.renew {
            true => LeaseCall::Renew { lease: message.lease },
            false => LeaseCall::TimeToLive { lease: message.lease, keys: message.keys },
        }
    }
}

/// A snapshot on its way in: raft's message about it and the blocks of `machine::Capture`.
pub struct ReceivedSnapshot {
    /// The raft message, encoded.
    pub message: Bytes,
    pub blocks: Box<dyn SnapshotBlocks>,
}

/// The stored blocks of a received snapshot. Dropping it before [`SnapshotBlocks::accept`]
/// throws the blocks away.
pub trait SnapshotBlocks: Send {
    /// Keeps the snapshot: after this a restart finds it and restores from it again if need be.
    fn accept(&mut self) -> Result<(), Fatal>;

    /// The next block, or `None` at the end.
    fn next_block(&mut self) -> Result<Option<Bytes>, Fatal>;

    /// Tells that the engine holds the state durably by itself.
    fn finish(&mut self) -> Result<(), Fatal>;
}

/// An answer to one of this member's own clients.
#[derive(Debug, PartialEq)]
pub enum Reply {
    Applied(Response),
    /// Read now: the state is new enough.
    Readable,
    /// Remaining and granted seconds: `ttl` 0 after a renewal, or -1 for a question, when there is no such lease.
    Lease {
        ttl: i64,
        granted_ttl: i64,
        keys: Vec<Bytes>,
    },
    /// Lease ids, those that expire first in front.
    Leases(Vec<i64>),
    Defragmented,
    /// Keys attached to leases.
    Keys(Vec<Bytes>),
}

/// What others may know of this member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub term: Term,
    /// Whom this member has voted for in its term; 0 for nobody.
    pub vote: u64,
    pub leader: Option<MemberId>,
    pub is_leader: bool,
    pub commit_index: Index,
    pub applied_index: Index,
    pub last_index: Index,
    /// This member was removed from the cluster, and others know it.
    pub is_removed: bool,
    /// The only voter, leading: each read of the published state is linearizable.
    pub reads_at_once: bool,
}

/// How many leases were granted and revoked, and by this member as the leader: renewed, and revoked
/// because they had expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseCounts {
    pub granted: u64,
    pub revoked: u64,
    pub renewed: u64,
    pub expired: u64,
}

/// Work that the replica leaves to its owner because it takes long.
pub enum Effect {
    /// Make the engine's state durable, then report `Persisted` with this index.
    Flush { index: Index },
    /// Store this state as a snapshot file, then report `Persisted` with its index.
    StoreSnapshot(Capture),
    /// Stream the state to a member, then report `SnapshotSent`. `message` is raft's, encoded.
    SendSnapshot { to: MemberId, message: Bytes, capture: Capture },
}

/// What one round came to.
#[derive(Default)]
pub struct Output {
    /// To be sent now that what they promise is durable.
    pub messages: Vec<PeerMessage>,
    pub replies: Vec<(RequestId, Result<Reply, RequestError>)>,
    pub commits: Vec<Commit>,
    pub effects: Vec<Effect>,
    /// The state was replaced by a snapshot: watches go on from history.
    pub restored: bool,
    pub members_changed: bool,
    /// There is more to do at once, without waiting for an input.
    pub again: bool,
}
