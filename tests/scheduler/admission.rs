//! Who may speak to the services: certificates, tokens, addresses that are taken, and the end.

use crate::cluster::{Authority, Cluster, Engine, Exit, Folder};
use crate::http::Caller;
use crate::on_each_engine;
use crate::team::Team;
use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use quoin::tls::{DialOptions, Dialer};
use serde_json::{Value, json};
use tokio::net::TcpStream;

on_each_engine![
    services_behind_tls_answer_those_who_have_the_token,
    what_cannot_be_offered_ends_the_process_with_a_word,
    a_stop_ends_what_is_followed,
];

const TOKEN: &str = "0123456789abcdef-token";

/// One call over TLS.
async fn call(dialer: &Dialer, url: &str, token: Option<&str>) -> (u16, Value) {
    let address = url.strip_prefix("https://").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = dialer.secure(stream, "127.0.0.1").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::builder().uri("/v1/testcases").header("host", address);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = sender.send_request(request.body(Body::empty()).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap())
}

async fn services_behind_tls_answer_those_who_have_the_token(engine: Engine) {
    let folder = Folder::new();
    let authority = Authority::new(folder.path(), "lab");
    let own = authority.issue("services", "services", &["127.0.0.1"]);
    let token = folder.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let words = [
        "--scheduler-listen-url",
        "https://127.0.0.1:0",
        "--scheduler-cert-file",
        own.cert.to_str().unwrap(),
        "--scheduler-key-file",
        own.key.to_str().unwrap(),
        "--scheduler-token-file",
        token.to_str().unwrap(),
    ];
    team.start_scheduler_with(&words).says("leading the scheduler").await.unwrap();
    let url = team.service_url(0).await;
    let options = DialOptions { ca_file: Some(authority.path()), ..DialOptions::default() };
    let dialer = Dialer::new(options).unwrap();
    let (status, found) = call(&dialer, &url, Some(TOKEN)).await;
    assert_eq!((status, &found["items"]), (200, &json!([])));
    for wrong in [None, Some("0123456789abcdef-tokem")] {
        let (status, found) = call(&dialer, &url, wrong).await;
        assert_eq!(status, 401);
        assert_eq!(found["error"]["message"], "this scheduler answers those who have its token");
    }
    let other = Authority::new(folder.path(), "other");
    let options = DialOptions { ca_file: Some(other.path()), ..DialOptions::default() };
    let stream = TcpStream::connect(url.strip_prefix("https://").unwrap()).await.unwrap();
    let refused = Dialer::new(options).unwrap().secure(stream, "127.0.0.1").await;
    assert!(refused.is_err(), "a stranger's certificate is not taken");
}

async fn what_cannot_be_offered_ends_the_process_with_a_word(engine: Engine) {
    let folder = Folder::new();
    let short = folder.path().join("short");
    std::fs::write(&short, "secret").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("http://{}", taken.local_addr().unwrap());
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let url = "--scheduler-listen-url";
    for (words, text) in [
        (vec![url, "https://127.0.0.1:0"], "needs a certificate and its key"),
        (vec![url, "ftp://127.0.0.1:0"], "is neither http nor https"),
        (vec![url, "127.0.0.1:0"], "relative URL without a base"),
        (vec![url, &taken], "Address already in use"),
        (vec!["--scheduler-cert-file", "x"], "belong together"),
        (vec!["--scheduler-token-file", "/nonexistent/token"], "No such file or directory"),
        (vec!["--scheduler-token-file", short.to_str().unwrap()], "at least 16 characters"),
    ] {
        let process = team.start_scheduler_with(&words);
        assert_eq!(process.end().await, Exit::Code(2), "{words:?}");
        assert!(process.output().contains(text), "{words:?}: {}", process.output());
    }
}

async fn a_stop_ends_what_is_followed(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    let case = json!({"id": "one", "url": "http://127.0.0.1:1/", "output": "ok"});
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
    let made = caller.call("POST", "/v1/runs", json!({"cases": [{"case": "one"}]})).await;
    let path = format!("/v1/runs/{}/events", made.body["run"].as_str().unwrap());
    let followed = caller.send("GET", &path, &[], "").await;
    let mut events = followed.into_body();
    assert!(events.frame().await.unwrap().is_ok(), "the first event comes at once");
    team.schedulers[0].ask_to_stop();
    // The stream ends as streams end; it is not cut off.
    while let Some(frame) = events.frame().await {
        assert!(frame.is_ok(), "{frame:?}");
    }
    assert_eq!(team.schedulers[0].end().await, Exit::Code(0));
}
