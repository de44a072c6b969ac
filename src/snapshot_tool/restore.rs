//! `restore`: a member's data folder from a backup.
//!
//! Made under `restoring/` in the folder and moved to its place when all of it is durable, so that
//! a server never finds half of one.

use super::file::SnapshotFile;
use super::{RestoreArgs, SnapshotError, only};
use crate::backup::{Imported, import};
use crate::bolt::Database;
use crate::config::{self, Bootstrap, Config, Engine as EngineKind, InitialMember, Invocation};
use crate::error::Fatal;
use crate::logging;
use crate::machine::{FOUNDED_AT, Machine};
use crate::node::{Folder, Founder, Identity};
use crate::pb::etcdserverpb::Member;
use crate::raft_log::LogStore as _;
use crate::raft_log::disk::{DiskLog, DiskLogOptions};
use crate::storage::Engine;
use crate::storage::memory::MemoryEngine;
use crate::storage::snapshot_file::SnapshotStore;
use raft::eraftpb::HardState;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::filter::LevelFilter;

/// Bytes of a block of a stored snapshot.
const BLOCK_LEN: usize = 1 << 20;
const STAGING: &str = "restoring";

pub(super) fn run(args: &RestoreArgs) -> Result<(), SnapshotError> {
    let filename = only(&args.filename, "restore")?;
    if args.mark_compacted != (args.bump_revision > 0) {
        return Err(SnapshotError::usage("--mark-compacted required if --revision-bump > 0"));
    }
    let identity = identity(args)?;
    let data_dir =
        args.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", args.name)));
    check_folders(&data_dir, args.wal_dir.as_deref())?;
    let file = SnapshotFile::open(filename)?;
    if !args.skip_hash_check {
        file.check_hash()?;
    }
    let database = Database::open(&file)?;
    database.check()?;
    // A logger that is there already serves as well.
    let _installed = logging::install(
        LevelFilter::INFO,
        true,
        logging::Format::Json,
        vec![Box::new(io::stderr()) as logging::Sink],
    );
    logging::end_on_panic();
    let (path, folder) = (filename.display().to_string(), data_dir.display().to_string());
    tracing::info!(path, "data-dir" = folder, "restoring snapshot");
    let staging = data_dir.join(STAGING);
    let existed = data_dir.exists();
    let imported = stage(args, &database, &identity, &staging).and_then(|imported| {
        publish(&staging, &data_dir)
            .map_err(|e| Fatal::with(format!("move {}", staging.display()), e))?;
        Ok(imported)
    });
    let imported = imported.inspect_err(|_| {
        // Nothing of a failed attempt is worth keeping, or stands in the way of the next.
        let _absent = fs::remove_dir_all(&staging);
        let _absent = args.wal_dir.as_ref().map(fs::remove_dir_all);
        let _kept = if existed { Ok(()) } else { fs::remove_dir(&data_dir) };
    })?;
    let Imported { revision, versions, leases, compacted } = imported;
    let compacted = compacted.unwrap_or(-1);
    tracing::info!(
        path,
        "data-dir" = folder,
        engine = identity.engine,
        revision,
        "compact-revision" = compacted,
        versions,
        leases,
        "restored snapshot"
    );
    Ok(())
}

/// Who the member will be, by the flags, which are checked as the server checks them.
fn identity(args: &RestoreArgs) -> Result<Identity, SnapshotError> {
    let names = args.initial_cluster.split(',').filter_map(|member| member.split_once('='));
    if !names.into_iter().any(|(name, _)| name.trim() == args.name) {
        // Said here, for the server would give the default cluster this member's name.
        let name = &args.name;
        return Err(SnapshotError::new(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        )));
    }
    let mut flags = vec![
        format!("--name={}", args.name),
        format!("--initial-cluster={}", args.initial_cluster),
        format!("--initial-cluster-token={}", args.initial_cluster_token),
        format!("--initial-advertise-peer-urls={}", args.initial_advertise_peer_urls),
    ];
    flags.extend(args.engine.as_ref().map(|engine| format!("--engine={engine}")));
    let refused = |error: config::ConfigError| SnapshotError::new(error.message);
    let invocation = config::read(flags.into_iter().map(OsString::from), []).map_err(refused)?;
    let Invocation::Start(config, _) = invocation else {
        return Err(SnapshotError::usage("the flags ask for a page of help"));
    };
    let config: Config = *config;
    let Bootstrap::Found { cluster_id, own_id, members } = config.bootstrap().map_err(refused)?
    else {
        return Err(SnapshotError::usage("a backup begins a new cluster"));
    };
    if config.engine == EngineKind::Rocksdb && !cfg!(feature = "rocksdb") {
        return Err(SnapshotError::new(
            "this binary was built without rocksdb; use --engine memory",
        ));
    }
    let founders = members
        .into_iter()
        .map(|InitialMember { id, name, peer_urls }| Founder {
            id: id.to_string(),
            name,
            peer_urls: peer_urls.iter().map(|url| url.as_str().to_owned()).collect(),
        })
        .collect();
    Ok(Identity::new(cluster_id, own_id, &config.name, config.engine.name(), founders))
}

/// Refuses to write over anything but what an earlier attempt has left.
fn check_folders(data_dir: &Path, wal_dir: Option<&Path>) -> Result<(), SnapshotError> {
    let failed = |e: io::Error| SnapshotError::new(format!("read {}: {e}", data_dir.display()));
    let staging = data_dir.join(STAGING);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(failed)?;
    }
    if data_dir.exists() && fs::read_dir(data_dir).map_err(failed)?.next().is_some() {
        let name = data_dir.display().to_string();
        return Err(SnapshotError::new(format!(
            "data-dir {name:?} not empty or could not be read"
        )));
    }
    match wal_dir.filter(|folder| folder.exists()) {
        Some(folder) => {
            let name = folder.display().to_string();
            Err(SnapshotError::new(format!("wal-dir {name:?} exists")))
        }
        None => Ok(()),
    }
}

/// Makes the member's folder in `staging`.
fn stage(
    args: &RestoreArgs,
    database: &Database<'_>,
    identity: &Identity,
    staging: &Path,
) -> Result<Imported, Fatal> {
    let (Some(member), Some(cluster)) = (identity.member_id(), identity.cluster_id()) else {
        return Err(Fatal::new("restore snapshot: the member has no id"));
    };
    let folder = Folder::open(staging, args.wal_dir.as_deref())?;
    folder.begin_first_start()?;
    let members = identity.founders();
    let bump = Some(args.bump_revision).filter(|bump| *bump > 0);
    let imported = match identity.engine.as_str() {
        "memory" => into_memory(database, &members, bump, &folder)?,
        _ => into_rocksdb(database, &members, bump, &folder)?,
    };
    let (index, term) = FOUNDED_AT;
    let mut hard_state = HardState::default();
    (hard_state.term, hard_state.commit) = (term, index);
    let options = DiskLogOptions::new(folder.wal().to_owned(), cluster, member);
    DiskLog::open(options)?.reset(index, term, &hard_state)?;
    folder.write_identity(identity)?;
    Ok(imported)
}

/// The memory engine's durable state is a stored snapshot.
fn into_memory(
    database: &Database<'_>,
    members: &[Member],
    bump: Option<u64>,
    folder: &Folder,
) -> Result<Imported, Fatal> {
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    let imported = import(database, &*engine, members, bump)?;
    let mut capture = Machine::open(engine)?.capture()?;
    let store = SnapshotStore::open(folder.snapshots())?;
    let mut staging = store.stage(capture.index, capture.term)?;
    while let Some(block) = capture.next_block(BLOCK_LEN)? {
        staging.write_block(&block)?;
    }
    staging.finish()?.publish()?;
    Ok(imported)
}

#[cfg(feature = "rocksdb")]
fn into_rocksdb(
    database: &Database<'_>,
    members: &[Member],
    bump: Option<u64>,
    folder: &Folder,
) -> Result<Imported, Fatal> {
    use crate::storage::rocks::{RocksEngine, RocksOptions};
    let engine: Arc<dyn Engine> =
        Arc::new(RocksEngine::open(&folder.database(), RocksOptions::default())?);
    let imported = import(database, &*engine, members, bump)?;
    // What it reads is what a server will read.
    Machine::open(engine)?;
    Ok(imported)
}

#[cfg(not(feature = "rocksdb"))]
fn into_rocksdb(
    _: &Database<'_>,
    _: &[Member],
    _: Option<u64>,
    _: &Folder,
) -> Result<Imported, Fatal> {
    Err(Fatal::new("this binary was built without rocksdb; use --engine memory"))
}

/// Moves the finished member to its place.
fn publish(staging: &Path, data_dir: &Path) -> io::Result<()> {
    fs::rename(staging.join("member"), data_dir.join("member"))?;
    fs::remove_dir(staging)?;
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(data_dir, fs::Permissions::from_mode(0o700))?;
    File::open(data_dir)?.sync_all()
}
