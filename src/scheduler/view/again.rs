//! Which tasks of a run are run again, as a submit.

use super::RunBook;
use crate::scheduler::model::{Missing, Repeats, RunSpec, Selected, Status};
use std::collections::{BTreeMap, BTreeSet};

/// Kinds of tasks that are to run again; several may be meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// Failed, without a verdict, timed out or lost, but for what is muted.
    pub failed: bool,
    pub lost: bool,
    /// Skipped or canceled.
    pub unstarted: bool,
    pub all: bool,
}

impl Again {
    fn is_meant(self, status: Status, is_muted: bool) -> bool {
        self.failed && status.fails_run() && !is_muted
            || self.lost && status == Status::Lost
            || self.unstarted && matches!(status, Status::Skipped | Status::Canceled)
    }
}

/// A run of these tasks of another, each case in those environments where there are any, as often as there
/// are; nothing if there are none. Order and tags are those of the cases as they are now, and predecessors
/// that are not run again count as ended.
pub fn rerun(book: &RunBook, again: Again) -> Option<RunSpec> {
    let mut order: Vec<&str> = Vec::new();
    let mut wanted: BTreeMap<&str, BTreeMap<String, u32>> = BTreeMap::new();
    for (lane, plan) in (0..).zip(&book.plan.lanes) {
        let count = if again.all {
            plan.total
        } else {
            let ends = book.lane_totals(lane).by_status;
            let meant = ends.iter().filter(|(status, _)| again.is_meant(**status, plan.is_muted));
            u32::try_from(meant.map(|(_, count)| count).sum::<u64>()).unwrap_or(u32::MAX)
        };
        if count > 0 {
            let of_case = wanted.entry(&plan.case).or_insert_with(|| {
                order.push(&plan.case);
                BTreeMap::new()
            });
            of_case.insert(plan.environment.to_string(), count);
        }
    }
    let places: BTreeSet<&String> = wanted.values().flat_map(BTreeMap::keys).collect();
    let mut environments = book.spec.environments.clone();
    environments.retain(|environment| places.contains(environment));
    let select = |case: &&str| {
        let each = wanted.get(case)?;
        let repeats = match each.get("") {
            Some(repeats) => Repeats::Same(*repeats),
            None => Repeats::new(each.clone(), &environments),
        };
        Some(Selected { case: (*case).to_owned(), repeats: Some(repeats) })
    };
    let cases: Vec<Selected> = order.iter().filter_map(select).collect();
    if cases.is_empty() {
        return None;
    }
    Some(RunSpec {
        id: String::new(),
        request_id: None,
        cases,
        environments,
        missing: Missing::Ignore,
        rerun_of: Some(book.spec.id.clone()),
        ..book.spec.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::model::Row;
    use crate::scheduler::view::tests::{RUN, Store, command, row, with};
    use serde_json::{Value, json};

    fn rerun_of(store: &Store, again: Again) -> Value {
        match rerun(&store.book(), again) {
            Some(spec) => {
                assert_eq!((&*spec.id, spec.rerun_of.as_deref()), ("", Some(RUN)));
                json!([spec.cases, spec.environments])
            }
            None => Value::Null,
        }
    }

    /// The lanes of cases in `e` come before those in `f`.
    #[test]
    fn what_is_run_again_is_what_ended_so_and_nothing_else() {
        use Status::{Failed, Lost, Passed, Skipped};
        let muted = with(command("m"), "state", json!("muted"));
        let once = |id| with(command(id), "on_lost", json!("never"));
        let mut store = Store::with_run_in(json!([once("a"), once("b"), muted]), 2, &["e", "f"]);
        let ends = [
            (0, [Failed, Failed]),
            (1, [Passed, Passed]),
            (2, [Failed, Passed]),
            (3, [Passed, Lost]),
            (4, [Lost, Skipped]),
            (5, [Failed, Failed]),
        ];
        let rows: Vec<Row> = ends
            .into_iter()
            .flat_map(|(lane, ends)| (0..).zip(ends).map(move |(n, end)| (lane, n, end)))
            .map(|(lane, ordinal, end)| row(lane, ordinal, 3, end, 10, 10))
            .collect();
        store.results("w", &rows);
        store.ended("failed");
        let of = |again: Again| rerun_of(&store, again);
        let failed = Again { failed: true, ..Again::default() };
        assert_eq!(
            of(failed),
            json!([
                [{"case": "a", "repeats": {"e": 2, "f": 1}}, {"case": "b", "repeats": {"f": 1}}],
                ["e", "f"]
            ])
        );
        let lost = Again { lost: true, ..Again::default() };
        let expected = json!([
            [{"case": "a", "repeats": 1}, {"case": "b", "repeats": 1}], ["f"]
        ]);
        assert_eq!(of(lost), expected);
        let unstarted = Again { unstarted: true, ..Again::default() };
        assert_eq!(of(unstarted), json!([[{"case": "b", "repeats": 1}], ["f"]]));
        assert_eq!(
            of(Again { all: true, ..Again::default() })[0],
            json!(["a", "b", "m"].map(|case| json!({"case": case, "repeats": 2})))
        );
        assert_eq!(of(Again::default()), Value::Null);
        let both = of(Again { unstarted: true, ..failed });
        assert_eq!(both[0][1], json!({"case": "b", "repeats": {"f": 2}}));
    }
}
