//! The configuration file: YAML, and with it JSON.
//!
//! Keys are the names of flags, some of them in groups; the table says which. Values are typed as
//! etcd types them: a time is a number of nanoseconds, a list is a list, a text that looks like a
//! number or a switch needs quotes. What a file leaves out keeps its default. Keys that nobody
//! knows are reported and not refused: files that etcd takes have some.

use crate::config::error::{ConfigError, Notice};
use crate::config::flags::Flags;
use crate::config::table::{Flag, Kind, Role, files};
use crate::config::value;
use crate::config::yaml::{self, Node, Value};
use std::fs;
use std::io;

/// What a file sets.
pub(super) struct File {
    pub flags: Flags,
    /// Keys that nobody knows.
    pub unknown: Vec<String>,
}

impl File {
    /// What the log shall tell of the file.
    pub(super) fn notices(&self, path: String) -> Vec<Notice> {
        let loaded = "loaded server configuration, other configuration command line flags and \
                      environment variables will be ignored if provided";
        let mut notices = vec![Notice::info(loaded, vec![("path", path)])];
        if !self.unknown.is_empty() {
            let fields = vec![("keys", self.unknown.join(" "))];
            notices.push(Notice::warn("ignored unknown keys of the configuration file", fields));
        }
        notices
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// Name the file, and the line and the key where there is one.
pub(super) fn read(path: &str) -> Result<File, ConfigError> {
    let text = fs::read(path).map_err(|error| ConfigError::flags(unreadable(path, &error)))?;
    let text = String::from_utf8(text)
        .map_err(|_| ConfigError::flags(format!("configuration file {path}: it is not UTF-8")))?;
    from_text(path, &text)
}

/// The words of etcd for the frequent cases.
fn unreadable(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        io::ErrorKind::IsADirectory => format!("read {path}: is a directory"),
        _ => format!("open {path}: {error}"),
    }
}

fn from_text(path: &str, text: &str) -> Result<File, ConfigError> {
    let at = |line: usize, what: &str| {
        ConfigError::flags(format!("configuration file {path}: line {line}: {what}"))
    };
    let mut file = File { flags: Flags::of_a_file(), unknown: Vec::new() };
    let Some(root) = yaml::parse(text).map_err(|fault| at(fault.line, &fault.what))? else {
        return Ok(file);
    };
    match root.value {
        Value::Map(pairs) => add(&mut file, "", pairs, &at)?,
        ref value if value.is_null() => {}
        _ => return Err(at(root.line, "it must have keys and values")),
    }
    Ok(file)
}

fn add(
    file: &mut File,
    group: &str,
    pairs: Vec<(String, Node)>,
    at: &impl Fn(usize, &str) -> ConfigError,
) -> Result<(), ConfigError> {
    for (name, node) in pairs {
        let key = if group.is_empty() { name } else { format!("{group}.{name}") };
        let Node { line, value } = node;
        if value.is_null() {
            continue;
        }
        if files::GROUPS.contains(&key.as_str()) {
            match value {
                Value::Map(pairs) => add(file, &key, pairs, at)?,
                _ => return Err(at(line, &format!("{key} must have keys of its own"))),
            }
            continue;
        }
        let Some(flag) = files::find(&key) else {
            file.unknown.push(key);
            continue;
        };
        let text = text_of(flag, &value).map_err(|expected| {
            at(line, &format!("{key} must be {expected}, not {}", shown(flag, &value)))
        })?;
        if let Some(text) = text {
            // The value of an outdated flag is nobody's concern.
            if !matches!(flag.role, Role::Deprecated(_)) {
                flag.check(&text).map_err(|error| at(line, &format!("{key}: {error}")))?;
            }
            file.flags.set(flag, text);
        }
    }
    Ok(())
}

/// The value as the flag has it; none if it leaves the default. The error is what it must be.
fn text_of(flag: &Flag, value: &Value) -> Result<Option<String>, &'static str> {
    if files::is_list(flag) {
        let Value::List(items) = value else { return Err("a list") };
        let texts = items.iter().map(|item| text(&item.value).ok_or("a list of texts"));
        let texts = texts.collect::<Result<Vec<&str>, _>>()?;
        return Ok(Some(texts.join(",")).filter(|text| !text.is_empty()));
    }
    let text = match flag.kind {
        Kind::Switch => switch(value).ok_or("true or false")?.to_string(),
        Kind::Unsigned | Kind::Unsigned32 => match number(value).ok_or("a whole number")? {
            number @ 0.. => number.to_string(),
            _ => return Err("a whole number from 0 on"),
        },
        Kind::Signed => number(value).ok_or("a whole number")?.to_string(),
        Kind::Duration => {
            format!("{}ns", number(value).ok_or("a number of nanoseconds")?)
        }
        _ => text(value).ok_or("a text, in quotes if it looks like a number or a switch")?.into(),
    };
    // As in etcd, an empty text leaves these as they are.
    let keeps = matches!(flag.kind, Kind::Origins | Kind::OneOf(_)) && text.is_empty();
    Ok(Some(text).filter(|_| !keeps))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        Value::Plain(text) => {
            let is_other = value.is_null() || switch(value).is_some() || is_number(text);
            (!is_other).then_some(text)
        }
        _ => None,
    }
}

/// With the words for it that YAML had at first, as etcd's reader knows them.
fn switch(value: &Value) -> Option<bool> {
    let Value::Plain(text) = value else { return None };
    match text.as_str() {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "y" | "Y" | "on" | "On" | "ON" => {
            Some(true)
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "n" | "N" | "off" | "Off" | "OFF" => {
            Some(false)
        }
        _ => None,
    }
}

fn is_number(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    starts && (text.parse::<f64>().is_ok() || value::signed(text).is_ok())
}

/// A whole number; `1e3` is one.
fn number(value: &Value) -> Option<i128> {
    let Value::Plain(text) = value else { return None };
    if let Ok(number) = value::signed(text) {
        return Some(number.into());
    }
    if let Ok(number) = value::unsigned(text) {
        return Some(number.into());
    }
    let number: f64 = text.parse().ok().filter(|_| is_number(text))?;
    // Beyond 2^53 such a number says less than it seems to.
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i128)
}

/// How an error shows a value.
fn shown(flag: &Flag, value: &Value) -> String {
    match value {
        _ if matches!(flag.kind, Kind::Secret) => "what it is".to_owned(),
        Value::Plain(text) => text.clone(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(_) => "a list".to_owned(),
        Value::Map(_) => "keys and values".to_owned(),
    }
}
