//! How flaky a case is: how often its verdict changed lately without a reason.
//!
//! The score is the weighted share of changes among the last outcomes. Each outcome that says
//! something of the case is compared with the one before: a change from pass to fail or back counts
//! 1, as does an outcome that needed more than one attempt; anything else counts 0. What is older
//! weighs less: half after each half-life. Five outcomes P F P F F of one hour score 0.75: three
//! changes in four comparisons. A case that always fails scores 0, since it is broken and not flaky.
//! A case that broke, or was mended, shows one change: it has a score, which drifts to 0, but counts as
//! flaky only once it has changed back, or has needed a repeated attempt.

use super::history::{Mark, Stats};
use serde::{Deserialize, Serialize};

const HOURS_OF_WEEK: u32 = 7 * 24;

/// What is looked at, and from when on a case counts as flaky.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlakeRule {
    /// Outcomes that are older than so many hours do not count.
    pub window_hours: u32,
    /// After so many hours an outcome weighs half.
    pub half_life_hours: u32,
    /// From this score on a case is flaky, if it has also changed there and back or needed a repeat.
    pub threshold: f64,
    /// With fewer comparisons nothing is said.
    pub comparisons_min: u32,
    /// So many passes at the end, without a retry, and a muted case may come back.
    pub recovers_after: u32,
}

impl Default for FlakeRule {
    fn default() -> Self {
        Self {
            window_hours: 2 * HOURS_OF_WEEK,
            half_life_hours: HOURS_OF_WEEK / 2,
            threshold: 0.1,
            comparisons_min: 4,
            recovers_after: 10,
        }
    }
}

/// How flaky a case is, and what that was counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FlakeScore {
    /// From 0 to 1.
    pub score: f64,
    /// Whether it comes and goes: the score is high enough, and it is more than one change for good.
    pub is_flaky: bool,
    /// Changes and repeated attempts within the window.
    pub changes: u32,
    /// Outcomes within the window that could be compared with an earlier one, or with themselves.
    pub comparisons: u32,
    /// Passes at the end, without a retry.
    pub clean: u32,
    /// Whether so many passes in a row mean that it is mended.
    pub has_recovered: bool,
}

impl FlakeRule {
    /// Whether the case has run to a verdict within the window before a time, in milliseconds since 1970.
    pub fn has_run(&self, stats: &Stats, now: u64) -> bool {
        let now = u32::try_from(now / 3_600_000).unwrap_or(u32::MAX);
        let is_meant = |mark: &&Mark| now.saturating_sub(mark.hour) <= self.window_hours;
        stats.last.iter().filter(is_meant).any(|mark| mark.verdict.is_of_case())
    }

    /// The score of a case at a time, in milliseconds since 1970.
    pub fn score(&self, stats: &Stats, now: u64) -> FlakeScore {
        let now = u32::try_from(now / 3_600_000).unwrap_or(u32::MAX);
        let marks: Vec<&Mark> =
            stats.last.iter().filter(|mark| mark.verdict.is_of_case()).collect();
        let (mut weight, mut changed) = (0.0, 0.0);
        let mut score = FlakeScore::default();
        let mut comes_and_goes = false;
        for (at, mark) in marks.iter().enumerate() {
            let age = now.saturating_sub(mark.hour);
            let before = at.checked_sub(1).map(|before| marks[before]);
            let was_repeated = mark.verdict == super::Verdict::Flaky;
            if age > self.window_hours || (before.is_none() && !was_repeated) {
                continue;
            }
            let differs =
                before.is_some_and(|before| before.verdict.is_pass() != mark.verdict.is_pass());
            let decayed = 0.5_f64.powf(f64::from(age) / f64::from(self.half_life_hours.max(1)));
            weight += decayed;
            score.comparisons += 1;
            if differs || was_repeated {
                changed += decayed;
                score.changes += 1;
            }
            // One change may be a case that broke, or was mended, for good.
            comes_and_goes |= was_repeated || score.changes >= 2;
        }
        // So many half-lives that nothing is left of the weight: nothing is known.
        score.score = if weight > 0.0 { changed / weight } else { 0.0 };
        let is_enough = score.comparisons >= self.comparisons_min && score.score >= self.threshold;
        score.is_flaky = comes_and_goes && is_enough;
        let clean = marks.iter().rev().take_while(|mark| mark.verdict == super::Verdict::Passed);
        score.clean = clean.count() as u32;
        score.has_recovered = score.clean >= self.recovers_after;
        score
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ended, Verdict};
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// One outcome an hour, the last one now.
    fn scored(letters: &str, rule: FlakeRule) -> FlakeScore {
        scored_at(letters, rule, 0)
    }

    fn scored_at(letters: &str, rule: FlakeRule, later_hours: u64) -> FlakeScore {
        let mut stats = Stats::default();
        for (hour, letter) in letters.chars().enumerate() {
            let verdict = match letter {
                'P' => Verdict::Passed,
                'B' => Verdict::Flaky,
                'F' => Verdict::Failed,
                _ => Verdict::Error,
            };
            let at = (1_000 + hour as u64) * HOUR_MS;
            stats.add(&Ended {
                verdict,
                run: "r",
                at,
                duration_ms: 1,
                revision: 1,
                fingerprint: "",
            });
        }
        rule.score(&stats, (1_000 + letters.len() as u64 - 1 + later_hours) * HOUR_MS)
    }

    /// No decay worth speaking of.
    fn plain() -> FlakeRule {
        FlakeRule { half_life_hours: 1_000_000, ..FlakeRule::default() }
    }

    #[test]
    fn changes_count_and_constancy_does_not() {
        let table = [
            ("PFPFF", 0.75, true),
            ("PPPPP", 0.0, false),
            ("FFFFF", 0.0, false),
            ("PFPFPFPFPF", 1.0, true),
            ("PEPEPEPEP", 0.0, false),
            ("PPPPBPPPP", 0.125, true),
            ("PF", 1.0, false),
            ("", 0.0, false),
        ];
        for (letters, expected, is_flaky) in table {
            let score = scored(letters, plain());
            assert!((score.score - expected).abs() < 0.001, "{letters}: {score:?}");
            assert_eq!(score.is_flaky, is_flaky, "{letters}");
        }
    }

    #[test]
    fn a_case_that_broke_or_was_mended_once_is_not_flaky() {
        for letters in ["PPPPPPF", "PPPPPPFFF", "PPPPPPPPPPF", "PPFFF", "FFPPPPPPPPP", "PPPEPPF"] {
            let score = scored(letters, plain());
            assert!(
                score.score > 0.09 && score.changes == 1 && !score.is_flaky,
                "{letters}: {score:?}"
            );
        }
        for letters in ["PPPPPPFP", "FFPFFF", "BPPPPP", "FFFBFFF"] {
            assert!(scored(letters, plain()).is_flaky, "{letters}");
        }
    }

    #[test]
    fn the_past_fades() {
        let rule = FlakeRule { half_life_hours: 2, ..FlakeRule::default() };
        let old = scored("FPPPPPPPPP", rule).score;
        let new = scored("PPPPPPPPPF", rule).score;
        assert!(old < 0.03 && new > 0.25, "{old} {new}");
        assert!(scored_at("PFPFPFPF", rule, 0).is_flaky);
        let rule = FlakeRule { window_hours: 10, ..rule };
        assert_eq!(scored_at("PFPFPFPF", rule, 100).comparisons, 0, "beyond the window");
        assert!(!scored_at("PFPFPFPF", rule, 100).is_flaky);
    }

    #[test]
    fn enough_passes_in_a_row_bring_a_case_back() {
        let rule = FlakeRule { recovers_after: 3, ..FlakeRule::default() };
        assert!(scored("FPPP", rule).has_recovered);
        assert!(scored("FPEPP", rule).has_recovered, "an error says nothing of the case");
        assert!(!scored("FPP", rule).has_recovered && !scored("PPPB", rule).has_recovered);
        assert_eq!(scored("FBPP", rule).clean, 2);
    }
}
