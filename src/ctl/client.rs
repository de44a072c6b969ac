//! Calls to one server or several, with the rules of etcd's client for when to try again.
//!
//! Endpoints take turns. One that cannot be reached is passed over, for any call: it got nothing.
//! A call that only reads, or that may be done twice, is sent again when a server says that it is
//! unavailable; a write that was sent is not, for it may have been done. A token that is no longer
//! good is fetched anew. A command's time covers all its attempts.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::calls::{AUTHENTICATE, Call};
use super::dial::Dialing;
use super::failure::{BAD_CONNECTION, DEADLINE, Failure};
use super::options::Options;
use super::password;
use crate::pb::etcdserverpb::AuthenticateRequest;

/// Rounds through all endpoints for a call without a deadline.
const ROUNDS_MAX: u32 = 100;
/// Between two rounds.
const BACKOFF: Duration = Duration::from_millis(25);
/// Bytes of a request, unless a flag says another number.
const REQUEST_MAX: usize = 2 << 20;
/// Bytes of an answer, unless a flag says another number.
const ANSWER_MAX: usize = i32::MAX as usize;
const TOKEN: &str = "token";
const LEADER_REQUIRED: &str = "hasleader";
/// What etcd counts clients by.
const API_VERSION: (&str, &str) = ("client-api-version", "3.7");
/// A token that a server does not know any more, or that was issued before a change of users.
const STALE: [&str; 2] =
    ["etcdserver: invalid auth token", "etcdserver: revision of auth store is old"];
const NOBODY: &str = "etcdserver: user name is empty";
const LEARNER: &str = "etcdserver: rpc not supported for learner";

/// How long all attempts of a call may take together.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// Until then.
    Until(Instant),
    /// As long as there is anybody to ask.
    Endless,
}

impl Patience {
    pub(super) fn of(time: Duration) -> Self {
        Self::Until(Instant::now() + time)
    }

    fn is_over(self) -> bool {
        matches!(self, Self::Until(end) if Instant::now() >= end)
    }

    /// Waits for something as long as patience lasts.
    async fn during<T>(self, waiting: impl Future<Output = T>) -> Result<T, Status> {
        match self {
            Self::Endless => Ok(waiting.await),
            Self::Until(end) => tokio::time::timeout_at(end, waiting)
                .await
                .map_err(|_| Status::deadline_exceeded(DEADLINE)),
        }
    }
}

/// A client of some servers.
pub(super) struct Client {
    servers: Vec<Server>,
    dialing: Dialing,
    /// Whose turn it is.
    turn: AtomicUsize,
    user: Option<User>,
    token: Mutex<Option<AsciiMetadataValue>>,
    patience: Patience,
    request_max: usize,
    answer_max: usize,
}

struct Server {
    endpoint: String,
    channel: Mutex<Option<Channel>>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(super) enum User {
    Password { name: String, password: String },
    Token(AsciiMetadataValue),
}

impl Client {
    /// A client of all endpoints for a short command, whose time begins now.
    pub(super) async fn short(options: &Options) -> Result<Self, Failure> {
        let client = Self::endless(options).await?;
        Ok(client.with_patience(Patience::of(options.command_timeout())))
    }

    /// A client of all endpoints for a command that goes on until it is told to stop.
    pub(super) async fn endless(options: &Options) -> Result<Self, Failure> {
        let (endpoints, user) = (options.endpoints().await?, password::user(options)?);
        Self::of(endpoints, options, user, Patience::Endless).await
    }

    /// The same with another time for its calls.
    pub(super) fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// A client that shows who asks.
    ///
    /// # Errors
    /// When the servers do not take the name and password, with etcdctl's exit code for that.
    pub(super) async fn of(
        endpoints: Vec<String>,
        options: &Options,
        user: Option<User>,
        patience: Patience,
    ) -> Result<Self, Failure> {
        let server = |endpoint| Server { endpoint, channel: Mutex::new(None) };
        let or = |limit, other| if limit == 0 { other } else { limit };
        let client = Self {
            servers: endpoints.into_iter().map(server).collect(),
            dialing: options.dialing()?,
            turn: AtomicUsize::new(0),
            user,
            token: Mutex::new(None),
            patience: Patience::Endless,
            request_max: or(options.max_request_bytes, REQUEST_MAX),
            answer_max: or(options.max_recv_bytes, ANSWER_MAX),
        };
        let time = match options.dial_timeout.is_zero() {
            true => Patience::Endless,
            false => Patience::of(options.dial_timeout),
        };
        let login = client.log_in(time).await;
        login.map_err(|status| Failure::from(status).with_code(BAD_CONNECTION))?;
        Ok(Self { patience, ..client })
    }

    /// Fetches a token, or takes the one that was given.
    async fn log_in(&self, patience: Patience) -> Result<(), Status> {
        let token = match &self.user {
            None => None,
            Some(User::Token(token)) => Some(token.clone()),
            Some(User::Password { name, password }) => {
                let (name, password) = (name.clone(), password.clone());
                let request = AuthenticateRequest { name, password };
                match Box::pin(self.attempts(&AUTHENTICATE, request, patience)).await {
                    Ok(answer) => AsciiMetadataValue::try_from(answer.token).ok(),
                    Err(status) if is_auth_off(&status) => None,
                    Err(status) => return Err(status),
                }
            }
        };
        *self.token.lock() = token;
        Ok(())
    }

    /// One call, at one server or several after each other.
    pub(super) async fn call<Q, A>(&self, call: &Call<Q, A>, request: Q) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.attempts(call, request, self.patience).await
    }

    async fn attempts<Q, A>(
        &self,
        call: &Call<Q, A>,
        request: Q,
        patience: Patience,
    ) -> Result<A, Status>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let mut failed = 0;
        if request.encoded_len() > self.request_max {
            return Err(Status::resource_exhausted(format!(
                "trying to send message larger than max ({} vs. {})",
                request.encoded_len(),
                self.request_max
            )));
        }
        loop {
            let (turn, channel) = self.channel(patience).await?;
            let mut message = self.request(request.clone());
            if let Patience::Until(end) = patience {
                message.set_timeout(end.saturating_duration_since(Instant::now()));
            }
            let path = PathAndQuery::from_static(call.path);
            let answer = patience.during(async {
                let mut grpc = self.grpc(channel);
                ready(&mut grpc).await?;
                grpc.unary(message, path, ProstCodec::<Q, A>::default()).await
            });
            let status = match answer.await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) | Err(status) => status,
            };
            if patience.is_over() {
                return Err(Status::deadline_exceeded(DEADLINE));
            }
            failed += 1;
            if failed >= ROUNDS_MAX || !self.tries_again(call, &status, turn, patience).await? {
                return Err(status);
            }
            // A majority is asked without waiting.
            if (failed as usize).is_multiple_of(self.servers.len() / 2 + 1) {
                tokio::time::sleep(BACKOFF).await;
            }
        }
    }

    /// Whether a call that failed may be sent again; prepares for that.
    async fn tries_again<Q, A>(
        &self,
        call: &Call<Q, A>,
        status: &Status,
        turn: usize,
        patience: Patience,
    ) -> Result<bool, Status> {
        if self.is_token_stale(status) {
            self.log_in(patience).await?;
            return Ok(true);
        }
        if is_broken(status) {
            *self.servers[turn].channel.lock() = None;
        }
        let is_learner = status.message() == LEARNER && self.servers.len() > 1;
        let may_repeat = call.is_repeatable && is_unavailable(status);
        self.turn.store(turn + 1, Ordering::Relaxed);
        Ok(is_learner || may_repeat)
    }

    fn is_token_stale(&self, status: &Status) -> bool {
        let has_password = matches!(self.user, Some(User::Password { .. }));
        let text = status.message();
        has_password && (STALE.contains(&text) || text == NOBODY)
    }

    /// Opens a stream from the server; the first that can be reached serves it.
    pub(super) async fn listen<Q, A>(
        &self,
        call: &Call<Q, A>,
        request: Q,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (_, channel) = self.channel(self.patience).await?;
        let path = PathAndQuery::from_static(call.path);
        let request = self.request(request);
        let opening = async {
            let mut grpc = self.grpc(channel);
            ready(&mut grpc).await?;
            grpc.server_streaming(request, path, ProstCodec::<Q, A>::default()).await
        };
        Ok(self.patience.during(opening).await??.into_inner())
    }

    /// Opens a stream in both directions, which a server without a leader ends.
    pub(super) async fn converse<Q, A>(
        &self,
        call: &Call<Q, A>,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (turn, channel) = self.channel(self.patience).await?;
        let path = PathAndQuery::from_static(call.path);
        let mut request = requests.into_streaming_request();
        self.sign(request.metadata_mut());
        let leader_required = AsciiMetadataValue::from_static("true");
        request.metadata_mut().insert(LEADER_REQUIRED, leader_required);
        let opening = async {
            let mut grpc = self.grpc(channel);
            ready(&mut grpc).await?;
            grpc.streaming(request, path, ProstCodec::<Q, A>::default()).await
        };
        let opened = self.patience.during(opening).await?;
        if opened.as_ref().is_err_and(is_broken) {
            *self.servers[turn].channel.lock() = None;
        }
        self.turn.store(turn + 1, Ordering::Relaxed);
        Ok(opened?.into_inner())
    }

    /// Takes what a stream that came to an end says about its token; true if it may be opened anew.
    pub(super) async fn renew_after(&self, text: &str) -> Result<bool, Status> {
        let is_stale = self.is_token_stale(&Status::unknown(text));
        if is_stale {
            self.log_in(self.patience).await?;
        }
        Ok(is_stale)
    }

    /// A connection to the next server that can be reached, and that server's place.
    async fn channel(&self, patience: Patience) -> Result<(usize, Channel), Status> {
        for round in 0.. {
            let mut last = String::new();
            for step in 0..self.servers.len() {
                let turn = (self.turn.load(Ordering::Relaxed) + step) % self.servers.len();
                let server = &self.servers[turn];
                if let Some(channel) = server.channel.lock().clone() {
                    return Ok((turn, channel));
                }
                match patience.during(self.dialing.connect(&server.endpoint)).await? {
                    Ok(channel) => {
                        *server.channel.lock() = Some(channel.clone());
                        self.turn.store(turn, Ordering::Relaxed);
                        return Ok((turn, channel));
                    }
                    Err(why) => last = format!("failed to connect to {}: {why}", server.endpoint),
                }
            }
            if round >= ROUNDS_MAX {
                return Err(Status::unavailable(last));
            }
            patience.during(tokio::time::sleep(BACKOFF)).await?;
        }
        Err(Status::unavailable("no server was given"))
    }

    /// Connects to the first server, once, for those who want to know why it cannot be reached.
    pub(super) async fn reach(&self) -> Result<(), String> {
        let Some(server) = self.servers.first() else { return Ok(()) };
        let endpoint = &server.endpoint;
        let reached = self.dialing.connect(endpoint).await;
        let channel = reached.map_err(|why| format!("failed to connect to {endpoint}: {why}"))?;
        *server.channel.lock() = Some(channel);
        Ok(())
    }

    fn grpc(&self, channel: Channel) -> Grpc<Channel> {
        Grpc::new(channel)
            .max_encoding_message_size(self.request_max)
            .max_decoding_message_size(self.answer_max)
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        self.sign(request.metadata_mut());
        request
    }

    fn sign(&self, metadata: &mut MetadataMap) {
        let (name, version) = API_VERSION;
        metadata.insert(name, AsciiMetadataValue::from_static(version));
        if let Some(token) = &*self.token.lock() {
            metadata.insert(TOKEN, token.clone());
        }
    }
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    let broken = |error: tonic::transport::Error| Status::from_error(Box::new(error));
    grpc.ready().await.map_err(broken)
}

/// The connection ended, or was never there.
fn is_broken(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::transport::Error>() || error.is::<h2::Error>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The server may be right back, or another may do.
pub(super) fn is_unavailable(status: &Status) -> bool {
    status.code() == Code::Unavailable || is_broken(status)
}

fn is_auth_off(status: &Status) -> bool {
    status.message() == "etcdserver: authentication is not enabled"
}

impl<Q, A> Call<Q, A> {
    pub(super) const fn new(path: &'static str, is_repeatable: bool) -> Self {
        Self { path, is_repeatable, messages: PhantomData }
    }
}
