//! The Cluster service. Changes of membership are not offered yet and say so.

use super::header::Headers;
use super::metadata;
use crate::error::RequestError;
use crate::pb::etcdserverpb::cluster_server::Cluster;
use crate::pb::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use crate::replica::Handle;
use tonic::{Request, Response, Status};

/// Serves etcdserverpb.Cluster for one member.
#[derive(Clone)]
pub struct ClusterService {
    handle: Handle,
    headers: Headers,
}

impl ClusterService {
    pub fn new(handle: Handle) -> Self {
        Self { headers: Headers::new(handle.clone()), handle }
    }
}

fn unimplemented<T>(method: &'static str) -> Result<Response<T>, Status> {
    Err(RequestError::Unimplemented(method).into())
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
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        unimplemented("etcdserverpb.Cluster/MemberAdd")
    }

    async fn member_remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        unimplemented("etcdserverpb.Cluster/MemberRemove")
    }

    async fn member_update(
        &self,
        _: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        unimplemented("etcdserverpb.Cluster/MemberUpdate")
    }

    async fn member_promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        unimplemented("etcdserverpb.Cluster/MemberPromote")
    }
}
