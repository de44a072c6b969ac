//! Start and stop of a node, in order.

use super::auto_compaction;
use super::corruption::Checks;
use super::folder::Folder;
use super::open::{Opened, open_state};
use super::parts::{client_pings, connection_limits, driver_parts, limits, peers_of, settings};
use super::process::{Signals, lock_memory, raise_open_files};
use super::publish::publish;
use super::secure::{Secure, Speaks};
use super::sockets::{Bound, bind_all};
use super::supervisor;
use crate::config::{Config, LogLevel};
use crate::error::Fatal;
use crate::metrics::Metrics;
use crate::peer::{Links, PeerService};
use crate::raft_log::LogStore as _;
use crate::raft_log::disk::DiskLog;
use crate::replica::{Driver, Handle, Replica};
use crate::server::access::Access;
use crate::server::backup::Backups;
use crate::server::cluster::ClusterService;
use crate::server::listener::{ConnectionLimits, serve};
use crate::server::password::Passwords;
use crate::server::peer_pages::PeerPages;
use crate::server::readings::{self, Sources};
use crate::server::routes::{Services, Traffic, client_service, metrics_service, peer_service};
use crate::server::token::Tokens;
use crate::server::visitors::Visitors;
use crate::storage::Engine;
use crate::storage::snapshot_file::SnapshotStore;
use crate::types::Index;
use crate::watch::{Hub, StreamOptions};
use hyper_util::service::TowerToHyperService;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

/// How long an outgoing leader waits for its successor.
const TRANSFER_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long calls that are under way may wait for their answers once a stop has begun: then all that
/// still wait hear of the stop.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a removed member goes on answering: etcd's time.
const REMOVED_PAUSE: Duration = Duration::from_secs(1);

/// Why a node ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The number of the signal that asked for it.
    Signal(i32),
    /// It is no member of the cluster any more.
    Removed,
}

/// What became of a start.
pub enum Start {
    Node(Box<Node>),
    /// A signal came first.
    Ended(Exit),
}

/// A member that has begun.
pub struct Node {
    config: Config,
    running: Running,
    sockets: ClientSockets,
    secure: Secure,
    signals: Signals,
    folder: Folder,
}

impl Node {
    /// Serves until a signal comes, or the cluster has removed this member.
    ///
    /// # Errors
    /// Whatever makes going on impossible.
    pub async fn run(self) -> Result<Exit, Fatal> {
        let Self { config, running, sockets, secure, signals, folder } = self;
        running.until_stopped(&config, (sockets, secure), signals, folder).await
    }
}

/// Starts a member.
///
/// # Errors
/// Whatever makes starting impossible.
pub async fn start(config: Config) -> Result<Start, Fatal> {
    let mut signals = Signals::install()?;
    raise_open_files();
    if config.memory_mlock {
        lock_memory()?;
    }
    let reuse = config.socket_reuse_port;
    // First, because a port in use is the most frequent mistake.
    let sockets = ClientSockets {
        clients: bind_all(&config.listen_client_urls, reuse).await?,
        http: bind_all(&config.listen_client_http_urls, reuse).await?,
        metrics: bind_all(&config.listen_metrics_urls, reuse).await?,
    };
    let (data, wal) = (config.data_dir.clone(), config.wal_dir.clone());
    let opening = tokio::task::spawn_blocking(move || Folder::wait_and_open(&data, wal.as_deref()));
    let folder = tokio::select! {
        opened = opening => {
            let opened = opened.map_err(|e| Fatal::with("open data directory", e))?;
            opened.inspect_err(tell_of_bootstrap)?
        }
        // Another process may hold the folder for ever.
        exit = signals.next() => return Ok(Start::Ended(exit)),
    };
    let secure = Secure::open(&config)?;
    let snapshots = Arc::new(SnapshotStore::open(folder.snapshots())?);
    let opened = tokio::select! {
        opened = open_state(&config, &folder, &snapshots, &secure.dialer) => {
            opened.inspect_err(tell_of_bootstrap)?
        }
        // Members that are looked for may never be found.
        exit = signals.next() => return Ok(Start::Ended(exit)),
    };
    // Not before it can be served: a member that asks who is there shall be refused at once
    // rather than wait.
    let peers = bind_all(&config.listen_peer_urls, reuse).await?;
    crate::server::quota::tell(config.quota_backend_bytes);
    let running = Running::start(&config, opened, snapshots, peers, &secure)?;
    Ok(Start::Node(Box::new(Node { config, running, sockets, secure, signals, folder })))
}

/// etcd has a line of its own for what goes wrong between its sockets and its data.
fn tell_of_bootstrap(fatal: &Fatal) {
    tracing::error!(error = %fatal, "bootstrap failed");
}

/// What is listened on for all but members.
struct ClientSockets {
    clients: Vec<Bound>,
    http: Vec<Bound>,
    metrics: Vec<Bound>,
}

/// A node whose driver and peer listener run.
struct Running {
    handle: Handle,
    links: Links,
    engine: Arc<dyn Engine>,
    watches: crate::watch::Handle,
    metrics: Arc<Metrics>,
    tokens: Arc<Tokens>,
    /// The driver's end, with its error if it has one.
    ended: oneshot::Receiver<Result<(), Fatal>>,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    /// What goes on until the last answer has left: calls under way need the other members.
    peers: JoinSet<()>,
    /// Held for as long as they are served.
    _peers_served: watch::Sender<bool>,
    checks: Checks,
    /// Before clients are served, the data is compared, once this is applied.
    compare_at: Option<Index>,
    /// Whether other members may compare theirs with it.
    is_comparable: Arc<AtomicBool>,
}

impl Running {
    fn start(
        config: &Config,
        opened: Opened,
        snapshots: Arc<SnapshotStore>,
        peers: Vec<Bound>,
        secure: &Secure,
    ) -> Result<Self, Fatal> {
        let tokens = Tokens::open(&config.auth_token, config.auth_token_ttl).map_err(Fatal::new)?;
        let Opened { place, machine, log, metrics, is_restart } = opened;
        let compare_at =
            (is_restart && config.data_checks.at_start).then(|| log.hard_state().commit);
        let engine = machine.engine().clone();
        let late = Arc::new(OnceLock::new());
        let others = peers_of(&place.contacts, place.id);
        let aims = (secure.dialer.clone(), late.clone());
        let links = Links::open(&others, aims, metrics.peers.clone());
        let watches = Hub::start(machine.view());
        let replica = Replica::new(settings(config, place.id, place.cluster), log, machine)?;
        let ground = (&late, &metrics);
        let parts = driver_parts(place.id, &links, &watches, &engine, &snapshots, ground);
        let (driver, handle) = Driver::new(replica, parts);
        readings::register(&metrics, sources(config, &handle, &watches));
        // Set once, here: the links' tasks only ever read it.
        let _first = late.set(handle.clone());
        let ended = start_driver(driver)?;
        let (stop, stopping) = watch::channel(false);
        let (peers_served, peers_stopping) = watch::channel(false);
        let (mut servers, mut serving) = (JoinSet::new(), JoinSet::new());
        serving.spawn(keep_timers_near(peers_stopping.clone()));
        servers.spawn(supervisor::keep_alive(handle.clone(), stopping.clone()));
        if let Some(policy) = config.auto_compaction {
            servers.spawn(auto_compaction::run(handle.clone(), policy, stopping.clone()));
        }
        let checks = Checks { handle: handle.clone(), links: links.clone() };
        checks.spawn(&config.data_checks, &mut servers, &stopping);
        let tokens = Arc::new(tokens);
        let is_comparable = Arc::new(AtomicBool::new(compare_at.is_none()));
        let access = Access::new(handle.clone(), tokens.clone());
        let pages = PeerPages {
            handle: handle.clone(),
            cluster: cluster_service(&handle, &links, config, &access, &metrics),
            access,
            is_comparable: is_comparable.clone(),
        };
        let (is_kept, numbers) = (engine.is_volatile(), metrics.clone());
        let peer = PeerService::new(handle.clone(), snapshots, is_kept, place.founders, numbers);
        let service = TowerToHyperService::new(peer_service(peer, pages));
        let service = move |_| service.clone();
        for Bound { url, speaks, listener } in peers {
            tracing::info!(address = url.address(), "serving peer traffic");
            let (limits, stop) = (connection_limits(config, u32::MAX), peers_stopping.clone());
            serving.spawn(serve(listener, secure.of_peer(speaks), service.clone(), limits, stop));
        }
        Ok(Self {
            handle,
            links,
            engine,
            watches,
            metrics,
            tokens,
            ended,
            stop,
            servers,
            peers: serving,
            _peers_served: peers_served,
            checks,
            compare_at,
            is_comparable,
        })
    }

    /// Publishes, serves clients, and stops when a signal comes or the driver ends.
    async fn until_stopped(
        mut self,
        config: &Config,
        (sockets, secure): (ClientSockets, Secure),
        mut signals: Signals,
        folder: Folder,
    ) -> Result<Exit, Fatal> {
        let mut status = self.handle.status();
        let ClientSockets { clients, http, metrics } = sockets;
        // Probes ask before clients are served: that is what they are to find out.
        self.serve_probes(config, metrics, &secure);
        let aims = (self.compare_at, &*self.is_comparable);
        let begun = begin(&self.checks, aims, config, &self.metrics);
        let exit = tokio::select! {
            begun = begun => {
                begun?;
                None
            }
            exit = signals.next() => Some(exit),
            Ok(_) = status.wait_for(|status| status.is_removed) => Some(Exit::Removed),
            ended = &mut self.ended => return Err(driver_error(ended)),
        };
        let exit = match exit {
            Some(exit) => exit,
            None => {
                let backups = Backups::new(folder.snapshots());
                self.serve_clients(config, clients, http, &secure, backups);
                supervisor::ready();
                let mut status = self.handle.status();
                tokio::select! {
                    exit = signals.next() => exit,
                    Ok(_) = status.wait_for(|status| status.is_removed) => Exit::Removed,
                    ended = &mut self.ended => return Err(driver_error(ended)),
                    fatal = self.watches.failed() => return Err(fatal),
                }
            }
        };
        supervisor::stopping();
        match exit {
            Exit::Signal(signal) => tracing::info!(signal, "received signal; shutting down"),
            Exit::Removed => {
                tracing::warn!("the member has been permanently removed from the cluster");
                // Who waits for the removal itself gets the answer.
                tokio::time::sleep(REMOVED_PAUSE).await;
            }
        }
        self.stop().await?;
        Ok(exit)
    }

    fn serve_probes(&mut self, config: &Config, sockets: Vec<Bound>, secure: &Secure) {
        let service =
            TowerToHyperService::new(metrics_service(self.handle.clone(), self.metrics.clone()));
        for Bound { url, speaks, listener } in sockets {
            tracing::info!(address = url.as_str(), "serving metrics");
            let limits = connection_limits(config, u32::MAX);
            let (service, stop) = (service.clone(), self.stop.subscribe());
            let service = move |_| service.clone();
            self.servers.spawn(serve(listener, secure.of_metrics(speaks), service, limits, stop));
        }
    }

    fn serve_clients(
        &mut self,
        config: &Config,
        clients: Vec<Bound>,
        http: Vec<Bound>,
        secure: &Secure,
        backups: Backups,
    ) {
        let service = client_service(Services {
            handle: self.handle.clone(),
            links: self.links.clone(),
            watches: self.watches.clone(),
            limits: limits(config),
            stream: StreamOptions {
                progress_interval: config.watch_progress_notify_interval,
                fragment_bytes: limits(config).message_bytes_max(),
                election_timeout: Duration::from_millis(config.election_timeout_ms),
            },
            visitors: Visitors {
                origins: config.cors.clone(),
                hosts: config.host_whitelist.clone(),
            },
            with_gateway: config.enable_grpc_gateway,
            names_users: config.tls.client.client_cert_auth,
            backups,
            metrics: self.metrics.clone(),
            warnings: (config.insight.warning_apply, config.warning_unary_request_duration),
            is_debugging: config.log_level == LogLevel::Debug,
            with_profiles: config.enable_pprof || config.log_level == LogLevel::Debug,
            tokens: self.tokens.clone(),
            passwords: Passwords::new(config.bcrypt_cost),
            stop: self.stop.subscribe(),
        });
        let of_clients = if http.is_empty() { Traffic::GrpcAndHttp } else { Traffic::Grpc };
        let clients = clients.into_iter().map(|socket| (of_clients, socket));
        let http = http.into_iter().map(|socket| (Traffic::Http, socket));
        for (traffic, Bound { url, speaks, listener }) in clients.chain(http) {
            let limits = ConnectionLimits {
                client_pings: client_pings(config, traffic),
                ..connection_limits(config, config.max_concurrent_streams)
            };
            let (service, security) = (service.clone(), secure.of_client(speaks));
            let service = move |connected| service.serving(traffic, connected);
            self.servers.spawn(serve(listener, security, service, limits, self.stop.subscribe()));
            log_ready(traffic, url.address(), speaks);
        }
    }

    /// Hands the leadership over, then stops serving clients, then the driver, then serving members.
    async fn stop(mut self) -> Result<(), Fatal> {
        let mut status = self.handle.status();
        if status.borrow().is_leader && self.handle.members().len() > 1 {
            self.handle.transfer_leader(None);
            let gone = status.wait_for(|status| !status.is_leader);
            if tokio::time::timeout(TRANSFER_TIMEOUT, gone).await.is_err() {
                tracing::warn!("failed to hand the leadership over in time");
            }
        }
        self.stop.send_replace(true);
        let answered = async { while self.servers.join_next().await.is_some() {} };
        // Calls that still wait then are answered when the driver ends.
        let _elapsed = tokio::time::timeout(ANSWER_TIMEOUT, answered).await;
        let handle = self.handle.clone();
        let stop = tokio::task::spawn_blocking(move || handle.stop());
        stop.await.map_err(|e| Fatal::with("stop driver", e))?;
        match self.ended.await {
            Ok(ended) => ended?,
            Err(_) => return Err(Fatal::new("stop driver: its thread panicked")),
        }
        while self.servers.join_next().await.is_some() {}
        // Streams of members never end by themselves.
        self.peers.shutdown().await;
        // Spares the next start the replay of the log.
        self.engine.flush()?;
        tracing::info!("closed the server");
        Ok(())
    }
}

fn log_ready(traffic: Traffic, address: &str, speaks: Speaks) {
    let traffic = traffic.name();
    tracing::info!(address, "ready to serve client requests");
    if speaks != Speaks::Tls {
        tracing::info!(
            traffic,
            address,
            "serving client traffic insecurely; this is strongly discouraged!"
        );
    }
    if speaks != Speaks::Plain {
        tracing::info!(traffic, address, "serving client traffic securely");
    }
}

/// Keeps a timer registered that ends sooner than any request's. Without one, tokio wakes its
/// thread by a system call for each request that registers the first timer since it last waited.
async fn keep_timers_near(mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ended = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn driver_error(ended: Result<Result<(), Fatal>, oneshot::error::RecvError>) -> Fatal {
    match ended {
        Ok(Err(fatal)) => fatal,
        Ok(Ok(())) => Fatal::new("run driver: it ended without being told to"),
        Err(_) => Fatal::new("run driver: its thread panicked"),
    }
}

/// Gives the driver its thread; the receiver gets its end.
fn start_driver(driver: Driver<DiskLog>) -> Result<oneshot::Receiver<Result<(), Fatal>>, Fatal> {
    let (report, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || {
            // The receiver lives as long as the node.
            let _node_gone = report.send(driver.run());
        })
        .map_err(|e| Fatal::with("start driver thread", e))?;
    Ok(ended)
}

/// Where numbers of the metrics come from that are known anyway.
fn sources(config: &Config, handle: &Handle, watches: &crate::watch::Handle) -> Sources {
    Sources {
        handle: handle.clone(),
        watches: watches.clone(),
        quota_bytes: config.quota_backend_bytes,
        gates: config.insight.gates.clone(),
    }
}

fn cluster_service(
    handle: &Handle,
    links: &Links,
    config: &Config,
    access: &Access,
    metrics: &Metrics,
) -> ClusterService {
    let (handle, links, numbers) = (handle.clone(), links.clone(), metrics.probes.clone());
    ClusterService::new(handle, links, limits(config), access.clone(), numbers)
}

/// What comes before clients are served.
///
/// # Errors
/// When this member's data is not that of the others.
async fn begin(
    checks: &Checks,
    (compare_at, is_comparable): (Option<Index>, &AtomicBool),
    config: &Config,
    metrics: &Metrics,
) -> Result<(), Fatal> {
    checks.at_start(compare_at).await?;
    is_comparable.store(true, Ordering::Release);
    publish(&checks.handle, config, metrics).await;
    Ok(())
}
