//! Streams through the gateway: JSON values in, one after the other, and a line for each answer.

use super::rest::{Left, Rest};
use super::values::Values;
use super::{
    FRAME_PREFIX, answered, error_json, failure, frame, set_status, translate, unreadable, until,
    write,
};
use crate::server::departure::Departed;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use prost_reflect::MessageDescriptor;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// The messages of a body, framed. One that is no JSON ends like one that ends: the call goes on without
/// further requests, as it does in etcd. Whether the client breaks it off is told to who answers.
pub(super) struct Requests {
    body: Body,
    values: Values,
    input: MessageDescriptor,
    has_ended: bool,
    left: Option<oneshot::Sender<Left>>,
}

impl Requests {
    pub(super) fn new(
        body: Body,
        values: Values,
        input: &MessageDescriptor,
        departed: Option<Departed>,
    ) -> (Self, Rest) {
        let (left, rest) = Rest::behind_requests(departed);
        let left = Some(left);
        (Self { body, values, input: input.clone(), has_ended: false, left }, rest)
    }

    /// No further requests are read.
    fn end(&mut self) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(left) = self.left.take().filter(|_| !self.has_ended) {
            // An error means that nobody answers any more.
            let _told = left.send(Left::Unread(std::mem::take(&mut self.body)));
        }
        Poll::Ready(None)
    }
}

impl HttpBody for Requests {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            match this.values.next(this.has_ended) {
                Ok(Some(json)) => match frame(&json, &this.input) {
                    Ok(framed) => return Poll::Ready(Some(Ok(Frame::data(framed)))),
                    Err(_) => return this.end(),
                },
                Ok(None) if this.has_ended => return this.end(),
                Ok(None) => {}
                Err(_) => return this.end(),
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(piece)) => {
                    if let Ok(data) = piece.into_data() {
                        this.values.push(&data);
                    }
                }
                Some(Err(_)) => {
                    this.has_ended = true;
                    if let Some(left) = this.left.take() {
                        let _told = left.send(Left::Broken);
                    }
                }
                None => this.has_ended = true,
            }
        }
    }
}

/// Answers with the lines of a call. Nothing is answered before the first line or the end, so
/// that a call which fails at once has its own HTTP status.
pub(super) async fn answer(
    call: http::Response<axum::body::Body>,
    output: &MessageDescriptor,
    deadline: Option<Instant>,
    rest: Rest,
) -> http::Response<Body> {
    if let Some(status) = failure(call.headers()) {
        return refusal(&status);
    }
    let mut answers = Answers {
        body: Body::new(call.into_body()),
        buffer: BytesMut::new(),
        output: output.clone(),
        deadline,
        rest,
        has_ended: false,
    };
    match answers.next().await {
        None => http::Response::new(Body::new(StreamBody::new(stream::empty::<Piece>()))),
        Some(Err(status)) => refusal(&status),
        Some(Ok(first)) => {
            let lines = stream::unfold((Some(first), answers), |(first, mut answers)| async {
                let line = match first {
                    Some(first) => first,
                    None => match answers.next().await? {
                        Ok(line) => line,
                        Err(status) => error_line(&status),
                    },
                };
                Some((piece(line), (None, answers)))
            });
            answered(Body::new(StreamBody::new(lines)))
        }
    }
}

type Piece = Result<Frame<Bytes>, Infallible>;

fn piece(line: String) -> Piece {
    Ok(Frame::data(Bytes::from(line)))
}

fn refusal(status: &Status) -> http::Response<Body> {
    let line = error_line(status);
    let body = StreamBody::new(stream::iter([piece(line)]));
    let mut response = http::Response::new(Body::new(body));
    set_status(&mut response, status.code());
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn error_line(status: &Status) -> String {
    format!("{{\"error\":{}}}\n", error_json(status))
}

/// What a call answers, message by message.
struct Answers {
    body: Body,
    buffer: BytesMut,
    output: MessageDescriptor,
    deadline: Option<Instant>,
    rest: Rest,
    has_ended: bool,
}

impl Answers {
    /// The next line; an error is the last one.
    async fn next(&mut self) -> Option<Result<String, Status>> {
        loop {
            if let Some(message) = self.message() {
                let line = self.line(message).await;
                self.has_ended |= line.is_err();
                return Some(line);
            }
            if self.has_ended {
                return None;
            }
            let next = self.rest.unless_broken(self.body.frame());
            let status = match until(self.deadline, next).await.flatten() {
                Err(given_up) => {
                    // Nothing more is done for a call whose time is over or whose client has gone.
                    self.body = Body::empty();
                    Some(given_up)
                }
                Ok(Some(Ok(piece))) => match piece.into_data() {
                    Ok(data) => {
                        self.buffer.extend_from_slice(&data);
                        continue;
                    }
                    Err(piece) => piece.trailers_ref().and_then(failure),
                },
                Ok(Some(Err(status))) => Some(status),
                Ok(None) => None,
            };
            self.has_ended = true;
            return status.map(Err);
        }
    }

    /// The first message of the buffer, if all of it is there.
    fn message(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        let length = self.buffer.get(1..FRAME_PREFIX)?;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if self.buffer.len() < FRAME_PREFIX + length {
            return None;
        }
        self.buffer.advance(FRAME_PREFIX);
        Some(self.buffer.split_to(length).freeze())
    }

    async fn line(&mut self, message: Bytes) -> Result<String, Status> {
        let output = self.output.clone();
        translate(message.len(), move || {
            let mut line = String::with_capacity(2 * message.len() + 16);
            line.push_str("{\"result\":");
            write::to_json(&message, &output, &mut line)?;
            line.push_str("}\n");
            Ok(line)
        })
        .await?
        .map_err(|write::Corrupt| unreadable())
    }
}
