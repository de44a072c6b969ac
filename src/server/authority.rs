//! Mends the `:authority` of clients that put a URL, the path of a socket, or nothing there.
//!
//! Some releases of etcdctl and of the gRPC libraries do that, and etcd's HTTP/2 library does not mind. Ours resets such
//! a stream before anybody of ours sees it. Nothing here uses the name, so what may not stand in it is replaced in
//! what arrives, and a field without a value is left out.
//!
//! Only connections whose first request needs it are looked at beyond that request: their header blocks are
//! written anew, each by itself, so that nothing that is replaced must be remembered on the other side.

use super::hpack::{Field, Reader};
use super::listener::HEADERS_MAX;
use bytes::{Buf as _, BytesMut};
use http::uri::Authority;

/// What an HTTP/2 client sends first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The largest frame that a client may send to us.
const FRAME_MAX: usize = 16 << 10;

/// What arrives on one connection, on its way to the HTTP library.
#[derive(Debug, Default)]
pub(super) struct Mender {
    held: BytesMut,
    /// Of what is held, how much may go on.
    ready: usize,
    /// Bytes to come of a frame that is not looked into.
    passing: usize,
    /// The header block behind what is ready, as far as it has come.
    block: Option<Block>,
    reader: Reader,
    has_preface: bool,
    has_mended: bool,
    is_done: bool,
}

/// A header block in one or several frames.
#[derive(Debug)]
struct Block {
    stream: [u8; 4],
    ends_stream: bool,
    bytes: Vec<u8>,
    /// Bytes of its frames.
    frames_len: usize,
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

    /// Whether that is HTTP/2.
    pub(super) fn speaks_http2(&self) -> bool {
        self.has_preface
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
        let next = &next[self.block.as_ref().map_or(0, |block| block.frames_len)..];
        let Some((mut head, rest)) = next.split_at_checked(FRAME_HEAD) else { return false };
        let length = head.get_uint(3) as usize;
        let (kind, flags) = (head.get_u8(), head.get_u8());
        let stream = head.get_u32().to_be_bytes();
        let is_expected = match &self.block {
            None if kind != HEADERS => {
                self.passing = FRAME_HEAD + length;
                return true;
            }
            None => true,
            Some(block) => kind == CONTINUATION && stream == block.stream,
        };
        let held = self.block.as_ref().map_or(0, |block| block.bytes.len());
        if !is_expected || length > FRAME_MAX || held > HEADERS_MAX as usize {
            // The library knows what to say to that.
            self.is_done = true;
            return false;
        }
        let Some(frame) = rest.get(..length) else { return false };
        let ends_stream = flags & END_STREAM != 0;
        let block = self.block.get_or_insert_with(|| Block {
            stream,
            ends_stream,
            bytes: Vec::new(),
            frames_len: 0,
        });
        block.frames_len += FRAME_HEAD + length;
        block.bytes.extend_from_slice(if kind == HEADERS { fragment(frame, flags) } else { frame });
        if flags & END_HEADERS != 0
            && let Some(block) = self.block.take()
        {
            self.is_done = !self.mend(&block);
        }
        !self.is_done
    }

    /// Puts a block that is complete among what is ready. False if there is nothing to look at
    /// any more.
    fn mend(&mut self, block: &Block) -> bool {
        let Some(mut fields) = self.reader.read(&block.bytes, HEADERS_MAX as usize) else {
            return false;
        };
        self.has_mended |= mend(&mut fields);
        if !self.has_mended {
            return false;
        }
        let mut bytes = Vec::with_capacity(block.bytes.len());
        fields.iter().for_each(|field| field.write(&mut bytes));
        let rest = self.held.split_off(self.ready + block.frames_len);
        self.held.truncate(self.ready);
        put_frames(block, &bytes, &mut self.held);
        self.ready = self.held.len();
        self.held.unsplit(rest);
        true
    }
}

/// The part of a block that a HEADERS frame holds.
fn fragment(frame: &[u8], flags: u8) -> &[u8] {
    let padding = if flags & PADDED != 0 { frame.first().copied().unwrap_or(0) } else { 0 };
    let start = usize::from(flags & PADDED != 0) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = frame.len().saturating_sub(usize::from(padding));
    frame.get(start..end).unwrap_or_default()
}

/// Puts a block's new bytes into frames.
fn put_frames(block: &Block, mut bytes: &[u8], frames: &mut BytesMut) {
    let mut kind = HEADERS;
    loop {
        let piece = bytes.split_off(..bytes.len().min(FRAME_MAX)).unwrap_or_default();
        let mut flags = if bytes.is_empty() { END_HEADERS } else { 0 };
        if kind == HEADERS && block.ends_stream {
            flags |= END_STREAM;
        }
        frames.extend_from_slice(&(piece.len() as u32).to_be_bytes()[1..]);
        frames.extend_from_slice(&[kind, flags]);
        frames.extend_from_slice(&block.stream);
        frames.extend_from_slice(piece);
        if bytes.is_empty() {
            return;
        }
        kind = CONTINUATION;
    }
}

fn is_authority(value: &[u8]) -> bool {
    Authority::try_from(value).is_ok()
}

/// Mends the fields that need it; whether any did.
fn mend(fields: &mut Vec<Field>) -> bool {
    let mut has_mended = false;
    fields.retain_mut(|field| {
        if !field.is_authority() {
            return true;
        }
        // What is known of it has no value.
        let Field::Pair(_, value) = field else {
            has_mended = true;
            return false;
        };
        if !is_authority(value) {
            has_mended = true;
            *value = plain(value).into();
        }
        !value.is_empty()
    });
    has_mended
}

/// A name that is none, with all replaced that is not a letter, a digit, or the colon before a port.
fn plain(value: &[u8]) -> Vec<u8> {
    let colon = value.iter().rposition(|byte| *byte == b':');
    let port = colon.filter(|at| value[at + 1..].iter().all(u8::is_ascii_digit));
    let without = |port: Option<usize>| {
        let is_kept = |place: usize, byte: u8| {
            byte.is_ascii_alphanumeric() || b"-._".contains(&byte) || port == Some(place)
        };
        let bytes = value.iter().enumerate();
        bytes.map(|(place, byte)| if is_kept(place, *byte) { *byte } else { b'-' }).collect()
    };
    let with_port: Vec<u8> = without(port);
    if is_authority(&with_port) { with_port } else { without(None) }
}

#[cfg(test)]
mod tests {
    use super::super::hpack::encode;
    use super::*;

    #[test]
    fn what_can_be_no_authority_is_replaced() {
        for (before, after) in [
            ("http://localhost:2379", "http---localhost:2379"),
            ("http://[::1]:2379", "http------1-:2379"),
            ("/tmp/quoin/sock", "-tmp-quoin-sock"),
            ("%2Ftmp%2Fsock", "-2Ftmp-2Fsock"),
            ("a:b:1", "a-b:1"),
            ("/a b+c(x)\"|", "-a-b-c-x---"),
            ("#>^<{}", "------"),
            ("h\u{e9}", "h--"),
        ] {
            assert!(!is_authority(before.as_bytes()), "{before}");
            let plain = plain(before.as_bytes());
            assert_eq!(String::from_utf8(plain.clone()).expect("a text"), after);
            assert!(is_authority(&plain), "{before}");
        }
        for byte in 0..=u8::MAX {
            for value in [vec![byte], vec![byte; 3], vec![b'/', byte, b':', b'1'], vec![b':', byte]]
            {
                assert!(is_authority(&plain(&value)), "{value:?}");
            }
        }
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// `:method POST`, a field with a name of its own, `:authority` as given, and one that is known.
    fn headers(authority: &[u8]) -> Vec<u8> {
        let own = [&[0x00, 0x01, b'x', 0x02][..], b"yz"].concat();
        [&[0x83], &own[..], authority, &[0x86]].concat()
    }

    /// An `:authority` to be remembered, Huffman-coded.
    fn field(value: &str) -> Vec<u8> {
        let value = encode(value.as_bytes());
        [&[0x41, 0x80 | value.len() as u8], &value[..]].concat()
    }

    /// The same, as it is written anew.
    fn written(value: &str) -> Vec<u8> {
        [&[0x01, value.len() as u8], value.as_bytes()].concat()
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
        let good = frame(HEADERS, END_HEADERS, &headers(&field("localhost:2379")));
        let bad = frame(HEADERS, END_HEADERS, &headers(&field("http://localhost:2379")));
        let same = frame(HEADERS, END_HEADERS, &headers(&written("localhost:2379")));
        let mended = frame(HEADERS, END_HEADERS, &headers(&written("http---localhost:2379")));
        let flags = END_HEADERS | PADDED | PRIORITY | END_STREAM;
        let padded = [&[3, 0, 0, 0, 0, 9], &headers(&field("a://b"))[..], &[0; 3]].concat();
        let padded = frame(HEADERS, flags, &padded);
        let unpadded = frame(HEADERS, END_HEADERS | END_STREAM, &headers(&written("a---b")));
        // What was remembered second, and a value for the name that was remembered first.
        let recalled = frame(HEADERS, END_HEADERS, &headers(&[0xBF]));
        let named = [&[0x7F, 0x01, 3], &b"x/y"[..]].concat();
        let named = frame(HEADERS, END_HEADERS, &headers(&named));
        let by_name = frame(HEADERS, END_HEADERS, &headers(&written("x-y")));
        let data = frame(0, 1, &[0x41; 40_000]);
        let settings = frame(4, 0, &[]);
        for piece in [1, 7, 100, 1 << 20] {
            let mut mender = Mender::default();
            let bytes = [PREFACE, &settings, &bad, &data, &padded, &good, &recalled, &named];
            let expected =
                [PREFACE, &settings, &mended, &data, &unpadded, &same, &unpadded, &by_name];
            let mut expected = expected.concat();
            let recalled = frame(HEADERS, END_HEADERS, &headers(&written("a---b")));
            let at = expected.len() - by_name.len() - unpadded.len();
            expected.splice(at..at + unpadded.len(), recalled);
            assert!(pass(&mut mender, &bytes.concat(), piece) == expected, "in pieces of {piece}");
            assert!(!mender.is_done());

            let mut mender = Mender::default();
            let bytes = [PREFACE, &settings, &good, &bad].concat();
            assert!(pass(&mut mender, &bytes, piece) == bytes, "in pieces of {piece}");
            assert!(mender.is_done(), "the first request was in order");
        }
    }

    #[test]
    fn an_authority_may_be_empty_and_in_any_form() {
        let empty = headers(&[]);
        let mended = headers(&written("a-b"));
        let name = encode(b":authority");
        let by_huffman_name = [&[0x40, 0x80 | name.len() as u8][..], &name, &[3], b"a/b"].concat();
        let by_name = [&[0x00, 10], &b":authority\x03a-b"[..]].concat();
        let by_name = headers(&by_name);
        for (authority, expected) in [
            (&b"\x41\x00"[..], &empty),
            (b"\x41\x80", &empty),
            (b"\x01\x00", &empty),
            (b"\x81", &empty),
            (b"\x00\x0A:authority\x00", &empty),
            (b"\x41\x03a/b", &mended),
            (b"\x01\x03a/b", &mended),
            (b"\x11\x03a/b", &mended),
            (b"\x40\x0A:authority\x03a/b", &by_name),
            (&by_huffman_name, &by_name),
            (&field("a>b"), &mended),
            (&field("a{b"), &mended),
            (&field("a\u{1}b"), &mended),
        ] {
            let request = frame(HEADERS, END_HEADERS, &headers(authority));
            let expected = [PREFACE, &frame(HEADERS, END_HEADERS, expected)].concat();
            let passed = pass(&mut Mender::default(), &[PREFACE, &request].concat(), 1000);
            assert_eq!(passed, expected, "{authority:?}");
        }
        for authority in [&b"\x41\x03a.b"[..], b"\x44\x03a/b", b"\x40\x05:path\x03a/b", b""] {
            let bytes = [PREFACE, &frame(HEADERS, END_HEADERS, &headers(authority))].concat();
            let mut mender = Mender::default();
            assert_eq!(pass(&mut mender, &bytes, 1000), bytes, "{authority:?}");
            assert!(mender.is_done());
        }
    }

    #[test]
    fn a_block_may_come_in_several_frames() {
        let block = headers(&field("http://localhost:2379"));
        let long = [&[0x00, 1, b'l', 0x7F, 0xA1, 0x9B, 0x01], &[b'v'; 20_000][..]].concat();
        let whole = [&headers(&written("http---localhost:2379")), &long[..]].concat();
        for cut in [0, 8, 10, block.len()] {
            let (first, second) = block.split_at(cut);
            let bytes = [
                PREFACE,
                &frame(HEADERS, END_STREAM, first),
                &frame(CONTINUATION, 0, &[]),
                &frame(CONTINUATION, 0, second),
                &frame(CONTINUATION, 0, &long[..9_000]),
                &frame(CONTINUATION, END_HEADERS, &long[9_000..]),
                &frame(0, 0, b"data"),
            ]
            .concat();
            let expected = [
                PREFACE,
                &frame(HEADERS, END_STREAM, &whole[..FRAME_MAX]),
                &frame(CONTINUATION, END_HEADERS, &whole[FRAME_MAX..]),
                &frame(0, 0, b"data"),
            ]
            .concat();
            for piece in [1, 1000, 1 << 20] {
                assert!(pass(&mut Mender::default(), &bytes, piece) == expected, "{cut}, {piece}");
            }
        }
        // What may not come in between is for the library to refuse.
        let bytes = [PREFACE, &frame(HEADERS, 0, &block), &frame(6, 0, &[0; 8])].concat();
        let mut mender = Mender::default();
        assert_eq!(pass(&mut mender, &bytes, 1000), bytes);
        assert!(mender.is_done());
    }

    #[test]
    fn settings_go_on_before_a_request_comes_and_what_is_cut_short_goes_on_in_the_end() {
        let mut mender = Mender::default();
        let start = [PREFACE, &frame(4, 0, &[])].concat();
        assert_eq!(pass(&mut mender, &start, 5), start);
        let request = frame(HEADERS, END_HEADERS, &headers(&field("http://localhost:2379")));
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
        for block in [&[0x80][..], &[0x41, 0x81, 0x00], &[0x41, 9, b'/'], &[0xFF]] {
            for flags in [0, PADDED, PRIORITY, PADDED | PRIORITY] {
                let mut mender = Mender::default();
                let bytes = [PREFACE, &frame(HEADERS, flags | END_HEADERS, block)].concat();
                let passed = pass(&mut mender, &bytes, bytes.len());
                assert_eq!(passed, bytes, "{block:?} {flags}");
                assert!(mender.is_done());
            }
        }
    }
}
