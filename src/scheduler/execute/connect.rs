//! Connections for cases of kind http: to addresses that may be called, and to no others.

use super::targets::Targets;
use crate::tls::{self, Dialer};
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// Makes connections for a pool.
#[derive(Clone)]
pub(super) struct Connector {
    inner: Arc<Inner>,
}

struct Inner {
    targets: Targets,
    dialer: Dialer,
    /// To each address, TLS included.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(targets: Targets, dialer: Dialer, timeout: Duration) -> Self {
        Self { inner: Arc::new(Inner { targets, dialer, timeout }) }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Wire;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move { inner.connect(&url).await })
    }
}

impl Inner {
    /// Looks the name up once, and connects to the first address that may be called and answers.
    async fn connect(&self, url: &Uri) -> io::Result<Wire> {
        let host = url.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_tls = url.scheme() == Some(&http::uri::Scheme::HTTPS);
        let port = url.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|error| io::Error::other(format!("look up {host}: {error}")))?;
        let mut failure = format!("look up {host}: no addresses");
        for address in found {
            if let Err(why) = self.targets.check(host, address.ip()) {
                failure = format!("target refused: {why}");
                continue;
            }
            let opened = tokio::time::timeout(self.timeout, self.open(host, address, is_tls)).await;
            match opened {
                Ok(Ok(wire)) => return Ok(wire),
                Ok(Err(error)) => failure = format!("{address}: {}", tls::reason(&error)),
                Err(_elapsed) => failure = format!("{address}: connect: timed out"),
            }
        }
        Err(io::Error::other(failure))
    }

    async fn open(&self, host: &str, address: SocketAddr, is_tls: bool) -> io::Result<Wire> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match is_tls {
            true => Box::new(self.dialer.secure(stream, host).await?),
            false => Box::new(stream),
        };
        Ok(Wire { stream: TokioIo::new(stream) })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection, with or without TLS.
pub(super) struct Wire {
    stream: TokioIo<Box<dyn Stream>>,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
