//! `quoin bench planner`: how many tasks a second one core gives out and takes back, without store and
//! network, by the processor time that it takes.

use super::args::PlannerArgs;
use super::{BenchError, process};
use crate::scheduler::model::{
    Environment, Labels, Outline, Policy, Predecessor, Row, RunPlan, RunSpec, Scope, Selected,
    Status, TagUse, TestCase, expand,
};
use crate::scheduler::planner::{Assignment, Planner, RunSetup, Tags};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

const WORKERS: u32 = 64;
const SLOTS: u32 = 32;
const QUEUES: u32 = 4;
/// How fast claims end, as far as the planner sees: what has waited for seconds is treated otherwise.
const CLAIMS_PER_MS: u64 = 10;

/// Numbers without order, always the same.
fn scattered(number: u32) -> u32 {
    (u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32
}

fn plain(number: u32) -> TestCase {
    let id = format!("case-{number:07}");
    TestCase { id, slots: 1, timeout_ms: 60_000, est_ms: Some(1_000), ..TestCase::default() }
}

/// Half of the cases have tags, a third of those two; three in ten wait for another, in each of the ways
/// that there are; some want labels, two slots, or to go first; all last differently.
fn ruled(number: u32) -> TestCase {
    let draw = scattered(number);
    let mut case = plain(number);
    case.est_ms = Some(u64::from(100 + draw % 10_000));
    case.priority = (draw % 3) as i32;
    case.slots = 1 + u32::from(draw.is_multiple_of(10));
    if draw.is_multiple_of(2) {
        case.mutual_tag.push(TagUse::from(&*format!("tag-{}", draw / 2 % 500)));
        if draw.is_multiple_of(6) {
            case.mutual_tag.push(TagUse::from(&*format!("other-{}", draw / 6 % 100)));
        }
    }
    if number > 0 && draw / 16 % 10 < 3 {
        let mut before = Predecessor::from(&*plain(number - 1).id);
        before.scope = [Scope::Run, Scope::Repeat, Scope::Global][(draw / 256 % 3) as usize];
        before.policy = if draw.is_multiple_of(4) { Policy::Passed } else { Policy::Ended };
        case.case_pre.push(before);
    }
    if (draw / 64).is_multiple_of(10) {
        case.requires = labels(draw / 1_024 % 4);
    }
    case
}

fn labels(group: u32) -> Labels {
    [("group".to_owned(), group.to_string())].into()
}

fn planned(cases: &[TestCase], repeats: u32, environments: &[&str]) -> Result<RunPlan, BenchError> {
    let outlines: BTreeMap<&str, Outline> =
        cases.iter().map(|case| (&*case.id, Outline::from(case))).collect();
    let select = |case: &TestCase| Selected { case: case.id.clone(), repeats: None };
    let spec = RunSpec {
        cases: cases.iter().map(select).collect(),
        environments: environments.iter().map(|id| (*id).to_owned()).collect(),
        repeats,
        queue: "default".to_owned(),
        ..RunSpec::default()
    };
    let place = |id: &&str| Environment { id: (*id).to_owned(), ..Environment::default() };
    let places = environments.iter().map(|id| ((*id).to_owned(), place(id))).collect();
    expand(&spec, |id| outlines.get(id), &places)
        .map_err(|refusal| BenchError::Usage(refusal.to_string()))
}

/// What one core did of a load.
struct Measured {
    tasks: u64,
    /// Tasks a second that were given out and taken back.
    rate: f64,
    /// Seconds that it took before that to make their runs known.
    adding: f64,
}

/// Gives out all tasks and takes them back, the oldest claim first.
fn measure(plans: Vec<RunPlan>) -> Result<Measured, BenchError> {
    let mut planner = Planner::new();
    for number in 0..WORKERS {
        planner.worker_joins(format!("w{number}").into(), &labels(number % 4), SLOTS, 2 * SLOTS);
    }
    for queue in 0..QUEUES {
        planner.set_weight(&queue.to_string().into(), 1 + queue);
    }
    let tasks: u64 =
        plans.iter().flat_map(|plan| &plan.lanes).map(|lane| u64::from(lane.total)).sum();
    let begin = process::own_cpu_seconds()?;
    for (plan, number) in plans.into_iter().zip(0..) {
        let queue: Arc<str> = (number % QUEUES).to_string().into();
        let setup =
            RunSetup { name: format!("run-{number}").into(), plan, queue, ..RunSetup::default() };
        let run = planner.add_run(0, setup);
        planner.start_run(0, run);
    }
    let known = process::own_cpu_seconds()?;
    let (mut out, mut ended, mut claims): (VecDeque<Assignment>, u64, u64) = Default::default();
    loop {
        let now = claims / CLAIMS_PER_MS;
        out.extend(planner.decide(now));
        claims += 1;
        let Some(claim) = out.pop_front() else { break };
        let row = |lane, ordinal, attempt| Row {
            lane,
            ordinal,
            attempt,
            status: Status::Passed,
            start: now,
            duration: 1_000,
            detail: None,
        };
        let rows: Vec<Row> = claim
            .items
            .iter()
            .flat_map(|item| (item.from..item.to).map(|at| row(item.lane, at, item.attempt)))
            .collect();
        ended += rows.len() as u64;
        planner.deliver(now, claim.claim, &rows, &[], Tags::Free);
        planner.take_notes();
        planner.advance(now);
    }
    if ended != tasks {
        return Err(BenchError::Usage(format!("{ended} of {tasks} tasks have run")));
    }
    let took = process::own_cpu_seconds()? - known;
    Ok(Measured { tasks, rate: tasks as f64 / took, adding: known - begin })
}

/// Measures all loads. What is missed is said at the end of a line.
///
/// # Errors
/// When a plan does not fit together, or not all of its tasks run.
pub(super) fn run(args: &PlannerArgs) -> Result<String, BenchError> {
    let cases = |count: u32, make: fn(u32) -> TestCase| (0..count).map(make).collect::<Vec<_>>();
    let some = 1_000.min(args.tasks);
    let all_rules = cases(some, ruled);
    let ten = (0..10).map(|_| planned(&all_rules, args.tasks.div_ceil(10 * some), &[]));
    let wide = cases(args.tasks.div_ceil(5), ruled);
    let loads = [
        ("repeats", vec![planned(&cases(some, plain), args.tasks.div_ceil(some), &[])?]),
        ("distinct", vec![planned(&cases(args.tasks, plain), 1, &[])?]),
        ("repeats, all rules", ten.collect::<Result<_, _>>()?),
        ("distinct, all rules", vec![planned(&wide, 1, &["lab", "field"])?]),
    ];
    let mut text = String::from("planner     on one core\n");
    for (name, plans) in loads {
        let Measured { tasks, rate, adding } = measure(plans)?;
        let missed = args.goals.iter().find(|goal| !goal.is_met(rate));
        let missed = missed.map_or_else(String::new, |goal| format!("  MISSED {goal}"));
        // Writing to a string cannot fail.
        let _infallible = writeln!(
            text,
            "  {name:<20}{rate:>10.0} a second of {tasks}, made known in {adding:.2} s{missed}"
        );
    }
    Ok(text)
}
