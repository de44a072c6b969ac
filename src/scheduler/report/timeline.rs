//! Slots over time: one row for each slot of each worker, one box for each attempt, coloured by case.

use super::html::escape;
use crate::scheduler::model::Status;
use crate::scheduler::view::{Attempt, RunBook};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// More would make the file long and the picture unreadable.
const BOXES_MAX: usize = 5_000;
const ROWS_MAX: usize = 200;
const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 90.0;
const ROW: f64 = 12.0;

/// Appends the picture, if there is something to see and not too much.
pub(super) fn draw(page: &mut String, book: &RunBook) {
    let mut found: Vec<&Attempt> = book.attempts.iter().filter(|a| a.row.duration > 0).collect();
    found.sort_by_key(|attempt| attempt.row.start);
    let (Some(first), true) = (found.first(), found.len() <= BOXES_MAX) else { return };
    let begin = first.row.start;
    let end = |attempt: &Attempt| attempt.row.start + attempt.row.duration.div_ceil(1_000);
    let last = found.iter().map(|attempt| end(attempt)).max().unwrap_or(begin);
    let scale = (WIDTH - LEFT) / (last - begin).max(1) as f64;
    // By worker: when each of its slots is free again.
    let mut slots: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut placed = Vec::with_capacity(found.len());
    for attempt in &found {
        let of_worker = slots.entry(&attempt.worker).or_default();
        // A start is known to the millisecond only.
        let free = of_worker.iter().position(|until| *until <= attempt.row.start + 1);
        let slot = free.unwrap_or(of_worker.len());
        if slot == of_worker.len() {
            of_worker.push(0);
        }
        of_worker[slot] = end(attempt);
        placed.push((*attempt, slot));
    }
    let rows: usize = slots.values().map(Vec::len).sum();
    if rows > ROWS_MAX {
        return;
    }
    let mut first_row: BTreeMap<&str, usize> = BTreeMap::new();
    let mut next = 0;
    for (worker, of_worker) in &slots {
        first_row.insert(worker, next);
        next += of_worker.len();
    }
    let height = rows as f64 * ROW + 4.0;
    page.push_str("<h2>Slots over time</h2>\n");
    // Writing to a string cannot fail.
    let _infallible = write!(page, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">");
    for (worker, row) in &first_row {
        let y = *row as f64 * ROW + ROW - 2.0;
        let _infallible =
            write!(page, "<text x=\"0\" y=\"{y}\" font-size=\"10\" fill=\"currentColor\">");
        escape(page, worker);
        page.push_str("</text>");
    }
    for (attempt, slot) in placed {
        let x = LEFT + (attempt.row.start - begin) as f64 * scale;
        let width = (attempt.row.duration as f64 / 1_000.0 * scale).max(0.5);
        let y = (first_row[&*attempt.worker] + slot) as f64 * ROW + 1.0;
        // Neighbours in the list of cases are far apart on the wheel.
        let hue = attempt.row.lane * 137 % 360;
        let is_good = attempt.row.status == Status::Passed;
        let stroke = if is_good { "none" } else { "var(--fail)" };
        let _infallible = write!(
            page,
            "<rect x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\" fill=\"hsl({hue} 55% 55%)\" \
             stroke=\"{stroke}\"><title>",
            ROW - 2.0,
        );
        let plan = book.plan.lanes.get(attempt.row.lane as usize);
        let case = plan.map_or("", |plan| &plan.case);
        escape(page, &format!("{case}#{}: {}", attempt.row.ordinal, attempt.row.status.word()));
        page.push_str("</title></rect>");
    }
    page.push_str("</svg>\n");
}
