//! Failures that are the same but for what changes each time: numbers, addresses, paths, times.

use std::collections::BTreeMap;

/// Of a message. What makes two failures one stands at the begin.
const FINGERPRINT_BYTES_MAX: usize = 200;
/// Of a message that is looked at.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// The part of a failure's message that stays: of its first line that says something, with `#` for
/// numbers, `<id>` for long identifiers, `<address>` for network addresses and `<path>` for the
/// folders of a path. Two failures with one fingerprint are shown as one group.
pub fn fingerprint(message: &str) -> String {
    let mut lines = begin(message, MESSAGE_BYTES_MAX).lines().map(str::trim);
    let Some(line) = lines.find(|line| line.chars().any(char::is_alphanumeric)) else {
        return String::new();
    };
    let mut found = String::new();
    for word in line.split_whitespace() {
        if !found.is_empty() {
            found.push(' ');
        }
        normalise(word, &mut found);
        if found.len() > FINGERPRINT_BYTES_MAX {
            break;
        }
    }
    begin(&found, FINGERPRINT_BYTES_MAX).to_owned()
}

/// As many whole characters as fit.
fn begin(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

/// Adds a word with what changes replaced; what stands around it, such as brackets, stays.
fn normalise(word: &str, into: &mut String) {
    let is_edge = |c: char| "()[]{}<>\"'`,;.!?=|".contains(c);
    let inner = word.trim_matches(is_edge);
    let inner = inner.strip_suffix(':').unwrap_or(inner);
    let Some(start) = word.find(inner).filter(|_| !inner.is_empty()) else {
        into.push_str(word);
        return;
    };
    into.push_str(&word[..start]);
    // A name with its value: only the value changes.
    let (name, value) = match inner.split_once('=') {
        Some((name, value)) if !name.contains(['/', '?']) => (name, Some(value)),
        _ => (inner, None),
    };
    match value {
        Some(value) => {
            into.push_str(name);
            into.push('=');
            one(value, into);
        }
        None => one(inner, into),
    }
    into.push_str(&word[start + inner.len()..]);
}

fn one(word: &str, into: &mut String) {
    if is_address(word) {
        into.push_str("<address>");
    } else if let Some((scheme, rest)) = word.split_once("://") {
        into.push_str(scheme);
        into.push_str("://<address>");
        // What is asked for stays, as far as it is a name.
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if !path.is_empty() {
            into.push('/');
            numbers(path, into);
        }
    } else if let Some((_, file)) = word.rsplit_once(['/', '\\']).filter(|_| is_path(word)) {
        into.push_str("<path>/");
        numbers(file, into);
    } else if is_identifier(word) {
        into.push_str("<id>");
    } else {
        numbers(word, into);
    }
}

/// A number of four parts, or one with colons, either with a port.
fn is_address(word: &str) -> bool {
    let host = word.rsplit_once(':').map_or(word, |(host, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { word }
    });
    let host = host.trim_matches(['[', ']']);
    host.parse::<core::net::IpAddr>().is_ok() || word.parse::<core::net::IpAddr>().is_ok()
}

fn is_path(word: &str) -> bool {
    let is_windows = word.get(1..3) == Some(":\\");
    word.starts_with(['/', '~'])
        || word.starts_with("./")
        || word.starts_with("../")
        || is_windows
        || word.matches('/').count() >= 2
}

/// Something like a UUID or a digest: long, hexadecimal, with a digit in it.
fn is_identifier(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_prefixed = word.len() > digits.len();
    let long_enough = if is_prefixed { 1 } else { 8 };
    let hex = digits.bytes().filter(u8::is_ascii_hexdigit).count();
    // A date has no letters, a word no digits.
    let has = |is: fn(&u8) -> bool| digits.as_bytes().iter().any(is);
    let is_marked = has(u8::is_ascii_alphabetic) && has(u8::is_ascii_digit);
    is_hex && hex >= long_enough && (is_prefixed || is_marked)
}

/// One `#` for each number, with its sign, fraction and the separators of dates and times.
fn numbers(text: &str, into: &mut String) {
    let mut is_in_number = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let goes_on = chars.peek().is_some_and(char::is_ascii_digit);
        if c.is_ascii_digit() {
            if !is_in_number {
                into.push('#');
            }
            is_in_number = true;
        } else if !(is_in_number && goes_on && ".,:-".contains(c)) {
            into.push(c);
            is_in_number = false;
        }
    }
}

/// Failures by fingerprint, the largest group first: each with those that it is made of.
pub fn group<'a, T>(failures: impl IntoIterator<Item = (&'a str, T)>) -> Vec<(String, Vec<T>)> {
    let mut groups: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for (message, failure) in failures {
        groups.entry(fingerprint(message)).or_default().push(failure);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, failures)| std::cmp::Reverse(failures.len()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_replaced() {
        let table = [
            ("expected 200, got 503", "expected #, got #"),
            ("took 1.25s (limit 1s)", "took #s (limit #s)"),
            (
                "dial tcp 10.0.0.7:8080: connect: connection refused",
                "dial tcp <address>: connect: connection refused",
            ),
            ("[::1]:2379: refused", "[<address>: refused"),
            ("at 2026-11-21 20:44:28,123 lost", "at # # lost"),
            ("id=6f9619ff-8b86-d011-b42d-00c04fc964ff gone", "id=<id> gone"),
            ("object at 0x7f3a2c", "object at <id>"),
            ("object at 0xabcd: gone", "object at <id>: gone"),
            ("commit 763be8862d379672", "commit <id>"),
            ("open /tmp/x-81/a.txt: no such file", "open <path>/a.txt: no such file"),
            ("tests/api/test_user.py:42: AssertionError", "<path>/test_user.py:#: AssertionError"),
            (
                "GET http://127.0.0.1:4000/users/17?x=1 failed",
                "GET http://<address>/users/# failed",
            ),
            ("\n  \n  panic: bad\nmore", "panic: bad"),
            ("用户 42 不存在", "用户 # 不存在"),
            ("deadbeef decade facade", "deadbeef decade facade"),
            ("", ""),
            ("---\n===", ""),
        ];
        for (message, expected) in table {
            assert_eq!(fingerprint(message), expected, "{message}");
        }
    }

    #[test]
    fn it_is_bounded() {
        let long = fingerprint(&"é".repeat(100_000));
        assert!(long.len() <= FINGERPRINT_BYTES_MAX && !long.is_empty());
        assert!(fingerprint(&"a=".repeat(100_000)).len() <= FINGERPRINT_BYTES_MAX);
    }

    #[test]
    fn the_largest_group_comes_first() {
        let failures = [("a 1", 1), ("b", 2), ("a 2", 3)];
        let expected = vec![("a #".to_owned(), vec![1, 3]), ("b".to_owned(), vec![2])];
        assert_eq!(group(failures), expected);
    }
}
