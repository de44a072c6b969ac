//! Serves connections of one listening socket: HTTP/1.1 and HTTP/2 on the same port.
//!
//! Each connection is served by its own task with the limits below; a stop sends GOAWAY,
//! lets calls in flight end for a while, then closes.

use super::connection::{Begun, Connection};
use super::socket::gathering;
use bytes::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes a client may send ahead on one stream and on one connection. The connection's window
/// also sets how many small frames h2 takes before it calls a client abusive.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls that a client may open and cancel before they are looked at. A burst of calls with short
/// deadlines is honest; at the library's 20 all else on the connection would end with it.
const RESETS_MAX: usize = 4096;
/// Bytes of answers that one stream may hold for a client that reads slowly.
const SEND_BUFFER: usize = 256 << 10;
/// How long a client may take to say what it speaks, and one of HTTP/1 over its request head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long calls in flight may go on after a stop.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
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
                let (stream, _) = listener.accept().await?;
                // Without it small answers wait for the client's delayed acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "failed to set TCP_NODELAY");
                }
                Ok(Accepted::Tcp(stream))
            }
            Self::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What a listener grants each connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub concurrent_streams_max: u32,
    /// Interval and timeout of the server's own pings, if it sends any.
    pub ping: Option<(Duration, Duration)>,
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

/// Accepts until `stop` turns true, then drains.
pub async fn serve<S: HttpService>(
    listener: Listener,
    service: S,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok(Accepted::Tcp(stream)) => {
                connections.spawn(connection(stream, service.clone(), limits, stop.clone()));
            }
            Ok(Accepted::Unix(stream)) => {
                connections.spawn(connection(stream, service.clone(), limits, stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left is dropped, and with it its sockets.
    let _elapsed = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
}

async fn connection<S: HttpService>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let begun = Begun::default();
    let (socket, outlet) = gathering(stream, HEADER_TIMEOUT);
    let mut builder = auto::Builder::new(begun.clone());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams_max)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .keep_alive_interval(limits.ping.map(|(interval, _)| interval));
    if let Some((_, timeout)) = limits.ping {
        builder.http2().keep_alive_timeout(timeout);
    }
    let http = builder.serve_connection(TokioIo::new(socket), service);
    let mut connection = Connection::new(http, begun, outlet);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stopped(&mut stop) => {
            connection.http().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

/// Returns once the node stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ended = stop.wait_for(|stop| *stop).await;
}
