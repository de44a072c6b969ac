//! Which results of a run deserve a look: what differs from an earlier run, what is slow, and where
//! numbers are going.

use super::history::{Stats, Verdict, percentile};
use serde::{Deserialize, Serialize};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

/// A case that became slower by less than this part is as quick as it was.
const SLOWER_SHARE: f64 = 0.25;
/// Nor does anybody notice less than this.
const SLOWER_MS_MIN: u64 = 50;
/// From so few points on nothing can be told.
const TREND_POINTS_MIN: usize = 4;
/// A smaller change is none.
const TREND_SHARE: f64 = 0.1;
/// Standard deviations of the rank test beyond which order is no accident: of points that come in any
/// order one list in ten goes beyond.
const TREND_DEVIATIONS: f64 = 1.645;

/// The history of a case in an environment, by name.
#[derive(Clone, Copy, Debug)]
pub struct CaseStats<'a> {
    pub case: &'a str,
    pub environment: &'a str,
    pub stats: &'a Stats,
}

/// The slowest first, by what nine of ten tasks do not exceed. Cases that never came to a verdict
/// are left out.
pub fn slowest<'a>(cases: &[CaseStats<'a>], max: usize) -> Vec<CaseStats<'a>> {
    let mut known: Vec<CaseStats<'a>> =
        cases.iter().filter(|case| case.stats.estimate().is_some()).copied().collect();
    known.sort_by_key(|case| (Reverse(case.stats.p90), case.case, case.environment));
    known.truncate(max);
    known
}

/// All that a run did with a case in an environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    pub case: String,
    pub environment: String,
    pub passed: u64,
    /// Failed, timed out, error or lost.
    pub failed: u64,
    /// Median, in milliseconds.
    pub median_ms: u64,
}

impl Trial {
    /// From the ends of its tasks: verdict, and duration in milliseconds.
    pub fn of(
        case: &str,
        environment: &str,
        ends: impl IntoIterator<Item = (Verdict, u64)>,
    ) -> Self {
        let mut trial =
            Self { case: case.into(), environment: environment.into(), ..Self::default() };
        let mut durations = Vec::new();
        for (verdict, duration) in ends {
            if verdict.is_pass() {
                trial.passed += 1;
            } else {
                trial.failed += 1;
            }
            durations.push(duration);
        }
        durations.sort_unstable();
        trial.median_ms = percentile(&durations, 50);
        trial
    }

    fn name(&self) -> (&str, &str) {
        (&self.case, &self.environment)
    }
}

/// What differs between two runs; names are of case and environment, in their order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Passed in the first, failed in the second.
    pub broken: Vec<(String, String)>,
    pub fixed: Vec<(String, String)>,
    /// Passed in both, with the medians in milliseconds: at least a quarter and 50 ms slower.
    pub slower: Vec<(String, String, u64, u64)>,
    pub quicker: Vec<(String, String, u64, u64)>,
    /// Only in the second.
    pub added: Vec<(String, String)>,
    /// Only in the first.
    pub gone: Vec<(String, String)>,
}

/// Compares two runs.
pub fn compare(first: &[Trial], second: &[Trial]) -> Difference {
    let first: BTreeMap<_, _> = first.iter().map(|trial| (trial.name(), trial)).collect();
    let second: BTreeMap<_, _> = second.iter().map(|trial| (trial.name(), trial)).collect();
    let mut found = Difference::default();
    for (name, after) in &second {
        let owned = (name.0.to_owned(), name.1.to_owned());
        let Some(before) = first.get(name) else {
            found.added.push(owned);
            continue;
        };
        match (before.failed > 0, after.failed > 0) {
            (false, true) => found.broken.push(owned),
            (true, false) => found.fixed.push(owned),
            (true, true) => {}
            (false, false) => {
                let (old, new) = (before.median_ms, after.median_ms);
                let line = (owned.0, owned.1, old, new);
                if is_slower(old, new) {
                    found.slower.push(line);
                } else if is_slower(new, old) {
                    found.quicker.push(line);
                }
            }
        }
    }
    let gone = first.keys().filter(|name| !second.contains_key(*name));
    found.gone =
        gone.map(|(case, environment)| (case.to_string(), environment.to_string())).collect();
    found
}

fn is_slower(before: u64, after: u64) -> bool {
    after >= before + SLOWER_MS_MIN && after as f64 >= before as f64 * (1.0 + SLOWER_SHARE)
}

/// Where a number is going.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trend {
    /// By this part of what it was.
    Rising(f64),
    Falling(f64),
    Steady,
    /// They differ, but in no order.
    Unclear,
    /// Fewer than four points.
    Unknown,
}

/// Whether points, which are in the order of time, rise or fall: if by the test of Mann and Kendall, which
/// asks for each pair whether the later one is higher, their order is hardly an accident. By how much is
/// told by the medians of the older and the newer half; what lies in the middle of an odd number counts
/// for neither. Less than a tenth is no trend. Ranks and medians, since one run on a busy machine is none.
pub fn trend(points: &[f64]) -> Trend {
    if points.len() < TREND_POINTS_MIN {
        return Trend::Unknown;
    }
    let usual = median(points);
    let apart: Vec<f64> = points.iter().map(|point| (point - usual).abs()).collect();
    let deviations = rank_deviations(points);
    if deviations.abs() < TREND_DEVIATIONS {
        let is_steady = median(&apart) <= usual.abs() * TREND_SHARE;
        return if is_steady { Trend::Steady } else { Trend::Unclear };
    }
    let half = points.len() / 2;
    let (old, new) = (median(&points[..half]), median(&points[points.len() - half..]));
    let change = match (old, new) {
        (0.0, 0.0) => 0.0,
        // From nothing to something: as if it had doubled.
        (0.0, new) => new.signum(),
        (old, new) => (new - old) / old.abs(),
    };
    if change >= TREND_SHARE && deviations > 0.0 {
        Trend::Rising(change)
    } else if change <= -TREND_SHARE && deviations < 0.0 {
        Trend::Falling(-change)
    } else {
        Trend::Steady
    }
}

/// The statistic of Mann and Kendall with its correction for equal points: how many standard deviations
/// more pairs rise than fall, compared with points in no order.
fn rank_deviations(points: &[f64]) -> f64 {
    let n = points.len() as f64;
    let later = |at: usize| points[at + 1..].iter().map(move |later| (points[at], *later));
    let pairs = (0..points.len()).flat_map(later);
    let rises: f64 = pairs
        .map(|(before, after)| match after.total_cmp(&before) {
            Ordering::Less => -1.0,
            Ordering::Equal => 0.0,
            Ordering::Greater => 1.0,
        })
        .sum();
    let mut sorted = points.to_vec();
    sorted.sort_by(f64::total_cmp);
    let weight = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let equal = sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|run| weight(run.len() as f64));
    let variance = (weight(n) - equal.sum::<f64>()) / 18.0;
    if rises == 0.0 || variance <= 0.0 {
        return 0.0;
    }
    (rises - rises.signum()) / variance.sqrt()
}

fn median(points: &[f64]) -> f64 {
    let mut sorted = points.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::super::Ended;
    use super::*;

    fn trial(case: &str, passed: u64, failed: u64, median_ms: u64) -> Trial {
        Trial { case: case.into(), environment: "e".into(), passed, failed, median_ms }
    }

    fn history(letters: &str, fingerprint: &str) -> Stats {
        let mut stats = Stats::default();
        for (at, letter) in letters.chars().enumerate() {
            let verdict = if letter == 'P' { Verdict::Passed } else { Verdict::Failed };
            stats.add(&Ended {
                verdict,
                run: "r",
                at: at as u64,
                duration_ms: 100,
                revision: 1,
                fingerprint,
            });
        }
        stats
    }

    #[test]
    fn a_trial_counts_its_tasks() {
        let ends = [(Verdict::Passed, 30), (Verdict::Lost, 10), (Verdict::Flaky, 20)];
        let trial = Trial::of("a", "e", ends);
        assert_eq!((trial.passed, trial.failed, trial.median_ms), (2, 1, 20));
    }

    #[test]
    fn runs_are_compared_case_by_case() {
        let first = [
            trial("a", 1, 0, 100),
            trial("b", 0, 1, 100),
            trial("c", 1, 0, 1000),
            trial("d", 1, 0, 10),
            trial("old", 1, 0, 1),
        ];
        let second = [
            trial("a", 9, 1, 100),
            trial("b", 1, 0, 900),
            trial("c", 1, 0, 1250),
            trial("d", 1, 0, 55),
            trial("young", 1, 0, 1),
        ];
        let found = compare(&first, &second);
        let pair = |case: &str| vec![(case.to_owned(), "e".to_owned())];
        assert_eq!((found.broken, found.fixed), (pair("a"), pair("b")));
        assert_eq!((found.added, found.gone), (pair("young"), pair("old")));
        assert_eq!(found.slower, [("c".to_owned(), "e".to_owned(), 1000, 1250)]);
        let back = compare(&second, &first);
        assert_eq!(back.quicker, [("c".to_owned(), "e".to_owned(), 1250, 1000)]);
    }

    #[test]
    fn the_slowest_come_first() {
        let (mut slow, mut quick) = (history("P", ""), history("P", ""));
        (slow.p90, quick.p90) = (9, 1);
        let unknown = Stats::default();
        let named = |case, stats| CaseStats { case, environment: "e", stats };
        let cases = [named("q", &quick), named("u", &unknown), named("s", &slow)];
        let names: Vec<&str> = slowest(&cases, 5).iter().map(|case| case.case).collect();
        assert_eq!(names, ["s", "q"]);
        assert_eq!(slowest(&cases, 1).len(), 1);
    }

    #[test]
    fn what_comes_in_no_order_is_no_trend() {
        assert_eq!(trend(&[1.0, 1.0, 9.0]), Trend::Unknown);
        for steady in [
            &[10.0, 10.0, 10.0, 99.0, 10.0, 10.0][..],
            &[0.0, 0.0, 0.0, 0.0],
            &[100.0, 101.0, 99.0, 100.0, 102.0],
            &[100.0, 101.0, 102.0, 103.0, 104.0],
        ] {
            assert_eq!(trend(steady), Trend::Steady, "{steady:?}");
        }
        for unclear in [
            &[2.0, 3.0, 2.0, 3.0][..],
            &[2.0, 2.0, 3.0, 3.0],
            &[3.0, 2.0, 3.0, 2.0, 4.0],
            &[10.0, 10.0, 77.0, 15.0, 15.0],
            &[5.0, 1.0, 9.0, 2.0, 8.0, 1.0],
        ] {
            assert_eq!(trend(unclear), Trend::Unclear, "{unclear:?}");
        }
        assert_eq!(trend(&[10.0, 10.0, 11.0, 15.0, 15.0, 16.0]), Trend::Rising(0.5));
        assert_eq!(trend(&[1.0, 2.0, 3.0, 4.0]), Trend::Rising(2.0 / 1.5));
        assert_eq!(trend(&[10.0, 10.0, 9.0, 5.0, 5.0, 4.0]), Trend::Falling(0.5));
        assert_eq!(trend(&[0.0, 0.0, 0.0, 2.0, 2.0, 2.0]), Trend::Rising(1.0));
    }
}
