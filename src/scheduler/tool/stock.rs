//! `quoin worker ls`, `queue` and `tag`: what runs share.

use super::WorkerAction;
use super::desk::{Desk, Done, Trouble, now_ms, table};
use crate::scheduler::coordinator::{Command, TagHold, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Item, Refusal, RunSpec, check_id};
use crate::scheduler::steer;
use crate::scheduler::store::{Compare, Kv, Op, Outcome, Txn};
use crate::scheduler::submit::SubmitError;
use crate::scheduler::view::{RunBook, read};
use clap::Subcommand;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
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
    /// Sets how many runs of a queue may be open at once, beyond which submits are refused; 0 for any number
    Runs { queue: String, runs: u32 },
    /// Gives nothing more of a queue out
    Pause { queue: String },
    /// Lets a paused queue go on
    Resume { queue: String },
}

#[derive(Debug, Subcommand)]
pub enum TagAction {
    /// Lists tags that are held, and those with a capacity
    Ls,
    /// Lists who holds a tag, or any: the worker, the run, and the tasks
    Holders { tag: Option<String> },
    /// Sets how many tasks may hold a tag at once
    Capacity {
        tag: String,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        tasks: u32,
    },
    /// Takes a tag from its holder by force: what runs under it is canceled
    Release {
        tag: String,
        /// Why, for whoever looks at what was canceled
        #[arg(long)]
        reason: String,
        /// Who says so
        #[arg(long, env = "USER", default_value = "")]
        by: String,
    },
}

fn parse<T: DeserializeOwned + Default>(kv: &Kv) -> T {
    serde_json::from_slice(&kv.value).unwrap_or_default()
}

pub(super) async fn worker(action: WorkerAction, desk: &Desk) -> Done {
    match action {
        // It asks the store nothing from a desk.
        WorkerAction::Start(_) => {}
        WorkerAction::Ls { .. } => {
            let found = workers(desk).await?;
            desk.show(&found, |found| list_workers(found));
        }
        WorkerAction::Drain { worker, .. } => {
            let key = keys::worker(&worker);
            let command = keys::command(&worker, keys::DRAIN);
            let unknown = || Refusal::new(404, format!("unknown worker {worker}"));
            let revision =
                write(desk, Compare::NotCreatedAt(key, 0), command, &Command::Drain, unknown)
                    .await?;
            desk.tell(&json!({"worker": worker, "draining": true, "revision": revision}));
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
) -> Result<i64, Trouble> {
    let txn = Txn { compares: vec![compare], then: vec![Op::put(key, value)], otherwise: vec![] };
    done(desk.client.txn(&txn).await, refusal)
}

/// The revision of what was written.
fn done(outcome: Outcome, refusal: impl FnOnce() -> Refusal) -> Result<i64, Trouble> {
    match outcome {
        Outcome::Committed { revision } => Ok(revision),
        Outcome::Refused { .. } => Err(refusal().into()),
        Outcome::Failed(text) => Err(SubmitError::Answer(text).into()),
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
            match (line.info.draining, &line.info.resting) {
                (true, _) => "drains".into(),
                (false, Some(rest)) => format!("rests: {}", rest.why),
                (false, None) => String::new(),
            },
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
    /// Runs that may be open at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    runs_max: Option<u64>,
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
        QueueAction::Runs { queue, runs: 0 } => (queue, "runs_max", Value::Null),
        QueueAction::Runs { queue, runs } => (queue, "runs_max", runs.into()),
        QueueAction::Pause { queue } => (queue, "paused", true.into()),
        QueueAction::Resume { queue } => (queue, "paused", false.into()),
    };
    check_id("queue", &queue)?;
    change(desk, keys::queue(&queue), field, value, ("queue", &queue)).await?;
    Ok(0)
}

/// Sets one field of a JSON object and leaves the others as they are; says what it is then, under its kind
/// and name.
async fn change(
    desk: &Desk,
    key: String,
    field: &str,
    value: Value,
    (kind, name): (&str, &str),
) -> Result<(), Trouble> {
    let before = desk.client.get(&key).await?;
    let mut object: Map<String, Value> = before.as_ref().map(parse).unwrap_or_default();
    match value {
        Value::Null => object.remove(field),
        value => object.insert(field.to_owned(), value),
    };
    let compare = match &before {
        Some(kv) => Compare::ChangedAt(key.clone(), kv.mod_revision),
        None => Compare::Absent(key.clone()),
    };
    let again = || Refusal::new(409, "somebody else has changed it meanwhile: try again");
    let revision = write(desk, compare, key, &object, again).await?;
    object.insert(kind.to_owned(), name.into());
    object.insert("version".to_owned(), revision.into());
    desk.tell(&object);
    Ok(())
}

async fn queues(desk: &Desk) -> Result<Vec<QueueLine>, Trouble> {
    let (kvs, revision) = desk.client.prefix(keys::QUEUES, 0).await?;
    let mut found: BTreeMap<String, QueueLine> = BTreeMap::new();
    let line = |queue: &str, value: &Value| QueueLine {
        queue: queue.to_owned(),
        weight: value["weight"].as_u64().unwrap_or(1),
        limit: value["limit"].as_u64(),
        runs_max: value["runs_max"].as_u64(),
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
            match line.runs_max {
                Some(most) => format!("{} of {most}", line.open_runs),
                None => line.open_runs.to_string(),
            },
        ]
    });
    table(["queue", "weight", "tasks at once", "state", "open runs"], rows.collect())
}

/// A unit of a tag, counted from 1, and who has it; a tag that nobody holds has no holder.
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
        TagAction::Holders { tag } => {
            let found = holders(desk, tag.as_deref()).await?;
            desk.show(&found, |found| list_holders(found));
        }
        TagAction::Capacity { tag, tasks } => {
            check_id("tag", &tag)?;
            let key = keys::tag_definition(&tag);
            change(desk, key, "capacity", tasks.into(), ("tag", &tag)).await?;
        }
        TagAction::Release { tag, reason, by } => {
            let released = steer::release(&desk.client, &tag, (&reason, &by), now_ms()).await?;
            desk.tell(&json!({"tag": tag, "reason": reason, "by": by, "released": released}));
        }
    }
    Ok(0)
}

/// A unit of a tag that is held, and what for.
#[derive(Debug, Serialize)]
struct HolderLine {
    tag: String,
    /// From 1.
    unit: u32,
    #[serde(flatten)]
    hold: TagHold,
    case: String,
    environment: String,
    /// Numbers of the tasks that its claim still has, as `from` and `to`, the first behind them.
    tasks: Vec<(u32, u32)>,
    /// The revision since which it is held.
    since: i64,
}

async fn holders(desk: &Desk, tag: Option<&str>) -> Result<Vec<HolderLine>, Trouble> {
    let (held, revision) = desk.client.prefix(keys::TAGS, 0).await?;
    let mut books: BTreeMap<String, Option<RunBook>> = BTreeMap::new();
    let mut found = Vec::new();
    for kv in &held {
        // Behind its name stands its scope.
        let Some((of, unit)) = keys::parse_tag(&kv.key) else { continue };
        let is_other = |wanted: &str| of != wanted && !of.starts_with(&format!("{wanted}/"));
        if tag.is_some_and(is_other) {
            continue;
        }
        let hold: TagHold = parse(kv);
        if !books.contains_key(&hold.run) {
            let book = match read::book_at(&desk.client, &hold.run, revision).await {
                Err(SubmitError::Refused(_)) => None,
                book => Some(book?),
            };
            books.insert(hold.run.clone(), book);
        }
        let book = books.get(&hold.run).and_then(Option::as_ref);
        let lane = book.and_then(|book| book.plan.lanes.get(hold.lane as usize));
        let key = format!("{}{}", keys::claims(&hold.worker), hold.claim);
        let open = book.and_then(|book| book.open.iter().find(|open| open.claim == key));
        let items = open.map(|open| open.items.as_slice()).unwrap_or_default();
        found.push(HolderLine {
            tag: of.to_owned(),
            unit: unit + 1,
            case: lane.map(|lane| lane.case.to_string()).unwrap_or_default(),
            environment: lane.map(|lane| lane.environment.to_string()).unwrap_or_default(),
            tasks: items.iter().map(|item| (item.from, item.to)).collect(),
            hold,
            since: kv.create_revision,
        });
    }
    Ok(found)
}

fn list_holders(found: &[HolderLine]) -> String {
    let rows = found.iter().map(|line| {
        let tasks = line.tasks.iter().map(|(from, to)| match to - from {
            0 | 1 => format!("#{from}"),
            _ => format!("#{from} to #{}", to - 1),
        });
        [
            line.tag.clone(),
            line.unit.to_string(),
            line.hold.worker.clone(),
            line.hold.run.clone(),
            line.case.clone(),
            line.environment.clone(),
            tasks.collect::<Vec<_>>().join(" "),
            if line.hold.draining { "its worker is lost".into() } else { String::new() },
        ]
    });
    table(["tag", "unit", "worker", "run", "case", "environment", "tasks", "state"], rows.collect())
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
            unit: Some(unit + 1),
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
        [
            line.tag.clone(),
            line.capacity.to_string(),
            line.unit.map(|unit| unit.to_string()).unwrap_or_default(),
            state.to_owned(),
            hold.worker,
            hold.run,
            hold.claim,
        ]
    });
    table(["tag", "capacity", "unit", "state", "worker", "run", "claim"], rows.collect())
}
