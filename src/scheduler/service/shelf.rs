//! Runs as they were read, kept for a while, so that pages of a million tasks are cut from memory; and
//! what those that are open say of tags. Reading is done on a thread of its own: calls that need none
//! of it are not held up.

use super::Services;
use super::answer::Problem;
use super::runs::now_ms;
use crate::scheduler::client::Client;
use crate::scheduler::keys;
use crate::scheduler::submit::SubmitError;
use crate::scheduler::view::{
    FailureGroup, Gap, Numbers, Pace, RunBook, TaskView, Waiting, measured, read,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Runs that are kept: one of a million tasks takes some hundred megabytes.
const BOOKS_MAX: usize = 4;
/// How old what is told of an open run may be.
const FRESH: Duration = Duration::from_secs(1);
/// Or so many times as long as reading it takes: a long run must not be read all the time.
const COST_FACTOR: u32 = 5;
/// But no longer: that a store was slow once must not be seen for minutes.
const OLDEST: Duration = Duration::from_secs(20);
/// So long it is read why a run's lanes wait after somebody has asked for it: that takes as long as all the rest.
const ASKED: Duration = Duration::from_secs(30);
/// Lanes that are told why they wait.
const WAITING_MAX: usize = 1_000;
/// Lanes that are told for one tag.
const WAITERS_MAX: usize = 20;

/// A run as it was read.
pub(super) struct Shelved {
    pub(super) book: RunBook,
    pub(super) numbers: Numbers,
    /// As it was when the run was read.
    pub(super) pace: Pace,
    pub(super) gaps: Vec<Gap>,
    /// Found when somebody asks for them.
    groups: OnceLock<Vec<FailureGroup>>,
    /// Empty unless somebody has asked for it lately.
    pub(super) waiting: Waiters,
    has_waiting: bool,
    read: Instant,
    /// How long that took.
    cost: Duration,
}

impl Shelved {
    pub(super) fn groups(&self) -> &[FailureGroup] {
        self.groups.get_or_init(|| self.book.failure_groups())
    }

    /// 404 if the run has no such task.
    pub(super) fn task(&self, lane: u32, ordinal: u32) -> Result<TaskView, Problem> {
        let missing = || Problem::new(404, format!("run {} has no such task", self.book.spec.id));
        self.book.find_task(lane, ordinal).ok_or_else(missing)
    }

    /// Whether it need not be read again: the run goes on, and what was read is new beside what reading costs;
    /// or it had ended, and has not been removed.
    async fn is_fresh(&self, client: &Client, run: &str) -> Result<bool, Problem> {
        let age = self.read.elapsed();
        let key = match self.book.is_open {
            true if age >= FRESH && age >= (self.cost * COST_FACTOR).min(OLDEST) => {
                return Ok(false);
            }
            true => keys::open(run),
            false => keys::run(run),
        };
        Ok(client.get(&key).await.map_err(SubmitError::from)?.is_some())
    }
}

/// A run's place on the shelf.
#[derive(Default)]
struct Place {
    found: Option<Arc<Shelved>>,
    /// When somebody wanted to know last why its lanes wait.
    asked: Option<Instant>,
}

/// Runs that somebody has looked at lately. Whoever wants one that is being read waits for it.
#[derive(Default)]
pub(super) struct Shelf {
    runs: Mutex<BTreeMap<String, Arc<Mutex<Place>>>>,
}

impl Shelf {
    /// `is_asked`: why its lanes wait is wanted, too.
    async fn find(
        &self,
        client: Client,
        run: &str,
        is_asked: bool,
    ) -> Result<Arc<Shelved>, Problem> {
        let place = self.place(run).await;
        let mut place = place.lock().await;
        if is_asked {
            place.asked = Some(Instant::now());
        }
        if let Some(found) = place.found.as_ref()
            && (found.has_waiting || !is_asked)
            && found.is_fresh(&client, run).await?
        {
            return Ok(found.clone());
        }
        let (name, handle) = (run.to_owned(), Handle::current());
        let with_waiting = place.asked.is_some_and(|asked| asked.elapsed() < ASKED);
        let reading = tokio::task::spawn_blocking(move || {
            handle.block_on(read_run(&client, &name, with_waiting))
        });
        let found = reading.await.map_err(|_| Problem::new(500, "reading the run was cut off"))?;
        let found = Arc::new(found?);
        place.found = Some(found.clone());
        Ok(found)
    }

    /// Where a run is kept; the one that was read longest ago makes room.
    async fn place(&self, run: &str) -> Arc<Mutex<Place>> {
        let mut runs = self.runs.lock().await;
        if !runs.contains_key(run) && runs.len() >= BOOKS_MAX {
            let read = |place: &Arc<Mutex<Place>>| {
                // One that is being read is in use.
                place
                    .try_lock()
                    .map_or(Some(Instant::now()), |place| place.found.as_ref().map(|f| f.read))
            };
            let oldest = runs.iter().min_by_key(|(_, place)| read(place));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                runs.remove(&oldest);
            }
        }
        runs.entry(run.to_owned()).or_default().clone()
    }
}

async fn read_run(client: &Client, run: &str, has_waiting: bool) -> Result<Shelved, SubmitError> {
    let begun = Instant::now();
    let (book, waiting) = match has_waiting {
        false => (read::book(client, run).await?, Waiters::default()),
        true => {
            let (book, waiting) = read::why(client, run, now_ms()).await?;
            (book, Waiters::new(run, waiting))
        }
    };
    let pace = Pace::of(&book, now_ms());
    let (numbers, gaps) = measured(&book);
    let (read, groups) = (Instant::now(), OnceLock::new());
    let cost = read.duration_since(begun);
    Ok(Shelved { book, numbers, pace, gaps, groups, waiting, has_waiting, read, cost })
}

/// Lanes that wait: of very many only the first.
#[derive(Default)]
pub(super) struct Waiters {
    pub(super) first: Vec<Waiting>,
    /// Those that wait for tags, by tag.
    for_tags: BTreeMap<String, TagQueue>,
    /// All of them.
    pub(super) lanes: usize,
    /// Tasks by reason.
    pub(super) tasks: BTreeMap<&'static str, u64>,
}

impl Waiters {
    fn new(run: &str, waiting: Vec<Waiting>) -> Self {
        let mut tasks: BTreeMap<&str, u64> = BTreeMap::new();
        for waiting in &waiting {
            *tasks.entry(waiting.reason).or_default() += waiting.tasks;
        }
        let mut for_tags: BTreeMap<String, TagQueue> = BTreeMap::new();
        for lane in waiting.iter().filter(|lane| lane.reason == "tag") {
            if let Some(holder) = lane.holders.first() {
                for_tags.entry(holder.tag.clone()).or_default().add(run, lane);
            }
        }
        let (lanes, mut first) = (waiting.len(), waiting);
        first.truncate(WAITING_MAX);
        first.shrink_to_fit();
        Self { first, for_tags, lanes, tasks }
    }
}

/// Lanes that wait for one tag.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct TagQueue {
    pub(super) waiting_lanes: u64,
    pub(super) waiting_tasks: u64,
    /// Of the one that has waited for longest, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_since: Option<u64>,
    /// The first of them.
    waiters: Vec<Value>,
}

impl TagQueue {
    fn add(&mut self, run: &str, lane: &Waiting) {
        self.waiting_lanes += 1;
        self.waiting_tasks += lane.tasks;
        self.waits_since = Some(self.waits_since.map_or(lane.since, |known| known.min(lane.since)));
        if self.waiters.len() < WAITERS_MAX {
            let (case, tasks, since) = (&lane.case, lane.tasks, lane.since);
            self.waiters.push(json!({"run": run, "case": case, "tasks": tasks, "since": since}));
        }
    }

    fn merge(&mut self, other: &Self) {
        self.waiting_lanes += other.waiting_lanes;
        self.waiting_tasks += other.waiting_tasks;
        self.waits_since = self.waits_since.into_iter().chain(other.waits_since).min();
        let room = WAITERS_MAX.saturating_sub(self.waiters.len());
        self.waiters.extend(other.waiters.iter().take(room).cloned());
    }
}

/// What the newest open runs, as many as are kept, say of tags.
#[derive(Default)]
pub(super) struct Contention {
    pub(super) queues: BTreeMap<String, TagQueue>,
    runs: BTreeMap<String, Arc<Shelved>>,
}

impl Contention {
    /// The case of a run's lane, if the run is one of them.
    pub(super) fn case_of(&self, run: &str, lane: u32) -> Option<&str> {
        self.runs.get(run)?.book.plan.lanes.get(lane as usize).map(|plan| &*plan.case)
    }
}

pub(super) async fn contention(services: &Services) -> Result<Contention, Problem> {
    let client = services.store().await?;
    let end = keys::range_end(keys::OPEN);
    let open = client.page(keys::OPEN, &end, BOOKS_MAX as i64, true).await?;
    let mut found = Contention::default();
    for kv in open.kvs {
        let run = kv.key.strip_prefix(keys::OPEN).unwrap_or_default();
        // A run that has ended meanwhile waits for nothing.
        let Ok(shelved) = services.shelved_waiting(run).await else { continue };
        for (tag, queue) in &shelved.waiting.for_tags {
            found.queues.entry(tag.clone()).or_default().merge(queue);
        }
        found.runs.insert(run.to_owned(), shelved);
    }
    Ok(found)
}

impl Services {
    pub(super) async fn shelved(&self, run: &str) -> Result<Arc<Shelved>, Problem> {
        self.find(run, false).await
    }

    /// The same with why its lanes wait.
    pub(super) async fn shelved_waiting(&self, run: &str) -> Result<Arc<Shelved>, Problem> {
        self.find(run, true).await
    }

    async fn find(&self, run: &str, is_asked: bool) -> Result<Arc<Shelved>, Problem> {
        self.check_may_read_all().await?;
        let client = self.store().await?;
        self.inner.shelf.find(client, run, is_asked).await
    }
}
