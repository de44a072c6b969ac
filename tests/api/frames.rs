//! HTTP/2 frame by frame, as only odd clients speak it: pings, names that are none, calls that are no calls.
//!
//! What is expected was taken from etcd 3.7.1; run against it (see `product`), the same must pass.

use crate::cluster::{Cluster, Engine, LIMIT, Setup};
use crate::on_each_engine;
use crate::pages::address;
use quoin::server::hpack::{Field, Name, Reader};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

on_each_engine![
    pings_that_come_too_often_end_the_connection,
    pings_without_a_call_have_hours_between_them,
    any_authority_is_served,
    what_is_no_call_is_refused_in_the_words_of_etcd,
    messages_that_cannot_be_taken_are_refused_in_the_words_of_etcd,
    a_call_takes_the_first_message_and_does_not_wait_for_an_end,
    heads_are_taken_and_refused_as_by_etcd,
    a_stream_ends_with_what_is_no_message,
];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A Range of the key `k`, in gRPC's frame.
const RANGE: &[u8] = b"\0\0\0\0\x03\x0a\x01k";
/// A watch of the key `k`.
const WATCH: &[u8] = b"\0\0\0\0\x05\x0a\x03\x0a\x01k";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let (name, value) = (name.as_bytes(), value.as_bytes());
    [&[0, name.len() as u8], name, &[value.len() as u8], value].concat()
}

/// A request's header block: scheme `http` behind the fields that are given.
fn block(method: &str, path: &str, kind: &str, authority: &[u8]) -> Vec<u8> {
    let fields = [literal(":method", method), literal(":path", path)].concat();
    let more = [literal("content-type", kind), literal("te", "trailers")].concat();
    [&fields[..], authority, &[0x86], &more].concat()
}

/// One connection.
struct Client {
    stream: TcpStream,
    held: Vec<u8>,
    reader: Reader,
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
    /// What is in it, if these are headers.
    fields: Vec<Field>,
}

impl Client {
    async fn connect(cluster: &Cluster) -> Client {
        let mut stream = TcpStream::connect(address(cluster, 0)).await.unwrap();
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        Client { stream, held: vec![], reader: Reader::default() }
    }

    async fn send(&mut self, frames: &[u8]) {
        self.stream.write_all(frames).await.unwrap();
    }

    /// The next frame; none if the connection has ended.
    async fn next(&mut self) -> Option<Frame> {
        let arrive = async {
            loop {
                if let Some((head, rest)) = self.held.split_at_checked(9) {
                    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b));
                    let length = number(&head[..3]) as usize;
                    if let Some(payload) = rest.get(..length) {
                        let (kind, flags, stream) = (head[3], head[4], number(&head[5..]));
                        let fields = match kind {
                            HEADERS => self.reader.read(payload, 9999).expect("fields"),
                            _ => vec![],
                        };
                        let payload = payload.to_vec();
                        let frame = Frame { kind, flags, stream, payload, fields };
                        self.held.drain(..9 + length);
                        return Some(frame);
                    }
                }
                match self.stream.read_buf(&mut self.held).await {
                    Ok(1..) => {}
                    _ => return None,
                }
            }
        };
        tokio::time::timeout(LIMIT, arrive).await.expect("a frame in time")
    }

    /// The first frame that is one of these.
    async fn first(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await.expect("a connection that goes on");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Pings, and waits for the answer.
    async fn ping(&mut self) {
        self.send(&ping()).await;
        self.first(|frame| frame.kind == PING && frame.flags == ACK).await;
    }

    /// Waits for the end, and checks why it comes.
    async fn is_sent_away(&mut self) {
        let goaway = self.first(|frame| frame.kind == GOAWAY).await;
        assert_eq!(goaway.payload[4..], *b"\0\0\0\x0btoo_many_pings");
        while let Some(frame) = self.next().await {
            assert!(frame.kind != DATA && frame.kind != HEADERS, "{frame:?}");
        }
    }

    /// Makes a call in one go; returns its answer's headers, without the data in between.
    async fn call(&mut self, stream: u32, block: &[u8], message: &[u8]) -> Vec<Field> {
        self.send(&frame(HEADERS, END_HEADERS, stream, block)).await;
        self.send(&frame(DATA, END_STREAM, stream, message)).await;
        self.answer(stream).await
    }

    async fn answer(&mut self, of: u32) -> Vec<Field> {
        let mut fields = vec![];
        loop {
            let frame = self.first(|frame| frame.stream == of).await;
            assert_ne!(frame.kind, RESET, "stream {of}: {:?}", frame.payload);
            fields.extend(frame.fields);
            let (kind, flags) = (frame.kind, frame.flags);
            if flags & END_STREAM != 0 && kind <= HEADERS {
                return fields;
            }
        }
    }
}

/// The value of a field, by its name or the number that the standard has for it.
fn value(fields: &[Field], known: usize, name: &str) -> Option<String> {
    fields.iter().find_map(|field| match field {
        Field::Known(8) if name == ":status" => Some("200".to_owned()),
        Field::Known(12) if name == ":status" => Some("400".to_owned()),
        Field::Pair(Name::Known(at), value) if *at == known => {
            Some(String::from_utf8(value.to_vec()).unwrap())
        }
        Field::Pair(Name::Other(own), value) if **own == *name.as_bytes() => {
            Some(String::from_utf8(value.to_vec()).unwrap())
        }
        // Go names a status by any of the known ones.
        Field::Pair(Name::Known(8..=14), value) if name == ":status" => {
            Some(String::from_utf8(value.to_vec()).unwrap())
        }
        _ => None,
    })
}

async fn pings_that_come_too_often_end_the_connection(engine: Engine) {
    let cluster = Setup::new(engine, 1).flag("--grpc-keepalive-min-time=200ms").start().await;
    let mut client = Client::connect(&cluster).await;
    let kind = "application/grpc";
    let watch = block("POST", "/etcdserverpb.Watch/Watch", kind, &literal(":authority", "a"));
    client.send(&frame(HEADERS, END_HEADERS, 1, &watch)).await;
    client.send(&frame(DATA, 0, 1, WATCH)).await;
    client.first(|frame| frame.kind == DATA).await;
    // Far enough apart.
    for _ in 0..6 {
        client.ping().await;
        tokio::time::sleep(Duration::from_millis(210)).await;
    }
    // One is allowed right after an answer, and none counts that came before it.
    for stream in [3, 5, 7] {
        let get = block("POST", "/etcdserverpb.KV/Range", kind, &literal(":authority", "a"));
        assert_eq!(value(&client.call(stream, &get, RANGE).await, 8, ":status").unwrap(), "200");
        for _ in 0..3 {
            client.ping().await;
        }
    }
    // The third too early in a row.
    client.send(&ping()).await;
    client.is_sent_away().await;

    let mut burst = Client::connect(&cluster).await;
    burst.send(&ping().repeat(100)).await;
    burst.is_sent_away().await;
}

async fn pings_without_a_call_have_hours_between_them(engine: Engine) {
    let cluster = Setup::new(engine, 1).flag("--grpc-keepalive-min-time=1ms").start().await;
    let mut client = Client::connect(&cluster).await;
    client.first(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0).await;
    for _ in 0..3 {
        client.ping().await;
        // Far enough apart, if there were a call.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.send(&ping()).await;
    client.is_sent_away().await;
}

async fn any_authority_is_served(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let huffman = |bytes: &[u8]| [&[0x41, 0x80 | bytes.len() as u8], bytes].concat();
    let forms = [
        literal(":authority", "http://localhost:2379"),
        literal(":authority", ""),
        vec![0x81],
        vec![0x41, 0x00],
        b"\x41\x07unix://".to_vec(),
        // a>b, a{b, and a byte that is no letter.
        huffman(&[0x1F, 0xFD, 0xC7]),
        huffman(&[0x1F, 0xFF, 0xE8, 0xFF]),
        b"\x41\x03\xE9/\xFF".to_vec(),
    ];
    for authority in &forms {
        let mut client = Client::connect(&cluster).await;
        let get = block("POST", "/etcdserverpb.KV/Range", "application/grpc", authority);
        // The second comes with the table that the first has left behind, the third in pieces.
        for stream in [1, 3] {
            let answer = client.call(stream, &get, RANGE).await;
            assert_eq!(value(&answer, 8, ":status").as_deref(), Some("200"), "{authority:?}");
            assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some("0"), "{authority:?}");
        }
        for (number, piece) in get.chunks(30).enumerate() {
            let kind = if number == 0 { HEADERS } else { CONTINUATION };
            client.send(&frame(kind, 0, 5, piece)).await;
        }
        client.send(&frame(CONTINUATION, END_HEADERS, 5, &[])).await;
        client.send(&frame(DATA, END_STREAM, 5, RANGE)).await;
        assert_eq!(value(&client.answer(5).await, 0, "grpc-status").as_deref(), Some("0"));
        if authority.first() == Some(&0x41) {
            let recalled = block("POST", "/etcdserverpb.KV/Range", "application/grpc", &[0xBE]);
            let answer = client.call(7, &recalled, RANGE).await;
            assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some("0"), "{authority:?}");
        }
    }
}

async fn what_is_no_call_is_refused_in_the_words_of_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = Client::connect(&cluster).await;
    let table = [
        ("POST", "text/plain", "415", "3", r#"invalid gRPC request content-type "text/plain""#),
        ("GET", "text/plain", "415", "3", r#"invalid gRPC request content-type "text/plain""#),
        (
            "POST",
            "application/grpc-web",
            "415",
            "3",
            r#"invalid gRPC request content-type "application/grpc-web""#,
        ),
        (
            "PUT",
            "application/grpc",
            "405",
            "13",
            r#"Received a HEADERS frame with :method "PUT" which should be POST"#,
        ),
    ];
    for (number, (method, kind, status, code, text)) in (0..).zip(table) {
        let authority = literal(":authority", "a");
        let block = block(method, "/etcdserverpb.KV/Range", kind, &authority);
        let stream = 1 + 2 * number;
        client.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)).await;
        let answer = client.answer(stream).await;
        assert_eq!(value(&answer, 8, ":status").as_deref(), Some(status), "{method} {kind}");
        assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some(code), "{method} {kind}");
        let said = value(&answer, 0, "grpc-message").expect("a text");
        let said = said.replace("%22", "\"").replace("%20", " ");
        assert_eq!(said, text);
        assert_eq!(value(&answer, 31, "content-type").as_deref(), Some("application/grpc"));
    }
}

async fn messages_that_cannot_be_taken_are_refused_in_the_words_of_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let unary = ["KV/Range", "KV/Put", "Auth/UserGet", "Maintenance/Status"].as_slice();
    let streams = ["KV/RangeStream", "Maintenance/Snapshot"].as_slice();
    let no_encoding = "grpc: compressed flag set with identity or empty encoding";
    let no_protobuf = "proto: cannot parse invalid wire-format data";
    let of_unary = format!("grpc: error unmarshalling request: {no_protobuf}");
    let of_streams = format!("grpc: failed to unmarshal the received message: {no_protobuf}");
    let text = "grpc: error unmarshalling request: string field contains invalid UTF-8";
    let unknown = "grpc: Decompressor is not installed for grpc-encoding \"x\"";
    let gzip = "grpc: failed to decompress the message: ";
    let larger = "grpc: received message larger than max (2097153 vs. 2097152)";
    let both = [unary, streams].concat();
    // Calls, an encoding, what is sent, the code, and how the text begins.
    let no_message =
        "cardinality violation: received no request message from non-client-streaming RPC";
    let table: [(&[&str], &str, &[u8], &str, &str); 17] = [
        (&both, "", b"\x01\0\0\0\0", "13", no_encoding),
        (&both, "identity", b"\x01\0\0\0\0", "13", no_encoding),
        (&both, "", b"\x02\0\0\0\0", "13", "grpc: received unexpected payload format 2"),
        (&both, "x", b"\x01\0\0\0\x03abc", "12", unknown),
        (&both, "gzip", b"\x01\0\0\0\x03abc", "13", gzip),
        (&both, "", b"\0\0\x20\0\x01", "8", larger),
        (unary, "", b"\0\0\0\0\x01\xff", "13", &of_unary),
        (streams, "", b"\0\0\0\0\x01\xff", "13", &of_streams),
        (unary, "", b"\0\0\0\0\x02\x9a\x06", "13", &of_unary),
        (&["Auth/UserGet"], "", b"\0\0\0\0\x03\x0a\x01\xff", "13", text),
        (unary, "", b"", "2", "EOF"),
        (unary, "", b"\0\0", "2", "EOF"),
        (unary, "", b"\0\0\0\0\x09", "2", "unexpected EOF"),
        (unary, "", b"\0\0\0\0\x09ab", "2", "unexpected EOF"),
        (streams, "", b"", "13", no_message),
        (streams, "", b"\0\0", "13", no_message),
        (streams, "", b"\0\0\0\0\x09", "13", "unexpected EOF"),
    ];
    for (calls, encoding, message, code, text) in table {
        for call in calls {
            let path = format!("/etcdserverpb.{call}");
            let mut block = block("POST", &path, "application/grpc", &literal(":authority", "a"));
            if !encoding.is_empty() {
                block.extend(literal("grpc-encoding", encoding));
            }
            let mut client = Client::connect(&cluster).await;
            let answer = client.call(1, &block, message).await;
            let what = format!("{call} {encoding:?} {message:?}");
            assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some(code), "{what}");
            let said = value(&answer, 0, "grpc-message").expect("a text");
            // Go's library writes either blank, from build to build.
            let said = said.replace("%22", "\"").replace("%C2%A0", " ").replace("%20", " ");
            assert!(said.starts_with(text), "{what}: {said}");
        }
    }
}

async fn a_call_takes_the_first_message_and_does_not_wait_for_an_end(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let unary = ["KV/Range", "KV/Put", "Auth/AuthStatus", "Maintenance/Status"].as_slice();
    let streams = ["KV/RangeStream", "Maintenance/Snapshot"].as_slice();
    let cardinality = "cardinality violation: received multiple request messages for \
                       non-client-streaming RPC";
    // Calls, what follows the message, whether the request ends with that, code and text.
    let get =
        block("POST", "/etcdserverpb.KV/Range", "application/grpc", &literal(":authority", "a"));
    let table: [(&[&str], &[u8], bool, &str, &str); 9] = [
        (unary, b"", false, "0", ""),
        (unary, RANGE, false, "0", ""),
        (unary, RANGE, true, "0", ""),
        (unary, b"\x07", true, "0", ""),
        (unary, b"\x01\0\0\0\x01\xff", true, "0", ""),
        (streams, b"\x07", true, "0", ""),
        (streams, RANGE, true, "13", cardinality),
        (streams, RANGE, false, "13", cardinality),
        (
            streams,
            b"\x01\0\0\0\x01\xff",
            true,
            "13",
            "grpc: compressed flag set with identity or empty encoding",
        ),
    ];
    for (calls, more, ends, code, text) in table {
        for call in calls {
            let path = format!("/etcdserverpb.{call}");
            let block = block("POST", &path, "application/grpc", &literal(":authority", "a"));
            // In one piece, and byte by byte.
            let all = [RANGE, more].concat();
            for piece in [all.len(), 1] {
                let mut client = Client::connect(&cluster).await;
                client.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
                let mut pieces = all.chunks(piece).peekable();
                while let Some(piece) = pieces.next() {
                    let is_end = ends && pieces.peek().is_none();
                    client.send(&frame(DATA, u8::from(is_end), 1, piece)).await;
                }
                let answer = client.answer(1).await;
                let what = format!("{call} {more:?}, end {ends}, by {piece}");
                assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some(code), "{what}");
                let said = value(&answer, 0, "grpc-message").unwrap_or_default();
                assert_eq!(said.replace("%20", " "), text, "{what}");
                // The connection goes on.
                let answer = client.call(3, &get, RANGE).await;
                assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some("0"), "{what}");
            }
        }
    }
}

async fn heads_are_taken_and_refused_as_by_etcd(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let grpc = "application/grpc";
    let range = "/etcdserverpb.KV/Range";
    let bad = |value: &str, name: &str, at: usize| {
        format!(
            "malformed binary metadata {value:?} in header {name:?}: illegal base64 data at input byte {at}"
        )
    };
    let hosts = "num values of :authority: 1, num values of host: 2, both must only have 1 value as per HTTP/2 spec";
    let (bad_x, bad_trace) = (bad("!!!", "x-bin", 0), bad("YQ=", "grpc-trace-bin", 2));
    // Path, kind, further fields; HTTP status, kind of the answer, code, text.
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str, &'a str);
    let unknown = "unknown method Range?x=1 for service etcdserverpb.KV";
    let table: [Row<'_>; 21] = [
        (range, grpc, &[("x-bin", "YQ==")], "200", grpc, "0", ""),
        (range, grpc, &[("x-bin", "YQ"), ("y-bin", "")], "200", grpc, "0", ""),
        (range, grpc, &[("x-bin", "!!!")], "400", grpc, "13", &bad_x),
        ("/etcdserverpb.Watch/Watch", grpc, &[("x-bin", "!!!")], "400", grpc, "13", &bad_x),
        (range, grpc, &[("grpc-trace-bin", "YQ=")], "400", grpc, "13", &bad_trace),
        (range, grpc, &[("host", "b"), ("host", "c")], "400", grpc, "13", hosts),
        (range, grpc, &[("host", "b")], "200", grpc, "0", ""),
        (range, grpc, &[("grpc-encoding", "")], "200", grpc, "0", ""),
        ("/etcdserverpb.Auth/AuthStatus", grpc, &[("grpc-encoding", "")], "200", grpc, "0", ""),
        (range, grpc, &[("grpc-encoding", "gzip"), ("grpc-encoding", "")], "200", grpc, "0", ""),
        (range, "application/grpc+proto", &[], "200", "application/grpc+proto", "0", ""),
        (range, "application/grpc+json", &[], "200", "application/grpc+json", "0", ""),
        (range, "application/grpc;proto", &[], "200", "application/grpc+proto", "0", ""),
        (range, "application/grpc+", &[], "200", grpc, "0", ""),
        ("/", grpc, &[], "200", grpc, "12", "malformed method name: \"/\""),
        ("/x", grpc, &[], "200", grpc, "12", "malformed method name: \"/x\""),
        ("/a/b/c", grpc, &[], "200", grpc, "12", "unknown service a/b"),
        (
            "//etcdserverpb.KV/Range",
            grpc,
            &[],
            "200",
            grpc,
            "12",
            "unknown service /etcdserverpb.KV",
        ),
        (
            "/etcdserverpb.KV/Range/",
            grpc,
            &[],
            "200",
            grpc,
            "12",
            "unknown service etcdserverpb.KV/Range",
        ),
        (
            "/etcdserverpb.KV/Nope",
            grpc,
            &[],
            "200",
            grpc,
            "12",
            "unknown method Nope for service etcdserverpb.KV",
        ),
        ("/etcdserverpb.KV/Range?x=1", grpc, &[], "200", grpc, "12", unknown),
    ];
    for (path, kind, more, status, answers, code, text) in table {
        let mut block = block("POST", path, kind, &literal(":authority", "a"));
        block.extend(more.iter().flat_map(|(name, value)| literal(name, value)));
        let mut client = Client::connect(&cluster).await;
        let answer = client.call(1, &block, RANGE).await;
        let what = format!("{path} {kind} {more:?}");
        assert_eq!(value(&answer, 8, ":status").as_deref(), Some(status), "{what}");
        assert_eq!(value(&answer, 31, "content-type").as_deref(), Some(answers), "{what}");
        assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some(code), "{what}");
        let said = value(&answer, 0, "grpc-message").unwrap_or_default();
        let said = said.replace("%22", "\"").replace("%20", " ").replace("%3F", "?");
        assert_eq!(said, text, "{what}");
    }
}

async fn a_stream_ends_with_what_is_no_message(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let unreadable = "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data";
    let no_encoding = "grpc: compressed flag set with identity or empty encoding";
    for (path, message) in [
        ("/etcdserverpb.Watch/Watch", WATCH),
        ("/etcdserverpb.Lease/LeaseKeepAlive", b"\0\0\0\0\x02\x08\x01"),
    ] {
        for (wrong, text) in [
            (&b"\0\0\0\0\x01\xff"[..], unreadable),
            (b"\x01\0\0\0\x01\xff", no_encoding),
            (b"\0\0\0\0\x09", "unexpected EOF"),
            (b"\0\0\0\0\x09ab", "unexpected EOF"),
        ] {
            let block = block("POST", path, "application/grpc", &literal(":authority", "a"));
            let mut client = Client::connect(&cluster).await;
            client.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
            client.send(&frame(DATA, 0, 1, message)).await;
            client.first(|frame| frame.kind == DATA).await;
            client.send(&frame(DATA, END_STREAM, 1, wrong)).await;
            let answer = client.answer(1).await;
            assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some("13"), "{path} {text}");
            let said = value(&answer, 0, "grpc-message").expect("a text");
            assert_eq!(said.replace("%C2%A0", " ").replace("%20", " "), text, "{path}");
        }
    }
    // What ends before the length of a message is none.
    let path = "/etcdserverpb.Lease/LeaseKeepAlive";
    for end in [&b""[..], b"\0\0"] {
        let block = block("POST", path, "application/grpc", &literal(":authority", "a"));
        let mut client = Client::connect(&cluster).await;
        client.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        client.send(&frame(DATA, 0, 1, b"\0\0\0")).await;
        client.send(&frame(DATA, 0, 1, b"\0\x02\x08\x01")).await;
        client.first(|frame| frame.kind == DATA).await;
        client.send(&frame(DATA, END_STREAM, 1, end)).await;
        let answer = client.answer(1).await;
        assert_eq!(value(&answer, 0, "grpc-status").as_deref(), Some("0"), "{end:?}");
    }
}
