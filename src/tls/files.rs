//! What lies in files: certificates, keys, revocation lists; and whether they have changed.

use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use tokio_rustls::rustls::{self, RootCertStore};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

/// What is wrong with TLS as it is set up: file and fault, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    text: String,
    is_missing: bool,
}

impl TlsError {
    /// A fault that is in no file.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_missing: false }
    }

    /// Whether a file is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.is_missing
    }

    fn of_file(path: &Path, error: &io::Error) -> Self {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        let why = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        Self { text: format!("open {}: {why}", path.display()), is_missing }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for TlsError {}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::of_file(path, &error))
}

/// The certificates in a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(TlsError::new(format!("{}: no certificate in PEM form", path.display()))),
        Err(error) => Err(TlsError::new(format!("{}: {error}", path.display()))),
    }
}

/// The private key in a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let why = match error {
            rustls::pki_types::pem::Error::NoItemsFound => "no private key in PEM form".to_owned(),
            error => error.to_string(),
        };
        TlsError::new(format!("{}: {why}", path.display()))
    })
}

/// The authorities of a file, or those that the system trusts.
pub(super) fn authorities(path: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = path else {
        // Some of the system's may be too old for anybody to read; the others still count.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            TlsError::new(format!("{}: a certificate cannot be read: {error}", path.display()))
        })?;
    }
    Ok(roots)
}

/// The serial numbers in a revocation list, in PEM or in binary form.
pub(super) fn revoked(path: &Path) -> Result<Vec<Vec<u8>>, TlsError> {
    let bytes = read(path)?;
    let der = match bytes.starts_with(b"-----BEGIN") {
        true => CertificateRevocationListDer::from_pem_slice(&bytes)
            .map_err(|error| TlsError::new(format!("{}: {error}", path.display())))?,
        false => CertificateRevocationListDer::from(bytes),
    };
    let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| {
        TlsError::new(format!("{}: not a revocation list: {error}", path.display()))
    })?;
    let serials = list.iter_revoked_certificates();
    Ok(serials.map(|revoked| number(revoked.raw_serial()).to_vec()).collect())
}

/// A number without the zeros in front, which its encoding may have.
pub(super) fn number(raw: &[u8]) -> &[u8] {
    &raw[raw.iter().take_while(|byte| **byte == 0).count()..]
}

/// What a file is as long as nobody has written it or put another one in its place.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.mtime(), found.mtime_nsec()))
}

type Load<T> = Box<dyn Fn() -> Result<T, TlsError> + Send + Sync>;

/// Something made from files, made anew when one of them has changed.
pub(super) struct Watched<T> {
    paths: Vec<PathBuf>,
    load: Load<T>,
    newest: Mutex<(Vec<Stamp>, Arc<T>)>,
}

impl<T> Watched<T> {
    /// Makes it for the first time.
    ///
    /// # Errors
    /// Those of `load`.
    pub(super) fn new(
        paths: Vec<PathBuf>,
        load: impl Fn() -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let stamps = paths.iter().map(|path| stamp(path)).collect();
        let first = Arc::new(load()?);
        Ok(Self { paths, load: Box::new(load), newest: Mutex::new((stamps, first)) })
    }

    /// As the files are now. Blocks while it looks at them.
    ///
    /// # Errors
    /// Those of `load`, again and again until the files are in order.
    pub(super) fn current(&self) -> Result<Arc<T>, TlsError> {
        let mut newest = self.newest.lock();
        // Before reading: what is written meanwhile is seen the next time.
        let stamps: Vec<Stamp> = self.paths.iter().map(|path| stamp(path)).collect();
        if newest.0 != stamps || stamps.contains(&None) {
            let made = Arc::new((self.load)()?);
            *newest = (stamps, made);
        }
        Ok(newest.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_file_and_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pem");
        let shown = path.display();
        let missing = certificates(&path).unwrap_err();
        assert!(missing.is_missing());
        assert_eq!(missing.to_string(), format!("open {shown}: no such file or directory"));
        std::fs::write(&path, "nothing").unwrap();
        let none = certificates(&path).unwrap_err();
        assert_eq!(none.to_string(), format!("{shown}: no certificate in PEM form"));
        let none = private_key(&path).unwrap_err();
        assert_eq!(none.to_string(), format!("{shown}: no private key in PEM form"));
        let none = revoked(&path).unwrap_err().to_string();
        assert!(none.starts_with(&format!("{shown}: not a revocation list")), "{none}");
        assert!(!none.contains("nothing"), "a file's content is not shown: {none}");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n")
            .unwrap();
        let broken = authorities(Some(&path)).unwrap_err().to_string();
        assert!(broken.starts_with(&format!("{shown}: a certificate cannot be read")), "{broken}");
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "1").unwrap();
        let (source, loads) = (path.clone(), Arc::new(Mutex::new(0)));
        let counter = loads.clone();
        let watched = Watched::new(vec![path.clone()], move || {
            *counter.lock() += 1;
            read(&source)
        })
        .unwrap();
        assert_eq!(*watched.current().unwrap(), b"1");
        assert_eq!(*watched.current().unwrap(), b"1");
        assert_eq!(*loads.lock(), 1);
        // Put in its place with the same length, as tools that rotate files do.
        let other = folder.path().join("y");
        std::fs::write(&other, "2").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(*watched.current().unwrap(), b"2");
        std::fs::remove_file(&path).unwrap();
        assert!(watched.current().unwrap_err().is_missing());
        std::fs::write(&path, "3").unwrap();
        assert_eq!(*watched.current().unwrap(), b"3");
    }
}
