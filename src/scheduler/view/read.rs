//! Reads from the store what views are made of, each at one revision.

use super::book::{Registered, RunBook, parse};
use super::foreign::{LEASED, Names, foreign};
use super::{
    Audit, FlakyCase, RunSummary, Waiting, audit, idleness, is_undisturbed, replay, waiting,
};
use crate::scheduler::analysis::Stats;
use crate::scheduler::catalog;
use crate::scheduler::client::Client;
use crate::scheduler::coordinator::{RunStatus, is_leader};
use crate::scheduler::keys;
use crate::scheduler::model::{CaseState, Claim, Refusal, RunSpec, TestCase};
use crate::scheduler::record;
use crate::scheduler::store::{Commit, Kv};
use crate::scheduler::submit::SubmitError;
use futures_util::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet};

/// Definitions and histories of cases are read in parts of so many.
const CASES_PAGE: i64 = 1_000;

/// All that the store shows of one run.
///
/// # Errors
///
/// 404 for an unknown run; when the store does not answer.
pub async fn book(client: &Client, run: &str) -> Result<RunBook, SubmitError> {
    book_at(client, run, 0).await
}

/// The same as it was at an earlier revision; 0 is the newest.
///
/// # Errors
///
/// 404 for a run that is unknown, or was then; when the store does not answer, or that revision is
/// compacted.
pub async fn book_at(client: &Client, run: &str, revision: i64) -> Result<RunBook, SubmitError> {
    let (kvs, revision) = keys_of(client, run, revision).await?;
    Ok(RunBook::new(run, &kvs, revision)?)
}

async fn keys_of(client: &Client, run: &str, revision: i64) -> Result<(Vec<Kv>, i64), SubmitError> {
    let (mut kvs, revision) = client.prefix(&keys::run_parts(run), revision).await?;
    let spec = client.get_at(&keys::run(run), revision).await?;
    kvs.extend(client.get_at(&keys::open(run), revision).await?);
    if let Some(spec) = spec.as_ref().and_then(parse::<RunSpec>) {
        let places = spec.environments.iter().map(|place| keys::environment(place));
        let limits: Vec<String> = places.chain([keys::queue(&spec.queue)]).collect();
        let found = limits.iter().map(|key| client.get_at(key, revision));
        kvs.extend(try_join_all(found).await?.into_iter().flatten());
    }
    kvs.extend(spec);
    for prefix in [
        &keys::segments(run),
        keys::WORKERS,
        keys::BEATS,
        keys::CLAIMS,
        keys::TAGS,
        keys::TAG_DEFINITIONS,
        keys::LEADERS,
    ] {
        kvs.extend(client.prefix(prefix, revision).await?.0);
    }
    // Of a run that has ended; what is there is not at a key of its own.
    let blocks = client.prefix(&keys::blocks(run), revision).await?.0;
    kvs.extend(blocks.iter().flat_map(|kv| record::unrolled(run, kv)));
    Ok((kvs, revision))
}

/// Why the lanes of a run wait: all open runs are read, since they share tags and workers.
///
/// # Errors
///
/// 404 for an unknown run; when the store does not answer.
pub async fn why(
    client: &Client,
    run: &str,
    now: u64,
) -> Result<(RunBook, Vec<Waiting>), SubmitError> {
    let (mut kvs, revision) = crate::scheduler::leader::read_all(client).await?;
    if !kvs.iter().any(|kv| kv.key == keys::open(run)) {
        return Ok((book(client, run).await?, Vec::new()));
    }
    for prefix in [keys::BEATS, keys::LEADERS] {
        kvs.extend(client.prefix(prefix, revision).await?.0);
    }
    let book = RunBook::new(run, &kvs, revision)?;
    let mut found = waiting::waiting(&book, &kvs, now);
    if found.iter().any(Waiting::is_for_slot) && client.is_full().await {
        found.iter_mut().for_each(Waiting::blame_full_store);
    }
    if !book.has_leader {
        found.iter_mut().for_each(Waiting::blame_no_leader);
    }
    Ok((book, found))
}

/// Checks a run's record; with the history of all commits since its submit, if the store still has it.
/// Whether it had is the second value.
///
/// # Errors
///
/// 404 for an unknown run; when the store does not answer.
pub async fn verify(
    client: &Client,
    run: &str,
    skew_ms: u64,
) -> Result<(RunBook, Audit, bool), SubmitError> {
    let (kvs, revision) = keys_of(client, run, 0).await?;
    let book = RunBook::new(run, &kvs, revision)?;
    let mut found = audit(&book, skew_ms);
    found.merge(foreign(run, &kvs));
    let mut names = Names::new(run);
    client.each_key(keys::PREFIX, revision, |kv| names.look(&kv)).await?;
    for prefix in LEASED {
        client.each(prefix, revision, |kv| names.look_leased(&kv)).await?;
    }
    found.merge(names.finish());
    let spec = kvs.iter().find(|kv| kv.key == keys::run(run));
    let from = spec.map_or(0, |kv| kv.create_revision);
    let mut commits: Vec<Commit> = Vec::new();
    let history = client.history(keys::PREFIX, from, revision, |commit| commits.push(commit)).await;
    if history.is_ok() {
        let queue = client.get_at(&keys::queue(&book.spec.queue), from).await?;
        let mut others = Vec::from_iter(queue);
        for prefix in [keys::CLAIMS, keys::TAGS] {
            others.extend(client.prefix(prefix, from).await?.0);
        }
        if is_undisturbed(run, &others, &commits) {
            found.merge(idleness(&book));
        }
        found.merge(replay(run, commits));
    }
    Ok((book, found, history.is_ok()))
}

/// Runs, the newest first: at most `limit` of those that are wanted, with an id below `before` if it is given.
/// With the id to go on from; none behind the last.
///
/// # Errors
///
/// When the store does not answer.
pub async fn runs(
    client: &Client,
    is_wanted: impl Fn(&RunSummary) -> bool,
    before: Option<&str>,
    limit: usize,
) -> Result<(Vec<RunSummary>, Option<String>), SubmitError> {
    let (names, revision) = client.keys(keys::RUNS, 0).await?;
    let ids = names.iter().filter_map(|key| key.strip_prefix(keys::RUNS));
    let ids: BTreeSet<&str> = ids.filter(|id| !id.contains('/')).collect();
    let held = held(client, revision).await?;
    let mut found = Vec::new();
    for id in ids.into_iter().rev().filter(|id| before.is_none_or(|before| *id < before)) {
        let Some(summary) = summary_at(client, id, revision, held.as_ref()).await? else {
            continue;
        };
        if !is_wanted(&summary) {
            continue;
        }
        if found.len() == limit {
            let last = found.last().map(|last: &RunSummary| last.id.clone());
            return Ok((found, last));
        }
        found.push(summary);
    }
    Ok((found, None))
}

/// How far a run is, as the leader had written it last at a revision; 0 is the newest.
///
/// # Errors
///
/// 404 for an unknown run; when the store does not answer.
pub async fn summary(client: &Client, run: &str, revision: i64) -> Result<RunSummary, SubmitError> {
    let held = held(client, revision).await?;
    let found = summary_at(client, run, revision, held.as_ref()).await?;
    found.ok_or_else(|| Refusal::new(404, format!("unknown run {run}")).into())
}

async fn summary_at(
    client: &Client,
    run: &str,
    revision: i64,
    held: Option<&BTreeSet<String>>,
) -> Result<Option<RunSummary>, SubmitError> {
    let spec = client.get_at(&keys::run(run), revision).await?;
    let Some(spec) = spec.as_ref().and_then(super::book::parse::<RunSpec>) else { return Ok(None) };
    let status = client.get_at(&keys::status(run), revision).await?;
    let mut status: RunStatus = status.as_ref().and_then(super::book::parse).unwrap_or_default();
    let control = client.get_at(&keys::control(run), revision).await?;
    let wanted = control.as_ref().and_then(super::book::parse).unwrap_or_default();
    let is_held = held.map(|held| held.contains(run));
    status.state = super::state_of(&status.state, wanted, is_held).to_owned();
    Ok(Some(RunSummary::new(&spec, &status)))
}

/// Runs of which workers have something, at a revision: where none leads, nobody writes down that a run
/// waits. None where one does.
///
/// # Errors
///
/// When the store does not answer.
pub async fn held(
    client: &Client,
    revision: i64,
) -> Result<Option<BTreeSet<String>>, etcd_client::Error> {
    if client.prefix(keys::LEADERS, revision).await?.0.iter().any(is_leader) {
        return Ok(None);
    }
    let workers = client.prefix(keys::WORKERS, revision).await?.0;
    let registered = Registered::new(&workers);
    let claims = client.prefix(keys::CLAIMS, revision).await?.0;
    let held = claims.iter().filter_map(|kv| {
        let (worker, _) = keys::parse_claim(&kv.key)?;
        let claim = super::book::parse::<Claim>(kv)?;
        registered.holds(worker, &claim).then_some(claim.run)
    });
    Ok(Some(held.collect()))
}

/// Cases that are flaky at a time in milliseconds since 1970, or muted or skipped, in their environments, the
/// flakiest first; and the revision at which their histories were read.
///
/// # Errors
///
/// When the store does not answer.
pub async fn flaky(client: &Client, now: u64) -> Result<(Vec<FlakyCase>, i64), SubmitError> {
    let mut cases = set_apart(client).await?;
    let known: BTreeSet<String> = cases.keys().cloned().collect();
    let is_wanted =
        |case: &str, stats: &Stats| known.contains(case) || flaky_alone(case, stats, now);
    let (histories, revision) = histories(client, is_wanted).await?;
    for (case, ..) in &histories {
        if !cases.contains_key(case) {
            // One that is deleted has a past all the same.
            if let Ok(found) = catalog::get::<TestCase>(client, case).await {
                cases.insert(case.clone(), (found.value, found.version));
            }
        }
    }
    Ok((super::flaky(&cases, histories, now), revision))
}

fn flaky_alone(case: &str, stats: &Stats, now: u64) -> bool {
    let history = (case.to_owned(), String::new(), stats.clone());
    !super::flaky(&BTreeMap::new(), [history], now).is_empty()
}

/// Cases that are muted or skipped, with their versions.
async fn set_apart(client: &Client) -> Result<BTreeMap<String, (TestCase, i64)>, SubmitError> {
    let is_apart = |case: &TestCase| !case.is_deleted && case.state != CaseState::Enabled;
    let found = catalog::all(client, is_apart).await?.into_iter();
    Ok(found.map(|case| (case.value.id.clone(), (case.value, case.version))).collect())
}

type Histories = Vec<(String, String, Stats)>;

/// Histories that are wanted: case, environment and what is known.
async fn histories(
    client: &Client,
    is_wanted: impl Fn(&str, &Stats) -> bool,
) -> Result<(Histories, i64), SubmitError> {
    let mut found = Vec::new();
    let revision = each_history(client, |case, environment, stats| {
        if is_wanted(&case, &stats) {
            found.push((case, environment, stats));
        }
    });
    let revision = revision.await?;
    Ok((found, revision))
}

/// Tells every history: case, environment (empty for none) and what is known. Returns the revision of the last part.
///
/// # Errors
///
/// When the store does not answer.
pub async fn each_history(
    client: &Client,
    mut tell: impl FnMut(String, String, Stats),
) -> Result<i64, SubmitError> {
    let mut from = keys::STATS.to_owned();
    let end = keys::range_end(keys::STATS);
    loop {
        let page = client.page(&from, &end, CASES_PAGE, false).await?;
        for kv in &page.kvs {
            let name = kv.key.strip_prefix(keys::STATS).and_then(|name| name.split_once('/'));
            let (Some((case, environment)), Ok(stats)) =
                (name, serde_json::from_slice::<Stats>(&kv.value))
            else {
                continue;
            };
            let environment = if environment == keys::NO_ENVIRONMENT { "" } else { environment };
            tell(case.to_owned(), environment.to_owned(), stats);
        }
        match page.kvs.last() {
            Some(last) if page.has_more => from = format!("{}\0", last.key),
            _ => return Ok(page.revision),
        }
    }
}
