//! The frequent unary calls - Range, Put, Txn - without the generated server in between.
//!
//! They speak the same protocol as the generated code does and give the same answers; what they
//! save is a router, a codec and several moves of large futures for each call. A large Range comes
//! encoded and is sent as it is.

use super::budget::Share;
use super::go_words;
use super::http::text_page;
use super::kv::{KvService, RangeAnswer};
use super::long_range::LongRange;
use super::metered;
use super::validate::is_read_only_txn;
use crate::metrics::calls::CallId;
use crate::mvcc::EncodedRange;
use crate::pb::etcdserverpb::kv_server::Kv;
use crate::pb::etcdserverpb::{PutRequest, RangeRequest, RangeResponse, TxnRequest};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use prost::Message;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// The services of the client listener.
const SERVICES: [&str; 9] = [
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
];

/// What the frame of a gRPC message has in front: a flag and a length.
const PREFIX: usize = 5;

/// The largest message that Go's gRPC library sends.
const SENT_MAX: u64 = i32::MAX as u64;

/// The calls that are served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Range,
    Put,
    Txn,
}

impl Call {
    pub(super) fn id(self) -> CallId {
        match self {
            Call::Range => CallId::RANGE,
            Call::Put => CallId::PUT,
            Call::Txn => CallId::TXN,
        }
    }

    /// The call that a request makes, if it is one of these.
    pub(super) fn of(uri: &http::Uri) -> Option<Self> {
        let call = match uri.path() {
            "/etcdserverpb.KV/Range" => Call::Range,
            "/etcdserverpb.KV/Put" => Call::Put,
            "/etcdserverpb.KV/Txn" => Call::Txn,
            _ => return None,
        };
        uri.query().is_none().then_some(call)
    }
}

/// What is answered to an HTTP/2 request for a gRPC method that is no gRPC call: nothing of it is
/// carried out. A page on the web can send such requests from the browser of somebody who trusts it.
///
/// etcd has two servers for them: where TLS leads to HTTP as well as gRPC (`beside_http`) Go's own, which takes what
/// is of no gRPC kind for a request for a page, elsewhere that of its gRPC library.
pub(super) fn refuse_foreign<B>(
    request: &http::Request<B>,
    beside_http: bool,
) -> Option<http::Response<Body>> {
    let (is_grpc, is_post) = (super::http::is_grpc(request), request.method() == Method::POST);
    if is_grpc && is_post {
        return None;
    }
    let (kind, method) = (content_type(request), request.method().as_str());
    if beside_http && !kind.contains("application/grpc") {
        return None;
    }
    if beside_http {
        let mut refused = match is_post {
            false => text_page(
                StatusCode::METHOD_NOT_ALLOWED,
                format!("invalid gRPC request method {method:?}\n"),
            ),
            true => text_page(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("invalid gRPC request content-type {kind:?}\n"),
            ),
        };
        if !is_post {
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        return Some(refused.map(Body::new));
    }
    let (status, refused) = if is_grpc {
        let text = format!("Received a HEADERS frame with :method {method:?} which should be POST");
        (StatusCode::METHOD_NOT_ALLOWED, Status::internal(text))
    } else if is_call(request) {
        let text = format!("invalid gRPC request content-type {kind:?}");
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(text))
    } else {
        return None;
    };
    let mut refused = refused.into_http();
    *refused.status_mut() = status;
    Some(refused)
}

/// Whether the path is that of a call.
fn is_call<B>(request: &http::Request<B>) -> bool {
    request.uri().path().split('/').nth(1).is_some_and(is_service)
}

/// Whether the client listener has a service of this name.
pub(super) fn is_service(name: &str) -> bool {
    SERVICES.contains(&name)
}

fn content_type<B>(request: &http::Request<B>) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default()
}

/// Serves one of the calls, and notes what it says. `bytes_max` bounds the request's message.
pub(super) async fn serve<B>(
    call: Call,
    kv: &KvService,
    bytes_max: usize,
    request: http::Request<B>,
    noted: &mut metered::Call,
) -> http::Response<Body>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let result = match call {
        Call::Range => match receive::<RangeRequest, B>(request, bytes_max, noted).await {
            Ok(request) => kv.range_answer(request).await.and_then(|answer| match answer {
                RangeAnswer::Short(response) => Ok(whole(&response, response.count, noted)),
                RangeAnswer::Long(range) => in_pieces(range, noted),
            }),
            Err(status) => Err(status),
        },
        Call::Put => match receive::<PutRequest, B>(request, bytes_max, noted).await {
            Ok(request) => {
                kv.put(request).await.map(|answer| whole(&answer.into_inner(), 0, noted))
            }
            Err(status) => Err(status),
        },
        Call::Txn => match receive::<TxnRequest, B>(request, bytes_max, noted).await {
            Ok(request) => {
                if is_read_only_txn(request.get_ref()) {
                    noted.reads_only();
                }
                kv.txn(request).await.map(|mut answer| {
                    let share = answer.extensions_mut().remove::<Arc<Share>>();
                    let pieces = message(&answer.into_inner(), 0, noted);
                    Body::new(match share.and_then(Arc::into_inner) {
                        Some(share) => pieces.holding(share),
                        None => pieces,
                    })
                })
            }
            Err(status) => Err(status),
        },
    };
    match result {
        Ok(body) => {
            let mut response = http::Response::new(body);
            let kind = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(status) => status.into_http(),
    }
}

/// Reads the first message of a unary request.
async fn receive<M, B>(
    request: http::Request<B>,
    bytes_max: usize,
    noted: &mut metered::Call,
) -> Result<Request<M>, Status>
where
    M: Message + Default,
    B: HttpBody<Data = Bytes> + Unpin,
{
    let (parts, mut body) = request.into_parts();
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    // What follows the message is not waited for.
    let length = loop {
        let Some(frame) = body.frame().await else {
            return Err(match first.len().max(rest.len()) >= PREFIX {
                true => go_words::cut_message(false),
                false => go_words::no_message(false),
            });
        };
        let frame = frame.map_err(|_| Status::cancelled("the request ended early"))?;
        let Ok(data) = frame.into_data() else { continue };
        // Nearly always all of it comes in one piece, which is then decoded in place.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&std::mem::take(&mut first));
            rest.extend_from_slice(&data);
        }
        let held = if rest.is_empty() { &first[..] } else { &rest[..] };
        match declared(held) {
            Some(length) if length > bytes_max => return Err(too_large(length, bytes_max)),
            Some(length) if length + PREFIX <= held.len() => break length,
            _ => {}
        }
    };
    let mut message = if rest.is_empty() { first } else { rest.freeze() };
    if let Some(flag @ 1..) = message.first() {
        return Err(go_words::bad_flag(*flag));
    }
    message.truncate(PREFIX + length);
    let message = message.split_off(PREFIX);
    noted.received(&message);
    let message =
        M::decode(message).map_err(|error| go_words::undecodable(&error.to_string(), false))?;
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(parts.headers);
    *request.extensions_mut() = parts.extensions;
    Ok(request)
}

/// The length that a frame's prefix declares, once the prefix is there.
fn declared(frame: &[u8]) -> Option<usize> {
    let length = frame.get(1..PREFIX)?;
    Some(length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}

/// The refusal of a message that is larger than a listener takes.
pub(super) fn too_large(found: usize, bytes_max: usize) -> Status {
    // The words of the gRPC library that etcd uses.
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({found} vs. {bytes_max})"
    ))
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

fn put_prefix(frame: &mut BytesMut, length: usize) {
    frame.put_u8(0);
    frame.put_u32(length as u32);
}

/// A message in one buffer.
fn whole<M: Message>(answer: &M, pairs: i64, noted: &mut metered::Call) -> Body {
    Body::new(message(answer, pairs, noted))
}

fn message<M: Message>(message: &M, pairs: i64, noted: &mut metered::Call) -> Pieces {
    let length = message.encoded_len();
    noted.sent(pairs, length);
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut frame, length);
    message.encode_raw(&mut frame);
    Pieces { next: Some(frame.freeze()), ..Pieces::default() }
}

/// A large message.
///
/// # Errors
/// It is larger than Go's gRPC library, and so etcd, sends.
fn in_pieces(mut long: LongRange, noted: &mut metered::Call) -> Result<Body, Status> {
    let (count, pairs_len) = (long.range.count, long.range.pairs_len());
    let tail = long.take_rest().map(|rest| Box::pin(rest) as Tail);
    let mut pieces = framed(long.range, pairs_len)?;
    noted.sent(count, pieces.next.as_deref().and_then(declared).unwrap_or(0));
    pieces.share = Some(long.share);
    pieces.tail = tail;
    Ok(Body::new(pieces))
}

/// What is held of a range, behind the prefix of a frame for all of it.
fn framed(range: EncodedRange, pairs_len: u64) -> Result<Pieces, Status> {
    let EncodedRange { header, pairs, more, count, .. } = range;
    let first = RangeResponse { header, more, count, ..RangeResponse::default() };
    let first_len = first.encoded_len();
    let length = first_len as u64 + pairs_len;
    if length > SENT_MAX {
        return Err(Status::resource_exhausted(format!(
            "grpc: trying to send message larger than max ({length} vs. {SENT_MAX})"
        )));
    }
    let mut frame = BytesMut::with_capacity(PREFIX + first_len);
    put_prefix(&mut frame, length as usize);
    // Fields may come in any order.
    first.encode_raw(&mut frame);
    Ok(Pieces { next: Some(frame.freeze()), rest: pairs.into_iter(), ..Pieces::default() })
}

type Tail = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// A message on its way out.
#[derive(Default)]
struct Pieces {
    next: Option<Bytes>,
    rest: vec::IntoIter<Bytes>,
    /// What those pieces hold in memory, until they have left.
    share: Option<Share>,
    /// What is read when it is sent.
    tail: Option<Tail>,
    is_ended: bool,
}

impl Pieces {
    /// The same in one piece, which holds a share.
    fn holding(self, share: Share) -> Self {
        let next = self.next.map(|frame| {
            share.hold(frame.len());
            share.attach(frame)
        });
        Self { next, ..self }
    }

    /// The end of a message whose rest has been lost: as trailers may end it anywhere, clients learn why.
    fn failed(&mut self, status: &Status) -> Frame<Bytes> {
        self.tail = None;
        self.is_ended = true;
        let mut trailers = HeaderMap::with_capacity(2);
        // Only a text that is no header's value fails, and none of ours is.
        let _complete = status.add_header(&mut trailers);
        Frame::trailers(trailers)
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.next.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(piece) = self.rest.next() {
            // What of the last piece's buffer is not used is held with it.
            let share = match self.rest.len() {
                0 => self.share.take(),
                _ => self.share.as_ref().map(|share| share.split(piece.len())),
            };
            let piece = match share {
                Some(share) => share.attach(piece),
                None => piece,
            };
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(tail) = &mut self.tail
            && let Some(piece) = ready!(tail.as_mut().poll_next(cx))
        {
            return Poll::Ready(Some(Ok(match piece {
                Ok(piece) => Frame::data(piece),
                Err(status) => self.failed(&status),
            })));
        }
        self.tail = None;
        if std::mem::replace(&mut self.is_ended, true) {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RequestError;
    use crate::metrics::Metrics;
    use crate::pb::etcdserverpb::ResponseHeader;
    use crate::pb::mvccpb::KeyValue;
    use crate::server::budget::Budget;
    use crate::server::request_stats::Slow;
    use http_body_util::Full;
    use tonic::Code;

    #[test]
    fn beside_http_only_what_claims_to_be_grpc_is_refused_as_such() {
        let refused = |method: &str, kind: &str| {
            let request = http::Request::builder()
                .version(http::Version::HTTP_2)
                .method(method)
                .uri("/etcdserverpb.KV/Range")
                .header(CONTENT_TYPE, kind)
                .body(());
            refuse_foreign(&request.expect("a request"), true)
        };
        for (method, kind) in
            [("POST", "application/grpc"), ("POST", "text/plain"), ("GET", "text/plain")]
        {
            assert!(refused(method, kind).is_none(), "{method} {kind}");
        }
        let refusal = refused("POST", "application/grpc-web").expect("no call");
        assert_eq!((refusal.status().as_u16(), refusal.headers().get(ALLOW)), (415, None));
        assert_eq!(refusal.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        let refusal = refused("PUT", "application/grpc").expect("no call");
        assert_eq!(refusal.status(), 405);
        assert_eq!(refusal.headers()[ALLOW], "POST");
    }

    async fn collect(body: Body) -> (Bytes, HeaderMap) {
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap();
        (collected.to_bytes(), trailers)
    }

    #[tokio::test]
    async fn a_range_in_pieces_decodes_to_the_same_message() {
        for (pairs, value) in [(0, 0), (3, 10), (5_000, 300), (3, 1_000_000)] {
            let kv = |n: usize| KeyValue {
                key: format!("key{n}").into(),
                value: vec![7; value].into(),
                mod_revision: 3 + n as i64,
                ..KeyValue::default()
            };
            let response = RangeResponse {
                header: Some(ResponseHeader { revision: 9, ..ResponseHeader::default() }),
                kvs: (0..pairs).map(kv).collect(),
                more: pairs > 3,
                count: 77,
            };
            let (frame, trailers) = {
                let range = EncodedRange::from(response.clone());
                let pairs_len = range.pairs_len();
                collect(Body::new(framed(range, pairs_len).expect("its size"))).await
            };
            assert_eq!(declared(&frame), Some(frame.len() - PREFIX));
            assert_eq!(RangeResponse::decode(&frame[PREFIX..]).unwrap(), response);
            assert_eq!(trailers["grpc-status"], "0");
        }
    }

    fn noted() -> metered::Call {
        let forever = std::time::Duration::MAX;
        let slow = Slow::new(forever, forever, false);
        let metrics = Arc::new(Metrics::new(false));
        let meter = metered::Meter { metrics, slow, remote: metered::Remote::default() };
        metered::Call::begin(&meter, CallId::PUT, &HeaderMap::new())
    }

    #[tokio::test]
    async fn an_answer_whose_rest_is_lost_ends_with_trailers_that_say_why() {
        for error in [RequestError::Compacted, RequestError::Stopped] {
            let status = Status::from(error);
            let rest = [Ok(Bytes::from_static(b"rest")), Err(status.clone())];
            let tail: Tail = Box::pin(tokio_stream::iter(rest));
            let pieces = Pieces {
                next: Some("head,".into()),
                rest: vec!["first,".into()].into_iter(),
                tail: Some(tail),
                ..Pieces::default()
            };
            let (sent, trailers) = collect(Body::new(pieces)).await;
            assert_eq!(&sent[..], b"head,first,rest");
            let told = Status::from_header_map(&trailers).expect("a status");
            assert_eq!((told.code(), told.message()), (status.code(), status.message()));
        }
    }

    #[tokio::test]
    async fn pieces_hold_their_share_until_they_have_left() {
        let budget = Budget::new(1000);
        let share = budget.share();
        assert!(share.grow(700));
        let pieces = Pieces {
            next: Some("head".into()),
            rest: vec![vec![1; 300].into(), Bytes::from(vec![2; 300])].into_iter(),
            share: Some(share),
            ..Pieces::default()
        };
        let mut body = Body::new(pieces);
        let mut next = async || {
            let frame = body.frame().await.expect("a frame").expect("no error");
            frame.into_data().expect("data")
        };
        let room = |bytes| budget.share().grow(bytes);
        drop(next().await);
        let first = next().await;
        assert!(!room(51) && room(50));
        drop(first);
        let last = next().await;
        assert!(!room(351) && room(350), "what is not used of a buffer goes with its piece");
        drop(body);
        assert!(!room(351));
        drop(last);
        assert!(room(750));
    }

    async fn received(frame: &[u8]) -> Result<PutRequest, Code> {
        let request = http::Request::new(Full::new(Bytes::copy_from_slice(frame)));
        match receive::<PutRequest, _>(request, 100, &mut noted()).await {
            Ok(request) => Ok(request.into_inner()),
            Err(status) => Err(status.code()),
        }
    }

    #[tokio::test]
    async fn a_request_is_one_message_within_its_bound() {
        let put = PutRequest { key: "k".into(), value: "v".into(), ..PutRequest::default() };
        let mut frame = BytesMut::new();
        put_prefix(&mut frame, put.encoded_len());
        put.encode_raw(&mut frame);
        assert_eq!(received(&frame).await, Ok(put.clone()));
        assert_eq!(received(&frame[..frame.len() - 1]).await, Err(Code::Unknown), "cut short");
        assert_eq!(received(b"").await, Err(Code::Unknown), "no message");
        for more in [&b"x"[..], &frame, &[0; 200]] {
            assert_eq!(received(&[&frame[..], more].concat()).await, Ok(put.clone()), "{more:?}");
        }
        assert_eq!(received(&[0, 0, 0, 0, 1, 0xFF]).await, Err(Code::Internal), "no protobuf");
        assert_eq!(received(&[1, 0, 0, 0, 1, 0]).await, Err(Code::Internal), "compressed");
        assert_eq!(received(&[0, 0, 0, 1, 0]).await, Err(Code::ResourceExhausted), "declared");
        let larger = [&[0, 0, 0, 0, 101][..], &[0; 101]].concat();
        assert_eq!(received(&larger).await, Err(Code::ResourceExhausted), "sent");
    }
}
