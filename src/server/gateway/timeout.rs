//! The time that a client gives its call in `Grpc-Timeout`, as etcd's gateway reads it.
//!
//! Other than in gRPC itself the number may have a sign and any length that 64 bits hold: zero is no timeout at all, and
//! what is negative has passed. Unlike in etcd, whose product overflows, more than 292 years are no timeout either.

use super::super::deadline::TIMEOUT_MAX;
use http::HeaderMap;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The time by which the call is to be over, if there is one.
///
/// # Errors
/// The header is malformed.
pub(super) fn deadline(headers: &HeaderMap) -> Result<Option<Instant>, Status> {
    let Some(value) = headers.get("grpc-timeout").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    // What etcd makes of a refusal that JSON cannot quote.
    let text = std::str::from_utf8(value.as_bytes())
        .map_err(|_| Status::internal("failed to marshal error message"))?;
    let timeout = parse(text)
        .ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
    Ok(timeout.map(|timeout| Instant::now() + timeout))
}

/// Past times are now.
fn parse(text: &str) -> Option<Option<Duration>> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let nanoseconds: i64 = match unit {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "S" => 1_000_000_000,
        "M" => 60_000_000_000,
        "H" => 3_600_000_000_000,
        _ => return None,
    };
    let number: i64 = digits.parse().ok()?;
    let timeout = Duration::from_nanos(number.saturating_mul(nanoseconds).max(0).unsigned_abs());
    Some((number != 0).then_some(timeout.min(TIMEOUT_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_its_unit_are_a_timeout() {
        let table = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("+3S", Some(Duration::from_secs(3))),
            ("0000000000004m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0S", None),
            ("-0n", None),
            ("-1H", Some(Duration::ZERO)),
            ("-9223372036854775808H", Some(Duration::ZERO)),
            ("9223372036854775807H", Some(TIMEOUT_MAX)),
        ];
        for (text, timeout) in table {
            assert_eq!(parse(text), Some(timeout), "{text}");
        }
        for text in [
            "",
            "S",
            "1",
            "1s",
            "1x",
            "1.5S",
            "1_0S",
            "0x1S",
            "1 S",
            "+S",
            "é",
            "9223372036854775808n",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            let value = http::HeaderValue::from_bytes(value).expect("a header's value");
            headers.insert("grpc-timeout", value);
            deadline(&headers).map_err(|status| status.message().to_owned())
        };
        assert_eq!(deadline(&HeaderMap::new()).ok(), Some(None));
        assert_eq!(of(b""), Ok(None));
        assert!(of(b"1H").is_ok_and(|deadline| deadline > Some(Instant::now())));
        assert!(of(b"-1H").is_ok_and(|deadline| deadline <= Some(Instant::now())));
        assert_eq!(of("é".as_bytes()), Err("invalid grpc-timeout: é".to_owned()));
        assert_eq!(of(b"\xe9"), Err("failed to marshal error message".to_owned()));
    }
}
