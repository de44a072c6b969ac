//! What kinds of definitions there are.

use crate::scheduler::keys;
use crate::scheduler::model::{Environment, Refusal, TestCase};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// A kind of definition.
pub trait Definition: Clone + Serialize + DeserializeOwned + Send + Sync {
    const PREFIX: &'static str;
    /// What one is called.
    const WHAT: &'static str;

    fn id(&self) -> &str;
    /// # Errors
    /// 400 with what is wrong.
    fn check(&self) -> Result<(), Refusal>;
    fn is_deleted(&self) -> bool;
    /// When it was created and changed, and whether it is deleted.
    fn marks(&mut self) -> (&mut String, &mut String, &mut bool);
    /// Takes over what people set by hand while the other one was in use, but for what `named` names.
    /// A reason goes with what it is the reason of.
    fn keep(&mut self, before: &Self, named: &BTreeSet<String>);
    /// What people may make of the one that is there, if there is one.
    /// # Errors
    /// 422 with what is missing.
    fn check_change(&self, _before: Option<&Self>) -> Result<(), Refusal> {
        Ok(())
    }
    /// Sets what says since when something is so, when it is written at a time in place of another.
    fn date(&mut self, _before: Option<&Self>, _now: SystemTime) {}
}

/// Takes fields over that are not named; none of them where the first of them is.
macro_rules! keep {
    ($new:ident, $before:ident, $named:ident, $first:ident $(, $other:ident)*) => {
        if !$named.contains(stringify!($first)) {
            $new.$first.clone_from(&$before.$first);
            $(if !$named.contains(stringify!($other)) {
                $new.$other.clone_from(&$before.$other);
            })*
        }
    };
}

impl Definition for TestCase {
    const PREFIX: &'static str = keys::CASES;
    const WHAT: &'static str = "case";

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<(), Refusal> {
        TestCase::check(self)
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    fn marks(&mut self) -> (&mut String, &mut String, &mut bool) {
        (&mut self.gmt_create, &mut self.gmt_modified, &mut self.is_deleted)
    }

    fn keep(&mut self, before: &Self, named: &BTreeSet<String>) {
        keep!(self, before, named, state, state_reason, state_until);
    }

    fn date(&mut self, before: Option<&Self>, now: SystemTime) {
        self.date_state(before, &humantime::format_rfc3339_millis(now).to_string());
    }

    fn check_change(&self, before: Option<&Self>) -> Result<(), Refusal> {
        self.check_state(before)
    }
}

impl Definition for Environment {
    const PREFIX: &'static str = keys::ENVIRONMENTS;
    const WHAT: &'static str = "environment";

    fn id(&self) -> &str {
        &self.id
    }

    fn check(&self) -> Result<(), Refusal> {
        Environment::check(self)
    }

    fn is_deleted(&self) -> bool {
        self.is_deleted
    }

    fn marks(&mut self) -> (&mut String, &mut String, &mut bool) {
        (&mut self.gmt_create, &mut self.gmt_modified, &mut self.is_deleted)
    }

    fn keep(&mut self, before: &Self, named: &BTreeSet<String>) {
        keep!(self, before, named, health, health_reason);
        keep!(self, before, named, state, state_reason);
    }
}
