//! Workers that speak HTTP: services that are registered, clients that ask for tasks, and what both say
//! of them.

use super::Services;
use super::answer::{Problem, answer, ok};
use super::ask::{Asked, InPath, Object};
use super::recorded::Recording;
use super::remote::{Instance, Talents, Verdict, late};
use super::station::Given;
use crate::scheduler::checks::address_in;
use crate::scheduler::client::Client;
use crate::scheduler::coordinator::WorkerInfo;
use crate::scheduler::keys;
use crate::scheduler::model::{Labels, Refusal, check_id, check_labels};
use crate::scheduler::store::{Compare, Op, Outcome, Txn};
use crate::scheduler::submit::SubmitError;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use url::Url;

const WANT_MAX: usize = 1_000;
const WAIT_S: u64 = 20;
const WAIT_S_MAX: u64 = 60;
const CAPACITY_MAX: u32 = 10_000;

fn check_capacity(capacity: u32) -> Result<(), Refusal> {
    match capacity {
        1..=CAPACITY_MAX => Ok(()),
        _ => Err(Refusal::new(400, format!("max_task_num is not between 1 and {CAPACITY_MAX}"))),
    }
}

/// Names with an at sign in front stand for people.
fn check_worker(name: &str) -> Result<(), Refusal> {
    check_id("worker", name)?;
    match name.starts_with('@') {
        true => Err(Refusal::new(400, format!("worker {name:?}: a name does not begin with @"))),
        false => Ok(()),
    }
}

/// Refuses a name that another worker has.
async fn check_is_free(services: &Services, client: &Client, name: &str) -> Result<(), Problem> {
    let Some(found) = client.get(&keys::worker(name)).await? else { return Ok(()) };
    let info: WorkerInfo = serde_json::from_slice(&found.value).unwrap_or_default();
    // It may not have said so yet.
    let is_leaving = info.draining || services.inner.stations.is_leaving(name);
    let text = match is_leaving {
        true => format!("worker {name} is leaving until its tasks have ended"),
        false => format!("there is a worker {name} already"),
    };
    Err(Problem::new(409, text))
}

/// Registers a service to which tasks are pushed. The same again is no error.
pub(super) async fn register(services: Services, body: Object) -> Result<Response, Problem> {
    let instance: Instance = body.parse("a valid instance")?;
    check_worker(&instance.name)?;
    check_capacity(instance.max_task_num)?;
    check_labels(&instance.labels).map_err(|why| Problem::new(400, why))?;
    check_url(&services, &instance.url)?;
    let client = services.store().await?;
    let key = keys::instance(&instance.name);
    let known = client.get(&key).await?;
    if known.is_none() {
        check_is_free(&services, &client, &instance.name).await?;
    }
    let compare = match &known {
        Some(known) => Compare::ChangedAt(key.clone(), known.mod_revision),
        None => Compare::Absent(key.clone()),
    };
    let put = Op::put(key, &instance);
    write(&services, Txn { compares: vec![compare], then: vec![put], ..Default::default() })
        .await?;
    let status = if known.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    Ok(answer(status, &instance))
}

/// What can be seen of a url without calling it.
fn check_url(services: &Services, text: &str) -> Result<(), Problem> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or_else(|| Problem::new(400, format!("url {text:?} is not http or https")))?;
    if url.query().is_some() || url.fragment().is_some() {
        let text = format!("url {text:?} has a query or a fragment: /submit comes behind it");
        return Err(Problem::new(400, text));
    }
    let Some(address) = address_in(&url) else { return Ok(()) };
    let host = address.to_string();
    services.inner.targets.check(&host, address).map_err(|why| Problem::new(403, why))
}

/// Takes a registration away: the service gets nothing more, and ends what it has.
pub(super) async fn unregister(
    services: Services,
    InPath(name): InPath<String>,
) -> Result<Response, Problem> {
    let key = keys::instance(&name);
    let compares = vec![Compare::NotCreatedAt(key.clone(), 0)];
    let txn = Txn { compares, then: vec![Op::Delete(key)], ..Default::default() };
    match services.store().await?.txn(&txn).await {
        Outcome::Refused { .. } => Err(Problem::new(404, format!("{name} is not registered"))),
        Outcome::Committed { .. } => {
            services.inner.stations.leave(&name);
            Ok(ok(&json!({ "name": name })))
        }
        Outcome::Failed(text) => Err(SubmitError::Answer(text).into()),
        Outcome::Unknown => Err(SubmitError::unknown().into()),
    }
}

async fn write(services: &Services, txn: Txn) -> Result<(), Problem> {
    match services.store().await?.txn(&txn).await {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Refused { .. } => Err(Problem::new(409, "somebody else registers it right now")),
        Outcome::Failed(text) => Err(SubmitError::Answer(text).into()),
        Outcome::Unknown => Err(SubmitError::unknown().into()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Want {
    want: Option<usize>,
    /// Seconds.
    wait: Option<u64>,
}

/// Who asks, and what it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asking {
    worker: String,
    max_task_num: Option<u32>,
    labels: Labels,
    /// It carries out command cases as well.
    commands: bool,
    /// All that it has already; what it was given and does not name is lost.
    records: Option<Vec<String>>,
}

/// Gives tasks to a client that asks, at most `want`; waits for the first if there is none.
pub(super) async fn claim(
    services: Services,
    Asked(Want { want, wait }): Asked<Want>,
    body: Object,
) -> Result<Response, Problem> {
    let asking: Asking = body.parse("a valid claim")?;
    check_worker(&asking.worker)?;
    check_labels(&asking.labels).map_err(|why| Problem::new(400, why))?;
    services.check_may_be_worker(&asking.worker).await?;
    let want = want.unwrap_or(1);
    if !(1..=WANT_MAX).contains(&want) {
        return Err(Problem::new(400, format!("want is not between 1 and {WANT_MAX}")));
    }
    let capacity = asking.max_task_num.unwrap_or(want as u32);
    check_capacity(capacity)?;
    if !services.inner.stations.knows(&asking.worker) {
        check_is_free(&services, &services.shared().store().await?, &asking.worker).await?;
    }
    let wait = wait.unwrap_or(WAIT_S).min(WAIT_S_MAX);
    let until = Instant::now() + Duration::from_secs(wait);
    let kind = Talents { labels: asking.labels, capacity, commands: asking.commands };
    let mut stop = services.inner.stop.clone();
    let records = asking.records.as_deref();
    let taken = services.inner.stations.claim(&asking.worker, kind, records, (want, until));
    let given = tokio::select! {
        given = timeout(Duration::from_secs(wait + 1), taken) => given.unwrap_or_else(|_| Ok(Given::default()))?,
        _ = stop.wait_for(|stop| *stop) => return Ok(ok(&Given::default())),
    };
    if given.is_nothing() {
        // Nothing to do is one thing, and a store that says nothing another.
        services.shared().store().await?.get(&keys::worker(&asking.worker)).await?;
    }
    Ok(ok(&given))
}

/// What a client has.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Renewal {
    worker: String,
    #[serde(default)]
    records: Vec<String>,
}

/// Hears that a client is still there, and says which of its tasks shall end.
pub(super) async fn renew(services: Services, body: Object) -> Result<Response, Problem> {
    let Renewal { worker, records } = body.parse("a valid renewal")?;
    check_id("worker", &worker)?;
    services.check_may_be_worker(&worker).await?;
    Ok(ok(&services.inner.stations.renew(&worker, &records)))
}

/// Takes a verdict. It is recorded as any worker's, if its claim still stands, and answered when it is.
pub(super) async fn settle(services: Services, body: Object) -> Result<Response, Problem> {
    let verdict: Verdict = body.parse("a valid result")?;
    if verdict.record.is_empty() {
        return Err(Problem::new(400, "a result without recordId"));
    }
    let stations = &services.inner.stations;
    let record = verdict.record.clone();
    let recording = match stations.who_has(&verdict) {
        Some(worker) => {
            services.check_may_be_worker(&worker).await?;
            let client = services.shared().store().await?;
            let recording = Recording::begin(client, &worker, &record).await?;
            Some(recording.ok_or_else(|| late(&record))?)
        }
        None => None,
    };
    stations.settle(verdict)?;
    if let Some(recording) = recording
        && !recording.end().await?
    {
        return Err(late(&record));
    }
    Ok(answer(StatusCode::ACCEPTED, &json!({})))
}
