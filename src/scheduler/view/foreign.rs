//! Keys in the scheduler's place that the scheduler did not write: nobody heeds them, and whoever
//! looks at a run's record is told.

use super::audit::{Audit, Rule};
use super::book::{Forced, parse};
use crate::scheduler::coordinator::{Control, LanePack, RunStatus, TagHold, WorkerInfo};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Segment};
use crate::scheduler::store::Kv;
use serde_json::Value;

/// Looks at the keys of a run, and at those of workers, claims and tags.
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
    if key.starts_with(keys::SEGMENTS) {
        return Some(keys::parse_segment(key).is_some() && parse::<Segment>(kv).is_some());
    }
    if let Some(name) = key.strip_prefix(keys::WORKERS) {
        let info = parse::<WorkerInfo>(kv).filter(|info| info.max_task_num > 0);
        return Some(info.is_some() && kv.lease != 0 && !name.contains('/'));
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

fn is_number(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}
