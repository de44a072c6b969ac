//! Raised alarms: which member complains of what, and what that forbids.
//!
//! Mirrors the space `alarm`; both change together, in the batch of the entry that causes it.

use super::table::read_all;
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, RequestOp, TxnRequest};
use crate::pb::quoinpb::command::Request;
use crate::storage::{Engine, Space, WriteBatch};
use std::collections::BTreeSet;

/// All alarms of the cluster, by type and then by member.
#[derive(Debug, Default)]
pub struct AlarmTable {
    raised: BTreeSet<(i32, u64)>,
}

impl AlarmTable {
    pub(super) fn open(engine: &dyn Engine) -> Result<Self, Fatal> {
        let mut raised = BTreeSet::new();
        read_all(engine, Space::Alarm, "alarms", &mut |key, _| {
            raised.insert(decode(key)?);
            Some(())
        })?;
        Ok(Self { raised })
    }

    /// The raised alarms of one type, or of all with [`AlarmType::None`].
    pub fn list(&self, alarm: i32) -> Vec<AlarmMember> {
        let wanted = |kind: i32| alarm == AlarmType::None as i32 || alarm == kind;
        let raised = self.raised.iter().filter(|(kind, _)| wanted(*kind));
        raised.map(|(kind, member)| AlarmMember { member_id: *member, alarm: *kind }).collect()
    }

    fn is_raised(&self, alarm: AlarmType) -> bool {
        self.raised.iter().any(|(kind, _)| *kind == alarm as i32)
    }

    /// Answers with the alarms that the request names, after it raised or cleared them.
    pub(super) fn carry_out(
        &mut self,
        request: &AlarmRequest,
        batch: &mut WriteBatch,
    ) -> Vec<AlarmMember> {
        let alarm = (request.alarm, request.member_id);
        let named = vec![AlarmMember { member_id: request.member_id, alarm: request.alarm }];
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => self.list(request.alarm),
            Ok(AlarmAction::Activate) if request.alarm != AlarmType::None as i32 => {
                if self.raised.insert(alarm) {
                    batch.put(Space::Alarm, encode(alarm), Vec::new());
                }
                named
            }
            Ok(AlarmAction::Deactivate) if self.raised.remove(&alarm) => {
                batch.delete(Space::Alarm, encode(alarm));
                named
            }
            _ => Vec::new(),
        }
    }

    /// Refuses what the raised alarms forbid.
    ///
    /// # Errors
    /// `Corrupt`: anything that changes data. `NoSpace`: what needs more space.
    pub(super) fn check(&self, request: &Request) -> Result<(), RequestError> {
        if self.raised.is_empty() {
            return Ok(());
        }
        let changes_data = matches!(
            request,
            Request::Put(_)
                | Request::DeleteRange(_)
                | Request::Txn(_)
                | Request::Compaction(_)
                | Request::LeaseGrant(_)
                | Request::LeaseRevoke(_)
        );
        if changes_data && self.is_raised(AlarmType::Corrupt) {
            return Err(RequestError::Corrupt);
        }
        let needs_space = match request {
            Request::Put(_) | Request::LeaseGrant(_) => true,
            Request::Txn(txn) => puts(txn),
            _ => false,
        };
        if needs_space && self.is_raised(AlarmType::Nospace) {
            return Err(RequestError::NoSpace);
        }
        Ok(())
    }
}

/// Whether either branch puts anything.
fn puts(txn: &TxnRequest) -> bool {
    let op = |op: &RequestOp| match &op.request {
        Some(Op::RequestPut(_)) => true,
        Some(Op::RequestTxn(nested)) => puts(nested),
        _ => false,
    };
    txn.success.iter().chain(&txn.failure).any(op)
}

fn encode((kind, member): (i32, u64)) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &member.to_be_bytes()].concat()
}

fn decode(key: &[u8]) -> Option<(i32, u64)> {
    let (kind, member) = key.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*kind), u64::from_be_bytes(member.try_into().ok()?)))
}
