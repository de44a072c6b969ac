//! The Cluster service: the members, and their changes with the checks that protect the quorum.

use super::access::Access;
use super::header::Headers;
use super::kv::unexpected;
use super::limits::Limits;
use super::metadata;
use super::status::text;
use crate::config::MemberUrl;
use crate::config::ids::added_member_id;
use crate::error::RequestError;
use crate::machine::Response as Outcome;
use crate::metrics::outside::Probes;
use crate::pb::etcdserverpb::cluster_server::Cluster;
use crate::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use crate::pb::quoinpb::{MemberAdd, MemberChange, MemberUpdate, command::Request as Command};
use crate::peer::Links;
use crate::replica::Handle;
use crate::types::MemberId;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::{Request, Response, Status};

/// How long a member must have been connected to count for a quorum: etcd's time.
const CONNECTED_MIN: Duration = Duration::from_secs(5);

/// Serves etcdserverpb.Cluster for one member.
#[derive(Clone)]
pub struct ClusterService {
    handle: Handle,
    headers: Headers,
    links: Links,
    limits: Limits,
    access: Access,
    numbers: Probes,
}

impl ClusterService {
    pub fn new(
        handle: Handle,
        links: Links,
        limits: Limits,
        access: Access,
        numbers: Probes,
    ) -> Self {
        Self { headers: Headers::new(handle.clone()), handle, links, limits, access, numbers }
    }

    /// All members after the change.
    async fn change(&self, command: Command) -> Result<Vec<Member>, Status> {
        match self.handle.propose(command, self.limits.request_bytes_max).await? {
            Outcome::Members(members) => Ok(members),
            other => Err(unexpected(&other)),
        }
    }

    /// Voters, this one among them, that have been there for a while.
    fn connected(&self, voters: &[Member]) -> usize {
        let is_there = |member: &&Member| {
            let id = MemberId(member.id);
            id == self.handle.member_id()
                || self.links.connected_for(id).is_some_and(|time| time >= CONNECTED_MIN)
        };
        voters.iter().filter(is_there).count()
    }

    fn voters(&self) -> Vec<Member> {
        let members = self.handle.members();
        members.iter().filter(|member| !member.is_learner).cloned().collect()
    }

    /// Refuses what could leave the cluster without a quorum.
    fn may_add(&self, is_learner: bool) -> Result<(), RequestError> {
        if !self.limits.strict_reconfiguration {
            return Ok(());
        }
        let voters = self.voters();
        let started = started(&voters);
        // A sole member may always get a second one: so a cluster is restored.
        let is_sole = started == 1 && voters.len() == 1;
        if !is_learner && !is_sole && started < quorum(voters.len() + 1) {
            return Err(RequestError::NotEnoughStartedMembers);
        }
        if voters.len() > 1 && self.connected(&voters) < quorum(voters.len() + 1) {
            return Err(RequestError::UnhealthyCluster);
        }
        Ok(())
    }

    fn may_remove(&self, id: MemberId) -> Result<(), RequestError> {
        let members = self.handle.members();
        let is_learner = members.iter().any(|member| member.id == id.0 && member.is_learner);
        if !self.limits.strict_reconfiguration || is_learner {
            return Ok(());
        }
        let voters = self.voters();
        let (removed, rest): (Vec<Member>, Vec<Member>) =
            voters.iter().cloned().partition(|member| member.id == id.0);
        if started(&rest) < quorum(rest.len()) {
            return Err(RequestError::NotEnoughStartedMembers);
        }
        let is_down = id != self.handle.member_id() && self.links.connected_for(id).is_none();
        if is_down || removed.is_empty() {
            return Ok(());
        }
        if self.connected(&voters) - 1 < quorum(voters.len() - 1) {
            return Err(RequestError::UnhealthyCluster);
        }
        Ok(())
    }

    /// Gives a learner a vote; all members after that.
    ///
    /// # Errors
    /// `MemberNotFound`, `NotLearner`, `LearnerNotReady`, `NotEnoughStartedMembers`, and as
    /// [`Handle::propose`].
    pub(super) async fn promote(&self, member_id: u64) -> Result<Vec<Member>, RequestError> {
        let promoted = self.try_to_promote(member_id).await;
        // As in etcd, it is the leader that counts.
        if self.handle.leader() == Some(self.handle.member_id()) {
            match &promoted {
                Ok(_) => self.numbers.promotions.add(1),
                Err(error) => self.numbers.promotion_failed(text(error)),
            }
        }
        promoted
    }

    async fn try_to_promote(&self, member_id: u64) -> Result<Vec<Member>, RequestError> {
        self.may_promote()?;
        let command = Command::MemberPromote(MemberChange { member_id });
        match self.handle.propose(command, self.limits.request_bytes_max).await? {
            Outcome::Members(members) => Ok(members),
            other => {
                tracing::error!(?other, "a command was answered with another command's response");
                Err(RequestError::Stopped)
            }
        }
    }

    fn may_promote(&self) -> Result<(), RequestError> {
        let voters = self.voters();
        let is_enough = 1 + started(&voters) >= quorum(voters.len() + 1);
        match !self.limits.strict_reconfiguration || is_enough {
            true => Ok(()),
            false => Err(RequestError::NotEnoughStartedMembers),
        }
    }
}

fn started(members: &[Member]) -> usize {
    members.iter().filter(|member| !member.name.is_empty()).count()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

/// Peer URLs as members have them: checked and sorted.
fn peer_urls(texts: &[String]) -> Result<Vec<MemberUrl>, RequestError> {
    let urls: Result<Vec<_>, _> = texts.iter().map(|text| MemberUrl::parse(text)).collect();
    let mut urls = urls.map_err(|_| RequestError::InvalidMemberUrls)?;
    urls.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    match urls.is_empty() {
        true => Err(RequestError::InvalidMemberUrls),
        false => Ok(urls),
    }
}

fn texts(urls: &[MemberUrl]) -> Vec<String> {
    urls.iter().map(|url| url.as_str().to_owned()).collect()
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        if request.into_inner().linearizable {
            self.handle.read_barrier().await?;
        }
        Ok(Response::new(MemberListResponse {
            header: Some(self.headers.at(0)),
            members: self.handle.members().to_vec(),
        }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let urls = peer_urls(&request.get_ref().peer_ur_ls)?;
        // Like etcd, which asks who calls before anything else everywhere but here.
        self.access.admin(request.metadata().as_ref(), request.extensions()).await?;
        let is_learner = request.into_inner().is_learner;
        self.may_add(is_learner)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let id = added_member_id(&urls, now.cast_signed()).0;
        let member = Member { id, peer_ur_ls: texts(&urls), is_learner, ..Member::default() };
        let add = MemberAdd { member: Some(member), learners_max: self.limits.learners_max };
        let members = self.change(Command::MemberAdd(add)).await?;
        let member = members.iter().find(|member| member.id == id).cloned();
        Ok(Response::new(MemberAddResponse { header: Some(self.headers.at(0)), member, members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let member_id = request.into_inner().id;
        self.may_remove(MemberId(member_id))?;
        let members = self.change(Command::MemberRemove(MemberChange { member_id })).await?;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.headers.at(0)), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let MemberUpdateRequest { id: member_id, peer_ur_ls } = request.into_inner();
        if !self.handle.members().iter().any(|member| member.id == member_id) {
            return Err(RequestError::MemberNotFound.into());
        }
        let peer_urls = texts(&peer_urls(&peer_ur_ls)?);
        let update = MemberUpdate { member_id, peer_urls };
        let members = self.change(Command::MemberUpdate(update)).await?;
        Ok(Response::new(MemberUpdateResponse { header: Some(self.headers.at(0)), members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let member_id = request.into_inner().id;
        let members = self.promote(member_id).await?;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.headers.at(0)), members }))
    }
}
