//! How far a task is: codes as test records have always carried them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The state of a task. All from `Passed` on are terminal: nothing changes them any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    Pending,
    Running,
    Passed,
    /// The verdict is that the case does not hold.
    Failed,
    /// No verdict: the target could not be reached, or the command not be started.
    Error,
    Canceled,
    /// Never started: a predecessor's outcome forbade it, or the run's deadline passed.
    Skipped,
    TimedOut,
    /// Its worker was lost, and it must not or should not be tried again.
    Lost,
}

impl Status {
    pub const ALL: [Status; 9] = [
        Status::Pending,
        Status::Running,
        Status::Passed,
        Status::Failed,
        Status::Error,
        Status::Canceled,
        Status::Skipped,
        Status::TimedOut,
        Status::Lost,
    ];

    /// The two digits that records carry.
    pub const fn code(self) -> &'static str {
        match self {
            Status::Pending => "00",
            Status::Running => "01",
            Status::Passed => "02",
            Status::Failed => "03",
            Status::Error => "04",
            Status::Canceled => "05",
            Status::Skipped => "06",
            Status::TimedOut => "07",
            Status::Lost => "08",
        }
    }

    /// The word for people.
    pub const fn word(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Passed => "passed",
            Status::Failed => "failed",
            Status::Error => "error",
            Status::Canceled => "canceled",
            Status::Skipped => "skipped",
            Status::TimedOut => "timed out",
            Status::Lost => "lost",
        }
    }

    pub const fn is_terminal(self) -> bool {
        self as u8 >= Status::Passed as u8
    }

    /// Whether a run with such a task has failed, unless the task is muted.
    pub const fn fails_run(self) -> bool {
        matches!(self, Status::Failed | Status::Error | Status::TimedOut | Status::Lost)
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        let found = Status::ALL.into_iter().find(|status| status.code() == code);
        found.ok_or_else(|| de::Error::custom(format!("unknown status {code:?}")))
    }
}
