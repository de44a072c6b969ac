//! `quoin gateway start`: one address in front of a cluster, for clients that can know only one.
//!
//! Connections go to the endpoints in turn and are passed on byte for byte, so whatever is spoken
//! on them, TLS too, is between client and member. An endpoint that cannot be reached is left out
//! and tried again after a while. Endpoints that come from DNS have priorities and weights.

use crate::dns;
use crate::logging;
use clap::{Args, Subcommand};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tracing_subscriber::filter::LevelFilter;

/// How long an endpoint may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after a failed accept: the process may be short of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pause between looks at endpoints that failed, if none is asked for.
const RETRY_PAUSE: Duration = Duration::from_secs(300);

/// Passes connections on to a cluster.
#[derive(Debug, Args)]
pub struct GatewayArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Starts the gateway
    Start(StartArgs),
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:23790")]
    listen_addr: String,
    /// The members, as host:port or URL; a scheme says nothing here
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// How long an endpoint that failed is left out
    #[arg(long, default_value = "1m", value_parser = duration)]
    retry_delay: Duration,
    /// A domain whose SRV records name the members
    #[arg(long, default_value = "")]
    discovery_srv: String,
    /// A suffix of the service's name in these records
    #[arg(long, default_value = "")]
    discovery_srv_name: String,
    /// Take members from DNS that have no TLS, or cannot be reached
    #[arg(long)]
    insecure_discovery: bool,
    /// Taken, as etcd takes it: nothing is encrypted here
    #[arg(long, default_value = "", hide = true)]
    trusted_ca_file: String,
}

/// A time as Go's flags take it: number and unit, or 0.
fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Runs until the process is ended.
///
/// # Errors
/// What makes a start impossible, in words.
pub async fn run(args: GatewayArgs) -> Result<ExitCode, Box<dyn Error>> {
    let Kind::Start(args) = args.kind;
    logging::install(LevelFilter::INFO, true, logging::Format::Json, vec![Box::new(io::stderr())])?;
    logging::end_on_panic();
    let mut found = discover(&args).await?;
    if found.is_empty() {
        found = args.endpoints.iter().map(|one| Endpoint::new(bare(one))).collect();
    }
    let endpoints: Vec<String> = found.iter().map(|one| one.address.clone()).collect();
    refuse_itself(&args.listen_addr, &endpoints).await?;
    let listener = TcpListener::bind(&args.listen_addr)
        .await
        .map_err(|error| format!("listen tcp {}: {error}", args.listen_addr))?;
    let proxy = Arc::new(Proxy {
        endpoints: found,
        turn: AtomicUsize::new(0),
        pause: Some(args.retry_delay).filter(|pause| !pause.is_zero()).unwrap_or(RETRY_PAUSE),
    });
    tracing::info!(endpoints = endpoints.join(","), "ready to proxy client requests");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::error!(%error, "failed to notify systemd for readiness");
    }
    proxy.serve(listener).await
}

/// The members that DNS knows; without leave for others, those with TLS that can be reached.
async fn discover(args: &StartArgs) -> Result<Vec<Endpoint>, String> {
    let domain = &args.discovery_srv;
    if domain.is_empty() {
        return Ok(Vec::new());
    }
    let found = dns::clients(&args.discovery_srv_name, domain).await?;
    let urls = |found: &[(String, dns::Srv)]| {
        found.iter().map(|(url, _)| url.as_str()).collect::<Vec<_>>().join(",")
    };
    let endpoints = urls(&found);
    tracing::info!("srv-server" = domain, endpoints, "discovered cluster from SRV");
    let endpoint = |srv: &dns::Srv| {
        let (priority, weight) = (srv.priority, srv.weight);
        Endpoint { priority, weight, ..Endpoint::new(&srv.address()) }
    };
    if args.insecure_discovery {
        return Ok(found.iter().map(|(_, srv)| endpoint(srv)).collect());
    }
    tracing::info!("srv-server" = domain, endpoints, "validating discovered SRV endpoints");
    let (mut valid, mut errors) = (Vec::new(), Vec::new());
    for (url, srv) in found {
        if !url.starts_with("https://") {
            errors.push(format!("{url:?} is insecure"));
            continue;
        }
        match endpoint(&srv).connect().await {
            Ok(_) => valid.push((url, srv)),
            Err(error) => errors.push(format!("{url:?} failed to dial ({error})")),
        }
    }
    let (endpoints, error) = (urls(&valid), errors.join(","));
    if error.is_empty() {
        tracing::info!(
            "srv-server" = domain,
            endpoints,
            "using validated discovered SRV endpoints"
        );
    } else {
        tracing::warn!(
            "srv-server" = domain,
            endpoints,
            error,
            "failed to validate discovered endpoints"
        );
    }
    Ok(valid.iter().map(|(_, srv)| endpoint(srv)).collect())
}

/// An endpoint without scheme and path.
fn bare(endpoint: &str) -> &str {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// A gateway that is its own endpoint would pass each connection on to itself without end.
async fn refuse_itself(listen: &str, endpoints: &[String]) -> Result<(), String> {
    let resolve = async |address: &str| -> Result<Vec<SocketAddr>, String> {
        let found = lookup_host(address).await;
        Ok(found.map_err(|error| format!("failed to resolve {address:?}: {error}"))?.collect())
    };
    let own = resolve(listen).await?;
    for endpoint in endpoints {
        for address in resolve(endpoint).await? {
            if own.contains(&address) && address.port() != 0 {
                return Err(format!(
                    "SRV or endpoint ({endpoint}->{address}) should not resolve to the gateway \
                     listen addr ({listen})"
                ));
            }
        }
    }
    Ok(())
}

struct Endpoint {
    address: String,
    is_active: AtomicBool,
    /// Those with a lower one are taken first.
    priority: u16,
    /// How often, beside the others of its priority; all in turn where nobody has any.
    weight: u16,
}

impl Endpoint {
    fn new(address: &str) -> Self {
        let (address, is_active) = (address.to_owned(), AtomicBool::new(true));
        Self { address, is_active, priority: 0, weight: 0 }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let connecting = TcpStream::connect(&self.address);
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

struct Proxy {
    endpoints: Vec<Endpoint>,
    turn: AtomicUsize,
    pause: Duration,
}

impl Proxy {
    async fn serve(self: Arc<Self>, listener: TcpListener) -> ! {
        tokio::spawn(self.clone().revive());
        loop {
            match listener.accept().await {
                Ok((client, _)) => drop(tokio::spawn(self.clone().pass_on(client))),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next endpoint of those that are not left out.
    fn pick(&self) -> Option<&Endpoint> {
        let is_active = |endpoint: &&Endpoint| endpoint.is_active.load(Ordering::Relaxed);
        let active: Vec<&Endpoint> = self.endpoints.iter().filter(is_active).collect();
        let priority = active.iter().map(|endpoint| endpoint.priority).min()?;
        let mut first = active.into_iter().filter(|endpoint| endpoint.priority == priority);
        let weights: u64 = first.clone().map(|endpoint| u64::from(endpoint.weight)).sum();
        if weights > 0 {
            let mut place = rand::random_range(0..weights);
            return first.find(|endpoint| {
                let is_it = place < u64::from(endpoint.weight);
                place = place.saturating_sub(u64::from(endpoint.weight));
                is_it
            });
        }
        let count = first.clone().count();
        first.nth(self.turn.fetch_add(1, Ordering::Relaxed) % count)
    }

    async fn pass_on(self: Arc<Self>, mut client: TcpStream) {
        while let Some(endpoint) = self.pick() {
            match endpoint.connect().await {
                Ok(mut member) => {
                    // Small messages of both sides must not wait for each other.
                    for stream in [&client, &member] {
                        let _slower = stream.set_nodelay(true);
                    }
                    // However it ends, both connections end with it.
                    let _ended = tokio::io::copy_bidirectional(&mut client, &mut member).await;
                    return;
                }
                Err(error) => {
                    endpoint.is_active.store(false, Ordering::Relaxed);
                    let (address, interval) = (&endpoint.address, self.pause.as_secs_f64());
                    tracing::warn!(address, interval, %error, "deactivated endpoint");
                }
            }
        }
    }

    /// Looks again and again whether endpoints that were left out are back.
    async fn revive(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.pause);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let is_out = |endpoint: &&Endpoint| !endpoint.is_active.load(Ordering::Relaxed);
            for endpoint in self.endpoints.iter().filter(is_out) {
                let (address, interval) = (&endpoint.address, self.pause.as_secs_f64());
                match endpoint.connect().await {
                    Ok(_) => {
                        endpoint.is_active.store(true, Ordering::Relaxed);
                        tracing::info!(address, "activated");
                    }
                    Err(error) => tracing::warn!(
                        address, interval, %error,
                        "failed to activate endpoint (stay inactive for another interval)"
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_taken_in_turn_without_those_that_failed() {
        let endpoints = ["a:1", "b:1", "c:1"].map(Endpoint::new).into();
        let proxy = Proxy { endpoints, turn: AtomicUsize::new(0), pause: RETRY_PAUSE };
        let picks = |count: usize| -> Vec<&str> {
            (0..count).map(|_| proxy.pick().unwrap().address.as_str()).collect()
        };
        assert_eq!(picks(4), ["a:1", "b:1", "c:1", "a:1"]);
        proxy.endpoints[1].is_active.store(false, Ordering::Relaxed);
        let two = picks(4);
        assert!(two[0] != two[1] && two[..2] == two[2..] && !two.contains(&"b:1"), "{two:?}");
        proxy.endpoints.iter().for_each(|one| one.is_active.store(false, Ordering::Relaxed));
        assert!(proxy.pick().is_none());
    }

    #[test]
    fn endpoints_from_dns_are_taken_by_priority_and_weight() {
        let endpoint =
            |address, priority, weight| Endpoint { priority, weight, ..Endpoint::new(address) };
        let endpoints =
            vec![endpoint("last:1", 2, 9), endpoint("much:1", 1, 9), endpoint("little:1", 1, 1)];
        let proxy = Proxy { endpoints, turn: AtomicUsize::new(0), pause: RETRY_PAUSE };
        let much = (0..1000).filter(|_| {
            let address = &proxy.pick().unwrap().address;
            assert_ne!(address, "last:1");
            address == "much:1"
        });
        let much = much.count();
        assert!((800..1000).contains(&much), "{much} of 1000");
        proxy.endpoints[1..].iter().for_each(|one| one.is_active.store(false, Ordering::Relaxed));
        assert_eq!(proxy.pick().unwrap().address, "last:1");
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port_whatever_stands_around_them() {
        for text in ["h:1", "http://h:1", "https://h:1/path", "unix://h:1"] {
            assert_eq!(bare(text), "h:1", "{text}");
        }
    }

    #[tokio::test]
    async fn a_gateway_before_itself_is_refused() {
        let itself = ["127.0.0.1:1".to_owned(), "localhost:23790".to_owned()];
        let error = refuse_itself("127.0.0.1:23790", &itself).await.unwrap_err();
        assert!(error.contains("should not resolve to the gateway listen addr"), "{error}");
        refuse_itself("127.0.0.1:23790", &itself[..1]).await.unwrap();
    }
}
