//! Submits a run: looks up what it names, sees that it fits together, and writes it such that it
//! exists from one revision on, however many keys it takes.

use super::client::Client;
use super::coordinator::{Control, Definitions};
use super::keys;
use super::model::{Environment, Refusal, RunPlan, RunSpec, TestCase, expand};
use super::store::{Compare, Kv, Op, Outcome, Txn};
use etcd_client::Error;
use std::collections::BTreeMap;
use std::fmt;

/// Bytes of definitions in one key.
const PACK_BYTES: usize = 256 * 1024;

/// Why a submit was not taken.
#[derive(Debug)]
pub enum SubmitError {
    Refused(Refusal),
    /// Nothing is known of it; asking again with the same request id finds out.
    Store(String),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Store(text) => write!(f, "the store does not answer: {text}"),
        }
    }
}

impl std::error::Error for SubmitError {}

impl From<Refusal> for SubmitError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for SubmitError {
    fn from(error: Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Writes a case or an environment under its id, whatever was there.
pub async fn put_case(client: &Client, case: &TestCase) -> Result<(), SubmitError> {
    case.check()?;
    write(client, vec![Op::put(format!("{}{}", keys::CASES, case.id), case)]).await
}

pub async fn put_environment(client: &Client, found: &Environment) -> Result<(), SubmitError> {
    found.check()?;
    write(client, vec![Op::put(format!("{}{}", keys::ENVIRONMENTS, found.id), found)]).await
}

/// Pauses a run, lets it go on, or cancels it.
pub async fn control(client: &Client, run: &str, wanted: Control) -> Result<(), SubmitError> {
    let txn = Txn {
        compares: vec![Compare::NotCreatedAt(keys::open(run), 0)],
        then: vec![Op::put(keys::control(run), &wanted)],
        otherwise: vec![Op::Get(keys::run(run))],
    };
    match client.txn(&txn).await {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Refused { found, .. } => Err(match found.first() {
            Some(Some(_)) => Refusal::new(409, format!("run {run} has ended")).into(),
            _ => Refusal::new(404, format!("unknown run {run}")).into(),
        }),
        Outcome::Failed(text) => Err(SubmitError::Store(text)),
        Outcome::Unknown => Err(SubmitError::Store("no answer".into())),
    }
}

/// Submits a run under the id that it carries. Returns what it is made of.
///
/// # Errors
///
/// What `expand` refuses; 409 when there is a run of this id.
pub async fn submit(client: &Client, spec: &RunSpec) -> Result<RunPlan, SubmitError> {
    let cases = all::<TestCase>(client, keys::CASES, |case| case.id.clone()).await?;
    let environments =
        all::<Environment>(client, keys::ENVIRONMENTS, |found| found.id.clone()).await?;
    let plan = expand(spec, &cases, &environments)?;
    let places = plan.lanes.len() / spec.environments.len().max(1);
    let mut packs: Vec<Definitions> = Vec::new();
    let mut bytes = PACK_BYTES;
    for (lane, number) in plan.lanes.iter().take(places).zip(0..) {
        let Some(case) = cases.get(&*lane.case) else { continue };
        let length = serde_json::to_vec(case).map_or(0, |text| text.len());
        if bytes + length > PACK_BYTES {
            packs.push(Definitions { total: places as u32, first: number, ..Default::default() });
            bytes = 0;
        }
        bytes += length;
        if let Some(pack) = packs.last_mut() {
            pack.cases.push(case.clone());
        }
    }
    if let Some(first) = packs.first_mut() {
        let named = spec.environments.iter().filter_map(|id| environments.get(id));
        first.environments = named.cloned().collect();
    }
    for pack in &packs {
        write(client, vec![Op::put(keys::definitions(&spec.id, pack.first), pack)]).await?;
    }
    let run_key = keys::run(&spec.id);
    let txn = Txn {
        compares: vec![Compare::Absent(run_key.clone())],
        then: vec![Op::put(run_key.clone(), spec), Op::put(keys::open(&spec.id), &spec.id)],
        otherwise: vec![Op::Get(run_key)],
    };
    match client.txn(&txn).await {
        Outcome::Committed { .. } => Ok(plan),
        Outcome::Refused { .. } => {
            Err(Refusal::new(409, format!("there is a run {} already", spec.id)).into())
        }
        Outcome::Failed(text) => Err(SubmitError::Store(text)),
        Outcome::Unknown => Err(SubmitError::Store("no answer".into())),
    }
}

async fn write(client: &Client, then: Vec<Op>) -> Result<(), SubmitError> {
    match client.txn(&Txn { then, ..Default::default() }).await {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Refused { .. } | Outcome::Unknown => Err(SubmitError::Store("no answer".into())),
        Outcome::Failed(text) => Err(SubmitError::Store(text)),
    }
}

/// All definitions below a prefix, by id. What is not one was not written by us, and is passed over.
async fn all<T: serde::de::DeserializeOwned>(
    client: &Client,
    prefix: &str,
    id: impl Fn(&T) -> String,
) -> Result<BTreeMap<String, T>, SubmitError> {
    let (kvs, _) = client.prefix(prefix, 0).await?;
    let parse = |kv: &Kv| serde_json::from_slice::<T>(&kv.value).ok();
    Ok(kvs.iter().filter_map(parse).map(|found| (id(&found), found)).collect())
}
