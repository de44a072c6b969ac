//! The stubs generated from our own `.proto` files, for what the client crate cannot send.

use quoin::pb::etcdserverpb::auth_client::AuthClient;
use quoin::pb::etcdserverpb::cluster_client::ClusterClient;
use quoin::pb::etcdserverpb::kv_client::KvClient;
use quoin::pb::etcdserverpb::lease_client::LeaseClient;
use quoin::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use quoin::pb::etcdserverpb::watch_client::WatchClient;
use quoin::pb::etcdserverpb::{Member, MemberListRequest, StatusRequest, StatusResponse};
use quoin::pb::health::health_client::HealthClient;
use quoin::pb::v3electionpb::election_client::ElectionClient;
use quoin::pb::v3lockpb::lock_client::LockClient;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// All services of one member, over one connection which is made at the first call.
#[derive(Clone)]
pub struct Raw {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub auth: AuthClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub health: HealthClient<Channel>,
    pub lock: LockClient<Channel>,
    pub election: ElectionClient<Channel>,
}

/// As large as any answer in a test.
const MESSAGE_MAX: usize = 64 << 20;

impl Raw {
    pub fn new(endpoint: &str) -> Raw {
        Self::over(channel(endpoint))
    }

    pub fn over(channel: Channel) -> Raw {
        Raw {
            kv: KvClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            watch: WatchClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            lease: LeaseClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            auth: AuthClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            health: HealthClient::new(channel.clone()),
            lock: LockClient::new(channel.clone()),
            election: ElectionClient::new(channel),
        }
    }

    /// The members as this one knows them.
    pub async fn members(&self) -> Vec<Member> {
        let mut cluster = self.cluster.clone();
        let list = cluster.member_list(MemberListRequest { linearizable: false });
        list.await.expect("a list of members").into_inner().members
    }

    pub async fn status(&self) -> Result<StatusResponse, Status> {
        let mut maintenance = self.maintenance.clone();
        Ok(maintenance.status(StatusRequest {}).await?.into_inner())
    }
}

/// Connects at the first call; each call ends after 15 s at the latest.
pub fn channel(endpoint: &str) -> Channel {
    Endpoint::from_shared(endpoint.to_owned())
        .expect("an endpoint is a URL")
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(15))
        .connect_lazy()
}
