//! Counts results into histories of cases, each once whatever becomes of the leader: a history says
//! up to which revision results are counted in it, and results of runs that go on are read again by
//! a new leader.
//!
//! Histories of all cases are in memory: some hundred bytes each.

use super::{Coordinator, Request, parse};
use crate::planted::{self, Bug};
use crate::scheduler::analysis::{self, Ended, FlakeRule, fingerprint};
use crate::scheduler::keys;
use crate::scheduler::model::{LanePlan, Row};
use crate::scheduler::planner::{LaneId, RunNo, Verdict};
use crate::scheduler::record::{History, Latest, message};
use crate::scheduler::store::Kv;
use std::collections::BTreeSet;

/// Where and when a result was recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub run: &'a str,
    pub number: RunNo,
    pub worker: &'a str,
    pub revision: i64,
}

/// No task is thought to be shorter, in microseconds: histories count in milliseconds.
const SHORTEST_US: u64 = 500;

impl Coordinator {
    pub(super) fn load_history(&mut self, kv: &Kv) {
        if let Some(history) = parse::<History>(kv) {
            self.histories.insert(kv.key.clone(), history);
        }
    }

    /// What the past says of a lane's tasks goes before what its case says.
    pub(super) fn estimate(&self, plan: &mut LanePlan) {
        let history = self.histories.get(&keys::stats(&plan.case, &plan.environment));
        if let Some(known) = history.and_then(|history| history.stats.estimate()) {
            plan.estimate = Some(known.saturating_mul(1_000).max(SHORTEST_US));
        }
    }

    /// Counts the end of an attempt that was not counted before: in the run, and if the task has
    /// ended by it in the history of its case.
    pub(super) fn count(&mut self, of: Source<'_>, row: &Row, verdict: Verdict) {
        let Some(run) = self.runs.get_mut(of.run) else { return };
        let is_last = matches!(verdict, Verdict::Ended(..) | Verdict::GivenUp(_));
        if verdict != Verdict::Refused {
            *self.counts.attempts.entry(row.status).or_default() += 1;
        }
        run.tally.row(row, of.worker, is_last);
        if let Verdict::Ended(_, failed) = verdict {
            let pack = run.dirty.entry(row.lane / keys::LANES_PER_KEY).or_default();
            pack.insert(row.lane);
            self.fold(of, row, failed);
        }
    }

    /// Counts the end of a task in the history of its case, unless that holds it already.
    fn fold(&mut self, of: Source<'_>, row: &Row, failed: u32) {
        let Some(verdict) = analysis::Verdict::of(row.status, failed) else { return };
        let id = LaneId { run: of.number, lane: row.lane };
        let Some((case, environment)) = self.planner.names(id) else { return };
        let (key, is_muted) = (keys::stats(case, environment), self.planner.is_muted(id));
        let history = self.histories.entry(key.clone()).or_default();
        if of.revision <= history.folded && !planted::has(Bug::HistoryCountedTwice) {
            return;
        }
        let fingerprint = match verdict.is_pass() {
            true => String::new(),
            false => fingerprint(message(row.detail.as_ref())),
        };
        let at = row.start + row.duration / 1_000;
        let ended = Ended {
            verdict,
            run: of.run,
            at,
            duration_ms: row.duration / 1_000,
            revision: of.revision,
            fingerprint: &fingerprint,
        };
        let has_recovered = history.add(&ended, is_muted, &FlakeRule::default());
        // A new leader reads one run after the other.
        let is_newest = self.latest.get(&key).is_none_or(|known| known.revision <= of.revision);
        if is_newest {
            self.latest.insert(key, Latest::of(of.run, of.worker, of.revision, row));
        }
        if has_recovered {
            let case = case.clone();
            self.recovered(&case, at);
        }
    }

    /// Lets the mute of a case end once it has recovered wherever it has run lately, at a time in
    /// milliseconds since 1970.
    fn recovered(&mut self, case: &str, now: u64) {
        let of_case = keys::stats_of(case);
        let histories = self.histories.range(of_case.clone()..);
        let histories = histories.take_while(|(key, _)| key.starts_with(&of_case));
        let mut recovered: Option<u64> = None;
        for (_, history) in histories {
            match history.recovered {
                Some(at) => recovered = Some(recovered.map_or(at, |first| first.min(at))),
                None if FlakeRule::default().has_run(&history.stats, now) => return,
                None => {}
            }
        }
        if let Some(recovered) = recovered {
            self.requests.push(Request::EndMute { case: case.to_owned(), recovered });
        }
    }

    /// What an earlier leader may not have come to.
    pub(super) fn end_mutes(&mut self, now: u64) {
        let recovered = self.histories.iter().filter(|(_, history)| history.recovered.is_some());
        let cases = recovered.filter_map(|(key, _)| Some(keys::parse_stats(key)?.0.to_owned()));
        for case in cases.collect::<BTreeSet<String>>() {
            self.recovered(&case, now);
        }
    }
}
