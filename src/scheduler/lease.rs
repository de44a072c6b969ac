//! A lease that a task of its own keeps alive. What it was prolonged to is counted from before the
//! store was asked, so that it never ends before this side thinks so.

use super::client::Client;
use etcd_client::Error;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// A lease of this process.
pub(super) struct Lease {
    id: i64,
    ends: watch::Receiver<Instant>,
    task: AbortHandle,
}

impl Lease {
    pub(super) async fn grant(client: &Client, ttl_s: i64) -> Result<Self, Error> {
        let asked = Instant::now();
        let id = client.grant(ttl_s).await?;
        let ttl = Duration::from_secs(ttl_s.unsigned_abs());
        let (sender, ends) = watch::channel(asked + ttl);
        let task = tokio::spawn(keep(client.clone(), id, ttl, sender)).abort_handle();
        Ok(Self { id, ends, task })
    }

    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// By then it may have ended.
    pub(super) fn ends(&mut self) -> Instant {
        *self.ends.borrow_and_update()
    }

    /// Done when it was prolonged.
    pub(super) async fn renewed(&mut self) {
        if self.ends.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Done when it may have ended.
    pub(super) async fn lost(&mut self) {
        loop {
            let ends = self.ends();
            tokio::select! {
                () = tokio::time::sleep_until(ends) => {
                    if self.ends() <= Instant::now() {
                        return;
                    }
                }
                () = self.renewed() => {}
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Asks for the lease to be prolonged every third of its time; streams that break are opened anew.
async fn keep(client: Client, id: i64, ttl: Duration, ends: watch::Sender<Instant>) {
    loop {
        // What went wrong shows in that the lease is not prolonged.
        let _broken = keep_by_stream(&client, id, ttl, &ends).await;
        sleep(ttl / 10).await;
    }
}

async fn keep_by_stream(
    client: &Client,
    id: i64,
    ttl: Duration,
    ends: &watch::Sender<Instant>,
) -> Result<(), Error> {
    let (mut keeper, mut answers) = client.keep_alive(id).await?;
    loop {
        let asked = Instant::now();
        keeper.keep_alive().await?;
        match timeout(ttl / 3, answers.message()).await {
            Ok(answer) => match answer? {
                Some(answer) if answer.ttl() > 0 => {
                    ends.send_replace(asked + ttl);
                }
                // It has ended, and nothing brings it back.
                _ => return Ok(()),
            },
            Err(_) => return Ok(()),
        }
        sleep((ttl / 3).saturating_sub(asked.elapsed())).await;
    }
}
