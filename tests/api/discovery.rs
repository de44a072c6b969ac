//! How first members find each other by names in DNS, and in a registry behind TLS; and who may join.
//!
//! The name server is the test's own. A process gets it for its own by a mount namespace with another
//! /etc/resolv.conf, which wants the rights to make one; without them these tests say so and pass.

use crate::cluster::{Authority, Cluster, Engine, Exit, Raw, Setup, product, skipped};
use crate::credentials::{NOBODY, add_role, add_user, authenticate, permission};
use crate::membership::read;
use crate::on_each_engine;
use crate::requests::put;
use crate::tls::{channel, files};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use quoin::pb::authpb::permission::Type;
use quoin::pb::etcdserverpb::{AuthEnableRequest, DowngradeRequest, MemberAddRequest};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

on_each_engine![
    members_find_each_other_through_dns,
    what_dns_does_not_know_is_an_error,
    members_find_each_other_through_a_registry_behind_tls,
    a_cluster_that_goes_down_takes_nobody_of_this_version,
];

const DOMAIN: &str = "quoin.test";

/// A name server of this test, on a loopback address of its own.
struct NameServer {
    resolv_conf: PathBuf,
    address: Ipv4Addr,
}

impl NameServer {
    /// Knows these records, and `m.quoin.test` as 127.0.0.1. None without the rights that it needs.
    fn start(folder: &Path, services: BTreeMap<String, Vec<u16>>) -> Option<NameServer> {
        let address = Ipv4Addr::new(127, 53, rand::random(), rand::random_range(1..255));
        let resolv_conf = folder.join("resolv.conf");
        std::fs::write(&resolv_conf, format!("nameserver {address}\n")).unwrap();
        let server = NameServer { resolv_conf, address };
        let mut wrapped = server.wrapper();
        wrapped.push("true".to_owned());
        let is_allowed = Command::new(&wrapped[0]).args(&wrapped[1..]).output();
        if !is_allowed.is_ok_and(|output| output.status.success()) {
            return None;
        }
        let socket = UdpSocket::bind((address, 53)).ok()?;
        // Ends with the tests' process.
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..length], &services);
                socket.send_to(&answer, from).expect("an answer is sent");
            }
        });
        Some(server)
    }

    /// What stands in front of a command that is to ask this server.
    fn wrapper(&self) -> Vec<String> {
        let script = r#"mount --bind "$1" /etc/resolv.conf && shift && exec "$@""#;
        let file = self.resolv_conf.display().to_string();
        ["unshare", "-m", "sh", "-c", script, "sh"]
            .map(str::to_owned)
            .into_iter()
            .chain([file])
            .collect()
    }
}

fn answer(question: &[u8], services: &BTreeMap<String, Vec<u16>>) -> Vec<u8> {
    let mut message = Message::from_vec(question).expect("a question").into_response();
    let query = message.queries[0].clone();
    let host = Name::from_ascii(format!("m.{DOMAIN}.")).unwrap();
    let name = query.name().to_ascii();
    let ports = services.get(name.trim_end_matches('.'));
    let found: Vec<RData> = match query.query_type() {
        RecordType::SRV => {
            let srv = |port: &u16| RData::SRV(SRV::new(0, 0, *port, host.clone()));
            ports.into_iter().flatten().map(srv).collect()
        }
        RecordType::A if *query.name() == host => vec![RData::A(A(Ipv4Addr::LOCALHOST))],
        _ => vec![],
    };
    if ports.is_none() && *query.name() != host {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    let name = query.name().clone();
    message.add_answers(found.into_iter().map(|data| Record::from_rdata(name.clone(), 60, data)));
    message.additionals.clear();
    message.edns = None;
    message.to_vec().unwrap()
}

fn service(name: &str) -> String {
    format!("_{name}._tcp.{DOMAIN}")
}

fn port(cluster: &Cluster, member: usize, flag: &str) -> u16 {
    let flags = &cluster.members[member].flags;
    let url = flags.iter().find_map(|given| given.strip_prefix(flag)).unwrap();
    url.rsplit(':').next().unwrap().parse().unwrap()
}

/// Members that are to look into DNS, none started.
async fn seekers(engine: Engine, members: usize) -> Cluster {
    let setup = Setup::new(engine, members).flag(format!("--discovery-srv={DOMAIN}"));
    let mut cluster = Cluster::prepare(&setup).await;
    for member in &mut cluster.members {
        member.flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    }
    cluster
}

fn no_name_server() {
    skipped("a mount namespace and port 53 of a loopback address want more rights");
}

async fn members_find_each_other_through_dns(engine: Engine) {
    let mut cluster = seekers(engine, 3).await;
    let ports = |flag: &str| (0..3).map(|member| port(&cluster, member, flag)).collect::<Vec<_>>();
    let services = BTreeMap::from([
        (service("etcd-server-one"), ports("--initial-advertise-peer-urls=http://127.0.0.1")),
        (service("etcd-client"), ports("--advertise-client-urls=http://127.0.0.1")),
    ]);
    let Some(server) = NameServer::start(cluster.folder(), services) else {
        return no_name_server();
    };
    for member in &mut cluster.members {
        member.wrap_command(server.wrapper());
        member.flags.push("--discovery-srv-name=one".to_owned());
    }
    cluster.start_all().await.unwrap();
    cluster.raw(0).kv.put(put("key", "value")).await.unwrap();
    assert_eq!(read(&cluster, 2, "key").await, "value");
    let output = cluster.members[0].output();
    let url =
        format!("http://m.{DOMAIN}:{}", port(&cluster, 0, "--initial-advertise-peer-urls=http://"));
    let own = format!("{}={url}", cluster.members[0].name);
    for text in
        ["got bootstrap from DNS for etcd-server", &own[..], "get cluster for etcd-server-ssl SRV"]
    {
        assert!(output.contains(text), "{text}: {output}");
    }
    let urls: Vec<Vec<String>> =
        cluster.raw(0).members().await.into_iter().map(|member| member.peer_ur_ls).collect();
    assert!(urls.contains(&vec![url]), "{urls:?}");

    // Once they know each other, nobody asks DNS.
    cluster.members.iter_mut().for_each(|member| member.wrap_command(vec![]));
    if product().ours {
        let quoin = product().binary.display().to_string();
        let run = |args: &[&str]| {
            let mut command = server.wrapper();
            command.push(quoin.clone());
            command.extend(args.iter().map(|arg| (*arg).to_owned()));
            let output = Command::new(&command[0]).args(&command[1..]).output().unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (text(output.stdout), text(output.stderr))
        };
        let domain = format!("--discovery-srv={DOMAIN}");
        assert_eq!(run(&["kv", "get", "key", &domain]).0, "key\nvalue\n");
        assert_eq!(run(&["kv", "get", "key", "-d", DOMAIN]).0, "key\nvalue\n");
        let refused = run(&["endpoint", "health", &domain, "--insecure-discovery=false"]).1;
        let ignored = format!("ignoring discovered insecure endpoint \"http://m.{DOMAIN}.:");
        assert_eq!(refused.matches(&ignored).count(), 3, "{refused}");
        let none = run(&["kv", "get", "key", "-d", DOMAIN, "--discovery-srv-name=two"]).1;
        let lookup = |scheme: &str| {
            let (name, address) = (service(&format!("etcd-client{scheme}-two")), server.address);
            format!("lookup {name} on {address}:53: no such host")
        };
        let expected = format!("Error: dns lookup errors: {} and {}\n", lookup("-ssl"), lookup(""));
        assert_eq!(none, expected);
    }
}

async fn what_dns_does_not_know_is_an_error(engine: Engine) {
    let mut cluster = seekers(engine, 1).await;
    let own = port(&cluster, 0, "--initial-advertise-peer-urls=http://127.0.0.1");
    let services = BTreeMap::from([
        (service("etcd-server-other"), vec![1]),
        (service("etcd-server-ssl-mixed"), vec![own]),
    ]);
    let Some(server) = NameServer::start(cluster.folder(), services) else {
        return no_name_server();
    };
    cluster.members[0].wrap_command(server.wrapper());
    let name = cluster.members[0].name.clone();
    let failed =
        |service: &str, why: &str| format!("error querying DNS SRV records for _{service} {why}");
    let unknown = |name: &str| {
        let lookup = format!("lookup {} on {}:53: no such host", service(name), server.address);
        failed(name, &lookup)
    };
    let mixed = format!(
        "bootstrap at https://m.{DOMAIN}:{own} from DNS for etcd-server-ssl-mixed has scheme \
         mismatch with expected peer http://127.0.0.1:{own}"
    );
    for (suffix, expected) in [
        (
            "nobody",
            format!("{}\\n{}", unknown("etcd-server-ssl-nobody"), unknown("etcd-server-nobody")),
        ),
        ("other", format!("cannot find local etcd member \\\"{name}\\\" in SRV records")),
        (
            "mixed",
            format!(
                "{}\\n{}",
                failed("etcd-server-ssl-mixed", &mixed),
                unknown("etcd-server-mixed")
            ),
        ),
    ] {
        cluster.members[0].flags.push(format!("--discovery-srv-name={suffix}"));
        cluster.spawn(0);
        assert_eq!(cluster.members[0].process().end().await, Exit::Code(1), "{suffix}");
        let output = cluster.members[0].output();
        let expected = format!("error setting up initial cluster: {expected}\"");
        assert!(output.contains(&expected), "{expected}\n{output}");
        cluster.members[0].ended().await;
        cluster.members[0].flags.pop();
    }
}

async fn members_find_each_other_through_a_registry_behind_tls(engine: Engine) {
    let mut registry = Cluster::prepare(&Setup::new(engine, 1)).await;
    let authority = Authority::new(registry.folder(), "ca");
    let server = authority.issue("server", "", &["127.0.0.1"]);
    let shown = authority.issue("client", "", &["127.0.0.1"]);
    let endpoint = registry.members[0].endpoint.replace("http://", "https://");
    let flags = &mut registry.members[0].flags;
    flags.push(format!("--listen-client-urls={endpoint}"));
    flags.push(format!("--advertise-client-urls={endpoint}"));
    flags.push(format!("--trusted-ca-file={}", authority.path().display()));
    flags.push("--client-cert-auth".to_owned());
    flags.push("--bcrypt-cost=4".to_owned());
    flags.extend(files("", &server));
    registry.start_all().await.unwrap();
    let raw = Raw::over(channel(&endpoint, &authority, Some(&shown)));
    let size = "/_etcd/registry/tok/_config/size";
    raw.kv.clone().put(put(size, "2")).await.unwrap();
    let below = permission(Type::Readwrite, "/_etcd/registry/", "/_etcd/registry0");
    add_role(&raw, &NOBODY, "seeker", vec![below]).await;
    add_user(&raw, &NOBODY, "ann", &["seeker"]).await;
    add_user(&raw, &NOBODY, "root", &["root"]).await;
    raw.auth.clone().auth_enable(AuthEnableRequest {}).await.unwrap();
    authenticate(&raw, "ann", "ann").await.unwrap();

    let bare = endpoint.trim_start_matches("https://").to_owned();
    let mut cluster = Cluster::prepare(&Setup::new(engine, 2)).await;
    for member in &mut cluster.members {
        member.flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    }
    // One is told by flags, the other by a file.
    cluster.members[0].flags.extend([
        "--discovery-token=tok".to_owned(),
        format!("--discovery-endpoints={endpoint}"),
        format!("--discovery-cacert={}", authority.path().display()),
        format!("--discovery-cert={}", shown.cert.display()),
        format!("--discovery-key={}", shown.key.display()),
        "--discovery-user=ann".to_owned(),
        "--discovery-password=ann".to_owned(),
    ]);
    let file = cluster.folder().join("etcd.yaml");
    std::fs::write(&file, config_file(&cluster.members[1].flags, &bare, &authority, &shown))
        .unwrap();
    cluster.members[1].flags.retain(|flag| flag.starts_with("--engine"));
    cluster.members[1].flags.push(format!("--config-file={}", file.display()));
    cluster.start_all().await.unwrap();
    cluster.raw(0).kv.put(put("key", "value")).await.unwrap();
    assert_eq!(read(&cluster, 1, "key").await, "value");

    // Who does not know the registry's authority stays outside.
    let mut stranger = Cluster::prepare(&Setup::new(engine, 1)).await;
    let flags = &mut stranger.members[0].flags;
    flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    flags.push("--discovery-token=tok".to_owned());
    flags.push(format!("--discovery-endpoints={endpoint}"));
    flags.push("--discovery-insecure-transport=false".to_owned());
    flags.push("--discovery-cacert=/no/such/file".to_owned());
    stranger.spawn(0);
    assert_eq!(stranger.members[0].process().end().await, Exit::Code(1));
    let output = stranger.members[0].output();
    let expected =
        "failed to join discovery cluster (open /no/such/file: no such file or directory)";
    assert!(output.contains(expected), "{output}");
}

/// The flags of a member, and where the registry is, as etcd's file has them.
fn config_file(
    flags: &[String],
    endpoint: &str,
    authority: &Authority,
    shown: &crate::cluster::Certificate,
) -> String {
    let mut text = String::new();
    for flag in flags.iter().filter(|flag| !flag.starts_with("--engine")) {
        let (name, value) = flag.trim_start_matches("--").split_once('=').unwrap_or((flag, "true"));
        let is_plain = value.parse::<u64>().is_ok() || value == "true" || value == "false";
        let value = if is_plain { value.to_owned() } else { format!("{value:?}") };
        text.push_str(&format!("{}: {value}\n", name.trim_start_matches("--")));
    }
    text.push_str(&format!(
        "discovery-config:
  token: tok
  client:
    endpoints: [{endpoint:?}]
    secure: {{cert: {:?}, key: {:?}, cacert: {:?}}}
    auth: {{username: ann, password: ann}}
",
        shown.cert,
        shown.key,
        authority.path(),
    ));
    text
}

async fn a_cluster_that_goes_down_takes_nobody_of_this_version(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    crate::cluster::eventually("a version of the cluster", async || {
        let enable = DowngradeRequest { action: 1, version: "3.6".to_owned() };
        raw.maintenance
            .clone()
            .downgrade(enable)
            .await
            .map_err(|status| status.message().to_owned())
    })
    .await;
    let joining = cluster
        .prepare_joining(engine, async |url| {
            let add = MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
            raw.cluster.clone().member_add(add).await.unwrap();
        })
        .await;
    cluster.spawn(joining);
    assert_eq!(cluster.members[joining].process().end().await, Exit::Code(1));
    let output = cluster.members[joining].output();
    // The cluster goes down meanwhile.
    let is_told =
        |version| output.contains(&format!("\"remote-member-cluster-version\":\"{version}\""));
    assert!(is_told("3.7.0") || is_told("3.6.0"), "{output}");
    for text in [
        "cluster version of remote member is not compatible; too low",
        "\"minimum-cluster-version-supported\":\"3.8.0\"",
        "incompatible with current running cluster",
    ] {
        assert!(output.contains(text), "{text}: {output}");
    }
}
