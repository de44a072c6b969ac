//! What each listener serves, put together.

use super::access::{Access, CommonName, guard};
use super::backup::Backups;
use super::deadline::{self, bounded};
use super::gateway::Gateway;
use super::header::Headers;
use super::limits::Limits;
use super::listener::Connected;
use super::metered::{self, Meter, Remote};
use super::ownership::Queues;
use super::password::Passwords;
use super::peer_pages::{PeerPages, peer_pages};
use super::request_stats::Slow;
use super::token::{Tokens, sweep};
use super::visitors::Visitors;
use super::watch;
use super::web::Web;
use super::{
    auth, call_head, cluster, election, go_words, health, http as pages, http2_debug, kv, lease,
    lock, maintenance, unary,
};
use crate::metrics::Metrics;
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
use futures_util::{FutureExt as _, TryFutureExt as _};
use http::header::CONTENT_TYPE;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
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
    pub metrics: Arc<Metrics>,
    /// What takes longer is logged: to apply or read, and a call as a whole.
    pub warnings: (Duration, Duration),
    /// Every call is logged.
    pub is_debugging: bool,
    /// Whether the pages of profiles are shown; etcd's `--enable-pprof`.
    pub with_profiles: bool,
    pub tokens: Arc<Tokens>,
    pub passwords: Passwords,
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
    meter: Meter,
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
        let Connected { is_tls, common_name, remote } = connected;
        let name = common_name.filter(|_| self.names_users).map(CommonName);
        let meter = Meter { remote: Remote(remote), ..self.meter.clone() };
        Self { traffic, is_tls, name, meter, ..self.clone() }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl ClientService {
    /// Answers a gRPC call, or refuses it for what its head says.
    fn answer_grpc(&self, request: http::Request<Incoming>) -> Answer {
        if let Some(refused) = call_head::refused(&request) {
            return Box::pin(ready(Ok(refused)));
        }
        match deadline::timeout(request.headers()) {
            Ok(timeout) => self.call_grpc(request, timeout.map(|timeout| Instant::now() + timeout)),
            Err(refused) => Box::pin(ready(Ok(refused))),
        }
    }

    fn call_grpc(&self, mut request: http::Request<Incoming>, deadline: Option<Instant>) -> Answer {
        // Those that are encoded are left to the generated server.
        let is_encoded = call_head::settle_encoding(request.headers_mut());
        if !is_encoded && let Some(call) = unary::Call::of(request.uri()) {
            let (kv, bytes_max, meter) =
                (self.kv.clone(), self.message_bytes_max, self.meter.clone());
            return Box::pin(async move {
                let mut noted = metered::Call::begin(&meter, call.id(), request.headers());
                let served = async {
                    Ok::<_, Infallible>(
                        unary::serve(call, &kv, bytes_max, request, &mut noted).await,
                    )
                };
                let response = match deadline {
                    None => served.await,
                    Some(deadline) => bounded(deadline, served).await,
                }?;
                noted.end(&response);
                Ok(response)
            });
        }
        let uri = request.uri();
        if uri.query().is_some() || self.meter.metrics.calls.find(uri.path()).is_none() {
            return Box::pin(
                pages::unknown_call(uri.clone()).map(|refused| Ok(refused.map(Body::new))),
            );
        }
        let rest = self.rest.clone();
        let serve = async move |request: http::Request<Body>| {
            let uri = request.uri().clone();
            let served = async {
                let response = rest.oneshot(request).await?;
                Ok(go_words::refused(uri.path(), response).map(Body::new))
            };
            match deadline {
                None => served.await,
                Some(deadline) => bounded(deadline, served).await,
            }
        };
        Box::pin(metered::serve(self.meter.clone(), request, serve))
    }
}

impl hyper::service::Service<http::Request<Incoming>> for ClientService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: http::Request<Incoming>) -> Self::Future {
        let has_grpc = self.traffic != Traffic::Http && request.version() == http::Version::HTTP_2;
        let beside_http = self.is_tls && self.traffic == Traffic::GrpcAndHttp;
        if has_grpc && let Some(refused) = unary::refuse_foreign(&request, beside_http) {
            return Box::pin(ready(Ok(refused)));
        }
        if has_grpc && pages::is_grpc(&request) {
            http2_debug::show_authority(&request);
            if let Some(name) = &self.name {
                request.extensions_mut().insert(name.clone());
            }
            let kind = call_head::unusual_kind(request.headers());
            let answer = self.answer_grpc(request);
            let Some(kind) = kind else { return answer };
            return Box::pin(answer.map_ok(|mut answer| {
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }));
        }
        if self.traffic == Traffic::Grpc {
            return Box::pin(ready(Ok(pages::only_grpc().map(Body::new))));
        }
        request.extensions_mut().insert(self.meter.remote);
        let is_named = self.name.as_ref().is_some_and(|CommonName(name)| !name.is_empty());
        let (web, is_tls) = (self.web.clone(), self.is_tls);
        Box::pin(
            async move { web.serve(request.map(axum::body::Body::new), is_tls, is_named).await },
        )
    }
}

/// Puts the client listener's services together.
pub fn client_service(services: Services) -> ClientService {
    let Services { handle, metrics, stop, tokens, limits, .. } = &services;
    let (handle, metrics, stop) = (handle.clone(), metrics.clone(), stop.clone());
    tokio::spawn(sweep(tokens.clone(), handle.auth().clone(), stop.clone()));
    let access = Access::new(handle.clone(), tokens.clone());
    let frequent =
        kv::KvService::new(handle.clone(), *limits, access.clone(), metrics.reads.clone());
    let message_bytes_max = limits.message_bytes_max();
    let (apply, unary) = services.warnings;
    let slow = Slow::new(apply, unary, services.is_debugging);
    let (visitors, with_gateway) = (services.visitors.clone(), services.with_gateway);
    let (names_users, with_profiles) = (services.names_users, services.with_profiles);
    let auth = handle.auth().clone();
    let rest = grpc_routes(services, frequent.clone(), access);
    let meter = Meter { metrics: metrics.clone(), slow, remote: Remote::default() };
    let counted = axum::middleware::from_fn_with_state(meter.clone(), metered::count);
    let gateway =
        with_gateway.then(|| Gateway::new(rest.clone().layer(counted), message_bytes_max, stop));
    ClientService {
        kv: frequent,
        message_bytes_max,
        rest,
        meter,
        web: Web::new(visitors, gateway, auth, pages::pages(handle, metrics, with_profiles)),
        traffic: Traffic::GrpcAndHttp,
        is_tls: false,
        names_users,
        name: None,
    }
}

/// All calls, behind the guard.
fn grpc_routes(services: Services, frequent: kv::KvService, access: Access) -> Router {
    let Services { handle, links, watches, limits, stream, backups, metrics, stop, .. } = services;
    let decode_max = limits.message_bytes_max();
    let kv = KvServer::new(frequent.clone())
        .accept_compressed(Gzip)
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let leases = lease::LeaseService::new(handle.clone(), limits, access.clone());
    let lease = LeaseServer::new(leases.clone())
        .accept_compressed(Gzip)
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let maintenance = maintenance::MaintenanceService::new(
        handle.clone(),
        limits,
        backups,
        access.clone(),
        metrics.reads.clone(),
    );
    let auth = auth::AuthService::new(handle.clone(), limits, access.clone(), services.passwords);
    let options = (stream, metrics.watching.clone());
    let watches = watch::server(handle.clone(), access.clone(), watches, options, stop, decode_max);
    let queues = Queues {
        handle: handle.clone(),
        headers: Headers::new(handle.clone()),
        kv: frequent,
        leases,
        watches: watches.clone(),
    };
    let lock = LockServer::new(lock::LockService::new(queues.clone()))
        .accept_compressed(Gzip)
        .max_decoding_message_size(decode_max);
    let election = ElectionServer::new(election::ElectionService::new(queues))
        .accept_compressed(Gzip)
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let numbers = metrics.probes.clone();
    let cluster = cluster::ClusterService::new(handle, links, limits, access.clone(), numbers);
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(kv)
        .add_service(lease)
        .add_service(watches)
        .add_service(lock)
        .add_service(election)
        .add_service(
            AuthServer::new(auth).accept_compressed(Gzip).max_decoding_message_size(decode_max),
        )
        .add_service(
            ClusterServer::new(cluster)
                .accept_compressed(Gzip)
                .max_decoding_message_size(decode_max),
        )
        .add_service(
            MaintenanceServer::new(maintenance)
                .accept_compressed(Gzip)
                .max_decoding_message_size(decode_max),
        )
        .add_service(
            HealthServer::new(health::HealthService)
                .accept_compressed(Gzip)
                .max_decoding_message_size(decode_max),
        );
    let guard = axum::middleware::from_fn_with_state(access, guard);
    routes.routes().into_axum_router().layer(guard).fallback(pages::unknown_call)
}

/// Everything on a listener for probes and metrics.
pub fn metrics_service(handle: Handle, metrics: Arc<Metrics>) -> Router {
    pages::probes(handle, metrics)
}

/// Everything on the peer listener.
pub fn peer_service(peer: PeerService, pages: PeerPages) -> Router {
    let peer = PeerServer::new(peer)
        .max_decoding_message_size(PEER_BYTES_MAX)
        .max_encoding_message_size(PEER_BYTES_MAX);
    tonic::service::Routes::new(peer).into_axum_router().fallback_service(peer_pages(pages))
}
