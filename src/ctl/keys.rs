//! Keys and ranges as the flags of several commands describe them.

use super::failure::Failure;
use super::go;

/// Every key from here on: what stands for it at a range's end.
pub(super) const OPEN_END: &[u8] = b"\0";

/// The first key behind all that begin with `prefix`; [`OPEN_END`] if there is none.
pub(super) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let Some(last) = prefix.iter().rposition(|byte| *byte < 0xff) else {
        return OPEN_END.to_vec();
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// A key and where its range ends, as the flags of `get` and `del` give them.
pub(super) fn range(
    key: Vec<u8>,
    end: Option<Vec<u8>>,
    is_prefix: bool,
    is_from_key: bool,
) -> (Vec<u8>, Vec<u8>) {
    match end {
        Some(end) => (key, end),
        None if (is_prefix || is_from_key) && key.is_empty() => {
            (OPEN_END.to_vec(), OPEN_END.to_vec())
        }
        None if is_prefix => {
            let end = end_of_prefix(&key);
            (key, end)
        }
        None if is_from_key => (key, OPEN_END.to_vec()),
        None => (key, Vec::new()),
    }
}

/// # Errors
/// When both are set, or one of them together with the end of a range.
pub(super) fn check_range(count: usize, is_prefix: bool, is_from_key: bool) -> Result<(), Failure> {
    if is_prefix && is_from_key {
        return Err(Failure::args(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    if count > 1 && (is_prefix || is_from_key) {
        return Err(Failure::args(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        ));
    }
    Ok(())
}

/// Whether `--consistency` asks for the state of the asked member alone.
pub(super) fn is_serializable(consistency: &str) -> Result<bool, Failure> {
    match consistency {
        "s" => Ok(true),
        "l" => Ok(false),
        other => {
            let other = go::quote(other.as_bytes());
            Err(Failure::feature(format!("unknown consistency flag {other}")))
        }
    }
}

/// A lease's id among the arguments.
pub(super) fn lease(text: &str) -> Result<i64, Failure> {
    go::parse_int(text, 16)
        .map_err(|why| Failure::args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// A member's id among the arguments.
pub(super) fn member(text: &str) -> Result<u64, Failure> {
    go::parse_uint(text, 16)
        .map_err(|why| Failure::args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(end_of_prefix(b"foo"), b"fop");
        assert_eq!(end_of_prefix(b"a\xff\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff"), OPEN_END);
        assert_eq!(end_of_prefix(b""), OPEN_END);
    }

    #[test]
    fn ranges() {
        let of = |key: &str, end: Option<&str>, is_prefix, is_from_key| {
            let end = end.map(|end| end.as_bytes().to_vec());
            range(key.as_bytes().to_vec(), end, is_prefix, is_from_key)
        };
        let pair = |key: &str, end: &str| (key.as_bytes().to_vec(), end.as_bytes().to_vec());
        assert_eq!(of("a", None, false, false), pair("a", ""));
        assert_eq!(of("a", Some("c"), false, false), pair("a", "c"));
        assert_eq!(of("a", None, true, false), pair("a", "b"));
        assert_eq!(of("a", None, false, true), pair("a", "\0"));
        assert_eq!(of("", None, true, false), pair("\0", "\0"));
        assert_eq!(of("", None, false, true), pair("\0", "\0"));
    }
}
