//! Test instances: the workers that are there, what they hold, and their leave.

use super::Services;
use super::answer::{Problem, answer, ok};
use super::ask::{Asked, InPath, Object, Part, token};
use crate::scheduler::client::Client;
use crate::scheduler::coordinator::{Command, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Item};
use crate::scheduler::store::{Compare, Kv, Op, Outcome, Txn};
use crate::scheduler::submit::SubmitError;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

pub(super) async fn list(
    services: Services,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    let after = part.after()?.map(|name| format!("{}\0", keys::worker(&name)));
    let from = after.unwrap_or_else(|| keys::WORKERS.to_owned());
    let end = keys::range_end(keys::WORKERS);
    let page = client.page(&from, &end, part.limit()? as i64, false).await?;
    let shown = futures_util::future::try_join_all(page.kvs.iter().map(|kv| show(&client, kv)));
    let shown: Vec<Value> = shown.await?;
    let last = page.kvs.last().filter(|_| page.has_more);
    let next = last.and_then(|kv| kv.key.strip_prefix(keys::WORKERS)).map(token);
    Ok(ok(&json!({"items": shown, "next": next, "left": page.count})))
}

pub(super) async fn get(
    services: Services,
    InPath(name): InPath<String>,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    let found = client.get(&keys::worker(&name)).await?;
    let found = found.ok_or_else(|| Problem::unknown("instance", &name))?;
    Ok(ok(&show(&client, &found).await?))
}

/// A worker, with what it has been given: `task_num` counts tasks of open claims, and nobody keeps it.
async fn show(client: &Client, kv: &Kv) -> Result<Value, etcd_client::Error> {
    let name = kv.key.strip_prefix(keys::WORKERS).unwrap_or_default();
    let info: WorkerInfo = serde_json::from_slice(&kv.value).unwrap_or_default();
    let (claims, beat, services) = (keys::claims(name), keys::beat(name), service_prefix(name));
    let (claims, beat, service, lease) = tokio::join!(
        client.prefix(&claims, 0),
        client.get(&beat),
        client.prefix(&services, 0),
        client.lease_left(kv.lease)
    );
    // A worker that has gone meanwhile has none.
    let lease = lease?.map(|(left, granted)| json!({"left_s": left, "granted_s": granted}));
    let mut held = Vec::new();
    let mut task_num = 0;
    for kv in claims?.0 {
        let Ok(claim) = serde_json::from_slice::<Claim>(&kv.value) else { continue };
        task_num += claim.items.iter().map(Item::count).sum::<u32>();
        let name = kv.key.rsplit('/').next().unwrap_or_default();
        held.push(json!({
            "claim": name, "run": claim.run, "items": claim.items, "tags": claim.tags,
            "fence": kv.create_revision, "deadline": claim.deadline,
        }));
    }
    let beat = beat?.and_then(|kv| serde_json::from_slice::<Value>(&kv.value).ok());
    let service = service?.0.into_iter().next();
    let service = service.and_then(|kv| serde_json::from_slice::<Value>(&kv.value).ok());
    let url = service.and_then(|service| service.get("url").cloned());
    Ok(json!({
        "name": name, "url": url, "labels": info.labels, "task_num": task_num,
        "max_task_num": info.max_task_num, "prefetch": info.prefetch,
        "no_commands": info.no_commands, "draining": info.draining, "resting": info.resting,
        "artifacts": info.artifacts,
        "registration": kv.create_revision, "version": kv.mod_revision, "running": beat, "lease": lease,
        "claims": held,
    }))
}

fn service_prefix(name: &str) -> String {
    format!("{}{name}/", keys::SERVICES)
}

/// Asks a worker to finish what it has, and to leave.
pub(super) async fn drain(
    services: Services,
    InPath(name): InPath<String>,
    _: Object,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    let found = client.get(&keys::worker(&name)).await?;
    let found = found.ok_or_else(|| Problem::unknown("instance", &name))?;
    let value = serde_json::to_vec(&Command::Drain).unwrap_or_default();
    // It outlives a lease that is lost meanwhile: the worker hears of it when it is back.
    let put = Op::Put { key: keys::command(&name, keys::DRAIN), value, lease: 0 };
    let compares = vec![Compare::CreatedAt(found.key.clone(), found.create_revision)];
    let txn = Txn { compares, then: vec![put], ..Default::default() };
    match client.txn(&txn).await {
        Outcome::Committed { .. } => {
            Ok(answer(StatusCode::ACCEPTED, &json!({"name": name, "draining": true})))
        }
        Outcome::Refused { .. } => Err(Problem::unknown("instance", &name)),
        Outcome::Failed(text) => Err(SubmitError::Answer(text).into()),
        Outcome::Unknown => Err(SubmitError::unknown().into()),
    }
}
