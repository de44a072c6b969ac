//! Cases that come and go, and those that are set apart meanwhile.

use crate::scheduler::analysis::{FlakeRule, FlakeScore, Stats};
use crate::scheduler::model::{CaseState, TestCase};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a case in an environment.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlakyCase {
    pub case: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Empty where its runs name none, or it has not run.
    pub environment: String,
    #[serde(flatten)]
    pub score: FlakeScore,
    /// None where it has not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    pub state: CaseState,
    /// Its time is over: it runs and counts as any other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_expired: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// Of the definition; 0 where it is deleted.
    pub version: i64,
}

/// Of all definitions with their versions and all histories by case and environment: those that are
/// flaky at a time in milliseconds since 1970, and those whose definition is not simply enabled. The
/// flakiest first.
pub fn flaky(
    cases: &BTreeMap<String, (TestCase, i64)>,
    histories: impl IntoIterator<Item = (String, String, Stats)>,
    now: u64,
) -> Vec<FlakyCase> {
    let state_of = |case: &str| cases.get(case).map_or(CaseState::Enabled, |(case, _)| case.state);
    let show = |case: &str, environment: String, score, stats| {
        let known = cases.get(case);
        let text = |of: fn(&TestCase) -> &String| known.map(|(case, _)| of(case).clone());
        FlakyCase {
            case: case.to_owned(),
            name: text(|case| &case.name).unwrap_or_default(),
            environment,
            score,
            stats,
            state: state_of(case),
            is_expired: known.is_some_and(|(case, _)| is_expired(case, now)),
            reason: text(|case| &case.state_reason).unwrap_or_default(),
            until: known.and_then(|(case, _)| case.state_until.clone()),
            owner: text(|case| &case.owner).unwrap_or_default(),
            version: known.map_or(0, |(_, version)| *version),
        }
    };
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (case, environment, stats) in histories {
        let score = FlakeRule::default().score(&stats, now);
        if score.is_flaky || state_of(&case) != CaseState::Enabled {
            found.push(show(&case, environment, score, Some(stats)));
            seen.insert(case);
        }
    }
    for case in cases.keys() {
        if state_of(case) != CaseState::Enabled && !seen.contains(case) {
            found.push(show(case, String::new(), FlakeScore::default(), None));
        }
    }
    found.sort_by(|a, b| b.score.score.total_cmp(&a.score.score));
    found
}

fn is_expired(case: &TestCase, now: u64) -> bool {
    case.state_at(now) != case.state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::analysis::{Ended, Verdict};

    #[test]
    fn what_comes_and_goes_is_listed_before_what_is_set_apart() {
        let case = |id: &str, state| TestCase { id: id.into(), state, ..Default::default() };
        let cases = [
            case("calm", CaseState::Enabled),
            case("quiet", CaseState::Muted),
            case("shaky", CaseState::Enabled),
            case("new", CaseState::Skipped),
        ];
        let cases = cases.map(|case| (case.id.clone(), (case, 7))).into();
        let history = |verdicts: [Verdict; 6]| {
            let mut stats = Stats::default();
            for verdict in verdicts {
                stats.add(&Ended {
                    verdict,
                    run: "r",
                    at: 1,
                    duration_ms: 1,
                    revision: 1,
                    fingerprint: "",
                });
            }
            stats
        };
        use Verdict::{Failed as F, Passed as P};
        let histories = [
            ("calm", [P; 6]),
            ("quiet", [P; 6]),
            ("shaky", [P, F, P, F, P, P]),
            ("gone", [P, F, P, P, F, P]),
        ];
        let histories =
            histories.map(|(case, of)| (case.to_owned(), "lab".to_owned(), history(of)));
        let found = flaky(&cases, histories, 1);
        let shown: Vec<_> =
            found.iter().map(|found| (&*found.case, &*found.environment, found.version)).collect();
        let expected =
            [("shaky", "lab", 7), ("gone", "lab", 0), ("quiet", "lab", 7), ("new", "", 7)];
        assert_eq!(shown, expected);
    }
}
