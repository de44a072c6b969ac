//! Mends the `:authority` of clients that put a URL or the path of a socket there.
//!
//! Some releases of etcdctl and of the gRPC libraries do that, and etcd's HTTP/2 library does not mind. Ours resets such
//! a stream before anybody of ours sees it. Nothing here uses the name, so what may not stand in it is replaced in
//! the bytes that arrive, by characters whose codes are as long: all lengths, and with them the
//! state that HPACK (RFC 7541) keeps on both sides, stay what they are.
//!
//! Only connections whose first request needs it are looked at beyond that request.

use bytes::Buf as _;
use http::uri::Authority;
use std::ops::Range;

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The largest frame that a client may send to us.
const FRAME_MAX: usize = 16 << 10;
/// Where `:authority` stands in HPACK's table of known names.
const AUTHORITY: usize = 1;

/// What arrives on one connection, on its way to the HTTP library.
#[derive(Debug, Default)]
pub(super) struct Mender {
    held: bytes::BytesMut,
    /// Of what is held, how much may go on.
    ready: usize,
    /// Bytes to come of a frame that is not looked into.
    passing: usize,
    has_preface: bool,
    has_mended: bool,
    is_done: bool,
}

impl Mender {
    /// Takes in what has arrived.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        while !self.is_done && self.step() {}
        if self.is_done {
            self.ready = self.held.len();
        }
    }

    /// Nothing more comes: what is held goes on as it is.
    pub(super) fn end(&mut self) {
        self.is_done = true;
        self.ready = self.held.len();
    }

    /// Whether all that follows may go on without a look.
    pub(super) fn is_done(&self) -> bool {
        self.is_done && self.held.is_empty()
    }

    /// Whether it is clear what the client speaks.
    pub(super) fn has_begun(&self) -> bool {
        self.has_preface || self.is_done
    }

    /// Takes out at most `max` bytes that may go on.
    pub(super) fn pop(&mut self, max: usize) -> bytes::Bytes {
        let length = self.ready.min(max);
        self.ready -= length;
        self.held.split_to(length).freeze()
    }

    /// Looks at what comes next; false when more must arrive first.
    fn step(&mut self) -> bool {
        let next = &self.held[self.ready..];
        if !self.has_preface {
            let length = next.len().min(PREFACE.len());
            // Something else than HTTP/2.
            self.is_done = next[..length] != PREFACE[..length];
            self.has_preface = length == PREFACE.len();
            self.ready = if self.has_preface { length } else { 0 };
            return self.has_preface;
        }
        if self.passing > 0 {
            let length = self.passing.min(next.len());
            self.passing -= length;
            self.ready += length;
            return length > 0;
        }
        let Some((mut head, _)) = next.split_at_checked(FRAME_HEAD) else { return false };
        let length = head.get_uint(3) as usize;
        let (kind, flags) = (head[0], head[1]);
        if kind != HEADERS {
            self.passing = FRAME_HEAD + length;
            return true;
        }
        if length > FRAME_MAX {
            self.is_done = true;
            return false;
        }
        if next.len() < FRAME_HEAD + length {
            return false;
        }
        let start = self.ready + FRAME_HEAD;
        self.ready = start + length;
        let has_mended = mend_block(&mut self.held[start..start + length], flags);
        self.has_mended |= has_mended;
        self.is_done = !self.has_mended;
        !self.is_done
    }
}

/// Mends the fields of one frame. A field that goes on in the next frame is left as it is.
fn mend_block(frame: &mut [u8], flags: u8) -> bool {
    let padding = if flags & PADDED != 0 { frame.first().copied().unwrap_or(0) } else { 0 };
    let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = frame.len().saturating_sub(usize::from(padding));
    let Some(block) = frame.get_mut(start..end) else { return false };
    let mut at = 0;
    let mut has_mended = false;
    while let Some(found) = next_field(block, &mut at) {
        if let Some((value, is_huffman)) = found {
            has_mended |= mend_value(&mut block[value], is_huffman);
        }
    }
    has_mended
}

/// The next field of a header block: where its value stands and whether that is Huffman-coded, if the
/// field is a literal `:authority`.
fn next_field(block: &[u8], at: &mut usize) -> Option<Option<(Range<usize>, bool)>> {
    let first = *block.get(*at)?;
    let prefix = match first {
        // From the table whole; or the table's size.
        0x80.. => return integer(block, at, 7).map(|_| None),
        0x20..0x40 => return integer(block, at, 5).map(|_| None),
        0x40..0x80 => 6,
        0..0x20 => 4,
    };
    let is_authority = match integer(block, at, prefix)? {
        0 => {
            let (name, is_huffman) = string(block, at)?;
            let name = &block[name];
            match is_huffman {
                true => decode(name).is_some_and(|codes| symbols(&codes) == b":authority"),
                false => name == b":authority",
            }
        }
        known => known == AUTHORITY,
    };
    let value = string(block, at)?;
    Some(is_authority.then_some(value))
}

/// An integer in the lowest bits of a byte and in those that follow (RFC 7541, 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let max = (1 << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & max;
    *at += 1;
    if value < max {
        return Some(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7F) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// A string's place and whether it is Huffman-coded (RFC 7541, 5.2).
fn string(block: &[u8], at: &mut usize) -> Option<(Range<usize>, bool)> {
    let is_huffman = *block.get(*at)? >= 0x80;
    let length = integer(block, at, 7)?;
    let range = *at..at.checked_add(length)?;
    block.get(range.clone())?;
    *at = range.end;
    Some((range, is_huffman))
}

/// Mends a value if it can be no authority; whether it did.
fn mend_value(value: &mut [u8], is_huffman: bool) -> bool {
    let codes = if is_huffman { decode(value) } else { None };
    let text = match (&codes, is_huffman) {
        (Some(codes), _) => symbols(codes),
        (None, true) => return false,
        (None, false) => value.to_vec(),
    };
    if text.is_empty() || Authority::try_from(&text[..]).is_ok() {
        return false;
    }
    let colon = text.iter().rposition(|byte| *byte == b':');
    let port = colon.filter(|at| text[at + 1..].iter().all(u8::is_ascii_digit));
    for (place, &symbol) in text.iter().enumerate() {
        if symbol.is_ascii_alphanumeric() || b"-._".contains(&symbol) || port == Some(place) {
            continue;
        }
        match &codes {
            None => value[place] = b'-',
            Some(codes) => codes[place].replace(value),
        }
    }
    true
}

/// A symbol in a Huffman-coded string (RFC 7541, appendix B).
#[derive(Clone, Copy, Debug)]
struct Code {
    symbol: u8,
    bits: u32,
    /// Of its first bit.
    place: usize,
}

/// The symbols of URLs in the order of their codes: bits, first code, symbols. All others have codes
/// of other lengths.
const CODES: [(u32, u16, &[u8]); 7] = [
    (5, 0x00, b"012aceiost"),
    (6, 0x14, b" %-./3456789=A_bdfghlmnpru"),
    (7, 0x5C, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, 0xF8, b"&*,;XZ"),
    (10, 0x3F8, b"!\"()?"),
    (11, 0x7FA, b"'+|"),
    (13, 0x1FF8, b"\0$@[]~"),
];

/// The bits from a place on, with ones behind the end, as the padding has.
fn bits_at(bytes: &[u8], place: usize, bits: u32) -> u16 {
    let byte = |at: usize| u32::from(bytes.get(place / 8 + at).copied().unwrap_or(0xFF));
    let three = byte(0) << 24 | byte(1) << 16 | byte(2) << 8;
    ((three << (place % 8)) >> (32 - bits)) as u16
}

/// The symbols of a string, or nothing if it has longer codes or ends wrongly.
fn decode(bytes: &[u8]) -> Option<Vec<Code>> {
    let mut codes = Vec::new();
    let mut place = 0;
    'symbols: while place < bytes.len() * 8 {
        for (bits, first, symbols) in CODES {
            let offset = bits_at(bytes, place, bits).checked_sub(first).map(usize::from);
            let Some(&symbol) = offset.and_then(|offset| symbols.get(offset)) else { continue };
            codes.push(Code { symbol, bits, place });
            place += bits as usize;
            continue 'symbols;
        }
        let is_padding = bytes.len() * 8 - place < 8 && bits_at(bytes, place, 8) == 0xFF;
        return is_padding.then_some(codes);
    }
    (place == bytes.len() * 8).then_some(codes)
}

fn symbols(codes: &[Code]) -> Vec<u8> {
    codes.iter().map(|code| code.symbol).collect()
}

impl Code {
    /// Puts a character with a code of the same length in this one's place.
    fn replace(self, bytes: &mut [u8]) {
        let code: u16 = match self.bits {
            5 => return, // Only letters and digits are as short.
            6 => 0x16,   // -
            7 => 0x5D,   // B
            8 => 0xFC,   // X
            10 => 0x3F8, // !
            11 => 0x7FB, // +
            _ => 0x1FFD, // ~
        };
        for bit in 0..self.bits {
            let place = self.place + bit as usize;
            let mask = 0x80 >> (place % 8);
            let is_set = code >> (self.bits - 1 - bit) & 1 == 1;
            bytes[place / 8] = bytes[place / 8] & !mask | if is_set { mask } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> Vec<u8> {
        let mut bits = String::new();
        for symbol in text.bytes() {
            let code = CODES.iter().find_map(|(bits, first, symbols)| {
                let offset = symbols.iter().position(|known| *known == symbol)?;
                Some(format!("{:0width$b}", *first as usize + offset, width = *bits as usize))
            });
            bits.push_str(&code.expect("a symbol of the table"));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |bits: &[u8]| {
            u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).expect("eight bits")
        };
        bits.as_bytes().chunks(8).map(byte).collect()
    }

    fn text(bytes: &[u8]) -> String {
        let codes = decode(bytes).expect("symbols of the table");
        String::from_utf8(symbols(&codes)).expect("letters")
    }

    #[test]
    fn the_codes_are_those_of_the_standard() {
        // RFC 7541, C.4.1 and C.6.1.
        let name = [0xF1, 0xE3, 0xC2, 0xE5, 0xF2, 0x3A, 0x6B, 0xA0, 0xAB, 0x90, 0xF4, 0xFF];
        assert_eq!(text(&name), "www.example.com");
        let url = [
            0x9D, 0x29, 0xAD, 0x17, 0x18, 0x63, 0xC7, 0x8F, 0x0B, 0x97, 0xC8, 0xE9, 0xAE, 0x82,
            0xAE, 0x43, 0xD3,
        ];
        assert_eq!(text(&url), "https://www.example.com");
        assert_eq!(encode("https://www.example.com"), url);
        assert!(decode(&[0xFF, 0xFF]).is_none(), "padding of more than seven bits");
        let short = CODES.iter().filter(|(bits, ..)| *bits <= 8);
        let counted: usize = short.map(|(bits, _, symbols)| symbols.len() << (8 - bits)).sum();
        assert_eq!(
            counted, 254,
            "all that eight bits can say, but for two beginnings of longer codes"
        );
    }

    #[test]
    fn what_can_be_no_authority_is_replaced_by_as_many_bits() {
        for (before, after) in [
            ("http://localhost:2379", "httpB--localhost:2379"),
            ("http://[::1]:2379", "httpB--~BB1~:2379"),
            ("/tmp/quoin/sock", "-tmp-quoin-sock"),
            ("%2Ftmp%2Fsock", "-2Ftmp-2Fsock"),
            ("a:b:1", "aBb:1"),
            ("a,b;c", "a,b;c"),
            ("/a b+c(x)\"|", "-a-b+c!x!!+"),
            ("localhost:2379", "localhost:2379"),
            ("localhost", "localhost"),
        ] {
            let mut value = encode(before);
            assert_eq!(mend_value(&mut value, true), before != after, "{before}");
            assert_eq!(text(&value), after);
            let mut value = before.as_bytes().to_vec();
            assert_eq!(mend_value(&mut value, false), before != after, "{before}");
            assert!(Authority::try_from(&value[..]).is_ok(), "{before}");
            assert_eq!(value.len(), before.len());
        }
        let mut empty = [];
        assert!(!mend_value(&mut empty, false), "nothing to mend");
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method POST`, a field with a name of its own, `:authority`, and one from the table.
    fn headers(authority: &str) -> Vec<u8> {
        let value = encode(authority);
        let own = [&[0x00, 0x01, b'x', 0x02][..], b"yz"].concat();
        [&[0x83], &own[..], &[0x41, 0x80 | value.len() as u8], &value, &[0x86]].concat()
    }

    #[test]
    fn the_field_is_found_by_its_number_and_by_its_name() {
        let name = encode(":authority");
        let by_huffman_name = [&[0x40, 0x80 | name.len() as u8][..], &name, &[3], b"a/b"].concat();
        for block in [
            &b"\x41\x03a/b"[..],
            b"\x01\x03a/b",
            b"\x11\x03a/b",
            b"\x40\x0a:authority\x03a/b",
            b"\x82\x3f\x01\x86\x40\x05:path\x03a/b\x40\x0a:authority\x03a/b",
            &by_huffman_name,
        ] {
            let mut mended = block.to_vec();
            assert!(mend_block(&mut mended, 0), "{block:?}");
            assert!(mended.ends_with(b"a-b"), "{block:?}");
            assert_eq!(mended[..block.len() - 3], block[..block.len() - 3], "only the value");
        }
        for block in [&b"\x44\x03a/b"[..], b"\x40\x05:path\x03a/b", b"\x41\x04a/b", b"\x41\x03a.b"]
        {
            let mut same = block.to_vec();
            assert!(!mend_block(&mut same, 0), "{block:?}");
            assert_eq!(same, block);
        }
    }

    fn pass(mender: &mut Mender, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut passed = Vec::new();
        for piece in bytes.chunks(piece) {
            mender.push(piece);
            passed.extend_from_slice(&mender.pop(usize::MAX));
        }
        passed
    }

    #[test]
    fn a_connection_is_looked_at_for_as_long_as_it_needs_it_however_its_bytes_come() {
        let good = frame(HEADERS, 4, &headers("localhost:2379"));
        let bad = frame(HEADERS, 4, &headers("http://localhost:2379"));
        let mended = frame(HEADERS, 4, &headers("httpB--localhost:2379"));
        let padded = |block: &str| {
            frame(
                HEADERS,
                4 | PADDED | PRIORITY,
                &[&[3, 0, 0, 0, 0, 9], &headers(block)[..], &[0; 3]].concat(),
            )
        };
        let data = frame(0, 1, &[0x41; 40_000]);
        let settings = frame(4, 0, &[]);
        for piece in [1, 7, 100, 1 << 20] {
            let mut mender = Mender::default();
            let bytes = [PREFACE, &settings, &bad, &data, &padded("a://b"), &good, &bad].concat();
            let expected =
                [PREFACE, &settings, &mended, &data, &padded("aB--b"), &good, &mended].concat();
            assert!(pass(&mut mender, &bytes, piece) == expected, "in pieces of {piece}");
            assert!(!mender.is_done());

            let mut mender = Mender::default();
            let bytes = [PREFACE, &settings, &good, &bad].concat();
            assert!(pass(&mut mender, &bytes, piece) == bytes, "in pieces of {piece}");
            assert!(mender.is_done(), "the first request was in order");
        }
    }

    #[test]
    fn settings_go_on_before_a_request_comes_and_what_is_cut_short_goes_on_in_the_end() {
        let mut mender = Mender::default();
        let start = [PREFACE, &frame(4, 0, &[])].concat();
        assert_eq!(pass(&mut mender, &start, 5), start);
        let request = frame(HEADERS, 4, &headers("http://localhost:2379"));
        let (early, _) = request.split_at(20);
        assert!(pass(&mut mender, early, 20).is_empty());
        mender.end();
        assert_eq!(mender.pop(usize::MAX), early);
        assert!(mender.is_done());
    }

    #[test]
    fn other_protocols_and_damaged_fields_pass_as_they_are() {
        for bytes in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n", "PRI * HTTP/1.0\r\n\r\n123456"] {
            let mut mender = Mender::default();
            assert_eq!(pass(&mut mender, bytes.as_bytes(), 1), bytes.as_bytes());
            assert!(mender.is_done());
        }
        // Every value of every byte of a short block: no field ends behind it, nothing panics.
        let block = headers("http://l");
        for at in 0..block.len() {
            for byte in 0..=u8::MAX {
                let mut damaged = block.clone();
                damaged[at] = byte;
                for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
                    let mut mender = Mender::default();
                    let bytes = [PREFACE, &frame(HEADERS, flags, &damaged)].concat();
                    assert_eq!(pass(&mut mender, &bytes, bytes.len()).len(), bytes.len());
                }
            }
        }
    }
}
