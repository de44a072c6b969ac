//! Who may do what: every call of every service, by each door and on each of its paths, by each kind of caller.
//!
//! A row says what right a call needs; from that follows whether each caller is let through, and
//! with which error it is refused if not. Let through means: not refused by auth, whatever else
//! the call comes to. A call without a row fails the test.

use crate::cluster::{Engine, Raw, Setup};
use crate::credentials::{NOBODY, Token, add_role, add_user, enable, log_in, permission};
use crate::doors::{Call, Door, Outcome, SILENCE, cancelled, methods, silence, stream, unary};
use crate::on_each_engine;
use crate::requests::{all_of, compare, delete, delete_range, get, op, put, range, txn};
use prost::Message as _;
use quoin::pb::authpb::permission::Type;
use quoin::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quoin::pb::etcdserverpb::watch_request::RequestUnion;
use quoin::pb::etcdserverpb::*;
use quoin::pb::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest,
};
use quoin::pb::v3lockpb::{LockRequest, UnlockRequest};
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Code;

on_each_engine![
    each_call_lets_through_whom_it_should,
    each_call_as_json_lets_through_whom_it_should,
];

/// What a call needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// Nothing, and no token is looked at.
    Nothing,
    /// Nothing, but a token that is sent must be good.
    Open,
    User,
    Read,
    Write,
    Both,
    /// To be that user, or an administrator.
    Reader,
    /// To have that role, or to be an administrator.
    ReadingRole,
    Root,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    /// With a token that was good once.
    Ended,
    /// A user without rights.
    Bystander,
    Reader,
    Writer,
    Editor,
    Root,
}

/// In this order, so that what a call takes away is gone only after it was refused to others.
const CALLERS: [Who; 7] =
    [Who::Nobody, Who::Ended, Who::Bystander, Who::Reader, Who::Writer, Who::Editor, Who::Root];

const USER_EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
const INVALID_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");

/// How a call is refused; `None` when it is not. Locks and elections pass on the texts of what they ask for the
/// caller, but no codes, and an observer is not even told a text.
fn expected(method: &str, need: Need, who: Who) -> Option<(Code, &'static str)> {
    let (code, text) = refusal(need, who)?;
    Some(match method.split_once('/') {
        Some((_, "Observe")) => (Code::Ok, SILENCE),
        Some(("Lock" | "Election", _)) => (Code::Unknown, text),
        _ => (code, text),
    })
}

fn refusal(need: Need, who: Who) -> Option<(Code, &'static str)> {
    let right = match need {
        Need::Nothing => return None,
        Need::Open | Need::User => true,
        Need::Read => matches!(who, Who::Reader | Who::Editor | Who::Root),
        Need::Write => matches!(who, Who::Writer | Who::Editor | Who::Root),
        Need::Both => matches!(who, Who::Editor | Who::Root),
        Need::Reader => matches!(who, Who::Reader | Who::Root),
        Need::ReadingRole => matches!(who, Who::Reader | Who::Editor | Who::Root),
        Need::Root => who == Who::Root,
    };
    match who {
        Who::Nobody if need == Need::Open => None,
        Who::Nobody => Some(USER_EMPTY),
        Who::Ended => Some(INVALID_TOKEN),
        _ => (!right).then_some(DENIED),
    }
}

struct Row {
    method: &'static str,
    path: &'static str,
    need: Need,
    call: Call,
}

fn row(method: &'static str, path: &'static str, need: Need, call: Call) -> Row {
    Row { method, path, need, call }
}

fn watch(key: &'static str, range_end: &'static str) -> Call {
    let create =
        WatchCreateRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    Call {
        message: request.encode_to_vec(),
        by_grpc: Arc::new(move |raw: Raw, token: Token| -> Outcome {
            let requests = token.on(tokio_stream::iter([request.clone()]));
            Box::pin(async move {
                let mut answers = raw.watch.clone().watch(requests).await?.into_inner();
                let answer = answers.message().await?.unwrap();
                if answer.canceled {
                    assert_eq!((answer.created, answer.watch_id), (true, -1));
                }
                cancelled(&answer.cancel_reason)
            })
        }),
    }
}

fn keep_alive(id: i64) -> Call {
    let request = LeaseKeepAliveRequest { id };
    Call {
        message: request.encode_to_vec(),
        by_grpc: Arc::new(move |raw: Raw, token: Token| -> Outcome {
            let requests = token.on(tokio_stream::iter([request]));
            Box::pin(async move {
                let answers = raw.lease.clone().lease_keep_alive(requests).await?;
                answers.into_inner().message().await.map(drop)
            })
        }),
    }
}

fn leased(key: &str, lease: i64) -> PutRequest {
    PutRequest { lease, ..put(key, "v") }
}

fn put_prev(key: &str) -> PutRequest {
    PutRequest { prev_kv: true, ..put(key, "v") }
}

fn delete_prev(key: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { prev_kv: true, ..delete(key) }
}

fn serializable(request: RangeRequest) -> RangeRequest {
    RangeRequest { serializable: true, ..request }
}

/// A comparison that fails, so that the other branch is taken.
fn never(key: &str) -> Compare {
    compare(key, CompareTarget::Version, CompareResult::Less, Some(TargetUnion::Version(0)))
}

fn otherwise(op: RequestOp) -> TxnRequest {
    txn(vec![], vec![], vec![op])
}

/// Keys from `k` to `l` are granted; `m` is not. Lease 7 has `m`, leases 8 and 9 have keys that are
/// granted, leases 10 to 13 have none.
fn kv_rows() -> Vec<Row> {
    use Need::{Both, Read, Root, Write};
    vec![
        row("KV/Range", "granted", Read, unary!(kv.range(get("k1")))),
        row("KV/Range", "granted range", Read, unary!(kv.range(range("k", "l")))),
        row("KV/Range", "one key too many", Root, unary!(kv.range(range("k", "l\0")))),
        row("KV/Range", "open end", Root, unary!(kv.range(range("k", "\0")))),
        row("KV/Range", "everything", Root, unary!(kv.range(range("\0", "\0")))),
        row("KV/Range", "other", Root, unary!(kv.range(get("m")))),
        row("KV/Range", "other, local", Root, unary!(kv.range(serializable(get("m"))))),
        row(
            "KV/Range",
            "other, counted",
            Root,
            unary!(kv.range(RangeRequest { count_only: true, ..get("m") })),
        ),
        row("KV/RangeStream", "granted", Read, stream!(kv.range_stream(get("k1")))),
        row("KV/RangeStream", "open end", Root, stream!(kv.range_stream(range("k", "\0")))),
        row("KV/RangeStream", "other", Root, stream!(kv.range_stream(get("m")))),
        row("KV/Put", "granted", Write, unary!(kv.put(put("k1", "v")))),
        row("KV/Put", "other", Root, unary!(kv.put(put("n", "v")))),
        row("KV/Put", "previous value", Both, unary!(kv.put(put_prev("k1")))),
        row("KV/Put", "lease of granted keys", Write, unary!(kv.put(leased("k1", 8)))),
        row("KV/Put", "lease of other keys", Root, unary!(kv.put(leased("k1", 7)))),
        row("KV/Put", "lease without keys", Write, unary!(kv.put(leased("k5", 10)))),
        row("KV/DeleteRange", "granted", Write, unary!(kv.delete_range(delete("k3")))),
        row("KV/DeleteRange", "range", Write, unary!(kv.delete_range(delete_range("k3", "k4")))),
        row("KV/DeleteRange", "open end", Root, unary!(kv.delete_range(delete_range("z", "\0")))),
        row("KV/DeleteRange", "other", Root, unary!(kv.delete_range(delete("m2")))),
        row("KV/DeleteRange", "previous value", Both, unary!(kv.delete_range(delete_prev("k3")))),
        row("KV/Compact", "", Root, unary!(kv.compact(CompactionRequest::default()))),
    ]
}

fn txn_rows() -> Vec<Row> {
    use Need::{Both, Open, Read, Root, Write};
    vec![
        row("KV/Txn", "empty", Open, unary!(kv.txn(all_of(vec![])))),
        row("KV/Txn", "range", Read, unary!(kv.txn(all_of(vec![op(get("k1"))])))),
        row("KV/Txn", "other range", Root, unary!(kv.txn(all_of(vec![op(get("m"))])))),
        row("KV/Txn", "put", Write, unary!(kv.txn(all_of(vec![op(put("k1", "v"))])))),
        row("KV/Txn", "other put", Root, unary!(kv.txn(all_of(vec![op(put("n", "v"))])))),
        row("KV/Txn", "put and range", Both, {
            unary!(kv.txn(all_of(vec![op(put("k1", "v")), op(get("k2"))])))
        }),
        row("KV/Txn", "previous value", Both, unary!(kv.txn(all_of(vec![op(put_prev("k1"))])))),
        row("KV/Txn", "deleted value", Both, {
            unary!(kv.txn(all_of(vec![op(delete_prev("k3"))])))
        }),
        row("KV/Txn", "delete", Write, unary!(kv.txn(all_of(vec![op(delete("k3"))])))),
        row("KV/Txn", "delete without end", Root, {
            unary!(kv.txn(all_of(vec![op(delete_range("z", "\0"))])))
        }),
        row("KV/Txn", "branch not taken", Root, unary!(kv.txn(otherwise(op(put("n", "v")))))),
        row("KV/Txn", "range not taken", Root, unary!(kv.txn(otherwise(op(get("m")))))),
        row("KV/Txn", "comparison", Read, {
            unary!(kv.txn(txn(vec![never("k1")], vec![], vec![])))
        }),
        row("KV/Txn", "other comparison", Root, {
            unary!(kv.txn(txn(vec![never("m")], vec![], vec![])))
        }),
        row("KV/Txn", "comparison of a range", Root, {
            let wide = || Compare { range_end: "\0".into(), ..never("k1") };
            unary!(kv.txn(txn(vec![wide()], vec![], vec![])))
        }),
        row("KV/Txn", "lease of other keys", Root, {
            unary!(kv.txn(all_of(vec![op(leased("k1", 7))])))
        }),
        row("KV/Txn", "nested put", Write, {
            unary!(kv.txn(all_of(vec![op(all_of(vec![op(put("k1", "v"))]))])))
        }),
        row("KV/Txn", "nested other put", Root, {
            unary!(kv.txn(all_of(vec![op(all_of(vec![op(put("n", "v"))]))])))
        }),
        row("KV/Txn", "nested other range", Root, {
            unary!(kv.txn(all_of(vec![op(all_of(vec![op(get("m"))]))])))
        }),
        row("KV/Txn", "nested branch not taken", Root, {
            unary!(kv.txn(otherwise(op(otherwise(op(delete("m2")))))))
        }),
        row("KV/Txn", "nested other comparison", Root, {
            unary!(kv.txn(all_of(vec![op(txn(vec![never("m")], vec![], vec![]))])))
        }),
        row("KV/Txn", "nested lease of other keys", Root, {
            unary!(kv.txn(all_of(vec![op(all_of(vec![op(leased("k1", 7))]))])))
        }),
        row("KV/Txn", "comparison beside a put", Both, {
            unary!(kv.txn(txn(vec![never("k2")], vec![op(put("k1", "v"))], vec![])))
        }),
    ]
}

fn stream_rows() -> Vec<Row> {
    use Need::{Read, Root, User, Write};
    vec![
        row("Watch/Watch", "granted", Read, watch("k1", "")),
        row("Watch/Watch", "granted range", Read, watch("k", "l")),
        row("Watch/Watch", "open end", Root, watch("k", "\0")),
        row("Watch/Watch", "everything", Root, watch("", "\0")),
        row("Watch/Watch", "no key", Root, watch("", "")),
        row("Watch/Watch", "other", Root, watch("m", "")),
        row("Lease/LeaseGrant", "", User, {
            unary!(lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 600 }))
        }),
        row("Lease/LeaseKeepAlive", "granted keys", Write, keep_alive(8)),
        row("Lease/LeaseKeepAlive", "other keys", Root, keep_alive(7)),
        row("Lease/LeaseKeepAlive", "no keys", User, keep_alive(11)),
        row("Lease/LeaseKeepAlive", "no such lease", User, keep_alive(99)),
        row("Lease/LeaseTimeToLive", "granted keys", Read, {
            unary!(lease.lease_time_to_live(LeaseTimeToLiveRequest { id: 8, keys: true }))
        }),
        row("Lease/LeaseTimeToLive", "other keys", Root, {
            unary!(lease.lease_time_to_live(LeaseTimeToLiveRequest { id: 7, keys: true }))
        }),
        row("Lease/LeaseTimeToLive", "no keys", User, {
            unary!(lease.lease_time_to_live(LeaseTimeToLiveRequest { id: 7, keys: false }))
        }),
        row("Lease/LeaseLeases", "", Root, unary!(lease.lease_leases(LeaseLeasesRequest {}))),
        row("Lease/LeaseRevoke", "granted keys", Write, {
            unary!(lease.lease_revoke(LeaseRevokeRequest { id: 9 }))
        }),
        row("Lease/LeaseRevoke", "no such lease", User, {
            unary!(lease.lease_revoke(LeaseRevokeRequest { id: 99 }))
        }),
        row("Lease/LeaseRevoke", "other keys", Root, {
            unary!(lease.lease_revoke(LeaseRevokeRequest { id: 7 }))
        }),
    ]
}

/// All callers stand in queues with the same lease, so that none waits for another.
fn queue_rows() -> Vec<Row> {
    use Need::{Both, Read, Root, Write};
    // Apart, since whose lease has a key that is not granted may attach nothing to it.
    let lease = |name: &str| if name.starts_with('k') { 12 } else { 13 };
    let enter = move |name: &str| LockRequest { name: name.to_owned().into(), lease: lease(name) };
    let leave = |key: &str| UnlockRequest { key: key.to_owned().into() };
    let campaign = move |name: &str| CampaignRequest {
        name: name.to_owned().into(),
        lease: lease(name),
        value: "v".into(),
    };
    let leads = move |key: &str| {
        let (lease, key) = (lease(key), key.to_owned().into());
        Some(LeaderKey { name: "e".into(), key, rev: 1, lease })
    };
    let proclaim = move |key: &str| ProclaimRequest { leader: leads(key), value: "v".into() };
    let resign = move |key: &str| ResignRequest { leader: leads(key) };
    let leader = |name: &str| LeaderRequest { name: name.to_owned().into() };
    vec![
        row("Lock/Lock", "granted", Both, unary!(lock.lock(enter("k-lock")))),
        row("Lock/Lock", "other", Root, unary!(lock.lock(enter("m-lock")))),
        row("Lock/Unlock", "granted", Write, unary!(lock.unlock(leave("k-lock/c")))),
        row("Lock/Unlock", "other", Root, unary!(lock.unlock(leave("m-lock/d")))),
        row("Election/Campaign", "granted", Both, unary!(election.campaign(campaign("k-vote")))),
        row("Election/Campaign", "other", Root, unary!(election.campaign(campaign("m-vote")))),
        row("Election/Leader", "granted", Read, unary!(election.leader(leader("k-vote")))),
        row("Election/Leader", "other", Root, unary!(election.leader(leader("m-vote")))),
        row("Election/Observe", "granted", Read, stream!(election.observe(leader("k-vote")))),
        row("Election/Observe", "other", Root, stream!(election.observe(leader("m-vote")))),
        row("Election/Proclaim", "granted", Both, unary!(election.proclaim(proclaim("k-vote/c")))),
        row("Election/Proclaim", "other", Root, unary!(election.proclaim(proclaim("m-vote/d")))),
        row("Election/Resign", "granted", Both, unary!(election.resign(resign("k-vote/c")))),
        row("Election/Resign", "other", Root, unary!(election.resign(resign("m-vote/d")))),
    ]
}

fn operator_rows() -> Vec<Row> {
    use Need::{Root, User};
    let add = || MemberAddRequest { peer_ur_ls: vec!["http://a:1".to_owned()], is_learner: true };
    let update = || MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://a:1".to_owned()] };
    let alarm = |action: i32| AlarmRequest { action, member_id: 1, alarm: 0 };
    vec![
        row("Cluster/MemberAdd", "", Root, unary!(cluster.member_add(add()))),
        row("Cluster/MemberRemove", "", Root, {
            unary!(cluster.member_remove(MemberRemoveRequest { id: 1 }))
        }),
        row("Cluster/MemberUpdate", "", Root, unary!(cluster.member_update(update()))),
        row("Cluster/MemberList", "", User, {
            unary!(cluster.member_list(MemberListRequest { linearizable: true }))
        }),
        row("Cluster/MemberList", "local", User, {
            unary!(cluster.member_list(MemberListRequest { linearizable: false }))
        }),
        row("Cluster/MemberPromote", "", Root, {
            unary!(cluster.member_promote(MemberPromoteRequest { id: 1 }))
        }),
        row("Maintenance/Alarm", "get", User, unary!(maintenance.alarm(alarm(0)))),
        row("Maintenance/Alarm", "activate", Root, unary!(maintenance.alarm(alarm(1)))),
        row("Maintenance/Alarm", "deactivate", Root, unary!(maintenance.alarm(alarm(2)))),
        row("Maintenance/Status", "", User, unary!(maintenance.status(StatusRequest {}))),
        row("Maintenance/Defragment", "", Root, {
            unary!(maintenance.defragment(DefragmentRequest {}))
        }),
        row("Maintenance/Hash", "", Root, unary!(maintenance.hash(HashRequest {}))),
        row("Maintenance/HashKV", "", Root, {
            unary!(maintenance.hash_kv(HashKvRequest { revision: 0 }))
        }),
        row("Maintenance/Snapshot", "", Root, stream!(maintenance.snapshot(SnapshotRequest {}))),
        row("Maintenance/MoveLeader", "", Root, {
            unary!(maintenance.move_leader(MoveLeaderRequest { target_id: 1 }))
        }),
        row("Maintenance/Downgrade", "", Root, {
            unary!(maintenance.downgrade(DowngradeRequest { action: 0, version: "x".to_owned() }))
        }),
    ]
}

fn auth_rows() -> Vec<Row> {
    use Need::{Nothing, Open, Reader, ReadingRole, Root};
    let name = || "nobody here".to_owned();
    let user_add = || AuthUserAddRequest { name: "reader".to_owned(), ..Default::default() };
    let password = move || AuthUserChangePasswordRequest {
        name: name(),
        password: "p".to_owned(),
        ..Default::default()
    };
    let grant = move || AuthUserGrantRoleRequest { user: name(), role: name() };
    let revoke = move || AuthUserRevokeRoleRequest { name: name(), role: name() };
    let permit = move || AuthRoleGrantPermissionRequest {
        name: name(),
        perm: Some(permission(Type::Read, "a", "")),
    };
    let withdraw = move || AuthRoleRevokePermissionRequest { role: name(), ..Default::default() };
    let user = |name: &str| AuthUserGetRequest { name: name.to_owned() };
    let role = |role: &str| AuthRoleGetRequest { role: role.to_owned() };
    let delete = move || AuthUserDeleteRequest { name: name() };
    let log_in = || AuthenticateRequest { name: "reader".into(), password: "reader".into() };
    vec![
        row("Auth/AuthEnable", "", Root, unary!(auth.auth_enable(AuthEnableRequest {}))),
        row("Auth/AuthStatus", "", Open, unary!(auth.auth_status(AuthStatusRequest {}))),
        row("Auth/Authenticate", "", Nothing, unary!(auth.authenticate(log_in()))),
        row("Auth/UserAdd", "", Root, unary!(auth.user_add(user_add()))),
        row("Auth/UserGet", "own", Reader, unary!(auth.user_get(user("reader")))),
        row("Auth/UserGet", "other", Root, unary!(auth.user_get(user("nobody here")))),
        row("Auth/UserList", "", Root, unary!(auth.user_list(AuthUserListRequest {}))),
        row("Auth/UserDelete", "", Root, unary!(auth.user_delete(delete()))),
        row("Auth/UserChangePassword", "", Root, unary!(auth.user_change_password(password()))),
        row("Auth/UserGrantRole", "", Root, unary!(auth.user_grant_role(grant()))),
        row("Auth/UserRevokeRole", "", Root, unary!(auth.user_revoke_role(revoke()))),
        row("Auth/RoleAdd", "", Root, {
            unary!(auth.role_add(AuthRoleAddRequest { name: String::new() }))
        }),
        row("Auth/RoleGet", "held", ReadingRole, unary!(auth.role_get(role("reading")))),
        row("Auth/RoleGet", "root's", Root, unary!(auth.role_get(role("root")))),
        row("Auth/RoleList", "", Root, unary!(auth.role_list(AuthRoleListRequest {}))),
        row("Auth/RoleDelete", "", Root, {
            unary!(auth.role_delete(AuthRoleDeleteRequest { role: "nobody's".to_owned() }))
        }),
        row("Auth/RoleGrantPermission", "", Root, unary!(auth.role_grant_permission(permit()))),
        row("Auth/RoleRevokePermission", "", Root, {
            unary!(auth.role_revoke_permission(withdraw()))
        }),
        // At the end, since it opens all doors.
        row("Auth/AuthDisable", "", Root, unary!(auth.auth_disable(AuthDisableRequest {}))),
    ]
}

async fn prepare(raw: &Raw) -> Vec<(Who, Token)> {
    for (lease, key) in [(7, "m"), (8, "k2"), (9, "k4"), (10, ""), (11, ""), (12, ""), (13, "")] {
        let grant = LeaseGrantRequest { id: lease, ttl: 600 };
        raw.lease.clone().lease_grant(grant).await.unwrap();
        if !key.is_empty() {
            raw.kv.clone().put(leased(key, lease)).await.unwrap();
        }
    }
    raw.kv.clone().put(put("k1", "v")).await.unwrap();
    add_role(raw, &NOBODY, "reading", vec![permission(Type::Read, "k", "l")]).await;
    add_role(raw, &NOBODY, "writing", vec![permission(Type::Write, "k", "l")]).await;
    for (name, roles) in [
        ("ended", &["root"][..]),
        ("bystander", &[]),
        ("reader", &["reading"]),
        ("writer", &["writing"]),
        ("editor", &["reading", "writing"]),
    ] {
        add_user(raw, &NOBODY, name, roles).await;
    }
    let root = enable(raw).await;
    let ended = log_in(raw, "ended").await;
    let change = AuthUserChangePasswordRequest {
        name: "ended".to_owned(),
        password: "other".to_owned(),
        ..Default::default()
    };
    raw.auth.clone().user_change_password(root.on(change)).await.unwrap();
    let mut callers = vec![(Who::Nobody, NOBODY), (Who::Ended, ended), (Who::Root, root)];
    for (who, name) in [
        (Who::Bystander, "bystander"),
        (Who::Reader, "reader"),
        (Who::Writer, "writer"),
        (Who::Editor, "editor"),
    ] {
        callers.push((who, log_in(raw, name).await));
    }
    callers.sort_by_key(|(who, _)| CALLERS.iter().position(|caller| caller == who));
    callers
}

async fn each_call_lets_through_whom_it_should(engine: Engine) {
    check(engine, Door::Grpc).await;
}

async fn each_call_as_json_lets_through_whom_it_should(engine: Engine) {
    check(engine, Door::Json).await;
}

async fn check(engine: Engine, door: Door) {
    let cluster = Setup::new(engine, 1).flag("--bcrypt-cost=4").start().await;
    let callers = prepare(&cluster.raw(0)).await;
    let rows = [kv_rows(), txn_rows(), stream_rows(), queue_rows(), operator_rows(), auth_rows()];
    let rows: Vec<Row> = rows.into_iter().flatten().collect();
    let named: BTreeSet<String> = rows.iter().map(|row| row.method.to_owned()).collect();
    assert_eq!(named, methods().collect(), "each call has a row");

    let mut wrong = vec![];
    let mut absent = BTreeSet::new();
    for Row { method, path, need, call } in &rows {
        for (who, token) in &callers {
            let outcomes = call.outcomes(&cluster, door, method, token).await;
            if outcomes.is_empty() {
                absent.insert(*method);
            }
            for outcome in outcomes {
                let refused = outcome.as_ref().err().map(|s| (s.code(), s.message()));
                let texts = [USER_EMPTY.1, INVALID_TOKEN.1, DENIED.1, SILENCE];
                let by_auth = refused.filter(|(_, text)| texts.contains(text));
                if by_auth != expected(method, *need, *who) {
                    let row = format!("{method} ({path}) by {who:?}");
                    wrong.push(format!("{row}: {refused:?}, needs {need:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    let expected: &[&str] = if door == Door::Json { &["KV/RangeStream"] } else { &[] };
    assert!(absent.iter().eq(expected), "no path: {absent:?}");
}
