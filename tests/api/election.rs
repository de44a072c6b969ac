//! Elections: who leads, what it says, and what becomes of those who wait.

use crate::cluster::{Cluster, Engine, Raw, product};
use crate::lock::{grant, leases_in_queue, queue, queued, revoke};
use crate::on_each_engine;
use crate::requests::refusal;
use quoin::pb::etcdserverpb::CompactionRequest;
use quoin::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status, Streaming};

on_each_engine![
    who_stands_first_leads,
    a_leader_that_is_none_is_refused,
    a_lease_campaigns_once,
    a_candidate_that_goes_away_leaves_no_key,
    a_candidate_whose_lease_ends_is_told,
    observers_see_each_leader_and_each_word_of_it,
    an_observer_of_what_was_compacted_goes_on,
    elections_go_through_all_members,
    an_observation_ends_with_its_member,
];

const MEMBERS: usize = 3;

async fn campaign(
    raw: &Raw,
    lease: i64,
    value: &str,
) -> Result<Response<CampaignResponse>, Status> {
    let value = value.to_owned().into();
    raw.election.clone().campaign(CampaignRequest { name: "e".into(), lease, value }).await
}

/// Campaigns with an own lease, and wins at once.
async fn win(raw: &Raw, lease: i64, value: &str) -> LeaderKey {
    grant(raw, lease, 600).await;
    campaign(raw, lease, value).await.unwrap().into_inner().leader.unwrap()
}

/// Campaigns in the background, and returns when the candidate stands last.
async fn stand(
    raw: &Raw,
    lease: i64,
    value: &'static str,
) -> JoinHandle<Result<Response<CampaignResponse>, Status>> {
    grant(raw, lease, 600).await;
    let mut expected = leases_in_queue(raw, "e").await;
    expected.push(lease);
    let candidate = tokio::spawn({
        let raw = raw.clone();
        async move { campaign(&raw, lease, value).await }
    });
    queued(raw, "e", &expected).await;
    candidate
}

async fn leader(raw: &Raw) -> Result<Response<LeaderResponse>, Status> {
    raw.election.clone().leader(LeaderRequest { name: "e".into() }).await
}

/// The leader's word.
async fn word(raw: &Raw) -> String {
    let kv = leader(raw).await.unwrap().into_inner().kv.unwrap();
    String::from_utf8_lossy(&kv.value).into_owned()
}

async fn proclaim(raw: &Raw, leader: &LeaderKey, value: &str) -> Result<i64, Status> {
    let (leader, value) = (Some(leader.clone()), value.to_owned().into());
    let answer = raw.election.clone().proclaim(ProclaimRequest { leader, value }).await?;
    Ok(answer.into_inner().header.unwrap().revision)
}

async fn resign(raw: &Raw, leader: &LeaderKey) -> Result<i64, Status> {
    let leader = Some(leader.clone());
    let answer = raw.election.clone().resign(ResignRequest { leader }).await?;
    Ok(answer.into_inner().header.unwrap().revision)
}

fn unknown(text: &str) -> (Code, String) {
    (Code::Unknown, text.to_owned())
}

fn told<T>(result: Result<T, Status>) -> (Code, String) {
    let status = result.err().expect("the call is refused");
    (status.code(), status.message().to_owned())
}

async fn who_stands_first_leads(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    grant(&raw, 7, 600).await;
    let won = campaign(&raw, 7, "one").await.unwrap().into_inner();
    let header = won.header.unwrap();
    assert_eq!(header.revision, 2);
    assert!(header.member_id != 0 && header.cluster_id != 0 && header.raft_term != 0);
    let first = won.leader.unwrap();
    let expected = LeaderKey { name: "e".into(), key: "e/7".into(), rev: 2, lease: 7 };
    assert_eq!(first, expected);
    let answer = leader(&raw).await.unwrap().into_inner();
    let kv = answer.kv.unwrap();
    assert_eq!((&kv.key[..], &kv.value[..], kv.lease), (&b"e/7"[..], &b"one"[..], 7));
    assert_eq!((kv.create_revision, answer.header.unwrap().revision), (2, 2));

    let second = stand(&raw, 8, "two").await;
    assert_eq!(word(&raw).await, "one");
    assert_eq!(proclaim(&raw, &first, "three").await.unwrap(), 4);
    assert_eq!(word(&raw).await, "three");
    assert_eq!(queue(&raw, "e").await[0].lease, 7, "its word stays with its lease");
    assert!(!second.is_finished());

    assert_eq!(resign(&raw, &first).await.unwrap(), 5);
    let won = second.await.unwrap().unwrap().into_inner();
    assert_eq!(won.header.unwrap().revision, 3, "that of the candidacy");
    let second = LeaderKey { name: "e".into(), key: "e/8".into(), rev: 3, lease: 8 };
    assert_eq!(won.leader.unwrap(), second);
    assert_eq!(word(&raw).await, "two");

    // Who was leader before can neither speak nor give up what is another's.
    assert_eq!(told(proclaim(&raw, &first, "late").await), unknown("election: not leader"));
    assert_eq!(resign(&raw, &first).await.unwrap(), 5, "without effect");
    assert_eq!(word(&raw).await, "two");
    resign(&raw, &second).await.unwrap();
    assert_eq!(refusal(leader(&raw).await), unknown("election: no leader"));

    // Without a lease of its own, a leader gets one of a minute.
    let third = campaign(&raw, 0, "four").await.unwrap().into_inner().leader.unwrap();
    assert_eq!(third.key, format!("e/{:x}", third.lease));
    assert!(third.lease > 0);
}

async fn a_leader_that_is_none_is_refused(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    assert_eq!(refusal(leader(&raw).await), unknown("election: no leader"));
    let missing = unknown("\"leader\" field must be provided");
    let mut election = raw.election.clone();
    assert_eq!(refusal(election.proclaim(ProclaimRequest::default()).await), missing);
    assert_eq!(refusal(election.resign(ResignRequest::default()).await), missing);
    let no_key = unknown("etcdserver: key is not provided");
    let nobody = LeaderKey::default();
    assert_eq!(told(proclaim(&raw, &nobody, "x").await), no_key);
    assert_eq!(told(resign(&raw, &nobody).await), no_key);
    let no_lease = unknown("etcdserver: requested lease not found");
    assert_eq!(refusal(campaign(&raw, 77, "x").await), no_lease);
    assert!(queue(&raw, "e").await.is_empty());

    let first = win(&raw, 7, "one").await;
    let table = [
        LeaderKey { rev: first.rev + 1, ..first.clone() },
        LeaderKey { rev: 0, ..first.clone() },
        LeaderKey { key: "e/8".into(), ..first.clone() },
    ];
    for wrong in table {
        assert_eq!(told(proclaim(&raw, &wrong, "x").await), unknown("election: not leader"));
        resign(&raw, &wrong).await.unwrap();
    }
    let other_lease = LeaderKey { lease: 77, ..first.clone() };
    assert_eq!(told(proclaim(&raw, &other_lease, "x").await), no_lease);
    assert_eq!(word(&raw).await, "one");
    assert_eq!(queue(&raw, "e").await.len(), 1);
}

async fn a_lease_campaigns_once(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let first = win(&raw, 7, "one").await;
    let again = campaign(&raw, 7, "one").await.unwrap().into_inner().leader.unwrap();
    assert_eq!(again, first);
    let again = campaign(&raw, 7, "two").await.unwrap().into_inner().leader.unwrap();
    assert_eq!(again, first);
    assert_eq!(word(&raw).await, "two");
    assert_eq!(queue(&raw, "e").await.len(), 1);
    assert_eq!(
        proclaim(&raw, &first, "three").await.map(|_| ()).map_err(|e| e.to_string()),
        Ok(())
    );
}

async fn a_candidate_that_goes_away_leaves_no_key(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let first = win(&raw, 1, "one").await;
    let leaves = stand(&raw, 2, "two").await;
    let stays = stand(&raw, 3, "three").await;
    leaves.abort();
    queued(&raw, "e", &[1, 3]).await;
    assert!(!stays.is_finished());
    resign(&raw, &first).await.unwrap();
    stays.await.unwrap().unwrap();
    assert_eq!(word(&raw).await, "three");
}

async fn a_candidate_whose_lease_ends_is_told(engine: Engine) {
    if !product().ours {
        return crate::cluster::skipped("etcd calls a candidate without a key the winner");
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    win(&raw, 1, "one").await;
    let loses = stand(&raw, 2, "two").await;
    let stays = stand(&raw, 3, "three").await;
    revoke(&raw, 2).await;
    assert_eq!(refusal(loses.await.unwrap()), unknown("election: not leader"));
    queued(&raw, "e", &[1, 3]).await;
    revoke(&raw, 1).await;
    stays.await.unwrap().unwrap();
    assert_eq!(word(&raw).await, "three");
}

/// What an observer is told.
struct Observer(Streaming<LeaderResponse>);

impl Observer {
    async fn open(raw: &Raw) -> Observer {
        let stream = raw.election.clone().observe(LeaderRequest { name: "e".into() }).await;
        Observer(stream.unwrap().into_inner())
    }

    async fn message(&mut self) -> Result<Option<LeaderResponse>, Status> {
        let limit = Duration::from_secs(14);
        tokio::time::timeout(limit, self.0.message()).await.expect("a message in time")
    }

    /// Key, word and revision of the next message.
    async fn next(&mut self) -> (String, String, i64) {
        let LeaderResponse { header, kv } = self.message().await.unwrap().expect("it goes on");
        let (header, kv) = (header.unwrap(), kv.unwrap());
        assert!(header.member_id != 0 && header.cluster_id != 0 && header.raft_term != 0);
        assert!(header.revision >= kv.mod_revision);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&kv.key), text(&kv.value), kv.mod_revision)
    }
}

fn said(key: &str, word: &str, revision: i64) -> (String, String, i64) {
    (key.to_owned(), word.to_owned(), revision)
}

async fn observers_see_each_leader_and_each_word_of_it(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    // Opened before there is anybody to see.
    let early = tokio::spawn({
        let raw = raw.clone();
        async move {
            let mut observer = Observer::open(&raw).await;
            let first = observer.next().await;
            (observer, first)
        }
    });
    let first = win(&raw, 1, "one").await;
    let (mut early, seen) = early.await.unwrap();
    assert_eq!(seen, said("e/1", "one", 2));
    let mut late = Observer::open(&raw).await;
    assert_eq!(late.next().await, said("e/1", "one", 2), "what is, comes first");
    for number in 3..20 {
        let word = format!("word {number}");
        assert_eq!(proclaim(&raw, &first, &word).await.unwrap(), number);
    }
    for observer in [&mut early, &mut late] {
        for number in 3..20 {
            assert_eq!(observer.next().await, said("e/1", &format!("word {number}"), number));
        }
    }
    let second = stand(&raw, 2, "two").await;
    resign(&raw, &first).await.unwrap();
    second.await.unwrap().unwrap();
    for observer in [&mut early, &mut late] {
        assert_eq!(observer.next().await, said("e/2", "two", 20));
    }
    // Nobody for a while.
    revoke(&raw, 2).await;
    win(&raw, 3, "three").await;
    for observer in [&mut early, &mut late] {
        assert_eq!(observer.next().await, said("e/3", "three", 23));
    }
}

async fn an_observer_of_what_was_compacted_goes_on(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let first = win(&raw, 1, "one").await;
    let mut observer = Observer::open(&raw).await;
    assert_eq!(observer.next().await, said("e/1", "one", 2));
    let last = proclaim(&raw, &first, "two").await.unwrap();
    let compact = CompactionRequest { revision: last, physical: true };
    raw.kv.clone().compact(compact).await.unwrap();
    assert_eq!(observer.next().await, said("e/1", "two", 3));
    proclaim(&raw, &first, "three").await.unwrap();
    assert_eq!(observer.next().await, said("e/1", "three", 4));
}

async fn elections_go_through_all_members(engine: Engine) {
    let cluster = Cluster::start(engine, MEMBERS).await;
    let raws = [cluster.raw(0), cluster.raw(1), cluster.raw(2)];
    grant(&raws[0], 1, 2).await;
    campaign(&raws[0], 1, "one").await.unwrap();
    let mut observers = vec![];
    for raw in &raws {
        let mut observer = Observer::open(raw).await;
        assert_eq!(observer.next().await, said("e/1", "one", 2));
        observers.push(observer);
    }
    let second = stand(&raws[1], 2, "two").await;
    let third = stand(&raws[2], 3, "three").await;
    // The first one's lease ends by itself.
    let won = second.await.unwrap().unwrap().into_inner().leader.unwrap();
    assert_eq!(won.key, "e/2");
    for observer in &mut observers {
        assert_eq!(observer.next().await, said("e/2", "two", 3));
    }
    for raw in &raws {
        assert_eq!(word(raw).await, "two");
    }
    // Any member takes the leader's word and its resignation.
    let revision = proclaim(&raws[2], &won, "more").await.unwrap();
    for observer in &mut observers {
        assert_eq!(observer.next().await, said("e/2", "more", revision));
    }
    assert!(!third.is_finished());
    resign(&raws[0], &won).await.unwrap();
    third.await.unwrap().unwrap();
    for observer in &mut observers {
        assert_eq!(observer.next().await, said("e/3", "three", 4));
    }
}

async fn an_observation_ends_with_its_member(engine: Engine) {
    let mut cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    win(&raw, 1, "one").await;
    let mut observer = Observer::open(&raw).await;
    observer.next().await;
    let mut observers = vec![observer];
    // etcd says nothing at all, not even that it listens, before there is a leader.
    if product().ours {
        let nobody = LeaderRequest { name: "nobody".into() };
        let vacant = raw.election.clone().observe(nobody).await.unwrap();
        observers.push(Observer(vacant.into_inner()));
    }
    cluster.terminate(0).await;
    for mut observer in observers {
        let status = observer.message().await.expect_err("the stream ends with an error");
        if product().ours {
            let expected = (Code::Unavailable, "etcdserver: server stopped");
            assert_eq!((status.code(), status.message()), expected);
        }
    }
    cluster.restart(0).await;
    assert_eq!(word(&cluster.raw(0)).await, "one");
}
