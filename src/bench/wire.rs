//! A gRPC client with nothing in it but what a load generator needs.
//!
//! Requests come encoded and framed; an answer is counted, and kept only as far as the caller
//! asks. Small frames of many requests leave in one write. It promises gRPC's meaning of a call's
//! end: status from the trailers, or from the headers when nothing else was sent. It leaves out
//! TLS, compression, metadata and reconnection: a broken connection ends its streams.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, Uri, Version};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::Code;

/// Bytes a server may send on one stream ahead of us. Large, so that flow control never rules
/// what a range costs.
const STREAM_WINDOW: u32 = 4 << 20;
/// Bytes a server may send on one connection ahead of us.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Length of gRPC's frame head: a compression flag and four bytes of length.
const HEAD: usize = 5;

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The server's answer was an error.
    Status { code: Code, text: String },
    /// No answer: the connection or the stream broke. The text says how.
    Transport(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Status { code, text } => write!(f, "{code:?}: {text}"),
            CallError::Transport(text) => write!(f, "connection: {text}"),
        }
    }
}

impl std::error::Error for CallError {}

impl CallError {
    /// Whether the connection is of no further use.
    pub(super) fn is_transport(&self) -> bool {
        matches!(self, CallError::Transport(_))
    }

    fn malformed(what: &str) -> Self {
        CallError::Transport(format!("malformed answer: {what}"))
    }
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        CallError::Transport(error.to_string())
    }
}

/// A server's address, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    authority: String,
}

impl Endpoint {
    /// Reads `http://host:port` or `host:port`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err(format!("{text}: this tool has no TLS; use an http:// endpoint"));
        }
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let has_port = rest.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !has_port || rest.contains('/') {
            return Err(format!("{text}: an endpoint looks like http://127.0.0.1:2379"));
        }
        Ok(Self { authority: rest.to_owned() })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// One path of one connection, ready to be called; clones share the connection.
#[derive(Clone)]
pub(super) struct Caller {
    send: SendRequest<Bytes>,
    uri: Uri,
    headers: HeaderMap,
}

/// An open connection, driven by a task of the runtime it was opened on.
#[derive(Clone)]
pub(super) struct Connection {
    send: SendRequest<Bytes>,
    endpoint: Endpoint,
}

/// What came back from a call that ended well.
#[derive(Debug, Clone, Default)]
pub(super) struct Reply {
    /// Bytes of all messages with their heads.
    pub(super) bytes: u64,
    /// Their beginning, as far as it was to be kept.
    pub(super) body: Bytes,
}

impl Reply {
    /// The first message, unless it was too long to be kept.
    pub(super) fn message<M: Message + Default>(&self) -> Option<Result<M, CallError>> {
        (self.body.len() as u64 == self.bytes)
            .then(|| Ok(self.messages()?.into_iter().next().unwrap_or_default()))
    }

    /// All messages.
    pub(super) fn messages<M: Message + Default>(&self) -> Result<Vec<M>, CallError> {
        let mut rest = self.body.clone();
        let mut messages = Vec::new();
        while let Some(bytes) = split_message(&mut rest)? {
            messages.push(decode(bytes)?);
        }
        if rest.is_empty() { Ok(messages) } else { Err(CallError::malformed("a message is cut")) }
    }
}

impl Connection {
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self, CallError> {
        let failed = |error: io::Error| CallError::Transport(error.to_string());
        let socket = TcpStream::connect(&endpoint.authority).await.map_err(failed)?;
        socket.set_nodelay(true).map_err(failed)?;
        let (send, driver) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake::<_, Bytes>(Unvectored(socket))
            .await?;
        // Its error reaches every stream of the connection, which report it.
        tokio::spawn(driver);
        Ok(Self { send, endpoint: endpoint.clone() })
    }

    /// A caller of `path`, such as `/etcdserverpb.KV/Put`.
    pub(super) fn caller(&self, path: &'static str) -> Result<Caller, CallError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.endpoint.authority.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| CallError::Transport(error.to_string()))?;
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(USER_AGENT, HeaderValue::from_static("quoin-bench"));
        Ok(Caller { send: self.send.clone(), uri, headers })
    }

    /// One call of a message in, a message out.
    pub(super) async fn call<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<M, CallError> {
        let reply = self.caller(path)?.call(frame(request), usize::MAX).await?;
        Ok(reply.messages()?.into_iter().next().unwrap_or_default())
    }
}

impl Caller {
    async fn open(
        &mut self,
        end: bool,
        frame: Bytes,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), CallError> {
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        let (response, mut body) = self.send.send_request(request, false)?;
        body.send_data(frame, end)?;
        Ok((response, body))
    }

    /// Sends one framed request and takes the whole answer, keeping its first `keep` bytes.
    pub(super) async fn call(&mut self, frame: Bytes, keep: usize) -> Result<Reply, CallError> {
        let (response, _body) = self.open(true, frame).await?;
        let mut stream = accept(response.await?)?;
        let mut reply = Reply::default();
        // Only an answer of several chunks is copied together.
        let mut joined = BytesMut::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            // Refused only after the stream is gone, which the next read reports.
            let _ = stream.flow_control().release_capacity(chunk.len());
            let room = keep.saturating_sub(joined.len().max(reply.body.len()));
            if reply.bytes == 0 {
                reply.body = chunk.slice(..chunk.len().min(room));
            } else if room > 0 {
                if joined.is_empty() {
                    joined.extend_from_slice(&reply.body);
                }
                joined.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            reply.bytes += chunk.len() as u64;
        }
        if !joined.is_empty() {
            reply.body = joined.freeze();
        }
        finish(&mut stream).await?;
        Ok(reply)
    }

    /// Opens a stream of requests and answers with its first request.
    ///
    /// The answer's head may come only with the first message, so it is awaited there.
    pub(super) async fn stream(&mut self, frame: Bytes) -> Result<(Sender, Receiver), CallError> {
        let (response, body) = self.open(false, frame).await?;
        Ok((Sender(body), Receiver { stream: Err(response), pending: Bytes::new() }))
    }
}

/// The sending half of a stream. Dropping it resets the stream.
pub(super) struct Sender(SendStream<Bytes>);

impl Sender {
    pub(super) fn send(&mut self, frame: Bytes) -> Result<(), CallError> {
        Ok(self.0.send_data(frame, false)?)
    }
}

/// The receiving half of a stream.
pub(super) struct Receiver {
    /// The answer, or what is waited for until its head is here.
    stream: Result<RecvStream, ResponseFuture>,
    /// Received and not yet taken.
    pending: Bytes,
}

impl Receiver {
    /// The next message; an error once the stream is over, even if it ended well.
    pub(super) async fn message<M: Message + Default>(&mut self) -> Result<M, CallError> {
        loop {
            if let Some(bytes) = split_message(&mut self.pending)? {
                return decode(bytes);
            }
            if let Err(response) = &mut self.stream {
                self.stream = Ok(accept(response.await?)?);
            }
            let Ok(stream) = &mut self.stream else { continue };
            match stream.data().await {
                Some(chunk) => {
                    let chunk = chunk?;
                    let _ = stream.flow_control().release_capacity(chunk.len());
                    if self.pending.is_empty() {
                        self.pending = chunk;
                    } else {
                        let mut joined = BytesMut::with_capacity(self.pending.len() + chunk.len());
                        joined.extend_from_slice(&self.pending);
                        joined.extend_from_slice(&chunk);
                        self.pending = joined.freeze();
                    }
                }
                None => {
                    finish(stream).await?;
                    return Err(CallError::Transport("the server ended the stream".into()));
                }
            }
        }
    }
}

/// A message with the head that gRPC puts before it.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(HEAD + length);
    buffer.put_u8(0);
    buffer.put_u32(length as u32);
    // Encoding fails only for want of room, and there is room for all of it.
    let _ = message.encode(&mut buffer);
    buffer.freeze()
}

/// Takes one whole message off the front, if there is one.
fn split_message(pending: &mut Bytes) -> Result<Option<Bytes>, CallError> {
    if pending.len() < HEAD {
        return Ok(None);
    }
    let mut head = &pending[..HEAD];
    if head.get_u8() != 0 {
        return Err(CallError::malformed("compressed without being asked"));
    }
    let length = head.get_u32() as usize;
    if pending.len() - HEAD < length {
        return Ok(None);
    }
    pending.advance(HEAD);
    Ok(Some(pending.split_to(length)))
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, CallError> {
    M::decode(bytes).map_err(|error| CallError::malformed(&error.to_string()))
}

/// Checks an answer's head; gives its body.
fn accept(response: Response<RecvStream>) -> Result<RecvStream, CallError> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Err(CallError::Transport(format!("HTTP status {}", head.status)));
    }
    // Present here only if nothing follows.
    if head.headers.contains_key("grpc-status") {
        status(&head.headers)?;
    }
    Ok(body)
}

/// Reads the status at an answer's end.
async fn finish(stream: &mut RecvStream) -> Result<(), CallError> {
    match stream.trailers().await? {
        Some(trailers) => status(&trailers),
        // The head was all there was, and it was good.
        None => Ok(()),
    }
}

fn status(headers: &HeaderMap) -> Result<(), CallError> {
    let code = headers.get("grpc-status").map_or(Code::Unknown, |value| {
        if value == "0" { Code::Ok } else { Code::from_bytes(value.as_bytes()) }
    });
    if code == Code::Ok {
        return Ok(());
    }
    let text = headers.get("grpc-message").map_or(&[][..], HeaderValue::as_bytes);
    Err(CallError::Status { code, text: unescape(text) })
}

/// Undoes gRPC's percent-encoding of status texts; what is not an escape stays as it is.
fn unescape(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|byte| (*byte as char).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A socket that does not offer vectored writes.
///
/// Otherwise h2 sends each DATA frame above 256 bytes with a system call of its own; without
/// them, frames up to 1,024 bytes are collected, and many requests leave together.
struct Unvectored(TcpStream);

impl AsyncRead for Unvectored {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Unvectored {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::PutRequest;

    #[test]
    fn endpoints_are_a_host_and_a_port() {
        for text in ["http://127.0.0.1:2379", "127.0.0.1:2379", "http://127.0.0.1:2379/"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.to_string(), "http://127.0.0.1:2379", "{text}");
        }
        assert!(Endpoint::parse("http://[::1]:2379").is_ok());
        for text in ["", "localhost", "https://a:1", "http://:1", "http://a:0", "a:b", "a:1/v3"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn messages_are_split_wherever_chunks_end() {
        let request = PutRequest { key: "k".into(), ..PutRequest::default() };
        let mut stream = BytesMut::new();
        stream.extend_from_slice(&frame(&request));
        stream.extend_from_slice(&frame(&request));
        let one = frame(&request).len();
        for length in 0..=stream.len() {
            let mut pending = Bytes::copy_from_slice(&stream[..length]);
            let mut found = 0;
            while let Some(bytes) = split_message(&mut pending).unwrap() {
                assert_eq!(decode::<PutRequest>(bytes).unwrap(), request);
                found += 1;
            }
            assert_eq!(found, length / one, "{length} bytes");
        }
    }

    #[test]
    fn statuses_are_read_with_their_texts() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(status(&headers), Ok(()));
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("no%20leader %zz%"));
        let expected = CallError::Status { code: Code::Unavailable, text: "no leader %zz%".into() };
        assert_eq!(status(&headers), Err(expected));
        assert!(status(&HeaderMap::new()).is_err(), "an answer without status is an error");
    }
}
