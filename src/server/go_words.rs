//! What Go's gRPC library, and so etcd, says of messages that it cannot take, where ours says something else.
//!
//! Looks at answers that are nothing but an error; streams that have begun ask for the words themselves.

use tonic::{Code, Status};

/// Calls with a stream of answers: of what these cannot decode, Go speaks otherwise.
const STREAMS: [&str; 6] = [
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/v3electionpb.Election/Observe",
    "/grpc.health.v1.Health/Watch",
];

/// What ends a message that is cut, in the words of our library and in Go's.
const CUT: [&str; 2] = ["Unexpected EOF decoding stream.", "unexpected EOF"];

/// Gives an answer that refuses the request of a call the code and text that it has from etcd.
pub(super) fn refused<B>(path: &str, mut response: http::Response<B>) -> http::Response<B> {
    let headers = response.headers_mut();
    // Only errors have their code among the headers, so most answers cost one look.
    if !headers.contains_key("grpc-status") {
        return response;
    }
    let status = Status::from_header_map(headers);
    if let Some(status) = status.and_then(|status| translated(&status, STREAMS.contains(&path))) {
        // It fails for texts with bytes that no header takes, and these are printed.
        let _refused = status.add_header(headers);
    }
    response
}

/// The same for what ends a stream of requests, if there is anything to say.
pub(super) fn of_requests(status: &Status) -> Option<Status> {
    translated(status, true)
}

fn translated(status: &Status, is_stream: bool) -> Option<Status> {
    let text = status.message();
    match status.code() {
        // Among etcd's answers this code means a revision.
        Code::OutOfRange => {
            let sizes = text.strip_prefix("Error, decoded message length too large: found ")?;
            let (found, max) = sizes.split_once(" bytes, the limit is: ")?;
            let (found, max) = (found.parse().ok()?, max.strip_suffix(" bytes")?.parse().ok()?);
            Some(super::unary::too_large(found, max))
        }
        Code::Unimplemented => {
            let encoding = text.strip_prefix("Content is compressed with `")?;
            let encoding = encoding.strip_suffix("` which isn't supported")?;
            Some(Status::unimplemented(format!(
                "grpc: Decompressor is not installed for grpc-encoding {encoding:?}"
            )))
        }
        Code::ResourceExhausted => {
            let max = text.strip_prefix("Error decompressing: size limit, of ")?;
            let (max, _) = max.split_once(" bytes, exceeded")?;
            Some(Status::resource_exhausted(format!(
                "grpc: received message after decompression larger than max {max}"
            )))
        }
        Code::Internal if text == "Missing request message." => Some(no_message(is_stream)),
        Code::Internal if CUT.contains(&text) => Some(cut_message(is_stream)),
        Code::Internal => {
            if let Some(reason) = text.strip_prefix("Error decompressing: ") {
                let reason = format!("grpc: failed to decompress the message: {reason}");
                return Some(Status::internal(reason));
            }
            if let Some(reason) = text.strip_prefix("failed to decode Protobuf message: ") {
                return Some(undecodable(reason, is_stream));
            }
            let flag = text.strip_prefix("protocol error: received message with ")?;
            if flag.starts_with("compressed-flag but no grpc-encoding") {
                return Some(bad_flag(1));
            }
            let flag = flag.strip_prefix("invalid compression flag: ")?;
            flag.split(' ').next()?.parse().ok().map(bad_flag)
        }
        _ => None,
    }
}

/// The refusal of a request that ends before its only message has begun: before all that is in front of it.
pub(super) fn no_message(is_stream: bool) -> Status {
    match is_stream {
        true => Status::internal(
            "cardinality violation: received no request message from non-client-streaming RPC",
        ),
        false => Status::unknown("EOF"),
    }
}

/// The refusal of a message that is cut.
pub(super) fn cut_message(is_stream: bool) -> Status {
    Status::new(if is_stream { Code::Internal } else { Code::Unknown }, "unexpected EOF")
}

/// The refusal of a message that is not of its type, for a reason in the words of our protobuf library.
pub(super) fn undecodable(reason: &str, is_stream: bool) -> Status {
    let what = match is_stream {
        true => "grpc: failed to unmarshal the received message",
        false => "grpc: error unmarshalling request",
    };
    Status::internal(if reason.contains("UTF-8") {
        format!("{what}: string field contains invalid UTF-8")
    } else if reason.contains("recursion limit") {
        format!("{what}: proto: exceeded max recursion depth")
    } else {
        format!("{what}: proto: cannot parse invalid wire-format data")
    })
}

/// The refusal of a message by the flag in front of it, where no encoding was agreed on.
pub(super) fn bad_flag(flag: u8) -> Status {
    Status::internal(match flag {
        1 => "grpc: compressed flag set with identity or empty encoding".to_owned(),
        flag => format!("grpc: received unexpected payload format {flag}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RequestError;

    #[test]
    fn refusals_of_the_library_have_the_words_of_etcd() {
        let unary = "/etcdserverpb.KV/Range";
        let large = "Error, decoded message length too large: found 9 bytes, the limit is: 8 bytes";
        let no_encoding = "protocol error: received message with compressed-flag but no grpc-encoding was specified";
        let table = [
            (
                unary,
                Status::out_of_range(large),
                Some((8, "grpc: received message larger than max (9 vs. 8)")),
            ),
            (unary, Status::internal(large), None),
            (unary, Status::from(RequestError::Compacted), None),
            (unary, Status::from(RequestError::FutureRevision), None),
            (
                unary,
                Status::unimplemented("Content is compressed with `x` which isn't supported"),
                Some((12, "grpc: Decompressor is not installed for grpc-encoding \"x\"")),
            ),
            (
                unary,
                Status::internal(no_encoding),
                Some((13, "grpc: compressed flag set with identity or empty encoding")),
            ),
            (
                unary,
                Status::internal(
                    "protocol error: received message with invalid compression flag: 2 (valid)",
                ),
                Some((13, "grpc: received unexpected payload format 2")),
            ),
            (
                unary,
                Status::internal(
                    "failed to decode Protobuf message: A.b: data is not UTF-8 encoded",
                ),
                Some((
                    13,
                    "grpc: error unmarshalling request: string field contains invalid UTF-8",
                )),
            ),
            (
                "/etcdserverpb.Watch/Watch",
                Status::internal("failed to decode Protobuf message: invalid varint"),
                Some((
                    13,
                    "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data",
                )),
            ),
        ];
        for (path, status, expected) in table {
            let response = refused(path, status.clone().into_http::<()>());
            let (code, text) = expected.unwrap_or((status.code() as i32, status.message()));
            let told = Status::from_header_map(response.headers()).expect("a status");
            assert_eq!((told.code() as i32, told.message()), (code, text), "{status}");
        }
    }
}
