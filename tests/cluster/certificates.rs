//! An authority and the certificates that it signs, made anew for each test.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    name: String,
}

/// A certificate with its key, in files.
#[derive(Clone)]
pub struct Certificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    serial: Vec<u8>,
}

impl Authority {
    /// Its certificate lies in `<folder>/<name>.pem`.
    pub fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join(name).with_extension("pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Authority { issuer, folder: folder.to_owned(), name: name.to_owned() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.join(&self.name).with_extension("pem")
    }

    /// A certificate for both ends, made out to names and addresses; it takes the place of an
    /// earlier one of the same name.
    pub fn issue(&self, file: &str, common_name: &str, hosts: &[&str]) -> Certificate {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = DistinguishedName::new();
        if !common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, common_name);
        }
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + DAY).into();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let serial: [u8; 8] = rand::random();
        let serial = [&[0x55][..], &serial].concat();
        params.serial_number = Some(SerialNumber::from(serial.clone()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |suffix: &str| self.folder.join(format!("{file}.{suffix}"));
        let issued = Certificate { cert: path("pem"), key: path("key"), serial };
        // Whole files take the place of whole files, as whoever rotates certificates sees to.
        for (path, text) in [(&issued.key, key.serialize_pem()), (&issued.cert, certificate.pem())]
        {
            let new = path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
        issued
    }

    /// Writes the list of revoked certificates, and returns where it lies.
    pub fn revoke(&self, revoked: &[&Certificate]) -> PathBuf {
        let revoked_certs = revoked
            .iter()
            .map(|certificate| RevokedCertParams {
                serial_number: SerialNumber::from(certificate.serial.clone()),
                revocation_time: SystemTime::now().into(),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let list = CertificateRevocationListParams {
            this_update: (SystemTime::now() - DAY).into(),
            next_update: (SystemTime::now() + DAY).into(),
            crl_number: SerialNumber::from(1u64),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        let path = self.folder.join("revoked.crl");
        let new = self.folder.join("revoked.new");
        std::fs::write(&new, list.der()).unwrap();
        std::fs::rename(&new, &path).unwrap();
        path
    }
}
