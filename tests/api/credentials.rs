//! Users and their tokens, for the tests of auth.

use crate::cluster::Raw;
use quoin::pb::authpb::{Permission, permission::Type};
use quoin::pb::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest,
    AuthUserGrantRoleRequest, AuthenticateRequest,
};
use tonic::{Request, Status};

/// What a call is made with.
#[derive(Clone, Debug, Default)]
pub struct Token(pub Option<String>);

impl Token {
    pub fn on<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("token", token.parse().unwrap());
        }
        request
    }
}

pub const NOBODY: Token = Token(None);

pub fn permission(kind: Type, key: &str, range_end: &str) -> Permission {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    Permission { perm_type: kind as i32, key, range_end }
}

/// The password of each user is its name.
pub async fn add_user(raw: &Raw, by: &Token, name: &str, roles: &[&str]) {
    let mut auth = raw.auth.clone();
    let (password, user) = (name.to_owned(), name.to_owned());
    let add = AuthUserAddRequest { name: user, password, ..Default::default() };
    auth.user_add(by.on(add)).await.unwrap();
    for role in roles {
        let grant = AuthUserGrantRoleRequest { user: name.to_owned(), role: (*role).to_owned() };
        auth.user_grant_role(by.on(grant)).await.unwrap();
    }
}

pub async fn add_role(raw: &Raw, by: &Token, name: &str, permissions: Vec<Permission>) {
    let mut auth = raw.auth.clone();
    auth.role_add(by.on(AuthRoleAddRequest { name: name.to_owned() })).await.unwrap();
    for permission in permissions {
        let perm = Some(permission);
        let grant = AuthRoleGrantPermissionRequest { name: name.to_owned(), perm };
        auth.role_grant_permission(by.on(grant)).await.unwrap();
    }
}

/// Adds root and switches auth on.
pub async fn enable(raw: &Raw) -> Token {
    add_user(raw, &NOBODY, "root", &["root"]).await;
    raw.auth.clone().auth_enable(AuthEnableRequest {}).await.unwrap();
    log_in(raw, "root").await
}

pub async fn log_in(raw: &Raw, name: &str) -> Token {
    Token(Some(authenticate(raw, name, name).await.unwrap()))
}

pub async fn authenticate(raw: &Raw, name: &str, password: &str) -> Result<String, Status> {
    let (name, password) = (name.to_owned(), password.to_owned());
    let request = AuthenticateRequest { name, password };
    Ok(raw.auth.clone().authenticate(request).await?.into_inner().token)
}
