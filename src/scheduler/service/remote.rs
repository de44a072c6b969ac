//! Workers that speak HTTP: services to which tasks are pushed, and clients that pull them.
//!
//! This process is the worker for them in the store: it holds the lease, takes the claims, and delivers
//! what they say as any worker does. A service is registered once and kept in the store; whichever
//! process that offers services finds it without a worker serves it. A client is there while it asks.
//! If this process ends or loses its lease, what they have been given is given again, and what they
//! say then is refused.
//!
//! What is canceled or takes too long they are told: a service by `POST {url}/cancel`, a client when it
//! asks for tasks or renews those that it has. The slot, and the tags, are free when they have said
//! something or the grace is over; what they say counts for nothing then.

use super::answer::Problem;
use crate::scheduler::client::{Access, Client};
use crate::scheduler::execute::{Attempt, Caller, Cancel, Outcome, Runner};
use crate::scheduler::keys;
use crate::scheduler::model::{Labels, Status};
use crate::scheduler::worker;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How often it is looked whether a service has no worker.
const LOOK: Duration = Duration::from_secs(2);
/// A client that has not asked for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Before a service that is full is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// How long somebody who was told that a task is canceled may take to end it.
const CANCEL_GRACE: Duration = Duration::from_secs(5);
const TTL_S: u32 = 5;
/// Bytes of an output that is recorded.
const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// A service to which tasks are pushed: the value of `instance/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Instance {
    pub(super) name: String,
    /// It is asked at `{url}/submit`.
    pub(super) url: String,
    pub(super) max_task_num: u32,
    pub(super) labels: Labels,
    /// It carries out command cases as well.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) commands: bool,
}

/// What somebody that speaks HTTP can do.
#[derive(Clone, Debug)]
pub(super) struct Talents {
    pub(super) labels: Labels,
    /// Slots.
    pub(super) capacity: u32,
    /// It carries out command cases.
    pub(super) commands: bool,
}

/// What somebody says about a task.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Verdict {
    #[serde(rename = "recordId")]
    pub(super) record: String,
    /// A code or a word: 02 or passed, 03 or failed, 04 or error, 07 or timed out.
    status: String,
    message: Option<String>,
    /// What the test gave back.
    result: Option<String>,
}

impl Verdict {
    fn status(&self) -> Option<Status> {
        let verdicts = [Status::Passed, Status::Failed, Status::Error, Status::TimedOut];
        let is_meant = |status: &Status| {
            status.code() == self.status || status.word() == self.status.to_lowercase()
        };
        verdicts.into_iter().find(is_meant)
    }

    /// What somebody says who was told that his task is canceled.
    fn is_cancel(&self) -> bool {
        let canceled = Status::Canceled;
        self.status == canceled.code() || self.status.to_lowercase() == canceled.word()
    }

    fn detail(&self) -> Option<Value> {
        let cut = |text: &String| -> String {
            let end = (0..=OUTPUT_BYTES_MAX.min(text.len())).rev();
            let end = end.into_iter().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text[..end].to_owned()
        };
        let message = self.message.as_ref().map(cut);
        let output = self.result.as_ref().map(cut);
        (message.is_some() || output.is_some())
            .then(|| json!({"message": message, "output": output}))
    }
}

/// How a station's tasks reach whom it stands for.
enum Way {
    Push { url: String, caller: Arc<Caller> },
    Pull,
}

/// What stands for one worker.
struct Station {
    way: Way,
    own_url: String,
    talents: Talents,
    inner: Mutex<Desk>,
    /// There is something to take.
    news: Notify,
}

#[derive(Default)]
struct Desk {
    /// Orders that nobody has taken yet.
    orders: VecDeque<Value>,
    /// Who waits for a verdict, by record.
    waiting: BTreeMap<String, oneshot::Sender<Verdict>>,
    /// Records that shall end; whether a client that asks has been told.
    canceled: BTreeMap<String, bool>,
    seen: Option<Instant>,
    asking: u32,
}

/// Forgets a task when its attempt is over, however that came.
struct Expected<'s> {
    station: &'s Station,
    record: String,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut desk = self.station.inner.lock();
        desk.waiting.remove(&self.record);
        desk.canceled.remove(&self.record);
        desk.orders.retain(|order| order["recordId"] != self.record);
    }
}

impl Runner for Station {
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let start = Instant::now();
            let (status, detail) = self.try_out(&attempt, cancel).await;
            Outcome { status, duration: start.elapsed(), detail }
        })
    }
}

impl Station {
    async fn try_out(&self, attempt: &Attempt<'_>, cancel: Cancel) -> (Status, Option<Value>) {
        let Attempt { run, lane, ordinal, .. } = attempt;
        let record = format!("{run}-{lane}-{ordinal}-{}-{}", attempt.attempt, attempt.fence);
        let failed = |message: String| (Status::Error, Some(json!({ "message": message })));
        let mut order = match attempt.order(&record) {
            Ok(order) => order,
            Err(message) => return failed(message),
        };
        order["callback"] = format!("{}/v1/claims/results", self.own_url).into();
        let (sender, mut verdict) = oneshot::channel();
        self.inner.lock().waiting.insert(record.clone(), sender);
        let _expected = Expected { station: self, record: record.clone() };
        let work = async {
            match &self.way {
                Way::Push { url, caller } => tokio::select! {
                    // A service may say how it went before it says that it has taken the task.
                    biased;
                    said = &mut verdict => return said.map_err(|_| "nobody will say".to_owned()),
                    pushed = push(caller, url, &order) => pushed?,
                },
                Way::Pull => {
                    self.inner.lock().orders.push_back(order);
                    self.news.notify_one();
                }
            }
            (&mut verdict).await.map_err(|_| "nobody will say".to_owned())
        };
        let (status, detail) = tokio::select! {
            found = work => return match found {
                Ok(verdict) => {
                    (verdict.status().unwrap_or(Status::Error), verdict.detail())
                }
                Err(message) => failed(message),
            },
            () = cancel => (Status::Canceled, None),
            () = sleep_until(attempt.deadline) => {
                let message = format!("no verdict within {} ms", attempt.case.timeout_ms);
                (Status::TimedOut, Some(json!({ "message": message })))
            }
        };
        self.take_back(&record, verdict).await;
        (status, detail)
    }

    /// Tells whoever has a task that it shall end, and waits until he says something or the grace is
    /// over.
    async fn take_back(&self, record: &str, verdict: oneshot::Receiver<Verdict>) {
        {
            let mut desk = self.inner.lock();
            if desk.orders.iter().any(|order| order["recordId"] == record) {
                return;
            }
            desk.canceled.insert(record.to_owned(), false);
        }
        let tell = async {
            match &self.way {
                Way::Push { url, caller } => {
                    let url = format!("{}/cancel", url.trim_end_matches('/'));
                    if let Err(error) = caller.post(&url, &json!({ "recordId": record })).await {
                        tracing::debug!(error, "cannot tell a service that a task is canceled");
                    }
                }
                Way::Pull => self.news.notify_one(),
            }
            // One that knows nothing of this ends its task all the same.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = tell => {}
            _ = verdict => {}
            () = sleep(CANCEL_GRACE) => {}
        }
    }

    fn is_silent(&self) -> bool {
        let desk = self.inner.lock();
        desk.asking == 0 && desk.seen.is_some_and(|seen| seen.elapsed() > SILENCE_MAX)
    }

    /// Takes orders, at most so many; waits until a time for the first, or for the news that a task is
    /// canceled.
    async fn take(&self, want: usize, until: Instant) -> Given {
        loop {
            let (taken, has_news) = {
                let mut desk = self.inner.lock();
                let count = want.min(desk.orders.len());
                let taken: Vec<Value> = desk.orders.drain(..count).collect();
                (taken, desk.canceled.values().any(|is_told| !is_told))
            };
            let is_done = !taken.is_empty() || has_news;
            if is_done || timeout_at(until, self.news.notified()).await.is_err() {
                return Given { tasks: taken, canceled: self.canceled() };
            }
        }
    }

    /// Records that shall end, to be told to the client that has them.
    fn canceled(&self) -> Vec<String> {
        let mut desk = self.inner.lock();
        desk.canceled.values_mut().for_each(|is_told| *is_told = true);
        desk.canceled.keys().cloned().collect()
    }
}

/// What a client that asks is given.
#[derive(Debug, Default, Serialize)]
pub(super) struct Given {
    tasks: Vec<Value>,
    /// Records that it has and shall end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    canceled: Vec<String>,
}

impl Given {
    pub(super) fn is_nothing(&self) -> bool {
        self.tasks.is_empty() && self.canceled.is_empty()
    }
}

/// What is to be known of records that a client has.
#[derive(Debug, Default, Serialize)]
pub(super) struct Renewed {
    /// They shall end, and their end be told.
    canceled: Vec<String>,
    /// They have ended or were given to others: nobody waits for a verdict.
    gone: Vec<String>,
}

/// Hands an order over. A service that is full is asked again.
async fn push(caller: &Caller, url: &str, order: &Value) -> Result<(), String> {
    let url = format!("{}/submit", url.trim_end_matches('/'));
    loop {
        match caller.post(&url, order).await? {
            (200..=299, _) => return Ok(()),
            (429 | 503, _) => sleep(FULL_PAUSE).await,
            (status, text) => {
                let text: String = text.chars().take(500).collect();
                return Err(format!("{url} answered {status}: {text}"));
            }
        }
    }
}

/// A station that is at work; its worker ends with it.
struct Manned {
    station: Arc<Station>,
    /// Where it is a service, what was registered.
    instance: Option<Instance>,
    worker: AbortHandle,
}

impl Drop for Manned {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// All stations of this process.
pub(super) struct Stations {
    manned: Mutex<BTreeMap<String, Manned>>,
    access: Access,
    caller: Arc<Caller>,
    own_url: String,
}

impl Stations {
    pub(super) fn new(access: Access, caller: Caller, own_url: String) -> Self {
        Self { manned: Mutex::default(), access, caller: Arc::new(caller), own_url }
    }

    fn man(&self, name: &str, address: String, station: Station, instance: Option<Instance>) {
        let settings = worker::Settings {
            name: name.to_owned(),
            artifacts: String::new(),
            address,
            capacity: station.talents.capacity,
            prefetch: 0,
            labels: station.talents.labels.clone(),
            no_commands: !station.talents.commands,
            ttl: TTL_S,
        };
        let station = Arc::new(station);
        let work =
            worker::run(self.access.clone(), settings, station.clone(), std::future::pending());
        let worker = tokio::spawn(work).abort_handle();
        self.manned.lock().insert(name.to_owned(), Manned { station, instance, worker });
    }

    fn station(&self, way: Way, talents: Talents) -> Station {
        Station {
            way,
            own_url: self.own_url.clone(),
            talents,
            inner: Mutex::default(),
            news: Notify::new(),
        }
    }

    /// Serves registered services that have no worker, and lets those go that are registered no more,
    /// or ask no more. Goes on for ever.
    pub(super) async fn keep(&self, connect: impl AsyncFn() -> Result<Client, Problem>) {
        loop {
            if let Ok(client) = connect().await
                && let Err(error) = self.look(&client).await
            {
                tracing::debug!(%error, "cannot see which services are registered");
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&self, client: &Client) -> Result<(), etcd_client::Error> {
        let registered: BTreeMap<String, Instance> = client
            .prefix(keys::INSTANCES, 0)
            .await?
            .0
            .into_iter()
            .filter_map(|kv| serde_json::from_slice::<Instance>(&kv.value).ok())
            .map(|instance| (instance.name.clone(), instance))
            .collect();
        self.manned.lock().retain(|name, manned| match &manned.instance {
            Some(instance) => registered.get(name) == Some(instance),
            None => !manned.station.is_silent(),
        });
        for (name, instance) in registered {
            let is_manned = self.manned.lock().contains_key(&name);
            if !is_manned && client.get(&keys::worker(&name)).await?.is_none() {
                let way = Way::Push { url: instance.url.clone(), caller: self.caller.clone() };
                let talents = Talents {
                    labels: instance.labels.clone(),
                    capacity: instance.max_task_num,
                    commands: instance.commands,
                };
                let station = self.station(way, talents);
                self.man(&name, instance.url.clone(), station, Some(instance));
            }
        }
        Ok(())
    }

    /// Tasks for a client, which is a worker from its first call on. Waits for the first until a time.
    pub(super) async fn claim(
        &self,
        name: &str,
        talents: Talents,
        want: usize,
        until: Instant,
    ) -> Result<Given, Problem> {
        let station = {
            let known =
                self.manned.lock().get(name).map(|manned| {
                    (manned.station.clone(), matches!(manned.station.way, Way::Pull))
                });
            match known {
                Some((station, true)) => station,
                Some((_, false)) => {
                    return Err(Problem::new(
                        409,
                        format!("{name} is a service that is pushed to"),
                    ));
                }
                None => {
                    let station = self.station(Way::Pull, talents);
                    self.man(name, name.to_owned(), station, None);
                    match self.manned.lock().get(name) {
                        Some(manned) => manned.station.clone(),
                        None => return Err(Problem::new(503, "the worker was let go")),
                    }
                }
            }
        };
        let _asking = Asking::new(&station);
        Ok(station.take(want, until).await)
    }

    /// A client is still there, with these records.
    pub(super) fn renew(&self, name: &str, records: &[String]) -> Renewed {
        let manned = self.manned.lock();
        let Some(station) = manned.get(name).map(|manned| &manned.station) else {
            return Renewed { gone: records.to_vec(), ..Default::default() };
        };
        let canceled = station.canceled();
        let mut desk = station.inner.lock();
        desk.seen = Some(Instant::now());
        let is_gone = |record: &&String| !desk.waiting.contains_key(*record);
        let gone = records.iter().filter(is_gone).cloned().collect();
        Renewed { canceled, gone }
    }

    /// Whether a worker of this name is served here.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.manned.lock().contains_key(name)
    }

    /// The worker that has what a verdict is about.
    pub(super) fn who_has(&self, verdict: &Verdict) -> Option<String> {
        let manned = self.manned.lock();
        let has_it =
            |manned: &Manned| manned.station.inner.lock().waiting.contains_key(&verdict.record);
        manned.iter().find(|(_, manned)| has_it(manned)).map(|(name, _)| name.clone())
    }

    /// Hands a verdict to whom waits for it.
    pub(super) fn settle(&self, verdict: Verdict) -> Result<(), Problem> {
        if verdict.status().is_none() && !self.is_canceled(&verdict) {
            return Err(Problem::new(400, "status is none of passed, failed, error, timed out"));
        }
        let manned = self.manned.lock();
        for manned in manned.values() {
            let mut desk = manned.station.inner.lock();
            if let Some(sender) = desk.waiting.remove(&verdict.record) {
                desk.seen = Some(Instant::now());
                let record = verdict.record.clone();
                drop(desk);
                return sender.send(verdict).map_err(|_| late(&record));
            }
        }
        Err(late(&verdict.record))
    }
}

impl Stations {
    fn is_canceled(&self, verdict: &Verdict) -> bool {
        let is_told =
            |manned: &Manned| manned.station.inner.lock().canceled.contains_key(&verdict.record);
        verdict.is_cancel() && self.manned.lock().values().any(is_told)
    }
}

pub(super) fn late(record: &str) -> Problem {
    let text =
        format!("nobody waits for a result of {record}: it has ended or was given to others");
    Problem::new(409, text)
}

/// Marks that a client waits for tasks.
struct Asking<'s> {
    station: &'s Station,
}

impl<'s> Asking<'s> {
    fn new(station: &'s Station) -> Self {
        station.inner.lock().asking += 1;
        Self { station }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut desk = self.station.inner.lock();
        desk.asking -= 1;
        desk.seen = Some(Instant::now());
    }
}
