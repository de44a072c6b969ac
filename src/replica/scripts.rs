//! Runs the golden scripts in `testscripts/`: a cluster of replicas on one thread, whose
//! messages wait until a script delivers or drops them.

use super::replica::Replica;
use super::{Effect, Input, LeaseCall, Output, ReceivedSnapshot, Reply, Settings, SnapshotBlocks};
use crate::error::Fatal;
use crate::machine::{Capture, Machine, Response, encode_command};
use crate::mvcc::RangeStream;
use crate::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, Member, PutRequest, RangeRequest,
};
use crate::pb::quoinpb::command::Request;
use crate::pb::quoinpb::peer_message::Body;
use crate::pb::quoinpb::{LeaseRevokeBatch, MemberAdd, MemberChange, PeerMessage};
use crate::raft_log::memory::{CrashChoice, MemoryDisk, MemoryLog};
use crate::storage::memory::MemoryEngine;
use crate::types::{ClusterId, MemberId, RequestId};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

const CLUSTER: ClusterId = ClusterId(0xC1);
const TICK_MS: u64 = 100;
const ELECTION_TICKS: usize = 10;

/// Lower ids campaign earlier.
fn election_ticks(id: u64) -> usize {
    ELECTION_TICKS + 3 * (id as usize - 1)
}

#[derive(goldenscript::Command)]
enum Command {
    /// Starts members 1 to `size`.
    Cluster {
        size: u64,
        #[arg(key, optional)]
        snapshot_count: u64,
        #[arg(key, optional)]
        catch_up: u64,
    },
    /// Lets a member's clock tick, by itself.
    Tick {
        id: u64,
        times: u64,
    },
    /// Time passes for all members that are up, with everything delivered at each tick.
    Run {
        ticks: u64,
    },
    /// Ticks a member until it campaigns, then delivers everything.
    Campaign {
        id: u64,
    },
    Put {
        id: u64,
        key: String,
        value: String,
        #[arg(key, optional)]
        lease: i64,
    },
    /// A linearizable read.
    Get {
        id: u64,
        key: String,
    },
    /// A read of local state, at once.
    Peek {
        id: u64,
        key: String,
    },
    Grant {
        id: u64,
        lease: i64,
        ttl: i64,
    },
    Revoke {
        id: u64,
        lease: i64,
    },
    Renew {
        id: u64,
        lease: i64,
    },
    TimeToLive {
        id: u64,
        lease: i64,
    },
    Compact {
        id: u64,
        revision: i64,
        #[arg(key, optional)]
        physical: bool,
    },
    /// Begins to answer a range at the newest revision to a client that does not read.
    Stream {
        id: u64,
        key: String,
    },
    Transfer {
        id: u64,
        to: u64,
    },
    /// Asks a member to add another one, which does not run yet.
    Add {
        id: u64,
        member: u64,
        #[arg(key, optional)]
        learner: bool,
    },
    Promote {
        id: u64,
        member: u64,
    },
    Remove {
        id: u64,
        member: u64,
    },
    /// Starts a member that was added, with nothing but the first members' names.
    Join {
        id: u64,
    },
    /// Whom a member knows, with a star behind learners, and what became of it.
    Members {
        id: u64,
    },
    /// One round of one member; its messages wait.
    Ready {
        id: u64,
    },
    /// Delivers what waits for one member.
    Deliver {
        id: u64,
    },
    /// Delivers what waits for a member, and leaves a copy that waits on.
    Repeat {
        id: u64,
    },
    /// Throws away what waits for a member.
    Drop {
        id: u64,
    },
    /// Rounds and deliveries until nothing moves.
    Stabilize {},
    /// Cuts the link in one direction.
    Cut {
        from: u64,
        to: u64,
    },
    Heal {},
    /// The process dies; unsynced writes are lost.
    Crash {
        id: u64,
    },
    Restart {
        id: u64,
    },
    Status {},
}

struct MemberState {
    replica: Option<Replica<MemoryLog>>,
    disk: MemoryDisk,
    stored: Option<Vec<Bytes>>,
    now: u64,
    boot: u64,
    sequence: u64,
}

impl MemberState {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        Self { replica: None, disk, stored: None, now: 0, boot: 0, sequence: 0 }
    }
}

#[derive(Default)]
struct Runner {
    members: BTreeMap<u64, MemberState>,
    inboxes: BTreeMap<u64, VecDeque<PeerMessage>>,
    cuts: BTreeSet<(u64, u64)>,
    /// How many began the cluster.
    founders: u64,
    snapshot_count: u64,
    catch_up: u64,
    /// What each request asked, to name it in replies; for reads the key.
    asked: BTreeMap<RequestId, (String, Option<String>)>,
    /// Answers that nobody reads.
    unread: Vec<RangeStream>,
    out: String,
}

struct Blocks(VecDeque<Bytes>);

impl SnapshotBlocks for Blocks {
    fn accept(&mut self) -> Result<(), Fatal> {
        Ok(())
    }

    fn next_block(&mut self) -> Result<Option<Bytes>, Fatal> {
        Ok(self.0.pop_front())
    }

    fn finish(&mut self) -> Result<(), Fatal> {
        Ok(())
    }
}

fn blocks_of(mut capture: Capture) -> Result<Vec<Bytes>, Fatal> {
    let mut blocks = Vec::new();
    while let Some(block) = capture.next_block(64)? {
        blocks.push(block);
    }
    Ok(blocks)
}

impl Runner {
    fn settings(&self, id: u64, boot: u64) -> Settings {
        Settings {
            id: MemberId(id),
            cluster_id: CLUSTER,
            boot: boot * 2,
            tick_ms: TICK_MS,
            election_ticks: ELECTION_TICKS,
            election_ticks_drawn: election_ticks(id)..election_ticks(id) + 1,
            election_ticks_advanced: 0,
            pre_vote: true,
            snapshot_count: if self.snapshot_count == 0 { 10_000 } else { self.snapshot_count },
            snapshot_pause_ms: 0,
            catch_up_entries: self.catch_up,
            compaction_entries_max: 2,
        }
    }

    fn start(&mut self, id: u64) -> Result<(), Box<dyn Error>> {
        let size = self.founders;
        let (boot, disk, stored) = {
            let member = self.members.get_mut(&id).ok_or("no such member")?;
            member.boot += 1;
            member.sequence = 0;
            (member.boot, member.disk.clone(), member.stored.clone())
        };
        let mut machine = Machine::open(Arc::new(MemoryEngine::new()))?;
        match stored {
            Some(blocks) => {
                let mut blocks = VecDeque::from(blocks);
                machine.restore(&mut || Ok(blocks.pop_front()))?;
            }
            None => machine.bootstrap(
                (1..=size)
                    .map(|id| Member { id, name: format!("m{id}"), ..Member::default() })
                    .collect(),
            )?,
        }
        let replica = Replica::new(self.settings(id, boot), MemoryLog::open(&disk), machine)?;
        let member = self.members.get_mut(&id).ok_or("no such member")?;
        member.replica = Some(replica);
        let now = member.now;
        self.step(id, Input::Tick { now })?;
        Ok(())
    }

    fn step(&mut self, id: u64, input: Input) -> Result<(), Box<dyn Error>> {
        let member = self.members.get_mut(&id).ok_or("no such member")?;
        member.replica.as_mut().ok_or("the member is down")?.step(input);
        Ok(())
    }

    fn ask(&mut self, id: u64, what: String, key: Option<String>) -> RequestId {
        let member = self.members.get_mut(&id).expect("a script names known members");
        member.sequence += 1;
        let request =
            RequestId { member: MemberId(id), boot: member.boot * 2, sequence: member.sequence };
        self.asked.insert(request, (what, key));
        request
    }

    fn deadline(&self, id: u64) -> u64 {
        self.members.get(&id).map_or(0, |member| member.now + 7_000)
    }

    fn propose(&mut self, id: u64, what: String, request: Request) -> Result<(), Box<dyn Error>> {
        let request_id = self.ask(id, what, None);
        let command = encode_command(request_id, request);
        let deadline = self.deadline(id);
        self.step(id, Input::Propose { id: request_id, command, deadline })
    }

    fn ready(&mut self, id: u64) -> Result<bool, Box<dyn Error>> {
        let Some(replica) = self.members.get_mut(&id).and_then(|m| m.replica.as_mut()) else {
            return Ok(false);
        };
        let mut early = Vec::new();
        let output = replica.ready(&mut |message| early.push(message))?;
        let again = output.again;
        let Output { messages, replies, commits, effects, restored, .. } = output;
        for message in early.into_iter().chain(messages) {
            self.send(message);
        }
        if restored {
            writeln!(self.out, "{id}: restored from a snapshot")?;
        }
        for commit in commits {
            write!(self.out, "{id}: revision {}", commit.revision)?;
            for event in commit.events {
                let kv = event.kv.clone().unwrap_or_default();
                let key = String::from_utf8_lossy(&kv.key).into_owned();
                let value = String::from_utf8_lossy(&kv.value).into_owned();
                write!(self.out, " {}", event.r#type().as_str_name().to_lowercase())?;
                write!(self.out, " {key}")?;
                if !value.is_empty() {
                    write!(self.out, "={value}")?;
                }
            }
            writeln!(self.out)?;
        }
        for (request, reply) in replies {
            self.print_reply(id, request, reply)?;
        }
        for effect in effects {
            self.perform(id, effect)?;
        }
        Ok(again)
    }

    fn print_reply(
        &mut self,
        id: u64,
        request: RequestId,
        reply: Result<Reply, crate::error::RequestError>,
    ) -> Result<(), Box<dyn Error>> {
        let (what, key) = self.asked.remove(&request).ok_or("a reply that nobody waits for")?;
        let text = match reply {
            Err(error) => format!("error {error:?}"),
            Ok(Reply::Readable) => self.peek(id, &key.unwrap_or_default())?,
            Ok(Reply::Lease { ttl, granted_ttl, keys }) => {
                format!("ttl={ttl} granted={granted_ttl} keys={}", keys.len())
            }
            Ok(Reply::Defragmented) => "defragmented".to_owned(),
            Ok(Reply::Leases(leases)) => format!("{leases:?}"),
            Ok(Reply::Keys(keys)) => format!("{keys:?}"),
            Ok(Reply::Applied(response)) => match response {
                Response::Put(response) => {
                    format!("ok revision={}", response.header.unwrap_or_default().revision)
                }
                Response::LeaseGrant(response) => format!("ok ttl={}", response.ttl),
                Response::Members(members) => format!("ok members={}", names(members.iter())),
                _ => "ok".to_owned(),
            },
        };
        writeln!(self.out, "{id}: {what} → {text}")?;
        Ok(())
    }

    fn peek(&self, id: u64, key: &str) -> Result<String, Box<dyn Error>> {
        let member = self.members.get(&id).and_then(|m| m.replica.as_ref()).ok_or("down")?;
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        let range = member.machine().view().range(&request)?;
        let response = range.map_err(|error| format!("{error:?}"))?;
        Ok(match response.kvs.first() {
            Some(kv) => format!("{}@{}", String::from_utf8_lossy(&kv.value), kv.mod_revision),
            None => "none".to_owned(),
        })
    }

    fn stream(&mut self, id: u64, key: &str) -> Result<(), Box<dyn Error>> {
        let member = self.members.get(&id).and_then(|m| m.replica.as_ref()).ok_or("down")?;
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        let stream = member.machine().view().range_stream(&request, 1)?;
        self.unread.push(stream.map_err(|error| format!("{error:?}"))?);
        Ok(())
    }

    fn perform(&mut self, id: u64, effect: Effect) -> Result<(), Box<dyn Error>> {
        match effect {
            Effect::Flush { .. } => return Err("the memory engine is never flushed".into()),
            Effect::StoreSnapshot(capture) => {
                let index = capture.index;
                let blocks = blocks_of(capture)?;
                let bytes = blocks.iter().map(|block| block.len() as u64).sum();
                let member = self.members.get_mut(&id).ok_or("no such member")?;
                member.stored = Some(blocks);
                writeln!(self.out, "{id}: stored snapshot {index}")?;
                self.step(id, Input::Persisted { index, bytes })?;
            }
            Effect::SendSnapshot { to, message, capture } => {
                let index = capture.index;
                let blocks = blocks_of(capture)?;
                let passes = !self.cuts.contains(&(id, to.0))
                    && self.members.get(&to.0).is_some_and(|m| m.replica.is_some());
                writeln!(self.out, "{id}→{} snapshot {index} passes={passes}", to.0)?;
                if passes {
                    if let Some(member) = self.members.get_mut(&to.0) {
                        member.stored = Some(blocks.clone());
                    }
                    let blocks = Box::new(Blocks(blocks.into()));
                    self.step(to.0, Input::SnapshotReceived(ReceivedSnapshot { message, blocks }))?;
                }
                self.step(id, Input::SnapshotSent { to, delivered: passes })?;
            }
        }
        Ok(())
    }

    /// What is for a member that has not joined yet is lost.
    fn send(&mut self, message: PeerMessage) {
        let is_there = self.members.contains_key(&message.to);
        if is_there && !self.cuts.contains(&(message.from, message.to)) {
            self.inboxes.entry(message.to).or_default().push_back(message);
        }
    }

    fn deliver(&mut self, id: u64) -> Result<bool, Box<dyn Error>> {
        let waiting = std::mem::take(self.inboxes.entry(id).or_default());
        let is_up = self.members.get(&id).is_some_and(|member| member.replica.is_some());
        let any = !waiting.is_empty();
        for message in waiting {
            if is_up {
                self.step(id, Input::Peer(message))?;
            }
        }
        Ok(any)
    }

    fn stabilize(&mut self) -> Result<(), Box<dyn Error>> {
        const ROUNDS_MAX: usize = 1000;
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            for id in self.members.keys().copied().collect::<Vec<_>>() {
                moved |= self.deliver(id)?;
                moved |= self.ready(id)?;
            }
            moved |= self.inboxes.values().any(|inbox| !inbox.is_empty());
            if !moved {
                return Ok(());
            }
        }
        Err("the cluster does not come to rest".into())
    }

    fn tick(&mut self, id: u64) -> Result<(), Box<dyn Error>> {
        let member = self.members.get_mut(&id).ok_or("no such member")?;
        member.now += TICK_MS;
        let now = member.now;
        self.step(id, Input::Tick { now })
    }

    fn print_waiting(&mut self) -> Result<(), Box<dyn Error>> {
        for message in self.inboxes.values().flatten() {
            let PeerMessage { from, to, .. } = message;
            let text = match &message.body {
                Some(Body::Raft(bytes)) => raft_text(bytes)?,
                Some(other) => {
                    let text = format!("{other:?}");
                    text.split('(').next().unwrap_or_default().to_owned()
                }
                None => "nothing".to_owned(),
            };
            writeln!(self.out, "{from}→{to} {text}")?;
        }
        Ok(())
    }
}

/// Ids, with a star behind those that do not vote.
fn names<'a>(members: impl Iterator<Item = &'a Member>) -> String {
    let name =
        |member: &Member| format!("{}{}", member.id, if member.is_learner { "*" } else { "" });
    members.map(name).collect::<Vec<_>>().join(",")
}

fn raft_text(bytes: &[u8]) -> Result<String, Box<dyn Error>> {
    use protobuf::Message as _;
    let message = raft::eraftpb::Message::parse_from_bytes(bytes)?;
    let mut text = format!("{:?} term={}", message.get_msg_type(), message.term);
    if message.index > 0 {
        write!(text, " index={}", message.index)?;
    }
    if !message.entries.is_empty() {
        write!(text, " entries={}", message.entries.len())?;
    }
    if message.commit > 0 {
        write!(text, " commit={}", message.commit)?;
    }
    if message.reject {
        text.push_str(" reject");
    }
    Ok(text)
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(
        &mut self,
        command: &Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        match command {
            Command::Cluster { size, snapshot_count, catch_up } => {
                (self.snapshot_count, self.catch_up) = (*snapshot_count, *catch_up);
                self.founders = *size;
                for id in 1..=*size {
                    self.members.insert(id, MemberState::new());
                }
                for id in 1..=*size {
                    self.start(id)?;
                }
                self.stabilize()?;
            }
            Command::Tick { id, times } => {
                for _ in 0..*times {
                    self.tick(*id)?;
                    self.ready(*id)?;
                }
            }
            Command::Run { ticks } => {
                for _ in 0..*ticks {
                    for id in self.members.keys().copied().collect::<Vec<_>>() {
                        if self.members.get(&id).is_some_and(|member| member.replica.is_some()) {
                            self.tick(id)?;
                        }
                    }
                    self.stabilize()?;
                }
            }
            Command::Campaign { id } => {
                for _ in 0..election_ticks(*id) {
                    self.tick(*id)?;
                }
                self.stabilize()?;
            }
            Command::Put { id, key, value, lease } => {
                let request = PutRequest {
                    key: key.clone().into(),
                    value: value.clone().into(),
                    lease: *lease,
                    ..PutRequest::default()
                };
                self.propose(*id, format!("put {key}={value}"), Request::Put(request))?;
            }
            Command::Get { id, key } => {
                let request = self.ask(*id, format!("get {key}"), Some(key.clone()));
                let deadline = self.deadline(*id);
                self.step(*id, Input::Read { id: request, deadline })?;
            }
            Command::Peek { id, key } => {
                let found = self.peek(*id, key)?;
                writeln!(self.out, "{id}: {key} = {found}")?;
            }
            Command::Grant { id, lease, ttl } => {
                let request = LeaseGrantRequest { id: *lease, ttl: *ttl };
                self.propose(*id, format!("grant {lease}"), Request::LeaseGrant(request))?;
            }
            Command::Revoke { id, lease } => {
                let request = LeaseRevokeBatch { ids: vec![*lease], expired: false };
                self.propose(*id, format!("revoke {lease}"), Request::LeaseRevoke(request))?;
            }
            Command::Renew { id, lease } => {
                let request = self.ask(*id, format!("renew {lease}"), None);
                let (call, deadline) = (LeaseCall::Renew { lease: *lease }, self.deadline(*id));
                self.step(*id, Input::Lease { id: request, call, deadline })?;
            }
            Command::TimeToLive { id, lease } => {
                let request = self.ask(*id, format!("time to live {lease}"), None);
                let call = LeaseCall::TimeToLive { lease: *lease, keys: true };
                let deadline = self.deadline(*id);
                self.step(*id, Input::Lease { id: request, call, deadline })?;
            }
            Command::Stream { id, key } => self.stream(*id, key)?,
            Command::Compact { id, revision, physical } => {
                let request = CompactionRequest { revision: *revision, physical: *physical };
                let what = format!("compact {revision}");
                self.propose(*id, what, Request::Compaction(request))?;
            }
            Command::Transfer { id, to } => {
                self.step(*id, Input::TransferLeader { to: Some(MemberId(*to)) })?;
            }
            Command::Add { id, member, learner } => {
                let added = Member {
                    id: *member,
                    name: format!("m{member}"),
                    peer_ur_ls: vec![format!("http://m{member}")],
                    is_learner: *learner,
                    ..Member::default()
                };
                let request = MemberAdd { member: Some(added), learners_max: 1 };
                self.propose(*id, format!("add {member}"), Request::MemberAdd(request))?;
            }
            Command::Promote { id, member } => {
                let request = MemberChange { member_id: *member };
                self.propose(*id, format!("promote {member}"), Request::MemberPromote(request))?;
            }
            Command::Remove { id, member } => {
                let request = MemberChange { member_id: *member };
                self.propose(*id, format!("remove {member}"), Request::MemberRemove(request))?;
            }
            Command::Join { id } => {
                let now = self.members.values().map(|member| member.now).max().unwrap_or_default();
                self.members.insert(*id, MemberState { now, ..MemberState::new() });
                self.start(*id)?;
            }
            Command::Members { id } => {
                let member = self.members.get(id).and_then(|m| m.replica.as_ref()).ok_or("down")?;
                let known = member.machine().members();
                let removed: Vec<u64> = known.removed().iter().map(|id| id.0).collect();
                write!(self.out, "{id}: members={}", names(known.all().values()))?;
                writeln!(self.out, " removed={removed:?} is_out={}", member.status().is_removed)?;
            }
            Command::Ready { id } => {
                self.ready(*id)?;
                self.print_waiting()?;
            }
            Command::Deliver { id } => drop(self.deliver(*id)?),
            Command::Repeat { id } => {
                let waiting = self.inboxes.get(id).cloned().unwrap_or_default();
                self.deliver(*id)?;
                self.inboxes.insert(*id, waiting);
            }
            Command::Drop { id } => drop(self.inboxes.remove(id)),
            Command::Stabilize {} => self.stabilize()?,
            Command::Cut { from, to } => drop(self.cuts.insert((*from, *to))),
            Command::Heal {} => self.cuts.clear(),
            Command::Crash { id } => {
                let member = self.members.get_mut(id).ok_or("no such member")?;
                member.replica = None;
                member.disk.crash(CrashChoice::LoseUnsynced);
            }
            Command::Restart { id } => self.start(*id)?,
            Command::Status {} => {
                for (id, member) in &self.members {
                    let Some(replica) = &member.replica else {
                        writeln!(self.out, "{id}: down")?;
                        continue;
                    };
                    let status = replica.status();
                    let role = if status.is_leader { "leader" } else { "follower" };
                    let leader = status.leader.map_or(0, |leader| leader.0);
                    writeln!(
                        self.out,
                        "{id}: {role} term={} leader={leader} last={} commit={} applied={} revision={}",
                        status.term,
                        status.last_index,
                        status.commit_index,
                        status.applied_index,
                        replica.machine().view().revision()
                    )?;
                }
            }
        }
        Ok(std::mem::take(&mut self.out))
    }
}

#[test]
fn scripts() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/replica/testscripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        goldenscript::run(&mut Runner::default(), entry?.path())?;
        count += 1;
    }
    assert!(count > 0, "there are scripts");
    Ok(())
}
