//! Who is told when a case becomes flaky in an environment, and when it is so no more.
//!
//! What an address takes for flaky stands in the store, and is compared with the histories as they are
//! and as they change. What is told right now stands there too: the next leader tells it again with
//! the same words. What comes and goes while nobody leads is not told.

use super::{Leader, Post, save};
use crate::scheduler::analysis::{FlakeRule, FlakeScore, Stats};
use crate::scheduler::client::Client;
use crate::scheduler::clock::Clock;
use crate::scheduler::keys;
use crate::scheduler::record::Latest;
use crate::scheduler::store::{Change, Kv};
use etcd_client::Error;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// What an address was told: the value of `hook/{digest}-flaky`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Known {
    /// Keys of histories of cases that are flaky.
    flaky: BTreeSet<String>,
    /// Somebody has still to take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    telling: Option<Event>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Event {
    delivery: String,
    body: String,
}

/// A case in an environment, now.
struct Seen {
    score: FlakeScore,
    stats: Stats,
    revision: i64,
}

impl Seen {
    fn new(kv: &Kv, now: u64) -> Option<Self> {
        let stats: Stats = serde_json::from_slice(&kv.value).ok()?;
        let score = FlakeRule::default().score(&stats, now);
        Some(Self { score, stats, revision: kv.mod_revision })
    }
}

/// Tells one address.
pub(super) async fn keep(client: &Client, post: &Post, leader: &Leader) -> Result<(), Error> {
    let key = keys::hook_flaky(&post.digest());
    let kept = client.get(&key).await?;
    let is_first = kept.is_none();
    let known = kept.and_then(|kv| serde_json::from_slice(&kv.value).ok()).unwrap_or_default();
    let mut teller = Teller { client, post, leader, key, known };
    teller.tell().await?;

    let (known, now) = (&teller.known.flaky, Clock::new().now());
    let mut found = BTreeMap::new();
    let take = |kv: Kv| {
        let seen = Seen::new(&kv, now);
        let is_meant = |seen: &Seen| seen.score.is_flaky || known.contains(&kv.key);
        if let Some(seen) = seen.filter(is_meant) {
            found.insert(kv.key, seen);
        }
    };
    let revision = client.each(keys::STATS, 0, take).await?;
    // Of what was deleted nothing is told.
    teller.known.flaky.retain(|key| found.contains_key(key));
    if is_first {
        let flaky = found.into_iter().filter(|(_, seen)| seen.score.is_flaky);
        teller.known.flaky = flaky.map(|(key, _)| key).collect();
        teller.save().await?;
    } else {
        for (key, seen) in found {
            teller.look(key, seen).await?;
        }
    }
    let mut commits = client.watch(keys::STATS, revision + 1).await?;
    loop {
        for commit in commits.next().await? {
            for change in commit.changes {
                match change {
                    Change::Put(kv) => {
                        if let Some(seen) = Seen::new(&kv, Clock::new().now()) {
                            teller.look(kv.key, seen).await?;
                        }
                    }
                    // It is kept when something is told.
                    Change::Delete { key } => {
                        teller.known.flaky.remove(&key);
                    }
                }
            }
        }
    }
}

struct Teller<'a> {
    client: &'a Client,
    post: &'a Post,
    leader: &'a Leader,
    key: String,
    known: Known,
}

impl Teller<'_> {
    async fn save(&self) -> Result<(), Error> {
        save(self.client, self.leader, &self.key, &self.known).await
    }

    /// Tells how things are with a case, if that has changed.
    async fn look(&mut self, key: String, seen: Seen) -> Result<(), Error> {
        let is_flaky = seen.score.is_flaky;
        if is_flaky == self.known.flaky.contains(&key) {
            return Ok(());
        }
        let Some((case, environment)) = keys::parse_stats(&key) else { return Ok(()) };
        let latest = self.client.get(&keys::result(case, environment)).await?;
        let latest = latest.and_then(|kv| serde_json::from_slice::<Latest>(&kv.value).ok());
        let event = event(case, environment, &seen, &latest.unwrap_or_default());
        if is_flaky {
            self.known.flaky.insert(key);
        } else {
            self.known.flaky.remove(&key);
        }
        self.known.telling = Some(event);
        self.save().await?;
        self.tell().await
    }

    /// Posts what is to be told until somebody has taken it.
    async fn tell(&mut self) -> Result<(), Error> {
        let Some(Event { delivery, body }) = &self.known.telling else { return Ok(()) };
        self.post.deliver(delivery, body).await;
        self.known.telling = None;
        self.save().await
    }
}

fn event(case: &str, environment: &str, seen: &Seen, latest: &Latest) -> Event {
    let Seen { score, stats, revision } = seen;
    let event = if score.is_flaky { "case.flaky" } else { "case.recovered" };
    let body = json!({
        "event": event, "case": case, "environment": environment, "run": latest.run,
        "score": score.score, "changes": score.changes, "comparisons": score.comparisons,
        "last": stats.strip(), "n": stats.n, "pass": stats.pass, "fail": stats.fail,
    });
    let delivery = format!("{event}-{case}-{environment}-{revision}");
    Event { delivery, body: body.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::analysis::{Ended, Verdict};
    use serde_json::Value;

    #[test]
    fn an_event_says_which_case_and_how_it_went() {
        let mut stats = Stats::default();
        for verdict in [Verdict::Passed, Verdict::Failed, Verdict::Flaky, Verdict::Failed] {
            stats.add(&Ended {
                verdict,
                run: "r",
                at: 1,
                duration_ms: 1,
                revision: 1,
                fingerprint: "",
            });
        }
        let told = |stats: &Stats| {
            let value = serde_json::to_vec(stats).unwrap();
            let kv = Kv { value, mod_revision: 9, ..Default::default() };
            let latest = Latest { run: "r".into(), ..Default::default() };
            event("pay", "lab", &Seen::new(&kv, 1).unwrap(), &latest)
        };
        let calm = told(&stats);
        assert_eq!(calm.delivery, "case.recovered-pay-lab-9", "three comparisons say nothing");
        stats.add(&Ended {
            verdict: Verdict::Passed,
            run: "r",
            at: 1,
            duration_ms: 1,
            revision: 1,
            fingerprint: "",
        });
        let shaky = told(&stats);
        assert_eq!(shaky.delivery, "case.flaky-pay-lab-9");
        let body: Value = serde_json::from_str(&shaky.body).unwrap();
        assert_eq!((&body["event"], &body["case"]), (&json!("case.flaky"), &json!("pay")));
        assert_eq!((&body["environment"], &body["run"]), (&json!("lab"), &json!("r")));
        assert_eq!((&body["last"], &body["comparisons"]), (&json!("PFBFP"), &json!(4)));
    }
}
