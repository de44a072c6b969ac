//! What every command takes: where the servers are, who asks, how long it may take, how to print.
//!
//! Names, variables and defaults are etcdctl's. A flag wins over its variable; etcdctl refuses to
//! start when both are set. A variable that makes no sense is ignored, as there.

use super::client::User;
use super::dial::Dialing;
use super::failure::{ERROR, Failure};
use super::go;
use super::look::{Look, warn};
use super::password;
use crate::dns;
use crate::tls::DialOptions;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

const HEADING: &str = "Options of every command";

/// Flags that may stand anywhere behind `quoin`, for all commands of the command line.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = HEADING)]
pub struct Options {
    /// Servers to ask, separated by commas: host:port, http://, https:// or unix://
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_ENDPOINTS",
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        hide_short_help = true
    )]
    pub(super) endpoints: Vec<String>,
    /// How to print: simple, json, table, fields or protobuf
    #[arg(
        short = 'w',
        long,
        global = true,
        env = "ETCDCTL_WRITE_OUT",
        value_name = "FORM",
        default_value = "simple",
        hide_short_help = true
    )]
    pub write_out: String,
    /// Print bytes and ids as hexadecimal numbers
    #[arg(long, global = true, env = "ETCDCTL_HEX", value_parser = go::parse_bool, hide_short_help = true)]
    pub(super) hex: bool,
    /// Taken as etcdctl takes it; there is no more to be printed
    #[arg(long, global = true, env = "ETCDCTL_DEBUG", value_parser = go::parse_bool, hide = true)]
    pub debug: bool,
    /// How long connecting may take
    #[arg(long, global = true, env = "ETCDCTL_DIAL_TIMEOUT", value_name = "TIME",
          default_value = "2s", value_parser = go::parse_limit, hide_short_help = true)]
    pub(super) dial_timeout: Duration,
    /// How long a short command may take, without connecting
    #[arg(long, global = true, env = "ETCDCTL_COMMAND_TIMEOUT", value_name = "TIME",
          value_parser = go::parse_limit, hide_short_help = true,
          help = "How long a short command may take, without connecting [default: 5s]")]
    pub(super) command_timeout: Option<Duration>,
    /// Ask a silent server for a sign of life so often, at most every 10s
    #[arg(long, global = true, env = "ETCDCTL_KEEPALIVE_TIME", value_name = "TIME",
          default_value = "2s", value_parser = go::parse_limit, hide_short_help = true)]
    pub(super) keepalive_time: Duration,
    /// Give up a server that shows no sign of life for so long
    #[arg(long, global = true, env = "ETCDCTL_KEEPALIVE_TIMEOUT", value_name = "TIME",
          default_value = "6s", value_parser = go::parse_limit, hide_short_help = true)]
    pub(super) keepalive_timeout: Duration,
    /// Bytes of the largest request to send; 0 is 2 MiB
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_MAX_REQUEST_BYTES",
        value_name = "BYTES",
        default_value_t = 0,
        hide_short_help = true
    )]
    pub(super) max_request_bytes: usize,
    /// Bytes of the largest answer to take; 0 is 2 GiB
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_MAX_RECV_BYTES",
        value_name = "BYTES",
        default_value_t = 0,
        hide_short_help = true
    )]
    pub(super) max_recv_bytes: usize,
    /// Who asks, as name or name:password; a missing password is asked for
    #[arg(long, global = true, env = "ETCDCTL_USER", value_name = "USER", hide_short_help = true)]
    pub(super) user: Option<String>,
    /// The user's password
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) password: Option<String>,
    /// A token to show instead of user and password
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_AUTH_JWT_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) auth_jwt_token: Option<String>,
    /// Certificates of authorities that may vouch for a server
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_CACERT",
        value_name = "FILE", value_parser = path,
        hide_short_help = true
    )]
    pub(super) cacert: Option<PathBuf>,
    /// The certificate to show to a server
    #[arg(long, global = true, env = "ETCDCTL_CERT", value_name = "FILE", value_parser = path, hide_short_help = true)]
    pub(super) cert: Option<PathBuf>,
    /// The private key of that certificate
    #[arg(long, global = true, env = "ETCDCTL_KEY", value_name = "FILE", value_parser = path, hide_short_help = true)]
    pub(super) key: Option<PathBuf>,
    /// Speak plain text with endpoints that name neither http:// nor https://
    #[arg(long, global = true, env = "ETCDCTL_INSECURE_TRANSPORT", value_name = "BOOL",
          default_value = "true", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = go::parse_bool,
          action = clap::ArgAction::Set, hide_short_help = true)]
    pub(super) insecure_transport: bool,
    /// Believe any certificate of a server: for tests alone
    #[arg(long, global = true, env = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY", value_parser = go::parse_bool,
          hide_short_help = true)]
    pub(super) insecure_skip_tls_verify: bool,
    /// A domain whose SRV records name the servers
    #[arg(
        short = 'd',
        long,
        global = true,
        env = "ETCDCTL_DISCOVERY_SRV",
        value_name = "DOMAIN",
        hide_short_help = true
    )]
    pub(super) discovery_srv: Option<String>,
    /// A suffix of the service's name in these records
    #[arg(
        long,
        global = true,
        env = "ETCDCTL_DISCOVERY_SRV_NAME",
        value_name = "TEXT",
        hide_short_help = true
    )]
    pub(super) discovery_srv_name: Option<String>,
    /// Take servers without TLS from DNS, and with TLS any name in their certificates that fits
    #[arg(long, global = true, env = "ETCDCTL_INSECURE_DISCOVERY", value_name = "BOOL",
          default_value = "true", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = go::parse_bool,
          action = clap::ArgAction::Set, hide_short_help = true)]
    pub(super) insecure_discovery: bool,
}

/// A short command's time, unless another is given.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);
const ENDPOINT: &str = "127.0.0.1:2379";

impl Options {
    /// The servers: those that DNS names, if a domain is given and has any, else those of the flag.
    ///
    /// # Errors
    /// When DNS does not say.
    pub async fn endpoints(&self) -> Result<Vec<String>, Failure> {
        let found = match &self.domain() {
            None => Vec::new(),
            Some(domain) => {
                let name = self.discovery_srv_name.as_deref().unwrap_or_default();
                dns::clients(name, domain).await.map_err(|error| Failure::new(ERROR, error))?
            }
        };
        let urls = found.into_iter().map(|(url, _)| url).filter(|url| {
            let is_taken = self.insecure_discovery || !url.starts_with("http://");
            if !is_taken {
                warn(&format!("ignoring discovered insecure endpoint {url:?}"));
            }
            is_taken
        });
        let urls: Vec<String> = urls.collect();
        Ok(if urls.is_empty() { self.given_endpoints() } else { urls })
    }

    fn domain(&self) -> Option<String> {
        self.discovery_srv.clone().filter(|domain| !domain.is_empty())
    }

    /// The servers of the flag, without what is empty around commas.
    pub fn given_endpoints(&self) -> Vec<String> {
        let given = self.endpoints.iter().map(|endpoint| endpoint.trim());
        let given: Vec<String> =
            given.filter(|endpoint| !endpoint.is_empty()).map(str::to_owned).collect();
        match given.is_empty() {
            true => vec![ENDPOINT.to_owned()],
            false => given,
        }
    }

    /// How to print.
    ///
    /// # Errors
    /// When there is no such form.
    pub(super) fn look(&self) -> Result<Look, Failure> {
        Look::new(&self.write_out, self.hex)
            .ok_or_else(|| Failure::feature("unsupported output format"))
    }

    /// How long a short command may take.
    pub fn command_timeout(&self) -> Duration {
        self.command_timeout.unwrap_or(COMMAND_TIMEOUT)
    }

    /// The command's time if one was asked for: for those that take long by nature.
    pub fn timeout_if_given(&self) -> Option<Duration> {
        self.command_timeout
    }

    /// The files of a TLS client as named: authorities, certificate and key.
    ///
    /// # Errors
    /// When a name is empty.
    pub fn tls_files(&self) -> Result<[Option<PathBuf>; 3], Failure> {
        Ok([file("cacert", &self.cacert)?, file("cert", &self.cert)?, file("key", &self.key)?])
    }

    /// Name and password of who asks; a missing password is asked for.
    ///
    /// # Errors
    /// When no password can be asked for, or a token is given, which cannot be renewed.
    pub fn name_and_password(&self) -> Result<Option<(String, String)>, Failure> {
        match password::user(self)? {
            Some(User::Password { name, password }) => Ok(Some((name, password))),
            Some(User::Token(_)) => {
                Err(Failure::args("--auth-jwt-token is not taken here: use --user"))
            }
            None => Ok(None),
        }
    }

    /// How connections are made.
    ///
    /// # Errors
    /// When a certificate or key is named and is not what it should be.
    pub(super) fn dialing(&self) -> Result<Dialing, Failure> {
        let [ca_file, cert_file, key_file] = self.tls_files()?;
        let security = DialOptions {
            ca_file,
            cert_file,
            key_file,
            skips_verification: self.insecure_skip_tls_verify,
            server_name: self.domain().filter(|_| !self.insecure_discovery),
            ..DialOptions::default()
        };
        let keepalive = (self.keepalive_time, self.keepalive_timeout);
        Dialing::new(security, self.insecure_transport, self.dial_timeout, keepalive)
            .map_err(Failure::args)
    }
}

/// Also an empty name: what is wrong with it is said later, in etcdctl's words.
fn path(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// A file's name; an empty variable is none.
fn file(flag: &str, given: &Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let is_empty = given.as_ref().is_some_and(|file| file.as_os_str().is_empty());
    let variable = format!("ETCDCTL_{}", flag.to_uppercase());
    match (is_empty, std::env::var_os(variable)) {
        (false, _) => Ok(given.clone()),
        (true, Some(value)) if value.is_empty() => Ok(None),
        (true, _) => Err(Failure::args(format!("empty string is passed to --{flag} option"))),
    }
}
