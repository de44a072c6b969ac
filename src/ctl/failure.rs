//! Why a command failed: what is said on standard error, and etcdctl's exit code.

use std::fmt;
use tonic::{Code, Status};

/// Exit codes of etcdctl.
pub(super) const ERROR: u8 = 1;
pub(super) const BAD_CONNECTION: u8 = 2;
pub(super) const INVALID_INPUT: u8 = 3;
pub(super) const BAD_FEATURE: u8 = 4;
pub(super) const INTERRUPTED: u8 = 5;
pub(super) const BAD_ARGS: u8 = 128;

/// Texts that start like errors of etcd and that its client does not take for such: it shows them
/// with their code.
const UNKNOWN_TO_CLIENTS: [&str; 9] = [
    "etcdserver: context deadline exceeded",
    "etcdserver: invalid client api version",
    "etcdserver: permission not given",
    "etcdserver: request canceled",
    "etcdserver: request timed out, leader transfer took too long",
    "etcdserver: request timed out, waiting for the applied index took too long",
    "etcdserver: unknown error",
    "etcdserver: unknown method",
    "etcdserver: watch canceled",
];
/// What a call is told whose time is over.
pub(super) const DEADLINE: &str = "context deadline exceeded";

/// The end of a command that did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Without `Error: `; empty if all has been said.
    text: String,
    code: u8,
}

impl Failure {
    pub(super) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), code }
    }

    /// The command line is not one that this command takes.
    pub(super) fn args(text: impl Into<String>) -> Self {
        Self::new(BAD_ARGS, text)
    }

    /// A known flag with a value that is none of its.
    pub(super) fn feature(text: impl Into<String>) -> Self {
        Self::new(BAD_FEATURE, text)
    }

    /// What is wrong has been said already.
    pub(super) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The same with another exit code.
    pub(super) fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// The same, told as the cause of something.
    pub(super) fn because(self, what: &str) -> Self {
        Self { text: format!("{what} ({})", self.text), ..self }
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// An error of a server, in the words of etcd's client.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::new(ERROR, text_of(&status))
    }
}

pub(super) fn text_of(status: &Status) -> String {
    let text = status.message();
    let is_known = text.starts_with("etcdserver: ") && !UNKNOWN_TO_CLIENTS.contains(&text);
    match is_known || text == DEADLINE {
        true => text.to_owned(),
        false => format!("rpc error: code = {} desc = {text}", name_of(status.code())),
    }
}

/// Codes as Go's library prints them.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_servers_in_the_words_of_etcds_client() {
        let known = Status::not_found("etcdserver: requested lease not found");
        assert_eq!(text_of(&known), "etcdserver: requested lease not found");
        let unknown = Status::unknown("etcdserver: unknown method");
        assert_eq!(
            text_of(&unknown),
            "rpc error: code = Unknown desc = etcdserver: unknown method"
        );
        let foreign = Status::cancelled("x");
        assert_eq!(text_of(&foreign), "rpc error: code = Canceled desc = x");
        let failure = Failure::from(known).because("failed to revoke lease");
        let text = "failed to revoke lease (etcdserver: requested lease not found)";
        assert_eq!((failure.to_string().as_str(), failure.code()), (text, ERROR));
    }
}
