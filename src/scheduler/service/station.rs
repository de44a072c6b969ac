//! What stands for one worker that speaks HTTP: it hands tasks over, and waits for what is said of them.

use super::remote::{Talents, Verdict};
use crate::scheduler::execute::{Attempt, Caller, Cancel, Outcome, Runner};
use crate::scheduler::model::Status;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// A client that has not asked for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Before a service that is full is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// How long somebody who was told that a task is canceled may take to end it.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// How a station's tasks reach whom it stands for.
pub(super) enum Way {
    Push { url: String, caller: Arc<Caller> },
    Pull,
}

/// What stands for one worker.
pub(super) struct Station {
    pub(super) way: Way,
    pub(super) own_url: String,
    pub(super) talents: Talents,
    pub(super) inner: Mutex<Desk>,
    /// There is something to take.
    pub(super) news: Notify,
}

#[derive(Default)]
pub(super) struct Desk {
    /// Orders that nobody has taken yet.
    orders: VecDeque<Value>,
    /// Who waits for a verdict, by record.
    pub(super) waiting: BTreeMap<String, oneshot::Sender<Verdict>>,
    /// Records that shall end; whether a client that asks has been told.
    pub(super) canceled: BTreeMap<String, bool>,
    pub(super) seen: Option<Instant>,
    asking: u32,
}

/// Forgets a task when its attempt is over, however that came.
struct Expected<'s> {
    station: &'s Station,
    record: String,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut desk = self.station.inner.lock();
        desk.waiting.remove(&self.record);
        desk.canceled.remove(&self.record);
        desk.orders.retain(|order| order["recordId"] != self.record);
    }
}

impl Runner for Station {
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Outcome> + Send + 'a>> {
        Box::pin(async move {
            let start = Instant::now();
            let (status, detail) = self.try_out(&attempt, cancel).await;
            Outcome { status, duration: start.elapsed(), detail }
        })
    }
}

impl Station {
    async fn try_out(&self, attempt: &Attempt<'_>, cancel: Cancel) -> (Status, Option<Value>) {
        let Attempt { run, lane, ordinal, .. } = attempt;
        let record = format!("{run}-{lane}-{ordinal}-{}-{}", attempt.attempt, attempt.fence);
        let failed = |message: String| (Status::Error, Some(json!({ "message": message })));
        let mut order = match attempt.order(&record) {
            Ok(order) => order,
            Err(message) => return failed(message),
        };
        order["callback"] = format!("{}/v1/claims/results", self.own_url).into();
        let (sender, mut verdict) = oneshot::channel();
        self.inner.lock().waiting.insert(record.clone(), sender);
        let _expected = Expected { station: self, record: record.clone() };
        let work = async {
            match &self.way {
                Way::Push { url, caller } => tokio::select! {
                    // A service may say how it went before it says that it has taken the task.
                    biased;
                    said = &mut verdict => return said.map_err(|_| "nobody will say".to_owned()),
                    pushed = push(caller, url, &order) => pushed?,
                },
                Way::Pull => {
                    self.inner.lock().orders.push_back(order);
                    self.news.notify_one();
                }
            }
            (&mut verdict).await.map_err(|_| "nobody will say".to_owned())
        };
        let (status, detail) = tokio::select! {
            found = work => return match found {
                Ok(verdict) => {
                    (verdict.status().unwrap_or(Status::Error), verdict.detail())
                }
                Err(message) => failed(message),
            },
            () = cancel => (Status::Canceled, None),
            () = sleep_until(attempt.deadline) => {
                let message = format!("no verdict within {} ms", attempt.case.timeout_ms);
                (Status::TimedOut, Some(json!({ "message": message })))
            }
        };
        self.take_back(&record, verdict).await;
        (status, detail)
    }

    /// Tells whoever has a task that it shall end, and waits until he says something or the grace is
    /// over.
    async fn take_back(&self, record: &str, verdict: oneshot::Receiver<Verdict>) {
        {
            let mut desk = self.inner.lock();
            if desk.orders.iter().any(|order| order["recordId"] == record) {
                return;
            }
            desk.canceled.insert(record.to_owned(), false);
        }
        let tell = async {
            match &self.way {
                Way::Push { url, caller } => {
                    let url = format!("{}/cancel", url.trim_end_matches('/'));
                    if let Err(error) = caller.post(&url, &json!({ "recordId": record })).await {
                        tracing::debug!(error, "cannot tell a service that a task is canceled");
                    }
                }
                Way::Pull => self.news.notify_one(),
            }
            // One that knows nothing of this ends its task all the same.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = tell => {}
            _ = verdict => {}
            () = sleep(CANCEL_GRACE) => {}
        }
    }

    pub(super) fn is_silent(&self) -> bool {
        let desk = self.inner.lock();
        desk.asking == 0 && desk.seen.is_some_and(|seen| seen.elapsed() > SILENCE_MAX)
    }

    /// Takes orders, at most so many; waits until a time for the first, or for the news that a task is
    /// canceled.
    pub(super) async fn take(&self, want: usize, until: Instant) -> Given {
        loop {
            let (taken, has_news) = {
                let mut desk = self.inner.lock();
                let count = want.min(desk.orders.len());
                let taken: Vec<Value> = desk.orders.drain(..count).collect();
                (taken, desk.canceled.values().any(|is_told| !is_told))
            };
            let is_done = !taken.is_empty() || has_news;
            if is_done || timeout_at(until, self.news.notified()).await.is_err() {
                return Given { tasks: taken, canceled: self.canceled() };
            }
        }
    }

    /// Records that shall end, to be told to the client that has them.
    pub(super) fn canceled(&self) -> Vec<String> {
        let mut desk = self.inner.lock();
        desk.canceled.values_mut().for_each(|is_told| *is_told = true);
        desk.canceled.keys().cloned().collect()
    }
}

/// What a client that asks is given.
#[derive(Debug, Default, Serialize)]
pub(super) struct Given {
    tasks: Vec<Value>,
    /// Records that it has and shall end.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    canceled: Vec<String>,
}

impl Given {
    pub(super) fn is_nothing(&self) -> bool {
        self.tasks.is_empty() && self.canceled.is_empty()
    }
}

/// What is to be known of records that a client has.
#[derive(Debug, Default, Serialize)]
pub(super) struct Renewed {
    /// They shall end, and their end be told.
    pub(super) canceled: Vec<String>,
    /// They have ended or were given to others: nobody waits for a verdict.
    pub(super) gone: Vec<String>,
}

/// Hands an order over. A service that is full is asked again.
async fn push(caller: &Caller, url: &str, order: &Value) -> Result<(), String> {
    let url = format!("{}/submit", url.trim_end_matches('/'));
    loop {
        match caller.post(&url, order).await? {
            (200..=299, _) => return Ok(()),
            (429 | 503, _) => sleep(FULL_PAUSE).await,
            (status, text) => {
                let text: String = text.chars().take(500).collect();
                return Err(format!("{url} answered {status}: {text}"));
            }
        }
    }
}

/// Marks that a client waits for tasks.
pub(super) struct Asking<'s> {
    station: &'s Station,
}

impl<'s> Asking<'s> {
    pub(super) fn new(station: &'s Station) -> Self {
        station.inner.lock().asking += 1;
        Self { station }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut desk = self.station.inner.lock();
        desk.asking -= 1;
        desk.seen = Some(Instant::now());
    }
}
