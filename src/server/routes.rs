//! What each listener serves, put together.

use super::access::{Access, guard};
use super::backup::Backups;
use super::header::Headers;
use super::limits::Limits;
use super::ownership::Queues;
use super::password::Passwords;
use super::token::{Tokens, sweep};
use super::watch;
use super::{auth, cluster, election, health, http as pages, kv, lease, lock, maintenance, unary};
use crate::pb::etcdserverpb::auth_server::AuthServer;
use crate::pb::etcdserverpb::cluster_server::ClusterServer;
use crate::pb::etcdserverpb::kv_server::KvServer;
use crate::pb::etcdserverpb::lease_server::LeaseServer;
use crate::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::pb::health::health_server::HealthServer;
use crate::pb::quoinpb::peer_server::PeerServer;
use crate::pb::v3electionpb::election_server::ElectionServer;
use crate::pb::v3lockpb::lock_server::LockServer;
use crate::peer::{Links, PeerService};
use crate::replica::Handle;
use crate::watch::StreamOptions;
use axum::Router;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch::Receiver;
use tonic::body::Body;
use tower::ServiceExt as _;

/// The largest answer or peer message: what a 32-bit length can say.
const ENCODE_BYTES_MAX: usize = i32::MAX as usize;
/// A batch of messages between members: several appends of 1 MiB each.
const PEER_BYTES_MAX: usize = 1 << 30;

/// What the client services stand on.
pub struct Services {
    pub handle: Handle,
    pub links: Links,
    pub watches: crate::watch::Handle,
    pub limits: Limits,
    pub stream: StreamOptions,
    pub backups: Backups,
    pub tokens: Arc<Tokens>,
    pub passwords: Passwords,
    /// Turns true when the node stops.
    pub stop: Receiver<bool>,
}

/// Everything on the client listener: the frequent calls first, the rest behind a router.
#[derive(Clone)]
pub struct ClientService {
    kv: kv::KvService,
    message_bytes_max: usize,
    rest: Router,
}

impl hyper::service::Service<http::Request<Incoming>> for ClientService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        if let Some(refused) = unary::refuse_foreign(&request) {
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = refused;
            return Box::pin(std::future::ready(Ok(response)));
        }
        if let Some(call) = unary::Call::of(&request) {
            let (kv, bytes_max) = (self.kv.clone(), self.message_bytes_max);
            return Box::pin(async move { Ok(unary::serve(call, &kv, bytes_max, request).await) });
        }
        let rest = self.rest.clone();
        Box::pin(async move {
            let response = rest.oneshot(request).await?;
            Ok(super::status::oversize_as_exhausted(response).map(Body::new))
        })
    }
}

/// Puts the client listener's services together.
pub fn client_service(services: Services) -> ClientService {
    let Services { handle, links, watches, limits, stream, backups, tokens, passwords, stop } =
        services;
    let decode_max = limits.message_bytes_max();
    tokio::spawn(sweep(tokens.clone(), handle.auth().clone(), stop.clone()));
    let access = Access::new(handle.clone(), tokens);
    let frequent = kv::KvService::new(handle.clone(), limits, access.clone());
    let kv = KvServer::new(frequent.clone())
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let leases = lease::LeaseService::new(handle.clone(), limits, access.clone());
    let lease = LeaseServer::new(leases.clone())
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let maintenance =
        maintenance::MaintenanceService::new(handle.clone(), limits, backups, access.clone());
    let auth = auth::AuthService::new(handle.clone(), limits, access.clone(), passwords);
    let watches = watch::server(handle.clone(), access.clone(), watches, stream, stop, decode_max);
    let queues = Queues {
        handle: handle.clone(),
        headers: Headers::new(handle.clone()),
        kv: frequent.clone(),
        leases,
        watches: watches.clone(),
    };
    let lock = LockServer::new(lock::LockService::new(queues.clone()))
        .max_decoding_message_size(decode_max);
    let election = ElectionServer::new(election::ElectionService::new(queues))
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(kv)
        .add_service(lease)
        .add_service(watches)
        .add_service(lock)
        .add_service(election)
        .add_service(AuthServer::new(auth))
        .add_service(ClusterServer::new(cluster::ClusterService::new(
            handle.clone(),
            links,
            limits,
        )))
        .add_service(MaintenanceServer::new(maintenance))
        .add_service(HealthServer::new(health::HealthService));
    let guard = axum::middleware::from_fn_with_state(access, guard);
    let rest =
        routes.routes().into_axum_router().layer(guard).fallback_service(pages::pages(handle));
    ClientService { kv: frequent, message_bytes_max: decode_max, rest }
}

/// Everything on the peer listener.
pub fn peer_service(peer: PeerService, handle: Handle) -> Router {
    let peer = PeerServer::new(peer)
        .max_decoding_message_size(PEER_BYTES_MAX)
        .max_encoding_message_size(PEER_BYTES_MAX);
    tonic::service::Routes::new(peer)
        .into_axum_router()
        .fallback_service(pages::version_page(handle).fallback(pages::not_found))
}
