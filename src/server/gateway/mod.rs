//! The JSON gateway: the calls of the client listener as POST requests with JSON bodies.
//!
//! One translation for all calls: JSON to protobuf by descriptor, the call through the same
//! router that gRPC clients reach, protobuf to JSON. So a call behaves here as it does there, and
//! a new one needs a row in [`schema`] at most. A stream answers one object a line, at once.
//!
//! A client that asks for a WebSocket gets one. A call ends with its connection, or when its `Grpc-Timeout` is over.

mod read;
mod rest;
mod schema;
mod stream;
mod timeout;
mod values;
mod websocket;
mod write;

use super::budget::Share;
use super::call_head;
use super::deadline::{Deadline, by};
use super::departure::Departed;
use super::long_work::{Kind, apart_unattended};
use super::metered::Remote;
use axum::Router;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method as Verb, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::ext::ReasonPhrase;
use prost_reflect::MessageDescriptor;
use rest::Rest;
use schema::Method;
use std::future::ready;
use std::sync::Arc;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt as _;
use values::{Broken, Values};

/// Where the gateway's paths begin.
pub(super) const PREFIX: &str = "/v3/";
/// What gRPC puts in front of a message: a flag and a length.
const FRAME_PREFIX: usize = 5;
/// A body is at most this much longer than the message in it: base64 takes a third more, and
/// numbers, names and blanks take the rest.
const JSON_PER_MESSAGE: usize = 2;
/// Bytes whose translation is a piece of work: some milliseconds.
const PIECE_MAX: usize = 2 << 20;
/// Bytes that are translated within a connection's turn: some 100 us of work.
const AT_ONCE_MAX: usize = 64 << 10;
/// Headers with this prefix go to the call without it.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// Translates between JSON and the services behind a router.
#[derive(Clone)]
pub(super) struct Gateway {
    services: Router,
    message_bytes_max: usize,
    /// Turns true when the node stops.
    stop: Receiver<bool>,
}

impl Gateway {
    /// `message_bytes_max` bounds a request's message in its wire form.
    pub(super) fn new(services: Router, message_bytes_max: usize, stop: Receiver<bool>) -> Self {
        Self { services, message_bytes_max, stop }
    }

    /// Answers a request whose path begins with [`PREFIX`], or opens a WebSocket that makes one.
    pub(super) async fn serve(
        &self,
        request: http::Request<axum::body::Body>,
    ) -> http::Response<Body> {
        if websocket::is_asked_for(request.headers()) {
            return websocket::open(self, request);
        }
        self.answer(request, true).await
    }

    /// Answers a request. One of a single message is made of its body's first value, once the body has come to its end
    /// if that is waited for.
    async fn answer(
        &self,
        request: http::Request<axum::body::Body>,
        waits_for_end: bool,
    ) -> http::Response<Body> {
        let Some(method) = request.uri().path().strip_prefix(PREFIX).and_then(schema::method)
        else {
            return refusal(&Status::not_found("Not Found"));
        };
        if request.method() != Verb::POST {
            return refusal(&Status::unimplemented("Method Not Allowed"));
        }
        if let Some(refused) = malformed(request.headers()) {
            return refusal(&refused);
        }
        let deadline = match timeout::deadline(request.headers()) {
            Ok(deadline) => deadline,
            Err(malformed) => return refusal(&malformed),
        };
        let (parts, body) = request.into_parts();
        let body = Body::new(body);
        let departed = parts.extensions.get::<Departed>().cloned();
        let (body, mut rest) = if method.takes_stream {
            let (requests, rest) =
                stream::Requests::new(body, self.values(), &method.input, departed);
            (Body::new(requests), rest)
        } else {
            match self.one_message(body, &method.input, waits_for_end).await {
                Ok((message, rest)) => (Body::new(Full::new(message)), Rest::of(rest, departed)),
                Err(status) => return refusal(&status),
            }
        };
        // What is late before it begins is refused as a call, even where a stream would say so in a line.
        if let Err(late) = until(deadline, ready(())).await {
            return refusal(&late);
        }
        let call = match rest.unless_broken(self.call(method, &parts, body, deadline)).await {
            Ok(call) => call,
            Err(gone) => return refusal(&gone),
        };
        if method.gives_stream {
            return stream::answer(call, &method.output, deadline, rest).await;
        }
        match until(deadline, one_answer(call, &method.output)).await.flatten() {
            Ok(json) => answered(Body::new(Full::new(json))),
            Err(status) => refusal(&status),
        }
    }

    fn values(&self) -> Values {
        Values::new(self.message_bytes_max.saturating_mul(JSON_PER_MESSAGE))
    }

    /// The request's message, framed, and what is left of the body; an empty body stands for an empty message.
    async fn one_message(
        &self,
        mut body: Body,
        input: &MessageDescriptor,
        waits_for_end: bool,
    ) -> Result<(Bytes, Body), Status> {
        let json = first_value(&mut body, self.values()).await?;
        if waits_for_end {
            drain(&mut body).await?;
        }
        let input = input.clone();
        let framed = translate(json.len(), move || frame(&json, &input)).await?;
        let framed = framed.map_err(Status::invalid_argument)?;
        match framed.len() - FRAME_PREFIX {
            length if length > self.message_bytes_max => {
                Err(super::unary::too_large(length, self.message_bytes_max))
            }
            _ => Ok((framed, body)),
        }
    }

    /// Makes the call that a gRPC client would make.
    async fn call(
        &self,
        method: &Method,
        parts: &http::request::Parts,
        body: Body,
        deadline: Option<Instant>,
    ) -> http::Response<axum::body::Body> {
        let mut request = http::Request::new(body);
        *request.method_mut() = Verb::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static("/");
        if let Ok(path) = method.path.parse() {
            *request.uri_mut() = path;
        }
        *request.headers_mut() = metadata(&parts.headers);
        if let Some(remote) = parts.extensions.get::<Remote>() {
            request.extensions_mut().insert(*remote);
        }
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        match self.services.clone().oneshot(request).await {
            Ok(response) => super::go_words::refused(&method.path, response),
            Err(never) => match never {},
        }
    }
}

/// Does something until the deadline, if there is one.
async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Status> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => by(deadline, work).await,
    }
}

/// What is wrong with headers that are meant for the call.
fn malformed(headers: &HeaderMap) -> Option<Status> {
    let of_call = headers.iter().filter(|(name, _)| {
        name.as_str().starts_with(METADATA_PREFIX) && name.as_str().ends_with("-bin")
    });
    let faults = of_call.filter_map(|(name, value)| {
        let at = call_head::base64_fault(value.as_bytes())?;
        let (name, why) = (as_in_go(name), call_head::illegal_base64(at));
        Some(Status::invalid_argument(format!("invalid binary header {name}: {why}")))
    });
    faults.into_iter().next()
}

/// A header's name with capitals, as Go writes it.
fn as_in_go(name: &HeaderName) -> String {
    let capitalized = name.as_str().split('-').map(|word| {
        let mut letters = word.chars();
        letters.next().map_or(String::new(), |first| {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        })
    });
    capitalized.collect::<Vec<_>>().join("-")
}

/// What a call is told of a request's headers.
fn metadata(headers: &HeaderMap) -> HeaderMap {
    let mut metadata = HeaderMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix(METADATA_PREFIX) else { continue };
        // These say how the call itself is made.
        if name.starts_with("grpc-") || [CONTENT_TYPE.as_str(), TE.as_str()].contains(&name) {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            metadata.append(name, value.clone());
        }
    }
    if let Some(token) = headers.get(AUTHORIZATION) {
        let bare = token.as_bytes().strip_prefix(b"Bearer ").unwrap_or(token.as_bytes());
        if let Ok(bare) = HeaderValue::from_bytes(bare) {
            metadata.insert(AUTHORIZATION, bare);
        }
    }
    metadata.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(TE, HeaderValue::from_static("trailers"));
    metadata
}

/// The first JSON value of a body; of an empty one, an empty object. What follows is not read.
async fn first_value(body: &mut Body, mut values: Values) -> Result<Bytes, Status> {
    loop {
        if let Some(value) = values.next(false).map_err(refused)? {
            return Ok(value);
        }
        match body.frame().await {
            Some(Ok(piece)) => {
                if let Ok(data) = piece.into_data() {
                    values.push(&data);
                }
            }
            Some(Err(_)) => return Err(Status::invalid_argument("unexpected EOF")),
            None => {
                let value = values.next(true).map_err(refused)?;
                return Ok(value.unwrap_or(Bytes::from_static(b"{}")));
            }
        }
    }
}

/// Throws away what follows. A client that has not sent all of its request may not look for an answer yet.
///
/// # Errors
/// The client breaks its request off.
async fn drain(body: &mut Body) -> Result<(), Status> {
    while let Some(piece) = body.frame().await {
        piece.map_err(|_| rest::given_up())?;
    }
    Ok(())
}

fn refused(broken: Broken) -> Status {
    match broken {
        Broken::Syntax(text) => Status::invalid_argument(text),
        Broken::TooLarge { found, max } => super::unary::too_large(found, max),
    }
}

/// A message in gRPC's frame.
fn frame(json: &[u8], input: &MessageDescriptor) -> Result<Bytes, String> {
    let message = read::to_message(json, input)?;
    let mut framed = BytesMut::with_capacity(FRAME_PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).map_err(|_| "proto: message is too large")?);
    framed.put_slice(&message);
    Ok(framed.freeze())
}

/// Does what is short here and what is long on a thread for such work: a connection's calls
/// take turns.
async fn translate<T: Send + 'static>(
    length: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Status> {
    if length <= AT_ONCE_MAX {
        return Ok(work());
    }
    let kind = if length <= PIECE_MAX { Kind::Piece } else { Kind::Whole };
    Ok(apart_unattended(kind, work).await?)
}

/// The answer of a unary call.
async fn one_answer(
    mut call: http::Response<axum::body::Body>,
    output: &MessageDescriptor,
) -> Result<Bytes, Status> {
    let share = call.extensions_mut().remove::<Arc<Share>>().and_then(Arc::into_inner);
    if let Some(status) = failure(call.headers()) {
        return Err(status);
    }
    let body = call.into_body().collect().await;
    let body = body.map_err(|error| Status::internal(error.to_string()))?;
    if let Some(status) = body.trailers().and_then(failure) {
        return Err(status);
    }
    let framed = body.to_bytes();
    let length = framed.len();
    let output = output.clone();
    translate(length, move || {
        let mut json = String::with_capacity(2 * length);
        let message = framed.get(FRAME_PREFIX..).ok_or(write::Corrupt)?;
        write::to_json(message, &output, &mut json)?;
        Ok(match share {
            Some(share) => {
                share.hold(json.capacity());
                share.attach(json)
            }
            None => Bytes::from(json),
        })
    })
    .await?
    .map_err(|write::Corrupt| unreadable())
}

fn unreadable() -> Status {
    Status::internal("the service answered what is not its message")
}

/// How a call failed, by its headers or trailers.
fn failure(headers: &HeaderMap) -> Option<Status> {
    Status::from_header_map(headers).filter(|status| status.code() != Code::Ok)
}

/// A good answer; its headers are etcd's.
fn answered(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert(HeaderName::from_static("grpc-metadata-content-type"), kind);
    response
}

/// The answer to a call that failed.
fn refusal(status: &Status) -> http::Response<Body> {
    let mut response = http::Response::new(Body::new(Full::new(Bytes::from(error_json(status)))));
    set_status(&mut response, status.code());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status.code() == Code::Unauthenticated
        && let Ok(text) = HeaderValue::from_str(status.message())
    {
        headers.insert(WWW_AUTHENTICATE, text);
    }
    response
}

fn error_json(status: &Status) -> String {
    let mut json = format!("{{\"code\":{}", i32::from(status.code()));
    if !status.message().is_empty() {
        json.push_str(",\"message\":");
        write::quote(status.message(), &mut json);
    }
    json.push('}');
    json
}

/// Gives a refusal its HTTP status, with Go's words for one that has no name.
fn set_status(response: &mut http::Response<Body>, code: Code) {
    *response.status_mut() = http_status(code);
    if code == Code::Cancelled {
        response.extensions_mut().insert(ReasonPhrase::from_static(b"status code 499"));
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        // nginx's number for a client that has gone; it has no name.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Reads a body that comes in pieces as requests of a call: what is understood survives the way to
/// JSON and back.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(call: usize, piece: usize, body: &[u8]) {
    let input = &schema::nth(call).input;
    let mut values = Values::new(1 << 20);
    for piece in body.chunks(piece) {
        values.push(piece);
    }
    while let Ok(Some(json)) = values.next(true) {
        let Ok(message) = read::to_message(&json, input) else { continue };
        let mut again = String::new();
        write::to_json(&message, input, &mut again).expect("a message of our own");
        let back = read::to_message(again.as_bytes(), input).expect("JSON of our own");
        let mut last = String::new();
        write::to_json(&back, input, &mut last).expect("a message of our own");
        assert_eq!(again, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_the_http_status_of_etcd() {
        let table = [
            (0, 200),
            (1, 499),
            (2, 500),
            (3, 400),
            (4, 504),
            (5, 404),
            (6, 409),
            (7, 403),
            (8, 429),
            (9, 400),
            (10, 409),
            (11, 400),
            (12, 501),
            (13, 500),
            (14, 503),
            (15, 500),
            (16, 401),
        ];
        for (code, status) in table {
            assert_eq!(http_status(Code::from(code)).as_u16(), status, "{code}");
        }
    }

    #[test]
    fn a_call_is_told_of_headers_that_are_meant_for_it() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer t.1"),
            ("content-type", "text/plain"),
            ("grpc-metadata-hasleader", "true"),
            ("grpc-metadata-grpc-encoding", "gzip"),
            ("grpc-metadata-content-type", "text/plain"),
            ("hasleader", "false"),
            ("host", "h"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let told = metadata(&headers);
        let text = |name: &str| told.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(text("authorization"), Some("t.1"));
        assert_eq!(text("hasleader"), Some("true"));
        assert_eq!(text("content-type"), Some("application/grpc"));
        assert_eq!(told.len(), 4, "{told:?}");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("bearer t.1"));
        assert_eq!(metadata(&headers)[AUTHORIZATION], "bearer t.1");
    }

    #[test]
    fn binary_headers_for_the_call_must_be_base64() {
        let refusal = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            malformed(&headers).map(|status| status.message().to_owned())
        };
        let text = "invalid binary header Grpc-Metadata-X-Bin: illegal base64 data at input byte 0";
        assert_eq!(refusal("grpc-metadata-x-bin", "!!!").as_deref(), Some(text));
        assert_eq!(refusal("grpc-metadata-x-bin", "YQ"), None);
        assert_eq!(refusal("grpc-metadata-x", "!!!"), None);
        assert_eq!(refusal("x-bin", "!!!"), None);
    }

    #[test]
    fn an_error_says_code_and_text() {
        let json = |status: Status| error_json(&status);
        assert_eq!(json(Status::not_found("a \"b\"")), r#"{"code":5,"message":"a \"b\""}"#);
        assert_eq!(json(Status::unimplemented("")), r#"{"code":12}"#);
    }
}
