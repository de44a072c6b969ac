//! The log lines about calls and reads that take too long; of values no more than the size is told.

use super::metered::{Meter, Remote};
use crate::describe;
use crate::metrics::calls::CallId;
use crate::pb::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse, TxnRequest,
};
use bytes::Bytes;
use prost::Message as _;
use std::time::{Duration, SystemTime};

/// What is known of a call when it ends.
#[derive(Default)]
pub(super) struct Recorded {
    /// The request's message; empty where it is not kept.
    pub(super) request: Bytes,
    /// The transaction reads only.
    pub(super) is_read: bool,
    /// Pairs that the answer tells of.
    pub(super) pairs: i64,
    pub(super) response_len: usize,
    /// The answer's message; empty where it is not kept.
    pub(super) response: Bytes,
}

/// What takes too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slow {
    apply: Duration,
    unary: Duration,
    logs_all: bool,
}

/// A request as the line tells of it: operations, bytes, content. -1 stands for what is not told.
type Content = (i64, i64, String);

impl Slow {
    /// Reads are told of above `apply`, calls above `unary`; with `logs_all` every call at debug level.
    pub(super) fn new(apply: Duration, unary: Duration, logs_all: bool) -> Self {
        Self { apply, unary, logs_all }
    }

    /// Looks at a call that took so long.
    pub(super) fn look(&self, call: CallId, took: Duration, of: &Recorded, meter: &Meter) {
        if took <= self.unary && took <= self.apply && !self.logs_all {
            return;
        }
        let is_read = call == CallId::RANGE || (call == CallId::TXN && of.is_read);
        if took > self.apply && is_read && !of.request.is_empty() {
            meter.metrics.state.slow_applies.add(1);
            self.warn_of_read(call, took, of);
        }
        if took > self.unary || self.logs_all {
            self.tell(call, took, of, meter.remote);
        }
    }

    fn warn_of_read(&self, call: CallId, took: Duration, of: &Recorded) {
        let (_, _, request) = content(call, of);
        let (prefix, response) = match call == CallId::RANGE {
            true => {
                let count = format!("range_response_count:{} ", pairs(call, of));
                ("read-only range ", format!("{count}size:{}", of.response_len))
            }
            false => ("read-only txn ", format!("size:{}", of.response_len)),
        };
        tracing::warn!(
            took = describe::duration(took),
            "expected-duration" = describe::duration(self.apply),
            prefix,
            request,
            response,
            "apply request took too long"
        );
    }

    fn tell(&self, call: CallId, took: Duration, of: &Recorded, Remote(remote): Remote) {
        let row = call.row();
        let (count, size, request) = content(call, of);
        let (response_count, response_size) = match count {
            -1 => (-1, -1),
            _ => (pairs(call, of), of.response_len as i64),
        };
        // So Go writes the address of a client of a socket in the file system.
        let remote = remote.map_or("@".to_owned(), |remote| remote.to_string());
        let begun = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        // The level is a part of where the line stands in the code.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    "start time" = humantime::format_rfc3339_micros(begun).to_string(),
                    "time spent" = describe::duration(took),
                    remote,
                    "response type" = format!("/{}/{}", row.service, row.method),
                    "request count" = count,
                    "request size" = size,
                    "response count" = response_count,
                    "response size" = response_size,
                    "request content" = request,
                    "request stats"
                )
            };
        }
        match took > self.unary && !self.logs_all {
            true => line!(warn),
            false => line!(debug),
        }
    }
}

/// Pairs that the answer tells of, as it was counted or as it says.
fn pairs(call: CallId, of: &Recorded) -> i64 {
    let response = of.response.clone();
    match call {
        _ if response.is_empty() => of.pairs,
        CallId::RANGE => RangeResponse::decode(response).map_or(0, |answer| answer.count),
        CallId::DELETE_RANGE => {
            DeleteRangeResponse::decode(response).map_or(0, |answer| answer.deleted)
        }
        _ => 0,
    }
}

fn content(call: CallId, of: &Recorded) -> Content {
    let bytes = of.request.clone();
    let size = bytes.len() as i64;
    let told = match call {
        CallId::RANGE => RangeRequest::decode(bytes).map(|r| (0, size, describe::range(&r))),
        CallId::PUT => PutRequest::decode(bytes).map(|r| (1, size, describe::put(&r))),
        CallId::TXN => {
            TxnRequest::decode(bytes).map(|r| (r.success.len() as i64, size, describe::txn(&r)))
        }
        CallId::DELETE_RANGE => {
            DeleteRangeRequest::decode(bytes).map(|r| (0, size, describe::delete_range(&r)))
        }
        _ => return (-1, -1, String::new()),
    };
    told.unwrap_or((-1, -1, String::new()))
}
