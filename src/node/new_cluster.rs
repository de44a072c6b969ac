//! `--force-new-cluster`: what one member holds becomes a cluster of its own.
//!
//! For the day on which a majority is lost for good. All that stands in the member's log counts,
//! also what no majority had yet as far as it knows: a client may have been told that it was
//! written. Ids stay; all other members count as removed, so one that comes back after all is told
//! to go. Interrupted, it is done again at the next start with the flag.

use crate::config::Config;
use crate::error::Fatal;
use crate::machine::Machine;
use crate::pb::etcdserverpb::Member;
use crate::raft_log::LogStore;
use crate::raft_log::disk::DiskLog;
use crate::replica::replay;
use crate::storage::snapshot_file::SnapshotStore;
use crate::types::MemberId;

/// Bytes of a stored snapshot's blocks.
const BLOCK_LEN: usize = 1 << 20;

/// Makes the member the only one, durably, and bases its log on the result.
///
/// # Errors
/// When state or log cannot be read or written.
pub(super) fn force(
    config: &Config,
    id: MemberId,
    machine: &mut Machine,
    log: &mut DiskLog,
    snapshots: &SnapshotStore,
) -> Result<(), Fatal> {
    let before = machine.members().get(id).cloned();
    let commit = log.hard_state().commit;
    replay(log, machine)?;
    // Its own removal may be what stands last in the log.
    let own = machine.members().get(id).cloned().or(before).unwrap_or_else(|| Member {
        id: id.0,
        name: config.name.clone(),
        peer_ur_ls: config.advertise_peer_urls.iter().map(|url| url.to_string()).collect(),
        ..Member::default()
    });
    machine.become_sole_member(own)?;
    // Durable before the log that led here is dropped.
    if machine.engine().is_volatile() {
        let mut capture = machine.capture()?;
        let mut staging = snapshots.stage(capture.index, capture.term)?;
        while let Some(block) = capture.next_block(BLOCK_LEN)? {
            staging.write_block(&block)?;
        }
        staging.finish()?.publish()?;
    } else {
        machine.engine().flush()?;
    }
    let (index, term) = (machine.applied_index(), machine.applied_term());
    log.reset(index, term, &log.hard_state())?;
    tracing::info!(
        "local-member-id" = %id, "wal-commit-index" = commit, "commit-index" = index,
        "forcing restart member"
    );
    Ok(())
}
