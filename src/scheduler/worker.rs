//! Serves as a worker: registers under a lease, takes claims, runs their tasks and delivers results.
//!
//! When its lease may have ended it stops everything and begins anew under another registration;
//! what it had is taken back by the leader, or was delivered before.

use super::agent::{self, Agent, Task};
use super::client::{Access, Client};
use super::clock::Clock;
use super::complaints::Complaints;
use super::coordinator::{Rest, TxnNo, WorkerInfo};
use super::definitions::{Definition, Library};
use super::execute::{Attempt, Runner};
use super::keys;
use super::late::Late;
use super::lease::Lease;
use super::model::{Labels, Row, Status};
use super::record::Running;
use super::store::{Change, Commit, Compare, Op, Outcome, Txn};
use etcd_client::Error;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;

/// After an error, before the store is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// What has ended when the lease is lost may be delivered for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Commands are killed so long before the lease can have ended, if this process cannot stop them itself,
/// which it would have done before.
const COMMANDS_MARGIN: Duration = Duration::from_millis(500);

/// What a worker is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// No two workers of a cluster share one.
    pub name: String,
    /// Where it can be reached, for people and tools that look for services.
    pub address: String,
    /// Slots.
    pub capacity: u32,
    /// Tasks that it takes ahead for each slot, at most.
    pub prefetch: u32,
    pub labels: Labels,
    /// It takes no command cases.
    pub no_commands: bool,
    /// Tasks are run by others, when they like.
    pub at_will: bool,
    /// Seconds without a sign of life after which others take it for dead, 2 to 60.
    pub ttl: u32,
    /// Where it serves artifacts, each under its digest; empty for nowhere.
    pub artifacts: String,
}

/// Why a registration is over.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Lost,
    Drained,
    /// Somebody with this name is there already.
    Taken,
}

/// What comes back from what was begun.
enum Answer {
    Txn(TxnNo, Outcome),
    Ended(Task, Row),
    /// It could not be begun.
    GivenBack(Task),
}

/// Serves until `stop` is done, and then ends what it has begun, taking nothing more. Errors of the
/// store are waited out.
pub async fn run(
    access: Access,
    settings: Settings,
    executor: Arc<dyn Runner>,
    stop: impl Future<Output = ()>,
) {
    let drain = watch::Sender::new(false);
    let mut stop = std::pin::pin!(stop);
    let (mut was_taken, mut left) = (false, None);
    let mut complaints = Complaints::default();
    loop {
        let served = {
            let mut serve =
                std::pin::pin!(serve(&access, &settings, &executor, drain.clone(), &mut left));
            loop {
                tokio::select! {
                    served = &mut serve => break served,
                    () = &mut stop, if !*drain.borrow() => {
                        drain.send_replace(true);
                    }
                }
            }
        };
        match served {
            Ok(End::Drained) => return,
            Ok(End::Taken) if !was_taken => {
                was_taken = true;
                let name = &settings.name;
                tracing::warn!(name, "waiting for another worker of this name to go");
            }
            Ok(End::Taken) => {}
            Ok(End::Lost) => tracing::warn!(name = settings.name, "lost its lease, registers anew"),
            Err(error) if complaints.is_news(&error.to_string()) => {
                tracing::warn!(error = %error, "worker lost the store");
            }
            Err(_) => {}
        }
        if *drain.borrow() {
            return;
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = &mut stop => return,
        }
    }
}

/// Registers and serves under one lease. The one that is `left` from before is given up, for a store that was
/// without a leader keeps that for its whole time anew, and this worker's name with it.
async fn serve(
    access: &Access,
    settings: &Settings,
    executor: &Arc<dyn Runner>,
    drain: watch::Sender<bool>,
    left: &mut Option<i64>,
) -> Result<End, Error> {
    let client = Client::connect(access).await?;
    if let Some(lease) = *left {
        match client.revoke(lease).await {
            Err(Error::GRpcStatus(status)) if status.code() == Code::NotFound => {}
            other => other?,
        }
    }
    let lease = Lease::grant(&client, settings.ttl.clamp(2, 60).into()).await?;
    *left = Some(lease.id());
    let worker_key = keys::worker(&settings.name);
    let info = WorkerInfo {
        labels: settings.labels.clone(),
        max_task_num: settings.capacity,
        prefetch: settings.prefetch,
        no_commands: settings.no_commands,
        at_will: settings.at_will,
        draining: false,
        resting: None,
        artifacts: settings.artifacts.clone(),
    };
    // What it has and its version are not in here: that would be a write for each task.
    let mut service = json!({
        "id": settings.name, "name": settings.name,
        "max_task_num": settings.capacity, "labels": settings.labels,
    });
    // Without an address its name stands for it in the key.
    if settings.address != settings.name {
        service["url"] = settings.address.as_str().into();
    }
    let put = |key: String, value: Vec<u8>| Op::Put { key, value, lease: lease.id() };
    let service_key = format!("{}{}/{}", keys::SERVICES, settings.name, settings.address);
    let txn = Txn {
        compares: vec![Compare::Absent(worker_key.clone())],
        then: vec![
            put(worker_key.clone(), serde_json::to_vec(&info).unwrap_or_default()),
            put(service_key, serde_json::to_vec(&service).unwrap_or_default()),
        ],
        otherwise: vec![Op::Get(worker_key.clone())],
    };
    let registration = match client.txn(&txn).await {
        Outcome::Committed { revision } => revision,
        Outcome::Refused { .. } => return Ok(End::Taken),
        Outcome::Failed(text) => return Err(Error::InvalidArgs(text)),
        // The lease goes with this registration, whether it was made or not.
        Outcome::Unknown => return Ok(End::Lost),
    };
    tracing::info!(name = settings.name, registration, "registered as a worker");
    let claims = client.watch(&keys::claims(&settings.name), registration + 1).await?;
    let commands = client.watch(&keys::commands(&settings.name), registration + 1).await?;
    let own = client.watch(&worker_key, registration + 1).await?;
    // What was asked of it while it had no lease, it is asked still.
    let asked = client.prefix(&keys::commands(&settings.name), registration).await?.0;
    let mut registered =
        Registered::new(client, settings, info, executor.clone(), lease, registration);
    let changes = asked.into_iter().map(Change::Put).collect();
    registered.take_in(&[Commit { revision: registration, changes }]);
    registered.work(claims, commands, own, drain).await
}

/// A worker while it is registered.
struct Registered {
    client: Client,
    clock: Clock,
    executor: Arc<dyn Runner>,
    library: Arc<Library>,
    info: WorkerInfo,
    name: String,
    registration: i64,
    lease: Lease,
    agent: Agent,
    /// Ends a task early when it is used.
    cancels: BTreeMap<Task, oneshot::Sender<()>>,
    tasks: tokio::task::JoinSet<()>,
    answers: (mpsc::UnboundedSender<Answer>, mpsc::UnboundedReceiver<Answer>),
    beat: Vec<Running>,
    late: Arc<Late>,
}

impl Registered {
    fn new(
        client: Client,
        settings: &Settings,
        info: WorkerInfo,
        executor: Arc<dyn Runner>,
        mut lease: Lease,
        registration: i64,
    ) -> Self {
        let clock = Clock::new();
        executor.allow_until(lease.ends() - COMMANDS_MARGIN);
        let ends = clock.at(lease.ends());
        let agent_settings = agent::Settings { capacity: settings.capacity, ..Default::default() };
        Self {
            library: Arc::new(Library::new(client.clone())),
            client,
            clock,
            executor,
            info,
            name: settings.name.clone(),
            registration,
            agent: Agent::new(&settings.name, registration, agent_settings, ends),
            lease,
            cancels: BTreeMap::new(),
            tasks: tokio::task::JoinSet::new(),
            answers: mpsc::unbounded_channel(),
            beat: Vec::new(),
            late: Arc::default(),
        }
    }

    /// Whether somebody has taken its key away, or its lease has ended.
    fn is_deregistered(&self, commits: &[Commit]) -> bool {
        let own = keys::worker(&self.name);
        let mut changes = commits.iter().flat_map(|commit| &commit.changes);
        changes.any(|change| matches!(change, Change::Delete { key } if *key == own))
    }

    async fn work(
        mut self,
        mut claims: super::client::Commits,
        mut commands: super::client::Commits,
        mut own: super::client::Commits,
        drain: watch::Sender<bool>,
    ) -> Result<End, Error> {
        let mut drained = drain.subscribe();
        let mut rests = self.executor.rests();
        let mut beats = tokio::time::interval(Duration::from_secs(1));
        let mut fenced: Option<Instant> = None;
        let mut is_registered = true;
        loop {
            let now = self.clock.now();
            // Before what it did not begin goes back, or it would be given that again.
            self.say_resting(&mut rests).await;
            for request in self.agent.work(now) {
                self.obey(request);
            }
            if self.agent.is_fenced() || !is_registered {
                // Tasks end without grace: others may run in their place already.
                self.tasks.abort_all();
                let since = *fenced.get_or_insert_with(Instant::now);
                if self.agent.is_idle() || since.elapsed() > LAST_WORDS {
                    return Ok(End::Lost);
                }
            } else if (self.agent.is_draining() || *drain.borrow()) && self.agent.is_idle() {
                // No claim is made after that was said; what was made before is in the store.
                if !self.info.draining {
                    self.say_draining().await;
                }
                if self.info.draining
                    && self.client.prefix(&keys::claims(&self.name), 0).await?.0.is_empty()
                {
                    self.forget_drain().await;
                    self.client.revoke(self.lease.id()).await?;
                    return Ok(End::Drained);
                }
            } else if self.agent.is_draining() && !self.info.draining {
                self.say_draining().await;
            }
            let timer = self.agent.next_timer();
            let timer = timer.map_or(Duration::from_secs(1), |at| self.clock.until(at));
            tokio::select! {
                found = claims.next() => self.take_in(&found?),
                found = commands.next() => self.take_in(&found?),
                found = own.next() => is_registered &= !self.is_deregistered(&found?),
                Some(answer) = self.answers.1.recv() => self.answered(answer),
                () = self.lease.renewed() => {
                    let ends = self.lease.ends();
                    self.agent.lease_renewed(self.clock.at(ends));
                    self.executor.allow_until(ends - COMMANDS_MARGIN);
                }
                _ = drained.changed() => self.say_draining().await,
                Ok(()) = rests.changed() => {}
                _ = beats.tick() => self.beat(),
                () = sleep_until(Instant::now() + timer) => self.agent.tick(self.clock.now()),
                Some(_) = self.tasks.join_next() => {}
            }
            // Many end at once: one round for all of them.
            while let Ok(answer) = self.answers.1.try_recv() {
                self.answered(answer);
            }
            self.agent.tick(self.clock.now());
            if self.agent.is_draining() {
                // It holds for this process, whatever becomes of its lease.
                drain.send_if_modified(|is_draining| !std::mem::replace(is_draining, true));
            }
        }
    }

    fn take_in(&mut self, commits: &[super::store::Commit]) {
        for commit in commits {
            self.agent.commit(self.clock.now(), commit);
        }
    }

    fn answered(&mut self, answer: Answer) {
        let now = self.clock.now();
        match answer {
            Answer::Txn(number, outcome) => self.agent.outcome(now, number, &outcome),
            Answer::Ended(task, row) => {
                self.cancels.remove(&task);
                self.agent.finished(now, &task, row);
            }
            Answer::GivenBack(task) => {
                self.cancels.remove(&task);
                self.agent.given_back(&task);
            }
        }
    }

    fn obey(&mut self, request: agent::Request) {
        match request {
            agent::Request::Try(number, txn) => {
                let (client, answers) = (self.client.clone(), self.answers.0.clone());
                tokio::spawn(async move {
                    // Nobody listens when the registration is over.
                    let _over = answers.send(Answer::Txn(number, client.txn(&txn).await));
                });
            }
            agent::Request::Start { task, run, attempt, fence } => {
                let (cancel, canceled) = oneshot::channel();
                self.cancels.insert(task.clone(), cancel);
                let (library, executor) = (self.library.clone(), self.executor.clone());
                let (answers, start) = (self.answers.0.clone(), self.clock.now());
                self.tasks.spawn(async move {
                    // The run was there before its claim, so that a member which has not heard of that
                    // one yet knows it, too.
                    let definition = library.find(&run, task.lane, fence - 1).await;
                    let row = match definition {
                        Ok(definition) => {
                            let of = (&*run, &task, attempt, fence);
                            execute(&*executor, &definition, of, start, canceled).await
                        }
                        Err(error) => Some(Row {
                            lane: task.lane,
                            ordinal: task.ordinal,
                            attempt,
                            status: Status::Error,
                            start,
                            duration: 0,
                            detail: Some(json!({ "message": format!("no definition: {error}") })),
                        }),
                    };
                    let _over = answers.send(match row {
                        Some(row) => Answer::Ended(task, row),
                        None => Answer::GivenBack(task),
                    });
                });
            }
            agent::Request::Late { key, value } => {
                let (client, late) = (self.client.clone(), self.late.clone());
                tokio::spawn(async move { late.keep(&client, key, value).await });
            }
            agent::Request::Stop { task } => {
                if let Some(cancel) = self.cancels.remove(&task) {
                    // It may have ended by itself.
                    let _ended = cancel.send(());
                }
            }
        }
    }

    /// Tells the leader that this worker takes nothing more.
    async fn say_draining(&mut self) {
        if self.info.draining {
            return;
        }
        self.tell(WorkerInfo { draining: true, ..self.info.clone() }).await;
    }

    /// Tells the leader whether it takes nothing for a while.
    async fn say_resting(&mut self, rests: &mut watch::Receiver<Option<Rest>>) {
        let resting = rests.borrow_and_update().clone();
        if resting != self.info.resting && !self.agent.is_fenced() {
            self.tell(WorkerInfo { resting, ..self.info.clone() }).await;
        }
    }

    /// Changes its key, unless somebody has taken that away. If it is not known whether that was done, it
    /// is done again.
    async fn tell(&mut self, info: WorkerInfo) {
        let key = keys::worker(&self.name);
        let value = serde_json::to_vec(&info).unwrap_or_default();
        let compares = vec![Compare::CreatedAt(key.clone(), self.registration)];
        let then = vec![Op::Put { key, value, lease: self.lease.id() }];
        let told = self.client.txn(&Txn { compares, then, ..Default::default() }).await;
        if matches!(told, Outcome::Committed { .. }) {
            self.info = info;
        }
    }

    /// It is done: the next worker of this name is not asked to leave. The key is gone already unless its
    /// deletion is still on its way.
    async fn forget_drain(&self) {
        let drain = Op::Delete(keys::command(&self.name, keys::DRAIN));
        let said = self.client.txn(&Txn { then: vec![drain], ..Default::default() }).await;
        if !matches!(said, Outcome::Committed { .. }) {
            tracing::warn!(
                name = self.name,
                "the next worker of this name may be asked to drain, too"
            );
        }
    }

    /// Shows what runs now, if that has changed.
    fn beat(&mut self) {
        let running: Vec<Running> = self.agent.running().collect();
        if running == self.beat || self.agent.is_fenced() {
            return;
        }
        let value = serde_json::to_vec(&running).unwrap_or_default();
        self.beat = running;
        let put = Op::Put { key: keys::beat(&self.name), value, lease: self.lease.id() };
        let client = self.client.clone();
        tokio::spawn(async move {
            // The next one comes in a second.
            let _lost = client.txn(&Txn { then: vec![put], ..Default::default() }).await;
        });
    }
}

/// Runs an attempt and makes a row of what came of it, if it could be begun.
async fn execute(
    executor: &dyn Runner,
    definition: &Definition,
    (run, task, attempt, fence): (&str, &Task, u32, i64),
    start: u64,
    canceled: oneshot::Receiver<()>,
) -> Option<Row> {
    let timeout = Duration::from_millis(definition.case.timeout_ms);
    let tried = Attempt {
        case: &definition.case,
        environment: definition.environment.as_deref(),
        run,
        lane: task.lane,
        ordinal: task.ordinal,
        attempt,
        fence,
        deadline: Instant::now() + timeout,
    };
    let cancel = async {
        // A sender that is gone asks for nothing.
        if canceled.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let outcome = executor.run(tried, Box::pin(cancel)).await?;
    Some(Row {
        lane: task.lane,
        ordinal: task.ordinal,
        attempt,
        status: outcome.status,
        start,
        duration: outcome.duration.as_micros() as u64,
        detail: outcome.detail,
    })
}
