//! Who may do what, by a naive model that replays the committed entries one by one.
//!
//! It knows users, roles, tokens and the switch at each index of the log, and with them what each
//! entry must come to: whether the caller in it may do what it asks for *where it is applied*. Keys
//! that a lease has at that moment are not known here; what depends on them is judged from the
//! store's revision where an answer names one, and else left open.

use crate::checker::Store;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use quoin::error::RequestError;
use quoin::machine::{AuthState, ROOT, Response};
use quoin::pb::authpb::permission::Type;
use quoin::pb::etcdserverpb::{RequestOp, TxnRequest, request_op::Request as Op};
use quoin::pb::quoinpb::{self, command::Request as Command};
use quoin::replica::Reply;
use quoin::types::{Index, RequestId};
use std::collections::{BTreeMap, BTreeSet};

type Done = Result<(), RequestError>;

#[derive(Clone, Debug, Default, PartialEq)]
struct User {
    password: Vec<u8>,
    roles: BTreeSet<String>,
}

/// All of auth after an entry. Permissions by place.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, BTreeMap<(Bytes, Bytes), i32>>,
}

/// Who asks: nobody if the name is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Principal {
    pub user: String,
    pub revision: u64,
}

/// What a request reads or writes.
type Need = (Type, Bytes, Bytes);

/// What an entry must come to.
#[derive(Clone, Debug)]
enum Verdict {
    /// It is applied, whatever comes of that.
    Free,
    /// The same, but the keys of this lease must be the caller's to write.
    ByLease(i64, Principal, Index),
    /// Nothing is known but that it may be refused.
    Open,
    /// A change of auth, with its result.
    Exactly(Done),
}

struct Token {
    user: String,
    given: Index,
    /// The entry that took it away.
    taken: Option<Index>,
}

/// See the module's comment.
pub struct Rights {
    /// All entries up to here are known.
    applied: Index,
    /// After the entries that changed something.
    states: BTreeMap<Index, State>,
    verdicts: BTreeMap<(u64, u64, u64), (Index, Verdict)>,
    tokens: BTreeMap<String, Token>,
    /// What members answered in their present round.
    replies: Vec<(RequestId, Result<Option<Response>, RequestError>)>,
    /// The last entry whose outcome somebody was told.
    pub acknowledged: Index,
    /// Calls that were refused for want of a right, and logins that succeeded.
    pub refused: u64,
    pub logins: u64,
}

impl Default for Rights {
    fn default() -> Self {
        let first =
            State { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() };
        Self {
            applied: 0,
            states: BTreeMap::from([(0, first)]),
            verdicts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            replies: Vec::new(),
            acknowledged: 0,
            refused: 0,
            logins: 0,
        }
    }
}

fn key_of(id: RequestId) -> (u64, u64, u64) {
    (id.member.0, id.boot, id.sequence)
}

/// Whether an error is about rights.
fn is_refusal(error: &RequestError) -> bool {
    use RequestError as E;
    matches!(error, E::UserEmpty | E::PermissionDenied | E::AuthOldRevision)
}

/// Whether an error says nothing of what comes of the entry.
fn is_open(error: &RequestError) -> bool {
    use RequestError as E;
    matches!(
        error,
        E::NoLeader
            | E::NotLeader
            | E::LeaderChanged
            | E::Stopped
            | E::Timeout
            | E::TimeoutDueToLeaderFail
            | E::TimeoutDueToConnectionLost
            | E::TimeoutWaitAppliedIndex
            | E::TooManyRequests
    )
}

impl Rights {
    /// Takes the next committed entry; others are passed over.
    pub fn entry(&mut self, index: Index, command: &[u8]) -> Result<(), String> {
        if index != self.applied + 1 {
            return Ok(());
        }
        self.applied = index;
        if command.is_empty() {
            return Ok(());
        }
        let command: quoinpb::Command =
            prost::Message::decode(command).map_err(|e| format!("entry {index}: {e}"))?;
        let (Some(id), Some(request)) = (command.id, command.request) else {
            return Err(format!("entry {index} lacks its request"));
        };
        let caller = Principal { user: command.user, revision: command.auth_revision };
        let verdict = match self.newest().judge(&caller, &request, index) {
            Err(refused) => Verdict::Exactly(Err(refused)),
            Ok(Verdict::Exactly(_)) => {
                let mut state = self.newest().clone();
                let result = self.change(&mut state, request, index);
                if state != *self.newest() {
                    self.states.insert(index, state);
                }
                Verdict::Exactly(result)
            }
            Ok(verdict) => verdict,
        };
        self.verdicts.entry(key_of(id.into())).or_insert((index, verdict));
        Ok(())
    }

    fn newest(&self) -> &State {
        self.states.last_key_value().expect("the first stays").1
    }

    /// All of auth after an entry, if that is known.
    fn at(&self, index: Index) -> Option<&State> {
        let state = self.states.range(..=index).next_back()?.1;
        (index <= self.applied).then_some(state)
    }

    fn take_tokens(&mut self, index: Index, user: Option<&str>) {
        for token in self.tokens.values_mut() {
            if token.taken.is_none() && user.is_none_or(|user| user == token.user) {
                token.taken = Some(index);
            }
        }
    }

    fn change(&mut self, state: &mut State, request: Command, index: Index) -> Done {
        match &request {
            Command::AuthDisable(_) if state.enabled => self.take_tokens(index, None),
            Command::UserDelete(r)
                if state.users.contains_key(&r.name) && !(state.enabled && r.name == ROOT) =>
            {
                self.take_tokens(index, Some(&r.name));
            }
            Command::UserChangePassword(r) => self.take_tokens(index, Some(&r.name)),
            Command::Authenticate(r) => {
                state.authenticate(&r.name, r.checked_revision)?;
                let token = Token { user: r.name.clone(), given: index, taken: None };
                self.tokens.insert(format!("{}.{index}", r.token_prefix), token);
                self.logins += 1;
                return Ok(());
            }
            _ => {}
        }
        if state.change(request)? {
            state.revision += 1;
        }
        Ok(())
    }

    /// Notes what a member answers; [`Rights::check_replies`] looks at it once the entries of
    /// the same round are known.
    pub fn replied(&mut self, id: RequestId, reply: &Result<Reply, RequestError>) {
        let reply = match reply {
            Ok(Reply::Applied(response)) => Ok(Some(response.clone())),
            Ok(_) => return,
            Err(error) if is_open(error) => return,
            Err(error) => Err(error.clone()),
        };
        self.replies.push((id, reply));
    }

    pub fn check_replies(&mut self, store: &Store) -> Result<(), String> {
        for (id, reply) in std::mem::take(&mut self.replies) {
            // It is no write, or nobody lived to tell of an entry before it.
            let Some((index, verdict)) = self.verdicts.get(&key_of(id)) else { continue };
            self.acknowledged = self.acknowledged.max(*index);
            self.refused += u64::from(reply.as_ref().is_err_and(is_refusal));
            let is_right = match (verdict, &reply) {
                (Verdict::Exactly(expected), reply) => {
                    reply.as_ref().map(|_| ()) == expected.as_ref().map(|_| ())
                }
                (Verdict::Open, _) => true,
                (_, Err(error)) if !is_refusal(error) => true,
                (Verdict::ByLease(..), Err(_)) => true,
                (Verdict::ByLease(lease, caller, at), Ok(Some(Response::Put(response)))) => {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    let state = self.at(*at).ok_or("no state for an entry")?;
                    state.may_use_lease(caller, *lease, store, revision)
                }
                (_, reply) => reply.is_ok(),
            };
            if !is_right {
                return Err(format!("entry {index} must come to {verdict:?}, not {reply:?}"));
            }
        }
        Ok(())
    }

    /// Whether a token stood for a user after an entry.
    pub fn check_token(&self, applied: Index, token: &str, user: &str) -> Result<(), String> {
        if applied > self.applied {
            return Ok(());
        }
        let known = self.tokens.get(token).filter(|known| {
            known.user == user
                && known.given <= applied
                && known.taken.is_none_or(|taken| applied < taken)
        });
        match known {
            Some(_) => Ok(()),
            None => Err(format!("{token} was taken for a token of {user} after entry {applied}")),
        }
    }

    /// Whether a member is right to let a read pass, or not, after an entry.
    pub fn check_read(
        &self,
        applied: Index,
        caller: Option<&Principal>,
        needs: &[(Bytes, Bytes)],
        found: &Done,
    ) -> Result<(), String> {
        let Some(state) = self.at(applied) else { return Ok(()) };
        let expected = match caller {
            None if state.enabled => Err(RequestError::UserEmpty),
            None => Ok(()),
            Some(caller) => {
                let needs = needs.iter().map(|(key, end)| (Type::Read, key.clone(), end.clone()));
                state.check(caller, &needs.collect::<Vec<_>>())
            }
        };
        match expected == *found {
            true => Ok(()),
            false => Err(format!(
                "a read of {needs:?} by {caller:?} after entry {applied} came to {found:?}, not \
                 {expected:?}"
            )),
        }
    }

    /// Whether a member has the users and roles that the entries made.
    pub fn check_state(&self, applied: Index, found: &AuthState) -> Result<(), String> {
        let Some(expected) = self.at(applied) else { return Ok(()) };
        let user = |name: &str| {
            let user = found.user(name).cloned().unwrap_or_default();
            let roles = user.roles.into_iter().collect();
            (name.to_owned(), User { password: user.password.to_vec(), roles })
        };
        let role = |name: &str| {
            let role = found.role(name).cloned().unwrap_or_default();
            let held = role.key_permission.into_iter();
            (name.to_owned(), held.map(|p| ((p.key, p.range_end), p.perm_type)).collect())
        };
        let found = State {
            enabled: found.is_enabled(),
            revision: found.revision(),
            users: found.users().map(user).collect(),
            roles: found.roles().map(role).collect(),
        };
        match found == *expected {
            true => Ok(()),
            false => Err(format!("auth is {found:?} after entry {applied}, not {expected:?}")),
        }
    }
}

impl State {
    /// What an entry must come to; a change of auth is still to be carried out.
    fn judge(
        &self,
        caller: &Principal,
        request: &Command,
        at: Index,
    ) -> Result<Verdict, RequestError> {
        let is_nobody = self.enabled && caller.user.is_empty();
        match request {
            Command::Put(put) => {
                let mut needs = vec![(Type::Write, put.key.clone(), Bytes::new())];
                if put.prev_kv {
                    needs.push((Type::Read, put.key.clone(), Bytes::new()));
                }
                self.check(caller, &needs)?;
                Ok(match self.enabled && put.lease != 0 {
                    true => Verdict::ByLease(put.lease, caller.clone(), at),
                    false => Verdict::Free,
                })
            }
            Command::DeleteRange(delete) => {
                let mut needs = vec![(Type::Write, delete.key.clone(), delete.range_end.clone())];
                if delete.prev_kv {
                    needs.push((Type::Read, delete.key.clone(), delete.range_end.clone()));
                }
                self.check(caller, &needs).map(|()| Verdict::Free)
            }
            Command::Txn(txn) => self.check(caller, &needs_of(txn)).map(|()| Verdict::Free),
            Command::LeaseGrant(_) if is_nobody => Err(RequestError::UserEmpty),
            Command::LeaseRevoke(revoke) if !revoke.expired => match (is_nobody, self.enabled) {
                (true, _) => Err(RequestError::UserEmpty),
                (_, true) => Ok(Verdict::Open),
                (_, false) => Ok(Verdict::Free),
            },
            Command::Compaction(_) => self.check_admin(caller).map(|()| Verdict::Free),
            Command::Authenticate(_) => Ok(Verdict::Exactly(Ok(()))),
            Command::AuthEnable(_)
            | Command::AuthDisable(_)
            | Command::UserAdd(_)
            | Command::UserDelete(_)
            | Command::UserChangePassword(_)
            | Command::UserGrantRole(_)
            | Command::UserRevokeRole(_)
            | Command::RoleAdd(_)
            | Command::RoleDelete(_)
            | Command::RoleGrantPermission(_)
            | Command::RoleRevokePermission(_) => {
                self.check_admin(caller).map(|()| Verdict::Exactly(Ok(())))
            }
            _ => Ok(Verdict::Free),
        }
    }

    fn is_root(&self, user: &str) -> bool {
        self.users.get(user).is_some_and(|user| user.roles.contains(ROOT))
    }

    fn check_admin(&self, caller: &Principal) -> Done {
        match () {
            () if !self.enabled => Ok(()),
            () if caller.user.is_empty() => Err(RequestError::UserEmpty),
            () if self.is_root(&caller.user) => Ok(()),
            () => Err(RequestError::PermissionDenied),
        }
    }

    fn check(&self, caller: &Principal, needs: &[Need]) -> Done {
        if !self.enabled || needs.is_empty() {
            return Ok(());
        }
        if caller.user.is_empty() || caller.revision == 0 {
            return Err(RequestError::UserEmpty);
        }
        if caller.revision < self.revision {
            return Err(RequestError::AuthOldRevision);
        }
        let may = |(need, key, end): &Need| self.may(&caller.user, *need, key, end);
        let is_met = self.is_root(&caller.user) || needs.iter().all(may);
        if is_met && self.users.contains_key(&caller.user) {
            return Ok(());
        }
        Err(RequestError::PermissionDenied)
    }

    /// Whether each place in an interval lies in one that the user was granted. Bounds are of one
    /// byte, so one place on each of them and one behind it show every gap.
    fn may(&self, user: &str, need: Type, key: &Bytes, range_end: &Bytes) -> bool {
        let Some(user) = self.users.get(user) else { return false };
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        let granted: Vec<&(Bytes, Bytes)> = roles
            .flatten()
            .filter(|(_, kind)| **kind == Type::Readwrite as i32 || **kind == need as i32)
            .map(|(place, _)| place)
            .collect();
        let covers = |place: &[u8]| granted.iter().any(|(key, end)| contains(key, end, place));
        if range_end.is_empty() {
            return covers(key);
        }
        let bounds = (b'`'..=b'z').map(|byte| vec![byte]).chain([vec![0]]);
        let mut places = bounds.flat_map(|bound| [bound.clone(), [&bound[..], &[0]].concat()]);
        let reaches_end = range_end[..] != [0] || granted.iter().any(|(_, end)| end[..] == [0]);
        reaches_end && places.all(|place| !contains(key, range_end, &place) || covers(&place))
    }

    /// Whether the keys that a lease had before a revision are the caller's to write.
    fn may_use_lease(&self, caller: &Principal, lease: i64, store: &Store, revision: i64) -> bool {
        if self.is_root(&caller.user) || revision > store.revision() {
            return true;
        }
        let kvs = store.range(&[0], &[0], revision - 1);
        let mut keys = kvs.into_iter().filter(|kv| kv.lease == lease).map(|kv| kv.key);
        keys.all(|key| self.may(&caller.user, Type::Write, &key, &Bytes::new()))
    }

    fn authenticate(&self, user: &str, checked_revision: u64) -> Done {
        match () {
            () if !self.enabled => Err(RequestError::AuthNotEnabled),
            () if checked_revision != self.revision => Err(RequestError::AuthOldRevision),
            () if !self.users.contains_key(user) => Err(RequestError::AuthFailed),
            () => Ok(()),
        }
    }

    /// Carries out a change; whether it counts.
    fn change(&mut self, request: Command) -> Result<bool, RequestError> {
        use RequestError as E;
        let enabled = self.enabled;
        match request {
            Command::AuthEnable(_) => {
                if !enabled && !self.users.contains_key(ROOT) {
                    return Err(E::RootUserNotExist);
                }
                if !enabled && !self.is_root(ROOT) {
                    return Err(E::RootRoleNotExist);
                }
                self.enabled = true;
                Ok(false)
            }
            Command::AuthDisable(_) => Ok(std::mem::replace(&mut self.enabled, false)),
            Command::UserAdd(r) if self.users.contains_key(&r.name) => Err(E::UserAlreadyExists),
            Command::UserAdd(r) => {
                let user = User { password: decode(&r.hashed_password), roles: BTreeSet::new() };
                self.users.insert(r.name, user);
                Ok(true)
            }
            Command::UserDelete(r) if enabled && r.name == ROOT => Err(E::InvalidAuthManagement),
            Command::UserDelete(r) => {
                self.users.remove(&r.name).map(|_| true).ok_or(E::UserNotFound)
            }
            Command::UserChangePassword(r) => {
                self.user(&r.name)?.password = decode(&r.hashed_password);
                Ok(true)
            }
            Command::UserGrantRole(r) => {
                self.user(&r.user)?;
                if r.role != ROOT {
                    self.role(&r.role)?;
                }
                Ok(self.user(&r.user)?.roles.insert(r.role))
            }
            Command::UserRevokeRole(r) => {
                if enabled && r.name == ROOT && r.role == ROOT {
                    return Err(E::InvalidAuthManagement);
                }
                let had = self.user(&r.name)?.roles.remove(&r.role);
                had.then_some(true).ok_or(E::RoleNotGranted)
            }
            Command::RoleAdd(r) if self.roles.contains_key(&r.name) => Err(E::RoleAlreadyExists),
            Command::RoleAdd(r) => {
                self.roles.insert(r.name, BTreeMap::new());
                Ok(true)
            }
            Command::RoleDelete(r) if enabled && r.role == ROOT => Err(E::InvalidAuthManagement),
            Command::RoleDelete(r) => {
                self.roles.remove(&r.role).ok_or(E::RoleNotFound)?;
                for user in self.users.values_mut() {
                    user.roles.remove(&r.role);
                }
                Ok(true)
            }
            Command::RoleGrantPermission(r) => {
                let granted = r.perm.ok_or(E::PermissionNotGiven)?;
                let place = (granted.key, granted.range_end);
                self.role(&r.name)?.insert(place, granted.perm_type);
                Ok(true)
            }
            Command::RoleRevokePermission(r) => {
                let had = self.role(&r.role)?.remove(&(r.key, r.range_end));
                had.map(|_| true).ok_or(E::PermissionNotGranted)
            }
            _ => Ok(false),
        }
    }

    fn user(&mut self, name: &str) -> Result<&mut User, RequestError> {
        self.users.get_mut(name).ok_or(RequestError::UserNotFound)
    }

    fn role(&mut self, name: &str) -> Result<&mut BTreeMap<(Bytes, Bytes), i32>, RequestError> {
        self.roles.get_mut(name).ok_or(RequestError::RoleNotFound)
    }
}

fn decode(hash: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(hash).expect("the operator encodes it")
}

/// By etcd's conventions for the end.
fn contains(key: &[u8], range_end: &[u8], place: &[u8]) -> bool {
    match range_end {
        [] => place == key,
        [0] => place >= key,
        end => place >= key && place < end,
    }
}

/// All that a transaction may touch on any path.
fn needs_of(txn: &TxnRequest) -> Vec<Need> {
    let compares = txn.compare.iter();
    let mut needs: Vec<Need> =
        compares.map(|c| (Type::Read, c.key.clone(), c.range_end.clone())).collect();
    for RequestOp { request } in txn.success.iter().chain(&txn.failure) {
        match request {
            Some(Op::RequestRange(r)) => {
                needs.push((Type::Read, r.key.clone(), r.range_end.clone()));
            }
            Some(Op::RequestPut(r)) => needs.push((Type::Write, r.key.clone(), Bytes::new())),
            Some(Op::RequestDeleteRange(r)) => {
                needs.push((Type::Write, r.key.clone(), r.range_end.clone()));
            }
            Some(Op::RequestTxn(nested)) => needs.extend(needs_of(nested)),
            None => {}
        }
    }
    needs
}

/// What a read-only transaction reads.
pub fn reads_of(txn: &TxnRequest) -> Vec<(Bytes, Bytes)> {
    needs_of(txn).into_iter().map(|(_, key, end)| (key, end)).collect()
}
