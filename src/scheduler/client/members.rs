//! The members of the store as one channel: each call goes to a member that answers.
//!
//! tonic's own list of endpoints gives calls to those that cannot be reached as well, and they fail
//! there: of three members one that is down would be enough for most calls to fail, though the store
//! has its quorum. etcd's client library, too, takes in turn those that are connected.

use super::{Access, CALL_TIMEOUT, CONNECT_TIMEOUT, PING_INTERVAL, PING_TIMEOUT, Patience};
use crate::tls;
use bytes::Bytes;
use etcd_client::Error;
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use std::error::Error as AnyError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tower::{BoxError, Service, ServiceExt as _};

/// A member that does not answer a call for so long is asked whether it is there at all.
const SILENCE: Duration = Duration::from_secs(1);
/// The same for a call that nobody waits for any longer.
const SILENCE_LEFT: Duration = Duration::from_millis(500);
/// By then it must have said so.
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Before one that was away is tried again, while others are there.
const REST: Duration = Duration::from_secs(1);
/// Before all of them are asked again what none could answer.
const ROUND: Duration = Duration::from_millis(100);

/// What is said of a call whose member answers no longer.
const WENT_AWAY: &str = "the member that was asked went away";

/// Calls that bring requests one after another: they cannot be made again.
const STREAMS: [&str; 2] = [WATCH, "/etcdserverpb.Lease/LeaseKeepAlive"];
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// Calls that may be made twice.
const READS: [&str; 4] = [
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Auth/Authenticate",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Maintenance/Status",
];

type Answer = Result<Response<Body>, BoxError>;

/// Makes connections when the first call comes. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Members(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    members: Vec<Member>,
    turn: AtomicUsize,
    /// Connections made so far.
    links: AtomicUsize,
    /// A member is found to be there, or away.
    found: Notify,
    patience: Patience,
}

#[derive(Debug)]
struct Member {
    endpoint: Endpoint,
    state: Mutex<State>,
    /// It was said that it is away.
    is_missed: AtomicBool,
}

#[derive(Debug)]
enum State {
    Unknown,
    /// Somebody finds out whether it is there.
    Asked,
    Ready(Link),
    Away {
        since: Instant,
        why: String,
        /// It is connected, but knows no leader, say. Better than none.
        link: Option<Link>,
    },
}

/// A connection; the number tells it from the one before.
#[derive(Clone, Debug)]
struct Link {
    number: usize,
    channel: Channel,
}

impl Members {
    /// # Errors
    ///
    /// When an endpoint cannot be used; that none answers now is seen at the first call.
    pub(super) fn new(access: &Access) -> Result<Self, Error> {
        let tls = access.tls();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut members = Vec::new();
        for endpoint in &access.endpoints {
            let url = match endpoint.contains("://") {
                true => endpoint.clone(),
                false => format!("{scheme}://{endpoint}"),
            };
            let is_secure = url.starts_with("https://");
            let mut endpoint = Endpoint::from_shared(url.clone())
                .map_err(|error| Error::InvalidArgs(format!("{url}: {}", tls::reason(&error))))?;
            if let Some(tls) = tls.clone().filter(|_| is_secure) {
                endpoint = endpoint.tls_config(tls)?;
            }
            let endpoint = endpoint
                .keep_alive_while_idle(false)
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .connect_timeout(CONNECT_TIMEOUT);
            let (state, is_missed) = (Mutex::new(State::Unknown), AtomicBool::default());
            members.push(Member { endpoint, state, is_missed });
        }
        if members.is_empty() {
            return Err(Error::InvalidArgs("empty endpoints".into()));
        }
        let (turn, links, found) = Default::default();
        Ok(Self(Arc::new(Shared { members, turn, links, found, patience: access.patience })))
    }

    /// A member that is there, in turn; one that knows no leader if there is no other.
    async fn pick(&self) -> Result<(usize, Link), BoxError> {
        let begin = Instant::now();
        let shared = &self.0;
        let count = shared.members.len();
        loop {
            let found = shared.found.notified();
            let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
            let order = (0..count).map(|step| (turn + step) % count);
            let (mut ready, mut asked, mut doubtful, mut reason) = (None, false, None, None);
            for at in order {
                match &*shared.members[at].state.lock() {
                    State::Ready(link) if ready.is_none() => ready = Some((at, link.clone())),
                    State::Away { why, link, .. } => {
                        doubtful = doubtful.or_else(|| Some((at, link.clone()?)));
                        reason = Some(why.clone());
                    }
                    State::Asked => asked = true,
                    State::Unknown | State::Ready(_) => {}
                }
            }
            // While one is there the others have time; else each is tried once for this call.
            let rested = begin.checked_sub(REST).filter(|_| ready.is_some());
            let asks = self.ask_those_away(rested.unwrap_or(begin));
            match (ready, asked || asks, doubtful) {
                (Some(ready), ..) => return Ok(ready),
                (None, true, _) => found.await,
                (None, false, Some(doubtful)) => return Ok(doubtful),
                (None, false, None) => return Err(away(reason.unwrap_or_default())),
            }
        }
    }

    /// Tries those anew that were found away before then. Whether there are any.
    fn ask_those_away(&self, then: Instant) -> bool {
        let mut asks = false;
        for (at, member) in self.0.members.iter().enumerate() {
            let mut state = member.state.lock();
            let link = match &mut *state {
                State::Unknown => None,
                State::Away { since, link, .. } if *since < then => link.take(),
                _ => continue,
            };
            *state = State::Asked;
            asks = true;
            self.ask(at, link);
        }
        asks
    }

    /// The member has failed, or is silent: whether it is there is found out beside.
    fn doubt(&self, at: usize, link: &Link, is_broken: bool) {
        let mut state = self.0.members[at].state.lock();
        if matches!(&*state, State::Ready(now) if now.number == link.number)
            && (is_broken || self.0.members.len() > 1)
        {
            *state = State::Asked;
            self.ask(at, (!is_broken).then(|| link.clone()));
        }
    }

    /// Finds out whether a member is there, on a connection or by making one.
    fn ask(&self, at: usize, link: Option<Link>) {
        let members = self.clone();
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let state = members.look(at, link).await;
            members.tell(at, &state);
            *members.0.members[at].state.lock() = state;
            members.0.found.notify_waiters();
        });
    }

    /// Says once that a member went away, and that it came back. Who has but one hears of that by its calls.
    fn tell(&self, at: usize, state: &State) {
        let member = &self.0.members[at];
        match state {
            _ if self.0.members.len() == 1 => {}
            State::Away { why, .. } => {
                if !member.is_missed.swap(true, Ordering::Relaxed) {
                    tracing::warn!(why, "a member of the store is away");
                }
            }
            _ => {
                if member.is_missed.swap(false, Ordering::Relaxed) {
                    tracing::info!(member = member.name(), "a member of the store is back");
                }
            }
        }
    }

    async fn look(&self, at: usize, link: Option<Link>) -> State {
        let member = &self.0.members[at];
        let endpoint = &member.endpoint;
        let away = |why: String, link| {
            let why = format!("{}: {why}", member.name());
            State::Away { since: Instant::now(), why, link }
        };
        let link = match link {
            Some(link) => link,
            None => match timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
                Ok(Ok(channel)) => {
                    Link { number: self.0.links.fetch_add(1, Ordering::Relaxed), channel }
                }
                Ok(Err(error)) => return away(tls::reason(&error), None),
                Err(_) => return away("no connection in time".into(), None),
            },
        };
        // Who has no choice need not know.
        if self.0.members.len() == 1 {
            return State::Ready(link);
        }
        let channel = etcd_client::Channel::Tonic(link.channel.clone());
        let status = async {
            etcd_client::Client::from_channel(channel, None)
                .await?
                .maintenance_client()
                .status()
                .await
        };
        match timeout(PROBE_TIMEOUT, status).await {
            Ok(Ok(status)) if status.is_learner() => away("a learner".into(), Some(link)),
            Ok(Ok(status)) if status.leader() == 0 => away("no leader".into(), Some(link)),
            Ok(Ok(_)) => State::Ready(link),
            Ok(Err(Error::GRpcStatus(status))) if is_of_store(status.code()) => State::Ready(link),
            Ok(Err(Error::GRpcStatus(status))) => away(said(&status), None),
            Ok(Err(error)) => away(error.to_string(), None),
            Err(_) => away("no answer".into(), Some(link)),
        }
    }

    /// Done when the member was found away, and another is there.
    async fn is_away(&self, at: usize) {
        loop {
            let found = self.0.found.notified();
            let is = |member: &Member, what: fn(&State) -> bool| what(&member.state.lock());
            let others = self.0.members.iter();
            if is(&self.0.members[at], |state| matches!(state, State::Away { .. }))
                && others
                    .into_iter()
                    .any(|other| is(other, |state| matches!(state, State::Ready(_))))
            {
                return;
            }
            found.await;
        }
    }

    /// Makes a call at one member.
    async fn send(&self, at: usize, link: &Link, request: Request<Body>) -> Answer {
        let mut waits = Waits { members: self, at, link, since: Instant::now(), is_over: false };
        let answer = async { link.channel.clone().ready().await?.call(request).await };
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            never = waits.doubt_after_silence() => match never {},
        };
        waits.is_over = true;
        match &answer {
            Ok(answer) if is_unavailable(answer) => self.doubt(at, link, false),
            Ok(_) => {}
            Err(_) => self.doubt(at, link, true),
        }
        answer.map_err(Into::into)
    }

    async fn call_any(&self, request: Request<Body>) -> Answer {
        let path = request.uri().path().to_owned();
        if STREAMS.contains(&&*path) {
            let (at, link) = self.pick().await?;
            let mut request = request;
            if path == WATCH {
                // One at a member without a leader would wait in silence.
                request.headers_mut().insert("hasleader", HeaderValue::from_static("true"));
            }
            let answer = tokio::select! {
                answer = self.send(at, &link, request) => answer?,
                () = self.is_away(at) => return Err(away(WENT_AWAY.into())),
            };
            let (members, is_cut) = (self.clone(), false);
            let away = Box::pin(async move { members.is_away(at).await });
            return Ok(answer.map(|body| Body::new(Stream { body, away, is_cut })));
        }
        let may_repeat = READS.contains(&&*path);
        let answer = self.call_in_turn(request, may_repeat);
        match self.0.patience {
            Patience::All(time) => timeout(time, answer).await.unwrap_or_else(|_| Err(late())),
            Patience::Reads(time) if may_repeat => {
                timeout(time, answer).await.unwrap_or_else(|_| Err(late()))
            }
            Patience::Reads(_) | Patience::Usual => answer.await,
        }
    }

    /// Makes a call at one member after another, as long as it is certain that it may be.
    async fn call_in_turn(&self, request: Request<Body>, may_repeat: bool) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let begin = Instant::now();
        let mut left = self.0.members.len();
        loop {
            left -= 1;
            let (at, link) = self.pick().await?;
            let sent = self.send(at, &link, rebuilt(&parts, &body));
            let answer = tokio::select! {
                answer = sent => answer,
                () = self.is_away(at) => match may_repeat && left > 0 {
                    true => continue,
                    // What became of a change is not known, however long it is waited for.
                    false => return Err(away(WENT_AWAY.into())),
                },
            };
            let goes_on = match &answer {
                Ok(answer) => may_repeat && is_unavailable(answer),
                Err(error) => may_repeat || is_unsent(&**error),
            };
            if !goes_on || left == 0 && answer.is_err() || begin.elapsed() >= CALL_TIMEOUT {
                return answer;
            }
            if left == 0 {
                // They are there, and soon one of them may lead: that takes a second or two.
                sleep(ROUND).await;
                left = self.0.members.len();
            }
        }
    }
}

/// Answers that come one after another from a member: they end when that is found away.
struct Stream {
    body: Body,
    away: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_cut {
            return Poll::Ready(None);
        }
        if self.away.as_mut().poll(cx).is_ready() {
            self.is_cut = true;
            return Poll::Ready(Some(Err(Status::unavailable(WENT_AWAY))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// Somebody waits for an answer. When that ends without one, the member is doubted.
struct Waits<'a> {
    members: &'a Members,
    at: usize,
    link: &'a Link,
    since: Instant,
    is_over: bool,
}

impl Waits<'_> {
    async fn doubt_after_silence(&self) -> std::convert::Infallible {
        loop {
            sleep(SILENCE).await;
            self.members.doubt(self.at, self.link, false);
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.since.elapsed() >= SILENCE_LEFT {
            self.members.doubt(self.at, self.link, false);
        }
    }
}

impl Member {
    fn name(&self) -> &str {
        self.endpoint.uri().authority().map_or("", |authority| authority.as_str())
    }
}

fn away(why: String) -> BoxError {
    Status::unavailable(why).into()
}

fn late() -> BoxError {
    Status::deadline_exceeded("no answer in time").into()
}

/// Why what was asked is no member that could serve calls.
fn said(status: &Status) -> String {
    match (status.code(), status.source()) {
        (Code::Unimplemented, _) => format!("no store answers there: {}", status.message()),
        (_, Some(source)) => tls::reason(source),
        (_, None) => status.message().to_owned(),
    }
}

/// Whether a store says this that would serve other calls. What else answers at an address, or closes the
/// connection, is told by other codes.
fn is_of_store(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::ResourceExhausted
    )
}

fn rebuilt(parts: &http::request::Parts, body: &Bytes) -> Request<Body> {
    Request::from_parts(parts.clone(), Body::new(Full::new(body.clone())))
}

fn is_unavailable(answer: &Response<Body>) -> bool {
    let unavailable = Code::Unavailable as i32;
    let code = answer.headers().get(Status::GRPC_STATUS).and_then(|code| code.to_str().ok());
    code.and_then(|code| code.parse().ok()) == Some(unavailable)
}

/// Whether there was no connection on which the call could have gone out.
fn is_unsent(error: &(dyn AnyError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(one) = error {
        if one.is::<tonic::ConnectError>() {
            return true;
        }
        error = one.source();
    }
    false
}

impl Service<Request<Body>> for Members {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let members = self.clone();
        Box::pin(async move { members.call_any(request).await })
    }
}
