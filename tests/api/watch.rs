//! Watch: creation and its refusals, history, events, filters, progress, cancelling.

use crate::cluster::{Cluster, Engine, Raw, Setup, eventually, product};
use crate::on_each_engine;
use crate::requests::{all_of, delete, delete_range, op, put};
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    CompactionRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use quoin::pb::mvccpb::Event;
use quoin::pb::mvccpb::event::EventType;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

on_each_engine![
    a_watch_starts_now_in_the_past_or_in_the_future,
    an_impossible_watch_is_created_and_canceled,
    ids_are_given_and_taken,
    intervals_choose_the_events,
    a_revision_comes_whole_and_in_order,
    events_carry_what_was_there_before,
    filters_drop_events,
    a_compacted_start_is_told,
    a_delete_at_the_compacted_revision_is_still_seen,
    a_canceled_watch_gets_nothing_more,
    progress_covers_all_watches_of_the_stream,
    progress_is_notified_by_itself,
    a_large_revision_is_sent_in_fragments,
    a_thousand_watches_share_a_stream,
    a_slow_watcher_holds_nobody_up,
    hundreds_of_streams_share_a_connection,
    a_stream_that_wants_a_leader_ends_without_one,
    a_stopping_member_ends_its_streams,
];

/// One watch stream.
struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Stream {
    /// A stream is answered once there is something to answer, so it comes with a first watch.
    async fn open(raw: &Raw, first: WatchCreateRequest) -> (Stream, WatchResponse) {
        let (requests, receiver) = mpsc::channel(2000);
        requests.send(union(RequestUnion::CreateRequest(first))).await.unwrap();
        let responses = raw.watch.clone().watch(ReceiverStream::new(receiver)).await.unwrap();
        let mut stream = Stream { requests, responses: responses.into_inner() };
        let created = stream.next().await;
        (stream, created)
    }

    async fn send(&self, request: RequestUnion) {
        self.requests.send(union(request)).await.unwrap();
    }

    async fn create(&mut self, request: WatchCreateRequest) -> WatchResponse {
        self.send(RequestUnion::CreateRequest(request)).await;
        self.next().await
    }

    async fn next(&mut self) -> WatchResponse {
        let message = tokio::time::timeout(Duration::from_secs(20), self.responses.message()).await;
        message.expect("a response arrives").unwrap().expect("the stream goes on")
    }

    /// The next so many events, whatever the responses that bring them.
    async fn events(&mut self, count: usize) -> Vec<String> {
        let mut events = vec![];
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled && !response.created, "{response:?}");
            events.extend(response.events.iter().map(text));
        }
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    /// All that was sent before the server says that nothing up to `revision` is missing.
    ///
    /// A request for progress is dropped while a watch catches up, so it is repeated.
    async fn until_progress(&mut self, revision: i64) -> Vec<WatchResponse> {
        let mut before = vec![];
        eventually("progress", async || {
            self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
            let limit = Duration::from_millis(200);
            while let Ok(message) = tokio::time::timeout(limit, self.responses.message()).await {
                let response = message.unwrap().expect("the stream goes on");
                let is_empty = response.events.is_empty() && !response.canceled;
                let is_progress = is_empty && !response.created;
                if is_progress && response.header.unwrap().revision >= revision {
                    assert_eq!(response.watch_id, -1);
                    return Ok(());
                }
                if !is_progress {
                    before.push(response);
                }
            }
            Err("no answer".into())
        })
        .await;
        before
    }
}

fn union(request: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(request) }
}

fn key(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.to_owned().into(), ..Default::default() }
}

fn interval(start: &str, range_end: &str) -> WatchCreateRequest {
    WatchCreateRequest { range_end: range_end.to_owned().into(), ..key(start) }
}

fn from(start_revision: i64, request: WatchCreateRequest) -> WatchCreateRequest {
    WatchCreateRequest { start_revision, ..request }
}

/// `+key=value@revision`, or `-key@revision`.
fn text(event: &Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let (key, value) = (String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
    match event.r#type() {
        EventType::Put => format!("+{key}={value}@{}", kv.mod_revision),
        EventType::Delete => {
            assert_eq!((kv.create_revision, kv.version, kv.lease), (0, 0, 0));
            format!("-{key}@{}", kv.mod_revision)
        }
    }
}

async fn a_watch_starts_now_in_the_past_or_in_the_future(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for value in ["1", "2", "3"] {
        kv.put(put("key", value)).await.unwrap();
    }
    let (mut now, created) = Stream::open(&raw, key("key")).await;
    assert!(created.created && !created.canceled && created.events.is_empty(), "{created:?}");
    let header = created.header.unwrap();
    assert_eq!((created.watch_id, header.revision), (0, 4));
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);
    let (mut past, created) = Stream::open(&raw, from(3, key("key"))).await;
    assert_eq!(created.header.unwrap().revision, 4);
    let (mut future, created) = Stream::open(&raw, from(6, key("key"))).await;
    assert!(created.created && !created.canceled, "{created:?}");

    assert_eq!(past.events(2).await, ["+key=2@3", "+key=3@4"]);
    kv.put(put("key", "4")).await.unwrap();
    kv.delete_range(delete("key")).await.unwrap();
    kv.put(put("key", "5")).await.unwrap();
    assert_eq!(now.events(3).await, ["+key=4@5", "-key@6", "+key=5@7"]);
    assert_eq!(past.events(3).await, ["+key=4@5", "-key@6", "+key=5@7"]);
    assert_eq!(future.events(2).await, ["-key@6", "+key=5@7"]);
}

async fn an_impossible_watch_is_created_and_canceled(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut stream, first) =
        Stream::open(&raw, WatchCreateRequest { watch_id: 7, ..key("key") }).await;
    assert_eq!((first.watch_id, first.canceled), (7, false));
    let taken = WatchCreateRequest { watch_id: 7, ..key("other") };
    let mut table = vec![
        (taken, "mvcc: duplicate watch ID provided on the WatchStream"),
        (interval("b", "b"), "mvcc: watcher range is empty"),
        (interval("b", "a"), "mvcc: watcher range is empty"),
    ];
    if product().at_least(3, 6) {
        table
            .push((from(-1, key("key")), "etcdserver: mvcc: required revision has been compacted"));
    }
    for (request, reason) in table {
        let answer = stream.create(request.clone()).await;
        assert!(answer.created && answer.canceled, "{answer:?}");
        assert_eq!((answer.watch_id, &answer.cancel_reason[..]), (-1, reason), "{request:?}");
    }
    // The stream and its first watch live on.
    raw.kv.clone().put(put("key", "v")).await.unwrap();
    let response = stream.next().await;
    assert_eq!((response.watch_id, response.events.len()), (7, 1));
}

async fn ids_are_given_and_taken(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut stream, first) = Stream::open(&raw, key("a")).await;
    assert_eq!(first.watch_id, 0);
    for (asked, given) in [(2, 2), (0, 1), (0, 3), (100, 100), (0, 4)] {
        let created = stream.create(WatchCreateRequest { watch_id: asked, ..key("b") }).await;
        assert_eq!((created.watch_id, created.canceled), (given, false));
    }
    raw.kv.clone().put(put("b", "v")).await.unwrap();
    let mut ids = vec![];
    for _ in 0..5 {
        let response = stream.next().await;
        assert_eq!(response.events.len(), 1);
        ids.push(response.watch_id);
    }
    ids.sort();
    assert_eq!(ids, [1, 2, 3, 4, 100]);
    // Each stream counts for itself.
    let (_other, created) = Stream::open(&raw, key("a")).await;
    assert_eq!(created.watch_id, 0);
}

async fn intervals_choose_the_events(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let table = [
        (key("b"), "+b=@3"),
        (interval("b", "d"), "+b=@3 +c=@4"),
        (interval("c", "\0"), "+c=@4 +d=@5"),
        (interval("", "\0"), "+a=@2 +b=@3 +c=@4 +d=@5"),
        (interval("\0", "\0"), "+a=@2 +b=@3 +c=@4 +d=@5"),
    ];
    let mut streams = vec![];
    for (request, expected) in table {
        let (stream, created) = Stream::open(&raw, request.clone()).await;
        assert!(!created.canceled, "{request:?}");
        streams.push((stream, request, expected));
    }
    for key in ["a", "b", "c", "d"] {
        raw.kv.clone().put(put(key, "")).await.unwrap();
    }
    for (stream, request, expected) in &mut streams {
        let count = expected.split(' ').count();
        assert_eq!(stream.events(count).await.join(" "), *expected, "{request:?}");
        // And again from history.
        let (mut again, _) = Stream::open(&raw, from(1, request.clone())).await;
        assert_eq!(again.events(count).await.join(" "), *expected, "{request:?}");
    }
}

async fn a_revision_comes_whole_and_in_order(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut live, _) = Stream::open(&raw, interval("", "\0")).await;
    let mut kv = raw.kv.clone();
    raw.lease.clone().lease_grant(LeaseGrantRequest { id: 5, ttl: 600 }).await.unwrap();
    for key in ["y", "x", "z"] {
        kv.put(PutRequest { lease: 5, ..put(key, "") }).await.unwrap();
    }
    let ops = vec![op(put("c", "")), op(put("a", "")), op(delete("y")), op(put("b", ""))];
    kv.txn(all_of(ops)).await.unwrap();
    kv.delete_range(delete_range("a", "d")).await.unwrap();
    raw.lease.clone().lease_revoke(LeaseRevokeRequest { id: 5 }).await.unwrap();
    let expected =
        ["+y=@2", "+x=@3", "+z=@4", "+c=@5 +a=@5 -y@5 +b=@5", "-a@6 -b@6 -c@6", "-x@7 -z@7"];
    let (mut replayed, _) = Stream::open(&raw, from(2, interval("", "\0"))).await;
    for stream in [&mut live, &mut replayed] {
        let mut rest = expected.join(" ");
        while !rest.is_empty() {
            let response = stream.next().await;
            let events: Vec<String> = response.events.iter().map(text).collect();
            let events = events.join(" ");
            // Several revisions may come at once, but none in two pieces.
            rest = rest.strip_prefix(&events).expect("what comes next").trim_start().to_owned();
            let last = events.rsplit(' ').next().unwrap();
            assert!(expected.iter().any(|revision| revision.ends_with(last)), "{events}");
            let newest = response.events.last().unwrap().kv.as_ref().unwrap().mod_revision;
            assert!(response.header.unwrap().revision >= newest);
        }
    }
}

async fn events_carry_what_was_there_before(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    let (mut live, _) = Stream::open(&raw, WatchCreateRequest { prev_kv: true, ..key("k") }).await;
    kv.put(put("k", "1")).await.unwrap();
    kv.put(put("k", "2")).await.unwrap();
    kv.delete_range(delete("k")).await.unwrap();
    kv.put(put("k", "3")).await.unwrap();
    let expected = [
        ("+k=1@2", None),
        ("+k=2@3", Some(("1", 2, 1))),
        ("-k@4", Some(("2", 3, 2))),
        ("+k=3@5", None),
    ];
    let (mut replayed, _) =
        Stream::open(&raw, WatchCreateRequest { prev_kv: true, ..from(2, key("k")) }).await;
    for stream in [&mut live, &mut replayed] {
        let mut seen = vec![];
        while seen.len() < expected.len() {
            seen.extend(stream.next().await.events);
        }
        for (event, (shown, previous)) in seen.iter().zip(&expected) {
            assert_eq!(text(event), *shown);
            let kv = event.prev_kv.as_ref();
            let got = kv.map(|kv| (kv.value.clone(), kv.mod_revision, kv.version));
            assert_eq!(got, previous.map(|(value, at, version)| (value.into(), at, version)));
        }
    }
    // What a compaction took away is left out in silence.
    kv.compact(CompactionRequest { revision: 3, physical: true }).await.unwrap();
    let (mut late, _) =
        Stream::open(&raw, WatchCreateRequest { prev_kv: true, ..from(3, key("k")) }).await;
    let first = late.next().await.events.remove(0);
    assert_eq!((text(&first), first.prev_kv), ("+k=2@3".into(), None));
}

async fn filters_drop_events(engine: Engine) {
    const NOPUT: i32 = 0;
    const NODELETE: i32 = 1;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    let filtered = |filters: &[i32], start| WatchCreateRequest {
        filters: filters.to_vec(),
        ..from(start, key("k"))
    };
    let mut streams = vec![];
    for filters in [&[NOPUT][..], &[NODELETE], &[NOPUT, NODELETE]] {
        streams.push((filters, Stream::open(&raw, filtered(filters, 0)).await.0));
    }
    kv.put(put("k", "1")).await.unwrap();
    kv.delete_range(delete("k")).await.unwrap();
    kv.put(put("k", "2")).await.unwrap();
    for filters in [&[NOPUT][..], &[NODELETE], &[NOPUT, NODELETE]] {
        streams.push((filters, Stream::open(&raw, filtered(filters, 2)).await.0));
    }
    for (filters, stream) in &mut streams {
        let expected: &[&str] = match *filters {
            [NOPUT] => &["-k@3"],
            [NODELETE] => &["+k=1@2", "+k=2@4"],
            _ => &[],
        };
        let mut seen = stream.events(expected.len()).await;
        if product().at_least(3, 6) {
            let rest = stream.until_progress(4).await;
            assert!(rest.iter().all(|response| !response.events.is_empty()), "{rest:?}");
            seen.extend(rest.iter().flat_map(|response| response.events.iter().map(text)));
        }
        assert_eq!(seen, expected);
    }
}

async fn a_compacted_start_is_told(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for number in 0..10 {
        kv.put(put("k", &number.to_string())).await.unwrap();
    }
    let (mut synced, _) = Stream::open(&raw, key("k")).await;
    kv.compact(CompactionRequest { revision: 8, physical: false }).await.unwrap();
    let (mut stream, created) = Stream::open(&raw, from(5, key("k"))).await;
    assert!(created.created && !created.canceled, "{created:?}");
    let canceled = stream.next().await;
    assert!(canceled.canceled && !canceled.created && canceled.events.is_empty());
    assert_eq!((canceled.watch_id, canceled.compact_revision), (created.watch_id, 8));
    assert_eq!((canceled.header.unwrap().revision, &canceled.cancel_reason[..]), (0, ""));
    // The compacted revision itself can be watched from; the stream lives on.
    let created = stream.create(from(8, key("k"))).await;
    assert!(created.created && !created.canceled, "{created:?}");
    assert_eq!(stream.events(4).await, ["+k=6@8", "+k=7@9", "+k=8@10", "+k=9@11"]);
    // A watch that had seen everything does not notice.
    kv.put(put("k", "new")).await.unwrap();
    assert_eq!(synced.events(1).await, ["+k=new@12"]);
}

async fn a_delete_at_the_compacted_revision_is_still_seen(engine: Engine) {
    // etcd before 3.6 loses it (issue 19179).
    if !product().at_least(3, 6) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    kv.put(put("k", "v")).await.unwrap();
    kv.delete_range(delete("k")).await.unwrap();
    kv.put(put("other", "v")).await.unwrap();
    kv.compact(CompactionRequest { revision: 3, physical: true }).await.unwrap();
    let (mut stream, _) = Stream::open(&raw, from(3, interval("", "\0"))).await;
    assert_eq!(stream.events(2).await, ["-k@3", "+other=v@4"]);
}

async fn a_canceled_watch_gets_nothing_more(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    let (mut stream, first) = Stream::open(&raw, key("k")).await;
    let second = stream.create(key("k")).await;
    let cancel = |watch_id| RequestUnion::CancelRequest(WatchCancelRequest { watch_id });
    // What is unknown is ignored.
    stream.send(cancel(99)).await;
    stream.send(cancel(first.watch_id)).await;
    let canceled = stream.next().await;
    assert!(canceled.canceled && canceled.events.is_empty(), "{canceled:?}");
    assert_eq!((canceled.watch_id, &canceled.cancel_reason[..]), (first.watch_id, ""));
    kv.put(put("k", "1")).await.unwrap();
    kv.put(put("k", "2")).await.unwrap();
    let mut revisions = vec![];
    while revisions.len() < 2 {
        let response = stream.next().await;
        assert_eq!(response.watch_id, second.watch_id);
        revisions.extend(response.events.iter().map(text));
    }
    // A request that says nothing is ignored too.
    stream.requests.send(WatchRequest { request_union: None }).await.unwrap();
    // The id is free again.
    let again = stream.create(WatchCreateRequest { watch_id: first.watch_id, ..key("x") }).await;
    assert!(again.created && !again.canceled, "{again:?}");
}

async fn progress_covers_all_watches_of_the_stream(engine: Engine) {
    if !product().at_least(3, 6) {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    for number in 0..20 {
        kv.put(put("k", &number.to_string())).await.unwrap();
    }
    // Two that catch up, and one that has nothing to catch up with.
    let (mut stream, _) = Stream::open(&raw, key("quiet")).await;
    stream.send(RequestUnion::CreateRequest(from(2, key("k")))).await;
    stream.send(RequestUnion::CreateRequest(from(11, key("k")))).await;
    let before = stream.until_progress(21).await;
    let events: usize = before.iter().map(|response| response.events.len()).sum();
    assert_eq!(events, 20 + 11, "nothing up to the revision of a progress answer is missing");
    for response in &before {
        for pair in response.events.windows(2) {
            let at = |event: &Event| event.kv.as_ref().unwrap().mod_revision;
            assert!(at(&pair[0]) < at(&pair[1]));
        }
    }

    // A watch of the future keeps it back: it is dropped, not put off.
    let created = stream.create(from(23, key("k"))).await;
    stream.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    kv.put(put("quiet", "v")).await.unwrap();
    let next = stream.next().await;
    assert_eq!(next.events.len(), 1, "{next:?}");
    kv.put(put("quiet", "v")).await.unwrap();
    let rest = stream.until_progress(23).await;
    assert!(rest.iter().all(|response| response.watch_id != created.watch_id));
}

async fn progress_is_notified_by_itself(engine: Engine) {
    if !product().at_least(3, 6) {
        return;
    }
    let setup = Setup::new(engine, 1).flag("--watch-progress-notify-interval=100ms");
    let cluster = setup.start().await;
    let raw = cluster.raw(0);
    raw.kv.clone().put(put("other", "v")).await.unwrap();
    let request = WatchCreateRequest { progress_notify: true, ..key("k") };
    let (mut stream, created) = Stream::open(&raw, request).await;
    let progress = stream.next().await;
    assert!(progress.events.is_empty() && !progress.canceled && !progress.created);
    assert_eq!(progress.watch_id, created.watch_id);
    assert_eq!(progress.header.unwrap().revision, 2);
    raw.kv.clone().put(put("other", "v")).await.unwrap();
    eventually("progress to the next revision", async || {
        let progress = stream.next().await;
        assert!(progress.events.is_empty());
        match progress.header.unwrap().revision {
            3 => Ok(()),
            other => Err(format!("at {other}")),
        }
    })
    .await;
}

async fn a_large_revision_is_sent_in_fragments(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.clone();
    let value = "x".repeat(700_000);
    for key in ["a", "b", "c", "d", "e"] {
        kv.put(put(key, &value)).await.unwrap();
    }
    // One revision that is more than a message may be: five previous values.
    let request = |fragment| WatchCreateRequest { prev_kv: true, fragment, ..interval("a", "z") };
    let (mut parts, _) = Stream::open(&raw, request(true)).await;
    let (mut whole, _) = Stream::open(&raw, request(false)).await;
    kv.delete_range(delete_range("a", "z")).await.unwrap();

    let at_once = whole.next().await;
    assert_eq!((at_once.events.len(), at_once.fragment), (5, false));
    let (mut events, mut count) = (vec![], 0);
    loop {
        let part = parts.next().await;
        assert_eq!((part.watch_id, part.header.unwrap().revision), (0, 7));
        events.extend(part.events);
        count += 1;
        if !part.fragment {
            break;
        }
    }
    assert_eq!(events, at_once.events);
    assert!(count > 1, "it was not split");
}

async fn a_thousand_watches_share_a_stream(engine: Engine) {
    const WATCHES: usize = 1000;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut stream, _) = Stream::open(&raw, key("k0")).await;
    for number in 1..WATCHES {
        stream.send(RequestUnion::CreateRequest(key(&format!("k{}", number % 10)))).await;
    }
    for _ in 1..WATCHES {
        assert!(stream.next().await.created);
    }
    let mut kv = raw.kv.clone();
    for number in 0..10 {
        kv.put(put(&format!("k{number}"), "v")).await.unwrap();
    }
    let mut per_watch = vec![0; WATCHES];
    for _ in 0..WATCHES {
        let response = stream.next().await;
        per_watch[response.watch_id as usize] += response.events.len();
    }
    assert!(per_watch.iter().all(|&events| events == 1));
}

async fn a_slow_watcher_holds_nobody_up(engine: Engine) {
    const WRITES: usize = 400;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    // Reads nothing for now: its windows and queues fill up.
    let (mut slow, _) = Stream::open(&raw, key("k")).await;
    let (mut quick, _) = Stream::open(&cluster.raw(0), key("k")).await;
    let mut kv = cluster.raw(0).kv;
    let value = "x".repeat(20_000);
    for _ in 0..WRITES {
        kv.put(put("k", &value)).await.unwrap();
    }
    let mut next = 2;
    for stream in [&mut quick, &mut slow] {
        let start = next;
        while next < start + WRITES as i64 {
            for event in stream.next().await.events {
                assert_eq!(event.kv.unwrap().mod_revision, next, "each once and in order");
                next += 1;
            }
        }
        next = 2;
    }
}

async fn hundreds_of_streams_share_a_connection(engine: Engine) {
    const STREAMS: usize = 500;
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut streams = vec![];
    for _ in 0..STREAMS {
        streams.push(Stream::open(&raw, key("k")).await.0);
    }
    for value in ["1", "2"] {
        raw.kv.clone().put(put("k", value)).await.unwrap();
    }
    for stream in &mut streams {
        assert_eq!(stream.events(2).await, ["+k=1@2", "+k=2@3"]);
    }
}

/// How a stream ends by itself.
async fn end_of(stream: &mut Stream) -> Option<tonic::Status> {
    let end = async {
        loop {
            match stream.responses.message().await {
                Ok(Some(response)) => assert!(response.events.is_empty(), "{response:?}"),
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("the stream ends")
}

async fn a_stream_that_wants_a_leader_ends_without_one(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).fast_elections().start().await;
    let raw = cluster.raw(0);
    let (requests, receiver) = mpsc::channel(8);
    let mut demanding = tonic::Request::new(ReceiverStream::new(receiver));
    demanding.metadata_mut().insert("hasleader", "true".parse().unwrap());
    requests.send(union(RequestUnion::CreateRequest(key("k")))).await.unwrap();
    let responses = raw.watch.clone().watch(demanding).await.unwrap().into_inner();
    let mut demanding = Stream { requests, responses };
    assert!(demanding.next().await.created);
    let (mut patient, _) = Stream::open(&raw, key("k")).await;

    cluster.kill(1);
    cluster.kill(2);
    let status = end_of(&mut demanding).await.expect("an error");
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::Unavailable, "etcdserver: no leader")
    );
    // Others wait for better times, and miss nothing.
    cluster.start_all().await.unwrap();
    cluster.leader().await;
    eventually("a write", async || {
        let written = cluster.raw(1).kv.put(put("k", "v")).await;
        written.map(drop).map_err(|e| e.to_string())
    })
    .await;
    let response = patient.next().await;
    assert_eq!(&response.events[0].kv.as_ref().unwrap().value[..], b"v");
}

async fn a_stopping_member_ends_its_streams(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let (mut stream, _) = Stream::open(&raw, key("k")).await;
    let ended = tokio::spawn(async move { end_of(&mut stream).await });
    let (exit, took) = cluster.terminate(0).await;
    assert_eq!(exit, crate::cluster::Exit::Signal(15));
    assert!(took < Duration::from_secs(10), "an open stream held it up for {took:?}");
    if let Some(status) = ended.await.unwrap() {
        let codes = [tonic::Code::Unavailable, tonic::Code::Cancelled, tonic::Code::Unknown];
        assert!(codes.contains(&status.code()), "{status:?}");
    }
}
