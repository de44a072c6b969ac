//! `quoin gateway start`: one address in front of a cluster, for clients that can know only one.
//!
//! Connections go to the endpoints in turn and are passed on byte for byte, so whatever is spoken
//! on them, TLS too, is between client and member. An endpoint that cannot be reached is left out
//! and tried again after a while. Left out: endpoints from DNS.

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
    /// Not offered: a DNS domain to find the members by
    #[arg(long, default_value = "", hide = true)]
    discovery_srv: String,
    #[arg(long, default_value = "", hide = true)]
    discovery_srv_name: String,
    #[arg(long, hide = true)]
    insecure_discovery: bool,
    /// Concerns members found by DNS only
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
    if !args.discovery_srv.is_empty() {
        return Err("--discovery-srv is not offered by this version".into());
    }
    logging::install(LevelFilter::INFO, true, logging::Format::Json, vec![Box::new(io::stderr())])?;
    logging::end_on_panic();
    let endpoints: Vec<String> = args.endpoints.iter().map(|one| bare(one).to_owned()).collect();
    refuse_itself(&args.listen_addr, &endpoints).await?;
    let listener = TcpListener::bind(&args.listen_addr)
        .await
        .map_err(|error| format!("listen tcp {}: {error}", args.listen_addr))?;
    let proxy = Arc::new(Proxy {
        endpoints: endpoints.iter().map(|address| Endpoint::new(address)).collect(),
        turn: AtomicUsize::new(0),
        pause: Some(args.retry_delay).filter(|pause| !pause.is_zero()).unwrap_or(RETRY_PAUSE),
    });
    tracing::info!(endpoints = endpoints.join(","), "ready to proxy client requests");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::error!(%error, "failed to notify systemd for readiness");
    }
    proxy.serve(listener).await
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
}

impl Endpoint {
    fn new(address: &str) -> Self {
        Self { address: address.to_owned(), is_active: AtomicBool::new(true) }
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

    /// The next endpoint in turn that is not left out.
    fn pick(&self) -> Option<&Endpoint> {
        let turns = (0..self.endpoints.len()).map(|_| self.turn.fetch_add(1, Ordering::Relaxed));
        let mut picked = turns.map(|turn| &self.endpoints[turn % self.endpoints.len()]);
        picked.find(|endpoint| endpoint.is_active.load(Ordering::Relaxed))
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
        assert_eq!(picks(3), ["c:1", "a:1", "c:1"]);
        proxy.endpoints.iter().for_each(|one| one.is_active.store(false, Ordering::Relaxed));
        assert!(proxy.pick().is_none());
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
