//! Whether the store has room for a request: `--quota-backend-bytes`.
//!
//! Asked on the member that receives the request, before anything else is checked, as etcd does.
//! A member that must refuse raises the alarm that makes all others refuse as well.

use crate::describe;
use crate::error::RequestError;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest};
use crate::pb::quoinpb::command::Request as Command;
use crate::replica::Handle;

use super::limits::Limits;

/// What a lease costs.
pub(super) const LEASE_COST: u64 = 64;
/// What a put costs beside its key and value.
const PUT_COST: u64 = 256;

/// 8 GiB: above it etcd warns.
const RECOMMENDED_MAX: i64 = 8 << 30;
const DEFAULT: i64 = 2 << 30;

/// Writes the lines that etcd writes about the quota when a member starts. None: below zero.
pub fn tell(bytes: i64) {
    const NAME: &str = "v3-applier";
    let Ok(size) = u64::try_from(bytes) else {
        tracing::info!("quota-name" = NAME, "quota-size-bytes" = bytes, "disabled backend quota");
        return;
    };
    let size = describe::size(size);
    if bytes > RECOMMENDED_MAX {
        tracing::warn!(
            "quota-name" = NAME,
            "quota-size-bytes" = bytes,
            "quota-size" = size,
            "quota-maximum-size-bytes" = RECOMMENDED_MAX,
            "quota-maximum-size" = describe::size(RECOMMENDED_MAX.unsigned_abs()),
            "quota exceeds the maximum value"
        );
    }
    let message = match bytes {
        DEFAULT => "enabled backend quota with default value",
        _ => "enabled backend quota",
    };
    tracing::info!(
        "quota-name" = NAME,
        "quota-size-bytes" = bytes,
        "quota-size" = size,
        "{message}"
    );
}

pub(super) fn put_cost(put: &PutRequest) -> u64 {
    PUT_COST + (put.key.len() + put.value.len()) as u64
}

/// The puts of the dearer branch.
pub(super) fn txn_cost(txn: &TxnRequest) -> u64 {
    let op = |op: &RequestOp| match &op.request {
        Some(Op::RequestPut(put)) => put_cost(put),
        Some(Op::RequestTxn(nested)) => txn_cost(nested),
        _ => 0,
    };
    let branch = |ops: &[RequestOp]| ops.iter().map(op).sum::<u64>();
    branch(&txn.success).max(branch(&txn.failure))
}

/// Lets a request of this cost pass, or raises the alarm.
///
/// # Errors
/// `NoSpace`.
pub(super) async fn admit(handle: &Handle, limits: &Limits, cost: u64) -> Result<(), RequestError> {
    let Ok(quota) = u64::try_from(limits.quota_bytes) else { return Ok(()) };
    let (size, _) = handle.view().size();
    if cost == 0 || size + cost < quota {
        return Ok(());
    }
    let alarm = AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id: handle.member_id().0,
        alarm: AlarmType::Nospace as i32,
    };
    if !handle
        .alarms()
        .iter()
        .any(|raised| (raised.member_id, raised.alarm) == (alarm.member_id, alarm.alarm))
    {
        // The client is refused whether or not the others hear of it now.
        let raised = handle.propose(Command::Alarm(alarm), limits.request_bytes_max).await;
        if let Err(error) = raised {
            tracing::warn!(?error, "failed to raise the alarm NOSPACE");
        }
    }
    Err(RequestError::NoSpace)
}
