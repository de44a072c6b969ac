//! What people ask of runs that go on: to pause, resume or cancel one, to record a person's verdict, to
//! take a tag from its holder, to check an environment.

use super::catalog;
use super::checks::Checked;
use super::client::Client;
use super::coordinator::{Command, Control, TagHold};
use super::keys;
use super::model::{Claim, Environment, Refusal, Row, Status};
use super::record::verdict;
use super::store::{Change, Compare, Kv, Op, Outcome, Txn};
use super::submit::SubmitError;
use super::view::Forced;
use serde::Serialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

/// Others may give verdicts under the same claim at the same time.
const VERDICT_TRIES: u32 = 10;

/// How long somebody who asks for a check waits for what comes of it.
const CHECK_PATIENCE: Duration = Duration::from_secs(15);

/// Has an environment checked by the scheduler that leads, and waits for what comes of it.
///
/// # Errors
///
/// 404 for an unknown environment, 422 for one without a check; when no scheduler leads.
pub async fn check(client: &Client, environment: &str) -> Result<Checked, SubmitError> {
    let found = catalog::get::<Environment>(client, environment).await?;
    if found.value.check.is_none() {
        let text = format!("environment {environment} names no check");
        return Err(Refusal::new(422, text).into());
    }
    let wish = Op::put(keys::check_wish(environment), &json!({}));
    let asked = match client.txn(&Txn { then: vec![wish], ..Default::default() }).await {
        Outcome::Committed { revision } => revision,
        Outcome::Failed(text) => return Err(SubmitError::Answer(text)),
        Outcome::Refused { .. } | Outcome::Unknown => {
            return Err(SubmitError::unknown());
        }
    };
    let key = keys::check(environment);
    let mut commits = client.watch(&key, asked + 1).await?;
    let answer = async {
        loop {
            let changes = commits.next().await?.into_iter().flat_map(|commit| commit.changes);
            let found = changes.filter_map(|change| match change {
                Change::Put(kv) if kv.key == key => {
                    serde_json::from_slice::<Checked>(&kv.value).ok()
                }
                _ => None,
            });
            // What another has asked for later does as well.
            if let Some(found) = found.into_iter().find(|found| found.asked >= asked) {
                return Ok::<_, SubmitError>(found);
            }
        }
    };
    let late = |_| SubmitError::Store("no scheduler that leads has checked it".into());
    timeout(CHECK_PATIENCE, answer).await.map_err(late)?
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
        Outcome::Failed(text) => Err(SubmitError::Answer(text)),
        Outcome::Unknown => Err(SubmitError::unknown()),
    }
}

/// Records a person's verdict on a task of a manual case; the row's attempt does not matter.
///
/// # Errors
///
/// 400 for what is no verdict, 409 if the task does not wait for one.
pub async fn verdict(client: &Client, run: &str, row: &Row) -> Result<(), SubmitError> {
    if !matches!(row.status, Status::Passed | Status::Failed | Status::Error) {
        return Err(Refusal::new(400, "a verdict is passed, failed or error").into());
    }
    let claims = keys::claims(keys::PEOPLE);
    'again: for _ in 0..VERDICT_TRIES {
        let (kvs, _) = client.prefix(&claims, 0).await?;
        let is_of_run = |kv: &&Kv| {
            serde_json::from_slice::<Claim>(&kv.value).is_ok_and(|claim| claim.run == run)
        };
        let txn = kvs.iter().filter(is_of_run).find_map(|kv| verdict::give(kv, row.clone()));
        let Some(txn) = txn else { break };
        for _ in 0..VERDICT_TRIES {
            match client.txn(&txn).await {
                Outcome::Committed { .. } => return Ok(()),
                // An earlier sending of the same did it.
                Outcome::Refused { found, .. } if matches!(found[..], [Some(_), ..]) => {
                    return Ok(());
                }
                Outcome::Refused { .. } => continue 'again,
                Outcome::Failed(text) => return Err(SubmitError::Answer(text)),
                Outcome::Unknown => {}
            }
        }
        return Err(SubmitError::unknown());
    }
    let Row { lane, ordinal, .. } = row;
    let message = format!("task {lane}/{ordinal} of run {run} does not wait for a verdict");
    Err(Refusal::new(409, message).into())
}

/// A unit of a tag that was taken from its holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    /// From 1.
    pub unit: u32,
    #[serde(flatten)]
    pub hold: TagHold,
    /// It was free at once: its claim was gone. Else its worker was asked to cancel what runs.
    pub is_free: bool,
    /// The revision of what was written.
    pub revision: i64,
}

/// Takes a tag from its holders by force. A living one is asked to cancel what it runs under the tag,
/// and gives it back with the result; a unit without a claim is deleted. Nothing is taken from under a
/// task that goes on. The reason, and who has it, are for whoever looks at what was canceled; `now` is in
/// milliseconds since 1970.
///
/// # Errors
///
/// 404 if nobody holds the tag, 409 if it has changed hands meanwhile.
pub async fn release(
    client: &Client,
    tag: &str,
    (reason, by): (&str, &str),
    now: u64,
) -> Result<Vec<Released>, SubmitError> {
    if reason.trim().is_empty() {
        return Err(Refusal::new(400, "a release needs a reason").into());
    }
    let (held, revision) = client.prefix(&format!("{}{tag}/", keys::TAGS), 0).await?;
    let unit = |kv: &Kv| keys::parse_tag(&kv.key).filter(|(of, _)| *of == tag).map(|(_, n)| n);
    let held: Vec<(u32, &Kv)> = held.iter().filter_map(|kv| Some((unit(kv)?, kv))).collect();
    if held.is_empty() {
        return Err(Refusal::new(404, format!("nobody holds tag {tag}")).into());
    }
    let mut released = Vec::with_capacity(held.len());
    for (unit, kv) in held {
        let hold: TagHold = serde_json::from_slice(&kv.value).unwrap_or_default();
        let claim_key = format!("{}{}", keys::claims(&hold.worker), hold.claim);
        let is_alive = client.get_at(&claim_key, revision).await?.is_some();
        let then = match is_alive {
            true => {
                let key = keys::command(&hold.worker, &format!("release-{now:x}"));
                let mut command = serde_json::to_value(Command::Cancel {
                    claim: hold.claim.clone(),
                    overdue: false,
                });
                if let Ok(Value::Object(command)) = &mut command
                    && let Some(Value::Object(cancel)) = command.get_mut("cancel")
                {
                    cancel.insert("reason".into(), reason.into());
                }
                let command = Op::put(key, &command.unwrap_or_default());
                let note = keys::forced(&hold.run, &hold.worker, &hold.claim);
                let [tag, reason, by] = [tag, reason, by].map(str::to_owned);
                vec![command, Op::put(note, &Forced { tag, reason, by })]
            }
            false => vec![Op::Delete(kv.key.clone())],
        };
        let compares = vec![Compare::ChangedAt(kv.key.clone(), kv.mod_revision)];
        match client.txn(&Txn { compares, then, ..Default::default() }).await {
            Outcome::Committed { revision } => {
                released.push(Released { unit: unit + 1, hold, is_free: !is_alive, revision });
            }
            Outcome::Refused { .. } => {
                let text = format!("tag {tag} has changed hands meanwhile");
                return Err(Refusal::new(409, text).into());
            }
            Outcome::Failed(text) => return Err(SubmitError::Answer(text)),
            Outcome::Unknown => return Err(SubmitError::unknown()),
        }
    }
    Ok(released)
}
