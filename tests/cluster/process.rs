//! A child process with its output in a file.

use super::eventually;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Exit {
        match status.code() {
            Some(code) => Exit::Code(code),
            None => Exit::Signal(status.signal().unwrap_or(0)),
        }
    }
}

/// Killed at drop.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// Where this run's part of the log starts.
    from: u64,
    paused: bool,
}

impl Process {
    /// Starts a program with both outputs appended to `log`.
    ///
    /// etcd reads its environment; that of whoever runs the tests must not count.
    pub fn start<S: AsRef<OsStr>>(
        command: &[S],
        variables: &[(&str, &str)],
        log: &Path,
    ) -> Process {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("open a log");
        let from = file.metadata().expect("size of the log").len();
        // The kernel kills it if the tests themselves are killed, or whoever runs them.
        let mut start = match ends_with_us() {
            true => {
                let mut start = Command::new("setpriv");
                start.args(["--pdeathsig", "KILL", "--"]).arg(&command[0]);
                start
            }
            false => Command::new(&command[0]),
        };
        start.args(&command[1..]).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
            start.env_remove(name);
        }
        start.envs(variables.iter().copied());
        start.stdout(file.try_clone().expect("share the log")).stderr(file);
        let child = start.spawn().unwrap_or_else(|e| {
            panic!("start {}: {e}", command[0].as_ref().to_string_lossy());
        });
        Process { child, log: log.to_owned(), from, paused: false }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.from as usize..).unwrap_or_default()).into_owned()
    }

    pub fn has_ended(&mut self) -> Option<Exit> {
        self.child.try_wait().expect("look at a child").map(Exit::from)
    }

    pub async fn end(&mut self) -> Exit {
        eventually("end of the process", async || {
            self.has_ended().ok_or_else(|| tail(&self.output()))
        })
        .await
    }

    /// Waits until `text` stands in the output; an error with the output's end if the process
    /// ends first or the deadline passes.
    pub async fn says(&mut self, text: &str) -> Result<(), String> {
        eventually(&format!("{text:?} in {}", self.log.display()), async || {
            let ended = self.has_ended();
            let output = self.output();
            match ended {
                _ if output.contains(text) => Ok(Ok(())),
                Some(exit) => Ok(Err(format!("ended with {exit:?}: {}", tail(&output)))),
                None => Err(tail(&output)),
            }
        })
        .await
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("signal a child");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("kill a child");
        self.child.wait().expect("wait for a child");
    }

    pub fn ask_to_stop(&self) {
        self.signal(Signal::TERM);
    }

    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself: nothing is left to do then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether there is a tool to tie a child's life to that of the thread that starts it: a
/// test's own thread, which waits for its children.
fn ends_with_us() -> bool {
    static FOUND: LazyLock<bool> =
        LazyLock::new(|| Command::new("setpriv").arg("--version").output().is_ok());
    *FOUND
}

/// The end of a log, for a message.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let from = lines.len().saturating_sub(12);
    format!("its last lines:\n{}", lines[from..].join("\n"))
}
