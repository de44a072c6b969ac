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
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::ctl::{Failure, Options};
use clap::{ArgAction, Args, Subcommand};

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
    /// The file to write; --endpoints names the member to ask, just one
    filename: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The backup
    filename: Vec<PathBuf>,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The backup
    filename: Vec<PathBuf>,
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

    /// What was asked for is none of the forms of output.
    fn form(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: 4 }
    }

    /// Whatever keeps a backup from being saved has one exit code, as with etcdctl.
    fn of_save(self) -> Self {
        Self { code: 5, ..self }
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for SnapshotError {}

impl From<Failure> for SnapshotError {
    fn from(failure: Failure) -> Self {
        Self { text: failure.to_string(), code: failure.code() }
    }
}

impl From<crate::error::Fatal> for SnapshotError {
    fn from(fatal: crate::error::Fatal) -> Self {
        Self::new(fatal.to_string())
    }
}

/// The file that a command is about.
fn only<'a>(files: &'a [PathBuf], command: &str) -> Result<&'a Path, SnapshotError> {
    match files {
        [file] => Ok(file),
        _ => Err(SnapshotError::usage(format!("snapshot {command} requires exactly one argument"))),
    }
}

/// Carries the command out; says on standard error why it failed.
pub async fn run(args: SnapshotArgs, options: &Options) -> ExitCode {
    let result = match args.kind {
        Kind::Save(args) => save::run(args, options).await,
        Kind::Status(args) => output::run(&args, &options.write_out),
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
