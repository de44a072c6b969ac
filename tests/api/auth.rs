//! Auth: users, roles and the switch, tokens and their ends, on one member and on three.

use crate::cluster::{Engine, Raw, Setup, eventually, product};
use crate::credentials::{
    NOBODY, Token, add_role, add_user, authenticate, enable, log_in, permission,
};
use crate::gateway::post;
use crate::on_each_engine;
use crate::requests::{get, put, range, refusal};
use quoin::pb::authpb::permission::Type;
use quoin::pb::authpb::{Permission, UserAddOptions};
use quoin::pb::etcdserverpb::*;
use quoin::pb::v3electionpb::LeaderRequest;
use std::path::Path;
use std::time::Duration;
use tonic::{Code, Status};

on_each_engine![
    changes_are_answered_and_counted,
    what_is_wrong_is_refused_by_name,
    a_password_is_known_to_nobody_but_its_user,
    tokens_end,
    a_restart_keeps_users_and_forgets_tokens,
    all_members_know_a_token_and_a_change,
    a_late_member_learns_users_from_a_snapshot,
    signed_tokens_are_old_after_a_change,
    urls_of_a_new_member_are_looked_at_before_who_adds_it,
    a_password_that_was_right_counts_until_it_changes,
    a_name_that_no_backup_could_hold_is_refused,
    hashes_of_clients_count_only_for_a_new_password,
    an_observer_without_the_right_is_told_nothing,
];

fn setup(engine: Engine, members: usize) -> Setup {
    Setup::new(engine, members).flag("--bcrypt-cost=4")
}

fn error(result: Result<impl std::fmt::Debug, Status>) -> (Code, String) {
    let status = result.expect_err("the call is refused");
    (status.code(), status.message().to_owned())
}

async fn status(raw: &Raw, token: &Token) -> (bool, u64) {
    let answer = raw.auth.clone().auth_status(token.on(AuthStatusRequest {})).await;
    let answer = answer.unwrap().into_inner();
    (answer.enabled, answer.auth_revision)
}

async fn changes_are_answered_and_counted(engine: Engine) {
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    raw.kv.clone().put(put("k", "v")).await.unwrap();
    assert_eq!(status(&raw, &NOBODY).await, (false, 1));
    add_user(&raw, &NOBODY, "ann", &[]).await;
    add_role(&raw, &NOBODY, "b", vec![]).await;
    add_role(&raw, &NOBODY, "a", vec![permission(Type::Read, "b", "c")]).await;
    assert_eq!(status(&raw, &NOBODY).await, (false, 5));

    let mut auth = raw.auth.clone();
    let permit = |key: &str, end: &str, kind| AuthRoleGrantPermissionRequest {
        name: "a".to_owned(),
        perm: Some(permission(kind, key, end)),
    };
    auth.role_grant_permission(permit("b", "c", Type::Write)).await.unwrap();
    auth.role_grant_permission(permit("a", "", Type::Readwrite)).await.unwrap();
    let role = auth.role_get(AuthRoleGetRequest { role: "a".to_owned() }).await.unwrap();
    let role = role.into_inner();
    let expected = vec![permission(Type::Readwrite, "a", ""), permission(Type::Write, "b", "c")];
    assert_eq!(role.perm, expected, "in key order, and one for each range");
    let header = role.header.unwrap();
    assert_eq!(header.revision, 2, "the store's, which auth does not move");
    assert!(header.cluster_id != 0 && header.member_id != 0 && header.raft_term != 0);

    let grant = |role: &str| AuthUserGrantRoleRequest { user: "ann".into(), role: role.into() };
    for role in ["b", "a", "b"] {
        auth.user_grant_role(grant(role)).await.unwrap();
    }
    let user = auth.user_get(AuthUserGetRequest { name: "ann".to_owned() }).await.unwrap();
    assert_eq!(user.into_inner().roles, ["a", "b"]);
    assert_eq!(status(&raw, &NOBODY).await, (false, 9), "a role held already is no change");
    let roles = auth.role_list(AuthRoleListRequest {}).await.unwrap().into_inner();
    assert_eq!(roles.roles, ["a", "b"]);
    auth.role_delete(AuthRoleDeleteRequest { role: "b".to_owned() }).await.unwrap();
    let user = auth.user_get(AuthUserGetRequest { name: "ann".to_owned() }).await.unwrap();
    assert_eq!(user.into_inner().roles, ["a"], "a role that is gone is held by nobody");

    let root = enable(&raw).await;
    assert_eq!(status(&raw, &NOBODY).await, (true, 12), "the switch does not count");
    let users = auth.user_list(root.on(AuthUserListRequest {})).await.unwrap().into_inner();
    assert_eq!(users.users, ["ann", "root"]);
    auth.role_add(root.on(AuthRoleAddRequest { name: "root".to_owned() })).await.unwrap();
    let role = auth.role_get(root.on(AuthRoleGetRequest { role: "root".to_owned() })).await;
    let everything = permission(Type::Readwrite, "", "\0");
    assert_eq!(role.unwrap().into_inner().perm, vec![everything]);
    auth.auth_disable(root.on(AuthDisableRequest {})).await.unwrap();
    assert_eq!(status(&raw, &NOBODY).await, (false, 14), "switching off does");
    raw.kv.clone().put(put("k", "v")).await.unwrap();
}

async fn what_is_wrong_is_refused_by_name(engine: Engine) {
    use Code::{FailedPrecondition, InvalidArgument, Unknown};
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    let mut auth = raw.auth.clone();
    let user = |name: &str| AuthUserAddRequest { name: name.into(), ..Default::default() };
    let expect = |refused: (Code, String), code: Code, text: &str| {
        assert_eq!(refused, (code, text.to_owned()));
    };

    let enable_it = || AuthEnableRequest {};
    let text = "etcdserver: root user does not exist";
    expect(refusal(auth.auth_enable(enable_it()).await), FailedPrecondition, text);
    auth.user_add(AuthUserAddRequest { password: "root".into(), ..user("root") }).await.unwrap();
    let text = "etcdserver: root user does not have root role";
    expect(refusal(auth.auth_enable(enable_it()).await), FailedPrecondition, text);
    let text = "etcdserver: authentication is not enabled";
    expect(error(authenticate(&raw, "root", "root").await), FailedPrecondition, text);
    let text = "etcdserver: user name already exists";
    expect(refusal(auth.user_add(user("root")).await), FailedPrecondition, text);
    let text = "etcdserver: user name is empty";
    expect(refusal(auth.user_add(user("")).await), InvalidArgument, text);
    let long = AuthUserAddRequest { password: "x".repeat(73), ..user("long") };
    let text = "bcrypt: password length exceeds 72 bytes";
    expect(refusal(auth.user_add(long).await), Unknown, text);

    let text = "etcdserver: user name not found";
    let name = || "ann".to_owned();
    let refused = refusal(auth.user_get(AuthUserGetRequest { name: name() }).await);
    expect(refused, FailedPrecondition, text);
    let refused = refusal(auth.user_delete(AuthUserDeleteRequest { name: name() }).await);
    expect(refused, FailedPrecondition, text);
    let grant = |user: &str| AuthUserGrantRoleRequest { user: user.into(), role: "no".into() };
    expect(refusal(auth.user_grant_role(grant("ann")).await), FailedPrecondition, text);
    let text = "etcdserver: role name not found";
    expect(refusal(auth.user_grant_role(grant("root")).await), FailedPrecondition, text);
    let role = || "no".to_owned();
    let refused = refusal(auth.role_get(AuthRoleGetRequest { role: role() }).await);
    expect(refused, FailedPrecondition, text);
    let refused = refusal(auth.role_delete(AuthRoleDeleteRequest { role: role() }).await);
    expect(refused, FailedPrecondition, text);
    let text = "etcdserver: role is not granted to the user";
    let revoke = AuthUserRevokeRoleRequest { name: "root".into(), role: role() };
    expect(refusal(auth.user_revoke_role(revoke).await), FailedPrecondition, text);
    let text = "etcdserver: role name is empty";
    let refused = refusal(auth.role_add(AuthRoleAddRequest::default()).await);
    expect(refused, InvalidArgument, text);

    add_role(&raw, &NOBODY, "r", vec![]).await;
    let refused = refusal(auth.role_add(AuthRoleAddRequest { name: "r".into() }).await);
    expect(refused, FailedPrecondition, "etcdserver: role name already exists");
    let permit =
        |perm: Option<Permission>| AuthRoleGrantPermissionRequest { name: "r".to_owned(), perm };
    let refused = refusal(auth.role_grant_permission(permit(None)).await);
    expect(refused, InvalidArgument, "etcdserver: permission not given");
    for (key, end) in [("", ""), ("", "b"), ("b", "a"), ("a", "a")] {
        let permit = permit(Some(permission(Type::Read, key, end)));
        let refused = refusal(auth.role_grant_permission(permit).await);
        expect(refused, InvalidArgument, "etcdserver: invalid auth management");
    }
    let withdraw = AuthRoleRevokePermissionRequest { role: "r".into(), ..Default::default() };
    let refused = refusal(auth.role_revoke_permission(withdraw).await);
    expect(refused, FailedPrecondition, "etcdserver: permission is not granted to the role");
    guards_of_root(&raw).await;
}

/// While auth is on, root stays root.
async fn guards_of_root(raw: &Raw) {
    let mut auth = raw.auth.clone();
    auth.user_grant_role(AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() })
        .await
        .unwrap();
    let without = AuthUserAddRequest {
        name: "certified".to_owned(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    auth.user_add(without).await.unwrap();
    auth.auth_enable(AuthEnableRequest {}).await.unwrap();
    let root = log_in(raw, "root").await;
    auth.auth_enable(root.on(AuthEnableRequest {})).await.unwrap();
    let guarded = (Code::InvalidArgument, "etcdserver: invalid auth management".to_owned());
    let delete = root.on(AuthUserDeleteRequest { name: "root".into() });
    assert_eq!(refusal(auth.user_delete(delete).await), guarded);
    let delete = root.on(AuthRoleDeleteRequest { role: "root".into() });
    assert_eq!(refusal(auth.role_delete(delete).await), guarded);
    let revoke = AuthUserRevokeRoleRequest { name: "root".into(), role: "root".into() };
    assert_eq!(refusal(auth.user_revoke_role(root.on(revoke)).await), guarded);

    let failed = "etcdserver: authentication failed, invalid user ID or password";
    for (name, password) in [("root", "wrong"), ("root", ""), ("nobody", "x"), ("", "")] {
        let refused = error(authenticate(raw, name, password).await);
        assert_eq!(refused, (Code::InvalidArgument, failed.to_owned()), "{name} {password}");
    }
    let refused = error(authenticate(raw, "certified", "").await);
    let text = "auth: authentication failed, password was given for no password user";
    assert_eq!(refused, (Code::Unknown, text.to_owned()));
}

/// Whether a file below the folder contains the text.
fn contains(folder: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|entry| match entry.path() {
        path if path.is_dir() => contains(&path, text),
        path => std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text),
    })
}

async fn a_password_is_known_to_nobody_but_its_user(engine: Engine) {
    let cluster = setup(engine, 1).flag("--log-level=debug").start().await;
    let raw = cluster.raw(0);
    let mut auth = raw.auth.clone();
    add_user(&raw, &NOBODY, "a-name-to-be-found", &[]).await;
    let add = AuthUserAddRequest {
        name: "ann".to_owned(),
        password: "first-secret".to_owned(),
        ..Default::default()
    };
    auth.user_add(add).await.unwrap();
    let root = enable(&raw).await;
    authenticate(&raw, "ann", "first-secret").await.unwrap();
    let change = AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: "second-secret".to_owned(),
        ..Default::default()
    };
    auth.user_change_password(root.on(change)).await.unwrap();
    authenticate(&raw, "ann", "first-secret").await.unwrap_err();
    let token = authenticate(&raw, "ann", "second-secret").await.unwrap();

    let folder = cluster.folder();
    assert!(contains(folder, b"a-name-to-be-found"), "the search finds what is there");
    for secret in ["first-secret", "second-secret"] {
        assert!(!contains(folder, secret.as_bytes()), "{secret} is in a file");
    }
    let log = std::fs::read_to_string(&cluster.members[0].log).unwrap();
    assert!(!log.contains(&token), "a token is in the log");
}

const INVALID_TOKEN: &str = "etcdserver: invalid auth token";

async fn is_refused(raw: &Raw, token: &Token) -> bool {
    match raw.kv.clone().range(token.on(get("k"))).await {
        Ok(_) => false,
        Err(status) if status.code() == Code::Unauthenticated => {
            assert_eq!(status.message(), INVALID_TOKEN);
            true
        }
        Err(status) => panic!("{status}"),
    }
}

async fn tokens_end(engine: Engine) {
    let cluster = setup(engine, 1).flag("--auth-token-ttl=2").start().await;
    let raw = cluster.raw(0);
    let root = enable(&raw).await;
    let Token(Some(text)) = &root else { panic!("a token") };
    let (letters, index) = text.split_once('.').unwrap();
    assert!(letters.len() == 16 && letters.chars().all(|c| c.is_ascii_alphabetic()), "{text}");
    index.parse::<u64>().unwrap();

    // What is sent as `authorization`, with or without its scheme, counts as well.
    for value in [text.clone(), format!("Bearer {text}")] {
        let mut request = tonic::Request::new(get("k"));
        request.metadata_mut().insert("authorization", value.parse().unwrap());
        raw.kv.clone().range(request).await.unwrap();
    }
    let mut wrong = vec!["".to_owned(), "x".into(), "x.1".into(), text[1..].into()];
    wrong.push(text.to_uppercase());
    if product().ours {
        // An etcd waits for the entry with this index, for as long as the client does.
        wrong.push(format!("{text}0"));
    }
    for wrong in wrong {
        assert!(is_refused(&raw, &Token(Some(wrong.clone()))).await, "{wrong}");
    }

    // It lives from use to use, and ends when it is left alone.
    let (idle, used) = (log_in(&raw, "root").await, log_in(&raw, "root").await);
    let begun = std::time::Instant::now();
    eventually("time has passed", async || {
        let passed = begun.elapsed();
        assert!(!is_refused(&raw, &used).await, "after {passed:?}");
        if passed > Duration::from_millis(3500) { Ok(()) } else { Err(format!("{passed:?}")) }
    })
    .await;
    assert!(is_refused(&raw, &idle).await);

    add_user(&raw, &used, "ann", &["root"]).await;
    let change = AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: "ann".to_owned(),
        ..Default::default()
    };
    let ann = log_in(&raw, "ann").await;
    raw.auth.clone().user_change_password(used.on(change)).await.unwrap();
    assert!(is_refused(&raw, &ann).await, "the password was changed");
    let ann = log_in(&raw, "ann").await;
    let delete = AuthUserDeleteRequest { name: "ann".to_owned() };
    raw.auth.clone().user_delete(used.on(delete)).await.unwrap();
    assert!(is_refused(&raw, &ann).await, "the user is gone");
    raw.auth.clone().auth_disable(used.on(AuthDisableRequest {})).await.unwrap();
    raw.auth.clone().auth_enable(AuthEnableRequest {}).await.unwrap();
    assert!(is_refused(&raw, &used).await, "auth was off meanwhile");
}

async fn a_restart_keeps_users_and_forgets_tokens(engine: Engine) {
    let mut cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    add_role(&raw, &NOBODY, "r", vec![permission(Type::Read, "k", "")]).await;
    add_user(&raw, &NOBODY, "ann", &["r"]).await;
    let root = enable(&raw).await;
    raw.kv.clone().put(root.on(put("k", "v"))).await.unwrap();
    let before = status(&raw, &NOBODY).await;
    cluster.terminate(0).await;
    cluster.restart(0).await;
    let raw = cluster.raw(0);
    assert!(is_refused(&raw, &root).await, "a token outlived the process");
    let later = log_in(&raw, "root").await;
    raw.kv.clone().put(later.on(put("k", "v"))).await.unwrap();
    cluster.kill(0);
    cluster.restart(0).await;

    let raw = cluster.raw(0);
    assert!(is_refused(&raw, &root).await, "the log brought a token back");
    // etcd gives out again what its log tells of the last tenth of a second.
    assert!(!product().ours || is_refused(&raw, &later).await, "the log brought a token back");
    assert_eq!(status(&raw, &NOBODY).await, before);
    let refused = refusal(raw.kv.clone().range(get("k")).await);
    assert_eq!(refused, (Code::InvalidArgument, "etcdserver: user name is empty".into()));
    let ann = log_in(&raw, "ann").await;
    let answer = raw.kv.clone().range(ann.on(get("k"))).await.unwrap().into_inner();
    assert_eq!(answer.count, 1);
    let refused = refusal(raw.kv.clone().range(ann.on(range("k", "l"))).await);
    assert_eq!(refused, (Code::PermissionDenied, "etcdserver: permission denied".into()));
}

async fn all_members_know_a_token_and_a_change(engine: Engine) {
    let cluster = setup(engine, 3).start().await;
    let raws = [cluster.raw(0), cluster.raw(1), cluster.raw(2)];
    add_role(&raws[0], &NOBODY, "r", vec![permission(Type::Readwrite, "k", "l")]).await;
    add_user(&raws[0], &NOBODY, "ann", &["r"]).await;
    let root = enable(&raws[0]).await;
    for round in 0..5 {
        for (asked, raw) in raws.iter().enumerate() {
            let ann = log_in(raw, "ann").await;
            for other in &raws {
                other.kv.clone().range(ann.on(get("k"))).await.unwrap();
                let put = put(&format!("k{round}{asked}"), "v");
                other.kv.clone().put(ann.on(put)).await.unwrap();
            }
        }
    }
    let ann = log_in(&raws[1], "ann").await;
    let withdraw = AuthRoleRevokePermissionRequest {
        role: "r".to_owned(),
        key: "k".into(),
        range_end: "l".into(),
    };
    raws[2].auth.clone().role_revoke_permission(root.on(withdraw)).await.unwrap();
    for raw in &raws {
        // A linearizable read sees the change wherever it is made.
        let refused = refusal(raw.kv.clone().range(ann.on(get("k"))).await);
        assert_eq!(refused.0, Code::PermissionDenied, "{refused:?}");
        let refused = refusal(raw.kv.clone().put(ann.on(put("k", "v"))).await);
        assert_eq!(refused.0, Code::PermissionDenied, "{refused:?}");
    }
}

async fn a_late_member_learns_users_from_a_snapshot(engine: Engine) {
    let setup = setup(engine, 3).flag("--snapshot-count=20").flag("--snapshot-catchup-entries=5");
    let mut cluster = setup.start().await;
    let leader = cluster.leader().await;
    let late = (leader + 1) % 3;
    let token_before = {
        let raw = cluster.raw(leader);
        add_user(&raw, &NOBODY, "ann", &[]).await;
        enable(&raw).await;
        log_in(&cluster.raw(late), "ann").await
    };
    cluster.kill(late);
    let raw = cluster.raw(leader);
    let root = log_in(&raw, "root").await;
    let delete = AuthUserDeleteRequest { name: "ann".to_owned() };
    raw.auth.clone().user_delete(root.on(delete)).await.unwrap();
    add_role(&raw, &root, "r", vec![permission(Type::Read, "k", "l")]).await;
    add_user(&raw, &root, "bob", &["r"]).await;
    for n in 0..100 {
        raw.kv.clone().put(root.on(put(&format!("k{n:03}"), "v"))).await.unwrap();
    }
    cluster.restart(late).await;
    let expected = status(&raw, &NOBODY).await;
    let raw = cluster.raw(late);
    eventually("the late member has caught up", async || {
        let status = status(&raw, &NOBODY).await;
        if status == expected { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let (code, _) = refusal(raw.kv.clone().range(token_before.on(get("k"))).await);
    assert!([Code::Unauthenticated, Code::PermissionDenied].contains(&code), "{code}");
    let bob = log_in(&raw, "bob").await;
    let request = RangeRequest { serializable: true, ..range("k", "l") };
    let answer = raw.kv.clone().range(bob.on(request)).await.unwrap().into_inner();
    assert_eq!(answer.count, 100);
    let refused = refusal(raw.kv.clone().put(bob.on(put("k", "v"))).await);
    assert_eq!(refused.0, Code::PermissionDenied);
}

async fn signed_tokens_are_old_after_a_change(engine: Engine) {
    let folder = crate::cluster::Folder::new();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a secret that all members share").unwrap();
    let flag = format!("--auth-token=jwt,sign-method=HS256,priv-key={},ttl=5m", secret.display());
    let mut cluster = setup(engine, 1).flag(flag).start().await;
    let raw = cluster.raw(0);
    add_role(&raw, &NOBODY, "r", vec![permission(Type::Readwrite, "k", "l")]).await;
    add_user(&raw, &NOBODY, "ann", &["r"]).await;
    let root = enable(&raw).await;
    let ann = log_in(&raw, "ann").await;
    assert_eq!(ann.0.as_ref().unwrap().split('.').count(), 3);
    raw.kv.clone().put(ann.on(put("k", "v"))).await.unwrap();
    raw.kv.clone().range(ann.on(get("k"))).await.unwrap();

    cluster.terminate(0).await;
    cluster.restart(0).await;
    let raw = cluster.raw(0);
    raw.kv.clone().range(ann.on(get("k"))).await.unwrap();
    add_user(&raw, &root, "bob", &[]).await;
    let old = (Code::InvalidArgument, "etcdserver: revision of auth store is old".to_owned());
    assert_eq!(refusal(raw.kv.clone().range(ann.on(get("k"))).await), old);
    assert_eq!(refusal(raw.kv.clone().put(ann.on(put("k", "v"))).await), old);
    // An administrator's calls do not look at it.
    raw.auth.clone().user_list(root.on(AuthUserListRequest {})).await.unwrap();
    let Token(Some(text)) = &ann else { panic!("a token") };
    for wrong in [&text[1..], &text[..text.len() - 1], "a.b.c", "x"] {
        assert!(is_refused(&raw, &Token(Some(wrong.to_owned()))).await, "{wrong}");
    }
    let again = log_in(&raw, "ann").await;
    raw.kv.clone().range(again.on(get("k"))).await.unwrap();
    if product().ours {
        let log = std::fs::read_to_string(&cluster.members[0].log).unwrap();
        assert!(!log.contains(text), "a token is in the log");
    }
}

async fn urls_of_a_new_member_are_looked_at_before_who_adds_it(engine: Engine) {
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    let root = enable(&raw).await;
    add_user(&raw, &root, "ann", &[]).await;
    let ann = log_in(&raw, "ann").await;
    let wrong = Token(Some("wrong.1".to_owned()));
    let mut calls = raw.cluster.clone();
    let own = raw.maintenance.clone().status(ann.on(StatusRequest {})).await.unwrap();
    let own = own.into_inner().header.unwrap().member_id;
    use Code::{InvalidArgument, NotFound, PermissionDenied, Unauthenticated};
    for (who, code, text) in [
        (&NOBODY, InvalidArgument, "user name is empty"),
        (&ann, PermissionDenied, "permission denied"),
        (&wrong, Unauthenticated, "invalid auth token"),
    ] {
        let add = |url: &str| MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner: true };
        let bad = error(calls.member_add(who.on(add("bad"))).await);
        assert_eq!(bad, (InvalidArgument, "etcdserver: given member URLs are invalid".into()));
        let refused = (code, format!("etcdserver: {text}"));
        assert_eq!(error(calls.member_add(who.on(add("http://127.0.0.1:9"))).await), refused);
        let update = MemberUpdateRequest { id: own, peer_ur_ls: vec!["bad".into()] };
        assert_eq!(error(calls.member_update(who.on(update)).await), refused);
        let remove = MemberRemoveRequest { id: 5 };
        assert_eq!(error(calls.member_remove(who.on(remove)).await), refused);
    }
    let update = MemberUpdateRequest { id: 5, peer_ur_ls: vec!["bad".into()] };
    let unknown = error(calls.member_update(root.on(update)).await);
    assert_eq!(unknown, (NotFound, "etcdserver: member not found".into()));
}

async fn a_password_that_was_right_counts_until_it_changes(engine: Engine) {
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    let root = enable(&raw).await;
    add_user(&raw, &root, "ann", &[]).await;
    for _ in 0..3 {
        authenticate(&raw, "ann", "ann").await.unwrap();
    }
    let failed = (
        Code::InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password".to_owned(),
    );
    assert_eq!(error(authenticate(&raw, "ann", "other").await), failed);
    let change = |password: &str| AuthUserChangePasswordRequest {
        name: "ann".to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    let mut auth = raw.auth.clone();
    for (new, old) in [("other", "ann"), ("ann", "other")] {
        auth.user_change_password(root.on(change(new))).await.unwrap();
        assert_eq!(error(authenticate(&raw, "ann", old).await), failed);
        for _ in 0..3 {
            authenticate(&raw, "ann", new).await.unwrap();
        }
    }
    auth.user_delete(root.on(AuthUserDeleteRequest { name: "ann".to_owned() })).await.unwrap();
    assert_eq!(error(authenticate(&raw, "ann", "ann").await), failed);
    add_user(&raw, &root, "ann", &[]).await;
    authenticate(&raw, "ann", "ann").await.unwrap();
    auth.auth_disable(root.on(AuthDisableRequest {})).await.unwrap();
    let off = (Code::FailedPrecondition, "etcdserver: authentication is not enabled".to_owned());
    assert_eq!(error(authenticate(&raw, "ann", "ann").await), off);
}

async fn a_name_that_no_backup_could_hold_is_refused(engine: Engine) {
    if !product().ours {
        // etcd itself ends at such a name.
        return;
    }
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    let mut auth = raw.auth.clone();
    let options = Some(UserAddOptions { no_password: true });
    let user = |name: String| AuthUserAddRequest { name, options, ..Default::default() };
    let role = |name: String| AuthRoleAddRequest { name };
    let refused = (Code::InvalidArgument, "etcdserver: request is too large".to_owned());
    assert_eq!(error(auth.user_add(user("u".repeat(32_769))).await), refused);
    assert_eq!(error(auth.role_add(role("r".repeat(32_769))).await), refused);
    for len in [3_000, 3_001, 32_768] {
        auth.user_add(user("u".repeat(len))).await.unwrap();
        auth.role_add(role("r".repeat(len))).await.unwrap();
    }
    let mut maintenance = raw.maintenance.clone();
    let mut backup = maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let mut len = 0;
    while let Some(piece) = backup.message().await.unwrap() {
        len += piece.blob.len();
    }
    assert!((200_000..1 << 20).contains(&len), "{len} bytes");
}

async fn hashes_of_clients_count_only_for_a_new_password(engine: Engine) {
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    let mut auth = raw.auth.clone();
    for (name, hash) in [("garbage", "!!"), ("short", "zz"), ("encoded", "enp6enp6")] {
        let add = AuthUserAddRequest {
            name: name.to_owned(),
            hashed_password: hash.to_owned(),
            ..Default::default()
        };
        auth.user_add(add).await.unwrap();
    }
    let change = |name: &str, password: &str, hash: &str| AuthUserChangePasswordRequest {
        name: name.to_owned(),
        password: password.to_owned(),
        hashed_password: hash.to_owned(),
    };
    for name in ["taken", "locked", "both"] {
        add_user(&raw, &NOBODY, name, &[]).await;
    }
    let wrong = "auth: authentication failed, password was given for no password user";
    for hash in ["zz", "!!"] {
        let refused = refusal(auth.user_change_password(change("taken", "", hash)).await);
        assert_eq!(refused, (Code::Unknown, wrong.to_owned()), "{hash}");
    }
    let unknown = refusal(auth.user_change_password(change("nobody", "", "!!")).await);
    assert_eq!(unknown, (Code::FailedPrecondition, "etcdserver: user name not found".to_owned()));
    // Made by Go's bcrypt, of the text "pw".
    let hash = "JDJhJDEwJENtVmlKOXFSWnRzdjNxYnEuaS5wRC44YUJZN2IyREovN1JLOXd3WXoubWpRY2I3b1ZOS2pD";
    auth.user_change_password(change("taken", "", hash)).await.unwrap();
    auth.user_change_password(change("locked", "", "")).await.unwrap();
    auth.user_change_password(change("both", "word", "!!")).await.unwrap();
    enable(&raw).await;
    for (name, password, is_right) in [
        ("garbage", "", true),
        ("garbage", "x", false),
        ("encoded", "", true),
        ("taken", "pw", true),
        ("taken", "", false),
        ("locked", "", false),
        ("locked", "locked", false),
        ("both", "word", true),
    ] {
        let given = authenticate(&raw, name, password).await;
        assert_eq!(given.is_ok(), is_right, "{name} {password:?}");
    }
}

async fn an_observer_without_the_right_is_told_nothing(engine: Engine) {
    let cluster = setup(engine, 1).start().await;
    let raw = cluster.raw(0);
    add_user(&raw, &NOBODY, "ann", &[]).await;
    enable(&raw).await;
    let ann = log_in(&raw, "ann").await;
    let observe = LeaderRequest { name: "e".into() };
    let mut stream = raw.election.clone().observe(ann.on(observe)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap(), None);
    let page = post(&cluster, "/v3/election/observe", r#"{"name":"ZQ=="}"#).await;
    assert_eq!((page.status, &page.body[..]), (200, ""));
}
