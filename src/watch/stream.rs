//! One watch stream: requests in, messages out, polled by the task that serves the call.
//!
//! [`WatchStream`] has no task and no channel of its own: whoever writes to the client's
//! socket polls it, so an event crosses one queue between the hub and the socket, and a
//! client that does not read holds up nothing but its own queue. Requests are read only when there is
//! nothing to send, which bounds what they can bring about.
//!
//! The stream outlives the client's half of the call: after the last request it goes on
//! delivering. It ends when it is dropped, when the request side fails, when the server stops, or,
//! if the client asked for that, when there is no leader.

use super::StreamOptions;
use super::hub::{Handle, Seat, Taken};
use super::message::WatchMessage;
use super::session::Session;
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::WatchRequest;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;

/// Progress intervals are stretched by up to this part, so that streams which were opened together do
/// not all speak at once.
const PROGRESS_JITTER: f64 = 0.1;

const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Election timeouts for which a stream that insists on a leader waits for one.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// What the client wants of a stream.
#[derive(Debug)]
pub enum Asked {
    Request(WatchRequest),
    /// A watch that it may not have, with the reason.
    Refused(String),
}

impl From<WatchRequest> for Asked {
    fn from(request: WatchRequest) -> Self {
        Asked::Request(request)
    }
}

/// Why a stream ended; `E` is what the request side failed with.
#[derive(Debug)]
pub enum End<E> {
    Server(RequestError),
    Client(E),
}

/// The messages of one watch call.
pub struct WatchStream<S> {
    /// None after the client's last request.
    requests: Option<S>,
    seat: Seat,
    session: Session,
    options: StreamOptions,
    leader: Option<Leader>,
    progress: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

/// The presence of a leader, for clients that insist on one.
#[derive(Debug)]
struct Leader {
    present: tokio_stream::wrappers::WatchStream<bool>,
    /// Runs while there is none.
    patience: Option<Pin<Box<Sleep>>>,
}

/// What became of a look at all that a stream has to do.
enum Step {
    Done,
    /// Something was done that took long; others first.
    Yield,
    Idle,
}

impl<S, R, E> WatchStream<S>
where
    S: Stream<Item = Result<R, E>> + Unpin,
    R: Into<Asked>,
{
    /// A stream without watches. With `leader`, it ends when that has said false for three
    /// election timeouts.
    pub fn new(
        handle: &Handle,
        options: &StreamOptions,
        requests: S,
        leader: Option<tokio::sync::watch::Receiver<bool>>,
    ) -> Self {
        let (seat, session) = handle.open(options.fragment_bytes);
        let leader = leader.map(|present| Leader {
            present: tokio_stream::wrappers::WatchStream::new(present),
            patience: None,
        });
        Self {
            requests: Some(requests),
            seat,
            session,
            options: *options,
            leader,
            progress: None,
            ended: false,
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchMessage, End<E>>> {
        loop {
            let turn = ready!(tokio::task::coop::poll_proceed(cx));
            if self.seat.stopped() {
                return Poll::Ready(Err(End::Server(RequestError::Stopped)));
            }
            let message = self.session.pop().map_err(|fatal| self.fail(fatal))?;
            if let Some(message) = message {
                turn.made_progress();
                return Poll::Ready(Ok(message));
            }
            match self.step(cx)? {
                Step::Done => turn.made_progress(),
                Step::Yield => {
                    turn.made_progress();
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Idle => return Poll::Pending,
            }
        }
    }

    /// Does the first thing there is to do. When there is none, all wakers are in place.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<Step, End<E>> {
        match self.seat.take(&mut self.session, cx) {
            Taken::Items => return Ok(Step::Done),
            Taken::Nothing => {}
            Taken::Stopped => return Err(End::Server(RequestError::Stopped)),
        }
        if self.poll_request(cx)?
            || (self.session.wants_sync() && self.seat.sync(&mut self.session))
        {
            return Ok(Step::Done);
        }
        if self.seat.read(&mut self.session).map_err(|fatal| self.fail(fatal))? {
            return Ok(if self.session.is_ready() { Step::Done } else { Step::Yield });
        }
        if self.poll_progress(cx) {
            return Ok(Step::Done);
        }
        self.poll_leader(cx)?;
        Ok(Step::Idle)
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<bool, End<E>> {
        let Some(requests) = &mut self.requests else { return Ok(false) };
        match Pin::new(requests).poll_next(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => self.requests = None,
            Poll::Ready(Some(Ok(asked))) => match asked.into() {
                Asked::Request(request) => self.session.request(request),
                Asked::Refused(reason) => self.session.refuse(reason),
            },
            Poll::Ready(Some(Err(error))) => return Err(End::Client(error)),
        }
        Ok(true)
    }

    /// Runs the timer of progress notifications while some watch wants them.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.session.wants_ticks() {
            self.progress = None;
            return false;
        }
        let options = &self.options;
        let timer =
            self.progress.get_or_insert_with(|| Box::pin(sleep(progress_interval(options))));
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        timer.as_mut().reset(Instant::now() + progress_interval(options));
        self.session.tick();
        true
    }

    fn poll_leader(&mut self, cx: &mut Context<'_>) -> Result<(), End<E>> {
        let Some(leader) = &mut self.leader else { return Ok(()) };
        while let Poll::Ready(present) = Pin::new(&mut leader.present).poll_next(cx) {
            match present {
                Some(true) => leader.patience = None,
                Some(false) => {
                    let patience = LEADERLESS_TIMEOUTS * self.options.election_timeout;
                    leader.patience.get_or_insert_with(|| Box::pin(sleep(patience)));
                }
                // Who knew of leaders is gone: the server is about to stop the streams.
                None => {
                    self.leader = None;
                    return Ok(());
                }
            }
        }
        let patience = leader.patience.as_mut().map(|patience| patience.as_mut().poll(cx));
        match patience {
            Some(Poll::Ready(())) => Err(End::Server(RequestError::NoLeader)),
            Some(Poll::Pending) | None => Ok(()),
        }
    }

    /// Passes the failure on to the node, which will stop; the client may try another member.
    fn fail(&self, fatal: Fatal) -> End<E> {
        self.seat.fail(fatal);
        End::Server(RequestError::Stopped)
    }
}

impl<S, R, E> Stream for WatchStream<S>
where
    S: Stream<Item = Result<R, E>> + Unpin,
    R: Into<Asked>,
{
    type Item = Result<WatchMessage, End<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let message = this.poll_message(cx);
        this.seat.count(this.session.counts());
        let message = ready!(message);
        this.ended = message.is_err();
        Poll::Ready(Some(message))
    }
}

fn progress_interval(options: &StreamOptions) -> Duration {
    let interval = match options.progress_interval {
        Duration::ZERO => PROGRESS_INTERVAL_DEFAULT,
        interval => interval.max(PROGRESS_INTERVAL_MIN),
    };
    interval.mul_f64(1.0 + PROGRESS_JITTER * rand::random::<f64>())
}
