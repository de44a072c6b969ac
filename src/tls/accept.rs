//! The accepting side: a handshake within a time, and the checks that come after it.

use super::certificate::Certificate;
use super::files::{TlsError, Watched, authorities, certificates, number, private_key, revoked};
use super::suites::Suites;
use super::verify::{Allowed, OfClients};
use super::{origin, text};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{
    Acceptor, NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::server::TlsStream;

/// How long a client may take over its handshake: etcd's time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes that may be under way at one time. More are refused, so that clients who never go on
/// hold no more than this many sockets and buffers.
const HANDSHAKES_MAX: usize = 1024;
/// Connections that may ask the name service at one time: each holds a thread meanwhile.
const LOOKUPS_MAX: usize = 16;

/// What a server shows, and what it demands.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// Who signs the certificates of clients; those whom the system trusts if it is `None`.
    pub trusted_ca_file: Option<PathBuf>,
    pub crl_file: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub demands_certificate: bool,
    /// Whose certificate it may be.
    pub allowed: Allowed,
    /// Whether a certificate's names must fit the address that its owner comes from.
    pub checks_origin: bool,
    pub suites: Suites,
}

impl ServerOptions {
    fn load(&self) -> Result<Loaded, TlsError> {
        let invalid = |error| TlsError::new(text::of_fault(&error));
        let provider = self.suites.provider.clone();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.suites.versions)
            .map_err(invalid)?;
        let builder = match self.demands_certificate {
            true => {
                let roots = Arc::new(authorities(self.trusted_ca_file.as_deref())?);
                let inner = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                let inner = inner.map_err(|error| match error {
                    VerifierBuilderError::NoRootAnchors => {
                        TlsError::new("there is no authority that could sign clients' certificates")
                    }
                    error => TlsError::new(error.to_string()),
                })?;
                builder.with_client_cert_verifier(Arc::new(OfClients {
                    inner,
                    allowed: self.allowed.clone(),
                }))
            }
            false => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.cert_file)?;
        let key = private_key(&self.key_file)?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| {
            let why = text::of_fault(&error);
            TlsError::new(format!("{}: {why}", self.cert_file.display()))
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let revoked = self.crl_file.as_deref().map_or(Ok(Vec::new()), revoked);
        Ok(Loaded { config: Arc::new(config), revoked })
    }
}

/// What was read from files.
struct Loaded {
    config: Arc<ServerConfig>,
    /// Serial numbers. Without a list in order, whoever shows a certificate is refused.
    revoked: Result<Vec<Vec<u8>>, TlsError>,
}

struct Inner {
    options: ServerOptions,
    loaded: Watched<Loaded>,
    handshakes: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

/// The accepting side of a listener. Cheap to clone; all clones share the bound on handshakes.
#[derive(Clone)]
pub struct ServerTls {
    inner: Arc<Inner>,
}

/// A connection whose handshake is done.
pub struct Accepted<S> {
    pub stream: TlsStream<S>,
    /// The common name of the client's certificate, if it showed one; empty if that has none.
    pub common_name: Option<String>,
}

/// Why a connection was refused, and what is known of who wanted it.
#[derive(Debug)]
pub struct Refused {
    text: String,
    /// The name that the client asked for.
    server_name: String,
    certificate: Option<Certificate>,
    /// It went away by itself.
    has_left: bool,
}

impl Refused {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), server_name: String::new(), certificate: None, has_left: false }
    }

    fn of_io(error: &io::Error, server_name: &str) -> Self {
        Self {
            server_name: server_name.to_owned(),
            has_left: error.kind() == io::ErrorKind::UnexpectedEof,
            ..Self::new(text::of_io(error))
        }
    }

    /// Writes the line that etcd writes; `message` says which listener it was.
    pub fn log(&self, message: &str, remote: Option<SocketAddr>) {
        let remote = remote.map_or(String::new(), |remote| remote.to_string());
        let mut fields = serde_json::json!({
            "remote-addr": remote,
            "server-name": self.server_name,
        });
        if let Some(certificate) = &self.certificate {
            fields["ip-addresses"] = serde_json::json!(certificate.addresses);
            fields["dns-names"] = serde_json::json!(certificate.dns_names);
        }
        fields["error"] = self.text.as_str().into();
        let fields = fields.to_string();
        match self.has_left {
            // Probes of ports do that all day.
            true => tracing::debug!(zap_fields = fields, "{message}"),
            false => tracing::warn!(zap_fields = fields, "{message}"),
        }
    }
}

impl ServerTls {
    /// Reads all files for the first time.
    ///
    /// # Errors
    /// For files that are missing or not what they should be.
    pub fn open(options: ServerOptions) -> Result<Self, TlsError> {
        let files = [&options.cert_file, &options.key_file].into_iter().cloned();
        let files = files.chain(options.trusted_ca_file.clone()).chain(options.crl_file.clone());
        let source = options.clone();
        let loaded = Watched::new(files.collect(), move || source.load())?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Ok(Self { inner: Arc::new(Inner { options, loaded, handshakes, lookups }) })
    }

    /// Carries the handshake out and checks the client. Ends within a bounded time.
    ///
    /// # Errors
    /// Whatever makes the connection one that must not be served.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: S,
        remote: Option<SocketAddr>,
    ) -> Result<Accepted<S>, Refused> {
        let Ok(_place) = self.inner.handshakes.clone().try_acquire_owned() else {
            return Err(Refused::new("too many handshakes are under way"));
        };
        let shaken = shake(self.inner.clone(), stream);
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken).await;
        let (stream, server_name, loaded) =
            shaken.unwrap_or_else(|_elapsed| Err(Refused::new("i/o timeout")))?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let Some(der) = chain.first() else {
            return Ok(Accepted { stream, common_name: None });
        };
        let Some(certificate) = Certificate::read(der) else {
            return Err(Refused { server_name, ..Refused::new("x509: malformed certificate") });
        };
        let revoked = loaded.revoked.as_ref().map_err(ToString::to_string);
        let checked = match revoked.and_then(|revoked| check_revoked(chain, revoked)) {
            Ok(()) => check_origin(self.inner, certificate.clone(), remote).await,
            revoked => revoked,
        };
        match checked {
            Ok(()) => Ok(Accepted { stream, common_name: Some(certificate.common_name) }),
            Err(text) => {
                let certificate = Some(certificate);
                Err(Refused { server_name, certificate, ..Refused::new(text) })
            }
        }
    }
}

async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    inner: Arc<Inner>,
    stream: S,
) -> Result<(TlsStream<S>, String, Arc<Loaded>), Refused> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start = start.await.map_err(|error| Refused::of_io(&error, ""))?;
    let server_name = start.client_hello().server_name().unwrap_or_default().to_owned();
    let source = inner.clone();
    let loaded = tokio::task::spawn_blocking(move || source.loaded.current()).await;
    let loaded = loaded.unwrap_or_else(|_| Err(TlsError::new("reading of files was cut off")));
    let loaded = loaded.map_err(|error| unusable(&inner.options, &error, &server_name))?;
    let shaken = start.into_stream(loaded.config.clone()).await;
    let stream = shaken.map_err(|error| Refused::of_io(&error, &server_name))?;
    Ok((stream, server_name, loaded))
}

/// The files were in order once.
fn unusable(options: &ServerOptions, error: &TlsError, server_name: &str) -> Refused {
    let message = match error.is_missing() {
        true => "failed to find peer cert files",
        false => "failed to create peer certificate",
    };
    tracing::warn!(
        "cert-file" = %options.cert_file.display(),
        "key-file" = %options.key_file.display(),
        %error,
        "{message}"
    );
    Refused { server_name: server_name.to_owned(), ..Refused::new(error.to_string()) }
}

async fn check_origin(
    inner: Arc<Inner>,
    certificate: Certificate,
    remote: Option<SocketAddr>,
) -> Result<(), String> {
    let has_names = !certificate.dns_names.is_empty() || !certificate.addresses.is_empty();
    if !inner.options.checks_origin || !has_names {
        return Ok(());
    }
    // A socket in the file system: whoever may open it is on this machine.
    let Some(remote) = remote else { return Ok(()) };
    let checked = async {
        let _turn = inner.lookups.clone().acquire_owned().await;
        tokio::task::spawn_blocking(move || origin::check(&certificate, remote.ip())).await
    };
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, checked).await {
        Ok(Ok(checked)) => checked,
        _ => Err("tls: looking names up took too long".to_owned()),
    }
}

/// No certificate that was shown may be on the list, whoever has signed it.
fn check_revoked(chain: &[CertificateDer<'_>], revoked: &[Vec<u8>]) -> Result<(), String> {
    if revoked.is_empty() {
        return Ok(());
    }
    for der in chain {
        let Some(certificate) = Certificate::read(der) else { continue };
        let serial = number(&certificate.serial);
        if revoked.iter().any(|revoked| revoked == serial) {
            let hex = serial.iter().fold(String::new(), |mut hex, byte| {
                // Writing to a string cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            });
            return Err(format!("transport: certificate serial {hex} revoked"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::self_signed;
    use tokio::io::{AsyncReadExt as _, duplex};

    #[tokio::test]
    async fn no_more_handshakes_than_the_bound_are_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let made = self_signed(folder.path(), &["localhost"], 1).unwrap();
        let tls = ServerTls::open(ServerOptions {
            cert_file: made.cert_file,
            key_file: made.key_file,
            trusted_ca_file: None,
            crl_file: None,
            demands_certificate: false,
            allowed: Allowed::Anybody,
            checks_origin: false,
            suites: Suites::default(),
        })
        .unwrap();
        let mut clients = Vec::new();
        let mut accepting = tokio::task::JoinSet::new();
        let mut connect = || {
            let (client, server) = duplex(1024);
            clients.push(client);
            server
        };
        for _ in 0..HANDSHAKES_MAX {
            accepting.spawn(tls.clone().accept(connect(), None));
        }
        while tls.inner.handshakes.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        // One more is told to go, at once and without a byte.
        let Err(refused) = tls.clone().accept(connect(), None).await else {
            panic!("there was no place for it");
        };
        assert_eq!(refused.text, "too many handshakes are under way");
        let mut last = clients.pop().unwrap();
        assert_eq!(last.read(&mut [0; 16]).await.unwrap(), 0, "its connection is closed");
        // Somebody leaves, and there is a place.
        drop(clients.pop());
        let left = accepting.join_next().await.unwrap().unwrap();
        assert_eq!(left.err().map(|refused| refused.text).as_deref(), Some("EOF"));
        let (_client, server) = duplex(1024);
        let next = tokio::spawn(tls.clone().accept(server, None));
        while tls.inner.handshakes.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(!next.is_finished(), "it waits for its client");
    }
}
