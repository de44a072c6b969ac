//! One connection's task. Everything that happens on a connection happens here, in turns.
//!
//! A turn takes in what has arrived, runs every call that can go on, and sends all answers
//! with one write. Calls are not tasks of their own: that would cost a wake-up and a write for each answer
//! in a burst of a hundred. So what takes long must not run inside a call: it goes to the
//! threads for blocking work, see [`super::kv`].

use super::socket::Outlet;
use futures_util::Stream as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::coop;
use tokio::time::Instant;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Turns before other tasks of the same thread get theirs.
const TURNS_MAX: usize = 8;

/// Takes the calls that a connection begins.
#[derive(Clone, Default)]
pub(super) struct Begun {
    inner: Arc<Mutex<BegunInner>>,
}

#[derive(Default)]
struct BegunInner {
    calls: Vec<Call>,
    /// When the call that is taken next is dropped.
    ends_at: Option<Instant>,
}

impl Begun {
    /// Drops the call that comes next at this time if it goes on for so long: its stream is then reset,
    /// even where its answer waits for a client that does not read.
    pub(super) fn end_next_at(&self, time: Instant) {
        self.inner.lock().ends_at = Some(time);
    }
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Begun {
    fn execute(&self, call: F) {
        let mut inner = self.inner.lock();
        let call: Call = match inner.ends_at.take() {
            None => Box::pin(call),
            Some(time) => Box::pin(async move {
                let _late = tokio::time::timeout_at(time, call).await;
            }),
        };
        inner.calls.push(call);
    }
}

/// Where the task stands, for those who wake it.
const WAITING: u8 = 0;
const RUNNING: u8 = 1;
const WOKEN: u8 = 2;

/// Wakes the task from outside, and notes what happens during a turn, which then needs no wake-up.
#[derive(Default)]
struct Bell {
    state: AtomicU8,
    task: Mutex<Option<Waker>>,
}

impl Bell {
    fn set_task(&self, waker: &Waker) {
        let mut task = self.task.lock();
        if !task.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *task = Some(waker.clone());
        }
    }

    fn begin_turn(&self) {
        self.state.store(RUNNING, Ordering::SeqCst);
    }

    /// Whether nothing has happened since the turn began: then the task is to wait.
    fn end_turn(&self) -> bool {
        let state = &self.state;
        state.compare_exchange(RUNNING, WAITING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == WAITING
            && let Some(task) = &*self.task.lock()
        {
            task.wake_by_ref();
        }
    }
}

/// The connection's task: ends with the connection's result when all is sent.
pub(super) struct Connection<C: Future, S> {
    http: Pin<Box<C>>,
    begun: Begun,
    calls: FuturesUnordered<Call>,
    outlet: Outlet<S>,
    result: Option<C::Output>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

impl<C: Future, S: AsyncRead + AsyncWrite + Unpin> Connection<C, S> {
    /// `http` hands its calls to `begun` and writes to the socket of `outlet`.
    pub(super) fn new(http: C, begun: Begun, outlet: Outlet<S>) -> Self {
        let bell = Arc::<Bell>::default();
        Self {
            http: Box::pin(http),
            begun,
            calls: FuturesUnordered::new(),
            outlet,
            result: None,
            waker: bell.clone().into(),
            bell,
        }
    }

    pub(super) fn http(&mut self) -> Pin<&mut C> {
        self.http.as_mut()
    }

    /// Drops all but the end that sends.
    pub(super) fn into_outlet(self) -> Outlet<S> {
        self.outlet
    }

    /// Takes in, runs what can go on, and sends. Returns the connection's result once it
    /// has one and all is sent.
    fn turn(&mut self) -> Option<C::Output> {
        let cx = &mut Context::from_waker(&self.waker);
        if self.result.is_none() {
            match self.http.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    self.result = Some(result);
                    self.outlet.end_turns();
                }
                Poll::Pending => {
                    self.calls.extend(self.begun.inner.lock().calls.drain(..));
                    while coop::has_budget_remaining()
                        && let Poll::Ready(Some(())) = Pin::new(&mut self.calls).poll_next(cx)
                    {
                    }
                }
            }
        }
        // Sending must not wait because the calls have used up the task's budget.
        let (outlet, calls) = (&self.outlet, self.calls.len());
        let send = std::pin::pin!(coop::unconstrained(poll_fn(|cx| outlet.poll_send(calls, cx))));
        match send.poll(cx) {
            // A connection that could not send ends with its own error.
            Poll::Ready(_) => self.result.take(),
            Poll::Pending => None,
        }
    }
}

// The connection is pinned in its box.
impl<C: Future, S> Unpin for Connection<C, S> {}

impl<C: Future, S: AsyncRead + AsyncWrite + Unpin> Future for Connection<C, S> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        this.bell.set_task(cx.waker());
        for _ in 0..TURNS_MAX {
            this.bell.begin_turn();
            if let Some(result) = this.turn() {
                return Poll::Ready(result);
            }
            if !coop::has_budget_remaining() {
                break;
            }
            if this.bell.end_turn() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::departure::Departure;
    use crate::server::socket::{Socket, gathering};
    use hyper::rt::Executor as _;
    use std::io;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, DuplexStream, ReadBuf};
    use tokio::sync::oneshot;

    /// Counts what would be system calls.
    struct Counted {
        stream: DuplexStream,
        writes: Arc<AtomicUsize>,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }

    /// What the calls have answered and nobody has written yet, and who is to be told.
    #[derive(Default)]
    struct Answers {
        bytes: Vec<u8>,
        waker: Option<Waker>,
    }

    /// Stands for HTTP: writes and flushes each byte of the answers by itself, ends after `left`.
    async fn http(mut socket: Socket<Counted>, answers: Arc<Mutex<Answers>>, mut left: usize) {
        while left > 0 {
            let bytes = poll_fn(|cx| {
                let mut answers = answers.lock();
                answers.waker = Some(cx.waker().clone());
                match std::mem::take(&mut answers.bytes) {
                    bytes if bytes.is_empty() => Poll::Pending,
                    bytes => Poll::Ready(bytes),
                }
            });
            for byte in bytes.await {
                let write = poll_fn(|cx| Pin::new(&mut socket).poll_write(cx, &[byte]));
                assert_eq!(write.await.expect("a write"), 1);
                poll_fn(|cx| Pin::new(&mut socket).poll_flush(cx)).await.expect("a flush");
                left -= 1;
            }
        }
    }

    /// Runs calls that answer a byte each when they are told to; returns how often was written.
    async fn run(
        calls: usize,
        tell: impl FnOnce(Vec<oneshot::Sender<()>>) + Send + 'static,
    ) -> usize {
        let (client, stream) = tokio::io::duplex(1 << 20);
        let writes = Arc::new(AtomicUsize::new(0));
        let (socket, outlet) = gathering(
            Counted { stream, writes: writes.clone() },
            Duration::from_secs(60),
            None,
            Departure::default(),
        );
        let (begun, answers) = (Begun::default(), Arc::<Mutex<Answers>>::default());
        let mut tellers = Vec::new();
        for _ in 0..calls {
            let (teller, told) = oneshot::channel();
            tellers.push(teller);
            let answers = answers.clone();
            begun.execute(async move {
                told.await.expect("to be told");
                let mut answers = answers.lock();
                answers.bytes.push(b'x');
                answers.waker.iter().for_each(Waker::wake_by_ref);
            });
        }
        let http = http(socket, answers, calls);
        let task = tokio::spawn(Connection::new(http, begun, outlet));
        tell(tellers);
        let mut received = vec![0; calls];
        let mut client = client;
        let all = async {
            client.read_exact(&mut received).await.expect("all answers");
            task.await.expect("a task that ends");
        };
        tokio::time::timeout(Duration::from_secs(20), all).await.expect("answers in time");
        assert!(received.iter().all(|byte| *byte == b'x'));
        writes.load(Ordering::Relaxed)
    }

    fn tell_all(tellers: Vec<oneshot::Sender<()>>) {
        tellers.into_iter().for_each(|teller| teller.send(()).expect("a call that waits"));
    }

    #[tokio::test]
    async fn the_answers_of_a_turn_leave_with_one_write() {
        assert_eq!(run(50, tell_all).await, 1);
        let writes = run(10_000, tell_all).await;
        assert!(writes < 200, "{writes} writes: as many as the task's budget asks for");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_call_is_forgotten_however_it_is_woken() {
        for calls in [1, 2, 3, 100, 20_000] {
            let from_two_threads = |mut tellers: Vec<oneshot::Sender<()>>| {
                let half = tellers.split_off(tellers.len() / 2);
                std::thread::spawn(move || tell_all(half));
                std::thread::spawn(move || tell_all(tellers));
            };
            run(calls, from_two_threads).await;
        }
    }
}
