//! The one place that knows gRPC codes and etcd's texts.
//!
//! Clients match on both: the Go client turns texts back into its error values, retry rules
//! look at codes. So each [`RequestError`] has exactly one pair, even where etcd's own choice
//! looks odd (`TooManyRequests` and `NotPrimaryLessor` travel as Unknown).

use crate::error::RequestError;
use tonic::{Code, Status};

/// What a client is told, by code and by text.
///
/// The text is also what a watch gives as its reason to cancel.
pub fn code_and_text(error: &RequestError) -> (Code, &'static str) {
    of_auth(error).unwrap_or_else(|| of_others(error))
}

/// The text alone.
pub fn text(error: &RequestError) -> &'static str {
    code_and_text(error).1
}

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        let (code, text) = code_and_text(&error);
        Status::new(code, text)
    }
}

/// The refusal of a call that no service has, in the words of the gRPC library that etcd uses.
///
/// `target` is what was asked for, with its query if it has one; `is_service` knows names.
pub fn unknown_call(target: &str, is_service: impl Fn(&str) -> bool) -> Status {
    let name = target.strip_prefix('/').unwrap_or(target);
    Status::unimplemented(match name.rsplit_once('/') {
        None => format!("malformed method name: {target:?}"),
        Some((service, method)) if is_service(service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    })
}

/// The pairs of auth's errors.
fn of_auth(error: &RequestError) -> Option<(Code, &'static str)> {
    use Code::*;
    use RequestError as E;
    Some(match error {
        E::RootUserNotExist => (FailedPrecondition, "etcdserver: root user does not exist"),
        E::RootRoleNotExist => {
            (FailedPrecondition, "etcdserver: root user does not have root role")
        }
        E::UserAlreadyExists => (FailedPrecondition, "etcdserver: user name already exists"),
        E::UserEmpty => (InvalidArgument, "etcdserver: user name is empty"),
        E::UserNotFound => (FailedPrecondition, "etcdserver: user name not found"),
        E::RoleAlreadyExists => (FailedPrecondition, "etcdserver: role name already exists"),
        E::RoleNotFound => (FailedPrecondition, "etcdserver: role name not found"),
        E::RoleEmpty => (InvalidArgument, "etcdserver: role name is empty"),
        E::AuthFailed => {
            (InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
        }
        E::PermissionNotGiven => (InvalidArgument, "etcdserver: permission not given"),
        E::PermissionDenied => (PermissionDenied, "etcdserver: permission denied"),
        E::RoleNotGranted => (FailedPrecondition, "etcdserver: role is not granted to the user"),
        E::PermissionNotGranted => {
            (FailedPrecondition, "etcdserver: permission is not granted to the role")
        }
        E::AuthNotEnabled => (FailedPrecondition, "etcdserver: authentication is not enabled"),
        E::InvalidAuthToken => (Unauthenticated, "etcdserver: invalid auth token"),
        E::InvalidAuthManagement => (InvalidArgument, "etcdserver: invalid auth management"),
        E::AuthOldRevision => (InvalidArgument, "etcdserver: revision of auth store is old"),
        E::NoPasswordUser => {
            (Unknown, "auth: authentication failed, password was given for no password user")
        }
        E::VerifyOnlyTokens => (Unknown, "auth: token signing attempted with verify-only key"),
        E::PasswordTooLong => (Unknown, "bcrypt: password length exceeds 72 bytes"),
        _ => return None,
    })
}

fn of_others(error: &RequestError) -> (Code, &'static str) {
    use Code::*;
    use RequestError as E;
    match error {
        E::EmptyKey => (InvalidArgument, "etcdserver: key is not provided"),
        E::KeyNotFound => (InvalidArgument, "etcdserver: key not found"),
        E::ValueProvided => (InvalidArgument, "etcdserver: value is provided"),
        E::LeaseProvided => (InvalidArgument, "etcdserver: lease is provided"),
        E::TooManyOps => (InvalidArgument, "etcdserver: too many operations in txn request"),
        E::DuplicateKey => (InvalidArgument, "etcdserver: duplicate key given in txn request"),
        E::InvalidClientApiVersion => (InvalidArgument, "etcdserver: invalid client api version"),
        E::InvalidSortOption => (InvalidArgument, "etcdserver: invalid sort option"),
        E::RequestTooLarge => (InvalidArgument, "etcdserver: request is too large"),
        E::StreamSortUnsupported => {
            (Unimplemented, "RangeStream does not support custom sort orders")
        }
        E::StreamFilterUnsupported => {
            (Unimplemented, "RangeStream does not support revision filters")
        }

        E::Compacted => (OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        E::FutureRevision => {
            (OutOfRange, "etcdserver: mvcc: required revision is a future revision")
        }
        E::NoSpace => (ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        E::LeaseNotFound => (NotFound, "etcdserver: requested lease not found"),
        E::LeaseExists => (FailedPrecondition, "etcdserver: lease already exists"),
        E::LeaseTtlTooLarge => (OutOfRange, "etcdserver: too large lease TTL"),
        E::Corrupt => (DataLoss, "etcdserver: corrupt cluster"),

        E::NoLeader => (Unavailable, "etcdserver: no leader"),
        E::NotLeader => (FailedPrecondition, "etcdserver: not leader"),
        E::LeaderChanged => (Unavailable, "etcdserver: leader changed"),
        E::Stopped => (Unavailable, "etcdserver: server stopped"),
        E::Timeout => (Unavailable, "etcdserver: request timed out"),
        E::TimeoutDueToLeaderFail => {
            (Unavailable, "etcdserver: request timed out, possibly due to previous leader failure")
        }
        E::TimeoutDueToConnectionLost => {
            (Unavailable, "etcdserver: request timed out, possibly due to connection lost")
        }
        E::TimeoutWaitAppliedIndex => (
            Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        ),
        E::TooManyRequests => (Unknown, "etcdserver: too many requests"),
        E::NotCapable => (FailedPrecondition, "etcdserver: not capable"),
        E::NotSupportedForLearner => {
            (FailedPrecondition, "etcdserver: rpc not supported for learner")
        }
        E::Canceled => (Cancelled, "etcdserver: request canceled"),
        E::WatchCanceled => (Cancelled, "etcdserver: watch canceled"),
        E::NotPrimaryLessor => (Unknown, "not a primary lessor"),

        other => about_members(other),
    }
}

/// Of membership and maintenance.
fn about_members(error: &RequestError) -> (Code, &'static str) {
    use Code::*;
    use RequestError as E;
    match error {
        E::MemberNotFound => (NotFound, "etcdserver: member not found"),
        E::MemberExists => (FailedPrecondition, "etcdserver: member ID already exist"),
        E::PeerUrlExists => (FailedPrecondition, "etcdserver: Peer URLs already exists"),
        E::InvalidMemberUrls => (InvalidArgument, "etcdserver: given member URLs are invalid"),
        E::NotLearner => (FailedPrecondition, "etcdserver: can only promote a learner member"),
        E::LearnerNotReady => (
            FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        ),
        E::TooManyLearners => {
            (FailedPrecondition, "etcdserver: too many learner members in cluster")
        }
        E::NotEnoughStartedMembers => {
            (Unknown, "etcdserver: re-configuration failed due to not enough started members")
        }
        E::UnhealthyCluster => (Unavailable, "etcdserver: unhealthy cluster"),
        E::BadLeaderTransferee => (FailedPrecondition, "etcdserver: bad leader transferee"),
        E::LeaderTransferTimeout => {
            (Unknown, "etcdserver: request timed out, leader transfer took too long")
        }
        E::DowngradeVersionFormat => {
            (InvalidArgument, "etcdserver: wrong downgrade target version format")
        }
        E::DowngradeTarget => (InvalidArgument, "etcdserver: invalid downgrade target version"),
        E::DowngradeInProgress => {
            (FailedPrecondition, "etcdserver: cluster has a downgrade job in progress")
        }
        E::ClusterVersionUnavailable => {
            (FailedPrecondition, "etcdserver: cluster version not found during downgrade")
        }
        E::UnknownMethod => (Unknown, "etcdserver: unknown method"),

        E::LockSessionExpired => (Unknown, "mutex: session is expired"),
        E::ElectionNoLeader => (Unknown, "election: no leader"),
        E::ElectionNotLeader => (Unknown, "election: not leader"),
        E::LeaderFieldMissing => (Unknown, "\"leader\" field must be provided"),

        // None: auth's have their own table.
        _ => (Unknown, "etcdserver: unknown error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists rows, and a match over their variants: a variant without a row does not compile.
    macro_rules! rows {
        ($($variant:ident $(($method:literal))? => $code:ident, $text:literal;)*) => {
            fn rows() -> Vec<(RequestError, Code, &'static str)> {
                vec![$((RequestError::$variant $(($method))?, Code::$code, $text)),*]
            }

            #[expect(dead_code, reason = "compiling it is the test")]
            fn every_variant_has_a_row(error: &RequestError) {
                match error {
                    $(RequestError::$variant { .. } => {})*
                }
            }
        };
    }

    rows! {
        EmptyKey => InvalidArgument, "etcdserver: key is not provided";
        KeyNotFound => InvalidArgument, "etcdserver: key not found";
        ValueProvided => InvalidArgument, "etcdserver: value is provided";
        LeaseProvided => InvalidArgument, "etcdserver: lease is provided";
        TooManyOps => InvalidArgument, "etcdserver: too many operations in txn request";
        DuplicateKey => InvalidArgument, "etcdserver: duplicate key given in txn request";
        InvalidClientApiVersion => InvalidArgument, "etcdserver: invalid client api version";
        InvalidSortOption => InvalidArgument, "etcdserver: invalid sort option";
        RequestTooLarge => InvalidArgument, "etcdserver: request is too large";
        StreamSortUnsupported => Unimplemented, "RangeStream does not support custom sort orders";
        StreamFilterUnsupported => Unimplemented, "RangeStream does not support revision filters";
        Compacted => OutOfRange, "etcdserver: mvcc: required revision has been compacted";
        FutureRevision => OutOfRange, "etcdserver: mvcc: required revision is a future revision";
        NoSpace => ResourceExhausted, "etcdserver: mvcc: database space exceeded";
        LeaseNotFound => NotFound, "etcdserver: requested lease not found";
        LeaseExists => FailedPrecondition, "etcdserver: lease already exists";
        LeaseTtlTooLarge => OutOfRange, "etcdserver: too large lease TTL";
        Corrupt => DataLoss, "etcdserver: corrupt cluster";
        RootUserNotExist => FailedPrecondition, "etcdserver: root user does not exist";
        RootRoleNotExist => FailedPrecondition, "etcdserver: root user does not have root role";
        UserAlreadyExists => FailedPrecondition, "etcdserver: user name already exists";
        UserEmpty => InvalidArgument, "etcdserver: user name is empty";
        UserNotFound => FailedPrecondition, "etcdserver: user name not found";
        RoleAlreadyExists => FailedPrecondition, "etcdserver: role name already exists";
        RoleNotFound => FailedPrecondition, "etcdserver: role name not found";
        RoleEmpty => InvalidArgument, "etcdserver: role name is empty";
        AuthFailed => InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
        PermissionNotGiven => InvalidArgument, "etcdserver: permission not given";
        PermissionDenied => PermissionDenied, "etcdserver: permission denied";
        RoleNotGranted => FailedPrecondition, "etcdserver: role is not granted to the user";
        PermissionNotGranted => FailedPrecondition, "etcdserver: permission is not granted to the role";
        AuthNotEnabled => FailedPrecondition, "etcdserver: authentication is not enabled";
        InvalidAuthToken => Unauthenticated, "etcdserver: invalid auth token";
        InvalidAuthManagement => InvalidArgument, "etcdserver: invalid auth management";
        AuthOldRevision => InvalidArgument, "etcdserver: revision of auth store is old";
        NoPasswordUser => Unknown, "auth: authentication failed, password was given for no password user";
        VerifyOnlyTokens => Unknown, "auth: token signing attempted with verify-only key";
        PasswordTooLong => Unknown, "bcrypt: password length exceeds 72 bytes";
        NoLeader => Unavailable, "etcdserver: no leader";
        NotLeader => FailedPrecondition, "etcdserver: not leader";
        LeaderChanged => Unavailable, "etcdserver: leader changed";
        Stopped => Unavailable, "etcdserver: server stopped";
        Timeout => Unavailable, "etcdserver: request timed out";
        TimeoutDueToLeaderFail => Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure";
        TimeoutDueToConnectionLost => Unavailable,
            "etcdserver: request timed out, possibly due to connection lost";
        TimeoutWaitAppliedIndex => Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long";
        TooManyRequests => Unknown, "etcdserver: too many requests";
        NotCapable => FailedPrecondition, "etcdserver: not capable";
        NotSupportedForLearner => FailedPrecondition, "etcdserver: rpc not supported for learner";
        Canceled => Cancelled, "etcdserver: request canceled";
        WatchCanceled => Cancelled, "etcdserver: watch canceled";
        NotPrimaryLessor => Unknown, "not a primary lessor";
        MemberNotFound => NotFound, "etcdserver: member not found";
        MemberExists => FailedPrecondition, "etcdserver: member ID already exist";
        PeerUrlExists => FailedPrecondition, "etcdserver: Peer URLs already exists";
        InvalidMemberUrls => InvalidArgument, "etcdserver: given member URLs are invalid";
        NotLearner => FailedPrecondition, "etcdserver: can only promote a learner member";
        LearnerNotReady => FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
        TooManyLearners => FailedPrecondition, "etcdserver: too many learner members in cluster";
        NotEnoughStartedMembers => Unknown, "etcdserver: re-configuration failed due to not enough started members";
        UnhealthyCluster => Unavailable, "etcdserver: unhealthy cluster";
        BadLeaderTransferee => FailedPrecondition, "etcdserver: bad leader transferee";
        LeaderTransferTimeout => Unknown,
            "etcdserver: request timed out, leader transfer took too long";
        DowngradeVersionFormat => InvalidArgument,
            "etcdserver: wrong downgrade target version format";
        DowngradeTarget => InvalidArgument, "etcdserver: invalid downgrade target version";
        DowngradeInProgress => FailedPrecondition,
            "etcdserver: cluster has a downgrade job in progress";
        ClusterVersionUnavailable => FailedPrecondition,
            "etcdserver: cluster version not found during downgrade";
        UnknownMethod => Unknown, "etcdserver: unknown method";
        LockSessionExpired => Unknown, "mutex: session is expired";
        ElectionNoLeader => Unknown, "election: no leader";
        ElectionNotLeader => Unknown, "election: not leader";
        LeaderFieldMissing => Unknown, "\"leader\" field must be provided";
    }

    #[test]
    fn each_error_has_the_code_and_text_of_etcd() {
        for (error, code, expected) in rows() {
            let status = Status::from(error.clone());
            assert_eq!((status.code(), status.message()), (code, expected), "{error:?}");
            assert_eq!(text(&error), expected);
        }
    }

    /// Clients send a write again when they see one of these texts, so an answer to a write
    /// that may have been applied must never contain them.
    #[test]
    fn no_text_invites_a_client_to_repeat_a_write() {
        for (error, _, text) in rows() {
            for inviting in ["there is no address available", "there is no connection available"] {
                assert!(!text.contains(inviting), "{error:?}");
            }
        }
    }
}
