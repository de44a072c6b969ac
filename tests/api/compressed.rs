//! Requests that come compressed, which etcd takes since its client is part of it.

use crate::cluster::{Cluster, Engine};
use crate::on_each_engine;
use crate::requests::{get, put};
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, StatusRequest, WatchCreateRequest, WatchRequest,
};
use tonic::Code;
use tonic::codec::CompressionEncoding::Gzip;

on_each_engine![compressed_requests_are_served, what_unpacks_to_too_much_is_refused];

async fn compressed_requests_are_served(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let raw = cluster.raw(0);
    let mut kv = raw.kv.send_compressed(Gzip).accept_compressed(Gzip);
    let value = "v".repeat(100_000);
    kv.put(put("k", &value)).await.unwrap();
    let answer = kv.range(get("k")).await.unwrap().into_inner();
    assert_eq!(answer.kvs[0].value, value);
    let mut maintenance = raw.maintenance.send_compressed(Gzip).accept_compressed(Gzip);
    assert!(maintenance.status(StatusRequest {}).await.unwrap().into_inner().raft_term > 0);
    let mut lease = raw.lease.send_compressed(Gzip).accept_compressed(Gzip);
    lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 600 }).await.unwrap();
    let requests = tokio_stream::iter([LeaseKeepAliveRequest { id: 7 }]);
    let mut kept = lease.lease_keep_alive(requests).await.unwrap().into_inner();
    assert_eq!(kept.message().await.unwrap().unwrap().ttl, 600);

    let create = WatchCreateRequest { key: "k".into(), start_revision: 2, ..Default::default() };
    let union = Some(RequestUnion::CreateRequest(create));
    let requests = tokio_stream::iter([WatchRequest { request_union: union }]);
    let mut watch = raw.watch.send_compressed(Gzip).accept_compressed(Gzip);
    let mut answers = watch.watch(requests).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().created);
    let event = answers.message().await.unwrap().unwrap();
    assert_eq!(event.events[0].kv.as_ref().unwrap().value, value);
}

async fn what_unpacks_to_too_much_is_refused(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut kv = cluster.raw(0).kv.send_compressed(Gzip).accept_compressed(Gzip);
    let refused = kv.put(put("k", &"v".repeat(100 << 20))).await.unwrap_err();
    let text = "grpc: received message after decompression larger than max 2097152";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
}
