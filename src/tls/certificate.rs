//! What a certificate says of its owner, as far as anybody here asks.

use super::files::number;
use std::net::IpAddr;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Names and number of one certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Certificate {
    /// Empty if it has none.
    pub(super) common_name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns_names: Vec<String>,
    pub(super) serial: Vec<u8>,
    /// Seconds since 1970: the first and the last at which it counts.
    pub(super) validity: (i64, i64),
}

impl Certificate {
    /// Whether it counts at a time, in seconds since 1970.
    pub(super) fn is_valid_at(&self, seconds: u64) -> bool {
        let (first, last) = self.validity;
        i64::try_from(seconds).is_ok_and(|seconds| (first..=last).contains(&seconds))
    }

    /// Reads a certificate; `None` if it is none.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        // Of several, the last one counts, as in Go.
        let common_name = certificate.subject().iter_common_name().last();
        let common_name = common_name.and_then(|name| name.as_str().ok()).unwrap_or_default();
        let mut read = Self {
            common_name: common_name.to_owned(),
            serial: number(certificate.raw_serial()).to_vec(),
            validity: (
                certificate.validity().not_before.timestamp(),
                certificate.validity().not_after.timestamp(),
            ),
            ..Self::default()
        };
        let names = certificate.subject_alternative_name().ok()?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => read.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => read.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Some(read)
    }

    /// Whether it was made out to this name or address. The common name does not count.
    ///
    /// # Errors
    /// Go's text for it.
    pub(super) fn check_host(&self, host: &str) -> Result<(), String> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let address = address.to_canonical();
            if self.addresses.contains(&address) {
                return Ok(());
            }
            if self.addresses.is_empty() {
                return Err(format!(
                    "x509: cannot validate certificate for {bare} because it doesn't contain any IP SANs"
                ));
            }
            let valid: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
            return Err(format!("x509: certificate is valid for {}, not {bare}", valid.join(", ")));
        }
        if self.dns_names.iter().any(|name| matches_name(name, host)) {
            return Ok(());
        }
        Err(match self.dns_names.is_empty() {
            true => {
                format!("x509: certificate is not valid for any names, but wanted to match {host}")
            }
            false => {
                format!("x509: certificate is valid for {}, not {host}", self.dns_names.join(", "))
            }
        })
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(bytes.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_canonical())
}

/// A star stands for the whole first label, and only there.
fn matches_name(pattern: &str, host: &str) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if pattern.is_empty() || host.is_empty() {
        return false;
    }
    match pattern.strip_prefix("*.") {
        Some(rest) => {
            host.split_once('.').is_some_and(|(label, tail)| !label.is_empty() && tail == rest)
        }
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, SerialNumber};

    #[test]
    fn names_and_number_are_read() {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into()));
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.serial_number = Some(SerialNumber::from(vec![0, 0x81, 2]));
        let key = KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let read = Certificate::read(made.der()).unwrap();
        let expected = Certificate {
            common_name: "alice".to_owned(),
            addresses: vec![[10, 0, 0, 1].into()],
            dns_names: vec!["a.example".to_owned()],
            serial: vec![0x81, 2],
            validity: read.validity,
        };
        assert!(read.is_valid_at(1_800_000_000) && !read.is_valid_at(0));
        assert_eq!(read, expected);
        assert_eq!(Certificate::read(b"no certificate"), None);
    }

    #[test]
    fn a_host_must_be_named() {
        let named = Certificate {
            addresses: vec![[10, 0, 0, 1].into()],
            dns_names: vec!["a.example".to_owned(), "*.b.example".to_owned()],
            ..Certificate::default()
        };
        for host in ["10.0.0.1", "A.example", "a.example.", "x.b.example"] {
            assert_eq!(named.check_host(host), Ok(()), "{host}");
        }
        let table = [
            ("127.0.0.1", "x509: certificate is valid for 10.0.0.1, not 127.0.0.1"),
            ("c", "x509: certificate is valid for a.example, *.b.example, not c"),
            ("b.example", "x509: certificate is valid for a.example, *.b.example, not b.example"),
            (
                "x.y.b.example",
                "x509: certificate is valid for a.example, *.b.example, not x.y.b.example",
            ),
        ];
        for (host, text) in table {
            assert_eq!(named.check_host(host), Err(text.to_owned()));
        }
        let unnamed = Certificate { common_name: "a".to_owned(), ..Certificate::default() };
        assert!(unnamed.check_host("a").is_err() && unnamed.check_host("10.0.0.1").is_err());
    }
}
