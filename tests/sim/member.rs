//! One simulated member: the shipped replica on disks that outlive it.

use super::auth::{Login, Permit};
use super::engine::{EngineDisk, SimEngine};
use super::hub::Hub;
use super::profile::{Micros, Profile};
use crate::checker::Request;
use bytes::Bytes;
use parking_lot::Mutex;
use protobuf::Message as _;
use quoin::error::Fatal;
use quoin::machine::{AuthView, Capture, Machine};
use quoin::mvcc::{RangeStream, View};
use quoin::pb::etcdserverpb;
use quoin::pb::mvccpb::KeyValue;
use quoin::pb::quoinpb::{PeerMessage, peer_message::Body};
use quoin::raft_log::LogStore;
use quoin::raft_log::memory::{MemoryDisk, MemoryLog};
use quoin::replica::{Input, Millis, Replica, Settings, SnapshotBlocks, complete_install};
use quoin::types::{ClusterId, Index, MemberId, Term};
use raft::Storage;
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// Snapshots kept on disk: the newest, and one more.
const SNAPSHOTS_KEPT: usize = 2;

/// A snapshot as it lies on disk.
#[derive(Clone)]
pub struct Stored {
    pub index: Index,
    pub term: Term,
    pub blocks: Vec<Bytes>,
}

/// A member's snapshot files. Each appears whole or not at all.
#[derive(Clone, Default)]
pub struct Shelf(Arc<Mutex<Vec<Stored>>>);

impl Shelf {
    pub fn put(&self, stored: Stored) {
        let mut all = self.0.lock();
        all.retain(|other| other.index != stored.index);
        all.push(stored);
        all.sort_by_key(|stored| stored.index);
        let surplus = all.len().saturating_sub(SNAPSHOTS_KEPT);
        all.drain(..surplus);
    }

    fn newest(&self) -> Option<Stored> {
        self.0.lock().last().cloned()
    }

    fn remove(&self, index: Index) {
        self.0.lock().retain(|stored| stored.index != index);
    }
}

/// A snapshot that has come over the network, not accepted yet.
pub struct Incoming {
    pub shelf: Shelf,
    pub is_volatile: bool,
    pub stored: Stored,
    pub next: usize,
}

impl SnapshotBlocks for Incoming {
    fn accept(&mut self) -> Result<(), Fatal> {
        self.shelf.put(self.stored.clone());
        Ok(())
    }

    fn next_block(&mut self) -> Result<Option<Bytes>, Fatal> {
        self.next += 1;
        Ok(self.stored.blocks.get(self.next - 1).cloned())
    }

    fn finish(&mut self) -> Result<(), Fatal> {
        if !self.is_volatile {
            self.shelf.remove(self.stored.index);
        }
        Ok(())
    }
}

/// A client's call that a member is busy with.
#[derive(Clone, Debug)]
pub struct Call {
    pub client: usize,
    /// Its place in the history.
    pub operation: usize,
    pub request: Request,
    /// The revision that a renewal's header shows: that at its beginning.
    pub revision: i64,
    pub token: Option<Arc<str>>,
    /// The last entry whose outcome was known when the client asked.
    pub acknowledged: Index,
}

/// Long work beside the replica: a state being read in pieces.
pub struct Job {
    pub capture: Capture,
    pub blocks: Vec<Bytes>,
    /// The receiver and raft's message; without it the state is stored here.
    pub to: Option<(u64, Bytes)>,
}

/// A range that is answered in pieces.
pub struct Streaming {
    pub call: Call,
    pub permit: Permit,
    pub stream: RangeStream,
    pub found: Vec<KeyValue>,
}

/// What is lost in a crash.
pub struct Running {
    pub replica: Replica<MemoryLog>,
    pub view: View,
    pub auth: AuthView,
    pub inbox: VecDeque<Input>,
    pub round_is_due: bool,
    pub calls: BTreeMap<u64, Call>,
    /// The operator's requests, whose answers do not matter.
    pub changes: BTreeSet<u64>,
    pub logins: BTreeMap<u64, Login>,
    pub sequence: u64,
    pub hub: Hub,
    pub jobs: BTreeMap<u64, Job>,
    pub next_job: u64,
    pub streaming: BTreeMap<u64, Streaming>,
    pub reads_at_once: bool,
    /// Committed entries up to here were compared with those of the others.
    pub checked: Index,
    /// The last applied index at which the state was compared.
    pub compared: Index,
    /// The last revision applied.
    pub revision: i64,
    started: Micros,
}

pub struct Member {
    pub id: u64,
    pub log_disk: MemoryDisk,
    pub engine_disk: EngineDisk,
    pub shelf: Shelf,
    pub boot: u64,
    pub running: Option<Running>,
    pub paused_until: Micros,
    /// It is one of the first, or was added, and was not removed.
    pub may_start: bool,
    /// A failure of its disk was planned and has not come yet.
    pub is_doomed: bool,
    pub clock_slow: u64,
    promises: Promises,
}

/// What a member has told others, which its disk must not forget.
#[derive(Clone, Debug, Default)]
struct Promises {
    term: Term,
    votes: BTreeMap<Term, u64>,
    /// The highest index acknowledged, and in which term.
    acknowledged: (Term, Index),
}

impl Member {
    pub fn new(id: u64, clock_slow: u64, may_start: bool) -> Self {
        Self {
            id,
            log_disk: MemoryDisk::new(),
            engine_disk: EngineDisk::default(),
            shelf: Shelf::default(),
            boot: 0,
            running: None,
            paused_until: 0,
            may_start,
            is_doomed: false,
            clock_slow,
            promises: Promises::default(),
        }
    }

    /// Milliseconds on this member's clock since its start.
    pub fn local(&self, now: Micros) -> Millis {
        let started = self.running.as_ref().map_or(now, |running| running.started);
        (now - started) * (1000 - self.clock_slow) / 1_000_000
    }

    /// Opens everything as a process does, in the order of `node::start`.
    pub fn start(
        &mut self,
        profile: &Profile,
        now: Micros,
        election_ticks: usize,
    ) -> Result<(), Fatal> {
        self.boot += 1;
        let engine = Arc::new(SimEngine::open(&self.engine_disk, profile.is_volatile)?);
        let mut machine = Machine::open(engine)?;
        let newest = self.shelf.newest();
        if let Some(stored) = newest.as_ref().filter(|s| s.index > machine.applied_index()) {
            let mut blocks = stored.blocks.iter().cloned();
            machine.restore(&mut || Ok(blocks.next()))?;
        }
        if !machine.is_bootstrapped() {
            machine.bootstrap((1..=profile.members).map(member_record).collect())?;
            machine.engine().flush()?;
        }
        let mut log = MemoryLog::open(&self.log_disk);
        self.check_promises(&log)?;
        let stored = newest.as_ref().map(|stored| (stored.index, stored.term));
        complete_install(&mut log, machine.applied_index(), stored)?;
        let settings = Settings {
            id: MemberId(self.id),
            cluster_id: CLUSTER,
            // Even: odd ones are for the replica's own commands.
            boot: (self.id << 32) + self.boot * 2,
            tick_ms: profile.tick / 1000,
            election_ticks: profile.election_ticks,
            election_ticks_drawn: election_ticks..election_ticks + 1,
            election_ticks_advanced: 0,
            pre_vote: true,
            snapshot_count: profile.snapshot_count,
            snapshot_pause_ms: profile.snapshot_pause / 1000,
            catch_up_entries: profile.catch_up_entries,
            compaction_entries_max: profile.compaction_entries_max,
        };
        let (view, auth) = (machine.view(), machine.auth_view());
        let replica = Replica::new(settings, log, machine)?;
        self.running = Some(Running {
            hub: Hub::new(view.clone(), profile.watch_limits),
            inbox: VecDeque::new(),
            round_is_due: false,
            calls: BTreeMap::new(),
            changes: BTreeSet::new(),
            logins: BTreeMap::new(),
            sequence: 0,
            jobs: BTreeMap::new(),
            next_job: 0,
            streaming: BTreeMap::new(),
            reads_at_once: replica.status().reads_at_once,
            checked: replica.log().first_index().map_or(0, |first| first - 1),
            compared: 0,
            revision: view.revision(),
            started: now,
            replica,
            view,
            auth,
        });
        Ok(())
    }

    /// Remembers what a message promises.
    pub fn promise(&mut self, message: &PeerMessage) -> Result<(), String> {
        let Some(Body::Raft(bytes)) = &message.body else { return Ok(()) };
        let message = Message::parse_from_bytes(bytes).map_err(|e| e.to_string())?;
        let kind = message.get_msg_type();
        if matches!(kind, MessageType::MsgRequestPreVote | MessageType::MsgRequestPreVoteResponse) {
            return Ok(());
        }
        let promises = &mut self.promises;
        promises.term = promises.term.max(message.term);
        let vote = match kind {
            MessageType::MsgRequestVote => Some(self.id),
            MessageType::MsgRequestVoteResponse if !message.reject => Some(message.to),
            _ => None,
        };
        if let Some(vote) = vote {
            let earlier = *promises.votes.entry(message.term).or_insert(vote);
            if earlier != vote {
                return Err(format!(
                    "member {} voted for {earlier} and for {vote} in term {}",
                    self.id, message.term
                ));
            }
        }
        if kind == MessageType::MsgAppendResponse && !message.reject {
            promises.acknowledged = promises.acknowledged.max((message.term, message.index));
        }
        Ok(())
    }

    /// Whether the log still holds what was promised.
    fn check_promises(&self, log: &MemoryLog) -> Result<(), Fatal> {
        let hard_state = log.hard_state();
        let promises = &self.promises;
        let broken = |what: String| Err(Fatal::new(format!("member {} {what}", self.id)));
        if hard_state.term < promises.term {
            return broken(format!(
                "spoke in term {} and remembers {}",
                promises.term, hard_state.term
            ));
        }
        if let Some(vote) = promises.votes.get(&hard_state.term)
            && hard_state.vote != *vote
        {
            return broken(format!(
                "voted for {vote} in term {} and remembers {}",
                hard_state.term, hard_state.vote
            ));
        }
        let (term, index) = promises.acknowledged;
        let last = log.last_index().map_err(|e| Fatal::with("read log", e))?;
        // In a later term a leader may have had entries replaced.
        if term == hard_state.term && index > last {
            return broken(format!("acknowledged entry {index} in term {term} and has {last}"));
        }
        Ok(())
    }
}

fn member_record(id: u64) -> etcdserverpb::Member {
    etcdserverpb::Member { id, name: format!("m{id}"), ..Default::default() }
}
