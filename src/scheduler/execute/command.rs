//! Cases of kind command: a program with arguments, run in a process group of its own.
//!
//! There is no shell unless the case names one. The program gets the worker's environment without
//! what is the store's and the service manager's in it, since passwords and sockets travel there.
//! Nothing of the group outlives the attempt; a process that leaves the group on purpose does, and
//! can hold neither the attempt nor its output up.

use super::complaint::complaint;
use super::fill::fill;
use super::output::Capture;
use super::report::Report;
use super::verdict::compare_code;
use super::warden::MARK;
use super::{Attempt, Executor};
use crate::scheduler::model::{OutputMatch, Status, TestCase};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsStr;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep_until, timeout};

/// A killed process that is still there then hangs in the system itself.
const KILL_WAIT: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 16 << 10;
/// Begins of variables that are not handed on.
const KEPT_BACK: [&str; 5] = ["ETCD", "QUOIN_", "NOTIFY_SOCKET", "LISTEN_", "WATCHDOG_"];

impl Executor {
    /// Runs the case's program, and judges how it ends and what it puts out.
    pub(super) async fn command(
        &self,
        attempt: &Attempt<'_>,
        cancel: impl Future<Output = ()>,
    ) -> Report {
        let ((mut command, input), expected) = match (prepare(attempt), attempt.expected()) {
            (Ok(prepared), Ok(expected)) => (prepared, expected),
            (Err(message), _) | (_, Err(message)) => return Report::error(message),
        };
        if let Some(folder) = &attempt.case.folder
            && let Err(error) = tokio::fs::read_dir(folder).await
        {
            return Report::error(format!("folder {folder}: {error}"));
        }
        let mut watched = self.warden.watch();
        command.env(MARK, &watched.mark);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                return Report::error(format!("start {}: {error}", attempt.case.command[0]));
            }
        };
        let mut group = Group::of(&child);
        watched.began(group.0);
        let (mut output, mut stderr) = (self.capture(), self.capture());
        let feed = feed(child.stdin.take(), input);
        let (from_output, from_stderr) = (child.stdout.take(), child.stderr.take());
        let (end, has_leaked) = {
            let read = async {
                tokio::join!(drain(from_output, &mut output), drain(from_stderr, &mut stderr));
            };
            let end = supervise(&mut child, &group, attempt.deadline, cancel, self.settings.grace);
            let (mut read, mut feed, mut end) = (pin!(read), pin!(feed), pin!(end));
            let (mut is_read, mut is_fed) = (false, false);
            let end = loop {
                tokio::select! {
                    end = &mut end => break end,
                    () = &mut read, if !is_read => is_read = true,
                    () = &mut feed, if !is_fed => is_fed = true,
                }
            };
            // Somebody else holds the output open: a moment to end by itself, or what is written
            // through a pipeline would be lost.
            let has_leaked =
                !is_read && timeout(self.settings.leak_grace, &mut read).await.is_err();
            group.kill();
            if has_leaked {
                let _ = timeout(self.settings.leak_grace, &mut read).await;
            }
            (end, has_leaked)
        };
        group.0 = None;
        let mut report = Report { has_leaked, ..Report::new(Status::Failed) };
        (report.output, report.stderr) = (output.finish().await, stderr.finish().await);
        match end {
            Ok(end) => self.judge_end(attempt, expected.as_deref(), end, report).await,
            Err(error) => {
                report.status = Status::Error;
                report.message = Some(format!("wait for the command: {error}"));
                report
            }
        }
    }

    async fn judge_end(
        &self,
        attempt: &Attempt<'_>,
        expected: Option<&str>,
        end: End,
        mut report: Report,
    ) -> Report {
        let case = attempt.case;
        report.code = end.exit.code().map(|code| ("exit", code));
        report.signal = end.exit.signal().map(signal_name);
        if let Some(status) = end.stopped {
            let message = Report::timed_out(attempt).message;
            report.status = status;
            report.message = message.filter(|_| status == Status::TimedOut);
            return report;
        }
        match end.exit.code() {
            Some(code) if case.matching() == OutputMatch::Status => {
                let verdict = compare_code(expected, code, code == 0);
                report.decide(verdict);
            }
            Some(0) => {
                let bytes_max = self.settings.compared_bytes_max;
                report.judge(case.matching(), expected, &self.artifacts, bytes_max).await;
            }
            Some(code) => {
                let said = complaint(&report.stderr, &report.output);
                let said = said.map_or_else(String::new, |said| format!(": {said}"));
                report.message = Some(format!("exit code {code}{said}"));
            }
            None => {
                let signal = report.signal.as_deref().unwrap_or("a signal");
                report.message = Some(format!("killed by {signal}"));
            }
        }
        // What is just as it should be needs no word.
        if report.status == Status::Passed {
            report.code = report.code.filter(|(_, code)| *code != 0);
            if case.matching() == OutputMatch::Exact {
                report.output = Default::default();
            }
        }
        report
    }
}

/// The command and its standard input.
fn prepare(attempt: &Attempt<'_>) -> Result<(Command, Option<String>), String> {
    let TestCase { command, variables, input, folder, .. } = attempt.case;
    let fill = |text| fill(text, attempt.environment);
    let mut words = command.iter().map(|word| fill(word));
    let program = words.next().ok_or("there is no command")??;
    let mut prepared = Command::new(&*program);
    for argument in words {
        prepared.arg(&*argument?);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_kept_back(name)) {
        prepared.env_remove(name);
    }
    for (name, value) in variables {
        prepared.env(name, &*fill(value)?);
    }
    prepared
        .env("TCSS_RUN", attempt.run)
        .env("TCSS_TASK", attempt.task())
        .env("TCSS_ATTEMPT", attempt.attempt.to_string())
        .env("TCSS_FENCE", attempt.fence.to_string())
        .env("TCSS_DEADLINE", attempt.deadline_ms().to_string());
    if let Some(folder) = folder {
        prepared.current_dir(folder);
    }
    let input = input.as_deref().map(fill).transpose()?;
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    prepared.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    Ok((prepared, input.map(|input| input.into_owned())))
}

fn is_kept_back(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| KEPT_BACK.iter().any(|begin| name.starts_with(begin)))
}

/// How a command ended, and whether we ended it, with which outcome.
struct End {
    exit: ExitStatus,
    stopped: Option<Status>,
}

/// Waits for the end, and brings it about when time is up.
async fn supervise(
    child: &mut Child,
    group: &Group,
    deadline: Instant,
    cancel: impl Future<Output = ()>,
    grace: Duration,
) -> io::Result<End> {
    let stopped = tokio::select! {
        biased;
        exit = child.wait() => return Ok(End { exit: exit?, stopped: None }),
        () = cancel => Status::Canceled,
        () = sleep_until(deadline) => Status::TimedOut,
    };
    group.signal(Signal::TERM);
    // One that is stopped would not see it.
    group.signal(Signal::CONT);
    let exit = match timeout(grace, child.wait()).await {
        Ok(exit) => exit?,
        Err(_elapsed) => {
            group.kill();
            timeout(KILL_WAIT, child.wait()).await??
        }
    };
    Ok(End { exit, stopped: Some(stopped) })
}

/// The processes that a command consists of. Dropped, it kills them.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// The number belongs to the group as long as one of its processes is there. The call that
    /// follows the end of the last one comes long before the system has used all other numbers.
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // There may be nobody left to signal.
            let _ = kill_process_group(group, signal);
        }
    }

    fn kill(&self) {
        self.signal(Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command need not read what it is given.
async fn feed(stdin: Option<ChildStdin>, input: Option<String>) {
    if let (Some(mut stdin), Some(input)) = (stdin, input) {
        let _ = stdin.write_all(input.as_bytes()).await;
    }
}

async fn drain(from: Option<impl AsyncRead + Unpin>, into: &mut Capture<'_>) {
    let Some(mut from) = from else { return };
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        into.push(&buffer[..count]).await;
    }
}

fn signal_name(number: i32) -> String {
    let known = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::TRAP, "SIGTRAP"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::USR2, "SIGUSR2"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
        (Signal::XFSZ, "SIGXFSZ"),
        (Signal::SYS, "SIGSYS"),
    ];
    match known.iter().find(|(signal, _)| signal.as_raw() == number) {
        Some((_, name)) => (*name).to_owned(),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_sockets_are_not_handed_on() {
        for name in ["ETCDCTL_PASSWORD", "ETCD_NAME", "QUOIN_TOKEN", "NOTIFY_SOCKET", "LISTEN_FDS"]
        {
            assert!(is_kept_back(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "LD_LIBRARY_PATH"] {
            assert!(!is_kept_back(OsStr::new(name)), "{name}");
        }
    }
}
