//! What stands for one worker that speaks HTTP: it hands tasks over, and waits for what is said of them.

use super::remote::{Talents, Verdict};
use crate::scheduler::clock::Clock;
use crate::scheduler::coordinator::Rest;
use crate::scheduler::execute::{Attempt, Caller, Cancel, Outcome, Runner};
use crate::scheduler::model::Status;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// A client that has not asked for so long is gone, and a service that nobody has reached.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Before a service that is full is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(200);
/// One that is full for so long gets nothing for a while.
const FULL_MAX: Duration = Duration::from_secs(2);
/// A service that could not be reached, or was full for long, gets nothing for so long at least.
pub(super) const REST: Duration = Duration::from_secs(5);
/// A task that no client has taken for so long may go to others.
const UNTAKEN_MAX: Duration = Duration::from_secs(10);
/// So long after it was given a task a client may not know of it.
pub(super) const UNKNOWN_MAX: Duration = Duration::from_secs(5);
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
    /// It takes nothing for a while.
    pub(super) rests: watch::Sender<Option<Rest>>,
    /// It takes nothing more, and goes when it has nothing left.
    pub(super) leaving: watch::Sender<bool>,
}

#[derive(Default)]
pub(super) struct Desk {
    /// Orders that nobody has taken yet, and who is told when somebody does.
    orders: VecDeque<(Value, oneshot::Sender<()>)>,
    /// Who waits for a verdict, by record.
    pub(super) waiting: BTreeMap<String, oneshot::Sender<Said>>,
    /// Since when a client has records.
    taken: BTreeMap<String, Instant>,
    /// Records that shall end; whether a client that asks has been told.
    pub(super) canceled: BTreeMap<String, bool>,
    pub(super) seen: Option<Instant>,
    asking: u32,
}

/// What is said of a task.
pub(super) enum Said {
    Verdict(Verdict),
    /// Its client has it no more.
    Lost,
}

/// How the end of a task is recorded.
type End = (Status, Option<Value>);

/// Forgets a task when its attempt is over, however that came.
struct Expected<'s> {
    station: &'s Station,
    record: String,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut desk = self.station.inner.lock();
        desk.waiting.remove(&self.record);
        desk.taken.remove(&self.record);
        desk.canceled.remove(&self.record);
        desk.orders.retain(|(order, _)| order["recordId"] != self.record);
    }
}

impl Runner for Station {
    fn run<'a>(
        &'a self,
        attempt: Attempt<'a>,
        cancel: Cancel,
    ) -> Pin<Box<dyn Future<Output = Option<Outcome>> + Send + 'a>> {
        Box::pin(async move {
            let start = Instant::now();
            let (status, detail) = self.try_out(&attempt, cancel).await?;
            Some(Outcome { status, duration: start.elapsed(), detail })
        })
    }

    fn rests(&self) -> watch::Receiver<Option<Rest>> {
        self.rests.subscribe()
    }
}

fn failed(message: String) -> End {
    (Status::Error, Some(json!({ "message": message })))
}

fn timed_out(attempt: &Attempt<'_>) -> End {
    let message = format!("no verdict within {} ms", attempt.case.timeout_ms);
    (Status::TimedOut, Some(json!({ "message": message })))
}

fn end_of(said: Result<Said, oneshot::error::RecvError>) -> End {
    match said {
        Ok(Said::Verdict(verdict)) => (verdict.status().unwrap_or(Status::Error), verdict.detail()),
        Ok(Said::Lost) => {
            (Status::Lost, Some(json!({"message": "its client says that it has it no more"})))
        }
        Err(_) => failed("nobody will say".to_owned()),
    }
}

impl Station {
    /// None if nobody has taken the task.
    async fn try_out(&self, attempt: &Attempt<'_>, mut cancel: Cancel) -> Option<End> {
        let Attempt { run, lane, ordinal, .. } = attempt;
        if self.rests.borrow().is_some() {
            // It was given before its leader knew.
            return None;
        }
        let record = format!("{run}-{lane}-{ordinal}-{}-{}", attempt.attempt, attempt.fence);
        let mut order = match attempt.order(&record) {
            Ok(order) => order,
            Err(message) => return Some(failed(message)),
        };
        order["callback"] = format!("{}/v1/claims/results", self.own_url).into();
        let (sender, mut said) = oneshot::channel();
        self.inner.lock().waiting.insert(record.clone(), sender);
        let _expected = Expected { station: self, record: record.clone() };
        let timeout = Duration::from_millis(attempt.case.timeout_ms);
        let is_offered = AtomicBool::new(false);
        let pushed = tokio::select! {
            // A service may say how it went before it says that it has taken the task.
            biased;
            said = &mut said => return Some(end_of(said)),
            pushed = self.hand_over(order, timeout, &is_offered) => pushed,
            () = &mut cancel => {
                let end = (Status::Canceled, None);
                return Some(match is_offered.load(Ordering::Relaxed) {
                    true => self.give_up(&record, said, end).await,
                    false => end,
                });
            }
        };
        let taken = match pushed {
            Pushed::Taken(since) => since,
            Pushed::Refused(message) => return Some(failed(message)),
            Pushed::Unanswered => {
                return Some(self.give_up(&record, said, timed_out(attempt)).await);
            }
            Pushed::NotNow(why) => {
                self.rest(why);
                return None;
            }
        };
        let end = tokio::select! {
            said = &mut said => return Some(end_of(said)),
            () = cancel => (Status::Canceled, None),
            () = sleep_until(taken + timeout) => timed_out(attempt),
        };
        Some(self.give_up(&record, said, end).await)
    }

    /// Takes a task back, unless nobody has it yet.
    async fn give_up(&self, record: &str, said: oneshot::Receiver<Said>, end: End) -> End {
        let is_untaken =
            self.inner.lock().orders.iter().any(|(order, _)| order["recordId"] == record);
        if !is_untaken {
            self.take_back(record, said).await;
        }
        end
    }

    /// Done when it is known whether somebody has the task; meanwhile `is_offered` tells whether somebody
    /// may have it.
    async fn hand_over(&self, order: Value, patience: Duration, is_offered: &AtomicBool) -> Pushed {
        match &self.way {
            Way::Push { url, caller } => push(caller, url, &order, patience, is_offered).await,
            Way::Pull => {
                is_offered.store(true, Ordering::Relaxed);
                let (tell, taken) = oneshot::channel();
                self.inner.lock().orders.push_back((order, tell));
                self.news.notify_one();
                match timeout(UNTAKEN_MAX, taken).await {
                    Ok(Ok(())) => Pushed::Taken(Instant::now()),
                    _ => Pushed::NotNow("nobody asks".into()),
                }
            }
        }
    }

    /// A service gets nothing for a while.
    pub(super) fn rest(&self, why: String) {
        let Way::Push { url, .. } = &self.way else { return };
        let is_new = self.rests.borrow().is_none();
        if is_new {
            tracing::warn!(url, why, "a service takes no tasks now: it gets none for a while");
            self.inner.lock().seen = Some(Instant::now());
        }
        let until = Clock::new().at(Instant::now() + REST);
        self.rests.send_replace(Some(Rest { why, until }));
    }

    /// Whether it rests, and has done so for long enough to look again.
    pub(super) fn has_rested(&self) -> bool {
        self.rests.borrow().as_ref().is_some_and(|rest| rest.until <= Clock::new().now())
    }

    /// Tells whoever has a task that it shall end, and waits until he says something or the grace is
    /// over.
    async fn take_back(&self, record: &str, said: oneshot::Receiver<Said>) {
        self.inner.lock().canceled.insert(record.to_owned(), false);
        let tell = async {
            match &self.way {
                Way::Push { url, caller } => {
                    let url = format!("{}/cancel", url.trim_end_matches('/'));
                    if let Err(error) = caller.post(&url, &json!({ "recordId": record })).await {
                        tracing::debug!(
                            error = error.text,
                            "cannot tell a service that a task is canceled"
                        );
                    }
                }
                Way::Pull => self.news.notify_one(),
            }
            // One that knows nothing of this ends its task all the same.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = tell => {}
            _ = said => {}
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
                let orders: Vec<_> = desk.orders.drain(..count).collect();
                let taken: Vec<Value> = orders
                    .into_iter()
                    // Nobody listens if it was given back meanwhile.
                    .filter_map(|(order, tell)| tell.send(()).is_ok().then_some(order))
                    .collect();
                let records = taken.iter().filter_map(|order| order["recordId"].as_str());
                let records: Vec<String> = records.map(str::to_owned).collect();
                desk.taken.extend(records.into_iter().map(|record| (record, Instant::now())));
                (taken, desk.canceled.values().any(|is_told| !is_told))
            };
            let is_done = !taken.is_empty() || has_news;
            if is_done || timeout_at(until, self.news.notified()).await.is_err() {
                return Given { tasks: taken, canceled: self.canceled() };
            }
        }
    }

    /// A client tells all that it has: what it was given and has no more is lost. What it was given just
    /// now it may not know of yet.
    pub(super) fn has_only(&self, records: &[String]) {
        let mut desk = self.inner.lock();
        let is_lost = |(record, since): &(&String, &Instant)| {
            since.elapsed() > UNKNOWN_MAX && !records.contains(record)
        };
        let lost = desk.taken.iter().filter(is_lost).map(|(record, _)| record.clone());
        for record in lost.collect::<Vec<_>>() {
            if let Some(waiting) = desk.waiting.remove(&record) {
                // Its time may be over.
                let _ended = waiting.send(Said::Lost);
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

/// What a service does with an order.
enum Pushed {
    /// Its time runs since then.
    Taken(Instant),
    /// It says that it will not do it, or broke off.
    Refused(String),
    /// It does not say whether it has the task.
    Unanswered,
    /// It cannot be reached, or has been full for long, or does not ask.
    NotNow(String),
}

/// Hands an order over. A service that is full is asked again for a while.
async fn push(
    caller: &Caller,
    url: &str,
    order: &Value,
    patience: Duration,
    is_offered: &AtomicBool,
) -> Pushed {
    let url = format!("{}/submit", url.trim_end_matches('/'));
    let begun = Instant::now();
    loop {
        is_offered.store(true, Ordering::Relaxed);
        let sent = Instant::now();
        let Ok(answer) = timeout(patience, caller.post(&url, order)).await else {
            return Pushed::Unanswered;
        };
        match answer {
            Ok((200..=299, _)) => return Pushed::Taken(sent),
            Ok((429 | 503, _)) if begun.elapsed() < FULL_MAX => {
                is_offered.store(false, Ordering::Relaxed);
                sleep(FULL_PAUSE).await;
            }
            Ok((status @ (429 | 503), _)) => return Pushed::NotNow(format!("it answers {status}")),
            Ok((status, text)) => {
                let text: String = text.chars().take(500).collect();
                return Pushed::Refused(format!("{url} answered {status}: {text}"));
            }
            Err(error) if error.is_unsent => return Pushed::NotNow(error.text),
            // It may have the task: that is an attempt.
            Err(error) => return Pushed::Refused(error.text),
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
