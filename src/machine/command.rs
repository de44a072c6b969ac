//! The replicated command's bytes: versioned, with the request's id in front.
//!
//! Encoded where the request arrives, off the driver thread; decoded once per member at apply.

use crate::error::Fatal;
use crate::pb::quoinpb::{self, Command, command::Request};
use crate::types::{MemberId, RequestId};
use bytes::Bytes;
use prost::Message;

/// Number of the encoding. An entry with a higher one comes from a newer version.
const FORMAT: u32 = 1;

pub fn encode_command(id: RequestId, request: Request) -> Vec<u8> {
    Command { format: FORMAT, id: Some(id.into()), request: Some(request) }.encode_to_vec()
}

/// # Errors
/// On bytes that are no command, or one of another format.
pub fn decode_command(data: Bytes) -> Result<(RequestId, Request), Fatal> {
    let command = Command::decode(data).map_err(|e| Fatal::with("decode command", e))?;
    if command.format != FORMAT {
        return Err(Fatal::new(format!(
            "decode command of format {}: this version knows format {FORMAT} only",
            command.format
        )));
    }
    match (command.id, command.request) {
        (Some(id), Some(request)) => Ok((id.into(), request)),
        _ => Err(Fatal::new("decode command: id or request is missing")),
    }
}

impl From<RequestId> for quoinpb::RequestId {
    fn from(id: RequestId) -> Self {
        Self { member: id.member.0, boot: id.boot, sequence: id.sequence }
    }
}

impl From<quoinpb::RequestId> for RequestId {
    fn from(id: quoinpb::RequestId) -> Self {
        Self { member: MemberId(id.member), boot: id.boot, sequence: id.sequence }
    }
}
