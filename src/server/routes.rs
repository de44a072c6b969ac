//! What each listener serves, put together.

use super::limits::Limits;
use super::{cluster, health, http, kv, lease, maintenance, watch};
use crate::pb::etcdserverpb::cluster_server::ClusterServer;
use crate::pb::etcdserverpb::kv_server::KvServer;
use crate::pb::etcdserverpb::lease_server::LeaseServer;
use crate::pb::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::pb::health::health_server::HealthServer;
use crate::pb::quoinpb::peer_server::PeerServer;
use crate::peer::PeerService;
use crate::replica::Handle;
use crate::storage::Engine;
use crate::watch::StreamOptions;
use axum::Router;
use std::sync::Arc;
use tokio::sync::watch::Receiver;

/// The largest answer or peer message: what a 32-bit length can say.
const ENCODE_BYTES_MAX: usize = i32::MAX as usize;
/// A batch of messages between members: several appends of 1 MiB each.
const PEER_BYTES_MAX: usize = 1 << 30;

/// What the client services stand on.
pub struct Services {
    pub handle: Handle,
    pub engine: Arc<dyn Engine>,
    pub watches: crate::watch::Handle,
    pub limits: Limits,
    pub stream: StreamOptions,
    /// Turns true when the node stops.
    pub stop: Receiver<bool>,
}

/// Everything on the client listener.
pub fn client_service(services: Services) -> Router {
    let Services { handle, engine, watches, limits, stream, stop } = services;
    let decode_max = limits.message_bytes_max();
    let kv = KvServer::new(kv::KvService::new(handle.clone(), limits))
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let lease = LeaseServer::new(lease::LeaseService::new(handle.clone(), limits))
        .max_decoding_message_size(decode_max)
        .max_encoding_message_size(ENCODE_BYTES_MAX);
    let maintenance = maintenance::MaintenanceService::new(handle.clone(), limits, engine);
    let mut routes = tonic::service::Routes::builder();
    routes
        .add_service(kv)
        .add_service(lease)
        .add_service(watch::server(handle.clone(), watches, stream, stop, decode_max))
        .add_service(ClusterServer::new(cluster::ClusterService::new(handle.clone())))
        .add_service(MaintenanceServer::new(maintenance))
        .add_service(HealthServer::new(health::HealthService));
    routes.routes().into_axum_router().fallback_service(http::pages(handle))
}

/// Everything on the peer listener.
pub fn peer_service(peer: PeerService, handle: Handle) -> Router {
    let peer = PeerServer::new(peer)
        .max_decoding_message_size(PEER_BYTES_MAX)
        .max_encoding_message_size(PEER_BYTES_MAX);
    tonic::service::Routes::new(peer)
        .into_axum_router()
        .fallback_service(http::version_page(handle).fallback(http::not_found))
}
