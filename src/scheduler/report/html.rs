//! The report as one HTML file: no script, nothing fetched, dark and light as the reader has it.

use super::{TASKS_MAX, sayings, timeline};
use crate::scheduler::analysis::group;
use crate::scheduler::model::Status;
use crate::scheduler::view::{Attempt, Filter, Numbers, RunBook, TaskView, numbers};
use std::fmt::Write as _;

/// Of one output in the report; the record has all of it.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;

const STYLE: &str = "\
:root{color-scheme:light dark;--pass:#2e8b57;--fail:#c0392b;--flaky:#d68910;--open:#8a8f98;--line:#8884}\
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}\
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2rem}\
.bar{display:flex;height:1.2rem;border-radius:.3rem;overflow:hidden;background:var(--line)}.bar i{display:block}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line)}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--line);padding:.6rem;border-radius:.3rem;max-height:24rem;overflow:auto}\
summary{cursor:pointer}.passed{color:var(--pass)}.failed{color:var(--fail)}.flaky{color:var(--flaky)}\
svg{width:100%;height:auto}.muted{opacity:.75}\
h1,summary,p{overflow-wrap:anywhere}@media(max-width:50rem){table{display:block;overflow-x:auto}}";

/// Makes the report.
pub fn html(book: &RunBook) -> String {
    let mut page = Page(String::with_capacity(64 * 1024));
    let name = if book.spec.name.is_empty() { &book.spec.id } else { &book.spec.name };
    let state = book.state();
    page.raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.raw("<meta name=\"viewport\" content=\"width=device-width\"><title>");
    page.text(&format!("{name}: {state}"));
    page.raw(&format!("</title><style>{STYLE}</style></head><body>\n<h1>"));
    page.text(name);
    let class = if state == "passed" { "passed" } else { "failed" };
    page.raw(&format!(" <span class=\"{class}\">"));
    page.text(state);
    page.raw("</span></h1>\n<p class=\"muted\">");
    page.text(&format!(
        "Run {}, submitted {}; as of revision {}",
        book.spec.id, book.spec.gmt_create, book.revision
    ));
    page.raw("</p>\n");
    totals(&mut page, book);
    measures(&mut page, &numbers(book));
    failures(&mut page, book);
    lanes(&mut page, book);
    timeline::draw(&mut page.0, book);
    page.raw("</body></html>\n");
    page.0
}

struct Page(String);

impl Page {
    fn raw(&mut self, html: &str) {
        self.0.push_str(html);
    }

    fn text(&mut self, text: &str) {
        escape(&mut self.0, text);
    }

    fn cell(&mut self, text: &str) {
        self.raw("<td>");
        self.text(text);
        self.raw("</td>");
    }

    fn number(&mut self, text: &str) {
        self.raw("<td class=\"n\">");
        self.text(text);
        self.raw("</td>");
    }
}

/// Text as it may stand between tags and in quoted attributes.
pub(super) fn escape(page: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '&' => page.push_str("&amp;"),
            '"' => page.push_str("&quot;"),
            '\n' | '\t' => page.push(c),
            c if c.is_control() => page.push('\u{fffd}'),
            c => page.push(c),
        }
    }
}

fn totals(page: &mut Page, book: &RunBook) {
    let totals = book.totals();
    let all = totals.total.max(1) as f64;
    let mut parts: Vec<(String, u64, &str)> = Vec::new();
    parts.push(("passed".into(), totals.get(Status::Passed), "--pass"));
    for status in [Status::Failed, Status::Error, Status::TimedOut, Status::Lost] {
        parts.push((status.word().into(), totals.get(status), "--fail"));
    }
    for status in [Status::Skipped, Status::Canceled] {
        parts.push((status.word().into(), totals.get(status), "--open"));
    }
    page.raw("<div class=\"bar\" role=\"img\" aria-label=\"tasks by outcome\">");
    for (_, count, color) in parts.iter().filter(|(_, count, _)| *count > 0) {
        let share = *count as f64 / all * 100.0;
        page.raw(&format!("<i style=\"width:{share:.3}%;background:var({color})\"></i>"));
    }
    page.raw("</div>\n<p>");
    let shown = parts.iter().filter(|(_, count, _)| *count > 0);
    let mut words: Vec<String> = shown.map(|(word, count, _)| format!("{count} {word}")).collect();
    if totals.flaky > 0 {
        words.push(format!("{} flaky", totals.flaky));
    }
    words.push(format!("{} of {} tasks ended", totals.ended(), totals.total));
    page.text(&words.join(", "));
    page.raw("</p>\n");
}

fn seconds(us: u64) -> String {
    format!("{:.3} s", us as f64 / 1_000_000.0)
}

fn measures(page: &mut Page, found: &Numbers) {
    page.raw("<h2>Measured</h2>\n<table>");
    let mut row = |name: &str, value: String| {
        page.raw("<tr>");
        page.cell(name);
        page.number(&value);
        page.raw("</tr>\n");
    };
    row("Slots", found.slots.to_string());
    row("Work", seconds(found.work));
    row("Bound: no order of tasks is shorter", seconds(found.bound));
    row("From submit to last end", seconds(found.makespan));
    if let Some(efficiency) = found.efficiency {
        row("Efficiency: bound over time taken", format!("{:.2} %", efficiency * 100.0));
    }
    if let Some(loss) = found.loss {
        let all = (found.slots * found.makespan).max(1) as f64;
        let share = |lost: u64| format!("{:.2} %", lost as f64 / all * 100.0);
        row("Slots idle until the first start", share(loss.start));
        row("... while all waited for predecessors", share(loss.predecessor));
        row("... while all waited for tags", share(loss.tag));
        row("... while environments or the queue were full", share(loss.limit));
        row("... while people had not given a verdict", share(loss.person));
        row("... from one task to the next", share(loss.hand_over));
        row("... with their worker gone, or lost with it", share(loss.gone));
        row("... while something else kept what could run", share(loss.other));
        row("... with nothing left to start", share(loss.tail));
        row("Slots busy with attempts in vain", share(loss.repeated));
    }
    if let Some(why) = found.loss_left_out {
        row("Slots lost", why.to_owned());
    }
    page.raw("</table>\n");
}

fn failures(page: &mut Page, book: &RunBook) {
    let found = book.tasks(&Filter::failures(), (0, 0), TASKS_MAX);
    if !found.tasks.is_empty() {
        page.raw("<h2>Failures</h2>\n");
        let message = |task: &TaskView| {
            let said = sayings(task.detail.as_ref());
            said.first().map(|(_, text)| (*text).to_owned()).unwrap_or_default()
        };
        let texts: Vec<(String, &TaskView)> =
            found.tasks.iter().map(|task| (message(task), task)).collect();
        let mut groups = group(texts.iter().map(|(text, task)| (text.as_str(), *task)));
        groups.sort_by_key(|(_, tasks)| std::cmp::Reverse(tasks.len()));
        for (_, tasks) in groups {
            failure_group(page, book, &tasks);
        }
        if found.next.is_some() {
            page.raw(&format!("<p>Only the first {TASKS_MAX} are listed.</p>\n"));
        }
    }
    let flaky = Filter { flaky: true, ..Default::default() };
    let found = book.tasks(&flaky, (0, 0), TASKS_MAX).tasks;
    if !found.is_empty() {
        page.raw("<h2>Flaky: passed after a failed attempt</h2>\n");
        for task in &found {
            one(page, book, task, "flaky");
        }
    }
}

/// Failures that say the same, the first open to read.
fn failure_group(page: &mut Page, book: &RunBook, tasks: &[&TaskView]) {
    if let [first, _, ..] = tasks {
        page.raw("<p>");
        let said = sayings(first.detail.as_ref());
        let line = said.first().and_then(|(_, text)| text.lines().next()).unwrap_or_default();
        page.text(&format!("{} that say alike: {line}", tasks.len()));
        page.raw("</p>\n");
    }
    for task in tasks {
        one(page, book, task, "failed");
    }
}

fn one(page: &mut Page, book: &RunBook, task: &TaskView, class: &str) {
    page.raw(&format!("<details><summary><span class=\"{class}\">"));
    page.text(&task.word());
    page.raw("</span> ");
    let place = if task.environment.is_empty() { "" } else { "@" };
    page.text(&format!("{}{place}{}#{}", task.case, task.environment, task.ordinal));
    if let Some(mute) = task.muted.as_ref().filter(|mute| !mute.reason.is_empty()) {
        page.text(&format!(" (muted: {})", mute.reason));
    }
    page.raw("</summary>\n");
    for attempt in book.attempts_of(task.lane, task.ordinal) {
        attempt_of(page, attempt);
    }
    page.raw("</details>\n");
}

fn attempt_of(page: &mut Page, attempt: &Attempt) {
    let row = &attempt.row;
    page.raw("<p>");
    let word = row.status.word();
    let took = attempt.start().map(|_| format!(" in {}", seconds(row.duration)));
    let took = took.unwrap_or_default();
    page.text(&format!("Attempt {} on {}: {word}{took}", row.attempt, attempt.worker));
    page.raw("</p>\n");
    for (name, text) in sayings(row.detail.as_ref()) {
        let end = (0..=OUTPUT_BYTES_MAX.min(text.len())).rev();
        let end = end.into_iter().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        page.raw("<pre>");
        page.text(&format!("{name}: {}", &text[..end]));
        if end < text.len() {
            page.text(&format!("\n... {} bytes more", text.len() - end));
        }
        page.raw("</pre>\n");
    }
}

fn lanes(page: &mut Page, book: &RunBook) {
    page.raw("<h2>Cases</h2>\n<table><tr><th>Case</th><th>Environment</th>");
    for title in ["Tasks", "Passed", "Failed", "Flaky", "Work", "Longest"] {
        page.raw(&format!("<th class=\"n\">{title}</th>"));
    }
    page.raw("</tr>\n");
    let lanes = book.lanes();
    for lane in lanes.iter().take(TASKS_MAX) {
        let failed = Status::ALL.into_iter().filter(|status| status.fails_run());
        let failed: u64 = failed.map(|status| lane.totals.get(status)).sum();
        page.raw("<tr>");
        page.cell(&lane.case);
        page.cell(&lane.environment);
        let passed = lane.totals.get(Status::Passed);
        for count in [lane.totals.total, passed, failed, lane.totals.flaky] {
            page.number(&count.to_string());
        }
        page.number(&seconds(lane.work));
        page.number(&seconds(lane.longest));
        page.raw("</tr>\n");
    }
    page.raw("</table>\n");
    let more = lanes.len().saturating_sub(TASKS_MAX);
    if more > 0 {
        // It cannot fail.
        let _infallible = writeln!(page.0, "<p>And {more} more.</p>");
    }
}
