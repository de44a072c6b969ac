//! Checks of environments: the leader calls the url that an environment's check names, each so often
//! and when somebody asks, and keeps the environment's health by what comes of it. What people have
//! set apart, by maintenance or for good, stays as they have set it.
//!
//! Where nothing may start is the planner's to know: it sees the health. Left out: checks that are more
//! than one call, and doubt about one that failed.

use super::client::{Client, Commits};
use super::clock::Clock;
use super::execute::{Caller, Reach, Targets, fill, reach};
use super::keys;
use super::model::{Environment, Health, Kind, Refusal, TestCase, is_http};
use super::store::{Change, Compare, Kv, Op, Outcome, Txn};
use etcd_client::Error;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use url::{Host, Url};

/// Longer than this an environment may not take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Checks at one time.
const AT_ONCE: usize = 16;
/// After an error of the store, or when something else was changed meanwhile.
const PAUSE_MS: u64 = 1_000;

/// Refuses an environment whose check calls, or whose configuration names, an address that no worker calls unless
/// its operator lists it: see [`check_url`].
///
/// # Errors
/// 403 with the address; 400 where the url of its check is none when its values are filled in.
pub fn check_places(environment: &Environment, targets: &Targets) -> Result<(), Refusal> {
    let what = format!("environment {}", environment.id);
    if let Some(check) = &environment.check {
        // A key that is not there is told by the check itself.
        let filled = fill(&check.url, Some(environment));
        if filled.as_ref().is_ok_and(|url| !is_http(url)) {
            let text = format!("{what}: the url of its check is not http or https");
            return Err(Refusal::new(400, text));
        }
        let url = filled.unwrap_or(Cow::Borrowed(&check.url));
        check_url(&what, &url, targets)?;
    }
    let mut left: Vec<&Value> = environment.config.values().collect();
    while let Some(value) = left.pop() {
        match value {
            // Two slashes need not follow, and its letters may be large.
            Value::String(text) if has_prefix(text, "http") => check_url(&what, text, targets)?,
            Value::Array(elements) => left.extend(elements),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    Ok(())
}

fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The same for what a case calls, as far as it is known before values of an environment are put in.
///
/// # Errors
/// 403 with the address.
pub fn check_case(case: &TestCase, targets: &Targets) -> Result<(), Refusal> {
    match case.kind {
        Kind::Http => check_url(&format!("case {}", case.id), &case.url, targets),
        Kind::Command | Kind::Manual => Ok(()),
    }
}

/// Refuses a url with a link-local or reserved address, unless that is listed: behind such addresses clouds hand out
/// secrets. What else may be called depends on where a worker stands.
///
/// # Errors
/// 403 with the address.
pub fn check_url(what: &str, url: &str, targets: &Targets) -> Result<(), Refusal> {
    let Some(address) = Url::parse(url).ok().as_ref().and_then(address_in) else { return Ok(()) };
    if !matches!(reach(address), Reach::LinkLocal | Reach::Special) {
        return Ok(());
    }
    let allowed = targets.check(&address.to_string(), address);
    allowed.map_err(|why| Refusal::new(403, format!("{what}: {why}")))
}

/// The address that a url gives instead of a name.
pub fn address_in(url: &Url) -> Option<IpAddr> {
    match url.host() {
        Some(Host::Ipv4(address)) => Some(address.into()),
        Some(Host::Ipv6(address)) => Some(address.into()),
        Some(Host::Domain(_)) | None => None,
    }
}

/// What came of the last check of an environment: the value of `check/{environment}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checked {
    pub is_good: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it began, in milliseconds since 1970, and how long it took.
    pub checked: u64,
    pub duration_ms: u64,
    /// When it is checked again, if nobody asks before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// What the environment's health is since.
    pub health: Health,
    /// The revision of the wish that it fulfils, 0 if nobody had asked.
    pub asked: i64,
}

#[derive(Debug)]
struct Place {
    environment: Environment,
    version: i64,
    /// None while people have set it apart.
    next: Option<u64>,
    asked: i64,
    is_running: bool,
}

/// A check that is to be made.
#[derive(Clone, Debug, PartialEq)]
struct Order {
    environment: Environment,
    asked: i64,
}

/// When which environment is checked.
#[derive(Debug, Default)]
struct Rounds {
    places: BTreeMap<String, Place>,
}

fn is_set_apart(health: Health) -> bool {
    matches!(health, Health::Maintenance | Health::Retired)
}

impl Rounds {
    /// An environment as it is now. What is new about its check, or its configuration, is looked at soon.
    fn there(&mut self, now: u64, kv: &Kv) {
        let id = kv.key.strip_prefix(keys::ENVIRONMENTS).unwrap_or_default();
        let found = serde_json::from_slice::<Environment>(&kv.value).ok();
        let found = found.filter(|found| !found.is_deleted && found.check.is_some());
        let Some(environment) = found else {
            self.places.remove(id);
            return;
        };
        let is_apart = is_set_apart(environment.health);
        let known = self.places.get_mut(id).filter(|known| {
            let before = &known.environment;
            before.check == environment.check && before.config == environment.config
        });
        if let Some(known) = known {
            if is_apart != is_set_apart(known.environment.health) {
                known.next = (!is_apart).then_some(now);
            }
            (known.environment, known.version) = (environment, kv.mod_revision);
            return;
        }
        let before = self.places.remove(id);
        let (asked, is_running) =
            before.map_or((0, false), |known| (known.asked, known.is_running));
        let next = (!is_apart).then_some(now);
        let place = Place { environment, version: kv.mod_revision, next, asked, is_running };
        self.places.insert(id.to_owned(), place);
    }

    fn gone(&mut self, key: &str) {
        self.places.remove(key.strip_prefix(keys::ENVIRONMENTS).unwrap_or_default());
    }

    /// It was checked before this one led.
    fn was_checked(&mut self, kv: &Kv) {
        let id = kv.key.strip_prefix(keys::CHECKS).unwrap_or_default();
        let Ok(last) = serde_json::from_slice::<Checked>(&kv.value) else { return };
        if let Some(place) = self.places.get_mut(id)
            && let (Some(next), Some(check)) = (&mut place.next, &place.environment.check)
        {
            *next = last.checked + u64::from(check.every) * 1_000;
        }
    }

    /// Somebody asks for a check.
    fn asked(&mut self, kv: &Kv) {
        let id = kv.key.strip_prefix(keys::CHECK_WISHES).unwrap_or_default();
        if let Some(place) = self.places.get_mut(id) {
            place.asked = kv.mod_revision;
        }
    }

    /// The next check that is to be made now.
    fn due(&mut self, now: u64) -> Option<Order> {
        if self.places.values().filter(|place| place.is_running).count() >= AT_ONCE {
            return None;
        }
        let is_due = |place: &&mut Place| {
            !place.is_running && (place.asked > 0 || place.next.is_some_and(|next| next <= now))
        };
        let place = self.places.values_mut().find(is_due)?;
        place.is_running = true;
        Some(Order { environment: place.environment.clone(), asked: place.asked })
    }

    fn next_timer(&self) -> Option<u64> {
        let waiting = self.places.values().filter(|place| !place.is_running);
        waiting.filter_map(|place| place.next).min()
    }

    /// What is to be written of a check that has ended: nothing, if it was for what is so no more.
    fn done(
        &mut self,
        order: &Order,
        began: u64,
        now: u64,
        found: Result<(), String>,
    ) -> Option<Txn> {
        let place = self.places.get_mut(&order.environment.id)?;
        place.is_running = false;
        let is_same = place.environment.check == order.environment.check
            && place.environment.config == order.environment.config;
        let every = place.environment.check.as_ref().map_or(0, |check| u64::from(check.every));
        if !is_same {
            return None;
        }
        let is_apart = is_set_apart(place.environment.health);
        place.next = (!is_apart).then_some(began + every * 1_000);
        if place.asked == order.asked {
            place.asked = 0;
        }
        let message = found.as_ref().err().cloned().unwrap_or_default();
        let mut environment = place.environment.clone();
        if matches!(environment.health, Health::Unknown | Health::Good | Health::Bad) {
            environment.health = if found.is_ok() { Health::Good } else { Health::Bad };
            environment.health_reason.clone_from(&message);
        }
        let id = &environment.id;
        let checked = Checked {
            is_good: found.is_ok(),
            message,
            checked: began,
            duration_ms: now.saturating_sub(began),
            next: place.next,
            health: environment.health,
            asked: order.asked,
        };
        let mut txn = Txn {
            compares: vec![Compare::ChangedAt(keys::environment(id), place.version)],
            then: vec![Op::put(keys::check(id), &checked)],
            ..Default::default()
        };
        if environment != place.environment {
            txn.then.push(Op::put(keys::environment(id), &environment));
        }
        if order.asked > 0 {
            // A newer wish stays.
            txn.compares.push(Compare::ChangedAt(keys::check_wish(id), order.asked));
            txn.then.push(Op::Delete(keys::check_wish(id)));
        }
        Some(txn)
    }

    /// What came of a check could not be written.
    fn again(&mut self, order: &Order, now: u64) {
        if let Some(place) = self.places.get_mut(&order.environment.id) {
            place.next = Some(now + PAUSE_MS);
        }
    }
}

/// Calls what an environment's check names.
async fn probe(caller: &Caller, environment: &Environment) -> Result<(), String> {
    let Some(check) = &environment.check else { return Ok(()) };
    let url = super::execute::fill(&check.url, Some(environment))?;
    // What stands for a key may be a secret: the url is told as it was written.
    match timeout(PATIENCE, caller.get(&url)).await {
        Ok(Ok(200..=299)) => Ok(()),
        Ok(Ok(status)) => Err(format!("{} answered {status}", check.url)),
        Ok(Err(error)) => Err(format!("{}: {}", check.url, error.text)),
        Err(_) => Err(format!("{} did not answer within {} s", check.url, PATIENCE.as_secs())),
    }
}

/// Checks environments for as long as this one leads: it goes on for ever, and is to be dropped.
pub(super) async fn run(client: Client, clock: Clock, caller: Arc<Caller>, leader: (String, i64)) {
    loop {
        if let Err(error) = keep(&client, &clock, &caller, &leader).await {
            tracing::debug!(%error, "cannot follow environments");
        }
        sleep(Duration::from_millis(PAUSE_MS)).await;
    }
}

async fn keep(
    client: &Client,
    clock: &Clock,
    caller: &Arc<Caller>,
    leader: &(String, i64),
) -> Result<(), Error> {
    let mut rounds = Rounds::default();
    let (environments, revision) = client.prefix(keys::ENVIRONMENTS, 0).await?;
    environments.iter().for_each(|kv| rounds.there(clock.now(), kv));
    for kv in client.prefix(keys::CHECKS, revision).await?.0 {
        rounds.was_checked(&kv);
    }
    for kv in client.prefix(keys::CHECK_WISHES, revision).await?.0 {
        rounds.asked(&kv);
    }
    let mut environments = client.watch(keys::ENVIRONMENTS, revision + 1).await?;
    let mut wishes: Commits = client.watch(keys::CHECK_WISHES, revision + 1).await?;
    let mut probes = JoinSet::new();
    loop {
        while let Some(order) = rounds.due(clock.now()) {
            let (caller, began) = (caller.clone(), clock.now());
            probes.spawn(async move {
                let found = probe(&caller, &order.environment).await;
                (order, began, found)
            });
        }
        let timer = rounds.next_timer().map_or(Duration::from_secs(60), |at| clock.until(at));
        tokio::select! {
            found = environments.next() => {
                for change in found?.into_iter().flat_map(|commit| commit.changes) {
                    match change {
                        Change::Put(kv) => rounds.there(clock.now(), &kv),
                        Change::Delete { key } => rounds.gone(&key),
                    }
                }
            }
            found = wishes.next() => {
                for change in found?.into_iter().flat_map(|commit| commit.changes) {
                    if let Change::Put(kv) = change {
                        rounds.asked(&kv);
                    }
                }
            }
            Some(Ok((order, began, found))) = probes.join_next() => {
                let now = clock.now();
                let Some(mut txn) = rounds.done(&order, began, now, found) else { continue };
                txn.compares.push(Compare::ChangedAt(leader.0.clone(), leader.1));
                if !matches!(client.txn(&txn).await, Outcome::Committed { .. }) {
                    rounds.again(&order, clock.now());
                }
            }
            () = sleep_until(Instant::now() + timer) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kv(key: String, value: &serde_json::Value, mod_revision: i64) -> Kv {
        Kv { key, value: value.to_string().into_bytes(), mod_revision, ..Default::default() }
    }

    fn lab(health: &str, url: &str, revision: i64) -> Kv {
        let check = json!({"url": url, "every": 10});
        let value = json!({"id": "lab", "health": health, "check": check});
        kv(keys::environment("lab"), &value, revision)
    }

    fn health_in(txn: &Txn) -> Option<(Health, String)> {
        txn.then.iter().find_map(|op| match op {
            Op::Put { key, value, .. } if *key == keys::environment("lab") => {
                let found: Environment = serde_json::from_slice(value).unwrap();
                Some((found.health, found.health_reason))
            }
            _ => None,
        })
    }

    fn record_in(txn: &Txn) -> Checked {
        let Op::Put { key, value, .. } = &txn.then[0] else { panic!("{txn:?}") };
        assert_eq!(*key, keys::check("lab"));
        serde_json::from_slice(value).unwrap()
    }

    #[test]
    fn health_follows_what_is_found_and_is_written_when_it_changes() {
        let mut rounds = Rounds::default();
        rounds.there(1_000, &lab("unknown", "http://a/", 5));
        let order = rounds.due(1_000).unwrap();
        assert_eq!(rounds.due(1_000), None, "one at a time");
        let txn = rounds.done(&order, 1_000, 1_030, Err("away".into())).unwrap();
        assert_eq!(txn.compares, [Compare::ChangedAt(keys::environment("lab"), 5)]);
        assert_eq!(health_in(&txn), Some((Health::Bad, "away".into())));
        let record = record_in(&txn);
        assert_eq!((record.is_good, record.next, record.duration_ms), (false, Some(11_000), 30));
        // Its own change is no reason to check again.
        rounds.there(1_100, &lab("bad", "http://a/", 6));
        assert_eq!((rounds.due(10_999), rounds.next_timer()), (None, Some(11_000)));
        let order = rounds.due(11_000).unwrap();
        let txn = rounds.done(&order, 11_000, 11_001, Ok(())).unwrap();
        assert_eq!(health_in(&txn), Some((Health::Good, String::new())));
        rounds.there(11_100, &lab("good", "http://a/", 7));
        let order = rounds.due(21_000).unwrap();
        let txn = rounds.done(&order, 21_000, 21_001, Ok(())).unwrap();
        assert_eq!(health_in(&txn), None, "nothing has changed");
        // What could not be written is found out again.
        rounds.again(&order, 21_001);
        assert_eq!(rounds.next_timer(), Some(22_001));
    }

    #[test]
    fn the_url_of_a_check_is_judged_with_its_values_filled_in() {
        let check = |base: &str, url: &str| {
            let text =
                json!({"id": "lab", "config": {"base": base}, "check": {"url": url, "every": 9}});
            let environment = Environment::parse(text.to_string().as_bytes());
            environment.and_then(|environment| check_places(&environment, &Targets::default()))
        };
        assert_eq!(check("http://lab.example", "{{base}}"), Ok(()));
        assert_eq!(check("http://lab.example", "{{base}}/health"), Ok(()));
        assert_eq!(check("http://lab.example", "{{gone}}"), Ok(()), "the check itself tells it");
        for (base, url) in [("lab.example", "{{base}}"), ("http://lab.example", "base")] {
            let refusal = check(base, url).unwrap_err();
            let text = "environment lab: the url of its check is not http or https";
            assert_eq!((refusal.status, &*refusal.message), (400, text));
        }
        assert_eq!(check("http://169.254.1.1", "{{base}}/").unwrap_err().status, 403);
    }

    #[test]
    fn what_people_set_apart_is_checked_when_they_ask_and_stays_so() {
        let mut rounds = Rounds::default();
        rounds.there(0, &lab("maintenance", "http://a/", 5));
        assert_eq!((rounds.due(1_000_000), rounds.next_timer()), (None, None));
        rounds.asked(&kv(keys::check_wish("lab"), &json!({}), 9));
        let order = rounds.due(1).unwrap();
        let txn = rounds.done(&order, 1, 2, Ok(())).unwrap();
        assert_eq!(health_in(&txn), None);
        let record = record_in(&txn);
        assert_eq!((record.health, record.asked, record.next), (Health::Maintenance, 9, None));
        assert!(txn.compares.contains(&Compare::ChangedAt(keys::check_wish("lab"), 9)));
        assert_eq!(txn.then.last(), Some(&Op::Delete(keys::check_wish("lab"))));
        assert_eq!(rounds.due(1_000_000), None, "asked once, checked once");
        // The end of maintenance.
        rounds.there(50, &lab("unknown", "http://a/", 10));
        assert!(rounds.due(50).is_some());
    }

    #[test]
    fn what_was_found_at_another_url_counts_for_nothing() {
        let mut rounds = Rounds::default();
        rounds.there(0, &lab("good", "http://a/", 5));
        let order = rounds.due(0).unwrap();
        rounds.there(1, &lab("good", "http://b/", 6));
        assert_eq!(rounds.due(1), None, "the first one has not ended");
        assert_eq!(rounds.done(&order, 0, 2, Err("away".into())), None);
        assert_eq!(rounds.due(2).unwrap().environment.check.unwrap().url, "http://b/");
        rounds.gone(&keys::environment("lab"));
        assert_eq!(rounds.next_timer(), None);
    }

    #[test]
    fn a_new_leader_goes_on_where_the_last_one_was() {
        let mut rounds = Rounds::default();
        rounds.there(100_000, &lab("good", "http://a/", 5));
        let last = Checked { checked: 95_000, ..Default::default() };
        let last = serde_json::to_value(last).unwrap();
        rounds.was_checked(&kv(keys::check("lab"), &last, 6));
        assert_eq!((rounds.due(104_999), rounds.next_timer()), (None, Some(105_000)));
    }
}
