//! Hub and streams as tasks, against a revision store: what the scripts cannot show, because
//! there everything happens in a given order.

use super::hub::{Counts, Taken};
use super::message::WatchMessage;
use super::store::{Change, Store};
use super::stream::End;
use super::{Handle, Hub, Limits, StreamOptions, WatchStream};
use crate::error::RequestError;
use crate::mvcc::Commit;
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{
    ResponseHeader, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use crate::pb::mvccpb::event::EventType;
use crate::types::KeyRange;
use bytes::Bytes;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};
use tokio::sync::{Barrier, mpsc};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// What must happen at all happens well within this.
const DEADLINE: Duration = Duration::from_secs(30);

type Requests = UnboundedReceiverStream<Result<WatchRequest, &'static str>>;

/// A client: what it sends, and what it is sent.
struct Client {
    requests: mpsc::UnboundedSender<Result<WatchRequest, &'static str>>,
    stream: WatchStream<Requests>,
}

impl Client {
    fn new(handle: &Handle, options: &StreamOptions) -> Self {
        Self::with_leader(handle, options, None)
    }

    fn with_leader(
        handle: &Handle,
        options: &StreamOptions,
        leader: Option<tokio::sync::watch::Receiver<bool>>,
    ) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        let received = UnboundedReceiverStream::new(received);
        Self { requests, stream: WatchStream::new(handle, options, received, leader) }
    }

    fn send(&self, request: RequestUnion) {
        let request = WatchRequest { request_union: Some(request) };
        self.requests.send(Ok(request)).expect("the stream lives");
    }

    fn create(&self, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create));
    }

    fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    async fn next(&mut self) -> WatchResponse {
        decode(&self.end_or_next().await.expect("the stream goes on"))
    }

    async fn end_or_next(&mut self) -> Result<WatchMessage, End<&'static str>> {
        let next = tokio::time::timeout(DEADLINE, self.stream.next());
        next.await.expect("a message in time").expect("a message or an error")
    }

    /// Reads until all events up to this revision have come; returns their revisions.
    async fn revisions_until(&mut self, last: i64) -> Vec<i64> {
        let mut revisions = Vec::new();
        while revisions.last() != Some(&last) {
            let events = self.next().await.events;
            revisions.extend(events.into_iter().filter_map(|e| e.kv).map(|kv| kv.mod_revision));
        }
        revisions
    }
}

fn decode(message: &WatchMessage) -> WatchResponse {
    let mut bytes = Vec::new();
    message.encode(&ResponseHeader::default(), &mut bytes);
    WatchResponse::decode(&bytes[..]).expect("a valid message")
}

fn watch(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        ..WatchCreateRequest::default()
    }
}

fn everything() -> WatchCreateRequest {
    WatchCreateRequest { range_end: Bytes::from_static(b"\0"), ..watch("") }
}

fn start(store: &Store, limits: Limits) -> Handle {
    let (hub, handle) = Hub::new(store.view(), limits);
    tokio::spawn(hub.run());
    handle
}

async fn until(handle: &Handle, what: &str, condition: impl Fn(Counts) -> bool) {
    let begin = Instant::now();
    while !condition(handle.counts()) {
        assert!(begin.elapsed() < DEADLINE, "{what}: {:?}", handle.counts());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_grows_nothing() {
    let mut store = Store::new();
    let limits = Limits { queue_bytes_max: 64 * 1024, ..Limits::default() };
    let handle = start(&store, limits);
    let options = StreamOptions::default();
    let (mut slow, mut fast) = (Client::new(&handle, &options), Client::new(&handle, &options));
    for client in [&mut slow, &mut fast] {
        client.create(everything());
        assert!(client.next().await.created);
        // Registered once it has looked for more and found nothing.
        let idle = tokio::time::timeout(Duration::ZERO, client.stream.next()).await;
        assert!(idle.is_err());
    }
    // 4 MiB for a queue of 64 KiB.
    let last = 4097;
    for revision in 2..=last {
        let commit = store.put(&format!("k{}", revision % 100), vec![b'v'; 1024]);
        handle.publish(vec![commit]);
        if revision % 16 == 0 {
            assert_eq!(fast.revisions_until(revision).await.last(), Some(&revision));
        }
        let queued = handle.counts().queued_bytes;
        assert!(queued <= 2 * limits.queue_bytes_max, "{queued} bytes at {revision}");
    }
    fast.revisions_until(last).await;
    // And what it missed is still there to read, once and in order.
    let seen = slow.revisions_until(last).await;
    assert_eq!(seen, (2..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn commits_that_the_hub_has_no_room_for_are_read_from_history() {
    let mut store = Store::new();
    let limits = Limits { inbox_bytes_max: 4096, ..Limits::default() };
    let (hub, handle) = Hub::new(store.view(), limits);
    let mut client = Client::new(&handle, &StreamOptions::default());
    client.create(everything());
    assert!(client.next().await.created);
    assert!(tokio::time::timeout(Duration::ZERO, client.stream.next()).await.is_err());
    // The hub's task does not run yet.
    let last = 500;
    for _ in 2..=last {
        let commit = store.put("a", vec![b'v'; 100]);
        handle.publish(vec![commit]);
        assert!(handle.counts().inbox_bytes <= limits.inbox_bytes_max);
    }
    tokio::spawn(hub.run());
    assert_eq!(client.revisions_until(last).await, (2..=last).collect::<Vec<_>>());
    handle.publish(vec![store.put("a", "live again")]);
    assert_eq!(client.revisions_until(last + 1).await, [last + 1]);
}

#[tokio::test]
async fn a_stream_that_ends_is_forgotten() {
    let mut store = Store::new();
    let handle = start(&store, Limits::default());
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::new(&handle, &StreamOptions::default());
        for n in 0..2000 {
            client.create(watch(&format!("k{n}")));
        }
        for _ in 0..2000 {
            assert!(client.next().await.created);
        }
        clients.push(client);
    }
    let counts = handle.counts();
    assert_eq!((counts.streams, counts.watches), (3, 6000));
    handle.publish(vec![store.put("k1999", "v")]);
    for client in &mut clients {
        assert_eq!(client.next().await.watch_id, 1999);
    }
    clients.truncate(1);
    until(&handle, "two streams are gone", |counts| counts.streams == 1).await;
    assert_eq!(handle.counts().watches, 2000);
    clients[0].cancel(0);
    assert!(clients[0].next().await.canceled);
    assert_eq!(handle.counts().watches, 1999);
    clients.clear();
    assert_eq!(handle.counts(), Counts::default());
}

#[tokio::test]
async fn a_stream_outlives_the_clients_last_request_but_not_its_error() {
    let mut store = Store::new();
    let handle = start(&store, Limits::default());
    let client = Client::new(&handle, &StreamOptions::default());
    client.create(watch("a"));
    let Client { requests, mut stream } = client;
    drop(requests);
    assert!(decode(&stream.next().await.unwrap().unwrap()).created);
    handle.publish(vec![store.put("a", "v")]);
    assert_eq!(decode(&stream.next().await.unwrap().unwrap()).events.len(), 1);

    let mut client = Client::new(&handle, &StreamOptions::default());
    client.requests.send(Err("reset")).unwrap();
    assert!(matches!(client.end_or_next().await, Err(End::Client("reset"))));
    assert!(client.stream.next().await.is_none());
}

#[tokio::test]
async fn all_streams_end_when_the_server_stops() {
    let store = Store::new();
    let handle = start(&store, Limits::default());
    let mut ends = Vec::new();
    for _ in 0..10 {
        let mut client = Client::new(&handle, &StreamOptions::default());
        client.create(everything());
        assert!(client.next().await.created);
        ends.push(tokio::spawn(async move { client.end_or_next().await }));
    }
    tokio::task::yield_now().await;
    handle.stop();
    for end in ends {
        let end = tokio::time::timeout(DEADLINE, end).await.expect("an end in time");
        assert!(matches!(end.unwrap(), Err(End::Server(RequestError::Stopped))));
    }
}

#[tokio::test]
async fn a_stream_that_has_just_missed_the_stop_does_not_go_to_sleep() {
    let store = Store::new();
    let handle = start(&store, Limits::default());
    let (seat, mut session) = handle.open(1000);
    let cx = Context::from_waker(Waker::noop());
    assert!(!seat.stopped());
    assert_eq!(seat.take(&mut session, &cx), Taken::Nothing);
    // Between a stream's first look and its going to sleep.
    handle.stop();
    assert_eq!(seat.take(&mut session, &cx), Taken::Stopped);
}

#[tokio::test]
async fn a_stream_that_insists_on_a_leader_ends_without_one() {
    let mut store = Store::new();
    let handle = start(&store, Limits::default());
    let election_timeout = Duration::from_millis(20);
    let options = StreamOptions { election_timeout, ..StreamOptions::default() };
    let (leader, present) = tokio::sync::watch::channel(true);
    let (other_leader, other_present) = tokio::sync::watch::channel(true);
    let mut insists = Client::with_leader(&handle, &options, Some(present));
    let mut waits = Client::with_leader(&handle, &options, Some(other_present));
    let mut careless = Client::new(&handle, &options);
    for client in [&mut insists, &mut waits, &mut careless] {
        client.create(watch("a"));
        assert!(client.next().await.created);
    }
    let waiting = tokio::spawn(async move {
        let revisions = waits.revisions_until(2).await;
        (waits, revisions)
    });
    let lost = Instant::now();
    other_leader.send_replace(false);
    leader.send_replace(false);
    tokio::task::yield_now().await;
    other_leader.send_replace(true);
    let end = insists.end_or_next().await;
    assert!(matches!(end, Err(End::Server(RequestError::NoLeader))));
    assert!(lost.elapsed() >= 3 * election_timeout);
    // The leader came back in time for the one, and the other never asked.
    handle.publish(vec![store.put("a", "v")]);
    assert_eq!(careless.revisions_until(2).await, [2]);
    assert_eq!(waiting.await.unwrap().1, [2]);
}

#[tokio::test]
async fn progress_is_notified_by_time() {
    let mut store = Store::new();
    let handle = start(&store, Limits::default());
    let progress_interval = Duration::from_millis(1);
    let options = StreamOptions { progress_interval, ..StreamOptions::default() };
    let mut client = Client::new(&handle, &options);
    client.create(WatchCreateRequest { progress_notify: true, ..watch("a") });
    client.create(watch("a"));
    assert!(client.next().await.created);
    assert!(client.next().await.created);
    handle.publish(vec![store.put("b", "v")]);
    let begin = Instant::now();
    let progress = client.next().await;
    // The floor is 100 ms, whatever the operator says.
    assert!(begin.elapsed() >= Duration::from_millis(90));
    let expected = ResponseHeader { revision: 2, ..ResponseHeader::default() };
    assert_eq!(progress, WatchResponse { header: Some(expected), ..WatchResponse::default() });
    assert_eq!(client.next().await, progress);
}

#[tokio::test]
async fn nothing_read_during_a_snapshot_install_counts() {
    let mut store = Store::new();
    let handle = start(&store, Limits::default());
    for n in 0..20 {
        handle.publish(vec![store.put("a", format!("{n}"))]);
    }
    until(&handle, "the hub has handed out all", |counts| counts.inbox_bytes == 0).await;
    store.begin_replacement();
    let mut client = Client::new(&handle, &StreamOptions::default());
    client.create(WatchCreateRequest { start_revision: 2, ..watch("a") });
    assert!(client.next().await.created);
    let idle = tokio::time::timeout(Duration::from_millis(1), client.stream.next()).await;
    assert!(idle.is_err(), "history was read from half a store");
    let reading = tokio::spawn(async move { client.revisions_until(22).await });
    tokio::task::yield_now().await;
    store.end_replacement();
    handle.restored();
    // The stream sleeps; it must be woken by the end of the replacement, and not by this.
    until(&handle, "the watch has caught up", |counts| counts.behind == 0).await;
    handle.publish(vec![store.put("a", "after")]);
    assert_eq!(reading.await.unwrap(), (2..=22).collect::<Vec<_>>());
}

/// One random watch and what it has been sent.
struct Seen {
    range: KeyRange,
    create: WatchCreateRequest,
    from: i64,
    /// (revision, key, is put), in the order of arrival.
    events: Vec<(i64, Bytes, bool)>,
    /// Parts of a revision that is being sent in fragments.
    is_open: bool,
    progress: i64,
}

impl Seen {
    fn wants(&self, key: &[u8], is_put: bool) -> bool {
        let dropped = if is_put { FilterType::Noput } else { FilterType::Nodelete };
        self.range.contains(key) && !self.create.filters.contains(&dropped.into())
    }

    /// Everything of all commits that the watch should have seen up to `last`.
    fn expected(&self, commits: &[Commit], last: i64) -> Vec<(i64, Bytes, bool)> {
        let wanted = commits.iter().filter(|c| c.revision >= self.from && c.revision <= last);
        let events = wanted.flat_map(|c| c.events.iter().map(|e| (c.revision, e)));
        events
            .map(|(revision, event)| {
                let key = event.kv.as_ref().expect("a pair").key.clone();
                (revision, key, event.r#type() == EventType::Put)
            })
            .filter(|(_, key, is_put)| self.wants(key, *is_put))
            .collect()
    }

    /// Checks what can be checked at once: order, atomicity, progress.
    fn receive(&mut self, response: &WatchResponse) {
        let header = response.header.expect("a header").revision;
        for event in &response.events {
            let kv = event.kv.as_ref().expect("a pair");
            let revision = kv.mod_revision;
            assert!(revision > self.progress, "revision {revision} after progress");
            assert!(revision >= self.from, "revision {revision} before the start");
            assert!(revision <= header, "revision {revision} under header {header}");
            let before = self.events.last().map_or(0, |(revision, ..)| *revision);
            assert!(revision >= before, "revision {revision} after {before}");
            self.events.push((revision, kv.key.clone(), event.r#type() == EventType::Put));
            if self.create.prev_kv {
                let version = kv.version;
                assert_eq!(event.prev_kv.is_some(), version != 1, "previous pair of {event:?}");
                let previous = event.prev_kv.as_ref().map_or(0, |kv| kv.mod_revision);
                assert!(previous < revision);
            }
        }
        if let [first, ..] = &response.events[..] {
            let revision = first.kv.as_ref().expect("a pair").mod_revision;
            let split = self.events.len() - response.events.len();
            let before = self.events[..split].last().map_or(0, |(revision, ..)| *revision);
            assert!(self.is_open || before < revision, "revision {revision} comes in two messages");
            self.is_open = response.fragment;
            assert!(!response.fragment || self.create.fragment);
        }
    }
}

fn random_key(rng: &mut StdRng) -> String {
    format!("k{:02}", rng.random_range(0..20))
}

fn random_watch(rng: &mut StdRng, revision: i64) -> WatchCreateRequest {
    let mut create = match rng.random_range(0..4) {
        0 => everything(),
        1 => watch(&random_key(rng)),
        _ => {
            let mut keys = [random_key(rng), random_key(rng)];
            keys.sort();
            WatchCreateRequest { range_end: (keys[1].clone() + "\0").into(), ..watch(&keys[0]) }
        }
    };
    create.start_revision = match rng.random_range(0..4) {
        0 => 0,
        1 => revision + rng.random_range(0..20),
        _ => rng.random_range(1..=revision),
    };
    create.prev_kv = rng.random_bool(0.3);
    create.fragment = rng.random_bool(0.3);
    if rng.random_bool(0.2) {
        create.filters.push(rng.random_range(0..2));
    }
    create
}

fn random_changes(rng: &mut StdRng) -> Vec<Change> {
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..rng.random_range(1..12) {
        keys.insert(random_key(rng));
    }
    let mut changes: Vec<Change> = keys
        .into_iter()
        .map(|key| match rng.random_bool(0.7) {
            true => Change::Put(key, vec![b'v'; rng.random_range(0..100)].into()),
            false => Change::Delete(key),
        })
        .collect();
    changes.push(Change::Put("k99".to_owned(), Bytes::new()));
    changes
}

/// What a random client asked for and was sent.
#[derive(Default)]
struct Diary {
    /// By watch id: the stream counts as the client does.
    asked: Vec<WatchCreateRequest>,
    seen: BTreeMap<i64, Seen>,
    /// The last revision of the store that the client knows.
    position: i64,
    /// The last revision that all watches are known to have passed.
    progress: i64,
}

impl Diary {
    fn receive(&mut self, response: &WatchResponse) {
        let header = response.header.expect("a header").revision;
        self.position = self.position.max(header);
        if response.created {
            let create = self.asked[response.watch_id as usize].clone();
            let from = match create.start_revision {
                0 => header + 1,
                start => start,
            };
            let key = match create.key.is_empty() {
                true => Bytes::from_static(b"\0"),
                false => create.key.clone(),
            };
            let range = KeyRange::new(key, create.range_end.clone());
            let new = Seen { range, create, from, events: Vec::new(), is_open: false, progress: 0 };
            assert!(self.seen.insert(response.watch_id, new).is_none(), "created twice");
        } else if response.canceled {
            assert_eq!(response.compact_revision, 0);
            self.seen.remove(&response.watch_id).expect("a watch that lives");
        } else if response.watch_id == -1 {
            self.progress = header;
            for watch in self.seen.values_mut() {
                watch.progress = watch.progress.max(header);
                assert!(watch.create.start_revision <= header, "progress before the start");
            }
        } else {
            self.seen.get_mut(&response.watch_id).expect("a watch that lives").receive(response);
        }
    }

    /// The beacon's last revision.
    fn reached(&self) -> i64 {
        let beacon = self.seen.get(&0);
        beacon.and_then(|watch| watch.events.last()).map_or(0, |(revision, ..)| *revision)
    }
}

/// A client that creates watches, cancels some, asks for progress, at times does not read, and
/// checks all it is sent. Ends when all its watches have passed the last revision; returns them.
async fn random_client(handle: Handle, seed: u64, last: i64, ready: Arc<Barrier>) -> Vec<Seen> {
    let mut rng = StdRng::seed_from_u64(seed);
    let options = StreamOptions { fragment_bytes: 500, ..StreamOptions::default() };
    let mut client = Client::new(&handle, &options);
    // The last change of every revision is to this key, so this watch tells how far we are.
    let beacon = watch("k99");
    let mut diary = Diary { asked: vec![beacon.clone()], position: 1, ..Diary::default() };
    client.create(beacon);
    diary.receive(&client.next().await);
    // A beacon that is lit after the last revision would never be seen to reach it.
    ready.wait().await;
    while diary.reached() < last {
        if diary.asked.len() < 30 && rng.random_bool(0.05) {
            let create = random_watch(&mut rng, diary.position);
            diary.asked.push(create.clone());
            client.create(create);
        }
        match rng.random_range(0..200) {
            0..10 => client.send(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            10 => client.cancel(rng.random_range(1..30)),
            11..14 => {
                // Not reading, for as long as the others take for something.
                for _ in 0..rng.random_range(0..2000) {
                    tokio::task::yield_now().await;
                }
            }
            _ => {}
        }
        diary.receive(&client.next().await);
    }
    let begin = Instant::now();
    while diary.progress < last {
        assert!(begin.elapsed() < DEADLINE, "no progress after the last revision");
        for (id, watch) in &diary.seen {
            if watch.create.start_revision > last {
                client.cancel(*id);
            }
        }
        client.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        let pause = Duration::from_millis(10);
        while let Ok(Some(response)) = tokio::time::timeout(pause, client.stream.next()).await {
            diary.receive(&decode(&response.expect("the stream goes on")));
        }
    }
    diary.seen.into_values().collect()
}

/// Random writers and readers on several threads, under limits so small that streams fall
/// behind, the hub loses commits and revisions find too many receivers all the time.
async fn random_history(seed: u64) {
    const CLIENTS: u64 = 8;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Store::new();
    let limits = Limits {
        queue_bytes_max: rng.random_range(500..20_000),
        inbox_bytes_max: rng.random_range(2000..50_000),
        matches_max: rng.random_range(50..1000),
        history_events_max: rng.random_range(1..50),
        history_bytes_max: rng.random_range(100..10_000),
    };
    let handle = start(&store, limits);
    let last = 600;
    let ready = Arc::new(Barrier::new(CLIENTS as usize + 1));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| random_client(handle.clone(), seed * 100 + n, last, ready.clone()))
        .map(tokio::spawn)
        .collect();
    ready.wait().await;
    let publisher = handle.clone();
    let commits = tokio::task::spawn_blocking(move || {
        let mut commits: Vec<Commit> = Vec::new();
        let mut round = Vec::new();
        while commits.len() as i64 + 1 < last {
            let commit = store.change(&random_changes(&mut rng)).expect("a change");
            round.push(commit.clone());
            commits.push(commit);
            if rng.random_bool(0.5) || commits.len() as i64 + 1 == last {
                publisher.publish(std::mem::take(&mut round));
            }
            if rng.random_bool(0.1) {
                std::thread::yield_now();
            }
        }
        commits
    });
    let commits = commits.await.expect("the writer ends");
    for client in clients {
        let mut watches = 0;
        for seen in client.await.expect("the client's checks pass") {
            assert_eq!(
                seen.events,
                seen.expected(&commits, last),
                "seed {seed}, {:?}",
                seen.create
            );
            watches += 1;
        }
        assert!(watches > 1);
    }
    handle.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watch_sees_each_wanted_event_once_whole_and_in_order() {
    for seed in 0..6 {
        random_history(seed).await;
    }
}
