//! What passes between this member and others, and what members and probes ask of it.

use super::histogram::{Histogram, exponential};
use super::parts::Number;
use super::{Labelled, Metrics, Sample};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What passes between this member and one other.
pub struct Peer {
    pub sent_bytes: Number,
    pub received_bytes: Number,
    pub send_failures: Number,
    pub receive_failures: Number,
    pub disconnects: Number,
    pub is_active: Number,
    pub round_trips: Arc<Histogram>,
    pub snapshots_sent: Transfers,
    pub snapshots_received: Transfers,
}

/// Snapshots in one direction.
pub struct Transfers {
    pub done: Number,
    pub failed: Number,
    pub under_way: Number,
    pub times: Arc<Histogram>,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            done: Number::default(),
            failed: Number::default(),
            under_way: Number::default(),
            times: Arc::new(Histogram::of_seconds(exponential(0.1, 2.0, 10))),
        }
    }
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            sent_bytes: Number::default(),
            received_bytes: Number::default(),
            send_failures: Number::default(),
            receive_failures: Number::default(),
            disconnects: Number::default(),
            is_active: Number::default(),
            round_trips: Arc::new(Histogram::of_seconds(exponential(0.0001, 2.0, 16))),
            snapshots_sent: Transfers::default(),
            snapshots_received: Transfers::default(),
        }
    }
}

/// The other members that this one has had to do with.
#[derive(Clone, Default)]
pub struct Peers(Arc<Mutex<BTreeMap<u64, Arc<Peer>>>>);

impl Peers {
    /// The numbers of one member, to be kept by whoever adds to them.
    pub fn of(&self, member: u64) -> Arc<Peer> {
        self.0.lock().entry(member).or_default().clone()
    }

    fn samples(&self, number: impl Fn(&Peer) -> Option<&Number>) -> Vec<Sample> {
        let peers = self.0.lock();
        let named = |(id, peer): (&u64, &Arc<Peer>)| {
            Some((vec![format!("{id:x}")], number(peer)?.get() as f64))
        };
        peers.iter().filter_map(named).collect()
    }

    /// Whether members are connected, by id.
    pub fn active(&self) -> Vec<(u64, bool)> {
        self.0.lock().iter().map(|(id, peer)| (*id, peer.is_active.get() > 0)).collect()
    }

    /// How often the connection to each member was lost.
    pub fn disconnects(&self) -> Vec<(u64, u64)> {
        let peers = self.0.lock();
        let lost = peers.iter().map(|(id, peer)| (*id, peer.disconnects.get()));
        lost.filter(|(_, count)| *count > 0).collect()
    }

    fn histograms(&self, times: impl Fn(&Peer) -> &Arc<Histogram>) -> Vec<Labelled> {
        let peers = self.0.lock();
        let named = peers.iter().map(|(id, peer)| (vec![format!("{id:x}")], times(peer).clone()));
        named.filter(|(_, times)| !times.is_empty()).collect()
    }

    pub(super) fn register(&self, to: &Metrics) {
        self.register_messages(to);
        self.register_snapshots(to, "send", &["To"], |peer| &peer.snapshots_sent);
        self.register_snapshots(to, "receive", &["From"], |peer| &peer.snapshots_received);
    }

    fn register_messages(&self, to: &Metrics) {
        let if_any = |number: fn(&Peer) -> &Number| {
            let peers = self.clone();
            move || peers.samples(|peer| Some(number(peer)).filter(|number| number.get() > 0))
        };
        to.counters(
            "etcd_network_peer_sent_bytes_total",
            "Bytes sent to other members.",
            &["To"],
            if_any(|peer| &peer.sent_bytes),
        );
        to.counters(
            "etcd_network_peer_received_bytes_total",
            "Bytes received from other members.",
            &["From"],
            if_any(|peer| &peer.received_bytes),
        );
        to.counters(
            "etcd_network_peer_sent_failures_total",
            "Messages to other members that could not be sent.",
            &["To"],
            if_any(|peer| &peer.send_failures),
        );
        to.counters(
            "etcd_network_peer_received_failures_total",
            "Streams from other members that broke.",
            &["From"],
            if_any(|peer| &peer.receive_failures),
        );
        let peers = self.clone();
        to.histograms(
            "etcd_network_peer_round_trip_time_seconds",
            "Time between asking another member and its answer.",
            &["To"],
            move || peers.histograms(|peer| &peer.round_trips),
        );
    }

    fn register_snapshots(
        &self,
        to: &Metrics,
        way: &str,
        label: &'static [&'static str],
        transfers: fn(&Peer) -> &Transfers,
    ) {
        let name = |rest: &str| format!("etcd_network_snapshot_{way}_{rest}");
        let has_any = |transfers: &Transfers| {
            transfers.done.get() + transfers.failed.get() + transfers.under_way.get() > 0
        };
        let number = |number: fn(&Transfers) -> &Number| {
            let peers = self.clone();
            move || peers.samples(|peer| Some(transfers(peer)).filter(|t| has_any(t)).map(number))
        };
        to.counters(&name("success"), "Snapshots passed on.", label, number(|t| &t.done));
        to.counters(&name("failures"), "Snapshots not passed on.", label, number(|t| &t.failed));
        to.gauges(
            &name("inflights_total"),
            "Snapshots on their way.",
            label,
            number(|t| &t.under_way),
        );
        let peers = self.clone();
        to.histograms(
            &name("total_duration_seconds"),
            "Time to pass a snapshot on.",
            label,
            move || peers.histograms(|peer| &transfers(peer).times),
        );
    }
}

/// Checks of a page, by page and name: how often they succeeded and failed, and how the last ended.
type Checks = BTreeMap<(&'static str, &'static str), ([u64; 2], bool)>;

/// What probes found, and what became of promotions.
#[derive(Clone, Default)]
pub struct Probes {
    pub healthy: Number,
    pub unhealthy: Number,
    pub promotions: Number,
    promotions_failed: Arc<Mutex<BTreeMap<String, u64>>>,
    checks: Arc<Mutex<Checks>>,
}

impl Probes {
    pub fn checked(&self, page: &'static str, name: &'static str, is_ok: bool) {
        let mut checks = self.checks.lock();
        let (counts, last) = checks.entry((page, name)).or_default();
        counts[usize::from(is_ok)] += 1;
        *last = is_ok;
    }

    /// A learner was not promoted, for one of a few reasons.
    pub fn promotion_failed(&self, reason: &str) {
        *self.promotions_failed.lock().entry(reason.to_owned()).or_default() += 1;
    }

    pub(super) fn register(&self, to: &Metrics) {
        to.counter(
            "etcd_server_health_success",
            "Answers of /health that say healthy.",
            self.healthy.reader(),
        );
        to.counter(
            "etcd_server_health_failures",
            "Answers of /health that say something else.",
            self.unhealthy.reader(),
        );
        to.counter(
            "etcd_server_learner_promote_successes",
            "Learners promoted by this member as the leader.",
            self.promotions.reader(),
        );
        let failed = self.promotions_failed.clone();
        to.counters(
            "etcd_server_learner_promote_failures",
            "Learners not promoted, by the reason.",
            &["Reason"],
            move || {
                failed
                    .lock()
                    .iter()
                    .map(|(why, count)| (vec![why.clone()], *count as f64))
                    .collect()
            },
        );
        let checks = self.checks.clone();
        to.gauges(
            "etcd_server_healthcheck",
            "How a check of /livez or /readyz ended last: 1 is well.",
            &["type", "name"],
            move || {
                let sample = |((page, name), (_, is_ok)): (&(&str, &str), &([u64; 2], bool))| {
                    (vec![(*page).to_owned(), (*name).to_owned()], f64::from(u8::from(*is_ok)))
                };
                checks.lock().iter().map(sample).collect()
            },
        );
        let checks = self.checks.clone();
        to.counters(
            "etcd_server_healthchecks_total",
            "Checks of /livez and /readyz by how they ended.",
            &["type", "name", "status"],
            move || {
                let samples = |((page, name), (counts, _)): (&(&str, &str), &([u64; 2], bool))| {
                    let sample = |(status, count): (&str, &u64)| {
                        let labels = [page, name, status].map(str::to_owned);
                        (*count > 0).then(|| (labels.into(), *count as f64))
                    };
                    ["error", "success"]
                        .into_iter()
                        .zip(counts)
                        .filter_map(sample)
                        .collect::<Vec<_>>()
                };
                checks.lock().iter().flat_map(samples).collect()
            },
        );
    }
}
