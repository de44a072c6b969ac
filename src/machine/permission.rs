//! Who may do what: the one place that decides it, for every path.
//!
//! Reads ask when they are served, commands when they are applied, both through
//! [`AuthState`]. A request passes only if each key it reads or writes is covered, whether it is
//! named by an operation, a comparison, a branch not taken, a nested transaction, a question for
//! previous values, or the keys of a lease that a put joins. What needs a clock (tokens'
//! ends) or a socket (who calls) is left out.

use super::Machine;
use super::auth::{AuthState, ROOT};
use super::command::decode_parts;
use super::lease::LeaseTable;
use crate::error::RequestError;
use crate::pb::authpb::{Permission, permission::Type};
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op::Request as Op,
};
use crate::pb::quoinpb::command::Request;
use crate::planted::{self, Bug};
use crate::types::{KeyEnd, KeyRange};
use bytes::{BufMut, Bytes, BytesMut};

type Checked = Result<(), RequestError>;

/// Who asks. The default is nobody: refused wherever auth matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller<'a> {
    /// Empty: nobody, or somebody without a name.
    pub user: &'a str,
    /// The auth revision that vouches for the user; 0 for nobody.
    pub revision: u64,
}

/// What a key range is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    Read,
    Write,
}

/// What a user may touch, all its roles taken together.
#[derive(Debug, Default)]
pub(super) struct Grants {
    is_root: bool,
    read: Intervals,
    write: Intervals,
}

impl Grants {
    /// `roles` as (name, permissions).
    pub(super) fn of<'a>(roles: impl Iterator<Item = (&'a str, &'a [Permission])>) -> Self {
        let (mut is_root, mut read, mut write) = (false, vec![], vec![]);
        for (name, permissions) in roles {
            is_root |= name == ROOT;
            for permission in permissions {
                let interval = interval(permission);
                // A type of a later version grants nothing.
                match Type::try_from(permission.perm_type) {
                    Ok(Type::Read) => read.push(interval),
                    Ok(Type::Write) => write.push(interval),
                    Ok(Type::Readwrite) => {
                        read.push(interval.clone());
                        write.push(interval);
                    }
                    Err(_) => {}
                }
            }
        }
        Self { is_root, read: Intervals::union(read), write: Intervals::union(write) }
    }

    fn cover(&self, range: &KeyRange, need: Need) -> bool {
        let intervals = match need {
            Need::Read => &self.read,
            Need::Write => &self.write,
        };
        self.is_root || intervals.cover(range)
    }
}

/// From a key up to, but without, another; or without end.
type Interval = (Bytes, Option<Bytes>);

fn interval(permission: &Permission) -> Interval {
    let range = KeyRange::new(permission.key.clone(), permission.range_end.clone());
    let end = match range.end {
        KeyEnd::Single => {
            let mut after = BytesMut::with_capacity(range.start.len() + 1);
            after.put_slice(&range.start);
            after.put_u8(0);
            Some(after.freeze())
        }
        KeyEnd::Before(end) => Some(end),
        KeyEnd::Unbounded => None,
    };
    (range.start, end)
}

/// Intervals in order that neither overlap nor touch.
#[derive(Debug, Default)]
struct Intervals(Vec<Interval>);

impl Intervals {
    fn union(mut intervals: Vec<Interval>) -> Self {
        intervals.sort();
        let mut union: Vec<Interval> = Vec::with_capacity(intervals.len());
        for (start, end) in intervals {
            match union.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last))) if start <= *last => match end {
                    Some(end) if end <= *last => {}
                    end => union.last_mut().expect("just matched").1 = end,
                },
                _ => union.push((start, end)),
            }
        }
        Self(union)
    }

    fn cover(&self, range: &KeyRange) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= range.start);
        let Some((_, end)) = after.checked_sub(1).and_then(|at| self.0.get(at)) else {
            return false;
        };
        let Some(end) = end else { return true };
        // An empty range counts as its start.
        range.start < *end
            && match &range.end {
                KeyEnd::Single => true,
                KeyEnd::Before(wanted) => wanted <= end,
                KeyEnd::Unbounded => false,
            }
    }
}

/// Whether a permission names keys at all.
pub(super) fn is_valid(permission: &Permission) -> bool {
    let range = KeyRange::new(permission.key.clone(), permission.range_end.clone());
    !range.start.is_empty() && !range.is_empty()
}

impl AuthState {
    /// Checks one range of keys.
    ///
    /// # Errors
    /// `UserEmpty` without credentials, `AuthOldRevision` when they are older than the last change,
    /// `PermissionDenied` when the user's roles do not cover the range.
    pub fn check(&self, caller: Caller<'_>, need: Need, key: &Bytes, range_end: &Bytes) -> Checked {
        if !self.is_enabled() {
            return Ok(());
        }
        let grants = self.current_grants(caller)?;
        match grants.cover(&KeyRange::new(key.clone(), range_end.clone()), need) {
            true => Ok(()),
            false => Err(RequestError::PermissionDenied),
        }
    }

    fn current_grants(&self, caller: Caller<'_>) -> Result<&Grants, RequestError> {
        self.check_user(caller)?;
        if caller.revision < self.revision() && !planted::has(Bug::OldCredentials) {
            return Err(RequestError::AuthOldRevision);
        }
        self.grants(caller.user).ok_or(RequestError::PermissionDenied)
    }

    /// Checks that the caller may administer. Does not ask how old the credentials are.
    ///
    /// # Errors
    /// `UserEmpty` or `PermissionDenied`.
    pub fn check_admin(&self, caller: Caller<'_>) -> Checked {
        if self.is_enabled() && caller.user.is_empty() {
            return Err(RequestError::UserEmpty);
        }
        match !self.is_enabled() || self.grants(caller.user).is_some_and(|grants| grants.is_root) {
            true => Ok(()),
            false => Err(RequestError::PermissionDenied),
        }
    }

    /// Checks that there is a caller: for what every user may do. A caller without a name has shown
    /// a certificate that has none.
    ///
    /// # Errors
    /// `UserEmpty`.
    pub fn check_user(&self, caller: Caller<'_>) -> Checked {
        match self.is_enabled() && caller.revision == 0 {
            true => Err(RequestError::UserEmpty),
            false => Ok(()),
        }
    }

    /// Checks a user's own name, or an administrator.
    ///
    /// # Errors
    /// As [`AuthState::check_admin`].
    pub fn check_self(&self, caller: Caller<'_>, name: &str) -> Checked {
        match self.check_admin(caller) {
            Err(_) if caller.user == name => Ok(()),
            checked => checked,
        }
    }

    /// Checks a holder of the role, or an administrator.
    ///
    /// # Errors
    /// As [`AuthState::check_admin`].
    pub fn check_holder(&self, caller: Caller<'_>, role: &str) -> Checked {
        let holds = |name| self.user(name).is_some_and(|user| user.roles.iter().any(|r| r == role));
        match self.check_admin(caller) {
            Err(_) if holds(caller.user) => Ok(()),
            checked => checked,
        }
    }

    /// Checks each of these keys, an administrator for none of them.
    ///
    /// # Errors
    /// As [`AuthState::check`].
    pub fn check_keys<'k>(
        &self,
        caller: Caller<'_>,
        need: Need,
        keys: impl IntoIterator<Item = &'k Bytes>,
    ) -> Checked {
        if self.check_admin(caller).is_ok() {
            return Ok(());
        }
        keys.into_iter().try_for_each(|key| self.check(caller, need, key, &Bytes::new()))
    }

    /// Checks everything that a transaction could touch, on whichever path it goes.
    ///
    /// # Errors
    /// As [`AuthState::check`].
    pub fn check_txn(
        &self,
        caller: Caller<'_>,
        request: &TxnRequest,
        leases: &LeaseTable,
    ) -> Checked {
        for compare in &request.compare {
            self.check(caller, Need::Read, &compare.key, &compare.range_end)?;
        }
        let mut ops = request.success.iter().chain(&request.failure);
        ops.try_for_each(|op| self.check_op(caller, op, leases))
    }

    fn check_op(&self, caller: Caller<'_>, op: &RequestOp, leases: &LeaseTable) -> Checked {
        match &op.request {
            Some(Op::RequestRange(range)) => {
                self.check(caller, Need::Read, &range.key, &range.range_end)
            }
            Some(Op::RequestPut(put)) => self.check_put(caller, put, leases),
            Some(Op::RequestDeleteRange(delete)) => self.check_delete(caller, delete),
            Some(Op::RequestTxn(txn)) => self.check_txn(caller, txn, leases),
            None => Ok(()),
        }
    }

    fn check_put(&self, caller: Caller<'_>, put: &PutRequest, leases: &LeaseTable) -> Checked {
        self.check(caller, Need::Write, &put.key, &Bytes::new())?;
        // Or its holder could delete, by letting the lease end, what it may not write.
        self.check_lease(caller, put.lease, leases)?;
        match put.prev_kv {
            true => self.check(caller, Need::Read, &put.key, &Bytes::new()),
            false => Ok(()),
        }
    }

    fn check_delete(&self, caller: Caller<'_>, delete: &DeleteRangeRequest) -> Checked {
        self.check(caller, Need::Write, &delete.key, &delete.range_end)?;
        match delete.prev_kv {
            true => self.check(caller, Need::Read, &delete.key, &delete.range_end),
            false => Ok(()),
        }
    }

    fn check_lease(&self, caller: Caller<'_>, lease: i64, leases: &LeaseTable) -> Checked {
        self.check_keys(caller, Need::Write, leases.keys(lease).into_iter().flatten())
    }

    /// Checks a command as it is applied. What members propose of their own accord passes.
    pub(super) fn check_command(
        &self,
        caller: Caller<'_>,
        request: &Request,
        leases: &LeaseTable,
    ) -> Checked {
        if !self.is_enabled() || planted::has(Bug::CheckedWhereProposed) {
            return Ok(());
        }
        self.check_request(caller, request, leases)
    }

    fn check_request(&self, caller: Caller<'_>, request: &Request, leases: &LeaseTable) -> Checked {
        match request {
            Request::Put(put) => self.check_put(caller, put, leases),
            Request::DeleteRange(delete) => self.check_delete(caller, delete),
            Request::Txn(txn) => self.check_txn(caller, txn, leases),
            Request::LeaseGrant(_) => self.check_user(caller),
            Request::LeaseRevoke(revoke) if !revoke.expired => {
                self.check_user(caller)?;
                revoke.ids.iter().try_for_each(|id| self.check_lease(caller, *id, leases))
            }
            Request::Compaction(_)
            | Request::AuthEnable(_)
            | Request::AuthDisable(_)
            | Request::UserAdd(_)
            | Request::UserDelete(_)
            | Request::UserChangePassword(_)
            | Request::UserGrantRole(_)
            | Request::UserRevokeRole(_)
            | Request::RoleAdd(_)
            | Request::RoleDelete(_)
            | Request::RoleGrantPermission(_)
            | Request::RoleRevokePermission(_) => self.check_admin(caller),
            // Checked by the member that was asked; these come without a caller.
            Request::LeaseRevoke(_)
            | Request::MemberAttributes(_)
            | Request::ClusterVersion(_)
            | Request::Downgrade(_)
            | Request::Alarm(_)
            | Request::MemberAdd(_)
            | Request::MemberUpdate(_)
            | Request::MemberPromote(_)
            | Request::MemberRemove(_)
            | Request::Authenticate(_) => Ok(()),
        }
    }
}

impl Machine {
    /// A planted bug: see there. Why a command would be refused now.
    pub fn refuses(&self, command: Bytes) -> Option<RequestError> {
        let parts = decode_parts(command).ok()?;
        let state = self.auth();
        if !state.is_enabled() {
            return None;
        }
        state.check_request(parts.caller(), &parts.request, self.leases()).err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(0u8..3, 1..3)
    }

    fn range_end() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(vec![]), Just(vec![0]), key()]
    }

    proptest! {
        /// A range is covered exactly when each key in it lies in some granted range.
        #[test]
        fn a_range_is_covered_when_each_of_its_keys_is_granted(
            granted in prop::collection::vec((key(), range_end()), 0..5),
            start in key(),
            end in range_end(),
        ) {
            let permissions: Vec<Permission> = granted
                .into_iter()
                .map(|(key, end)| Permission {
                    perm_type: Type::Read as i32,
                    key: key.into(),
                    range_end: end.into(),
                })
                .filter(is_valid)
                .collect();
            let ranges: Vec<KeyRange> = permissions
                .iter()
                .map(|p| KeyRange::new(p.key.clone(), p.range_end.clone()))
                .collect();
            let grants = Grants::of([("role", &permissions[..])].into_iter());
            let wanted = KeyRange::new(start.into(), end.into());
            prop_assume!(!wanted.is_empty());
            // All keys of up to four bytes over the alphabet and one beyond it, with which every
            // gap between bounds of at most two bytes shows.
            let mut keys = vec![vec![]];
            for length in 0..4 {
                let longest: Vec<Vec<u8>> =
                    keys.iter().filter(|k: &&Vec<u8>| k.len() == length).cloned().collect();
                for prefix in longest {
                    keys.extend((0..4).map(|byte| [&prefix[..], &[byte]].concat()));
                }
            }
            let open = ranges.iter().any(|range| range.end == KeyEnd::Unbounded);
            let expected = keys
                .iter()
                .filter(|key| !key.is_empty() && wanted.contains(key))
                .all(|key| ranges.iter().any(|range| range.contains(key)))
                && (wanted.end != KeyEnd::Unbounded || open);
            prop_assert_eq!(grants.cover(&wanted, Need::Read), expected);
            prop_assert!(!grants.cover(&wanted, Need::Write));
        }
    }

    #[test]
    fn a_permission_names_keys_or_is_invalid() {
        let table: [(&[u8], &[u8], bool); 8] = [
            (b"a", b"", true),
            (b"a", b"b", true),
            (b"a", b"\0", true),
            (b"\0", b"\0", true),
            (b"", b"", false),
            (b"", b"b", false),
            (b"b", b"a", false),
            (b"a", b"a", false),
        ];
        for (key, end, valid) in table {
            let permission = Permission {
                key: Bytes::from_static(key),
                range_end: Bytes::from_static(end),
                ..Permission::default()
            };
            assert_eq!(is_valid(&permission), valid, "{permission:?}");
        }
    }
}
