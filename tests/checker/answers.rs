//! Each answer against the model, each error against the requests around it.

use super::{History, Operation, Outcome, Request, Response, Rule, Store, Violation};
use quoin::pb::etcdserverpb::RangeRequest;
use std::collections::BTreeMap;

pub fn check(history: &History, store: &Store) -> Vec<Violation> {
    let mut violations = vec![];
    let mut made: BTreeMap<i64, &Operation> = BTreeMap::new();
    for operation in &history.operations {
        let found = match &operation.outcome {
            Outcome::Answer(response) => answer(history, store, operation, response),
            Outcome::Refused(_, text) => refusal(history, operation, text),
            Outcome::Unknown => Ok(()),
        };
        violations.extend(found.err());
        let revision = operation.revision().unwrap_or(0);
        if operation.answer().is_some_and(Response::has_changed)
            && let Some(other) = made.insert(revision, operation)
        {
            let what = format!("revision {revision} was given to {other:?} and to {operation:?}");
            violations.push(Violation::new(Rule::WriteLost, what));
        }
    }
    violations
}

fn answer(
    history: &History,
    store: &Store,
    operation: &Operation,
    response: &Response,
) -> Result<(), Violation> {
    let revision = operation.revision().unwrap_or(0);
    let changed = response.has_changed();
    if revision > store.revision() || revision < super::store::EMPTY {
        let rule = if changed { Rule::WriteLost } else { Rule::Answer };
        let what = format!("no revision {revision} among the commits: {operation:?}");
        return Err(Violation::new(rule, what));
    }
    let before = revision - i64::from(changed);
    let Some(expected) = store.apply(&operation.request, before) else { return Ok(()) };
    if changed && store.events(revision) != Some(&expected.events[..]) {
        let events = store.events(revision);
        let what = format!("revision {revision} holds {events:?}, not the effect of {operation:?}");
        return Err(Violation::new(Rule::WriteLost, what));
    }
    if response.without_member() != expected.response {
        let what = format!("expected {:?} for {operation:?}", expected.response);
        return Err(Violation::new(Rule::Answer, what));
    }
    match &operation.request {
        Request::Range(request) => readable(history, operation, request),
        _ => Ok(()),
    }
}

/// A past revision may be read until a compaction above it has been answered.
fn readable(
    history: &History,
    operation: &Operation,
    request: &RangeRequest,
) -> Result<(), Violation> {
    if request.revision <= 0 || request.serializable {
        return Ok(());
    }
    let compacted = compactions(history).find(|(at, by)| {
        let done = by.answer().is_some() && by.returned < operation.invoked;
        request.revision < *at && done
    });
    match compacted {
        Some((at, _)) => {
            let what = format!("{operation:?} was answered after the compaction of {at}");
            Err(Violation::new(Rule::Answer, what))
        }
        None => Ok(()),
    }
}

fn compactions(history: &History) -> impl Iterator<Item = (i64, &Operation)> {
    history.operations.iter().filter_map(|operation| match &operation.request {
        Request::Compact(request) => Some((request.revision, operation)),
        _ => None,
    })
}

/// Errors about revisions say something about the store, and so can be wrong.
fn refusal(history: &History, operation: &Operation, text: &str) -> Result<(), Violation> {
    let (asked, below) = match &operation.request {
        Request::Range(request) => (request.revision, 0),
        // A compaction of the compacted revision itself is refused too.
        Request::Compact(request) => (request.revision, 1),
        _ => return Ok(()),
    };
    let wrong = |why: &str| Err(Violation::new(Rule::Refusal, format!("{why}: {operation:?}")));
    if text.contains("has been compacted") {
        let possible = compactions(history).any(|(at, by)| {
            let may_have_happened =
                !matches!(by.outcome, Outcome::Refused(..)) && by.invoked < operation.returned;
            asked < at + below && may_have_happened
        });
        return if possible { Ok(()) } else { wrong("nobody compacted above it") };
    }
    let may_be_late = matches!(&operation.request, Request::Range(r) if r.serializable);
    if text.contains("is a future revision") && !may_be_late {
        let reached = history.operations.iter().any(|other| {
            other.revision().is_some_and(|r| r >= asked) && other.returned < operation.invoked
        });
        return if reached { wrong("the revision had been reached") } else { Ok(()) };
    }
    Ok(())
}
