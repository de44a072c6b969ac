//! A lease that a task or thread of its own keeps alive. What it was prolonged to is counted from before
//! the store was asked, so that it never ends before this side thinks so.

use super::client::{Access, Client};
use etcd_client::Error;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// A lease of this process. It is kept alive until this is dropped.
pub(super) struct Lease {
    id: i64,
    ends: watch::Receiver<Instant>,
    _kept: oneshot::Sender<()>,
}

impl Lease {
    pub(super) async fn grant(client: &Client, ttl_s: i64) -> Result<Self, Error> {
        let (kept, dropped) = oneshot::channel();
        let (id, ends, keep) = granted(client.clone(), ttl_s).await?;
        tokio::spawn(until(dropped, keep));
        Ok(Self { id, ends, _kept: kept })
    }

    /// One that a thread keeps alive with a connection of its own, however long this one computes.
    pub(super) async fn grant_apart(access: &Access, ttl_s: i64) -> Result<Self, Error> {
        let (kept, dropped) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let access = access.clone();
        std::thread::Builder::new().name("lease".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(tell.send(Err(Error::IoError(error)))),
            };
            runtime.block_on(async {
                let granted = async { granted(Client::connect(&access).await?, ttl_s).await };
                match granted.await {
                    Ok((id, ends, keep)) => {
                        if tell.send(Ok((id, ends))).is_ok() {
                            until(dropped, keep).await;
                        }
                    }
                    // Nobody waits for it.
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        })?;
        let ended = |_| Error::LeaseKeepAliveError("its thread has ended".into());
        let (id, ends) = told.await.map_err(ended)??;
        Ok(Self { id, ends, _kept: kept })
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

/// Grants a lease: its id, up to when it surely lasts, and what keeps it alive.
async fn granted(
    client: Client,
    ttl_s: i64,
) -> Result<(i64, watch::Receiver<Instant>, impl Future<Output = ()>), Error> {
    let asked = Instant::now();
    let id = client.grant(ttl_s).await?;
    let ttl = Duration::from_secs(ttl_s.unsigned_abs());
    if asked.elapsed() > ttl / 2 {
        // What is begun with it would soon be stopped, and its name be taken until it ends.
        client.revoke(id).await?;
        return Err(Error::LeaseKeepAliveError("the store was slow to grant it".into()));
    }
    let (sender, ends) = watch::channel(asked + ttl);
    Ok((id, ends, keep(client, id, ttl, sender)))
}

async fn until(dropped: oneshot::Receiver<()>, keep: impl Future<Output = ()>) {
    tokio::select! {
        () = keep => {}
        _ = dropped => {}
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
