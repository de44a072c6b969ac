//! What the plan of a run needs of a case, and nothing else: a run may have a million of them, most of
//! which are alike.

use super::{CaseState, Kind, Labels, OnLost, Predecessor, Retries, TagUse, TestCase};
use std::ops::Deref;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    pub id: Arc<str>,
    rules: Arc<Rules>,
}

/// All but the id.
#[derive(Debug, PartialEq)]
pub struct Rules {
    pub case_pre: Box<[Predecessor]>,
    pub tags: Box<[TagUse]>,
    pub requires: Labels,
    pub slots: u32,
    pub priority: i32,
    pub timeout_ms: u64,
    pub retries: Retries,
    pub on_lost: OnLost,
    pub est_ms: Option<u64>,
    pub kind: Kind,
    pub state: CaseState,
    pub is_deleted: bool,
}

impl Outline {
    /// The outline of a case. Rules that are those of the one before are kept once.
    pub fn new(case: &TestCase, before: &mut Option<Arc<Rules>>) -> Self {
        let rules = Rules {
            case_pre: case.case_pre.as_slice().into(),
            tags: case.mutual_tag.as_slice().into(),
            requires: case.requires.clone(),
            slots: case.slots,
            priority: case.priority,
            timeout_ms: case.timeout_ms,
            retries: case.retries,
            on_lost: case.on_lost,
            est_ms: case.est_ms,
            kind: case.kind,
            state: case.state,
            is_deleted: case.is_deleted,
        };
        let same = before.clone().filter(|before| **before == rules);
        let rules = same.unwrap_or_else(|| rules.into());
        *before = Some(rules.clone());
        Self { id: case.id.as_str().into(), rules }
    }

    /// Another case with the same rules.
    pub(super) fn alike(&self, id: &str) -> Self {
        Self { id: id.into(), rules: self.rules.clone() }
    }
}

impl From<&TestCase> for Outline {
    fn from(case: &TestCase) -> Self {
        Self::new(case, &mut None)
    }
}

impl Deref for Outline {
    type Target = Rules;

    fn deref(&self) -> &Rules {
        &self.rules
    }
}
