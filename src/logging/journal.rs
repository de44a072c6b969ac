//! The log of systemd, in the protocol that its daemon speaks on a socket.
//!
//! Each line is one entry with its priority, so that `journalctl -p warning` finds it. A line that the
//! daemon does not take, for its size or because the daemon is gone, goes to standard error.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// Where the daemon listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to the daemon.
pub struct Journal {
    socket: UnixDatagram,
    /// Where each entry is sent to: a daemon that was started anew listens there again.
    path: PathBuf,
    /// Under what name entries are found.
    identifier: String,
}

impl Journal {
    /// Connects to the daemon that listens on `socket`.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(socket: &Path, identifier: &str) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(socket)?;
        let (path, identifier) = (socket.to_owned(), identifier.to_owned());
        Ok(Self { socket: UnixDatagram::unbound()?, path, identifier })
    }
}

impl Write for Journal {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let mut entry = Vec::with_capacity(text.len() + 100);
        put(&mut entry, "MESSAGE", text);
        put(&mut entry, "PRIORITY", priority(text).as_bytes());
        put(&mut entry, "SYSLOG_IDENTIFIER", self.identifier.as_bytes());
        match self.socket.send_to(&entry, &self.path) {
            Ok(_) => Ok(line.len()),
            Err(_) => io::stderr().write_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A field in the form that takes any bytes: name, length, value.
fn put(entry: &mut Vec<u8>, name: &str, value: &[u8]) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value);
    entry.push(b'\n');
}

/// Syslog's number for the level of a line in either of our forms.
fn priority(line: &[u8]) -> &'static str {
    let start = String::from_utf8_lossy(&line[..line.len().min(80)]);
    let level = match start.strip_prefix(r#"{"level":""#) {
        Some(rest) => rest.split('"').next(),
        None => start.split('\t').nth(1),
    };
    match level {
        Some("debug") => "7",
        Some("warn") => "4",
        Some("error") => "3",
        Some("dpanic" | "panic" | "fatal") => "2",
        _ => "6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_an_entry_with_its_priority() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert!(Journal::connect(&path, "etcd").is_err(), "nobody listens");
        let mut daemon = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::connect(&path, "etcd").unwrap();
        let table = [
            ("{\"level\":\"warn\",\"msg\":\"a\"}\n", "4"),
            ("{\"level\":\"fatal\",\"msg\":\"a\"}\n", "2"),
            ("2026-01-01T00:00:00.000000Z\tdebug\ta/b.rs:1\tword\n", "7"),
            ("2026-01-01T00:00:00.000000Z\terror\ta/b.rs:1\tword\n", "3"),
            ("{\"level\":\"info\",\"msg\":\"a\"}\n", "6"),
        ];
        for (at, (line, priority)) in table.into_iter().enumerate() {
            if at == 2 {
                // Started anew.
                std::fs::remove_file(&path).unwrap();
                daemon = UnixDatagram::bind(&path).unwrap();
            }
            journal.write_all(line.as_bytes()).unwrap();
            let mut entry = [0; 1000];
            let size = daemon.recv(&mut entry).unwrap();
            let text = line.trim_end();
            let mut expected = b"MESSAGE\n".to_vec();
            expected.extend((text.len() as u64).to_le_bytes());
            expected.extend(text.as_bytes());
            expected.extend(b"\nPRIORITY\n\x01\0\0\0\0\0\0\0");
            expected.extend(priority.as_bytes());
            expected.extend(b"\nSYSLOG_IDENTIFIER\n\x04\0\0\0\0\0\0\0etcd\n");
            assert_eq!(&entry[..size], expected, "{line}");
        }
    }
}
