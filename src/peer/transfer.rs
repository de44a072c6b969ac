//! A member's whole state on its way to another: sent in checked chunks, staged, then installed.

use crate::error::Fatal;
use crate::machine::Capture;
use crate::metrics::Metrics;
use crate::metrics::histogram::Histogram;
use crate::metrics::outside::Transfers;
use crate::pb::quoinpb::peer_client::PeerClient;
use crate::pb::quoinpb::snapshot_chunk::Part;
use crate::pb::quoinpb::{SnapshotChunk, SnapshotFooter, SnapshotHeader};
use crate::replica::{Handle, ReceivedSnapshot, SnapshotBlocks};
use crate::storage::snapshot_file::{SnapshotStore, StagedSnapshot, Staging};
use crate::types::MemberId;
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::Message;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Bytes of records in one chunk: far below the message limit, large enough to be cheap.
const CHUNK_BYTES: usize = 512 * 1024;
/// Chunks that may wait for the network.
const CHUNKS_AHEAD: usize = 4;
/// How long a transfer may take as a whole; its pin holds compaction back so long.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Streams a capture to a member and returns once it is stored there; tells how many bytes it took.
///
/// # Errors
/// When the link breaks, the receiver refuses, or the state cannot be read.
pub async fn send_snapshot(
    handle: &Handle,
    channel: Channel,
    to: MemberId,
    message: Bytes,
    capture: Capture,
) -> Result<u64, String> {
    let header = SnapshotHeader {
        from: handle.member_id().0,
        to: to.0,
        cluster_id: handle.cluster_id().0,
        raft_message: message,
    };
    let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
    let reader = tokio::task::spawn_blocking(move || read_chunks(header, capture, &chunks));
    let mut client = PeerClient::new(channel);
    let call = client.install_snapshot(ReceiverStream::new(stream));
    let sent = match tokio::time::timeout(TRANSFER_TIMEOUT, call).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_elapsed) => Err("it took too long".to_owned()),
    };
    match reader.await {
        Ok(Ok(bytes)) => sent.map(|()| bytes),
        Ok(Err(fatal)) => Err(fatal.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn read_chunks(
    header: SnapshotHeader,
    mut capture: Capture,
    chunks: &mpsc::Sender<SnapshotChunk>,
) -> Result<u64, Fatal> {
    let send = |part: Part, crc32c: u32| {
        chunks.blocking_send(SnapshotChunk { crc32c, part: Some(part) }).is_ok()
    };
    if !send(Part::Header(header), 0) {
        return Ok(0);
    }
    let mut footer = SnapshotFooter::default();
    while let Some(block) = capture.next_block(CHUNK_BYTES)? {
        footer.chunks += 1;
        footer.bytes += block.len() as u64;
        let checksum = crc32c::crc32c(&block);
        if !send(Part::Records(block), checksum) {
            return Ok(footer.bytes);
        }
    }
    send(Part::Footer(footer), 0);
    Ok(footer.bytes)
}

/// Stages an incoming snapshot and hands it to the driver.
pub(super) async fn receive_snapshot(
    handle: &Handle,
    snapshots: &Arc<SnapshotStore>,
    keeps_snapshots: bool,
    metrics: &Metrics,
    mut chunks: Streaming<SnapshotChunk>,
) -> Result<(), Status> {
    let Some(SnapshotChunk { part: Some(Part::Header(header)), .. }) = chunks.message().await?
    else {
        return Err(Status::invalid_argument("a snapshot begins with a header"));
    };
    if header.to != handle.member_id().0 || header.cluster_id != handle.cluster_id().0 {
        return Err(Status::failed_precondition("the snapshot is for another member or cluster"));
    }
    let begun = Instant::now();
    let peer = metrics.peers.of(header.from);
    let mut arrival = Arrival { numbers: &peer.snapshots_received, begun, is_whole: false };
    arrival.numbers.under_way.add(1);
    let message = Message::parse_from_bytes(&header.raft_message)
        .map_err(|_| Status::invalid_argument("the raft message cannot be decoded"))?;
    let metadata = message.get_snapshot().get_metadata();
    let (index, sender) = (metadata.index, MemberId(header.from));
    let failed = |error: Fatal| {
        tracing::warn!(
            "incoming-snapshot-index" = index, "remote-snapshot-sender-id" = %sender, %error,
            "failed to save incoming database snapshot"
        );
        Status::internal(error.to_string())
    };
    let staging = snapshots.stage(index, metadata.term).map_err(failed)?;
    let (blocks, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let syncs = metrics.snapshots.received_sync.clone();
    let writer = tokio::task::spawn_blocking(move || write_blocks(staging, receiver, &syncs));
    let mut received = SnapshotFooter::default();
    let complete = loop {
        let Some(chunk) = chunks.message().await? else { break false };
        match chunk.part {
            Some(Part::Records(records)) => {
                if crc32c::crc32c(&records) != chunk.crc32c {
                    return Err(Status::data_loss("a chunk's checksum does not match"));
                }
                received.chunks += 1;
                received.bytes += records.len() as u64;
                peer.received_bytes.add(records.len() as u64);
                if blocks.send(records).await.is_err() {
                    break false;
                }
            }
            Some(Part::Footer(footer)) => break footer == received,
            Some(Part::Header(_)) | None => break false,
        }
    };
    drop(blocks);
    let staged = writer.await.map_err(|e| Status::internal(e.to_string()))?.map_err(failed)?;
    if !complete {
        return Err(Status::data_loss("the snapshot is incomplete"));
    }
    arrival.is_whole = true;
    drop(arrival);
    metrics.snapshots.received.observe_time(begun.elapsed());
    let blocks = Box::new(Staged { snapshot: staged, is_kept: keeps_snapshots });
    let snapshot = ReceivedSnapshot { message: header.raft_message, blocks };
    let handle = handle.clone();
    tokio::task::spawn_blocking(move || handle.snapshot_received(snapshot))
        .await
        .map_err(|e| Status::internal(e.to_string()))
}

fn write_blocks(
    mut staging: Staging,
    mut blocks: mpsc::Receiver<Bytes>,
    syncs: &Histogram,
) -> Result<StagedSnapshot, Fatal> {
    while let Some(block) = blocks.blocking_recv() {
        staging.write_block(&block)?;
    }
    let begun = Instant::now();
    let staged = staging.finish();
    syncs.observe_time(begun.elapsed());
    staged
}

/// Counts a snapshot that arrives, also if it comes to nothing.
struct Arrival<'a> {
    numbers: &'a Transfers,
    begun: Instant,
    is_whole: bool,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.numbers.under_way.sub(1);
        match self.is_whole {
            true => {
                self.numbers.done.add(1);
                self.numbers.times.observe_time(self.begun.elapsed());
            }
            false => self.numbers.failed.add(1),
        }
    }
}

/// A received snapshot as the replica sees it.
struct Staged {
    snapshot: StagedSnapshot,
    /// The engine keeps nothing over a restart: the file is the durable state.
    is_kept: bool,
}

impl SnapshotBlocks for Staged {
    fn accept(&mut self) -> Result<(), Fatal> {
        self.snapshot.publish()
    }

    fn next_block(&mut self) -> Result<Option<Bytes>, Fatal> {
        self.snapshot.next_block()
    }

    fn finish(&mut self) -> Result<(), Fatal> {
        if self.is_kept { Ok(()) } else { self.snapshot.remove() }
    }
}
