//! A connection's socket, which sends at the end of a turn what was written during it.
//!
//! HTTP/2 writes and flushes each answer by itself; a system call for each costs more than
//! the answer. So a flush is taken as a wish, and [`Outlet::poll_send`] carries it out once for all that
//! a turn of the connection's task has written. What is large goes to the socket at once.
//!
//! HTTP/1 does not read while it holds bytes of a next request. The end of each turn then reads ahead, so that calls
//! which wait are told when their client has gone.

use super::authority::{Mender, PREFACE};
use super::departure::Departure;
use super::pings::Pings;
use parking_lot::{Mutex, MutexGuard};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes gathered before they are sent without waiting for the turn's end.
const GATHERED_MAX: usize = 256 << 10;
/// Bytes read at once while they are still looked at.
const PIECE: usize = 4 << 10;
/// Memory that a connection without traffic keeps for gathering.
const KEPT_MAX: usize = 4 << 10;
/// Bytes read ahead of HTTP/1: past them the client is not looked after.
const AHEAD_MAX: usize = 4 << 10;

struct Inner<S> {
    stream: S,
    gathered: Vec<u8>,
    /// Of the gathered bytes, those already sent.
    sent: usize,
    /// Looks at pings, where they are limited and the client speaks HTTP/2.
    pings: Option<Pings>,
    /// Whether somebody waits for bytes to arrive.
    is_awaited: bool,
    /// What has arrived before anybody asked for it.
    ahead: Vec<u8>,
    departure: Departure,
}

impl<S: AsyncRead + Unpin> Inner<S> {
    /// Takes what has arrived, at first what was read ahead.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.ahead[..length]);
            self.ahead.drain(..length);
            self.ahead.shrink_to(0);
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.is_awaited = read.is_pending();
        read
    }

    /// Reads what has arrived if somebody wants to know of the client's end and nobody else would notice it.
    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        if self.is_awaited || !self.departure.is_asked_for() {
            return;
        }
        while self.ahead.len() < AHEAD_MAX {
            let mut bytes = [MaybeUninit::uninit(); AHEAD_MAX];
            let mut piece = ReadBuf::uninit(&mut bytes[self.ahead.len()..]);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut piece);
            match read {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {
                    self.ahead.extend_from_slice(piece.filled());
                }
                // Who reads later is told the same.
                Poll::Ready(_) => return self.departure.tell(),
            }
        }
    }
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
        // TLS may still hold what it could not send; a bare socket holds nothing.
        Pin::new(&mut self.stream).poll_flush(cx)
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
        let taken = if length > GATHERED_MAX {
            ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?
        } else {
            self.gathered.reserve(length);
            slices.iter().for_each(|slice| self.gathered.extend_from_slice(slice));
            length
        };
        if let Some(pings) = &mut self.pings {
            let mut left = taken;
            for slice in slices {
                let length = slice.len().min(left);
                pings.send(&slice[..length]);
                left -= length;
            }
        }
        Poll::Ready(Ok(taken))
    }
}

impl<S> Inner<S> {
    /// Takes note of what has come.
    ///
    /// # Errors
    /// Too many pings are in it: the client has been told, and nothing more is taken from it.
    fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(pings) = &mut self.pings else { return Ok(()) };
        pings.receive(bytes);
        if !pings.are_too_many() {
            return Ok(());
        }
        if let Some(farewell) = pings.farewell() {
            self.gathered.extend_from_slice(&farewell);
        }
        Err(io::Error::other("got too many pings from the client"))
    }
}

struct Shared<S> {
    inner: Mutex<Inner<S>>,
    /// No turn will end any more: the socket was handed to somebody else.
    has_no_turns: AtomicBool,
}

impl<S> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock()
    }
}

/// The connection's end of the socket.
pub(super) struct Socket<S> {
    inner: Arc<Shared<S>>,
    /// Looks at what arrives, until that is known to be in order.
    mender: Option<Box<Mender>>,
    /// When the client must have said what it speaks; `None` once it has.
    begin_by: Option<Pin<Box<Sleep>>>,
    /// The shortest time between two pings.
    ping_min: Option<Duration>,
}

/// The end that sends.
pub(super) struct Outlet<S> {
    inner: Arc<Shared<S>>,
}

/// Wraps a stream, whose client has so long to say what it speaks, and keeps so long between pings. Calls over HTTP/1
/// are told by `departure` when it has gone.
pub(super) fn gathering<S>(
    stream: S,
    begin_within: Duration,
    ping_min: Option<Duration>,
    departure: Departure,
) -> (Socket<S>, Outlet<S>) {
    let inner = Inner {
        stream,
        gathered: Vec::new(),
        sent: 0,
        pings: None,
        is_awaited: false,
        ahead: Vec::new(),
        departure,
    };
    let inner = Arc::new(Shared { inner: Mutex::new(inner), has_no_turns: AtomicBool::new(false) });
    let socket = Socket {
        inner: inner.clone(),
        mender: Some(Box::default()),
        begin_by: Some(Box::pin(sleep(begin_within))),
        ping_min,
    };
    (socket, Outlet { inner })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Outlet<S> {
    /// From now on what is written is sent: the socket goes on without turns, as one that was handed over does.
    pub(super) fn end_turns(&self) {
        self.inner.has_no_turns.store(true, Ordering::SeqCst);
    }

    /// Ready once all that was written is with the operating system. So many calls are under way.
    pub(super) fn poll_send(&self, calls: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.lock();
        if let Some(pings) = &mut inner.pings {
            pings.calls = calls;
        }
        inner.look_ahead(cx);
        inner.poll_send(cx)
    }

    /// Whether the client has pinged too often.
    pub(super) fn is_refused(&self) -> bool {
        self.inner.lock().pings.as_ref().is_some_and(Pings::are_too_many)
    }

    /// Ends the sending side, then takes in what the client still says and throws it away: a socket that is closed
    /// before takes back what the client has not read yet.
    pub(super) async fn leave(&self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.inner.lock().stream).poll_shutdown(cx)).await?;
        let mut bytes = [0; PIECE];
        loop {
            let mut piece = ReadBuf::new(&mut bytes);
            let read =
                poll_fn(|cx| Pin::new(&mut self.inner.lock().stream).poll_read(cx, &mut piece));
            read.await?;
            if piece.filled().is_empty() {
                return Ok(());
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { inner, mender, begin_by, ping_min } = &mut *self;
        let mut inner = inner.lock();
        let before = buffer.filled().len();
        while let Some(looking) = mender {
            let arrived = looking.pop(buffer.remaining());
            buffer.put_slice(&arrived);
            if looking.is_done() {
                *mender = None;
            } else if arrived.is_empty() && buffer.remaining() > 0 {
                let mut bytes = [MaybeUninit::uninit(); PIECE];
                let mut piece = ReadBuf::uninit(&mut bytes);
                let read = inner.poll_receive(cx, &mut piece);
                if read.is_pending()
                    && let Some(sleep) = begin_by
                    && sleep.as_mut().poll(cx).is_ready()
                {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                ready!(read)?;
                match piece.filled() {
                    [] => looking.end(),
                    filled => looking.push(filled),
                }
                if looking.has_begun() {
                    *begin_by = None;
                }
                if looking.speaks_http2()
                    && let Some(min) = ping_min.take()
                {
                    inner.pings = Some(Pings::new(min, PREFACE.len()));
                }
                continue;
            }
            if !arrived.is_empty() || buffer.remaining() == 0 {
                return Poll::Ready(inner.received(&buffer.filled()[before..]));
            }
        }
        ready!(inner.poll_receive(cx, buffer))?;
        Poll::Ready(inner.received(&buffer.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner.lock();
        if !self.inner.has_no_turns.load(Ordering::SeqCst) {
            return inner.poll_take(cx, slices);
        }
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner.has_no_turns.load(Ordering::SeqCst) {
            true => self.inner.lock().poll_send(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner.lock();
        ready!(inner.poll_send(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn what_nobody_reads_is_bounded_and_comes_in_order() {
        // The stream holds a tenth of what is gathered at most.
        let (mut client, stream) = tokio::io::duplex(GATHERED_MAX / 10);
        let (mut socket, outlet) =
            gathering(stream, Duration::from_secs(60), None, Departure::default());
        let all: Vec<u8> = (0..3 * GATHERED_MAX + 77).map(|n| (n % 251) as u8).collect();
        let mut taken = 0;
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // Small writes, then one that is larger than all that may be gathered.
        while let Poll::Ready(n) = Pin::new(&mut socket).poll_write(&mut cx, &all[taken..][..100]) {
            taken += n.expect("a write");
        }
        assert!(
            taken <= GATHERED_MAX + GATHERED_MAX / 10,
            "{taken} bytes taken of a reader who rests"
        );
        assert!(taken + 100 > GATHERED_MAX, "only {taken} bytes taken");

        let rest = all[taken..].to_vec();
        let writer = tokio::spawn(async move {
            socket.write_all(&rest).await.expect("a write");
            poll_fn(|cx| outlet.poll_send(0, cx)).await.expect("the rest");
            socket.shutdown().await.expect("an end");
        });
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("all bytes");
        writer.await.expect("a writer that ends");
        assert!(received == all, "the same bytes in the same order");
    }

    #[tokio::test]
    async fn a_client_that_does_not_say_what_it_speaks_is_not_waited_for() {
        for (said, is_enough) in [
            (&b""[..], false),
            (b"PRI * HTTP/2.0\r\n", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true),
            (b"G", true),
        ] {
            let (mut client, stream) = tokio::io::duplex(1000);
            let (mut socket, _outlet) =
                gathering(stream, Duration::from_millis(10), None, Departure::default());
            client.write_all(said).await.expect("a write");
            let mut received = vec![0; said.len()];
            let read = socket.read_exact(&mut received).await;
            if is_enough {
                read.expect("what was said");
                assert!(socket.begin_by.is_none());
            } else {
                let ended = socket.read(&mut [0; 9]).await.expect_err("an end");
                assert_eq!(ended.kind(), io::ErrorKind::TimedOut, "{said:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_flush_waits_for_the_end_of_the_turn() {
        let (mut client, stream) = tokio::io::duplex(1000);
        let (mut socket, outlet) =
            gathering(stream, Duration::from_secs(60), None, Departure::default());
        socket.write_all(b"one").await.expect("a write");
        socket.flush().await.expect("a flush");
        let mut received = [0; 3];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let early = Pin::new(&mut client).poll_read(&mut cx, &mut ReadBuf::new(&mut received));
        assert!(early.is_pending(), "nothing has left yet");
        poll_fn(|cx| outlet.poll_send(0, cx)).await.expect("the turn's end");
        client.read_exact(&mut received).await.expect("what was written");
        assert_eq!(&received, b"one");

        // Without turns nothing waits for their end.
        outlet.end_turns();
        drop(outlet);
        socket.write_all(b"two").await.expect("a write");
        let read = tokio::time::timeout(Duration::from_secs(20), client.read_exact(&mut received));
        read.await.expect("an answer in time").expect("what was written");
        assert_eq!(&received, b"two");
    }
}
