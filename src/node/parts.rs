//! What a node's parts are given: settings from flags, and the calls between parts.

use crate::config::Config;
use crate::error::Fatal;
use crate::machine::Capture;
use crate::metrics::Metrics;
use crate::metrics::histogram::Histogram;
use crate::metrics::outside::Peer;
use crate::metrics::parts::Held;
use crate::metrics::services::Snapshots;
use crate::pb::etcdserverpb::Member;
use crate::peer::{Links, send_snapshot};
use crate::replica::{DriverParts, Handle, Settings};
use crate::server::limits::Limits;
use crate::server::listener::{ClientPings, ConnectionLimits};
use crate::server::routes::Traffic;
use crate::storage::Engine;
use crate::storage::snapshot_file::SnapshotStore;
use crate::types::{ClusterId, MemberId};
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// Stored snapshots kept: the newest, and one in case it cannot be read.
const SNAPSHOTS_KEPT: usize = 2;
/// After a snapshot that another member could not take, before the next one.
const SNAPSHOT_REST: Duration = Duration::from_secs(1);
/// Replaying what a loaded member writes in this time takes a fraction of it.
const SNAPSHOT_PAUSE_MS: u64 = 2_000;
/// Log entries of mvcc that one round of physical compaction looks at: some 100 us of work.
const COMPACTION_ENTRIES: usize = 256;

/// What a replica is told of the flags and of itself.
pub(super) fn settings(config: &Config, id: MemberId, cluster_id: ClusterId) -> Settings {
    let election_ticks = (config.election_timeout_ms / config.heartbeat_interval_ms) as usize;
    Settings {
        id,
        cluster_id,
        // Even: odd numbers name the leader's own commands.
        boot: rand::random::<u64>() & !1,
        tick_ms: config.heartbeat_interval_ms,
        election_ticks,
        election_ticks_drawn: election_ticks..2 * election_ticks,
        // All but one: a leader still has a tick to be heard, and a new cluster elects at once.
        election_ticks_advanced: match config.initial_election_tick_advance {
            true => election_ticks - 1,
            false => 0,
        },
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count,
        snapshot_pause_ms: SNAPSHOT_PAUSE_MS,
        catch_up_entries: config.snapshot_catchup_entries,
        compaction_entries_max: COMPACTION_ENTRIES,
    }
}

/// What the driver calls: links, watches, engine and snapshots.
pub(super) fn driver_parts(
    own: MemberId,
    links: &Links,
    watches: &crate::watch::Handle,
    engine: &Arc<dyn Engine>,
    snapshots: &Arc<SnapshotStore>,
    (handle, metrics): (&Arc<OnceLock<Handle>>, &Arc<Metrics>),
) -> DriverParts {
    let (sending, transfers, following) = (links.clone(), links.clone(), links.clone());
    let (publishing, restoring) = (watches.clone(), watches.clone());
    let (flushing, storing) = (engine.clone(), snapshots.clone());
    let (stored, sent) = (metrics.snapshots.clone(), metrics.clone());
    let (handle, runtime) = (handle.clone(), tokio::runtime::Handle::current());
    DriverParts {
        send: Box::new(move |message| sending.send(message)),
        publish: Box::new(move |commits| publishing.publish(commits)),
        members: Box::new(move |members| {
            // One that has not yet learned that it was added knows members of the past only.
            if members.iter().any(|member| member.id == own.0) {
                following.follow(&peers_of(members, own));
            }
        }),
        restored: Box::new(move || restoring.restored()),
        flush: Arc::new(move || flushing.flush()),
        numbers: (metrics.state.clone(), metrics.proposals.clone()),
        store_snapshot: Arc::new(move |capture| store_snapshot(&storing, &stored, capture)),
        send_snapshot: Box::new(move |to, message, capture| {
            let Some(handle) = handle.get().cloned() else { return };
            let channel = transfers.channel(to);
            let numbers = (sent.peers.of(to.0), sent.reads.backup.clone());
            runtime.spawn(async move {
                let sending = pass_on(&handle, channel, to, (message, capture), numbers);
                let delivered = sending.await.is_ok();
                let report = move || handle.snapshot_sent(to, delivered);
                // The report must not be lost, and it may block.
                let _ended = tokio::task::spawn_blocking(report).await;
            });
        }),
    }
}

/// Writes a snapshot file and tells how many bytes it holds.
fn store_snapshot(
    store: &SnapshotStore,
    numbers: &Snapshots,
    mut capture: Capture,
) -> Result<u64, Fatal> {
    let begun = Instant::now();
    let mut reading = Duration::ZERO;
    let mut staging = store.stage(capture.index, capture.term)?;
    loop {
        let begun = Instant::now();
        let block = capture.next_block(1 << 20)?;
        reading += begun.elapsed();
        let Some(block) = block else { break };
        staging.write_block(&block)?;
    }
    let written = Instant::now();
    let mut staged = staging.finish()?;
    numbers.sync.observe_time(written.elapsed());
    numbers.read.observe_time(reading);
    numbers.store.observe_time(begun.elapsed());
    staged.publish()?;
    let bytes = staged.bytes();
    store.keep_newest(SNAPSHOTS_KEPT)?;
    tracing::info!("snapshot-index" = capture.index, bytes, "saved snapshot to disk");
    Ok(bytes)
}

/// Sends a snapshot to another member.
async fn pass_on(
    handle: &Handle,
    channel: Option<Channel>,
    to: MemberId,
    (message, capture): (Bytes, Capture),
    (peer, backup): (Arc<Peer>, Arc<Histogram>),
) -> Result<(), String> {
    let index = capture.index;
    let begun = Instant::now();
    let under_way = Held::new(&peer.snapshots_sent.under_way);
    let sent = match channel {
        Some(channel) => send_snapshot(handle, channel, to, message, capture).await,
        None => Err("it is no member any more".to_owned()),
    };
    drop(under_way);
    match &sent {
        Ok(bytes) => {
            peer.snapshots_sent.done.add(1);
            peer.snapshots_sent.times.observe_time(begun.elapsed());
            peer.sent_bytes.add(*bytes);
            backup.observe_time(begun.elapsed());
            tracing::info!(
                "snapshot-index" = index, "remote-peer-id" = %to, "sent database snapshot"
            );
        }
        Err(error) => {
            peer.snapshots_sent.failed.add(1);
            tracing::warn!(
                "snapshot-index" = index, "remote-peer-id" = %to, error,
                "failed to send database snapshot"
            );
            // Until it is known to have failed no other is sent: a disk that is full stays so.
            tokio::time::sleep(SNAPSHOT_REST).await;
        }
    }
    sent.map(drop)
}

/// The other members, and where they are.
pub(super) fn peers_of(members: &[Member], own: MemberId) -> Vec<(MemberId, Vec<String>)> {
    let others = members.iter().filter(|member| member.id != own.0);
    others.map(|member| (MemberId(member.id), member.peer_ur_ls.clone())).collect()
}

/// What the services check.
pub(super) fn limits(config: &Config) -> Limits {
    Limits {
        request_bytes_max: config.max_request_bytes,
        txn_ops_max: config.max_txn_ops,
        lease_ttl_min: (3 * config.election_timeout_ms).div_ceil(2000) as i64,
        learners_max: config.max_learners,
        strict_reconfiguration: config.strict_reconfig_check,
        quota_bytes: config.quota_backend_bytes,
        range_bytes: config.range_memory_bytes,
    }
}

/// What a connection is granted.
pub(super) fn connection_limits(config: &Config, concurrent_streams_max: u32) -> ConnectionLimits {
    ConnectionLimits {
        concurrent_streams_max,
        ping: config
            .grpc_keepalive_interval
            .map(|interval| (interval, config.grpc_keepalive_timeout)),
        client_pings: None,
    }
}

/// What is asked of clients' pings: as in etcd nothing where Go's own HTTP/2 server takes the calls, which is
/// where TLS leads to both gRPC and HTTP.
pub(super) fn client_pings(config: &Config, traffic: Traffic) -> Option<ClientPings> {
    let min = config.grpc_keepalive_min_time;
    (traffic != Traffic::Http).then_some(ClientPings { min, over_tls: traffic == Traffic::Grpc })
}
