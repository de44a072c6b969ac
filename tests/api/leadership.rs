//! MoveLeader: who may be asked, whom it can make leader, and when it is answered.

use crate::cluster::{Cluster, Engine, Raw, Setup, eventually, product};
use crate::on_each_engine;
use crate::requests::{get, put, refusal};
use quoin::pb::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse};
use std::time::Duration;
use tonic::{Code, Response, Status};

on_each_engine![
    a_leader_makes_another_member_leader,
    who_cannot_lead_is_no_target,
    a_target_that_does_not_answer_is_given_up,
    no_write_is_lost_while_the_leadership_moves,
];

const MEMBERS: usize = 3;

async fn move_to(raw: &Raw, target_id: u64) -> Result<Response<MoveLeaderResponse>, Status> {
    raw.maintenance.clone().move_leader(MoveLeaderRequest { target_id }).await
}

async fn id(cluster: &Cluster, member: usize) -> u64 {
    cluster.raw(member).status().await.unwrap().header.unwrap().member_id
}

async fn a_leader_makes_another_member_leader(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let next = (leader + 1) % MEMBERS;
        let before = cluster.raw(leader).status().await.unwrap().raft_term;
        let target = id(&cluster, next).await;
        let answer = move_to(&cluster.raw(leader), target).await.unwrap().into_inner();
        assert_eq!(answer.header, None);
        // When it is answered, the one that was asked knows the new leader.
        assert_eq!(cluster.raw(leader).status().await.unwrap().leader, target);
        assert_eq!(cluster.leader().await, next);
        let after = cluster.raw(next).status().await.unwrap().raft_term;
        assert_eq!(after, before + 1, "one election was enough");
        cluster.raw(leader).kv.clone().put(put("k", "v")).await.unwrap();
    }
}

async fn who_cannot_lead_is_no_target(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let leader = cluster.leader().await;
    let (own, other) = (id(&cluster, leader).await, id(&cluster, (leader + 1) % MEMBERS).await);
    let raw = cluster.raw(leader);
    let bad = (Code::FailedPrecondition, "etcdserver: bad leader transferee".to_owned());
    for target in [0, 1, own ^ 1] {
        assert_eq!(refusal(move_to(&raw, target).await), bad, "{target}");
    }
    // Whoever does not lead refuses first of all.
    let not_leader = (Code::FailedPrecondition, "etcdserver: not leader".to_owned());
    for target in [own, other, 0] {
        let follower = cluster.raw((leader + 1) % MEMBERS);
        assert_eq!(refusal(move_to(&follower, target).await), not_leader, "{target}");
    }
    let term = raw.status().await.unwrap().raft_term;
    move_to(&raw, own).await.unwrap();
    let status = raw.status().await.unwrap();
    assert_eq!((status.leader, status.raft_term), (own, term), "it leads already");
}

async fn a_target_that_does_not_answer_is_given_up(engine: Engine) {
    let mut cluster = Setup::new(engine, MEMBERS).fast_elections().start().await;
    let leader = cluster.leader().await;
    let dead = (leader + 1) % MEMBERS;
    let target = id(&cluster, dead).await;
    cluster.kill(dead);
    let raw = cluster.raw(leader);
    if product().ours {
        let gave_up =
            (Code::Unknown, "etcdserver: request timed out, leader transfer took too long".into());
        assert_eq!(refusal(move_to(&raw, target).await), gave_up);
    } else {
        // etcd waits as long as the caller does.
        let mut request = tonic::Request::new(MoveLeaderRequest { target_id: target });
        request.set_timeout(Duration::from_secs(2));
        raw.maintenance.clone().move_leader(request).await.unwrap_err();
    }
    assert_eq!(cluster.leader().await, leader, "the leader of before goes on");
    raw.kv.clone().put(put("k", "v")).await.unwrap();
    cluster.restart(dead).await;
    eventually("a transfer to who is back", async || {
        move_to(&raw, target).await.map(drop).map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(cluster.leader().await, dead);
}

async fn no_write_is_lost_while_the_leadership_moves(engine: Engine) {
    const WRITES: usize = 60;
    let cluster = Cluster::start(engine, MEMBERS).await;
    let mut writers = vec![];
    for member in 0..MEMBERS {
        let mut kv = cluster.raw(member).kv;
        writers.push(tokio::spawn(async move {
            let mut refused = 0;
            for number in 0..WRITES {
                let key = format!("{member}/{number}");
                // A write is sent again by its client where the answer says that it may be.
                while kv.put(put(&key, "v")).await.is_err() {
                    refused += 1;
                    assert!(refused < 1000, "writes work again");
                }
            }
            refused
        }));
    }
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let target = id(&cluster, (leader + 1) % MEMBERS).await;
        let moved = move_to(&cluster.raw(leader), target).await;
        assert!(moved.is_ok(), "{moved:?}");
    }
    let mut refused = vec![];
    for writer in writers {
        refused.push(writer.await.unwrap());
    }
    if product().ours {
        assert_eq!(refused, [0; MEMBERS], "writes wait for the new leader");
    }
    let mut kv = cluster.raw(0).kv;
    for (member, refused) in refused.into_iter().enumerate() {
        for number in 0..WRITES {
            let found = kv.range(get(&format!("{member}/{number}"))).await.unwrap().into_inner();
            assert_eq!(found.kvs.len(), 1);
            if refused == 0 {
                assert_eq!(found.kvs[0].version, 1, "applied once");
            }
        }
    }
}
