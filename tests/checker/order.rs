//! Real time: what started after something ended has a place after it.

use super::{History, Operation, Request, Rule, Violation};

/// A place in the order of all operations: writes at even numbers, and what saw a revision at
/// the odd number after it.
fn place(operation: &Operation) -> Option<i64> {
    let response = operation.answer()?;
    let revision = operation.revision()?;
    Some(2 * revision + i64::from(!response.has_changed()))
}

/// Whether the answer must show all that ended before it was asked for.
///
/// Serializable reads may be late, and a renewal's header is taken before the renewal.
fn is_linearizable(request: &Request) -> bool {
    match request {
        Request::Range(request) => !request.serializable,
        Request::Txn(request) => {
            use quoin::pb::etcdserverpb::request_op::Request as Op;
            let mut ops = request.success.iter().chain(&request.failure);
            !ops.all(|op| matches!(&op.request, Some(Op::RequestRange(r)) if r.serializable))
        }
        Request::LeaseKeepAlive(_) => false,
        _ => true,
    }
}

pub fn check(history: &History) -> Vec<Violation> {
    let placed: Vec<(i64, &Operation)> = history
        .operations
        .iter()
        .filter_map(|operation| Some((place(operation)?, operation)))
        .collect();
    let mut ends = placed.clone();
    ends.sort_by_key(|(_, operation)| operation.returned);
    let mut starts = placed;
    starts.sort_by_key(|(_, operation)| operation.invoked);

    let mut violations = vec![];
    let mut ended = ends.into_iter().peekable();
    let mut latest: Option<(i64, &Operation)> = None;
    for (place, operation) in starts {
        while let Some(next) = ended.next_if(|(_, other)| other.returned < operation.invoked) {
            if latest.is_none_or(|(highest, _)| next.0 > highest) {
                latest = Some(next);
            }
        }
        if let Some((highest, earlier)) = latest
            && highest > place
            && is_linearizable(&operation.request)
        {
            let what = format!("{operation:?} started after the end of {earlier:?}");
            violations.push(Violation::new(Rule::RealTime, what));
        }
    }
    violations
}
