//! What many lanes have in common, kept once for all of them.

use super::workers::ClassNo;
use crate::scheduler::model::{Labels, LanePlan, OnLost, Retries};
use std::collections::VecDeque;
use std::sync::Arc;

/// What its case and its environment say of a lane.
#[derive(Debug, PartialEq)]
pub(super) struct Traits {
    pub class: ClassNo,
    pub slots: u32,
    pub priority: i32,
    pub timeout_ms: u64,
    pub chain: bool,
    pub is_manual: bool,
    pub is_muted: bool,
    pub is_skipped: bool,
    pub on_lost: OnLost,
    pub retries: Retries,
    pub environment: Arc<str>,
    pub requires: Arc<Labels>,
}

impl Traits {
    fn of(plan: &LanePlan, class: ClassNo) -> Self {
        Self {
            class,
            slots: plan.slots,
            priority: plan.priority,
            timeout_ms: plan.timeout_ms,
            chain: plan.chain,
            is_manual: plan.is_manual,
            is_muted: plan.is_muted,
            is_skipped: plan.is_skipped,
            on_lost: plan.on_lost,
            retries: plan.retries,
            environment: plan.environment.clone(),
            requires: plan.requires.clone(),
        }
    }
}

/// Traits of lanes of one submit, so that equal ones are kept once.
#[derive(Default)]
pub(super) struct KnownTraits {
    /// The last first. There may be as many as lanes: only so many are compared.
    found: VecDeque<Arc<Traits>>,
}

impl KnownTraits {
    const MAX: usize = 64;

    /// The class of a lane that wants the same labels as one before it, by being the same in memory.
    pub(super) fn class(&self, plan: &LanePlan) -> Option<ClassNo> {
        let is_same = |known: &&Arc<Traits>| {
            Arc::ptr_eq(&known.requires, &plan.requires)
                && (known.slots, known.is_manual) == (plan.slots, plan.is_manual)
        };
        self.found.iter().find(is_same).map(|known| known.class)
    }

    pub(super) fn of(&mut self, plan: &LanePlan, class: ClassNo) -> Arc<Traits> {
        let traits = Traits::of(plan, class);
        if let Some(known) = self.found.iter().find(|known| ***known == traits) {
            return known.clone();
        }
        let traits = Arc::new(traits);
        self.found.push_front(traits.clone());
        self.found.truncate(Self::MAX);
        traits
    }
}
