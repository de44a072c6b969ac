//! The deadline that a client gives its call in `grpc-timeout`.
//!
//! Past it the call is answered DeadlineExceeded and dropped with all that it waits for. A write that
//! was proposed by then may still be applied, as after any other timeout.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body as HttpBody, Frame};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

/// Longer than any call lives: what larger timeouts are cut to.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The timeout that the headers give, if they do; or the answer to one that is malformed, in the
/// words of the gRPC library that etcd uses.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, http::Response<Body>> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    match parse(&String::from_utf8_lossy(value.as_bytes())) {
        Ok(timeout) => Ok(Some(timeout)),
        Err(reason) => {
            let mut response =
                Status::internal(format!("malformed grpc-timeout: {reason}")).into_http();
            *response.status_mut() = StatusCode::BAD_REQUEST;
            Err(response)
        }
    }
}

fn parse(text: &str) -> Result<Duration, String> {
    match text.len() {
        0..2 => return Err(format!("transport: timeout string is too short: {text:?}")),
        2..10 => {}
        _ => return Err(format!("transport: timeout string is too long: {text:?}")),
    }
    let unknown = || format!("transport: timeout unit is not recognized: {text:?}");
    let (digits, unit) = text.split_at_checked(text.len() - 1).ok_or_else(unknown)?;
    let nanoseconds: u64 = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        "M" => 60_000_000_000,
        "H" => 3_600_000_000_000,
        _ => return Err(unknown()),
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits
        .parse()
        .ok()
        .filter(|_| is_number)
        .ok_or_else(|| format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"))?;
    Ok(Duration::from_nanos(number.saturating_mul(nanoseconds)).min(TIMEOUT_MAX))
}

fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// A call that ends at its deadline, and its answer with it.
pub(super) async fn bounded<E>(
    timeout: Duration,
    call: impl Future<Output = Result<http::Response<Body>, E>>,
) -> Result<http::Response<Body>, E> {
    if timeout.is_zero() {
        return Ok(exceeded().into_http());
    }
    let deadline = Instant::now() + timeout;
    match tokio::time::timeout_at(deadline, call).await {
        Err(_) => Ok(exceeded().into_http()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(response)) => Ok(response.map(|body| {
            if body.is_end_stream() {
                return body;
            }
            Body::new(Bounded { body, deadline: Box::pin(sleep_until(deadline)), is_over: false })
        })),
    }
}

/// An answer that is still being sent.
struct Bounded {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    is_over: bool,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        if self.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match exceeded().add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use std::convert::Infallible;
    use std::future::{pending, ready};

    #[test]
    fn timeouts_are_digits_and_a_unit() {
        for (text, nanoseconds) in [
            ("0n", 0),
            ("1n", 1),
            ("20u", 20_000),
            ("300m", 300_000_000),
            ("4S", 4_000_000_000),
            ("5M", 300_000_000_000),
            ("00000001H", 3_600_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        }
        assert_eq!(parse("99999999H"), Ok(TIMEOUT_MAX));
        for (text, reason) in [
            ("", "transport: timeout string is too short: \"\""),
            ("S", "transport: timeout string is too short: \"S\""),
            ("123456789S", "transport: timeout string is too long: \"123456789S\""),
            ("1s", "transport: timeout unit is not recognized: \"1s\""),
            ("1ü", "transport: timeout unit is not recognized: \"1ü\""),
            ("-1S", "strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("+1S", "strconv.ParseUint: parsing \"+1\": invalid syntax"),
        ] {
            assert_eq!(parse(text), Err(reason.to_owned()), "{text}");
        }
        let mut headers = HeaderMap::new();
        assert!(matches!(timeout(&headers), Ok(None)));
        headers.insert("grpc-timeout", "x".parse().expect("a value"));
        let refused = timeout(&headers).expect_err("it is malformed");
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
        assert_eq!(refused.headers()["grpc-status"], "13");
    }

    #[tokio::test]
    async fn a_call_and_its_answer_end_at_the_deadline() {
        let timeout = Duration::from_millis(20);
        let endless = pending::<Result<_, Infallible>>();
        let Ok(response) = bounded(timeout, endless).await;
        assert_eq!(response.headers()["grpc-status"], "4");

        let start = Instant::now();
        let open = StreamBody::new(tokio_stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let answer = ready(Ok::<_, Infallible>(http::Response::new(Body::new(open))));
        let Ok(response) = bounded(timeout, answer).await;
        let collected = response.into_body().collect().await.expect("an end");
        assert_eq!(collected.trailers().expect("trailers")["grpc-status"], "4");
        assert!(start.elapsed() >= timeout);

        let whole = Body::new(Full::new(Bytes::from_static(b"all")));
        let answer = async { Ok::<_, Infallible>(http::Response::new(whole)) };
        let Ok(response) = bounded(Duration::from_secs(60), answer).await;
        let collected = response.into_body().collect().await.expect("an end");
        assert!(collected.trailers().is_none());
        assert_eq!(collected.to_bytes(), "all");
    }
}
