//! What a member starts from: who it is, and state and log that agree.
//!
//! A folder that was used before knows; a fresh one is told by the flags, and asks the other
//! members, since an identity that has lived before must not live again.

use super::folder::{Folder, Founder, Identity};
use super::measured::Measured;
use super::{discovery, join, new_cluster, srv};
use crate::config::{Bootstrap, Config, Engine as EngineKind, InitialMember};
use crate::error::Fatal;
use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::pb::etcdserverpb::Member;
use crate::peer::ask_members;
use crate::raft_log::disk::{DiskLog, DiskLogOptions};
use crate::replica::{Stopwatch, complete_install};
use crate::storage::Engine;
use crate::storage::memory::MemoryEngine;
use crate::storage::snapshot_file::SnapshotStore;
use crate::tls::Dialer;
use crate::types::{ClusterId, MemberId};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Who this member is and who the others are.
pub(super) struct Place {
    pub(super) id: MemberId,
    pub(super) cluster: ClusterId,
    /// Whom to talk to until the state tells who is a member.
    pub(super) contacts: Vec<Member>,
    pub(super) founders: Vec<Member>,
}

pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) machine: Machine,
    pub(super) log: DiskLog,
    pub(super) metrics: Arc<Metrics>,
    /// Whether it was a member before this start.
    pub(super) is_restart: bool,
}

/// Opens engine, stored snapshot and log, and makes them agree.
pub(super) async fn open_state(
    config: &Config,
    folder: &Folder,
    snapshots: &Arc<SnapshotStore>,
    dialer: &Dialer,
) -> Result<Opened, Fatal> {
    let known = folder.identity()?;
    let identity = match &known {
        Some(identity) => identity.clone(),
        None => first_identity(config, folder, dialer).await?,
    };
    if identity.engine != config.engine.name() {
        return Err(Fatal::new(format!(
            "open data directory: its state is in the {} engine, not in {}; start with --engine {}",
            identity.engine,
            config.engine.name(),
            identity.engine
        )));
    }
    let metrics = Arc::new(Metrics::new(config.insight.extensive_metrics));
    let engine = open_engine(config, folder)?;
    let engine = Arc::new(Measured { engine, numbers: metrics.store.clone() });
    let mut machine = Machine::open(engine)?;
    machine.set_observer(Box::new(Stopwatch::new(&metrics, config.insight.warning_apply)));
    let mut newest = snapshots.newest()?;
    if let Some(reader) = newest.as_mut().filter(|s| s.index() > machine.applied_index()) {
        tracing::info!(
            "consistent-index" = machine.applied_index(),
            "snapshot-index" = reader.index(),
            "Recovering from snapshot backend"
        );
        machine.restore(&mut || reader.next_block())?;
    }
    if !machine.is_bootstrapped() {
        // Fresh, or the memory engine before its first stored snapshot: the log replays
        // everything onto the same beginning.
        machine.bootstrap(identity.founders())?;
        machine.engine().flush()?;
    }
    if known.is_some() && config.discovery.is_some() {
        tracing::warn!(
            "wal-dir" = %folder.wal().display(),
            "discovery token is ignored since cluster already initialized; valid logs are found"
        );
    }
    let mut place = place(config, &identity, &machine)?;
    if known.is_some() && !DiskLog::exists(folder.wal())? {
        return Err(Fatal::new(format!(
            "open data directory: its raft log is missing in {}",
            folder.wal().display()
        )));
    }
    let mut log = DiskLog::open(DiskLogOptions {
        unsafe_no_fsync: config.unsafe_no_fsync,
        numbers: metrics.log.clone(),
        ..DiskLogOptions::new(folder.wal().to_owned(), place.cluster, place.id)
    })?;
    let stored = newest.as_ref().map(|snapshot| (snapshot.index(), snapshot.term()));
    complete_install(&mut log, machine.applied_index(), stored)?;
    if known.is_some() && config.force_new_cluster {
        new_cluster::force(config, place.id, &mut machine, &mut log, snapshots)?;
        place.contacts = machine.members().all().values().cloned().collect();
    }
    if known.is_none() {
        folder.write_identity(&identity)?;
    }
    Ok(Opened { place, machine, log, metrics, is_restart: known.is_some() })
}

/// Who a member without a folder is to be, by the flags about the initial cluster.
async fn first_identity(
    config: &Config,
    folder: &Folder,
    dialer: &Dialer,
) -> Result<Identity, Fatal> {
    let bootstrap = match (&config.discovery, &config.discovery_srv) {
        (Some(registry), _) => discovery::join(config, registry).await?,
        (None, Some(of)) => {
            let found = srv::join(config, of).await?;
            if found.with_tls {
                // Else any certificate that the system trusts would do.
                dialer.name_servers(&of.domain);
            }
            found.bootstrap
        }
        (None, None) => config.bootstrap().map_err(|e| Fatal::new(e.message))?,
    };
    let (cluster_id, own_id, members) = match bootstrap {
        Bootstrap::Found { cluster_id, own_id, members } => (cluster_id, own_id, members),
        Bootstrap::Join { peer_urls } => {
            return join::identity(config, folder, &peer_urls, dialer).await;
        }
    };
    refuse_second_life(cluster_id, own_id, &members, dialer).await?;
    folder.begin_first_start()?;
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

/// A member whose folder was lost must not come back under its old id: it may have voted
/// and acknowledged entries that it no longer knows of.
async fn refuse_second_life(
    cluster: ClusterId,
    own: MemberId,
    members: &[InitialMember],
    dialer: &Dialer,
) -> Result<(), Fatal> {
    let urls = members.iter().filter(|member| member.id != own).flat_map(|m| &m.peer_urls);
    let mut questions = JoinSet::new();
    for url in urls {
        let (url, dialer) = (url.as_str().to_owned(), dialer.clone());
        questions.spawn(async move { ask_members(&dialer, &url).await });
    }
    while let Some(answer) = questions.join_next().await {
        // Who does not answer knows nothing: on a first start nobody does.
        let Ok(Ok(answer)) = answer else { continue };
        let mut members = answer.members.iter();
        let has_started = members.any(|m| m.id == own.0 && !m.client_ur_ls.is_empty());
        if has_started && answer.cluster_id == cluster.0 {
            return Err(Fatal::new(format!("member {own} has already been bootstrapped")));
        }
    }
    Ok(())
}

/// Whether the state tells of this member, be it that it was removed.
fn is_known(machine: &Machine, id: MemberId) -> bool {
    machine.members().get(id).is_some() || machine.members().is_removed(id)
}

/// The place that a folder remembers; flags about the initial cluster are ignored, unless
/// they show that this is another member's folder.
fn place(config: &Config, identity: &Identity, machine: &Machine) -> Result<Place, Fatal> {
    let (Some(id), Some(cluster)) = (identity.member_id(), identity.cluster_id()) else {
        return Err(Fatal::new("open data directory: its id.json holds no ids"));
    };
    let members = machine.members();
    // One that joins does not know anybody from its own state yet.
    let is_joining = identity.has_joined() && !is_known(machine, id);
    let contacts = match is_joining {
        true => identity.contacts(),
        false => members.all().values().cloned().collect(),
    };
    let others = || identity.founders().into_iter().filter(|member| member.id != id.0);
    if identity.name != config.name && others().any(|member| member.name == config.name) {
        return Err(Fatal::new(format!(
            "open data directory: it belongs to member \"{}\" ({id}), not to \"{}\"",
            identity.name, config.name
        )));
    }
    if !is_known(machine, id) && !identity.has_joined() {
        return Err(Fatal::new(format!(
            "open data directory: member {id} is not among the members of its own state"
        )));
    }
    Ok(Place { id, cluster, contacts, founders: identity.founders() })
}

#[cfg(feature = "rocksdb")]
fn open_engine(config: &Config, folder: &Folder) -> Result<Arc<dyn Engine>, Fatal> {
    Ok(match config.engine {
        EngineKind::Memory => Arc::new(MemoryEngine::new()),
        EngineKind::Rocksdb => Arc::new(crate::storage::rocks::RocksEngine::open(
            &folder.database(),
            crate::storage::rocks::RocksOptions::default(),
        )?),
    })
}

#[cfg(not(feature = "rocksdb"))]
fn open_engine(config: &Config, _: &Folder) -> Result<Arc<dyn Engine>, Fatal> {
    match config.engine {
        EngineKind::Memory => Ok(Arc::new(MemoryEngine::new())),
        EngineKind::Rocksdb => Err(Fatal::new(
            "open engine: this binary was built without rocksdb; use --engine memory",
        )),
    }
}
