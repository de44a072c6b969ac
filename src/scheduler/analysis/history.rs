//! The history of one case in one environment: small, of one size for ever, kept under
//! `stats/{case}/{environment}`.

use super::rank::{Trend, trend};
use crate::scheduler::model::Status;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Outcomes that are kept one by one.
pub(super) const OUTCOMES_MAX: usize = 20;
/// Durations that percentiles are taken of. Old ones go: a case that became quicker is quick.
const DURATIONS_MAX: usize = 64;
/// What a new duration weighs in the moving average.
const NEW_SHARE: f64 = 0.2;
const HOUR_MS: u64 = 3_600_000;

/// How a task that ran came out, as one letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `P`
    Passed,
    /// `B`: both; passed after a failed attempt.
    Flaky,
    /// `F`
    Failed,
    /// `E`: nothing was found out.
    Error,
    /// `T`
    TimedOut,
    /// `L`: with its worker.
    Lost,
}

impl Verdict {
    const ALL: [(Verdict, char); 6] = [
        (Verdict::Passed, 'P'),
        (Verdict::Flaky, 'B'),
        (Verdict::Failed, 'F'),
        (Verdict::Error, 'E'),
        (Verdict::TimedOut, 'T'),
        (Verdict::Lost, 'L'),
    ];

    /// What the end of a task says about its case; none for those that say nothing, having not run.
    pub fn of(status: Status, failed_attempts: u32) -> Option<Self> {
        match status {
            Status::Passed if failed_attempts > 0 => Some(Verdict::Flaky),
            Status::Passed => Some(Verdict::Passed),
            Status::Failed => Some(Verdict::Failed),
            Status::Error => Some(Verdict::Error),
            Status::TimedOut => Some(Verdict::TimedOut),
            Status::Lost => Some(Verdict::Lost),
            Status::Pending | Status::Running | Status::Canceled | Status::Skipped => None,
        }
    }

    pub fn is_pass(self) -> bool {
        matches!(self, Verdict::Passed | Verdict::Flaky)
    }

    /// Whether it is about the case, not about what it ran on.
    pub fn is_of_case(self) -> bool {
        !matches!(self, Verdict::Error | Verdict::Lost)
    }

    pub fn letter(self) -> char {
        let known = Self::ALL.iter().find(|(verdict, _)| *verdict == self);
        known.map_or('?', |(_, letter)| *letter)
    }
}

/// A verdict and when it was reached, in hours since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub verdict: Verdict,
    pub hour: u32,
}

/// Written as letter and number: `P492318`.
impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}{}", self.verdict.letter(), self.hour))
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut chars = text.chars();
        let letter = chars.next();
        let known = Verdict::ALL.iter().find(|(_, known)| Some(*known) == letter);
        let hour = chars.as_str().parse().ok();
        match (known, hour) {
            (Some((verdict, _)), Some(hour)) => Ok(Mark { verdict: *verdict, hour }),
            _ => Err(de::Error::custom(format!("{text:?} is no outcome"))),
        }
    }
}

/// What is known of a case in an environment. Durations are in milliseconds and of tasks that
/// passed or failed: an error or a timeout says little about how long the case takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Tasks that ran.
    pub n: u64,
    pub pass: u64,
    /// Failed, timed out, error or lost.
    pub fail: u64,
    /// Times that a verdict on the case differed from the one before.
    pub flips: u64,
    /// Moving average: a fifth of it is the newest.
    pub ewma: f64,
    /// Of the last 64.
    pub p50: u64,
    pub p75: u64,
    pub p90: u64,
    pub p95: u64,
    /// The last 20, oldest first.
    pub last: Vec<Mark>,
    /// In the order of time; what the percentiles are taken of.
    pub durations: Vec<u64>,
    /// Fingerprint of the newest failure.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure: String,
    /// Since when the case fails without a pass in between, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<u64>,
    /// The run in which that began.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failing_run: String,
    /// The revision at which its first failure was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing_revision: Option<i64>,
}

/// The end of a task as it enters the history.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    pub verdict: Verdict,
    pub run: &'a str,
    /// Milliseconds since 1970.
    pub at: u64,
    pub duration_ms: u64,
    /// At which it was recorded.
    pub revision: i64,
    /// Of the failure, if it is one.
    pub fingerprint: &'a str,
}

impl Stats {
    /// Where the durations are going.
    pub fn trend(&self) -> Trend {
        let points: Vec<f64> = self.durations.iter().map(|ms| *ms as f64).collect();
        trend(&points)
    }

    /// Takes one more end in.
    pub fn add(&mut self, ended: &Ended<'_>) {
        let verdict = ended.verdict;
        self.n += 1;
        if verdict.is_of_case() {
            let before = self.last.iter().rev().find(|mark| mark.verdict.is_of_case());
            let differs = before.is_some_and(|mark| mark.verdict.is_pass() != verdict.is_pass());
            self.flips += u64::from(differs);
        }
        if verdict.is_pass() {
            self.pass += 1;
            self.failing_since = None;
            self.failing_run.clear();
            self.failing_revision = None;
        } else {
            self.fail += 1;
            self.failure = ended.fingerprint.to_owned();
            if self.failing_since.is_none() {
                self.failing_since = Some(ended.at);
                self.failing_run = ended.run.to_owned();
                self.failing_revision = Some(ended.revision);
            }
        }
        let hour = u32::try_from(ended.at / HOUR_MS).unwrap_or(u32::MAX);
        push_bounded(&mut self.last, Mark { verdict, hour }, OUTCOMES_MAX);
        if verdict.is_pass() || verdict == Verdict::Failed {
            self.add_duration(ended.duration_ms);
        }
    }

    fn add_duration(&mut self, duration: u64) {
        let is_first = self.durations.is_empty();
        let new = duration as f64;
        self.ewma = if is_first { new } else { self.ewma + NEW_SHARE * (new - self.ewma) };
        push_bounded(&mut self.durations, duration, DURATIONS_MAX);
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        (self.p50, self.p75) = (percentile(&sorted, 50), percentile(&sorted, 75));
        (self.p90, self.p95) = (percentile(&sorted, 90), percentile(&sorted, 95));
    }

    /// What a planner should expect, in milliseconds; none for a case that never came to a verdict.
    pub fn estimate(&self) -> Option<u64> {
        (!self.durations.is_empty()).then_some(self.p75)
    }

    /// The part of tasks that passed, from 0 to 1; none for a case that never ran.
    pub fn pass_rate(&self) -> Option<f64> {
        (self.n > 0).then(|| self.pass as f64 / self.n as f64)
    }

    /// The last outcomes as letters, oldest first.
    pub fn strip(&self) -> String {
        self.last.iter().map(|mark| mark.verdict.letter()).collect()
    }
}

fn push_bounded<T>(list: &mut Vec<T>, element: T, max: usize) {
    if list.len() >= max {
        list.drain(..=list.len() - max);
    }
    list.push(element);
}

/// The smallest value that at least so many of a hundred do not exceed; 0 of nothing.
pub(super) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(verdict: Verdict, at: u64, duration_ms: u64) -> Ended<'static> {
        Ended { verdict, run: "r", at, duration_ms, revision: at as i64, fingerprint: "" }
    }

    fn played(letters: &str) -> Stats {
        let mut stats = Stats::default();
        for (at, letter) in letters.chars().enumerate() {
            let (verdict, _) = Verdict::ALL.iter().find(|(_, known)| *known == letter).unwrap();
            stats.add(&ended(*verdict, at as u64 * HOUR_MS, 10));
        }
        stats
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let table: [(&[u64], usize, u64); 7] = [
            (&[], 50, 0),
            (&[7], 90, 7),
            (&[1, 2], 50, 1),
            (&[1, 2, 3], 50, 2),
            (&[1, 2, 3, 4], 75, 3),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 90, 9),
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 100, 10),
        ];
        for (sorted, percent, expected) in table {
            assert_eq!(percentile(sorted, percent), expected, "{percent} of {sorted:?}");
        }
    }

    #[test]
    fn everything_is_counted_and_nothing_grows() {
        let stats = played(&"PFPB".repeat(100));
        assert_eq!((stats.n, stats.pass, stats.fail), (400, 300, 100));
        assert_eq!(stats.flips, 200, "P to F and F to P; from B to P is none");
        assert_eq!((stats.last.len(), stats.durations.len()), (OUTCOMES_MAX, DURATIONS_MAX));
        assert_eq!(stats.strip(), "PFPB".repeat(5));
        assert_eq!(stats.pass_rate(), Some(0.75));
        let text = serde_json::to_string(&stats).unwrap();
        assert!(text.len() < 1024, "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Stats>(&text).unwrap(), stats);
    }

    #[test]
    fn what_says_nothing_of_the_case_flips_nothing() {
        assert_eq!(played("PEPLP").flips, 0);
        assert_eq!(played("PEFLP").flips, 2);
        assert_eq!(played("PTP").flips, 2, "a timeout is a verdict");
        for status in [Status::Canceled, Status::Skipped, Status::Pending] {
            assert_eq!(Verdict::of(status, 0), None);
        }
        assert_eq!(Verdict::of(Status::Passed, 1), Some(Verdict::Flaky));
    }

    #[test]
    fn durations_forget_the_past() {
        let mut stats = Stats::default();
        for _ in 0..100 {
            stats.add(&ended(Verdict::Passed, 0, 1000));
        }
        assert_eq!((stats.estimate(), stats.ewma), (Some(1000), 1000.0));
        stats.add(&ended(Verdict::Passed, 0, 500));
        assert_eq!((stats.p75, stats.ewma), (1000, 900.0));
        stats.add(&ended(Verdict::TimedOut, 0, 60_000));
        assert_eq!(stats.ewma, 900.0, "a timeout is no duration");
        for _ in 0..64 {
            stats.add(&ended(Verdict::Failed, 0, 10));
        }
        assert_eq!((stats.p50, stats.p95), (10, 10));
        for _ in 0..6 {
            stats.add(&ended(Verdict::Passed, 0, 30));
        }
        assert_eq!((stats.p90, stats.p95), (10, 30), "six of the last 64 took longer");
        assert_eq!(Stats::default().estimate(), None);
    }

    #[test]
    fn a_failure_is_known_from_its_first_run_on() {
        let mut stats = played("PP");
        stats.add(&Ended { run: "r3", fingerprint: "a", ..ended(Verdict::Failed, 3, 1) });
        stats.add(&Ended { run: "r4", fingerprint: "b", ..ended(Verdict::Error, 4, 1) });
        assert_eq!((stats.failing_since, stats.failing_run.as_str()), (Some(3), "r3"));
        assert_eq!(stats.failing_revision, Some(3));
        assert_eq!(stats.failure, "b");
        stats.add(&ended(Verdict::Passed, 5, 1));
        assert_eq!((stats.failing_since, stats.failing_run.as_str()), (None, ""));
        assert_eq!(stats.failing_revision, None);
    }
}
