//! Versions of the protocol and cipher suites, by the names that Go gives them.

use super::files::TlsError;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{CipherSuite, SupportedProtocolVersion};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tls12,
    Tls13,
}

/// The suites of TLS 1.2 that there are here.
const OFFERED: [(&str, CipherSuite); 8] = {
    use CipherSuite as S;
    [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        (
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
        ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
        ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
        (
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ]
};

/// Names that Go knows beside them: of TLS 1.3, whose suites nobody can choose, and of old suites
/// that are not offered here.
const KNOWN: [&str; 21] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_FALLBACK_SCSV",
];

/// Which versions and suites are spoken.
#[derive(Clone, Debug)]
pub struct Suites {
    pub(super) provider: Arc<CryptoProvider>,
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
}

impl Default for Suites {
    fn default() -> Self {
        Self { provider: Arc::new(aws_lc_rs::default_provider()), versions: vec![&TLS13, &TLS12] }
    }
}

impl Suites {
    /// `names` choose among the suites of TLS 1.2; without any, all are offered. Those of TLS 1.3
    /// are all offered, whatever is chosen, as in Go.
    ///
    /// # Errors
    /// For a name that Go does not know, and when nothing that was chosen is there.
    pub fn new(names: &[String], min: Version, max: Option<Version>) -> Result<Self, TlsError> {
        let max = max.unwrap_or(Version::Tls13);
        let versions = [(Version::Tls13, &TLS13), (Version::Tls12, &TLS12)];
        let versions = versions.into_iter().filter(|(version, _)| (min..=max).contains(version));
        let mut suites =
            Self { versions: versions.map(|(_, version)| version).collect(), ..Self::default() };
        if names.is_empty() {
            return Ok(suites);
        }
        let mut chosen = Vec::new();
        for name in names {
            match OFFERED.iter().find(|(offered, _)| offered == name) {
                Some((_, suite)) => chosen.push(*suite),
                None if KNOWN.contains(&name.as_str()) => {
                    tracing::warn!(suite = name, "a TLS cipher suite is not offered here");
                }
                None => {
                    return Err(TlsError::new(format!("unexpected TLS cipher suite {name:?}")));
                }
            }
        }
        if chosen.is_empty() && max == Version::Tls12 {
            return Err(TlsError::new("none of the TLS cipher suites is offered here"));
        }
        let mut provider = aws_lc_rs::default_provider();
        provider
            .cipher_suites
            .retain(|suite| suite.version() == &TLS13 || chosen.contains(&suite.suite()));
        suites.provider = Arc::new(provider);
        Ok(suites)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites(names: &[&str], max: Option<Version>) -> Result<usize, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let suites = Suites::new(&names, Version::Tls12, max).map_err(|error| error.to_string())?;
        Ok(suites.provider.cipher_suites.len())
    }

    #[test]
    fn suites_are_chosen_by_gos_names() {
        let all = aws_lc_rs::default_provider().cipher_suites.len();
        assert_eq!(suites(&[], None), Ok(all));
        assert_eq!(suites(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], None), Ok(3 + 1));
        assert_eq!(suites(&["TLS_RSA_WITH_AES_128_CBC_SHA"], None), Ok(3));
        assert!(suites(&["TLS_RSA_WITH_AES_128_CBC_SHA"], Some(Version::Tls12)).is_err());
        let unknown = suites(&["TLS_NONSENSE"], None);
        assert_eq!(unknown, Err(r#"unexpected TLS cipher suite "TLS_NONSENSE""#.to_owned()));
        // Each suite of the provider can be chosen.
        for suite in aws_lc_rs::default_provider().cipher_suites {
            let id = suite.suite();
            assert!(suite.version() == &TLS13 || OFFERED.iter().any(|(_, known)| *known == id));
        }
    }

    #[test]
    fn versions_are_bounded_on_both_sides() {
        let versions = |min, max| Suites::new(&[], min, max).unwrap().versions;
        assert_eq!(versions(Version::Tls12, None), [&TLS13, &TLS12]);
        assert_eq!(versions(Version::Tls12, Some(Version::Tls12)), [&TLS12]);
        assert_eq!(versions(Version::Tls13, None), [&TLS13]);
    }
}
