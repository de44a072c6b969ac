//! Users in the world: an operator who changes rights while all goes on, clients who log in, and
//! what a member does to find out who calls: the steps of `server::access` and `server::auth`.
//!
//! Passwords are hashed by a word in front of them. Renewals of leases and watches ask for no rights here.

use super::calls::REQUEST_TIMEOUT;
use super::member::Call;
use super::profile::{MILLI, SECOND};
use super::rights::{Principal, reads_of};
use super::work;
use super::world::{Event, Phase, Violation, World};
use crate::checker::Request;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use quoin::error::RequestError;
use quoin::machine::{self, AuthState, Caller, LeaseTable, Need, ROOT};
use quoin::machine::{encode_command, encode_command_of};
use quoin::pb::authpb::Permission;
use quoin::pb::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthRoleDeleteRequest,
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest, AuthUserDeleteRequest, AuthUserGrantRoleRequest,
    AuthUserRevokeRoleRequest,
};
use quoin::pb::quoinpb::{AuthenticateUser, command::Request as Command};
use quoin::replica::{Input, Millis, Reply};
use quoin::server::validate;
use quoin::types::{MemberId, RequestId};
use std::sync::Arc;

/// How long a token lives that nobody uses: short, so that it happens.
const TOKEN_TTL: Millis = 5_000;
const USERS: [&str; 2] = ["u0", "u1"];
const ROLES: [&str; 2] = ["r0", "r1"];

/// A client's request for a token, on its way through a member.
#[derive(Clone, Debug)]
pub struct Login {
    client: usize,
    user: String,
    password: u64,
    /// The auth revision at which the password was found right.
    checked: Option<u64>,
}

/// The principal of a read, if auth was on when it was let pass.
pub type Permit = Option<Principal>;

fn hash(password: u64) -> String {
    format!("hash of {password}")
}

/// Whether it takes a principal with it into the log.
fn is_write(request: &Request) -> bool {
    match request {
        Request::Range(_) | Request::LeaseKeepAlive(_) => false,
        Request::Txn(request) => !validate::is_read_only_txn(request),
        _ => true,
    }
}

impl World {
    fn applied(&self, id: u64) -> u64 {
        let running = self.members[id as usize - 1].running.as_ref();
        running.map_or(0, |running| running.replica.machine().applied_index())
    }

    /// Who a call comes from, in the eyes of a member with auth on.
    fn principal(
        &self,
        id: u64,
        token: Option<&str>,
    ) -> Result<Result<Principal, RequestError>, Violation> {
        let member = &self.members[id as usize - 1];
        let (Some(running), Some(token)) = (&member.running, token) else {
            return Ok(Ok(Principal::default()));
        };
        let revision = running.auth.state().revision();
        let Some(user) = running.auth.redeem(token, member.local(self.now), TOKEN_TTL) else {
            return Ok(Err(RequestError::InvalidAuthToken));
        };
        self.oracle.rights.check_token(self.applied(id), token, &user)?;
        Ok(Ok(Principal { user: user.to_string(), revision }))
    }

    /// The caller of a write, as its command carries it.
    pub fn writer(
        &self,
        id: u64,
        call: &Call,
    ) -> Result<Result<Principal, RequestError>, Violation> {
        let running = self.members[id as usize - 1].running.as_ref();
        match running.is_some_and(|running| running.auth.is_enabled()) && is_write(&call.request) {
            true => self.principal(id, call.token.as_deref()),
            false => Ok(Ok(Principal::default())),
        }
    }

    /// Lets a read pass that need not wait any more, or does not.
    pub fn permit(&self, id: u64, call: &Call) -> Result<Result<Permit, RequestError>, Violation> {
        if !self.profile.with_auth {
            return Ok(Ok(None));
        }
        let running = self.members[id as usize - 1].running.as_ref();
        let permit = match running.is_some_and(|running| running.auth.is_enabled()) {
            false => None,
            true => match self.principal(id, call.token.as_deref())? {
                Ok(principal) => Some(principal),
                Err(refused) => return Ok(Err(refused)),
            },
        };
        let is_late = self.applied(id) < call.acknowledged;
        if is_late && !is_serializable(&call.request) {
            return Err(format!("member {id} has not applied {} for {call:?}", call.acknowledged));
        }
        let found = self.check_read(id, permit.as_ref(), &call.request)?;
        Ok(found.map(|()| permit))
    }

    /// Asks again before anything of a read leaves.
    pub fn confirm(
        &self,
        id: u64,
        permit: &Permit,
        request: &Request,
    ) -> Result<Result<(), RequestError>, Violation> {
        match permit {
            None => Ok(Ok(())),
            permit => self.check_read(id, permit.as_ref(), request),
        }
    }

    fn check_read(
        &self,
        id: u64,
        principal: Option<&Principal>,
        request: &Request,
    ) -> Result<Result<(), RequestError>, Violation> {
        let Some(running) = &self.members[id as usize - 1].running else { return Ok(Ok(())) };
        let state = running.auth.state();
        let (found, needs) = match request {
            Request::Range(range) => {
                let (key, end) = (range.key.clone(), range.range_end.clone());
                let found = principal
                    .map_or(Ok(()), |who| state.check(caller(who), Need::Read, &key, &end));
                (found, vec![(key, end)])
            }
            Request::Txn(txn) => {
                let no_leases = LeaseTable::default();
                let check = |who| state.check_txn(caller(who), txn, &no_leases);
                (principal.map_or(Ok(()), check), reads_of(txn))
            }
            _ => return Ok(Ok(())),
        };
        self.oracle.rights.check_read(self.applied(id), principal, &needs, &found)?;
        Ok(found)
    }

    /// Drops tokens that nobody uses, as a member does from time to time.
    pub fn expire_tokens(&mut self, id: u64) {
        let now = self.now;
        let member = self.member(id);
        let local = member.local(now);
        if let Some(running) = &member.running {
            running.auth.expire_tokens(local, TOKEN_TTL);
        }
    }

    /// Lets a client ask for a token if it needs one, beside what else it does.
    pub fn log_in_if_needed(&mut self, number: usize) {
        let phase = self.phase;
        let client = &mut self.clients[number];
        if phase == Phase::Healing && client.user.as_deref() != Some(ROOT) {
            // The last calls are everybody's to make.
            client.user = Some(ROOT.to_owned());
            client.token = None;
            client.wants_login = true;
        }
        let Some(user) = client.user.clone() else { return };
        if !client.wants_login || self.now < client.login_due {
            return;
        }
        client.login_due = self.now + self.profile.client_timeout;
        let known = self.passwords.get(&user).copied().unwrap_or(0);
        // It may know the last one, the one before, or the next, which nobody has yet.
        let password = match self.auth_random.below(10) {
            _ if user == ROOT => 0,
            0 => known + 1,
            1..=3 => known.saturating_sub(1),
            _ => known,
        };
        let login = Login { client: number, user, password, checked: None };
        let member = self.auth_random.between(1, self.profile.all());
        let delay = self.auth_random.skewed(20, 5 * MILLI);
        self.after(delay, Event::LoginArrives { member, login });
    }

    pub fn login_arrives(&mut self, id: u64, login: Login) {
        if self.running(id).is_none() {
            // Nobody listens there, which the client learns at once.
            self.clients[login.client].login_due = 0;
            return;
        }
        self.ask_for_login(id, login, |id, deadline| Input::Read { id, deadline });
    }

    fn ask_for_login(
        &mut self,
        id: u64,
        login: Login,
        input: impl FnOnce(RequestId, Millis) -> Input,
    ) {
        let now = self.now;
        let member = self.member(id);
        let deadline = member.local(now) + REQUEST_TIMEOUT;
        let boot = (id << 32) + member.boot * 2;
        let Some(running) = &mut member.running else { return };
        running.sequence += 1;
        let sequence = running.sequence;
        running.logins.insert(sequence, login);
        self.input(id, input(RequestId { member: MemberId(id), boot, sequence }, deadline));
    }

    /// Compares the password with what this member knows, which takes a while.
    fn check_password(&mut self, id: u64, boot: u64, mut login: Login) {
        let Some(running) = self.running(id) else { return };
        let state = running.auth.state();
        if !state.is_enabled() {
            return self.end_login(login, None);
        }
        let stored = state.user(&login.user).map(|user| user.password.clone());
        login.checked =
            (stored.as_deref() == Some(hash(login.password).as_bytes())).then(|| state.revision());
        let delay = self.auth_random.skewed(MILLI, 500 * MILLI);
        self.after(delay, Event::PasswordChecked { member: id, boot, login });
    }

    pub fn password_checked(&mut self, id: u64, boot: u64, login: Login) {
        let Some(checked_revision) = login.checked else { return };
        if !self.is_alive(id, boot) {
            return;
        }
        let letter = |_| char::from(b'a' + self.auth_random.below(26) as u8);
        let token_prefix = (0..8).map(letter).collect();
        let name = login.user.clone();
        let command =
            Command::Authenticate(AuthenticateUser { name, checked_revision, token_prefix });
        self.trace(|_| format!("{id} gives out {command:?}"));
        let propose =
            |id, deadline| Input::Propose { id, command: encode_command(id, command), deadline };
        self.ask_for_login(id, login, propose);
    }

    /// A step of a login has been answered.
    pub fn login_goes_on(
        &mut self,
        id: u64,
        boot: u64,
        login: Login,
        reply: Result<Reply, RequestError>,
    ) {
        match reply {
            Ok(Reply::Readable) | Err(RequestError::AuthOldRevision) => {
                self.check_password(id, boot, login);
            }
            Ok(Reply::Applied(machine::Response::Authenticated { token, .. })) => {
                self.end_login(login, Some(token.into()));
            }
            // The client asks again.
            _ => {}
        }
    }

    fn end_login(&mut self, login: Login, token: Option<Arc<str>>) {
        let delay = self.auth_random.skewed(20, 5 * MILLI);
        self.after(delay, Event::LoggedIn { login, token });
    }

    pub fn logged_in(&mut self, login: Login, token: Option<Arc<str>>) {
        self.trace(|_| format!("{login:?} brings token {token:?}"));
        let client = &mut self.clients[login.client];
        if client.user.as_ref() != Some(&login.user) {
            // It has become another user meanwhile.
            return;
        }
        client.token = token;
        client.wants_login = false;
        client.login_due = 0;
    }

    /// Sees to the next change of rights.
    pub fn after_auth_change(&mut self) {
        if self.profile.with_auth {
            let delay = self.auth_random.skewed(20 * MILLI, 2 * SECOND);
            self.after(delay, Event::AuthChange);
        }
    }

    /// Asks a member for a change that makes sense from where it stands.
    pub fn change_auth(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        self.after_auth_change();
        let via = self.auth_random.between(1, self.profile.all());
        let Some(running) = self.running(via) else { return };
        let state = running.auth.state();
        let command = self.wanted_auth_change(&state);
        let now = self.now;
        let member = self.member(via);
        let deadline = member.local(now) + REQUEST_TIMEOUT;
        let boot = (via << 32) + member.boot * 2;
        let Some(running) = &mut member.running else { return };
        running.sequence += 1;
        running.changes.insert(running.sequence);
        let id = RequestId { member: MemberId(via), boot, sequence: running.sequence };
        self.trace(|_| format!("operator asks {via}, {}: {command:?}", id.sequence));
        let operator = match state.is_enabled() {
            true => Caller { user: ROOT, revision: state.revision() },
            false => Caller::default(),
        };
        let command = encode_command_of(operator, id, command);
        self.input(via, Input::Propose { id, command, deadline });
    }

    fn wanted_auth_change(&mut self, state: &AuthState) -> Command {
        let root = state.user(ROOT);
        if root.is_none() {
            return self.user_add(ROOT);
        }
        let is_root = root.is_some_and(|user| user.roles.iter().any(|role| role == ROOT));
        if !is_root {
            let (user, role) = (ROOT.to_owned(), ROOT.to_owned());
            return Command::UserGrantRole(AuthUserGrantRoleRequest { user, role });
        }
        if !state.is_enabled() && self.auth_random.chance(500) {
            return Command::AuthEnable(AuthEnableRequest {});
        }
        let user = *self.auth_random.pick(&USERS);
        let role = *self.auth_random.pick(&ROLES);
        if state.user(user).is_none() {
            return self.user_add(user);
        }
        let has_role =
            |role: &str| state.user(user).is_some_and(|u| u.roles.iter().any(|r| r == role));
        let (name, held) = (role.to_owned(), has_role(role));
        let user = user.to_owned();
        match self.auth_random.below(100) {
            _ if state.role(&name).is_none() => Command::RoleAdd(AuthRoleAddRequest { name }),
            0..=3 => Command::AuthDisable(AuthDisableRequest {}),
            4..=6 => Command::UserDelete(AuthUserDeleteRequest { name: user }),
            7..=9 => Command::RoleDelete(AuthRoleDeleteRequest { role: name }),
            10..=29 => {
                let hashed_password = self.next_password(&user);
                let password = String::new();
                let request =
                    AuthUserChangePasswordRequest { name: user, password, hashed_password };
                Command::UserChangePassword(request)
            }
            30..=54 if held => {
                Command::UserRevokeRole(AuthUserRevokeRoleRequest { name: user, role: name })
            }
            30..=64 => Command::UserGrantRole(AuthUserGrantRoleRequest { user, role: name }),
            percent => self.permission_change(state, name, percent < 80),
        }
    }

    fn permission_change(&mut self, state: &AuthState, name: String, is_grant: bool) -> Command {
        let held = state.role(&name).map_or(&[][..], |role| &role.key_permission);
        if !is_grant && !held.is_empty() {
            let Permission { key, range_end, .. } = self.auth_random.pick(held).clone();
            let request = AuthRoleRevokePermissionRequest { role: name, key, range_end };
            return Command::RoleRevokePermission(request);
        }
        let (key, range_end): (Bytes, Bytes) = work::interval(&self.profile, &mut self.auth_random);
        let perm_type = self.auth_random.below(3) as i32;
        let perm = Some(Permission { perm_type, key, range_end });
        Command::RoleGrantPermission(AuthRoleGrantPermissionRequest { name, perm })
    }

    fn user_add(&mut self, name: &str) -> Command {
        let hashed_password = match name {
            ROOT => BASE64_STANDARD.encode(hash(0)),
            name => self.next_password(name),
        };
        let (name, password) = (name.to_owned(), String::new());
        Command::UserAdd(AuthUserAddRequest { name, password, options: None, hashed_password })
    }

    fn next_password(&mut self, user: &str) -> String {
        let number = self.passwords.entry(user.to_owned()).or_default();
        *number += 1;
        BASE64_STANDARD.encode(hash(*number))
    }
}

fn caller(principal: &Principal) -> Caller<'_> {
    Caller { user: &principal.user, revision: principal.revision }
}

fn is_serializable(request: &Request) -> bool {
    match request {
        Request::Range(request) => request.serializable,
        Request::Txn(request) => validate::is_serializable_txn(request),
        _ => true,
    }
}
