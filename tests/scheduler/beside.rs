//! A scheduler in the process of a member: `quoin serve --scheduler`.

use crate::cluster::{Authority, Cluster, Engine, Process, Setup, product};
use crate::on_each_engine;

on_each_engine![a_member_of_users_schedules, a_member_behind_tls_schedules];

/// Starts a member that has not begun or has ended, with a scheduler beside it.
fn serve(cluster: &Cluster, more: &[&str]) -> Process {
    let mut command = vec![env!("CARGO_BIN_EXE_quoin").to_owned(), "serve".to_owned()];
    command.extend(cluster.members[0].flags.iter().cloned());
    command.extend(["--scheduler", "--scheduler-listen-url=http://127.0.0.1:0"].map(str::to_owned));
    command.extend(more.iter().map(|flag| (*flag).to_owned()));
    Process::start(&command, &[], &cluster.folder().join("serve.log"))
}

async fn a_member_of_users_schedules(engine: Engine) {
    if !product().ours {
        return eprintln!("skipped: only a member of ours has a scheduler beside it");
    }
    let mut cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client().await;
    client.user_add("root", "se:cret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    cluster.terminate(0).await;
    let user = "--scheduler-store-user=root:se:cret";
    let mut process = serve(&cluster, &[user, "--scheduler-keep-runs", "3"]);
    process.says("leading the scheduler").await.unwrap();
    process.says("serving test cases").await.unwrap();
}

async fn a_member_behind_tls_schedules(engine: Engine) {
    if !product().ours {
        return eprintln!("skipped: only a member of ours has a scheduler beside it");
    }
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let authority = Authority::new(cluster.folder(), "ca");
    let certificate = authority.issue("client", "client", &["127.0.0.1"]);
    let flags = &mut cluster.members[0].flags;
    for flag in flags.iter_mut().filter(|flag| flag.contains("-client-urls=")) {
        *flag = flag.replace("http://", "https://");
    }
    let files = [
        ("--cert-file", &certificate.cert),
        ("--key-file", &certificate.key),
        ("--trusted-ca-file", &authority.path()),
        ("--scheduler-store-cacert", &authority.path()),
        ("--scheduler-store-cert", &certificate.cert),
        ("--scheduler-store-key", &certificate.key),
    ];
    let mut more = vec!["--client-cert-auth".to_owned()];
    more.extend(files.map(|(flag, file)| format!("{flag}={}", file.display())));
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    serve(&cluster, &more).says("leading the scheduler").await.unwrap();
    let keyless: Vec<&str> =
        more.into_iter().filter(|flag| !flag.starts_with("--scheduler-store-key")).collect();
    let mut refused = serve(&cluster, &keyless);
    assert_ne!(refused.end().await, crate::cluster::Exit::Code(0));
    assert!(refused.output().contains("--scheduler-store-key"), "{}", refused.output());
}
