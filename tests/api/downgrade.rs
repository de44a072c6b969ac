//! Downgrade: what may be asked for, what Status and the version page then say, and its end.

use crate::cluster::{Cluster, Engine, Raw, eventually, product, skipped};
use crate::on_each_engine;
use crate::requests::refusal;
use quoin::pb::etcdserverpb::{DowngradeInfo, DowngradeRequest, DowngradeResponse};
use tonic::{Code, Response, Status};

on_each_engine![
    a_target_is_the_version_just_below,
    a_downgrade_is_known_to_all_until_it_is_canceled,
];

const VALIDATE: i32 = 0;
const ENABLE: i32 = 1;
const CANCEL: i32 = 2;

async fn downgrade(
    raw: &Raw,
    action: i32,
    version: &str,
) -> Result<Response<DowngradeResponse>, Status> {
    let request = DowngradeRequest { action, version: version.to_owned() };
    raw.maintenance.clone().downgrade(request).await
}

async fn accepted(raw: &Raw, action: i32, version: &str) -> String {
    let answer = downgrade(raw, action, version).await.unwrap().into_inner();
    let header = answer.header.unwrap();
    assert!(header.member_id != 0 && header.raft_term != 0 && header.revision == 1);
    answer.version
}

async fn info(raw: &Raw) -> DowngradeInfo {
    raw.status().await.unwrap().downgrade_info.unwrap()
}

/// Waits until every member says that the cluster's version is this.
async fn settled(cluster: &Cluster, version: &str) {
    eventually(&format!("cluster version {version}"), async || {
        for member in 0..cluster.members.len() {
            let status = cluster.raw(member).status().await.map_err(|e| e.to_string())?;
            if status.storage_version != version {
                return Err(format!("{member}: {}", status.storage_version));
            }
        }
        Ok(())
    })
    .await;
}

fn is_known() -> bool {
    let known = product().at_least(3, 6);
    if !known {
        skipped("this server downgrades in other ways");
    }
    known
}

async fn a_target_is_the_version_just_below(engine: Engine) {
    if !is_known() {
        return;
    }
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    settled(&cluster, "3.7.0").await;
    let format =
        (Code::InvalidArgument, "etcdserver: wrong downgrade target version format".into());
    let target = (Code::InvalidArgument, "etcdserver: invalid downgrade target version".into());
    for version in ["3.6", "3.6.0", "3.6.9", "3.6.0-rc.1", "03.6", "3.6.0+x"] {
        assert_eq!(accepted(&raw, VALIDATE, version).await, "3.7", "{version:?}");
    }
    for action in [VALIDATE, ENABLE] {
        for version in ["", "x", "3", "3.6.x", "v3.6", " 3.6", "3.6.", "3.6-alpha", "3.-6"] {
            let refused = refusal(downgrade(&raw, action, version).await);
            assert_eq!(refused, format, "{version:?}");
        }
        for version in ["3.7", "3.7.1", "3.5", "3.8", "4.0", "2.7"] {
            let refused = refusal(downgrade(&raw, action, version).await);
            assert_eq!(refused, target, "{version:?}");
        }
    }
    let unknown = (Code::Unknown, "etcdserver: unknown method".into());
    assert_eq!(refusal(downgrade(&raw, 7, "3.6").await), unknown);
    // Nothing to cancel is no error.
    assert_eq!(accepted(&raw, CANCEL, "").await, "3.7");
    assert_eq!(info(&raw).await, DowngradeInfo::default());
}

async fn a_downgrade_is_known_to_all_until_it_is_canceled(engine: Engine) {
    if !is_known() {
        return;
    }
    let mut cluster = Cluster::start(engine, 3).await;
    settled(&cluster, "3.7.0").await;
    let raws = [cluster.raw(0), cluster.raw(1), cluster.raw(2)];
    assert_eq!(accepted(&raws[0], ENABLE, "3.6.7").await, "3.7");
    let asked = DowngradeInfo { enabled: true, target_version: "3.6.0".into() };
    assert_eq!(info(&raws[0]).await, asked);
    for raw in &raws {
        eventually("news of the downgrade", async || match info(raw).await {
            found if found == asked => Ok(()),
            found => Err(format!("{found:?}")),
        })
        .await;
    }
    settled(&cluster, "3.6.0").await;
    // The target comes before the job in the order of checks.
    let target = (Code::InvalidArgument, "etcdserver: invalid downgrade target version".into());
    let job =
        (Code::FailedPrecondition, "etcdserver: cluster has a downgrade job in progress".into());
    for action in [VALIDATE, ENABLE] {
        assert_eq!(refusal(downgrade(&raws[1], action, "3.6").await), target);
        assert_eq!(refusal(downgrade(&raws[1], action, "3.5").await), job);
    }

    cluster.terminate(2).await;
    cluster.restart(2).await;
    assert_eq!(info(&cluster.raw(2)).await, asked, "it survives a restart");
    settled(&cluster, "3.6.0").await;

    assert_eq!(accepted(&raws[1], CANCEL, "whatever").await, "3.6");
    assert_eq!(info(&raws[1]).await, DowngradeInfo::default());
    settled(&cluster, "3.7.0").await;
    assert_eq!(accepted(&raws[0], VALIDATE, "3.6").await, "3.7");
}
