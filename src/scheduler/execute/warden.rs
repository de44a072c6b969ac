//! What outlives a worker that is killed: nothing. A process beside it has a list of the groups of its
//! commands, and kills them when the worker is gone, however it went.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};

/// The word by which this program knows that it shall be a warden.
pub const WARDEN: &str = "worker-warden";

/// The process as its worker sees it.
pub(super) struct Warden {
    program: Option<PathBuf>,
    list: Mutex<List>,
}

enum List {
    NotStarted,
    Open(ChildStdin),
    /// It cannot be had; that has been told.
    Broken,
}

/// A group that is on the list as long as this is there.
pub(super) struct Watched<'w> {
    warden: &'w Warden,
    group: Option<Pid>,
}

impl Warden {
    /// `program` knows `WARDEN`; without one nobody watches.
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        Self { program, list: Mutex::new(List::NotStarted) }
    }

    pub(super) fn watch(&self, group: Option<Pid>) -> Watched<'_> {
        self.tell('+', group);
        Watched { warden: self, group }
    }

    fn tell(&self, sign: char, group: Option<Pid>) {
        let (Some(program), Some(group)) = (&self.program, group) else { return };
        let mut list = self.list.lock();
        if let List::NotStarted = *list {
            *list = start(program.as_os_str());
        }
        if let List::Open(pipe) = &mut *list
            && let Err(error) = writeln!(pipe, "{sign}{}", group.as_raw_nonzero())
        {
            tracing::warn!(%error, "commands will outlive this worker if it is killed");
            *list = List::Broken;
        }
    }
}

/// Starts it in a group of its own, so that what ends the worker from its terminal does not end it.
fn start(program: &OsStr) -> List {
    let mut command = Command::new(program);
    command.arg(WARDEN).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.process_group(0).spawn().map(|child| child.stdin) {
        Ok(Some(pipe)) => List::Open(pipe),
        Ok(None) => List::Broken,
        Err(error) => {
            tracing::warn!(%error, "commands will outlive this worker if it is killed");
            List::Broken
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.warden.tell('-', self.group);
    }
}

/// Serves as a warden: reads the list from standard input, and kills what is on it at its end.
pub fn ward() {
    let mut groups = HashSet::new();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let number = line.get(1..).and_then(|number| number.parse().ok()).and_then(Pid::from_raw);
        match (line.chars().next(), number) {
            (Some('+'), Some(group)) => groups.insert(group),
            (Some('-'), Some(group)) => groups.remove(&group),
            _ => false,
        };
    }
    for group in groups {
        // It may have ended by itself.
        let _ = kill_process_group(group, Signal::KILL);
    }
}
