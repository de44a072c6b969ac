//! The thread that owns a replica: feeds it, sends what it gives, keeps its clock.
//!
//! One round takes everything that waits in the channel, up to a bound, then runs
//! [`Replica::ready`]: so one write and one sync serve all requests that came in meanwhile,
//! and no timer stands in the write path. Long work goes to other threads and comes back as an
//! input. A fatal error ends the loop with that error; the node then stops.

use super::input::{Effect, Input, Millis, Output, ReceivedSnapshot, Reply, Status};
use super::replica::Replica;
use crate::error::{Fatal, RequestError};
use crate::machine::Capture;
use crate::metrics::parts::{Proposals, State};
use crate::mvcc::Commit;
use crate::pb::etcdserverpb::{AlarmMember, AlarmType, Member};
use crate::pb::quoinpb::PeerMessage;
use crate::raft_log::LogStore;
use crate::types::{Index, MemberId, RequestId};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Inputs that may wait for the driver; beyond it a request is refused with "too many requests"
/// and a peer's message is dropped. etcd refuses when 5,000 entries wait for apply.
const QUEUE_MAX: usize = 16_384;
/// Inputs taken into one round, so that a flood delays neither ticks nor disk for long.
const INPUTS_PER_ROUND_MAX: usize = 4_096;

/// The answer to a waiting task.
pub(super) type Answer = Result<Reply, RequestError>;

/// What travels to the driver.
pub(super) enum ToDriver {
    Propose { sequence: u64, command: Vec<u8>, waiter: oneshot::Sender<Answer> },
    Read { sequence: u64, waiter: oneshot::Sender<Answer> },
    Call { sequence: u64, call: Call, waiter: oneshot::Sender<Answer> },
    Capture { waiter: oneshot::Sender<Capture> },
    Input(Input),
    Stop,
}

/// Calls other than the two frequent ones.
pub(super) enum Call {
    Lease(super::LeaseCall),
    LeaseList,
    Defragment,
    LeaseKeys(Option<i64>),
}

/// The driver's surroundings, as functions: it knows neither sockets nor watches nor files.
pub struct DriverParts {
    /// Sends to another member; drops when its queue is full.
    pub send: Box<dyn FnMut(PeerMessage) + Send>,
    /// Takes applied commits, in order, after readers can see them.
    pub publish: Box<dyn FnMut(Vec<Commit>) + Send>,
    /// Told all members, at the start and whenever they change.
    pub members: Box<dyn FnMut(&[Member]) + Send>,
    /// Told after a snapshot replaced the state.
    pub restored: Box<dyn FnMut() + Send>,
    /// Makes the engine durable; runs on a thread of its own.
    pub flush: Arc<dyn Fn() -> Result<(), Fatal> + Send + Sync>,
    /// Stores a snapshot file and returns its bytes; runs on a thread of its own.
    pub store_snapshot: Arc<dyn Fn(Capture) -> Result<u64, Fatal> + Send + Sync>,
    /// Begins to stream a snapshot; the result comes back through the handle.
    pub send_snapshot: Box<dyn FnMut(MemberId, Bytes, Capture) + Send>,
    /// Where the numbers go that the thread and its handles know.
    pub numbers: (State, Proposals),
}

/// What the driver shows to everybody.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) term: AtomicU64,
    pub(super) commit_index: AtomicU64,
    pub(super) applied_index: AtomicU64,
    pub(super) reads_at_once: AtomicBool,
    /// The engine does not keep pace: proposals are refused until it does.
    pub(super) stalled: AtomicBool,
    pub(super) members: parking_lot::RwLock<Arc<Vec<Member>>>,
    pub(super) is_learner: AtomicBool,
    pub(super) removed: parking_lot::RwLock<Arc<Vec<u64>>>,
    pub(super) cluster_version: parking_lot::RwLock<Option<String>>,
    pub(super) downgrade_target: parking_lot::RwLock<Option<String>>,
    pub(super) alarms: parking_lot::RwLock<Arc<Vec<AlarmMember>>>,
}

/// The thread's state. Built by [`Driver::new`], which also gives the handle.
pub struct Driver<L: LogStore> {
    replica: Replica<L>,
    parts: DriverParts,
    inbox: Receiver<ToDriver>,
    /// For work on other threads to report back.
    outbox: SyncSender<ToDriver>,
    failures: SyncSender<Fatal>,
    failed: Receiver<Fatal>,
    waiters: HashMap<u64, oneshot::Sender<Answer>>,
    member: MemberId,
    boot: u64,
    tick: Duration,
    request_timeout_ms: Millis,
    started: Instant,
    shared: Arc<Shared>,
    status: watch::Sender<Status>,
}

impl<L: LogStore + 'static> Driver<L> {
    pub fn new(replica: Replica<L>, parts: DriverParts) -> (Self, super::Handle) {
        let (outbox, inbox) = sync_channel(QUEUE_MAX);
        let (failures, failed) = sync_channel(8);
        let settings = replica.settings().clone();
        let (status, status_seen) = watch::channel(replica.status());
        let shared = Arc::new(Shared::default());
        // 5 s and two election timeouts: etcd's bound for proposals and reads.
        let request_timeout_ms = 5_000 + 2 * settings.election_timeout_ms();
        let handle = super::Handle::new(
            outbox.clone(),
            failures.clone(),
            (replica.machine().view(), replica.machine().auth_view()),
            shared.clone(),
            status_seen,
            (&settings, &parts.numbers.1),
            Duration::from_millis(request_timeout_ms),
        );
        let mut driver = Self {
            replica,
            parts,
            inbox,
            outbox,
            failures,
            failed,
            waiters: HashMap::new(),
            member: settings.id,
            boot: settings.boot,
            tick: Duration::from_millis(settings.tick_ms),
            request_timeout_ms,
            started: Instant::now(),
            shared,
            status,
        };
        if driver.status.borrow().leader.is_some() {
            driver.parts.numbers.0.leader_changes.add(1);
        }
        driver.show_members();
        driver.show_status();
        driver.show_numbers();
        (driver, handle)
    }

    /// Runs until it is told to stop.
    ///
    /// # Errors
    /// The fatal error that made going on impossible.
    pub fn run(mut self) -> Result<(), Fatal> {
        let mut next_tick = self.started + self.tick;
        let mut again = true;
        loop {
            let now = Instant::now();
            if now >= next_tick {
                if now >= next_tick + self.tick && self.status.borrow().is_leader {
                    self.parts.numbers.0.late_heartbeats.add(1);
                }
                self.replica.step(Input::Tick { now: self.now() });
                let stalled = self.replica.machine().engine().is_stalled();
                self.shared.stalled.store(stalled, Ordering::Relaxed);
                // After a pause one tick comes, not all that were missed.
                next_tick = now + self.tick;
            }
            if !self.take_inputs(if again { now } else { next_tick }) {
                return Ok(());
            }
            if let Ok(failure) = self.failed.try_recv() {
                return Err(failure);
            }
            self.replica.clock(self.now());
            let send = &mut self.parts.send;
            let output = self.replica.ready(&mut |message| send(message))?;
            again = output.again;
            self.perform(output);
        }
    }

    /// Waits for an input until `deadline`, then takes all that wait, up to a bound.
    /// False: stop.
    fn take_inputs(&mut self, deadline: Instant) -> bool {
        let timeout = deadline.saturating_duration_since(Instant::now());
        let mut next = match self.inbox.recv_timeout(timeout) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        };
        for _ in 0..INPUTS_PER_ROUND_MAX {
            if !self.take(next) {
                return false;
            }
            match self.inbox.try_recv() {
                Ok(message) => next = message,
                Err(_) => return true,
            }
        }
        self.take(next)
    }

    fn take(&mut self, message: ToDriver) -> bool {
        let (sequence, waiter, input) = match message {
            ToDriver::Propose { sequence, command, waiter } => {
                let (id, deadline) = (self.id(sequence), self.deadline());
                (sequence, waiter, Input::Propose { id, command, deadline })
            }
            ToDriver::Read { sequence, waiter } => {
                let (id, deadline) = (self.id(sequence), self.deadline());
                (sequence, waiter, Input::Read { id, deadline })
            }
            ToDriver::Call { sequence, call, waiter } => {
                let (id, deadline) = (self.id(sequence), self.deadline());
                let input = match call {
                    Call::Lease(call) => Input::Lease { id, call, deadline },
                    Call::LeaseList => Input::LeaseList { id },
                    Call::Defragment => Input::Defragment { id },
                    Call::LeaseKeys(lease) => Input::LeaseKeys { id, lease },
                };
                (sequence, waiter, input)
            }
            ToDriver::Capture { waiter } => {
                match self.replica.machine().capture() {
                    // Whoever asked may be gone.
                    Ok(capture) => drop(waiter.send(capture)),
                    // A full queue holds errors that stop it as well.
                    Err(failure) => drop(self.failures.try_send(failure)),
                }
                return true;
            }
            ToDriver::Input(input) => {
                self.replica.step(input);
                return true;
            }
            ToDriver::Stop => return false,
        };
        self.waiters.insert(sequence, waiter);
        self.replica.step(input);
        true
    }

    fn id(&self, sequence: u64) -> RequestId {
        RequestId { member: self.member, boot: self.boot, sequence }
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn deadline(&self) -> Millis {
        self.now() + self.request_timeout_ms
    }

    fn perform(&mut self, output: Output) {
        for message in output.messages {
            (self.parts.send)(message);
        }
        if output.members_changed {
            self.show_members();
        }
        self.show_status();
        self.show_numbers();
        if output.restored {
            (self.parts.restored)();
        }
        if !output.commits.is_empty() {
            (self.parts.publish)(output.commits);
        }
        for (id, answer) in output.replies {
            if let Some(waiter) = self.waiters.remove(&id.sequence) {
                // A client that went away no longer waits for its answer.
                let _gone = waiter.send(answer);
            }
        }
        for effect in output.effects {
            self.start(effect);
        }
    }

    /// Starts long work on another thread; its end comes back as an input.
    fn start(&mut self, effect: Effect) {
        match effect {
            Effect::Flush { index } => {
                let flush = self.parts.flush.clone();
                self.on_thread("flush", index, move || {
                    flush()?;
                    tracing::info!("snapshot-index" = index, "saved snapshot to disk");
                    Ok(0)
                });
            }
            Effect::StoreSnapshot(capture) => {
                let store = self.parts.store_snapshot.clone();
                self.on_thread("snapshot", capture.index, move || store(capture));
            }
            Effect::SendSnapshot { to, message, capture } => {
                (self.parts.send_snapshot)(to, message, capture);
            }
        }
    }

    fn on_thread(
        &self,
        name: &str,
        index: Index,
        work: impl FnOnce() -> Result<u64, Fatal> + Send + 'static,
    ) {
        let (outbox, failures) = (self.outbox.clone(), self.failures.clone());
        let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // A send fails only when the driver has ended, and then nobody needs the result.
            match work() {
                Ok(bytes) => {
                    let _ended = outbox.send(ToDriver::Input(Input::Persisted { index, bytes }));
                }
                Err(failure) => {
                    let _ended = failures.send(failure);
                }
            }
        });
        if let Err(error) = spawned {
            let _full = self.failures.try_send(Fatal::with(format!("start {name} thread"), error));
        }
    }

    fn show_members(&mut self) {
        let machine = self.replica.machine();
        let members: Vec<Member> = machine.members().all().values().cloned().collect();
        (self.parts.members)(&members);
        let own = machine.members().get(self.member);
        // One that was removed is no learner, and one that does not know itself yet is joining.
        let is_removed = machine.members().is_removed(self.member);
        let is_learner = own.map_or(!is_removed, |member| member.is_learner);
        self.shared.is_learner.store(is_learner, Ordering::Relaxed);
        *self.shared.members.write() = Arc::new(members);
        let removed = machine.members().removed().iter().map(|id| id.0).collect();
        *self.shared.removed.write() = Arc::new(removed);
        *self.shared.cluster_version.write() = machine.cluster_version().map(str::to_owned);
        *self.shared.downgrade_target.write() = machine.downgrade_target().map(str::to_owned);
        *self.shared.alarms.write() = Arc::new(machine.alarms().list(AlarmType::None as i32));
    }

    /// Once for a round: plain stores.
    fn show_numbers(&self) {
        let numbers = &self.parts.numbers.0;
        let tally = self.replica.machine().tally();
        numbers.puts.set(tally.puts);
        numbers.put_bytes.set(tally.put_bytes);
        numbers.deletes.set(tally.deletes);
        numbers.ranges.set(tally.ranges);
        numbers.txns.set(tally.txns);
        numbers.compacted_keys.set(tally.compacted);
        numbers.keys.set(self.replica.machine().keys());
        let leases = self.replica.lease_counts();
        numbers.leases_granted.set(leases.granted);
        numbers.leases_revoked.set(leases.revoked);
        numbers.leases_renewed.set(leases.renewed);
        numbers.leases_expired.set(leases.expired);
        numbers.proposals_pending.set(self.replica.proposals_pending() as u64);
    }

    fn show_status(&mut self) {
        let status = self.replica.status();
        self.shared.term.store(status.term, Ordering::Relaxed);
        self.shared.commit_index.store(status.commit_index, Ordering::Relaxed);
        self.shared.applied_index.store(status.applied_index, Ordering::Relaxed);
        self.shared.reads_at_once.store(status.reads_at_once, Ordering::Release);
        let leader_changes = &self.parts.numbers.0.leader_changes;
        self.status.send_if_modified(|shown| {
            if status.leader.is_some() && shown.leader != status.leader {
                leader_changes.add(1);
            }
            // Indexes move with each round and are read from the atomics: only what others
            // wait for wakes them.
            let changed = (shown.term, shown.leader, shown.is_leader, shown.reads_at_once)
                != (status.term, status.leader, status.is_leader, status.reads_at_once)
                || shown.is_removed != status.is_removed;
            *shown = status;
            changed
        });
    }
}

/// Gives a received snapshot to the driver, through the handle.
pub(super) fn snapshot_input(snapshot: ReceivedSnapshot) -> ToDriver {
    ToDriver::Input(Input::SnapshotReceived(snapshot))
}
