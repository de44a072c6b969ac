//! What a submit goes by: the cases and environments that it names, and its queue.

use super::SubmitError;
use super::chosen::{self, Chosen};
use crate::scheduler::catalog;
use crate::scheduler::client::{Client, Room};
use crate::scheduler::keys;
use crate::scheduler::model::{Environment, Missing, Refusal, RunSpec, TestCase};
use crate::scheduler::store::{Compare, Kv};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Keys that are read from one member and compared when the run is written: etcd takes 128.
const NEAR_MAX: usize = 100;

/// One part of so many of the store's room is kept for results.
const RESERVED: u64 = 20;

pub(super) struct Ground {
    pub(super) chosen: Chosen,
    pub(super) environments: BTreeMap<String, Environment>,
    /// That nothing of it has changed, where it may be old.
    pub(super) holds: Vec<Compare>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Limit {
    runs_max: Option<usize>,
}

/// As the store has it now, with these cases and environments in place of those that it has.
pub(super) async fn newest(
    client: &Client,
    spec: &RunSpec,
    cases: &[TestCase],
    places: &[Environment],
) -> Result<Ground, SubmitError> {
    // Side by side: each read waits for a majority of the members.
    let environments = async {
        let found = catalog::of_ids::<Environment>(client, &spec.environments).await?;
        Ok::<_, SubmitError>(found)
    };
    let (queue, chosen) = (check_queue(client, &spec.queue), chosen::read(client, spec, cases));
    let ((), chosen, mut environments) = tokio::try_join!(queue, chosen, environments)?;
    environments.extend(places.iter().map(|place| (place.id.clone(), place.clone())));
    Ok(Ground { chosen, environments, holds: Vec::new() })
}

/// As some member has it, if that is all and little: it saves asking a majority. Whoever writes
/// compares that it is still so.
pub(super) async fn near(client: &Client, spec: &RunSpec) -> Result<Option<Ground>, SubmitError> {
    let count = spec.cases.len() + spec.environments.len() + 1;
    let has_prefix = spec.cases.iter().any(|selected| selected.prefix().is_some());
    if count > NEAR_MAX || has_prefix || spec.missing == Missing::Include {
        return Ok(None);
    }
    let of_cases = spec.cases.iter().map(|selected| format!("{}{}", keys::CASES, selected.case));
    let of_places = spec.environments.iter().map(|id| format!("{}{id}", keys::ENVIRONMENTS));
    let queue = format!("{}{}", keys::QUEUES, spec.queue);
    let mut wanted: Vec<String> = of_cases.chain(of_places).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted.push(queue.clone());
    let found = client.get_all_near(&wanted).await?;
    let of_queue = found.iter().find(|kv| kv.key == queue);
    let is_limited = of_queue.is_some_and(|kv| limit(kv).is_some());
    if is_limited || found.len() + usize::from(of_queue.is_none()) < wanted.len() {
        return Ok(None);
    }
    let mut ground =
        Ground { chosen: Chosen::default(), environments: BTreeMap::new(), holds: Vec::new() };
    if of_queue.is_none() {
        ground.holds.push(Compare::Absent(queue));
    }
    let selected = spec.cases.iter();
    let selected = selected.map(|choice| (choice.case.as_str().into(), choice.repeats.clone()));
    ground.chosen.selected = selected.collect();
    for kv in found {
        if kv.key.starts_with(keys::CASES) {
            if ground.chosen.keep(&kv, spec, |_| true).is_none() {
                return Ok(None);
            }
        } else if kv.key.starts_with(keys::ENVIRONMENTS) {
            let Ok(place) = serde_json::from_slice::<Environment>(&kv.value) else {
                return Ok(None);
            };
            ground.environments.insert(place.id.clone(), place);
        }
        ground.holds.push(Compare::ChangedAt(kv.key, kv.mod_revision));
    }
    Ok(Some(ground))
}

fn limit(kv: &Kv) -> Option<usize> {
    serde_json::from_slice(&kv.value).unwrap_or_else(|_| Limit::default()).runs_max
}

/// Refuses what needs room of which the last is kept for results of runs that are there.
pub(in crate::scheduler) async fn check_room(client: &Client) -> Result<(), SubmitError> {
    match client.room().await {
        Some(Room { used, quota }) if used >= quota - quota / RESERVED => {
            let text = format!(
                "the store is nearly full, {used} of {quota} bytes are in use: the rest is kept for results"
            );
            Err(Refusal::new(429, text).into())
        }
        _ => Ok(()),
    }
}

/// Refuses a submit to a queue that takes no more open runs.
async fn check_queue(client: &Client, queue: &str) -> Result<(), SubmitError> {
    let kv = client.get(&format!("{}{queue}", keys::QUEUES)).await?;
    let Some(runs_max) = kv.as_ref().and_then(limit) else { return Ok(()) };
    let mut of_queue = 0;
    for kv in client.prefix(keys::OPEN, 0).await?.0 {
        let run = kv.key.strip_prefix(keys::OPEN).unwrap_or_default();
        let Some(spec) = client.get(&keys::run(run)).await? else { continue };
        let spec = serde_json::from_slice::<RunSpec>(&spec.value);
        of_queue += usize::from(spec.is_ok_and(|spec| spec.queue == queue));
    }
    if of_queue >= runs_max {
        let text = format!("queue {queue} is full: {of_queue} runs are open");
        return Err(Refusal::new(429, text).into());
    }
    Ok(())
}
