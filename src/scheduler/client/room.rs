//! How much room the store has left.

use super::{CALL_TIMEOUT, Client};
use tokio::time::timeout;

/// Bytes that a store has in use, and how many it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub used: u64,
    pub quota: u64,
}

impl Client {
    /// Whether the member that is asked says that its store takes nothing more. If it does not answer it
    /// says nothing.
    pub async fn is_full(&self) -> bool {
        let mut client = self.inner.maintenance_client();
        let Ok(Ok(status)) = timeout(CALL_TIMEOUT, client.status()).await else { return false };
        status.errors().iter().any(|error| error.contains("NOSPACE"))
    }

    /// As the member that is asked has it. Nothing where it does not say: stores before etcd 3.6 do not, nor
    /// does one without a quota.
    pub async fn room(&self) -> Option<Room> {
        let mut client = self.inner.maintenance_client();
        let status = timeout(CALL_TIMEOUT, client.status()).await.ok()?.ok()?;
        let quota = u64::try_from(status.db_size_quota()).ok().filter(|quota| *quota > 0)?;
        // The crate's name for `db_size_in_use`.
        Some(Room { used: u64::try_from(status.raft_used_db_size()).ok()?, quota })
    }
}
