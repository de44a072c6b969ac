//! JUnit's XML reports: what other tools say of their tests, and what we say of ours.
//!
//! There is no standard, so reading takes what pytest, nextest, gotestsum, Gradle and Maven write and
//! skips elements that it does not know; writing keeps to what all readers take. Left out:
//! attachments, and attributes that only count what is there.

mod read;
mod write;

pub use read::{Invalid, read};
pub use write::write;

use crate::scheduler::model::Status;

/// The property of a test that names the case it is of, in reports of ours.
pub const CASE_PROPERTY: &str = "case";

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub name: String,
    pub suites: Vec<Suite>,
}

/// Cases that belong together. A suite within a suite stands behind it, with the names of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suite {
    pub name: String,
    pub host: String,
    /// As it is written, usually RFC 3339.
    pub timestamp: String,
    pub properties: Vec<(String, String)>,
    pub cases: Vec<Case>,
    pub output: String,
    pub stderr: String,
}

/// One test and how it came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub class: String,
    pub file: String,
    pub time_us: Option<u64>,
    /// `Passed`, `Failed`, `Error`, `Skipped`; of reports that we wrote also `TimedOut`, `Lost`,
    /// `Canceled`.
    pub status: Status,
    /// Why it is as it is, if it did not just pass.
    pub reason: Reason,
    /// Attempts before the last one, if it failed, or before the one that passed.
    pub earlier: Vec<Reason>,
    pub properties: Vec<(String, String)>,
    pub output: String,
    pub stderr: String,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            name: String::new(),
            class: String::new(),
            file: String::new(),
            time_us: None,
            status: Status::Passed,
            reason: Reason::default(),
            earlier: Vec::new(),
            properties: Vec::new(),
            output: String::new(),
            stderr: String::new(),
        }
    }
}

/// What is said of a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason {
    pub message: String,
    /// An exception's name, mostly.
    pub kind: String,
    /// A stack, mostly.
    pub text: String,
}

impl Report {
    /// Of all suites.
    pub fn cases(&self) -> impl Iterator<Item = &Case> {
        self.suites.iter().flat_map(|suite| &suite.cases)
    }
}

#[cfg(test)]
mod tests;
