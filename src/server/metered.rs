//! Counts a call on its way through: its beginning, its messages, its end, and the log lines about
//! those that take too long.
//!
//! [`Call`] goes along with the three calls that are served without the generated server; it costs
//! them two looks at the clock and a handful of additions. All other calls go through [`serve`],
//! which reads along in what is received and sent.

use super::deadline::{Deadline, bounded};
use super::one_message::Taken;
use super::request_stats::{Recorded, Slow};
use super::validate::is_read_only_txn;
use crate::metrics::Metrics;
use crate::metrics::calls::{Begun, CallId, Kind};
use crate::pb::etcdserverpb::TxnRequest;
use axum::extract::State;
use axum::middleware::Next;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message as _;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tonic::body::Body;
use tonic::codegen::StdError;

/// Where a client is, as far as its socket has an address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Remote(pub(super) Option<SocketAddr>);

/// What is counted where, and what is worth a line in the log.
#[derive(Clone)]
pub(super) struct Meter {
    pub(super) metrics: Arc<Metrics>,
    pub(super) slow: Slow,
    pub(super) remote: Remote,
}

/// What a client says of itself.
fn version(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("client-api-version").map(http::HeaderValue::as_bytes)
}

/// The code with which a response ends before its body, if it does.
fn early_code(headers: &HeaderMap) -> Option<usize> {
    headers.get("grpc-status").map(code)
}

/// Unknown, unless it is a number.
fn code(value: &http::HeaderValue) -> usize {
    value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(tonic::Code::Unknown as usize)
}

/// A call that is served by hand, from its beginning to its end.
pub(super) struct Call {
    begun: Begun,
    meter: Meter,
    recorded: Recorded,
}

impl Call {
    pub(super) fn begin(meter: &Meter, call: CallId, headers: &HeaderMap) -> Self {
        let begun = meter.metrics.calls.begin(call, version(headers));
        Self { begun, meter: meter.clone(), recorded: Recorded::default() }
    }

    /// The request's message, without its frame.
    pub(super) fn received(&mut self, message: &Bytes) {
        self.begun.calls().received(self.begun.call(), 1, message.len() as u64);
        self.recorded.request = message.clone();
    }

    /// The transaction reads only.
    pub(super) fn reads_only(&mut self) {
        self.begun.reads_only();
        self.recorded.is_read = true;
    }

    /// The answer's message: how many pairs it tells of, and its length without the frame.
    pub(super) fn sent(&mut self, pairs: i64, length: usize) {
        self.begun.calls().sent(self.begun.call(), 1, length as u64);
        (self.recorded.pairs, self.recorded.response_len) = (pairs, length);
    }

    /// The answer is made: all of it is in the response, or will follow without a failure.
    pub(super) fn end<B>(mut self, response: &http::Response<B>) {
        let took = self.begun.end(early_code(response.headers()).unwrap_or(0));
        self.meter.slow.look(self.begun.call(), took, &self.recorded, &self.meter);
    }
}

/// Counts gRPC messages and their bytes in what passes by.
#[derive(Default)]
struct Frames {
    prefix: [u8; 5],
    prefix_len: usize,
    /// Bytes of the present message that are still to come.
    left: usize,
}

impl Frames {
    /// Messages that begin in these bytes, and bytes of messages.
    fn pass(&mut self, mut bytes: &[u8]) -> (u64, u64) {
        let (mut messages, mut length) = (0, 0);
        while !bytes.is_empty() {
            let of_message = bytes.len().min(self.left);
            length += of_message as u64;
            self.left -= of_message;
            bytes = &bytes[of_message..];
            while let Some((byte, rest)) = bytes.split_first().filter(|_| self.left == 0) {
                self.prefix[self.prefix_len] = *byte;
                self.prefix_len += 1;
                bytes = rest;
                if self.prefix_len == self.prefix.len() {
                    let [_, declared @ ..] = self.prefix;
                    self.left = u32::from_be_bytes(declared) as usize;
                    self.prefix_len = 0;
                    messages += 1;
                }
            }
        }
        (messages, length)
    }
}

/// A request on its way in.
struct Incoming<B> {
    body: B,
    frames: Frames,
    metrics: Arc<Metrics>,
    call: CallId,
    kept: Kept,
}

/// A request's message, for the line about a call that takes too long; of most calls none is kept.
type Kept = Arc<OnceLock<Bytes>>;

/// What follows the frame's head, where all of it came at once.
fn message(frame: &Bytes) -> Bytes {
    frame.slice(frame.len().min(PREFIX)..)
}

/// Length of a frame's head.
const PREFIX: usize = 5;

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Incoming<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            if self.call.is_of_store() {
                self.kept.get_or_init(|| message(data));
            }
            let (messages, bytes) = self.frames.pass(data);
            self.metrics.calls.received(self.call, messages, bytes);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer on its way out. Dropped before its end, it was given up by the client.
struct Outgoing {
    body: Body,
    frames: Frames,
    begun: Begun,
    meter: Meter,
    request: Kept,
    response: Bytes,
    length: usize,
    is_over: bool,
}

impl Outgoing {
    fn end(&mut self, code: usize) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let recorded = Recorded {
            request: self.request.get().cloned().unwrap_or_default(),
            response: std::mem::take(&mut self.response),
            response_len: self.length,
            ..Recorded::default()
        };
        finish(&self.meter, &mut self.begun, code, recorded);
    }
}

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if self.length == 0 && self.begun.call().is_of_store() {
                        self.response = message(data);
                    }
                    let (messages, bytes) = self.frames.pass(data);
                    self.length += bytes as usize;
                    self.begun.calls().sent(self.begun.call(), messages, bytes);
                } else if let Some(trailers) = frame.trailers_ref() {
                    let code = early_code(trailers).unwrap_or(0);
                    self.end(code);
                }
            }
            Some(Err(status)) => {
                let code = status.code() as usize;
                self.end(code);
            }
            None => self.end(0),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends a call, and tells of it what is to be told.
fn finish(meter: &Meter, begun: &mut Begun, code: usize, mut recorded: Recorded) {
    if begun.call() == CallId::TXN
        && TxnRequest::decode(&recorded.request[..]).is_ok_and(|txn| is_read_only_txn(&txn))
    {
        begun.reads_only();
        recorded.is_read = true;
    }
    let took = begun.end(code);
    let row = begun.call().row();
    if row.kind == Kind::Unary {
        meter.slow.look(begun.call(), took, &recorded, meter);
        return;
    }
    let is_usual = [tonic::Code::Ok, tonic::Code::Cancelled, tonic::Code::Unavailable]
        .iter()
        .any(|usual| *usual as usize == code);
    match row.method {
        "Watch" if !is_usual => meter.metrics.watching.watches_failed.add(1),
        "LeaseKeepAlive" if !is_usual => meter.metrics.watching.keep_alives_failed.add(1),
        _ => {}
    }
}

/// Serves a call with `serve`, and counts it if it is one that exists.
pub(super) async fn serve<B, E>(
    meter: Meter,
    request: http::Request<B>,
    serve: impl AsyncFnOnce(http::Request<Body>) -> Result<http::Response<Body>, E>,
) -> Result<http::Response<Body>, E>
where
    B: HttpBody<Data = Bytes, Error: Into<StdError>> + Unpin + Send + 'static,
{
    let Some(call) = meter.metrics.calls.find(request.uri().path()) else {
        return serve(request.map(Body::new)).await;
    };
    let mut begun = meter.metrics.calls.begin(call, version(request.headers()));
    let (metrics, kept) = (meter.metrics.clone(), Kept::default());
    let asked = kept.clone();
    let request = request.map(|body| {
        let body = Taken::new(call.row().kind, body);
        Body::new(Incoming { body, frames: Frames::default(), metrics, call, kept })
    });
    let response = serve(request).await?;
    if let Some(code) = early_code(response.headers()) {
        let request = asked.get().cloned().unwrap_or_default();
        finish(&meter, &mut begun, code, Recorded { request, ..Recorded::default() });
        return Ok(response);
    }
    Ok(response.map(|body| {
        let frames = Frames::default();
        let (request, response) = (asked, Bytes::new());
        Body::new(Outgoing {
            body,
            frames,
            begun,
            meter,
            request,
            response,
            length: 0,
            is_over: false,
        })
    }))
}

/// Counts the calls of the gateway, which reach their services without HTTP/2.
pub(super) async fn count(
    State(mut meter): State<Meter>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    meter.remote = request.extensions().get().copied().unwrap_or_default();
    let through = async |request: http::Request<Body>| {
        let deadline = request.extensions().get().copied();
        let served = async {
            let response = next.run(request.map(axum::body::Body::new)).await;
            Ok::<_, Infallible>(response.map(Body::new))
        };
        match deadline {
            None => served.await,
            Some(Deadline(deadline)) => bounded(deadline, served).await,
        }
    };
    let Ok(response) = serve(meter, request, through).await;
    response.map(axum::body::Body::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let mut wire = Vec::new();
        for length in [0u32, 3, 300, 1] {
            wire.push(0);
            wire.extend_from_slice(&length.to_be_bytes());
            wire.extend(std::iter::repeat_n(7, length as usize));
        }
        for piece in [1, 2, 5, 7, 1000] {
            let mut frames = Frames::default();
            let counted: Vec<_> = wire.chunks(piece).map(|bytes| frames.pass(bytes)).collect();
            let messages: u64 = counted.iter().map(|(messages, _)| messages).sum();
            let bytes: u64 = counted.iter().map(|(_, bytes)| bytes).sum();
            assert_eq!((messages, bytes), (4, 304), "in pieces of {piece}");
        }
    }

    use std::time::Duration;

    fn meter() -> Meter {
        let slow = Slow::new(Duration::from_secs(60), Duration::from_secs(60), false);
        Meter { metrics: Arc::new(Metrics::new(false)), slow, remote: Remote::default() }
    }

    fn lines<'p>(page: &'p str, begin: &str) -> Vec<&'p str> {
        page.lines().filter(|line| line.starts_with(begin) && !line.ends_with(" 0")).collect()
    }

    async fn watch(meter: &Meter, answer: http::Response<Body>) -> http::Response<Body> {
        let frame = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]);
        let request = http::Request::builder().uri("/etcdserverpb.Watch/Watch");
        let request = request.body(Full::new(frame)).expect("a request");
        let served = serve(meter.clone(), request, async |request: http::Request<Body>| {
            request.into_body().collect().await.expect("a body");
            Ok::<_, Infallible>(answer)
        });
        let Ok(response) = served.await;
        response
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_trailers_or_when_nobody_wants_it_any_more() {
        let meter = meter();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("14"));
        let message = Frame::data(Bytes::from_static(&[0, 0, 0, 0, 1, 7]));
        let frames = vec![Ok::<_, tonic::Status>(message), Ok(Frame::trailers(trailers))];
        let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        let response = watch(&meter, http::Response::new(body)).await;
        response.into_body().collect().await.expect("an answer");

        let endless = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>());
        drop(watch(&meter, http::Response::new(Body::new(endless))).await);

        let refused = tonic::Status::permission_denied("no").into_http();
        watch(&meter, refused).await;

        let page = meter.metrics.page();
        let labels =
            r#"grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}"#;
        let handled = |code| format!(r#"grpc_server_handled_total{{grpc_code="{code}",{labels} 1"#);
        let mut expected =
            vec![handled("Canceled"), handled("PermissionDenied"), handled("Unavailable")];
        expected.sort();
        let mut found = lines(&page, "grpc_server_handled_total");
        found.sort_unstable();
        assert_eq!(found, expected);
        for (name, count) in [("started", 3), ("msg_received", 6), ("msg_sent", 1)] {
            let line = format!("grpc_server_{name}_total{{{labels} {count}");
            assert_eq!(lines(&page, &format!("grpc_server_{name}")), [line]);
        }
        let failed = "etcd_network_server_stream_failures_total";
        assert_eq!(lines(&page, failed), [format!(r#"{failed}{{API="watch",Type="receive"}} 1"#)]);
    }
}
