//! The loads for test schedulers: which cases they are made of, and the least time in which they can be
//! done.

use super::service::{Call, Service};
use crate::scheduler::model::{Predecessor, RunSpec, Selected, TagUse, TestCase};
use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// Times of the load `tail` are spread by this much, as natural logarithms.
const TAIL_SPREAD: f64 = 1.3;
/// Longer than this many times the usual case none is: one that dwarfs all others would be the bound alone.
const TAIL_LONGEST: f64 = 30.0;

/// Of the load `chaos`: the case that holds a tag, and the one that waits for the first.
const CHAOS_TAGGED: u32 = 2;
const CHAOS_AFTER: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::bench) enum Load {
    /// 5 cases, 1000 times each, without rules
    Plain,
    /// A chain of 4 cases, 500 times each: one begins when all of the one before have ended
    Chain,
    /// 4 cases, 250 times each, none of which may run beside itself
    Exclusive,
    /// Like plain, but each task takes between a sixth and eleven sixths of --case-time
    Mixed,
    /// 500 cases whose times differ a hundredfold; their times are learnt in a first run
    Tail,
    /// One case that does nothing, 50,000 times
    Noop,
    /// One task at a time, 500 times: from the submit to its start
    Single,
    /// One case, as often as there are slots: a worker is killed when all of them run
    Lost,
    /// 4 cases, 500 times each: two without rules, one that holds a tag, one that waits for the first
    #[value(skip)]
    Chaos,
}

impl Load {
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(|| "chaos".to_owned(), |value| value.get_name().to_owned())
    }

    /// Cases, and how often each runs.
    pub(super) fn size(self) -> (u32, u32) {
        match self {
            Load::Plain | Load::Mixed => (5, 1_000),
            Load::Chain | Load::Chaos => (4, 500),
            Load::Exclusive => (4, 250),
            Load::Tail => (500, 1),
            Load::Noop => (1, 50_000),
            Load::Single | Load::Lost => (1, 1),
        }
    }

    fn id(self, case: u32) -> String {
        format!("bench-{}-{case}", self.name())
    }

    /// The definitions, for tasks that usually take so long.
    pub(super) fn cases(self, service: &Service, usual: Duration) -> Vec<TestCase> {
        let mut random = StdRng::seed_from_u64(1);
        let case = |number: u32| {
            let (least, most) = match self {
                Load::Mixed => (usual / 6, usual * 11 / 6),
                Load::Tail => {
                    let time = usual.mul_f64(tail(&mut random));
                    (time, time)
                }
                Load::Noop => (Duration::ZERO, Duration::ZERO),
                _ => (usual, usual),
            };
            let mut case = TestCase {
                id: self.id(number),
                url: service.url(number, least, most),
                input: Some("{}".to_owned()),
                output: Some("ok".to_owned()),
                slots: 1,
                timeout_ms: 600_000,
                ..TestCase::default()
            };
            if self == Load::Chain && number > 0 {
                case.case_pre = vec![Predecessor::from(&*self.id(number - 1))];
            }
            if self == Load::Chaos && number == CHAOS_TAGGED {
                case.mutual_tag = vec![TagUse::from(&*self.id(number))];
            }
            if self == Load::Chaos && number == CHAOS_AFTER {
                case.case_pre = vec![Predecessor::from(&*self.id(0))];
            }
            if self == Load::Exclusive {
                let tag = TagUse { chain: true, ..TagUse::from(&*self.id(number)) };
                case.mutual_tag = vec![tag];
            }
            case
        };
        (0..self.size().0).map(case).collect()
    }

    /// A run of all its cases.
    pub(super) fn spec(self, id: String, submitted: u64, repeats: u32) -> RunSpec {
        let selected = |number| Selected { case: self.id(number), ..Selected::default() };
        RunSpec {
            id,
            name: format!("bench {}", self.name()),
            cases: (0..self.size().0).map(selected).collect(),
            repeats,
            queue: "default".to_owned(),
            submitted,
            ..RunSpec::default()
        }
    }

    /// The least time in which these calls could have been made on so many slots.
    pub(super) fn bound(self, calls: &[Call], slots: u32) -> Duration {
        let mut work: BTreeMap<u32, (Duration, Duration)> = BTreeMap::new();
        for call in calls {
            let (sum, longest) = work.entry(call.case).or_default();
            *sum += call.took();
            *longest = (*longest).max(call.took());
        }
        // Equal tasks come in whole waves, which is more than their work over the slots.
        let longest = |cases: &mut dyn Iterator<Item = (Duration, Duration)>| {
            let (mut sum, mut longest) = (Duration::ZERO, Duration::ZERO);
            for (of_case, most) in cases {
                sum += of_case;
                longest = longest.max(most);
            }
            (sum / slots.max(1)).max(longest)
        };
        match self {
            Load::Chain => work.into_values().map(|case| longest(&mut std::iter::once(case))).sum(),
            Load::Exclusive => {
                let tag = work.values().map(|(sum, _)| *sum).max().unwrap_or_default();
                tag.max(longest(&mut work.into_values()))
            }
            Load::Chaos => {
                let of = |case| work.get(&case).copied().unwrap_or_default();
                let chain = [0, CHAOS_AFTER].map(|case| longest(&mut std::iter::once(of(case))));
                let (tag, _) = of(CHAOS_TAGGED);
                tag.max(chain.iter().sum()).max(longest(&mut work.values().copied()))
            }
            _ => longest(&mut work.into_values()),
        }
    }
}

/// A factor with a heavy tail and the median 1 (log-normal, by Box and Muller).
fn tail(random: &mut StdRng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    let angle = std::f64::consts::TAU * random.random::<f64>();
    (TAIL_SPREAD * radius * angle.cos()).exp().clamp(1.0 / TAIL_LONGEST, TAIL_LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn calls(times: &[(u32, u64)]) -> Vec<Call> {
        let came = Instant::now();
        let call = |(case, ms): &(u32, u64)| Call {
            case: *case,
            came,
            left: came + Duration::from_millis(*ms),
        };
        times.iter().map(call).collect()
    }

    #[test]
    fn the_bound_follows_from_work_rules_and_the_longest_task() {
        let times = calls(&[(0, 30), (0, 30), (1, 30), (1, 90)]);
        for (load, slots, expected) in [
            (Load::Plain, 2, 90),
            (Load::Plain, 1, 180),
            (Load::Plain, 10, 90),
            (Load::Chain, 2, 30 + 90),
            (Load::Chain, 1, 180),
            (Load::Exclusive, 2, 120),
            (Load::Exclusive, 1, 180),
            (Load::Chaos, 2, 90),
        ] {
            let bound = load.bound(&times, slots);
            assert_eq!(bound, Duration::from_millis(expected), "{load:?} on {slots}");
        }
    }

    #[test]
    fn times_with_a_tail_are_the_same_each_time() {
        let draw = || {
            let mut random = StdRng::seed_from_u64(1);
            (0..500).map(|_| tail(&mut random)).collect::<Vec<_>>()
        };
        let times = draw();
        assert_eq!(times, draw());
        let short = times.iter().filter(|time| **time < 1.0).count();
        assert!((200..300).contains(&short), "{short} of 500 below the median");
        assert!(times.iter().any(|time| *time > 10.0) && times.iter().all(|time| *time <= 30.0));
    }
}
