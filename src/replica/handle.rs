//! What tasks hold of a member: ask for a write, wait for a read, see who leads.
//!
//! Cloneable and cheap. Each call gives its request an id, puts it into the driver's queue and
//! waits for the answer; a full queue refuses at once.

use super::driver::{Answer, Call, Shared, ToDriver, snapshot_input};
use super::input::{Input, LeaseCall, ReceivedSnapshot, Reply, Status};
use super::settings::Settings;
use crate::error::{Fatal, RequestError};
use crate::machine::{AuthView, Caller, Capture, Response, counted_len, encode_command_of};
use crate::metrics::parts::{Number, Proposals};
use crate::mvcc::View;
use crate::pb::etcdserverpb::{AlarmMember, Member};
use crate::pb::quoinpb::{PeerMessage, command::Request};
use crate::types::{ClusterId, Index, MemberId, RequestId, Term};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Waiting a little longer than the driver's own deadline covers a driver that hangs on its disk.
const GRACE: Duration = Duration::from_secs(1);

struct Inner {
    driver: SyncSender<ToDriver>,
    /// Ends the driver, and with it the node.
    failures: SyncSender<Fatal>,
    view: View,
    auth: AuthView,
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
    sequence: AtomicU64,
    member: MemberId,
    cluster: ClusterId,
    boot: u64,
    timeout: Duration,
    numbers: Proposals,
}

/// A proposal's: unknown also if the client does not wait for it.
struct Outcome<'a> {
    failed: &'a Number,
    is_known: bool,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if !self.is_known {
            self.failed.add(1);
        }
    }
}

/// Whether the cluster, and not the request, was the reason.
fn is_unavailable(error: &RequestError) -> bool {
    matches!(
        error,
        RequestError::NoLeader
            | RequestError::LeaderChanged
            | RequestError::Timeout
            | RequestError::TimeoutDueToLeaderFail
            | RequestError::TimeoutDueToConnectionLost
            | RequestError::TooManyRequests
    )
}

/// See the module's comment.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

impl Handle {
    pub(super) fn new(
        driver: SyncSender<ToDriver>,
        failures: SyncSender<Fatal>,
        (view, auth): (View, AuthView),
        shared: Arc<Shared>,
        status: watch::Receiver<Status>,
        (settings, numbers): (&Settings, &Proposals),
        timeout: Duration,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                driver,
                failures,
                view,
                auth,
                shared,
                status,
                sequence: AtomicU64::new(0),
                member: settings.id,
                cluster: settings.cluster_id,
                boot: settings.boot,
                timeout,
                numbers: numbers.clone(),
            }),
        }
    }

    pub fn member_id(&self) -> MemberId {
        self.inner.member
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster
    }

    pub fn term(&self) -> Term {
        self.inner.shared.term.load(Ordering::Relaxed)
    }

    pub fn commit_index(&self) -> Index {
        self.inner.shared.commit_index.load(Ordering::Relaxed)
    }

    pub fn applied_index(&self) -> Index {
        self.inner.shared.applied_index.load(Ordering::Relaxed)
    }

    /// Changes of term and leadership; the indexes in it may be old.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.inner.status.clone()
    }

    pub fn leader(&self) -> Option<MemberId> {
        self.inner.status.borrow().leader
    }

    pub fn members(&self) -> Arc<Vec<Member>> {
        self.inner.shared.members.read().clone()
    }

    /// Whether this member has no vote, as one that only joins has none.
    pub fn is_learner(&self) -> bool {
        self.inner.shared.is_learner.load(Ordering::Relaxed)
    }

    /// Ids of members that were removed.
    pub fn removed_members(&self) -> Arc<Vec<u64>> {
        self.inner.shared.removed.read().clone()
    }

    pub fn cluster_version(&self) -> Option<String> {
        self.inner.shared.cluster_version.read().clone()
    }

    /// The version that the cluster is asked to go down to, as far as this member has applied.
    pub fn downgrade_target(&self) -> Option<String> {
        self.inner.shared.downgrade_target.read().clone()
    }

    /// The alarms that are raised, as far as this member has applied.
    pub fn alarms(&self) -> Arc<Vec<AlarmMember>> {
        self.inner.shared.alarms.read().clone()
    }

    /// This member's state, as far as it has applied.
    pub fn view(&self) -> &View {
        &self.inner.view
    }

    /// Users, roles and tokens, as far as this member has applied.
    pub fn auth(&self) -> &AuthView {
        &self.inner.auth
    }

    /// How long a request may wait for its answer: 5 s and two election timeouts.
    pub fn request_timeout(&self) -> Duration {
        self.inner.timeout
    }

    /// Replicates a request of nobody: while auth is on, only what members do of their own accord
    /// and what was checked before is carried out. Else as [`Handle::propose_as`].
    ///
    /// # Errors
    /// As [`Handle::propose_as`].
    pub async fn propose(
        &self,
        request: Request,
        bytes_max: usize,
    ) -> Result<Response, RequestError> {
        self.propose_as(Caller::default(), request, bytes_max).await
    }

    /// Replicates a request and waits until it is committed and applied here. Whether the caller
    /// may do it is checked when it is applied.
    ///
    /// # Errors
    /// What the state machine decided; `RequestTooLarge` when the command is above
    /// `bytes_max`; or an availability error, after which the request may still take effect.
    pub async fn propose_as(
        &self,
        caller: Caller<'_>,
        request: Request,
        bytes_max: usize,
    ) -> Result<Response, RequestError> {
        if self.inner.shared.stalled.load(Ordering::Relaxed) {
            return Err(RequestError::TooManyRequests);
        }
        let sequence = self.next_sequence();
        let id = RequestId { member: self.inner.member, boot: self.inner.boot, sequence };
        let command = encode_command_of(caller, id, request);
        if counted_len(id, command.len()) > bytes_max {
            return Err(RequestError::RequestTooLarge);
        }
        let (waiter, answer) = oneshot::channel();
        self.send(ToDriver::Propose { sequence, command, waiter })?;
        let mut outcome = Outcome { failed: &self.inner.numbers.failed, is_known: false };
        let answer = self.wait(answer).await;
        outcome.is_known = answer.as_ref().err().is_none_or(|error| !is_unavailable(error));
        match answer? {
            Reply::Applied(response) => Ok(response),
            _ => Err(RequestError::Stopped),
        }
    }

    /// Waits until [`Handle::view`] is as new as the cluster was at this call.
    ///
    /// # Errors
    /// Availability errors: no quorum answered in time, or the leader changed.
    pub async fn read_barrier(&self) -> Result<(), RequestError> {
        // A sole voter that leads has applied all it ever acknowledged.
        if self.inner.shared.reads_at_once.load(Ordering::Acquire) {
            return Ok(());
        }
        let (waiter, answer) = oneshot::channel();
        self.send(ToDriver::Read { sequence: self.next_sequence(), waiter })?;
        let answer = self.wait(answer).await;
        match &answer {
            Err(RequestError::Timeout) => self.inner.numbers.reads_slow.add(1),
            Err(error) if is_unavailable(error) => self.inner.numbers.reads_failed.add(1),
            _ => {}
        }
        answer.map(|_| ())
    }

    /// Renews a lease at the leader; 0 when there is no such lease.
    ///
    /// # Errors
    /// Availability errors.
    pub async fn renew_lease(&self, lease: i64) -> Result<i64, RequestError> {
        match self.call(Call::Lease(LeaseCall::Renew { lease })).await? {
            Reply::Lease { ttl, .. } => Ok(ttl),
            _ => Err(RequestError::Stopped),
        }
    }

    /// Remaining seconds (-1: no such lease), granted seconds and, if asked, the attached keys.
    ///
    /// # Errors
    /// Availability errors.
    pub async fn lease_time_to_live(
        &self,
        lease: i64,
        keys: bool,
    ) -> Result<(i64, i64, Vec<Bytes>), RequestError> {
        match self.call(Call::Lease(LeaseCall::TimeToLive { lease, keys })).await? {
            Reply::Lease { ttl, granted_ttl, keys } => Ok((ttl, granted_ttl, keys)),
            _ => Err(RequestError::Stopped),
        }
    }

    /// The leases that this member knows, those that expire first in front.
    ///
    /// # Errors
    /// When the member is stopping or overloaded.
    pub async fn leases(&self) -> Result<Vec<i64>, RequestError> {
        match self.call(Call::LeaseList).await? {
            Reply::Leases(leases) => Ok(leases),
            _ => Err(RequestError::Stopped),
        }
    }

    /// Gives up the space that compaction freed on this member.
    ///
    /// # Errors
    /// When the member is stopping or overloaded.
    pub async fn defragment(&self) -> Result<(), RequestError> {
        self.call(Call::Defragment).await.map(|_| ())
    }

    /// This member's whole state as of its applied index.
    ///
    /// # Errors
    /// When the member is stopping or overloaded.
    pub async fn capture(&self) -> Result<Capture, RequestError> {
        let (waiter, capture) = oneshot::channel();
        self.send(ToDriver::Capture { waiter })?;
        match tokio::time::timeout(self.inner.timeout + GRACE, capture).await {
            Ok(Ok(capture)) => Ok(capture),
            Ok(Err(_ended)) => Err(RequestError::Stopped),
            Err(_elapsed) => Err(RequestError::Timeout),
        }
    }

    /// The keys attached to one lease, or to any, as far as this member knows.
    ///
    /// # Errors
    /// When the member is stopping or overloaded.
    pub async fn lease_keys(&self, lease: Option<i64>) -> Result<Vec<Bytes>, RequestError> {
        match self.call(Call::LeaseKeys(lease)).await? {
            Reply::Keys(keys) => Ok(keys),
            _ => Err(RequestError::Stopped),
        }
    }

    /// A message from another member; dropped when the driver is overloaded, which raft survives.
    pub fn peer_message(&self, message: PeerMessage) {
        let _dropped = self.inner.driver.try_send(ToDriver::Input(Input::Peer(message)));
    }

    /// Another member of this cluster says that this one was removed.
    pub fn told_removed(&self) {
        let _said_again = self.inner.driver.try_send(ToDriver::Input(Input::ToldRemoved));
    }

    pub fn unreachable(&self, member: MemberId) {
        let _dropped = self.inner.driver.try_send(ToDriver::Input(Input::Unreachable(member)));
    }

    /// The end of a transfer must reach raft, or it never sends to that member again: waits for
    /// a place in the queue, so call it from a thread that may block.
    pub fn snapshot_sent(&self, to: MemberId, delivered: bool) {
        let _ended = self.inner.driver.send(ToDriver::Input(Input::SnapshotSent { to, delivered }));
    }

    /// Blocks until the driver takes it.
    pub fn snapshot_received(&self, snapshot: ReceivedSnapshot) {
        let _ended = self.inner.driver.send(snapshot_input(snapshot));
    }

    /// Asks the leader - only if it is this member - to hand over.
    pub fn transfer_leader(&self, to: Option<MemberId>) {
        let _dropped = self.inner.driver.try_send(ToDriver::Input(Input::TransferLeader { to }));
    }

    /// Stops the node: the store cannot be read, and no answer can be given.
    pub fn fail(&self, fatal: Fatal) {
        tracing::error!(error = %fatal, "failed to read the store");
        // A full queue holds errors that stop it as well.
        let _full = self.inner.failures.try_send(fatal);
    }

    /// Ends the driver after what it is doing. Blocks until it has taken note.
    pub fn stop(&self) {
        let _ended = self.inner.driver.send(ToDriver::Stop);
    }

    async fn call(&self, call: Call) -> Result<Reply, RequestError> {
        let (waiter, answer) = oneshot::channel();
        self.send(ToDriver::Call { sequence: self.next_sequence(), call, waiter })?;
        self.wait(answer).await
    }

    fn next_sequence(&self) -> u64 {
        self.inner.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn send(&self, message: ToDriver) -> Result<(), RequestError> {
        self.inner.driver.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => RequestError::TooManyRequests,
            TrySendError::Disconnected(_) => RequestError::Stopped,
        })
    }

    async fn wait(&self, answer: oneshot::Receiver<Answer>) -> Result<Reply, RequestError> {
        match tokio::time::timeout(self.inner.timeout + GRACE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_ended)) => Err(RequestError::Stopped),
            Err(_elapsed) => Err(RequestError::Timeout),
        }
    }
}
