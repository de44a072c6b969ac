//! The two kinds of error: [`RequestError`] is answered to a client, [`Fatal`] stops the node.
//!
//! gRPC codes and etcd's texts for the first stand in `server/status.rs` alone. No
//! variant of the one can carry the other, so "answer or stop" is the only choice.

use std::fmt;

/// What a client is told. Deterministic when it comes from apply: each member
/// produces the same one for the same entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    // Refused by validation.
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidClientApiVersion,
    InvalidSortOption,
    RequestTooLarge,
    /// RangeStream with an order other than ascending by key.
    StreamSortUnsupported,
    /// RangeStream with one of the four revision filters.
    StreamFilterUnsupported,

    // Decided by the state machine.
    Compacted,
    FutureRevision,
    NoSpace,
    LeaseNotFound,
    LeaseExists,
    LeaseTtlTooLarge,
    Corrupt,

    // Auth: who asks, and what they may do.
    RootUserNotExist,
    RootRoleNotExist,
    UserAlreadyExists,
    /// No name was given, or nobody asks.
    UserEmpty,
    UserNotFound,
    RoleAlreadyExists,
    RoleNotFound,
    RoleEmpty,
    AuthFailed,
    PermissionNotGiven,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    InvalidAuthToken,
    InvalidAuthManagement,
    /// Credentials were checked before the last change of users and roles.
    AuthOldRevision,
    NoPasswordUser,
    VerifyOnlyTokens,
    PasswordTooLong,

    // Availability: the only group that a client may retry.
    NoLeader,
    NotLeader,
    LeaderChanged,
    Stopped,
    Timeout,
    TimeoutDueToLeaderFail,
    TimeoutDueToConnectionLost,
    TimeoutWaitAppliedIndex,
    TooManyRequests,
    NotCapable,
    NotSupportedForLearner,
    Canceled,
    WatchCanceled,
    /// Leader of this moment cannot prove that it still leads (lease keep-alive).
    NotPrimaryLessor,

    // Membership and maintenance.
    MemberNotFound,
    MemberExists,
    PeerUrlExists,
    InvalidMemberUrls,
    NotLearner,
    LearnerNotReady,
    TooManyLearners,
    NotEnoughStartedMembers,
    UnhealthyCluster,
    BadLeaderTransferee,
    LeaderTransferTimeout,
    DowngradeVersionFormat,
    DowngradeTarget,
    DowngradeInProgress,
    ClusterVersionUnavailable,
    /// An action of Downgrade that is none.
    UnknownMethod,

    // Locks and elections.
    LockSessionExpired,
    ElectionNoLeader,
    ElectionNotLeader,
    LeaderFieldMissing,
}

/// A failure after which the node must not go on: storage error, corruption, broken invariant.
#[derive(Debug)]
pub struct Fatal {
    /// Verb and object, present tense, lower case: "read log segment 0000-0000.log at 4096".
    pub context: String,
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Fatal {
    pub fn new(context: impl Into<String>) -> Self {
        Self { context: context.into(), source: None }
    }

    pub fn with(
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { context: context.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fatal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as &(dyn std::error::Error + 'static))
    }
}
