//! Leads the scheduler, or waits to: election, and a coordinator fed from the store while this one
//! leads.

use super::checks;
use super::client::{Access, Client};
use super::clock::Clock;
use super::complaints::Complaints;
use super::coordinator::{
    Coordinator, Draft, OpenedRun, Request, Settings, TxnNo, drafts, is_leader,
};
use super::execute::Caller;
use super::hooks::{self, Hooks};
use super::keys;
use super::lease::Lease;
use super::mutes;
use super::numbers::Numbers;
use super::store::{Compare, Kv, Op, Outcome, Txn};
use etcd_client::Error;
use parking_lot::Mutex;
use serde_json::json;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A leader that dies is replaced after so many seconds at most.
const TTL_S: i64 = 2;
/// After an error, before the store is asked again.
const PAUSE: Duration = Duration::from_millis(200);
/// Longer than this an end does not wait for the store.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How often what collectors of metrics are shown is brought up to date.
const NUMBERS_INTERVAL: Duration = Duration::from_secs(1);

/// Of a run that is over, for one block: each may have half a megabyte.
const SEGMENTS_AT_ONCE: i64 = 256;

/// What comes back from what was asked.
enum Answer {
    Txn(TxnNo, Outcome),
    Run(String, Option<Box<OpenedRun>>, Vec<Kv>),
    /// The next block of a run that is over, and its first segments.
    Ended(String, u32, Vec<Kv>),
    Drafts(Vec<Draft>),
    /// A read failed.
    Lost(Error),
}

/// Why a term of leadership is over.
enum End {
    /// Another leads, or may.
    Deposed,
    /// It is not known what happened: read everything again.
    Rebuild,
}

/// The lease under which this one stands for election, and how to give it back.
type Candidacy = Mutex<Option<(Client, i64)>>;

/// Serves as a scheduler until `stop` is done; then another may lead at once. Errors of the store are
/// waited out.
/// Environments are checked by `caller`; `hooks` are told of ends of runs; what it does is counted in
/// `numbers`.
pub async fn run(
    access: Access,
    id: String,
    (settings, caller, hooks): (Settings, Arc<Caller>, Hooks),
    numbers: Arc<Numbers>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let candidacy = Candidacy::default();
    let mut complaints = Complaints::default();
    loop {
        let serve = serve(&access, &id, (&settings, &caller, &hooks), (&candidacy, &numbers));
        tokio::select! {
            ended = serve => {
                if let Err(error) = ended
                    && complaints.is_news(&error.to_string())
                {
                    tracing::warn!(error = %error, "scheduler lost the store");
                }
            }
            () = &mut stop => break,
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = &mut stop => break,
        }
    }
    let held = candidacy.lock().take();
    if let Some((client, lease)) = held {
        // If it cannot be given back it ends by itself.
        let _ends_later = timeout(LAST_WORDS, client.revoke(lease)).await;
    }
}

/// Stands for election and leads, once.
async fn serve(
    access: &Access,
    id: &str,
    (settings, caller, hooks): (&Settings, &Arc<Caller>, &Hooks),
    (candidacy, numbers): (&Candidacy, &Arc<Numbers>),
) -> Result<(), Error> {
    let client = Client::connect(access).await?;
    let clock = Clock::new();
    // Taking in a run of a million cases takes longer than the lease lasts.
    let mut lease = Lease::grant_apart(access, TTL_S).await?;
    *candidacy.lock() = Some((client.clone(), lease.id()));
    let key = keys::leader(lease.id());
    let value = serde_json::to_vec(&json!({ "id": id })).unwrap_or_default();
    let put = Op::Put { key: key.clone(), value, lease: lease.id() };
    let txn = Txn { then: vec![put.clone()], ..Default::default() };
    let created = match client.txn(&txn).await {
        Outcome::Committed { revision } => revision,
        Outcome::Failed(text) => return Err(Error::InvalidArgs(text)),
        Outcome::Refused { .. } | Outcome::Unknown => return Ok(()),
    };
    loop {
        tokio::select! {
            () = lease.lost() => return Ok(()),
            waited = wait_for_turn(&client, &key, created) => waited?,
        }
        let compares = vec![Compare::CreatedAt(key.clone(), created)];
        let again = Txn { compares, then: vec![put.clone()], ..Default::default() };
        let Outcome::Committed { revision } = client.txn(&again).await else { return Ok(()) };
        let (kvs, revision_read) = read_all(&client).await?;
        tracing::info!(runs = open_runs(&kvs), revision = revision_read, "leading the scheduler");
        let leader = (key.clone(), revision);
        // They end with the term.
        let mut beside = JoinSet::new();
        beside.spawn(checks::run(client.clone(), clock, caller.clone(), leader.clone()));
        beside.spawn(hooks::run(client.clone(), hooks.clone(), leader.clone()));
        let coordinator =
            Coordinator::load(clock.now(), settings.clone(), leader, &kvs, revision_read);
        match lead((&client, &clock, numbers), &mut lease, coordinator, revision_read).await? {
            End::Rebuild => {}
            End::Deposed => return Ok(()),
        }
    }
}

fn open_runs(kvs: &[Kv]) -> usize {
    kvs.iter().filter(|kv| kv.key.starts_with(keys::OPEN)).count()
}

/// Waits until no key of a leader is older than this one.
async fn wait_for_turn(client: &Client, key: &str, created: i64) -> Result<(), Error> {
    loop {
        let (leaders, revision) = client.prefix(keys::LEADERS, 0).await?;
        let older = leaders.iter().filter(|kv| {
            // What somebody wrote by hand would be waited for without an end.
            is_leader(kv) && kv.create_revision < created && kv.key != key
        });
        // The next older one is enough to watch: when it goes it is looked again.
        let Some(before) = older.max_by_key(|kv| kv.create_revision) else { return Ok(()) };
        let mut commits = client.watch(&before.key, revision + 1).await?;
        commits.next().await?;
    }
}

/// Everything that a leader must know, at one revision.
pub(super) async fn read_all(client: &Client) -> Result<(Vec<Kv>, i64), Error> {
    let (mut kvs, revision) = client.prefix(keys::OPEN, 0).await?;
    let runs: Vec<String> =
        kvs.iter().filter_map(|kv| kv.key.strip_prefix(keys::OPEN)).map(str::to_owned).collect();
    for prefix in [
        keys::WORKERS,
        keys::CLAIMS,
        keys::TAGS,
        keys::TAG_DEFINITIONS,
        keys::QUEUES,
        keys::ENVIRONMENTS,
        keys::STATS,
        keys::ENDED,
        keys::ROLLS,
    ] {
        kvs.extend(client.prefix(prefix, revision).await?.0);
    }
    for run in runs {
        kvs.extend(read_run(client, &run, revision).await?);
    }
    Ok((kvs, revision))
}

async fn read_run(client: &Client, run: &str, revision: i64) -> Result<Vec<Kv>, Error> {
    // The run itself and its parts share this prefix, and so may runs with longer names.
    let (spec, revision) = client.prefix(&keys::run(run), revision).await?;
    let parts = keys::run_parts(run);
    let mut kvs: Vec<Kv> = spec
        .into_iter()
        .filter(|kv| kv.key == keys::run(run) || kv.key.starts_with(&parts))
        .collect();
    kvs.extend(client.prefix(&keys::segments(run), revision).await?.0);
    Ok(kvs)
}

/// The number of the next block of a run that is over, and some of its segments.
async fn read_ended(client: &Client, run: &str) -> Result<(u32, Vec<Kv>), Error> {
    let blocks = keys::blocks(run);
    let end = String::from_utf8_lossy(&keys::range_end(&blocks)).into_owned();
    let last = client.last_below(&blocks, &end).await?;
    let last = last.and_then(|kv| kv.key.rsplit('/').next()?.parse::<u32>().ok());
    let kvs = client.first_of(&keys::segments(run), SEGMENTS_AT_ONCE).await?;
    Ok((last.map_or(0, |last| last + 1), kvs))
}

/// Leads for one term.
async fn lead(
    (client, clock, numbers): (&Client, &Clock, &Arc<Numbers>),
    lease: &mut Lease,
    mut coordinator: Coordinator,
    revision: i64,
) -> Result<End, Error> {
    let mut commits = client.watch(keys::PREFIX, revision + 1).await?;
    let mut environments = client.watch(keys::ENVIRONMENTS, revision + 1).await?;
    let (sender, mut answers) = mpsc::unbounded_channel();
    let _leading = numbers.lead();
    let mut seen = tokio::time::interval(NUMBERS_INTERVAL);
    loop {
        for request in coordinator.work(clock.now()) {
            match request {
                Request::Rebuild => return Ok(End::Rebuild),
                Request::Deposed => return Ok(End::Deposed),
                request => ask((client, numbers), request, sender.clone()),
            }
        }
        let timer = coordinator.next_timer().map_or(Duration::from_secs(60), |at| clock.until(at));
        tokio::select! {
            () = lease.lost() => return Ok(End::Deposed),
            found = commits.next() => {
                for commit in found? {
                    coordinator.commit(clock.now(), &commit);
                }
            }
            found = environments.next() => {
                for commit in found? {
                    coordinator.environments(&commit);
                }
            }
            Some(answer) = answers.recv() => match answer {
                Answer::Txn(number, outcome) => {
                    if let Outcome::Failed(text) = &outcome {
                        tracing::warn!(error = %text, "the store refuses what the scheduler asks");
                    }
                    coordinator.outcome(clock.now(), number, &outcome);
                }
                Answer::Run(run, opened, kvs) => {
                    coordinator.run_read(clock.now(), &run, opened.map(|opened| *opened), &kvs);
                }
                Answer::Ended(run, block, kvs) => coordinator.ended_read(&run, block, &kvs),
                Answer::Drafts(found) => coordinator.drafts_read(found),
                Answer::Lost(error) => return Err(error),
            },
            _ = seen.tick() => numbers.see(&mut coordinator),
            () = sleep_until(Instant::now() + timer) => coordinator.tick(clock.now()),
        }
    }
}

/// Finds out what a run is made of, in a thread of its own: with a million cases that takes seconds, and
/// memory that is given back when the thread ends.
async fn unfold(run: String, mut kvs: Vec<Kv>) -> Option<(Option<Box<OpenedRun>>, Vec<Kv>)> {
    let (tell, told) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("unfold".into()).spawn(move || {
        let opened = OpenedRun::take(&run, &mut kvs).map(Box::new);
        // Nobody waits for it when the term is over.
        let _over = tell.send((opened, kvs));
    });
    if let Err(error) = spawned {
        tracing::warn!(error = %error, "no thread for a run");
    }
    told.await.ok()
}

/// Does what the coordinator wants, beside it.
fn ask(
    (client, numbers): (&Client, &Arc<Numbers>),
    request: Request,
    answers: mpsc::UnboundedSender<Answer>,
) {
    let (client, numbers) = (client.clone(), numbers.clone());
    tokio::spawn(async move {
        let answer = match request {
            Request::Try(number, txn) => {
                let begun = Instant::now();
                let outcome = client.txn(&txn).await;
                numbers.transaction(begun.elapsed());
                Answer::Txn(number, outcome)
            }
            Request::ReadRun { run } => match read_run(&client, &run, 0).await {
                Ok(kvs) => match unfold(run.clone(), kvs).await {
                    Some((opened, kvs)) => {
                        if opened.is_none() && kvs.iter().any(|kv| kv.key == keys::run(&run)) {
                            tracing::warn!(run, "cannot read what the run is made of: not begun");
                        }
                        Answer::Run(run, opened, kvs)
                    }
                    None => return,
                },
                Err(error) => Answer::Lost(error),
            },
            Request::ReadEnded { run } => match read_ended(&client, &run).await {
                Ok((block, kvs)) => Answer::Ended(run, block, kvs),
                Err(error) => Answer::Lost(error),
            },
            Request::ReadDrafts => match client.versions(keys::RUNS).await {
                Ok(found) => Answer::Drafts(drafts(&found)),
                Err(error) => Answer::Lost(error),
            },
            Request::Revoke { lease } => match client.revoke(lease).await {
                Ok(()) => return,
                // It has ended by itself.
                Err(Error::GRpcStatus(status)) if status.code() == tonic::Code::NotFound => return,
                Err(error) => Answer::Lost(error),
            },
            Request::EndMute { case, recovered } => {
                return if let Err(error) = mutes::end(&client, &case, recovered).await {
                    // It recovers again, or the next leader tries it.
                    tracing::warn!(case, %error, "cannot end the mute of a case that has recovered");
                };
            }
            Request::Rebuild | Request::Deposed => return,
        };
        // Nobody listens when the term is over.
        let _over = answers.send(answer);
    });
}
