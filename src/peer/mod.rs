//! Between members: message streams, snapshot transfers, and the service that receives both.
//!
//! Messages may be lost, never repeated: each goes once onto the stream of its receiver, and
//! what was queued when a stream broke is dropped, as raft and the replica allow. Snapshots
//! have calls of their own, so that a big one never delays heartbeats. Members are dialled at
//! their advertised peer URLs.

pub mod hash;
mod links;
mod service;
mod transfer;

pub use links::{Links, ask_members};
pub use service::PeerService;
pub use transfer::send_snapshot;
