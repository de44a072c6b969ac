//! What `quoin`'s command line has of its own: fail-over, help, completion, comparing leases.

use crate::cluster::{Cluster, Engine, Process, eventually};
use crate::on_each_engine;
use prost::Message as _;
use quoin::pb::etcdserverpb::{LeaseGrantResponse, MemberListResponse, PutResponse, RangeResponse};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};

on_each_engine![
    a_cluster_without_one_member_is_still_asked,
    answers_are_printed_as_messages,
    leases_are_compared,
    a_watch_goes_on_at_another_member,
    progress_is_asked_for,
    a_group_of_commands_tells_what_it_has,
];

fn quoin(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quoin"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
        command.env_remove(name);
    }
    command.args(args).output().unwrap()
}

fn with_input(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quoin"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn a_cluster_without_one_member_is_still_asked(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    let endpoints = format!("--endpoints={}", cluster.endpoints().join(","));
    let ask = |args: &[&str]| {
        let output = quoin(&[&[endpoints.as_str()], args].concat());
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr)),
        }
    };
    assert_eq!(ask(&["kv", "put", "k", "v"]), Ok("OK\n".to_owned()));
    cluster.kill(0);
    // Right after a leader's death a server may know of none.
    eventually("a write", async || ask(&["kv", "put", "k", "w"])).await;
    assert_eq!(ask(&["kv", "get", "k"]), Ok("k\nw\n".to_owned()));
    let health = ask(&["endpoint", "health", "--command-timeout=500ms"]).unwrap_err();
    assert!(health.contains("is unhealthy: failed to commit proposal"), "{health}");
    assert!(health.ends_with("Error: unhealthy cluster\n"), "{health}");
}

/// No server is asked.
async fn a_group_of_commands_tells_what_it_has(_: Engine) {
    for line in [&["lease"][..], &["--hex", "member"], &["user", "-w=json"], &["auth", "foo"]] {
        let output = quoin(line);
        assert!(output.status.success(), "{line:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("Usage: "), "{line:?}: {}", text(&output.stdout));
    }
    let unknown = quoin(&["--hex", "leases"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", text(&unknown.stdout));
}

/// `-w protobuf` is the message; of leases, etcdctl prints the header alone.
async fn answers_are_printed_as_messages(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let endpoint = format!("--endpoints={}", cluster.members[0].endpoint);
    let ask = |args: &[&str]| {
        let output = quoin(&[&[endpoint.as_str(), "-w=protobuf"], args].concat());
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        output.stdout
    };
    let put = PutResponse::decode(&ask(&["kv", "put", "k", "v"])[..]).unwrap();
    assert_eq!(put.header.unwrap().revision, 2);
    let range = RangeResponse::decode(&ask(&["kv", "get", "k"])[..]).unwrap();
    assert_eq!((&range.kvs[0].key[..], &range.kvs[0].value[..]), (&b"k"[..], &b"v"[..]));
    let lease = LeaseGrantResponse::decode(&ask(&["lease", "grant", "77"])[..]).unwrap();
    assert_eq!(lease.ttl, 77);
    let list = MemberListResponse::decode(&ask(&["member", "list"])[..]).unwrap();
    assert_eq!(list.members, cluster.raw(0).members().await);
}

/// etcdctl 3.7.1 stops with a stack trace at these.
async fn leases_are_compared(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let endpoint = format!("--endpoints={}", cluster.members[0].endpoint);
    let grant = quoin(&[&endpoint, "lease", "grant", "100"]);
    let lease = text(&grant.stdout).split(' ').nth(1).unwrap().to_owned();
    assert!(quoin(&[&endpoint, "kv", "put", "k", "v", "--lease", &lease]).status.success());
    for (wanted, outcome) in [(lease.as_str(), "SUCCESS\n"), ("0", "FAILURE\n")] {
        let txn = format!("lease(\"k\") = \"{wanted}\"\n\n\n\n");
        let output = with_input(&[&endpoint, "kv", "txn"], &txn);
        assert_eq!(text(&output.stdout), outcome, "{}", text(&output.stderr));
    }
}

async fn a_watch_goes_on_at_another_member(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    // The leader stays: a watch ends where there is none for too long.
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|index| *index != leader).collect();
    let mut client = cluster.client_of(leader).await;
    let log = cluster.folder().join("watch.log");
    let endpoints: Vec<_> =
        followers.iter().map(|index| cluster.members[*index].endpoint.clone()).collect();
    let endpoints = format!("--endpoints={}", endpoints.join(","));
    let mut watch = Process::start(
        &[env!("CARGO_BIN_EXE_quoin"), &endpoints, "kv", "watch", "k", "--rev=1"],
        &[],
        &log,
    );
    client.put("k", "before", None).await.unwrap();
    watch.says("before").await.unwrap();
    cluster.kill(followers[0]);
    eventually("a write", async || {
        let put = client.clone().put("k", "after", None).await;
        put.map_err(|error| error.to_string())
    })
    .await;
    watch.says("after").await.unwrap();
    assert_eq!(watch.output().matches("before").count(), 1, "{}", watch.output());
}

async fn progress_is_asked_for(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let endpoint = format!("--endpoints={}", cluster.members[0].endpoint);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_quoin"))
        .args([&endpoint, "kv", "watch", "-i"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = watch.stdin.take().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    writeln!(input, "watch k --rev=2 --prev-kv").unwrap();
    let mut client = cluster.client().await;
    client.put("k", "v", None).await.unwrap();
    let seen: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
    assert_eq!(seen, ["PUT", "k", "v"]);
    writeln!(input, "progress").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "progress notify: 2");
    drop(input);
    assert_eq!(watch.wait().unwrap().code(), Some(3), "it ends with its input");
}

#[test]
fn help_is_printed_where_it_is_asked_for() {
    for args in [
        &["help", "tools"][..],
        &["help", "kv"],
        &["kv", "--help"],
        &["kv"],
        &["kv", "get", "-h"],
        &["lease"],
    ] {
        let output = quoin(args);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("Usage: quoin"), "{args:?}");
    }
    let short = text(&quoin(&["kv", "get", "-h"]).stdout);
    assert!(short.contains("--print-value-only") && !short.contains("--dial-timeout"), "{short}");
    let long = text(&quoin(&["kv", "get", "--help"]).stdout);
    assert!(long.contains("--dial-timeout") && long.contains("ETCDCTL_DIAL_TIMEOUT"), "{long}");
    let unknown = quoin(&["kv", "foo"]);
    let said = "Error: unknown command \"foo\" for \"quoin\"\nRun 'quoin help tools' for usage.\n";
    assert_eq!((unknown.status.code(), text(&unknown.stderr)), (Some(1), said.to_owned()));
    let said =
        "Error: unknown command \"wat\" for \"quoin run\"\nRun 'quoin run --help' for usage.\n";
    assert_eq!(text(&quoin(&["run", "wat"]).stderr), said);
    let said = "Error: unknown command \"wat\" for \"quoin run pause\"\nRun 'quoin run pause --help' for usage.\n";
    assert_eq!(text(&quoin(&["run", "pause", "r1", "wat"]).stderr), said);
}

#[test]
fn each_shell_gets_a_script() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let output = quoin(&["completion", shell]);
        assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        let script = text(&output.stdout);
        for word in ["grant-permission", "print-value-only", "snapshot", "serve"] {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    assert_eq!(quoin(&["completion", "tcsh"]).status.code(), Some(1));
}

#[test]
fn a_flag_of_the_command_line_may_come_first_and_one_of_the_server_starts_it() {
    let tool = quoin(&["--command-timeout=50ms", "--endpoints=127.0.0.1:1", "kv", "get", "a"]);
    assert_eq!(text(&tool.stderr), "Error: context deadline exceeded\n");
    let server = quoin(&["--max-request-bytes=x"]);
    assert!(text(&server.stderr).contains("max-request-bytes"), "{}", text(&server.stderr));
    assert!(!text(&server.stderr).starts_with("Error: "), "{}", text(&server.stderr));
}

#[test]
fn versions_are_told_as_by_etcdctl() {
    for args in [&["version"][..], &["version", "-w", "json"], &["version", "more"]] {
        let told = quoin(args);
        assert!(told.status.success(), "{args:?}");
        let told = text(&told.stdout);
        let own = told.strip_prefix("etcdctl version: 3.7.1\nAPI version: 3.7\n");
        let own = own.and_then(|own| own.strip_prefix("quoin version: "));
        assert_eq!(own.map(str::trim), Some(env!("CARGO_PKG_VERSION")), "{args:?}");
    }
}
