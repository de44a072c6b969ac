//! Webhooks: whoever wants to know of the end of a run, or that a case became flaky, is posted to, at
//! least once for each.
//!
//! How far an address has been told stands in the store, so that the next leader goes on there. An
//! address is known by its digest: it may hold a secret. What happened before it was first named is
//! not told.

mod flakes;

use super::client::Client;
use super::execute::Caller;
use super::keys;
use super::record::{EndedRun, Report};
use super::store::{Change, Compare, Kv, Op, Outcome, Txn};
use aws_lc_rs::hmac;
use etcd_client::Error;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// The signature of a body: `sha256=` and the HMAC-SHA256 in hexadecimal digits.
pub const SIGNATURE: &str = "x-quoin-signature";
/// The same for all deliveries of one event.
pub const DELIVERY: &str = "x-quoin-delivery";

/// Longer than this nobody may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts; doubled each time up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// What cannot be delivered for so long is given up.
const PERSISTENCE: Duration = Duration::from_secs(6 * 3_600);
/// Failures that are named in a body.
const FAILURES_MAX: usize = 20;

/// Who is told.
#[derive(Clone, Default)]
pub struct Hooks {
    pub urls: Vec<String>,
    /// Bodies are signed with it.
    pub secret: Option<Arc<hmac::Key>>,
    pub caller: Option<Arc<Caller>>,
}

/// How far an address was told: the value of `hook/{digest}`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Told {
    revision: i64,
}

impl Hooks {
    /// The key of `secret`, by which receivers know who posts.
    pub fn key(secret: &[u8]) -> Arc<hmac::Key> {
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

/// The key of whoever leads, and its revision.
type Leader = (String, i64);

/// Tells all addresses for as long as this one leads: it goes on for ever, and is to be dropped.
pub(super) async fn run(client: Client, hooks: Hooks, leader: Leader) {
    let Some(caller) = hooks.caller.clone() else { return };
    let mut telling = JoinSet::new();
    for url in hooks.urls {
        let post = Post { url, secret: hooks.secret.clone(), caller: caller.clone() };
        let post = Arc::new(post);
        let (shared, of, to) = (client.clone(), leader.clone(), post.clone());
        telling.spawn(async move {
            loop {
                if let Err(error) = keep(&shared, &to, &of).await {
                    tracing::debug!(%error, "cannot follow the ends of runs");
                }
                sleep(PAUSE).await;
            }
        });
        let (shared, of) = (client.clone(), leader.clone());
        telling.spawn(async move {
            loop {
                if let Err(error) = flakes::keep(&shared, &post, &of).await {
                    tracing::debug!(%error, "cannot follow the histories of cases");
                }
                sleep(PAUSE).await;
            }
        });
    }
    while telling.join_next().await.is_some() {}
}

/// Tells one address of what ended, in the order in which it did.
async fn keep(client: &Client, post: &Post, leader: &Leader) -> Result<(), Error> {
    let key = keys::hook(&post.digest());
    let known = client.get(&key).await?;
    let (ended, revision) = client.prefix(keys::ENDED, 0).await?;
    let told = match &known {
        Some(kv) => serde_json::from_slice::<Told>(&kv.value).unwrap_or_default().revision,
        None => revision,
    };
    let advance = async |revision: i64| save(client, leader, &key, &Told { revision }).await;
    if known.is_none() {
        advance(told).await?;
    }
    let mut new: Vec<Kv> = ended.into_iter().filter(|kv| kv.create_revision > told).collect();
    new.sort_by_key(|kv| kv.create_revision);
    // Several may have ended in one commit.
    for together in new.chunk_by(|a, b| a.create_revision == b.create_revision) {
        for kv in together {
            tell(client, post, kv).await?;
        }
        advance(together[0].create_revision).await?;
    }
    let mut commits = client.watch(keys::ENDED, revision + 1).await?;
    loop {
        for commit in commits.next().await? {
            let puts = commit.changes.iter().filter_map(|change| match change {
                Change::Put(kv) if kv.create_revision == kv.mod_revision => Some(kv),
                Change::Put(_) | Change::Delete { .. } => None,
            });
            let ended: Vec<&Kv> = puts.collect();
            for kv in &ended {
                tell(client, post, kv).await?;
            }
            if !ended.is_empty() {
                advance(commit.revision).await?;
            }
        }
    }
}

/// Writes down what was told, while this one leads.
async fn save(
    client: &Client,
    leader: &Leader,
    key: &str,
    value: &impl Serialize,
) -> Result<(), Error> {
    let compares = vec![Compare::ChangedAt(leader.0.clone(), leader.1)];
    let then = vec![Op::put(key.to_owned(), value)];
    match client.txn(&Txn { compares, then, ..Default::default() }).await {
        Outcome::Committed { .. } => Ok(()),
        other => Err(Error::InvalidArgs(format!("{other:?}"))),
    }
}

/// Posts the end of a run until somebody has taken it.
async fn tell(client: &Client, post: &Post, kv: &Kv) -> Result<(), Error> {
    let Ok(ended) = serde_json::from_slice::<EndedRun>(&kv.value) else { return Ok(()) };
    let report = client.get(&keys::report(&ended.run)).await?;
    let report = report.and_then(|kv| serde_json::from_slice::<Report>(&kv.value).ok());
    let body = body(&ended, report.unwrap_or_default());
    post.deliver(&format!("run.ended-{}", ended.run), &body).await;
    Ok(())
}

fn body(ended: &EndedRun, report: Report) -> String {
    let Report { attempts, times, mut failures, failures_more, .. } = report;
    let more = failures.len().saturating_sub(FAILURES_MAX) as u64;
    failures.truncate(FAILURES_MAX);
    let mut body = serde_json::to_value(ended).unwrap_or_default();
    body["event"] = "run.ended".into();
    body["attempts"] = attempts.into();
    body["times"] = json!(times);
    body["failures"] = json!(failures);
    body["failures_more"] = (failures_more + more).into();
    body.to_string()
}

/// Where to post, and how.
struct Post {
    url: String,
    secret: Option<Arc<hmac::Key>>,
    caller: Arc<Caller>,
}

impl Post {
    fn digest(&self) -> String {
        hex(&Sha256::digest(&self.url))[..16].to_owned()
    }

    /// Posts until somebody has taken it, or nobody has for too long.
    async fn deliver(&self, delivery: &str, body: &str) {
        let (begun, mut pause) = (Instant::now(), PAUSE);
        loop {
            let problem = match timeout(PATIENCE, self.send(delivery, body)).await {
                Ok(Ok(200..=299)) => return,
                Ok(Ok(status)) => format!("it answered {status}"),
                Ok(Err(error)) => error,
                Err(_) => format!("it did not answer within {} s", PATIENCE.as_secs()),
            };
            let is_given_up = begun.elapsed() > PERSISTENCE;
            // The address itself may be a secret.
            if is_given_up || pause == PAUSE {
                tracing::warn!(delivery, problem, is_given_up, "cannot tell a webhook");
            }
            if is_given_up {
                return;
            }
            sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    async fn send(&self, delivery: &str, body: &str) -> Result<u16, String> {
        let mut headers = vec![(DELIVERY, header(delivery))];
        if let Some(secret) = &self.secret {
            let signature = hmac::sign(secret, body.as_bytes());
            headers.push((SIGNATURE, format!("sha256={}", hex(signature.as_ref()))));
        }
        Ok(self.caller.send(&self.url, &headers, body.to_owned()).await?.0)
    }
}

/// Names of cases may have letters that headers do not take.
fn header(text: &str) -> String {
    text.chars()
        .flat_map(|letter| match letter {
            '!'..='~' if letter != '%' => vec![letter],
            _ => {
                let mut bytes = [0; 4];
                let escaped =
                    letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}"));
                escaped.collect::<String>().chars().collect()
            }
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::record::Failure;
    use serde_json::Value;

    #[test]
    fn a_body_tells_how_the_run_ended_and_the_first_failures() {
        let ended = EndedRun { run: "r".into(), state: "failed".into(), ..Default::default() };
        let failure = |lane| Failure { lane, case: format!("c{lane}"), ..Default::default() };
        let failures = (0..30).map(failure).collect();
        let report = Report { failures, failures_more: 5, ..Default::default() };
        let body: Value = serde_json::from_str(&body(&ended, report)).unwrap();
        assert_eq!((&body["event"], &body["state"]), (&json!("run.ended"), &json!("failed")));
        assert_eq!(body["failures"].as_array().unwrap().len(), FAILURES_MAX);
        assert_eq!(body["failures"][19]["case"], "c19");
        assert_eq!(body["failures_more"], 15);
    }
}
