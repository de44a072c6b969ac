//! Submits a run: looks up what it names, sees that it fits together, and writes it such that it
//! exists from one revision on, however many keys it takes.

use super::catalog;
use super::client::Client;
use super::coordinator::Definitions;
use super::keys;
use super::model::{Environment, Missing, Refusal, RunPlan, RunSpec, TestCase, expand};
use super::store::{Compare, Kv, Op, Outcome, Txn};
use etcd_client::Error;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

/// Bytes of definitions in one key.
const PACK_BYTES: usize = 256 * 1024;
/// A run that is no longer than this goes with its definitions in one transaction, of which etcd
/// takes a megabyte and a half.
const WHOLE_BYTES_MAX: usize = 1024 * 1024;

/// A request id is remembered for a day.
const REQUEST_TTL_S: i64 = 24 * 3_600;
/// Cases that are read one by one; for more of them all cases are read together.
const SINGLE_READS_MAX: usize = 1_000;
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

/// A run that is there after a submit.
#[derive(Clone, Debug, Default)]
pub struct Submitted {
    /// Its id: that of an earlier submit with the same request id, if there was one.
    pub run: String,
    pub is_new: bool,
    /// What it is made of; empty if it is not new.
    pub plan: RunPlan,
}

/// What a request id stands for: the value of `req/{request}`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Request {
    run: String,
    /// Of what was asked for, as hexadecimal digits.
    digest: String,
}

/// Submits a run under the id that it carries, or finds the one that was submitted before with the
/// same request id.
///
/// # Errors
///
/// What `expand` refuses; 409 when there is a run of this id, or the request id stands for another
/// submit; 429 when its queue is full.
pub async fn submit(client: &Client, spec: &RunSpec) -> Result<Submitted, SubmitError> {
    spec.check()?;
    let digest = digest(spec);
    if let Some(request) = &spec.request_id
        && let Some(kv) = client.get(&keys::request(request)).await?
    {
        return submitted_before(&kv, &digest);
    }
    // Side by side: each read waits for a majority of the members.
    let environments = async {
        let found = catalog::of_ids::<Environment>(client, &spec.environments).await?;
        Ok::<_, SubmitError>(found)
    };
    let (queue, cases) = (check_queue(client, &spec.queue), selected_cases(client, spec));
    let ((), mut cases, environments) = tokio::try_join!(queue, cases, environments)?;
    cases.values_mut().for_each(|case| case.end_state(spec.submitted));
    let plan = expand(spec, &cases, &environments)?;
    let packs = packs(spec, &plan, &cases, &environments);
    let run_key = keys::run(&spec.id);
    let run = Op::put(run_key.clone(), spec);
    let put = |pack: &Definitions| Op::put(keys::definitions(&spec.id, pack.first), pack);
    // What is small goes with the run itself; else it is there before the run.
    let bytes = run.bytes() + packs.iter().take(1).map(|pack| put(pack).bytes()).sum::<usize>();
    let is_small = packs.len() <= 1 && bytes <= WHOLE_BYTES_MAX;
    let (before, with_run) = packs.split_at(if is_small { 0 } else { packs.len() });
    let mut compares = vec![Compare::Absent(run_key.clone())];
    for pack in before {
        let txn = Txn { compares: compares.clone(), then: vec![put(pack)], ..Default::default() };
        let revision = written(client, &txn, &spec.id).await?;
        if compares.len() == 1 {
            // Whoever submits another run of this id at the same time begins here as well.
            let first = keys::definitions(&spec.id, pack.first);
            compares.push(Compare::ChangedAt(first, revision));
        }
    }
    let mut txn = Txn {
        compares,
        then: with_run.iter().map(put).collect(),
        otherwise: vec![Op::Get(run_key)],
    };
    txn.then.extend([run, Op::put(keys::open(&spec.id), &spec.id)]);
    if let Some(request) = &spec.request_id {
        let key = keys::request(request);
        let lease = client.grant(REQUEST_TTL_S).await?;
        let value = serde_json::to_vec(&Request { run: spec.id.clone(), digest: digest.clone() });
        txn.compares.push(Compare::Absent(key.clone()));
        txn.then.push(Op::Put { key: key.clone(), value: value.unwrap_or_default(), lease });
        txn.otherwise.push(Op::Get(key));
    }
    match client.txn(&txn).await {
        Outcome::Committed { .. } => Ok(Submitted { run: spec.id.clone(), is_new: true, plan }),
        Outcome::Refused { found, .. } => match &found[..] {
            // The same submit, at the same time: what this one has written is nobody's.
            [None, Some(request)] => {
                for pack in before {
                    let key = keys::definitions(&spec.id, pack.first);
                    write(client, vec![Op::Delete(key)]).await?;
                }
                submitted_before(request, &digest)
            }
            _ => Err(is_there(&spec.id)),
        },
        Outcome::Failed(text) => Err(SubmitError::Store(text)),
        Outcome::Unknown => Err(SubmitError::Store("no answer".into())),
    }
}

/// What a submit asks for, without what it was given on the way.
fn digest(spec: &RunSpec) -> String {
    let (id, gmt_create) = (String::new(), String::new());
    let asked = RunSpec { id, gmt_create, submitted: 0, ..spec.clone() };
    let text = serde_json::to_vec(&asked).unwrap_or_default();
    Sha256::digest(&text).iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

fn submitted_before(kv: &Kv, digest: &str) -> Result<Submitted, SubmitError> {
    let request: Request = serde_json::from_slice(&kv.value).unwrap_or_default();
    if request.digest != digest {
        let run = request.run;
        let text = format!("this request id was used for another submit, run {run}");
        return Err(Refusal::new(409, text).into());
    }
    Ok(Submitted { run: request.run, ..Default::default() })
}

/// Refuses a submit to a queue that takes no more open runs.
async fn check_queue(client: &Client, queue: &str) -> Result<(), SubmitError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Limit {
        runs_max: Option<usize>,
    }
    let Some(kv) = client.get(&format!("{}{queue}", keys::QUEUES)).await? else { return Ok(()) };
    let Limit { runs_max } = serde_json::from_slice(&kv.value).unwrap_or_default();
    let Some(runs_max) = runs_max else { return Ok(()) };
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

/// The cases that a submit names, and those that it pulls in.
async fn selected_cases(
    client: &Client,
    spec: &RunSpec,
) -> Result<BTreeMap<String, TestCase>, SubmitError> {
    if spec.cases.len() > SINGLE_READS_MAX {
        return all::<TestCase>(client, keys::CASES, |case| case.id.clone()).await;
    }
    let mut cases: BTreeMap<String, TestCase> = BTreeMap::new();
    let mut next: BTreeSet<String> =
        spec.cases.iter().map(|selected| selected.case.clone()).collect();
    let mut asked = BTreeSet::new();
    while !next.is_empty() {
        let ids: Vec<String> = next.iter().cloned().collect();
        let found = catalog::of_ids::<TestCase>(client, &ids).await?;
        asked.append(&mut next);
        if spec.missing == Missing::Include {
            let before = found.values().flat_map(|case| &case.case_pre);
            next = before.map(|before| before.case.clone()).collect();
            next.retain(|id| !asked.contains(id));
        }
        cases.extend(found);
    }
    Ok(cases)
}

/// Copies of the definitions of a run, as many together as fit into a key.
fn packs(
    spec: &RunSpec,
    plan: &RunPlan,
    cases: &BTreeMap<String, TestCase>,
    environments: &BTreeMap<String, Environment>,
) -> Vec<Definitions> {
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
    packs
}

fn is_there(run: &str) -> SubmitError {
    Refusal::new(409, format!("there is a run {run} already")).into()
}

/// Writes a part of a run that is not there yet, and says at which revision.
async fn written(client: &Client, txn: &Txn, run: &str) -> Result<i64, SubmitError> {
    match client.txn(txn).await {
        Outcome::Committed { revision } => Ok(revision),
        Outcome::Refused { .. } => Err(is_there(run)),
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
