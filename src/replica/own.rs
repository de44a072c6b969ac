//! What a leader proposes of its own accord: ends of leases, and the cluster's version.

use super::input::Millis;
use super::replica::Replica;
use crate::machine::encode_command;
use crate::pb::quoinpb::{ClusterVersion, LeaseRevokeBatch, command::Request};
use crate::raft_log::LogStore;
use crate::types::RequestId;
use bytes::Bytes;

/// The etcd version whose behaviour the cluster has, as its members record it.
const CLUSTER_VERSION: &str = "3.7.0";

/// How often a leader that never rests looks whether the cluster's version is to change.
const VERSION_INTERVAL: Millis = 5_000;

impl<L: LogStore> Replica<L> {
    pub(super) fn propose_own(&mut self, now: Millis) {
        let expired = self.lessor.expired(now, self.settings.election_timeout_ms());
        if !expired.is_empty() {
            // Never forwarded: a leader of the past cannot commit it, so it revokes nothing.
            self.propose_unanswered(Request::LeaseRevoke(LeaseRevokeBatch {
                ids: expired,
                expired: true,
            }));
        }
        let wanted = self.machine.downgrade_target().unwrap_or(CLUSTER_VERSION);
        let current = self.machine.cluster_version();
        // When nothing is under way, it was not proposed yet; else once in a while will do.
        let raft = &self.raft.raft;
        let idle = self.machine.applied_index() == raft.raft_log.last_index();
        let is_due = idle || (current.is_some() && now >= self.version_due);
        if current != Some(wanted) && is_due && raft.commit_to_current_term() {
            let version = wanted.to_owned();
            self.version_due = now + VERSION_INTERVAL;
            self.propose_unanswered(Request::ClusterVersion(ClusterVersion { version }));
        }
    }

    fn propose_unanswered(&mut self, request: Request) {
        self.own_sequence += 1;
        let id = RequestId {
            member: self.settings.id,
            // Boots of clients' requests are even: these never meet them.
            boot: self.settings.boot | 1,
            sequence: self.own_sequence,
        };
        let command = Bytes::from(encode_command(id, request));
        // Dropped when too much is under way or the leadership is being handed over: it comes
        // again at a later tick.
        let _dropped = self.propose(vec![command]);
    }
}
