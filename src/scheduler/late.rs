//! Results that came too late: kept for a day, for people who look.

use super::client::Client;
use super::store::{Op, Txn};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// They are kept for so long, give or take an hour: many share a lease.
const TTL_S: i64 = 24 * 3_600;
const LEASE_AGE_MAX: Duration = Duration::from_secs(3_600);

/// The lease of those that come now, with when it was granted.
#[derive(Debug, Default)]
pub(super) struct Late {
    granted: Mutex<Option<(Instant, i64)>>,
}

impl Late {
    /// Keeps one. Nothing depends on it: if it does not work it is not done.
    pub(super) async fn keep(&self, client: &Client, key: String, value: Vec<u8>) {
        let mut granted = self.granted.lock().await;
        let known = granted.filter(|(at, _)| at.elapsed() < LEASE_AGE_MAX);
        let id = match known {
            Some((_, id)) => id,
            None => {
                let at = Instant::now();
                let Ok(id) = client.grant(TTL_S).await else { return };
                *granted = Some((at, id));
                id
            }
        };
        drop(granted);
        let put = Op::Put { key, value, lease: id };
        let _kept = client.txn(&Txn { then: vec![put], ..Default::default() }).await;
    }
}
