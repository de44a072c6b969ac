//! Carries out one sequence on a server and writes down what came of each step.

use crate::cluster::Raw;
use crate::generate::{Call, Step};
use crate::relative::Frame;
use crate::watches::{Last, Watches, first_answer};
use quoin::pb::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleDeleteRequest, AuthRoleListRequest,
    AuthStatusRequest, AuthUserDeleteRequest, AuthUserListRequest, AuthenticateRequest,
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, request_op,
};
use std::collections::BTreeMap;
use tonic::{Request, Status};

type Outcome = Result<String, Status>;

pub struct Session<'r> {
    raw: &'r Raw,
    frame: Frame,
    tokens: BTreeMap<&'static str, String>,
    watches: Watches,
    /// What a compaction of this sequence, or that before it, has reached.
    compacted: i64,
    /// The revision of the users and roles when the sequence began.
    auth_base: u64,
    had_auth: bool,
}

/// The lines of one sequence: each step and what came of it, then what each watch was told.
pub async fn transcript(raw: &Raw, steps: &[Step]) -> Vec<String> {
    let mut session = Session::begin(raw).await;
    let mut lines = Vec::new();
    for step in steps {
        let outcome = match session.carry_out(step).await {
            Ok(text) => text,
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        lines.push(format!("{step:?}\n    {outcome}"));
    }
    if !session.watches.list.is_empty() {
        if let Err(status) = session.settle().await {
            lines.push(format!("the watches did not catch up: {}", status.message()));
        }
        for (place, watch) in session.watches.list.iter().enumerate() {
            lines.push(format!("watch {place}\n    {}", watch.told.join("\n    ")));
        }
    }
    session.end().await;
    lines
}

fn bytes(text: &[u8]) -> bytes::Bytes {
    text.to_vec().into()
}

impl<'r> Session<'r> {
    /// Leaves no key, and compacts all that was.
    async fn begin(raw: &'r Raw) -> Session<'r> {
        let mut kv = raw.kv.clone();
        let delete = |key: &[u8], range_end: &[u8]| {
            let (key, range_end) = (bytes(key), bytes(range_end));
            let delete = DeleteRangeRequest { key, range_end, prev_kv: false };
            RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
        };
        let mark = PutRequest { key: bytes(b"m"), ..Default::default() };
        let mark = RequestOp { request: Some(request_op::Request::RequestPut(mark)) };
        let success = vec![delete(b"\0", b"m"), delete(b"m\0", b"\0"), mark];
        kv.txn(TxnRequest { success, ..Default::default() }).await.unwrap();
        // So that a watch from the compacted revision on sees the same whatever was before.
        let last = DeleteRangeRequest { key: bytes(b"m"), ..Default::default() };
        let header = kv.delete_range(last).await.unwrap().into_inner().header;
        let base = header.unwrap().revision;
        kv.compact(CompactionRequest { revision: base, physical: false }).await.unwrap();
        let status = raw.auth.clone().auth_status(AuthStatusRequest {}).await.unwrap();
        Session {
            raw,
            frame: Frame { base, given: vec![] },
            tokens: BTreeMap::new(),
            watches: Watches::default(),
            compacted: base,
            auth_base: status.into_inner().auth_revision,
            had_auth: false,
        }
    }

    /// Leaves no lease, no user and no role.
    async fn end(mut self) {
        if self.had_auth {
            let mut auth = self.raw.auth.clone();
            let login = AuthenticateRequest { name: "root".into(), password: "root".into() };
            if let Ok(answer) = auth.authenticate(login).await {
                self.tokens.insert("root", answer.into_inner().token);
                auth.auth_disable(self.on(Some("root"), AuthDisableRequest {})).await.unwrap();
            }
            let users = auth.user_list(AuthUserListRequest {}).await.unwrap().into_inner().users;
            for name in users {
                auth.user_delete(AuthUserDeleteRequest { name }).await.unwrap();
            }
            let roles = auth.role_list(AuthRoleListRequest {}).await.unwrap().into_inner().roles;
            for role in roles {
                auth.role_delete(AuthRoleDeleteRequest { role }).await.unwrap();
            }
        }
        let mut lease = self.raw.lease.clone();
        let list = lease.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
        for granted in list.leases {
            lease.lease_revoke(LeaseRevokeRequest { id: granted.id }).await.unwrap();
        }
    }

    fn on<T>(&self, by: Option<&'static str>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = by.and_then(|by| self.tokens.get(by)) {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        request
    }

    async fn carry_out(&mut self, step: &Step) -> Outcome {
        let by = step.by;
        match step.call.clone() {
            Call::Range(_)
            | Call::RangeStream(_)
            | Call::Put(_)
            | Call::DeleteRange(_)
            | Call::Txn(_)
            | Call::Compact(_) => self.key(by, step.call.clone()).await,
            Call::Watch(mut request) => {
                self.frame.absolute(&mut request.start_revision);
                if self.had_auth {
                    let token = by.and_then(|by| self.tokens.get(by)).map(String::as_str);
                    return first_answer(self.raw, request, token, &self.frame).await;
                }
                self.watches.create(self.raw, request, &self.frame, self.compacted).await
            }
            Call::CancelWatch(place) => {
                if !self.watches.list.get(place).is_some_and(|watch| watch.lives) {
                    return Ok("there is none".into());
                }
                self.settle().await?;
                if self.watches.list[place].lives {
                    self.watches.cancel(place, &self.frame).await?;
                }
                Ok("canceled".into())
            }
            Call::Progress => {
                self.settle().await?;
                if !self.watches.has_progress(&self.frame) {
                    return Ok("not asked".into());
                }
                self.watches.progress(&self.frame).await
            }
            Call::Grant(_)
            | Call::GrantShort(_)
            | Call::Revoke(_)
            | Call::TimeToLive(_)
            | Call::KeepAlive(_)
            | Call::Leases => self.lease(by, step.call.clone()).await,
            call => self.auth(by, call).await,
        }
    }

    async fn key(&mut self, by: Option<&'static str>, call: Call) -> Outcome {
        let (mut kv, frame) = (self.raw.kv.clone(), &self.frame);
        Ok(match call {
            Call::Range(mut request) => {
                frame.range(&mut request);
                let mut answer = kv.range(self.on(by, request)).await?.into_inner();
                frame.ranged(&mut answer);
                format!("{answer:?}")
            }
            Call::RangeStream(request) => format!("{:?}", self.streamed(by, request).await?),
            Call::Put(mut request) => {
                frame.put(&mut request);
                let mut answer = kv.put(self.on(by, request)).await?.into_inner();
                frame.header(&mut answer.header);
                answer.prev_kv.iter_mut().for_each(|kv| frame.kv(kv));
                format!("{answer:?}")
            }
            Call::DeleteRange(request) => {
                let mut answer = kv.delete_range(self.on(by, request)).await?.into_inner();
                frame.header(&mut answer.header);
                answer.prev_kvs.iter_mut().for_each(|kv| frame.kv(kv));
                format!("{answer:?}")
            }
            Call::Txn(mut request) => {
                frame.txn(&mut request);
                let mut answer = kv.txn(self.on(by, request)).await?.into_inner();
                frame.done(&mut answer);
                format!("{answer:?}")
            }
            Call::Compact(mut request) => {
                frame.absolute(&mut request.revision);
                let mut answer = kv.compact(self.on(by, request)).await?.into_inner();
                frame.header(&mut answer.header);
                self.compacted = request.revision;
                format!("{answer:?}")
            }
            other => panic!("{other:?} is not about keys"),
        })
    }

    /// All parts of a streamed range as one response: where it is cut is each server's own.
    async fn streamed(
        &self,
        by: Option<&'static str>,
        mut request: RangeRequest,
    ) -> Result<RangeResponse, Status> {
        self.frame.range(&mut request);
        let mut parts = self.raw.kv.clone().range_stream(self.on(by, request)).await?.into_inner();
        let mut whole = RangeResponse::default();
        while let Some(part) = parts.message().await? {
            let Some(part) = part.range_response else { continue };
            whole.kvs.extend(part.kvs);
            whole.header = part.header.or(whole.header);
            whole.count = whole.count.max(part.count);
            whole.more |= part.more;
        }
        self.frame.ranged(&mut whole);
        Ok(whole)
    }

    async fn lease(&mut self, by: Option<&'static str>, call: Call) -> Outcome {
        let mut lease = self.raw.lease.clone();
        Ok(match call {
            Call::Grant(request) => self.grant(by, request).await?,
            Call::GrantShort(request) => {
                let chosen = request.id == 0;
                let answer = lease.lease_grant(self.on(by, request)).await?.into_inner();
                lease.lease_revoke(self.on(by, LeaseRevokeRequest { id: answer.id })).await?;
                format!(
                    "{} for {}, {:?}",
                    if chosen { 0 } else { answer.id },
                    answer.ttl,
                    answer.error
                )
            }
            Call::Revoke(id) => {
                let request = LeaseRevokeRequest { id: self.frame.lease(id) };
                let mut answer = lease.lease_revoke(self.on(by, request)).await?.into_inner();
                self.frame.header(&mut answer.header);
                format!("{answer:?}")
            }
            Call::TimeToLive(LeaseTimeToLiveRequest { id, keys }) => {
                let request = LeaseTimeToLiveRequest { id: self.frame.lease(id), keys };
                let answer = lease.lease_time_to_live(self.on(by, request)).await?;
                let mut answer = answer.into_inner();
                self.frame.header(&mut answer.header);
                answer.id = self.frame.lease_name(answer.id);
                answer.keys.sort();
                if (1..30).contains(&(answer.granted_ttl - answer.ttl)) {
                    answer.ttl = answer.granted_ttl;
                }
                format!("{answer:?}")
            }
            Call::KeepAlive(id) => {
                let request = LeaseKeepAliveRequest { id: self.frame.lease(id) };
                let once = self.on(by, tokio_stream::iter([request]));
                let mut answers = lease.lease_keep_alive(once).await?.into_inner();
                let mut answer = answers.message().await?;
                if let Some(answer) = &mut answer {
                    self.frame.header(&mut answer.header);
                    answer.id = self.frame.lease_name(answer.id);
                }
                format!("{answer:?}")
            }
            _ => {
                let answer = lease.lease_leases(self.on(by, LeaseLeasesRequest {})).await?;
                let mut answer = answer.into_inner();
                self.frame.header(&mut answer.header);
                for lease in &mut answer.leases {
                    lease.id = self.frame.lease_name(lease.id);
                }
                answer.leases.sort_by_key(|lease| lease.id);
                format!("{answer:?}")
            }
        })
    }

    async fn grant(&mut self, by: Option<&'static str>, request: LeaseGrantRequest) -> Outcome {
        let chosen = request.id == 0;
        let answer = self.raw.lease.clone().lease_grant(self.on(by, request)).await?;
        let mut answer = answer.into_inner();
        if chosen {
            self.frame.given.push(answer.id);
        }
        answer.id = self.frame.lease_name(answer.id);
        self.frame.header(&mut answer.header);
        Ok(format!("{answer:?}"))
    }

    async fn auth(&mut self, by: Option<&'static str>, call: Call) -> Outcome {
        let mut auth = self.raw.auth.clone();
        self.had_auth = true;
        macro_rules! ask {
            ($method:ident, $request:expr) => {{
                let mut answer = auth.$method(self.on(by, $request)).await?.into_inner();
                self.frame.header(&mut answer.header);
                format!("{answer:?}")
            }};
        }
        Ok(match call {
            Call::Login(name, password) => {
                self.tokens.remove(name);
                let login = AuthenticateRequest { name: name.into(), password: password.into() };
                let answer = auth.authenticate(login).await?.into_inner();
                self.tokens.insert(name, answer.token);
                "logged in".to_owned()
            }
            Call::AuthStatus => {
                let answer = auth.auth_status(self.on(by, AuthStatusRequest {})).await?;
                let answer = answer.into_inner();
                let changes = answer.auth_revision.wrapping_sub(self.auth_base) as i64;
                format!("enabled {}, {changes} changes", answer.enabled)
            }
            Call::AuthEnable => ask!(auth_enable, AuthEnableRequest {}),
            Call::AuthDisable => ask!(auth_disable, AuthDisableRequest {}),
            Call::UserAdd(request) => ask!(user_add, request),
            Call::UserGet(request) => ask!(user_get, request),
            Call::UserList => ask!(user_list, AuthUserListRequest {}),
            Call::UserDelete(request) => ask!(user_delete, request),
            Call::UserChangePassword(request) => ask!(user_change_password, request),
            Call::UserGrantRole(request) => ask!(user_grant_role, request),
            Call::UserRevokeRole(request) => ask!(user_revoke_role, request),
            Call::RoleAdd(request) => ask!(role_add, request),
            Call::RoleGet(request) => ask!(role_get, request),
            Call::RoleList => ask!(role_list, AuthRoleListRequest {}),
            Call::RoleDelete(request) => ask!(role_delete, request),
            Call::RoleGrantPermission(request) => ask!(role_grant_permission, request),
            Call::RoleRevokePermission(request) => ask!(role_revoke_permission, request),
            other => panic!("{other:?} is not about users and roles"),
        })
    }

    /// Changes a key of each watch, and reads until each has seen the last that it wants.
    async fn settle(&mut self) -> Result<(), Status> {
        let keys: Vec<Vec<u8>> =
            self.watches.list.iter().filter(|watch| watch.lives).map(|watch| watch.key()).collect();
        let (mut kv, mut lasts) = (self.raw.kv.clone(), Vec::new());
        for key in keys {
            let request = PutRequest { key: bytes(&key), ..Default::default() };
            let put = kv.put(request).await?.into_inner().header.unwrap().revision;
            let request = DeleteRangeRequest { key: bytes(&key), ..Default::default() };
            let delete = kv.delete_range(request).await?.into_inner().header.unwrap().revision;
            lasts.push(Last { revision: put, key: key.clone(), is_delete: false });
            lasts.push(Last { revision: delete, key, is_delete: true });
        }
        self.watches.catch_up(&lasts, &self.frame).await
    }
}

/// Makes the first revisions, so that small numbers are behind the compacted one in each sequence.
pub async fn prepare(raw: &Raw) {
    for _ in 0..5 {
        let request = PutRequest { key: bytes(b"first"), ..Default::default() };
        raw.kv.clone().put(request).await.unwrap();
    }
}
