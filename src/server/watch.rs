//! The Watch service.
//!
//! It is written by hand where the generated server would do, for one reason: a
//! response's events are bytes that many streams share, and the generated code would build
//! each as a message and encode it anew. [`WatchService`] takes the generated server's
//! place on the router and speaks the same protocol.
//!
//! Who may watch what is asked once, when a watch is created. It leaves out learners.

use super::access::{Access, Credentials};
use super::header::Headers;
use super::{go_words, metadata, validate};
use crate::error::RequestError;
use crate::machine::Need;
use crate::metrics::services::Watching;
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{WatchCreateRequest, WatchRequest, watch_server};
use crate::replica::{Handle, Status};
use crate::watch::message::WatchMessage;
use crate::watch::stream::{Asked, End};
use crate::watch::{self, StreamOptions, WatchStream};
use bytes::Bytes;
use http_body::Body as HttpBody;
use prost::Message;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::watch::{Receiver, Sender};
use tokio_stream::{Stream, StreamExt as _};
use tonic::body::Body;
use tonic::codec::{
    BufferSettings, Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder,
};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Streaming};

const METHOD: &str = "/etcdserverpb.Watch/Watch";

/// Room that each direction of a stream starts with; tonic's 8 KiB would make 10,000 idle
/// streams cost 160 MiB.
const BUFFER_BYTES: usize = 1024;

/// Bytes of messages that go to the connection at once.
const WRITE_BYTES: usize = 32 * 1024;

/// Serves `etcdserverpb.Watch`.
#[derive(Clone)]
pub struct WatchService {
    replica: Handle,
    headers: Headers,
    access: Access,
    watches: watch::Handle,
    options: StreamOptions,
    leader: Receiver<bool>,
    request_bytes_max: usize,
    numbers: Watching,
}

/// The service; `request_bytes_max` bounds one message of a client, envelope included. Starts a
/// task that ends all streams once `stop` turns true, and that tells them when the leader is lost.
pub fn server(
    replica: Handle,
    access: Access,
    watches: watch::Handle,
    (options, numbers): (StreamOptions, Watching),
    stop: Receiver<bool>,
    request_bytes_max: usize,
) -> WatchService {
    let (has_leader, leader) = tokio::sync::watch::channel(replica.leader().is_some());
    tokio::spawn(attend(replica.status(), has_leader, stop, watches.clone()));
    let headers = Headers::new(replica.clone());
    WatchService { replica, headers, access, watches, options, leader, request_bytes_max, numbers }
}

/// Passes changes on until the node stops.
async fn attend(
    mut status: Receiver<Status>,
    has_leader: Sender<bool>,
    mut stop: Receiver<bool>,
    watches: watch::Handle,
) {
    loop {
        tokio::select! {
            // An error means that the node is gone.
            _ = stop.wait_for(|stop| *stop) => break,
            changed = status.changed() => {
                let present = status.borrow_and_update().leader.is_some();
                has_leader.send_if_modified(|known| std::mem::replace(known, present) != present);
                if changed.is_err() {
                    break;
                }
            }
        }
    }
    watches.stop();
}

impl WatchService {
    fn open(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Messages<Requests>, tonic::Status> {
        metadata::check(&self.replica, request.metadata())?;
        let insists = validate::requires_leader(request.metadata());
        let leader = insists.then(|| self.leader.clone());
        let credentials =
            self.access.lasting_credentials(request.metadata().as_ref(), request.extensions());
        let access = self.access.clone();
        let requests: Requests = Box::pin(request.into_inner().then(move |request| {
            let (access, credentials) = (access.clone(), credentials.clone());
            async move { Ok(check(&access, &credentials, request?).await) }
        }));
        Ok(Messages(WatchStream::new(&self.watches, &self.options, requests, leader)))
    }
}

/// Lets a request pass, or refuses the watch that it asks for.
async fn check(access: &Access, credentials: &Credentials, request: WatchRequest) -> Asked {
    let Some(RequestUnion::CreateRequest(create)) = &request.request_union else {
        return Asked::Request(request);
    };
    // The stream refuses what begins before all history, whoever asks for it.
    if create.start_revision < 0 {
        return Asked::Request(request);
    }
    // As the stream takes it: no key is all keys.
    let key = match create.key.is_empty() {
        true => Bytes::from_static(&[0]),
        false => create.key.clone(),
    };
    match access.range(credentials, Need::Read, &key, &create.range_end).await {
        Ok(()) => Asked::Request(request),
        Err(refused) => {
            let status = tonic::Status::from(refused);
            // As Go's library writes an error.
            Asked::Refused(format!(
                "rpc error: code = {:?} desc = {}",
                status.code(),
                status.message()
            ))
        }
    }
}

/// The requests of a stream that a member opens for itself.
pub(super) type Followed =
    futures_util::stream::Iter<std::vec::IntoIter<Result<WatchRequest, tonic::Status>>>;

impl WatchService {
    /// The messages of these watches, for a member's own use; with `insists`, they end when the
    /// leader is lost.
    pub(super) fn follow(
        &self,
        creates: impl IntoIterator<Item = WatchCreateRequest>,
        insists: bool,
    ) -> Messages<Followed> {
        let request =
            |create| WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests: Vec<_> = creates.into_iter().map(|create| Ok(request(create))).collect();
        let leader = insists.then(|| self.leader.clone());
        let requests = futures_util::stream::iter(requests);
        Messages(WatchStream::new(&self.watches, &self.options, requests, leader))
    }
}

impl NamedService for WatchService {
    const NAME: &'static str = watch_server::SERVICE_NAME;
}

impl<B> tower::Service<http::Request<B>> for WatchService
where
    B: HttpBody + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        if request.uri().path() != METHOD {
            return Box::pin(ready(Ok(tonic::Status::unimplemented("").into_http())));
        }
        let service = self.clone();
        Box::pin(async move {
            let codec =
                WatchCodec { headers: service.headers.clone(), numbers: service.numbers.clone() };
            let mut grpc = Grpc::new(codec)
                .accept_compressed(CompressionEncoding::Gzip)
                .max_decoding_message_size(service.request_bytes_max);
            Ok(grpc.streaming(service, request).await)
        })
    }
}

impl StreamingService<WatchRequest> for WatchService {
    type Response = WatchMessage;
    type ResponseStream = Messages<Requests>;
    type Future = Ready<Result<Response<Self::ResponseStream>, tonic::Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        ready(self.open(request).map(Response::new))
    }
}

/// A stream's messages, its end as a gRPC status.
pub struct Messages<S>(WatchStream<S>);

type Requests = Pin<Box<dyn Stream<Item = Result<Asked, tonic::Status>> + Send>>;

impl<S, R> Stream for Messages<S>
where
    S: Stream<Item = Result<R, tonic::Status>> + Unpin,
    R: Into<Asked>,
{
    type Item = Result<WatchMessage, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map_err(|end| match end {
            End::Server(error) => error.into(),
            End::Client(status) if status.code() == tonic::Code::Cancelled => {
                RequestError::WatchCanceled.into()
            }
            End::Client(status) => go_words::of_requests(&status).unwrap_or(status),
        })
    }
}

/// Writes [`WatchMessage`] as `WatchResponse`, reads `WatchRequest`.
struct WatchCodec {
    headers: Headers,
    numbers: Watching,
}

impl Codec for WatchCodec {
    type Encode = WatchMessage;
    type Decode = WatchRequest;
    type Encoder = MessageEncoder;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> MessageEncoder {
        MessageEncoder { headers: self.headers.clone(), numbers: self.numbers.clone() }
    }

    fn decoder(&mut self) -> RequestDecoder {
        RequestDecoder
    }
}

struct MessageEncoder {
    headers: Headers,
    numbers: Watching,
}

impl Encoder for MessageEncoder {
    type Item = WatchMessage;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        message: WatchMessage,
        buffer: &mut EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        let begun = Instant::now();
        buffer.reserve(message.len_bytes());
        message.encode(&self.headers.at(message.revision), buffer);
        self.numbers.wrote(begun.elapsed(), message.events(), message.is_progress());
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, WRITE_BYTES)
    }
}

struct RequestDecoder;

impl Decoder for RequestDecoder {
    type Item = WatchRequest;
    type Error = tonic::Status;

    fn decode(
        &mut self,
        buffer: &mut DecodeBuf<'_>,
    ) -> Result<Option<WatchRequest>, tonic::Status> {
        match WatchRequest::decode(buffer) {
            Ok(request) => Ok(Some(request)),
            Err(error) => Err(tonic::Status::internal(error.to_string())),
        }
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, WRITE_BYTES)
    }
}
