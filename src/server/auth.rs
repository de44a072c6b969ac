//! The Auth service: users, roles, the switch, and tokens for passwords.
//!
//! Changes are commands, checked where they are applied. Reads wait until this member is as new as
//! the cluster, and look at its state. Passwords are hashed before anything leaves this member,
//! and are checked here; what is replicated says only that one was right.

use super::access::{Access, Credentials};
use super::header::Headers;
use super::limits::Limits;
use super::metadata;
use super::password::Passwords;
use crate::error::RequestError;
use crate::machine::{AuthState, Caller, ROOT, Response as Outcome};
use crate::pb::authpb::Permission;
use crate::pb::authpb::permission::Type;
use crate::pb::etcdserverpb::auth_server::Auth;
use crate::pb::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGetResponse, AuthRoleGrantPermissionRequest,
    AuthRoleGrantPermissionResponse, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse, AuthStatusRequest,
    AuthStatusResponse, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse, ResponseHeader,
};
use crate::pb::quoinpb::{AuthenticateUser, command::Request as Command};
use crate::replica::Handle;
use bytes::Bytes;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The longest key of etcd's database, in which users and roles are kept by name.
const NAME_BYTES_MAX: usize = 32 << 10;

/// Serves etcdserverpb.Auth for one member.
#[derive(Clone)]
pub struct AuthService {
    handle: Handle,
    headers: Headers,
    limits: Limits,
    access: Access,
    passwords: Passwords,
}

impl AuthService {
    pub fn new(handle: Handle, limits: Limits, access: Access, passwords: Passwords) -> Self {
        Self { headers: Headers::new(handle.clone()), handle, limits, access, passwords }
    }

    /// Takes a request apart into who sent it and what it says.
    fn open<T>(&self, request: Request<T>) -> Result<(Credentials, T), Status> {
        metadata::check(&self.handle, request.metadata())?;
        let credentials =
            self.access.credentials(request.metadata().as_ref(), request.extensions());
        Ok((credentials, request.into_inner()))
    }

    /// Replicates a change.
    async fn change(
        &self,
        credentials: &Credentials,
        command: Command,
    ) -> Result<Option<ResponseHeader>, Status> {
        let bytes_max = self.limits.request_bytes_max;
        match self.access.propose(credentials, command, bytes_max).await? {
            Outcome::Done => Ok(Some(self.headers.current())),
            _ => Err(RequestError::Stopped.into()),
        }
    }

    /// A state as new as the cluster's, if the caller passes the check.
    async fn read(
        &self,
        credentials: &Credentials,
        check: impl FnOnce(&AuthState, Caller<'_>) -> Result<(), RequestError>,
    ) -> Result<Arc<AuthState>, Status> {
        self.handle.read_barrier().await?;
        let principal = self.access.principal(credentials).await?;
        let state = self.access.state();
        check(&state, principal.caller())?;
        Ok(state)
    }

    /// The hash to replicate instead of a password. Administrators only, since it is dear.
    async fn hash(&self, credentials: &Credentials, password: String) -> Result<String, Status> {
        self.read(credentials, AuthState::check_admin).await?;
        Ok(self.passwords.hash(password).await?)
    }

    /// The token for a right password.
    async fn token(&self, name: &str, password: &str) -> Result<String, RequestError> {
        self.handle.read_barrier().await?;
        loop {
            let state = self.access.state();
            if !state.is_enabled() {
                return Err(RequestError::AuthNotEnabled);
            }
            let user = state.user(name);
            if user.is_some_and(|user| user.options.unwrap_or_default().no_password) {
                return Err(RequestError::NoPasswordUser);
            }
            let hash = user.map(|user| user.password.to_vec());
            let checked_revision = state.revision();
            if !self.passwords.verify(password.to_owned(), hash, checked_revision).await? {
                return Err(RequestError::AuthFailed);
            }
            let command = Command::Authenticate(AuthenticateUser {
                name: name.to_owned(),
                checked_revision,
                token_prefix: self.access.tokens().draw_prefix(),
            });
            match self.handle.propose(command, self.limits.request_bytes_max).await {
                Ok(Outcome::Authenticated { token, auth_revision }) => {
                    return self.access.tokens().issue(name, token, auth_revision);
                }
                // The password may have been changed since it was found right.
                Err(RequestError::AuthOldRevision) => {}
                Ok(_) => return Err(RequestError::Stopped),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What the role root may do, whatever is written in it.
fn everything() -> Permission {
    let range_end = Bytes::from_static(&[0]);
    Permission { perm_type: Type::Readwrite as i32, key: Bytes::new(), range_end }
}

/// A name that a backup has room for: etcd itself would end at a longer one.
fn check_name(name: &str) -> Result<(), RequestError> {
    match name.len() <= NAME_BYTES_MAX {
        true => Ok(()),
        false => Err(RequestError::RequestTooLarge),
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::AuthEnable(request)).await?;
        tracing::info!("enabled authentication");
        Ok(Response::new(AuthEnableResponse { header }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::AuthDisable(request)).await?;
        tracing::info!("disabled authentication");
        Ok(Response::new(AuthDisableResponse { header }))
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let (credentials, AuthStatusRequest {}) = self.open(request)?;
        let state = self.read(&credentials, |_, _| Ok(())).await?;
        Ok(Response::new(AuthStatusResponse {
            header: Some(self.headers.current()),
            enabled: state.is_enabled(),
            auth_revision: state.revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        // Whatever token a client still has, it may get a new one.
        metadata::check(&self.handle, request.metadata())?;
        let AuthenticateRequest { name, password } = request.into_inner();
        let token = self.token(&name, &password).await;
        if matches!(token, Err(RequestError::AuthFailed)) {
            tracing::warn!(user = name, "refused an invalid user name or password");
        }
        Ok(Response::new(AuthenticateResponse {
            token: token?,
            header: Some(self.headers.current()),
        }))
    }

    async fn user_add(
        &self,
        request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let (credentials, mut request) = self.open(request)?;
        check_name(&request.name)?;
        if request.options.unwrap_or_default().no_password {
            request.password.clear();
            request.hashed_password.clear();
        } else {
            // As in etcd, a hash that a client sends counts for nothing here.
            let password = std::mem::take(&mut request.password);
            request.hashed_password = self.hash(&credentials, password).await?;
        }
        let header = self.change(&credentials, Command::UserAdd(request)).await?;
        Ok(Response::new(AuthUserAddResponse { header }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let (credentials, AuthUserGetRequest { name }) = self.open(request)?;
        let state = self.read(&credentials, |state, who| state.check_self(who, &name)).await?;
        let user = state.user(&name).ok_or(RequestError::UserNotFound)?;
        Ok(Response::new(AuthUserGetResponse {
            header: Some(self.headers.current()),
            roles: user.roles.clone(),
        }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let (credentials, AuthUserListRequest {}) = self.open(request)?;
        let state = self.read(&credentials, AuthState::check_admin).await?;
        Ok(Response::new(AuthUserListResponse {
            header: Some(self.headers.current()),
            users: state.users().map(str::to_owned).collect(),
        }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::UserDelete(request)).await?;
        Ok(Response::new(AuthUserDeleteResponse { header }))
    }

    async fn user_change_password(
        &self,
        request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let (credentials, mut request) = self.open(request)?;
        if !request.password.is_empty() {
            let password = std::mem::take(&mut request.password);
            request.hashed_password = self.hash(&credentials, password).await?;
        }
        let header = self.change(&credentials, Command::UserChangePassword(request)).await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::UserGrantRole(request)).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::UserRevokeRole(request)).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        check_name(&request.name)?;
        let header = self.change(&credentials, Command::RoleAdd(request)).await?;
        Ok(Response::new(AuthRoleAddResponse { header }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let (credentials, AuthRoleGetRequest { role: name }) = self.open(request)?;
        let state = self.read(&credentials, |state, who| state.check_holder(who, &name)).await?;
        let role = state.role(&name).ok_or(RequestError::RoleNotFound)?;
        let perm = if name == ROOT { vec![everything()] } else { role.key_permission.clone() };
        Ok(Response::new(AuthRoleGetResponse { header: Some(self.headers.current()), perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let (credentials, AuthRoleListRequest {}) = self.open(request)?;
        let state = self.read(&credentials, AuthState::check_admin).await?;
        Ok(Response::new(AuthRoleListResponse {
            header: Some(self.headers.current()),
            roles: state.roles().map(str::to_owned).collect(),
        }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::RoleDelete(request)).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::RoleGrantPermission(request)).await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        let header = self.change(&credentials, Command::RoleRevokePermission(request)).await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header }))
    }
}
