//! Serves connections of one listening socket: HTTP/1.1 and HTTP/2 on the same port.
//!
//! With TLS the handshake comes first, in the connection's own task: one that is never finished
//! holds nobody else up. Each connection is served by its own task with the limits below; a stop sends GOAWAY,
//! lets calls in flight end for a while, then closes.

use super::connection::{Begun, Connection};
use super::deadline::Ending;
use super::departure::Departure;
use super::socket::gathering;
use crate::tls::ServerTls;
use bytes::Bytes;
use futures_util::FutureExt as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes a client may send ahead on one stream and on one connection. The connection's window
/// also sets how many small frames h2 takes before it calls a client abusive.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls that a client may open and cancel before they are looked at. A burst of calls with short
/// deadlines is honest; at the library's 20 all else on the connection would end with it.
const RESETS_MAX: usize = 32 << 10;
/// Frames for a stream that is over, in the life of a connection: a client may say that its request has ended after it
/// has been answered. Past the library's 1024 a connection that lives long would end with all its calls.
const STRAYS_MAX: usize = 1 << 20;
/// Bytes of a call's headers: a few long tokens.
pub(super) const HEADERS_MAX: u32 = 1 << 20;
/// Headers of a request over HTTP/1: more than any proxy adds. The place for them is taken for each request.
const HEADERS_COUNT_MAX: usize = 1000;
/// Bytes of answers that one stream may hold for a client that reads slowly.
const SEND_BUFFER: usize = 256 << 10;
/// How long a client may take to say what it speaks.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client of HTTP/1 may take over a request's head, as in etcd, and rest between two requests: longer than
/// proxies and pools of connections do, so that none sends a request on one that we are about to close.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// What a client of TLS says first: a record of a handshake.
const HANDSHAKE: u8 = 22;
/// How long calls in flight may go on after a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a client that is sent away may take to read why.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after its start a connection is not sent away: its client's first words may be on their way.
const BEGIN_GRACE: Duration = Duration::from_millis(50);
/// How long a client may take to read the last answers after a stop.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(100);
/// How long to wait after a failed accept: the process may be short of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    /// In the file system, where it is removed in the end.
    Unix {
        listener: UnixListener,
        file: SocketFile,
    },
}

/// The file of a socket in the file system: removed when the listener ends.
#[derive(Debug)]
pub struct SocketFile(pub PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have removed it before.
        let _gone = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// The next connection.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                // Without it small answers wait for the client's delayed acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "failed to set TCP_NODELAY");
                }
                Ok(Accepted::Tcp(stream, remote))
            }
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, remote) => Some(*remote),
            Self::Unix(_) => None,
        }
    }
}

/// What is spoken on a listener.
#[derive(Clone)]
pub enum Security {
    Plain,
    Tls(Gate),
    /// Either of them, as each client chooses with its first byte.
    Both(Gate),
}

/// How connections with TLS come in.
#[derive(Clone)]
pub struct Gate {
    pub tls: ServerTls,
    /// The log line about one that does not.
    pub rejected: &'static str,
}

/// What is known of a connection when it begins.
#[derive(Clone, Debug, Default)]
pub struct Connected {
    pub is_tls: bool,
    /// The common name of the certificate that the client has shown and that was checked.
    pub common_name: Option<Arc<str>>,
    /// Where the client is; a socket in the file system has no address.
    pub remote: Option<SocketAddr>,
}

/// What a listener grants each connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub concurrent_streams_max: u32,
    /// Interval and timeout of the server's own pings, if it sends any.
    pub ping: Option<(Duration, Duration)>,
    /// What is asked of the client's pings, if anything is.
    pub client_pings: Option<ClientPings>,
}

/// What is asked of clients that send pings.
#[derive(Clone, Copy, Debug)]
pub struct ClientPings {
    /// The shortest time between two, while calls are under way.
    pub min: Duration,
    /// Whether that holds for connections with TLS too.
    pub over_tls: bool,
}

/// What can be served on a connection.
pub trait HttpService:
    hyper::service::Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<Self::Answer>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    type Answer: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>>
        + Send
        + 'static;
}

impl<S, B> HttpService for S
where
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<B>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
        + Send
        + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
{
    type Answer = B;
}

/// Accepts until `stop` turns true, then drains. `service` makes what serves a connection.
pub async fn serve<S: HttpService>(
    listener: Listener,
    security: Security,
    service: impl Fn(Connected) -> S + Clone + Send + 'static,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let (leave, leaving) = watch::channel(false);
    let take = |connections: &mut JoinSet<()>, accepted| {
        begin(connections, accepted, &security, &service, limits, leaving.clone());
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(accepted) => take(&mut connections, accepted),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // A client that is sent away may come back at once, and shall be refused then: a connection
    // that nobody has accepted is reset with the call that it carries.
    while let Some(Ok(accepted)) = listener.accept().now_or_never() {
        take(&mut connections, accepted);
    }
    drop(listener);
    leave.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left is dropped, and with it its sockets.
    let _elapsed = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}

/// Serves a connection in a task of its own until `stop` turns true.
fn begin<S: HttpService>(
    connections: &mut JoinSet<()>,
    accepted: Accepted,
    security: &Security,
    service: &(impl Fn(Connected) -> S + Clone + Send + 'static),
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
) {
    let (is_choice, gate) = match security {
        Security::Plain => {
            let service = service(Connected { remote: accepted.remote(), ..Connected::default() });
            match accepted {
                Accepted::Tcp(stream, _) => {
                    connections.spawn(connection(stream, service, limits, false, stop))
                }
                Accepted::Unix(stream) => {
                    connections.spawn(connection(stream, service, limits, false, stop))
                }
            };
            return;
        }
        Security::Tls(gate) => (false, gate.clone()),
        Security::Both(gate) => (true, gate.clone()),
    };
    let admission = match accepted {
        Accepted::Tcp(stream, remote) => admit(any(stream), Some(remote), is_choice, gate),
        Accepted::Unix(stream) => admit(any(stream), None, is_choice, gate),
    };
    connections.spawn(admitted(admission, service.clone(), limits, stop));
}

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Socket for S {}

/// A socket of any kind: under TLS, what it is costs nothing that could be measured.
struct AnySocket(Box<dyn Socket>);

fn any(socket: impl Socket + 'static) -> AnySocket {
    AnySocket(Box::new(socket))
}

impl AsyncRead for AnySocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for AnySocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

type Admitted = Pin<Box<dyn Future<Output = Option<(AnySocket, Connected)>> + Send>>;

/// Finds out what a client speaks, and shakes hands if that is TLS; `None` if it is not to be
/// served.
fn admit(stream: AnySocket, remote: Option<SocketAddr>, is_choice: bool, gate: Gate) -> Admitted {
    Box::pin(async move {
        // One byte: what follows goes past the buffer.
        let mut stream = BufReader::with_capacity(1, stream);
        if is_choice {
            match tokio::time::timeout(BEGIN_TIMEOUT, stream.fill_buf()).await {
                Ok(Ok([HANDSHAKE])) => {}
                Ok(Ok([_, ..])) => {
                    return Some((any(stream), Connected { remote, ..Connected::default() }));
                }
                // It has left, or says nothing.
                _ => return None,
            }
        }
        match gate.tls.accept(stream, remote).await {
            Ok(accepted) => {
                let common_name = accepted.common_name.map(Arc::from);
                let connected = Connected { is_tls: true, common_name, remote };
                Some((any(accepted.stream), connected))
            }
            Err(refused) => {
                refused.log(gate.rejected, remote);
                None
            }
        }
    })
}

/// Serves a client once it is admitted.
async fn admitted<S: HttpService>(
    admission: Admitted,
    service: impl Fn(Connected) -> S,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let admitted = tokio::select! {
        admitted = admission => admitted,
        () = stopped(&mut stop) => return,
    };
    if let Some((stream, connected)) = admitted {
        let is_tls = connected.is_tls;
        connection(stream, service(connected), limits, is_tls, stop).await;
    }
}

async fn connection<S: HttpService>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    limits: ConnectionLimits,
    is_tls: bool,
    mut stop: watch::Receiver<bool>,
) {
    let begin_until = Instant::now() + BEGIN_GRACE;
    let begun = Begun::default();
    let client_pings = limits.client_pings.filter(|pings| pings.over_tls || !is_tls);
    let departure = Departure::default();
    let ping_min = client_pings.map(|pings| pings.min);
    let (socket, outlet) = gathering(stream, BEGIN_TIMEOUT, ping_min, departure.clone());
    let mut builder = auto::Builder::new(begun.clone());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEADERS_MAX as usize)
        .max_headers(HEADERS_COUNT_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(STRAYS_MAX)
        .max_header_list_size(HEADERS_MAX)
        .keep_alive_interval(limits.ping.map(|(interval, _)| interval));
    if let Some((_, timeout)) = limits.ping {
        builder.http2().keep_alive_timeout(timeout);
    }
    let service = Ending { service, begun: begun.clone(), departure };
    let http = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    let mut connection = Connection::new(http, begun, outlet);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopped(&mut stop) => {
            let result = match tokio::time::timeout_at(begin_until, &mut connection).await {
                Ok(result) => result,
                Err(_elapsed) => {
                    connection.http().graceful_shutdown();
                    (&mut connection).await
                }
            };
            if result.is_ok() {
                // The last answers are on their way to a client that may be sending still.
                let left = connection.into_outlet();
                let _elapsed = tokio::time::timeout(FAREWELL_TIMEOUT, left.leave()).await;
                return;
            }
            result
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
        let outlet = connection.into_outlet();
        if outlet.is_refused() {
            let _elapsed = tokio::time::timeout(LEAVE_TIMEOUT, outlet.leave()).await;
        }
    }
}

/// Returns once the node stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ended = stop.wait_for(|stop| *stop).await;
}
