//! Loads whose outcome is known beforehand, and random ones in which every rule is checked.

use super::play::{Play, Random, Setting, after, plain, setup};
use super::{LockName, RunSetup, Tags, Verdict, Why, bound};
use crate::scheduler::model::{
    Item, Labels, LanePlan, OnLost, PlannedPredecessor, Policy, Retries, Row, RunPlan, Scope,
    Status,
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
fn a_chain_is_longer_while_nobody_else_wants_its_tag() {
    let of_tag = |case: &str, tag: &str, on_lost| LanePlan {
        tags: vec![tag.into()],
        chain: true,
        on_lost,
        ..plain(case, 20, 3 * SECOND)
    };
    let mut planner = super::Planner::new();
    planner.worker_joins("w".into(), &Labels::new(), 8, 0);
    let lanes = vec![
        of_tag("alone", "a", OnLost::Retry),
        of_tag("alone, once", "b", OnLost::Never),
        of_tag("one of two", "c", OnLost::Retry),
        of_tag("the other", "c", OnLost::Retry),
    ];
    let run = planner.add_run(0, setup(lanes));
    planner.start_run(0, run);
    let given = planner.decide(0).into_iter();
    let mut given: Vec<(u32, u32)> =
        given.map(|made| (made.items[0].lane, made.items.iter().map(Item::count).sum())).collect();
    given.sort_unstable();
    assert_eq!(given, [(0, 3), (1, 1), (2, 1)]);
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
    let plan = RunPlan { lanes: lanes.clone() };
    let work_of = |lane: u32| {
        let estimate = lanes[lane as usize].estimate.unwrap();
        (estimate, estimate)
    };
    let bound = bound(&plan, 10, work_of, |_| None).longest();
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

/// Somebody limits, closes and opens what is there; in the end all of it is open.
fn set_at_random(random: &mut Random, play: &mut Play) {
    let names = [
        LockName::Environment("staging".into()),
        LockName::Queue("a".into()),
        LockName::Queue("b".into()),
    ];
    for name in &names {
        for _ in 0..random.below(4) {
            let capacity = [1, 2, 5, u32::MAX][random.below(4) as usize];
            play.set_at(random.below(90 * SECOND), name, Setting::Capacity(capacity));
            let closed = random.below(90 * SECOND);
            play.set_at(closed, name, Setting::Closed(true));
            play.set_at(closed + random.below(90 * SECOND), name, Setting::Closed(false));
        }
    }
}

fn play_at_random(seed: u64) {
    let mut random = Random(seed);
    let mut play = Play::new(seed);
    play.failing = random.below(40);
    play.in_pieces = random.below(60);
    play.durations =
        Box::new(|random, plan, _| 1 + random.below(2 * plan.estimate.unwrap_or(SECOND)));
    let linux = BTreeMap::from([("os".to_string(), "linux".to_string())]);
    let first = play.join(2 + random.below(4) as u32, &linux);
    // Apart, so that all else goes as it did without.
    let mut rests = Random(!seed);
    let rest = |rests: &mut Random, play: &mut Play, worker| {
        for _ in 0..rests.below(3) {
            let at = rests.below(30 * SECOND);
            play.rest_at(at, at + rests.below(10 * SECOND), worker);
        }
    };
    rest(&mut rests, &mut play, first);
    for _ in 0..random.below(5) {
        let labels = if random.chance(50) { linux.clone() } else { Labels::new() };
        let worker = play.join(1 + random.below(5) as u32, &labels);
        if random.chance(40) {
            play.kill_at(random.below(20 * SECOND), worker);
        }
        rest(&mut rests, &mut play, worker);
    }
    if random.chance(50) {
        play.limit(&LockName::Tag("t1".into()), 1 + random.below(3) as u32);
    }
    if random.chance(50) {
        play.limit(&LockName::Environment("staging".into()), 1 + random.below(3) as u32);
    }
    set_at_random(&mut random, &mut play);
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

#[test]
fn tasks_of_several_slots_do_not_starve() {
    let mut play = Play::new(1);
    play.join(4, &Labels::new());
    let flood = play.submit(setup(vec![plain("small", 400, SECOND)]));
    let large = LanePlan { slots: 4, ..plain("large", 3, SECOND) };
    let run = play.submit(RunSetup { priority: 1, ..setup(vec![large]) });
    // Ends differ, so that slots become free one by one.
    play.durations = Box::new(|random, _, _| SECOND / 2 + random.below(SECOND));
    play.finish();
    let last = |run| play.ends_of(run).max().unwrap();
    assert!(last(run) < 15 * SECOND, "{}", last(run));
    assert!(last(flood) > 100 * SECOND);
}

/// Those that want a tag wait in one queue with those that want none.
fn beside_a_tag() -> (Play, [super::RunNo; 3]) {
    let mut play = Play::new(1);
    play.join(4, &Labels::new());
    play.limit(&LockName::Queue("default".into()), 100);
    let tagged = |case, time| LanePlan { tags: vec!["t".into()], ..plain(case, 1, time) };
    let first = play.submit(setup(vec![tagged("first", 100 * SECOND)]));
    let second = play.submit(setup(vec![tagged("second", SECOND)]));
    let third = play.submit(setup(vec![plain("third", 1_000, SECOND)]));
    (play, [first, second, third])
}

#[test]
fn one_that_waits_long_for_a_tag_leaves_its_queue_to_others() {
    let (mut play, [_, second, third]) = beside_a_tag();
    play.finish();
    assert_eq!(play.ends_of(second).max(), Some(101 * SECOND));
    // Three slots, and the fourth when the tag is done with.
    assert!(play.ends_of(third).max() < Some(280 * SECOND));
}

#[test]
fn a_limit_that_comes_later_does_not_stop_those_that_keep_something() {
    let (mut play, [_, second, _]) = beside_a_tag();
    let of_lab = |case| LanePlan {
        environment: "lab".into(),
        tags: vec!["t".into()],
        ..plain(case, 3, SECOND)
    };
    // One keeps its place before there is a limit, the other afterwards.
    let late = LanePlan { predecessors: vec![after(1)], ..of_lab("late") };
    play.submit(setup(vec![of_lab("early"), plain("before", 1, 50 * SECOND), late]));
    play.set_at(60 * SECOND, &LockName::Environment("lab".into()), Setting::Capacity(1));
    play.finish();
    assert_eq!(play.ends_of(second).max(), Some(101 * SECOND));
}

#[test]
fn what_waits_for_something_closed_keeps_nothing_from_others() {
    let (mut play, _) = beside_a_tag();
    let lab = LockName::Environment("lab".into());
    let lane =
        LanePlan { environment: "lab".into(), tags: vec!["t".into()], ..plain("a", 1, SECOND) };
    let closed = play.submit(setup(vec![lane]));
    play.set_at(1, &lab, Setting::Closed(true));
    play.set_at(60 * SECOND, &lab, Setting::Closed(false));
    play.set_at(70 * SECOND, &lab, Setting::Closed(true));
    play.set_at(1_000 * SECOND, &lab, Setting::Closed(false));
    let late = LanePlan { tags: vec!["t".into()], ..plain("late", 1, SECOND) };
    let late = play.submit(setup(vec![late]));
    play.finish();
    assert!(play.ends_of(late).max() < Some(110 * SECOND));
    assert_eq!(play.ends_of(closed).max(), Some(1_001 * SECOND));
}

#[test]
fn what_no_worker_can_run_keeps_nothing_from_others() {
    let mut play = Play::new(1);
    let linux = BTreeMap::from([("os".to_string(), "linux".to_string())]);
    play.join(1, &Labels::new());
    let gone = play.join(1, &linux);
    let tags = vec!["t".into(), "u".into()];
    let tagged = |case| LanePlan { tags: tags.clone(), ..plain(case, 1, SECOND) };
    let long = LanePlan { tags: tags.clone(), ..plain("long", 1, 100 * SECOND) };
    play.submit(RunSetup { priority: 5, ..setup(vec![long]) });
    let lane = LanePlan { requires: std::sync::Arc::new(linux), ..tagged("nowhere") };
    let nowhere = play.submit(RunSetup {
        priority: 2,
        no_worker_timeout: Some(300_000),
        ..setup(vec![lane])
    });
    let other = play.submit(setup(vec![tagged("other")]));
    play.kill_at(50 * SECOND, gone);
    play.finish();
    assert!(play.ends_of(other).max() < Some(150 * SECOND));
    assert_eq!(play.planner.totals(nowhere).unwrap().get(Status::Skipped), 1);
}

#[test]
fn a_closed_environment_says_why_its_tasks_wait() {
    let mut planner = super::Planner::new();
    planner.worker_joins("w".into(), &Labels::new(), 8, 64);
    let lane = |case| LanePlan { environment: "lab".into(), ..plain(case, 2, SECOND) };
    let run = planner.add_run(0, setup(vec![lane("a"), plain("b", 1, SECOND)]));
    planner.start_run(0, run);
    let (lab, queue) = (LockName::Environment("lab".into()), LockName::Queue("default".into()));
    planner.set_closed(&lab, Some("maintenance".into()));
    let given = |planner: &mut super::Planner| -> Vec<u32> {
        planner.decide(0).iter().flat_map(|made| &made.items).map(|item| item.lane).collect()
    };
    assert_eq!(given(&mut planner), [1]);
    let id = super::LaneId { run, lane: 0 };
    let why = planner.why(id);
    let closed = Why::EnvironmentClosed { environment: "lab".into(), reason: "maintenance".into() };
    assert_eq!(why, Some(closed));
    planner.set_closed(&queue, Some("paused".into()));
    planner.set_closed(&lab, None);
    assert!(given(&mut planner).is_empty());
    assert_eq!(planner.why(id), Some(Why::QueuePaused { queue: "default".into() }));
    planner.set_closed(&queue, None);
    planner.set_capacity(&lab, 1);
    assert_eq!(planner.decide(0)[0].items[0].count(), 1);
    planner.set_capacity(&lab, u32::MAX);
    assert_eq!(given(&mut planner), [0]);
}

#[test]
fn a_full_environment_and_a_full_queue_bound_a_run() {
    let mut planner = super::Planner::new();
    let lane = |case| LanePlan { environment: "lab".into(), ..plain(case, 2, SECOND) };
    let run = planner.add_run(0, setup(vec![lane("a"), lane("b"), plain("c", 2, SECOND)]));
    let bound = |planner: &super::Planner| {
        let found = planner.bound(run, 6, |_| (2 * SECOND, SECOND)).unwrap();
        (found.work, found.limit, found.chain, found.cause())
    };
    assert_eq!(bound(&planner), (SECOND, 0, SECOND, "work"));
    planner.set_capacity(&LockName::Environment("lab".into()), 1);
    assert_eq!(bound(&planner), (SECOND, 4 * SECOND, 2 * SECOND, "limit"));
    planner.set_capacity(&LockName::Queue("default".into()), 2);
    assert_eq!(bound(&planner), (SECOND, 4 * SECOND, 2 * SECOND, "limit"));
    planner.set_capacity(&LockName::Environment("lab".into()), u32::MAX);
    assert_eq!(bound(&planner), (SECOND, 3 * SECOND, SECOND, "limit"));
    planner.set_capacity(&LockName::Queue("default".into()), u32::MAX);
    assert_eq!(bound(&planner), (SECOND, 0, SECOND, "work"));
}

#[test]
fn people_take_manual_cases_and_no_slots() {
    let mut planner = super::Planner::new();
    let manual = LanePlan { is_manual: true, ..plain("look", 3, SECOND) };
    let desk = LanePlan { tags: vec!["desk".into()], ..manual.clone() };
    let run = planner.add_run(0, setup(vec![manual, desk]));
    planner.start_run(0, run);
    let made = planner.decide(0);
    assert!(made.iter().all(|made| made.worker == planner.people()));
    let counts: Vec<u32> = made.iter().map(|made| made.items[0].count()).collect();
    assert_eq!(counts, [3, 1], "under a tag one by one");
    assert_eq!(planner.why(super::LaneId { run, lane: 0 }), Some(Why::Person));
    assert_eq!(planner.capacity(), 0);
}

#[test]
fn slots_that_can_run_nothing_of_a_run_are_none_of_it() {
    let mut planner = super::Planner::new();
    let labels = |name: &str| Labels::from([(name.to_owned(), String::new())]);
    let fit = planner.worker_joins("fit".into(), &labels("gpu"), 2, 0);
    planner.worker_joins("large".into(), &labels("gpu"), 8, 0);
    planner.worker_joins("other".into(), &labels("lamp"), 16, 0);
    let gpu = LanePlan { requires: labels("gpu").into(), ..plain("render", 3, SECOND) };
    let wide = LanePlan { slots: 4, ..gpu.clone() };
    let manual = LanePlan { is_manual: true, ..plain("look", 3, SECOND) };
    let small = planner.add_run(0, setup(vec![gpu, manual.clone()]));
    let large = planner.add_run(0, setup(vec![wide]));
    let people = planner.add_run(0, setup(vec![manual]));
    let of = |planner: &super::Planner| [small, large, people].map(|run| planner.capacity_for(run));
    assert_eq!((planner.capacity(), of(&planner)), (26, [10, 8, 0]));
    assert_eq!(planner.remaining(people), None);
    planner.worker_leaves(fit);
    assert_eq!(of(&planner), [8, 8, 0]);
}

#[test]
fn what_nobody_knows_counts_as_long() {
    let mut planner = super::Planner::new();
    planner.worker_joins("w".into(), &Labels::new(), 1, 0);
    let mut lanes: Vec<LanePlan> =
        (1..=10).map(|n| plain(&format!("known{n}"), 1, n * SECOND)).collect();
    lanes.push(LanePlan { estimate: None, ..plain("new", 1, 0) });
    let run = planner.add_run(0, setup(lanes));
    planner.start_run(0, run);
    let mut order = Vec::new();
    while let Some(made) = planner.decide(0).pop() {
        order.push(made.items[0].lane);
        planner.deliver(0, made.claim, &[row(made.items[0], Status::Passed)], &[], Tags::Free);
    }
    // As long as the ninth of ten: only the longest goes before it, and its equal.
    assert_eq!(order[..3], [9, 8, 10]);
}

#[test]
fn what_kills_workers_takes_no_others_with_it() {
    let mut planner = super::Planner::new();
    let chain = LanePlan { tags: vec!["t".into()], chain: true, ..plain("a", 4, 1_000) };
    let run = planner.add_run(0, setup(vec![chain]));
    planner.start_run(0, run);
    let mut join = {
        let mut count = 0;
        move |planner: &mut super::Planner| {
            count += 1;
            planner.worker_joins(format!("w{count}").into(), &Labels::new(), 4, 64)
        }
    };
    for _ in 0..2 {
        let worker = join(&mut planner);
        let made = planner.decide(0).pop().unwrap();
        assert_eq!(made.items.iter().map(Item::count).sum::<u32>(), 4);
        planner.worker_leaves(worker);
        let mut rows = Vec::new();
        for item in &made.items {
            let tasks = (item.from..item.to).map(|from| Item { from, to: from + 1, ..*item });
            rows.extend(tasks.map(|task| row(task, Status::Lost)));
        }
        planner.deliver(0, made.claim, &rows, &[], Tags::Free);
    }
    for ordinal in 0..4 {
        join(&mut planner);
        let made = planner.decide(0).pop().unwrap();
        assert_eq!(made.items, [Item { lane: 0, from: ordinal, to: ordinal + 1, attempt: 3 }]);
        let status = if ordinal == 2 { Status::Lost } else { Status::Passed };
        let rows = [row(made.items[0], status)];
        planner.deliver(0, made.claim, &rows, &[], Tags::Free);
    }
    let totals = planner.totals(run).unwrap();
    assert_eq!((totals.get(Status::Passed), totals.get(Status::Lost)), (3, 1));
}

#[test]
fn failures_count_on_under_a_new_leader() {
    let mut planner = super::Planner::new();
    planner.worker_joins("w".into(), &Labels::new(), 1, 0);
    let lanes = vec![plain("a", 5, SECOND)];
    let run = planner.add_run(0, RunSetup { failures_max: Some(2), ..setup(lanes) });
    let item = |from| Item { lane: 0, from, to: from + 1, attempt: 1 };
    for ordinal in 0..2 {
        let row = row(item(ordinal), Status::Failed);
        assert_eq!(planner.restore_row(run, &row, &"w".into()), Verdict::Ended(Status::Failed, 0));
    }
    planner.start_run(0, run);
    assert!(planner.decide(0).is_empty());
    assert_eq!(planner.totals(run).unwrap().get(Status::Skipped), 3);
}

#[test]
fn rests_go_on_under_a_new_leader() {
    let retries = Retries { test: 1, infra: 0, backoff_ms: 20_000 };
    let plan = || setup(vec![LanePlan { retries, ..plain("a", 2, SECOND) }]);
    let item = |from, attempt| Item { lane: 0, from, to: from + 1, attempt };
    let failed = Row { start: 1_000, duration: 500_000, ..row(item(0, 1), Status::Failed) };
    let mut known = None;
    // First from results, then from what was written down.
    for _ in 0..2 {
        let mut planner = super::Planner::new();
        planner.worker_joins("w".into(), &Labels::new(), 4, 0);
        let run = planner.add_run(3_000, plan());
        let id = super::LaneId { run, lane: 0 };
        match known.take() {
            Some(known) => planner.restore_lane(id, known),
            None => {
                let verdict = planner.restore_row(run, &failed, &"w".into());
                assert_eq!(verdict, Verdict::Again(20_000));
            }
        }
        known = planner.checkpoint(id);
        planner.start_run(3_000, run);
        let given = |planner: &mut super::Planner, now| -> Vec<Item> {
            planner.advance(now);
            planner.decide(now).into_iter().flat_map(|made| made.items).collect()
        };
        assert_eq!(given(&mut planner, 3_000), [item(1, 1)]);
        assert_eq!(planner.why(id), Some(Why::Resting));
        assert_eq!(planner.next_timer(), Some(21_500));
        assert_eq!(given(&mut planner, 21_499), []);
        assert_eq!(given(&mut planner, 21_500), [item(0, 2)]);
    }
}

fn row(item: Item, status: Status) -> Row {
    let Item { lane, from: ordinal, attempt, .. } = item;
    Row { lane, ordinal, attempt, status, start: 0, duration: 1, detail: None }
}
