//! The store for many users at a time: connections that they share, and a token for each of them.
//!
//! Tokens are got for a name and password once and put into each call; they are not renewed here, since
//! passwords are not kept.

use super::members::Members;
use super::{Access, CALL_TIMEOUT, Client};
use etcd_client::Error;
use http::HeaderValue;
use tokio::time::timeout;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

/// Connections to the store on which many users ask, each with a token of his own.
#[derive(Clone, Debug)]
pub struct Door {
    members: Members,
}

impl Door {
    /// # Errors
    ///
    /// When an endpoint cannot be used; that none answers now is seen at the first call.
    pub fn open(access: &Access) -> Result<Self, Error> {
        Ok(Self { members: Members::new(access)? })
    }

    /// A token for a name and password.
    ///
    /// # Errors
    ///
    /// As the store says: that they do not go together, that it has no users, or is away.
    pub async fn token(&self, name: &str, password: &str) -> Result<String, Error> {
        let mut auth = self.asks(None).await?.auth_client();
        let answer =
            timeout(CALL_TIMEOUT, auth.authenticate(name.to_owned(), password.to_owned())).await;
        let answer =
            answer.map_err(|_| tonic::Status::deadline_exceeded("no answer in time"))??;
        Ok(answer.token().to_owned())
    }

    /// The store as the user whose token this is. It is not asked whether it is one.
    ///
    /// # Errors
    ///
    /// When that cannot be a token.
    pub async fn client(&self, token: &str) -> Result<Client, Error> {
        let mut value = HeaderValue::from_str(token)
            .map_err(|_| tonic::Status::unauthenticated("invalid auth token"))?;
        value.set_sensitive(true);
        Ok(Client { inner: self.asks(Some(value)).await? })
    }

    async fn asks(&self, token: Option<HeaderValue>) -> Result<etcd_client::Client, Error> {
        let with_token = move |mut request: http::Request<tonic::body::Body>| {
            if let Some(token) = &token {
                request.headers_mut().insert("token", token.clone());
            }
            request
        };
        let channel = self.members.clone().map_request(with_token);
        let channel = etcd_client::Channel::Custom(BoxCloneSyncService::new(channel));
        etcd_client::Client::from_channel(channel, None).await
    }
}
