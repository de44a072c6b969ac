//! Runs from submit to end: read from the store, started, paused, canceled, closed.

use super::histories::Source;
use super::{Control, Coordinator, Request, Run, RunStatus, parse};
use crate::scheduler::keys;
use crate::scheduler::model::{
    Definitions, Environment, LaneCheckpoint, Outline, Repeats, Row, Rules, RunPlan, RunSpec,
    Segment, Status, Unread, count, expand, survey_of,
};
use crate::scheduler::planner::{LaneId, RunNo, RunSetup};
use crate::scheduler::store::{Change, Commit, Kv};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Checkpoints of lanes: the value of `run/{run}/lane/{n}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LanePack {
    /// The revision up to which results are counted.
    pub folded: i64,
    pub lanes: BTreeMap<u32, LaneCheckpoint>,
}

/// A run as it was submitted. With a million cases it takes seconds to find out what it is made of, for
/// which no coordinator is needed.
#[derive(Debug)]
pub struct OpenedRun {
    /// Without its cases.
    spec: RunSpec,
    plan: RunPlan,
}

impl OpenedRun {
    /// From its keys; nothing if they are not what a submit writes. A run that is canceled ends all the same: there is
    /// nothing in it then.
    pub fn read(run: &str, kvs: &[Kv]) -> Option<Self> {
        let definitions = keys::definition_packs(run);
        let packs = kvs.iter().filter(|kv| kv.key.starts_with(&definitions));
        let read = packs.into_iter().try_fold(Read::default(), |mut read, kv| {
            read.pack(kv)?;
            Some(read)
        });
        Self::new(run, read, kvs)
    }

    /// The same, and takes its definitions out of its keys.
    pub fn take(run: &str, kvs: &mut Vec<Kv>) -> Option<Self> {
        let definitions = keys::definition_packs(run);
        let mut read = Some(Read::default());
        kvs.retain_mut(|kv| {
            let is_definition = kv.key.starts_with(&definitions);
            if is_definition {
                // Its text is not kept while the next is read: together they are long.
                let kv = std::mem::take(kv);
                read = read.take().and_then(|mut read| read.pack(&kv).map(|()| read));
            }
            !is_definition
        });
        Self::new(run, read, kvs)
    }

    fn new(run: &str, read: Option<Read>, kvs: &[Kv]) -> Option<Self> {
        let spec = spec_of(run, kvs)?;
        let control = keys::control(run);
        let control = kvs.iter().find(|kv| kv.key == control).and_then(parse::<Control>);
        let plan = match read.and_then(|read| read.plan(&spec)) {
            Some((_, plan)) => plan,
            None if control == Some(Control::Canceled) => RunPlan::default(),
            None => return None,
        };
        Some(Self { spec: RunSpec { cases: Vec::new(), ..spec }, plan })
    }
}

fn spec_of(run: &str, kvs: &[Kv]) -> Option<RunSpec> {
    let key = keys::run(run);
    parse(kvs.iter().find(|kv| kv.key == key)?)
}

/// Definitions of a run as they are read, pack by pack.
#[derive(Default)]
struct Read {
    outlines: Vec<Outline>,
    /// Of each, where the run does not name its cases.
    repeats: Vec<Repeats>,
    /// Of the case that was read last.
    rules: Option<Arc<Rules>>,
    environments: Vec<Environment>,
}

impl Read {
    fn pack(&mut self, kv: &Kv) -> Option<()> {
        let pack = Definitions::outlines(&kv.value, &mut self.rules).ok()?;
        self.outlines.extend(pack.cases);
        self.repeats.extend(pack.repeats);
        self.environments.extend(pack.environments);
        Some(())
    }

    /// Whoever submits has done the same with the same result, so that it cannot fail for a run that
    /// exists.
    fn plan(self, spec: &RunSpec) -> Option<(Vec<Environment>, RunPlan)> {
        let Self { outlines, repeats, environments, .. } = self;
        let of_run = environments.iter();
        let of_run = of_run.map(|found| (found.id.clone(), found.clone())).collect();
        let plan = if spec.cases.is_empty() {
            // All that it has are here in their order, also those that were pulled in.
            let selected = outlines.iter().zip(repeats).map(Ok);
            survey_of(spec, selected, |_| None, &of_run).ok()?.plan(spec)
        } else {
            let by_id: BTreeMap<&str, &Outline> =
                outlines.iter().map(|outline| (&*outline.id, outline)).collect();
            expand(spec, |id| by_id.get(id).copied(), &of_run).ok()?
        };
        Some((environments, plan))
    }
}

impl Coordinator {
    /// A run and its other keys, read at one revision, in answer to `Request::ReadRun`.
    pub fn run_read(&mut self, now: u64, run: &str, opened: Option<OpenedRun>, kvs: &[Kv]) {
        let wanted = self.reading.remove(run).flatten();
        if self.runs.contains_key(run) {
            return;
        }
        if let Some(number) = self.add_run(now, run, opened, kvs) {
            self.planner.start_run(now, number);
            self.apply_control(now, run);
            if let Some(control) = wanted {
                self.control(now, run, control);
            }
        }
    }

    /// A run has been submitted. What came with one commit as a whole needs not be read.
    pub(super) fn opened(&mut self, now: u64, run: &str, commit: &Commit) {
        if self.runs.contains_key(run) {
            return;
        }
        let (spec, parts) = (keys::run(run), keys::run_parts(run));
        let is_of_run = |kv: &&Kv| kv.key == spec || kv.key.starts_with(&parts);
        let puts = commit.changes.iter().filter_map(|change| match change {
            Change::Put(kv) => Some(kv),
            Change::Delete { .. } => None,
        });
        let kvs: Vec<Kv> = puts.filter(is_of_run).cloned().collect();
        match has_all_definitions(run, &kvs) {
            true => self.run_read(now, run, OpenedRun::read(run, &kvs), &kvs),
            false => {
                self.reading.insert(run.to_owned(), None);
                self.requests.push(Request::ReadRun { run: run.to_owned() });
            }
        }
    }

    /// Hands a run to the planner with what is known of it, without starting it.
    pub(super) fn add_run(
        &mut self,
        now: u64,
        name: &str,
        opened: Option<OpenedRun>,
        kvs: &[Kv],
    ) -> Option<RunNo> {
        let Some(OpenedRun { spec, mut plan }) = opened else {
            self.unread.insert(name.to_owned());
            return None;
        };
        self.unread.remove(name);
        let submitted = spec.submitted;
        plan.lanes.iter_mut().for_each(|lane| self.estimate(lane));
        let lanes = plan.lanes.len() as u32;
        let queue = spec.queue.as_str().into();
        let setup = RunSetup {
            name: name.into(),
            plan,
            queue,
            priority: spec.priority,
            deadline: spec.deadline_ms.map(|deadline| submitted.saturating_add(deadline)),
            no_worker_timeout: spec.no_worker_timeout_ms,
            failures_max: spec.failures_max,
        };
        let number = self.planner.add_run(now, setup);
        let find = |key: String| kvs.iter().find(|kv| kv.key == key);
        let status: Option<RunStatus> = find(keys::status(name)).and_then(parse);
        let slots = status.map_or(0, |status| status.slots);
        let run = Run {
            number,
            control: find(keys::control(name)).and_then(parse).unwrap_or_default(),
            spec,
            dirty: Default::default(),
            shown: "",
            was_given: false,
            is_busy: false,
            is_over: false,
            is_closing: false,
            end: None,
            lanes,
            tally: Default::default(),
            slots: slots.max(self.planner.capacity_for(number)),
        };
        self.runs.insert(name.to_owned(), run);
        self.run_names.insert(number, name.to_owned());
        self.restore_lanes(number, name, kvs);
        Some(number)
    }

    /// Checkpoints, and then results that they do not hold yet.
    fn restore_lanes(&mut self, run: RunNo, name: &str, kvs: &[Kv]) {
        let mut folded: BTreeMap<u32, i64> = BTreeMap::new();
        let prefix = format!("{}lane/", keys::run_parts(name));
        for kv in kvs.iter().filter(|kv| kv.key.starts_with(&prefix)) {
            let Some(pack) = parse::<LanePack>(kv) else { continue };
            for (lane, known) in pack.lanes {
                folded.insert(lane / keys::LANES_PER_KEY, pack.folded);
                self.planner.restore_lane(LaneId { run, lane }, known);
            }
        }
        let prefix = keys::segments(name);
        let mut segments: Vec<&Kv> = kvs.iter().filter(|kv| kv.key.starts_with(&prefix)).collect();
        segments.sort_by_key(|kv| kv.mod_revision);
        for kv in segments {
            let Some((_, worker, _)) = keys::parse_segment(&kv.key) else { continue };
            let worker: Arc<str> = worker.into();
            let Some(segment) = parse::<Segment>(kv) else { continue };
            let is_new = |row: &Row| {
                let folded = folded.get(&(row.lane / keys::LANES_PER_KEY)).copied();
                kv.mod_revision > folded.unwrap_or(0)
            };
            let of = Source { run: name, number: run, worker: &worker, revision: kv.mod_revision };
            for row in &segment.rows {
                if is_new(row) {
                    let verdict = self.planner.restore_row(run, row, &worker);
                    self.count(of, row, verdict);
                } else if let Some(run) = self.runs.get_mut(name) {
                    // Whether it was tried again is not known any more: its time counts once.
                    run.tally.row(row, &worker, true);
                }
            }
        }
    }

    pub(super) fn control(&mut self, now: u64, run: &str, control: Control) {
        let Some(found) = self.runs.get_mut(run) else {
            // What is read of it may be older.
            if let Some(wanted) = self.reading.get_mut(run) {
                *wanted = Some(control);
            } else if control == Control::Canceled && self.unread.contains(run) {
                self.reading.insert(run.to_owned(), Some(control));
                self.requests.push(Request::ReadRun { run: run.to_owned() });
            }
            return;
        };
        // There is no way back from canceled.
        if found.control != Control::Canceled {
            found.control = control;
            found.shown = "";
            self.apply_control(now, run);
        }
    }

    pub(super) fn apply_control(&mut self, now: u64, name: &str) {
        let Some(run) = self.runs.get(name) else { return };
        match run.control {
            Control::Running => self.planner.resume_run(now, run.number),
            Control::Paused => self.planner.pause_run(run.number),
            Control::Canceled => {
                self.planner.stop_run(now, run.number, Status::Canceled);
                let number = run.number;
                for key in self.claims_in_store(number) {
                    self.cancel(now, &key);
                }
            }
        }
    }

    /// A run is no longer open: nothing of it is needed here.
    pub(super) fn closed(&mut self, name: &str) {
        let Some(run) = self.runs.get(name).filter(|run| run.is_over) else { return };
        self.planner.remove_run(run.number);
        self.run_names.remove(&run.number);
        self.counts.runs.extend(self.runs.remove(name).and_then(|run| run.end));
    }
}

/// Whether the definitions of all cases of a run are among these keys.
fn has_all_definitions(run: &str, kvs: &[Kv]) -> bool {
    let prefix = keys::definition_packs(run);
    let packs = kvs.iter().filter(|kv| kv.key.starts_with(&prefix));
    let counts = packs.filter_map(|kv| count(&kv.value));
    let (found, total) = counts.fold((0, 0), |(found, _), (more, total)| (found + more, total));
    total > 0 && found == total as usize
}

/// The lanes of a run as they follow from the copies of its definitions, and those of its cases.
pub(in crate::scheduler) fn plan_of(
    spec: &RunSpec,
    name: &str,
    kvs: &[Kv],
) -> Option<(Vec<Environment>, RunPlan, Vec<Unread>)> {
    let definitions = keys::definition_packs(name);
    let (mut read, mut cases) = (Read::default(), Vec::new());
    for kv in kvs.iter().filter(|kv| kv.key.starts_with(&definitions)) {
        read.pack(kv)?;
        cases.extend(Definitions::unread(&kv.value).ok()?.cases);
    }
    let (environments, plan) = read.plan(spec)?;
    Some((environments, plan, cases))
}
