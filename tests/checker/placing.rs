//! Who made the commits that no answer claims: writes with unknown outcome, and leases.

use super::facts::Facts;
use super::{History, Operation, Outcome, Rule, Store, Violation, lease};

pub fn check(history: &History, facts: &Facts, store: &Store) -> Vec<Violation> {
    let open: Vec<i64> = history
        .commits
        .iter()
        .map(|commit| commit.revision)
        .filter(|revision| !facts.claimed.contains(revision))
        .filter(|&revision| !lease::explains(history, facts, store, revision))
        .collect();
    let unknown: Vec<&Operation> = history
        .operations
        .iter()
        .filter(|operation| operation.outcome == Outcome::Unknown)
        .collect();
    let fits: Vec<Vec<usize>> = open
        .iter()
        .map(|&revision| {
            let seen = facts.first_seen(revision);
            (0..unknown.len())
                .filter(|&at| unknown[at].invoked <= seen)
                .filter(|&at| makes(store, unknown[at], revision))
                .collect()
        })
        .collect();
    unmatched(&fits, unknown.len())
        .into_iter()
        .map(|at| {
            let events = store.events(open[at]);
            let what = format!("nobody can have made revision {}: {events:?}", open[at]);
            Violation::new(Rule::CommitUnexplained, what)
        })
        .collect()
}

fn makes(store: &Store, operation: &Operation, revision: i64) -> bool {
    let applied = store.apply(&operation.request, revision - 1);
    applied.is_some_and(|applied| {
        !applied.events.is_empty() && store.events(revision) == Some(&applied.events[..])
    })
}

/// Gives each row a column of its own as far as possible (augmenting paths); returns the rows
/// that get none.
fn unmatched(fits: &[Vec<usize>], columns: usize) -> Vec<usize> {
    fn place(
        row: usize,
        fits: &[Vec<usize>],
        taken: &mut [Option<usize>],
        tried: &mut [bool],
    ) -> bool {
        for &column in &fits[row] {
            if std::mem::replace(&mut tried[column], true) {
                continue;
            }
            let free = match taken[column] {
                None => true,
                Some(other) => place(other, fits, taken, tried),
            };
            if free {
                taken[column] = Some(row);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; columns];
    (0..fits.len())
        .filter(|&row| !place(row, fits, &mut taken, &mut vec![false; columns]))
        .collect()
}
