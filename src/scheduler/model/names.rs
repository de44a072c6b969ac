//! Which names cases, environments, tags and labels may have.

use super::{Labels, Refusal};
use serde_json::Value;

const ID_BYTES_MAX: usize = 256;
/// A tag is part of a key.
const TAG_BYTES_MAX: usize = 128;

/// Refuses names that cannot be part of a key and of a path.
pub fn check_id(what: &str, id: &str) -> Result<(), Refusal> {
    // Nobody sees one of blanks in a list.
    if id.trim().is_empty() {
        return Err(Refusal::malformed(format!("{what} without an id")));
    }
    if id.len() > ID_BYTES_MAX {
        return Err(Refusal::malformed(format!("{what} id is longer than {ID_BYTES_MAX} bytes")));
    }
    if matches!(id, "." | "..") {
        return Err(Refusal::malformed(format!("{what} id {id:?} is none that a path can have")));
    }
    if id.contains('/') || id.chars().any(is_control) {
        return Err(Refusal::malformed(format!(
            "{what} id {id:?} has a slash or control character"
        )));
    }
    Ok(())
}

/// Refuses what is no single line of text that a list has room for.
pub(super) fn check_line(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > ID_BYTES_MAX {
        return Err(Refusal::malformed(format!("{what} is longer than {ID_BYTES_MAX} bytes")));
    }
    if text.chars().any(is_control) {
        return Err(Refusal::malformed(format!("{what} {text:?} has a control character")));
    }
    Ok(())
}

/// Whether a character is none that is seen, or turns those behind it around (Unicode, UAX 9).
fn is_control(found: char) -> bool {
    let turns = matches!(found, '\u{61c}' | '\u{200e}' | '\u{200f}')
        || matches!(found, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || found.is_control()
}

/// Labels that workers have or must have: names that begin with an at sign are the scheduler's own.
pub fn check_labels(labels: &Labels) -> Result<(), String> {
    match labels.keys().find(|name| name.starts_with('@')) {
        Some(name) => Err(format!("label {name:?} begins with @")),
        None => Ok(()),
    }
}

/// Values that people write may be nested so deep, as a plan file may be. Readers stop at 128, and copies of them lie
/// deeper within others.
const DEPTH_MAX: u32 = 64;

/// Whether a value is nested too deep to be kept.
pub(super) fn check_depth(name: &str, value: &Value) -> Result<(), String> {
    fn is_within(value: &Value, left: u32) -> bool {
        let inner = |value: &Value| left > 0 && is_within(value, left - 1);
        match value {
            Value::Array(items) => items.iter().all(inner),
            Value::Object(fields) => fields.values().all(inner),
            _ => true,
        }
    }
    match is_within(value, DEPTH_MAX) {
        true => Ok(()),
        false => Err(format!("{name} is nested deeper than {DEPTH_MAX}")),
    }
}

pub(super) fn check_tag(tag: &str) -> Result<(), Refusal> {
    if tag.is_empty() {
        return Err(Refusal::malformed("a tag is empty"));
    }
    if tag.len() > TAG_BYTES_MAX {
        return Err(Refusal::malformed(format!("a tag is longer than {TAG_BYTES_MAX} bytes")));
    }
    if tag.contains('/') || tag.chars().any(is_control) {
        return Err(Refusal::malformed(format!("tag {tag:?} has a slash or control character")));
    }
    Ok(())
}
