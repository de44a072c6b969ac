//! Who looks on while the machine works: it has no clock, so it tells what begins and what ends.

use super::{Machine, Outcome};
use crate::mvcc::{CompactionProgress, Tally};
use crate::pb::quoinpb::command::Request;
use bytes::Bytes;

/// The kind of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation(usize);

impl Operation {
    /// etcd's names where it has them; it applies changes of members in another way.
    pub const NAMES: [&'static str; 26] = [
        "Put",
        "DeleteRange",
        "Txn",
        "Compaction",
        "LeaseGrant",
        "LeaseRevoke",
        "ClusterMemberAttrSet",
        "ClusterVersionSet",
        "Alarm",
        "MemberAdd",
        "MemberUpdate",
        "MemberPromote",
        "MemberRemove",
        "AuthEnable",
        "AuthDisable",
        "AuthUserAdd",
        "AuthUserDelete",
        "AuthUserChangePassword",
        "AuthUserGrantRole",
        "AuthUserRevokeRole",
        "AuthRoleAdd",
        "AuthRoleDelete",
        "AuthRoleGrantPermission",
        "DowngradeInfoSet",
        "AuthRoleRevokePermission",
        "Authenticate",
    ];

    pub(super) fn of(request: &Request) -> Self {
        Self(match request {
            Request::Put(_) => 0,
            Request::DeleteRange(_) => 1,
            Request::Txn(_) => 2,
            Request::Compaction(_) => 3,
            Request::LeaseGrant(_) => 4,
            Request::LeaseRevoke(_) => 5,
            Request::MemberAttributes(_) => 6,
            Request::ClusterVersion(_) => 7,
            Request::Alarm(_) => 8,
            Request::MemberAdd(_) => 9,
            Request::MemberUpdate(_) => 10,
            Request::MemberPromote(_) => 11,
            Request::MemberRemove(_) => 12,
            Request::AuthEnable(_) => 13,
            Request::AuthDisable(_) => 14,
            Request::UserAdd(_) => 15,
            Request::UserDelete(_) => 16,
            Request::UserChangePassword(_) => 17,
            Request::UserGrantRole(_) => 18,
            Request::UserRevokeRole(_) => 19,
            Request::RoleAdd(_) => 20,
            Request::RoleDelete(_) => 21,
            Request::RoleGrantPermission(_) => 22,
            Request::Downgrade(_) => 23,
            Request::RoleRevokePermission(_) => 24,
            Request::Authenticate(_) => 25,
        })
    }

    /// Its place in [`Operation::NAMES`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// Looks on. It must not keep the machine's thread for long.
pub trait Observer: Send {
    /// Entries, or a step of compaction, are about to begin.
    fn begins(&mut self);

    /// An entry was applied; the next one follows at once.
    fn applied(&mut self, operation: Operation, command: &Bytes, outcome: &Outcome);

    /// The step of compaction is done.
    fn compacted(&mut self, progress: CompactionProgress);

    /// A snapshot is about to replace the state, or has.
    fn restoring(&mut self, is_under_way: bool);
}

impl Machine {
    /// Whoever looks on says that time has passed: see `Mvcc::age_pins`.
    pub fn age_pins(&self, ages_max: u32) {
        self.mvcc.age_pins(ages_max);
    }

    /// What was done since the machine was opened.
    pub fn tally(&self) -> Tally {
        self.mvcc.tally()
    }

    /// Keys that exist.
    pub fn keys(&self) -> u64 {
        self.mvcc.keys()
    }

    /// From now on this one looks on.
    pub fn set_observer(&mut self, observer: Box<dyn Observer>) {
        self.observer = Some(observer);
    }

    pub(super) fn tell(&mut self, what: impl FnOnce(&mut dyn Observer)) {
        if let Some(observer) = &mut self.observer {
            what(observer.as_mut());
        }
    }
}
