//! What outlives a worker that is killed or stopped: nothing. A process beside it has a list of the
//! groups of its commands, and kills them when the worker is gone, however it went, or has not said in
//! time that its lease goes on.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use tokio::time::Instant;

/// The word by which this program knows that it shall be a warden.
pub const WARDEN: &str = "worker-warden";

/// The process as its worker sees it.
pub(super) struct Warden {
    program: Option<PathBuf>,
    list: Mutex<List>,
}

struct List {
    pipe: Pipe,
    /// On the clock that both have.
    until: Option<Duration>,
}

enum Pipe {
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
        Self { program, list: Mutex::new(List { pipe: Pipe::NotStarted, until: None }) }
    }

    pub(super) fn watch(&self, group: Option<Pid>) -> Watched<'_> {
        self.tell('+', group);
        Watched { warden: self, group }
    }

    /// Commands may run until then, unless another time is said before.
    pub(super) fn allow_until(&self, moment: Instant) {
        let until = clock() + moment.saturating_duration_since(Instant::now());
        let mut list = self.list.lock();
        list.until = Some(until);
        if let Pipe::Open(_) = list.pipe {
            list.write(&until_line(until));
        }
    }

    fn tell(&self, sign: char, group: Option<Pid>) {
        let (Some(program), Some(group)) = (&self.program, group) else { return };
        let mut list = self.list.lock();
        if let Pipe::NotStarted = list.pipe {
            list.pipe = start(program.as_os_str());
            if let Some(until) = list.until {
                list.write(&until_line(until));
            }
        }
        list.write(&format!("{sign}{}", group.as_raw_nonzero()));
    }
}

impl List {
    fn write(&mut self, line: &str) {
        if let Pipe::Open(pipe) = &mut self.pipe
            && let Err(error) = writeln!(pipe, "{line}")
        {
            tracing::warn!(%error, "commands will outlive this worker if it is killed");
            self.pipe = Pipe::Broken;
        }
    }
}

fn until_line(until: Duration) -> String {
    format!("={}", until.as_millis())
}

/// The time that both processes have; it goes on while either is stopped.
fn clock() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Starts it in a group of its own, so that what ends the worker from its terminal does not end it.
fn start(program: &OsStr) -> Pipe {
    let mut command = Command::new(program);
    command.arg(WARDEN).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.process_group(0).spawn().map(|child| child.stdin) {
        Ok(Some(pipe)) => Pipe::Open(pipe),
        Ok(None) => Pipe::Broken,
        Err(error) => {
            tracing::warn!(%error, "commands will outlive this worker if it is killed");
            Pipe::Broken
        }
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.warden.tell('-', self.group);
    }
}

/// What a warden knows.
#[derive(Default)]
struct Ward {
    groups: HashSet<Pid>,
    until: Option<Duration>,
}

impl Ward {
    fn heed(&mut self, line: &str) {
        let Some((sign, number)) = line.split_at_checked(1) else { return };
        let group = number.parse().ok().and_then(Pid::from_raw);
        match (sign, group) {
            ("=", _) => self.until = number.parse().ok().map(Duration::from_millis),
            ("+", Some(group)) => _ = self.groups.insert(group),
            ("-", Some(group)) => _ = self.groups.remove(&group),
            _ => {}
        }
    }

    /// Until there is something to kill, if nothing is heard.
    fn patience(&self) -> Option<Duration> {
        let until = self.until.filter(|_| !self.groups.is_empty())?;
        Some(until.saturating_sub(clock()))
    }

    fn kill(&mut self) {
        for group in self.groups.drain() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Serves as a warden: reads the list from standard input, and kills what is on it at its end, or when
/// the time is over for which commands may run.
pub fn ward() {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        // The other end has gone when the warden ends.
        io::stdin().lock().lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let mut ward = Ward::default();
    loop {
        let heard = match ward.patience() {
            Some(patience) => lines.recv_timeout(patience),
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match heard {
            Ok(line) => ward.heed(&line),
            Err(RecvTimeoutError::Timeout) => ward.kill(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    ward.kill();
}
