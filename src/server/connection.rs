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
use tokio::io::AsyncWrite;
use tokio::task::coop;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Turns before other tasks of the same thread get theirs.
const TURNS_MAX: usize = 8;

/// Takes the calls that a connection begins.
#[derive(Clone, Default)]
pub(super) struct Begun {
    calls: Arc<Mutex<Vec<Call>>>,
}

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Begun {
    fn execute(&self, call: F) {
        self.calls.lock().push(Box::pin(call));
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

impl<C: Future, S: AsyncWrite + Unpin> Connection<C, S> {
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

    /// Takes in, runs what can go on, and sends. Returns the connection's result once it
    /// has one and all is sent.
    fn turn(&mut self) -> Option<C::Output> {
        let cx = &mut Context::from_waker(&self.waker);
        if self.result.is_none() {
            match self.http.as_mut().poll(cx) {
                Poll::Ready(result) => self.result = Some(result),
                Poll::Pending => {
                    self.calls.extend(self.begun.calls.lock().drain(..));
                    while coop::has_budget_remaining()
                        && let Poll::Ready(Some(())) = Pin::new(&mut self.calls).poll_next(cx)
                    {
                    }
                }
            }
        }
        // Sending must not wait because the calls have used up the task's budget.
        let outlet = &self.outlet;
        let send = std::pin::pin!(coop::unconstrained(poll_fn(|cx| outlet.poll_send(cx))));
        match send.poll(cx) {
            // A connection that could not send ends with its own error.
            Poll::Ready(_) => self.result.take(),
            Poll::Pending => None,
        }
    }
}

// The connection is pinned in its box.
impl<C: Future, S> Unpin for Connection<C, S> {}

impl<C: Future, S: AsyncWrite + Unpin> Future for Connection<C, S> {
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
