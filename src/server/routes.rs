//! What each listener serves, put together.

use super::access::{Access, CommonName, guard};
use super::backup::Backups;
use super::gateway::Gateway;
use super::header::Headers;
use super::limits::Limits;
use super::listener::Connected;
use super::ownership::Queues;
use super::password::Passwords;
use super::peer_pages::{PeerPages, peer_pages};
use super::slow::Slow;
use super::token::{Tokens, sweep};
use super::visitors::Visitors;
use super::watch;
use super::web::Web;
use super::{
    auth, cluster, deadline, election, health, http as pages, http2_debug, kv, lease, lock,
    maintenance, status, unary,
};
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
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
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
    /// Who may use HTTP.
    pub visitors: Visitors,
    /// Whether calls are offered as JSON too.
    pub with_gateway: bool,
    /// Whether the common name of a client's certificate is its user's name, if it sends no token.
    pub names_users: bool,
    pub backups: Backups,
    pub tokens: Arc<Tokens>,
    pub passwords: Passwords,
    /// Which calls the log tells of.
    pub slow: Slow,
    /// Turns true when the node stops.
    pub stop: Receiver<bool>,
}

/// What a listener for clients serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    GrpcAndHttp,
    Grpc,
    Http,
}

impl Traffic {
    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::GrpcAndHttp => "grpc+http",
            Self::Grpc => "grpc",
            Self::Http => "http",
        }
    }
}

/// All that clients can reach, as far as a listener serves it: the frequent calls first, other
/// calls behind a router, then HTTP.
#[derive(Clone)]
pub struct ClientService {
    kv: kv::KvService,
    message_bytes_max: usize,
    rest: Router,
    slow: Slow,
    web: Web,
    traffic: Traffic,
    is_tls: bool,
    /// Whether a client's certificate names the user.
    names_users: bool,
    name: Option<CommonName>,
}

impl ClientService {
    /// The same for a connection to a listener that serves this traffic.
    pub fn serving(&self, traffic: Traffic, connected: Connected) -> Self {
        let Connected { is_tls, common_name } = connected;
        let name = common_name.filter(|_| self.names_users).map(CommonName);
        Self { traffic, is_tls, name, ..self.clone() }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl ClientService {
    fn call_grpc(&self, request: http::Request<Incoming>) -> Answer {
        let (slow, begun) = (self.slow, Instant::now());
        if let Some(call) = unary::Call::of(&request) {
            let (kv, bytes_max) = (self.kv.clone(), self.message_bytes_max);
            return Box::pin(async move {
                let response = unary::serve(call, &kv, bytes_max, request).await;
                slow.report(call.path(), begun);
                Ok(response)
            });
        }
        let rest = self.rest.clone();
        Box::pin(async move {
            let uri = request.uri().clone();
            let response = status::oversize_as_exhausted(rest.oneshot(request).await?);
            slow.report(uri.path(), begun);
            Ok(status::unknown_method_as_text(uri.path(), response).map(Body::new))
        })
    }
}

impl hyper::service::Service<http::Request<Incoming>> for ClientService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let has_grpc = self.traffic != Traffic::Http && request.version() == http::Version::HTTP_2;
        if has_grpc && let Some(refused) = unary::refuse_foreign(&request) {
            let mut response = http::Response::new(Body::empty());
            *response.status_mut() = refused;
            return Box::pin(ready(Ok(response)));
        }
        if has_grpc && pages::is_grpc(&request) {
            http2_debug::show_authority(&request);
            if let Some(name) = &self.name {
                request.extensions_mut().insert(name.clone());
            }
            return match deadline::timeout(request.headers()) {
                Ok(None) => self.call_grpc(request),
                Ok(Some(timeout)) => Box::pin(deadline::bounded(timeout, self.call_grpc(request))),
                Err(refused) => Box::pin(ready(Ok(refused))),
            };
        }
        if self.traffic == Traffic::Grpc {
            return Box::pin(ready(Ok(pages::only_grpc().map(Body::new))));
        }
        let (web, is_tls, is_named) = (self.web.clone(), self.is_tls, self.name.is_some());
        Box::pin(
            async move { web.serve(request.map(axum::body::Body::new), is_tls, is_named).await },
        )
    }
}

/// Puts the client listener's services together.
pub fn client_service(services: Services) -> ClientService {
    let Services {
        handle,
        links,
        watches,
        limits,
        stream,
        backups,
        visitors,
        with_gateway,
        names_users,
        tokens,
        passwords,
        slow,
        stop,
    } = services;
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
    let cluster = cluster::ClusterService::new(handle.clone(), links, limits);
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(kv)
        .add_service(lease)
        .add_service(watches)
        .add_service(lock)
        .add_service(election)
        .add_service(AuthServer::new(auth))
        .add_service(ClusterServer::new(cluster))
        .add_service(MaintenanceServer::new(maintenance))
        .add_service(HealthServer::new(health::HealthService));
    let guard = axum::middleware::from_fn_with_state(access, guard);
    let rest = routes.routes().into_axum_router().layer(guard).fallback(pages::unknown_call);
    let gateway = with_gateway.then(|| Gateway::new(rest.clone(), decode_max));
    ClientService {
        kv: frequent,
        message_bytes_max: decode_max,
        rest,
        slow,
        web: Web::new(visitors, gateway, handle.auth().clone(), pages::pages(handle)),
        traffic: Traffic::GrpcAndHttp,
        is_tls: false,
        names_users,
        name: None,
    }
}

/// Everything on a listener for probes and metrics.
pub fn metrics_service(handle: Handle) -> Router {
    pages::probes(handle)
}

/// Everything on the peer listener.
pub fn peer_service(peer: PeerService, pages: PeerPages) -> Router {
    let peer = PeerServer::new(peer)
        .max_decoding_message_size(PEER_BYTES_MAX)
        .max_encoding_message_size(PEER_BYTES_MAX);
    tonic::service::Routes::new(peer).into_axum_router().fallback_service(peer_pages(pages))
}
