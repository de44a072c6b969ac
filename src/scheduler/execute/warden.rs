//! What outlives a worker that is killed or stopped: nothing. A process beside it has a list of the
//! groups of its commands, and kills them when the worker is gone, however it went, or has not said in
//! time that its lease goes on.
//!
//! A command has a mark in its environment that is on the list before the command is there, so that one
//! which has just begun is found by it.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
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

/// The variable that holds the mark of an attempt.
pub(super) const MARK: &str = "TCSS_MARK";

/// How often it is looked for marked commands, and the pause between: one that was just being started has
/// its mark a moment later.
const LOOKS: u32 = 3;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The process as its worker sees it.
pub(super) struct Warden {
    program: Option<PathBuf>,
    /// Begins all marks of this worker.
    name: String,
    list: Mutex<List>,
}

struct List {
    pipe: Pipe,
    /// On the clock that both have.
    until: Option<Duration>,
    /// Attempts so far.
    count: u64,
}

enum Pipe {
    NotStarted,
    Open(ChildStdin),
    /// It cannot be had; that has been told.
    Broken,
}

/// An attempt that is on the list as long as this is there.
pub(super) struct Watched<'w> {
    warden: &'w Warden,
    /// For the environment of its command.
    pub(super) mark: String,
    group: Option<Pid>,
}

impl Watched<'_> {
    /// Its command is there.
    pub(super) fn began(&mut self, group: Option<Pid>) {
        self.group = group;
        self.tell_group('+');
    }

    fn tell_group(&self, sign: char) {
        if let Some(group) = self.group {
            self.warden.tell(&format!("{sign}{}", group.as_raw_nonzero()));
        }
    }
}

impl Warden {
    /// `program` knows `WARDEN`; without one nobody watches.
    pub(super) fn new(program: Option<PathBuf>) -> Self {
        let name = format!("{:016x}", rand::random::<u64>());
        let list = List { pipe: Pipe::NotStarted, until: None, count: 0 };
        Self { program, name, list: Mutex::new(list) }
    }

    /// To be called before the command is started.
    pub(super) fn watch(&self) -> Watched<'_> {
        let count = {
            let mut list = self.list.lock();
            list.count += 1;
            list.count
        };
        let mark = format!("{}-{count}", self.name);
        self.tell(&format!(">{mark}"));
        Watched { warden: self, mark, group: None }
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

    fn tell(&self, line: &str) {
        let Some(program) = &self.program else { return };
        let mut list = self.list.lock();
        if let Pipe::NotStarted = list.pipe {
            list.pipe = start(program.as_os_str());
            if let Some(until) = list.until {
                list.write(&until_line(until));
            }
        }
        list.write(line);
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
        self.tell_group('-');
        self.warden.tell(&format!("<{}", self.mark));
    }
}

/// What a warden knows.
#[derive(Default)]
struct Ward {
    marks: HashSet<String>,
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
            (">", _) => _ = self.marks.insert(number.to_owned()),
            ("<", _) => _ = self.marks.remove(number),
            _ => {}
        }
    }

    /// Until there is something to kill, if nothing is heard.
    fn patience(&self) -> Option<Duration> {
        let has_some = !self.marks.is_empty() || !self.groups.is_empty();
        let until = self.until.filter(|_| has_some)?;
        Some(until.saturating_sub(clock()))
    }

    fn kill(&mut self) {
        for group in self.groups.drain() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let looks = if self.marks.is_empty() { 0 } else { LOOKS };
        for _ in 0..looks {
            marked(&self.marks).for_each(|process| _ = kill_process(process, Signal::KILL));
            std::thread::sleep(LOOK_PAUSE);
        }
        self.marks.clear();
    }
}

/// Processes with one of these marks in the environment that they were started with, where the system
/// shows that.
fn marked(marks: &HashSet<String>) -> impl Iterator<Item = Pid> {
    let name = format!("{MARK}=");
    let has_mark = move |environment: &[u8]| {
        let mut variables = environment.split(|byte| *byte == 0);
        let mark = variables.find_map(|variable| variable.strip_prefix(name.as_bytes()));
        mark.and_then(|mark| std::str::from_utf8(mark).ok())
            .is_some_and(|mark| marks.contains(mark))
    };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let process = entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw)?;
        // One that has ended meanwhile, or is another user's, is none of ours.
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        has_mark(&environment).then_some(process)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    /// A command that its worker had no time to tell of, in a group that is not on the list.
    #[test]
    fn a_command_that_has_just_begun_is_found_by_its_mark() {
        let mark = format!("{:016x}-1", rand::random::<u64>());
        let begun = |mark: &str| Command::new("sleep").arg("1000").env(MARK, mark).spawn().unwrap();
        let (mut ours, mut other) = (begun(&mark), begun("other-1"));
        let mut ward = Ward::default();
        ward.heed(&format!(">{mark}"));
        ward.kill();
        assert_eq!(ours.wait().unwrap().signal(), Some(9));
        assert!(other.try_wait().unwrap().is_none(), "it is not ours");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn nothing_is_waited_for_while_nothing_runs() {
        let mut ward = Ward::default();
        ward.heed("=1");
        assert_eq!(ward.patience(), None);
        ward.heed(">a-1");
        assert_eq!(ward.patience(), Some(Duration::ZERO));
        ward.heed("<a-1");
        ward.heed("+99999999");
        assert_eq!(ward.patience(), Some(Duration::ZERO));
        ward.heed("-99999999");
        assert_eq!(ward.patience(), None);
        ward.heed("");
        ward.heed("nonsense");
        assert_eq!(ward.patience(), None);
    }
}
