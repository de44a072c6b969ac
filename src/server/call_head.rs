//! The head of a call: what in it is refused, and what of it decides how the answer looks; as in the gRPC library that
//! etcd uses.

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, StatusCode};
use tonic::Status;
use tonic::body::Body;

const KIND: &[u8] = b"application/grpc";
const ENCODING: &str = "grpc-encoding";

/// The answer to a call whose head is malformed: binary metadata that is no base64, or two hosts.
pub(super) fn refused<B>(request: &http::Request<B>) -> Option<http::Response<Body>> {
    let (mut hosts, mut reason) = (0, None);
    for (name, value) in request.headers() {
        if name.as_str().ends_with("-bin") {
            if let Some(at) = base64_fault(value.as_bytes()) {
                let value = String::from_utf8_lossy(value.as_bytes());
                reason = Some(format!(
                    "malformed binary metadata {value:?} in header \"{name}\": {}",
                    illegal_base64(at)
                ));
            }
        } else if name == HOST {
            hosts += 1;
        }
    }
    if hosts > 1 {
        let authorities = usize::from(request.uri().authority().is_some());
        reason = Some(format!(
            "num values of :authority: {authorities}, num values of host: {hosts}, both must only have 1 value \
             as per HTTP/2 spec"
        ));
    }
    let mut response = Status::internal(reason?).into_http();
    *response.status_mut() = StatusCode::BAD_REQUEST;
    Some(response)
}

/// What Go says of base64 that cannot be read from this byte on.
pub(super) fn illegal_base64(at: usize) -> String {
    format!("illegal base64 data at input byte {at}")
}

/// Where Go's decoder gives up on binary metadata: base64 of the standard alphabet, padded or not.
pub(super) fn base64_fault(text: &[u8]) -> Option<usize> {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let Some(end) = text.iter().position(|byte| !is_digit(byte)) else {
        return (text.len() % 4 == 1).then(|| text.len() - 1);
    };
    // A text is taken for a padded one by its length.
    if !text.len().is_multiple_of(4) || text[end] != b'=' || end % 4 < 2 {
        return Some(end);
    }
    let padding_end = match (end % 4, text.get(end + 1)) {
        (2, Some(b'=')) => end + 2,
        (2, _) => return Some(end),
        _ => end + 1,
    };
    (padding_end < text.len()).then_some(padding_end)
}

/// Leaves of several encodings the last, and none where that says nothing; returns whether there is one.
pub(super) fn settle_encoding(headers: &mut HeaderMap) -> bool {
    let Some(last) = headers.get_all(ENCODING).iter().next_back().cloned() else { return false };
    let is_encoding = !matches!(last.as_bytes(), b"" | b"identity");
    match is_encoding {
        true => headers.insert(ENCODING, last),
        false => headers.remove(ENCODING),
    };
    is_encoding
}

/// The kind of the answer to a call of an unusual kind: `application/grpc+proto` is answered with the same.
pub(super) fn unusual_kind(headers: &HeaderMap) -> Option<HeaderValue> {
    let kind = headers.get(CONTENT_TYPE)?.as_bytes().strip_prefix(KIND)?;
    match kind.split_first()? {
        (_, []) => None,
        (_, subtype) => HeaderValue::from_bytes(&[KIND, b"+", subtype].concat()).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_metadata_is_read_as_by_go() {
        let table = [
            ("", None),
            ("YQ==", None),
            ("YQ", None),
            ("YWI=", None),
            ("YWJj", None),
            ("/w==", None),
            ("Y", Some(0)),
            ("YWJjZ", Some(4)),
            ("!!!", Some(0)),
            ("YQ=", Some(2)),
            ("Y Q==", Some(1)),
            ("YQ==,Yg==", Some(2)),
            ("_w", Some(0)),
            ("YQ,!", Some(2)),
            ("Y===", Some(1)),
            ("====", Some(0)),
            ("YQ=Y", Some(2)),
            ("YQ==YQ==", Some(4)),
            ("YWI=YWI=", Some(4)),
        ];
        for (text, fault) in table {
            assert_eq!(base64_fault(text.as_bytes()), fault, "{text:?}");
        }
    }

    #[test]
    fn the_last_encoding_counts_if_it_is_one() {
        for (given, left) in [
            (&[][..], None),
            (&["gzip"], Some("gzip")),
            (&[""], None),
            (&["identity"], None),
            (&["gzip", "identity"], None),
            (&["identity", "gzip"], Some("gzip")),
            (&["x", "y"], Some("y")),
        ] {
            let mut headers = HeaderMap::new();
            for value in given {
                headers.append(ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(settle_encoding(&mut headers), left.is_some(), "{given:?}");
            let values: Vec<_> = headers.get_all(ENCODING).iter().collect();
            assert_eq!(values, Vec::from_iter(left), "{given:?}");
        }
    }
}
