//! The flags about discovery, by which first members find each other through another cluster.

use super::error::ConfigError;
use super::flags::Flags;
use super::validate::positive;
use std::time::Duration;

/// Where first members find each other.
#[derive(Clone, PartialEq, Eq)]
pub struct Discovery {
    /// Names the cluster that is to be; one token makes one cluster.
    pub token: String,
    /// Members of the cluster that keeps the registry, with or without `http://`.
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    /// For one question; there will be others.
    pub request_timeout: Duration,
    /// Silence on a connection before a ping, and how long to wait for the answer.
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    /// Name and password.
    pub user: Option<(String, String)>,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery")
            .field("token", &self.token)
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

/// Reads the flags, which are known to fit each other; none if there are no endpoints.
pub(super) fn read(flags: &Flags) -> Result<Option<Discovery>, ConfigError> {
    let endpoints = flags.text("discovery-endpoints");
    if endpoints.is_empty() {
        return Ok(None);
    }
    let endpoints: Vec<String> = endpoints.split(',').map(|one| one.trim().to_owned()).collect();
    if let Some(tls) = endpoints.iter().find(|one| one.starts_with("https://")) {
        return Err(ConfigError::flags(format!(
            "TLS is not offered by this version: --discovery-endpoints has {tls}"
        )));
    }
    let (user, password) = (flags.text("discovery-user"), flags.text("discovery-password"));
    let user = match user.split_once(':') {
        _ if user.is_empty() => None,
        Some((user, password)) if flags.text("discovery-password").is_empty() => {
            Some((user.to_owned(), password.to_owned()))
        }
        _ => Some((user.to_owned(), password.to_owned())),
    };
    let time = |name| positive(flags, name).unwrap_or(Duration::MAX);
    Ok(Some(Discovery {
        token: flags.text("discovery-token").to_owned(),
        endpoints,
        dial_timeout: time("discovery-dial-timeout"),
        request_timeout: time("discovery-request-timeout"),
        keepalive_time: time("discovery-keepalive-time"),
        keepalive_timeout: time("discovery-keepalive-timeout"),
        user,
    }))
}
