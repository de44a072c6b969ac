//! What a supervisor - systemd, or what speaks like it - is told of this process.
//!
//! That it serves, that it stops, and, if it wants to know, that it lives: for that the driver
//! must answer. Without a supervisor nothing is sent.

use crate::error::RequestError;
use crate::replica::Handle;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::watch;

/// Tells that clients are served.
pub(super) fn ready() {
    tracing::info!("notifying init daemon");
    match sd_notify::notify(&[NotifyState::Ready]) {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(error) => tracing::error!(%error, "failed to notify systemd for readiness"),
    }
}

/// Tells that a stop has begun.
pub(super) fn stopping() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Stopping]) {
        tracing::warn!(%error, "failed to notify systemd of the stop");
    }
}

/// Tells that this process lives, twice in each time after which it would be taken for dead, as long
/// as the driver answers.
pub(super) async fn keep_alive(handle: Handle, mut stop: watch::Receiver<bool>) {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ended = stop.wait_for(|stop| *stop) => return,
        }
        // A question that costs nothing. A full queue is a sign of life too.
        if matches!(handle.lease_keys(Some(0)).await, Err(RequestError::Timeout)) {
            continue;
        }
        if let Err(error) = sd_notify::notify(&[NotifyState::Watchdog]) {
            tracing::warn!(%error, "failed to notify systemd of being alive");
        }
    }
}
