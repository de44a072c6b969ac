//! A run's report in the forms that others read: JUnit, JSON, and one HTML file. Each is made of one
//! view of the run, so all its numbers are of one revision.

mod html;
mod timeline;

pub use html::html;

use crate::scheduler::junit::{self, Reason};
use crate::scheduler::model::{Row, Status};
use crate::scheduler::view::{Filter, RunBook, RunSummary, numbers};
use serde_json::{Value, json};

/// Tasks that an HTML report and a JSON report list one by one.
const TASKS_MAX: usize = 2_000;

/// What a detail says, by name: message, output, stderr.
pub fn sayings(detail: Option<&Value>) -> Vec<(&'static str, &str)> {
    let of = |name| Some((name, detail?.get(name)?.as_str()?));
    ["message", "output", "stderr"].into_iter().filter_map(of).collect()
}

fn said<'d>(row: &'d Row, name: &str) -> &'d str {
    let found = sayings(row.detail.as_ref()).into_iter().find(|(of, _)| *of == name);
    found.map_or("", |(_, text)| text)
}

/// As one JSON document: how the run ended, its numbers, lanes, and tasks that did not just pass.
pub fn json(book: &RunBook) -> String {
    let mut status = book.status.clone();
    status.totals = book.totals();
    status.state = book.state().to_owned();
    let summary = RunSummary::new(&book.spec, &status);
    let failures = book.tasks(&Filter::failures(), (0, 0), TASKS_MAX);
    let flaky = Filter { flaky: true, ..Default::default() };
    let flaky = book.tasks(&flaky, (0, 0), TASKS_MAX);
    let report = json!({
        "run": summary, "revision": book.revision, "numbers": numbers(book), "lanes": book.lanes(),
        "failures": failures.tasks, "failures_complete": failures.next.is_none(),
        "flaky": flaky.tasks,
    });
    // Maps with other keys than strings are all that JSON cannot hold.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}

/// As a JUnit report: a suite for each lane, a test for each task.
pub fn junit(book: &RunBook) -> junit::Report {
    let name = match book.spec.name.as_str() {
        "" => book.spec.id.clone(),
        name => name.to_owned(),
    };
    let mut report = junit::Report { name, suites: Vec::new() };
    let lanes = book.plan.lanes.iter().zip(0..).filter(|(plan, _)| plan.total > 0);
    for (plan, lane) in lanes {
        let mut suite = junit::Suite {
            name: match &*plan.environment {
                "" => plan.case.to_string(),
                environment => format!("{} in {environment}", plan.case),
            },
            timestamp: book.spec.gmt_create.clone(),
            properties: vec![
                ("run".into(), book.spec.id.clone()),
                ("revision".into(), book.revision.to_string()),
            ],
            ..Default::default()
        };
        for ordinal in 0..plan.total {
            suite.cases.push(test(book, lane, ordinal));
        }
        report.suites.push(suite);
    }
    report
}

fn test(book: &RunBook, lane: u32, ordinal: u32) -> junit::Case {
    let plan = &book.plan.lanes[lane as usize];
    let attempts: Vec<_> = book.attempts_of(lane, ordinal).collect();
    let task = book.find_task(lane, ordinal);
    let status = task.as_ref().map_or(Status::Pending, |task| task.status);
    let name = match plan.total {
        1 => plan.case.to_string(),
        _ => format!("{}#{ordinal}", plan.case),
    };
    let own = (junit::CASE_PROPERTY.to_owned(), plan.case.to_string());
    let (class, properties) = (plan.case.to_string(), vec![own]);
    let mut case = junit::Case { name, class, status, properties, ..Default::default() };
    let reason = |row: &Row| Reason {
        message: said(row, "message").to_owned(),
        kind: row.status.word().to_owned(),
        text: said(row, "stderr").to_owned(),
    };
    let Some((last, earlier)) = attempts.split_last() else {
        let reason = task.and_then(|task| task.reason);
        case.reason.message = reason.unwrap_or_else(|| "it never started".into());
        return case;
    };
    case.time_us = Some(last.row.duration);
    if status != Status::Passed {
        case.reason = reason(&last.row);
    }
    if let Some(reason) = task.and_then(|task| task.reason) {
        case.reason.message = reason;
    }
    if plan.is_muted && status.fails_run() {
        // It fails no run, and no reader of the report.
        case.status = Status::Skipped;
        case.reason.message = format!("muted, {}: {}", status.word(), case.reason.message);
    }
    case.earlier = earlier.iter().map(|attempt| reason(&attempt.row)).collect();
    case.output = said(&last.row, "output").to_owned();
    case.stderr = said(&last.row, "stderr").to_owned();
    case.properties.push(("worker".into(), last.worker.to_string()));
    case
}
