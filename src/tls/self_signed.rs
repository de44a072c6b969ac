//! Certificates that a member makes for itself: they hide what is said, and prove nothing.

use super::files::TlsError;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P521_SHA512, SanType, SerialNumber,
};
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Where certificate and key lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// Those of the folder if they are there, else new ones for these names and addresses.
///
/// # Errors
/// When they cannot be made or written.
pub fn self_signed(folder: &Path, hosts: &[&str], years: u64) -> Result<SelfSigned, TlsError> {
    if years == 0 {
        return Err(TlsError::new("selfSignedCertValidity is invalid,it should be greater than 0"));
    }
    let failed = |verb: &str, path: &Path, error: std::io::Error| {
        TlsError::new(format!("{verb} {}: {error}", path.display()))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| failed("create", folder, error))?;
    let folder = folder.canonicalize().map_err(|error| failed("open", folder, error))?;
    let made = SelfSigned { cert_file: folder.join("cert.pem"), key_file: folder.join("key.pem") };
    if made.cert_file.exists() && made.key_file.exists() {
        return Ok(made);
    }
    let (certificate, key) = make(hosts, years)
        .map_err(|error| TlsError::new(format!("make a certificate: {error}")))?;
    for (path, text, mode) in [(&made.cert_file, certificate, 0o644), (&made.key_file, key, 0o600)]
    {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| failed("write", path, error))?;
        tracing::info!(path = %path.display(), "created a file of a self-signed certificate");
    }
    Ok(made)
}

/// A certificate and its key, in PEM form.
fn make(hosts: &[&str], years: u64) -> Result<(String, String), rcgen::Error> {
    let years = u32::try_from(years).unwrap_or(u32::MAX).min(1000);
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = now.into();
    params.not_after = (now + YEAR * years).into();
    let number: [u8; 16] = rand::random();
    params.serial_number = Some(SerialNumber::from(number.to_vec()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "quoin");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    for host in hosts.iter().filter(|host| !host.is_empty()) {
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*host).try_into()?),
        });
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512)?;
    let certificate = params.self_signed(&key)?;
    tracing::warn!(
        "certificate-validity-bound-not-after" =
            %humantime::format_rfc3339_seconds(now + YEAR * years),
        "automatically generate certificates"
    );
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("fixtures/client");
        let made = self_signed(&inside, &["127.0.0.1", "localhost"], 2).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&inside), mode(&made.key_file)), (0o700, 0o600));
        let pem = std::fs::read(&made.cert_file).unwrap();
        assert_eq!(self_signed(&inside, &["other"], 1).unwrap(), made);
        assert_eq!(std::fs::read(&made.cert_file).unwrap(), pem, "used again");
        std::fs::remove_file(&made.key_file).unwrap();
        self_signed(&inside, &["other"], 1).unwrap();
        assert_ne!(std::fs::read(&made.cert_file).unwrap(), pem, "without its key it is no use");
        let refused = self_signed(&inside, &[], 0).unwrap_err().to_string();
        assert_eq!(refused, "selfSignedCertValidity is invalid,it should be greater than 0");
    }
}
