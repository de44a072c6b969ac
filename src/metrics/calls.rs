//! Counts of gRPC calls: begun, ended by code, messages and bytes, and the time that requests take.
//!
//! A call is a row of `CALLS`. All numbers of a row lie together, so that a frequent call touches
//! few lines of memory, and none of them is behind a lock. As in etcd, a unary call has received one
//! message when it begins and sent one when it ends, be it an error, and the end of what a client
//! streams counts as a message.

use super::Metrics;
use super::clients::Clients;
use super::histogram::{Histogram, exponential};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }
}

/// A call as it is named on the page.
pub struct Row {
    pub service: &'static str,
    pub method: &'static str,
    pub kind: Kind,
    /// The replicated request or the read behind it, as etcd names it; empty if there is none.
    request: &'static str,
}

const fn unary(service: &'static str, method: &'static str, request: &'static str) -> Row {
    Row { service, method, kind: Kind::Unary, request }
}

const fn stream(service: &'static str, method: &'static str, kind: Kind) -> Row {
    Row { service, method, kind, request: "" }
}

const KV: &str = "etcdserverpb.KV";
const LEASE: &str = "etcdserverpb.Lease";
const CLUSTER: &str = "etcdserverpb.Cluster";
const MAINTENANCE: &str = "etcdserverpb.Maintenance";
const AUTH: &str = "etcdserverpb.Auth";
const HEALTH: &str = "grpc.health.v1.Health";
const LOCK: &str = "v3lockpb.Lock";
const ELECTION: &str = "v3electionpb.Election";

/// A place in `CALLS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(usize);

impl CallId {
    pub const RANGE: CallId = CallId(0);
    pub const PUT: CallId = CallId(1);
    pub const TXN: CallId = CallId(2);
    pub const DELETE_RANGE: CallId = CallId(3);

    /// One of the four calls that read and write keys.
    pub fn is_of_store(self) -> bool {
        self <= CallId::DELETE_RANGE
    }

    pub fn row(self) -> &'static Row {
        &CALLS[self.0]
    }
}

/// All calls of the client listener.
const CALLS: [Row; 52] = [
    unary(KV, "Range", "Range"),
    unary(KV, "Put", "Put"),
    unary(KV, "Txn", "Txn"),
    unary(KV, "DeleteRange", "DeleteRange"),
    unary(KV, "Compact", "Compaction"),
    stream(KV, "RangeStream", Kind::ServerStream),
    stream("etcdserverpb.Watch", "Watch", Kind::BidiStream),
    unary(LEASE, "LeaseGrant", "LeaseGrant"),
    unary(LEASE, "LeaseRevoke", "LeaseRevoke"),
    stream(LEASE, "LeaseKeepAlive", Kind::BidiStream),
    unary(LEASE, "LeaseTimeToLive", ""),
    unary(LEASE, "LeaseLeases", ""),
    unary(CLUSTER, "MemberAdd", ""),
    unary(CLUSTER, "MemberRemove", ""),
    unary(CLUSTER, "MemberUpdate", ""),
    unary(CLUSTER, "MemberList", ""),
    unary(CLUSTER, "MemberPromote", ""),
    unary(MAINTENANCE, "Alarm", "Alarm"),
    unary(MAINTENANCE, "Status", ""),
    unary(MAINTENANCE, "Defragment", ""),
    unary(MAINTENANCE, "Hash", ""),
    unary(MAINTENANCE, "HashKV", ""),
    stream(MAINTENANCE, "Snapshot", Kind::ServerStream),
    unary(MAINTENANCE, "MoveLeader", ""),
    unary(MAINTENANCE, "Downgrade", "DowngradeInfoSet"),
    unary(AUTH, "AuthEnable", "AuthEnable"),
    unary(AUTH, "AuthDisable", "AuthDisable"),
    unary(AUTH, "AuthStatus", "AuthStatus"),
    unary(AUTH, "Authenticate", "Authenticate"),
    unary(AUTH, "UserAdd", "AuthUserAdd"),
    unary(AUTH, "UserGet", "AuthUserGet"),
    unary(AUTH, "UserList", "AuthUserList"),
    unary(AUTH, "UserDelete", "AuthUserDelete"),
    unary(AUTH, "UserChangePassword", "AuthUserChangePassword"),
    unary(AUTH, "UserGrantRole", "AuthUserGrantRole"),
    unary(AUTH, "UserRevokeRole", "AuthUserRevokeRole"),
    unary(AUTH, "RoleAdd", "AuthRoleAdd"),
    unary(AUTH, "RoleGet", "AuthRoleGet"),
    unary(AUTH, "RoleList", "AuthRoleList"),
    unary(AUTH, "RoleDelete", "AuthRoleDelete"),
    unary(AUTH, "RoleGrantPermission", "AuthRoleGrantPermission"),
    unary(AUTH, "RoleRevokePermission", "AuthRoleRevokePermission"),
    unary(HEALTH, "Check", ""),
    unary(HEALTH, "List", ""),
    stream(HEALTH, "Watch", Kind::ServerStream),
    unary(LOCK, "Lock", ""),
    unary(LOCK, "Unlock", ""),
    unary(ELECTION, "Campaign", ""),
    unary(ELECTION, "Proclaim", ""),
    unary(ELECTION, "Leader", ""),
    stream(ELECTION, "Observe", Kind::ServerStream),
    unary(ELECTION, "Resign", ""),
];

/// Names of gRPC's codes, each at its number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
const OK: usize = 0;
const CANCELED: usize = 1;
const UNKNOWN: usize = 2;
const INVALID_ARGUMENT: usize = 3;
const DEADLINE_EXCEEDED: usize = 4;
const INTERNAL: usize = 13;
const UNAVAILABLE: usize = 14;
const UNAUTHENTICATED: usize = 16;

/// What every gRPC server has as buckets, unless it is told otherwise.
const HANDLING_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The numbers of one call, together in memory.
#[repr(align(64))]
#[derive(Default)]
struct Numbers {
    started: AtomicU64,
    handled: [AtomicU64; CODES.len()],
    /// Messages of streams.
    received: AtomicU64,
    sent: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
}

/// Failed and successful requests of one type.
type Outcomes = [Arc<Histogram>; 2];

/// See the module's comment.
pub struct Calls {
    numbers: Box<[Numbers]>,
    /// For each call, the times of the request behind it.
    requests: Box<[Option<Outcomes>]>,
    read_only_txns: Outcomes,
    publications: Outcomes,
    handling: Option<Box<[Arc<Histogram>]>>,
    /// Paths in alphabetical order.
    paths: Box<[(String, CallId)]>,
    clients: [Clients; 2],
}

fn outcomes() -> Outcomes {
    let histogram = || Arc::new(Histogram::of_seconds(exponential(0.001, 2.0, 14)));
    [histogram(), histogram()]
}

impl Calls {
    pub(super) fn new(extensive: bool) -> Self {
        let mut paths: Vec<_> = CALLS
            .iter()
            .enumerate()
            .map(|(at, row)| (format!("/{}/{}", row.service, row.method), CallId(at)))
            .collect();
        paths.sort();
        let handling = || Arc::new(Histogram::of_seconds(HANDLING_BOUNDS.into()));
        Self {
            numbers: CALLS.iter().map(|_| Numbers::default()).collect(),
            requests: CALLS.iter().map(|row| (!row.request.is_empty()).then(outcomes)).collect(),
            read_only_txns: outcomes(),
            publications: outcomes(),
            handling: extensive.then(|| CALLS.iter().map(|_| handling()).collect()),
            paths: paths.into(),
            clients: Default::default(),
        }
    }

    /// The call behind a path.
    pub fn find(&self, path: &str) -> Option<CallId> {
        let at = self.paths.binary_search_by(|(known, _)| known.as_str().cmp(path)).ok()?;
        Some(self.paths[at].1)
    }

    /// A call begins; `version` is what the client says of itself.
    pub fn begin(self: &Arc<Self>, call: CallId, version: Option<&[u8]>) -> Begun {
        self.numbers[call.0].started.fetch_add(1, Ordering::Relaxed);
        let is_stream = call.row().kind != Kind::Unary;
        self.clients[usize::from(is_stream)].count(version);
        Begun {
            calls: Arc::clone(self),
            call,
            begun: Instant::now(),
            read_only: false,
            ended: false,
        }
    }

    /// Messages, and their bytes without frames, that a client sent.
    pub fn received(&self, call: CallId, messages: u64, bytes: u64) {
        let numbers = &self.numbers[call.0];
        if call.row().kind != Kind::Unary {
            numbers.received.fetch_add(messages, Ordering::Relaxed);
        }
        numbers.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Messages, and their bytes without frames, for a client.
    pub fn sent(&self, call: CallId, messages: u64, bytes: u64) {
        let numbers = &self.numbers[call.0];
        if call.row().kind != Kind::Unary {
            numbers.sent.fetch_add(messages, Ordering::Relaxed);
        }
        numbers.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// This member told the cluster its name and URLs, or failed to.
    pub fn published(&self, is_ok: bool, took: Duration) {
        self.publications[usize::from(is_ok)].observe_time(took);
    }

    /// A probe of health read, as a client would.
    pub fn probed(&self, is_ok: bool, took: Duration) {
        if let Some(outcomes) = &self.requests[CallId::RANGE.0] {
            outcomes[usize::from(is_ok)].observe_time(took);
        }
    }

    fn ended(&self, begun: &Begun, code: usize) -> Duration {
        let code = if code < CODES.len() { code } else { UNKNOWN };
        let numbers = &self.numbers[begun.call.0];
        numbers.handled[code].fetch_add(1, Ordering::Relaxed);
        if begun.call.row().kind == Kind::BidiStream {
            numbers.received.fetch_add(1, Ordering::Relaxed);
        }
        let took = begun.begun.elapsed();
        if let Some(handling) = &self.handling {
            handling[begun.call.0].observe_time(took);
        }
        let request = match begun.read_only {
            true => Some(&self.read_only_txns),
            false => self.requests[begun.call.0].as_ref(),
        };
        let is_read = begun.read_only || begun.call == CallId::RANGE;
        if let Some((outcomes, is_ok)) = request.zip(is_carried_out(code, is_read)) {
            outcomes[usize::from(is_ok)].observe_time(took);
        }
        took
    }
}

/// Whether a request whose call ended with this code was carried out; none if it never became one.
///
/// As in etcd, what is replicated is carried out when it has been applied, even if its answer is a
/// refusal; a read is when it was answered.
fn is_carried_out(code: usize, is_read: bool) -> Option<bool> {
    match code {
        // What is malformed.
        INVALID_ARGUMENT => None,
        UNAUTHENTICATED if !is_read => None,
        OK => Some(true),
        CANCELED | DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE => Some(false),
        _ => Some(!is_read),
    }
}

/// A call under way; one that is dropped without an end was given up by its client.
pub struct Begun {
    calls: Arc<Calls>,
    call: CallId,
    begun: Instant,
    read_only: bool,
    ended: bool,
}

impl Begun {
    pub fn call(&self) -> CallId {
        self.call
    }

    pub fn calls(&self) -> &Calls {
        &self.calls
    }

    /// The transaction reads only.
    pub fn reads_only(&mut self) {
        self.read_only = true;
    }

    /// The call ends with this gRPC code. Returns how long it took.
    pub fn end(&mut self, code: usize) -> Duration {
        self.ended = true;
        self.calls.ended(self, code)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if !self.ended {
            self.calls.ended(self, CANCELED);
        }
    }
}

/// What tells one call from another on the page.
const LABELS: [&str; 3] = ["grpc_service", "grpc_method", "grpc_type"];

fn labels(row: &Row) -> Vec<String> {
    vec![row.service.to_owned(), row.method.to_owned(), row.kind.name().to_owned()]
}

impl Calls {
    /// Calls that are listed from the start, and others as soon as they were called.
    fn listed(&self) -> impl Iterator<Item = (&'static Row, &Numbers, usize)> {
        let rows = CALLS.iter().zip(&self.numbers).enumerate();
        rows.filter(|(_, (row, numbers))| {
            let is_rare = row.service == LOCK || row.service == ELECTION;
            !is_rare || numbers.started.load(Ordering::Relaxed) > 0
        })
        .map(|(at, (row, numbers))| (row, numbers, at))
    }

    fn read(&self, value: impl Fn(&Row, &Numbers) -> u64) -> Vec<super::Sample> {
        self.listed().map(|(row, numbers, _)| (labels(row), value(row, numbers) as f64)).collect()
    }

    fn handled(&self) -> Vec<super::Sample> {
        let codes = |(row, numbers, _): (&Row, &Numbers, usize)| {
            let code = |(code, count): (&&str, &AtomicU64)| {
                let mut values = labels(row);
                values.push((*code).to_owned());
                (values, count.load(Ordering::Relaxed) as f64)
            };
            CODES.iter().zip(&numbers.handled).map(code).collect::<Vec<_>>()
        };
        self.listed().flat_map(codes).collect()
    }

    fn request_times(&self) -> Vec<super::Labelled> {
        let of_calls = CALLS.iter().zip(&self.requests);
        let of_calls = of_calls.filter_map(|(row, times)| Some((row.request, times.as_ref()?)));
        let others =
            [("ReadonlyTxn", &self.read_only_txns), ("ClusterMemberAttrSet", &self.publications)];
        let outcomes = |(name, times): (&str, &Outcomes)| {
            let labelled = |(is_ok, times): (&str, &Arc<Histogram>)| {
                let labels = vec![name.to_owned(), is_ok.to_owned()];
                (!times.is_empty()).then(|| (labels, times.clone()))
            };
            ["false", "true"].into_iter().zip(times).filter_map(labelled).collect::<Vec<_>>()
        };
        of_calls.chain(others).flat_map(outcomes).collect()
    }

    fn client_requests(&self) -> Vec<super::Sample> {
        let kinds = ["unary", "stream"].into_iter().zip(&self.clients);
        let counts = |(kind, clients): (&str, &Clients)| {
            let sample =
                |(version, count): (String, u64)| (vec![kind.to_owned(), version], count as f64);
            clients.counts().into_iter().map(sample).collect::<Vec<_>>()
        };
        kinds.flat_map(counts).collect()
    }

    fn total(&self, value: impl Fn(&Numbers) -> &AtomicU64) -> u64 {
        self.numbers.iter().map(|numbers| value(numbers).load(Ordering::Relaxed)).sum()
    }

    pub(super) fn register(self: &Arc<Self>, metrics: &Metrics) {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let calls = Arc::clone(self);
        metrics.counters("grpc_server_started_total", "Calls begun.", &LABELS, move || {
            calls.read(|_, numbers| load(&numbers.started))
        });
        let calls = Arc::clone(self);
        metrics.counters(
            "grpc_server_handled_total",
            "Calls ended, by the code they ended with.",
            &["grpc_service", "grpc_method", "grpc_type", "grpc_code"],
            move || calls.handled(),
        );
        let calls = Arc::clone(self);
        metrics.counters(
            "grpc_server_msg_received_total",
            "Messages received from clients.",
            &LABELS,
            move || {
                calls.read(|row, numbers| match row.kind {
                    Kind::Unary => load(&numbers.started),
                    _ => load(&numbers.received),
                })
            },
        );
        let calls = Arc::clone(self);
        metrics.counters(
            "grpc_server_msg_sent_total",
            "Messages sent to clients.",
            &LABELS,
            move || {
                calls.read(|row, numbers| match row.kind {
                    Kind::Unary => numbers.handled.iter().map(load).sum(),
                    _ => load(&numbers.sent),
                })
            },
        );
        self.register_times_and_bytes(metrics);
    }

    fn register_times_and_bytes(self: &Arc<Self>, metrics: &Metrics) {
        if self.handling.is_some() {
            let calls = Arc::clone(self);
            metrics.histograms(
                "grpc_server_handling_seconds",
                "Time from a call's beginning to its end.",
                &LABELS,
                move || {
                    let times = calls.handling.as_deref().unwrap_or_default();
                    calls.listed().map(|(row, _, at)| (labels(row), times[at].clone())).collect()
                },
            );
        }
        let calls = Arc::clone(self);
        metrics.histograms(
            "etcd_server_request_duration_seconds",
            "Time that requests took as their clients see it, by type and outcome.",
            &["type", "success"],
            move || calls.request_times(),
        );
        let calls = Arc::clone(self);
        metrics.counters(
            "etcd_server_client_requests_total",
            "Calls by the version of the API that the client names.",
            &["type", "client_api_version"],
            move || calls.client_requests(),
        );
        let calls = Arc::clone(self);
        metrics.counter(
            "etcd_network_client_grpc_received_bytes_total",
            "Bytes of messages from clients.",
            move || calls.total(|numbers| &numbers.bytes_received),
        );
        let calls = Arc::clone(self);
        metrics.counter(
            "etcd_network_client_grpc_sent_bytes_total",
            "Bytes of messages to clients.",
            move || calls.total(|numbers| &numbers.bytes_sent),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_calls_have_their_places() {
        let calls = Calls::new(false);
        for (path, call) in [
            ("/etcdserverpb.KV/Range", CallId::RANGE),
            ("/etcdserverpb.KV/Put", CallId::PUT),
            ("/etcdserverpb.KV/Txn", CallId::TXN),
            ("/etcdserverpb.KV/DeleteRange", CallId::DELETE_RANGE),
        ] {
            assert_eq!(calls.find(path), Some(call), "{path}");
        }
        assert_eq!(calls.find("/etcdserverpb.KV/Nothing"), None);
    }

    #[test]
    fn a_call_ends_once_and_one_that_is_dropped_was_canceled() {
        let calls = Arc::new(Calls::new(true));
        calls.begin(CallId::PUT, None).end(0);
        drop(calls.begin(CallId::PUT, Some(b"3.7")));
        calls.begin(CallId::PUT, Some(b"3.7")).end(99);
        let put = &calls.numbers[CallId::PUT.0];
        let handled: Vec<u64> = put.handled.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        assert_eq!(handled[..4], [1, 1, 1, 0]);
        assert_eq!(put.started.load(Ordering::Relaxed), 3);
        let unary = calls.clients[0].counts();
        assert_eq!(unary, [("3.7".to_owned(), 2), ("unknown".to_owned(), 1)]);
    }
}
