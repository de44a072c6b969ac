//! From a command line to a [`Config`] that needs no further checks.
//!
//! [`read`] takes arguments and variables as values and touches nothing but the configuration file
//! that they name, so that every rule can be tested. Flags, defaults, texts and exit codes are
//! etcd's; its flags that have no effect here are taken all the same and named in one notice.

mod accepted;
mod bootstrap;
mod compaction;
mod discovery;
mod error;
mod file;
mod flags;
mod help;
pub mod ids;
mod log;
mod table;
#[cfg(test)]
mod tests;
mod tls;
mod told;
mod url;
mod validate;
mod value;
mod yaml;

pub use bootstrap::{Bootstrap, InitialMember, are_same_addresses};
pub use compaction::AutoCompaction;
pub use discovery::{Discovery, DiscoveryTls, SrvDomain};
pub use error::{ConfigError, ErrorKind, Notice};
pub use help::{tool_version, usage};
pub use log::{LogFormat, LogLevel, LogOutput, LogRotation};
pub use tls::{TlsConfig, TlsSide, TlsVersion};
pub use url::{MemberUrl, Scheme, joined};

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The release of etcd whose behaviour this server has, as clients and tools are told.
pub const ETCD_VERSION: &str = "3.7.1";

/// What the process is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Run a member. The notices are to be logged first.
    Start(Box<Config>, Vec<Notice>),
    /// Print this page and end well.
    Print(String),
}

/// Everything that can be chosen about a member.
///
/// Each limit says why its default is what it is. All defaults are etcd's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the raft log lies; in the data folder if `None`.
    pub wal_dir: Option<PathBuf>,
    pub engine: Engine,

    pub listen_client_urls: Vec<MemberUrl>,
    /// If there are any, the ones above serve gRPC alone.
    pub listen_client_http_urls: Vec<MemberUrl>,
    /// Probes of health.
    pub listen_metrics_urls: Vec<MemberUrl>,
    pub listen_peer_urls: Vec<MemberUrl>,
    pub advertise_client_urls: Vec<MemberUrl>,
    pub advertise_peer_urls: Vec<MemberUrl>,
    /// Other processes may listen on the same ports.
    pub socket_reuse_port: bool,

    /// As given; [`Config::bootstrap`] reads it.
    pub initial_cluster: String,
    pub initial_cluster_token: String,
    pub initial_cluster_state: ClusterState,
    /// Where first members find each other, in the place of `initial_cluster`.
    pub discovery: Option<Discovery>,
    /// The same, by DNS.
    pub discovery_srv: Option<SrvDomain>,
    /// Start what is there as a cluster of one: the others are lost for good.
    pub force_new_cluster: bool,

    /// 100 ms: well above a round trip within a site. One tick of raft.
    pub heartbeat_interval_ms: u64,
    /// 1000 ms: ten heartbeats, so that a few lost ones do not start an election. At least five
    /// heartbeats, at most 50,000 ms.
    pub election_timeout_ms: u64,
    /// On: a member that starts need not wait a whole election timeout to stand for election.
    pub initial_election_tick_advance: bool,
    /// On: a member that was cut off must not depose a leader when it returns.
    pub pre_vote: bool,

    /// 10,000 entries between cuts of the raft log: bounds its size and the time to replay it.
    pub snapshot_count: u64,
    /// 5,000 entries kept at a cut: what a follower misses in about a second of full load.
    pub snapshot_catchup_entries: u64,

    /// On: changes of members that could leave no quorum are refused.
    pub strict_reconfig_check: bool,
    /// One learner at a time: each costs the leader the sending of the log.
    pub max_learners: u32,

    /// All calls as JSON over HTTP.
    pub enable_grpc_gateway: bool,
    /// The pages of profiles, which are shown at log level debug too.
    pub enable_pprof: bool,
    /// Origins of web pages that may see answers; `None` for all.
    pub cors: Option<BTreeSet<String>>,
    /// Names by which plain-text requests may call this server; `None` for all.
    pub host_whitelist: Option<BTreeSet<String>>,

    /// 128 operations, or comparisons, in a transaction: it is applied in one go, and all wait.
    pub max_txn_ops: usize,
    /// 1.5 MiB for a write as it is replicated: larger ones would delay heartbeats.
    pub max_request_bytes: usize,
    /// Calls open at one time on one connection. All that HTTP/2 can name, as in etcd: a
    /// watcher is a stream, and clients have many.
    pub max_concurrent_streams: u32,
    /// Bytes, 512 MiB: a few lists of 100,000 keys at once, and much less than a server that holds as
    /// many has in use.
    pub range_memory_bytes: usize,
    /// Bytes, 2 GiB; negative for none.
    pub quota_backend_bytes: i64,
    /// 2 hours of silence on a connection before a ping: only the dead are to be found. `None`
    /// for never.
    pub grpc_keepalive_interval: Option<Duration>,
    /// 5 seconds: what a client with calls under way keeps between its pings, or it is sent away.
    pub grpc_keepalive_min_time: Duration,
    /// 20 seconds for the answer to a ping.
    pub grpc_keepalive_timeout: Duration,
    /// 10 minutes: only to let clients forget old revisions.
    pub watch_progress_notify_interval: Duration,
    /// 300 ms: calls that take longer are told of in the log.
    pub warning_unary_request_duration: Duration,
    /// None: revisions stay until somebody compacts.
    pub auto_compaction: Option<AutoCompaction>,

    /// As given; `server::token` reads it.
    pub auth_token: String,
    /// 5 minutes after its last use a simple token ends.
    pub auth_token_ttl: Duration,
    /// 10: some 50 ms for each password. From 4 to 31.
    pub bcrypt_cost: u32,

    pub data_checks: DataChecks,
    pub tls: TlsConfig,

    pub log_level: LogLevel,
    pub log_format: LogFormat,
    /// At least one.
    pub log_outputs: Vec<LogOutput>,
    /// For the one file among the outputs; `None` lets it grow.
    pub log_rotation: Option<LogRotation>,

    /// Keep the process's memory from being swapped out.
    pub memory_mlock: bool,
    pub insight: Insight,

    /// Do not wait for the disk. Confirmed writes are then lost when the machine stops.
    pub unsafe_no_fsync: bool,
}

/// When to compare this member's data with that of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataChecks {
    /// Off: a member that starts does not wait for others to tell the hash of their data.
    pub at_start: bool,
    /// Between two comparisons of all data; none by default, since each reads all of it.
    pub pause: Option<Duration>,
    /// The same for what compactions leave.
    pub compaction_pause: Option<Duration>,
}

/// What a member tells of its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insight {
    /// Off: the time that each call takes is no part of the metrics.
    pub extensive_metrics: bool,
    /// 100 ms: more than a busy disk takes. What takes longer to be applied or read is logged.
    pub warning_apply: Duration,
    /// etcd's feature gates: name, stage and whether it is on.
    pub gates: Vec<(&'static str, &'static str, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Rocksdb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    New,
    Existing,
}

impl Engine {
    /// As `--engine` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Rocksdb => "rocksdb",
        }
    }
}

/// Reads a command line, without the program's name, and the variables beside it.
pub fn read(
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, ConfigError> {
    read_as("quoin", args, environment)
}

/// Like [`read`], with the name that the program goes by for the pages that it prints.
pub fn read_as(
    program: &str,
    args: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Invocation, ConfigError> {
    let mut flags = match flags::Flags::from_args(args)? {
        flags::CommandLine::Help => return Ok(Invocation::Print(help::help(program))),
        flags::CommandLine::Version => return Ok(Invocation::Print(help::version())),
        flags::CommandLine::Start(flags) => flags,
    };
    let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
    if let Some(path) = flags.config_file(&environment) {
        let mut file = file::read(&path)?;
        let mut notices = file.notices(path);
        notices.extend(file.flags.add_own(flags, environment)?);
        let config = validate::config(&file.flags, &mut notices)?;
        return Ok(Invocation::Start(Box::new(config), notices));
    }
    let mut notices = flags.add_environment(environment)?;
    let config = validate::config(&flags, &mut notices)?;
    Ok(Invocation::Start(Box::new(config), notices))
}
