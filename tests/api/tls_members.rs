//! TLS between members: who may join, and who is kept out.

use crate::cluster::{Authority, Certificate, Cluster, Engine, Setup, eventually, product};
use crate::on_each_engine;
use crate::tls::{channel, files, put_soon};
use std::path::Path;

on_each_engine![
    three_members_and_one_that_joins_speak_tls,
    a_member_with_a_foreign_certificate_is_kept_out,
    a_member_with_the_wrong_name_is_kept_out,
    a_member_for_the_wrong_host_is_kept_out,
    a_member_from_elsewhere_is_kept_out_unless_that_is_not_looked_at,
    a_revoked_member_is_kept_out,
    members_may_make_their_own_certificates,
    members_show_another_certificate_when_they_dial,
    new_certificates_are_shown_without_a_restart,
];

/// Members whose peer URLs are https; `flags` gives each its certificate.
async fn prepare(
    engine: Engine,
    members: usize,
    flags: impl Fn(&Authority, usize) -> Vec<String>,
) -> (Cluster, Authority) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, members)).await;
    let authority = Authority::new(cluster.folder(), "ca");
    for (index, member) in cluster.members.iter_mut().enumerate() {
        secure_peers(&mut member.flags);
        member.flags.extend(flags(&authority, index));
    }
    (cluster, authority)
}

/// Makes the URLs of members https.
pub fn secure_peers(flags: &mut [String]) {
    let of_peers = ["--listen-peer-urls", "--initial-advertise-peer-urls", "--initial-cluster="];
    for flag in flags.iter_mut().filter(|flag| of_peers.iter().any(|of| flag.starts_with(of))) {
        *flag = flag.replace("http://", "https://");
    }
}

fn trusting(authority: &Authority, certificate: &Certificate) -> Vec<String> {
    let mut flags = files("peer-", certificate);
    flags.push(format!("--peer-trusted-ca-file={}", authority.path().display()));
    flags.push("--peer-client-cert-auth".to_owned());
    flags
}

/// A certificate for 127.0.0.1.
fn local(authority: &Authority, index: usize, name: &str) -> Certificate {
    authority.issue(&format!("peer-{index}"), name, &["127.0.0.1"])
}

async fn three_members_and_one_that_joins_speak_tls(engine: Engine) {
    let names = |authority: &Authority, index: usize| {
        let mut flags = trusting(authority, &local(authority, index, "member"));
        flags.push("--peer-cert-allowed-cn=member,other".to_owned());
        flags
    };
    let (mut cluster, authority) = prepare(engine, 3, names).await;
    cluster.start_all().await.expect("three members");
    let mut client = cluster.client().await;
    client.put("a", "1", None).await.expect("a write");
    let index = cluster
        .prepare_joining(engine, async |url| {
            let url = url.replace("http://", "https://");
            eventually("a place for one more", async || {
                let mut client = client.clone();
                client.member_add([url.clone()], None).await.map_err(|error| error.to_string())
            })
            .await;
        })
        .await;
    // It is the one that the list has no name for.
    let name = cluster.members[index].name.clone();
    let member = &mut cluster.members[index];
    secure_peers(&mut member.flags);
    for flag in member.flags.iter_mut().filter(|flag| flag.starts_with("--initial-cluster=")) {
        let named: Vec<String> = flag["--initial-cluster=".len()..]
            .split(',')
            .map(|part| match part.strip_prefix('=') {
                Some(url) => format!("{name}={url}"),
                None => part.to_owned(),
            })
            .collect();
        *flag = format!("--initial-cluster={}", named.join(","));
    }
    member.flags.extend(names(&authority, index));
    cluster.start_all().await.expect("a fourth member over TLS");
    let all: Vec<usize> = (0..4).collect();
    cluster.same_revision(&all).await;
    let mut last = cluster.client_of(index).await;
    assert_eq!(last.get("a", None).await.expect("a read").count(), 1);
}

/// Two members of one cluster and a third that shows `intruder`: it must not take part, and
/// somebody must say `text`.
async fn kept_out(
    engine: Engine,
    flags: impl Fn(&Authority, usize, &Path) -> Vec<String>,
    texts: &[&str],
) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, 3)).await;
    let authority = Authority::new(cluster.folder(), "ca");
    let folder = cluster.folder().to_owned();
    for (index, member) in cluster.members.iter_mut().enumerate() {
        secure_peers(&mut member.flags);
        member.flags.extend(flags(&authority, index, &folder));
    }
    for index in 0..3 {
        cluster.spawn(index);
    }
    for index in 0..2 {
        cluster.members[index].ready().await.expect("two members of three");
    }
    cluster.client_of(0).await.put("a", "1", None).await.expect("a write");
    eventually("a word about the third member", async || {
        let said: String = (0..3).map(|index| cluster.members[index].output()).collect();
        let lines: Vec<&str> =
            said.lines().filter(|line| line.contains("\"level\":\"warn\"")).collect();
        match texts.iter().all(|text| lines.iter().any(|line| line.contains(text))) {
            true => Ok(()),
            false => Err(lines.join("\n")),
        }
    })
    .await;
    // A member of etcd takes part all the same once others dial it, if what it shows to them is right.
    if !product().ours {
        return;
    }
    let third = cluster.members[2].output();
    assert!(!third.contains(crate::cluster::READY), "it serves: {third}");
}

async fn a_member_with_a_foreign_certificate_is_kept_out(engine: Engine) {
    let flags = |authority: &Authority, index: usize, folder: &Path| {
        if index < 2 {
            return trusting(authority, &local(authority, index, ""));
        }
        let other = folder.join("other");
        std::fs::create_dir_all(&other).unwrap();
        let foreign = Authority::new(&other, "foreign");
        let mut flags = files("peer-", &local(&foreign, index, ""));
        flags.push(format!("--peer-trusted-ca-file={}", authority.path().display()));
        flags
    };
    let texts =
        ["rejected connection on peer endpoint", "x509: certificate signed by unknown authority"];
    kept_out(engine, flags, &texts).await;
}

async fn a_member_with_the_wrong_name_is_kept_out(engine: Engine) {
    let flags = |authority: &Authority, index: usize, _: &Path| {
        let name = if index < 2 { "member" } else { "stranger" };
        let mut flags = trusting(authority, &local(authority, index, name));
        if index < 2 {
            flags.push("--peer-cert-allowed-cn=member".to_owned());
        }
        flags
    };
    let texts =
        ["rejected connection on peer endpoint", "client certificate authentication failed"];
    kept_out(engine, flags, &texts).await;
}

async fn a_member_for_the_wrong_host_is_kept_out(engine: Engine) {
    let flags = |authority: &Authority, index: usize, _: &Path| {
        let host = if index < 2 { "member.example" } else { "stranger.example" };
        let certificate = authority.issue(&format!("peer-{index}"), "", &["127.0.0.1", host]);
        let mut flags = trusting(authority, &certificate);
        if index < 2 {
            flags.push("--peer-cert-allowed-hostname=other.example,member.example".to_owned());
        }
        flags
    };
    let texts =
        ["rejected connection on peer endpoint", "client certificate authentication failed"];
    kept_out(engine, flags, &texts).await;
}

async fn a_member_from_elsewhere_is_kept_out_unless_that_is_not_looked_at(engine: Engine) {
    // What it shows as a server is right, what it shows as a client is for another address.
    let flags = |authority: &Authority, index: usize| {
        let mut flags = trusting(authority, &local(authority, index, ""));
        if index == 2 {
            let elsewhere = authority.issue("elsewhere", "", &["10.9.9.9"]);
            flags.push(format!("--peer-client-cert-file={}", elsewhere.cert.display()));
            flags.push(format!("--peer-client-key-file={}", elsewhere.key.display()));
        }
        flags
    };
    let texts = [
        "rejected connection on peer endpoint",
        "x509: certificate is valid for 10.9.9.9, not 127.0.0.1",
    ];
    kept_out(engine, |authority, index, _| flags(authority, index), &texts).await;
    let (mut cluster, _authority) = prepare(engine, 3, |authority, index| {
        let mut flags = flags(authority, index);
        flags.push("--peer-skip-client-san-verification".to_owned());
        flags
    })
    .await;
    cluster.start_all().await.expect("three members");
}

async fn a_revoked_member_is_kept_out(engine: Engine) {
    let flags = |authority: &Authority, index: usize, _: &Path| {
        let certificate = local(authority, index, "");
        let list =
            if index < 2 { authority.revoke(&[]) } else { authority.revoke(&[&certificate]) };
        let mut flags = trusting(authority, &certificate);
        if index < 2 {
            flags.push(format!("--peer-crl-file={}", list.display()));
        }
        flags
    };
    let texts = ["rejected connection on peer endpoint", "transport: certificate serial 55"];
    kept_out(engine, flags, &texts).await;
}

async fn members_may_make_their_own_certificates(engine: Engine) {
    let (mut cluster, _authority) =
        prepare(engine, 3, |_, _| vec!["--peer-auto-tls".to_owned()]).await;
    cluster.start_all().await.expect("three members");
    cluster.client().await.put("a", "1", None).await.expect("a write");
    for index in 0..3 {
        assert!(cluster.data_folder(index).join("fixtures/peer/key.pem").exists());
    }
}

async fn members_show_another_certificate_when_they_dial(engine: Engine) {
    let (mut cluster, _authority) = prepare(engine, 3, |authority, index| {
        let mut flags = trusting(authority, &local(authority, index, "server"));
        let client = authority.issue(&format!("dialler-{index}"), "client", &["127.0.0.1"]);
        flags.push(format!("--peer-client-cert-file={}", client.cert.display()));
        flags.push(format!("--peer-client-key-file={}", client.key.display()));
        // Both are checked, at either end.
        flags.push("--peer-cert-allowed-cn=client,server".to_owned());
        flags
    })
    .await;
    cluster.start_all().await.expect("three members");
}

async fn new_certificates_are_shown_without_a_restart(engine: Engine) {
    let own = |authority: &Authority, index: usize| local(authority, index, "");
    let (mut cluster, authority) = prepare(engine, 3, |authority, index| {
        let certificate = own(authority, index);
        let mut flags = trusting(authority, &certificate);
        flags.push(format!("--peer-crl-file={}", authority.revoke(&[]).display()));
        flags
    })
    .await;
    cluster.start_all().await.expect("three members");
    let plain = cluster.client().await;
    plain.kv_client().put("a", "1", None).await.expect("a write");
    // All get new certificates; a member that starts again meets the two others with those.
    for index in 0..3 {
        own(&authority, index);
    }
    cluster.kill(2);
    cluster.restart(2).await;
    cluster.same_revision(&[0, 1, 2]).await;
    let channel = channel(&cluster.members[2].endpoint, &authority, None);
    put_soon(&channel, "b").await;
}
