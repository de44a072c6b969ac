//! Cases of kind http.

use super::{Bench, LONG, environment, said};
use crate::scheduler::model::{Environment, Status};
use crate::tls::{Allowed, DialOptions, Dialer, ServerOptions, ServerTls, Suites, self_signed};
use axum::Router;
use axum::extract::{ConnectInfo, Path, Request};
use axum::http::{HeaderMap, StatusCode, header::LOCATION};
use axum::routing::{any, get};
use parking_lot::Mutex;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// A service under test.
struct Service {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    called: Arc<Notify>,
}

#[derive(Clone, Debug)]
struct Seen {
    from: SocketAddr,
    method: String,
    path: String,
    headers: HeaderMap,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, called) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(Notify::new()));
        let (see, call) = (seen.clone(), called.clone());
        let watch = axum::middleware::from_fn(
            move |ConnectInfo(from): ConnectInfo<SocketAddr>,
                  request: Request,
                  next: axum::middleware::Next| {
                see.lock().push(Seen {
                    from,
                    method: request.method().to_string(),
                    path: request.uri().to_string(),
                    headers: request.headers().clone(),
                });
                call.notify_one();
                next.run(request)
            },
        );
        let router = Router::new()
            .route("/echo", any(|body: axum::body::Bytes| async { body }))
            .route(
                "/status/{code}",
                any(|Path(code): Path<u16>| async move {
                    (StatusCode::from_u16(code).unwrap(), "body")
                }),
            )
            .route(
                "/bytes/{count}",
                get(|Path(count): Path<usize>| async move { "x".repeat(count) }),
            )
            .route("/moved", any(|| async { (StatusCode::FOUND, [(LOCATION, "/echo")]) }))
            .route("/never", any(std::future::pending::<()>))
            .layer(watch);
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        Self { address, seen, called }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn last(&self) -> Seen {
        self.seen.lock().last().cloned().unwrap()
    }
}

#[tokio::test]
async fn a_call_says_who_asks_and_passes_with_the_expected_answer() {
    let (bench, service) = (Bench::new(), Service::start().await);
    let input = r#"{"hello":"{{who}}"}"#;
    let case = json!({
        "url": service.url("/echo?port={{port}}#part"),
        "headers": {"X-Who": "{{who}}"},
        "input": input,
        "output": r#"{"hello":"world"}"#,
    });
    let outcome = bench.run(case).await;
    assert_eq!((outcome.status, &outcome.detail), (Status::Passed, &None));
    let seen = service.last();
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/echo?port=80"));
    let headers = [
        ("content-type", "application/json"),
        ("x-who", "world"),
        ("x-tcss-run", "r1"),
        ("x-tcss-task", "3-7"),
        ("x-tcss-attempt", "2"),
        ("x-tcss-fence", "99"),
    ];
    for (name, value) in headers {
        assert_eq!(seen.headers.get(name).unwrap(), value, "{name}");
    }
    let deadline: u128 = seen.headers["x-tcss-deadline"].to_str().unwrap().parse().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((now.as_millis()..=(now + LONG).as_millis()).contains(&deadline));
    let text =
        json!({"url": service.url("/echo"), "method": "put", "input": "{{who}}", "match": "none"});
    let outcome = bench.run(text).await;
    assert_eq!(outcome.detail, Some(json!({"output": "world"})));
    let seen = service.last();
    assert_eq!(seen.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(seen.method, "PUT");
}

#[tokio::test]
async fn answers_are_judged() {
    let (bench, service) = (Bench::new(), Service::start().await);
    let url = |path: &str| service.url(path);
    let table = [
        (json!({"url": url("/echo"), "input": "a", "output": "b"}), Status::Failed),
        (
            json!({"url": url("/echo"), "input": "[1]", "output": "[1.0]", "match": "json"}),
            Status::Passed,
        ),
        (
            json!({"url": url("/echo"), "input": "id=7", "output": "^id=\\d$", "match": "regex"}),
            Status::Passed,
        ),
        (json!({"url": url("/status/204"), "match": "status"}), Status::Passed),
        (json!({"url": url("/status/500"), "match": "status"}), Status::Failed),
        (json!({"url": url("/status/404"), "match": "status", "output": "404"}), Status::Passed),
        (json!({"url": url("/status/200"), "match": "status", "output": "404"}), Status::Failed),
        (json!({"url": url("/status/500"), "match": "none"}), Status::Passed),
        (json!({"url": url("/status/500"), "output": "body"}), Status::Passed),
        (json!({"url": url("/echo"), "input": "{{who}}", "output": "{{who}}"}), Status::Passed),
        (json!({"url": url("/echo"), "input": "80", "output": "{{port}}"}), Status::Passed),
        (
            json!({"url": url("/echo"), "input": r#"{"port":80,"more":1}"#,
                "output": r#"{"port":{{port}}}"#, "match": "json-subset"}),
            Status::Passed,
        ),
        (json!({"url": url("/echo"), "input": "81", "output": "{{port}}"}), Status::Failed),
        (json!({"url": url("/echo"), "input": "a", "output": "{{gone}}"}), Status::Error),
    ];
    for (case, expected) in table {
        let outcome = bench.run(case.clone()).await;
        assert_eq!(outcome.status, expected, "{case}: {outcome:?}");
    }
    let outcome = bench.run(json!({"url": url("/status/500"), "output": "fine"})).await;
    let detail = json!({
        "message": r#"line 1, byte 1: expected "fine", got "body""#,
        "http": 500,
        "output": "body",
    });
    assert_eq!(outcome.detail, Some(detail));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (bench, service) = (Bench::new(), Service::start().await);
    let outcome = bench.run(json!({"url": service.url("/moved"), "match": "none"})).await;
    assert_eq!((outcome.status, said(&outcome, "http")), (Status::Passed, json!(302)));
    assert_eq!(service.seen.lock().len(), 1);
}

#[tokio::test]
async fn connections_are_used_again() {
    let (bench, service) = (Bench::new(), Service::start().await);
    for _ in 0..20 {
        let outcome = bench.run(json!({"url": service.url("/echo"), "output": ""})).await;
        assert_eq!(outcome.status, Status::Passed);
    }
    let mut ports: Vec<SocketAddr> = service.seen.lock().iter().map(|seen| seen.from).collect();
    ports.dedup();
    assert_eq!(ports.len(), 1);
}

#[tokio::test]
async fn long_answers_are_kept_aside_and_compared_all_the_same() {
    let (bench, service) =
        (Bench::with(|s| s.compared_bytes_max = 150_000), Service::start().await);
    let url = service.url("/bytes/100000");
    let case = |output: String| json!({"url": url, "method": "GET", "output": output});
    let outcome = bench.run(case("x".repeat(100_000))).await;
    assert_eq!((outcome.status, outcome.detail), (Status::Passed, None));
    let outcome = bench.run(case("x".repeat(99_999) + "y")).await;
    assert_eq!(outcome.status, Status::Failed);
    assert_eq!(said(&outcome, "output_bytes"), 100_000);
    assert_eq!(bench.artifact(&said(&outcome, "output_artifact")), vec![b'x'; 100_000]);
    assert!(outcome.detail.unwrap().to_string().len() <= 66_000);
    let outcome = bench.run(case("x".into())).await;
    assert_eq!(said(&outcome, "message"), "expected 1 bytes, got 100000");
    let long = json!({"url": service.url("/bytes/200000"), "method": "GET", "match": "regex", "output": "y"});
    let outcome = bench.run(long).await;
    assert_eq!(outcome.status, Status::Error);
    assert_eq!(said(&outcome, "message"), "more than 150000 bytes are not compared");
}

#[tokio::test]
async fn endless_answers_end_with_the_room_for_them() {
    let bench = Bench::with(|settings| settings.artifact_bytes_max = 100_000);
    let service = Service::start().await;
    let url = service.url("/bytes/50000000");
    let outcome = bench.run(json!({"url": url, "method": "GET", "match": "none"})).await;
    assert_eq!(outcome.status, Status::Passed);
    assert!(said(&outcome, "output_bytes").as_u64().unwrap() < 2_000_000, "the rest was not read");
    assert_eq!(said(&outcome, "output_artifact_bytes"), 100_000);
}

#[tokio::test]
async fn a_call_ends_with_its_time_or_when_it_is_canceled() {
    let (bench, service) = (Bench::new(), Service::start().await);
    let case = json!({"url": service.url("/never"), "match": "none", "timeout_ms": 50});
    let short = Duration::from_millis(50);
    let outcome = bench.run_until(case, short, std::future::pending()).await;
    assert_eq!(outcome.status, Status::TimedOut);
    assert!(outcome.duration >= short && outcome.duration < LONG);
    assert_eq!(said(&outcome, "message"), "not done within 50 ms");
    let service = Service::start().await;
    let case = json!({"url": service.url("/never"), "match": "none"});
    let outcome = bench.run_until(case, LONG, service.called.notified()).await;
    assert_eq!((outcome.status, outcome.detail), (Status::Canceled, None));
    assert!(outcome.duration < LONG);
}

#[tokio::test]
async fn addresses_of_the_inside_are_refused_by_what_names_lead_to() {
    let bench = Bench::with(|settings| settings.targets.loopback = false);
    let service = Service::start().await;
    let port = service.address.port();
    for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]", "2130706433"] {
        let url = format!("http://{host}:{port}/echo");
        let outcome = bench.run(json!({"url": url, "match": "none"})).await;
        let message = said(&outcome, "message");
        let message = message.as_str().unwrap();
        assert_eq!(outcome.status, Status::Error, "{host}");
        assert!(message.starts_with("target refused: "), "{host}: {message}");
        assert!(message.ends_with(", a loopback address"), "{host}: {message}");
    }
    let url = "http://169.254.169.254/latest/meta-data/";
    let outcome = bench.run(json!({"url": url, "match": "none"})).await;
    let message = "target refused: 169.254.169.254 leads to 169.254.169.254, a link-local address";
    assert_eq!(said(&outcome, "message"), message);
    assert!(service.seen.lock().is_empty(), "nobody was called");
    let bench = Bench::with(|settings| {
        settings.targets.loopback = false;
        settings.targets.allowed = vec!["localhost".parse().unwrap()];
    });
    let url = format!("http://localhost:{port}/echo");
    let outcome = bench.run(json!({"url": url, "match": "none"})).await;
    assert_eq!(outcome.status, Status::Passed, "{outcome:?}");
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error_that_says_why() {
    let bench = Bench::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let table = [
        (
            json!({"url": format!("http://{address}/")}),
            format!("{address}: connect: connection refused"),
        ),
        (json!({"url": "http://{{gone}}/"}), "environment lab has no key gone".into()),
        (
            json!({"url": "http://a:b@127.0.0.1/"}),
            "url with a user in it: send the header authorization instead".into(),
        ),
        (
            json!({"url": "http://127.0.0.1/", "method": "CONNECT"}),
            "method \"CONNECT\" is not sent".into(),
        ),
        (
            json!({"url": "http://127.0.0.1/", "headers": {"Content-Length": "1"}}),
            "header \"Content-Length\" cannot be sent".into(),
        ),
    ];
    for (mut case, message) in table {
        case["match"] = json!("none");
        let outcome = bench.run(case).await;
        assert_eq!((outcome.status, said(&outcome, "message")), (Status::Error, json!(message)));
    }
    let nowhere = json!({"url": "http://no.such.host.invalid/", "match": "none"});
    let outcome = bench.run(nowhere).await;
    let message = said(&outcome, "message");
    assert!(message.as_str().unwrap().starts_with("look up no.such.host.invalid: "), "{message}");
    // What a value brings in counts as if it had been typed.
    let config = json!({"who": "a\r\nb: c"}).as_object().unwrap().clone();
    let environment = Environment { config, ..environment() };
    let case = super::parsed(
        json!({"url": "http://127.0.0.1/", "headers": {"a": "{{who}}"}, "match": "none"}),
    );
    let deadline = tokio::time::Instant::now() + LONG;
    let attempt = super::attempt(&case, Some(&environment), deadline);
    let outcome = bench.executor.run(attempt, std::future::pending()).await;
    assert_eq!(said(&outcome, "message"), "header \"a\" cannot be sent");
}

/// Answers each connection with these bytes, over TLS if there is any, and closes it.
async fn answering(bytes: &'static str, tls: Option<ServerTls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            match tls.clone() {
                None => {
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(bytes.as_bytes()).await;
                }
                Some(tls) => {
                    let Ok(mut accepted) = tls.accept(stream, None).await else { continue };
                    let _ = accepted.stream.read(&mut request).await;
                    let _ = accepted.stream.write_all(bytes.as_bytes()).await;
                    let _ = accepted.stream.shutdown().await;
                }
            }
        }
    });
    address
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_no_verdict() {
    let bench = Bench::new();
    let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", None).await;
    let outcome = bench.run(json!({"url": format!("http://{address}/"), "match": "none"})).await;
    assert_eq!((outcome.status, said(&outcome, "output")), (Status::Error, json!("abc")));
    assert!(said(&outcome, "message").as_str().unwrap().starts_with("read the answer: "));
    for bytes in ["", "220 smtp.example ESMTP\r\n"] {
        let address = answering(bytes, None).await;
        let case = json!({"url": format!("http://{address}/"), "match": "none"});
        assert_eq!(bench.run(case).await.status, Status::Error, "{bytes}");
    }
}

#[tokio::test]
async fn https_demands_a_certificate_that_is_trusted_for_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let made = self_signed(folder.path(), &["localhost"], 1).unwrap();
    let options = ServerOptions {
        cert_file: made.cert_file.clone(),
        key_file: made.key_file,
        trusted_ca_file: None,
        crl_file: None,
        demands_certificate: false,
        allowed: Allowed::default(),
        checks_origin: false,
        suites: Suites::default(),
    };
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let address = answering(answer, Some(ServerTls::open(options).unwrap())).await;
    let options = DialOptions { ca_file: Some(made.cert_file), ..DialOptions::default() };
    let bench = Bench::dialling(Dialer::new(options).unwrap(), |_| {});
    let port = address.port();
    let case = |host: &str| json!({"url": format!("https://{host}:{port}/"), "output": "ok"});
    let outcome = bench.run(case("localhost")).await;
    assert_eq!(outcome.status, Status::Passed, "{outcome:?}");
    let outcome = bench.run(case("127.0.0.1")).await;
    assert_eq!(outcome.status, Status::Error, "not a name of the certificate");
    let other = tempfile::tempdir().unwrap();
    let other = self_signed(other.path(), &["localhost"], 1).unwrap();
    let options = DialOptions { ca_file: Some(other.cert_file), ..DialOptions::default() };
    let bench = Bench::dialling(Dialer::new(options).unwrap(), |_| {});
    let outcome = bench.run(case("localhost")).await;
    let message = said(&outcome, "message");
    assert!(message.as_str().unwrap().contains("x509: "), "{message}");
}
