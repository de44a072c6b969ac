//! The deadline that a client gives its call in `grpc-timeout`; the gateway reads its own header.
//!
//! Past it the call is answered DeadlineExceeded and dropped with all that it waits for; the stream of one that has
//! begun to answer is reset, as by etcd. A call whose turn comes too late is not begun, so that nothing is proposed for
//! it; a write that was proposed before may still be applied, as after any other timeout.

use super::connection::Begun;
use super::departure::Departure;
use super::http::is_grpc;
use http::{HeaderMap, StatusCode};
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

/// Longer than any call lives: what larger timeouts are cut to.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What an answer gets to leave in, when its call has just reached the deadline.
const ANSWER_TIME: Duration = Duration::from_millis(20);

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

/// When a call of the gateway is to be over: an extension of its request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub Instant);

/// Does something until a deadline, and nothing after it.
///
/// # Errors
/// The deadline has come before the end.
pub(super) async fn by<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Status> {
    let mut work = pin!(work);
    // A timer rings late, and what is woken comes before it.
    let work = poll_fn(|cx| match Instant::now() < deadline {
        true => work.as_mut().poll(cx).map(Ok),
        false => Poll::Ready(Err(exceeded())),
    });
    tokio::time::timeout_at(deadline, work).await.unwrap_or_else(|_| Err(exceeded()))
}

/// A call that is answered by its deadline, and does nothing after it.
pub(super) async fn bounded<E>(
    deadline: Instant,
    call: impl Future<Output = Result<http::Response<Body>, E>>,
) -> Result<http::Response<Body>, E> {
    by(deadline, call).await.unwrap_or_else(|late| Ok(late.into_http()))
}

/// A connection's service, which ends its calls at their deadlines even while their answers are sent, and tells those
/// over HTTP/1 when their client has gone.
pub(super) struct Ending<S> {
    pub(super) service: S,
    pub(super) begun: Begun,
    pub(super) departure: Departure,
}

impl<S, B> hyper::service::Service<http::Request<B>> for Ending<S>
where
    S: hyper::service::Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: http::Request<B>) -> S::Future {
        if request.version() < http::Version::HTTP_2 {
            request.extensions_mut().insert(self.departure.asked());
        }
        // A malformed one is refused by the service, and the gateway ends its calls itself.
        if is_grpc(&request)
            && let Ok(Some(timeout)) = timeout(request.headers())
        {
            self.begun.end_next_at(Instant::now() + timeout + ANSWER_TIME);
        }
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    async fn a_call_is_answered_by_its_deadline() {
        let soon = Instant::now() + Duration::from_millis(20);
        let Ok(response) = bounded(soon, pending::<Result<_, Infallible>>()).await;
        assert_eq!(response.headers()["grpc-status"], "4");
        let answer = || ready(Ok::<_, Infallible>(http::Response::new(Body::empty())));
        let Ok(response) = bounded(Instant::now() + Duration::from_secs(60), answer()).await;
        assert!(!response.headers().contains_key("grpc-status"));
        let Ok(response) = bounded(Instant::now(), answer()).await;
        assert_eq!(response.headers()["grpc-status"], "4", "it has not come to its turn");
    }
}
