//! Cuts a body into JSON values as it arrives.
//!
//! Promises that each value is well-formed JSON, but for the UTF-8 of its strings, and that a
//! mistake is named as Go's JSON package names it, since users see that text from etcd. Leaves
//! the meaning of values to [`super::read`].

use bytes::{Bytes, BytesMut};

/// Objects and arrays in one another; Go's own bound.
const DEPTH_MAX: usize = 10_000;

/// Why there is no next value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The body is no JSON; in Go's words.
    Syntax(String),
    /// The value is larger than allowed.
    TooLarge { found: usize, max: usize },
}

/// The values of one body.
pub(super) struct Values {
    buffer: BytesMut,
    /// Bytes of the buffer that the scanner has seen.
    scanned: usize,
    scanner: Scanner,
    bytes_max: usize,
}

impl Values {
    /// `bytes_max` bounds one value.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, scanner: Scanner::default(), bytes_max }
    }

    /// Adds what has arrived.
    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next value if all of it is here. With `is_ended`, nothing more will arrive: a value
    /// that is cut short is then an error.
    pub(super) fn next(&mut self, is_ended: bool) -> Result<Option<Bytes>, Broken> {
        if self.scanner.state == State::Value && self.scanner.open.is_empty() {
            let blank = self.buffer.iter().take_while(|byte| is_space(**byte)).count();
            drop(self.buffer.split_to(blank));
        }
        while let Some(byte) = self.buffer.get(self.scanned) {
            match self.scanner.step(*byte).map_err(Broken::Syntax)? {
                Step::Inside => self.scanned += 1,
                Step::Last => {
                    self.scanned += 1;
                    return Ok(Some(self.cut()));
                }
                Step::Behind => return Ok(Some(self.cut())),
            }
            if self.scanned > self.bytes_max {
                let (found, max) = (self.buffer.len(), self.bytes_max);
                return Err(Broken::TooLarge { found, max });
            }
        }
        match is_ended && !self.buffer.is_empty() {
            true if self.scanner.can_end() => Ok(Some(self.cut())),
            true => Err(Broken::Syntax("unexpected EOF".to_owned())),
            false => Ok(None),
        }
    }

    fn cut(&mut self) -> Bytes {
        self.scanner = Scanner::default();
        self.buffer.split_to(std::mem::take(&mut self.scanned)).freeze()
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    AfterValue,
    String,
    Escape,
    Hex(u8),
    /// A word, and how much of it was seen.
    Word(&'static str, usize),
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// Where a byte stands.
enum Step {
    /// In the value, or in front of it.
    Inside,
    /// It is the value's last.
    Last,
    /// The value has ended before it.
    Behind,
}

/// Follows one value byte by byte.
struct Scanner {
    state: State,
    /// Of each object or array around this place, whether it is an object.
    open: Vec<bool>,
    /// The string is the key of an object's member.
    is_key: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Value, open: Vec::new(), is_key: false }
    }
}

impl Scanner {
    fn step(&mut self, byte: u8) -> Result<Step, String> {
        use State::*;
        match self.state {
            Value | ValueOrEnd | Key | KeyOrEnd | Colon | AfterValue if is_space(byte) => {}
            Value => return self.begin(byte),
            ValueOrEnd if byte == b']' => return Ok(self.close()),
            ValueOrEnd => return self.begin(byte),
            KeyOrEnd if byte == b'}' => return Ok(self.close()),
            Key | KeyOrEnd if byte == b'"' => (self.state, self.is_key) = (String, true),
            Key | KeyOrEnd => {
                return Err(invalid(byte, "looking for beginning of object key string"));
            }
            Colon if byte == b':' => self.state = Value,
            Colon => return Err(invalid(byte, "after object key")),
            AfterValue => return self.after_value(byte),
            String => match byte {
                b'"' if self.is_key => (self.state, self.is_key) = (Colon, false),
                b'"' => return Ok(self.end_value()),
                b'\\' => self.state = Escape,
                0..0x20 => return Err(invalid(byte, "in string literal")),
                _ => {}
            },
            Escape => match byte {
                b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => self.state = String,
                b'u' => self.state = Hex(0),
                _ => return Err(invalid(byte, "in string escape code")),
            },
            Hex(seen) if byte.is_ascii_hexdigit() => {
                self.state = if seen == 3 { String } else { Hex(seen + 1) };
            }
            Hex(_) => return Err(invalid(byte, r"in \u hexadecimal character escape")),
            Word(word, seen) => return self.word(byte, word, seen),
            _ => return self.number(byte),
        }
        Ok(Step::Inside)
    }

    fn begin(&mut self, byte: u8) -> Result<Step, String> {
        self.state = match byte {
            b'{' | b'[' => {
                if self.open.len() == DEPTH_MAX {
                    return Err(invalid(byte, "exceeded max depth"));
                }
                self.open.push(byte == b'{');
                if byte == b'{' { State::KeyOrEnd } else { State::ValueOrEnd }
            }
            b'"' => State::String,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Digits,
            b't' => State::Word("true", 1),
            b'f' => State::Word("false", 1),
            b'n' => State::Word("null", 1),
            _ => return Err(invalid(byte, "looking for beginning of value")),
        };
        Ok(Step::Inside)
    }

    fn word(&mut self, byte: u8, word: &'static str, seen: usize) -> Result<Step, String> {
        let expected = word.as_bytes()[seen];
        if byte != expected {
            let place = format!("in literal {word} (expecting '{}')", char::from(expected));
            return Err(invalid(byte, &place));
        }
        if seen + 1 == word.len() {
            return Ok(self.end_value());
        }
        self.state = State::Word(word, seen + 1);
        Ok(Step::Inside)
    }

    fn number(&mut self, byte: u8) -> Result<Step, String> {
        use State::*;
        self.state = match (self.state, byte) {
            (Minus, b'0') => Zero,
            (Minus, b'1'..=b'9') => Digits,
            (Minus, _) => return Err(invalid(byte, "in numeric literal")),
            (Digits, b'0'..=b'9') => Digits,
            (Zero | Digits, b'.') => Point,
            (Point | Fraction, b'0'..=b'9') => Fraction,
            (Point, _) => return Err(invalid(byte, "after decimal point in numeric literal")),
            (Zero | Digits | Fraction, b'e' | b'E') => Exponent,
            (Exponent, b'+' | b'-') => ExponentSign,
            (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => ExponentDigits,
            (Exponent | ExponentSign, _) => {
                return Err(invalid(byte, "in exponent of numeric literal"));
            }
            // The number has ended before this byte.
            _ => {
                self.state = AfterValue;
                return if is_space(byte) && !self.open.is_empty() {
                    Ok(Step::Inside)
                } else {
                    self.after_value(byte)
                };
            }
        };
        Ok(Step::Inside)
    }

    fn after_value(&mut self, byte: u8) -> Result<Step, String> {
        match self.open.last() {
            None => Ok(Step::Behind),
            Some(true) => match byte {
                b',' => {
                    self.state = State::Key;
                    Ok(Step::Inside)
                }
                b'}' => Ok(self.close()),
                _ => Err(invalid(byte, "after object key:value pair")),
            },
            Some(false) => match byte {
                b',' => {
                    self.state = State::Value;
                    Ok(Step::Inside)
                }
                b']' => Ok(self.close()),
                _ => Err(invalid(byte, "after array element")),
            },
        }
    }

    fn close(&mut self) -> Step {
        self.open.pop();
        self.end_value()
    }

    /// The byte at hand was a value's last.
    fn end_value(&mut self) -> Step {
        self.state = State::AfterValue;
        if self.open.is_empty() { Step::Last } else { Step::Inside }
    }

    /// Whether a value is complete that only another byte could make longer: a number.
    fn can_end(&self) -> bool {
        let is_number = matches!(
            self.state,
            State::Zero | State::Digits | State::Fraction | State::ExponentDigits
        );
        is_number && self.open.is_empty()
    }
}

fn invalid(byte: u8, place: &str) -> String {
    let shown = match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0B => r"'\v'".to_owned(),
        0x0C => r"'\f'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        0x20..0x7F => format!("'{}'", char::from(byte)),
        0x00..0x20 | 0x7F => format!("'\\x{byte:02x}'"),
        // A byte of a longer character counts as a character of its own.
        0x80..0xA1 | 0xAD => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    };
    format!("invalid character {shown} {place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &[u8], piece: usize) -> (Vec<String>, Option<Broken>) {
        let mut values = Values::new(1000);
        let mut found = Vec::new();
        let mut pieces = body.chunks(piece.max(1)).peekable();
        loop {
            let next = pieces.next();
            values.push(next.unwrap_or_default());
            let is_ended = next.is_none() || pieces.peek().is_none();
            loop {
                match values.next(is_ended) {
                    Ok(Some(value)) => found.push(String::from_utf8_lossy(&value).into_owned()),
                    Ok(None) => break,
                    Err(broken) => return (found, Some(broken)),
                }
            }
            if is_ended {
                return (found, None);
            }
        }
    }

    #[test]
    fn values_come_one_by_one_however_they_arrive() {
        let body = b" {\"a\":[1, 2.5e-3 ,{}],\"b\":\"}\\\"\\u00e9\"}\n\n[ ]{\"c\" : null} 17 -0true\"x\" 5";
        let expected = [
            "{\"a\":[1, 2.5e-3 ,{}],\"b\":\"}\\\"\\u00e9\"}",
            "[ ]",
            "{\"c\" : null}",
            "17",
            "-0",
            "true",
            "\"x\"",
            "5",
        ];
        for piece in 1..body.len() {
            let (found, broken) = all(body, piece);
            assert_eq!(found, expected, "in pieces of {piece}");
            assert_eq!(broken, None);
        }
        assert_eq!(all(b" \n ", 1), (vec![], None));
        assert_eq!(all(b"", 1), (vec![], None));
    }

    #[test]
    fn mistakes_are_named_as_go_names_them() {
        let table: [(&[u8], &str); 23] = [
            (b"{", "unexpected EOF"),
            (b"{\"a\":1", "unexpected EOF"),
            (b"-", "unexpected EOF"),
            (b"}", "invalid character '}' looking for beginning of value"),
            (b"a=b", "invalid character 'a' looking for beginning of value"),
            (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
            (b"{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            (b"[1,]", "invalid character ']' looking for beginning of value"),
            (b"{\"a\" \"b\"}", "invalid character '\"' after object key"),
            (b"{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            (b"{\"a\":01}", "invalid character '1' after object key:value pair"),
            (b"[1 2]", "invalid character '2' after array element"),
            (b"[1'", "invalid character '\\'' after array element"),
            (b"{\"a\":tru}", "invalid character '}' in literal true (expecting 'e')"),
            (b"nil", "invalid character 'i' in literal null (expecting 'u')"),
            (b"\"\\x\"", "invalid character 'x' in string escape code"),
            (b"\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            (b"\"a\nb\"", "invalid character '\\n' in string literal"),
            (b"\"a\x01b\"", "invalid character '\\x01' in string literal"),
            (b"[1.x]", "invalid character 'x' after decimal point in numeric literal"),
            (b"[-}", "invalid character '}' in numeric literal"),
            (b"[1ex]", "invalid character 'x' in exponent of numeric literal"),
            (b"\xff", "invalid character 'ÿ' looking for beginning of value"),
        ];
        for (body, message) in table {
            for piece in [1, 100] {
                let expected = (vec![], Some(Broken::Syntax(message.to_owned())));
                assert_eq!(all(body, piece), expected, "{:?}", String::from_utf8_lossy(body));
            }
        }
        let deep = "[".repeat(DEPTH_MAX + 1);
        let mut values = Values::new(usize::MAX);
        values.push(deep.as_bytes());
        let expected = "invalid character '[' exceeded max depth".to_owned();
        assert_eq!(values.next(true), Err(Broken::Syntax(expected)));
    }

    #[test]
    fn a_value_larger_than_its_bound_is_refused_before_it_ends() {
        let body = format!("{{}}[{}", "1,".repeat(2000));
        let (found, broken) = all(body.as_bytes(), 100);
        assert_eq!(found, ["{}"]);
        assert!(
            matches!(broken, Some(Broken::TooLarge { found: 1001..=1200, max: 1000 })),
            "{broken:?}"
        );
    }
}
