//! Compaction without being asked. What happens when is tested without waiting beside the code;
//! here, that it happens at all, and through the leader alone.

use crate::cluster::{Cluster, Engine, Setup, eventually};
use crate::on_each_engine;
use crate::requests::{get, put};
use quoin::pb::etcdserverpb::RangeRequest;
use std::time::{Duration, Instant};
use tonic::Code;

on_each_engine![what_is_older_than_the_period_goes, the_leader_of_the_day_compacts];

const STARTING: &str = "starting auto periodic compaction";

async fn is_compacted(cluster: &Cluster, member: usize, revision: i64) -> bool {
    let past = RangeRequest { revision, serializable: true, ..get("k") };
    match cluster.raw(member).kv.range(past).await {
        Ok(_) => false,
        Err(status) => {
            assert_eq!(status.code(), Code::OutOfRange, "{status}");
            assert!(status.message().contains("compacted"), "{status}");
            true
        }
    }
}

async fn write(cluster: &Cluster) -> i64 {
    let answer = cluster.raw(0).kv.put(put("k", "v")).await.unwrap().into_inner();
    answer.header.unwrap().revision
}

async fn what_is_older_than_the_period_goes(engine: Engine) {
    let begun = Instant::now();
    let setup = Setup::new(engine, 1).flag("--auto-compaction-retention=2s");
    let cluster = setup.start().await;
    write(&cluster).await;
    let before = Instant::now();
    let past = write(&cluster).await;
    assert!(!is_compacted(&cluster, 0, past - 1).await || begun.elapsed().as_secs() >= 2);
    eventually("the end of what is old", async || {
        let newest = write(&cluster).await;
        assert!(!is_compacted(&cluster, 0, newest).await, "the present stays");
        if is_compacted(&cluster, 0, past - 1).await { Ok(()) } else { Err("it is there".into()) }
    })
    .await;
    // Both the revision and its successor must have been there for a period.
    assert!(before.elapsed() >= Duration::from_millis(1900), "{:?}", before.elapsed());
}

async fn the_leader_of_the_day_compacts(engine: Engine) {
    let setup = Setup::new(engine, 3).flag("--auto-compaction-retention=1s");
    let mut cluster = setup.flag("--auto-compaction-mode=periodic").start().await;
    let first = cluster.leader().await;
    let past = write(&cluster).await;
    write(&cluster).await;
    eventually("compaction", async || {
        write(&cluster).await;
        if is_compacted(&cluster, 0, past).await { Ok(()) } else { Err("it is there".into()) }
    })
    .await;
    for member in 0..3 {
        eventually("compaction everywhere", async || {
            match is_compacted(&cluster, member, past).await {
                true => Ok(()),
                false => Err("it is there".into()),
            }
        })
        .await;
    }
    assert!(cluster.members[first].output().contains(STARTING));
    for member in [(first + 1) % 3, (first + 2) % 3] {
        assert!(!cluster.members[member].output().contains(STARTING), "a follower");
    }
    cluster.terminate(first).await;
    let next = cluster.leader().await;
    eventually("compaction by the next leader", async || {
        let mut kv = cluster.raw(next).kv;
        kv.put(put("k", "v")).await.map_err(|e| e.to_string())?;
        match cluster.members[next].output().contains(STARTING) {
            true => Ok(()),
            false => Err("not yet".into()),
        }
    })
    .await;
}
