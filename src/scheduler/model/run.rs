//! A run: one submit of cases times environments times repeats, with its policies.

use super::names::{check_id, check_line};
use super::plainly::read;
use super::{Refusal, Repeats};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// More is a mistake, or several runs.
pub(super) const TASKS_MAX: u64 = 10_000_000;
/// A year: longer is a mistake of units.
const SPAN_MS_MAX: u64 = 365 * 24 * 3_600_000;
const PRIORITY_MAX: i32 = 1_000;

/// What somebody asks to run, as it is kept under `run/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSpec {
    /// Given by the scheduler; sorts by time.
    pub id: String,
    pub name: String,
    /// A submit with the same request id is the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Empty in the store where there are many: they stand with the copies of their definitions then.
    pub cases: Vec<Selected>,
    /// For cases that name no number of their own.
    #[serde(default = "one")]
    pub repeats: u32,
    /// Each case runs in each of them; none stands for one without configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<String>,
    /// What becomes of predecessors that are not selected.
    pub missing: Missing,
    #[serde(default = "queue_default")]
    pub queue: String,
    /// Within the queue; higher first.
    pub priority: i32,
    /// From the submit on; what has not started then is skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Tasks that no worker could run for so long are skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_worker_timeout_ms: Option<u64>,
    /// After so many failures nothing new starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures_max: Option<u32>,
    /// The run that this one repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<String>,
    pub gmt_create: String,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
}

/// A case of a run, or all whose ids begin with what stands before a `*`.
/// Its id alone will do where nothing else is said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Selected {
    pub case: String,
    /// As the run says unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SelectedFields {
    #[serde(default)]
    case: String,
    #[serde(default)]
    repeats: Option<Repeats>,
}

impl<'de> Deserialize<'de> for Selected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IdOrFields;

        impl<'de> Visitor<'de> for IdOrFields {
            type Value = Selected;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the id of a case, or {case, repeats}")
            }

            fn visit_str<E>(self, case: &str) -> Result<Selected, E> {
                Ok(Selected { case: case.to_owned(), repeats: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Selected, A::Error> {
                let fields = SelectedFields::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Selected { case: fields.case, repeats: fields.repeats })
            }
        }

        deserializer.deserialize_any(IdOrFields)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missing {
    /// The submit is refused, and says which.
    #[default]
    Refuse,
    /// As if they had ended.
    Ignore,
    /// They run too.
    Include,
}

fn one() -> u32 {
    1
}

fn queue_default() -> String {
    "default".into()
}

impl Selected {
    /// What the ids of the selected cases begin with, if more than one may be meant.
    pub fn prefix(&self) -> Option<&str> {
        self.case.strip_suffix('*')
    }

    fn check_repeats(&self, of: &RunSpec) -> Result<(), Refusal> {
        let refused = |text| Err(Refusal::malformed(format!("case {}: {text}", self.case)));
        match &self.repeats {
            None if of.repeats == 0 => refused("0 repeats".to_owned()),
            Some(Repeats::Same(0)) => refused("0 repeats".to_owned()),
            None | Some(Repeats::Same(_)) => Ok(()),
            Some(Repeats::Each(each)) if each.is_empty() => {
                refused("repeats name no environment".to_owned())
            }
            Some(Repeats::Each(each)) => {
                if let Some((place, _)) = each.iter().find(|(_, repeats)| **repeats == 0) {
                    return refused(format!("0 repeats in environment {place}"));
                }
                match each.keys().find(|place| !of.environments.contains(place)) {
                    Some(place) => refused(format!(
                        "repeats in environment {place}, which the run does not name"
                    )),
                    None => Ok(()),
                }
            }
        }
    }
}

impl RunSpec {
    /// Reads a submit.
    ///
    /// # Errors
    ///
    /// 400 with what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let spec: RunSpec = read("a run", text)?;
        spec.check()?;
        Ok(spec)
    }

    pub fn check(&self) -> Result<(), Refusal> {
        if self.cases.is_empty() {
            return Err(Refusal::malformed("the run selects no cases"));
        }
        check_id("queue", &self.queue)?;
        check_line("the run's name", &self.name)?;
        check_line("the run's owner", &self.owner)?;
        for environment in &self.environments {
            check_id("environment", environment)?;
        }
        if let Some(request) = &self.request_id {
            check_id("request", request)?;
        }
        for selected in &self.cases {
            match selected.prefix() {
                Some("") => {}
                prefix => check_id("case", prefix.unwrap_or(&selected.case))?,
            }
            selected.check_repeats(self)?;
        }
        for (name, value) in
            [("deadline_ms", self.deadline_ms), ("no_worker_timeout_ms", self.no_worker_timeout_ms)]
        {
            if let Some(value) = value.filter(|value| !(1..=SPAN_MS_MAX).contains(value)) {
                let text = format!("{name} {value} is not between 1 and {SPAN_MS_MAX}");
                return Err(Refusal::malformed(text));
            }
        }
        if self.failures_max == Some(0) {
            return Err(Refusal::malformed("failures_max 0 lets nothing start"));
        }
        if self.priority.abs() > PRIORITY_MAX {
            let message = format!("priority {} is beyond {PRIORITY_MAX}", self.priority);
            return Err(Refusal::malformed(message));
        }
        let mut environments = self.environments.clone();
        environments.sort_unstable();
        if let Some(twice) = environments.windows(2).find(|pair| pair[0] == pair[1]) {
            let message = format!("environment {} is selected twice", twice[0]);
            return Err(Refusal::malformed(message));
        }
        Ok(())
    }
}
