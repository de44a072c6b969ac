//! What a node asks of the operating system about its own process: signals, memory that stays, and
//! as many open files as it may have.

use super::start::Exit;
use crate::error::Fatal;

/// Keeps this process's memory from being swapped out, page by page as it comes into use.
pub(super) fn lock_memory() -> Result<(), Fatal> {
    use rustix::mm::{MlockAllFlags, mlockall};
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
        .map_err(|e| Fatal::with("lock memory, as --memory-mlock asks for", e))
}

/// Takes all open files that the process may have: each connection is one. The lower limit that
/// shells and supervisors set is for programs that cannot count beyond 1024, and etcd raises it too.
pub(super) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
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
