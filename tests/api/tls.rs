//! TLS on the listeners for clients, for HTTP and for probes: what is demanded, what is refused and
//! in which words, and what a client can choose.

use crate::cluster::{
    Authority, Certificate, Cluster, Engine, Exit, Process, Setup, eventually, product,
};
use crate::on_each_engine;
use crate::tls_members::secure_peers;
use quoin::pb::etcdserverpb::auth_client::AuthClient;
use quoin::pb::etcdserverpb::kv_client::KvClient;
use quoin::pb::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthUserListRequest, AuthenticateRequest, PutRequest, RangeRequest,
};
use quoin::tls::{DialOptions, Dialer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

on_each_engine![
    a_port_speaks_tls_and_plain_text_if_both_are_listed,
    clients_choose_their_protocol,
    an_authority_alone_demands_certificates,
    a_revoked_certificate_is_refused_from_then_on,
    nobody_is_known_without_a_list_of_the_revoked,
    files_that_no_listener_needs_are_not_read,
    only_allowed_names_are_served,
    probes_come_from_where_their_certificate_says,
    a_new_certificate_is_shown_without_a_restart,
    clients_that_never_finish_hold_nobody_up,
    whoever_speaks_gets_past_any_number_who_do_not,
    a_member_makes_its_own_certificate_once,
    the_common_name_is_the_user,
    etcdctl_speaks_tls,
    a_backup_is_saved_over_tls,
    http_has_a_port_of_its_own,
    what_is_wrong_with_files_is_said,
    only_chosen_versions_are_spoken,
    only_chosen_suites_are_spoken,
    a_socket_in_the_file_system_speaks_tls,
    only_common_names_of_the_file_are_served,
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
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    shake_with(stream, authority, shown, protocols, &[&TLS13, &TLS12], None).await
}

/// The same with chosen versions of the protocol, and one suite of TLS 1.2 or all of them.
async fn shake_with<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    authority: &Authority,
    shown: Option<&Certificate>,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
    suite: Option<CipherSuite>,
) -> io::Result<TlsStream<S>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.path()).unwrap()).unwrap();
    let mut provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
    if let Some(suite) = suite {
        provider.cipher_suites.retain(|one| one.version() == &TLS13 || one.suite() == suite);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
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
    ask(shake(address, authority, shown, &["http/1.1"]).await?, request).await
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: TlsStream<S>,
    request: &str,
) -> io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    // A server that closes without a last word has answered all the same.
    match stream.read_to_string(&mut answer).await {
        Err(_) if !answer.is_empty() => Ok(answer),
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        ended => ended.map(|_| answer),
    }
}

const GET_VERSION: &str = "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
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

async fn nobody_is_known_without_a_list_of_the_revoked(engine: Engine) {
    let mut list = None;
    let mut secured = Secured::start(engine, |authority, folder| {
        let path = folder.join("missing.crl");
        list = Some(path.clone());
        vec![trusted(authority), format!("--client-crl-file={}", path.display())]
    })
    .await;
    let list = list.unwrap();
    let shown = secured.authority.issue("somebody", "somebody", &[]);
    let refused = put(secured.channel(Some(&shown)), "a").await;
    assert!(is_refused(&refused), "{refused:?}");
    secured.says("missing.crl: no such file or directory").await;
    std::fs::write(&list, "no list").unwrap();
    let refused = put(secured.channel(Some(&shown)), "b").await;
    assert!(is_refused(&refused), "{refused:?}");
    std::fs::copy(secured.authority.revoke(&[]), &list).unwrap();
    put(secured.channel(Some(&shown)), "c").await.expect("there is a list now");
}

async fn files_that_no_listener_needs_are_not_read(engine: Engine) {
    let setup = Setup::new(engine, 1).flag("--cert-file=/nowhere").flag("--key-file=/nowhere");
    let mut cluster = setup.start().await;
    cluster.client().await.put("key", "value", None).await.expect("a served client");
    cluster.members[0].process().says("ignoring key and cert files").await.unwrap();
    let of_peers =
        Setup::new(engine, 1).flag("--peer-cert-file=/nowhere").flag("--peer-key-file=/nowhere");
    let mut cluster = Cluster::prepare(&of_peers).await;
    cluster.start_all().await.expect_err("a member needs its files for members");
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
    // Where etcd only hangs up.
    if product().ours {
        secured.says("failed to create peer certificate").await;
        secured.says("private key does not match public key").await;
    }
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

/// More sockets than a listener waits for, of whose owners nothing is heard.
struct Silent {
    address: String,
    sockets: VecDeque<TcpStream>,
}

impl Silent {
    async fn fill(address: &str) -> Silent {
        let mut silent = Silent { address: address.to_owned(), sockets: VecDeque::new() };
        for _ in 0..1100 {
            silent.add().await;
        }
        silent
    }

    async fn add(&mut self) {
        self.sockets.push_back(TcpStream::connect(&self.address).await.unwrap());
    }

    /// Waits until the oldest is closed, and opens another for it; again and again.
    async fn renew(mut self) {
        while let Some(mut oldest) = self.sockets.pop_front() {
            // It may as well be reset.
            let _closed = oldest.read_to_end(&mut vec![]).await;
            self.add().await;
        }
    }
}

async fn whoever_speaks_gets_past_any_number_who_do_not(engine: Engine) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let mut secured = Secured::prepare(engine, |_, _| vec![]).await;
    let peer = secured.authority.issue("peer", "", &["127.0.0.1"]);
    let member = &mut secured.cluster.members[0];
    secure_peers(&mut member.flags);
    member.flags.extend(files("peer-", &peer));
    let peers = member.flags.iter().find_map(|flag| flag.strip_prefix("--listen-peer-urls="));
    let peers = peers.unwrap().replace("https://", "");
    secured.cluster.start_all().await.expect("a member with TLS on both ports");
    for address in [&secured.address, &peers] {
        let renewing = tokio::spawn(Silent::fill(address).await.renew());
        for _ in 0..20 {
            let asked = request(address, &secured.authority, None, GET_VERSION);
            let answer = tokio::time::timeout(Duration::from_secs(5), asked).await;
            let answer = answer.expect("in time").expect("an answer");
            assert!(answer.contains("200 OK"), "{answer}");
        }
        assert!(!renewing.is_finished(), "others came all the time");
        renewing.abort();
    }
    put(secured.channel(None), "a").await.expect("a client");
    secured.says("too many handshakes are under way").await;
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
    // Somebody of whom nobody knows who it is: no more than any user may do.
    refused(put(channel(&unnamed), "a").await, Code::PermissionDenied, denied);
    let mut cluster =
        quoin::pb::etcdserverpb::cluster_client::ClusterClient::new(channel(&unnamed));
    let list = quoin::pb::etcdserverpb::MemberListRequest::default();
    assert_eq!(cluster.member_list(list).await.expect("a list").into_inner().members.len(), 1);
    let listed = AuthClient::new(channel(&unnamed)).user_list(AuthUserListRequest {}).await;
    refused(listed.map(drop), Code::InvalidArgument, empty);
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
    assert_eq!(exit, Exit::Code(5), "an unknown authority: {said}");
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
    let table: [(Vec<String>, &str); 11] = [
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
            vec![format!("--client-cert-file={}", foreign.cert.display())],
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: /",
        ),
        (
            vec![
                format!("--client-cert-file={}", at("server.pem")),
                format!("--client-key-file={}", foreign.key.display()),
            ],
            "private key does not match public key",
        ),
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

/// What both sides agree upon, or the reason why they do not, in Go's words.
async fn agreed(
    secured: &Secured,
    versions: &[&'static SupportedProtocolVersion],
    suite: Option<CipherSuite>,
) -> Result<(ProtocolVersion, CipherSuite), String> {
    let stream = TcpStream::connect(&secured.address).await.unwrap();
    let shaken = shake_with(stream, &secured.authority, None, &["h2"], versions, suite).await;
    let stream = shaken.map_err(|error| quoin::tls::reason(&error))?;
    let connection = stream.get_ref().1;
    let suite = connection.negotiated_cipher_suite().expect("a suite").suite();
    Ok((connection.protocol_version().expect("a version"), suite))
}

const UNSUPPORTED: &str = "remote error: tls: protocol version not supported";

async fn only_chosen_versions_are_spoken(engine: Engine) {
    let version =
        |agreed: Result<(ProtocolVersion, CipherSuite), String>| agreed.map(|(version, _)| version);
    let [old, new] = [ProtocolVersion::TLSv1_2, ProtocolVersion::TLSv1_3];
    let secured = Secured::start(engine, |_, _| vec![]).await;
    assert_eq!(version(agreed(&secured, &[&TLS13, &TLS12], None).await), Ok(new), "the newest");
    assert_eq!(version(agreed(&secured, &[&TLS12], None).await), Ok(old), "what a client has");

    let mut secured =
        Secured::start(engine, |_, _| vec!["--tls-min-version=TLS1.3".to_owned()]).await;
    assert_eq!(version(agreed(&secured, &[&TLS13, &TLS12], None).await), Ok(new));
    let refused = version(agreed(&secured, &[&TLS12], None).await);
    assert_eq!(refused, Err(UNSUPPORTED.to_owned()));
    secured.says("tls: client offered only unsupported versions").await;
    secured.says(REJECTED).await;

    let mut secured =
        Secured::start(engine, |_, _| vec!["--tls-max-version=TLS1.2".to_owned()]).await;
    assert_eq!(version(agreed(&secured, &[&TLS13, &TLS12], None).await), Ok(old));
    let refused = version(agreed(&secured, &[&TLS13], None).await);
    assert_eq!(refused, Err(UNSUPPORTED.to_owned()));
    secured.says("tls: client offered only unsupported versions").await;
}

async fn only_chosen_suites_are_spoken(engine: Engine) {
    use CipherSuite as S;
    let [small, large, other] = [
        S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let old = ProtocolVersion::TLSv1_2;
    let secured = Secured::start(engine, |_, _| vec![]).await;
    for suite in [small, large, other] {
        assert_eq!(agreed(&secured, &[&TLS12], Some(suite)).await, Ok((old, suite)));
    }
    let names = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256";
    let mut secured = Secured::start(engine, |_, _| vec![format!("--cipher-suites={names}")]).await;
    assert_eq!(agreed(&secured, &[&TLS12], Some(large)).await, Ok((old, large)));
    assert_eq!(agreed(&secured, &[&TLS12], None).await, Ok((old, large)));
    for suite in [small, other] {
        let refused = agreed(&secured, &[&TLS12], Some(suite)).await;
        assert_eq!(refused, Err("remote error: tls: handshake failure".to_owned()));
    }
    secured.says("tls: no cipher suite supported by both client and server").await;
    // Nobody chooses among those of TLS 1.3.
    let (version, _) = agreed(&secured, &[&TLS13], None).await.expect("TLS 1.3");
    assert_eq!(version, ProtocolVersion::TLSv1_3);
}

async fn a_socket_in_the_file_system_speaks_tls(engine: Engine) {
    // A path in the test's own folder may be longer than such an address can be.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("client.sock");
    let url = format!("unixs://{}", socket.display());
    let mut secured = Secured::prepare(engine, |authority, _| vec![trusted(authority)]).await;
    let listen = format!("--listen-client-urls=https://{},{url}", secured.address);
    secured.cluster.members[0].flags.push(listen);
    secured.cluster.start_all().await.expect("a member with TLS on a socket");
    let known = secured.authority.issue("known", "somebody", &[]);
    put(channel(&url, &secured.authority, Some(&known)), "a").await.expect("a call");
    assert!(is_refused(&put(channel(&url, &secured.authority, None), "b").await));
    secured.says("tls: client didn't provide a certificate").await;
    let stream = UnixStream::connect(&socket).await.unwrap();
    let (authority, versions) = (&secured.authority, [&TLS13]);
    let stream = shake_with(stream, authority, Some(&known), &["http/1.1"], &versions, None).await;
    let answer = ask(stream.expect("a handshake"), GET_HEALTH).await.expect("a page");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // Plain text is for nobody here.
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(GET_HEALTH.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    secured.says("first record does not look like a TLS handshake").await;
}

/// No flag says this, and a file can: etcd has a key for it.
async fn only_common_names_of_the_file_are_served(engine: Engine) {
    let mut secured = Secured::prepare(engine, |_, _| vec![]).await;
    let folder = secured.cluster.folder().to_owned();
    let member = &mut secured.cluster.members[0];
    // What the flags say, as far as they are texts, and the certificates in their group.
    let mut keys = BTreeMap::new();
    for flag in &member.flags {
        let (name, value) = flag.trim_start_matches('-').split_once('=').expect("a value");
        if ["name", "data-dir", "initial-cluster"].contains(&name) || name.ends_with("-urls") {
            keys.insert(name, value);
        }
    }
    let at = |name: &str| folder.join(name).display().to_string();
    let mut text: String =
        keys.iter().map(|(name, value)| format!("{name}: '{value}'\n")).collect();
    text += "client-transport-security:\n";
    for (key, name) in
        [("cert-file", "server.pem"), ("key-file", "server.key"), ("trusted-ca-file", "ca.pem")]
    {
        text += &format!("  {key}: '{}'\n", at(name));
    }
    text += "  allowed-cn: [ann, bob]\n";
    let file = folder.join("etcd.yml");
    std::fs::write(&file, format!("{text}  allowed-hostname: [a.example]\n")).unwrap();
    // The engine is ours alone to choose, and stands in no file of etcd's.
    member.flags.retain(|flag| flag.starts_with("--engine"));
    member.flags.push(format!("--config-file={}", file.display()));
    member.spawn();
    let reason = r#"AllowedCNs and AllowedHostnames are mutually exclusive (cns=[\"ann\" \"bob\"], hostnames=[\"a.example\"])"#;
    member.process().says(reason).await.expect("why it does not start");
    assert_eq!(member.ended().await, Exit::Code(1));
    std::fs::write(&file, text).unwrap();
    secured.cluster.start_all().await.expect("a member with a file");
    for name in ["ann", "bob"] {
        let known = secured.authority.issue(name, name, &[]);
        put(secured.channel(Some(&known)), "a").await.expect("an allowed name");
    }
    for name in ["eve", ""] {
        let unknown = secured.authority.issue("unknown", name, &["ann"]);
        let refused = put(secured.channel(Some(&unknown)), "b").await;
        assert!(is_refused(&refused), "{refused:?}");
    }
    secured.says("client certificate authentication failed").await;
}

/// The same call again until the member takes it: it may be about to elect a leader.
pub async fn put_soon(channel: &Channel, key: &'static str) {
    eventually("a write", async || {
        put(channel.clone(), key).await.map_err(|status| status.to_string())
    })
    .await;
}
