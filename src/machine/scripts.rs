//! Runs the golden scripts in `testscripts/`: what entries answer, which events they bring about,
//! what one round writes to the engine, and which state is left after restarts and snapshots.
//!
//! Each request is appended to a log and applied at once, or, after `hold`, together with others at
//! `apply`. The log outlives the machine: `reopen` forgets all but the engine, `fresh` takes an
//! empty engine. What a capture is asked for is kept, so that it can be restored and compared.

use super::{
    Applied, Caller, Capture, CommittedEntry, Machine, Outcome, Response, encode_command_of,
};
use crate::error::Fatal;
use crate::pb::authpb::{Permission, Role, User, UserAddOptions};
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, AuthDisableRequest, AuthEnableRequest,
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGrantPermissionRequest,
    AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserDeleteRequest, AuthUserGrantRoleRequest, AuthUserRevokeRoleRequest, CompactionRequest,
    Compare, DeleteRangeRequest, LeaseGrantRequest, Member, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, TxnRequest, request_op,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::quoinpb::{
    AuthenticateUser, ClusterVersion, Downgrade, LeaseRevokeBatch, MemberAdd, MemberAttributes,
    MemberChange, MemberUpdate, command::Request,
};
use crate::storage::memory::MemoryEngine;
use crate::storage::mirror::{ENGINE_MAKERS, Maker};
use crate::storage::{Engine, Read, Space, Visitor, WriteBatch};
use crate::types::{MemberId, RequestId};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use test_each_file::test_each_path;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Bytes of a capture's block: a few records.
const BLOCK_BYTES: usize = 100;

test_each_path! { in "src/machine/testscripts" as scripts => run }

fn run(path: &Path) {
    for make in ENGINE_MAKERS {
        goldenscript::run(&mut Runner::new(*make), path)
            .unwrap_or_else(|error| panic!("{}: {error}", make().name()));
    }
}

#[derive(goldenscript::Command)]
enum Command {
    /// Gives a fresh state its members.
    Bootstrap(Vec<u64>),
    Put {
        key: String,
        value: String,
        #[arg(key, optional)]
        lease: i64,
        #[arg(key, optional)]
        prev: bool,
    },
    Del {
        key: String,
        #[arg(optional)]
        range_end: String,
        #[arg(key, optional)]
        prev: bool,
    },
    /// Ops like `put a 1; del b; get c`, carried out if the key of `if` exists.
    Txn {
        ops: String,
        #[arg(key = "if", optional)]
        exists: String,
    },
    Compact {
        revision: i64,
        #[arg(key, optional)]
        physical: bool,
    },
    Grant {
        lease: i64,
        ttl: i64,
    },
    /// Of one client, or of expired leases.
    Revoke {
        leases: Vec<i64>,
        #[arg(key, optional)]
        expired: bool,
    },
    Attributes {
        member: u64,
        name: String,
        url: String,
    },
    Version(String),
    Add {
        member: u64,
        url: String,
        #[arg(key, optional)]
        learner: bool,
    },
    Promote(u64),
    Remove(u64),
    Update {
        member: u64,
        url: String,
    },
    /// An empty one calls it off.
    Downgrade(String),
    /// get, activate or deactivate; none, nospace or corrupt.
    Alarm {
        action: String,
        alarm: String,
        member: u64,
    },
    /// Who asks from here on, and the auth revision that vouches for it; nobody without a name.
    As {
        #[arg(optional)]
        user: String,
        #[arg(optional)]
        revision: u64,
    },
    /// A change of auth, as [`auth_request`] reads it.
    Auth(Vec<String>),
    /// Uses a simple token.
    Token(String),
    /// The empty entry that opens a term.
    Term(u64),
    /// An entry with these bytes.
    Garbage(String),
    /// Appends without applying, until `apply`.
    Hold,
    /// Applies all that is appended and not applied, in one round.
    Apply,
    /// A bounded step of physical compaction.
    Step(usize),
    /// A restart: nothing but the engine is left, and the log.
    Reopen,
    /// A new machine on an empty engine, without members.
    Fresh,
    Capture(String),
    /// Reads some blocks of a capture; all that are left if no number is given.
    Read {
        name: String,
        blocks: Option<usize>,
    },
    /// Replaces the state by a capture; `fail_after` so many blocks.
    Restore {
        name: String,
        #[arg(key)]
        fail_after: Option<usize>,
    },
    /// Compares the state, record by record, with a capture.
    Same(String),
    State,
}

struct Reading {
    capture: Capture,
    blocks: Vec<Bytes>,
}

impl Reading {
    /// True when there was a block.
    fn read_block(&mut self) -> Result<bool, Fatal> {
        let block = self.capture.next_block(BLOCK_BYTES)?;
        Ok(block.map(|block| self.blocks.push(block)).is_some())
    }

    fn read_all(&mut self) -> Result<Vec<Bytes>, Fatal> {
        while self.read_block()? {}
        Ok(self.blocks.clone())
    }
}

struct Runner {
    make: Maker,
    engine: Arc<Recorder>,
    machine: Machine,
    log: Vec<CommittedEntry>,
    term: u64,
    holds: bool,
    caller: (String, u64),
    captures: BTreeMap<String, Reading>,
    out: String,
}

impl goldenscript::Runner for Runner {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &goldenscript::Context) -> Fallible<String> {
        match command {
            Command::Bootstrap(ids) => self.bootstrap(ids)?,
            Command::Garbage(bytes) => self.append(bytes.clone().into())?,
            Command::Term(term) => {
                self.term = *term;
                self.append(Bytes::new())?;
            }
            Command::Hold => self.holds = true,
            Command::Apply => {
                self.holds = false;
                self.apply()?;
            }
            Command::Step(entries) => {
                let progress = self.machine.compaction_step(*entries)?;
                writeln!(self.out, "{progress:?}")?;
                self.show_writes()?;
            }
            Command::Reopen => {
                self.machine = Machine::open(self.engine.clone())?;
                if let Some(last) = self.log.last() {
                    self.machine.found_log(last.index, last.term);
                }
                self.show_position()?;
            }
            Command::Fresh => {
                self.engine = Arc::new(Recorder::new((self.make)()));
                self.machine = Machine::open(self.engine.clone())?;
                self.show_position()?;
            }
            Command::Capture(name) => {
                let capture = self.machine.capture()?;
                let Capture { index, term, .. } = capture;
                writeln!(self.out, "capture at index={index} term={term}")?;
                let reading = Reading { capture, blocks: Vec::new() };
                self.captures.insert(name.clone(), reading);
            }
            Command::Read { name, blocks } => self.read(name, blocks.unwrap_or(usize::MAX))?,
            Command::Restore { name, fail_after } => self.restore(name, *fail_after)?,
            Command::Same(name) => self.compare(name)?,
            Command::State => self.show_state()?,
            Command::As { user, revision } => self.caller = (user.clone(), *revision),
            Command::Token(token) => {
                let user = self.machine.auth_view().redeem(token, 0, 1);
                writeln!(self.out, "{}", user.as_deref().unwrap_or("nobody's"))?;
            }
            request => {
                let (user, revision) = &self.caller;
                let caller = Caller { user, revision: *revision };
                let command = encode_command_of(caller, self.next_id(), request_of(request)?);
                self.append(command.into())?;
            }
        }
        Ok(std::mem::take(&mut self.out))
    }
}

impl Runner {
    fn new(make: Maker) -> Self {
        let engine = Arc::new(Recorder::new(make()));
        Self {
            machine: Machine::open(engine.clone()).expect("an empty engine opens"),
            make,
            engine,
            log: Vec::new(),
            term: 1,
            holds: false,
            caller: (String::new(), 0),
            captures: BTreeMap::new(),
            out: String::new(),
        }
    }

    fn bootstrap(&mut self, ids: &[u64]) -> Fallible<()> {
        let member = |id: &u64| Member { id: *id, name: format!("m{id}"), ..Member::default() };
        match self.machine.bootstrap(ids.iter().map(member).collect()) {
            Ok(()) => self.show_writes(),
            Err(fatal) => Ok(writeln!(self.out, "fatal: {fatal}")?),
        }
    }

    fn next_id(&self) -> RequestId {
        RequestId { member: MemberId(1), boot: 2, sequence: self.log.len() as u64 + 1 }
    }

    fn append(&mut self, command: Bytes) -> Fallible<()> {
        let index = self.log.len() as u64 + 1;
        self.log.push(CommittedEntry { index, term: self.term, command });
        if self.holds { Ok(()) } else { self.apply() }
    }

    fn apply(&mut self) -> Fallible<()> {
        let entries = &self.log[self.machine.applied_index() as usize..];
        match self.machine.apply(entries) {
            Ok(applied) => self.show_applied(applied)?,
            Err(fatal) => writeln!(self.out, "fatal: {fatal}")?,
        }
        self.show_writes()
    }

    fn read(&mut self, name: &str, blocks_max: usize) -> Fallible<()> {
        let reading = self.captures.get_mut(name).ok_or("no such capture")?;
        let mut read = 0;
        while read < blocks_max && reading.read_block()? {
            read += 1;
        }
        writeln!(self.out, "read {read} blocks")?;
        Ok(())
    }

    fn restore(&mut self, name: &str, fail_after: Option<usize>) -> Fallible<()> {
        let reading = self.captures.get_mut(name).ok_or("no such capture")?;
        let blocks = reading.read_all()?;
        let blocks_max = fail_after.unwrap_or(usize::MAX);
        let mut blocks = blocks.into_iter().enumerate();
        let restored = self.machine.restore(&mut || match blocks.next() {
            Some((number, _)) if number >= blocks_max => Err(Fatal::new("the stream broke")),
            next => Ok(next.map(|(_, block)| block)),
        });
        self.engine.writes.lock().clear();
        match restored {
            Ok(()) => self.show_position(),
            Err(fatal) => Ok(writeln!(self.out, "fatal: {fatal}")?),
        }
    }

    fn compare(&mut self, name: &str) -> Fallible<()> {
        let mut own = Reading { capture: self.machine.capture()?, blocks: Vec::new() };
        let other = self.captures.get_mut(name).ok_or("no such capture")?;
        let (own, other) = (own.read_all()?.concat(), other.read_all()?.concat());
        let same = if own == other { "the same" } else { "different" };
        writeln!(self.out, "{same}")?;
        Ok(())
    }

    fn show_position(&mut self) -> Fallible<()> {
        let machine = &self.machine;
        writeln!(
            self.out,
            "applied={} term={} revision={} bootstrapped={}",
            machine.applied_index(),
            machine.applied_term(),
            machine.view().revision(),
            machine.is_bootstrapped()
        )?;
        Ok(())
    }

    /// How many records of which space each batch wrote since the last look.
    fn show_writes(&mut self) -> Fallible<()> {
        for write in self.engine.writes.lock().drain(..) {
            writeln!(self.out, "  batch{write}")?;
        }
        Ok(())
    }

    fn show_applied(&mut self, applied: Applied) -> Fallible<()> {
        let Applied {
            outcomes,
            commits,
            granted,
            revoked,
            configuration_change,
            members_changed,
            ..
        } = applied;
        let out = &mut self.out;
        for Outcome { id, result } in outcomes {
            write!(out, "{}: ", id.sequence)?;
            match result {
                Ok(response) => show_response(out, response)?,
                Err(error) => writeln!(out, "error {error:?}")?,
            }
        }
        for commit in commits {
            write!(out, "  commit {}:", commit.revision)?;
            for event in commit.events {
                let is_put = event.r#type() == EventType::Put;
                let kv = event.kv.unwrap_or_default();
                assert_eq!(kv.mod_revision, commit.revision);
                let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
                match is_put {
                    true => write!(out, " put {key}={value}")?,
                    false => write!(out, " delete {key}")?,
                }
            }
            writeln!(out)?;
        }
        for (lease, ttl) in granted {
            writeln!(out, "  granted {lease} ttl={ttl}")?;
        }
        for lease in revoked {
            writeln!(out, "  revoked {lease}")?;
        }
        if let Some(change) = configuration_change {
            writeln!(out, "  {change:?}")?;
        }
        if members_changed {
            writeln!(out, "  members changed")?;
        }
        let (index, term) = (self.machine.applied_index(), self.machine.applied_term());
        writeln!(out, "  applied={index} term={term}")?;
        Ok(())
    }

    fn show_state(&mut self) -> Fallible<()> {
        self.show_position()?;
        let all = RangeRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            ..RangeRequest::default()
        };
        let range = self.machine.view().range(&all)?.map_err(|e| format!("{e:?}"))?;
        let (out, machine) = (&mut self.out, &self.machine);
        for kv in range.kvs {
            let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
            writeln!(out, "  {key}={value} mod={} lease={}", kv.mod_revision, kv.lease)?;
        }
        for (lease, ttl) in machine.leases().iter() {
            write!(out, "  lease {lease} ttl={ttl}")?;
            for key in machine.leases().keys(lease).into_iter().flatten() {
                write!(out, " {}", key.escape_ascii())?;
            }
            writeln!(out)?;
        }
        for Member { id, name, client_ur_ls, peer_ur_ls, .. } in machine.members().all().values() {
            writeln!(out, "  member {id} {name} {client_ur_ls:?} {}", peer_ur_ls.join(","))?;
        }
        for AlarmMember { member_id, alarm } in machine.alarms().list(AlarmType::None as i32) {
            writeln!(out, "  alarm {alarm} of {member_id}")?;
        }
        let (allocated, in_use) = machine.view().size();
        writeln!(out, "  pages {} in use {}", allocated / 4096, in_use / 4096)?;
        let configuration = machine.configuration();
        writeln!(
            out,
            "  voters {:?} learners {:?} removed {:?}",
            configuration.voters,
            configuration.learners,
            machine.members().removed().iter().map(|id| id.0).collect::<Vec<_>>()
        )?;
        writeln!(out, "  version {:?}", machine.cluster_version())?;
        let auth = machine.auth();
        if auth.revision() > 1 {
            writeln!(out, "  auth enabled={} revision={}", auth.is_enabled(), auth.revision())?;
        }
        for User { name, password, roles, .. } in auth.users().filter_map(|name| auth.user(name)) {
            let (name, password) = (name.escape_ascii(), password.escape_ascii());
            writeln!(out, "  user {name} password={password} {roles:?}")?;
        }
        for Role { name, key_permission } in auth.roles().filter_map(|name| auth.role(name)) {
            write!(out, "  role {}", name.escape_ascii())?;
            for Permission { perm_type, key, range_end } in key_permission {
                let kind = ["read", "write", "both"][*perm_type as usize];
                write!(out, " {kind}:{}..{}", key.escape_ascii(), range_end.escape_ascii())?;
            }
            writeln!(out)?;
        }
        if let Some(target) = machine.downgrade_target() {
            writeln!(out, "  to go down to {target}")?;
        }
        Ok(())
    }
}

fn request_of(command: &Command) -> Fallible<Request> {
    Ok(match command {
        Command::Put { key, value, lease, prev } => {
            Request::Put(PutRequest { prev_kv: *prev, ..put(key, value, *lease) })
        }
        Command::Del { key, range_end, prev } => {
            Request::DeleteRange(DeleteRangeRequest { prev_kv: *prev, ..delete(key, range_end) })
        }
        Command::Auth(words) => auth_request(words)?,
        Command::Txn { ops, exists } => {
            let compare = Compare {
                result: CompareResult::Greater as i32,
                target: CompareTarget::Version as i32,
                key: exists.clone().into(),
                target_union: Some(TargetUnion::Version(0)),
                ..Compare::default()
            };
            Request::Txn(TxnRequest {
                compare: Some(compare).filter(|_| !exists.is_empty()).into_iter().collect(),
                success: ops.split(';').map(op).collect::<Fallible<_>>()?,
                failure: Vec::new(),
            })
        }
        Command::Compact { revision, physical } => {
            Request::Compaction(CompactionRequest { revision: *revision, physical: *physical })
        }
        Command::Grant { lease, ttl } => {
            Request::LeaseGrant(LeaseGrantRequest { id: *lease, ttl: *ttl })
        }
        Command::Revoke { leases, expired } => {
            Request::LeaseRevoke(LeaseRevokeBatch { ids: leases.clone(), expired: *expired })
        }
        Command::Attributes { member, name, url } => Request::MemberAttributes(MemberAttributes {
            member_id: *member,
            name: name.clone(),
            client_urls: vec![url.clone()],
        }),
        Command::Version(version) => {
            Request::ClusterVersion(ClusterVersion { version: version.clone() })
        }
        Command::Add { member, url, learner } => Request::MemberAdd(MemberAdd {
            member: Some(Member {
                id: *member,
                peer_ur_ls: vec![url.clone()],
                is_learner: *learner,
                ..Member::default()
            }),
            learners_max: 1,
        }),
        Command::Promote(id) => Request::MemberPromote(MemberChange { member_id: *id }),
        Command::Remove(id) => Request::MemberRemove(MemberChange { member_id: *id }),
        Command::Update { member, url } => {
            Request::MemberUpdate(MemberUpdate { member_id: *member, peer_urls: vec![url.clone()] })
        }
        Command::Downgrade(target) => Request::Downgrade(Downgrade { target: target.clone() }),
        Command::Alarm { action, alarm, member } => Request::Alarm(AlarmRequest {
            action: AlarmAction::from_str_name(&action.to_uppercase()).ok_or("an action")? as i32,
            member_id: *member,
            alarm: AlarmType::from_str_name(&alarm.to_uppercase()).ok_or("an alarm")? as i32,
        }),
        _ => return Err("not a request".into()),
    })
}

/// Reads changes like `enable`, `user-add ann`, `grant-role ann reader`, `permit reader read a b`.
fn auth_request(words: &[String]) -> Fallible<Request> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let hash = |password: &str| BASE64_STANDARD.encode(password);
    Ok(match words[..] {
        ["enable"] => Request::AuthEnable(AuthEnableRequest {}),
        ["disable"] => Request::AuthDisable(AuthDisableRequest {}),
        ["user-add", name] | ["user-add", name, "without-password"] => {
            let no_password = words.len() > 2;
            Request::UserAdd(AuthUserAddRequest {
                name: name.to_owned(),
                hashed_password: if no_password { String::new() } else { hash("first") },
                options: Some(UserAddOptions { no_password }),
                ..AuthUserAddRequest::default()
            })
        }
        ["user-add", name, "in-clear", password] => Request::UserAdd(AuthUserAddRequest {
            name: name.to_owned(),
            password: password.to_owned(),
            ..AuthUserAddRequest::default()
        }),
        ["user-delete", name] => {
            Request::UserDelete(AuthUserDeleteRequest { name: name.to_owned() })
        }
        ["password", name, new] => Request::UserChangePassword(AuthUserChangePasswordRequest {
            name: name.to_owned(),
            hashed_password: hash(new),
            ..AuthUserChangePasswordRequest::default()
        }),
        ["grant-role", user, role] => Request::UserGrantRole(AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        }),
        ["revoke-role", name, role] => Request::UserRevokeRole(AuthUserRevokeRoleRequest {
            name: name.to_owned(),
            role: role.to_owned(),
        }),
        ["role-add", name] => Request::RoleAdd(AuthRoleAddRequest { name: name.to_owned() }),
        ["role-delete", role] => {
            Request::RoleDelete(AuthRoleDeleteRequest { role: role.to_owned() })
        }
        ["permit", name] => Request::RoleGrantPermission(AuthRoleGrantPermissionRequest {
            name: name.to_owned(),
            perm: None,
        }),
        ["permit", name, kind, key, end] => {
            Request::RoleGrantPermission(AuthRoleGrantPermissionRequest {
                name: name.to_owned(),
                perm: Some(Permission {
                    perm_type: match kind {
                        "read" => 0,
                        "write" => 1,
                        _ => 2,
                    },
                    key: key.to_owned().into(),
                    range_end: end.to_owned().into(),
                }),
            })
        }
        ["withdraw", role, key, end] => {
            Request::RoleRevokePermission(AuthRoleRevokePermissionRequest {
                role: role.to_owned(),
                key: key.to_owned().into(),
                range_end: end.to_owned().into(),
            })
        }
        ["authenticate", name, prefix, checked] => Request::Authenticate(AuthenticateUser {
            name: name.to_owned(),
            checked_revision: checked.parse()?,
            token_prefix: prefix.to_owned(),
        }),
        _ => return Err(format!("unknown change {words:?}").into()),
    })
}

fn put(key: &str, value: &str, lease: i64) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        ..PutRequest::default()
    }
}

fn delete(key: &str, range_end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..DeleteRangeRequest::default()
    }
}

fn op(text: &str) -> Fallible<RequestOp> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let request = match words[..] {
        ["put", key, value] => request_op::Request::RequestPut(put(key, value, 0)),
        ["put", key, value, lease] => {
            request_op::Request::RequestPut(put(key, value, lease.parse()?))
        }
        ["put-prev", key, value] => {
            request_op::Request::RequestPut(PutRequest { prev_kv: true, ..put(key, value, 0) })
        }
        ["nested", ..] => request_op::Request::RequestTxn(TxnRequest {
            failure: vec![op(&words[1..].join(" "))?],
            ..TxnRequest::default()
        }),
        ["del", key] => request_op::Request::RequestDeleteRange(delete(key, "")),
        ["get", key] => request_op::Request::RequestRange(RangeRequest {
            key: key.to_owned().into(),
            ..RangeRequest::default()
        }),
        _ => return Err(format!("unknown op {text}").into()),
    };
    Ok(RequestOp { request: Some(request) })
}

fn show_response(out: &mut String, response: Response) -> std::fmt::Result {
    let revision = |header: Option<ResponseHeader>| header.unwrap_or_default().revision;
    match response {
        Response::Put(put) => writeln!(out, "put revision={}", revision(put.header)),
        Response::DeleteRange(delete) => {
            writeln!(out, "del revision={} deleted={}", revision(delete.header), delete.deleted)
        }
        Response::Txn(txn) => {
            let (answers, revision) = (txn.responses.len(), revision(txn.header));
            writeln!(out, "txn revision={revision} succeeded={} answers={answers}", txn.succeeded)
        }
        Response::Compact { response, physical } => {
            writeln!(out, "compact revision={} physical={physical}", revision(response.header))
        }
        Response::LeaseGrant(grant) => {
            let (revision, id, ttl) = (revision(grant.header), grant.id, grant.ttl);
            writeln!(out, "grant revision={revision} id={id} ttl={ttl}")
        }
        Response::LeaseRevoke(revoke) => {
            writeln!(out, "revoke revision={}", revision(revoke.header))
        }
        Response::Alarm(answer) => {
            let alarms: Vec<_> = answer.alarms.iter().map(|a| (a.alarm, a.member_id)).collect();
            writeln!(out, "alarm revision={} {alarms:?}", revision(answer.header))
        }
        Response::Members(members) => {
            let ids: Vec<_> = members.iter().map(|member| member.id).collect();
            writeln!(out, "members {ids:?}")
        }
        Response::Authenticated { token, auth_revision } => {
            writeln!(out, "token={token} auth_revision={auth_revision}")
        }
        Response::Done => writeln!(out, "done"),
    }
}

/// An engine that notes what each batch writes.
struct Recorder {
    engine: Arc<dyn Engine>,
    writes: Mutex<Vec<String>>,
}

impl Recorder {
    fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, writes: Mutex::default() }
    }
}

impl Read for Recorder {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.engine.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.engine.scan(space, start, end, visit)
    }
}

impl Engine for Recorder {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let mut noted = String::new();
        for space in Space::ALL {
            let (puts, deletions): (Vec<_>, Vec<_>) =
                batch.range(space, &[], None).partition(|(_, value)| value.is_some());
            for (sign, records) in [('+', puts), ('-', deletions)] {
                if !records.is_empty() {
                    noted.push_str(&format!(" {}{sign}{}", space.name(), records.len()));
                }
            }
        }
        self.writes.lock().push(noted);
        self.engine.write(batch)
    }

    fn clear(&self) -> Result<(), Fatal> {
        self.engine.clear()
    }

    fn flush(&self) -> Result<(), Fatal> {
        self.engine.flush()
    }

    fn is_volatile(&self) -> bool {
        self.engine.is_volatile()
    }

    fn size(&self) -> (u64, u64) {
        self.engine.size()
    }

    fn name(&self) -> &'static str {
        self.engine.name()
    }
}

#[test]
fn an_entry_out_of_order_is_refused() {
    let mut machine = Machine::open(Arc::new(MemoryEngine::new())).expect("an empty engine opens");
    let entry = |index, term| CommittedEntry { index, term, command: Bytes::new() };
    machine.apply(&[entry(1, 2)]).expect("the first entry is applied");
    for wrong in [entry(1, 2), entry(3, 2), entry(2, 1)] {
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = machine.apply(&[wrong]);
        }));
        assert!(applied.is_err(), "an entry out of order must not be applied");
    }
    assert_eq!(machine.applied_index(), 1);
}
