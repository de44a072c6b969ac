//! The replicated command's bytes: versioned, with the request's id in front.
//!
//! Encoded where the request arrives, off the driver thread; decoded once per member at apply.

use super::permission::Caller;
use crate::error::Fatal;
use crate::pb::quoinpb::{self, Command, command::Request};
use crate::types::{MemberId, RequestId};
use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

/// Number of the encoding. An entry with a higher one comes from a newer version.
const FORMAT: u32 = 1;

/// Numbers of fields in Command.
const FORMAT_TAG: u32 = 1;
const ID_TAG: u32 = 2;
const ADD: u32 = 12;
const PROMOTE: u32 = 14;
const REMOVE: u32 = 15;

pub fn encode_command(id: RequestId, request: Request) -> Vec<u8> {
    encode_command_of(Caller::default(), id, request)
}

/// With who asks, for the check when it is applied.
pub fn encode_command_of(caller: Caller<'_>, id: RequestId, request: Request) -> Vec<u8> {
    let command = Command {
        format: FORMAT,
        id: Some(id.into()),
        request: Some(request),
        user: caller.user.to_owned(),
        auth_revision: caller.revision,
    };
    command.encode_to_vec()
}

/// Bytes of an encoded command as limits count them: as etcd would have encoded it, where an id of one number
/// stands for ours of three and a format.
pub fn counted_len(id: RequestId, encoded: usize) -> usize {
    /// Tag and length of etcd's header, two bytes and one, and in it the id's tag and number.
    const THEIRS: usize = 3 + 1 + 9;
    // Tag and number of the format; tag and length of the id.
    let ours = 2 + 2 + quoinpb::RequestId::from(id).encoded_len();
    encoded + THEIRS - ours
}

/// # Errors
/// On bytes that are no command, or one of another format.
pub fn decode_command(data: Bytes) -> Result<(RequestId, Request), Fatal> {
    decode_parts(data).map(|Parts { id, request, .. }| (id, request))
}

/// What a command consists of.
pub(super) struct Parts {
    pub(super) id: RequestId,
    pub(super) request: Request,
    user: String,
    auth_revision: u64,
}

impl Parts {
    pub(super) fn caller(&self) -> Caller<'_> {
        Caller { user: &self.user, revision: self.auth_revision }
    }
}

/// # Errors
/// As [`decode_command`].
pub(super) fn decode_parts(data: Bytes) -> Result<Parts, Fatal> {
    let command = Command::decode(data).map_err(|e| Fatal::with("decode command", e))?;
    if command.format != FORMAT {
        return Err(Fatal::new(format!(
            "decode command of format {}: this version knows format {FORMAT} only",
            command.format
        )));
    }
    let Command { user, auth_revision, .. } = command;
    match (command.id, command.request) {
        (Some(id), Some(request)) => Ok(Parts { id: id.into(), request, user, auth_revision }),
        _ => Err(Fatal::new("decode command: id or request is missing")),
    }
}

/// Whether a command changes who votes or who only follows: such a one goes into the log by itself.
/// Looks at no more than the first few bytes.
pub fn changes_configuration(command: &[u8]) -> bool {
    let mut rest = command;
    while let Ok((tag, wire_type)) = decode_key(&mut rest) {
        match tag {
            ADD | PROMOTE | REMOVE => return true,
            FORMAT_TAG | ID_TAG => {}
            _ => return false,
        }
        if skip_field(wire_type, tag, &mut rest, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::PutRequest;
    use crate::pb::quoinpb::{MemberAdd, MemberChange, MemberUpdate};

    #[test]
    fn a_command_counts_what_it_would_in_etcd() {
        for boot in [0, 1, u64::MAX] {
            let id = RequestId { member: MemberId(u64::MAX), boot, sequence: 1 << 40 };
            let value = vec![0; 1_572_840].into();
            let put = PutRequest { key: "k".into(), value, ..PutRequest::default() };
            let encoded = encode_command(id, Request::Put(put)).len();
            assert_eq!(counted_len(id, encoded), 1_572_864);
        }
    }

    #[test]
    fn a_change_of_configuration_is_told_by_its_first_bytes() {
        let id = RequestId { member: MemberId(u64::MAX), boot: 3, sequence: 1 << 40 };
        let is_change = |request| changes_configuration(&encode_command(id, request));
        assert!(is_change(Request::MemberAdd(MemberAdd::default())));
        assert!(is_change(Request::MemberPromote(MemberChange { member_id: 7 })));
        assert!(is_change(Request::MemberRemove(MemberChange { member_id: 7 })));
        assert!(!is_change(Request::MemberUpdate(MemberUpdate::default())));
        assert!(!is_change(Request::Put(PutRequest::default())));
        assert!(!changes_configuration(b""));
        assert!(!changes_configuration(b"\xff\xff\xff"));
    }
}
