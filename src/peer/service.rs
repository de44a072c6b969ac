//! The receiving side: hands messages to the driver and stages snapshots.

use super::transfer::receive_snapshot;
use crate::metrics::Metrics;
use crate::metrics::outside::Peer as PeerNumbers;
use crate::pb::etcdserverpb::Member;
use crate::pb::quoinpb::peer_server::Peer;
use crate::pb::quoinpb::{Empty, MembersAnswer, PeerBatch, SnapshotChunk};
use crate::replica::Handle;
use crate::storage::snapshot_file::SnapshotStore;
use prost::Message as _;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Serves quoinpb.Peer for one member.
#[derive(Clone)]
pub struct PeerService {
    handle: Handle,
    snapshots: Arc<SnapshotStore>,
    keeps_snapshots: bool,
    founders: Arc<Vec<Member>>,
    metrics: Arc<Metrics>,
}

impl PeerService {
    /// `keeps_snapshots`: the engine is volatile, so a received snapshot stays on disk.
    /// `founders`: the members on whose state the log begins.
    pub fn new(
        handle: Handle,
        snapshots: Arc<SnapshotStore>,
        keeps_snapshots: bool,
        founders: Vec<Member>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { handle, snapshots, keeps_snapshots, founders: Arc::new(founders), metrics }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn messages(
        &self,
        request: Request<Streaming<PeerBatch>>,
    ) -> Result<Response<Empty>, Status> {
        let mut batches = request.into_inner();
        // Known from the first message on.
        let mut peer: Option<Arc<PeerNumbers>> = None;
        loop {
            let batch = match batches.message().await {
                Ok(Some(batch)) => batch,
                Ok(None) => return Ok(Response::new(Empty {})),
                Err(status) => {
                    if let Some(peer) = peer {
                        peer.receive_failures.add(1);
                    }
                    return Err(status);
                }
            };
            let bytes = batch.encoded_len() as u64;
            for message in batch.messages {
                peer.get_or_insert_with(|| self.metrics.peers.of(message.from));
                self.handle.peer_message(message);
            }
            if let Some(peer) = &peer {
                peer.received_bytes.add(bytes);
            }
        }
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Empty>, Status> {
        let chunks = request.into_inner();
        let snapshots = &self.snapshots;
        receive_snapshot(&self.handle, snapshots, self.keeps_snapshots, &self.metrics, chunks)
            .await?;
        Ok(Response::new(Empty {}))
    }

    async fn members(&self, _: Request<Empty>) -> Result<Response<MembersAnswer>, Status> {
        Ok(Response::new(MembersAnswer {
            cluster_id: self.handle.cluster_id().0,
            member_id: self.handle.member_id().0,
            members: self.handle.members().to_vec(),
            founders: self.founders.to_vec(),
            removed: self.handle.removed_members().to_vec(),
            cluster_version: Some(self.handle.cluster_version().unwrap_or_default()),
            is_downgrading: self.handle.downgrade_target().is_some(),
        }))
    }
}
