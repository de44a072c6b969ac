//! The receiving side: hands messages to the driver and stages snapshots.

use super::transfer::receive_snapshot;
use crate::pb::etcdserverpb::Member;
use crate::pb::quoinpb::peer_server::Peer;
use crate::pb::quoinpb::{Empty, MembersAnswer, PeerBatch, SnapshotChunk};
use crate::replica::Handle;
use crate::storage::snapshot_file::SnapshotStore;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Serves quoinpb.Peer for one member.
#[derive(Clone)]
pub struct PeerService {
    handle: Handle,
    snapshots: Arc<SnapshotStore>,
    keeps_snapshots: bool,
    founders: Arc<Vec<Member>>,
}

impl PeerService {
    /// `keeps_snapshots`: the engine is volatile, so a received snapshot stays on disk.
    /// `founders`: the members on whose state the log begins.
    pub fn new(
        handle: Handle,
        snapshots: Arc<SnapshotStore>,
        keeps_snapshots: bool,
        founders: Vec<Member>,
    ) -> Self {
        Self { handle, snapshots, keeps_snapshots, founders: Arc::new(founders) }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn messages(
        &self,
        request: Request<Streaming<PeerBatch>>,
    ) -> Result<Response<Empty>, Status> {
        let mut batches = request.into_inner();
        while let Some(batch) = batches.message().await? {
            for message in batch.messages {
                self.handle.peer_message(message);
            }
        }
        Ok(Response::new(Empty {}))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<Empty>, Status> {
        let chunks = request.into_inner();
        receive_snapshot(&self.handle, &self.snapshots, self.keeps_snapshots, chunks).await?;
        Ok(Response::new(Empty {}))
    }

    async fn members(&self, _: Request<Empty>) -> Result<Response<MembersAnswer>, Status> {
        Ok(Response::new(MembersAnswer {
            cluster_id: self.handle.cluster_id().0,
            member_id: self.handle.member_id().0,
            members: self.handle.members().to_vec(),
            founders: self.founders.to_vec(),
            removed: self.handle.removed_members().to_vec(),
        }))
    }
}
