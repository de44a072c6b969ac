//! One simulated scheduler: two leaders-to-be, some workers, a store, and a network between them
//! that loses, delays and reorders; all in one thread, the same for the same seed.

use super::ledger::Ledger;
use super::load::{self, Load};
use super::store::Store;
use crate::random::Random;
use quoin::scheduler::agent::{self, Agent, Task};
use quoin::scheduler::coordinator::{self, Control, Coordinator, OpenedRun, TxnNo, WorkerInfo};
use quoin::scheduler::keys;
use quoin::scheduler::model::{Claim, Row, Status};
use quoin::scheduler::planner::LaneId;
use quoin::scheduler::record::verdict;
use quoin::scheduler::store::{Commit, Compare, Kv, Op, Outcome, Txn};
use std::collections::BTreeMap;
use std::sync::Arc;

const LEADER_TTL: u64 = 2_000;
const WORKER_TTL: u64 = 5_000;
/// Faults stop then, and all must be done so long afterwards.
const FAULTS_MS: u64 = 60_000;
const CALM_MS: u64 = 7_200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proc {
    Leader(usize),
    Worker(usize),
}

#[derive(Clone, Debug)]
enum Event {
    /// A transaction comes to the store. Whoever sent it may have given up on it.
    Arrive {
        from: Proc,
        life: u64,
        no: TxnNo,
        txn: Txn,
        is_answered: bool,
    },
    Answer {
        to: Proc,
        life: u64,
        no: TxnNo,
        outcome: Outcome,
    },
    /// A watch brings what there is.
    Watch {
        to: Proc,
        life: u64,
        which: usize,
    },
    Wake {
        who: Proc,
        life: u64,
    },
    Lease {
        who: Proc,
        life: u64,
    },
    /// A run is read; what was read comes back later.
    ReadRun {
        to: Proc,
        life: u64,
        run: String,
    },
    RunRead {
        to: Proc,
        life: u64,
        run: String,
        kvs: Vec<Kv>,
    },
    /// Somebody cancels what was submitted just now.
    Cancel {
        run: String,
    },
    EndedRead {
        to: Proc,
        life: u64,
        run: String,
    },
    DraftsRead {
        to: Proc,
        life: u64,
    },
    TaskEnds {
        worker: usize,
        life: u64,
        task: Task,
    },
    Fault,
    Start {
        who: Proc,
    },
    Expire,
    Client,
}

struct Leader {
    life: u64,
    lease: i64,
    key: String,
    coordinator: Option<Coordinator>,
    watched: i64,
}

/// A watch of a worker, on a member that may be behind.
#[derive(Clone, Copy, Default)]
struct WorkerWatch {
    watched: i64,
    /// Milliseconds after which it brings a commit, at least.
    lag: u64,
}

struct Worker {
    life: u64,
    lease: i64,
    agent: Option<Agent>,
    /// Of its claims, and of its commands.
    watches: [WorkerWatch; 2],
    running: BTreeMap<Task, (u32, Status, u64)>,
    /// Of each claim that it was given.
    runs: BTreeMap<Arc<str>, String>,
    fenced_at: Option<u64>,
    was_paused: bool,
}

pub struct World {
    pub now: u64,
    pub store: Store,
    pub ledger: Ledger,
    random: Random,
    network: Random,
    lags: Random,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    leaders: Vec<Leader>,
    workers: Vec<Worker>,
    paused: BTreeMap<Proc, u64>,
    /// The next time that each process is woken.
    wakes: BTreeMap<Proc, (u64, u64)>,
    /// Who began each attempt, and the fence.
    begun: BTreeMap<(String, u32, u32, u32), (usize, i64)>,
    /// When each commit was made.
    committed: Vec<u64>,
    broken: Option<String>,
    load: Load,
    checked: usize,
    capacity: u32,
    losing: u64,
    keep_runs: usize,
    trace: bool,
    pub crashes: u64,
    pub faults: u64,
    pub terms: u64,
    pub handled: u64,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed, "scheduler");
        let workers = random.between(1, 5) as usize;
        let capacity = random.between(1, 4) as u32;
        let losing = random.skewed(0, 200);
        let mut world = Self {
            now: 1_000_000,
            store: Store::default(),
            ledger: Ledger::default(),
            network: Random::new(seed, "network"),
            lags: Random::new(seed, "lags"),
            events: BTreeMap::new(),
            count: 0,
            leaders: Vec::new(),
            workers: Vec::new(),
            paused: BTreeMap::new(),
            wakes: BTreeMap::new(),
            begun: BTreeMap::new(),
            committed: Vec::new(),
            broken: None,
            load: Load::new(seed, capacity),
            keep_runs: random.below(4) as usize,
            checked: 0,
            capacity,
            losing,
            random,
            trace,
            crashes: 0,
            faults: 0,
            terms: 0,
            handled: 0,
        };
        for place in 0..2 {
            let leader =
                Leader { life: 0, lease: 0, key: String::new(), coordinator: None, watched: 0 };
            world.leaders.push(leader);
            world.after(place as u64 * 50, Event::Start { who: Proc::Leader(place) });
        }
        for place in 0..workers {
            world.workers.push(Worker {
                life: 0,
                lease: 0,
                agent: None,
                watches: Default::default(),
                running: BTreeMap::new(),
                runs: BTreeMap::new(),
                fenced_at: None,
                was_paused: false,
            });
            world.after(place as u64 * 10, Event::Start { who: Proc::Worker(place) });
        }
        for txn in world.load.begin(&mut world.ledger) {
            world.store.txn(&txn);
        }
        world.after(100, Event::Expire);
        world.after(10, Event::Client);
        world.after(1_000, Event::Fault);
        world
    }

    fn after(&mut self, delay: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + delay, self.count), event);
    }

    fn is_stormy(&self) -> bool {
        self.now < 1_000_000 + FAULTS_MS
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now - 1_000_000, text());
        }
    }

    pub fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = self.now.max(at);
            self.handled += 1;
            if self.defer(&event) {
                continue;
            }
            self.happen(event);
            self.check()?;
            if let Some(text) = self.broken.take() {
                return Err(text);
            }
            if !self.is_stormy() && self.load.is_done() && self.is_calm() {
                return self.ledger.past.check_rolled(&self.ledger.runs);
            }
            if self.now > 1_000_000 + FAULTS_MS + CALM_MS {
                let open: Vec<_> = self.store.below(keys::OPEN).map(|kv| kv.key.clone()).collect();
                let claims = self.ledger.open_claims();
                let waits = self.waits(&open);
                return Err(format!(
                    "not done {CALM_MS} ms after the last fault: {open:?}, {claims} claims:\n{waits}"
                ));
            }
        }
        Err("nothing happens any more".into())
    }

    /// Why lanes of open runs do not go on, as leaders see it.
    fn waits(&self, open: &[String]) -> String {
        let mut text = String::new();
        for coordinator in self.leaders.iter().filter_map(|leader| leader.coordinator.as_ref()) {
            for run in open.iter().map(|key| &key[keys::OPEN.len()..]) {
                let Some(number) = coordinator.run_number(run) else { continue };
                for lane in 0.. {
                    let id = LaneId { run: number, lane };
                    let Some(why) = coordinator.planner().why(id) else { break };
                    text.push_str(&format!("{run} lane {lane}: {why:?}\n"));
                }
            }
        }
        text
    }

    fn is_calm(&self) -> bool {
        self.store.below(keys::OPEN).next().is_none()
            && self.store.below(keys::CLAIMS).next().is_none()
            && !self.ledger.is_tag_held()
            && self.store.below(keys::ROLLS).next().is_none()
            && (self.keep_runs == 0 || self.store.below(keys::ENDED).count() <= self.keep_runs)
    }

    /// What comes to a paused process waits until it goes on.
    fn defer(&mut self, event: &Event) -> bool {
        let who = match event {
            Event::Answer { to, .. }
            | Event::Watch { to, .. }
            | Event::RunRead { to, .. }
            | Event::EndedRead { to, .. }
            | Event::DraftsRead { to, .. } => *to,
            Event::Wake { who, .. } | Event::Lease { who, .. } => *who,
            Event::TaskEnds { worker, .. } => Proc::Worker(*worker),
            Event::Arrive { .. }
            | Event::ReadRun { .. }
            | Event::Cancel { .. }
            | Event::Fault
            | Event::Start { .. }
            | Event::Expire
            | Event::Client => {
                return false;
            }
        };
        match self.paused.get(&who) {
            Some(until) if *until > self.now => {
                let delay = until - self.now;
                self.after(delay, event.clone());
                true
            }
            _ => false,
        }
    }

    fn check(&mut self) -> Result<(), String> {
        while let Some(commit) = self.store.history.get(self.checked) {
            if self.trace {
                for change in &commit.changes {
                    println!("{:>8} {}: {}", self.now - 1_000_000, commit.revision, short(change));
                }
            }
            self.ledger.take_in(self.now, commit)?;
            self.committed.push(self.now);
            self.checked += 1;
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, life, no, txn, is_answered } => {
                let outcome = self.store.txn(&txn);
                if is_answered {
                    let delay = self.network.skewed(1, 50);
                    self.after(delay, Event::Answer { to: from, life, no, outcome });
                }
            }
            Event::Answer { to, life, no, outcome } => self.answer(to, life, no, &outcome),
            Event::Watch { to, life, which } => self.watch(to, life, which),
            Event::Wake { who, life } => self.wake(who, life),
            Event::Lease { who, life } => self.keep_alive(who, life),
            Event::ReadRun { to, life, run } => {
                let mut kvs: Vec<Kv> = self.store.below(&keys::run_parts(&run)).cloned().collect();
                kvs.extend(self.store.kvs.get(&keys::run(&run)).cloned());
                kvs.extend(self.store.below(&keys::segments(&run)).cloned());
                let delay = self.network.skewed(1, 50);
                self.after(delay, Event::RunRead { to, life, run, kvs });
            }
            Event::Cancel { run } if !self.store.kvs.contains_key(&keys::open(&run)) => {}
            Event::Cancel { run } => {
                let outcome = self.store.txn(&load::control(&run, Control::Canceled));
                assert!(
                    matches!(outcome, Outcome::Committed { .. }),
                    "a client's write is refused"
                );
            }
            Event::RunRead { to: Proc::Leader(place), life, run, kvs } => {
                let now = self.now;
                let leader = &mut self.leaders[place];
                if leader.life == life
                    && let Some(coordinator) = &mut leader.coordinator
                {
                    let mut kvs = kvs;
                    let opened = OpenedRun::take(&run, &mut kvs);
                    coordinator.run_read(now, &run, opened, &kvs);
                    self.work(Proc::Leader(place));
                }
            }
            Event::EndedRead { to: Proc::Leader(place), life, run } => {
                let block = self.store.below(&keys::blocks(&run)).count() as u32;
                // Few, so that a run has several blocks.
                let kvs: Vec<Kv> =
                    self.store.below(&keys::segments(&run)).take(5).cloned().collect();
                let leader = &mut self.leaders[place];
                if leader.life == life
                    && let Some(coordinator) = &mut leader.coordinator
                {
                    coordinator.ended_read(&run, block, &kvs);
                    self.work(Proc::Leader(place));
                }
            }
            Event::DraftsRead { to: Proc::Leader(place), life } => {
                let kvs: Vec<Kv> = self.store.below(keys::RUNS).cloned().collect();
                let leader = &mut self.leaders[place];
                if leader.life == life
                    && let Some(coordinator) = &mut leader.coordinator
                {
                    coordinator.drafts_read(coordinator::drafts(&kvs));
                    self.work(Proc::Leader(place));
                }
            }
            Event::RunRead { .. } | Event::EndedRead { .. } | Event::DraftsRead { .. } => {}
            Event::TaskEnds { worker, life, task } => self.task_ends(worker, life, &task),
            Event::Fault => self.fault(),
            Event::Start { who } => self.start(who),
            Event::Expire => {
                self.store.expire(self.now);
                self.after(100, Event::Expire);
            }
            Event::Client => self.client(),
        }
    }

    fn life(&self, who: Proc) -> u64 {
        match who {
            Proc::Leader(place) => self.leaders[place].life,
            Proc::Worker(place) => self.workers[place].life,
        }
    }

    // ---- leaders

    fn start(&mut self, who: Proc) {
        match who {
            Proc::Leader(place) => {
                let lease = self.store.grant(self.now, LEADER_TTL);
                let key = keys::leader(lease);
                let put = Op::Put { key: key.clone(), value: Vec::new(), lease };
                self.store.txn(&Txn { then: vec![put], ..Default::default() });
                let leader = &mut self.leaders[place];
                (leader.lease, leader.key, leader.coordinator) = (lease, key, None);
                leader.life += 1;
                let life = leader.life;
                self.after(1, Event::Wake { who, life });
                self.after(LEADER_TTL / 3, Event::Lease { who, life });
            }
            Proc::Worker(place) => self.register(place),
        }
    }

    /// Leads if its key is the oldest.
    fn maybe_lead(&mut self, place: usize) {
        let leader = &self.leaders[place];
        let first = self.store.below(keys::LEADERS).min_by_key(|kv| kv.create_revision);
        let life = leader.life;
        match first {
            Some(first) if first.key == leader.key => self.take_over(place),
            _ if self.store.kvs.contains_key(&leader.key) => {
                let delay = self.random.between(50, 200);
                self.after(delay, Event::Wake { who: Proc::Leader(place), life });
            }
            // Its lease has ended.
            _ => self.start(Proc::Leader(place)),
        }
    }

    /// Writes its key anew, so that no transaction of before can happen any more, and reads all.
    fn take_over(&mut self, place: usize) {
        let leader = &mut self.leaders[place];
        let (key, lease) = (leader.key.clone(), leader.lease);
        let Some(known) = self.store.kvs.get(&key) else { return self.start(Proc::Leader(place)) };
        let created = Compare::CreatedAt(key.clone(), known.create_revision);
        let put = Op::Put { key: key.clone(), value: Vec::new(), lease };
        let txn = Txn { compares: vec![created], then: vec![put], ..Default::default() };
        let Outcome::Committed { revision } = self.store.txn(&txn) else {
            return self.start(Proc::Leader(place));
        };
        let kvs = self.store.below(keys::PREFIX).chain(self.store.below(keys::ENVIRONMENTS));
        let kvs: Vec<Kv> = kvs.cloned().collect();
        let settings = coordinator::Settings { keep_runs: self.keep_runs, ..Default::default() };
        let coordinator = Coordinator::load(self.now, settings, (key, revision), &kvs, revision);
        self.terms += 1;
        self.say(|| format!("leader {place} takes over at {revision}"));
        let leader = &mut self.leaders[place];
        leader.coordinator = Some(coordinator);
        leader.watched = revision;
        leader.life += 1;
        let life = leader.life;
        let who = Proc::Leader(place);
        self.after(LEADER_TTL / 3, Event::Lease { who, life });
        self.after(5, Event::Watch { to: who, life, which: 0 });
        self.work(who);
    }

    // ---- workers

    fn register(&mut self, place: usize) {
        let name = format!("w{place}");
        let lease = self.store.grant(self.now, WORKER_TTL);
        let info = WorkerInfo {
            labels: self.load.labels(place),
            max_task_num: self.capacity,
            prefetch: 4,
            ..Default::default()
        };
        let key = keys::worker(&name);
        let value = serde_json::to_vec(&info).unwrap();
        let txn = Txn {
            compares: vec![Compare::Absent(key.clone())],
            then: vec![Op::Put { key, value, lease }],
            otherwise: Vec::new(),
        };
        let Outcome::Committed { revision } = self.store.txn(&txn) else {
            // Its former self is still there.
            self.after(500, Event::Start { who: Proc::Worker(place) });
            return;
        };
        let settings = agent::Settings { capacity: self.capacity, ..Default::default() };
        let worker = &mut self.workers[place];
        worker.life += 1;
        worker.lease = lease;
        worker.running.clear();
        worker.fenced_at = None;
        worker.was_paused = false;
        for watch in &mut worker.watches {
            let lag_max = if self.lags.chance(400) { 2_000 } else { 0 };
            *watch = WorkerWatch { watched: revision, lag: self.lags.skewed(0, lag_max) };
        }
        worker.agent = Some(Agent::new(&name, revision, settings, self.now + WORKER_TTL));
        let (who, life) = (Proc::Worker(place), worker.life);
        self.after(WORKER_TTL / 3, Event::Lease { who, life });
        for which in 0..2 {
            self.after(1, Event::Watch { to: who, life, which });
        }
    }

    fn task_ends(&mut self, place: usize, life: u64, task: &Task) {
        let now = self.now;
        let worker = &mut self.workers[place];
        if worker.life != life {
            return;
        }
        let Some((attempt, status, start)) = worker.running.remove(task) else { return };
        let Some(agent) = &mut worker.agent else { return };
        let (lane, ordinal) = (task.lane, task.ordinal);
        let duration = (now - start) * 1_000;
        agent.finished(
            now,
            task,
            Row { lane, ordinal, attempt, status, start, duration, detail: None },
        );
        self.work(Proc::Worker(place));
    }

    // ---- both

    fn keep_alive(&mut self, who: Proc, life: u64) {
        if self.life(who) != life {
            return;
        }
        let sent = self.now;
        let lease = match who {
            Proc::Leader(place) => self.leaders[place].lease,
            Proc::Worker(place) => self.workers[place].lease,
        };
        let is_lost = self.is_stormy() && self.network.chance(self.losing);
        let is_alive = is_lost || self.store.keep_alive(self.now, lease);
        match who {
            Proc::Leader(place) if !is_alive => {
                self.leaders[place].coordinator = None;
                self.start(who);
            }
            Proc::Leader(_) => self.after(LEADER_TTL / 3, Event::Lease { who, life }),
            Proc::Worker(place) => {
                if !is_lost
                    && is_alive
                    && let Some(agent) = &mut self.workers[place].agent
                {
                    agent.lease_renewed(sent + WORKER_TTL);
                }
                self.after(WORKER_TTL / 3, Event::Lease { who, life });
                self.work(who);
            }
        }
    }

    fn wake(&mut self, who: Proc, life: u64) {
        if self.life(who) != life {
            return;
        }
        let now = self.now;
        match who {
            Proc::Leader(place) => match &mut self.leaders[place].coordinator {
                Some(coordinator) => coordinator.tick(now),
                None => return self.maybe_lead(place),
            },
            Proc::Worker(place) => match &mut self.workers[place].agent {
                Some(agent) => agent.tick(now),
                None => return,
            },
        }
        self.work(who);
    }

    fn watch(&mut self, to: Proc, life: u64, which: usize) {
        if self.life(to) != life {
            return;
        }
        let now = self.now;
        let (watched, revision) = match to {
            Proc::Leader(place) => (self.leaders[place].watched, self.store.revision),
            Proc::Worker(place) => {
                let WorkerWatch { watched, lag } = self.workers[place].watches[which];
                let seen = self.committed.partition_point(|at| at + lag <= now) as i64;
                (watched, seen.max(watched))
            }
        };
        let mut commits: Vec<Commit> = self.store.commits_after(watched).to_vec();
        commits.truncate((revision - watched) as usize);
        match to {
            Proc::Leader(place) => {
                let leader = &mut self.leaders[place];
                leader.watched = revision;
                if let Some(coordinator) = &mut leader.coordinator {
                    // Two watches: neither brings what the other does.
                    for commit in &commits {
                        coordinator.environments(&only(commit, &[keys::ENVIRONMENTS]));
                        coordinator.commit(now, &only(commit, &[keys::PREFIX]));
                    }
                }
            }
            Proc::Worker(place) => {
                let worker = &mut self.workers[place];
                worker.watches[which].watched = revision;
                if let Some(agent) = &mut worker.agent {
                    let name = format!("w{place}");
                    let prefix = [keys::claims(&name), keys::commands(&name)][which].clone();
                    for commit in &commits {
                        agent.commit(now, &only(commit, &[&prefix]));
                    }
                }
            }
        }
        let delay = self.network.skewed(1, 100);
        self.after(delay, Event::Watch { to, life, which });
        if !commits.is_empty() {
            self.work(to);
        }
    }

    fn answer(&mut self, to: Proc, life: u64, no: TxnNo, outcome: &Outcome) {
        if self.life(to) != life {
            return;
        }
        let now = self.now;
        match to {
            Proc::Leader(place) => {
                if let Some(coordinator) = &mut self.leaders[place].coordinator {
                    coordinator.outcome(now, no, outcome);
                }
            }
            Proc::Worker(place) => {
                if let Some(agent) = &mut self.workers[place].agent {
                    agent.outcome(now, no, outcome);
                }
            }
        }
        self.work(to);
    }

    /// Does what a process asks for now.
    fn work(&mut self, who: Proc) {
        let now = self.now;
        match who {
            Proc::Leader(place) => {
                let Some(coordinator) = &mut self.leaders[place].coordinator else { return };
                let requests = coordinator.work(now);
                let timer = coordinator.next_timer();
                let life = self.leaders[place].life;
                for request in requests {
                    match request {
                        coordinator::Request::Try(no, txn) => self.send(who, no, txn),
                        coordinator::Request::ReadRun { run } => {
                            let delay = self.network.skewed(1, 50);
                            self.after(delay, Event::ReadRun { to: who, life, run });
                        }
                        coordinator::Request::ReadEnded { run } => {
                            let delay = self.network.skewed(1, 50);
                            self.after(delay, Event::EndedRead { to: who, life, run });
                        }
                        coordinator::Request::ReadDrafts => {
                            let delay = self.network.skewed(1, 50);
                            self.after(delay, Event::DraftsRead { to: who, life });
                        }
                        // Definitions are changed by nobody here.
                        coordinator::Request::EndMute { .. } => {}
                        coordinator::Request::Revoke { lease } => self.store.revoke(lease),
                        coordinator::Request::Rebuild => {
                            self.leaders[place].coordinator = None;
                            return self.maybe_lead(place);
                        }
                        coordinator::Request::Deposed => {
                            self.leaders[place].coordinator = None;
                            return self.start(who);
                        }
                    }
                }
                self.wake_at(who, life, timer);
            }
            Proc::Worker(place) => {
                let Some(agent) = &mut self.workers[place].agent else { return };
                let requests = agent.work(now);
                let (timer, is_fenced, is_idle) =
                    (agent.next_timer(), agent.is_fenced(), agent.is_idle());
                let life = self.workers[place].life;
                for request in requests {
                    self.worker_request(place, request);
                }
                self.wake_at(who, life, timer);
                if is_fenced {
                    let worker = &mut self.workers[place];
                    let since = *worker.fenced_at.get_or_insert(now);
                    if is_idle || now > since + 3_000 {
                        worker.agent = None;
                        worker.life += 1;
                        worker.running.clear();
                        self.after(10, Event::Start { who });
                    } else {
                        self.after(500, Event::Wake { who, life });
                    }
                }
            }
        }
    }

    /// That nothing runs beside what excludes it, and no more than there are slots. A worker that was
    /// paused cannot know that others took its place: the fence tells the system under test.
    fn check_start(&mut self, place: usize, run: &str, lane: u32) {
        let tags = &self.ledger.runs[run].plan.lanes[lane as usize].tags;
        for (other, worker) in self.workers.iter().enumerate() {
            if worker.was_paused || self.workers[place].was_paused {
                continue;
            }
            for task in worker.running.keys() {
                let Some(run) = &worker.runs.get(&task.claim) else { continue };
                let held = &self.ledger.runs[*run].plan.lanes[task.lane as usize].tags;
                if let Some(tag) = held.iter().find(|tag| tags.contains(tag)) {
                    let text = format!("{tag} is used by w{place} beside {task:?} of w{other}");
                    self.broken.get_or_insert(text);
                }
            }
        }
        let worker = &self.workers[place];
        let slots = |task: &Task| self.load.slots(&worker.runs[&task.claim], task.lane);
        let running: u32 = worker.running.keys().map(slots).sum();
        if running + self.load.slots(run, lane) > self.capacity {
            let text = format!("w{place} runs {running} and starts one more");
            self.broken.get_or_insert(text);
        }
    }

    /// That no attempt begins a second time, wherever it was begun before.
    fn check_first(&mut self, place: usize, attempt: (String, u32, u32, u32), fence: i64) {
        let text = format!("{attempt:?} begins at w{place} with fence {fence}");
        if let Some((other, before)) = self.begun.insert(attempt, (place, fence)) {
            let text = format!("{text}, after it began at w{other} with fence {before}");
            self.broken.get_or_insert(text);
        }
    }

    fn worker_request(&mut self, place: usize, request: agent::Request) {
        let life = self.workers[place].life;
        match request {
            agent::Request::Try(no, txn) => self.send(Proc::Worker(place), no, txn),
            agent::Request::Start { task, run, attempt, fence } => {
                self.check_first(place, (run.to_string(), task.lane, task.ordinal, attempt), fence);
                let (duration, status) = self.load.draw(&run, task.lane);
                self.check_start(place, &run, task.lane);
                let worker = &mut self.workers[place];
                worker.runs.insert(task.claim.clone(), run.to_string());
                worker.running.insert(task.clone(), (attempt, status, self.now));
                self.after(duration, Event::TaskEnds { worker: place, life, task });
            }
            agent::Request::Late { .. } => {}
            agent::Request::Stop { task } => {
                if let Some(running) = self.workers[place].running.get_mut(&task) {
                    running.1 = Status::Canceled;
                    self.after(5, Event::TaskEnds { worker: place, life, task });
                }
            }
        }
    }

    fn wake_at(&mut self, who: Proc, life: u64, timer: Option<u64>) {
        let Some(at) = timer.map(|timer| timer.max(self.now + 1)) else { return };
        let known = self.wakes.get(&who).copied();
        if known.is_some_and(|(known, of)| of == life && known > self.now && known <= at) {
            return;
        }
        self.wakes.insert(who, (at, life));
        self.after(at - self.now, Event::Wake { who, life });
    }

    fn send(&mut self, from: Proc, no: TxnNo, txn: Txn) {
        let life = self.life(from);
        let delay = self.network.skewed(1, 50);
        if !self.is_stormy() || !self.network.chance(self.losing) {
            self.after(delay, Event::Arrive { from, life, no, txn, is_answered: true });
            return;
        }
        self.faults += 1;
        let give_up = self.network.between(20, 500);
        self.after(give_up, Event::Answer { to: from, life, no, outcome: Outcome::Unknown });
        // It is lost, or its answer is, or it comes long after it was given up.
        let late = match self.network.below(3) {
            0 => return,
            1 => delay,
            _ => self.network.between(500, 8_000),
        };
        self.after(late, Event::Arrive { from, life, no, txn, is_answered: false });
    }

    fn fault(&mut self) {
        if !self.is_stormy() {
            self.paused.clear();
            return;
        }
        let who = match self.random.chance(300) {
            true => Proc::Leader(self.random.below(2) as usize),
            false => Proc::Worker(self.random.below(self.workers.len() as u64) as usize),
        };
        self.faults += 1;
        if self.random.chance(500) {
            let long = self.random.skewed(100, 20_000);
            self.say(|| format!("{who:?} is paused for {long} ms"));
            self.paused.insert(who, self.now + long);
            if let Proc::Worker(place) = who {
                self.workers[place].was_paused = true;
            }
        } else {
            self.crashes += 1;
            self.say(|| format!("{who:?} crashes"));
            match who {
                Proc::Leader(place) => {
                    self.leaders[place].life += 1;
                    self.leaders[place].coordinator = None;
                }
                Proc::Worker(place) => {
                    let worker = &mut self.workers[place];
                    worker.life += 1;
                    worker.agent = None;
                    worker.running.clear();
                }
            }
            let delay = self.random.skewed(10, 10_000);
            self.after(delay, Event::Start { who });
        }
        let next = self.random.skewed(100, 8_000);
        self.after(next, Event::Fault);
    }

    fn client(&mut self) {
        let is_stormy = self.is_stormy();
        for txn in self.load.next(self.now, is_stormy, &mut self.ledger) {
            let outcome = self.store.txn(&txn);
            assert!(matches!(outcome, Outcome::Committed { .. }), "a client's write is refused");
            for op in &txn.then {
                if let Op::Put { key, .. } = op
                    && let Some(run) = key.strip_prefix(keys::OPEN)
                    && self.random.chance(100)
                {
                    let delay = self.random.between(1, 100);
                    self.after(delay, Event::Cancel { run: run.to_owned() });
                }
            }
        }
        let claims = format!("{}{}/", keys::CLAIMS, keys::PEOPLE);
        for kv in self.store.below(&claims).cloned().collect::<Vec<_>>() {
            if is_stormy && self.random.chance(500) {
                continue;
            }
            self.give_verdict(&kv);
        }
        let delay = self.random.between(200, 6_000);
        self.after(delay, Event::Client);
    }

    /// A person says how a manual case came out; what he saw may be gone.
    fn give_verdict(&mut self, kv: &Kv) {
        let claim: Claim = serde_json::from_slice(&kv.value).unwrap();
        let waiting: Vec<_> = verdict::waiting(&claim).collect();
        let (_, lane, ordinal, attempt, _) = *self.random.pick(&waiting);
        let (status, start) = (self.load.verdict(), self.now);
        let row = Row { lane, ordinal, attempt, status, start, duration: 0, detail: None };
        let txn = verdict::give(kv, row).unwrap();
        let outcome = self.store.txn(&txn);
        assert!(matches!(outcome, Outcome::Committed { .. }), "a verdict is refused");
        // Said twice it counts once.
        let outcome = self.store.txn(&txn);
        assert!(matches!(outcome, Outcome::Refused { .. }), "a verdict counts twice");
    }
}

/// The part of a commit that a watch on some prefixes brings.
fn only(commit: &Commit, prefixes: &[&str]) -> Commit {
    let mut seen = commit.clone();
    seen.changes.retain(|change| prefixes.iter().any(|prefix| key(change).starts_with(prefix)));
    seen
}

fn key(change: &quoin::scheduler::store::Change) -> &str {
    match change {
        quoin::scheduler::store::Change::Put(kv) => &kv.key,
        quoin::scheduler::store::Change::Delete { key } => key,
    }
}

fn short(change: &quoin::scheduler::store::Change) -> String {
    match change {
        quoin::scheduler::store::Change::Put(kv) => {
            let value: String = String::from_utf8_lossy(&kv.value).chars().take(3000).collect();
            format!("put {} {value}", kv.key)
        }
        quoin::scheduler::store::Change::Delete { key } => format!("delete {key}"),
    }
}
