//! Sequences of requests: most of them valid, some malformed, each following from its number.
//!
//! Revisions from [`FIRST`] on are relative: that one is the revision at which the sequence
//! begins, and everything below it is compacted. Smaller ones are sent as they are. Leases from
//! [`GIVEN`] on are those whose ids the server chose, in order.

use crate::random::Random;
use quoin::pb::authpb::{Permission, UserAddOptions};
use quoin::pb::etcdserverpb::compare::TargetUnion;
use quoin::pb::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest,
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, request_op,
};

/// The relative revision at which a sequence begins.
pub const FIRST: i64 = 1000;
/// So many revisions later no sequence gets.
pub const FAR: i64 = 500;
/// The name of the first lease whose id the server chose.
pub const GIVEN: i64 = 100;

#[derive(Clone, Debug)]
pub enum Call {
    Range(RangeRequest),
    RangeStream(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    /// A lease too short to keep: granted and revoked at once.
    GrantShort(LeaseGrantRequest),
    Revoke(i64),
    TimeToLive(LeaseTimeToLiveRequest),
    KeepAlive(i64),
    Leases,
    Watch(WatchCreateRequest),
    /// The watch that was created as the so-manieth of this sequence, if it lives.
    CancelWatch(usize),
    Progress,
    Login(&'static str, &'static str),
    AuthStatus,
    AuthEnable,
    AuthDisable,
    UserAdd(AuthUserAddRequest),
    UserGet(AuthUserGetRequest),
    UserList,
    UserDelete(AuthUserDeleteRequest),
    UserChangePassword(AuthUserChangePasswordRequest),
    UserGrantRole(AuthUserGrantRoleRequest),
    UserRevokeRole(AuthUserRevokeRoleRequest),
    RoleAdd(AuthRoleAddRequest),
    RoleGet(AuthRoleGetRequest),
    RoleList,
    RoleDelete(AuthRoleDeleteRequest),
    RoleGrantPermission(AuthRoleGrantPermissionRequest),
    RoleRevokePermission(AuthRoleRevokePermissionRequest),
}

#[derive(Clone, Debug)]
pub struct Step {
    /// Whose token goes with it: that of the user's last login.
    pub by: Option<&'static str>,
    pub call: Call,
}

const KEYS: [&str; 8] = ["a", "aa", "b", "c", "c\0", "d", "e", "\u{ff}"];
const ENDS: [&str; 9] = ["", "", "", "\0", "b", "c", "d", "z", "a"];
const VALUES: [&str; 4] = ["", "x", "y", "yy"];
const USERS: [&str; 4] = ["root", "ann", "bob", ""];
const ROLES: [&str; 4] = ["root", "r1", "r2", ""];

/// The steps of one sequence.
pub fn sequence(seed: u64, number: u64) -> Vec<Step> {
    let mut make = Make { random: Random::new(seed, number), keeps: false };
    match number % 10 {
        0..=3 => make.keys(),
        4 | 5 => make.leases(),
        6 | 7 => make.watches(),
        _ => make.auth(),
    }
}

struct Make {
    random: Random,
    /// Whether puts may keep what is there; then nothing else in the same Txn may delete it,
    /// which etcd itself does not survive.
    keeps: bool,
}

fn by_nobody(call: Call) -> Step {
    Step { by: None, call }
}

impl Make {
    fn keys(&mut self) -> Vec<Step> {
        let count = 5 + self.random.below(8);
        (0..count).map(|_| by_nobody(self.key_call())).collect()
    }

    fn key_call(&mut self) -> Call {
        self.keeps = self.random.one_in(2);
        match self.random.below(20) {
            0..=3 => Call::Range(self.range()),
            4 => Call::RangeStream(self.range()),
            5..=9 => Call::Put(self.put()),
            10..=12 => Call::DeleteRange(self.delete()),
            13 => Call::Compact(self.compact()),
            _ => Call::Txn(self.txn(0)),
        }
    }

    fn leases(&mut self) -> Vec<Step> {
        let mut steps = vec![by_nobody(Call::Grant(LeaseGrantRequest { ttl: 600, id: 1 }))];
        for _ in 0..5 + self.random.below(7) {
            let call = match self.random.below(12) {
                0 | 1 => Call::Grant(LeaseGrantRequest {
                    ttl: self.random.pick(&[60, 600, 9_000_000_000, 9_000_000_001]),
                    id: self.random.pick(&[0, 0, 1, 2, 3]),
                }),
                2 => Call::GrantShort(LeaseGrantRequest {
                    ttl: self.random.pick(&[0, 1, -1, i64::MIN]),
                    id: self.random.pick(&[0, 9]),
                }),
                3 | 4 => Call::Revoke(self.lease()),
                5 | 6 => Call::TimeToLive(LeaseTimeToLiveRequest {
                    id: self.lease(),
                    keys: self.random.one_in(2),
                }),
                7 => Call::KeepAlive(self.lease()),
                8 => Call::Leases,
                _ => self.key_call(),
            };
            steps.push(by_nobody(call));
        }
        steps
    }

    fn watches(&mut self) -> Vec<Step> {
        let mut steps: Vec<Step> =
            (0..2 + self.random.below(4)).map(|_| by_nobody(self.key_call())).collect();
        steps.push(by_nobody(Call::Watch(self.watch())));
        for _ in 0..3 + self.random.below(6) {
            let call = match self.random.below(8) {
                0 | 1 => Call::Watch(self.watch()),
                2 => Call::CancelWatch(self.random.below(3) as usize),
                _ => match self.key_call() {
                    // A watch that is still behind may or may not see what is compacted now.
                    Call::Compact(_) => Call::Put(self.put()),
                    call => call,
                },
            };
            steps.push(by_nobody(call));
        }
        if self.random.one_in(3) {
            steps.push(by_nobody(Call::Progress));
        }
        steps
    }

    fn auth(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut calls = vec![];
        // Most of these sequences switch auth on; what they forget, chance adds.
        if !self.random.one_in(6) {
            let roles = if self.random.one_in(8) { vec!["r1"] } else { vec!["root", "r1"] };
            for (user, role) in [("root", "root"), ("ann", "r1"), ("bob", "r2")] {
                calls.push(Call::UserAdd(user_add(user, user)));
                if roles.contains(&role) {
                    calls.push(Call::RoleAdd(AuthRoleAddRequest { name: role.into() }));
                }
                calls.push(Call::UserGrantRole(grant_role(user, role)));
            }
            calls.push(self.permit("r1"));
            calls.push(self.permit("r1"));
            calls.push(Call::AuthEnable);
            calls.push(Call::Login("root", "root"));
            calls.push(Call::Login("ann", "ann"));
            calls.push(Call::Login("bob", "bob"));
        }
        steps.extend(calls.into_iter().map(by_nobody));
        for _ in 0..8 + self.random.below(8) {
            let by = self.random.pick(&[
                None,
                Some("root"),
                Some("root"),
                Some("ann"),
                Some("ann"),
                Some("bob"),
            ]);
            let call = match self.random.below(10) {
                0..=3 => self.auth_call(),
                4 => match self.leases().pop() {
                    Some(step) => step.call,
                    None => Call::Leases,
                },
                5 => Call::Watch(self.watch()),
                _ => self.key_call(),
            };
            steps.push(Step { by, call });
        }
        steps
    }

    fn auth_call(&mut self) -> Call {
        let (user, role) = (self.random.pick(&USERS), self.random.pick(&ROLES));
        match self.random.below(18) {
            // The tests' own way back in is root's first password.
            0 if user != "root" => {
                let password = self.random.pick(&["ann", "new", ""]).to_owned();
                let name = user.to_owned();
                Call::UserChangePassword(AuthUserChangePasswordRequest {
                    name,
                    password,
                    ..Default::default()
                })
            }
            0 | 1 => Call::UserGet(AuthUserGetRequest { name: user.into() }),
            2 => Call::UserList,
            3 => Call::UserDelete(AuthUserDeleteRequest { name: user.into() }),
            4 | 5 => Call::UserGrantRole(grant_role(user, role)),
            6 => {
                let (name, role) = (user.to_owned(), role.to_owned());
                Call::UserRevokeRole(AuthUserRevokeRoleRequest { name, role })
            }
            7 => Call::RoleAdd(AuthRoleAddRequest { name: role.into() }),
            8 => Call::RoleGet(AuthRoleGetRequest { role: role.into() }),
            9 => Call::RoleList,
            10 => Call::RoleDelete(AuthRoleDeleteRequest { role: role.into() }),
            11 | 12 => self.permit(role),
            13 => Call::RoleRevokePermission(AuthRoleRevokePermissionRequest {
                role: role.into(),
                key: self.key().into(),
                range_end: self.end().into(),
            }),
            14 => {
                let options = self.random.one_in(3).then_some(UserAddOptions { no_password: true });
                Call::UserAdd(AuthUserAddRequest { options, ..user_add(user, user) })
            }
            15 => Call::AuthStatus,
            16 => match user {
                "" => Call::AuthEnable,
                user => Call::Login(user, self.random.pick(&["wrong", user, user])),
            },
            _ => match self.random.one_in(3) {
                true => Call::AuthDisable,
                false => Call::AuthStatus,
            },
        }
    }

    fn permit(&mut self, role: &str) -> Call {
        let perm = Permission {
            perm_type: self.random.pick(&[0, 1, 2, 2, 7]),
            key: self.key().into(),
            range_end: self.end().into(),
        };
        let perm = (!self.random.one_in(20)).then_some(perm);
        Call::RoleGrantPermission(AuthRoleGrantPermissionRequest { name: role.into(), perm })
    }

    fn key(&mut self) -> &'static str {
        if self.random.one_in(40) { "" } else { self.random.pick(&KEYS) }
    }

    fn end(&mut self) -> &'static str {
        self.random.pick(&ENDS)
    }

    fn lease(&mut self) -> i64 {
        self.random.pick(&[1, 1, 2, 3, GIVEN, GIVEN + 1, 77, 0, -1])
    }

    fn revision(&mut self) -> i64 {
        match self.random.below(20) {
            0 => -1,
            1 => 1,
            2 => FIRST + FAR,
            _ => FIRST + self.random.below(8),
        }
    }

    fn range(&mut self) -> RangeRequest {
        let random = &mut self.random;
        let mut request = RangeRequest {
            limit: if random.one_in(3) { random.pick(&[0, 1, 2, 3, -1, i64::MAX]) } else { 0 },
            keys_only: random.one_in(8),
            count_only: random.one_in(10),
            serializable: random.one_in(5),
            ..Default::default()
        };
        if random.one_in(3) {
            // An order that leaves keys equal leaves their order open, and etcd sorts unstably.
            request.sort_order = random.pick(&[0, 1, 2, 9]);
            request.sort_target = random.pick(&[0, 0, 3, 9]);
        }
        if random.one_in(3) {
            request.revision = self.revision();
        }
        if self.random.one_in(6) {
            request.min_mod_revision = self.revision();
        }
        if self.random.one_in(8) {
            request.max_mod_revision = self.revision();
        }
        if self.random.one_in(8) {
            request.min_create_revision = self.revision();
        }
        if self.random.one_in(6) {
            request.max_create_revision = self.revision();
        }
        RangeRequest { key: self.key().into(), range_end: self.end().into(), ..request }
    }

    fn put(&mut self) -> PutRequest {
        let mut request = PutRequest {
            key: self.key().into(),
            value: self.random.pick(&VALUES).into(),
            prev_kv: self.random.one_in(2),
            lease: if self.random.one_in(4) { self.lease() } else { 0 },
            ..Default::default()
        };
        if self.keeps && self.random.one_in(4) {
            request.ignore_value = true;
            if !self.random.one_in(6) {
                request.value = Default::default();
            }
        }
        if self.keeps && self.random.one_in(4) {
            request.ignore_lease = true;
            if !self.random.one_in(6) {
                request.lease = 0;
            }
        }
        request
    }

    fn delete(&mut self) -> DeleteRangeRequest {
        let prev_kv = self.random.one_in(2);
        DeleteRangeRequest { key: self.key().into(), range_end: self.end().into(), prev_kv }
    }

    fn compact(&mut self) -> CompactionRequest {
        let revision = if self.random.one_in(8) { 0 } else { self.revision() };
        CompactionRequest { revision, physical: self.random.one_in(2) }
    }

    fn txn(&mut self, depth: u32) -> TxnRequest {
        let (compares, most) = (self.random.below(3), self.random.one_in(60));
        TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(depth, most),
            failure: self.branch(depth, false),
        }
    }

    /// `most`: at the limit of operations in a transaction, or one above it.
    fn branch(&mut self, depth: u32, most: bool) -> Vec<RequestOp> {
        if most {
            let count = 128 + self.random.below(2);
            let put = |n| PutRequest { key: format!("many/{n}").into(), ..Default::default() };
            return (0..count).map(|n| op(request_op::Request::RequestPut(put(n)))).collect();
        }
        let count = self.random.below(4);
        let operations = (0..count).map(|_| {
            if self.random.one_in(60) {
                return RequestOp { request: None };
            }
            op(match self.random.below(if depth < 2 { 8 } else { 7 }) {
                0 | 1 => request_op::Request::RequestRange(self.range()),
                2 | 3 if !self.keeps => request_op::Request::RequestDeleteRange(self.delete()),
                7 => request_op::Request::RequestTxn(self.txn(depth + 1)),
                _ => request_op::Request::RequestPut(self.put()),
            })
        });
        operations.collect()
    }

    fn compare(&mut self) -> Compare {
        let revision = if self.random.one_in(3) { 0 } else { self.revision() };
        let (target, union) = match self.random.below(5) {
            0 => (0, TargetUnion::Version(self.random.below(4))),
            1 => (1, TargetUnion::CreateRevision(revision)),
            2 => (2, TargetUnion::ModRevision(revision)),
            3 => (3, TargetUnion::Value(self.random.pick(&VALUES).into())),
            _ => (4, TargetUnion::Lease(self.random.pick(&[0, 1, 2, GIVEN]))),
        };
        let union = (!self.random.one_in(30)).then_some(union);
        Compare {
            result: self.random.below(4) as i32,
            target,
            key: self.key().into(),
            range_end: if self.random.one_in(3) { self.end().into() } else { Default::default() },
            target_union: union,
        }
    }

    fn watch(&mut self) -> WatchCreateRequest {
        WatchCreateRequest {
            key: self.key().into(),
            range_end: self.end().into(),
            start_revision: match self.random.below(10) {
                0..=3 => 0,
                4 => self.random.pick(&[1, -1, FIRST + FAR]),
                _ => FIRST + self.random.below(8),
            },
            prev_kv: self.random.one_in(3),
            fragment: self.random.one_in(8),
            filters: match self.random.below(8) {
                0 => vec![0],
                1 => vec![1],
                2 if self.random.one_in(2) => vec![0, 1],
                _ => vec![],
            },
            watch_id: if self.random.one_in(4) { self.random.pick(&[0, 1, 5, 5, 7]) } else { 0 },
            ..Default::default()
        }
    }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn user_add(name: &str, password: &str) -> AuthUserAddRequest {
    AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() }
}

fn grant_role(user: &str, role: &str) -> AuthUserGrantRoleRequest {
    AuthUserGrantRoleRequest { user: user.into(), role: role.into() }
}
