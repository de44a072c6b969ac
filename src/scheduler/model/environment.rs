//! Where cases run: a named configuration with a health of its own.

use super::case::is_http;
use super::names::{check_depth, check_id, check_labels};
use super::plainly::read;
use super::{Labels, Refusal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The definition of an environment, as it is kept under `/environments/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Environment {
    pub id: String,
    pub name: String,
    /// What cases are given: `{{key}}` in a case's url, headers, input, command, variables
    /// and output stands for it.
    pub config: Map<String, Value>,
    /// Labels that a worker must have to run cases here.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// How many tasks may run here at once; without it, as many as workers allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// Whether somebody keeps it for himself; apart from its health.
    pub state: Occupancy,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state_reason: String,
    pub health: Health,
    /// Why it is as it is, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub health_reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    pub gmt_create: String,
    pub gmt_modified: String,
    #[serde(rename = "isDelete")]
    pub is_deleted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    #[default]
    Unknown,
    Good,
    /// Its check failed; nothing new starts here.
    Bad,
    /// Checked again and again, whatever comes out.
    Looping,
    /// Somebody works on it; nothing new starts here.
    Maintenance,
    /// No run may name it any more.
    Retired,
}

impl Health {
    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Good => "good",
            Self::Bad => "bad",
            Self::Looping => "looping",
            Self::Maintenance => "maintenance",
            Self::Retired => "retired",
        }
    }
}

/// Who has an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Occupancy {
    #[default]
    Idle,
    /// A person: nothing new starts here.
    Reserved,
    /// Tasks.
    Running,
}

impl Occupancy {
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Reserved => "reserved",
            Self::Running => "running",
        }
    }
}

/// A call that tells whether an environment is fit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Answered with a status of 200 to 299 when all is well.
    pub url: String,
    /// Seconds between two checks.
    pub every: u32,
}

impl Environment {
    /// Reads a definition.
    ///
    /// # Errors
    ///
    /// 400 with what is wrong.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let environment: Environment = read("an environment", text)?;
        environment.check()?;
        Ok(environment)
    }

    pub fn check(&self) -> Result<(), Refusal> {
        self.check_fields().map_err(|refusal| refusal.about("environment", &self.id))
    }

    fn check_fields(&self) -> Result<(), Refusal> {
        check_id("environment", &self.id)?;
        if self.id == crate::scheduler::keys::NO_ENVIRONMENT {
            return Err(Refusal::malformed("an environment cannot be called -"));
        }
        let fail = |what: &str| Err(Refusal::malformed(format!("environment {}: {what}", self.id)));
        if self.capacity == Some(0) {
            return fail("capacity is 0");
        }
        if let Err(what) = check_labels(&self.labels) {
            return fail(&what);
        }
        if let Some(what) =
            self.config.values().find_map(|value| check_depth("its config", value).err())
        {
            return fail(&what);
        }
        if let Some(check) = &self.check {
            // One that begins with a value of the configuration is seen when that is in it.
            let is_known = !check.url.starts_with("{{");
            if is_known && !is_http(&check.url) {
                return fail("the url of its check is not http or https");
            }
            if check.every == 0 {
                return fail("its check is every 0 seconds");
            }
        }
        Ok(())
    }

    /// Whether tasks may start here now.
    pub fn is_open(&self) -> bool {
        self.closed_for().is_none()
    }

    /// Why no task may start here now, for people: a word, and the reason that was given.
    pub fn closed_for(&self) -> Option<String> {
        let (word, reason) = match (self.health, self.state) {
            (Health::Bad, _) => ("bad", &self.health_reason),
            (Health::Maintenance, _) => ("maintenance", &self.health_reason),
            (Health::Retired, _) => ("retired", &self.health_reason),
            (_, Occupancy::Reserved) => ("reserved", &self.state_reason),
            (Health::Unknown | Health::Good | Health::Looping, _) => return None,
        };
        Some(if reason.is_empty() { word.to_owned() } else { format!("{word}: {reason}") })
    }
}
