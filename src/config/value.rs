//! Values as the Go programs read them that users know: numbers, switches, durations.
//!
//! The error texts are those that Go's flag package prints after `invalid value "x" for flag`.

pub(super) const SYNTAX: &str = "parse error";
pub(super) const RANGE: &str = "value out of range";

pub(super) fn switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(SYNTAX),
    }
}

/// A number as in Go's source: `128`, `0x80`, `0o200`, `0200`, `0b1000_0000`.
pub(super) fn unsigned(text: &str) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    // An underscore may follow a prefix, and otherwise stands between two digits.
    let after_prefix = digits.len() < lower.len();
    let digits = if after_prefix { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    let groups_are_filled = digits.split('_').all(|group| !group.is_empty());
    let digits = digits.replace('_', "");
    if !groups_are_filled || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(SYNTAX);
    }
    u64::from_str_radix(&digits, radix).map_err(|_| RANGE)
}

pub(super) fn signed(text: &str) -> Result<i64, &'static str> {
    let (negative, magnitude) = match text.as_bytes() {
        [b'-', ..] => (true, unsigned(&text[1..])?),
        [b'+', ..] => (false, unsigned(&text[1..])?),
        _ => (false, unsigned(text)?),
    };
    let value = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
    i64::try_from(value).map_err(|_| RANGE)
}

/// Nanoseconds of `1h30m`, `1.5s`, `-100ms`, `0`.
pub(super) fn nanoseconds(text: &str) -> Result<i64, &'static str> {
    let (sign, mut rest) = match text.as_bytes() {
        [b'-', ..] => (-1, &text[1..]),
        [b'+', ..] => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(SYNTAX);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number =
            rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, tail) = rest.split_at(number);
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        total = total.checked_add(part(number, unit)?).ok_or(SYNTAX)?;
        rest = tail;
    }
    i64::try_from(sign * total).map_err(|_| SYNTAX)
}

fn part(number: &str, unit: &str) -> Result<i128, &'static str> {
    let scale: i128 = match unit {
        "ns" => 1,
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(SYNTAX),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err(SYNTAX);
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| SYNTAX)? };
    // More digits than a nanosecond has say nothing.
    let digits = &fraction[..fraction.len().min(18)];
    let fraction: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| SYNTAX)? };
    let fraction = fraction * scale / 10_i128.pow(digits.len() as u32);
    whole.checked_mul(scale).and_then(|whole| whole.checked_add(fraction)).ok_or(SYNTAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_go_spellings() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(switch(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(switch(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "on", "tRUE", " true", "2"] {
            assert_eq!(switch(text), Err(SYNTAX), "{text}");
        }
    }

    #[test]
    fn numbers_are_read_as_in_go_source() {
        let table = [
            ("0", Ok(0)),
            ("128", Ok(128)),
            ("0x80", Ok(128)),
            ("0X8F", Ok(143)),
            ("0o17", Ok(15)),
            ("017", Ok(15)),
            ("0b101", Ok(5)),
            ("1_000_000", Ok(1_000_000)),
            ("0x_ff", Ok(255)),
            ("0_7", Ok(7)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(RANGE)),
            ("08", Err(SYNTAX)),
            ("", Err(SYNTAX)),
            ("x", Err(SYNTAX)),
            ("0x", Err(SYNTAX)),
            ("-1", Err(SYNTAX)),
            ("+1", Err(SYNTAX)),
            ("1e3", Err(SYNTAX)),
            ("1.5", Err(SYNTAX)),
            ("_1", Err(SYNTAX)),
            ("1_", Err(SYNTAX)),
            ("1__0", Err(SYNTAX)),
            (" 1", Err(SYNTAX)),
        ];
        for (text, expected) in table {
            assert_eq!(unsigned(text), expected, "{text:?}");
        }
    }

    #[test]
    fn signed_numbers_have_a_sign_and_a_range() {
        let table = [
            ("-1", Ok(-1)),
            ("+7", Ok(7)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(RANGE)),
            ("99999999999999999999", Err(RANGE)),
            ("--1", Err(SYNTAX)),
            ("-", Err(SYNTAX)),
            ("", Err(SYNTAX)),
        ];
        for (text, expected) in table {
            assert_eq!(signed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        let table = [
            ("0", Ok(0)),
            ("-0", Ok(0)),
            ("0s", Ok(0)),
            ("100ms", Ok(100_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("1.5s", Ok(1_500_000_000)),
            (".5s", Ok(500_000_000)),
            ("1.s", Ok(1_000_000_000)),
            ("-3us", Ok(-3_000)),
            ("3\u{b5}s", Ok(3_000)),
            ("7ns", Ok(7)),
            ("0.0000000001s", Ok(0)),
            ("2540400h", Ok(9_145_440_000_000_000_000)),
            ("2562048h", Err(SYNTAX)),
            ("99999999999999999999999999999999999999999h", Err(SYNTAX)),
            ("", Err(SYNTAX)),
            ("-", Err(SYNTAX)),
            ("5", Err(SYNTAX)),
            ("s", Err(SYNTAX)),
            (".s", Err(SYNTAX)),
            ("1..5s", Err(SYNTAX)),
            ("1d", Err(SYNTAX)),
            ("1 s", Err(SYNTAX)),
            ("1s5", Err(SYNTAX)),
            ("\u{663}s", Err(SYNTAX)),
        ];
        for (text, expected) in table {
            assert_eq!(nanoseconds(text), expected, "{text:?}");
        }
    }
}
