//! One outgoing stream to each other member, with a bounded queue in front.

use crate::pb::quoinpb::peer_client::PeerClient;
use crate::pb::quoinpb::{Empty, MembersAnswer, PeerBatch, PeerMessage};
use crate::replica::Handle;
use crate::types::MemberId;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Messages that may wait for a slow or dead member. Raft sends again what it still needs.
const QUEUE_MAX: usize = 4096;
/// Messages in one batch on the wire.
const BATCH_MAX: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before a new attempt to reach a member: long enough to cost nothing, short enough
/// for a restarted member to be found within an election timeout.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Window of the streams between members: a batch of appends fits.
const WINDOW: u32 = 8 << 20;

/// The sending side of all links. Cheap to clone; used from the driver's thread.
#[derive(Clone)]
pub struct Links {
    queues: Arc<BTreeMap<MemberId, mpsc::Sender<PeerMessage>>>,
    channels: Arc<BTreeMap<MemberId, Channel>>,
}

impl Links {
    /// Opens links to the given members; tasks run on the present tokio runtime. `handle` is set
    /// once the driver exists, to be told of unreachable members.
    ///
    /// # Errors
    /// With the URL that is not one.
    pub fn open(
        peers: &[(MemberId, Vec<String>)],
        handle: Arc<OnceLock<Handle>>,
    ) -> Result<Self, String> {
        let mut queues = BTreeMap::new();
        let mut channels = BTreeMap::new();
        for (member, urls) in peers {
            let channel = channel(urls)?;
            let (queue, messages) = mpsc::channel(QUEUE_MAX);
            queues.insert(*member, queue);
            channels.insert(*member, channel.clone());
            tokio::spawn(run_link(*member, channel, messages, handle.clone()));
        }
        Ok(Self { queues: Arc::new(queues), channels: Arc::new(channels) })
    }

    /// Queues a message; dropped when the member's queue is full or there is no such member.
    pub fn send(&self, message: PeerMessage) {
        if let Some(queue) = self.queues.get(&MemberId(message.to)) {
            let _dropped = queue.try_send(message);
        }
    }

    /// The connection to a member, for a snapshot's own call.
    pub fn channel(&self, member: MemberId) -> Option<Channel> {
        self.channels.get(&member).cloned()
    }
}

/// A lazily connected, self-healing channel. With several URLs the first one is dialled.
fn channel(urls: &[String]) -> Result<Channel, String> {
    let url = urls.first().ok_or("member has no peer URL")?;
    Ok(Endpoint::from_shared(url.clone())
        .map_err(|error| format!("{url}: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(2 * WINDOW)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .connect_lazy())
}

/// Keeps one stream open to a member for as long as the queue lives.
async fn run_link(
    member: MemberId,
    channel: Channel,
    mut messages: mpsc::Receiver<PeerMessage>,
    handle: Arc<OnceLock<Handle>>,
) {
    let mut waiting = Vec::with_capacity(BATCH_MAX);
    loop {
        // Wait for something to say before dialling, and say it first.
        if waiting.is_empty() && messages.recv_many(&mut waiting, BATCH_MAX).await == 0 {
            return;
        }
        // One batch in the pipe, one being made: the rest waits in the bounded queue.
        let (batches, stream) = mpsc::channel(1);
        let mut client = PeerClient::new(channel.clone());
        let call = async move { client.messages(ReceiverStream::new(stream)).await };
        tokio::pin!(call);
        let ended = loop {
            if !waiting.is_empty() {
                let batch = PeerBatch { messages: std::mem::take(&mut waiting) };
                tokio::select! {
                    sent = batches.send(batch) => if sent.is_err() { break call.await },
                    ended = &mut call => break ended,
                }
            }
            tokio::select! {
                count = messages.recv_many(&mut waiting, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
                ended = &mut call => break ended,
            }
        };
        if let Err(status) = ended {
            tracing::debug!(member = %member, %status, "lost the stream to a member");
        }
        if let Some(handle) = handle.get() {
            handle.unreachable(member);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
        // What was queued meanwhile is old: raft knows by now that the member is unreachable.
        waiting.clear();
        while messages.try_recv().is_ok() {}
    }
}

/// Asks the server behind a peer URL who it is and whom it knows.
///
/// # Errors
/// When nobody answers in time or the answer is an error.
pub async fn ask_members(url: &str) -> Result<MembersAnswer, String> {
    let channel = channel(&[url.to_owned()])?;
    let call = async { PeerClient::new(channel).members(Empty {}).await };
    match tokio::time::timeout(CONNECT_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_elapsed) => Err(format!("{url} did not answer in time")),
    }
}
