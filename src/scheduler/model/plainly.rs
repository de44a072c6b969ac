//! JSON that people write, read so that a mistake is told by the name of its field and in plain words.

use super::Refusal;
use serde::de::DeserializeOwned;
use serde_json::{Deserializer, Value};

/// What Rust calls numbers, and what they are.
const NUMBERS: [(&str, &str); 8] = [
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number from 0"),
    ("usize", "a whole number from 0"),
    ("i32", "a whole number from -2147483648 to 2147483647"),
    ("i64", "a whole number"),
    ("f64", "a number"),
];

/// Reads a text as `what`.
///
/// # Errors
///
/// 400 with what is wrong.
pub(super) fn read<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, Refusal> {
    let mut reader = Deserializer::from_slice(text);
    let found = serde_path_to_error::deserialize(&mut reader);
    let found = found.map_err(|error| (error.path().to_string(), error.into_inner()));
    let whole = found
        .and_then(|found| reader.end().map(|()| found).map_err(|error| (String::new(), error)));
    whole.map_err(|(path, error)| refusal(what, &path, &error))
}

/// Reads a value as `what`.
///
/// # Errors
///
/// 400 with what is wrong.
pub fn understand<T: DeserializeOwned>(what: &str, value: Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| refusal(what, &error.path().to_string(), error.inner()))
}

/// What a reader of YAML says of a number that is none, in plain words.
pub fn in_words(error: &str) -> String {
    let number = error.strip_prefix("invalid ").and_then(|found| found.split_once(' '));
    let known = number.and_then(|(name, place)| {
        let (_, words) = NUMBERS.iter().find(|(known, _)| *known == name)?;
        Some(format!("this is not {words} {place}"))
    });
    known.unwrap_or_else(|| error.to_owned())
}

fn refusal(what: &str, path: &str, error: &serde_json::Error) -> Refusal {
    Refusal::malformed(format!("not {what}: {}", told(path, &error.to_string())))
}

/// What is wrong with the field at a path.
fn told(path: &str, error: &str) -> String {
    let is_named = !matches!(path, "" | "." | "?");
    let found = error.strip_prefix("invalid type: ").or(error.strip_prefix("invalid value: "));
    let parts = found.filter(|_| is_named).and_then(|found| found.split_once(", expected "));
    let Some((found, expected)) = parts else { return error.to_owned() };
    let (kind, place) = expected.split_once(" at line ").unwrap_or((expected, ""));
    let known = NUMBERS.iter().find(|(name, _)| *name == kind);
    let kind = known.map_or(kind, |(_, words)| words);
    match place {
        "" => format!("{path} is {found}, not {kind}"),
        place => format!("{path} is {found}, not {kind} at line {place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{read, understand};
    use crate::scheduler::model::{RunSpec, TestCase};
    use serde_json::{Value, json};

    #[test]
    fn a_mistake_is_told_by_its_field() {
        let case = |text: &str| read::<TestCase>("a case", text.as_bytes()).unwrap_err().message;
        for (text, told) in [
            (
                r#"{"timeout_ms": -1}"#,
                "timeout_ms is integer `-1`, not a whole number from 0 at line 1 column 17",
            ),
            (r#"{"id": 3}"#, "id is integer `3`, not a string at line 1 column 8"),
            (r#"{"retries": {"test": "x"}}"#, "retries.test is string \"x\", not a whole number"),
            (r#"{"id": "a"} {"#, "trailing characters at line 1 column 13"),
            (r#"{"ids": 3}"#, "unknown field `ids`, expected one of `id`"),
            ("3", "invalid type: integer `3`, expected struct TestCase"),
        ] {
            let all = case(text);
            assert!(all.starts_with(&format!("not a case: {told}")), "{all}");
        }
    }

    #[test]
    fn so_is_one_in_a_value() {
        let run = |value: Value| understand::<RunSpec>("a run", value).unwrap_err();
        assert_eq!(
            run(json!({"cases": [], "repeats": 1e308})).message,
            "not a run: repeats is floating point `1e+308`, not a whole number from 0 to 4294967295"
        );
        assert_eq!(run(json!({"repeats": 99_999_999_999_u64})).status, 400);
    }
}
