//! A connection's socket, which sends at the end of a turn what was written during it.
//!
//! HTTP/2 writes and flushes each answer by itself; a system call for each costs more than
//! the answer. So a flush is taken as a wish, and [`Outlet::poll_send`] carries it out once for all that
//! a turn of the connection's task has written. What is large goes to the socket at once.

use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are sent without waiting for the turn's end.
const GATHERED_MAX: usize = 256 << 10;
/// Memory that a connection without traffic keeps for gathering.
const KEPT_MAX: usize = 4 << 10;

struct Inner<S> {
    stream: S,
    gathered: Vec<u8>,
    /// Of the gathered bytes, those already sent.
    sent: usize,
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Sends all that is gathered.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.gathered.len() {
            let rest = &self.gathered[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.sent += sent,
            }
        }
        self.sent = 0;
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_MAX);
        Poll::Ready(Ok(()))
    }

    /// Takes bytes of the slices, all if they fit, else as many as the socket takes behind what
    /// is gathered.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.gathered.len() + length > GATHERED_MAX {
            ready!(self.poll_send(cx))?;
        }
        if length > GATHERED_MAX {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        }
        self.gathered.reserve(length);
        slices.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
        Poll::Ready(Ok(length))
    }
}

/// The connection's end of the socket.
pub(super) struct Socket<S> {
    inner: Arc<Mutex<Inner<S>>>,
}

/// The end that sends.
pub(super) struct Outlet<S> {
    inner: Arc<Mutex<Inner<S>>>,
}

/// Wraps a stream.
pub(super) fn gathering<S>(stream: S) -> (Socket<S>, Outlet<S>) {
    let inner = Arc::new(Mutex::new(Inner { stream, gathered: Vec::new(), sent: 0 }));
    (Socket { inner: inner.clone() }, Outlet { inner })
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Ready once all that was written is with the operating system.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.lock().poll_send(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner.lock().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner.lock().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner.lock().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.lock();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}
