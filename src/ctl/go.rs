//! How Go writes and reads what etcdctl prints and takes: quoted strings, times, numbers, sizes.
//!
//! Scripts parse these texts, so each function keeps Go's form, also that of its errors. It leaves
//! out what no output or flag of etcdctl uses.

use std::time::Duration;

/// Text in double quotes, as Go's `%q` writes it. Bytes that are no UTF-8 stand as `\xNN`.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_quoted(&mut out, c);
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn push_quoted(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if is_printable(c) => out.push(c),
        c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

fn is_printable(c: char) -> bool {
    // Behind a letter, a mark that joins it is printed as it is, in Rust as in Go.
    let joined = ['a', c];
    let text: String = joined.iter().collect();
    c == '\'' || text.escape_debug().to_string() == text
}

/// Reads a quoted string from the start of `text`, in double quotes with Go's escapes or between
/// backquotes; returns its bytes and what follows it.
pub(super) fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (inside, rest) = raw.split_once('`')?;
        return Some((inside.replace('\r', "").into_bytes(), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((bytes, rest)),
            '\n' => return None,
            '\\' => rest = unescape(rest, &mut bytes)?,
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
}

/// Reads what follows a backslash; returns what follows that.
fn unescape<'t>(text: &'t str, bytes: &mut Vec<u8>) -> Option<&'t str> {
    let kind = text.chars().next()?;
    let rest = &text[kind.len_utf8()..];
    let mut number = |rest: &'t str, digits: usize, radix: u32, is_char: bool| {
        let value = u32::from_str_radix(rest.get(..digits)?, radix).ok()?;
        match is_char {
            true => bytes.extend(char::from_u32(value)?.encode_utf8(&mut [0; 4]).bytes()),
            false => bytes.push(u8::try_from(value).ok()?),
        }
        rest.get(digits..)
    };
    let simple = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '"' => b'"',
        'x' => return number(rest, 2, 16, false),
        'u' => return number(rest, 4, 16, true),
        'U' => return number(rest, 8, 16, true),
        '0'..='7' => return number(text, 3, 8, false),
        _ => return None,
    };
    bytes.push(simple);
    Some(rest)
}

/// A time as Go's flags take it, such as `1m30s` or `250ms`; a bare 0 is one too.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() || rest.starts_with('-') {
        return Err(invalid());
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (unit, behind) = rest.split_at(letters);
        let of = quote(text.as_bytes());
        let scale = match unit {
            "" => return Err(format!("time: missing unit in duration {of}")),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => {
                let unit = quote(unit.as_bytes());
                return Err(format!("time: unknown unit {unit} in duration {of}"));
            }
        };
        nanos += value * scale;
        rest = behind;
    }
    // Longer than Go's durations reach.
    if nanos > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// A limit of time: one below zero is over at once, or none, as zero is.
pub(super) fn parse_limit(text: &str) -> Result<Duration, String> {
    let Some(below_zero) = text.strip_prefix('-').filter(|rest| !rest.starts_with(['+', '-']))
    else {
        return parse_duration(text);
    };
    let told = |why: String| why.replace(&quote(below_zero.as_bytes()), &quote(text.as_bytes()));
    parse_duration(below_zero).map(|_| Duration::ZERO).map_err(told)
}

/// A time as Go prints it: `1m0.5s`, `2.25ms`, `0s`.
pub(super) fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let (unit, scale) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => ("ns", 1),
        1_000..1_000_000 => ("µs", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        _ => return long_duration(nanos),
    };
    format!("{}{unit}", decimal(nanos, scale))
}

fn long_duration(nanos: u128) -> String {
    const SECOND: u128 = 1_000_000_000;
    let minutes = nanos / (60 * SECOND);
    let seconds = format!("{}s", decimal(nanos % (60 * SECOND), SECOND));
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

/// `value / scale` with all its digits and no zero behind them.
fn decimal(value: u128, scale: u128) -> String {
    let digits = scale.ilog10() as usize;
    let (whole, part) = (value / scale, value % scale);
    match part {
        0 => whole.to_string(),
        part => format!("{whole}.{part:0digits$}").trim_end_matches('0').to_owned(),
    }
}

/// A number with its sign. `radix` 0 takes the prefixes `0x`, `0o`, `0b` and `0`.
pub(super) fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let max = i64::MAX as u64 + u64::from(is_negative);
    let value = magnitude(digits, radix).and_then(|value| match value <= max {
        true => Ok(value),
        false => Err("value out of range"),
    });
    match value {
        Ok(value) if is_negative => Ok((value as i64).wrapping_neg()),
        Ok(value) => Ok(value as i64),
        Err(why) => Err(format!("strconv.ParseInt: parsing {}: {why}", quote(text.as_bytes()))),
    }
}

/// A number without sign.
pub(super) fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    magnitude(text, radix)
        .map_err(|why| format!("strconv.ParseUint: parsing {}: {why}", quote(text.as_bytes())))
}

fn magnitude(text: &str, radix: u32) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match (radix, lower.as_bytes()) {
        (0, [b'0', b'x', ..]) => (&lower[2..], 16),
        (0, [b'0', b'o', ..]) => (&lower[2..], 8),
        (0, [b'0', b'b', ..]) => (&lower[2..], 2),
        (0, [b'0', _, ..]) => (&lower[1..], 8),
        (0, _) => (&lower[..], 10),
        (radix, _) => (&lower[..], radix),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("invalid syntax");
    }
    u64::from_str_radix(digits, radix).map_err(|_| "value out of range")
}

/// A switch as Go's flags take it.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        text => {
            Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes())))
        }
    }
}

/// A list as Go's `%v` prints it.
pub(super) fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    format!("[{}]", items.join(" "))
}

/// Splits a line into words, some of them in quotes. `None`: a quoted one is malformed.
pub(super) fn words(line: &str) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        rest = &rest[start..];
        let quoted_end = match rest.as_bytes()[0] {
            b'"' => end_of_double_quotes(rest),
            b'\'' => rest[1..].find('\'').map(|at| at + 2),
            _ => Some(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        let Some(end) = quoted_end else {
            // A quote that nothing closes is passed over, as etcdctl's pattern does.
            rest = &rest[1..];
            continue;
        };
        let word = &rest[..end];
        words.push(match word.as_bytes()[0] {
            b'"' => unquote(word)?.0,
            b'\'' => word.as_bytes()[1..end - 1].to_vec(),
            _ => word.as_bytes().to_vec(),
        });
        rest = &rest[end..];
    }
    Some(words)
}

fn end_of_double_quotes(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices().skip(1).find_map(|(at, c)| {
        let closes = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        closes.then_some(at + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_go_both_ways() {
        let texts: [(&[u8], &str); 8] = [
            (b"a", r#""a""#),
            (b"a\"b\\c'", r#""a\"b\\c'""#),
            (b"\x00\x01\x7f\xff\xc3", r#""\x00\x01\x7f\xff\xc3""#),
            (b"\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            ("äé世🦀".as_bytes(), "\"äé世🦀\""),
            ("\u{301}".as_bytes(), "\"\u{301}\""),
            ("\u{200b}\u{a0}".as_bytes(), r#""\u200b\u00a0""#),
            ("\u{e0001}".as_bytes(), r#""\U000e0001""#),
        ];
        for (bytes, quoted) in texts {
            assert_eq!(quote(bytes), quoted);
            let behind = format!("{quoted}) =");
            assert_eq!(unquote(&behind), Some((bytes.to_vec(), ") =")), "{quoted}");
        }
        assert_eq!(unquote(r#""\101\x41""#), Some((b"AA".to_vec(), "")));
        assert_eq!(unquote("`a\\n`b"), Some((b"a\\n".to_vec(), "b")));
        for broken in ["", "a", "\"a", "\"a\nb\"", r#""\q""#, r#""\x4""#, r#""\777""#, "`a"] {
            assert_eq!(unquote(broken), None, "{broken}");
        }
    }

    #[test]
    fn times() {
        let nanos = Duration::from_nanos;
        let times = [
            (nanos(0), "0s"),
            (nanos(999), "999ns"),
            (nanos(1_500), "1.5µs"),
            (nanos(2_275_075), "2.275075ms"),
            (nanos(5_000_585_319), "5.000585319s"),
            (Duration::from_secs(60), "1m0s"),
            (Duration::from_millis(3_661_500), "1h1m1.5s"),
        ];
        for (time, text) in times {
            assert_eq!(duration(time), text);
            assert_eq!(parse_duration(text), Ok(time));
        }
        let texts = [
            ("x", "time: invalid duration \"x\""),
            ("", "time: invalid duration \"\""),
            ("-1s", "time: invalid duration \"-1s\""),
            ("5", "time: missing unit in duration \"5\""),
            ("5x", "time: unknown unit \"x\" in duration \"5x\""),
        ];
        for (text, error) in texts {
            assert_eq!(parse_duration(text), Err(error.to_owned()));
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_int("-12", 10), Ok(-12));
        assert_eq!(parse_int("7fffffffffffffff", 16), Ok(i64::MAX));
        assert_eq!(parse_int("-8000000000000000", 16), Ok(i64::MIN));
        assert_eq!(parse_int("0x1F", 0), Ok(31));
        assert_eq!(parse_int("010", 0), Ok(8));
        let out_of_range = "strconv.ParseInt: parsing \"8000000000000000\": value out of range";
        assert_eq!(parse_int("8000000000000000", 16), Err(out_of_range.to_owned()));
        for text in ["", "-", "x", "1_0", " 1", "0x"] {
            let error = format!("strconv.ParseInt: parsing {text:?}: invalid syntax");
            assert_eq!(parse_int(text, 10), Err(error));
        }
        assert_eq!(parse_uint("ffffffffffffffff", 16), Ok(u64::MAX));
        assert!(parse_uint("-1", 16).is_err());
    }

    #[test]
    fn lines_into_words() {
        let split = |line| {
            let words = words(line)?;
            Some(words.into_iter().map(|word| String::from_utf8(word).unwrap()).collect::<Vec<_>>())
        };
        let of = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        assert_eq!(split(""), of(&[]));
        assert_eq!(split("  foo bar  baz "), of(&["foo", "bar", "baz"]));
        assert_eq!(split("put 'my key' \"my \\\"v\\n\""), of(&["put", "my key", "my \"v\n"]));
        assert_eq!(split("'' \"\""), of(&["", ""]));
        assert_eq!(split("a='b c'"), of(&["a='b", "c'"]));
        assert_eq!(split(r#"put "\q""#), None);
    }
}
