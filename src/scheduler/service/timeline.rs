//! A run over time: slots as a picture, and what happened in order.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, InPath, Part};
use super::views::Cut;
use crate::scheduler::view::{Attempt, Gap, RunBook, slots, story};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Attempts in one picture.
const ATTEMPTS_MAX: usize = 20_000;
/// Cases that a picture names.
const CASES_MAX: usize = 1_000;

/// Which time is wanted, in milliseconds since 1970.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Window {
    from: Option<u64>,
    to: Option<u64>,
    /// At most so many attempts.
    limit: Option<usize>,
}

/// Attempts that are shown, in the order of their starts, and how many are not: begun before, and behind.
struct Shown<'b> {
    attempts: Vec<&'b Attempt>,
    before: usize,
    after: usize,
}

impl Window {
    fn limit(&self) -> Result<usize, Problem> {
        if self.from.zip(self.to).is_some_and(|(from, to)| from > to) {
            return Err(Problem::new(400, "from is later than to"));
        }
        match self.limit.unwrap_or(ATTEMPTS_MAX) {
            limit @ 1..=ATTEMPTS_MAX => Ok(limit),
            _ => Err(Problem::new(400, format!("limit is not between 1 and {ATTEMPTS_MAX}"))),
        }
    }

    /// Of too many, the last ones; but the first from a time on, where no end is named.
    fn cut<'b>(&self, book: &'b RunBook, limit: usize) -> Shown<'b> {
        let (from, to) = (self.from.unwrap_or(0), self.to.unwrap_or(u64::MAX));
        let mut all: Vec<&Attempt> = book.attempts.iter().collect();
        all.sort_by_key(|attempt| attempt.row.start);
        let end = |attempt: &Attempt| attempt.row.start + attempt.row.duration.div_ceil(1_000);
        let last = all.partition_point(|attempt| attempt.row.start < to);
        let is_here = |place: &usize| end(all[*place]) >= from;
        let mut places: Vec<usize> = (0..last).filter(is_here).collect();
        if self.to.is_none() && self.from.is_some() {
            places.truncate(limit);
        } else {
            places.drain(..places.len().saturating_sub(limit));
        }
        let until = places.last().map_or(last, |place| place + 1);
        let (before, after) = (until - places.len(), all.len() - until);
        Shown { attempts: places.into_iter().map(|place| all[place]).collect(), before, after }
    }
}

/// Attempts as stretches of time: worker, lane, ordinal, attempt, status, start, duration. Where there are too many
/// for a picture it says how many are not shown. What runs has no end: worker, lane, ordinal, attempt, since.
/// `widths` are of lanes whose tasks take more than one slot; `gone` are workers that took part and are no more.
pub(super) async fn timeline(
    services: Services,
    InPath(run): InPath<String>,
    Asked(window): Asked<Window>,
) -> Result<Response, Problem> {
    let limit = window.limit()?;
    let found = services.shelved(&run).await?;
    let drawing = tokio::task::spawn_blocking(move || {
        draw(&found.book, &found.gaps, &window.cut(&found.book, limit))
    });
    Ok(ok(&drawing.await.map_err(|_| Problem::new(500, "reading the run was cut off"))?))
}

fn draw(book: &RunBook, gaps: &[Gap], shown: &Shown<'_>) -> Value {
    let mut workers: BTreeMap<&str, usize> = BTreeMap::new();
    // All that took part, so that each has its place in every part of the picture; and those that had nothing of it.
    let of_workers = slots(book);
    let names = book.attempts.iter().map(|attempt| &*attempt.worker);
    for worker in names.chain(of_workers.keys().copied()) {
        let next = workers.len();
        workers.entry(worker).or_insert(next);
    }
    let show = |attempt: &&Attempt| {
        let row = &attempt.row;
        let worker = workers.get(&*attempt.worker);
        json!([worker, row.lane, row.ordinal, row.attempt, row.status, row.start, row.duration])
    };
    let rows: Vec<Value> = shown.attempts.iter().map(show).collect();
    let from = match shown.before {
        0 => 0,
        _ => shown.attempts.first().map_or(0, |first| first.row.start),
    };
    let to = match shown.after {
        0 => u64::MAX,
        _ => shown.attempts.last().map_or(u64::MAX, |last| last.row.start),
    };
    let gap = |gap: &Gap| {
        let (start, end) = ((gap.from / 1_000).max(from), gap.to.div_ceil(1_000).min(to));
        (start < end).then(|| json!([start, end, gap.cause]))
    };
    let idle: Vec<Value> = gaps.iter().filter_map(gap).take(ATTEMPTS_MAX).collect();
    let running = book.running_tasks().filter(|_| shown.after == 0);
    let running: Vec<Value> = running
        .map(|(lane, ordinal, worker, since)| {
            let attempt = book.attempts_of(lane, ordinal).count() + 1;
            json!([workers.get(worker), lane, ordinal, attempt, since])
        })
        .collect();
    let mut names: Vec<(&str, usize)> = workers.iter().map(|(name, at)| (*name, *at)).collect();
    names.sort_by_key(|(_, at)| *at);
    let is_gone = |name: &str| book.is_open && book.is_gone(name);
    let gone: Vec<usize> =
        names.iter().filter(|(name, _)| is_gone(name)).map(|(_, at)| *at).collect();
    let names: Vec<&str> = names.into_iter().map(|(name, _)| name).collect();
    let slots: Vec<Option<&u64>> = names.iter().map(|name| of_workers.get(name)).collect();
    let named = || book.plan.lanes.iter().take(CASES_MAX);
    let lanes: Vec<_> = named().map(|lane| &*lane.case).collect();
    let places: Vec<_> = named().map(|lane| &*lane.environment).collect();
    let wide = (0..).zip(&book.plan.lanes).filter(|(_, lane)| lane.slots > 1);
    let widths: BTreeMap<u32, u32> =
        wide.take(CASES_MAX).map(|(at, lane)| (at, lane.slots)).collect();
    json!({
        "workers": names, "slots": slots, "gone": gone, "cases": lanes, "environments": places, "widths": widths, "rows": rows,
        "running": running, "gaps": idle, "before": shown.before, "after": shown.after,
        "left_out": shown.before + shown.after, "revision": book.revision,
    })
}

/// What happened, in order.
pub(super) async fn replay(
    services: Services,
    InPath(run): InPath<String>,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let cut = Cut::new(&part)?;
    let found = services.shelved(&run).await?;
    let telling = tokio::task::spawn_blocking(move || {
        let told = story(&found.book);
        let mut page = cut.page(&told, found.book.revision);
        page["steps"] = told.len().into();
        page
    });
    Ok(ok(&telling.await.map_err(|_| Problem::new(500, "telling the run was cut off"))?))
}
