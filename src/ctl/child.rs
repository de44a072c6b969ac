//! Commands that `watch` and `lock` run, with our standard output and error.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus, Stdio};

use super::failure::ERROR;

/// A command that did not end well.
#[derive(Debug)]
pub(super) struct Broken {
    /// In Go's words.
    pub(super) text: String,
    /// Its exit code, where it has one.
    pub(super) code: u8,
}

/// Runs a command to its end; connections go on meanwhile.
pub(super) async fn run(
    command: Vec<OsString>,
    variables: Vec<(&'static str, String)>,
) -> Result<(), Broken> {
    let running = tokio::task::spawn_blocking(move || {
        let name = command[0].to_string_lossy().into_owned();
        let started = Command::new(&command[0])
            .args(&command[1..])
            .envs(variables)
            .stdin(Stdio::null())
            .status();
        let status = started.map_err(|error| {
            let text = match error.kind() {
                ErrorKind::NotFound if !name.contains('/') => {
                    format!("exec: \"{name}\": executable file not found in $PATH")
                }
                ErrorKind::NotFound => format!("fork/exec {name}: no such file or directory"),
                ErrorKind::PermissionDenied => format!("fork/exec {name}: permission denied"),
                _ => format!("fork/exec {name}: {error}"),
            };
            Broken { text, code: ERROR }
        })?;
        judge(status)
    });
    running.await.unwrap_or_else(|error| Err(Broken { text: error.to_string(), code: ERROR }))
}

fn judge(status: ExitStatus) -> Result<(), Broken> {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => {
            let text = format!("exit status {code}");
            Err(Broken { text, code: u8::try_from(code).unwrap_or(ERROR) })
        }
        // Go gives -1 for a command that a signal ended, which the system takes for 255.
        (None, Some(signal)) => Err(Broken { text: format!("signal: {signal}"), code: u8::MAX }),
        (None, None) => Err(Broken { text: "ended without a status".to_owned(), code: ERROR }),
    }
}
