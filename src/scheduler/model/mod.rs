//! What a test team describes and what the store keeps of it: cases, environments, runs, claims,
//! results. Pure: values, their JSON form, and what is refused.

mod case;
mod copies;
mod definitions;
mod environment;
mod names;
mod ordinals;
mod outline;
mod plainly;
mod plan;
mod record;
mod refusal;
mod repeats;
mod run;
mod short;
mod standing;
mod status;
mod unique;

pub use case::{
    CaseState, Kind, OWN_HEADERS, OnLost, OutputMatch, Policy, Predecessor, Retries, Scope,
    TagScope, TagUse, TestCase, is_http, pattern,
};
pub use copies::{CaseCopy, Copier, Pack, Packs};
pub use definitions::{Definitions, Unread, count};
pub use environment::{Environment, Health, Occupancy};
pub use names::{check_id, check_labels};
pub use ordinals::Ordinals;
pub use outline::{Outline, Rules};
pub use plainly::{in_words, understand};
pub use plan::{
    LanePlan, PlannedPredecessor, RunPlan, Survey, expand, find_circle, survey, survey_of,
};
pub use record::{Claim, Item, LaneCheckpoint, Row, Segment, Totals, Tried};
pub use refusal::Refusal;
pub use repeats::Repeats;
pub use run::{Missing, RunSpec, Selected};
pub(in crate::scheduler) use standing::milliseconds;
pub use status::Status;
pub use unique::unique;

use std::collections::BTreeMap;

/// What a worker is, or what a case wants of one: names with values.
pub type Labels = BTreeMap<String, String>;
