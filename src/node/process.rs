//! What a node asks of the operating system about its own process: signals, and memory that stays.

use super::start::Exit;
use crate::error::Fatal;

/// Keeps this process's memory from being swapped out, page by page as it comes into use.
pub(super) fn lock_memory() -> Result<(), Fatal> {
    use rustix::mm::{MlockAllFlags, mlockall};
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|e| Fatal::with("lock memory, as --memory-mlock asks for", e))
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn install() -> Result<Self, Fatal> {
        use tokio::signal::unix::{SignalKind, signal};
        let install = |kind| signal(kind).map_err(|e| Fatal::with("install signal handler", e));
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) -> Exit {
        let kind = tokio::select! {
            _ = self.terminate.recv() => tokio::signal::unix::SignalKind::terminate(),
            _ = self.interrupt.recv() => tokio::signal::unix::SignalKind::interrupt(),
        };
        Exit::Signal(kind.as_raw_value())
    }
}
