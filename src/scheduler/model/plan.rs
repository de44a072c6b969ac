//! From a submit to lanes: what a run is made of once definitions, predecessors and environments
//! are looked up and found to fit together.

use super::case::TIMEOUT_MS_MAX;
use super::refusal::CIRCLE_STEP;
use super::run::TASKS_MAX;
use super::{
    CaseState, Environment, Health, Kind, Labels, Missing, OnLost, Outline, Policy, Predecessor,
    Refusal, Retries, RunSpec, Scope, TagScope,
};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A run as the planner takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunPlan {
    pub lanes: Vec<LanePlan>,
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

/// What a submit selects, found to fit together. It may be a million cases.
#[derive(Debug)]
pub struct Survey<'a> {
    /// With their repeats, in the order of the lanes of an environment.
    pub cases: Vec<(&'a Outline, u32)>,
    /// Where a case is among them.
    index: BTreeMap<&'a str, usize>,
    places: Vec<Option<&'a Environment>>,
    /// What the user should know, though the run is accepted.
    pub warnings: Vec<String>,
}

/// Looks at a submit; `find` looks a case up by its id.
///
/// # Errors
///
/// 404 for an unknown case or environment; 400 for a circle of predecessors, with its path, and for
/// too many tasks; 422 for a predecessor that is not selected, for a retired environment, and for labels
/// that no worker can have.
pub fn survey<'a>(
    spec: &RunSpec,
    find: impl Fn(&str) -> Option<&'a Outline>,
    environments: &'a BTreeMap<String, Environment>,
) -> Result<Survey<'a>, Refusal> {
    spec.check()?;
    let selected = spec.cases.iter().map(|choice| {
        let case = find(&choice.case).ok_or_else(|| unknown(&choice.case))?;
        Ok((case, choice.repeats.unwrap_or(spec.repeats)))
    });
    survey_of(spec, selected, &find, environments)
}

/// The same for cases that have been looked up, with their repeats, whatever the run names.
///
/// # Errors
///
/// As `survey`.
pub fn survey_of<'a>(
    spec: &RunSpec,
    selected: impl Iterator<Item = Result<(&'a Outline, u32), Refusal>>,
    find: impl Fn(&str) -> Option<&'a Outline>,
    environments: &'a BTreeMap<String, Environment>,
) -> Result<Survey<'a>, Refusal> {
    let mut survey = select(spec, selected, find)?;
    survey.places = places(spec, environments)?;
    let order = survey.cases.iter().map(|(case, _)| (&*case.id, &case.case_pre[..]));
    if let Some(path) = find_circle(order) {
        let text = format!("cases wait for each other: {path}");
        return Err(Refusal::malformed(text).about_circle(&path));
    }
    survey.check_labels()?;
    let tasks = survey.tasks();
    if tasks > TASKS_MAX {
        return Err(Refusal::malformed(format!("{tasks} tasks are more than {TASKS_MAX}")));
    }
    for (case, repeats) in &survey.cases {
        for before in case.case_pre.iter().filter(|before| before.scope == Scope::Repeat) {
            let place = survey.index.get(before.case.as_str());
            if place.is_some_and(|place| survey.cases[*place].1 < *repeats) {
                let message = format!(
                    "case {}: waits for each repeat of {}, which has fewer",
                    case.id, before.case
                );
                return Err(Refusal::malformed(message).about("case", &case.id));
            }
        }
    }
    Ok(survey)
}

impl Survey<'_> {
    pub fn tasks(&self) -> u64 {
        let repeats: u64 = self.cases.iter().map(|(_, repeats)| u64::from(*repeats)).sum();
        repeats.saturating_mul(self.places.len() as u64)
    }

    /// Both a case's labels and its environment's must be a worker's: none can have two values of one.
    fn check_labels(&self) -> Result<(), Refusal> {
        for environment in self.places.iter().flatten().filter(|place| !place.labels.is_empty()) {
            for (case, _) in &self.cases {
                let mut wanted = case.requires.iter();
                let other = wanted.find_map(|(name, value)| {
                    let other = environment.labels.get(name).filter(|other| *other != value)?;
                    Some((name, value, other))
                });
                if let Some((name, value, other)) = other {
                    let (case, place) = (&case.id, &environment.id);
                    let text = format!(
                        "case {case} requires {name}={value}, and environment {place} {name}={other}: \
                         no worker has both"
                    );
                    return Err(Refusal::new(422, text).about("case", case));
                }
            }
        }
        Ok(())
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.cases.len() * self.places.len()
    }

    /// The lanes.
    pub fn plan(self, spec: &RunSpec) -> RunPlan {
        let mut requires = Arc::<Labels>::default();
        let mut lanes = Vec::with_capacity(self.lanes());
        for (place, environment) in self.places.iter().enumerate() {
            let first = (place * self.cases.len()) as u32;
            for (case, repeats) in &self.cases {
                let mut lane = lane(spec, case, *repeats, *environment);
                // Most want the same, which is kept once.
                if lane.requires == requires {
                    lane.requires = requires.clone();
                }
                requires = lane.requires.clone();
                for predecessor in &case.case_pre {
                    let before = self.index.get(predecessor.case.as_str());
                    lane.predecessors.extend(before.map(|before| PlannedPredecessor {
                        lane: first + *before as u32,
                        scope: predecessor.scope,
                        policy: predecessor.policy,
                    }));
                    if predecessor.scope == Scope::Global {
                        lane.global_predecessors.push(predecessor.case.as_str().into());
                    }
                }
                lanes.push(lane);
            }
        }
        RunPlan { lanes }
    }
}

/// Makes lanes of a submit.
///
/// # Errors
///
/// As `survey`.
pub fn expand<'a>(
    spec: &RunSpec,
    find: impl Fn(&str) -> Option<&'a Outline>,
    environments: &'a BTreeMap<String, Environment>,
) -> Result<RunPlan, Refusal> {
    Ok(survey(spec, find, environments)?.plan(spec))
}

/// The cases of the run, in the order of the selection; predecessors that are pulled in come last.
fn select<'a>(
    spec: &RunSpec,
    selected: impl Iterator<Item = Result<(&'a Outline, u32), Refusal>>,
    find: impl Fn(&str) -> Option<&'a Outline>,
) -> Result<Survey<'a>, Refusal> {
    let mut warnings = Vec::new();
    let mut cases: Vec<(&Outline, u32)> = Vec::with_capacity(selected.size_hint().0);
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    for choice in selected {
        let (case, repeats) = choice?;
        // What ran once may run again.
        if case.is_deleted && spec.rerun_of.is_none() {
            return Err(unknown(&case.id));
        }
        match index.entry(&case.id) {
            Entry::Occupied(place) => {
                let sum = &mut cases[*place.get()].1;
                *sum = sum.saturating_add(repeats);
                warnings.push(format!("case {} is selected twice: {sum} repeats", case.id));
            }
            Entry::Vacant(place) => {
                place.insert(cases.len());
                cases.push((case, repeats));
            }
        }
    }
    let mut next = 0;
    while next < cases.len() {
        let (case, _) = cases[next];
        next += 1;
        for Predecessor { case: before, soft, scope, .. } in &case.case_pre {
            if index.contains_key(before.as_str()) || *soft || *scope == Scope::Global {
                continue;
            }
            match spec.missing {
                Missing::Ignore => {}
                Missing::Include => {
                    let pulled = find(before).filter(|case| !case.is_deleted);
                    let pulled = pulled.ok_or_else(|| {
                        let text = format!("unknown case {before}, for which {} waits", case.id);
                        Refusal::new(404, text).about("case", &case.id)
                    })?;
                    index.insert(&pulled.id, cases.len());
                    cases.push((pulled, spec.repeats));
                }
                Missing::Refuse => {
                    let message = format!(
                        "case {} waits for {before}, which is not selected: \
                         include missing predecessors, or ignore them",
                        case.id
                    );
                    return Err(Refusal::new(422, message).about("case", &case.id));
                }
            }
        }
    }
    Ok(Survey { cases, index, places: Vec::new(), warnings })
}

fn unknown(id: &str) -> Refusal {
    Refusal::new(404, format!("unknown case {id}"))
}

fn places<'a>(
    spec: &RunSpec,
    environments: &'a BTreeMap<String, Environment>,
) -> Result<Vec<Option<&'a Environment>>, Refusal> {
    if spec.environments.is_empty() {
        return Ok(vec![None]);
    }
    let find = |id: &String| {
        let found = environments.get(id);
        let found = found.filter(|found| !found.is_deleted || spec.rerun_of.is_some());
        let found = found.ok_or_else(|| Refusal::new(404, format!("unknown environment {id}")))?;
        match found.health {
            Health::Retired => {
                let text = format!("environment {id} is retired");
                Err(Refusal::new(422, text).about("environment", id))
            }
            _ => Ok(Some(found)),
        }
    };
    spec.environments.iter().map(find).collect()
}

fn lane(spec: &RunSpec, case: &Outline, total: u32, environment: Option<&Environment>) -> LanePlan {
    let place = environment.map_or("", |environment| &environment.id);
    let tag = |used: &super::TagUse| match used.scope {
        TagScope::Global => used.tag.as_str().into(),
        TagScope::Run => format!("{}/run/{}", used.tag, spec.id).into(),
        TagScope::Env => format!("{}/env/{place}", used.tag).into(),
    };
    let mut tags: Vec<Arc<str>> = case.tags.iter().map(tag).collect();
    tags.sort_unstable();
    let mut requires = case.requires.clone();
    requires.extend(environment.map(|found| found.labels.clone()).unwrap_or_default());
    if case.kind == Kind::Command {
        requires.insert(crate::scheduler::keys::COMMANDING.to_owned(), String::new());
    }
    LanePlan {
        case: case.id.clone(),
        environment: place.into(),
        total,
        slots: case.slots,
        priority: case.priority,
        tags,
        chain: !case.tags.is_empty() && case.tags.iter().all(|used| used.chain),
        requires: requires.into(),
        predecessors: Vec::new(),
        global_predecessors: Vec::new(),
        retries: case.retries,
        on_lost: case.on_lost,
        timeout_ms: case.timeout_ms,
        estimate: case.est_ms.map(|estimate| estimate.min(TIMEOUT_MS_MAX) * 1_000),
        is_manual: case.kind == Kind::Manual,
        is_muted: case.state == CaseState::Muted,
        is_skipped: case.state == CaseState::Skipped,
    }
}

/// The path of a circle among cases with their predecessors, if there is one: `a -> b -> a`, each
/// waiting for the next.
pub fn find_circle<'a>(
    cases: impl Iterator<Item = (&'a str, &'a [Predecessor])>,
) -> Option<String> {
    // Those that wait for nobody are on no circle.
    let cases: Vec<_> = cases.filter(|(_, before)| !before.is_empty()).collect();
    let index: BTreeMap<&str, usize> =
        cases.iter().zip(0..).map(|((id, _), place)| (*id, place)).collect();
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
            let Some(before) = cases[*case].1.get(*next) else {
                done[*case] = true;
                continue;
            };
            *next += 1;
            let Some(&before) = index.get(before.case.as_str()) else { continue };
            if on_way.insert(before) {
                way.push((before, 0));
            } else if let Some(from) = way.iter().position(|(case, _)| *case == before) {
                let mut path: Vec<&str> =
                    way[from..].iter().map(|(case, _)| cases[*case].0).collect();
                path.push(cases[before].0);
                return Some(path.join(CIRCLE_STEP));
            }
        }
    }
    None
}
