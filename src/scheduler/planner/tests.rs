//! Loads whose outcome is known beforehand, and random ones in which every rule is checked.

use super::play::{Play, Random, after, plain, setup};
use super::{LockName, RunSetup, bound};
use crate::scheduler::model::{
    Labels, LanePlan, PlannedPredecessor, Policy, Retries, RunPlan, Scope, Status,
};
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000;

fn makespan(lanes: Vec<LanePlan>, workers: &[u32]) -> u64 {
    let mut play = Play::new(1);
    for capacity in workers {
        play.join(*capacity, &Labels::new());
    }
    play.submit(setup(lanes));
    play.finish()
}

#[test]
fn independent_cases_fill_all_slots() {
    let lanes = (0..5).map(|n| plain(&n.to_string(), 1_000, 3 * SECOND)).collect();
    assert_eq!(makespan(lanes, &[5, 5]), 1_500 * SECOND);
}

#[test]
fn a_chain_of_cases_goes_stage_by_stage() {
    let mut lanes: Vec<LanePlan> = (0..4).map(|n| plain(&n.to_string(), 500, 3 * SECOND)).collect();
    for (lane, before) in lanes.iter_mut().skip(1).zip(0..) {
        lane.predecessors.push(after(before));
    }
    assert_eq!(makespan(lanes, &[5, 5]), 600 * SECOND);
}

#[test]
fn cases_that_exclude_themselves_go_side_by_side() {
    let lane = |n: u32, time: u64, chain: bool| LanePlan {
        tags: vec![n.to_string().into()],
        chain,
        ..plain(&n.to_string(), 250, time)
    };
    let all = |time, chain| makespan((0..4).map(|n| lane(n, time, chain)).collect(), &[4]);
    assert_eq!(all(3 * SECOND, false), 750 * SECOND);
    // Repeats that are given together take one slot, as they run one by one.
    assert_eq!(all(SECOND / 100, true), 250 * SECOND / 100);
}

#[test]
fn the_longest_go_first_where_durations_are_known() {
    let mut random = Random(7);
    // Log-normal by the sum of twelve parts.
    let mut heavy = || {
        let normal = (0..12).map(|_| random.part()).sum::<f64>() - 6.0;
        ((normal * 1.3).exp() * SECOND as f64) as u64
    };
    let lanes: Vec<LanePlan> = (0..500).map(|n| plain(&n.to_string(), 1, heavy())).collect();
    let plan = RunPlan { lanes: lanes.clone(), ..Default::default() };
    let work_of = |lane: u32| {
        let estimate = lanes[lane as usize].estimate.unwrap();
        (estimate, estimate)
    };
    let bound = bound(&plan, 10, work_of, |_| 1).longest();
    let taken = makespan(lanes.clone(), &[5, 5]);
    assert!(taken as f64 <= bound as f64 * 1.02, "{taken} beside {bound}");
}

#[test]
fn short_cases_are_given_ahead() {
    let mut play = Play::new(1);
    play.join(4, &Labels::new());
    play.planner.add_run(0, setup(vec![]));
    let run = setup(vec![plain("short", 100_000, 1_000)]);
    let number = play.planner.add_run(0, run);
    play.planner.start_run(0, number);
    let given: u32 =
        play.planner.decide(0).iter().flat_map(|made| &made.items).map(|item| item.count()).sum();
    assert_eq!(given, 4 * (1 + 64));
}

fn random_plan(random: &mut Random, cases: u64) -> Vec<LanePlan> {
    let mut lanes = Vec::new();
    for n in 0..cases {
        let mut lane = plain(
            &format!("case{n}"),
            1 + random.below(12) as u32,
            1_000 * (1 + random.below(5_000)),
        );
        if random.chance(20) {
            lane.estimate = None;
        }
        if random.chance(30) {
            lane.tags.push(format!("t{}", random.below(4)).into());
            if random.chance(40) {
                lane.tags.push(format!("u{}", random.below(3)).into());
            }
            lane.chain = random.chance(30);
        }
        if random.chance(15) {
            lane.slots = 2;
        }
        if random.chance(20) {
            lane.requires = std::sync::Arc::new(BTreeMap::from([("os".into(), "linux".into())]));
        }
        if random.chance(20) {
            lane.environment = "staging".into();
        }
        lane.priority = random.below(3) as i32;
        lane.retries = Retries {
            test: random.below(3) as u32,
            infra: random.below(3) as u32,
            backoff_ms: random.below(3_000),
        };
        lane.is_skipped = random.chance(3);
        if n > 0 && random.chance(40) {
            let lane_before = random.below(n) as u32;
            let scope = match random.below(4) {
                0 if lanes
                    .get(lane_before as usize)
                    .is_some_and(|l: &LanePlan| l.total >= lane.total) =>
                {
                    Scope::Repeat
                }
                _ => Scope::Run,
            };
            let policy =
                [Policy::Ended, Policy::Passed, Policy::Ratio(0.5)][random.below(3) as usize];
            if scope != Scope::Repeat || policy != Policy::Ratio(0.5) {
                lane.predecessors.push(PlannedPredecessor { lane: lane_before, scope, policy });
            }
        }
        if random.chance(5) {
            lane.global_predecessors.push(format!("case{}", n + 100).into());
        }
        lanes.push(lane);
    }
    lanes
}

fn play_at_random(seed: u64) {
    let mut random = Random(seed);
    let mut play = Play::new(seed);
    play.failing = random.below(40);
    play.in_pieces = random.below(60);
    play.durations =
        Box::new(|random, plan, _| 1 + random.below(2 * plan.estimate.unwrap_or(SECOND)));
    let linux = BTreeMap::from([("os".to_string(), "linux".to_string())]);
    play.join(2 + random.below(4) as u32, &linux);
    for _ in 0..random.below(5) {
        let labels = if random.chance(50) { linux.clone() } else { Labels::new() };
        let worker = play.join(1 + random.below(5) as u32, &labels);
        if random.chance(40) {
            play.kill_at(random.below(20 * SECOND), worker);
        }
    }
    if random.chance(50) {
        play.limit(&LockName::Tag("t1".into()), 1 + random.below(3) as u32);
    }
    if random.chance(50) {
        play.limit(&LockName::Environment("staging".into()), 1 + random.below(3) as u32);
    }
    let mut runs = Vec::new();
    for _ in 0..1 + random.below(3) {
        let cases = 1 + random.below(20);
        let lanes = random_plan(&mut random, cases);
        let run = RunSetup {
            queue: ["a", "b"][random.below(2) as usize].into(),
            priority: random.below(3) as i32,
            failures_max: random.chance(10).then_some(3),
            deadline: random.chance(10).then_some(5_000),
            ..setup(lanes)
        };
        runs.push((
            run.plan.lanes.iter().map(|lane| u64::from(lane.total)).sum::<u64>(),
            play.submit(run),
        ));
    }
    if random.chance(50) {
        play.limit(&LockName::Environment("staging".into()), 1 + random.below(3) as u32);
    }
    play.finish();
    for (total, run) in runs {
        let totals = play.planner.totals(run).unwrap();
        assert_eq!((totals.total, totals.ended()), (total, total));
        play.planner.remove_run(run);
    }
    assert_eq!(play.planner.leftovers(), "");
}

#[test]
fn no_rule_is_broken_whatever_happens() {
    for seed in 0..400 {
        let played = std::panic::catch_unwind(|| play_at_random(seed));
        assert!(played.is_ok(), "seed {seed}");
    }
}

#[test]
fn a_skipped_predecessor_counts_as_not_passed() {
    let mut play = Play::new(1);
    play.join(1, &Labels::new());
    let lanes = vec![
        LanePlan { is_skipped: true, ..plain("a", 2, SECOND) },
        LanePlan {
            predecessors: vec![PlannedPredecessor { policy: Policy::Passed, ..after(0) }],
            ..plain("b", 3, SECOND)
        },
        LanePlan { predecessors: vec![after(1)], ..plain("c", 1, SECOND) },
    ];
    let run = play.submit(setup(lanes));
    play.finish();
    let totals = play.planner.totals(run).unwrap();
    assert_eq!((totals.get(Status::Skipped), totals.get(Status::Passed)), (5, 1));
}
