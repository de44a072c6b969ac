//! What must hold of everything that is kept of results: histories, latest results, reports, blocks.

use super::ledger::{RunLedger, ensure, parse};
use quoin::scheduler::keys;
use quoin::scheduler::model::{LanePlan, Row, Segment, Status};
use quoin::scheduler::record::{Block, EndedRun, History, Latest, Report};
use quoin::scheduler::store::{Change, Commit};
use std::collections::BTreeMap;

/// The end of a task, as its history has it.
#[derive(Clone, Debug)]
struct End {
    revision: i64,
    run: String,
    task: (u32, u32),
    is_pass: bool,
}

#[derive(Default)]
pub struct Past {
    /// Of each case in each environment, by the key of the history, in the order of revisions.
    ends: BTreeMap<String, Vec<End>>,
    /// Up to which revision each history counts.
    folded: BTreeMap<String, i64>,
    /// Segments that are at their own keys, by key.
    segments: BTreeMap<String, (i64, Segment)>,
    /// Results in blocks, by run.
    rolled: BTreeMap<String, usize>,
    reports: BTreeMap<String, Report>,
    runs_ended: BTreeMap<String, EndedRun>,
}

impl Past {
    pub fn ended(&mut self, run: &str, plan: &LanePlan, row: &Row, revision: i64) {
        // It did not run, or not to its end.
        if matches!(row.status, Status::Canceled | Status::Skipped) {
            return;
        }
        let end = End {
            revision,
            run: run.to_owned(),
            task: (row.lane, row.ordinal),
            is_pass: row.status == Status::Passed,
        };
        self.ends.entry(keys::stats(&plan.case, &plan.environment)).or_default().push(end);
    }

    pub fn take_in(
        &mut self,
        commit: &Commit,
        runs: &BTreeMap<String, RunLedger>,
    ) -> Result<(), String> {
        let mut moved: BTreeMap<String, (i64, Segment)> = BTreeMap::new();
        for change in &commit.changes {
            let Change::Put(kv) = change else { continue };
            if kv.key.starts_with(keys::STATS) {
                self.history(&kv.key, &parse(&kv.value)?)?;
            } else if kv.key.starts_with(keys::SEGMENTS) {
                self.segments.insert(kv.key.clone(), (kv.mod_revision, parse(&kv.value)?));
            } else if let Some(rest) = kv.key.strip_prefix(keys::BLOCKS) {
                ensure(kv.create_revision == kv.mod_revision, || format!("{} twice", kv.key))?;
                let run = rest.split('/').next().unwrap_or_default();
                let block: Block = parse(&kv.value)?;
                for found in block.segments {
                    *self.rolled.entry(run.to_owned()).or_default() += found.rows.len();
                    let key = format!("{}{}", keys::segments(run), found.name);
                    let segment = Segment { claim: found.claim, rows: found.rows };
                    moved.insert(key, (found.revision, segment));
                }
            } else if let Some(run) = kv.key.strip_prefix(keys::REPORTS) {
                self.reports.insert(run.to_owned(), parse(&kv.value)?);
            } else if kv.key.starts_with(keys::ENDED) {
                self.runs_ended.insert(kv.key.clone(), parse(&kv.value)?);
            }
        }
        for change in &commit.changes {
            match change {
                Change::Put(kv) if kv.key.starts_with(keys::RESULTS) => {
                    self.latest(&kv.key, &parse(&kv.value)?)?;
                }
                Change::Delete { key } if key.starts_with(keys::SEGMENTS) => {
                    let segment = self.segments.remove(key);
                    let copy = moved.remove(key);
                    ensure(segment == copy, || format!("{key} {segment:?} became {copy:?}"))?;
                }
                Change::Delete { key } if key.starts_with(keys::OPEN) => {
                    self.closed(&key[keys::OPEN.len()..], runs)?;
                }
                Change::Delete { key } if key.starts_with(keys::ENDED) => {
                    if let Some(run) = self.runs_ended.remove(key) {
                        self.rolled.remove(&run.run);
                        self.reports.remove(&run.run);
                    }
                }
                Change::Put(_) | Change::Delete { .. } => {}
            }
        }
        let left = moved.keys().next();
        ensure(left.is_none(), || format!("{left:?} is in a block and at its own key"))
    }

    /// All results up to its revision are counted, each once.
    fn history(&mut self, key: &str, history: &History) -> Result<(), String> {
        let before = self.folded.insert(key.to_owned(), history.folded).unwrap_or(0);
        ensure(history.folded >= before, || format!("{key} goes back to {}", history.folded))?;
        let ends = self.ends.get(key).map(Vec::as_slice).unwrap_or_default();
        let ends: Vec<&End> = ends.iter().filter(|end| end.revision <= history.folded).collect();
        let passes = ends.iter().filter(|end| end.is_pass).count() as u64;
        let stats = &history.stats;
        ensure((stats.n, stats.pass) == (ends.len() as u64, passes), || {
            format!(
                "{key} counts {} with {} passes up to {}, but there are {} with {passes}",
                stats.n,
                stats.pass,
                history.folded,
                ends.len(),
            )
        })
    }

    /// The last of those that its history counts.
    fn latest(&self, key: &str, latest: &Latest) -> Result<(), String> {
        let stats = format!("{}{}", keys::STATS, &key[keys::RESULTS.len()..]);
        let folded = self.folded.get(&stats).copied().unwrap_or(0);
        let ends = self.ends.get(&stats).map(Vec::as_slice).unwrap_or_default();
        let last = ends.iter().rfind(|end| end.revision <= folded);
        let is_it = last.is_some_and(|end| {
            let same = (end.revision, &end.run) == (latest.revision, &latest.run);
            // A segment may hold several ends.
            same && end.is_pass == (latest.status == "passed")
                && end.task == (latest.lane, latest.ordinal)
        });
        ensure(is_it, || format!("{key} is {latest:?}, but the last was {last:?}"))
    }

    /// Everything is written when a run is over.
    fn closed(&self, run: &str, runs: &BTreeMap<String, RunLedger>) -> Result<(), String> {
        for (key, ends) in &self.ends {
            let last = ends.iter().rfind(|end| end.run == run).map_or(0, |end| end.revision);
            let folded = self.folded.get(key).copied().unwrap_or(0);
            ensure(folded >= last, || format!("{run} is over, but {key} counts up to {folded}"))?;
        }
        let report = self.reports.get(run).ok_or_else(|| format!("{run} has no report"))?;
        let status = runs.get(run).and_then(|run| run.status.clone()).unwrap_or_default();
        ensure(report.totals == status.totals, || format!("{run}: {report:?} beside {status:?}"))?;
        let failing = Status::ALL.into_iter().filter(|status| status.fails_run());
        let failing: u64 = failing.map(|status| report.totals.get(status)).sum();
        let named = report.failures.len() as u64;
        ensure(named + report.failures_more >= failing, || format!("{run}: {report:?}"))?;
        let is_there = self.runs_ended.values().any(|ended| ended.run == run);
        ensure(is_there, || format!("{run} is not among those that have ended"))
    }

    /// When all is over: each result of the runs that are kept is in a block.
    pub fn check_rolled(&self, runs: &BTreeMap<String, RunLedger>) -> Result<(), String> {
        ensure(self.segments.is_empty(), || format!("left: {:?}", self.segments.keys().next()))?;
        for ended in self.runs_ended.values() {
            let Some(run) = runs.get(&ended.run) else { continue };
            let wanted: usize = run.attempts.values().map(Vec::len).sum();
            let found = self.rolled.get(&ended.run).copied().unwrap_or(0);
            ensure(found == wanted, || format!("{}: {found} of {wanted} in blocks", ended.run))?;
        }
        Ok(())
    }
}
