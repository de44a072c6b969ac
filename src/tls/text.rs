//! Failures of TLS in the words of Go, which operators of etcd know and tests look for.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error as Fault, InvalidMessage, PeerIncompatible,
};

/// What is said of a certificate whose names are not among those that are allowed.
const NOT_ALLOWED: &str = "client certificate authentication failed";

/// Why a connection failed, from the innermost cause that is known.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(error) = innermost.downcast_ref::<io::Error>() {
            return of_io(error);
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => return innermost.to_string(),
        }
    }
}

/// What went wrong on a socket under TLS.
pub(super) fn of_io(error: &io::Error) -> String {
    if let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<Fault>()) {
        return of_fault(fault);
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        _ => error.to_string(),
    }
}

pub(super) fn of_fault(fault: &Fault) -> String {
    match fault {
        Fault::AlertReceived(alert) => format!("remote error: tls: {}", of_alert(*alert)),
        Fault::NoCertificatesPresented => "tls: client didn't provide a certificate".to_owned(),
        // Ours: what comes from the library tells the names.
        Fault::InvalidCertificate(CertificateError::NotValidForName) => NOT_ALLOWED.to_owned(),
        Fault::InvalidCertificate(error) => {
            format!("tls: failed to verify certificate: x509: {}", of_certificate(error))
        }
        Fault::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "tls: first record does not look like a TLS handshake".to_owned()
        }
        Fault::PeerIncompatible(why) => format!("tls: {}", of_incompatible(why)),
        Fault::NoApplicationProtocol => {
            "tls: client requested unsupported application protocols".to_owned()
        }
        Fault::InconsistentKeys(_) => "tls: private key does not match public key".to_owned(),
        other => format!("tls: {other}"),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        // The other: signed by somebody of a known authority's name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "certificate has expired or is not yet valid: current time {} is after {}",
            date(time),
            date(not_after)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "certificate has expired or is not yet valid: current time {} is before {}",
            date(time),
            date(not_before)
        ),
        CertificateError::Expired | CertificateError::NotValidYet => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            match presented.is_empty() {
                true => format!(
                    "certificate is not valid for any names, but wanted to match {expected}"
                ),
                false => {
                    let presented: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                    format!("certificate is valid for {}, not {expected}", presented.join(", "))
                }
            }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        other => other.to_string(),
    }
}

/// A name out of the library's way to write it, `DnsName("a.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn date(time: &UnixTime) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

fn of_incompatible(why: &PeerIncompatible) -> String {
    use PeerIncompatible as P;
    match why {
        P::NoCipherSuitesInCommon => {
            "no cipher suite supported by both client and server".to_owned()
        }
        P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::SupportedVersionsExtensionRequired => {
            "client offered only unsupported versions".to_owned()
        }
        P::ServerDoesNotSupportTls12Or13 | P::ServerTlsVersionIsDisabledByOurConfig => {
            "server selected unsupported protocol version".to_owned()
        }
        other => format!("{other:?}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription as A;
    let text = match alert {
        A::CloseNotify => "close notify",
        A::UnexpectedMessage => "unexpected message",
        A::BadRecordMac => "bad record MAC",
        A::DecryptionFailed => "decryption failed",
        A::RecordOverflow => "record overflow",
        A::DecompressionFailure => "decompression failure",
        A::HandshakeFailure => "handshake failure",
        A::BadCertificate => "bad certificate",
        A::UnsupportedCertificate => "unsupported certificate",
        A::CertificateRevoked => "revoked certificate",
        A::CertificateExpired => "expired certificate",
        A::CertificateUnknown => "unknown certificate",
        A::IllegalParameter => "illegal parameter",
        A::UnknownCA => "unknown certificate authority",
        A::AccessDenied => "access denied",
        A::DecodeError => "error decoding message",
        A::DecryptError => "error decrypting message",
        A::ExportRestriction => "export restriction",
        A::ProtocolVersion => "protocol version not supported",
        A::InsufficientSecurity => "insufficient security level",
        A::InternalError => "internal error",
        A::InappropriateFallback => "inappropriate fallback",
        A::UserCanceled => "user canceled",
        A::NoRenegotiation => "no renegotiation",
        A::MissingExtension => "missing extension",
        A::UnsupportedExtension => "unsupported extension",
        A::CertificateUnobtainable => "certificate unobtainable",
        A::UnrecognisedName => "unrecognized name",
        A::BadCertificateStatusResponse => "bad certificate status response",
        A::BadCertificateHashValue => "bad certificate hash value",
        A::UnknownPSKIdentity => "unknown PSK identity",
        A::CertificateRequired => "certificate required",
        A::NoApplicationProtocol => "no application protocol",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_in_gos_words() {
        use CertificateError as C;
        let expected = "a.example".try_into().unwrap();
        let presented = vec![r#"DnsName("b.example")"#.to_owned(), "IpAddress(::1)".to_owned()];
        let table = [
            (
                Fault::AlertReceived(AlertDescription::BadCertificate),
                "remote error: tls: bad certificate",
            ),
            (Fault::AlertReceived(AlertDescription::Unknown(200)), "remote error: tls: alert(200)"),
            (Fault::NoCertificatesPresented, "tls: client didn't provide a certificate"),
            (Fault::InvalidCertificate(C::NotValidForName), NOT_ALLOWED),
            (
                Fault::InvalidCertificate(C::UnknownIssuer),
                "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            ),
            (
                Fault::InvalidCertificate(C::NotValidForNameContext { expected, presented }),
                "tls: failed to verify certificate: x509: certificate is valid for b.example, ::1, \
                 not a.example",
            ),
            (
                Fault::InvalidCertificate(C::ExpiredContext {
                    time: UnixTime::since_unix_epoch(Duration::from_secs(86_400)),
                    not_after: UnixTime::since_unix_epoch(Duration::ZERO),
                }),
                "tls: failed to verify certificate: x509: certificate has expired or is not yet \
                 valid: current time 1970-01-02T00:00:00Z is after 1970-01-01T00:00:00Z",
            ),
            (
                Fault::InvalidMessage(InvalidMessage::InvalidContentType),
                "tls: first record does not look like a TLS handshake",
            ),
        ];
        for (fault, text) in table {
            // As a socket hands it on, and as whoever speaks over that socket does.
            let error = io::Error::new(io::ErrorKind::InvalidData, fault);
            assert_eq!(of_io(&error), text);
            assert_eq!(reason(&crate::error::Fatal::with("dial", error)), text);
        }
        assert_eq!(of_io(&io::ErrorKind::UnexpectedEof.into()), "EOF");
    }
}
