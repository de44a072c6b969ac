//! One outgoing stream to each other member, with a bounded queue in front.

use crate::metrics::outside::{Peer as PeerNumbers, Peers};
use crate::pb::quoinpb::peer_client::PeerClient;
use crate::pb::quoinpb::{Empty, MembersAnswer, PeerBatch, PeerMessage};
use crate::replica::Handle;
use crate::tls::{Dialer, reason};
use crate::types::MemberId;
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

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

/// Ways in which a member cannot be reached that are told before it is reached again.
const FAILURES_TOLD: usize = 8;
/// How often a member is asked whether it is there.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The sending side of all links. Cheap to clone; used from the driver's thread.
#[derive(Clone)]
pub struct Links {
    links: Arc<RwLock<BTreeMap<MemberId, Link>>>,
    runtime: tokio::runtime::Handle,
    dialer: Dialer,
    /// Set once the driver exists, to be told of unreachable members and of this one's removal.
    handle: Arc<OnceLock<Handle>>,
    numbers: Peers,
}

struct Link {
    urls: Vec<String>,
    queue: mpsc::Sender<PeerMessage>,
    channel: Channel,
    /// Since when the member has answered each time it was asked.
    connected_since: Arc<Mutex<Option<Instant>>>,
    probe: AbortHandle,
    numbers: Arc<PeerNumbers>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // The stream's task ends with its queue.
        self.probe.abort();
    }
}

impl Links {
    /// Opens links to the given members; tasks run on the present tokio runtime.
    pub fn open(
        peers: &[(MemberId, Vec<String>)],
        (dialer, handle): (Dialer, Arc<OnceLock<Handle>>),
        numbers: Peers,
    ) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let links = Self { links: Arc::default(), runtime, dialer, handle, numbers };
        for (member, urls) in peers {
            links.connect(*member, urls);
        }
        links
    }

    /// Follows a change of members: new ones are dialled, those that moved are dialled anew, others
    /// are let go.
    pub fn follow(&self, peers: &[(MemberId, Vec<String>)]) {
        self.links.write().retain(|member, link| {
            peers.iter().any(|(id, urls)| id == member && *urls == link.urls)
        });
        for (member, urls) in peers {
            if !self.links.read().contains_key(member) {
                self.connect(*member, urls);
            }
        }
    }

    fn connect(&self, member: MemberId, urls: &[String]) {
        let _entered = self.runtime.enter();
        let channel = match channel(&self.dialer, urls) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::warn!(%member, error, "cannot dial a member");
                return;
            }
        };
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let connected_since = Arc::default();
        let numbers = self.numbers.of(member.0);
        let ends = (self.handle.clone(), numbers.clone());
        let probe = probe(member, channel.clone(), Arc::clone(&connected_since), ends.clone());
        let link = Link {
            urls: urls.to_vec(),
            queue,
            channel: channel.clone(),
            connected_since,
            probe: self.runtime.spawn(probe).abort_handle(),
            numbers,
        };
        self.runtime.spawn(run_link(member, channel, messages, ends));
        self.links.write().insert(member, link);
    }

    /// Queues a message; dropped when the member's queue is full or there is no such member.
    pub fn send(&self, message: PeerMessage) {
        if let Some(link) = self.links.read().get(&MemberId(message.to))
            && link.queue.try_send(message).is_err()
        {
            link.numbers.send_failures.add(1);
        }
    }

    /// The connection to a member, for a snapshot's own call.
    pub fn channel(&self, member: MemberId) -> Option<Channel> {
        self.links.read().get(&member).map(|link| link.channel.clone())
    }

    /// How long a member has answered without a break; `None` if it does not now.
    pub fn connected_for(&self, member: MemberId) -> Option<Duration> {
        let since = *self.links.read().get(&member)?.connected_since.lock();
        since.map(|since| since.elapsed())
    }
}

/// Asks a member again and again whether it is there. It may also know that this one was removed,
/// of which a removed member hears in no other way once nobody sends it anything.
async fn probe(
    member: MemberId,
    channel: Channel,
    connected_since: Arc<Mutex<Option<Instant>>>,
    (handle, numbers): (Arc<OnceLock<Handle>>, Arc<PeerNumbers>),
) {
    let mut client = PeerClient::new(channel);
    let mut failures: Vec<String> = Vec::new();
    loop {
        let asked = Instant::now();
        let answer = tokio::time::timeout(PROBE_INTERVAL, client.members(Empty {})).await;
        if let Ok(Err(status)) = &answer {
            let failure = reason(status);
            // Each once until it is reached again: a member that is down is asked every second.
            if failures.len() < FAILURES_TOLD && !failures.contains(&failure) {
                tracing::warn!("peer-id" = %member, error = failure, "cannot reach a member");
                failures.push(failure);
            }
        }
        if matches!(answer, Ok(Ok(_))) {
            failures.clear();
        }
        let own = handle.get();
        let is_connected = match (&answer, own) {
            (Ok(Ok(answer)), Some(own)) => {
                let answer = answer.get_ref();
                let is_same = answer.cluster_id == own.cluster_id().0;
                if is_same && answer.removed.contains(&own.member_id().0) {
                    own.told_removed();
                }
                is_same
            }
            _ => false,
        };
        if is_connected {
            numbers.round_trips.observe_time(asked.elapsed());
        }
        {
            let mut since = connected_since.lock();
            match (is_connected, *since) {
                (true, None) => {
                    tracing::info!("peer-id" = %member, "peer became active");
                    *since = Some(Instant::now());
                    numbers.is_active.set(1);
                }
                (false, Some(_)) => {
                    tracing::warn!("peer-id" = %member, "peer became inactive");
                    *since = None;
                    numbers.is_active.set(0);
                    numbers.disconnects.add(1);
                }
                _ => {}
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// A lazily connected, self-healing channel. With several URLs the first one is dialled.
fn channel(dialer: &Dialer, urls: &[String]) -> Result<Channel, String> {
    let url = urls.first().ok_or("member has no peer URL")?;
    dialer.lazy(url, |endpoint| {
        endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
    })
}

/// Keeps one stream open to a member for as long as the queue lives.
async fn run_link(
    member: MemberId,
    channel: Channel,
    mut messages: mpsc::Receiver<PeerMessage>,
    (handle, numbers): (Arc<OnceLock<Handle>>, Arc<PeerNumbers>),
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
                let bytes = batch.encoded_len() as u64;
                tokio::select! {
                    sent = batches.send(batch) => match sent {
                        Ok(()) => numbers.sent_bytes.add(bytes),
                        Err(_) => break call.await,
                    },
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
        numbers.send_failures.add(1);
        if let Some(handle) = handle.get() {
            handle.unreachable(member);
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
        // What was queued meanwhile is old: raft knows by now that the member is unreachable.
        waiting.clear();
        while messages.try_recv().is_ok() {
            numbers.send_failures.add(1);
        }
    }
}

/// Asks the server behind a peer URL who it is and whom it knows.
///
/// # Errors
/// When nobody answers in time or the answer is an error.
pub async fn ask_members(dialer: &Dialer, url: &str) -> Result<MembersAnswer, String> {
    let channel = channel(dialer, &[url.to_owned()])?;
    let call = async { PeerClient::new(channel).members(Empty {}).await };
    match tokio::time::timeout(CONNECT_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(reason(&status)),
        Err(_elapsed) => Err(format!("{url} did not answer in time")),
    }
}
