//! The Snapshot call as a client sees it.

use crate::cluster::{Cluster, Engine, Raw};
use crate::on_each_engine;
use quoin::bolt::{Database, Source};
use quoin::error::Fatal;
use quoin::pb::etcdserverpb::{CompactionRequest, PutRequest, SnapshotRequest, SnapshotResponse};
use sha2::{Digest, Sha256};
use tonic::Streaming;

on_each_engine![
    a_backup_is_a_database_in_blobs_with_its_checksum,
    a_client_that_does_not_read_holds_nothing_up,
    a_backup_is_the_state_of_its_moment,
];

struct File(Vec<u8>);

impl Source for File {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal> {
        Source::read_at(&self.0[..], offset, bytes)
    }
}

async fn put(raw: &mut Raw, key: &str, len: usize) {
    let (key, value) = (key.to_owned().into(), vec![b'v'; len].into());
    raw.kv.put(PutRequest { key, value, ..PutRequest::default() }).await.unwrap();
}

async fn begin(raw: &mut Raw) -> Streaming<SnapshotResponse> {
    raw.maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner()
}

/// The rest of a stream, checked message by message: what was received before goes in front.
async fn read(
    mut stream: Streaming<SnapshotResponse>,
    mut messages: Vec<SnapshotResponse>,
) -> Vec<u8> {
    while let Some(message) = stream.message().await.unwrap() {
        messages.push(message);
    }
    let total: usize = messages.iter().map(|message| message.blob.len()).sum();
    assert_eq!(total % 512, 32, "whole sectors and a checksum");
    let version = messages[0].version.clone();
    assert!(version.starts_with("3.") && version.ends_with(".0"), "{version}");
    let hash = messages.pop().unwrap();
    assert_eq!((hash.blob.len(), hash.remaining_bytes, hash.header), (32, 0, None));
    assert_eq!(hash.version, version);
    let mut left = (total - 32) as u64;
    let mut file = Vec::new();
    let last = messages.len() - 1;
    for (number, message) in messages.into_iter().enumerate() {
        left -= message.blob.len() as u64;
        assert_eq!((message.remaining_bytes, message.header), (left, None));
        assert_eq!(message.version, version);
        if number < last {
            assert_eq!(message.blob.len(), 32 << 10);
        }
        file.extend_from_slice(&message.blob);
    }
    assert_eq!(Sha256::digest(&file)[..], hash.blob[..]);
    file
}

/// The number of versions in a backup that is sound.
fn versions(file: Vec<u8>) -> usize {
    let file = File(file);
    let database = Database::open(&file).unwrap();
    database.check().unwrap();
    let mut versions = 0;
    let count = &mut |_: &[u8], _: &[u8], _: &[u8]| {
        versions += 1;
        Ok(())
    };
    database.walk(Some(b"key"), count).unwrap();
    versions
}

async fn a_backup_is_a_database_in_blobs_with_its_checksum(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut raw = cluster.raw(0);
    let empty = begin(&mut raw).await;
    assert_eq!(versions(read(empty, vec![]).await), 0);
    for number in 0..30 {
        put(&mut raw, &format!("k{}", number % 20), 10_000).await;
    }
    let full = begin(&mut raw).await;
    assert_eq!(versions(read(full, vec![]).await), 30);
}

/// More than all windows and buffers between the two hold, so that the server has to wait.
async fn a_client_that_does_not_read_holds_nothing_up(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut raw = cluster.raw(0);
    for number in 0..60 {
        put(&mut raw, &format!("k{}", number % 30), 700_000).await;
    }
    let mut stream = begin(&mut raw).await;
    let first = stream.message().await.unwrap().unwrap();
    assert!(first.remaining_bytes > 40_000_000);
    // On a connection of its own; waits until nothing is left to be removed.
    let mut other = cluster.raw(0);
    let compaction = CompactionRequest { revision: 61, physical: true };
    other.kv.compact(compaction).await.unwrap();
    put(&mut other, "later", 10).await;
    assert_eq!(versions(read(stream, vec![first]).await), 60);
    let compacted = begin(&mut other).await;
    assert_eq!(versions(read(compacted, vec![]).await), 31);
}

async fn a_backup_is_the_state_of_its_moment(engine: Engine) {
    let cluster = Cluster::start(engine, 3).await;
    let mut raw = cluster.raw(1);
    for number in 0..10 {
        put(&mut raw, &format!("k{number}"), 1000).await;
    }
    let mut follower = cluster.raw(2);
    cluster.same_revision(&[0, 1, 2]).await;
    let stream = begin(&mut follower).await;
    for number in 10..20 {
        put(&mut raw, &format!("k{number}"), 1000).await;
    }
    assert_eq!(versions(read(stream, vec![]).await), 10);
    // No member keeps a file of it.
    for member in 0..3 {
        let folder = cluster.data_folder(member).join("member/snap");
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(!names.into_iter().any(|name| name.starts_with("backup")));
    }
}
