//! What goes wrong with a command line, and what is worth a line in the log.
//!
//! Configuration is read before there is a log, so both are values: `main` prints or logs
//! them in the way that [`ConfigError::notice`] says.

use crate::config::LogLevel;
use std::fmt;

/// Why the process cannot start as it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// 2 for a flag that cannot be read, 1 for everything else.
    pub exit_code: u8,
    pub kind: ErrorKind,
    /// etcd's text wherever etcd has the case.
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A flag is unknown or its value unreadable: the message and the usage go to stderr as plain text.
    Usage,
    /// A variable is set beside its flag.
    ShadowedVariable(String),
    /// Values that are not possible, by themselves or together.
    Flags,
    /// The first members are not described consistently.
    Bootstrap,
}

impl ConfigError {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { exit_code: 2, kind: ErrorKind::Usage, message: message.into() }
    }

    pub(super) fn flags(message: impl Into<String>) -> Self {
        Self { exit_code: 1, kind: ErrorKind::Flags, message: message.into() }
    }

    pub(super) fn bootstrap(message: impl Into<String>) -> Self {
        Self { exit_code: 1, kind: ErrorKind::Bootstrap, message: message.into() }
    }

    pub(super) fn shadowed(variable: String) -> Self {
        let message = "conflicting environment variable is shadowed by corresponding \
                       command-line flag (either unset environment variable or disable flag))";
        let kind = ErrorKind::ShadowedVariable(variable);
        Self { exit_code: 1, kind, message: message.to_string() }
    }

    /// The line to log before the process ends; none for [`ErrorKind::Usage`], which is printed.
    pub fn notice(&self) -> Option<Notice> {
        let error = vec![("error", self.message.clone())];
        match &self.kind {
            ErrorKind::Usage => None,
            ErrorKind::Flags => Some(Notice::warn("failed to verify flags", error)),
            ErrorKind::Bootstrap => Some(Notice::new(LogLevel::Fatal, "discovery failed", error)),
            ErrorKind::ShadowedVariable(variable) => {
                let fields = vec![("environment-variable", variable.clone())];
                Some(Notice::new(LogLevel::Fatal, &self.message, fields))
            }
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// A line for the log, to be written once there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub level: LogLevel,
    pub message: String,
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    pub(super) fn new(level: LogLevel, message: &str, fields: Vec<(&'static str, String)>) -> Self {
        Self { level, message: message.to_string(), fields }
    }

    pub(super) fn info(message: &str, fields: Vec<(&'static str, String)>) -> Self {
        Self::new(LogLevel::Info, message, fields)
    }

    pub(super) fn warn(message: &str, fields: Vec<(&'static str, String)>) -> Self {
        Self::new(LogLevel::Warn, message, fields)
    }
}
