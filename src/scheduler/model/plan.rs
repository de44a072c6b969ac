//! From a submit to lanes: what a run is made of once definitions, predecessors and environments
//! are looked up and found to fit together.

use super::case::TIMEOUT_MS_MAX;
use super::refusal::CIRCLE_STEP;
use super::run::TASKS_MAX;
use super::{
    CaseState, Environment, Health, Kind, Labels, Missing, OnLost, Outline, Policy, Predecessor,
    Refusal, Repeats, Retries, RunSpec, Scope, TagScope,
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
    pub cases: Vec<(&'a Outline, Repeats)>,
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
        Ok((case, choice.repeats.clone().unwrap_or(spec.repeats.into())))
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
    selected: impl Iterator<Item = Result<(&'a Outline, Repeats), Refusal>>,
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
    // Repeats of what runs again are not those that they were: all wait for all where one has fewer.
    if spec.rerun_of.is_none() {
        survey.check_repeats()?;
    }
    Ok(survey)
}

impl Survey<'_> {
    pub fn tasks(&self) -> u64 {
        let repeats = self.cases.iter().map(|(_, repeats)| repeats.sum(self.places.len()));
        repeats.fold(0, u64::saturating_add)
    }

    /// What waits for each repeat of another has no more of them.
    fn check_repeats(&self) -> Result<(), Refusal> {
        for (case, repeats) in &self.cases {
            for before in case.case_pre.iter().filter(|before| before.scope == Scope::Repeat) {
                let Some(place) = self.index.get(before.case.as_str()) else { continue };
                let of_before = &self.cases[*place].1;
                let has_fewer =
                    |place: &&str| (1..repeats.within(place)).contains(&of_before.within(place));
                let mut places = self.places.iter().map(|place| name_of(*place));
                if let Some(place) = places.find(has_fewer) {
                    let place = match (repeats, of_before) {
                        (Repeats::Same(_), Repeats::Same(_)) => String::new(),
                        _ => format!(" in environment {place}"),
                    };
                    let message = format!(
                        "case {}: waits for each repeat of {}, which has fewer{place}",
                        case.id, before.case
                    );
                    return Err(Refusal::malformed(message).about("case", &case.id));
                }
            }
        }
        Ok(())
    }

    /// Both a case's labels and its environment's must be a worker's: none can have two values of one.
    fn check_labels(&self) -> Result<(), Refusal> {
        for environment in self.places.iter().flatten().filter(|place| !place.labels.is_empty()) {
            let here = self.cases.iter().filter(|(_, repeats)| repeats.within(&environment.id) > 0);
            for (case, _) in here {
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

    /// How many lanes have tasks.
    pub fn lanes(&self) -> usize {
        self.cases.iter().map(|(_, repeats)| repeats.width(self.places.len())).sum()
    }

    /// The lanes: also those of cases in environments in which they do not run, which have no tasks.
    pub fn plan(self, spec: &RunSpec) -> RunPlan {
        let mut requires = Arc::<Labels>::default();
        let mut lanes = Vec::with_capacity(self.cases.len() * self.places.len());
        for (place, environment) in self.places.iter().enumerate() {
            let first = (place * self.cases.len()) as u32;
            for (case, repeats) in &self.cases {
                let place = name_of(*environment);
                let mut lane = lane(spec, case, repeats.within(place), *environment);
                // Most want the same, which is kept once.
                if lane.requires == requires {
                    lane.requires = requires.clone();
                }
                requires = lane.requires.clone();
                for predecessor in &case.case_pre {
                    if let Some(before) = self.index.get(predecessor.case.as_str()) {
                        let repeats = self.cases[*before].1.within(place);
                        let scope = match predecessor.scope {
                            Scope::Repeat if repeats < lane.total => Scope::Run,
                            scope => scope,
                        };
                        let (before, policy) = (first + *before as u32, predecessor.policy);
                        let planned = PlannedPredecessor { lane: before, scope, policy };
                        lane.predecessors.extend((repeats > 0).then_some(planned));
                    }
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
    selected: impl Iterator<Item = Result<(&'a Outline, Repeats), Refusal>>,
    find: impl Fn(&str) -> Option<&'a Outline>,
) -> Result<Survey<'a>, Refusal> {
    let mut warnings = Vec::new();
    let mut cases: Vec<(&Outline, Repeats)> = Vec::with_capacity(selected.size_hint().0);
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
                if let Some(sum) = sum.add(&repeats, &spec.environments) {
                    warnings.push(format!("case {} is selected twice: {sum} repeats", case.id));
                }
            }
            Entry::Vacant(place) => {
                place.insert(cases.len());
                cases.push((case, repeats));
            }
        }
    }
    complete(spec, &mut cases, &mut index, find)?;
    Ok(Survey { cases, index, places: Vec::new(), warnings })
}

/// Looks at what the cases wait for: adds what is to be pulled in, refuses what is not there.
fn complete<'a>(
    spec: &RunSpec,
    cases: &mut Vec<(&'a Outline, Repeats)>,
    index: &mut BTreeMap<&'a str, usize>,
    find: impl Fn(&str) -> Option<&'a Outline>,
) -> Result<(), Refusal> {
    let mut next = 0;
    let mut included = Included { from: cases.len(), within: BTreeMap::new() };
    // Those that run in more environments than when they were looked at.
    let mut again: Vec<usize> = Vec::new();
    while next < cases.len() || !again.is_empty() {
        let number = again.pop().unwrap_or_else(|| {
            next += 1;
            next - 1
        });
        let (case, repeats) = cases[number].clone();
        for Predecessor { case: before, soft, scope, .. } in &case.case_pre {
            if *soft || *scope == Scope::Global || spec.missing == Missing::Ignore {
                continue;
            }
            let known = index.get(before.as_str()).copied();
            if spec.missing == Missing::Refuse {
                let place = match known.map(|known| &cases[known].1) {
                    None => String::new(),
                    Some(of_before) => match repeats.beyond(of_before, &spec.environments).next() {
                        Some(environment) => format!(" in environment {environment}"),
                        None => continue,
                    },
                };
                let message = format!(
                    "case {} waits for {before}, which is not selected{place}: \
                     include missing predecessors, or ignore them",
                    case.id
                );
                return Err(Refusal::new(422, message).about("case", &case.id));
            }
            let known = match known {
                Some(known) => known,
                None => {
                    let pulled = find(before).filter(|case| !case.is_deleted);
                    let pulled = pulled.ok_or_else(|| {
                        let text = format!("unknown case {before}, for which {} waits", case.id);
                        Refusal::new(404, text).about("case", &case.id)
                    })?;
                    index.insert(&pulled.id, cases.len());
                    let repeats = match &repeats {
                        Repeats::Same(_) => spec.repeats.into(),
                        Repeats::Each(_) => Repeats::default(),
                    };
                    cases.push((pulled, repeats));
                    cases.len() - 1
                }
            };
            let filled = cases[known].1.fill(&repeats, spec.repeats, &spec.environments);
            if !filled.is_empty() && known < next {
                again.push(known);
            }
            if !filled.is_empty() && known < included.from {
                included.within.entry(known).or_default().extend(filled);
            }
        }
    }
    included.raise(spec, cases, index);
    Ok(())
}

/// Where cases were pulled in that others wait for.
struct Included<'s> {
    /// Cases from this one on were in all their environments.
    from: usize,
    /// And of those before, these in some.
    within: BTreeMap<usize, BTreeSet<&'s String>>,
}

impl Included<'_> {
    /// Gives what was pulled in as many repeats as those have that wait for each of its repeats.
    fn raise(
        &self,
        spec: &RunSpec,
        cases: &mut [(&Outline, Repeats)],
        index: &BTreeMap<&str, usize>,
    ) {
        if self.from == cases.len() && self.within.is_empty() {
            return;
        }
        let mut left: Vec<usize> = (0..cases.len()).rev().collect();
        while let Some(number) = left.pop() {
            let (case, repeats) = cases[number].clone();
            for before in case.case_pre.iter().filter(|before| before.scope == Scope::Repeat) {
                let Some(known) = index.get(before.case.as_str()).copied() else { continue };
                let within = self.within.get(&known);
                let may = |place: &str| {
                    known >= self.from
                        || within.is_some_and(|within| within.iter().any(|one| *one == place))
                };
                if cases[known].1.raise(&repeats, &spec.environments, may) {
                    left.push(known);
                }
            }
        }
    }
}

fn name_of(place: Option<&Environment>) -> &str {
    place.map_or("", |environment| &environment.id)
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
    let place = name_of(environment);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::model::TestCase;
    use serde_json::{Value, json};

    /// Lanes with tasks as `case@environment:total`, each with those that it waits for as a whole in
    /// brackets and for each repeat in braces; or what the refusal says.
    fn planned(cases: Value, run: Value) -> String {
        let cases: Vec<TestCase> = serde_json::from_value(cases).unwrap();
        let outlines: BTreeMap<String, Outline> =
            cases.iter().map(|case| (case.id.clone(), Outline::from(case))).collect();
        let environment = |id: &str| Environment { id: id.into(), ..Default::default() };
        let places = ["e", "f"].map(|id| (id.to_owned(), environment(id))).into();
        let spec: RunSpec = serde_json::from_value(run).unwrap();
        let survey = match survey(&spec, |id| outlines.get(id), &places) {
            Ok(survey) => survey,
            Err(refusal) => return refusal.to_string(),
        };
        let (tasks, lanes) = (survey.tasks(), survey.lanes());
        let mut said = survey.warnings.clone();
        let plan = survey.plan(&spec);
        assert_eq!(tasks, plan.lanes.iter().map(|lane| u64::from(lane.total)).sum::<u64>());
        assert_eq!(lanes, plan.lanes.iter().filter(|lane| lane.total > 0).count());
        for lane in plan.lanes.iter().filter(|lane| lane.total > 0) {
            let mut text = format!("{}@{}:{}", lane.case, lane.environment, lane.total);
            for before in &lane.predecessors {
                let case = &plan.lanes[before.lane as usize].case;
                text += &match before.scope {
                    Scope::Repeat => format!("{{{case}}}"),
                    _ => format!("[{case}]"),
                };
            }
            said.push(text);
        }
        said.join(" ")
    }

    fn case(id: &str, before: &[Value]) -> Value {
        json!({"id": id, "url": "http://127.0.0.1/", "case_pre": before})
    }

    #[test]
    fn what_is_included_has_as_many_repeats_as_those_that_wait_for_each() {
        let after = |case: &str| json!({"case": case, "scope": "repeat"});
        let softly = json!({"case": "a", "scope": "repeat", "soft": true});
        let cases = json!([
            case("a", &[]),
            case("b", &[after("a")]),
            case("c", &[after("b"), json!("d")]),
            case("d", &[]),
            case("s", &[softly]),
        ]);
        let run = |selected: Value, places: Value| {
            let run = json!({"cases": selected, "environments": places, "missing": "include"});
            planned(cases.clone(), run)
        };
        let one = |id: &str, repeats: Value| json!({"case": id, "repeats": repeats});
        // However far away, and only where it is waited for by repeat.
        let three = json!([one("c", json!(3))]);
        assert_eq!(run(three.clone(), json!([])), "c@:3{b}[d] b@:3{a} d@:1 a@:3");
        let both = json!(["e", "f"]);
        let expected = "c@e:3{b}[d] b@e:3{a} d@e:1 a@e:3 c@f:3{b}[d] b@f:3{a} d@f:1 a@f:3";
        assert_eq!(run(three, both.clone()), expected);
        // The most in each environment, whoever comes first.
        let some = json!([one("s", json!({"f": 4})), one("b", json!({"e": 2, "f": 3}))]);
        let expected = "b@e:2{a} a@e:2 s@f:4{a} b@f:3{a} a@f:4";
        assert_eq!(run(some, both.clone()), expected);
        // What was selected stays as it is; what was added to it elsewhere does not.
        let added = json!([one("a", json!({"e": 2})), one("b", json!({"e": 2, "f": 5}))]);
        assert_eq!(run(added, both.clone()), "a@e:2 b@e:2{a} a@f:5 b@f:5{a}");
        let fewer = json!([one("a", json!(2)), one("b", json!(3))]);
        let text = "case b: waits for each repeat of a, which has fewer";
        assert_eq!(run(fewer, both.clone()), text);
        let fewer = json!([one("a", json!(2)), one("b", json!({"f": 3}))]);
        assert_eq!(run(fewer, both), format!("{text} in environment f"));
    }

    #[test]
    fn repeats_may_differ_by_environment() {
        let after = |case: &str| json!({"case": case, "scope": "repeat"});
        let cases = json!([case("a", &[]), case("b", &[json!("a")]), case("c", &[after("b")])]);
        let both = json!(["e", "f"]);
        let run = |selected: Value, more: Value| {
            let mut run = json!({"cases": selected, "environments": both});
            run.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            planned(cases.clone(), run)
        };
        let refuse = json!({});
        let ignore = json!({"missing": "ignore"});
        let include = json!({"missing": "include", "repeats": 4});
        let again = json!({"missing": "ignore", "rerun_of": "r0"});
        let one = |id: &str, repeats: Value| json!({"case": id, "repeats": repeats});
        let some = json!([one("a", json!({"e": 2})), one("b", json!({"e": 3, "f": 1}))]);
        let text = "case b waits for a, which is not selected in environment f: \
                    include missing predecessors, or ignore them";
        assert_eq!(run(some.clone(), refuse.clone()), text);
        assert_eq!(run(some.clone(), ignore.clone()), "a@e:2 b@e:3[a] b@f:1");
        assert_eq!(run(some, include.clone()), "a@e:2 b@e:3[a] a@f:4 b@f:1[a]");
        let far = json!([one("c", json!({"f": 3}))]);
        assert_eq!(run(far, include.clone()), "c@f:3{b} b@f:4[a] a@f:4");
        // What waits for one that is pulled in later, and is itself there elsewhere.
        let mixed = json!([one("b", json!({"e": 5})), one("c", json!({"e": 2, "f": 3}))]);
        let expected = "b@e:5[a] c@e:2{b} a@e:4 b@f:4[a] c@f:3{b} a@f:4";
        assert_eq!(run(mixed.clone(), include), expected);
        assert_eq!(run(mixed, ignore.clone()), "b@e:5 c@e:2{b} c@f:3");
        // What has more repeats than what they wait for.
        let more = json!([one("b", json!({"e": 1})), one("c", json!({"e": 2}))]);
        let text = "case c: waits for each repeat of b, which has fewer in environment e";
        assert_eq!(run(more.clone(), ignore), text);
        assert_eq!(run(more, again), "b@e:1 c@e:2[b]");
        let twice = json!([one("a", json!(2)), one("a", json!({"f": 3}))]);
        let text = "case a is selected twice: 5 repeats a@e:2 a@f:5";
        assert_eq!(run(twice, refuse.clone()), text);
        let apart = json!([one("a", json!({"e": 2})), one("a", json!({"f": 2}))]);
        assert_eq!(run(apart, refuse.clone()), "a@e:2 a@f:2");
        for (repeats, text) in [
            (json!({}), "case a: repeats name no environment"),
            (json!({"e": 0}), "case a: 0 repeats in environment e"),
            (json!({"g": 1}), "case a: repeats in environment g, which the run does not name"),
            (json!(0), "case a: 0 repeats"),
        ] {
            assert_eq!(run(json!([one("a", repeats)]), refuse.clone()), text);
        }
    }
}
