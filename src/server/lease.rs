//! The Lease service.

use super::access::{Access, Credentials};
use super::go_words;
use super::header::Headers;
use super::limits::Limits;
use super::metadata;
use super::quota;
use super::validate;
use crate::error::RequestError;
use crate::machine::{Need, Response as Outcome};
use crate::pb::etcdserverpb::lease_server::Lease;
use crate::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::pb::quoinpb::{LeaseRevokeBatch, command::Request as Command};
use crate::replica::Handle;
use futures_util::stream;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Serves etcdserverpb.Lease for one member.
#[derive(Clone)]
pub struct LeaseService {
    handle: Handle,
    headers: Headers,
    limits: Limits,
    access: Access,
}

impl LeaseService {
    pub fn new(handle: Handle, limits: Limits, access: Access) -> Self {
        Self { headers: Headers::new(handle.clone()), handle, limits, access }
    }

    async fn propose(&self, from: &Credentials, command: Command) -> Result<Outcome, RequestError> {
        self.access.propose(from, command, self.limits.request_bytes_max).await
    }

    /// Grants under an id that is drawn here: the state machine draws nothing.
    async fn grant(
        &self,
        from: &Credentials,
        mut request: LeaseGrantRequest,
    ) -> Result<Outcome, RequestError> {
        request.ttl = request.ttl.max(self.limits.lease_ttl_min);
        if request.id != 0 {
            return self.propose(from, Command::LeaseGrant(request)).await;
        }
        loop {
            request.id = rand::random_range(1..=i64::MAX);
            match self.propose(from, Command::LeaseGrant(request)).await {
                Err(RequestError::LeaseExists) => {}
                result => return result,
            }
        }
    }

    async fn keep_alive(
        &self,
        from: &Credentials,
        id: i64,
    ) -> Result<LeaseKeepAliveResponse, Status> {
        self.access.lease_keys(from, Need::Write, Some(id)).await?;
        // etcd takes the header before it renews.
        let header = Some(self.headers.current());
        let ttl = self.handle.renew_lease(id).await?;
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let credentials =
            self.access.credentials(request.metadata().as_ref(), request.extensions());
        let request = request.into_inner();
        quota::admit(&self.handle, &self.limits, quota::LEASE_COST).await?;
        if let Err(refused) = validate::lease_grant(&request) {
            // As when it is applied: who asks comes before what is asked for.
            self.access.keys(&credentials, Need::Read, &[]).await?;
            return Err(refused.into());
        }
        match self.grant(&credentials, request).await? {
            Outcome::LeaseGrant(mut response) => {
                self.headers.fill(&mut response.header);
                Ok(Response::new(response))
            }
            _ => Err(RequestError::Stopped.into()),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let credentials =
            self.access.credentials(request.metadata().as_ref(), request.extensions());
        let batch = LeaseRevokeBatch { ids: vec![request.into_inner().id], expired: false };
        let outcome = self.propose(&credentials, Command::LeaseRevoke(batch)).await;
        match outcome? {
            Outcome::LeaseRevoke(mut response) => {
                self.headers.fill(&mut response.header);
                Ok(Response::new(response))
            }
            _ => Err(RequestError::Stopped.into()),
        }
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let wants_leader = validate::requires_leader(request.metadata());
        metadata::check(&self.handle, request.metadata())?;
        // Polled by the connection's task: renewals are frequent, and a task for each stream dear.
        let credentials =
            self.access.lasting_credentials(request.metadata().as_ref(), request.extensions());
        let begin = Some((request.into_inner(), self.clone(), credentials));
        let answers = stream::unfold(begin, move |state| async move {
            let (mut requests, service, credentials) = state?;
            let answer = match requests.next().await? {
                Ok(_) if wants_leader && service.handle.leader().is_none() => {
                    Err(RequestError::NoLeader.into())
                }
                Ok(request) => service.keep_alive(&credentials, request.id).await,
                // The client has sent what is no message, or gone.
                Err(status) => Err(go_words::of_requests(&status)?),
            };
            let next = answer.is_ok().then_some((requests, service, credentials));
            Some((answer, next))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let credentials =
            self.access.credentials(request.metadata().as_ref(), request.extensions());
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        self.access.keys(&credentials, Need::Read, &[]).await?;
        let (ttl, granted_ttl, keys) = self.handle.lease_time_to_live(id, keys).await?;
        self.access.keys(&credentials, Need::Read, &keys).await?;
        let header = Some(self.headers.current());
        Ok(Response::new(LeaseTimeToLiveResponse { header, id, ttl, granted_ttl, keys }))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        let credentials =
            self.access.credentials(request.metadata().as_ref(), request.extensions());
        self.access.lease_keys(&credentials, Need::Read, None).await?;
        let leases = self.handle.leases().await?;
        Ok(Response::new(LeaseLeasesResponse {
            header: Some(self.headers.current()),
            leases: leases.into_iter().map(|id| LeaseStatus { id }).collect(),
        }))
    }
}
