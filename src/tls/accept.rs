//! The accepting side: a handshake within a time, and the checks that come after it.
//!
//! Handshakes under way are bounded, and the newest never waits for the others: see [`Pending`]. Those
//! who have not said anything yet have places of their own, so that whoever only opens connections takes none
//! from those who speak.

use super::certificate::Certificate;
use super::files::{TlsError, Watched, authorities, certificates, number, private_key, revoked};
use super::pending::{GaveWay, Pending};
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
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{
    Acceptor, NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

/// How long a client may take over its handshake: etcd's time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients whose first message may be waited for at one time, and handshakes that may be under way after
/// it. For one more the oldest is dropped, so that clients who never go on hold no more than twice this
/// many sockets and buffers, and keep nobody out.
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
    /// Clients that have not said who they are looking for.
    silent: Pending,
    /// Handshakes from then on, with the checks at their end.
    speaking: Pending,
    lookups: Arc<Semaphore>,
}

/// The accepting side of a listener. Cheap to clone; all clones share the bounds on handshakes.
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
    /// There may be many of the kind, which operators need not hear of one by one.
    is_usual: bool,
}

impl Refused {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), server_name: String::new(), certificate: None, is_usual: false }
    }

    fn of_io(error: &io::Error, server_name: &str) -> Self {
        Self {
            server_name: server_name.to_owned(),
            // Probes of ports do that all day.
            is_usual: error.kind() == io::ErrorKind::UnexpectedEof,
            ..Self::new(text::of_io(error))
        }
    }

    fn of_place(gave_way: GaveWay, server_name: &str) -> Self {
        Self {
            server_name: server_name.to_owned(),
            is_usual: !gave_way.is_first,
            ..Self::new("too many handshakes are under way")
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
        match self.is_usual {
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
        Self::bounded(options, HANDSHAKES_MAX)
    }

    fn bounded(options: ServerOptions, handshakes_max: usize) -> Result<Self, TlsError> {
        let files = [&options.cert_file, &options.key_file].into_iter().cloned();
        let files = files.chain(options.trusted_ca_file.clone()).chain(options.crl_file.clone());
        let source = options.clone();
        let loaded = Watched::new(files.collect(), move || source.load())?;
        let [silent, speaking] = [(); 2].map(|()| Pending::new(handshakes_max));
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Ok(Self { inner: Arc::new(Inner { options, loaded, silent, speaking, lookups }) })
    }

    /// Carries the handshake out and checks the client. Ends within a bounded time.
    ///
    /// # Errors
    /// Whatever makes the connection one that must not be served; others that came later need its place.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        stream: S,
        remote: Option<SocketAddr>,
    ) -> Result<Accepted<S>, Refused> {
        let until = Instant::now() + HANDSHAKE_TIMEOUT;
        let late = |_elapsed| Refused::new("i/o timeout");
        let inner = self.inner;
        let mut place = inner.silent.enter();
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream);
        let start = place.hold(tokio::time::timeout_at(until, start)).await;
        let start = start.map_err(|gave_way| Refused::of_place(gave_way, ""))?.map_err(late)?;
        let start = start.map_err(|error| Refused::of_io(&error, ""))?;
        drop(place);
        let server_name = start.client_hello().server_name().unwrap_or_default().to_owned();
        let mut place = inner.speaking.enter();
        let finished = async {
            let shaken = finish(inner.clone(), start, &server_name);
            let (stream, loaded) = tokio::time::timeout_at(until, shaken).await.map_err(late)??;
            checked(inner.clone(), stream, &loaded, remote, &server_name).await
        };
        let finished = place.hold(finished).await;
        finished.unwrap_or_else(|gave_way| Err(Refused::of_place(gave_way, &server_name)))
    }
}

/// The handshake from the client's first message on.
async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    inner: Arc<Inner>,
    start: StartHandshake<S>,
    server_name: &str,
) -> Result<(TlsStream<S>, Arc<Loaded>), Refused> {
    let source = inner.clone();
    let loaded = tokio::task::spawn_blocking(move || source.loaded.current()).await;
    let loaded = loaded.unwrap_or_else(|_| Err(TlsError::new("reading of files was cut off")));
    let loaded = loaded.map_err(|error| unusable(&inner.options, &error, server_name))?;
    let shaken = start.into_stream(loaded.config.clone()).await;
    let stream = shaken.map_err(|error| Refused::of_io(&error, server_name))?;
    Ok((stream, loaded))
}

/// Looks at what the client has shown.
async fn checked<S>(
    inner: Arc<Inner>,
    stream: TlsStream<S>,
    loaded: &Loaded,
    remote: Option<SocketAddr>,
    server_name: &str,
) -> Result<Accepted<S>, Refused> {
    let refused =
        |text: String| Refused { server_name: server_name.to_owned(), ..Refused::new(text) };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(der) = chain.first() else {
        return Ok(Accepted { stream, common_name: None });
    };
    let Some(certificate) = Certificate::read(der) else {
        return Err(refused("x509: malformed certificate".to_owned()));
    };
    let revoked = loaded.revoked.as_ref().map_err(ToString::to_string);
    let checked = match revoked.and_then(|revoked| check_revoked(chain, revoked)) {
        Ok(()) => check_origin(inner, certificate.clone(), remote).await,
        revoked => revoked,
    };
    match checked {
        Ok(()) => Ok(Accepted { stream, common_name: Some(certificate.common_name) }),
        Err(text) => Err(Refused { certificate: Some(certificate), ..refused(text) }),
    }
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

    /// The bound of these tests.
    const MAX: usize = 8;

    fn server() -> (tempfile::TempDir, ServerTls) {
        let folder = tempfile::tempdir().unwrap();
        let made = self_signed(folder.path(), &["localhost"], 1).unwrap();
        let options = ServerOptions {
            cert_file: made.cert_file,
            key_file: made.key_file,
            trusted_ca_file: None,
            crl_file: None,
            demands_certificate: false,
            allowed: Allowed::Anybody,
            checks_origin: false,
            suites: Suites::default(),
        };
        (folder, ServerTls::bounded(options, MAX).unwrap())
    }

    /// A client's first message.
    fn hello() -> Vec<u8> {
        let suites = Suites::default();
        let config = ClientConfig::builder_with_provider(suites.provider)
            .with_protocol_versions(&suites.versions)
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        hello
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn no_more_handshakes_than_the_bound_are_under_way() {
        let (_folder, tls) = server();
        let (silent, speaking) = (&tls.inner.silent, &tls.inner.speaking);
        let mut accepting = tokio::task::JoinSet::new();
        let connect = |accepting: &mut tokio::task::JoinSet<_>| {
            let (client, server) = duplex(4096);
            accepting.spawn(tls.clone().accept(server, None));
            client
        };
        // One has begun to speak, and the silent take nothing from it.
        let mut speaker = connect(&mut accepting);
        speaker.write_all(&hello()).await.unwrap();
        until(|| speaking.taken() == 1).await;
        assert_eq!(silent.taken(), 0);
        let mut clients: Vec<_> = (0..MAX).map(|_| connect(&mut accepting)).collect();
        until(|| silent.taken() == MAX).await;
        // One more comes, and the oldest of those who say nothing has to go, without a byte.
        clients.push(connect(&mut accepting));
        assert_eq!(clients[0].read(&mut [0; 16]).await.unwrap(), 0, "its connection is closed");
        let refused = accepting.join_next().await.unwrap().unwrap().err().unwrap();
        assert_eq!(refused.text, "too many handshakes are under way");
        assert!(!refused.is_usual, "the first is told");
        assert_eq!((silent.taken(), speaking.taken()), (MAX, 1));
        // Somebody leaves, and the next takes nobody's place.
        drop(clients.pop());
        let left = accepting.join_next().await.unwrap().unwrap();
        assert_eq!(left.err().map(|refused| refused.text).as_deref(), Some("EOF"));
        clients.push(connect(&mut accepting));
        until(|| silent.taken() == MAX).await;
        assert!(accepting.try_join_next().is_none(), "all wait for their clients");
        assert!(speaker.read(&mut [0; 16]).await.unwrap() > 0, "it is answered");
    }

    #[tokio::test]
    async fn of_those_who_begin_to_speak_the_oldest_gives_way_too() {
        let (_folder, tls) = server();
        let mut accepting = tokio::task::JoinSet::new();
        let mut clients = Vec::new();
        for _ in 0..=MAX {
            let (mut client, server) = duplex(4096);
            client.write_all(&hello()).await.unwrap();
            accepting.spawn(tls.clone().accept(server, None));
            clients.push(client);
        }
        let refused = accepting.join_next().await.unwrap().unwrap().err().unwrap();
        assert_eq!(refused.text, "too many handshakes are under way");
        assert_eq!(refused.server_name, "localhost");
        assert_eq!(tls.inner.speaking.taken(), MAX);
        assert!(accepting.try_join_next().is_none(), "the others go on");
    }
}
