//! Why something that a user sent is not taken.

use std::fmt;

/// Between the cases of a circle's path.
pub(in crate::scheduler) const CIRCLE_STEP: &str = " -> ";

/// An answer to bad input: an HTTP status and a text for people. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400 malformed, 403 forbidden, 404 unknown, 409 conflict, 413 too large, 422 cannot be done
    /// with what there is, 429 too much for now.
    pub status: u16,
    pub message: String,
    /// The kind and id of the definition that is to be mended, such as `case pay`, where it is one.
    pub about: Option<String>,
}

impl Refusal {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), about: None }
    }

    /// Names the definition that is to be mended, unless one is named already.
    pub fn about(self, kind: &str, id: &str) -> Self {
        let about = self.about.or_else(|| Some(format!("{kind} {id}")));
        Self { about, ..self }
    }

    /// Names the first case of a circle, whose path is given.
    pub(in crate::scheduler) fn about_circle(self, path: &str) -> Self {
        self.about("case", path.split(CIRCLE_STEP).next().unwrap_or_default())
    }

    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
