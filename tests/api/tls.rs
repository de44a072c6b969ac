//! TLS on the listeners for clients, for HTTP and for probes: what is demanded, what is refused and
//! in which words, and what a client can choose.

use crate::cluster::{
    Authority, Certificate, Cluster, Engine, Exit, Process, Setup, eventually, product,
};
use crate::on_each_engine;
use quoin::pb::etcdserverpb::auth_client::AuthClient;
use quoin::pb::etcdserverpb::kv_client::KvClient;
use quoin::pb::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest, PutRequest, RangeRequest,
};
use quoin::tls::{DialOptions, Dialer};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

on_each_engine![
    a_port_speaks_tls_and_plain_text_if_both_are_listed,
    clients_choose_their_protocol,
    an_authority_alone_demands_certificates,
    a_revoked_certificate_is_refused_from_then_on,
    only_allowed_names_are_served,
    probes_come_from_where_their_certificate_says,
    a_new_certificate_is_shown_without_a_restart,
    clients_that_never_finish_hold_nobody_up,
    a_member_makes_its_own_certificate_once,
    the_common_name_is_the_user,
    etcdctl_speaks_tls,
    a_backup_is_saved_over_tls,
    http_has_a_port_of_its_own,
    what_is_wrong_with_files_is_said,
];

const REJECTED: &str = "rejected connection on client endpoint";

/// One member with a certificate for its address, and what the flags add.
struct Secured {
    cluster: Cluster,
    authority: Authority,
    /// Host and port.
    address: String,
}

impl Secured {
    /// Prepares without starting; `flags` may name files of the authority.
    async fn prepare(
        engine: Engine,
        flags: impl FnOnce(&Authority, &Path) -> Vec<String>,
    ) -> Secured {
        let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
        let authority = Authority::new(cluster.folder(), "ca");
        let server = authority.issue("server", "", &["127.0.0.1", "localhost"]);
        let address = cluster.members[0].endpoint.replace("http://", "");
        let more = flags(&authority, cluster.folder());
        let own = &mut cluster.members[0].flags;
        own.push(format!("--listen-client-urls=https://{address}"));
        own.push(format!("--advertise-client-urls=https://{address}"));
        own.extend(files("", &server));
        own.extend(more);
        Secured { cluster, authority, address }
    }

    async fn start(
        engine: Engine,
        flags: impl FnOnce(&Authority, &Path) -> Vec<String>,
    ) -> Secured {
        let mut secured = Secured::prepare(engine, flags).await;
        secured.cluster.start_all().await.expect("a member with TLS");
        secured
    }

    fn channel(&self, shown: Option<&Certificate>) -> Channel {
        channel(&format!("https://{}", self.address), &self.authority, shown)
    }

    /// Waits for a refusal in the member's log.
    async fn says(&mut self, text: &str) {
        self.cluster.members[0].process().says(text).await.expect("a line in the log");
    }
}

pub fn files(prefix: &str, certificate: &Certificate) -> Vec<String> {
    vec![
        format!("--{prefix}cert-file={}", certificate.cert.display()),
        format!("--{prefix}key-file={}", certificate.key.display()),
    ]
}

fn trusted(authority: &Authority) -> String {
    format!("--trusted-ca-file={}", authority.path().display())
}

/// A channel that trusts an authority and shows a certificate.
pub fn channel(url: &str, authority: &Authority, shown: Option<&Certificate>) -> Channel {
    let options = DialOptions {
        ca_file: Some(authority.path()),
        cert_file: shown.map(|shown| shown.cert.clone()),
        key_file: shown.map(|shown| shown.key.clone()),
        ..DialOptions::default()
    };
    let dialer = Dialer::new(options).unwrap();
    let timeout = Duration::from_secs(15);
    dialer.lazy(url, |endpoint| endpoint.timeout(timeout).connect_timeout(timeout)).unwrap()
}

pub async fn put(channel: Channel, key: &'static str) -> Result<(), Status> {
    let request = PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() };
    KvClient::new(channel).put(request).await.map(drop)
}

/// The call failed with its connection, before any server could answer.
pub fn is_refused(result: &Result<(), Status>) -> bool {
    result.as_ref().is_err_and(|status| {
        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
            && status.source_is_there()
    })
}

trait Sourced {
    fn source_is_there(&self) -> bool;
}

impl Sourced for Status {
    fn source_is_there(&self) -> bool {
        std::error::Error::source(self).is_some()
    }
}

/// A handshake of our own making; the certificate that the server has shown, and a socket.
async fn shake(
    address: &str,
    authority: &Authority,
    shown: Option<&Certificate>,
    protocols: &[&str],
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path()).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&shown.cert).unwrap()],
                PrivateKeyDer::from_pem_file(&shown.key).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A request by HTTP/1.1: status and body.
async fn request(
    address: &str,
    authority: &Authority,
    shown: Option<&Certificate>,
    request: &str,
) -> io::Result<String> {
    let mut stream = shake(address, authority, shown, &["http/1.1"]).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    // A server that closes without a last word has answered all the same.
    match stream.read_to_string(&mut answer).await {
        Err(_) if !answer.is_empty() => Ok(answer),
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        ended => ended.map(|_| answer),
    }
}

const GET_HEALTH: &str = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn a_port_speaks_tls_and_plain_text_if_both_are_listed(engine: Engine) {
    let mut secured = Secured::prepare(engine, |_, _| vec![]).await;
    let (plain, tls) =
        (format!("http://{}", secured.address), format!("https://{}", secured.address));
    let listen = format!("--listen-client-urls={plain},{tls}");
    secured.cluster.members[0].flags.push(listen);
    secured.cluster.start_all().await.expect("both on one port");
    secured.says(r#""serving client traffic securely""#.trim_matches('"')).await;
    secured.says("serving client traffic insecurely; this is strongly discouraged!").await;
    put(secured.channel(None), "over-tls").await.expect("TLS");
    let mut client = secured.cluster.client().await;
    let found = client.get("over-tls", None).await.expect("plain text");
    assert_eq!(found.count(), 1);
    assert_eq!(secured.cluster.members[0].output().matches("ready to serve").count(), 1);
}

async fn clients_choose_their_protocol(engine: Engine) {
    let mut secured = Secured::start(engine, |_, _| vec![]).await;
    let (address, authority) = (secured.address.clone(), &secured.authority);
    for (offered, agreed) in [
        (&["h2"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["h2", "http/1.1"], Some("h2")),
        (&[], None),
    ] {
        let stream = shake(&address, authority, None, offered).await.expect("a handshake");
        let found = stream
            .get_ref()
            .1
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        // etcd agrees to nothing where it could agree to the older one.
        if product().ours || agreed == Some("h2") {
            assert_eq!(found.as_deref(), agreed, "{offered:?}");
        }
    }
    // Without agreement, both are understood.
    let mut stream = shake(&address, authority, None, &[]).await.unwrap();
    stream.write_all(GET_HEALTH.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&answer));
    put(secured.channel(None), "a").await.expect("gRPC");
    // A client that speaks no TLS here is told nothing, and the log tells why.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    secured.says(REJECTED).await;
    secured.says("first record does not look like a TLS handshake").await;
    secured.says("serving client traffic securely").await;
    assert!(!secured.cluster.members[0].output().contains("insecurely"));
}

async fn an_authority_alone_demands_certificates(engine: Engine) {
    let mut secured = Secured::start(engine, |authority, _| vec![trusted(authority)]).await;
    let known = secured.authority.issue("known", "somebody", &[]);
    put(secured.channel(Some(&known)), "a").await.expect("a known client");
    assert!(is_refused(&put(secured.channel(None), "b").await), "no certificate");
    secured.says("tls: client didn't provide a certificate").await;
    secured.says(REJECTED).await;
    // Signed by an authority of the same name.
    std::fs::create_dir(secured.cluster.folder().join("other")).unwrap();
    let other = Authority::new(&secured.cluster.folder().join("other"), "ca");
    let foreign = other.issue("foreign", "somebody", &[]);
    assert!(is_refused(&put(secured.channel(Some(&foreign)), "c").await), "a foreign certificate");
    secured.says("tls: failed to verify certificate: x509: certificate signed by unknown").await;
    let mut kv = KvClient::new(secured.channel(Some(&known)));
    let all = RangeRequest { key: "a".into(), range_end: "z".into(), ..RangeRequest::default() };
    assert_eq!(kv.range(all).await.expect("a range").into_inner().count, 1);
}

async fn a_revoked_certificate_is_refused_from_then_on(engine: Engine) {
    let mut list = None;
    let mut secured = Secured::start(engine, |authority, _| {
        let path = authority.revoke(&[]);
        list = Some(path.clone());
        vec![trusted(authority), format!("--client-crl-file={}", path.display())]
    })
    .await;
    let [good, bad] = ["good", "bad"].map(|name| secured.authority.issue(name, name, &[]));
    put(secured.channel(Some(&bad)), "a").await.expect("not revoked yet");
    secured.authority.revoke(&[&bad]);
    let refused = put(secured.channel(Some(&bad)), "b").await;
    assert!(is_refused(&refused), "{refused:?}");
    secured.says("transport: certificate serial 55").await;
    put(secured.channel(Some(&good)), "c").await.expect("another certificate");
    // Without the list nobody can tell who is revoked.
    std::fs::remove_file(list.unwrap()).unwrap();
    let refused = put(secured.channel(Some(&good)), "d").await;
    assert!(is_refused(&refused), "{refused:?}");
    secured.authority.revoke(&[]);
    put(secured.channel(Some(&bad)), "e").await.expect("taken back");
}

async fn only_allowed_names_are_served(engine: Engine) {
    let mut secured = Secured::start(engine, |authority, _| {
        vec![trusted(authority), "--client-cert-allowed-hostname=a.example,b.example".to_owned()]
    })
    .await;
    let right = secured.authority.issue("right", "", &["x.example", "B.example"]);
    let wrong = secured.authority.issue("wrong", "a.example", &["c.example"]);
    put(secured.channel(Some(&right)), "a").await.expect("an allowed name");
    let refused = put(secured.channel(Some(&wrong)), "b").await;
    assert!(is_refused(&refused), "{refused:?}");
    secured.says("client certificate authentication failed").await;
    // The client is told as by etcd.
    let mut stream = shake(&secured.address, &secured.authority, Some(&wrong), &["h2"])
        .await
        .expect("a handshake, as far as a client can tell");
    let error = stream.read(&mut [0]).await.expect_err("an alert");
    assert_eq!(quoin::tls::reason(&error), "remote error: tls: bad certificate");
}

async fn probes_come_from_where_their_certificate_says(engine: Engine) {
    let mut secured = Secured::prepare(engine, |authority, _| vec![trusted(authority)]).await;
    let address = crate::cluster::Ports::reserve().take();
    let address = format!("127.0.0.1:{address}");
    secured.cluster.members[0].flags.push(format!("--listen-metrics-urls=https://{address}"));
    secured.cluster.start_all().await.expect("a member with TLS for probes");
    let authority = &secured.authority;
    let here = authority.issue("here", "", &["127.0.0.1"]);
    let there = authority.issue("there", "", &["10.9.9.9"]);
    let named = authority.issue("named", "", &["nobody.invalid"]);
    let answer = request(&address, authority, Some(&here), GET_HEALTH).await.expect("a probe");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let refused = request(&address, authority, Some(&there), GET_HEALTH).await;
    assert!(refused.is_err(), "{refused:?}");
    let refused = request(&address, authority, Some(&named), GET_HEALTH).await;
    assert!(refused.is_err(), "{refused:?}");
    // As in etcd, calls may come from anywhere.
    put(secured.channel(Some(&there)), "a").await.expect("a call from elsewhere");
    secured.says("x509: certificate is valid for 10.9.9.9, not 127.0.0.1").await;
    secured.says(r#""ip-addresses":["10.9.9.9"]"#).await;
    secured.says(r#"tls: \"127.0.0.1\" does not match any of DNSNames [\"nobody.invalid\"]"#).await;
}

async fn a_new_certificate_is_shown_without_a_restart(engine: Engine) {
    let mut secured = Secured::start(engine, |_, _| vec![]).await;
    let shown = async |secured: &Secured| {
        let stream = shake(&secured.address, &secured.authority, None, &["h2"]).await;
        stream.map(|stream| stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    };
    let file = |secured: &Secured| {
        CertificateDer::from_pem_file(secured.cluster.folder().join("server.pem")).unwrap().to_vec()
    };
    let first = shown(&secured).await.unwrap();
    assert_eq!(first, file(&secured));
    let open = secured.channel(None);
    put(open.clone(), "a").await.expect("the first certificate");
    secured.authority.issue("server", "", &["127.0.0.1"]);
    let second = shown(&secured).await.unwrap();
    assert_eq!(second, file(&secured));
    assert_ne!(second, first);
    put(open, "b").await.expect("a connection that was there before");
    // A key that does not belong to it.
    let other = secured.authority.issue("other", "", &["127.0.0.1"]);
    let key = secured.cluster.folder().join("server.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::copy(&other.key, &key).unwrap();
    assert!(shown(&secured).await.is_err(), "there is nothing to show");
    secured.says("failed to create peer certificate").await;
    secured.says("private key does not match public key").await;
    std::fs::write(&key, right).unwrap();
    assert_eq!(shown(&secured).await.unwrap(), second);
}

async fn clients_that_never_finish_hold_nobody_up(engine: Engine) {
    let secured = Secured::start(engine, |_, _| vec![]).await;
    let mut idle = vec![];
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&secured.address).await.unwrap();
        // The beginning of a record that never comes.
        stream.write_all(&[22, 3, 1, 1, 0]).await.unwrap();
        idle.push(stream);
    }
    put(secured.channel(None), "a").await.expect("a client among idle ones");
    // Each of them is closed when its time is over.
    let mut last = idle.pop().unwrap();
    let mut rest = vec![];
    let closed = tokio::time::timeout(Duration::from_secs(30), last.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "still open after thirty seconds");
}

async fn a_member_makes_its_own_certificate_once(engine: Engine) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let address = cluster.members[0].endpoint.replace("http://", "");
    let own = &mut cluster.members[0].flags;
    own.push(format!("--listen-client-urls=https://{address}"));
    own.push(format!("--advertise-client-urls=https://{address}"));
    own.push("--auto-tls".to_owned());
    cluster.start_all().await.expect("a member with its own certificate");
    let made = cluster.data_folder(0).join("fixtures/client");
    let first = std::fs::read(made.join("cert.pem")).unwrap();
    let options = DialOptions { ca_file: Some(made.join("cert.pem")), ..DialOptions::default() };
    let dialer = Dialer::new(options).unwrap();
    let dial = || dialer.lazy(&format!("https://{address}"), |endpoint| endpoint).unwrap();
    put(dial(), "a").await.expect("a client that trusts just this certificate");
    assert_eq!(cluster.terminate(0).await.0, Exit::Signal(15));
    cluster.restart(0).await;
    assert_eq!(std::fs::read(made.join("cert.pem")).unwrap(), first);
    put(dial(), "b").await.expect("the same certificate");
    // Nobody trusts it unasked.
    let url = format!("https://{address}");
    let refused = Dialer::default().lazy(&url, |endpoint| endpoint);
    if let Ok(channel) = refused {
        assert!(put(channel, "c").await.is_err());
    }
}

async fn the_common_name_is_the_user(engine: Engine) {
    let secured = Secured::start(engine, |authority, _| {
        vec![trusted(authority), "--client-cert-auth".to_owned()]
    })
    .await;
    let names = ["root", "reader", "nobody", ""];
    let [root, reader, nobody, unnamed] =
        names.map(|name| secured.authority.issue(&format!("client-{name}"), name, &[]));
    let channel = |shown: &Certificate| secured.channel(Some(shown));
    let mut auth = AuthClient::new(channel(&root));
    for name in ["root", "reader"] {
        let user = AuthUserAddRequest {
            name: name.to_owned(),
            password: "secret".to_owned(),
            ..AuthUserAddRequest::default()
        };
        auth.user_add(user).await.unwrap();
        auth.role_add(AuthRoleAddRequest { name: name.to_owned() }).await.unwrap();
        let grant = AuthUserGrantRoleRequest { user: name.to_owned(), role: name.to_owned() };
        auth.user_grant_role(grant).await.unwrap();
    }
    let read = quoin::pb::authpb::Permission {
        perm_type: quoin::pb::authpb::permission::Type::Read as i32,
        key: "a".into(),
        range_end: "b".into(),
    };
    let grant = AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: Some(read) };
    auth.role_grant_permission(grant).await.unwrap();
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();

    put(channel(&root), "a").await.expect("root may write");
    let refused = |result: Result<(), Status>, code, text: &str| {
        let status = result.expect_err(text);
        assert_eq!((status.code(), status.message()), (code, text));
    };
    let denied = "etcdserver: permission denied";
    refused(put(channel(&reader), "a").await, Code::PermissionDenied, denied);
    refused(put(channel(&nobody), "a").await, Code::PermissionDenied, denied);
    let empty = "etcdserver: user name is empty";
    refused(put(channel(&unnamed), "a").await, Code::InvalidArgument, empty);
    let range = RangeRequest { key: "a".into(), ..RangeRequest::default() };
    let found = KvClient::new(channel(&reader)).range(range.clone()).await.expect("its range");
    assert_eq!(found.into_inner().count, 1);
    let mut operators =
        quoin::pb::etcdserverpb::maintenance_client::MaintenanceClient::new(channel(&reader));
    let defragment = quoin::pb::etcdserverpb::DefragmentRequest {};
    refused(operators.defragment(defragment).await.map(drop), Code::PermissionDenied, denied);

    // A token goes before the certificate, also one that is no good.
    let login = AuthenticateRequest { name: "root".to_owned(), password: "secret".to_owned() };
    let token = AuthClient::new(channel(&reader)).authenticate(login).await.unwrap();
    let put_with = async |token: &str| {
        let put = PutRequest { key: "a".into(), value: "w".into(), ..PutRequest::default() };
        let mut request = Request::new(put);
        request.metadata_mut().insert("token", token.parse().unwrap());
        KvClient::new(channel(&reader)).put(request).await.map(drop)
    };
    put_with(&token.into_inner().token).await.expect("root's token");
    let invalid = "etcdserver: invalid auth token";
    refused(put_with("nonsense.1").await, Code::Unauthenticated, invalid);

    // As JSON, no certificate names anybody, and who may expect that is told.
    let call = "POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\
                Connection: close\r\n\r\n{\"key\":\"YQ==\"}";
    let (address, authority) = (&secured.address, &secured.authority);
    let answer = request(address, authority, Some(&root), call).await.unwrap();
    let ignored = "CommonName of client sending a request against gateway will be ignored and not \
                   used as expected";
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(ignored), "{answer}");
    let answer = request(address, authority, Some(&unnamed), call).await.unwrap();
    assert!(answer.contains(empty), "{answer}");
}

async fn etcdctl_speaks_tls(engine: Engine) {
    let secured = Secured::start(engine, |authority, _| vec![trusted(authority)]).await;
    let client = secured.authority.issue("client", "", &[]);
    let run = |flags: &[String], command: &[&str]| {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=https://{}", secured.address))
            .arg("--command-timeout=3s")
            .args(flags)
            .args(command)
            .output()
            .expect("etcdctl, which `make deps` installs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let flags = [
        format!("--cacert={}", secured.authority.path().display()),
        format!("--cert={}", client.cert.display()),
        format!("--key={}", client.key.display()),
    ];
    for command in [&["put", "a", "b"][..], &["get", "a"], &["endpoint", "health"]] {
        let (done, text) = run(&flags, command);
        assert!(done, "{command:?}: {text}");
    }
    assert!(!run(&flags[..1], &["get", "a"]).0, "without a certificate");
    assert!(!run(&flags[1..], &["get", "a"]).0, "without trust");
}

async fn a_backup_is_saved_over_tls(engine: Engine) {
    let secured = Secured::start(engine, |authority, _| vec![trusted(authority)]).await;
    let client = secured.authority.issue("client", "", &[]);
    put(secured.channel(Some(&client)), "a").await.unwrap();
    let file = secured.cluster.folder().join("backup.db");
    let save = async |more: &[String]| {
        let mut command: Vec<OsString> = vec![env!("CARGO_BIN_EXE_quoin").into()];
        command.extend(["snapshot", "save"].map(OsString::from));
        command.push(file.clone().into());
        command.push(format!("--endpoints={}", secured.address).into());
        command.extend(more.iter().map(OsString::from));
        let log = secured.cluster.folder().join("save.log");
        let mut process = Process::start(&command, &[], &log);
        (process.end().await, process.output())
    };
    let shown =
        [format!("--cert={}", client.cert.display()), format!("--key={}", client.key.display())];
    let (exit, said) = save(&shown).await;
    assert_eq!(exit, Exit::Code(1), "an unknown authority: {said}");
    assert!(said.contains("tls:") || said.contains("authority"), "{said}");
    let trust = format!("--cacert={}", secured.authority.path().display());
    let (exit, said) = save(&[&shown[..], &[trust]].concat()).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    let (exit, said) =
        save(&[&shown[..], &["--insecure-skip-tls-verify".to_owned()]].concat()).await;
    assert_eq!(exit, Exit::Code(0), "{said}");
    assert!(file.metadata().unwrap().len() > 0);
}

async fn http_has_a_port_of_its_own(engine: Engine) {
    let mut secured = Secured::prepare(engine, |_, _| vec![]).await;
    let address = format!("127.0.0.1:{}", crate::cluster::Ports::reserve().take());
    let listen = format!("--listen-client-http-urls=https://{address}");
    secured.cluster.members[0].flags.push(listen);
    secured.cluster.start_all().await.expect("a member with TLS for HTTP");
    let answer = request(&address, &secured.authority, None, GET_HEALTH).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    put(secured.channel(None), "a").await.expect("gRPC on the other port");
    secured.says(r#""traffic":"http""#).await;
}

async fn what_is_wrong_with_files_is_said(engine: Engine) {
    let secured = Secured::prepare(engine, |_, _| vec![]).await;
    let folder = secured.cluster.folder();
    let foreign = secured.authority.issue("foreign", "", &["127.0.0.1"]);
    std::fs::write(folder.join("text.pem"), "no certificate").unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    let table: [(Vec<String>, &str); 9] = [
        (
            vec!["--cert-file=".to_owned(), "--key-file=".to_owned()],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://",
        ),
        (
            vec!["--key-file=".to_owned()],
            "KeyFile and CertFile must both be present[key: , cert: /",
        ),
        (vec![format!("--cert-file={}", at("absent"))], "absent: no such file or directory"),
        (
            vec![format!("--key-file={}", foreign.key.display())],
            "private key does not match public key",
        ),
        (vec![format!("--trusted-ca-file={}", at("absent"))], "absent: no such file or directory"),
        (
            vec!["--cipher-suites=TLS_NONSENSE".to_owned()],
            r#"unexpected TLS cipher suite \"TLS_NONSENSE\""#,
        ),
        (
            vec!["--tls-min-version=TLS1.3".to_owned(), "--tls-max-version=TLS1.2".to_owned()],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            vec![
                "--listen-client-urls=http://127.0.0.1:1".to_owned(),
                "--cert-file=".to_owned(),
                "--key-file=".to_owned(),
                "--listen-metrics-urls=https://127.0.0.1:2".to_owned(),
            ],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url",
        ),
        (
            vec!["--listen-peer-urls=https://127.0.0.1:2".to_owned()],
            "KeyFile and CertFile are not presented",
        ),
    ];
    for (flags, text) in table {
        let mut command: Vec<OsString> = vec![product().binary.clone().into()];
        command.extend(secured.cluster.members[0].flags.iter().chain(&flags).map(OsString::from));
        let mut process = Process::start(&command, &[], &folder.join("attempt.log"));
        let exit = process.end().await;
        let said = process.output();
        assert!(exit == Exit::Code(1) && said.contains(text), "{flags:?}: {exit:?} {said}");
    }
}

/// The same call again until the member takes it: it may be about to elect a leader.
pub async fn put_soon(channel: &Channel, key: &'static str) {
    eventually("a write", async || {
        put(channel.clone(), key).await.map_err(|status| status.to_string())
    })
    .await;
}
