//! `quoin snapshot save|status|restore`: backups from the command line, with etcd's words.
//!
//! `save` fetches a backup from a running member, etcd or Quoin. `status` and `restore` read a file
//! of either, for they are the same: an etcd database, and its checksum behind it. `restore` makes
//! a member's data folder from it, for a new cluster. Nothing is believed of a file that has not
//! been checked, and what is wrong with one is said.
//!
//! Left out: etcd's database as it lies in a data folder that is in use.

mod file;
mod output;
mod restore;
mod save;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum};

/// Manages backups of a cluster.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Stores the state of a running member in a file
    Save(SaveArgs),
    /// Tells what is in a backup
    Status(StatusArgs),
    /// Makes a member's data folder from a backup
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
struct SaveArgs {
    /// The file to write
    filename: PathBuf,
    /// The member to ask; just one, since a backup is one member's state
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        env = "ETCDCTL_ENDPOINTS"
    )]
    endpoints: Vec<String>,
    #[command(flatten)]
    tls: TlsArgs,
    /// How long connecting may take
    #[arg(long, default_value = "5s", value_parser = duration)]
    dial_timeout: Duration,
    /// How long all of it may take; 0 is for ever
    #[arg(long, default_value = "0s", value_parser = duration)]
    command_timeout: Duration,
    /// User and password, as name:password
    #[arg(long, env = "ETCDCTL_USER")]
    user: Option<String>,
    /// The user's password, if it is not given with the name
    #[arg(long, env = "ETCDCTL_PASSWORD")]
    password: Option<String>,
}

/// How a server is dialled; named as etcdctl names it.
#[derive(Debug, Args)]
struct TlsArgs {
    /// Who signs the certificates of servers; those whom the system trusts if not given
    #[arg(long, env = "ETCDCTL_CACERT")]
    cacert: Option<PathBuf>,
    /// The certificate to show to servers that ask for one
    #[arg(long, env = "ETCDCTL_CERT")]
    cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, env = "ETCDCTL_KEY")]
    key: Option<PathBuf>,
    /// Take any server's certificate
    #[arg(long, env = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", action = ArgAction::Set)]
    insecure_skip_tls_verify: bool,
    /// Speak without TLS to endpoints that do not say https
    #[arg(long, env = "ETCDCTL_INSECURE_TRANSPORT", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "true", action = ArgAction::Set)]
    insecure_transport: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The backup
    filename: PathBuf,
    /// How to print it
    #[arg(short = 'w', long, value_enum, default_value_t = Form::Simple)]
    write_out: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Simple,
    Json,
    Table,
    Fields,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The backup
    filename: PathBuf,
    /// The folder to make, for --data-dir of the server [default: <name>.etcd]
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// The folder of the raft log, for --wal-dir of the server; in the data folder if not given
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// Where keys and values will live: rocksdb or memory
    #[arg(long, env = "QUOIN_ENGINE")]
    engine: Option<String>,
    /// This member's name
    #[arg(long, default_value = "default")]
    name: String,
    /// All members of the new cluster
    #[arg(long, default_value = "default=http://localhost:2380")]
    initial_cluster: String,
    /// Tells the new cluster from others of the same addresses
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// This member's peer URLs
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// Take a file without checksum, such as one copied from a data folder of etcd
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", action = ArgAction::Set)]
    skip_hash_check: bool,
    /// Add so much to the revision, for clients that must never see it fall
    #[arg(long, default_value_t = 0)]
    bump_revision: u64,
    /// Make everything up to the bumped revision compacted; goes with --bump-revision alone
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "false", action = ArgAction::Set)]
    mark_compacted: bool,
    /// Taken for the sake of scripts that use etcd's tool; nothing is mapped here
    #[arg(long, hide = true)]
    initial_memory_map_size: Option<u64>,
}

/// Why a command failed, and how the process ends.
#[derive(Debug)]
struct SnapshotError {
    text: String,
    code: u8,
}

impl SnapshotError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 1 }
    }

    /// The command line contradicts itself.
    fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 128 }
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for SnapshotError {}

impl From<crate::error::Fatal> for SnapshotError {
    fn from(fatal: crate::error::Fatal) -> Self {
        Self::new(fatal.to_string())
    }
}

/// Carries the command out; says on standard error why it failed.
pub async fn run(args: SnapshotArgs) -> ExitCode {
    let result = match args.kind {
        Kind::Save(args) => save::run(args).await,
        Kind::Status(args) => output::run(&args),
        Kind::Restore(args) => restore::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::from(error.code)
        }
    }
}

/// A time as Go's flags take it: number and unit, or 0.
fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}
