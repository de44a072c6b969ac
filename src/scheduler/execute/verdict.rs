//! Compares what came back with what a case expects, and says where they part.

use crate::scheduler::model::{OutputMatch, pattern};
use serde_json::Value;

/// How much of either side a difference shows.
const SHOWN_CHARS_MAX: usize = 60;

/// Why an attempt did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// The answer is not what is expected.
    Differs(String),
    /// The expectation itself makes no sense: nothing can be said of the answer.
    Unusable(String),
}

/// Compares bytes; `OutputMatch::Status` and `None` have nothing to say about them.
pub(super) fn compare(
    how: OutputMatch,
    expected: Option<&str>,
    got: &[u8],
) -> Result<(), Objection> {
    let expected = match (how, expected) {
        (OutputMatch::Status | OutputMatch::None, _) => return Ok(()),
        (_, Some(expected)) => expected,
        (_, None) => {
            return Err(Objection::Unusable("there is no output to compare with".into()));
        }
    };
    match how {
        OutputMatch::Exact => exact(expected.as_bytes(), got).map_err(Objection::Differs),
        OutputMatch::Json | OutputMatch::JsonSubset => {
            let expected: Value = serde_json::from_str(expected).map_err(|error| {
                Objection::Unusable(format!("the expected output is not JSON: {error}"))
            })?;
            let got: Value = serde_json::from_slice(got)
                .map_err(|error| Objection::Differs(format!("not JSON: {error}")))?;
            let is_subset = how == OutputMatch::JsonSubset;
            match difference(&expected, &got, is_subset, &mut "$".to_owned()) {
                Some(difference) => Err(Objection::Differs(difference)),
                None => Ok(()),
            }
        }
        OutputMatch::Regex => matches_pattern(expected, got),
        OutputMatch::Status | OutputMatch::None => Ok(()),
    }
}

/// Compares a status code or an exit code; without an expectation `is_fine` decides.
pub(super) fn compare_code(
    expected: Option<&str>,
    got: i32,
    is_fine: bool,
) -> Result<(), Objection> {
    let Some(expected) = expected else {
        return match is_fine {
            true => Ok(()),
            false => Err(Objection::Differs(format!("status {got}"))),
        };
    };
    match expected.trim().parse::<i32>() {
        Ok(code) if code == got => Ok(()),
        Ok(code) => Err(Objection::Differs(format!("status {got}, not {code}"))),
        Err(_) => Err(Objection::Unusable(format!("{expected:?} is no status to compare with"))),
    }
}

fn matches_pattern(expected: &str, got: &[u8]) -> Result<(), Objection> {
    match pattern(expected).map_err(Objection::Unusable)?.is_match(&String::from_utf8_lossy(got)) {
        true => Ok(()),
        false => Err(Objection::Differs(format!("nothing matches {expected}"))),
    }
}

fn exact(expected: &[u8], got: &[u8]) -> Result<(), String> {
    if expected == got {
        return Ok(());
    }
    let without_end = |bytes: &[u8]| {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        text.strip_suffix(b"\r").unwrap_or(text).to_vec()
    };
    if without_end(expected) == without_end(got) {
        return Err("differs only in the line break at its end".into());
    }
    let same = expected.iter().zip(got).take_while(|(a, b)| a == b).count();
    let line_start = got[..same].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let line = got[..same].iter().filter(|byte| **byte == b'\n').count() + 1;
    let rest = |bytes: &[u8]| match &bytes[line_start.min(bytes.len())..] {
        [] => "nothing more".to_owned(),
        rest => {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            format!("{:?}", shorten(&String::from_utf8_lossy(line)))
        }
    };
    let (expected, got) = (rest(expected), rest(got));
    Err(format!("line {line}, byte {}: expected {expected}, got {got}", same - line_start + 1))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Where two values part, in the order of the expected one; `path` is where they are. In a subset,
/// objects may have more members, and lists more elements anywhere between the expected ones.
fn difference(expected: &Value, got: &Value, is_subset: bool, path: &mut String) -> Option<String> {
    match (expected, got) {
        (Value::Object(expected), Value::Object(got)) => {
            for (key, value) in expected {
                let Some(got) = got.get(key) else { return Some(format!("{path}.{key}: missing")) };
                let length = path.len();
                path.push('.');
                path.push_str(key);
                if let Some(found) = difference(value, got, is_subset, path) {
                    return Some(found);
                }
                path.truncate(length);
            }
            let more = got.keys().find(|key| !expected.contains_key(*key)).filter(|_| !is_subset);
            more.map(|key| format!("{path}.{key}: not expected"))
        }
        (Value::Array(expected), Value::Array(got)) if is_subset => {
            let mut rest = got.iter();
            let is_in = |expected: &Value| {
                rest.any(|got| difference(expected, got, true, &mut String::new()).is_none())
            };
            let found = expected.iter().map(is_in).position(|is_in| !is_in)?;
            Some(format!("{path}[{found}]: no element fits {}", shown(&expected[found])))
        }
        (Value::Array(expected), Value::Array(got)) => {
            if expected.len() != got.len() {
                let (expected, got) = (expected.len(), got.len());
                return Some(format!("{path}: expected {expected} elements, got {got}"));
            }
            let length = path.len();
            for (at, (expected, got)) in expected.iter().zip(got).enumerate() {
                path.push_str(&format!("[{at}]"));
                if let Some(found) = difference(expected, got, is_subset, path) {
                    return Some(found);
                }
                path.truncate(length);
            }
            None
        }
        (Value::Number(a), Value::Number(b)) if is_same_number(a, b) => None,
        _ if expected == got => None,
        _ => Some(format!("{path}: expected {}, got {}", shown(expected), shown(got))),
    }
}

/// 1 and 1.0 are one number. Whole numbers are compared as such: as floating point, different
/// large ones would be the same.
fn is_same_number(a: &serde_json::Number, b: &serde_json::Number) -> bool {
    a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
}

fn shown(value: &Value) -> String {
    shorten(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(how: OutputMatch, expected: &str, got: &str) -> Option<String> {
        match compare(how, Some(expected), got.as_bytes()) {
            Ok(()) => None,
            Err(Objection::Differs(why)) => Some(why),
            Err(Objection::Unusable(why)) => Some(format!("unusable: {why}")),
        }
    }

    #[test]
    fn exact_is_byte_for_byte_and_says_where() {
        assert_eq!(check(OutputMatch::Exact, "ok", "ok"), None);
        let table = [
            ("ok", "ok\n", "differs only in the line break at its end"),
            ("a\r\n", "a", "differs only in the line break at its end"),
            ("a\nbcd\ne", "a\nbxd\ne", r#"line 2, byte 2: expected "bcd", got "bxd""#),
            ("ok", "", r#"line 1, byte 1: expected "ok", got nothing more"#),
            ("a\n", "a\nb", r#"line 2, byte 1: expected nothing more, got "b""#),
        ];
        for (expected, got, why) in table {
            assert_eq!(check(OutputMatch::Exact, expected, got).as_deref(), Some(why));
        }
    }

    #[test]
    fn json_is_equal_as_values() {
        let same = [("{\"a\":1,\"b\":[]}", " {\"b\":[], \"a\":1.0}"), ("1e2", "100"), ("[]", "[]")];
        for (expected, got) in same {
            assert_eq!(check(OutputMatch::Json, expected, got), None, "{expected}");
        }
        let table = [
            (r#"{"a":{"b":[1,2]}}"#, r#"{"a":{"b":[1,3]}}"#, "$.a.b[1]: expected 2, got 3"),
            (r#"{"a":1}"#, r#"{"a":1,"c":2}"#, "$.c: not expected"),
            (r#"{"a":1,"c":2}"#, r#"{"a":1}"#, "$.c: missing"),
            ("[1]", "[1,2]", "$: expected 1 elements, got 2"),
            (r#""1""#, "1", r#"$: expected "1", got 1"#),
            (
                "9007199254740993",
                "9007199254740992",
                "$: expected 9007199254740993, got 9007199254740992",
            ),
            ("1", "", "not JSON: EOF while parsing a value at line 1 column 0"),
        ];
        for (expected, got, why) in table {
            assert_eq!(check(OutputMatch::Json, expected, got).as_deref(), Some(why));
        }
        assert!(check(OutputMatch::Json, "{", "1").unwrap().starts_with("unusable: "));
    }

    #[test]
    fn a_subset_may_be_surrounded_by_more() {
        let same = [
            (r#"{"a":{"b":1}}"#, r#"{"a":{"b":1,"c":2},"d":3}"#),
            ("[1,3]", "[0,1,2,3]"),
            (r#"[{"id":2}]"#, r#"[{"id":1},{"id":2,"n":"x"}]"#),
            ("{}", r#"{"a":1}"#),
        ];
        for (expected, got) in same {
            assert_eq!(check(OutputMatch::JsonSubset, expected, got), None, "{expected}");
        }
        let table = [
            ("[3,1]", "[1,3]", "$[1]: no element fits 1"),
            (r#"{"a":[{"id":9}]}"#, r#"{"a":[]}"#, r#"$.a[0]: no element fits {"id":9}"#),
        ];
        for (expected, got, why) in table {
            assert_eq!(check(OutputMatch::JsonSubset, expected, got).as_deref(), Some(why));
        }
    }

    #[test]
    fn patterns_match_anywhere_unless_anchored() {
        assert_eq!(check(OutputMatch::Regex, r"id=\d+", "x id=12 y"), None);
        let found = check(OutputMatch::Regex, "^id", "x id");
        assert_eq!(found.as_deref(), Some("nothing matches ^id"));
        assert!(check(OutputMatch::Regex, "(", "x").unwrap().starts_with("unusable: "));
        let huge = check(OutputMatch::Regex, r"\w{9999}{9999}", "x").unwrap();
        assert!(huge.starts_with("unusable: "), "{huge}");
    }

    #[test]
    fn codes_are_compared_with_the_output_or_by_themselves() {
        assert_eq!(compare_code(None, 204, true), Ok(()));
        assert_eq!(compare_code(Some("404"), 404, false), Ok(()));
        let differs = |why: &str| Err(Objection::Differs(why.to_owned()));
        assert_eq!(compare_code(None, 500, false), differs("status 500"));
        assert_eq!(compare_code(Some("404"), 200, true), differs("status 200, not 404"));
        assert!(matches!(compare_code(Some("ok"), 200, true), Err(Objection::Unusable(_))));
    }
}
