//! The Maintenance service.

use super::access::Access;
use super::backup::Backups;
use super::downgrade;
use super::header::Headers;
use super::kv::{read_long, unexpected};
use super::limits::Limits;
use super::long_work::Kind;
use super::metadata;
use super::status::text;
use crate::error::RequestError;
use crate::machine::Response as Outcome;
use crate::metrics::histogram::Histogram;
use crate::metrics::parts::Held;
use crate::metrics::services::Reads;
use crate::mvcc::HashKv;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::maintenance_server::Maintenance;
use crate::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use crate::pb::quoinpb::command::Request as Command;
use crate::replica::Handle;
use crate::types::MemberId;
use std::pin::Pin;
use std::time::Instant;
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
    backups: Backups,
    access: Access,
    numbers: Reads,
}

impl MaintenanceService {
    pub fn new(
        handle: Handle,
        limits: Limits,
        backups: Backups,
        access: Access,
        numbers: Reads,
    ) -> Self {
        Self { headers: Headers::new(handle.clone()), handle, limits, backups, access, numbers }
    }

    async fn hashed(&self, revision: i64, times: &Histogram) -> Result<HashKv, Status> {
        let begun = Instant::now();
        let hashed = read_long(&self.handle, Kind::Whole, move |view| view.hash_kv(revision)).await;
        times.observe_time(begun.elapsed());
        hashed
    }
}

impl MaintenanceService {
    /// Makes another voter the leader, and waits until it is.
    async fn hand_over(&self, target: MemberId) -> Result<(), RequestError> {
        let handle = &self.handle;
        if handle.leader() != Some(handle.member_id()) {
            return Err(RequestError::NotLeader);
        }
        if !handle.members().iter().any(|member| member.id == target.0 && !member.is_learner) {
            return Err(RequestError::BadLeaderTransferee);
        }
        handle.transfer_leader(Some(target));
        let mut status = handle.status();
        let leads = status.wait_for(|status| status.leader == Some(target));
        match tokio::time::timeout(handle.request_timeout(), leads).await {
            Ok(Ok(_)) => Ok(()),
            // The node is gone.
            Ok(Err(_)) => Err(RequestError::Stopped),
            Err(_) => Err(RequestError::LeaderTransferTimeout),
        }
    }
}

/// As Status lists it among its errors.
fn alarm_text(alarm: &AlarmMember) -> String {
    let kind = alarm.alarm().as_str_name();
    match alarm.member_id {
        0 => format!("alarm:{kind}"),
        member => format!("memberID:{member} alarm:{kind}"),
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        metadata::check_on_learner(&self.handle, request.metadata())?;
        let leader = self.handle.leader();
        let (db_size, db_size_in_use) = self.handle.view().size();
        let no_leader = leader.is_none().then(|| text(&RequestError::NoLeader).to_owned());
        let alarms = self.handle.alarms();
        let errors = no_leader.into_iter().chain(alarms.iter().map(alarm_text)).collect();
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
            is_learner: self.handle.is_learner(),
            storage_version: self.handle.cluster_version().unwrap_or_default(),
            db_size_quota: self.limits.quota_bytes,
            downgrade_info: Some(downgrade::info(&self.handle)),
        }))
    }

    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        if request.get_ref().action() != AlarmAction::Get {
            self.access.admin(request.metadata().as_ref(), request.extensions()).await?;
        }
        let request = request.into_inner();
        if request.action() == AlarmAction::Get {
            // etcd asks through consensus, and health checks rely on that.
            self.handle.read_barrier().await?;
            let wanted = |alarm: &&AlarmMember| {
                [AlarmType::None as i32, alarm.alarm].contains(&request.alarm)
            };
            let alarms = self.handle.alarms().iter().filter(wanted).copied().collect();
            return Ok(Response::new(AlarmResponse {
                header: Some(self.headers.current()),
                alarms,
            }));
        }
        let bytes_max = self.limits.request_bytes_max;
        match self.handle.propose(Command::Alarm(request), bytes_max).await? {
            Outcome::Alarm(mut response) => {
                self.headers.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let begun = Instant::now();
        let under_way = Held::new(&self.numbers.defragmenting);
        self.handle.defragment().await?;
        drop(under_way);
        self.numbers.defragmentation.observe_time(begun.elapsed());
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let HashKv { hash, current, .. } = self.hashed(0, &self.numbers.hash).await?;
        Ok(Response::new(HashResponse { header: Some(self.headers.at(current)), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let HashKv { hash, revision, compacted, current } =
            self.hashed(request.get_ref().revision, &self.numbers.hash_at_revision).await?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.headers.at(current)),
            hash,
            compact_revision: compacted,
            hash_revision: revision,
        }))
    }

    type SnapshotStream =
        Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static>>;

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        metadata::check_on_learner(&self.handle, request.metadata())?;
        let begun = Instant::now();
        let stream = self.backups.stream(&self.handle).await?;
        self.numbers.backup.observe_time(begun.elapsed());
        Ok(Response::new(Box::pin(stream)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let target = MemberId(request.into_inner().target_id);
        self.hand_over(target).await?;
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let version = downgrade::carry_out(&self.handle, request.get_ref()).await?;
        Ok(Response::new(DowngradeResponse { header: Some(self.headers.current()), version }))
    }
}
