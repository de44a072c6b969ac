//! Submits a run: looks up what it names, sees that it fits together, and writes it such that it
//! exists from one revision on, however many keys it takes.

mod chosen;
mod ground;

use super::client::Client;
use super::keys;
use super::model::{
    CaseCopy, Environment, Pack, Packs, Refusal, Repeats, RunSpec, Selected, Survey, TestCase,
    survey_of,
};
use super::store::{Compare, Kv, Op, Outcome, Txn};
use chosen::Chosen;
use etcd_client::Error;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ground::Ground;
pub(in crate::scheduler) use ground::check_room;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

/// A run that is no longer than this goes with its definitions in one transaction, of which etcd
/// takes a megabyte and a half.
const WHOLE_BYTES_MAX: usize = 1024 * 1024;
/// Cases that are named in the run itself.
const NAMED_MAX: usize = 1_000;
/// Packs of definitions that are written at the same time, and attempts at each.
const WRITES_AT_ONCE: usize = 8;
const TRIES: usize = 3;

/// A request id is remembered for a day.
const REQUEST_TTL_S: i64 = 24 * 3_600;

/// Why a submit was not taken.
#[derive(Debug)]
pub enum SubmitError {
    Refused(Refusal),
    /// No case begins with what was asked for.
    Nothing(String),
    /// Nothing is known of it; asking again with the same request id finds out.
    Store(String),
    /// The store has answered that it does not do that.
    Answer(String),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Nothing(text) => f.write_str(text),
            Self::Store(text) => write!(f, "the store does not answer: {text}"),
            Self::Answer(text) => {
                let text = text.strip_prefix("etcdserver: ").unwrap_or(text);
                write!(f, "the store refuses: {text}")
            }
        }
    }
}

impl std::error::Error for SubmitError {}

impl SubmitError {
    /// The store has not said what became of a write.
    pub fn unknown() -> Self {
        Self::Store("no answer, so that it may have been done".into())
    }
}

impl From<Refusal> for SubmitError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Error> for SubmitError {
    fn from(error: Error) -> Self {
        use tonic::Code;
        match &error {
            Error::GRpcStatus(status) if status.message().contains("future revision") => {
                Refusal::new(400, "the store has not come to this revision yet").into()
            }
            Error::GRpcStatus(status) => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => {
                    Self::Store(cause(status, status.message()))
                }
                _ => Self::Answer(status.message().to_owned()),
            },
            Error::TransportError(error) => Self::Store(cause(error, &error.to_string())),
            error => Self::Store(error.to_string()),
        }
    }
}

/// What is at the bottom of an error of the connection, in the words of people; else its text.
fn cause(error: &dyn std::error::Error, text: &str) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    let Some(first) = sources.last() else { return text.to_owned() };
    let said = first.to_string();
    let said = said.split(" (os error").next().unwrap_or_default();
    let mut letters = said.chars();
    letters.next().map(|letter| letter.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// Writes a case under its id, whatever was there.
pub async fn put_case(client: &Client, case: &TestCase) -> Result<(), SubmitError> {
    case.check()?;
    write(client, vec![Op::put(format!("{}{}", keys::CASES, case.id), case)]).await
}

/// A run that is there after a submit.
#[derive(Clone, Debug, Default)]
pub struct Submitted {
    /// Its id: that of an earlier submit with the same request id, if there was one.
    pub run: String,
    pub is_new: bool,
    /// What it is made of; nothing if it is not new.
    pub tasks: u64,
    pub lanes: usize,
    /// What the user should know, though the run is accepted.
    pub warnings: Vec<String>,
}

impl Submitted {
    fn new(run: &str, survey: Survey<'_>) -> Self {
        let (tasks, lanes) = (survey.tasks(), survey.lanes());
        Self { run: run.to_owned(), is_new: true, tasks, lanes, warnings: survey.warnings }
    }
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
/// What `expand` refuses; nothing to run where a prefix is no case's; 409 when there is a run of this
/// id, or the request id stands for another submit; 429 when its queue or the store is full.
pub async fn submit(client: &Client, spec: &RunSpec) -> Result<Submitted, SubmitError> {
    spec.check()?;
    let digest = digest(spec);
    if let Some(request) = &spec.request_id
        && let Some(kv) = client.get(&keys::request(request)).await?
    {
        return submitted_before(&kv, &digest);
    }
    let (near, ()) = tokio::try_join!(ground::near(client, spec), ground::check_room(client))?;
    if let Some(ground) = near {
        match attempt(client, spec, &digest, ground).await {
            Ok(Some(submitted)) => return Ok(submitted),
            Err(error @ (SubmitError::Store(_) | SubmitError::Answer(_))) => return Err(error),
            // It was refused by what may be old.
            Ok(None) | Err(_) => {}
        }
    }
    let ground = ground::newest(client, spec, &[], &[]).await?;
    let done = attempt(client, spec, &digest, ground).await?;
    done.ok_or_else(|| is_there(&spec.id))
}

/// Sees whether a run would be taken if these cases and environments were written before. Nothing is
/// written.
///
/// # Errors
///
/// As of `submit`.
pub async fn check(
    client: &Client,
    spec: &RunSpec,
    cases: &[TestCase],
    environments: &[Environment],
) -> Result<(), SubmitError> {
    spec.check()?;
    if let Some(request) = &spec.request_id
        && let Some(kv) = client.get(&keys::request(request)).await?
    {
        return submitted_before(&kv, &digest(spec)).map(drop);
    }
    let (ground, ()) = tokio::try_join!(
        ground::newest(client, spec, cases, environments),
        ground::check_room(client)
    )?;
    survey(spec, &ground.chosen, &ground.environments).map(drop)
}

fn survey<'a>(
    spec: &RunSpec,
    chosen: &'a Chosen,
    environments: &'a BTreeMap<String, Environment>,
) -> Result<Survey<'a>, SubmitError> {
    let selected = chosen.selected.iter().map(|(id, repeats)| {
        let unknown = || Refusal::new(404, format!("unknown case {id}"));
        let case = chosen.outline(id).ok_or_else(unknown)?;
        Ok((case, repeats.clone().unwrap_or(spec.repeats.into())))
    });
    Ok(survey_of(spec, selected, |id| chosen.outline(id), environments)?)
}

/// Submits on the ground of what was read; nothing if that does not hold any more.
async fn attempt(
    client: &Client,
    spec: &RunSpec,
    digest: &str,
    ground: Ground,
) -> Result<Option<Submitted>, SubmitError> {
    let Ground { chosen, environments, holds } = ground;
    let survey = survey(spec, &chosen, &environments)?;
    let is_long = chosen.selected.len() > NAMED_MAX;
    let named = chosen.selected.iter().filter(|_| !is_long);
    let named =
        named.map(|(id, repeats)| Selected { case: id.to_string(), repeats: repeats.clone() });
    let kept = RunSpec { cases: named.collect(), ..spec.clone() };
    let of_run: Vec<Environment> =
        spec.environments.iter().filter_map(|id| environments.get(id).cloned()).collect();
    let cases = survey.cases.iter();
    let cases = cases.filter_map(|(case, repeats)| Some((chosen.case(&case.id)?, repeats)));
    let cases: Vec<(&CaseCopy, &Repeats)> = cases.collect();
    let only = Packs::new(&cases, &of_run, is_long).only();
    let run = Op::put(keys::run(&spec.id), &kept);
    // What is small goes with the run itself; else it is there before the run.
    let opened = match only.filter(|pack| run.bytes() + pack.text.len() <= WHOLE_BYTES_MAX) {
        Some(pack) => {
            let pack = put_definitions(&spec.id, pack);
            open(client, spec, digest, holds, vec![pack, run]).await?
        }
        None => {
            let packs = Packs::new(&cases, &of_run, is_long);
            let opened = match write_packs(client, &spec.id, packs).await {
                Ok(first) => {
                    let holds = holds.into_iter().chain([first]).collect();
                    open(client, spec, digest, holds, vec![run]).await
                }
                Err(error) => Err(error),
            };
            if !matches!(opened, Ok(Opened::New)) {
                // What was written is nobody's.
                let txn = Txn {
                    compares: vec![Compare::Absent(keys::run(&spec.id))],
                    then: vec![Op::delete_all(keys::definition_packs(&spec.id))],
                    ..Default::default()
                };
                let _best_effort = client.txn(&txn).await;
            }
            opened?
        }
    };
    Ok(match opened {
        Opened::New => Some(Submitted::new(&spec.id, survey)),
        Opened::Before(submitted) => Some(submitted),
        Opened::Stale => None,
    })
}

fn put_definitions(run: &str, pack: Pack) -> Op {
    Op::Put { key: keys::definitions(run, pack.first), value: pack.text.into(), lease: 0 }
}

/// Writes the definitions of a run that is not there yet. Returns what holds as long as they are
/// those of this submit.
async fn write_packs(
    client: &Client,
    run: &str,
    mut packs: Packs<'_>,
) -> Result<Compare, SubmitError> {
    let absent = Compare::Absent(keys::run(run));
    let Some(pack) = packs.next() else {
        return Err(SubmitError::Store(format!("run {run} has no definitions")));
    };
    // Whoever submits another run of this id at the same time begins here as well.
    let first = keys::definitions(run, pack.first);
    let then = vec![put_definitions(run, pack)];
    let txn = Txn { compares: vec![absent.clone()], then, ..Default::default() };
    let unchanged = Compare::ChangedAt(first, written(client, &txn, run).await?);
    let compares = [absent, unchanged.clone()];
    let writes = packs.map(|pack| {
        let compares = compares.to_vec();
        let then = vec![put_definitions(run, pack)];
        async move { written(client, &Txn { compares, then, ..Default::default() }, run).await }
    });
    let mut writes = stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
    while writes.try_next().await?.is_some() {}
    Ok(unchanged)
}

/// What came of making a run exist.
enum Opened {
    New,
    /// It was submitted before, under the same request id.
    Before(Submitted),
    /// What was compared is otherwise.
    Stale,
}

/// Makes a run exist, if what was compared holds.
async fn open(
    client: &Client,
    spec: &RunSpec,
    digest: &str,
    holds: Vec<Compare>,
    parts: Vec<Op>,
) -> Result<Opened, SubmitError> {
    let run_key = keys::run(&spec.id);
    let mut txn = Txn { compares: holds, then: parts, otherwise: vec![Op::Get(run_key.clone())] };
    txn.compares.push(Compare::Absent(run_key));
    txn.then.push(Op::put(keys::open(&spec.id), &spec.id));
    if let Some(request) = &spec.request_id {
        let key = keys::request(request);
        let lease = client.grant(REQUEST_TTL_S).await?;
        let value =
            serde_json::to_vec(&Request { run: spec.id.clone(), digest: digest.to_owned() });
        txn.compares.push(Compare::Absent(key.clone()));
        txn.then.push(Op::Put { key: key.clone(), value: value.unwrap_or_default(), lease });
        txn.otherwise.push(Op::Get(key));
    }
    match client.txn(&txn).await {
        Outcome::Committed { .. } => Ok(Opened::New),
        Outcome::Refused { found, .. } => match &found[..] {
            // The same submit, at the same time.
            [None, Some(request)] => submitted_before(request, digest).map(Opened::Before),
            [None, ..] => Ok(Opened::Stale),
            _ => Err(is_there(&spec.id)),
        },
        Outcome::Failed(text) => Err(SubmitError::Answer(text)),
        Outcome::Unknown => {
            let advice = match &spec.request_id {
                Some(_) => "submit again with the same request id",
                None => "look for it before you submit again, or give a request id",
            };
            let text = format!("no answer, so that run {} may be there: {advice}", spec.id);
            Err(SubmitError::Store(text))
        }
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

fn is_there(run: &str) -> SubmitError {
    Refusal::new(409, format!("there is a run {run} already")).into()
}

/// Writes a part of a run that is not there yet, and says at which revision. To write it twice does no
/// harm, so that it is tried again if it is not known what happened.
async fn written(client: &Client, txn: &Txn, run: &str) -> Result<i64, SubmitError> {
    for _ in 0..TRIES {
        match client.txn(txn).await {
            Outcome::Committed { revision } => return Ok(revision),
            Outcome::Refused { .. } => return Err(is_there(run)),
            Outcome::Failed(text) => return Err(SubmitError::Answer(text)),
            Outcome::Unknown => {}
        }
    }
    Err(SubmitError::unknown())
}

async fn write(client: &Client, then: Vec<Op>) -> Result<(), SubmitError> {
    match client.txn(&Txn { then, ..Default::default() }).await {
        Outcome::Committed { .. } => Ok(()),
        Outcome::Refused { .. } | Outcome::Unknown => Err(SubmitError::unknown()),
        Outcome::Failed(text) => Err(SubmitError::Answer(text)),
    }
}
