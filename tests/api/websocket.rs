//! The gateway's paths over WebSockets, spoken by the client of another library than pages have.
//!
//! What is expected was taken from etcd 3.7.1; run against it (see `product`), the same must pass.

use crate::cluster::{Cluster, Engine, LIMIT, eventually, product};
use crate::gateway::{FOO, normal, post};
use crate::on_each_engine;
use crate::pages::{Page, address, page, send};
use crate::requests::put;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

on_each_engine![
    a_watch_goes_on_until_the_client_says_goodbye,
    each_request_of_a_stream_is_answered,
    calls_with_one_answer_end_the_connection,
    tokens_come_as_protocol_or_cookie,
    what_is_no_handshake_is_refused,
];

const HANDSHAKE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

struct Client {
    socket: WebSocketStream<TcpStream>,
    answer: Page,
}

impl Client {
    async fn open(cluster: &Cluster, path: &str, headers: &[(&str, &str)]) -> Client {
        let address = address(cluster, 0);
        let mut head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n");
        for (name, value) in HANDSHAKE.iter().chain(headers) {
            head += &format!("{name}: {value}\r\n");
        }
        let opening = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
            let mut bytes = vec![];
            loop {
                assert_eq!(stream.read_buf(&mut bytes).await.unwrap().min(1), 1, "closed");
                let Some((answer, rest)) = page(&bytes) else { continue };
                let rest = rest.to_vec();
                let (role, config) = (Role::Client, None);
                let socket = WebSocketStream::from_partially_read(stream, rest, role, config).await;
                return Client { socket, answer };
            }
        };
        let client = tokio::time::timeout(LIMIT, opening).await.expect("an answer in time");
        assert_eq!(client.answer.status, 101, "{}", client.answer.headers);
        client
    }

    async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next message; none if the connection has ended.
    async fn next(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(LIMIT, self.socket.next()).await.expect("an end in time");
        next.and_then(Result::ok)
    }

    async fn text(&mut self) -> String {
        match self.next().await {
            Some(Message::Text(text)) => normal(&text),
            other => panic!("{other:?} instead of a text"),
        }
    }
}

fn header(revision: u32) -> String {
    format!("\"header\":{{IDS,\"revision\":\"{revision}\"}}")
}

async fn a_watch_goes_on_until_the_client_says_goodbye(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = Client::open(&cluster, "/v3/watch", &[]).await;
    let accepted = Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_eq!(client.answer.header("sec-websocket-accept"), accepted);
    assert_eq!(client.answer.header("sec-websocket-protocol"), None);
    client.send(r#"{"create_request":{"key":"Zm9v"}}"#).await;
    assert_eq!(client.text().await, format!("{{\"result\":{{{},\"created\":true}}}}", header(1)));
    let mut kv = cluster.raw(0).kv.clone();
    for (number, value) in (1..).zip(["a", "b"]) {
        kv.put(put("foo", value)).await.unwrap();
        let event = client.text().await;
        let begin = format!("{{\"result\":{{{},\"events\":[", header(1 + number));
        assert!(event.starts_with(&begin), "{event}");
        // In pieces, and as bytes.
        client.socket.send(Message::Ping("p".into())).await.unwrap();
        assert_eq!(client.next().await, Some(Message::Pong("p".into())));
    }
    client.socket.send(Message::binary(&b"{\"cancel_request\""[..])).await.unwrap();
    client.send(r#":{"watch_id":0}}"#).await;
    assert_eq!(client.text().await, format!("{{\"result\":{{{},\"canceled\":true}}}}", header(3)));
    client.socket.send(Message::Close(None)).await.unwrap();
    let goodbye = client.next().await;
    assert!(matches!(goodbye, Some(Message::Close(_))), "{goodbye:?}");
    assert_eq!(client.next().await, None);

    // The call ends with its socket, however that ends.
    let mut client = Client::open(&cluster, "/v3/watch", &[]).await;
    client.send(r#"{"create_request":{"key":"Zm9v"}}"#).await;
    client.text().await;
    drop(client);
    eventually("the end of the watches", async || {
        let metrics = crate::pages::http(&cluster, 0, "GET", "/metrics").await.body;
        let watchers = "etcd_debugging_mvcc_watcher_total 0\n";
        if metrics.contains(watchers) { Ok(()) } else { Err("there are some".to_owned()) }
    })
    .await;
}

async fn each_request_of_a_stream_is_answered(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    post(&cluster, "/v3/lease/grant", r#"{"TTL":20,"ID":77}"#).await;
    let mut client = Client::open(&cluster, "/v3beta/lease/keepalive?method=GET", &[]).await;
    for (id, rest) in [(77, r#","TTL":"20""#), (1, ""), (77, r#","TTL":"20""#)] {
        client.send(&format!("{{\"ID\":{id}}}")).await;
        let expected = format!("{{\"result\":{{{},\"ID\":\"{id}\"{rest}}}}}", header(1));
        assert_eq!(client.text().await, expected);
    }
    // Two in one.
    client.send(r#"{"ID":77} {"ID":1}"#).await;
    assert!(client.text().await.contains("77"));
    assert!(!client.text().await.contains("77"));
    // What is no JSON ends the requests, and with them the call.
    client.send("x").await;
    assert_eq!(client.next().await, None);
}

/// etcd waits for the request's end, which is that of the connection.
async fn calls_with_one_answer_end_the_connection(engine: Engine) {
    if !product().ours {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let table = [
        ("/v3/kv/range", FOO, format!("{{{}}}", header(1))),
        (
            "/v3/kv/range",
            "{}",
            r#"{"code":3,"message":"etcdserver: key is not provided"}"#.to_owned(),
        ),
        ("/v3/kv/nothing", "{}", r#"{"code":5,"message":"Not Found"}"#.to_owned()),
    ];
    for (path, request, expected) in table {
        let mut client = Client::open(&cluster, path, &[]).await;
        client.send(request).await;
        assert_eq!(client.text().await, expected, "{path} {request}");
        // Without a closing message.
        assert_eq!(client.next().await, None, "{path} {request}");
    }
}

async fn tokens_come_as_protocol_or_cookie(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name":"root","password":"r"}"#),
        ("/v3/auth/role/add", r#"{"name":"root"}"#),
        ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
        ("/v3/auth/enable", ""),
    ] {
        assert_eq!(post(&cluster, path, body).await.status, 200, "{path}");
    }
    let login = r#"{"name":"root","password":"r"}"#;
    let answer = post(&cluster, "/v3/auth/authenticate", login).await.json();
    let token = answer["token"].as_str().unwrap();
    let (good, bad) = (format!("Bearer, {token}"), "Bearer, bad");
    let cookie = format!("a=b; token={token}");
    let refused = r#"{"error":{"code":16,"message":"etcdserver: invalid auth token"}}"#;
    let nobody = r#"{"error":{"code":3,"message":"etcdserver: user name is empty"}}"#;
    let good_answer = r#"{"result":{"header""#;
    let protocol = "Sec-WebSocket-Protocol";
    for (headers, expected) in [
        (&[][..], nobody),
        (&[(protocol, bad)], refused),
        (&[(protocol, &good[..])], good_answer),
        (&[("Cookie", &cookie[..])], good_answer),
        (&[("Cookie", &cookie), (protocol, bad)], good_answer),
        (&[("Cookie", "token=bad"), (protocol, &good)], refused),
        // Only these come from a page.
        (&[("Authorization", token)], nobody),
    ] {
        let mut client = Client::open(&cluster, "/v3/lease/keepalive", headers).await;
        let is_asked = headers.iter().any(|(name, _)| *name == protocol);
        let protocol = client.answer.header("sec-websocket-protocol").map(str::to_owned);
        assert_eq!(protocol.as_deref(), is_asked.then_some("Bearer"), "{headers:?}");
        client.send(r#"{"ID":1}"#).await;
        let answer = client.text().await;
        assert!(answer.starts_with(expected), "{headers:?}: {answer}");
    }
}

async fn what_is_no_handshake_is_refused(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let address = address(&cluster, 0);
    let with = |name: &str, value: &'static str| {
        HANDSHAKE.map(|(own, known)| if own == name { (own, value) } else { (own, known) })
    };
    let table = [
        ("POST", HANDSHAKE, 405, "Method Not Allowed\n"),
        ("GET", with("Sec-WebSocket-Version", "8"), 400, "Bad Request\n"),
        ("GET", with("Sec-WebSocket-Key", "c2hvcnQ="), 400, "Bad Request\n"),
    ];
    for (method, headers, status, body) in table {
        let page = send(&address, method, "/v3/watch", &headers, b"").await;
        assert_eq!((page.status, &page.body[..]), (status, body), "{headers:?}");
        assert_eq!(page.header("sec-websocket-version"), Some("13"), "{headers:?}");
    }
    // Not a WebSocket at all.
    let page =
        send(&address, "POST", "/v3/kv/range", &with("Upgrade", "h2c"), FOO.as_bytes()).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let page = send(&address, "GET", "/version", &HANDSHAKE, b"").await;
    assert_eq!(page.status, 200, "only the gateway has them: {}", page.body);
}
