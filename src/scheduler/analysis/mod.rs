//! What the past says about cases: how long they take, how often they fail, and which of their
//! results are worth a look. Pure, and nothing but counting: every number can be explained to whom
//! it concerns.

mod fingerprint;
mod flake;
mod history;
mod rank;

pub use fingerprint::{fingerprint, group};
pub use flake::{FlakeRule, FlakeScore};
pub use history::{Ended, Mark, Stats, Verdict};
pub use rank::{CaseStats, Difference, Trend, Trial, compare, slowest, trend};
