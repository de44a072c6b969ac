//! From a submit to lanes: what a run is made of once definitions, predecessors and environments
//! are looked up and found to fit together.

use super::run::TASKS_MAX;
use super::{
    CaseState, Environment, Health, Kind, Labels, Missing, OnLost, Policy, Predecessor, Refusal,
    Retries, RunSpec, Scope, TagScope, TestCase,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A run as the planner takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPlan {
    pub lanes: Vec<LanePlan>,
    /// What the user should know, though the run is accepted.
    pub warnings: Vec<String>,
}

/// One case in one environment of a run. All its tasks are alike for every rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LanePlan {
    pub case: Arc<str>,
    /// Empty where the run names none.
    pub environment: Arc<str>,
    /// Repeats.
    pub total: u32,
    pub slots: u32,
    pub priority: i32,
    /// The parts of tags' keys behind `tag/`, in order.
    pub tags: Vec<Arc<str>>,
    pub chain: bool,
    pub requires: Arc<Labels>,
    pub predecessors: Vec<PlannedPredecessor>,
    /// Cases of which no task may be open in any run.
    pub global_predecessors: Vec<Arc<str>>,
    pub retries: Retries,
    pub on_lost: OnLost,
    pub timeout_ms: u64,
    /// Of one task, in microseconds, if known.
    pub estimate: Option<u64>,
    /// Waits for a person and takes no slot.
    pub is_manual: bool,
    pub is_muted: bool,
    /// Ends at once without having run.
    pub is_skipped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlannedPredecessor {
    pub lane: u32,
    pub scope: Scope,
    pub policy: Policy,
}

/// Makes lanes of a submit.
///
/// # Errors
///
/// 404 for an unknown case or environment; 400 for a circle of predecessors, with its path, and for
/// too many tasks; 422 for a predecessor that is not selected, and for a retired environment.
pub fn expand(
    spec: &RunSpec,
    cases: &BTreeMap<String, TestCase>,
    environments: &BTreeMap<String, Environment>,
) -> Result<RunPlan, Refusal> {
    spec.check()?;
    let mut warnings = Vec::new();
    let selected = select(spec, cases, &mut warnings)?;
    let places = places(spec, environments)?;
    let order: Vec<&TestCase> = selected.iter().map(|(case, _)| *case).collect();
    if let Some(path) = find_circle(&order) {
        return Err(Refusal::malformed(format!("cases wait for each other: {path}")));
    }
    let tasks: u64 = selected.iter().map(|(_, repeats)| u64::from(*repeats)).sum();
    let tasks = tasks.saturating_mul(places.len() as u64);
    if tasks > TASKS_MAX {
        return Err(Refusal::malformed(format!("{tasks} tasks are more than {TASKS_MAX}")));
    }
    let index: BTreeMap<&str, u32> =
        selected.iter().zip(0..).map(|((case, _), lane)| (case.id.as_str(), lane)).collect();
    let mut lanes = Vec::with_capacity(selected.len() * places.len());
    for (place, environment) in places.iter().enumerate() {
        let first = (place * selected.len()) as u32;
        for (case, repeats) in &selected {
            let mut lane = lane(spec, case, *repeats, *environment);
            for predecessor in &case.case_pre {
                let Some(before) = index.get(predecessor.case.as_str()) else {
                    if predecessor.scope == Scope::Global {
                        lane.global_predecessors.push(predecessor.case.as_str().into());
                    }
                    continue;
                };
                let fewer = selected[*before as usize].1 < *repeats;
                if predecessor.scope == Scope::Repeat && fewer {
                    let message = format!(
                        "case {}: waits for each repeat of {}, which has fewer",
                        case.id, predecessor.case
                    );
                    return Err(Refusal::malformed(message));
                }
                lane.predecessors.push(PlannedPredecessor {
                    lane: first + before,
                    scope: predecessor.scope,
                    policy: predecessor.policy,
                });
                if predecessor.scope == Scope::Global {
                    lane.global_predecessors.push(predecessor.case.as_str().into());
                }
            }
            lanes.push(lane);
        }
    }
    Ok(RunPlan { lanes, warnings })
}

/// The cases of the run with their repeats, in the order of the selection; predecessors that are
/// pulled in come last.
fn select<'a>(
    spec: &RunSpec,
    cases: &'a BTreeMap<String, TestCase>,
    warnings: &mut Vec<String>,
) -> Result<Vec<(&'a TestCase, u32)>, Refusal> {
    let find = |id: &str| {
        let case = cases.get(id).filter(|case| !case.is_deleted);
        case.ok_or_else(|| Refusal::new(404, format!("unknown case {id}")))
    };
    let mut selected: Vec<(&TestCase, u32)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for choice in &spec.cases {
        let repeats = choice.repeats.unwrap_or(spec.repeats);
        if let Some(place) = places.get(choice.case.as_str()) {
            let sum = &mut selected[*place].1;
            *sum = sum.saturating_add(repeats);
            warnings.push(format!("case {} is selected twice: {sum} repeats", choice.case));
            continue;
        }
        places.insert(&choice.case, selected.len());
        selected.push((find(&choice.case)?, repeats));
    }
    let mut next = 0;
    while next < selected.len() {
        let (case, _) = selected[next];
        next += 1;
        for Predecessor { case: before, soft, scope, .. } in &case.case_pre {
            if places.contains_key(before.as_str()) || *soft || *scope == Scope::Global {
                continue;
            }
            match spec.missing {
                Missing::Ignore => {}
                Missing::Include => {
                    let pulled = find(before)?;
                    places.insert(&pulled.id, selected.len());
                    selected.push((pulled, spec.repeats));
                }
                Missing::Refuse => {
                    let message = format!(
                        "case {} waits for {before}, which is not selected: \
                         include missing predecessors, or ignore them",
                        case.id
                    );
                    return Err(Refusal::new(422, message));
                }
            }
        }
    }
    Ok(selected)
}

fn places<'a>(
    spec: &RunSpec,
    environments: &'a BTreeMap<String, Environment>,
) -> Result<Vec<Option<&'a Environment>>, Refusal> {
    if spec.environments.is_empty() {
        return Ok(vec![None]);
    }
    let find = |id: &String| {
        let found = environments.get(id).filter(|environment| !environment.is_deleted);
        let found = found.ok_or_else(|| Refusal::new(404, format!("unknown environment {id}")))?;
        match found.health {
            Health::Retired => Err(Refusal::new(422, format!("environment {id} is retired"))),
            _ => Ok(Some(found)),
        }
    };
    spec.environments.iter().map(find).collect()
}

fn lane(
    spec: &RunSpec,
    case: &TestCase,
    total: u32,
    environment: Option<&Environment>,
) -> LanePlan {
    let place = environment.map_or("", |environment| &environment.id);
    let tag = |used: &super::TagUse| match used.scope {
        TagScope::Global => used.tag.as_str().into(),
        TagScope::Run => format!("{}/run/{}", used.tag, spec.id).into(),
        TagScope::Env => format!("{}/env/{place}", used.tag).into(),
    };
    let mut tags: Vec<Arc<str>> = case.mutual_tag.iter().map(tag).collect();
    tags.sort_unstable();
    let mut requires = case.requires.clone();
    requires.extend(environment.map(|found| found.labels.clone()).unwrap_or_default());
    LanePlan {
        case: case.id.as_str().into(),
        environment: place.into(),
        total,
        slots: case.slots,
        priority: case.priority,
        tags,
        chain: !case.mutual_tag.is_empty() && case.mutual_tag.iter().all(|used| used.chain),
        requires: requires.into(),
        predecessors: Vec::new(),
        global_predecessors: Vec::new(),
        retries: case.retries,
        on_lost: case.on_lost,
        timeout_ms: case.timeout_ms,
        estimate: case.est_ms.map(|estimate| estimate.saturating_mul(1_000)),
        is_manual: case.kind == Kind::Manual,
        is_muted: case.state == CaseState::Muted,
        is_skipped: case.state == CaseState::Skipped,
    }
}

/// The path of a circle among predecessors, if there is one: `a -> b -> a`, each waiting for the
/// next.
pub fn find_circle(cases: &[&TestCase]) -> Option<String> {
    let index: BTreeMap<&str, usize> =
        cases.iter().enumerate().map(|(place, case)| (case.id.as_str(), place)).collect();
    let mut done = vec![false; cases.len()];
    for start in 0..cases.len() {
        // The way down to the case in hand, each with the predecessor to be looked at next.
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        let mut on_way = BTreeSet::from([start]);
        while let Some((case, next)) = way.last_mut() {
            if done[*case] {
                on_way.remove(case);
                way.pop();
                continue;
            }
            let Some(before) = cases[*case].case_pre.get(*next) else {
                done[*case] = true;
                continue;
            };
            *next += 1;
            let Some(&before) = index.get(before.case.as_str()) else { continue };
            if on_way.insert(before) {
                way.push((before, 0));
            } else if let Some(from) = way.iter().position(|(case, _)| *case == before) {
                let mut path: Vec<&str> =
                    way[from..].iter().map(|(case, _)| cases[*case].id.as_str()).collect();
                path.push(&cases[before].id);
                return Some(path.join(" -> "));
            }
        }
    }
    None
}
