//! The messages of a request that its call takes, as in the gRPC library that etcd uses.
//!
//! A unary call is one message: it is served as soon as that is there, whether or not the client has said that nothing
//! follows, and what follows is not looked at. A call that answers with a stream waits for the end, and refuses
//! a second message. In a stream of requests, what ends before the length of its message is none.

use super::go_words;
use crate::metrics::calls::Kind;
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::codegen::StdError;

/// What a frame has in front of its message: a flag and a length.
const PREFIX: usize = 5;

/// One message on its way in.
#[derive(Default)]
struct Message {
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// Bytes to come behind the prefix.
    left: usize,
}

impl Message {
    /// How many of these bytes belong to it.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let of_prefix = bytes.len().min(PREFIX - self.prefix_len);
        self.prefix[self.prefix_len..self.prefix_len + of_prefix]
            .copy_from_slice(&bytes[..of_prefix]);
        self.prefix_len += of_prefix;
        if of_prefix > 0 && self.prefix_len == PREFIX {
            let [_, length @ ..] = self.prefix;
            self.left = u32::from_be_bytes(length) as usize;
        }
        let of_rest = (bytes.len() - of_prefix).min(self.left);
        self.left -= of_rest;
        of_prefix + of_rest
    }

    fn has_prefix(&self) -> bool {
        self.prefix_len == PREFIX
    }

    fn is_whole(&self) -> bool {
        self.has_prefix() && self.left == 0
    }
}

/// A request's body, which gives no more than the call takes.
pub(super) struct Taken<B> {
    body: B,
    kind: Kind,
    /// Of a stream of requests, the last that has begun.
    first: Message,
    second: Message,
    /// The beginning of a prefix in a stream of requests.
    held: Bytes,
}

impl<B> Taken<B> {
    pub(super) fn new(kind: Kind, body: B) -> Self {
        let (first, second) = <(Message, Message)>::default();
        Self { body, kind, first, second, held: Bytes::new() }
    }

    /// What goes on of a piece of a stream of requests: all up to the last request whose length is known.
    fn begun(&mut self, mut data: Bytes) -> Bytes {
        if !self.held.is_empty() {
            let mut joined = BytesMut::from(std::mem::take(&mut self.held));
            joined.extend_from_slice(&data);
            data = joined.freeze();
        }
        let mut at = 0;
        while at < data.len() {
            if self.first.is_whole() {
                self.first = Message::default();
            }
            let start = at;
            at += self.first.take(&data[at..]);
            if !self.first.has_prefix() {
                self.held = data.split_off(start);
                self.first = Message::default();
            }
        }
        data
    }

    /// What is wrong with what follows the only message, as far as it has come.
    fn fault(&self) -> Option<Status> {
        let [flag, ..] = self.second.prefix;
        match (self.second.is_whole(), flag) {
            (false, _) => None,
            (true, 1..) => Some(go_words::bad_flag(flag)),
            (true, 0) => Some(Status::internal(
                "cardinality violation: received multiple request messages for non-client-streaming RPC",
            )),
        }
    }

    /// What is wrong with messages that have come to their end, if anything is.
    fn cut(&self) -> Option<Status> {
        if self.second.has_prefix() {
            return Some(go_words::cut_message(true));
        }
        let is_stream = self.kind != Kind::Unary;
        match (self.first.is_whole(), self.first.has_prefix()) {
            (true, _) => None,
            (false, true) => Some(go_words::cut_message(is_stream)),
            (false, false) if self.kind == Kind::BidiStream => None,
            (false, false) => Some(go_words::no_message(is_stream)),
        }
    }
}

impl<B: HttpBody<Data = Bytes, Error: Into<StdError>> + Unpin> HttpBody for Taken<B> {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            if this.kind == Kind::Unary && this.first.is_whole() {
                return Poll::Ready(None);
            }
            if let Some(fault) = this.fault() {
                return Poll::Ready(Some(Err(fault.into())));
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(this.cut().map(|cut| Err(cut.into()))),
            };
            let Ok(mut data) = frame.into_data() else { continue };
            if this.kind == Kind::BidiStream {
                match this.begun(data) {
                    data if data.is_empty() => continue,
                    data => return Poll::Ready(Some(Ok(Frame::data(data)))),
                }
            }
            let of_first = match this.first.is_whole() {
                true => 0,
                false => this.first.take(&data),
            };
            this.second.take(&data[of_first..]);
            data.truncate(of_first);
            if of_first > 0 {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self.kind {
            Kind::Unary if self.first.is_whole() => true,
            _ => self.body.is_end_stream() && self.held.is_empty() && self.cut().is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
