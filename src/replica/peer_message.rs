//! Our envelope around what members tell each other, and the checks before raft sees any of it.
//!
//! raft 0.7 trusts its peers: an empty proposal, a gap in entries or a commit index beyond
//! the log panics it. So every raft message is checked here first, and the kinds that raft
//! would forward between members are refused: forwarding is ours.

use crate::machine::changes_configuration;
use crate::pb::quoinpb::{PeerMessage, peer_message::Body};
use crate::types::{ClusterId, Index, MemberId, Term};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};

/// Terms and indexes above this come from a damaged or hostile sender: no cluster counts that far.
const NUMBER_MAX: u64 = 1 << 62;

pub(super) fn envelope(
    cluster_id: ClusterId,
    from: MemberId,
    to: MemberId,
    body: Body,
) -> PeerMessage {
    PeerMessage { from: from.0, to: to.0, cluster_id: cluster_id.0, body: Some(body) }
}

/// # Errors
/// When raft's encoder refuses the message, which its own messages never cause.
pub(super) fn encode_raft(message: &Message) -> Result<Bytes, protobuf::ProtobufError> {
    message.write_to_bytes().map(Bytes::from)
}

/// What the checks need to know of the receiving replica.
pub(super) struct Receiver {
    pub(super) id: MemberId,
    pub(super) last_index: Index,
    pub(super) commit_index: Index,
    pub(super) term: Term,
}

/// Decodes and checks a raft message from `from`, already known to be another member.
///
/// # Errors
/// With the reason; the message is then to be dropped.
pub(super) fn check_raft(
    bytes: &[u8],
    from: MemberId,
    receiver: &Receiver,
) -> Result<Message, &'static str> {
    let message = Message::parse_from_bytes(bytes).map_err(|_| "cannot be decoded")?;
    if message.from != from.0 {
        return Err("sender differs from the envelope's");
    }
    if message.to != receiver.id.0 {
        return Err("is for another member");
    }
    if !is_peer_kind(message.get_msg_type()) {
        return Err("kind is not one that members send");
    }
    // Term 0 marks messages made inside a member, which skip raft's term checks.
    if message.term == 0 || message.term > NUMBER_MAX {
        return Err("term is out of bounds");
    }
    let numbers = [message.index, message.commit, message.log_term, message.reject_hint];
    if numbers.iter().any(|number| *number > NUMBER_MAX) {
        return Err("index is out of bounds");
    }
    check_entries(&message)?;
    check_commit(&message, receiver)?;
    check_snapshot(&message, receiver)?;
    Ok(message)
}

fn is_peer_kind(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MsgAppend
            | MessageType::MsgAppendResponse
            | MessageType::MsgRequestVote
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVote
            | MessageType::MsgRequestPreVoteResponse
            | MessageType::MsgHeartbeat
            | MessageType::MsgHeartbeatResponse
            | MessageType::MsgSnapshot
            | MessageType::MsgTimeoutNow
    )
}

fn check_entries(message: &Message) -> Result<(), &'static str> {
    if !message.entries.is_empty() && message.get_msg_type() != MessageType::MsgAppend {
        return Err("carries entries but appends none");
    }
    let mut index = message.index;
    let mut term = message.log_term;
    for entry in message.entries.iter() {
        if entry.index != index + 1 {
            return Err("entries are not contiguous");
        }
        if entry.term < term || entry.term > message.term {
            return Err("terms of entries do not rise towards the message's");
        }
        let is_odd = match entry.get_entry_type() {
            EntryType::EntryNormal => changes_configuration(&entry.data),
            EntryType::EntryConfChange => !changes_configuration(&entry.context),
            EntryType::EntryConfChangeV2 => true,
        };
        if is_odd {
            return Err("changes the configuration in a way of its own");
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn check_commit(message: &Message, receiver: &Receiver) -> Result<(), &'static str> {
    if message.term < receiver.term {
        return Ok(());
    }
    match message.get_msg_type() {
        // The leader sends no commit index above what it knows this member to have.
        MessageType::MsgHeartbeat
            if message.commit > receiver.last_index.max(receiver.commit_index) =>
        {
            Err("commits entries that this member has never acknowledged or has lost")
        }
        MessageType::MsgAppendResponse
            if !message.reject && message.index > receiver.last_index =>
        {
            Err("acknowledges entries that this member never sent")
        }
        _ => Ok(()),
    }
}

fn check_snapshot(message: &Message, receiver: &Receiver) -> Result<(), &'static str> {
    if message.get_msg_type() != MessageType::MsgSnapshot {
        return Ok(());
    }
    let metadata = message.get_snapshot().get_metadata();
    if metadata.index == 0 || metadata.index > NUMBER_MAX || metadata.term > message.term {
        return Err("snapshot's position is out of bounds");
    }
    let state = metadata.get_conf_state();
    if !state.voters.contains(&receiver.id.0) && !state.learners.contains(&receiver.id.0) {
        return Err("snapshot's configuration lacks this member");
    }
    Ok(())
}
