//! The gateway's paths over WebSockets (RFC 6455), as etcd offers them to pages in browsers.
//!
//! What the client sends is the request's body, a line for each message; each line of the answer is a message. As
//! in etcd the answer's status and headers are lost, and the connection closes without a word when the answer is
//! complete. A token comes as the protocol that the client asks for, `Bearer, TOKEN`, or in the cookie `token`.
//! Unlike etcd, which waits for the end of the request first, calls with one answer are answered.

use super::{Gateway, JSON_PER_MESSAGE};
use crate::server::http::text_page;
use crate::server::metered::Remote;
use axum::body::Body as AxumBody;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use http::header::{
    AUTHORIZATION, CONNECTION, COOKIE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use std::convert::Infallible;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tonic::body::Body;

/// What an accepted key is hashed with (RFC 6455, 1.3).
const ACCEPTANCE: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The version of the protocol that there is.
const VERSION: &str = "13";
const TOKEN_COOKIE: &str = "token";

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks for a WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, CONNECTION, "upgrade") && has_token(headers, UPGRADE, "websocket")
}

/// Answers such a request. What the socket says is then served by a task of its own.
pub(super) fn open(
    gateway: &Gateway,
    mut request: http::Request<AxumBody>,
) -> http::Response<Body> {
    let accept = match acceptance(&request) {
        Ok(accept) => accept,
        Err(status) => {
            let text = format!("{}\n", status.canonical_reason().unwrap_or_default());
            let mut refused = text_page(status, text);
            let version = HeaderValue::from_static(VERSION);
            refused.headers_mut().insert(SEC_WEBSOCKET_VERSION, version);
            return refused.map(Body::new);
        }
    };
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    let protocol = request.headers().get(SEC_WEBSOCKET_PROTOCOL);
    if protocol.is_some_and(|protocol| protocol.as_bytes().starts_with(b"Bearer")) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("Bearer"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(serve(gateway.clone(), upgrade, call(&request)));
    response
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut values = values.iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// What proves to the client that it speaks to a WebSocket.
fn acceptance<B>(request: &http::Request<B>) -> Result<HeaderValue, StatusCode> {
    if request.method() != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    if !has_token(request.headers(), SEC_WEBSOCKET_VERSION, VERSION) {
        return Err(StatusCode::BAD_REQUEST);
    }
    let key = request.headers().get(SEC_WEBSOCKET_KEY).map_or(&b""[..], HeaderValue::as_bytes);
    if STANDARD.decode(key).map_or(0, |key| key.len()) != 16 {
        return Err(StatusCode::BAD_REQUEST);
    }
    let hash = Sha1::new().chain_update(key).chain_update(ACCEPTANCE).finalize();
    HeaderValue::try_from(STANDARD.encode(hash)).map_err(|_| StatusCode::BAD_REQUEST)
}

/// The request that the socket's messages make, still without a body.
fn call<B>(request: &http::Request<B>) -> http::Request<()> {
    let mut call = http::Request::new(());
    *call.method_mut() = Method::POST;
    *call.uri_mut() = request.uri().clone();
    if let Some(remote) = request.extensions().get::<Remote>() {
        call.extensions_mut().insert(*remote);
    }
    if let Some(token) = token(request.headers())
        && let Ok(token) = HeaderValue::try_from(token)
    {
        call.headers_mut().insert(AUTHORIZATION, token);
    }
    call
}

fn token(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE);
    let mut cookies = cookies.iter().filter_map(|cookies| cookies.to_str().ok());
    let cookie = cookies.find_map(|cookies| {
        let mut pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == TOKEN_COOKIE).map(|(_, value)| value.trim_matches('"'))
    });
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|protocol| protocol.to_str().ok());
    let asked = || protocol?.split_once("Bearer,").map(|(_, token)| token.trim_matches(' '));
    cookie.or_else(asked).map(|token| format!("Bearer {token}"))
}

/// Serves one socket until either side has ended, or the node stops.
async fn serve(gateway: Gateway, upgrade: OnUpgrade, call: http::Request<()>) {
    let Ok(upgraded) = upgrade.await else { return };
    let message_max = gateway.message_bytes_max.saturating_mul(JSON_PER_MESSAGE);
    let config = WebSocketConfig::default()
        .max_message_size(Some(message_max))
        .max_frame_size(Some(message_max));
    let socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut messages, received) = socket.split();
    // One: who sends more waits until it is read, as on any other connection.
    let (body, pieces) = mpsc::channel(1);
    let pieces = ReceiverStream::new(pieces).map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let request = call.map(|()| AxumBody::new(StreamBody::new(pieces)));
    let mut stop = gateway.stop.clone();
    let answered = async {
        // What the client says has no end before the connection's.
        let response = gateway.answer(request, false).await;
        send_lines(response.into_body(), &mut messages).await;
    };
    tokio::select! {
        () = answered => {}
        () = receive(received, body) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Hands messages on as lines, until the client has no more.
async fn receive(
    mut messages: futures_util::stream::SplitStream<Socket>,
    body: mpsc::Sender<Bytes>,
) {
    while let Some(Ok(message)) = messages.next().await {
        let text = match message {
            Message::Text(text) => Bytes::from(text),
            Message::Binary(bytes) => bytes,
            // The library answers, when it is asked again.
            Message::Close(_) => {
                let _sent = messages.next().now_or_never();
                return;
            }
            _ => continue,
        };
        let mut line = BytesMut::with_capacity(text.len() + 1);
        line.put_slice(&text);
        line.put_u8(b'\n');
        if body.send(line.freeze()).await.is_err() {
            // Nothing more is read of the request; the answer goes on.
            std::future::pending::<()>().await;
        }
    }
}

/// Sends each line as a message.
async fn send_lines(
    mut body: Body,
    messages: &mut futures_util::stream::SplitSink<Socket, Message>,
) {
    let mut held = BytesMut::new();
    while let Some(Ok(piece)) = body.frame().await {
        let Ok(piece) = piece.into_data() else { continue };
        held.put_slice(&piece);
        while let Some(end) = held.iter().position(|byte| *byte == b'\n') {
            let line = held.split_to(end + 1).freeze();
            if !send(line.slice(..end), messages).await {
                return;
            }
        }
    }
    send(held.freeze(), messages).await;
}

/// Whether the client is still there.
async fn send(
    line: Bytes,
    messages: &mut futures_util::stream::SplitSink<Socket, Message>,
) -> bool {
    match Utf8Bytes::try_from(line) {
        Ok(line) if !line.as_str().is_empty() => messages.send(Message::Text(line)).await.is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_socket_is_asked_for_with_two_words() {
        for (connection, upgrade, is_asked) in [
            ("Upgrade", "websocket", true),
            ("keep-alive, upgrade", "h2c, WebSocket", true),
            ("close", "websocket", false),
            ("Upgrade", "h2c", false),
        ] {
            let headers = headers(&[("connection", connection), ("upgrade", upgrade)]);
            assert_eq!(is_asked_for(&headers), is_asked, "{connection} {upgrade}");
        }
    }

    #[test]
    fn a_key_is_accepted_as_in_the_standard() {
        let request = |method: Method, pairs: &[(&'static str, &'static str)]| {
            let mut request = http::Request::new(());
            (*request.method_mut(), *request.headers_mut()) = (method, headers(pairs));
            acceptance(&request)
        };
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let version = ("sec-websocket-version", "13");
        // RFC 6455, 1.3.
        let accepted = HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(request(Method::GET, &[key, version]), Ok(accepted));
        assert_eq!(request(Method::POST, &[key, version]), Err(StatusCode::METHOD_NOT_ALLOWED));
        for pairs in [
            &[key][..],
            &[version],
            &[key, ("sec-websocket-version", "8")],
            &[version, ("sec-websocket-key", "c2hvcnQ=")],
            &[version, ("sec-websocket-key", "!")],
        ] {
            assert_eq!(request(Method::GET, pairs), Err(StatusCode::BAD_REQUEST), "{pairs:?}");
        }
    }

    #[test]
    fn a_token_comes_as_protocol_or_cookie() {
        for (pairs, expected) in [
            (&[][..], None),
            (&[("sec-websocket-protocol", "Bearer, t.1")][..], Some("Bearer t.1")),
            (&[("sec-websocket-protocol", "Bearer")], None),
            (&[("cookie", "a=b; token=t.2")], Some("Bearer t.2")),
            (
                &[("cookie", "token=\"t.2\""), ("sec-websocket-protocol", "Bearer, t.1")],
                Some("Bearer t.2"),
            ),
        ] {
            assert_eq!(token(&headers(pairs)).as_deref(), expected, "{pairs:?}");
        }
    }
}
