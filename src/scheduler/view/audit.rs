//! Whether the record of a run holds what the scheduler promises. `audit` looks at what is recorded at
//! one revision; `replay` at every commit since the submit, as far as the store still has them.

use super::book::{RunBook, parse};
use super::slots::peaks;
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Scope, Status};
use crate::scheduler::planner::Verdict;
use crate::scheduler::store::{Change, Commit, Kv};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Faults of one rule that are kept word for word.
const FAULTS_MAX: usize = 20;

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Every task ends with exactly one terminal result.
    OneResult,
    /// No task is in two open claims.
    OneClaim,
    /// A tag has never more holders than units.
    Tags,
    /// A successor starts after the last end of what it waits for.
    Order,
    /// No worker runs more than it has slots.
    Slots,
    /// Leaders follow each other, and none writes after its successor.
    Leaders,
    /// Attempts are numbered without gaps, and each lost one is recorded.
    Attempts,
    /// What is counted is what is recorded.
    Totals,
    /// Nothing changes after a terminal result.
    Final,
    /// What was taken has been given back: claims, and tags.
    Balance,
    /// No worker with room waits while a task could run there.
    Idleness,
    /// What is among the scheduler's keys was written by it.
    Foreign,
}

impl Rule {
    pub const ALL: [Rule; 12] = [
        Rule::OneResult,
        Rule::OneClaim,
        Rule::Tags,
        Rule::Order,
        Rule::Slots,
        Rule::Leaders,
        Rule::Attempts,
        Rule::Totals,
        Rule::Final,
        Rule::Balance,
        Rule::Idleness,
        Rule::Foreign,
    ];

    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Rule::OneResult => "every task has exactly one final result",
            Rule::OneClaim => "no task was with two workers at once",
            Rule::Tags => "no tag had more holders than units",
            Rule::Order => "nothing started before what it waits for had ended",
            Rule::Slots => "no worker ran more than it has slots",
            Rule::Leaders => "no leader wrote after its successor",
            Rule::Attempts => "attempts are numbered without gaps",
            Rule::Totals => "the totals are those of the results",
            Rule::Final => "nothing changed after a final result",
            Rule::Balance => "every claim and tag was given back",
            Rule::Idleness => "no worker with room was left waiting while a task could run there",
            Rule::Foreign => "nobody but the scheduler wrote among its keys",
        }
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub rule: Rule,
    pub text: String,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Audit {
    /// How many things were looked at, by rule. What cannot be known is not there.
    pub checked: BTreeMap<Rule, u64>,
    /// The first ones of each rule.
    pub faults: Vec<Fault>,
    /// All of them.
    pub count: u64,
    pub revision: i64,
}

impl Audit {
    pub fn is_clean(&self) -> bool {
        self.count == 0
    }

    pub(super) fn looked(&mut self, rule: Rule, count: u64) {
        *self.checked.entry(rule).or_default() += count;
    }

    pub(super) fn fault(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.faults.iter().filter(|fault| fault.rule == rule).count() < FAULTS_MAX {
            self.faults.push(Fault { rule, text: text() });
        }
    }

    /// Takes what another audit of the same run found.
    pub fn merge(&mut self, other: Audit) {
        for (rule, count) in other.checked {
            self.looked(rule, count);
        }
        self.count += other.count;
        self.faults.extend(other.faults);
    }
}

/// Looks at what is recorded. Times of different workers are compared as they were reported; `skew_ms`
/// is how far their clocks may be apart.
pub fn audit(book: &RunBook, skew_ms: u64) -> Audit {
    let mut audit = Audit { revision: book.revision, ..Default::default() };
    results(book, &mut audit);
    attempts(book, &mut audit);
    claims(book, &mut audit);
    order(book, skew_ms, &mut audit);
    tags(book, skew_ms, &mut audit);
    for (worker, peak) in peaks(book) {
        let Some(info) = book.workers.get(&**worker) else { continue };
        audit.looked(Rule::Slots, 1);
        if *peak > u64::from(info.max_task_num) {
            audit.fault(Rule::Slots, || {
                format!("worker {worker} has {} slots and used {peak}", info.max_task_num)
            });
        }
    }
    audit
}

fn results(book: &RunBook, audit: &mut Audit) {
    let totals = book.totals();
    let has_ended = !book.is_open && book.status.ended.is_some();
    if has_ended {
        audit.looked(Rule::OneResult, totals.total);
        for view in book.lanes() {
            let missing = view.totals.total.saturating_sub(view.totals.ended());
            if missing > 0 {
                audit.fault(Rule::OneResult, || {
                    format!("case {}: {missing} tasks have no final result", view.case)
                });
            }
        }
        audit.looked(Rule::Totals, 1);
        if !book.status.totals.is_same(&totals) {
            audit.fault(Rule::Totals, || {
                format!(
                    "counted {:?}, recorded {:?}",
                    book.status.totals.by_status, totals.by_status
                )
            });
        }
    }
    for attempt in &book.attempts {
        audit.looked(Rule::Final, 1);
        if attempt.verdict == Verdict::Refused {
            let row = &attempt.row;
            audit.fault(Rule::Final, || {
                format!(
                    "lane {} task {}: attempt {} was recorded as {} at revision {}, when it had ended",
                    row.lane, row.ordinal, row.attempt, row.status.word(), attempt.revision
                )
            });
        }
    }
}

fn attempts(book: &RunBook, audit: &mut Audit) {
    let mut before = (u32::MAX, 0, 0);
    for (lane, ordinal, at) in &book.index {
        let row = &book.attempts[*at as usize].row;
        let wanted = if (before.0, before.1) == (*lane, *ordinal) { before.2 + 1 } else { 1 };
        before = (*lane, *ordinal, row.attempt);
        audit.looked(Rule::Attempts, 1);
        if row.attempt != wanted {
            audit.fault(Rule::Attempts, || {
                format!("lane {lane} task {ordinal}: attempt {} follows as {wanted}", row.attempt)
            });
        }
    }
}

fn claims(book: &RunBook, audit: &mut Audit) {
    let mut out: BTreeSet<(u32, u32)> = BTreeSet::new();
    for open in &book.open {
        for item in &open.items {
            for ordinal in item.from..item.to {
                audit.looked(Rule::OneClaim, 1);
                if !out.insert((item.lane, ordinal)) {
                    let lane = item.lane;
                    audit.fault(Rule::OneClaim, || {
                        format!("lane {lane} task {ordinal} is in {} and another claim", open.claim)
                    });
                }
            }
        }
    }
    if !book.is_open && book.status.ended.is_some() {
        audit.looked(Rule::Balance, 1);
        for open in &book.open {
            audit
                .fault(Rule::Balance, || format!("{} is left of a run that has ended", open.claim));
        }
    }
}

/// First start and last end of what was executed, by lane, in microseconds.
fn spans(book: &RunBook) -> BTreeMap<u32, (u64, u64)> {
    let mut spans: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for attempt in book.attempts.iter().filter(|attempt| attempt.row.status != Status::Lost) {
        let start = attempt.row.start.saturating_mul(1_000);
        let span = spans.entry(attempt.row.lane).or_insert((u64::MAX, 0));
        *span = (span.0.min(start), span.1.max(start + attempt.row.duration));
    }
    spans
}

fn order(book: &RunBook, skew_ms: u64, audit: &mut Audit) {
    let spans = spans(book);
    // Starts are known to the millisecond.
    let slack = skew_ms.saturating_mul(1_000) + 999;
    for (plan, lane) in book.plan.lanes.iter().zip(0..) {
        for before in &plan.predecessors {
            if before.scope == Scope::Repeat {
                order_of_repeats(book, lane, before.lane, slack, audit);
                continue;
            }
            let (Some((start, _)), Some((_, end))) = (spans.get(&lane), spans.get(&before.lane))
            else {
                continue;
            };
            audit.looked(Rule::Order, 1);
            if start + slack < *end {
                let late = (end - start) / 1_000;
                audit.fault(Rule::Order, || {
                    let first = book.plan.lanes.get(before.lane as usize);
                    let first = first.map(|lane| lane.case.to_string()).unwrap_or_default();
                    format!("case {} started {late} ms before {first} had ended", plan.case)
                });
            }
        }
    }
}

fn order_of_repeats(book: &RunBook, lane: u32, before: u32, slack: u64, audit: &mut Audit) {
    let Some(plan) = book.plan.lanes.get(lane as usize) else { return };
    for ordinal in 0..plan.total {
        let own = book.attempts_of(lane, ordinal).map(|a| a.row.start.saturating_mul(1_000)).min();
        let ends = book.attempts_of(before, ordinal).filter(|a| a.row.status != Status::Lost);
        let end = ends.map(|a| a.row.start.saturating_mul(1_000) + a.row.duration).max();
        let (Some(start), Some(end)) = (own, end) else { continue };
        audit.looked(Rule::Order, 1);
        if start + slack < end {
            audit.fault(Rule::Order, || {
                format!("case {} repeat {ordinal} started before what it waits for", plan.case)
            });
        }
    }
}

/// Attempts under one tag, in time: never more at once than the tag has units.
fn tags(book: &RunBook, skew_ms: u64, audit: &mut Audit) {
    let mut by_tag: BTreeMap<&str, Vec<(u64, i32)>> = BTreeMap::new();
    let slack = skew_ms.saturating_mul(1_000) + 999;
    for attempt in book.attempts.iter().filter(|attempt| attempt.row.status != Status::Lost) {
        let Some(plan) = book.plan.lanes.get(attempt.row.lane as usize) else { continue };
        let start = attempt.row.start.saturating_mul(1_000);
        let end = start + attempt.row.duration;
        if end <= start + slack {
            continue;
        }
        // What it was before is not known here; the history has each unit.
        for tag in plan.tags.iter().filter(|tag| !book.redefined.contains(&***tag)) {
            let steps = by_tag.entry(tag).or_default();
            steps.push((start, 1));
            steps.push((end - slack, -1));
        }
    }
    for (tag, mut steps) in by_tag {
        let capacity = book.capacities.get(tag).copied().unwrap_or(1);
        steps.sort_unstable();
        let mut held = 0;
        for (at, step) in steps {
            held += step;
            audit.looked(Rule::Tags, u64::from(step > 0));
            if step > 0 && held > i64::from(capacity) as i32 {
                audit.fault(Rule::Tags, || {
                    format!("tag {tag} had {held} holders at {} ms since 1970", at / 1_000)
                });
            }
        }
    }
}

/// Follows the store from commit to commit.
#[derive(Debug, Default)]
struct Replay {
    audit: Audit,
    run: String,
    /// Claims of the run that are open.
    claims: BTreeMap<String, Claim>,
    /// Of all runs: who holds a unit of a tag.
    tags: BTreeMap<String, String>,
    epoch: i64,
    is_over: bool,
}

/// Looks at the commits from the submit of a run on, in order. Claims and tags that were there before
/// belong to other runs.
pub fn replay(run: &str, commits: impl IntoIterator<Item = Commit>) -> Audit {
    let mut replay = Replay { run: run.to_owned(), ..Default::default() };
    for commit in commits {
        replay.audit.revision = commit.revision;
        // A unit that passes from hand to hand in one commit is freed first.
        for change in &commit.changes {
            if let Change::Delete { key } = change {
                replay.deleted(key);
            }
        }
        for change in &commit.changes {
            if let Change::Put(kv) = change {
                replay.put(kv, commit.revision);
            }
        }
    }
    replay.finish()
}

impl Replay {
    fn deleted(&mut self, key: &str) {
        self.tags.remove(key);
        self.claims.remove(key);
        if key.strip_prefix(keys::OPEN) == Some(&self.run) {
            self.is_over = true;
            let left: Vec<String> = self.claims.keys().cloned().collect();
            self.audit.looked(Rule::Balance, 1);
            for claim in left {
                self.audit.fault(Rule::Balance, || format!("{claim} was left at the run's end"));
            }
        }
    }

    fn put(&mut self, kv: &Kv, revision: i64) {
        if kv.key.starts_with(keys::CLAIMS) {
            if let Some(claim) = parse::<Claim>(kv) {
                self.claim_put(kv, claim, revision);
            }
        } else if kv.key.starts_with(keys::TAGS) {
            let is_new = kv.create_revision == kv.mod_revision;
            self.audit.looked(Rule::Tags, 1);
            let value = String::from_utf8_lossy(&kv.value).into_owned();
            if let Some(holder) = self.tags.insert(kv.key.clone(), value)
                && is_new
            {
                self.audit.fault(Rule::Tags, || format!("{} was taken from {holder}", kv.key));
            }
        }
    }

    fn claim_put(&mut self, kv: &Kv, claim: Claim, revision: i64) {
        let is_new = kv.create_revision == kv.mod_revision;
        if is_new {
            self.audit.looked(Rule::Leaders, 1);
            if claim.epoch < self.epoch {
                let (epoch, newer) = (claim.epoch, self.epoch);
                self.audit.fault(Rule::Leaders, || {
                    format!(
                        "leader {epoch} gave {} out at {revision}, after leader {newer}",
                        kv.key
                    )
                });
            }
            self.epoch = self.epoch.max(claim.epoch);
        }
        if claim.run != self.run {
            return;
        }
        if is_new {
            for item in &claim.items {
                self.audit.looked(Rule::OneClaim, item.count().into());
                let mut others = self.claims.iter().filter(|(_, other)| {
                    other.items.iter().any(|other| {
                        other.lane == item.lane && other.from < item.to && item.from < other.to
                    })
                });
                if let Some((other, _)) = others.next() {
                    let text = format!("{} and {other} shared tasks at {revision}", kv.key);
                    self.audit.fault(Rule::OneClaim, || text);
                }
            }
        }
        self.claims.insert(kv.key.clone(), claim);
    }

    fn finish(mut self) -> Audit {
        if self.is_over {
            self.audit.looked(Rule::Balance, 1);
        }
        self.audit
    }
}
