//! Who calls, and whether they may: the way from a call's metadata to the machine's checks.
//!
//! While auth is off a call costs one relaxed load here. While it is on, a call's token is
//! turned into a [`Principal`]. Reads ask [`Access`] before and after they look at the store;
//! writes carry the principal in their command and are checked where they are applied, alike on
//! every member.

use super::token::Tokens;
use crate::error::RequestError;
use crate::machine::{AuthState, Caller, LeaseTable, Need, Response};
use crate::pb::etcdserverpb::TxnRequest;
use crate::pb::quoinpb::command::Request as Command;
use crate::replica::Handle;
use axum::extract::State;
use axum::middleware::Next;
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue};
use std::sync::Arc;
use tonic::Status;

/// What a call came with.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Auth was off when it arrived.
    Off,
    /// A token, if one was sent.
    Sent(Option<Arc<str>>),
    /// No token, but a certificate that may say who it is.
    Named(CommonName),
}

/// The user's name in the certificate of a client, where certificates name users; empty if there is
/// none in it. It comes with a
/// request from the connection, never from what the client sends.
#[derive(Clone, Debug)]
pub struct CommonName(pub Arc<str>);

/// Who calls, as far as a token can tell.
#[derive(Clone, Debug, Default)]
pub struct Principal {
    user: Option<Arc<str>>,
    revision: u64,
}

impl Principal {
    pub fn caller(&self) -> Caller<'_> {
        Caller { user: self.user.as_deref().unwrap_or_default(), revision: self.revision }
    }
}

/// What a read wants, kept to be asked for again when it has been read.
pub(super) enum Wanted {
    Range { key: Bytes, range_end: Bytes },
    Txn(TxnRequest),
}

/// Permission for one read; none is needed while auth is off.
pub(super) struct Permit(Option<Box<(Principal, Wanted)>>);

/// Answers for one member who may do what. Cheap to clone.
#[derive(Clone)]
pub struct Access {
    handle: Handle,
    tokens: Arc<Tokens>,
}

impl Access {
    pub fn new(handle: Handle, tokens: Arc<Tokens>) -> Self {
        Self { handle, tokens }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    pub(super) fn state(&self) -> Arc<AuthState> {
        self.handle.auth().state()
    }

    /// The credentials of a unary call.
    pub fn credentials(&self, metadata: &HeaderMap, extensions: &Extensions) -> Credentials {
        match self.handle.auth().is_enabled() {
            true => self.lasting_credentials(metadata, extensions),
            false => Credentials::Off,
        }
    }

    /// The credentials of a stream, which count whenever auth is on.
    pub fn lasting_credentials(
        &self,
        metadata: &HeaderMap,
        extensions: &Extensions,
    ) -> Credentials {
        let sent = metadata.get("token").or_else(|| metadata.get("authorization"));
        // What is no text is no token, and is refused as one.
        let text = |value: &HeaderValue| {
            let text = value.to_str().unwrap_or_default();
            Arc::from(text.strip_prefix("Bearer ").unwrap_or(text))
        };
        match (sent, extensions.get::<CommonName>()) {
            (None, Some(name)) => Credentials::Named(name.clone()),
            (sent, _) => Credentials::Sent(sent.map(text)),
        }
    }

    /// Finds out who calls.
    ///
    /// # Errors
    /// `InvalidAuthToken`, or an availability error while it is unknown whether it is one.
    pub async fn principal(&self, credentials: &Credentials) -> Result<Principal, RequestError> {
        if !self.handle.auth().is_enabled() {
            return Ok(Principal::default());
        }
        let token = match credentials {
            Credentials::Off | Credentials::Sent(None) => return Ok(Principal::default()),
            Credentials::Sent(Some(token)) => token,
            Credentials::Named(CommonName(name)) => {
                let revision = self.state().revision();
                return Ok(Principal { user: Some(name.clone()), revision });
            }
        };
        let (user, revision) = self.tokens.verify(token, &self.handle).await?;
        Ok(Principal { user: Some(user), revision })
    }

    /// Replicates a request in the name of the caller.
    ///
    /// # Errors
    /// As [`Access::principal`] and [`Handle::propose_as`].
    pub async fn propose(
        &self,
        credentials: &Credentials,
        command: Command,
        bytes_max: usize,
    ) -> Result<Response, RequestError> {
        if matches!(credentials, Credentials::Off) {
            return self.handle.propose(command, bytes_max).await;
        }
        let principal = self.principal(credentials).await?;
        self.handle.propose_as(principal.caller(), command, bytes_max).await
    }

    /// Checks a read, and gives what [`Access::confirm`] takes when it has been done. `wanted` is
    /// not called while auth is off.
    ///
    /// # Errors
    /// As [`Access::principal`] and `AuthState::check`.
    pub(super) async fn permit(
        &self,
        credentials: &Credentials,
        wanted: impl FnOnce() -> Wanted,
    ) -> Result<Permit, RequestError> {
        if matches!(credentials, Credentials::Off) {
            return Ok(Permit(None));
        }
        let principal = self.principal(credentials).await?;
        let permit = Permit(Some(Box::new((principal, wanted()))));
        self.confirm(&permit)?;
        Ok(permit)
    }

    /// Checks a read again: a right may have been withdrawn, and something written that is not for
    /// the caller any more, between the check and the look at the store.
    ///
    /// # Errors
    /// As `AuthState::check`.
    pub(super) fn confirm(&self, permit: &Permit) -> Result<(), RequestError> {
        let Permit(Some(permit)) = permit else { return Ok(()) };
        let (principal, wanted) = &**permit;
        let (state, caller) = (self.state(), principal.caller());
        match wanted {
            Wanted::Range { key, range_end } => state.check(caller, Need::Read, key, range_end),
            Wanted::Txn(request) => state.check_txn(caller, request, &LeaseTable::default()),
        }
    }

    /// Lets users pass.
    ///
    /// # Errors
    /// `UserEmpty`, and as [`Access::principal`].
    pub async fn user(
        &self,
        metadata: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(), RequestError> {
        let credentials = self.credentials(metadata, extensions);
        if matches!(credentials, Credentials::Off) {
            return Ok(());
        }
        let principal = self.principal(&credentials).await?;
        self.state().check_user(principal.caller())
    }

    /// Lets administrators pass.
    ///
    /// # Errors
    /// `UserEmpty`, `PermissionDenied`, and as [`Access::principal`].
    pub async fn admin(
        &self,
        metadata: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<(), RequestError> {
        let credentials = self.credentials(metadata, extensions);
        if matches!(credentials, Credentials::Off) {
            return Ok(());
        }
        let principal = self.principal(&credentials).await?;
        self.state().check_admin(principal.caller())
    }

    /// Lets those pass who may touch a range.
    ///
    /// # Errors
    /// As [`Access::principal`] and `AuthState::check`.
    pub(super) async fn range(
        &self,
        credentials: &Credentials,
        need: Need,
        key: &Bytes,
        range_end: &Bytes,
    ) -> Result<(), RequestError> {
        if !self.handle.auth().is_enabled() {
            return Ok(());
        }
        let principal = self.principal(credentials).await?;
        self.state().check(principal.caller(), need, key, range_end)
    }

    /// Lets those pass who may touch each of these keys; any user if there are none.
    ///
    /// # Errors
    /// As [`Access::principal`] and `AuthState::check_keys`.
    pub(super) async fn keys(
        &self,
        credentials: &Credentials,
        need: Need,
        keys: &[Bytes],
    ) -> Result<(), RequestError> {
        if matches!(credentials, Credentials::Off) {
            return Ok(());
        }
        let principal = self.principal(credentials).await?;
        let (state, caller) = (self.state(), principal.caller());
        state.check_user(caller)?;
        state.check_keys(caller, need, keys)
    }

    /// Lets those pass who may touch each key of a lease, or of all leases.
    ///
    /// # Errors
    /// As [`Access::principal`] and `AuthState::check_keys`; availability errors.
    pub(super) async fn lease_keys(
        &self,
        credentials: &Credentials,
        need: Need,
        lease: Option<i64>,
    ) -> Result<(), RequestError> {
        if matches!(credentials, Credentials::Off) || !self.handle.auth().is_enabled() {
            return Ok(());
        }
        let principal = self.principal(credentials).await?;
        let caller = principal.caller();
        self.state().check_user(caller)?;
        if self.state().check_admin(caller).is_ok() {
            return Ok(());
        }
        let keys = self.handle.lease_keys(lease).await?;
        self.state().check_keys(caller, need, &keys)
    }
}

/// What a call of the services for operators needs.
#[derive(Debug, PartialEq, Eq)]
enum Required {
    Nothing,
    User,
    Admin,
}

/// Calls of Maintenance and Cluster are for administrators unless they stand here, so that none can
/// be forgotten. Other services look for themselves.
fn required(path: &str) -> Required {
    match path {
        "/etcdserverpb.Maintenance/Status"
        // Raising and disarming is for administrators; the service tells them apart.
        | "/etcdserverpb.Maintenance/Alarm"
        | "/etcdserverpb.Cluster/MemberList" => Required::User,
        // Looks at what is asked for before it looks at who asks, and does that itself.
        "/etcdserverpb.Cluster/MemberAdd" => Required::Nothing,
        _ if path.starts_with("/etcdserverpb.Maintenance/")
            || path.starts_with("/etcdserverpb.Cluster/") => Required::Admin,
        _ => Required::Nothing,
    }
}

/// Stands in front of the services for operators.
pub(super) async fn guard(
    State(access): State<Access>,
    request: axum::extract::Request,
    next: Next,
) -> axum::response::Response {
    let (headers, extensions) = (request.headers(), request.extensions());
    let checked = match required(request.uri().path()) {
        Required::Nothing => Ok(()),
        Required::User => access.user(headers, extensions).await,
        Required::Admin => access.admin(headers, extensions).await,
    };
    match checked {
        Ok(()) => next.run(request).await,
        Err(refused) => Status::from(refused).into_http(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_for_operators_is_for_administrators_unless_named() {
        let table = [
            ("/etcdserverpb.Maintenance/Status", Required::User),
            ("/etcdserverpb.Maintenance/Alarm", Required::User),
            ("/etcdserverpb.Maintenance/Defragment", Required::Admin),
            ("/etcdserverpb.Maintenance/Snapshot", Required::Admin),
            ("/etcdserverpb.Maintenance/AnyOtherOfALaterVersion", Required::Admin),
            ("/etcdserverpb.Cluster/MemberList", Required::User),
            ("/etcdserverpb.Cluster/MemberAdd", Required::Nothing),
            ("/etcdserverpb.Cluster/MemberRemove", Required::Admin),
            ("/etcdserverpb.Auth/AuthStatus", Required::Nothing),
            ("/grpc.health.v1.Health/Check", Required::Nothing),
        ];
        for (path, expected) in table {
            assert_eq!(required(path), expected, "{path}");
        }
    }
}
