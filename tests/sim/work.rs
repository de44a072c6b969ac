//! What clients ask for: every kind of request whose answer is determined, over few keys so
//! that they meet.

use super::clients::Client;
use super::profile::Profile;
use super::random::Random;
use crate::checker::Request;
use bytes::Bytes;
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use quoin::pb::etcdserverpb::request_op::Request as Op;
use quoin::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

pub fn request(client: &mut Client, profile: &Profile, random: &mut Random) -> Request {
    match random.below(100) {
        0..=29 => Request::Put(put(client, profile, random)),
        30..=39 => Request::DeleteRange(delete(profile, random)),
        40..=54 => Request::Txn(txn(client, profile, random, 2)),
        55..=84 => Request::Range(range(client, profile, random)),
        85..=92 if profile.with_leases => lease(client, random),
        93..=96 if profile.with_compaction => compaction(client, random),
        _ => Request::Range(RangeRequest { key: key(profile, random), ..Default::default() }),
    }
}

/// Keys are `a`, `b` and so on.
pub fn key(profile: &Profile, random: &mut Random) -> Bytes {
    vec![b'a' + random.below(profile.keys) as u8].into()
}

/// An interval: mostly one key, else a run of them, or from one on, or all.
pub fn interval(profile: &Profile, random: &mut Random) -> (Bytes, Bytes) {
    let first = key(profile, random);
    match random.below(6) {
        0..=2 => (first, Bytes::new()),
        3 => {
            let end = vec![first[0] + random.between(1, 4) as u8];
            (first, end.into())
        }
        4 => (first, Bytes::from_static(&[0])),
        _ => (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
    }
}

fn value(client: &mut Client) -> Bytes {
    client.count += 1;
    format!("{}-{}", client.number, client.count).into()
}

fn put(client: &mut Client, profile: &Profile, random: &mut Random) -> PutRequest {
    let mut put = PutRequest {
        key: key(profile, random),
        value: value(client),
        prev_kv: random.chance(300),
        ..Default::default()
    };
    match random.below(20) {
        0 => {
            put.ignore_value = true;
            put.value = Bytes::new();
        }
        1 => put.ignore_lease = true,
        2..=8 if !client.leases.is_empty() => put.lease = *random.pick(&client.leases),
        _ => {}
    }
    put
}

fn delete(profile: &Profile, random: &mut Random) -> DeleteRangeRequest {
    let (key, range_end) = interval(profile, random);
    DeleteRangeRequest { key, range_end, prev_kv: random.chance(500) }
}

fn range(client: &Client, profile: &Profile, random: &mut Random) -> RangeRequest {
    let (key, range_end) = interval(profile, random);
    let last = client.last_revision;
    let revision = match random.below(10) {
        0..=6 => 0,
        7 | 8 => (last - random.below(20) as i64).max(0),
        _ => last + random.below(3) as i64,
    };
    let mut range = RangeRequest {
        key,
        range_end,
        revision,
        limit: if random.chance(200) { random.between(1, 3) as i64 } else { 0 },
        serializable: random.chance(150),
        keys_only: false,
        count_only: random.chance(100),
        ..Default::default()
    };
    if random.chance(100) {
        // Keys differ, so there is one order by them.
        range.sort_target = SortTarget::Key as i32;
        range.sort_order = *random.pick(&[SortOrder::Ascend as i32, SortOrder::Descend as i32]);
    }
    if random.chance(100) {
        range.min_mod_revision = (last - random.below(10) as i64).max(0);
    }
    if random.chance(50) {
        range.max_create_revision = (last - random.below(10) as i64).max(0);
    }
    range
}

fn txn(client: &mut Client, profile: &Profile, random: &mut Random, depth: u32) -> TxnRequest {
    let compare = (0..random.below(3)).map(|_| compare(client, profile, random)).collect();
    TxnRequest {
        compare,
        success: branch(client, profile, random, depth),
        failure: branch(client, profile, random, depth),
    }
}

fn compare(client: &Client, profile: &Profile, random: &mut Random) -> Compare {
    let key = key(profile, random);
    let known = client.known.get(&key);
    let (target, union) = match random.below(5) {
        0 => (
            CompareTarget::Version,
            TargetUnion::Version(known.map_or(0, |kv| kv.version + random.below(2) as i64)),
        ),
        1 => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(known.map_or(0, |kv| kv.create_revision)),
        ),
        2 | 3 => {
            (CompareTarget::Mod, TargetUnion::ModRevision(known.map_or(0, |kv| kv.mod_revision)))
        }
        _ => (
            CompareTarget::Value,
            TargetUnion::Value(known.map_or_else(Bytes::new, |kv| kv.value.clone())),
        ),
    };
    let results = [
        CompareResult::Equal,
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ];
    let range_end = match random.below(10) {
        0 => Bytes::from_static(&[0]),
        _ => Bytes::new(),
    };
    Compare {
        result: *random.pick(&results) as i32,
        target: target as i32,
        key,
        range_end,
        target_union: Some(union),
    }
}

/// Ops of one branch; each key is put or deleted once at most, as validation demands.
fn branch(
    client: &mut Client,
    profile: &Profile,
    random: &mut Random,
    depth: u32,
) -> Vec<RequestOp> {
    let mut ops = Vec::new();
    let mut free: Vec<Bytes> = (0..profile.keys).map(|n| vec![b'a' + n as u8].into()).collect();
    for _ in 0..random.between(1, 4) {
        let op = match random.below(10) {
            0..=4 if !free.is_empty() => {
                let key = free.swap_remove(random.below(free.len() as u64) as usize);
                Op::RequestPut(PutRequest { key, value: value(client), ..Default::default() })
            }
            5 | 6 if !free.is_empty() => {
                let key = free.swap_remove(random.below(free.len() as u64) as usize);
                Op::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() })
            }
            7 if depth > 1 => {
                // Its own keys could be those of this branch: it only reads.
                let key = key(profile, random);
                let read = Op::RequestRange(RangeRequest { key, ..Default::default() });
                let success = vec![RequestOp { request: Some(read) }];
                let compare = vec![compare(client, profile, random)];
                Op::RequestTxn(TxnRequest { compare, success, failure: vec![] })
            }
            _ => {
                let (key, range_end) = interval(profile, random);
                Op::RequestRange(RangeRequest { key, range_end, ..Default::default() })
            }
        };
        ops.push(RequestOp { request: Some(op) });
    }
    ops
}

fn lease(client: &mut Client, random: &mut Random) -> Request {
    let held = (!client.leases.is_empty()).then(|| *random.pick(&client.leases));
    match (random.below(10), held) {
        (0, Some(id)) => Request::LeaseRevoke(LeaseRevokeRequest { id }),
        (1..=6, Some(id)) => Request::LeaseKeepAlive(LeaseKeepAliveRequest { id }),
        _ => {
            client.count += 1;
            let id = (client.number as i64 + 1) * 1_000_000 + client.count as i64;
            Request::LeaseGrant(LeaseGrantRequest { ttl: random.between(2, 4) as i64, id })
        }
    }
}

fn compaction(client: &Client, random: &mut Random) -> Request {
    let revision = (client.last_revision - random.skewed(0, 20) as i64).max(1);
    Request::Compact(CompactionRequest { revision, physical: random.chance(300) })
}
