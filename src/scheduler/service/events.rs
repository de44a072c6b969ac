//! Live views of runs as server-sent events: how far a run is, at most twice a second, until its end.
//!
//! All that look at one run share one watch of the store, the scheduler's; whether a user may read what it
//! tells is asked before. An event's id is the revision of what it
//! tells; who comes back with `Last-Event-ID` is told what is newer. Each event tells the whole state,
//! so that nobody misses anything by being slow.

use super::Services;
use super::answer::Problem;
use super::ask::InPath;
use super::runs::status_of;
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::store::{Change, Commit, Kv};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

/// Between two events.
const PAUSE: Duration = Duration::from_millis(500);
/// So that what lies between sees that somebody is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// What is known of a run.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Of the last change, 0 if there was none yet.
    revision: i64,
    text: Arc<str>,
    is_over: bool,
}

/// Watches of runs that somebody looks at.
#[derive(Default)]
pub(super) struct Feeds {
    runs: Arc<Mutex<BTreeMap<String, watch::Receiver<Seen>>>>,
}

impl Feeds {
    fn follow(&self, client: Client, run: &str) -> watch::Receiver<Seen> {
        let mut runs = self.runs.lock();
        // One whose task has ended is of no use any more.
        if let Some(found) = runs.get(run).filter(|found| found.has_changed().is_ok()) {
            return found.clone();
        }
        let (sender, seen) = watch::channel(Seen::default());
        runs.insert(run.to_owned(), seen.clone());
        let (known, run) = (self.runs.clone(), run.to_owned());
        tokio::spawn(async move {
            let mut work = std::pin::pin!(keep_up(&client, &run, &sender));
            // The map holds one receiver itself.
            loop {
                tokio::select! {
                    () = &mut work => break,
                    () = sleep(SIGN_OF_LIFE) => {
                        let mut known = known.lock();
                        if sender.receiver_count() <= 1 {
                            known.remove(&run);
                            return;
                        }
                    }
                }
            }
            known.lock().remove(&run);
        });
        seen
    }
}

/// Tells what becomes of a run, to its end.
async fn keep_up(client: &Client, run: &str, sender: &watch::Sender<Seen>) {
    loop {
        // What went wrong is tried again: who looks sees the last that is known.
        if matches!(follow(client, run, sender).await, Ok(true)) {
            return;
        }
        sleep(PAUSE).await;
    }
}

/// Follows a run. Returns whether it is over.
async fn follow(
    client: &Client,
    run: &str,
    sender: &watch::Sender<Seen>,
) -> Result<bool, etcd_client::Error> {
    let (status_key, control_key) = (keys::status(run), keys::control(run));
    let page = client.page(&status_key, &keys::range_end(&status_key), 1, false).await?;
    let mut status = page.kvs.into_iter().next();
    let mut control = client.get(&control_key).await?;
    let mut statuses = client.watch(&status_key, page.revision + 1).await?;
    let mut controls = client.watch(&control_key, page.revision + 1).await?;
    loop {
        let seen = see(run, status.as_ref(), control.as_ref());
        let is_over = seen.is_over;
        sender.send_replace(seen);
        if is_over {
            return Ok(true);
        }
        tokio::select! {
            found = statuses.next() => match last_put(found?) {
                Some(kv) => status = Some(kv),
                // The run was taken away.
                None => return Ok(true),
            },
            found = controls.next() => control = last_put(found?).or(control),
        }
    }
}

fn last_put(commits: Vec<Commit>) -> Option<Kv> {
    let changes = commits.into_iter().flat_map(|commit| commit.changes);
    let mut puts = changes.filter_map(|change| match change {
        Change::Put(kv) => Some(kv),
        Change::Delete { .. } => None,
    });
    puts.next_back()
}

fn see(run: &str, status: Option<&Kv>, control: Option<&Kv>) -> Seen {
    let mut fields = status_of(status, control, None);
    fields.insert("run".into(), run.into());
    let is_over = fields.get("ended").is_some_and(|ended| !ended.is_null());
    let revision = fields.get("version").and_then(Value::as_i64).unwrap_or(0);
    Seen { revision, text: Value::Object(fields).to_string().into(), is_over }
}

/// One who looks.
struct Viewer {
    seen: watch::Receiver<Seen>,
    stop: watch::Receiver<bool>,
    /// What he has been told already; negative for nothing.
    told: i64,
    not_before: Instant,
    is_over: bool,
}

impl Viewer {
    /// The next event, as soon as there is news and the pause is over.
    async fn next(&mut self) -> Option<Event> {
        if self.is_over {
            return None;
        }
        sleep_until(self.not_before).await;
        let told = self.told;
        let news = tokio::select! {
            found = self.seen.wait_for(|seen| !seen.text.is_empty() && (seen.revision > told || seen.is_over)) => {
                found.ok()?.clone()
            }
            _ = self.stop.wait_for(|stop| *stop) => return None,
        };
        self.told = news.revision;
        self.not_before = Instant::now() + PAUSE;
        self.is_over = news.is_over;
        let name = if news.is_over { "end" } else { "status" };
        Some(Event::default().event(name).id(news.revision.to_string()).data(&*news.text))
    }
}

pub(super) async fn of_run(
    services: Services,
    InPath(run): InPath<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let client = services.store().await?;
    if client.get(&keys::run(&run)).await?.is_none() {
        return Err(Problem::unknown("run", &run));
    }
    client.may_read(&keys::run_parts(&run)).await?;
    let client = services.shared().store().await?;
    let told = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let viewer = Viewer {
        seen: services.inner.feeds.follow(client, &run),
        stop: services.inner.stop.clone(),
        told: told.unwrap_or(-1),
        not_before: Instant::now(),
        is_over: false,
    };
    let events = unfold(viewer, async |mut viewer| {
        let event = viewer.next().await?;
        Some((Ok::<_, Infallible>(event), viewer))
    });
    let mut answer =
        Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE)).into_response();
    let headers = answer.headers_mut();
    headers.insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    Ok(answer)
}
