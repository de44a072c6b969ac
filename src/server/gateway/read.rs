//! From JSON to the wire form of a message, by its descriptor.
//!
//! Follows protobuf's mapping as etcd's gateway applies it: names as in `.proto` files or in
//! lowerCamelCase, integers as numbers or strings, bytes in either base64 alphabet, enums by name
//! or number; unknown members and unknown names of enums count for nothing. Mistakes are
//! worded as Go's protojson words them, with line and column.
//!
//! Expects what [`super::values`] has cut: the text is well-formed but for the UTF-8 of its strings.

use base64::Engine as _;
use base64::alphabet::{self, Alphabet};
use base64::engine::DecodePaddingMode::{RequireCanonical, RequireNone};
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use std::borrow::Cow;

/// Bytes of a character written as `\uXXXX`.
const ESCAPED_LEN: usize = 6;

/// Messages in one another. What is nested deeper, the decoder of the service would refuse.
const DEPTH_MAX: usize = 100;

/// Encodes a JSON object as a message; the error is a text for the user.
pub(super) fn to_message(json: &[u8], message: &MessageDescriptor) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(json.len());
    let mut reader = Reader { text: json, at: 0, depth: 0 };
    reader.message(message, &mut out)?;
    Ok(out)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn message(&mut self, message: &MessageDescriptor, out: &mut Vec<u8>) -> Result<(), String> {
        if self.peek() != b'{' {
            return Err(self.unexpected());
        }
        if self.depth == DEPTH_MAX {
            return Err("proto: exceeded max recursion depth".to_owned());
        }
        self.depth += 1;
        self.at += 1;
        let (mut seen, mut chosen) = (Vec::new(), Vec::new());
        while self.has_next(b'}') {
            let from = self.at;
            let name = self.string()?;
            let raw_name = from..self.at;
            self.pass(b':');
            let field =
                message.get_field_by_json_name(&name).or_else(|| message.get_field_by_name(&name));
            let Some(field) = field else {
                self.skip()?;
                continue;
            };
            if seen.contains(&field.number()) {
                let raw = String::from_utf8_lossy(&self.text[raw_name]);
                return Err(self.error(from, &format!("duplicate field {raw}")));
            }
            seen.push(field.number());
            if self.peek() == b'n' {
                self.skip()?;
                continue;
            }
            if let Some(oneof) = field.containing_oneof() {
                if chosen.contains(&oneof.full_name().to_owned()) {
                    let raw = String::from_utf8_lossy(&self.text[raw_name]);
                    let oneof = oneof.full_name();
                    let what = format!("error parsing {raw}, oneof {oneof} is already set");
                    return Err(self.error(from, &what));
                }
                chosen.push(oneof.full_name().to_owned());
            }
            match field.is_list() {
                true => self.list(&field, out)?,
                false => self.value(&field, out)?,
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn list(&mut self, field: &FieldDescriptor, out: &mut Vec<u8>) -> Result<(), String> {
        if self.peek() != b'[' {
            return Err(self.unexpected());
        }
        self.at += 1;
        while self.has_next(b']') {
            self.value(field, out)?;
        }
        Ok(())
    }

    /// One value of a field, with its key.
    fn value(&mut self, field: &FieldDescriptor, out: &mut Vec<u8>) -> Result<(), String> {
        let from = self.at;
        let number = field.number();
        let bytes = match field.kind() {
            Kind::Message(inner) => {
                let mut bytes = Vec::new();
                self.message(&inner, &mut bytes)?;
                bytes
            }
            Kind::String if self.peek() == b'"' => self.string()?.into_bytes(),
            Kind::Bytes if self.peek() == b'"' => {
                let text = self.string()?;
                from_base64(&text).ok_or_else(|| self.invalid(field, from))?
            }
            kind => {
                match self.varint(&kind)? {
                    Varint::Is(value) => {
                        encode_key(number, WireType::Varint, out);
                        encode_varint(value, out);
                    }
                    Varint::Unknown => {}
                    Varint::Invalid => return Err(self.invalid(field, from)),
                }
                return Ok(());
            }
        };
        encode_key(number, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn varint(&mut self, kind: &Kind) -> Result<Varint, String> {
        let is_text = self.peek() == b'"';
        let text = if is_text {
            self.string()?
        } else {
            let token = self.token();
            self.skip()?;
            String::from_utf8_lossy(token).into_owned()
        };
        let signed = |min, max| {
            let value = integer(&text).filter(|value| (min..=max).contains(value));
            // Negative numbers take ten bytes, whatever their type.
            value.map_or(Varint::Invalid, |value| Varint::Is(value as i64 as u64))
        };
        Ok(match kind {
            Kind::Bool if text == "true" && !is_text => Varint::Is(1),
            Kind::Bool if text == "false" && !is_text => Varint::Is(0),
            Kind::Int32 => signed(i128::from(i32::MIN), i128::from(i32::MAX)),
            Kind::Int64 => signed(i128::from(i64::MIN), i128::from(i64::MAX)),
            Kind::Uint32 => signed(0, i128::from(u32::MAX)),
            Kind::Uint64 => match integer(&text).and_then(|value| u64::try_from(value).ok()) {
                Some(value) => Varint::Is(value),
                None => Varint::Invalid,
            },
            Kind::Enum(names) if is_text => by_name(names, &text),
            Kind::Enum(_) => signed(i128::from(i32::MIN), i128::from(i32::MAX)),
            _ => Varint::Invalid,
        })
    }

    /// Whether another member or element follows; if not, the end is passed.
    fn has_next(&mut self, end: u8) -> bool {
        self.pass(b',');
        match self.peek() {
            // No well-formed text ends here.
            0 => false,
            byte if byte == end => {
                self.at += 1;
                false
            }
            _ => true,
        }
    }

    /// Passes blanks, the sign if it is there, and blanks again.
    fn pass(&mut self, sign: u8) {
        self.blanks();
        if self.peek() == sign {
            self.at += 1;
            self.blanks();
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
    }

    /// The next byte; 0 at the end.
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// The token here as it is written: a whole scalar, or the sign that opens a container.
    fn token(&self) -> &'a [u8] {
        let rest = &self.text[self.at.min(self.text.len())..];
        match rest.first() {
            Some(b'"') => &rest[..string_len(rest)],
            Some(b'{' | b'[') => &rest[..1],
            _ => &rest[..word_len(rest)],
        }
    }

    /// Passes the value here, whose strings must be well-formed like all others.
    fn skip(&mut self) -> Result<(), String> {
        let mut open = 0_usize;
        while self.at < self.text.len() {
            let token = self.token();
            if token.first() == Some(&b'"') {
                self.string()?;
            } else {
                self.at += token.len().max(1);
            }
            match token.first() {
                Some(b'{' | b'[') => open += 1,
                // The word is empty in front of a sign or a blank.
                None if matches!(self.text[self.at - 1], b'}' | b']') => {
                    open = open.saturating_sub(1);
                }
                None => continue,
                Some(_) => {}
            }
            if open == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Passes the string here; returns what it says.
    fn string(&mut self) -> Result<String, String> {
        let from = self.at;
        let token = self.token();
        self.at += token.len();
        let inner = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        let Ok(mut rest) = std::str::from_utf8(inner) else {
            return Err(self.syntax(from, "invalid UTF-8 in string"));
        };
        let mut said = String::with_capacity(rest.len());
        while let Some(at) = rest.find('\\') {
            said.push_str(&rest[..at]);
            rest = &rest[at..];
            let (character, len) = match rest.as_bytes().get(1) {
                Some(b'b') => ('\u{8}', 2),
                Some(b'f') => ('\u{c}', 2),
                Some(b'n') => ('\n', 2),
                Some(b'r') => ('\r', 2),
                Some(b't') => ('\t', 2),
                Some(b'u') => escaped(rest).ok_or_else(|| self.no_pair(from, rest.len()))?,
                Some(other) => (char::from(*other), 2),
                None => break,
            };
            said.push(character);
            rest = &rest[len..];
        }
        said.push_str(rest);
        Ok(said)
    }

    /// Names what follows half of a surrogate pair, `left` bytes before the end of the string that begins at `from`,
    /// wherever it ends.
    fn no_pair(&self, from: usize, left: usize) -> String {
        // Behind the escaped half; the string that was passed has a quotation mark at its end.
        let behind = self.at - 1 - left + ESCAPED_LEN;
        match self.text.get(behind..behind + ESCAPED_LEN) {
            Some(shown) => {
                let shown = format!("{:?}", String::from_utf8_lossy(shown));
                self.syntax(from, &format!("invalid escape code {shown} in string"))
            }
            None => "proto: unexpected EOF".to_owned(),
        }
    }

    fn invalid(&self, field: &FieldDescriptor, from: usize) -> String {
        let kind = match field.kind() {
            Kind::Bool => "bool",
            Kind::Bytes => "bytes",
            Kind::String => "string",
            Kind::Int32 => "int32",
            Kind::Int64 => "int64",
            Kind::Uint32 => "uint32",
            Kind::Uint64 => "uint64",
            Kind::Enum(_) => "enum",
            _ => "message",
        };
        let here = Reader { text: self.text, at: from, depth: 0 };
        let raw = String::from_utf8_lossy(here.token());
        self.error(from, &format!("invalid value for {kind} field {}: {raw}", field.json_name()))
    }

    fn unexpected(&mut self) -> String {
        let (at, token) = (self.at, self.token());
        if self.peek() == b'"'
            && let Err(broken) = self.string()
        {
            return broken;
        }
        let raw = String::from_utf8_lossy(token);
        self.syntax(at, &format!("unexpected token {raw}"))
    }

    fn syntax(&self, at: usize, what: &str) -> String {
        format!("proto: syntax error {}: {what}", self.place(at))
    }

    fn error(&self, at: usize, what: &str) -> String {
        format!("proto: {}: {what}", self.place(at))
    }

    fn place(&self, at: usize) -> String {
        let before = &self.text[..at.min(self.text.len())];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let from = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&before[from..]).chars().count() + 1;
        format!("(line {line}:{column})")
    }
}

enum Varint {
    Is(u64),
    /// An enum's name that this version does not know.
    Unknown,
    Invalid,
}

fn by_name(names: &EnumDescriptor, name: &str) -> Varint {
    match names.get_value_by_name(name) {
        Some(value) => Varint::Is(i64::from(value.number()) as u64),
        None => Varint::Unknown,
    }
}

/// Bytes of the string that begins here, quotes included.
fn string_len(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// Bytes of the number or word that begins here.
fn word_len(text: &[u8]) -> usize {
    let is_end = |byte: &u8| b",:{}[]\" \t\r\n".contains(byte);
    text.iter().position(is_end).unwrap_or(text.len())
}

/// The character that `\uXXXX` stands for, or a pair of them, and how long it is written.
fn escaped(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    match unit(0)? {
        high @ 0xD800..0xDC00 => {
            let low = unit(6).filter(|low| (0xDC00..0xE000).contains(low))?;
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            Some((char::from_u32(code)?, 12))
        }
        code => Some((char::from_u32(code)?, 6)),
    }
}

/// The whole number that a JSON number says, also with a fraction of zeros or an exponent.
fn integer(text: &str) -> Option<i128> {
    /// As many as the largest 64-bit number has; Go counts zeros behind the point that an exponent shifts away too.
    const DIGITS_MAX: usize = 20;
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || whole.len() > 1 && whole.starts_with('0') {
        return None;
    }
    let fraction = match fraction {
        Some(fraction) => Some(fraction).filter(|digits| are_digits(digits))?,
        None => "",
    };
    let exponent = match exponent {
        Some(exponent) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            let size =
                Some(digits).filter(|digits| are_digits(digits))?.parse().unwrap_or(i32::MAX);
            if exponent.starts_with('-') { -i64::from(size) } else { i64::from(size) }
        }
        None => 0,
    };
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_end_matches('0');
    let zeros = exponent - fraction.len() as i64 + (digits.len() - significant.len()) as i64;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let zeros = usize::try_from(zeros).ok()?;
    let shifted = usize::try_from(exponent).unwrap_or(0);
    if shifted > 0 && whole.trim_start_matches('0').len() + shifted > DIGITS_MAX {
        return None;
    }
    if significant.len().checked_add(zeros)? > DIGITS_MAX {
        return None;
    }
    let value: i128 = format!("{significant}{}", "0".repeat(zeros)).parse().ok()?;
    Some(if negative { -value } else { value })
}

/// Takes either alphabet, with its padding or without; line ends in it count for nothing.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    const fn engine(alphabet: &Alphabet, padded: bool) -> GeneralPurpose {
        let padding = if padded { RequireCanonical } else { RequireNone };
        let config = GeneralPurposeConfig::new()
            .with_decode_padding_mode(padding)
            .with_decode_allow_trailing_bits(true);
        GeneralPurpose::new(alphabet, config)
    }
    static STANDARD: [GeneralPurpose; 2] =
        [engine(&alphabet::STANDARD, false), engine(&alphabet::STANDARD, true)];
    static URL: [GeneralPurpose; 2] =
        [engine(&alphabet::URL_SAFE, false), engine(&alphabet::URL_SAFE, true)];
    let engines = if text.contains(['-', '_']) { &URL } else { &STANDARD };
    // Go counts line ends here.
    let engine = &engines[usize::from(text.len().is_multiple_of(4))];
    let text = match text.contains(['\r', '\n']) {
        true => Cow::Owned(text.replace(['\r', '\n'], "")),
        false => Cow::Borrowed(text),
    };
    engine.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::{
        AuthUserAddRequest, LeaseGrantRequest, PutRequest, RangeRequest, TxnRequest,
        WatchCreateRequest, WatchRequest, watch_request::RequestUnion,
    };
    use crate::server::gateway::schema::method;
    use prost::Message;

    fn read<M: Message + Default>(path: &str, json: &str) -> Result<M, String> {
        let wire = to_message(json.as_bytes(), &method(path).expect("a path").input)?;
        Ok(M::decode(&wire[..]).expect("what was encoded"))
    }

    fn range(json: &str) -> Result<RangeRequest, String> {
        read("kv/range", json)
    }

    #[test]
    fn names_and_values_are_taken_in_each_of_their_forms() {
        let expected = RangeRequest {
            key: "foo".into(),
            range_end: "\0".into(),
            limit: 10,
            sort_order: 2,
            sort_target: 4,
            keys_only: true,
            ..RangeRequest::default()
        };
        let forms = [
            r#"{"key":"Zm9v","range_end":"AA==","limit":"10","sort_order":"DESCEND",
                "sort_target":"VALUE","keys_only":true}"#,
            r#"{"keysOnly" : true , "rangeEnd":"AA","limit":1e1,"sortOrder":2,"sortTarget":4.0,
                "unknown":{"a":["}\"]",{"key":"eA=="}],"b":null},"key":"Zm\u0039v","revision":null}"#,
            r#"{"key":"Zm9\nv","range_end":"AA==\r\n\r\n","limit":"100e-1","sort_order":"DESCEND",
                "sort_target":4,"keys_only":true,"count_only":false,"max_mod_revision":"-0"}"#,
        ];
        for form in forms {
            assert_eq!(range(form), Ok(expected.clone()), "{form}");
        }
        assert_eq!(range("{}"), Ok(RangeRequest::default()));
        assert_eq!(range(r#"{"sort_order":"NO_SUCH"}"#), Ok(RangeRequest::default()));
        let grant: LeaseGrantRequest = read("lease/grant", r#"{"TTL":20,"ID":"-1"}"#).unwrap();
        assert_eq!(grant, LeaseGrantRequest { ttl: 20, id: -1 });
        let unknown: LeaseGrantRequest = read("lease/grant", r#"{"ttl":20,"id":1}"#).unwrap();
        assert_eq!(unknown, LeaseGrantRequest::default());
        let user: AuthUserAddRequest = read(
            "auth/user/add",
            r#"{"name":"a\u00e9\n\ud83d\ude00<\/","options":{"no_password":true}}"#,
        )
        .unwrap();
        assert_eq!(user.name, "a\u{e9}\n\u{1F600}</");
        assert!(user.options.unwrap().no_password);
    }

    #[test]
    fn bytes_are_read_in_both_alphabets() {
        let table: [(&str, Option<&[u8]>); 11] = [
            ("Zg=\n=", None),
            ("Zg\n\n\n", Some(b"f")),
            ("+/+/", Some(b"\xfb\xff\xbf")),
            ("-_-_", Some(b"\xfb\xff\xbf")),
            ("+/-_", None),
            ("Zm8=", Some(b"fo")),
            ("Zm8", Some(b"fo")),
            ("Zm9", Some(b"fo")),
            ("Zm8==", None),
            ("Z", None),
            ("", Some(b"")),
        ];
        for (text, expected) in table {
            assert_eq!(from_base64(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn whole_numbers_have_many_spellings() {
        let table = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("0e999999999999", Some(0)),
            ("12", Some(12)),
            ("-12.00", Some(-12)),
            ("1.5e1", Some(15)),
            ("1.5", None),
            ("15e-1", None),
            ("1e19", Some(10_000_000_000_000_000_000)),
            ("1e99999999999", None),
            ("0.00000000000000000001e20", Some(1)),
            ("0.000000000000000000001e21", None),
            ("18446744073709551615", Some(i128::from(u64::MAX))),
            ("", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("1.", None),
            ("1e", None),
            ("x", None),
        ];
        for (text, expected) in table {
            assert_eq!(integer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn nested_messages_and_lists_keep_their_order() {
        let json = r#"{"compare":[{"result":"EQUAL","target":"CREATE","key":"YQ==","createRevision":"0"}],
            "success":[{"requestPut":{"key":"YQ==","value":"Yg=="}},{},{"requestXX":{"key":"YQ=="}}],
            "failure":[{"request_txn":{"success":[{"request_range":{"key":"YQ=="}}]}}]}"#;
        let txn: TxnRequest = read("kv/txn", json).unwrap();
        let put = PutRequest { key: "a".into(), value: "b".into(), ..PutRequest::default() };
        let first = crate::pb::etcdserverpb::request_op::Request::RequestPut(put);
        assert_eq!(txn.success.len(), 3);
        assert_eq!(txn.success[0].request, Some(first));
        assert!(txn.success[1].request.is_none() && txn.success[2].request.is_none());
        assert!(txn.compare[0].target_union.is_some(), "a zero that was written counts");
        assert_eq!(txn.failure.len(), 1);
        let json = r#"{"create_request":{"key":"YQ==","filters":["NODELETE","NO_SUCH",0]}}"#;
        let watch: WatchRequest = read("watch", json).unwrap();
        let create = WatchCreateRequest {
            key: "a".into(),
            filters: vec![1, 0],
            ..WatchCreateRequest::default()
        };
        assert_eq!(watch.request_union, Some(RequestUnion::CreateRequest(create)));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        let table = [
            ("kv/range", "[]", "syntax error (line 1:1): unexpected token ["),
            ("kv/range", "null", "syntax error (line 1:1): unexpected token null"),
            ("kv/range", r#""x""#, r#"syntax error (line 1:1): unexpected token "x""#),
            ("kv/range", r#"{"key":1}"#, "(line 1:8): invalid value for bytes field key: 1"),
            ("kv/range", r#"{"key":{"a":1}}"#, "(line 1:8): invalid value for bytes field key: {"),
            ("kv/range", r#"{"key":"*"}"#, r#"(line 1:8): invalid value for bytes field key: "*""#),
            (
                "kv/range",
                r#"{"limit":1.5}"#,
                "(line 1:10): invalid value for int64 field limit: 1.5",
            ),
            (
                "kv/range",
                r#"{"limit":" 1"}"#,
                r#"(line 1:10): invalid value for int64 field limit: " 1""#,
            ),
            (
                "kv/range",
                r#"{"limit":9223372036854775808}"#,
                "(line 1:10): invalid value for int64 field limit: 9223372036854775808",
            ),
            (
                "kv/range",
                "{\n \"keys_only\": \"true\"}",
                "(line 2:15): invalid value for bool field keysOnly: \"true\"",
            ),
            (
                "kv/range",
                r#"{"é":1,"sort_order":true}"#,
                "(line 1:21): invalid value for enum field sortOrder: true",
            ),
            ("kv/range", r#"{"key":"","key":""}"#, r#"(line 1:11): duplicate field "key""#),
            ("kv/txn", r#"{"success":{"a":1}}"#, "syntax error (line 1:12): unexpected token {"),
            ("kv/txn", r#"{"success":[null]}"#, "syntax error (line 1:13): unexpected token null"),
            (
                "kv/txn",
                r#"{"success":[{"requestPut":{},"requestRange":{}}]}"#,
                r#"(line 1:30): error parsing "requestRange", oneof etcdserverpb.RequestOp.request is already set"#,
            ),
            (
                "auth/user/add",
                r#"{"name":7}"#,
                "(line 1:9): invalid value for string field name: 7",
            ),
            (
                "maintenance/transfer-leadership",
                r#"{"targetID":"-1"}"#,
                r#"(line 1:13): invalid value for uint64 field targetID: "-1""#,
            ),
        ];
        for (path, json, message) in table {
            let found = to_message(json.as_bytes(), &method(path).unwrap().input);
            assert_eq!(found, Err(format!("proto: {message}")), "{json}");
        }
        let input = &method("auth/user/add").unwrap().input;
        let found = to_message(b"{\"name\":\"\xff\"}", input);
        assert_eq!(
            found,
            Err("proto: syntax error (line 1:9): invalid UTF-8 in string".to_owned())
        );
        // Of strings that nobody reads too.
        for (json, message) in [
            (&br#"{"x":["\ud800"]}"#[..], "unexpected EOF"),
            (br#"{"name":"\ud800"}"#, "unexpected EOF"),
            (
                br#"{"x":"\ud800\u0041"}"#,
                r#"syntax error (line 1:6): invalid escape code "\\u0041" in string"#,
            ),
            (
                br#"{"x":"\ud83dab","name":""}"#,
                r#"syntax error (line 1:6): invalid escape code "ab\",\"n" in string"#,
            ),
            (
                br#"{"options":"\udc00","name":""}"#,
                r#"syntax error (line 1:12): invalid escape code "\",\"nam" in string"#,
            ),
            (b"{\"x\":{\"y\":\"\xff\"}}", "syntax error (line 1:11): invalid UTF-8 in string"),
        ] {
            assert_eq!(to_message(json, input), Err(format!("proto: {message}")));
        }
        assert!(to_message(br#"{"x":"\ud83d\ude00\u00e9"}"#, input).is_ok());
        let deep = format!("{}{}", r#"{"success":[{"requestTxn":"#.repeat(60), "{}");
        let found = to_message(deep.as_bytes(), &method("kv/txn").unwrap().input);
        assert_eq!(found, Err("proto: exceeded max recursion depth".to_owned()));
    }

    /// The scanner is what keeps bad text away; if it fails to, this must still end.
    #[test]
    fn text_that_is_cut_short_does_no_harm() {
        let json =
            r#"{"compare":[{"result":"EQUAL","key":"YQ\u0031=","createRevision":"0"}],"x":[{}]}"#;
        let input = &method("kv/txn").unwrap().input;
        for end in 0..json.len() {
            let _whatever = to_message(&json.as_bytes()[..end], input);
        }
    }
}
