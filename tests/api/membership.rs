//! Members are added, promoted, moved and removed while the cluster serves.

use crate::cluster::{Cluster, Engine, Exit, Setup, eventually, product};
use crate::on_each_engine;
use crate::requests::{get, put, refusal};
use quoin::pb::etcdserverpb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, RangeRequest, SnapshotRequest, WatchRequest,
};
use std::fmt::Debug;
use tonic::{Code, Response, Status};

on_each_engine![
    a_cluster_grows_from_one_member_to_three,
    a_new_member_catches_up_by_snapshot,
    a_learner_follows_and_is_promoted,
    a_removed_member_ends_and_never_comes_back,
    a_removed_leader_hands_over_first,
    a_member_removed_while_it_was_down_learns_of_it,
    each_bad_change_has_its_code_and_text,
    a_change_that_endangers_the_quorum_is_refused,
    a_joining_member_must_know_the_members,
];

fn add(url: &str, is_learner: bool) -> MemberAddRequest {
    MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner }
}

/// Adds a member, starts it and waits until it serves. A cluster that has just started is not yet
/// known to be healthy, and says so.
pub async fn grow(cluster: &mut Cluster, engine: Engine, is_learner: bool) -> usize {
    let raw = cluster.raw(0);
    let joining = cluster
        .prepare_joining(engine, async |url| {
            eventually("room for a member", async || {
                let added = raw.cluster.clone().member_add(add(&url, is_learner)).await;
                match added {
                    Ok(answer) => {
                        let answer = answer.into_inner();
                        let member = answer.member.expect("the new member");
                        assert_eq!(
                            (member.peer_ur_ls, member.is_learner),
                            (vec![url.clone()], is_learner)
                        );
                        assert_eq!((member.name, member.client_ur_ls), (String::new(), vec![]));
                        assert_eq!(answer.header.unwrap().revision, 0);
                        assert!(answer.members.iter().any(|other| other.id == member.id));
                        Ok(())
                    }
                    Err(status) if status.code() == Code::Unavailable => Err(status.to_string()),
                    Err(status) => panic!("{status}"),
                }
            })
            .await;
        })
        .await;
    cluster.restart(joining).await;
    joining
}

/// Removes a member as soon as the cluster is known to be healthy.
async fn remove(cluster: &Cluster, through: usize, id: u64) -> Vec<Member> {
    let raw = cluster.raw(through);
    eventually("a removal", async || {
        match raw.cluster.clone().member_remove(MemberRemoveRequest { id }).await {
            Ok(answer) => Ok(answer.into_inner().members),
            Err(status) if status.code() == Code::Unavailable => Err(status.to_string()),
            Err(status) => panic!("{status}"),
        }
    })
    .await
}

/// A removed member ends well; etcd sometimes fails while it stops.
async fn has_gone(cluster: &mut Cluster, member: usize) {
    let exit = cluster.members[member].ended().await;
    assert!(exit == Exit::Code(0) || !product().ours && exit == Exit::Code(1), "{exit:?}");
}

pub async fn id_of(cluster: &Cluster, member: usize) -> u64 {
    cluster.raw(member).status().await.unwrap().header.unwrap().member_id
}

pub async fn read(cluster: &Cluster, member: usize, key: &str) -> String {
    let answer = cluster.raw(member).kv.clone().range(get(key)).await.unwrap().into_inner();
    answer.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()).unwrap_or_default()
}

async fn a_cluster_grows_from_one_member_to_three(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    cluster.raw(0).kv.clone().put(put("first", "1")).await.unwrap();
    for place in 1..3 {
        assert_eq!(grow(&mut cluster, engine, false).await, place);
        assert_eq!(read(&cluster, place, "first").await, "1");
        let key = format!("through {place}");
        cluster.raw(place).kv.clone().put(put(&key, "x")).await.unwrap();
        for reader in 0..=place {
            assert_eq!(read(&cluster, reader, &key).await, "x");
        }
    }
    let members = cluster.raw(2).members().await;
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|member| !member.name.is_empty() && !member.is_learner));
    // Any two of them are a quorum now, and all of it survives a restart.
    cluster.kill(0);
    eventually("a write of the other two", async || {
        let put = cluster.raw(1).kv.clone().put(put("without the first", "1")).await;
        put.map(drop).map_err(|e| e.to_string())
    })
    .await;
    cluster.kill(1);
    cluster.kill(2);
    cluster.start_all().await.unwrap();
    assert_eq!(read(&cluster, 0, "without the first").await, "1");
    assert_eq!(cluster.raw(0).members().await, cluster.raw(1).members().await);
}

async fn a_new_member_catches_up_by_snapshot(engine: Engine) {
    let setup = Setup::new(engine, 1).flag("--snapshot-count=20");
    let mut cluster = setup.flag("--snapshot-catchup-entries=5").start().await;
    let mut kv = cluster.raw(0).kv.clone();
    if product().ours {
        let process = cluster.members[0].process();
        eventually("cut of the log", async || {
            for _ in 0..30 {
                kv.put(put("key", "old")).await.map_err(|e| e.to_string())?;
            }
            let is_cut = process.output().contains("compacted Raft logs");
            is_cut.then_some(()).ok_or_else(|| "the log says nothing of it".into())
        })
        .await;
    } else {
        for _ in 0..100 {
            kv.put(put("key", "old")).await.unwrap();
        }
    }
    kv.put(put("key", "new")).await.unwrap();
    let joined = grow(&mut cluster, engine, false).await;
    assert_eq!(read(&cluster, joined, "key").await, "new");
    cluster.members[joined].process().says("applied snapshot").await.expect("its log");
    cluster.raw(joined).kv.clone().put(put("key", "newer")).await.unwrap();
    assert_eq!(read(&cluster, 0, "key").await, "newer");
    // What it has got is its own.
    cluster.kill(joined);
    cluster.restart(joined).await;
    assert_eq!(read(&cluster, joined, "key").await, "newer");
}

async fn a_learner_follows_and_is_promoted(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv.clone();
    for n in 0..50 {
        kv.put(put("key", &n.to_string())).await.unwrap();
    }
    let raw = cluster.raw(0);
    let learner = cluster
        .prepare_joining(engine, async |url| {
            raw.cluster.clone().member_add(add(&url, true)).await.unwrap();
        })
        .await;
    let members = cluster.raw(0).members().await;
    let id = members.iter().find(|member| member.is_learner).expect("a learner").id;
    let promote = async |through: usize| {
        cluster.raw(through).cluster.clone().member_promote(MemberPromoteRequest { id }).await
    };
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    assert_eq!(refusal(promote(0).await), (Code::FailedPrecondition, text.to_owned()));
    let text = "etcdserver: too many learner members in cluster";
    let second = raw.cluster.clone().member_add(add("http://127.0.0.1:9", true)).await;
    assert_eq!(refusal(second), (Code::FailedPrecondition, text.to_owned()));

    cluster.restart(learner).await;
    // It has no vote: the cluster goes on without it, and it does not answer for it.
    kv.put(put("key", "last")).await.unwrap();
    assert!(cluster.raw(learner).status().await.unwrap().is_learner);
    let text = "etcdserver: rpc not supported for learner";
    let expected = (Code::FailedPrecondition, text.to_owned());
    let followed = cluster.raw(learner);
    assert_eq!(refusal(followed.kv.clone().range(get("key")).await), expected);
    assert_eq!(refusal(followed.kv.clone().put(put("key", "x")).await), expected);
    let list = MemberListRequest { linearizable: false };
    assert_eq!(refusal(followed.cluster.clone().member_list(list).await), expected);
    let watch = tokio_stream::pending::<WatchRequest>();
    assert_eq!(refusal(followed.watch.clone().watch(watch).await), expected);
    let backup = followed.maintenance.clone().snapshot(SnapshotRequest {}).await;
    let mut backup = backup.expect("a learner can be backed up").into_inner();
    let (mut sent, mut announced) = (0, 0);
    while let Some(piece) = backup.message().await.unwrap() {
        sent += piece.blob.len() as u64;
        announced = piece.remaining_bytes;
    }
    assert!(sent > 0 && announced == 0, "{sent} bytes, and {announced} still to come");
    eventually("the last value on the learner", async || {
        let request = RangeRequest { serializable: true, ..get("key") };
        let answer = followed.kv.clone().range(request).await.unwrap().into_inner();
        match answer.kvs.first() {
            Some(kv) if kv.value[..] == *b"last" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let promoted = async |cluster: &Cluster| {
        let call = cluster.raw(0).cluster.clone();
        eventually("a promotion", async || {
            let promoted = call.clone().member_promote(MemberPromoteRequest { id }).await;
            promoted.map_err(|e| e.to_string())
        })
        .await
    };
    let members = promoted(&cluster).await.into_inner().members;
    assert!(members.iter().all(|member| !member.is_learner), "{members:?}");
    eventually("an answer of the voter", async || {
        followed.kv.clone().put(put("key", "voted")).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(read(&cluster, 0, "key").await, "voted");
}

async fn a_removed_member_ends_and_never_comes_back(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    let leader = cluster.leader().await;
    let (removed, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let id = id_of(&cluster, removed).await;
    let members = remove(&cluster, other, id).await;
    assert_eq!(members.len(), 2);
    assert!(members.iter().all(|member| member.id != id));
    let process = cluster.members[removed].process();
    process.says("the member has been permanently removed from the cluster").await.unwrap();
    has_gone(&mut cluster, removed).await;
    let again = cluster.raw(leader).cluster.clone().member_remove(MemberRemoveRequest { id }).await;
    let not_found = (Code::NotFound, "etcdserver: member not found".to_owned());
    assert_eq!(refusal(again), not_found);
    cluster.raw(leader).kv.clone().put(put("key", "two are left")).await.unwrap();
    assert_eq!(read(&cluster, other, "key").await, "two are left");
    cluster.spawn(removed);
    has_gone(&mut cluster, removed).await;
}

async fn a_removed_leader_hands_over_first(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    let leader = cluster.leader().await;
    let id = id_of(&cluster, leader).await;
    remove(&cluster, leader, id).await;
    has_gone(&mut cluster, leader).await;
    let rest: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    cluster.leader_among(&rest).await;
    cluster.raw(rest[0]).kv.clone().put(put("key", "value")).await.unwrap();
    assert_eq!(read(&cluster, rest[1], "key").await, "value");
}

async fn a_member_removed_while_it_was_down_learns_of_it(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    let leader = cluster.leader().await;
    let down = (leader + 1) % 3;
    let id = id_of(&cluster, down).await;
    cluster.kill(down);
    remove(&cluster, leader, id).await;
    cluster.spawn(down);
    let process = cluster.members[down].process();
    process.says("the member has been permanently removed from the cluster").await.unwrap();
    has_gone(&mut cluster, down).await;
}

async fn each_bad_change_has_its_code_and_text(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let calls = cluster.raw(0).cluster;
    let own = cluster.raw(0).members().await.remove(0);
    let url = own.peer_ur_ls[0].clone();
    let refused = |code: Code, text: &str| (code, format!("etcdserver: {text}"));
    let bad_urls = refused(Code::InvalidArgument, "given member URLs are invalid");
    for urls in [vec![], vec!["not a url"], vec!["ftp://127.0.0.1:1"], vec!["http://127.0.0.1"]] {
        let peer_ur_ls: Vec<String> = urls.iter().map(|&url| url.to_owned()).collect();
        let request = MemberAddRequest { peer_ur_ls: peer_ur_ls.clone(), is_learner: false };
        assert_eq!(refusal(calls.clone().member_add(request).await), bad_urls, "{urls:?}");
        // etcd takes any text for a URL here.
        if product().ours && !urls.is_empty() {
            let request = MemberUpdateRequest { id: own.id, peer_ur_ls };
            assert_eq!(refusal(calls.clone().member_update(request).await), bad_urls, "{urls:?}");
        }
    }
    let exists = refused(Code::FailedPrecondition, "Peer URLs already exists");
    assert_eq!(refusal(calls.clone().member_add(add(&url, true)).await), exists);
    let not_found = refused(Code::NotFound, "member not found");
    let remove = MemberRemoveRequest { id: 5 };
    if product().ours {
        assert_eq!(refusal(calls.clone().member_remove(remove).await), not_found);
    }
    let update = MemberUpdateRequest { id: 5, peer_ur_ls: vec!["http://127.0.0.1:9".into()] };
    assert_eq!(refusal(calls.clone().member_update(update).await), not_found);
    let promote = MemberPromoteRequest { id: 5 };
    assert_eq!(refusal(calls.clone().member_promote(promote).await), not_found);
    let voter = refused(Code::FailedPrecondition, "can only promote a learner member");
    let promote = MemberPromoteRequest { id: own.id };
    assert_eq!(refusal(calls.clone().member_promote(promote).await), voter);
    // It may move, for nobody talks to it.
    let update = MemberUpdateRequest { id: own.id, peer_ur_ls: vec!["http://127.0.0.1:9".into()] };
    let moved = calls.clone().member_update(update).await.unwrap().into_inner();
    assert_eq!(moved.members[0].peer_ur_ls, ["http://127.0.0.1:9"]);
    assert_eq!(moved.header.unwrap().revision, 0);
}

fn is_refused<T: Debug>(answer: Result<Response<T>, Status>, code: Code, text: &str) {
    assert_eq!(refusal(answer), (code, format!("etcdserver: {text}")));
}

async fn a_change_that_endangers_the_quorum_is_refused(engine: Engine) {
    let mut cluster = Cluster::start(engine, 3).await;
    let leader = cluster.leader().await;
    let (down, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let id = id_of(&cluster, other).await;
    eventually("both others seen by the leader", async || {
        let seen = cluster.members[leader].output().matches("peer became active").count();
        (seen >= 2).then_some(()).ok_or_else(|| format!("{seen} were seen"))
    })
    .await;
    cluster.kill(down);
    let process = cluster.members[leader].process();
    process.says("peer became inactive").await.unwrap();
    let calls = cluster.raw(leader).cluster;
    let one_more = calls.clone().member_add(add("http://127.0.0.1:9", false)).await;
    is_refused(one_more, Code::Unavailable, "unhealthy cluster");
    let one_less = calls.clone().member_remove(MemberRemoveRequest { id }).await;
    is_refused(one_less, Code::Unavailable, "unhealthy cluster");
    assert_eq!(cluster.raw(leader).members().await.len(), 3);
}

async fn a_joining_member_must_know_the_members(engine: Engine) {
    if !product().ours {
        return;
    }
    let mut cluster = Cluster::start(engine, 1).await;
    // Nobody has added it.
    let mut url = String::new();
    let joining = cluster.prepare_joining(engine, async |own| url = own).await;
    let (other, own) = (&cluster.raw(0).members().await[0], &cluster.members[joining].name);
    let all = format!("--initial-cluster={}={},{own}={url}", other.name, other.peer_ur_ls[0]);
    cluster.members[joining].flags.push(all);
    cluster.spawn(joining);
    let said = cluster.members[joining].process().says("member count is unequal").await;
    said.expect("a reason");
    assert_eq!(cluster.members[joining].ended().await, Exit::Code(1));
}
