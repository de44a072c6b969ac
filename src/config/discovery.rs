//! The flags about discovery, by which first members find each other through another cluster or DNS.

use super::flags::Flags;
use super::validate::positive;
use std::path::PathBuf;
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
    pub tls: DiscoveryTls,
}

/// What is shown to the registry, and demanded of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryTls {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Who signs its certificates; those whom the system trusts if it is `None`.
    pub ca_file: Option<PathBuf>,
    /// Endpoints that name no scheme are spoken to over TLS.
    pub is_secure_by_default: bool,
    /// Takes any certificate.
    pub skips_verification: bool,
}

/// The domain in which first members find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvDomain {
    pub domain: String,
    /// A suffix of the services' names; empty for none.
    pub service_name: String,
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
pub(super) fn read(flags: &Flags) -> Option<Discovery> {
    let endpoints = flags.text("discovery-endpoints");
    if endpoints.is_empty() {
        return None;
    }
    let endpoints: Vec<String> = endpoints.split(',').map(|one| one.trim().to_owned()).collect();
    let (user, password) = (flags.text("discovery-user"), flags.text("discovery-password"));
    let user = match user.split_once(':') {
        _ if user.is_empty() => None,
        Some((user, password)) if flags.text("discovery-password").is_empty() => {
            Some((user.to_owned(), password.to_owned()))
        }
        _ => Some((user.to_owned(), password.to_owned())),
    };
    let time = |name| positive(flags, name).unwrap_or(Duration::MAX);
    Some(Discovery {
        token: flags.text("discovery-token").to_owned(),
        endpoints,
        dial_timeout: time("discovery-dial-timeout"),
        request_timeout: time("discovery-request-timeout"),
        keepalive_time: time("discovery-keepalive-time"),
        keepalive_timeout: time("discovery-keepalive-timeout"),
        user,
        tls: tls(flags),
    })
}

/// As etcd's client has it, a certificate is believed unseen only where TLS is asked for.
fn tls(flags: &Flags) -> DiscoveryTls {
    let file =
        |name: &str| Some(flags.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let (cert_file, key_file) = (file("discovery-cert"), file("discovery-key"));
    let ca_file = file("discovery-cacert");
    let has_files = cert_file.is_some() || key_file.is_some() || ca_file.is_some();
    let is_secure_by_default = has_files || !flags.switch("discovery-insecure-transport");
    let skips_verification =
        is_secure_by_default && flags.switch("discovery-insecure-skip-tls-verify");
    DiscoveryTls { cert_file, key_file, ca_file, is_secure_by_default, skips_verification }
}

/// The domain to look in, if there is one.
pub(super) fn srv(flags: &Flags) -> Option<SrvDomain> {
    let domain = flags.text("discovery-srv").to_owned();
    let service_name = flags.text("discovery-srv-name").to_owned();
    (!domain.is_empty()).then_some(SrvDomain { domain, service_name })
}
