//! The dialling side: from a URL and a few files to a channel for gRPC.

use super::files::{TlsError, Watched, authorities, certificates, private_key};
use super::suites::Suites;
use super::text;
use super::verify::{Allowed, OfNobody, OfServers};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{Resumption, WebPkiServerVerifier};
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};

/// What a client shows, and what it demands of servers with `https` and `unixs` URLs. By default it
/// shows nothing, and trusts whom the system trusts.
#[derive(Clone, Debug, Default)]
pub struct DialOptions {
    /// Who signs the certificates of servers; those whom the system trusts if it is `None`.
    pub ca_file: Option<PathBuf>,
    /// With its key, what this client shows to servers that ask.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The name that a server's certificate must have, if not the one in its URL.
    pub server_name: Option<String>,
    /// Takes any server's certificate.
    pub skips_verification: bool,
    /// Whose certificate a server may show.
    pub allowed: Allowed,
    pub suites: Suites,
}

impl DialOptions {
    /// Whether anything is chosen that only counts with TLS.
    pub fn wants_tls(&self) -> bool {
        let files = [&self.ca_file, &self.cert_file, &self.key_file];
        self.skips_verification
            || self.server_name.is_some()
            || files.into_iter().any(Option::is_some)
    }

    fn files(&self) -> Vec<PathBuf> {
        [&self.ca_file, &self.cert_file, &self.key_file].into_iter().flatten().cloned().collect()
    }

    fn load(&self) -> Result<ClientConfig, TlsError> {
        let builder = ClientConfig::builder_with_provider(self.suites.provider.clone())
            .with_protocol_versions(&self.suites.versions)
            .map_err(|error| TlsError::new(text::of_fault(&error)))?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?);
        let mut config = match (&self.cert_file, &self.key_file) {
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), Some(key)) => {
                let (chain, key) = (certificates(cert)?, private_key(key)?);
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    TlsError::new(format!("{}: {}", cert.display(), text::of_fault(&error)))
                })?
            }
            (cert, key) => {
                let shown = |path: &Option<PathBuf>| {
                    path.as_ref().map_or(String::new(), |path| path.display().to_string())
                };
                return Err(TlsError::new(format!(
                    "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                    shown(key),
                    shown(cert)
                )));
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
        let provider = self.suites.provider.clone();
        if self.skips_verification {
            return Ok(Arc::new(OfNobody(provider)));
        }
        let roots = authorities(self.ca_file.as_deref())?;
        if roots.is_empty() {
            return Err(TlsError::new(
                "the system trusts no authority: name the one that signs servers' certificates",
            ));
        }
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Arc::new(OfServers {
            inner: inner.map_err(|error| TlsError::new(error.to_string()))?,
            trusted: self.ca_file.as_deref().map_or(Ok(Vec::new()), certificates)?,
            allowed: self.allowed.clone(),
        }))
    }
}

type Loaded = Watched<ClientConfig>;

/// Dials by URL. Cheap to clone. Files are read at the first need and again when they change.
#[derive(Clone, Default)]
pub struct Dialer {
    options: Arc<DialOptions>,
    /// The same as the options' `server_name`, when it becomes known later.
    server_name: Arc<OnceLock<String>>,
    loaded: Arc<Mutex<Option<Arc<Loaded>>>>,
}

impl Dialer {
    /// Reads the files that the options name, to tell at once what is wrong with them.
    ///
    /// # Errors
    /// For files that are missing or not what they should be.
    pub fn new(options: DialOptions) -> Result<Self, TlsError> {
        let dialer = Self { options: Arc::new(options), ..Self::default() };
        if !dialer.options.files().is_empty() {
            dialer.loaded()?;
        }
        Ok(dialer)
    }

    /// From now on servers must have this name in their certificates, unless another was asked for.
    pub fn name_servers(&self, name: &str) {
        let _first = self.server_name.set(name.to_owned());
    }

    fn loaded(&self) -> Result<Arc<Loaded>, TlsError> {
        let mut loaded = self.loaded.lock();
        if let Some(loaded) = &*loaded {
            return Ok(loaded.clone());
        }
        let options = self.options.clone();
        let first = Arc::new(Watched::new(options.files(), move || options.load())?);
        Ok(loaded.insert(first).clone())
    }

    /// A channel that connects at its first call and again whenever it has to. The URL's scheme
    /// is http, https, unix or unixs; `tune` sets the channel's times and windows.
    ///
    /// # Errors
    /// When the text is no such URL.
    pub fn lazy(
        &self,
        url: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, String> {
        let (endpoint, place) = endpoint(url)?;
        let endpoint = tune(endpoint);
        Ok(match place {
            Place { is_tls: false, socket: None, .. } => endpoint.connect_lazy(),
            place => endpoint.connect_with_connector_lazy(self.connector(place)),
        })
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// When the text is no such URL, and when the server cannot be reached or is not taken.
    pub async fn connect(
        &self,
        url: &str,
        tune: impl FnOnce(Endpoint) -> Endpoint,
    ) -> Result<Channel, String> {
        let (endpoint, place) = endpoint(url)?;
        let endpoint = tune(endpoint);
        let connected = match place {
            Place { is_tls: false, socket: None, .. } => endpoint.connect().await,
            place => endpoint.connect_with_connector(self.connector(place)).await,
        };
        connected.map_err(|error| text::reason(&error))
    }

    fn connector(
        &self,
        place: Place,
    ) -> impl tower::Service<http::Uri, Response = TokioIo<Dialled>, Error = io::Error, Future: Send>
    + Clone
    + Send
    + use<> {
        let dialer = self.clone();
        tower::service_fn(move |_: http::Uri| {
            let (dialer, place) = (dialer.clone(), place.clone());
            async move { dialer.dial(&place).await.map(TokioIo::new) }
        })
    }

    async fn dial(&self, place: &Place) -> io::Result<Dialled> {
        let stream = match &place.socket {
            Some(path) => Stream::Unix(UnixStream::connect(path).await?),
            None => {
                let stream = TcpStream::connect(&place.address).await?;
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        if !place.is_tls {
            return Ok(Dialled::Plain(stream));
        }
        let config = self.current().await?;
        let later = self.server_name.get();
        let name = self.options.server_name.as_ref().or(later).unwrap_or(&place.host);
        // DNS has a dot at the end of names, certificates have none.
        let name = name.trim_end_matches('.').to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let shaken = TlsConnector::from(config).connect(name, stream).await;
        shaken.map(|stream| Dialled::Tls(Box::new(stream)))
    }

    /// Speaks TLS, and HTTP/1.1 within it, on a connection that the caller made, with a server that
    /// must prove to be `host`.
    ///
    /// # Errors
    /// When the server is not taken, and when a file that the options name cannot be read.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&*self.current().await?);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = self.options.server_name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// The files as they are now.
    async fn current(&self) -> io::Result<Arc<ClientConfig>> {
        let dialer = self.clone();
        let config = tokio::task::spawn_blocking(move || dialer.loaded()?.current());
        let config: Result<Arc<ClientConfig>, TlsError> = config.await.map_err(io::Error::other)?;
        config.map_err(io::Error::other)
    }
}

/// Adds the scheme that an endpoint lacks: TLS if anything of it was asked for.
pub fn endpoint_url(endpoint: &str, wants_tls: bool) -> String {
    match (endpoint.contains("://") || endpoint.starts_with("unix"), wants_tls) {
        (true, _) => endpoint.to_owned(),
        (false, true) => format!("https://{endpoint}"),
        (false, false) => format!("http://{endpoint}"),
    }
}

/// Where a URL leads.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    is_tls: bool,
    /// In the file system.
    socket: Option<PathBuf>,
    /// Host and port as written.
    address: String,
    /// Name or address, without port and brackets.
    host: String,
}

/// Takes a URL apart, and tells the channel what it shall believe: it must not see `https`, since
/// it would want to speak TLS by itself.
fn endpoint(url: &str) -> Result<(Endpoint, Place), String> {
    let invalid = |why: &dyn std::fmt::Display| format!("{url}: {why}");
    let (scheme, rest) = url.split_once(':').ok_or_else(|| invalid(&"not a URL"))?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let is_tls = matches!(scheme, "https" | "unixs");
    let place = match scheme {
        "http" | "https" => {
            let address = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let host = bare.unwrap_or(host).to_owned();
            Place { is_tls, socket: None, address: address.to_owned(), host }
        }
        "unix" | "unixs" => {
            let (socket, name) = (Some(PathBuf::from(rest)), "localhost".to_owned());
            Place { is_tls, socket, address: name.clone(), host: name }
        }
        _ => return Err(invalid(&"its scheme must be http, https, unix or unixs")),
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", place.address));
    let mut endpoint = endpoint.map_err(|error| invalid(&error))?;
    if is_tls {
        let origin = format!("https://{}", place.address).parse();
        endpoint = endpoint.origin(origin.map_err(|error: http::uri::InvalidUri| invalid(&error))?);
    }
    Ok((endpoint, place))
}

/// A socket of either kind.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A dialled connection.
enum Dialled {
    Plain(Stream),
    Tls(Box<TlsStream<Stream>>),
}

/// Hands each call on to what is inside.
macro_rules! either {
    ($name:ident, $($variant:ident)+) => {
        impl AsyncRead for $name {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => Pin::new(inner).poll_read(cx, buffer),)+
                }
            }
        }

        impl AsyncWrite for $name {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => Pin::new(inner).poll_write(cx, bytes),)+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => Pin::new(inner).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $(Self::$variant(inner) => Pin::new(inner).poll_shutdown(cx),)+
                }
            }
        }
    };
}

either!(Stream, Tcp Unix);
either!(Dialled, Plain Tls);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_where_they_say() {
        let place = |is_tls, socket: Option<&str>, address: &str, host: &str| Place {
            is_tls,
            socket: socket.map(PathBuf::from),
            address: address.to_owned(),
            host: host.to_owned(),
        };
        let table = [
            ("http://a.example:1", place(false, None, "a.example:1", "a.example")),
            ("https://[::1]:2", place(true, None, "[::1]:2", "::1")),
            ("https://127.0.0.1:2/", place(true, None, "127.0.0.1:2", "127.0.0.1")),
            ("unix:///run/q", place(false, Some("/run/q"), "localhost", "localhost")),
            ("unixs://localhost:1", place(true, Some("localhost:1"), "localhost", "localhost")),
        ];
        for (url, expected) in table {
            assert_eq!(endpoint(url).unwrap().1, expected, "{url}");
        }
        assert!(endpoint("ftp://a:1").is_err() && endpoint("a").is_err());
    }

    #[test]
    fn an_endpoint_without_scheme_gets_the_one_that_fits() {
        assert_eq!(endpoint_url("a:1", false), "http://a:1");
        assert_eq!(endpoint_url("a:1", true), "https://a:1");
        assert_eq!(endpoint_url("http://a:1", true), "http://a:1");
        assert_eq!(endpoint_url("unix:///a", true), "unix:///a");
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let options = DialOptions { cert_file: Some("c".into()), ..DialOptions::default() };
        let skips = DialOptions { skips_verification: true, ..options };
        let error = Dialer::new(skips).err().map(|error| error.to_string());
        let text = "KeyFile and CertFile must both be present[key: , cert: c]";
        assert_eq!(error.as_deref(), Some(text));
    }
}
