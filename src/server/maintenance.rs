//! The Maintenance service: Status and the list of alarms; everything else is not offered yet and
//! says so.

use super::header::Headers;
use super::limits::Limits;
use super::metadata;
use super::status::text;
use crate::error::RequestError;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::maintenance_server::Maintenance;
use crate::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, DefragmentRequest, DefragmentResponse, DowngradeInfo,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use crate::replica::Handle;
use crate::storage::Engine;
use std::pin::Pin;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// The etcd version whose outside behaviour this server has.
pub const COMPATIBLE_VERSION: &str = "3.7.1";

/// Serves etcdserverpb.Maintenance for one member.
#[derive(Clone)]
pub struct MaintenanceService {
    handle: Handle,
    headers: Headers,
    limits: Limits,
    engine: Arc<dyn Engine>,
}

impl MaintenanceService {
    pub fn new(handle: Handle, limits: Limits, engine: Arc<dyn Engine>) -> Self {
        Self { headers: Headers::new(handle.clone()), handle, limits, engine }
    }
}

fn unimplemented<T>(method: &'static str) -> Result<Response<T>, Status> {
    Err(RequestError::Unimplemented(method).into())
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let leader = self.handle.leader();
        let (db_size, db_size_in_use) = self.engine.size();
        let errors = match leader {
            Some(_) => vec![],
            None => vec![text(&RequestError::NoLeader).into_owned()],
        };
        Ok(Response::new(StatusResponse {
            header: Some(self.headers.current()),
            version: COMPATIBLE_VERSION.to_owned(),
            db_size: db_size as i64,
            leader: leader.map_or(0, |leader| leader.0),
            raft_index: self.handle.commit_index(),
            raft_term: self.handle.term(),
            raft_applied_index: self.handle.applied_index(),
            errors,
            db_size_in_use: db_size_in_use as i64,
            is_learner: false,
            storage_version: self.handle.cluster_version().unwrap_or_default(),
            db_size_quota: self.limits.quota_bytes,
            downgrade_info: Some(DowngradeInfo::default()),
        }))
    }

    /// The list is empty, since nothing raises an alarm; raising and disarming are not offered.
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        if request.get_ref().action() != AlarmAction::Get {
            return unimplemented("etcdserverpb.Maintenance/Alarm");
        }
        // etcd asks through consensus, and health checks rely on that.
        self.handle.read_barrier().await?;
        Ok(Response::new(AlarmResponse { header: Some(self.headers.current()), alarms: vec![] }))
    }

    async fn defragment(
        &self,
        _: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        unimplemented("etcdserverpb.Maintenance/Defragment")
    }

    async fn hash(&self, _: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        unimplemented("etcdserverpb.Maintenance/Hash")
    }

    async fn hash_kv(&self, _: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        unimplemented("etcdserverpb.Maintenance/HashKV")
    }

    type SnapshotStream =
        Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static>>;

    async fn snapshot(
        &self,
        _: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        unimplemented("etcdserverpb.Maintenance/Snapshot")
    }

    async fn move_leader(
        &self,
        _: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        unimplemented("etcdserverpb.Maintenance/MoveLeader")
    }

    async fn downgrade(
        &self,
        _: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        unimplemented("etcdserverpb.Maintenance/Downgrade")
    }
}
