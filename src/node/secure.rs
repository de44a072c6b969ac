//! TLS as the flags ask for it: what listeners show and demand, and how members are dialled.

use crate::config::{Config, MemberUrl, TlsConfig, TlsSide, TlsVersion};
use crate::error::Fatal;
use crate::server::listener::{Gate, Security};
use crate::tls::{
    Allowed, DialOptions, Dialer, ServerOptions, ServerTls, Suites, TlsError, Version, self_signed,
};
use std::path::PathBuf;

/// What was read for TLS at the start. A side without certificates has none.
pub(super) struct Secure {
    client: Option<ServerTls>,
    /// For probes and metrics: where a client comes from is checked there too, as in etcd.
    metrics: Option<ServerTls>,
    peer: Option<ServerTls>,
    /// To other members.
    pub(super) dialer: Dialer,
}

impl Secure {
    /// Reads the files, or makes certificates where members are to do that themselves.
    ///
    /// # Errors
    /// For files that are not in order, and URLs that want certificates that are not given.
    pub(super) fn open(config: &Config) -> Result<Self, Fatal> {
        let tls = &config.tls;
        let version = |version| match version {
            TlsVersion::Tls12 => Version::Tls12,
            TlsVersion::Tls13 => Version::Tls13,
        };
        let max = tls.max_version.map(version);
        let suites = Suites::new(&tls.cipher_suites, version(tls.min_version), max);
        let suites = suites.map_err(|error| Fatal::new(error.to_string()))?;
        let of_clients: Vec<&MemberUrl> =
            config.listen_client_urls.iter().chain(&config.listen_client_http_urls).collect();
        let of_peers: Vec<&MemberUrl> = config.listen_peer_urls.iter().collect();
        let client = settled(config, "client", &tls.client, &of_clients)?;
        let peer = settled(config, "peer", &tls.peer, &of_peers)?;
        warn_of_ignored("client-url", &client, &of_clients);
        warn_of_ignored("peer-url", &peer, &of_peers);
        check_urls(config, &client, &peer)?;
        let open = |side: &TlsSide, checks_origin: bool, name: &str| {
            log_start(name, side, tls);
            open(side, checks_origin, &suites)
                .map_err(|error| Fatal::new(format!("set up {name} TLS: {error}")))
        };
        let metrics = match config.listen_metrics_urls.iter().any(MemberUrl::is_tls) {
            true => open(&client, !client.skips_origin, "metrics")?,
            false => None,
        };
        // As in etcd: files that no listener for clients needs are not looked at.
        let opened = match of_clients.iter().any(|url| url.is_tls()) {
            true => open(&client, false, "client")?,
            false => {
                log_start("client", &client, tls);
                None
            }
        };
        let opened_peer = open(&peer, !peer.skips_origin, "peer")?;
        let dialer = Dialer::new(dial_options(&peer, &suites))
            .map_err(|error| Fatal::new(format!("set up peer TLS: {error}")))?;
        Ok(Self { client: opened, metrics, peer: opened_peer, dialer })
    }

    /// For a client URL; one that another URL shares with the other scheme speaks both.
    pub(super) fn of_client(&self, speaks: Speaks) -> Security {
        security(self.client.as_ref(), speaks, "rejected connection on client endpoint")
    }

    /// For probes and metrics.
    pub(super) fn of_metrics(&self, speaks: Speaks) -> Security {
        security(self.metrics.as_ref(), speaks, "rejected connection on client endpoint")
    }

    /// For other members.
    pub(super) fn of_peer(&self, speaks: Speaks) -> Security {
        security(self.peer.as_ref(), speaks, "rejected connection on peer endpoint")
    }
}

/// What the URLs of a listener say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Plain,
    Tls,
    Both,
}

impl Speaks {
    pub(super) fn of(url: &MemberUrl) -> Self {
        if url.is_tls() { Self::Tls } else { Self::Plain }
    }

    /// With another URL for the same address.
    pub(super) fn and(self, url: &MemberUrl) -> Self {
        if self == Self::of(url) { self } else { Self::Both }
    }
}

fn security(tls: Option<&ServerTls>, speaks: Speaks, rejected: &'static str) -> Security {
    let gate = tls.map(|tls| Gate { tls: tls.clone(), rejected });
    match (speaks, gate) {
        (Speaks::Tls, Some(gate)) => Security::Tls(gate),
        (Speaks::Both, Some(gate)) => Security::Both(gate),
        (Speaks::Plain, _) | (_, None) => Security::Plain,
    }
}

/// A side as given, or with a certificate of its own making, which is all that counts then.
fn settled(
    config: &Config,
    name: &str,
    side: &TlsSide,
    urls: &[&MemberUrl],
) -> Result<TlsSide, Fatal> {
    if !side.auto {
        return Ok(side.clone());
    }
    if !side.is_empty() {
        tracing::warn!("ignoring {name} auto TLS since certs given");
        return Ok(TlsSide { auto: false, ..side.clone() });
    }
    let hosts: Vec<&str> = urls.iter().map(|url| url.host()).collect();
    let folder = config.data_dir.join("fixtures").join(name);
    let made = self_signed(&folder, &hosts, config.tls.self_signed_years)
        .map_err(|error| Fatal::with(format!("get {name} self-signed certs"), error))?;
    Ok(TlsSide {
        cert_file: Some(made.cert_file),
        key_file: Some(made.key_file),
        auto: true,
        ..TlsSide::default()
    })
}

/// Certificates do nothing for URLs without TLS.
fn warn_of_ignored(field: &str, side: &TlsSide, urls: &[&MemberUrl]) {
    for url in urls.iter().filter(|url| !url.is_tls()) {
        let fields = serde_json::json!({ field: url.as_str() }).to_string();
        if !side.is_empty() {
            tracing::warn!(
                zap_fields = fields,
                "scheme is http or unix while key and cert files are present; ignoring key and \
                 cert files"
            );
        }
        if side.client_cert_auth {
            tracing::warn!(
                zap_fields = fields,
                "scheme is http or unix while client cert auth is enabled; ignoring client cert \
                 auth for this URL"
            );
        }
    }
}

fn check_urls(config: &Config, client: &TlsSide, peer: &TlsSide) -> Result<(), Fatal> {
    let clients = config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    if client.is_empty() {
        if let Some(url) = clients.clone().find(|url| url.is_tls()) {
            return Err(Fatal::new(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} \
                 with HTTPS scheme"
            )));
        }
        if config.listen_metrics_urls.iter().any(MemberUrl::is_tls) {
            return Err(Fatal::new(
                "client TLS key/cert (--cert-file, --key-file) must be provided for metrics \
                 secure url",
            ));
        }
    }
    if let Some(url) = config.listen_peer_urls.iter().find(|url| url.is_tls())
        && peer.is_empty()
    {
        return Err(Fatal::new(format!(
            "cannot listen on TLS for {}: KeyFile and CertFile are not presented",
            url.address()
        )));
    }
    let addresses: Vec<&str> = config.listen_client_urls.iter().map(MemberUrl::address).collect();
    let mut of_http = config.listen_client_http_urls.iter();
    if let Some(url) = of_http.find(|url| addresses.contains(&url.address())) {
        return Err(Fatal::new(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url \
             {url}"
        )));
    }
    Ok(())
}

fn log_start(name: &str, side: &TlsSide, tls: &TlsConfig) {
    if side.is_empty() {
        return;
    }
    let info = format!(
        "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, \
         client-cert-auth = {}, crl-file = {}",
        shown(&side.cert_file),
        shown(&side.key_file),
        shown(&side.client_cert_file),
        shown(&side.client_key_file),
        shown(&side.trusted_ca_file),
        side.client_cert_auth,
        shown(&side.crl_file)
    );
    let fields = serde_json::json!({ "tls-info": info, "cipher-suites": tls.cipher_suites });
    tracing::info!(zap_fields = fields.to_string(), "starting with {name} TLS");
}

fn open(
    side: &TlsSide,
    checks_origin: bool,
    suites: &Suites,
) -> Result<Option<ServerTls>, TlsError> {
    let (cert_file, key_file) = match (&side.cert_file, &side.key_file) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert.clone(), key.clone()),
        (cert, key) => {
            return Err(TlsError::new(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                shown(key),
                shown(cert)
            )));
        }
    };
    check_for_dialling(side, suites)?;
    let allowed = allowed(side)?;
    ServerTls::open(ServerOptions {
        cert_file,
        key_file,
        trusted_ca_file: side.trusted_ca_file.clone(),
        crl_file: side.crl_file.clone(),
        demands_certificate: side.client_cert_auth || side.trusted_ca_file.is_some(),
        allowed,
        checks_origin,
        suites: suites.clone(),
    })
    .map(Some)
}

/// What is shown to servers in the place of the first certificate must be in order too, also where
/// nobody is dialled.
fn check_for_dialling(side: &TlsSide, suites: &Suites) -> Result<(), TlsError> {
    let (cert, key) = (&side.client_cert_file, &side.client_key_file);
    if cert.is_some() != key.is_some() {
        return Err(TlsError::new(format!(
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
            shown(key),
            shown(cert)
        )));
    }
    Dialer::new(DialOptions {
        cert_file: cert.clone(),
        key_file: key.clone(),
        skips_verification: true,
        suites: suites.clone(),
        ..DialOptions::default()
    })
    .map(drop)
}

fn shown(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or(String::new(), |path| path.display().to_string())
}

fn allowed(side: &TlsSide) -> Result<Allowed, TlsError> {
    match (side.allowed_cns.is_empty(), side.allowed_hostnames.is_empty()) {
        (true, true) => Ok(Allowed::Anybody),
        (false, true) => Ok(Allowed::CommonNames(side.allowed_cns.clone())),
        (true, false) => Ok(Allowed::Hosts(side.allowed_hostnames.clone())),
        (false, false) => Err(TlsError::new(format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={}, hostnames={})",
            quoted(&side.allowed_cns),
            quoted(&side.allowed_hostnames)
        ))),
    }
}

/// As Go prints a list.
fn quoted(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("[{}]", names.join(" "))
}

/// A member shows its server's certificate to others unless it has another one for that.
fn dial_options(peer: &TlsSide, suites: &Suites) -> DialOptions {
    let (cert, key) = match &peer.client_cert_file {
        Some(_) => (&peer.client_cert_file, &peer.client_key_file),
        None => (&peer.cert_file, &peer.key_file),
    };
    DialOptions {
        ca_file: peer.trusted_ca_file.clone(),
        cert_file: cert.clone(),
        key_file: key.clone(),
        server_name: None,
        // Who makes a certificate for himself can be known by nobody.
        skips_verification: peer.auto,
        allowed: allowed(peer).unwrap_or_default(),
        suites: suites.clone(),
    }
}
