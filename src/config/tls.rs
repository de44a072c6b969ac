//! What the flags say about TLS: for clients, and between members.

use crate::config::flags::Flags;
use std::path::PathBuf;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// TLS for clients, and between members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    pub client: TlsSide,
    pub peer: TlsSide,
    /// By Go's names; all that there are if empty.
    pub cipher_suites: Vec<String>,
    pub min_version: TlsVersion,
    pub max_version: Option<TlsVersion>,
    /// How long certificates count that members make for themselves.
    pub self_signed_years: u64,
}

/// What one side shows and demands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSide {
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// What is shown to servers, if not the ones above.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    pub trusted_ca_file: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    /// Clients must show a certificate.
    pub client_cert_auth: bool,
    /// Make a certificate if none is given.
    pub auto: bool,
    /// Common names, of which a client's certificate must have one; none if any will do.
    pub allowed_cns: Vec<String>,
    /// The same for the names and addresses that it is made out to.
    pub allowed_hostnames: Vec<String>,
    /// Do not look where a client comes from.
    pub skips_origin: bool,
}

impl TlsSide {
    /// Whether there is neither certificate nor key.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_none() && self.key_file.is_none()
    }
}

/// Reads the flags about TLS, whose values were checked.
pub(super) fn read(flags: &Flags) -> TlsConfig {
    TlsConfig {
        client: TlsSide {
            allowed_cns: list(flags, "client-cert-allowed-cn"),
            allowed_hostnames: list(flags, "client-cert-allowed-hostname"),
            auto: flags.switch("auto-tls"),
            client_cert_auth: flags.switch("client-cert-auth"),
            crl_file: file(flags, "client-crl-file"),
            client_cert_file: file(flags, "client-cert-file"),
            client_key_file: file(flags, "client-key-file"),
            skips_origin: flags.switch("client-skip-client-san-verification"),
            ..side(flags, "")
        },
        peer: TlsSide {
            allowed_cns: list(flags, "peer-cert-allowed-cn"),
            allowed_hostnames: list(flags, "peer-cert-allowed-hostname"),
            auto: flags.switch("peer-auto-tls"),
            client_cert_auth: flags.switch("peer-client-cert-auth"),
            crl_file: file(flags, "peer-crl-file"),
            client_cert_file: file(flags, "peer-client-cert-file"),
            client_key_file: file(flags, "peer-client-key-file"),
            skips_origin: flags.switch("peer-skip-client-san-verification"),
            ..side(flags, "peer-")
        },
        cipher_suites: list(flags, "cipher-suites"),
        min_version: version(flags.text("tls-min-version")).unwrap_or(TlsVersion::Tls12),
        max_version: version(flags.text("tls-max-version")),
        self_signed_years: flags.unsigned("self-signed-cert-validity"),
    }
}

fn side(flags: &Flags, prefix: &str) -> TlsSide {
    let file = |name: &str| file(flags, &format!("{prefix}{name}"));
    TlsSide {
        cert_file: file("cert-file"),
        key_file: file("key-file"),
        trusted_ca_file: file("trusted-ca-file"),
        ..TlsSide::default()
    }
}

fn file(flags: &Flags, name: &str) -> Option<PathBuf> {
    Some(flags.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn list(flags: &Flags, name: &str) -> Vec<String> {
    let parts = flags.text(name).split(',').filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

fn version(text: &str) -> Option<TlsVersion> {
    match text {
        "TLS1.2" => Some(TlsVersion::Tls12),
        "TLS1.3" => Some(TlsVersion::Tls13),
        _ => None,
    }
}
