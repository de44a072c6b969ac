//! The world of one seed: simulated time, what happens when, and the members in it.
//!
//! One thread and one queue of events; everything that could happen at the same time in several
//! processes or threads is an event of its own with a random delay, so that orders of events
//! are explored. Faults come while the clients work; then everything is mended, and the
//! members must serve again and agree.

use super::auth::Login;
use super::clients::Client;
use super::engine::EngineDisk;
use super::member::{Call, Incoming, Job, Member, Running, Stored};
use super::network::Network;
use super::oracle::Oracle;
use super::profile::{MILLI, Micros, Profile, SECOND};
use super::random::Random;
use super::watchers::Watcher;
use crate::checker::{self, History, Outcome};
use bytes::Bytes;
use quoin::pb::etcdserverpb::WatchResponse;
use quoin::pb::quoinpb::PeerMessage;
use quoin::raft_log::memory::CrashChoice;
use quoin::replica::{Effect, Input, Output, ReceivedSnapshot};
use quoin::types::{Index, MemberId};
use quoin::watch::registry::StreamId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// After the faults have ended, everything must be well within this time.
const LIVENESS_MAX: Micros = 60 * SECOND;
/// Events of one seed: far above what an honest one needs, so that an endless loop ends.
const EVENTS_MAX: u64 = 3_000_000;

/// Why a seed failed.
pub type Violation = String;

/// What happens. `boot` marks the life of a member that an event belongs to.
pub enum Event {
    Tick { member: u64, boot: u64 },
    Round { member: u64, boot: u64 },
    Message(PeerMessage),
    HandOut { member: u64, boot: u64 },
    Turn { member: u64, boot: u64, stream: StreamId },
    Flushed { member: u64, boot: u64, index: Index },
    JobStep { member: u64, boot: u64, job: u64 },
    SnapshotArrives { from: u64, boot: u64, to: u64, message: Bytes, blocks: Vec<Bytes> },
    SnapshotSent { member: u64, boot: u64, to: u64, delivered: bool },
    Start { member: u64 },
    Fault,
    Change,
    AuthChange,
    LoginArrives { member: u64, login: Login },
    PasswordChecked { member: u64, boot: u64, login: Login },
    LoggedIn { login: Login, token: Option<Arc<str>> },
    Mend,
    CallArrives { member: u64, call: Call },
    Serve { member: u64, boot: u64, call: Call },
    Chunk { member: u64, boot: u64, streaming: u64 },
    Answer { call: Call, outcome: Outcome },
    Timeout { client: usize, operation: usize },
    Next { client: usize },
    OpenWatch { watcher: usize },
    WatchArrives { watcher: usize, epoch: u64, response: Box<WatchResponse> },
    WatchWork { watcher: usize },
}

impl Event {
    /// The member whose process has to run for this to happen.
    fn process(&self) -> Option<u64> {
        match self {
            Event::Tick { member, .. }
            | Event::Round { member, .. }
            | Event::HandOut { member, .. }
            | Event::Turn { member, .. }
            | Event::Flushed { member, .. }
            | Event::JobStep { member, .. }
            | Event::Serve { member, .. }
            | Event::Chunk { member, .. }
            | Event::LoginArrives { member, .. }
            | Event::PasswordChecked { member, .. }
            | Event::CallArrives { member, .. } => Some(*member),
            _ => None,
        }
    }
}

struct Scheduled {
    at: Micros,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.sequence) == (other.at, other.sequence)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// What a seed came to, for statistics and to compare two runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub events: u64,
    pub operations: u64,
    pub answered: u64,
    pub revisions: u64,
    pub terms_led: u64,
    pub faults: u64,
    pub crashes: u64,
    pub snapshots_installed: u64,
    pub joined: u64,
    pub removed: u64,
    pub logins: u64,
    /// Writes that were refused where they were applied.
    pub denied: u64,
    pub watch_events: u64,
    pub simulated: Micros,
    /// Seeds whose history could not be checked, because nobody lived to tell of a commit.
    pub undecided: u64,
    pub digest: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Faults,
    /// All faults are over; clients still end what they began.
    Healing,
}

pub struct World {
    pub profile: Profile,
    pub now: Micros,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    pub members: Vec<Member>,
    pub network: Network,
    pub clients: Vec<Client>,
    pub watchers: Vec<Watcher>,
    pub oracle: Oracle,
    pub history: History,
    pub phase: Phase,
    pub time_random: Random,
    pub net_random: Random,
    pub fault_random: Random,
    pub work_random: Random,
    pub auth_random: Random,
    /// The last password of each user but root that the operator chose, by its number.
    pub passwords: BTreeMap<String, u64>,
    pub summary: Summary,
    trace: DefaultHasher,
    is_traced: bool,
}

impl World {
    pub fn new(seed: u64, is_traced: bool) -> Self {
        let profile = Profile::draw(seed);
        let mut clock_random = Random::new(seed, "clock");
        let members = (1..=profile.all())
            .map(|id| {
                let slow = clock_random.between(0, profile.clock_slow);
                Member::new(id, slow, id <= profile.members)
            })
            .collect();
        let mut clients: Vec<Client> = (0..profile.clients).map(Client::new).collect();
        let mut auth_random = Random::new(seed, "auth");
        if profile.with_auth {
            for client in &mut clients {
                let user = *auth_random.pick(&["root", "root", "u0", "u1", "u0", "u1", ""]);
                client.user = (!user.is_empty()).then(|| user.to_owned());
            }
        }
        let oracle = Oracle::new(profile.with_auth);
        let watchers = (0..profile.watchers).map(|_| Watcher::default()).collect();
        Self {
            profile,
            now: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            members,
            network: Network::default(),
            clients,
            watchers,
            oracle,
            history: History { second: SECOND, ..History::default() },
            phase: Phase::Faults,
            time_random: Random::new(seed, "time"),
            net_random: Random::new(seed, "network"),
            fault_random: Random::new(seed, "fault"),
            work_random: Random::new(seed, "work"),
            auth_random,
            passwords: BTreeMap::new(),
            summary: Summary::default(),
            trace: DefaultHasher::new(),
            is_traced,
        }
    }

    /// Runs the seed to its end and checks what the clients saw.
    pub fn run(mut self) -> Result<Summary, Violation> {
        self.trace(|world| format!("{:?}", world.profile));
        for id in 1..=self.profile.members {
            let delay = self.time_random.between(0, 300 * MILLI);
            self.after(delay, Event::Start { member: id });
        }
        for client in 0..self.clients.len() {
            let delay = self.work_random.between(0, SECOND);
            self.after(delay, Event::Next { client });
        }
        for watcher in 0..self.watchers.len() {
            let delay = self.work_random.between(0, 3 * SECOND);
            self.after(delay, Event::OpenWatch { watcher });
        }
        self.after_fault();
        self.after_change();
        self.after_auth_change();
        self.run_until(self.profile.duration, |_| false)?;
        self.heal();
        let end = self.now + LIVENESS_MAX;
        if !self.run_until(end, Self::is_well)? {
            return Err(format!("not well {} s after the last fault: {}", 60, self.complaint()));
        }
        self.check_end()?;
        Ok(self.summary)
    }

    /// Handles events until a time, or until `done`; returns whether it was done.
    fn run_until(&mut self, end: Micros, done: impl Fn(&Self) -> bool) -> Result<bool, Violation> {
        while let Some(Reverse(next)) = self.queue.pop() {
            if next.at > end {
                self.now = end;
                self.queue.push(Reverse(next));
                return Ok(false);
            }
            self.now = next.at;
            self.summary.events += 1;
            if self.summary.events > EVENTS_MAX {
                return Err("there is no end of events".to_owned());
            }
            let is_tick = matches!(next.event, Event::Tick { .. });
            self.handle(next.event)?;
            if is_tick && done(self) {
                return Ok(true);
            }
        }
        Ok(done(self))
    }

    pub fn after(&mut self, delay: Micros, event: Event) {
        self.sequence += 1;
        let scheduled = Scheduled { at: self.now + delay, sequence: self.sequence, event };
        self.queue.push(Reverse(scheduled));
    }

    /// Notes a step in the digest of the run, and shows it when the run is traced.
    pub fn trace(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.is_traced {
            let text = text(self);
            println!("{:>12} {text}", self.now);
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        (self.now, std::mem::discriminant(&event)).hash(&mut self.trace);
        if let Some(id) = event.process() {
            let pause = self.member(id).paused_until.saturating_sub(self.now);
            if pause > 0 {
                // So one tick comes after a pause, not all that were missed.
                self.after(pause, event);
                return Ok(());
            }
        }
        match event {
            Event::Tick { member, boot } => self.tick(member, boot),
            Event::Round { member, boot } => self.round(member, boot)?,
            Event::Message(message) => self.message(message),
            Event::HandOut { member, boot } => self.hand_out(member, boot),
            Event::Turn { member, boot, stream } => self.turn(member, boot, stream)?,
            Event::Flushed { member, boot, index } => {
                if self.is_alive(member, boot) {
                    self.member(member).engine_disk.flush(usize::MAX);
                    self.input(member, Input::Persisted { index, bytes: 0 });
                }
            }
            Event::JobStep { member, boot, job } => self.job_step(member, boot, job)?,
            Event::SnapshotArrives { from, boot, to, message, blocks } => {
                self.snapshot_arrives(from, boot, to, message, blocks)?;
            }
            Event::SnapshotSent { member, boot, to, delivered } => {
                if self.is_alive(member, boot) {
                    let to = MemberId(to);
                    self.input(member, Input::SnapshotSent { to, delivered });
                }
            }
            Event::Start { member } => self.start(member)?,
            Event::Fault => self.fault(),
            Event::Change => self.change(),
            Event::AuthChange => self.change_auth(),
            Event::LoginArrives { member, login } => self.login_arrives(member, login),
            Event::PasswordChecked { member, boot, login } => {
                self.password_checked(member, boot, login);
            }
            Event::LoggedIn { login, token } => self.logged_in(login, token),
            Event::Mend => self.network.mend(),
            Event::CallArrives { member, call } => self.call_arrives(member, call)?,
            Event::Serve { member, boot, call } => self.serve(member, boot, call)?,
            Event::Chunk { member, boot, streaming } => self.chunk(member, boot, streaming)?,
            Event::Answer { call, outcome } => self.answer(call, outcome),
            Event::Timeout { client, operation } => self.timeout(client, operation),
            Event::Next { client } => self.next(client),
            Event::OpenWatch { watcher } => self.open_watch(watcher),
            Event::WatchArrives { watcher, epoch, response } => {
                self.watch_arrives(watcher, epoch, *response)?;
            }
            Event::WatchWork { watcher } => self.watch_work(watcher),
        }
        Ok(())
    }

    pub fn member(&mut self, id: u64) -> &mut Member {
        &mut self.members[id as usize - 1]
    }

    pub fn running(&mut self, id: u64) -> Option<&mut Running> {
        self.members[id as usize - 1].running.as_mut()
    }

    pub fn is_alive(&self, id: u64, boot: u64) -> bool {
        let member = &self.members[id as usize - 1];
        member.boot == boot && member.running.is_some()
    }

    fn start(&mut self, id: u64) -> Result<(), Violation> {
        if self.running(id).is_some() || !self.member(id).may_start {
            return Ok(());
        }
        let ticks = self.profile.election_ticks as u64;
        let election_ticks = self.time_random.between(ticks, 2 * ticks - 1) as usize;
        let (profile, now) = (self.profile.clone(), self.now);
        let member = self.member(id);
        member.start(&profile, now, election_ticks).map_err(|e| format!("start {id}: {e}"))?;
        let boot = member.boot;
        let Some(running) = &self.members[id as usize - 1].running else { return Ok(()) };
        self.oracle.found(id, running)?;
        self.oracle.check_state(id, running)?;
        self.trace(|_| format!("{id} starts, life {boot}, election after {election_ticks} ticks"));
        self.input(id, Input::Tick { now: 0 });
        let tick = self.tick_length(id);
        self.after(tick, Event::Tick { member: id, boot });
        self.wake(id);
        Ok(())
    }

    fn tick_length(&mut self, id: u64) -> Micros {
        let slow = self.member(id).clock_slow;
        self.profile.tick * 1000 / (1000 - slow)
    }

    fn tick(&mut self, id: u64, boot: u64) {
        if !self.is_alive(id, boot) {
            return;
        }
        let now = self.now;
        let local = self.member(id).local(now);
        self.input(id, Input::Tick { now: local });
        self.probe(id);
        if self.profile.with_auth {
            self.expire_tokens(id);
        }
        let tick = self.tick_length(id);
        self.after(tick, Event::Tick { member: id, boot });
    }

    /// Puts an input into a member's queue, which drops it when full, as the driver's does for
    /// what may be dropped.
    pub fn input(&mut self, id: u64, input: Input) {
        let inbox_max = self.profile.inbox_max;
        let Some(running) = self.running(id) else { return };
        let may_be_dropped = matches!(input, Input::Peer(_) | Input::Unreachable(_));
        if may_be_dropped && running.inbox.len() >= inbox_max {
            return;
        }
        running.inbox.push_back(input);
        self.wake(id);
    }

    /// Lets the member have a round soon.
    pub fn wake(&mut self, id: u64) {
        let member = self.member(id);
        let boot = member.boot;
        let Some(running) = &mut member.running else { return };
        if std::mem::replace(&mut running.round_is_due, true) {
            return;
        }
        let delay = self.time_random.skewed(10, 2 * MILLI);
        self.after(delay, Event::Round { member: id, boot });
    }

    /// One turn of the driver: some inputs, then one round.
    fn round(&mut self, id: u64, boot: u64) -> Result<(), Violation> {
        if !self.is_alive(id, boot) {
            return Ok(());
        }
        let taken = self.time_random.between(1, 20) as usize;
        let now = self.now;
        let local = self.member(id).local(now);
        let Some(running) = self.running(id) else { return Ok(()) };
        running.round_is_due = false;
        for _ in 0..taken {
            let input = match running.inbox.pop_front() {
                // The driver looks at its clock when it does it.
                Some(Input::Tick { .. }) => Input::Tick { now: local },
                Some(input) => input,
                None => break,
            };
            running.replica.step(input);
        }
        running.replica.clock(local);
        let mut early = Vec::new();
        let result = running.replica.ready(&mut |message| early.push(message));
        let has_more = !running.inbox.is_empty();
        running.reads_at_once = running.replica.status().reads_at_once;
        early.into_iter().try_for_each(|message| self.send(message))?;
        match result {
            Ok(output) => {
                let again = output.again || has_more;
                let members_changed = output.members_changed;
                self.perform(id, output)?;
                if members_changed {
                    self.members_changed(id);
                }
                if let Some(running) = &mut self.members[id as usize - 1].running {
                    self.oracle.look(id, running)?;
                }
                if again {
                    self.wake(id);
                }
                self.leave_if_removed(id);
                Ok(())
            }
            Err(_) if self.dies_by_plan(id) => {
                self.crash(id);
                Ok(())
            }
            Err(fatal) => Err(format!("member {id} stops: {fatal}")),
        }
    }

    /// Whether the member's failure was brought about on purpose.
    fn dies_by_plan(&mut self, id: u64) -> bool {
        let member = self.member(id);
        std::mem::take(&mut member.is_doomed)
    }

    pub fn send(&mut self, message: PeerMessage) -> Result<(), Violation> {
        let from = message.from;
        self.member(from).promise(&message)?;
        let arriving = self.network.send(message, &self.profile, &mut self.net_random);
        for (delay, message) in arriving {
            self.after(delay, Event::Message(message));
        }
        Ok(())
    }

    fn message(&mut self, message: PeerMessage) {
        let (from, to) = (message.from, message.to);
        if self.network.is_cut(from, to) {
            return;
        }
        if self.running(to).is_some() {
            self.input(to, Input::Peer(message));
        } else if self.time_random.chance(200) {
            self.input(from, Input::Unreachable(MemberId(to)));
        }
    }

    fn perform(&mut self, id: u64, output: Output) -> Result<(), Violation> {
        let boot = self.member(id).boot;
        output.messages.into_iter().try_for_each(|message| self.send(message))?;
        let mut woken = Vec::new();
        if let Some(running) = &mut self.members[id as usize - 1].running {
            if output.restored {
                self.summary.snapshots_installed += 1;
                // Entries behind the snapshot may have been applied in the same round.
                let first = output.commits.first().map(|commit| commit.revision - 1);
                running.revision = first.unwrap_or_else(|| running.view.revision());
                woken = running.hub.restored();
            }
            for commit in &output.commits {
                if self.is_traced {
                    println!("{:>12} {id} applies {commit:?}", self.now);
                }
                self.oracle.commit(id, running, commit.clone())?;
            }
            running.hub.publish(output.commits);
        }
        for stream in woken {
            self.after(0, Event::Turn { member: id, boot, stream });
        }
        if self.running(id).is_some_and(|running| running.hub.has_arrivals()) {
            let delay = self.time_random.skewed(5, 5 * MILLI);
            self.after(delay, Event::HandOut { member: id, boot });
        }
        for (request, reply) in output.replies {
            if self.profile.with_auth {
                self.oracle.rights.replied(request, &reply);
            }
            self.reply(id, boot, request, reply)?;
        }
        for effect in output.effects {
            self.start_effect(id, boot, effect);
        }
        Ok(())
    }

    fn start_effect(&mut self, id: u64, boot: u64, effect: Effect) {
        let (capture, to) = match effect {
            Effect::Flush { index } => {
                let delay = self.time_random.skewed(MILLI, 500 * MILLI);
                return self.after(delay, Event::Flushed { member: id, boot, index });
            }
            Effect::StoreSnapshot(capture) => (capture, None),
            Effect::SendSnapshot { to, message, capture } => (capture, Some((to.0, message))),
        };
        let Some(running) = self.running(id) else { return };
        running.next_job += 1;
        let job = running.next_job;
        running.jobs.insert(job, Job { capture, blocks: Vec::new(), to });
        let delay = self.time_random.skewed(100, 50 * MILLI);
        self.after(delay, Event::JobStep { member: id, boot, job });
    }

    /// Reads one more block of a state, or does with it what it was read for.
    fn job_step(&mut self, id: u64, boot: u64, number: u64) -> Result<(), Violation> {
        if !self.is_alive(id, boot) {
            return Ok(());
        }
        let bytes_max = self.time_random.skewed(64, 8192) as usize;
        let Some(running) = self.running(id) else { return Ok(()) };
        let Some(job) = running.jobs.get_mut(&number) else { return Ok(()) };
        let block = job.capture.next_block(bytes_max).map_err(|e| format!("member {id}: {e}"))?;
        if let Some(block) = block {
            job.blocks.push(block);
            let delay = self.time_random.skewed(100, 50 * MILLI);
            self.after(delay, Event::JobStep { member: id, boot, job: number });
            return Ok(());
        }
        let Some(Job { capture, blocks, to }) = running.jobs.remove(&number) else { return Ok(()) };
        match to {
            None => {
                let (index, term) = (capture.index, capture.term);
                let bytes = blocks.iter().map(|block| block.len() as u64).sum();
                self.member(id).shelf.put(Stored { index, term, blocks });
                self.input(id, Input::Persisted { index, bytes });
            }
            Some((to, message)) => {
                let delay = self.network.delay(&self.profile, &mut self.net_random);
                let event = Event::SnapshotArrives { from: id, boot, to, message, blocks };
                self.after(delay, event);
            }
        }
        Ok(())
    }

    fn snapshot_arrives(
        &mut self,
        from: u64,
        boot: u64,
        to: u64,
        message: Bytes,
        blocks: Vec<Bytes>,
    ) -> Result<(), Violation> {
        let arrives = self.is_alive(from, boot)
            && self.running(to).is_some()
            && !self.network.is_cut(from, to)
            && (self.phase == Phase::Healing || !self.net_random.chance(self.profile.loss));
        if arrives {
            let raft: raft::eraftpb::Message =
                protobuf::Message::parse_from_bytes(&message).map_err(|e| e.to_string())?;
            let metadata = raft.get_snapshot().get_metadata();
            let stored = Stored { index: metadata.index, term: metadata.term, blocks };
            let incoming = Incoming {
                shelf: self.member(to).shelf.clone(),
                is_volatile: self.profile.is_volatile,
                stored,
                next: 0,
            };
            let snapshot = ReceivedSnapshot { message, blocks: Box::new(incoming) };
            self.input(to, Input::SnapshotReceived(snapshot));
            self.doom_install(to);
        }
        // The answer can get lost although the snapshot has arrived.
        let is_told = arrives && !self.network.is_cut(to, from);
        let delay = self.network.delay(&self.profile, &mut self.net_random);
        self.after(delay, Event::SnapshotSent { member: from, boot, to, delivered: is_told });
        Ok(())
    }

    /// The member's process ends now, and its disks lose what they may lose.
    pub fn crash(&mut self, id: u64) {
        let random = &mut self.fault_random;
        let member = &mut self.members[id as usize - 1];
        let Some(running) = member.running.take() else { return };
        let keep = |random: &mut Random, unsynced: usize| match random.below(3) {
            0 => 0,
            1 => unsynced,
            _ => random.below(unsynced as u64 + 1) as usize,
        };
        let groups = keep(random, member.log_disk.unsynced_groups());
        member.log_disk.crash(CrashChoice::KeepGroups(groups));
        let disk: &EngineDisk = &member.engine_disk;
        disk.crash(keep(random, disk.unflushed()));
        member.is_doomed = false;
        member.paused_until = 0;
        let delay = random.skewed(MILLI, 5 * SECOND);
        self.summary.crashes += 1;
        self.trace(|_| format!("{id} crashes, {groups} unsynced groups stay"));
        self.after(delay, Event::Start { member: id });
        let streaming = running.streaming.into_values().map(|streaming| streaming.call);
        for call in running.calls.into_values().chain(streaming) {
            self.after(MILLI, Event::Answer { call, outcome: Outcome::Unknown });
        }
        self.watches_end(id);
    }

    /// Ends all faults for good.
    fn heal(&mut self) {
        self.trace(|_| "all faults end".to_owned());
        self.phase = Phase::Healing;
        self.network.heal();
        for id in 1..=self.profile.all() {
            let member = self.member(id);
            if member.is_doomed {
                // The failure to come would be one.
                self.crash(id);
            }
            self.member(id).paused_until = 0;
            self.wake(id);
            self.after(0, Event::Start { member: id });
        }
    }

    fn is_well(&self) -> bool {
        self.complaint().is_empty()
    }

    /// What is not well yet; empty when all is.
    fn complaint(&self) -> String {
        let mut applied = Vec::new();
        let current = self.current_members();
        for member in &self.members {
            if !current.contains(&member.id) {
                match member.running {
                    Some(_) => {
                        return format!("member {} does not know that it was removed", member.id);
                    }
                    None => continue,
                }
            }
            let Some(running) = &member.running else {
                return format!("member {} is down", member.id);
            };
            let status = running.replica.status();
            if status.leader.is_none() {
                let configuration = running.replica.machine().configuration();
                return format!(
                    "member {} knows no leader: {status:?}, {configuration:?}",
                    member.id
                );
            }
            if let Some(call) = running.calls.values().next() {
                return format!("member {} has not answered {call:?}", member.id);
            }
            if !running.hub.is_settled() {
                return format!("watches of member {} are behind", member.id);
            }
            applied.push((status.applied_index, status.last_index));
        }
        if applied.iter().any(|indexes| *indexes != (applied[0].0, applied[0].0)) {
            return format!("members have applied and logged {applied:?}");
        }
        let busy = self.clients.iter().position(|client| !client.is_done());
        if let Some(client) = busy {
            return format!("client {client} has not ended");
        }
        match self.watchers.iter().position(|watcher| !watcher.is_settled()) {
            Some(watcher) => format!("watcher {watcher} has not come to rest"),
            None => String::new(),
        }
    }

    fn check_end(&mut self) -> Result<(), Violation> {
        let mut revision = 0;
        for member in &self.members {
            if let Some(running) = &member.running {
                self.oracle.check_state(member.id, running)?;
                revision = running.view.revision();
            }
        }
        for watcher in &mut self.watchers {
            watcher.finish(revision, &mut self.history);
        }
        let summary = &mut self.summary;
        summary.simulated = self.now;
        summary.terms_led = self.oracle.terms_led() as u64;
        summary.revisions = revision as u64;
        summary.logins = self.oracle.rights.logins;
        summary.denied = self.oracle.rights.refused;
        summary.operations = self.history.operations.len() as u64;
        summary.answered =
            self.history.operations.iter().filter(|o| o.answer().is_some()).count() as u64;
        summary.watch_events = self
            .history
            .watches
            .iter()
            .flat_map(|watch| &watch.responses)
            .map(|response| response.events.len() as u64)
            .sum();
        summary.digest = self.trace.finish();
        match self.oracle.history() {
            Some(commits) => self.history.commits = commits,
            None => {
                summary.undecided = 1;
                return Ok(());
            }
        }
        match checker::check(&self.history).first() {
            Some(violation) => Err(format!("{violation:?}")),
            None => Ok(()),
        }
    }
}
