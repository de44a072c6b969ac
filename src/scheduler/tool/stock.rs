//! `quoin worker ls`, `queue` and `tag`: what runs share.

use super::WorkerAction;
use super::desk::{Desk, Done, Trouble, now_ms, table};
use crate::scheduler::coordinator::{Command, TagHold, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Item, Refusal, RunSpec, check_id};
use crate::scheduler::steer;
use crate::scheduler::store::{Compare, Kv, Op, Outcome, Txn};
use clap::Subcommand;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

#[derive(Debug, Subcommand)]
pub enum QueueAction {
    /// Lists queues with what is open in them
    Ls,
    /// Sets a queue's part beside others
    Weight {
        queue: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        weight: u32,
    },
    /// Sets how many tasks of a queue may run at once; 0 for as many as there are slots
    Limit { queue: String, tasks: u32 },
    /// Gives nothing more of a queue out
    Pause { queue: String },
    /// Lets a paused queue go on
    Resume { queue: String },
}

#[derive(Debug, Subcommand)]
pub enum TagAction {
    /// Lists tags that are held, and those with a capacity
    Ls,
    /// Sets how many tasks may hold a tag at once
    Capacity {
        tag: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        tasks: u32,
    },
    /// Takes a tag from its holder by force: what runs under it is canceled
    Release {
        tag: String,
        /// Why, for the worker's log and whoever looks at the store
        #[arg(long)]
        reason: String,
    },
}

fn parse<T: DeserializeOwned + Default>(kv: &Kv) -> T {
    serde_json::from_slice(&kv.value).unwrap_or_default()
}

pub(super) async fn worker(action: WorkerAction, desk: &Desk) -> Done {
    match action {
        WorkerAction::Ls { .. } => {
            let found = workers(desk).await?;
            desk.show(&found, |found| list_workers(found));
        }
        WorkerAction::Drain { worker } => {
            let key = keys::worker(&worker);
            let command = keys::command(&worker, "drain");
            let unknown = || Refusal::new(404, format!("unknown worker {worker}"));
            write(desk, Compare::NotCreatedAt(key, 0), command, &Command::Drain, unknown).await?;
        }
    }
    Ok(0)
}

async fn write(
    desk: &Desk,
    compare: Compare,
    key: String,
    value: &impl Serialize,
    refusal: impl FnOnce() -> Refusal,
) -> Result<(), Trouble> {
    let txn = Txn { compares: vec![compare], then: vec![Op::put(key, value)], otherwise: vec![] };
    done(desk.client.txn(&txn).await, refusal)
}

fn done(outcome: Outcome, refusal: impl FnOnce() -> Refusal) -> Result<(), Trouble> {
    match outcome {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Refused { .. } => Err(refusal().into()),
        Outcome::Failed(text) => Err(Trouble::Store(format!("the store refuses: {text}"))),
        Outcome::Unknown => Err(Trouble::Store("the store does not answer".into())),
    }
}

#[derive(Debug, Serialize)]
struct WorkerLine {
    worker: String,
    #[serde(flatten)]
    info: WorkerInfo,
    /// Tasks that it has.
    tasks: u32,
    claims: u32,
    /// The lease that it lives by.
    lease: String,
}

async fn workers(desk: &Desk) -> Result<Vec<WorkerLine>, Trouble> {
    let (kvs, revision) = desk.client.prefix(keys::WORKERS, 0).await?;
    let (claims, _) = desk.client.prefix(keys::CLAIMS, revision).await?;
    let mut load: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for kv in &claims {
        let Some((worker, _)) = keys::parse_claim(&kv.key) else { continue };
        let claim: Claim = parse(kv);
        let (tasks, count) = load.entry(worker).or_default();
        *tasks += claim.items.iter().map(Item::count).sum::<u32>();
        *count += 1;
    }
    let line = |kv: &Kv| {
        let worker = kv.key.strip_prefix(keys::WORKERS).unwrap_or_default().to_owned();
        let (tasks, claims) = load.get(worker.as_str()).copied().unwrap_or_default();
        WorkerLine { worker, info: parse(kv), tasks, claims, lease: format!("{:x}", kv.lease) }
    };
    Ok(kvs.iter().map(line).collect())
}

fn list_workers(found: &[WorkerLine]) -> String {
    let rows = found.iter().map(|line| {
        let labels = line.info.labels.iter().map(|(name, value)| format!("{name}={value}"));
        [
            line.worker.clone(),
            line.info.max_task_num.to_string(),
            line.tasks.to_string(),
            labels.collect::<Vec<_>>().join(" "),
            if line.info.draining { "drains".into() } else { String::new() },
            line.lease.clone(),
        ]
    });
    table(["worker", "slots", "tasks", "labels", "state", "lease"], rows.collect())
}

/// A queue and what is open in it.
#[derive(Debug, Serialize)]
struct QueueLine {
    queue: String,
    weight: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    paused: bool,
    open_runs: u32,
}

pub(super) async fn queue(action: QueueAction, desk: &Desk) -> Done {
    let (queue, field, value): (String, &str, Value) = match action {
        QueueAction::Ls => {
            let found = queues(desk).await?;
            desk.show(&found, |found| list_queues(found));
            return Ok(0);
        }
        QueueAction::Weight { queue, weight } => (queue, "weight", weight.into()),
        QueueAction::Limit { queue, tasks: 0 } => (queue, "limit", Value::Null),
        QueueAction::Limit { queue, tasks } => (queue, "limit", tasks.into()),
        QueueAction::Pause { queue } => (queue, "paused", true.into()),
        QueueAction::Resume { queue } => (queue, "paused", false.into()),
    };
    check_id("queue", &queue)?;
    change(desk, format!("{}{queue}", keys::QUEUES), field, value).await?;
    Ok(0)
}

/// Sets one field of a JSON object and leaves the others as they are.
async fn change(desk: &Desk, key: String, field: &str, value: Value) -> Result<(), Trouble> {
    let before = desk.client.get(&key).await?;
    let mut object: Map<String, Value> = before.as_ref().map(parse).unwrap_or_default();
    object.insert(field.to_owned(), value);
    let compare = match &before {
        Some(kv) => Compare::ChangedAt(key.clone(), kv.mod_revision),
        None => Compare::Absent(key.clone()),
    };
    let again = || Refusal::new(409, "somebody else has changed it meanwhile: try again");
    write(desk, compare, key, &object, again).await
}

async fn queues(desk: &Desk) -> Result<Vec<QueueLine>, Trouble> {
    let (kvs, revision) = desk.client.prefix(keys::QUEUES, 0).await?;
    let mut found: BTreeMap<String, QueueLine> = BTreeMap::new();
    let line = |queue: &str, value: &Value| QueueLine {
        queue: queue.to_owned(),
        weight: value["weight"].as_u64().unwrap_or(1),
        limit: value["limit"].as_u64(),
        paused: value["paused"].as_bool().unwrap_or_default(),
        open_runs: 0,
    };
    for kv in &kvs {
        let queue = kv.key.strip_prefix(keys::QUEUES).unwrap_or_default();
        found.insert(queue.to_owned(), line(queue, &parse(kv)));
    }
    let (open, _) = desk.client.prefix(keys::OPEN, revision).await?;
    for kv in &open {
        let run = kv.key.strip_prefix(keys::OPEN).unwrap_or_default();
        let Some(spec) = desk.client.get_at(&keys::run(run), revision).await? else { continue };
        let spec: RunSpec = parse(&spec);
        let entry = found.entry(spec.queue.clone());
        entry.or_insert_with(|| line(&spec.queue, &Value::Null)).open_runs += 1;
    }
    Ok(found.into_values().collect())
}

fn list_queues(found: &[QueueLine]) -> String {
    let rows = found.iter().map(|line| {
        [
            line.queue.clone(),
            line.weight.to_string(),
            line.limit.map(|limit| limit.to_string()).unwrap_or_default(),
            if line.paused { "paused".into() } else { String::new() },
            line.open_runs.to_string(),
        ]
    });
    table(["queue", "weight", "limit", "state", "open runs"], rows.collect())
}

/// A unit of a tag and who has it; a tag that nobody holds has no holder.
#[derive(Debug, Serialize)]
struct TagLine {
    tag: String,
    capacity: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<u32>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    hold: Option<TagHold>,
}

pub(super) async fn tag(action: TagAction, desk: &Desk) -> Done {
    match action {
        TagAction::Ls => {
            let found = tags(desk).await?;
            desk.show(&found, |found| list_tags(found));
        }
        TagAction::Capacity { tag, tasks } => {
            let key = format!("{}{tag}", keys::TAG_DEFINITIONS);
            change(desk, key, "capacity", tasks.into()).await?;
        }
        TagAction::Release { tag, reason } => {
            steer::release(&desk.client, &tag, &reason, now_ms()).await?;
        }
    }
    Ok(0)
}

async fn tags(desk: &Desk) -> Result<Vec<TagLine>, Trouble> {
    let (held, revision) = desk.client.prefix(keys::TAGS, 0).await?;
    let (definitions, _) = desk.client.prefix(keys::TAG_DEFINITIONS, revision).await?;
    let mut capacities: BTreeMap<&str, u32> = BTreeMap::new();
    for kv in &definitions {
        let value: Value = parse(kv);
        let capacity = value["capacity"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        capacities.insert(kv.key.strip_prefix(keys::TAG_DEFINITIONS).unwrap_or_default(), capacity);
    }
    let mut found = Vec::new();
    for kv in &held {
        let Some((tag, unit)) = keys::parse_tag(&kv.key) else { continue };
        let capacity = capacities.get(tag).copied().unwrap_or(1);
        found.push(TagLine {
            tag: tag.to_owned(),
            capacity,
            unit: Some(unit),
            hold: Some(parse(kv)),
        });
    }
    for (tag, capacity) in capacities {
        if !found.iter().any(|line| line.tag == tag) {
            found.push(TagLine { tag: tag.to_owned(), capacity, unit: None, hold: None });
        }
    }
    Ok(found)
}

fn list_tags(found: &[TagLine]) -> String {
    let rows = found.iter().map(|line| {
        let hold = line.hold.clone().unwrap_or_default();
        let state = match (&line.hold, hold.draining) {
            (None, _) => "free",
            (Some(_), true) => "draining",
            (Some(_), false) => "held",
        };
        let unit =
            line.unit.map_or(String::new(), |unit| format!("{} of {}", unit + 1, line.capacity));
        [line.tag.clone(), unit, state.to_owned(), hold.worker, hold.run, hold.claim]
    });
    table(["tag", "unit", "state", "worker", "run", "claim"], rows.collect())
}
