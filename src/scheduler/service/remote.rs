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
use super::station::{Asking, Given, REST, Renewed, Said, Station, UNKNOWN_MAX, Way};
use crate::scheduler::client::{Access, Client};
use crate::scheduler::execute::Caller;
use crate::scheduler::keys;
use crate::scheduler::model::{Labels, Status};
use crate::scheduler::worker;
use futures_util::future::join_all;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often it is looked whether a service has no worker.
const LOOK: Duration = Duration::from_secs(2);
const TTL_S: u32 = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// For whoever looks whether somebody is at a url.
const PROBE_MAX: Duration = Duration::from_secs(1);
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
#[derive(Clone, Debug, PartialEq)]
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
    pub(super) fn status(&self) -> Option<Status> {
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

    pub(super) fn detail(&self) -> Option<Value> {
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
    /// Services whose worker has gone, until when they get none.
    resting: Mutex<BTreeMap<String, Instant>>,
    /// Registered services that nobody has reached, of which the log tells.
    unreached: Mutex<BTreeSet<String>>,
    access: Access,
    caller: Arc<Caller>,
    own_url: String,
}

impl Stations {
    pub(super) fn new(access: Access, caller: Caller, own_url: String) -> Self {
        Self {
            manned: Mutex::default(),
            resting: Mutex::default(),
            unreached: Mutex::default(),
            access,
            caller: Arc::new(caller),
            own_url,
        }
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
            at_will: true,
            ttl: TTL_S,
        };
        let mut leaving = station.leaving.subscribe();
        let left = async move {
            // The station holds the other end.
            let _left = leaving.wait_for(|leaving| *leaving).await;
        };
        let station = Arc::new(station);
        let work = worker::run(self.access.clone(), settings, station.clone(), left);
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
            rests: watch::Sender::new(None),
            leaving: watch::Sender::new(false),
        }
    }

    /// A service gets nothing more: it is registered no longer.
    pub(super) fn leave(&self, name: &str) {
        let manned = self.manned.lock();
        if let Some(manned) = manned.get(name).filter(|manned| manned.instance.is_some()) {
            manned.station.leaving.send_replace(true);
        }
    }

    /// Whether a worker that is served here takes nothing more.
    pub(super) fn is_leaving(&self, name: &str) -> bool {
        let manned = self.manned.lock();
        manned.get(name).is_some_and(|manned| *manned.station.leaving.borrow())
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
        let now = Instant::now();
        let mut silent = Vec::new();
        self.manned.lock().retain(|name, manned| match &manned.instance {
            Some(instance) => {
                if registered.get(name) != Some(instance) {
                    manned.station.leaving.send_replace(true);
                }
                let has_left = manned.worker.is_finished();
                if has_left {
                    self.resting.lock().insert(name.clone(), now + REST);
                }
                !has_left
            }
            None => {
                let is_silent = manned.station.is_silent();
                silent.extend(is_silent.then(|| name.clone()));
                !is_silent
            }
        });
        // Nothing may be given to one who asks for nothing; and he may come again.
        for name in silent {
            if let Some(kv) = client.get(&keys::worker(&name)).await? {
                client.revoke(kv.lease).await?;
            }
            tracing::info!(name, "a worker that asks no more has been given up");
        }
        self.resting.lock().retain(|_, until| *until > now);
        self.unreached.lock().retain(|name| registered.contains_key(name));
        let mut new = Vec::new();
        for instance in registered.into_values() {
            let name = &instance.name;
            let is_manned = self.manned.lock().contains_key(name);
            let is_resting = self.resting.lock().contains_key(name);
            if !is_manned && !is_resting && client.get(&keys::worker(name)).await?.is_none() {
                new.push(instance);
            }
        }
        self.wake().await;
        let probes = join_all(new.iter().map(|instance| self.probe(&instance.url))).await;
        for (instance, probe) in new.into_iter().zip(probes) {
            let Instance { name, url, .. } = &instance;
            if let Err(error) = probe {
                if self.unreached.lock().insert(name.clone()) {
                    tracing::warn!(name, url, error, "a registered service cannot be reached");
                }
                continue;
            }
            self.unreached.lock().remove(name);
            let way = Way::Push { url: url.clone(), caller: self.caller.clone() };
            let talents = Talents {
                labels: instance.labels.clone(),
                capacity: instance.max_task_num,
                commands: instance.commands,
            };
            let station = self.station(way, talents);
            self.man(&name.clone(), url.clone(), station, Some(instance));
        }
        Ok(())
    }

    /// Services that have rested take tasks again if they can be reached; those that nobody has reached
    /// for long are gone.
    async fn wake(&self) {
        let rested: Vec<_> = {
            let manned = self.manned.lock();
            let rested = manned.values().filter(|manned| manned.station.has_rested());
            rested.map(|manned| manned.station.clone()).collect()
        };
        join_all(rested.iter().map(|station| async {
            let Way::Push { url, .. } = &station.way else { return };
            match self.probe(url).await {
                Ok(()) => {
                    station.rests.send_replace(None);
                }
                Err(_) if station.is_silent() => {
                    station.leaving.send_replace(true);
                }
                Err(why) => station.rest(why),
            }
        }))
        .await;
    }

    /// Whether anybody is at a service's url; what he says does not matter.
    async fn probe(&self, url: &str) -> Result<(), String> {
        match timeout(PROBE_MAX, self.caller.get(url)).await {
            Ok(Err(error)) if error.is_unsent => Err(error.text),
            Ok(_) => Ok(()),
            Err(_) => Err(format!("it does not answer within {} s", PROBE_MAX.as_secs())),
        }
    }

    /// Tasks for a client, which is a worker from its first call on. Waits for the first until a time.
    pub(super) async fn claim(
        &self,
        name: &str,
        talents: Talents,
        records: Option<&[String]>,
        (want, until): (usize, Instant),
    ) -> Result<Given, Problem> {
        let station = {
            let known =
                self.manned.lock().get(name).map(|manned| {
                    (manned.station.clone(), matches!(manned.station.way, Way::Pull))
                });
            match known {
                Some((station, true)) if station.talents == talents => station,
                Some((_, true)) => {
                    let text = format!(
                        "worker {name} has other labels or max_task_num: ask as before, or under another name"
                    );
                    return Err(Problem::new(409, text));
                }
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
        if let Some(records) = records {
            station.has_only(records);
            let known = Instant::now() + UNKNOWN_MAX + LOOK_AGAIN;
            let given = station.take(want, until.min(known)).await;
            if !given.is_nothing() || until <= known {
                return Ok(given);
            }
            // Nothing was given meanwhile: what it was given before it has had time to hear of.
            station.has_only(records);
        }
        Ok(station.take(want, until).await)
    }

    /// A client is still there, with these records.
    pub(super) fn renew(&self, name: &str, records: &[String]) -> Renewed {
        let manned = self.manned.lock();
        let Some(station) = manned.get(name).map(|manned| &manned.station) else {
            return Renewed { gone: records.to_vec(), ..Default::default() };
        };
        station.has_only(records);
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
                return sender.send(Said::Verdict(verdict)).map_err(|_| late(&record));
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
