//! Flags of the services, the same for all commands that offer them.

use super::{Running, Settings, start};
use crate::scheduler::client::Access;
use crate::scheduler::execute::{Caller, Rule, Targets};
use crate::scheduler::numbers::Numbers;
use crate::tls::{DialOptions, Dialer};
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

const URL_DEFAULT: &str = "http://127.0.0.1:2390";
/// Shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

#[derive(Clone, Debug, Default, Args)]
pub struct ServiceArgs {
    /// Where services and the page are offered; "none" for nowhere [default:
    /// http://127.0.0.1:2390, if nobody else is there]
    #[arg(long = "scheduler-listen-url")]
    listen_url: Option<String>,
    /// Certificate of the services, where their url is https
    #[arg(long = "scheduler-cert-file")]
    cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long = "scheduler-key-file")]
    key_file: Option<PathBuf>,
    /// File with a token that callers of services must show: Authorization: Bearer TOKEN
    #[arg(long = "scheduler-token-file")]
    token_file: Option<PathBuf>,
    /// Answer only who shows a user of the store: Authorization: Basic NAME:PASSWORD in base64, or
    /// Bearer with the store's token
    #[arg(long = "scheduler-require-auth")]
    requires_auth: bool,
    /// A name under which the services are called, beside addresses and localhost
    #[arg(long = "scheduler-host")]
    hosts: Vec<String>,
    /// Let tasks be pushed to, and environments be checked at, a private address: host, *.domain, address or network
    #[arg(long = "scheduler-allow-target")]
    targets: Vec<Rule>,
}

impl ServiceArgs {
    /// What calls environments to check them: within the bounds that services have to which tasks are
    /// pushed.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn caller(&self) -> Result<Caller, String> {
        let url = self.listen_url.as_deref().unwrap_or(URL_DEFAULT);
        let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
        let host = host.unwrap_or_default();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let loopback = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let targets = Targets { loopback, allowed: self.targets.clone(), ..Targets::default() };
        let dialer = Dialer::new(DialOptions::default()).map_err(|error| error.to_string())?;
        Ok(Caller::new(targets, dialer))
    }

    /// Begins to serve, unless that is not wanted.
    ///
    /// # Errors
    /// In words for the operator. That the default address is taken is none: others serve the same.
    pub fn start(self, access: Access, numbers: Arc<Numbers>) -> Result<Option<Running>, String> {
        if self.listen_url.as_deref() == Some("none") {
            return Ok(None);
        }
        let tls = match (self.cert_file, self.key_file) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err("--scheduler-cert-file and --scheduler-key-file belong together".into());
            }
        };
        let is_asked_for = self.listen_url.is_some() || tls.is_some();
        let url = self.listen_url.unwrap_or_else(|| URL_DEFAULT.into());
        let token = self.token_file.map(token).transpose()?;
        let settings = Settings {
            url,
            tls,
            token,
            requires_auth: self.requires_auth,
            hosts: self.hosts,
            targets: self.targets,
        };
        match start(settings, access, numbers) {
            Ok(running) => Ok(Some(running)),
            Err(error) if is_asked_for => Err(error),
            Err(error) => {
                tracing::warn!(error, "services and page are not offered here");
                Ok(None)
            }
        }
    }
}

fn token(file: PathBuf) -> Result<String, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{shown}: {error}"))?;
    let token = text.trim();
    if token.len() < TOKEN_BYTES_MIN || token.contains(char::is_whitespace) {
        return Err(format!("{shown}: not a word of at least {TOKEN_BYTES_MIN} characters"));
    }
    Ok(token.to_owned())
}
