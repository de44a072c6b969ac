//! Tags with who holds them and how many may, and queues with their weights and limits.

use super::Services;
use super::answer::{Problem, answer, ok};
use super::ask::{InPath, Object};
use super::runs::now_ms;
use super::shelf;
use crate::scheduler::client::Client;
use crate::scheduler::coordinator::TagHold;
use crate::scheduler::keys;
use crate::scheduler::model::{Refusal, check_id};
use crate::scheduler::steer;
use crate::scheduler::store::{Kv, Op, Outcome, Txn};
use crate::scheduler::submit::SubmitError;
use crate::scheduler::view::starts;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;

const WEIGHT_MAX: u32 = 1_000_000;

/// How many may hold a tag at once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TagSettings {
    capacity: u32,
}

/// A queue's share and bounds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct QueueSettings {
    /// Its part beside other queues.
    weight: u32,
    /// Tasks that may run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u32>,
    /// Runs that may be open at once; further submits are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_max: Option<u32>,
    /// Nothing new starts.
    paused: bool,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self { weight: 1, limit: None, runs_max: None, paused: false }
    }
}

/// All tags that are held or have a capacity, with their holders: those first for which most tasks wait.
pub(super) async fn list_tags(services: Services) -> Result<Response, Problem> {
    let client = services.store().await?;
    let (held, _) = client.prefix(keys::TAGS, 0).await?;
    let (defined, _) = client.prefix(keys::TAG_DEFINITIONS, 0).await?;
    let mut tags: BTreeMap<String, (u32, Vec<Value>)> = BTreeMap::new();
    for kv in &defined {
        let tag = kv.key.strip_prefix(keys::TAG_DEFINITIONS).unwrap_or_default();
        if let Ok(found) = serde_json::from_slice::<TagSettings>(&kv.value) {
            tags.insert(tag.to_owned(), (found.capacity, Vec::new()));
        }
    }
    let running = starts(&client.prefix(keys::BEATS, 0).await?.0);
    let found = shelf::contention(&services).await?;
    for kv in &held {
        let Some((tag, unit)) = keys::parse_tag(&kv.key) else { continue };
        let hold: TagHold = serde_json::from_slice(&kv.value).unwrap_or_default();
        let since_ms = running.get(&(hold.worker.clone(), hold.run.clone(), hold.lane));
        let case = found.case_of(&hold.run, hold.lane);
        let holder = json!({
            "unit": unit, "run": hold.run, "worker": hold.worker, "claim": hold.claim, "case": case,
            "lane": hold.lane, "draining": hold.draining, "since": kv.create_revision,
            "since_ms": since_ms,
        });
        tags.entry(tag.to_owned()).or_insert((1, Vec::new())).1.push(holder);
    }
    let mut tags: Vec<_> = tags.into_iter().collect();
    let wanted = |tag: &str| found.queues.get(tag).map_or(0, |queue| queue.waiting_tasks);
    tags.sort_by_key(|(tag, (_, holders))| Reverse((wanted(tag), holders.len())));
    let show = |(tag, (capacity, holders)): (String, (u32, Vec<Value>))| {
        let queue = found.queues.get(&tag).cloned().unwrap_or_default();
        let mut shown = serde_json::to_value(queue).unwrap_or_default();
        shown["held"] = holders.len().into();
        (shown["tag"], shown["capacity"], shown["holders"]) =
            (tag.into(), capacity.into(), holders.into());
        shown
    };
    Ok(ok(&json!({"items": tags.into_iter().map(show).collect::<Vec<_>>()})))
}

pub(super) async fn put_tag(
    services: Services,
    InPath(tag): InPath<String>,
    body: Object,
) -> Result<Response, Problem> {
    check_id("tag", &tag)?;
    let wanted: TagSettings = body.parse("settings of a tag")?;
    if wanted.capacity == 0 {
        return Err(Problem::new(400, format!("tag {tag}: capacity is 0")));
    }
    let op = Op::put(format!("{}{tag}", keys::TAG_DEFINITIONS), &wanted);
    write(&services.store().await?, op).await?;
    Ok(ok(&json!({"tag": tag, "capacity": wanted.capacity})))
}

/// Takes the capacity of a tag away: one may hold it again.
pub(super) async fn delete_tag(
    services: Services,
    InPath(tag): InPath<String>,
) -> Result<Response, Problem> {
    remove(&services, "tag", &tag, keys::TAG_DEFINITIONS).await
}

/// Why a tag is taken from its holder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    reason: String,
}

/// Takes a tag from its holder by force.
pub(super) async fn release_tag(
    services: Services,
    InPath(tag): InPath<String>,
    body: Object,
) -> Result<Response, Problem> {
    let Release { reason } = body.parse("a release with its reason")?;
    steer::release(&services.store().await?, &tag, (&reason, ""), now_ms()).await?;
    Ok(answer(StatusCode::ACCEPTED, &json!({"tag": tag, "reason": reason})))
}

fn show_queue(kv: &Kv) -> Value {
    let name = kv.key.strip_prefix(keys::QUEUES).unwrap_or_default();
    let mut shown = Map::from_iter([("queue".to_owned(), name.into())]);
    if let Ok(Value::Object(fields)) = serde_json::from_slice(&kv.value) {
        shown.extend(fields);
    }
    shown.insert("version".into(), kv.mod_revision.into());
    shown.into()
}

pub(super) async fn list_queues(services: Services) -> Result<Response, Problem> {
    let (found, _) = services.store().await?.prefix(keys::QUEUES, 0).await?;
    Ok(ok(&json!({"items": found.iter().map(show_queue).collect::<Vec<_>>()})))
}

pub(super) async fn get_queue(
    services: Services,
    InPath(queue): InPath<String>,
) -> Result<Response, Problem> {
    let key = format!("{}{queue}", keys::QUEUES);
    let found = services.store().await?.get(&key).await?;
    found.map(|kv| ok(&show_queue(&kv))).ok_or_else(|| Problem::unknown("queue", &queue))
}

pub(super) async fn put_queue(
    services: Services,
    InPath(queue): InPath<String>,
    mut body: Object,
) -> Result<Response, Problem> {
    check_id("queue", &queue)?;
    body.take_version()?;
    body.0.remove("queue");
    let wanted: QueueSettings = body.parse("settings of a queue")?;
    if !(1..=WEIGHT_MAX).contains(&wanted.weight) {
        let text = format!("queue {queue}: weight is not between 1 and {WEIGHT_MAX}");
        return Err(Refusal::new(400, text).into());
    }
    let client = services.store().await?;
    write(&client, Op::put(format!("{}{queue}", keys::QUEUES), &wanted)).await?;
    let mut shown = serde_json::to_value(&wanted).unwrap_or_default();
    shown["queue"] = queue.into();
    Ok(ok(&shown))
}

pub(super) async fn delete_queue(
    services: Services,
    InPath(queue): InPath<String>,
) -> Result<Response, Problem> {
    remove(&services, "queue", &queue, keys::QUEUES).await
}

async fn remove(
    services: &Services,
    what: &str,
    name: &str,
    prefix: &str,
) -> Result<Response, Problem> {
    let (client, key) = (services.store().await?, format!("{prefix}{name}"));
    if client.get(&key).await?.is_none() {
        return Err(Problem::unknown(what, name));
    }
    write(&client, Op::Delete(key)).await?;
    Ok(ok(&json!({ what: name })))
}

async fn write(client: &Client, op: Op) -> Result<(), SubmitError> {
    match client.txn(&Txn { then: vec![op], ..Default::default() }).await {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Failed(text) => Err(SubmitError::Answer(text)),
        Outcome::Refused { .. } | Outcome::Unknown => Err(SubmitError::unknown()),
    }
}
