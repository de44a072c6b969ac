//! The command line for people: `quoin kv`, `lease`, `member`, `user` and all the others.
//!
//! It speaks to any server of etcd's API. Words, flags, outputs and exit codes are etcdctl's, so
//! that scripts move by changing one name; help texts are our own. What etcdctl writes to its log
//! on standard error is not written here.
//!
//! Left out: `make-mirror` and `check`, which are programs of their own, and `options`, which
//! `--help` tells.

/// Appends formatted text to bytes, which cannot fail.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{
        let _infallible = write!($out, $($arg)*);
    }};
}

mod auth;
mod calls;
mod child;
mod client;
mod dial;
mod endpoint;
mod failure;
mod go;
mod json;
mod keys;
mod kv;
mod lease;
mod line;
mod look;
mod maintenance;
mod member;
mod options;
mod password;
mod role;
mod session;
mod show;
mod show_kv;
mod table;
mod txn;
mod user;
mod watch;

pub use crate::describe::os_words;
pub use crate::describe::size as size_text;
pub use failure::Failure;
pub use line::{complaint, help_instead, is_help, plain_switches, with_rules, word};
pub use options::Options;
pub use table::render as table_text;

use crate::pb::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use clap::Subcommand;
use client::Client;
use std::process::ExitCode;
use tonic::Streaming;

/// Words behind a command that etcdctl does not look at.
#[derive(Debug, clap::Args)]
pub struct Ignored {
    #[arg(hide = true)]
    ignored: Vec<std::ffi::OsString>,
}

/// What the command line can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Reads, writes and watches keys
    #[command(subcommand)]
    Kv(kv::KvAction),
    /// Makes, renews and ends leases
    #[command(subcommand)]
    Lease(lease::LeaseAction),
    /// Lists and changes the members of the cluster
    #[command(subcommand)]
    Member(member::MemberAction),
    /// Tells how single servers are
    Endpoint(endpoint::EndpointArgs),
    /// Lists alarms and takes them back
    #[command(subcommand)]
    Alarm(maintenance::AlarmAction),
    /// Forgets what was before a revision
    #[command(visible_alias = "compaction")]
    Compact(maintenance::CompactArgs),
    /// Gives unused disk space back
    Defrag(maintenance::DefragArgs),
    /// Lets another member lead
    MoveLeader(maintenance::MoveLeaderArgs),
    /// Prepares the cluster to go back to an earlier version
    #[command(subcommand)]
    Downgrade(maintenance::DowngradeAction),
    /// Turns authentication on and off
    #[command(subcommand)]
    Auth(auth::AuthAction),
    /// Manages users
    #[command(subcommand)]
    User(user::UserAction),
    /// Manages roles
    #[command(subcommand)]
    Role(role::RoleAction),
    /// Holds a lock, for a command or until interrupted
    Lock(session::LockArgs),
    /// Stands for an election, or watches one
    Elect(session::ElectArgs),
}

/// Carries an action out.
///
/// # Errors
/// With what is said on standard error, and the exit code.
pub async fn run(options: &Options, action: Action) -> Result<(), Failure> {
    match action {
        Action::Kv(action) => kv::run(options, action).await,
        Action::Lease(action) => lease::run(options, action).await,
        Action::Member(action) => member::run(options, action).await,
        Action::Endpoint(args) => endpoint::run(options, args).await,
        Action::Alarm(action) => maintenance::alarm(options, &action).await,
        Action::Compact(args) => maintenance::compact(options, &args).await,
        Action::Defrag(args) => maintenance::defrag(options, &args).await,
        Action::MoveLeader(args) => maintenance::move_leader(options, &args).await,
        Action::Downgrade(action) => maintenance::downgrade(options, &action).await,
        Action::Auth(action) => auth::run(options, action).await,
        Action::User(action) => user::run(options, action).await,
        Action::Role(action) => role::run(options, action).await,
        Action::Lock(args) => session::lock(options, &args).await,
        Action::Elect(args) => session::elect(options, &args).await,
    }
}

/// Says why something failed, unless that is said, and gives the exit code.
pub fn report(failure: &Failure) -> ExitCode {
    let text = failure.to_string();
    if !text.is_empty() {
        look::warn(&format!("Error: {text}"));
    }
    ExitCode::from(failure.code())
}

/// Asks the server of `--endpoints` for a backup.
///
/// # Errors
/// When it cannot be reached, or refuses.
pub async fn backup(options: &Options) -> Result<Streaming<SnapshotResponse>, Failure> {
    let client = Client::endless(options).await?;
    client.reach().await.map_err(|why| Failure::new(failure::ERROR, why))?;
    Ok(client.listen(&calls::SNAPSHOT, SnapshotRequest {}).await?)
}
