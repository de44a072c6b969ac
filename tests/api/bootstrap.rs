//! How clusters come into being beside the flags that name all members: out of what one member
//! holds, through a registry, and by members whose URLs are written differently.

use crate::cluster::{
    Cluster, Engine, Exit, Folder, Ports, Process, READY, Raw, Setup, etcd_tools, eventually,
    product, skipped,
};
use crate::membership::{grow, id_of, read};
use crate::on_each_engine;
use crate::pages::send;
use crate::requests::put;
use quoin::pb::etcdserverpb::MemberAddRequest;

on_each_engine![
    one_of_three_goes_on_alone,
    a_learner_goes_on_alone,
    members_find_each_other_through_a_registry,
    a_registry_that_has_no_place_is_an_error,
    members_find_each_other_through_an_etcd,
    a_member_may_join_under_other_names_of_the_same_addresses,
    learners_are_promoted_through_the_peer_listener,
];

/// Starts a member that was killed as a cluster of its own.
async fn alone(cluster: &mut Cluster, member: usize) {
    let flag = "--force-new-cluster=true".to_owned();
    cluster.members[member].flags.push(flag.clone());
    cluster.restart(member).await;
    cluster.members[member].flags.retain(|other| *other != flag);
}

async fn is_alone(cluster: &Cluster, member: usize, id: u64) {
    let members = cluster.raw(member).members().await;
    let listed: Vec<(u64, bool)> =
        members.iter().map(|member| (member.id, member.is_learner)).collect();
    assert_eq!(listed, [(id, false)]);
    let status = cluster.raw(member).status().await.unwrap();
    assert_eq!((status.header.unwrap().member_id, status.leader), (id, id));
}

async fn one_of_three_goes_on_alone(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).fast_elections().start().await;
    for number in 0..20 {
        cluster.raw(number % 3).kv.put(put(&format!("k{number}"), "before")).await.unwrap();
    }
    let revision = cluster.same_revision(&[0, 1, 2]).await;
    let id = id_of(&cluster, 1).await;
    let founded = cluster.raw(1).status().await.unwrap().header.unwrap().cluster_id;
    (0..3).for_each(|member| cluster.kill(member));

    alone(&mut cluster, 1).await;
    is_alone(&cluster, 1, id).await;
    let header = cluster.raw(1).status().await.unwrap().header.unwrap();
    assert_eq!((header.revision, header.cluster_id), (revision, founded));
    assert_eq!(read(&cluster, 1, "k19").await, "before");
    cluster.raw(1).kv.put(put("k0", "after")).await.unwrap();

    // It stays so without the flag, and with it: what came after is kept.
    cluster.kill(1);
    cluster.restart(1).await;
    is_alone(&cluster, 1, id).await;
    assert_eq!(read(&cluster, 1, "k0").await, "after");
    cluster.terminate(1).await;
    alone(&mut cluster, 1).await;
    is_alone(&cluster, 1, id).await;
    assert_eq!(
        (&read(&cluster, 1, "k0").await[..], &read(&cluster, 1, "k1").await[..]),
        ("after", "before")
    );

    // One of the others comes back after all, and learns that it is out.
    if product().ours {
        cluster.spawn(0);
        let exit = cluster.members[0].ended().await;
        assert_eq!(exit, Exit::Code(0));
        assert_eq!(read(&cluster, 1, "k0").await, "after");
    }
}

async fn a_learner_goes_on_alone(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let learner = grow(&mut cluster, engine, true).await;
    cluster.raw(0).kv.put(put("key", "before")).await.unwrap();
    cluster.same_revision(&[0, learner]).await;
    let id = id_of(&cluster, learner).await;
    cluster.kill(0);
    cluster.kill(learner);
    alone(&mut cluster, learner).await;
    is_alone(&cluster, learner, id).await;
    assert_eq!(read(&cluster, learner, "key").await, "before");
    cluster.raw(learner).kv.put(put("key", "after")).await.unwrap();
    // And it is the first of many again.
    cluster.members.swap(0, learner);
    let second = grow(&mut cluster, engine, false).await;
    assert_eq!(read(&cluster, second, "key").await, "after");
}

/// Three members that are to find each other, none started.
async fn seekers(engine: Engine, registry: &str, token: &str) -> Cluster {
    let setup = Setup::new(engine, 3)
        .flag(format!("--discovery-token={token}"))
        .flag(format!("--discovery-endpoints=http://127.0.0.1:1,{registry}"));
    let mut cluster = Cluster::prepare(&setup).await;
    for member in &mut cluster.members {
        member.flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    }
    cluster
}

async fn find_each_other(engine: Engine, registry: &str) {
    let mut raw = Raw::new(registry);
    raw.kv.put(put("/_etcd/registry/tok/_config/size", "2")).await.unwrap();
    let mut cluster = seekers(engine, registry, "tok").await;
    cluster.spawn(0);
    let first = cluster.members[0].process();
    first.says("waiting for peers from discovery service").await.unwrap();
    cluster.restart(1).await;
    cluster.members[0].ready().await.unwrap();
    cluster.raw(0).kv.put(put("key", "value")).await.unwrap();
    assert_eq!(read(&cluster, 1, "key").await, "value");
    let members = cluster.raw(0).members().await;
    let mut names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    names.sort();
    assert_eq!(names, [cluster.members[0].name.clone(), cluster.members[1].name.clone()]);

    // A third one is too many.
    cluster.spawn(2);
    let surplus = &mut cluster.members[2];
    assert!(surplus.ready().await.is_err());
    assert_eq!(surplus.process().end().await, Exit::Code(1));
    let output = surplus.output();
    for text in [
        "discovery: cluster is full",
        "failed to bootstrap; discovery token was already used",
        "do not reuse discovery token; generate a new one to bootstrap a cluster",
    ] {
        assert!(output.contains(text), "{text}: {output}");
    }
    // Later starts know their cluster by themselves.
    cluster.terminate(0).await;
    cluster.restart(0).await;
    let ignored = "discovery token is ignored since cluster already initialized";
    assert!(cluster.members[0].output().contains(ignored));
    assert_eq!(read(&cluster, 0, "key").await, "value");
}

async fn members_find_each_other_through_a_registry(engine: Engine) {
    let registry = Cluster::start(engine, 1).await;
    find_each_other(engine, &registry.members[0].endpoint).await;
}

async fn members_find_each_other_through_an_etcd(engine: Engine) {
    let Some(bin) = etcd_tools() else {
        return skipped("etcd 3.7.1 and its tools are missing; scripts/etcd builds them");
    };
    let (folder, mut ports) = (Folder::new(), Ports::reserve());
    let [client, peer] =
        [ports.take(), ports.take()].map(|port| format!("http://127.0.0.1:{port}"));
    let command = [
        bin.join("etcd").display().to_string(),
        format!("--data-dir={}", folder.path().join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    let mut etcd = Process::start(&command, &[], &folder.path().join("etcd.log"));
    etcd.says(READY).await.unwrap();
    find_each_other(engine, &client).await;
}

async fn a_registry_that_has_no_place_is_an_error(engine: Engine) {
    let registry = Cluster::start(engine, 1).await;
    let endpoint = registry.members[0].endpoint.clone();
    let mut raw = registry.raw(0);
    raw.kv.put(put("/_etcd/registry/bad/_config/size", "many")).await.unwrap();
    for (token, text) in
        [("none", "discovery: size key not found"), ("bad", "discovery: size key is bad")]
    {
        let mut cluster = seekers(engine, &endpoint, token).await;
        cluster.spawn(0);
        let member = &mut cluster.members[0];
        assert!(member.ready().await.is_err());
        assert_eq!(member.process().end().await, Exit::Code(1));
        assert!(member.output().contains(text), "{text}: {}", member.output());
    }
}

async fn a_member_may_join_under_other_names_of_the_same_addresses(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let joining = cluster
        .prepare_joining(engine, async |url| {
            let add = MemberAddRequest { peer_ur_ls: vec![url], is_learner: false };
            raw.cluster.clone().member_add(add).await.unwrap();
        })
        .await;
    let flags = &mut cluster.members[joining].flags;
    let first = flags.iter_mut().rfind(|flag| flag.starts_with("--initial-cluster=")).unwrap();
    // Of both members: a shorter way to write the same address.
    *first = first.replace("127.0.0.1", "127.1");
    cluster.restart(joining).await;
    cluster.raw(0).kv.put(put("key", "value")).await.unwrap();
    assert_eq!(read(&cluster, joining, "key").await, "value");
}

async fn learners_are_promoted_through_the_peer_listener(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let learner = grow(&mut cluster, engine, true).await;
    let flags = &cluster.members[0].flags;
    let url = flags.iter().find_map(|flag| flag.strip_prefix("--listen-peer-urls=http://"));
    let peer = url.unwrap().to_owned();
    let promote =
        async |id: &str| send(&peer, "POST", &format!("/members/promote/{id}"), &[], b"").await;
    let id = id_of(&cluster, learner).await;
    let voter = id_of(&cluster, 0).await;
    for (id, status, text) in [
        ("x".to_owned(), 404, "member x not found in cluster\n"),
        ("7".to_owned(), 404, "membership: ID not found\n"),
        (voter.to_string(), 412, "membership: can only promote a learner member\n"),
    ] {
        let refused = promote(&id).await;
        assert_eq!((refused.status, &refused.body[..]), (status, text), "{id}");
    }
    let promoted = eventually("a promotion", async || {
        let page = promote(&id.to_string()).await;
        // Not yet as far as the leader.
        if page.status == 200 { Ok(page) } else { Err(page.body) }
    })
    .await;
    assert_eq!(promoted.header("content-type"), Some("application/json"));
    let listed = promoted.json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|member| member.get("isLearner").is_none()), "{listed:?}");
    let members = cluster.raw(0).members().await;
    assert!(members.iter().all(|member| !member.is_learner));
    let wrong = send(&peer, "GET", &format!("/members/promote/{id}"), &[], b"").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
}
