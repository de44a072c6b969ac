//! Data folders that earlier versions wrote: they open with all that they hold.

use crate::cluster::{Cluster, Engine, Setup, product};
use crate::on_each_engine;
use etcd_client::{GetOptions, LeaseTimeToLiveOptions};
use quoin::pb::etcdserverpb::HashKvRequest;
use std::path::Path;
use std::process::Command;

on_each_engine![a_folder_of_an_earlier_version_opens_with_all_it_holds];

/// What HashKV gave when the first folder was written, of the revisions up to the last.
const HASH: u32 = 3_536_932_879;
const REVISION: i64 = 51;

async fn a_folder_of_an_earlier_version_opens_with_all_it_holds(engine: Engine) {
    if !product().ours {
        return;
    }
    let archives = Path::new(env!("CARGO_MANIFEST_DIR")).join("etcd-test-data/upgrade");
    let mut opened = 0;
    for archive in std::fs::read_dir(archives).expect("archives") {
        let archive = archive.expect("an archive").path();
        let name = archive.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with(engine.name()) {
            open(engine, &archive).await;
            opened += 1;
        }
    }
    assert!(opened > 0, "no folder of {}", engine.name());
}

async fn open(engine: Engine, archive: &Path) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let folder = cluster.data_folder(0);
    std::fs::create_dir_all(&folder).expect("a folder");
    let unpacked = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&folder).status();
    assert!(unpacked.expect("tar").success(), "unpack {}", archive.display());
    cluster.members[0].flags.push("--name=old".into());
    cluster.start_all().await.unwrap_or_else(|why| panic!("{}: {why}", archive.display()));

    let mut client = cluster.client().await;
    let all = client.get("", Some(GetOptions::new().with_all_keys())).await.unwrap();
    assert_eq!(all.header().unwrap().revision(), REVISION);
    let mut expected: Vec<(String, String)> = (1..=40)
        .filter(|n| *n != 9)
        .map(|n| {
            let value = match n {
                1 => "third".into(),
                3 | 5 | 7 => format!("second-{n}"),
                n => format!("value-{n}"),
            };
            (format!("key/{n}"), value)
        })
        .collect();
    expected.extend([("last".into(), "5".into()), ("txn".into(), "yes".into())]);
    expected.sort();
    let found = all
        .kvs()
        .iter()
        .map(|kv| (kv.key_str().unwrap().to_owned(), kv.value_str().unwrap().to_owned()));
    assert_eq!(found.collect::<Vec<_>>(), expected);

    // The past down to the compaction, the lease and its keys.
    let past = client.get("key/3", Some(GetOptions::new().with_revision(30))).await.unwrap();
    assert_eq!(past.kvs()[0].value_str().unwrap(), "value-3");
    let compacted = client.get("key/3", Some(GetOptions::new().with_revision(19))).await;
    assert!(compacted.unwrap_err().to_string().contains("has been compacted"));
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let lease = client.lease_time_to_live(4242, Some(options)).await.unwrap();
    assert_eq!(lease.granted_ttl(), 1_000_000_000);
    assert_eq!(lease.keys(), [&b"key/3"[..], b"key/5", b"key/7"]);
    let mut maintenance = cluster.raw(0).maintenance;
    let hash = maintenance.hash_kv(HashKvRequest { revision: REVISION }).await.unwrap();
    assert_eq!(hash.into_inner().hash, HASH);

    // It goes on, and what is written now is there after another start.
    let put = client.put("new", "value", None).await.unwrap();
    assert_eq!(put.header().unwrap().revision(), REVISION + 1);
    cluster.kill(0);
    cluster.restart(0).await;
    let new = cluster.client().await.get("new", None).await.unwrap();
    assert_eq!(new.kvs()[0].value_str().unwrap(), "value");
}
