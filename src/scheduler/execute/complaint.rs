//! The one line of a command's output that says most about why it failed.

use super::output::{Output, shorten};
use regex::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Of the line, in characters of JSON.
const BYTES_MAX: usize = 300;

/// The first of these that is found tells; what is in brackets, if anything is, else all of it.
static TELLING: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = [
        // pytest.
        r"(?m)^E\s+(\S.*)$",
        // An exception of Python, Java, JavaScript.
        r"(?m)^(?:[\w.$]*(?:Error|Exception)\b.*)$",
        // Rust.
        r"(?m)panicked at .*:\n(.+)$",
        // Go.
        r"(?m)^\s*\S+_test\.go:\d+: (.+)$",
        r"(?mi)^.*\b(?:error|fatal|panic|exception)\b.*$",
    ];
    patterns.iter().filter_map(|pattern| Regex::new(pattern).ok()).collect()
});

/// What a command that failed said of it; nothing if it said nothing at all.
pub(super) fn complaint(stderr: &Output, output: &Output) -> Option<String> {
    let texts = [stderr, output].map(text);
    let found = TELLING.iter().find_map(|pattern| {
        let captured = texts.iter().find_map(|text| pattern.captures(text))?;
        let whole = captured.get(0);
        captured.get(1).or(whole).map(|line| line.as_str())
    });
    let last = |text: &'_ str| {
        text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
    };
    let line = found.map(str::to_owned).or_else(|| texts.iter().find_map(|text| last(text)))?;
    Some(shorten(line.trim(), BYTES_MAX))
}

/// Begin and end, without what colours it.
fn text(output: &Output) -> String {
    let bytes: Vec<u8> = output.head.iter().chain(&output.tail).copied().collect();
    let text: Cow<'_, str> = String::from_utf8_lossy(&bytes);
    let mut plain = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some((before, escape)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        let end = escape.find(|c: char| c.is_ascii_alphabetic()).map_or(escape.len(), |at| at + 1);
        rest = &escape[end..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(stderr: &str, output: &str) -> Option<String> {
        let of = |text: &str| Output { head: text.into(), ..Output::default() };
        complaint(&of(stderr), &of(output))
    }

    #[test]
    fn the_line_that_says_why_is_found() {
        let python = "Traceback (most recent call last):\n  File \"x.py\", line 3\n    raise E()\nshop.CartError: cart is empty\n";
        let pytest = "____ test_x ____\n>   assert 1 == 2\nE   assert 1 == 2\n\nFAILED x.py::test_x - assert 1 == 2\n1 failed in 0.02s\n";
        let rust = "running 1 test\nthread 'a::b' panicked at src/a.rs:3:5:\nassertion failed: cart.is_some()\nnote: run with\n";
        let go = "--- FAIL: TestX (0.00s)\n    x_test.go:12: cart is empty\nFAIL\nFAIL\texample.com/x\t0.01s\n";
        let shell = "\u{1b}[31mcp: fatal error: no space\u{1b}[0m\nsee above\n";
        for (stderr, output, line) in [
            (python, "", Some("shop.CartError: cart is empty")),
            ("", pytest, Some("assert 1 == 2")),
            ("", rust, Some("assertion failed: cart.is_some()")),
            ("", go, Some("cart is empty")),
            (shell, "", Some("cp: fatal error: no space")),
            ("no cart\n\n", "all fine\n", Some("no cart")),
            ("", "no cart\n", Some("no cart")),
            ("", " \n", None),
        ] {
            assert_eq!(said(stderr, output).as_deref(), line);
        }
    }
}
