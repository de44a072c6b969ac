//! The listener of the services: its address, TLS, limits of connections, and its end.

use super::{Settings, Shared, guard, routes};
use crate::scheduler::client::Access;
use crate::scheduler::execute::Targets;
use crate::scheduler::numbers::Numbers;
use crate::tls::{Allowed, DialOptions, Dialer, ServerOptions, ServerTls, Suites};
use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use url::Url;

/// Connections at one time; further ones are closed at once.
const CONNECTIONS_MAX: usize = 4_096;
/// Calls on one connection of HTTP/2.
const STREAMS_MAX: u32 = 128;
/// How long a client may take over the head of a request, and rest between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long calls in flight may go on when the process is to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// After a failed accept: the process may be short of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Services that are being offered.
#[derive(Debug)]
pub struct Running {
    /// Where they are: with the port that was chosen, if none was given.
    pub url: String,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Lets calls in flight end, and then ends.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // A panic there has been told already.
        let _ended = self.thread.join();
    }
}

/// Begins to serve, on a thread of its own.
///
/// # Errors
/// In words for the operator: a url that cannot be used, an address that is taken, files for TLS that
/// cannot be read.
pub fn start(settings: Settings, access: Access, numbers: Arc<Numbers>) -> Result<Running, String> {
    let url = Url::parse(&settings.url).map_err(|error| format!("{}: {error}", settings.url))?;
    let tls = match (url.scheme(), settings.tls) {
        ("https", Some((cert, key))) => Some(tls(cert, key)?),
        ("https", None) => return Err(format!("{url} needs a certificate and its key")),
        ("http", None) => None,
        ("http", Some(_)) => return Err(format!("{url} is not https, but there is a certificate")),
        _ => return Err(format!("{url} is neither http nor https")),
    };
    let addresses = url.socket_addrs(|| None).map_err(|error| format!("{url}: {error}"))?;
    let listener = TcpListener::bind(&addresses[..]).map_err(|error| format!("{url}: {error}"))?;
    let bound = listener.local_addr().map_err(|error| format!("{url}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("{url}: {error}"))?;
    let is_loopback = bound.ip().is_loopback();
    if !is_loopback && settings.token.is_none() && !settings.requires_auth {
        tracing::warn!(
            address = %bound,
            "whoever reaches this address may change test cases and runs: there is no token"
        );
    }
    let (stop, stopped) = watch::channel(false);
    let Settings { token, requires_auth, hosts, .. } = settings;
    let rules = guard::Rules { token, requires_auth, is_loopback, hosts };
    let shown = format!("{}://{}", url.scheme(), shown(&url, bound));
    let targets =
        Targets { loopback: is_loopback, allowed: settings.targets, ..Targets::default() };
    let dialer = Dialer::new(DialOptions::default()).map_err(|error| error.to_string())?;
    let places = (shown.clone(), stopped.clone());
    let services = Shared::new(access, rules, (targets, dialer), numbers, places);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let thread = std::thread::Builder::new().name("services".into()).spawn(move || {
        runtime.block_on(async {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let router = routes::router(services.clone());
                    tokio::select! {
                        () = serve(listener, tls, router, stopped) => {}
                        () = services.keep() => {}
                    }
                }
                Err(error) => tracing::error!(%error, "cannot listen for calls of services"),
            }
        });
        runtime.shutdown_background();
    });
    let thread = thread.map_err(|error| error.to_string())?;
    let url = shown;
    tracing::info!(url, "serving test cases, runs and their page");
    Ok(Running { url, stop, thread })
}

/// The name that was given with the port that is used.
fn shown(url: &Url, bound: SocketAddr) -> String {
    match url.host_str() {
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    }
}

fn tls(cert_file: std::path::PathBuf, key_file: std::path::PathBuf) -> Result<ServerTls, String> {
    let options = ServerOptions {
        cert_file,
        key_file,
        trusted_ca_file: None,
        crl_file: None,
        demands_certificate: false,
        allowed: Allowed::Anybody,
        checks_origin: false,
        suites: Suites::default(),
    };
    ServerTls::open(options).map_err(|error| error.to_string())
}

/// Accepts until it is to stop, and then lets calls in flight end for a while.
async fn serve(
    listener: tokio::net::TcpListener,
    tls: Option<ServerTls>,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection for services");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let _without_it = stream.set_nodelay(true);
        let (tls, router, watcher) = (tls.clone(), router.clone(), graceful.watcher());
        let mut stop = stop.clone();
        tokio::spawn(async move {
            // Until its first byte nobody knows which HTTP it speaks, and no other clock runs.
            let begun = tokio::select! {
                begun = tokio::time::timeout(HEAD_TIMEOUT, stream.readable()) => begun.is_ok(),
                _ = stop.wait_for(|stop| *stop) => false,
            };
            if !begun {
                return;
            }
            match tls {
                None => connection(stream, router, watcher).await,
                Some(tls) => match tls.accept(stream, Some(remote)).await {
                    Ok(accepted) => connection(accepted.stream, router, watcher).await,
                    Err(refused) => refused.log("rejected a connection for services", Some(remote)),
                },
            }
            drop(place);
        });
    }
    drop(listener);
    let _elapsed = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    router: Router,
    watcher: Watcher,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(HEAD_TIMEOUT)
        .max_header_list_size(HEAD_BYTES_MAX as u32);
    let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let router = router.clone();
        tower::ServiceExt::oneshot(router, request.map(Body::new))
    });
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // Clients go away at any time.
    let _left: Result<(), _> = watcher.watch(connection.into_owned()).await;
}
