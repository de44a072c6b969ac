//! Keys in the scheduler's place that the scheduler did not write: nobody heeds them, and whoever
//! looks at a run's record is told. Values are looked at where the record is made of them; of all other keys
//! the names tell what they are.

use super::audit::{Audit, Rule};
use super::book::{Forced, parse};
use crate::scheduler::coordinator::{Control, LanePack, RunStatus, TagHold, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Segment};
use crate::scheduler::store::Kv;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Prefixes of which values are looked at.
const VALUES: [&str; 6] =
    [keys::WORKERS, keys::BEATS, keys::CLAIMS, keys::TAGS, keys::TAG_DEFINITIONS, keys::LEADERS];

/// Prefixes of which it counts that keys have a lease: names alone do not tell that.
pub(super) const LEASED: [&str; 2] = [keys::LATE, keys::REQUESTS];

/// Looks at the keys of a run, and at those of workers, claims, tags and leaders.
pub(super) fn foreign(run: &str, kvs: &[Kv]) -> Audit {
    let mut audit = Audit::default();
    for kv in kvs.iter().filter(|kv| !kv.key.is_empty()) {
        let Some(is_own) = is_own(run, kv) else { continue };
        audit.looked(Rule::Foreign, 1);
        if !is_own {
            audit.fault(Rule::Foreign, || {
                format!("{} is nothing that the scheduler writes", kv.key)
            });
        }
    }
    audit
}

/// Whether a key and its value have the form of what belongs there; None if nothing is known of such
/// keys.
fn is_own(run: &str, kv: &Kv) -> Option<bool> {
    let key = kv.key.as_str();
    if let Some(part) = key.strip_prefix(&keys::run_parts(run)) {
        return Some(match part.split_once('/') {
            None if part == "control" => parse::<Control>(kv).is_some(),
            None if part == "status" => parse::<RunStatus>(kv).is_some(),
            Some(("def", first)) => is_number(first),
            Some(("forced", _)) => parse::<Forced>(kv).is_some(),
            Some(("lane", pack)) => is_number(pack) && parse::<LanePack>(kv).is_some(),
            _ => false,
        });
    }
    if key == keys::open(run) {
        return Some(parse::<String>(kv).is_some_and(|id| id == run));
    }
    if key.starts_with(keys::LEADERS) {
        return Some(
            kv.lease != 0 && key == keys::leader(kv.lease) && parse::<Value>(kv).is_some(),
        );
    }
    if let Some(name) = key.strip_prefix(keys::BEATS) {
        let is_list = |value: Value| value.is_array() || value["running"].is_array();
        let is_beat = parse::<Value>(kv).is_some_and(is_list);
        return Some(is_beat && kv.lease != 0 && is_name(name));
    }
    if key.starts_with(keys::SEGMENTS) {
        return Some(keys::parse_segment(key).is_some() && parse::<Segment>(kv).is_some());
    }
    if let Some(name) = key.strip_prefix(keys::WORKERS) {
        let info = parse::<WorkerInfo>(kv).filter(|info| info.max_task_num > 0);
        return Some(info.is_some() && kv.lease != 0 && is_name(name));
    }
    if key.starts_with(keys::CLAIMS) {
        return Some(keys::parse_claim(key).is_some() && parse::<Claim>(kv).is_some());
    }
    if key.starts_with(keys::TAGS) {
        let hold = parse::<TagHold>(kv).filter(|hold| !hold.claim.is_empty());
        return Some(keys::parse_tag(key).is_some() && hold.is_some());
    }
    if key.starts_with(keys::TAG_DEFINITIONS) {
        return Some(parse::<Value>(kv).is_some_and(|value| value["capacity"].is_u64()));
    }
    None
}

/// Looks at the names of all keys of the scheduler, one after the other: what none of its parts writes, and
/// what belongs to runs that do not exist.
pub(super) struct Names<'r> {
    /// Of its keys `foreign` looks at the values.
    run: &'r str,
    runs: BTreeSet<String>,
    /// By the run to which keys belong: one of them, and how many there are.
    parts: BTreeMap<String, (String, u64)>,
    audit: Audit,
}

/// What the name of a key tells.
enum Named<'k> {
    Own,
    Run(&'k str),
    /// Of a run.
    Part(&'k str),
    Foreign,
}

impl<'r> Names<'r> {
    pub(super) fn new(run: &'r str) -> Self {
        let (runs, parts) = (BTreeSet::new(), BTreeMap::new());
        Self { run, runs, parts, audit: Audit::default() }
    }

    /// Takes the name of a key.
    pub(super) fn look(&mut self, kv: &Kv) {
        let key = &kv.key;
        let is_looked_at = VALUES.iter().chain(&LEASED).any(|prefix| key.starts_with(prefix))
            || key.starts_with(&keys::run_parts(self.run))
            || key.starts_with(&keys::segments(self.run));
        if is_looked_at {
            return;
        }
        self.look_leased(kv);
    }

    /// Takes a key with all that is known of it, of those that should have a lease.
    pub(super) fn look_leased(&mut self, kv: &Kv) {
        let key = &kv.key;
        self.audit.looked(Rule::Foreign, 1);
        match named(kv) {
            Named::Own => {}
            Named::Run(run) => {
                self.runs.insert(run.to_owned());
            }
            Named::Part(run) => match self.parts.get_mut(run) {
                Some((_, count)) => *count += 1,
                None => {
                    self.parts.insert(run.to_owned(), (key.clone(), 1));
                }
            },
            Named::Foreign => self
                .audit
                .fault(Rule::Foreign, || format!("{key} is nothing that the scheduler writes")),
        }
    }

    /// What was found, once all keys have been looked at.
    pub(super) fn finish(mut self) -> Audit {
        for (run, (key, count)) in &self.parts {
            if !self.runs.contains(run) {
                let more = match count {
                    1 => String::new(),
                    count => format!(", and {} more", count - 1),
                };
                self.audit.fault(Rule::Foreign, || {
                    format!("{key} is of run {run}, which does not exist{more}")
                });
            }
        }
        self.audit
    }
}

fn named(kv: &Kv) -> Named<'_> {
    let key = kv.key.as_str();
    let rest = key.strip_prefix(keys::PREFIX).unwrap_or_default();
    let Some((_, name)) = rest.split_once('/') else { return Named::Foreign };
    let own = |is_own| if is_own { Named::Own } else { Named::Foreign };
    let part = |run, is_own| if is_own { Named::Part(run) } else { Named::Foreign };
    let pair = name.split_once('/').filter(|(_, rest)| !rest.is_empty());
    match &key[..key.len() - name.len()] {
        keys::RUNS => match pair {
            None => {
                if is_name(name) {
                    Named::Run(name)
                } else {
                    Named::Foreign
                }
            }
            // Definitions are written before their run, and a leader removes those that stay alone.
            Some((_, rest)) if rest.strip_prefix("def/").is_some_and(is_number) => Named::Own,
            Some((run, rest)) => part(run, is_part(rest)),
        },
        keys::OPEN | keys::ROLLS => part(name, is_name(name)),
        keys::ENDED => match keys::parse_ended(key) {
            Some((_, run)) => part(run, is_name(run)),
            None => Named::Foreign,
        },
        keys::SEGMENTS => match keys::parse_segment(key) {
            Some((run, ..)) => part(run, true),
            None => Named::Foreign,
        },
        keys::BLOCKS => match pair {
            Some((run, n)) => part(run, !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())),
            None => Named::Foreign,
        },
        // They may outlive their run for as long as their lease lasts.
        keys::LATE => own(pair.is_some() && kv.lease != 0),
        keys::REQUESTS => own(!name.is_empty() && kv.lease != 0),
        keys::COMMANDS => own(pair.is_some_and(|(_, command)| is_name(command))),
        keys::STATS => own(pair.is_some_and(|(_, environment)| is_name(environment))),
        keys::HOOKS => {
            let digest = name.strip_suffix("-flaky").unwrap_or(name);
            own(digest.len() == 16 && digest.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        keys::QUEUES | keys::CHECKS | keys::CHECK_WISHES | keys::INSTANCES => own(is_name(name)),
        _ => Named::Foreign,
    }
}

/// Whether a run has parts of this name, definitions apart.
fn is_part(name: &str) -> bool {
    match name.split_once('/') {
        None => ["control", "status"].contains(&name),
        Some(("forced", claim)) => !claim.is_empty(),
        Some(("lane", pack)) => is_number(pack),
        Some(_) => false,
    }
}

/// Whether it is one part of a key.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

fn is_number(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}
