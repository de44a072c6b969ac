//! Users, roles and the auth switch as the log decides them.
//!
//! The tables in memory mirror the space `auth`; both change together, in the batch of the entry
//! that causes it. Each change counts the auth revision up, by which credentials that were
//! checked before it are told from later ones. Readers on other threads hold an [`AuthView`]: it
//! shows a whole [`AuthState`] at a time, published with the batch. Passwords are here as
//! hashes only; making and checking them is left to the member that was asked.

use super::Response;
use super::permission::{Grants, is_valid};
use super::table::read_all;
use super::tokens::{TokenChange, TokenTable, split};
use crate::error::{Fatal, RequestError};
use crate::pb::authpb::{Permission, Role, User};
use crate::pb::etcdserverpb::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest,
    AuthUserChangePasswordRequest,
};
use crate::pb::quoinpb::{AuthenticateUser, command::Request};
use crate::planted::{self, Bug};
use crate::storage::{Engine, Space, WriteBatch};
use crate::types::Index;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf, Bytes};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The user and the role that may do everything.
pub const ROOT: &str = "root";

const KEY_ENABLED: &[u8] = b"enabled";
const KEY_REVISION: &[u8] = b"revision";
const USER_PREFIX: &[u8] = b"user/";
const ROLE_PREFIX: &[u8] = b"role/";

type Changed = Result<(), RequestError>;

#[derive(Clone, Debug)]
struct Account {
    user: Arc<User>,
    grants: Arc<Grants>,
}

/// All of auth at one moment. Cheap to clone for a few hundred users.
#[derive(Clone, Debug)]
pub struct AuthState {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, Account>,
    roles: BTreeMap<String, Arc<Role>>,
}

impl Default for AuthState {
    fn default() -> Self {
        Self { enabled: false, revision: 1, users: BTreeMap::new(), roles: BTreeMap::new() }
    }
}

impl AuthState {
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// From 1, one more with each change of a user or role and when auth is switched off.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name).map(|account| &*account.user)
    }

    pub fn role(&self, name: &str) -> Option<&Role> {
        self.roles.get(name).map(|role| &**role)
    }

    /// Names in order.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.users.keys().map(String::as_str)
    }

    /// Names in order.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        self.roles.keys().map(String::as_str)
    }

    pub(super) fn grants(&self, user: &str) -> Option<&Grants> {
        self.users.get(user).map(|account| &*account.grants)
    }

    fn grants_of(&self, user: &User) -> Arc<Grants> {
        let permissions = |role: &str| self.roles.get(role).map_or(&[][..], |r| &r.key_permission);
        Arc::new(Grants::of(user.roles.iter().map(|role| (&role[..], permissions(role)))))
    }

    fn has_role(&self, user: &str, role: &str) -> bool {
        self.user(user).is_some_and(|user| user.roles.iter().any(|held| held == role))
    }
}

#[derive(Default)]
struct Shared {
    enabled: AtomicBool,
    state: RwLock<Arc<AuthState>>,
    tokens: Mutex<TokenTable>,
}

/// What readers on other threads see of auth.
#[derive(Clone, Default)]
pub struct AuthView {
    shared: Arc<Shared>,
}

impl AuthView {
    /// One relaxed load: all that auth costs a call while it is off.
    pub fn is_enabled(&self) -> bool {
        self.shared.enabled.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> Arc<AuthState> {
        self.shared.state.read().clone()
    }

    /// The user of a simple token, whose life is prolonged to `ttl_ms` from now.
    pub fn redeem(&self, token: &str, now_ms: u64, ttl_ms: u64) -> Option<Arc<str>> {
        self.shared.tokens.lock().redeem(token, now_ms, ttl_ms)
    }

    /// Drops the simple tokens that nobody has used for `ttl_ms`.
    pub fn expire_tokens(&self, now_ms: u64, ttl_ms: u64) {
        self.shared.tokens.lock().expire(now_ms, ttl_ms);
    }

    /// The entry that gave out a simple token, if the text has a token's form.
    pub fn token_index(token: &str) -> Option<Index> {
        split(token).map(|(_, index)| index)
    }
}

/// The machine's side: applies changes, and publishes them with the batch.
pub(super) struct AuthTable {
    state: Arc<AuthState>,
    view: AuthView,
    tokens: Vec<TokenChange>,
}

impl AuthTable {
    /// Reads what the engine holds; readers of `view` see it at once, and no token.
    pub(super) fn open(engine: &dyn Engine, view: AuthView) -> Result<Self, Fatal> {
        let mut state = AuthState::default();
        read_all(engine, Space::Auth, "users and roles", &mut |key, value| {
            load_record(&mut state, key, value.as_slice())
        })?;
        // Roles come before users by key, but that need not matter.
        let grants: Vec<_> =
            state.users.values().map(|account| state.grants_of(&account.user)).collect();
        for (account, grants) in state.users.values_mut().zip(grants) {
            account.grants = grants;
        }
        let mut table = Self { state: Arc::new(state), view, tokens: vec![TokenChange::DropAll] };
        table.publish();
        Ok(table)
    }

    pub(super) fn state(&self) -> &AuthState {
        &self.state
    }

    pub(super) fn view(&self) -> &AuthView {
        &self.view
    }

    /// Shows readers what was applied; the batch is in the engine.
    pub(super) fn publish(&mut self) {
        let shared = &self.view.shared;
        if !self.tokens.is_empty() {
            let mut tokens = shared.tokens.lock();
            self.tokens.drain(..).for_each(|change| tokens.change(change));
        }
        if !Arc::ptr_eq(&shared.state.read(), &self.state) {
            *shared.state.write() = self.state.clone();
            shared.enabled.store(self.state.enabled, Ordering::Release);
        }
    }

    /// Applies a change of auth, the entry at `index`; only one that `is_new` makes a token known.
    ///
    /// # Errors
    /// When the request is of another kind, which no caller sends here.
    pub(super) fn apply(
        &mut self,
        request: Request,
        index: Index,
        is_new: bool,
        batch: &mut WriteBatch,
    ) -> Result<Result<Response, RequestError>, Fatal> {
        let changed = match request {
            Request::AuthEnable(_) => self.enable(batch),
            Request::AuthDisable(_) => self.disable(batch),
            Request::UserAdd(request) => self.user_add(request, batch),
            Request::UserDelete(request) => self.user_delete(&request.name, batch),
            Request::UserChangePassword(request) => self.user_change_password(request, batch),
            Request::UserGrantRole(request) => {
                self.user_grant_role(&request.user, &request.role, batch)
            }
            Request::UserRevokeRole(request) => {
                self.user_revoke_role(&request.name, &request.role, batch)
            }
            Request::RoleAdd(request) => self.role_add(request.name, batch),
            Request::RoleDelete(request) => self.role_delete(&request.role, batch),
            Request::RoleGrantPermission(request) => self.role_grant_permission(request, batch),
            Request::RoleRevokePermission(request) => self.role_revoke_permission(&request, batch),
            Request::Authenticate(request) => {
                let auth_revision = self.state.revision;
                let token = self.authenticate(request, index, is_new);
                return Ok(token.map(|token| Response::Authenticated { token, auth_revision }));
            }
            _ => return Err(Fatal::new("apply a command of a kind that nothing applies")),
        };
        Ok(changed.map(|()| Response::Done))
    }

    fn enable(&mut self, batch: &mut WriteBatch) -> Changed {
        if self.state.enabled {
            return Ok(());
        }
        if self.state.user(ROOT).is_none() {
            return Err(RequestError::RootUserNotExist);
        }
        if !self.state.has_role(ROOT, ROOT) {
            return Err(RequestError::RootRoleNotExist);
        }
        batch.put(Space::Auth, KEY_ENABLED.to_vec(), vec![1]);
        self.change().enabled = true;
        Ok(())
    }

    fn disable(&mut self, batch: &mut WriteBatch) -> Changed {
        if self.state.enabled {
            batch.delete(Space::Auth, KEY_ENABLED.to_vec());
            self.change().enabled = false;
            self.tokens.push(TokenChange::DropAll);
            self.count(batch);
        }
        Ok(())
    }

    fn user_add(&mut self, request: AuthUserAddRequest, batch: &mut WriteBatch) -> Changed {
        if request.name.is_empty() {
            return Err(RequestError::UserEmpty);
        }
        if self.state.users.contains_key(&request.name) {
            return Err(RequestError::UserAlreadyExists);
        }
        let options = request.options.unwrap_or_default();
        let password = match options.no_password {
            true => Bytes::new(),
            false if request.hashed_password.is_empty() => {
                return Err(RequestError::NoPasswordUser);
            }
            false => decode_hash(&request.hashed_password)?,
        };
        let name = request.name.into();
        self.put_user(User { name, password, roles: vec![], options: Some(options) }, batch)
    }

    fn user_delete(&mut self, name: &str, batch: &mut WriteBatch) -> Changed {
        if self.state.enabled && name == ROOT {
            return Err(RequestError::InvalidAuthManagement);
        }
        self.existing_user(name)?;
        self.change().users.remove(name);
        batch.delete(Space::Auth, [USER_PREFIX, name.as_bytes()].concat());
        self.tokens.push(TokenChange::DropUser(name.to_owned()));
        self.count(batch);
        Ok(())
    }

    fn user_change_password(
        &mut self,
        request: AuthUserChangePasswordRequest,
        batch: &mut WriteBatch,
    ) -> Changed {
        let mut user = self.existing_user(&request.name)?;
        if !user.options.unwrap_or_default().no_password {
            user.password = decode_hash(&request.hashed_password)?;
        }
        if !planted::has(Bug::TokensOutlivePassword) {
            self.tokens.push(TokenChange::DropUser(request.name));
        }
        self.put_user(user, batch)
    }

    fn user_grant_role(&mut self, name: &str, role: &str, batch: &mut WriteBatch) -> Changed {
        let mut user = self.existing_user(name)?;
        if role != ROOT && !self.state.roles.contains_key(role) {
            return Err(RequestError::RoleNotFound);
        }
        match user.roles.binary_search_by(|held| held.as_str().cmp(role)) {
            // Not a change, and so not counted.
            Ok(_) => Ok(()),
            Err(at) => {
                user.roles.insert(at, role.to_owned());
                self.put_user(user, batch)
            }
        }
    }

    fn user_revoke_role(&mut self, name: &str, role: &str, batch: &mut WriteBatch) -> Changed {
        if self.state.enabled && name == ROOT && role == ROOT {
            return Err(RequestError::InvalidAuthManagement);
        }
        let mut user = self.existing_user(name)?;
        let held = user.roles.len();
        user.roles.retain(|held| held != role);
        if user.roles.len() == held {
            return Err(RequestError::RoleNotGranted);
        }
        self.put_user(user, batch)
    }

    fn role_add(&mut self, name: String, batch: &mut WriteBatch) -> Changed {
        if name.is_empty() {
            return Err(RequestError::RoleEmpty);
        }
        if self.state.roles.contains_key(&name) {
            return Err(RequestError::RoleAlreadyExists);
        }
        self.put_role(Role { name: name.into(), key_permission: vec![] }, batch)
    }

    fn role_delete(&mut self, name: &str, batch: &mut WriteBatch) -> Changed {
        if self.state.enabled && name == ROOT {
            return Err(RequestError::InvalidAuthManagement);
        }
        self.existing_role(name)?;
        self.change().roles.remove(name);
        batch.delete(Space::Auth, [ROLE_PREFIX, name.as_bytes()].concat());
        for holder in self.holders(name) {
            let mut user = self.existing_user(&holder)?;
            user.roles.retain(|held| held != name);
            self.store_user(user, batch);
        }
        self.count(batch);
        Ok(())
    }

    fn role_grant_permission(
        &mut self,
        request: AuthRoleGrantPermissionRequest,
        batch: &mut WriteBatch,
    ) -> Changed {
        let Some(permission) = request.perm else {
            return Err(RequestError::PermissionNotGiven);
        };
        if !is_valid(&permission) {
            return Err(RequestError::InvalidAuthManagement);
        }
        let mut role = self.existing_role(&request.name)?;
        fn place(p: &Permission) -> (&Bytes, &Bytes) {
            (&p.key, &p.range_end)
        }
        role.key_permission.retain(|held| place(held) != place(&permission));
        role.key_permission.push(permission);
        role.key_permission.sort_by(|a, b| place(a).cmp(&place(b)));
        self.put_role(role, batch)
    }

    fn role_revoke_permission(
        &mut self,
        request: &AuthRoleRevokePermissionRequest,
        batch: &mut WriteBatch,
    ) -> Changed {
        let mut role = self.existing_role(&request.role)?;
        let held = role.key_permission.len();
        role.key_permission
            .retain(|held| held.key != request.key || held.range_end != request.range_end);
        if role.key_permission.len() == held {
            return Err(RequestError::PermissionNotGranted);
        }
        self.put_role(role, batch)
    }

    /// Gives out a token for a user whose password was found right at the auth revision in
    /// the request. Empty when the member that was asked makes tokens of its own.
    fn authenticate(
        &mut self,
        request: AuthenticateUser,
        index: Index,
        is_new: bool,
    ) -> Result<String, RequestError> {
        if !self.state.enabled {
            return Err(RequestError::AuthNotEnabled);
        }
        let is_late = request.checked_revision != self.state.revision;
        if is_late && !planted::has(Bug::PasswordCheckedEarlier) {
            return Err(RequestError::AuthOldRevision);
        }
        if !self.state.users.contains_key(&request.name) {
            return Err(RequestError::AuthFailed);
        }
        if request.token_prefix.is_empty() {
            return Ok(String::new());
        }
        let token = format!("{}.{index}", request.token_prefix);
        let (prefix, user) = (request.token_prefix, request.name);
        if is_new {
            self.tokens.push(TokenChange::Assign { index, prefix, user });
        }
        Ok(token)
    }

    /// The state to change: a copy of what readers hold.
    fn change(&mut self) -> &mut AuthState {
        Arc::make_mut(&mut self.state)
    }

    fn count(&mut self, batch: &mut WriteBatch) {
        let state = self.change();
        state.revision += 1;
        let revision = state.revision;
        batch.put(Space::Auth, KEY_REVISION.to_vec(), revision.to_be_bytes().to_vec());
    }

    fn existing_user(&self, name: &str) -> Result<User, RequestError> {
        self.state.user(name).cloned().ok_or(RequestError::UserNotFound)
    }

    fn existing_role(&self, name: &str) -> Result<Role, RequestError> {
        self.state.role(name).cloned().ok_or(RequestError::RoleNotFound)
    }

    fn holders(&self, role: &str) -> Vec<String> {
        let holds = |name: &&str| self.state.has_role(name, role);
        self.state.users().filter(holds).map(str::to_owned).collect()
    }

    fn put_user(&mut self, user: User, batch: &mut WriteBatch) -> Changed {
        self.store_user(user, batch);
        self.count(batch);
        Ok(())
    }

    fn store_user(&mut self, user: User, batch: &mut WriteBatch) {
        batch.put(Space::Auth, [USER_PREFIX, &user.name].concat(), user.encode_to_vec());
        let grants = self.state.grants_of(&user);
        let name = String::from_utf8_lossy(&user.name).into_owned();
        self.change().users.insert(name, Account { user: Arc::new(user), grants });
    }

    fn put_role(&mut self, role: Role, batch: &mut WriteBatch) -> Changed {
        batch.put(Space::Auth, [ROLE_PREFIX, &role.name].concat(), role.encode_to_vec());
        let name = String::from_utf8_lossy(&role.name).into_owned();
        self.change().roles.insert(name.clone(), Arc::new(role));
        for holder in self.holders(&name) {
            let grants = self.state.user(&holder).map(|user| self.state.grants_of(user));
            if let (Some(account), Some(grants)) = (self.change().users.get_mut(&holder), grants) {
                account.grants = grants;
            }
        }
        self.count(batch);
        Ok(())
    }
}

/// A hash as requests carry it. What is no hash of anything, or nothing, is taken as well, as in etcd,
/// and no password fits it.
fn decode_hash(text: &str) -> Result<Bytes, RequestError> {
    BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| RequestError::NoPasswordUser)
}

/// None when the record is damaged.
fn load_record(state: &mut AuthState, key: &[u8], mut value: &[u8]) -> Option<()> {
    if key == KEY_ENABLED {
        state.enabled = true;
    } else if key == KEY_REVISION {
        state.revision = value.try_get_u64().ok()?;
    } else if let Some(name) = key.strip_prefix(USER_PREFIX) {
        let account = Account { user: Arc::new(User::decode(value).ok()?), grants: Arc::default() };
        state.users.insert(String::from_utf8(name.to_vec()).ok()?, account);
    } else if let Some(name) = key.strip_prefix(ROLE_PREFIX) {
        let role = Arc::new(Role::decode(value).ok()?);
        state.roles.insert(String::from_utf8(name.to_vec()).ok()?, role);
    } else {
        return None;
    }
    Some(())
}
