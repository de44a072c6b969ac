//! What is demanded of the other side's certificate beyond an authority that has signed it.

use super::certificate::Certificate;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
};

/// Whose certificates are taken, of all that an authority has signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Allowed {
    #[default]
    Anybody,
    /// One of these is its common name.
    CommonNames(Vec<String>),
    /// It was made out to one of these names or addresses.
    Hosts(Vec<String>),
}

impl Allowed {
    /// # Errors
    /// The one that is told as "client certificate authentication failed".
    fn check(&self, der: &[u8]) -> Result<(), Error> {
        let is_allowed = match self {
            Self::Anybody => true,
            Self::CommonNames(names) => Certificate::read(der)
                .is_some_and(|certificate| names.contains(&certificate.common_name)),
            Self::Hosts(hosts) => Certificate::read(der).is_some_and(|certificate| {
                hosts.iter().any(|host| certificate.check_host(host).is_ok())
            }),
        };
        match is_allowed {
            true => Ok(()),
            // The library itself tells the names; without them it is this refusal.
            false => Err(CertificateError::NotValidForName.into()),
        }
    }
}

/// Of clients: an authority and the allowed names.
#[derive(Debug)]
pub(super) struct OfClients {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) allowed: Allowed,
}

impl ClientCertVerifier for OfClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(certificate, intermediates, now)?;
        self.allowed.check(certificate)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Of servers: an authority, the name that was dialled, and the allowed names.
#[derive(Debug)]
pub(super) struct OfServers {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    /// The authorities themselves: a self-signed server is its own.
    pub(super) trusted: Vec<CertificateDer<'static>>,
    pub(super) allowed: Allowed,
}

impl OfServers {
    /// Whether it is one of the trusted certificates itself, which the library refuses as an
    /// authority's, and is in order otherwise.
    fn is_trusted_itself(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> bool {
        let is_valid = || {
            Certificate::read(certificate).is_some_and(|read| {
                read.check_host(&name.to_str()).is_ok() && read.is_valid_at(now.as_secs())
            })
        };
        self.trusted.iter().any(|trusted| trusted == certificate) && is_valid()
    }
}

impl ServerCertVerifier for OfServers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(certificate, intermediates, name, ocsp, now);
        let verified = match verified {
            Err(_) if self.is_trusted_itself(certificate, name, now) => {
                ServerCertVerified::assertion()
            }
            verified => verified?,
        };
        self.allowed.check(certificate)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any server that holds the key of the certificate it shows.
#[derive(Debug)]
pub(super) struct OfNobody(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for OfNobody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
