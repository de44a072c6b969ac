//! Response headers: who answers, and at which revision and term.

use crate::pb::etcdserverpb::ResponseHeader;
use crate::replica::Handle;

/// Fills headers on behalf of one member.
#[derive(Clone)]
pub struct Headers {
    handle: Handle,
}

impl Headers {
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// A complete header at the present revision.
    pub fn current(&self) -> ResponseHeader {
        self.at(self.handle.view().revision())
    }

    /// A complete header at the given revision; membership calls give 0, as etcd does.
    pub fn at(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.handle.cluster_id().0,
            member_id: self.handle.member_id().0,
            revision,
            raft_term: self.handle.term(),
        }
    }

    /// Completes a header in which the state machine set the revision, if it set one.
    pub fn fill(&self, header: &mut Option<ResponseHeader>) {
        *header = Some(match header {
            Some(ResponseHeader { revision, .. }) if *revision != 0 => self.at(*revision),
            _ => self.current(),
        });
    }
}
