//! The terminal while a run is watched: keys without Enter, and lines at the bottom that are drawn
//! again and again.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::thread;
use tokio::sync::mpsc;

/// Columns where the terminal does not say.
const COLUMNS: usize = 80;

/// Keys are read one by one while it lives; then the terminal is as it was.
pub(super) struct Keys {
    before: Option<Termios>,
    typed: mpsc::UnboundedReceiver<u8>,
}

impl Keys {
    pub(super) fn new() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut now = before.clone();
            // Ctrl-C stays what it is.
            now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            // Where it cannot be set, keys need Enter.
            let _unset = tcsetattr(io::stdin(), OptionalActions::Now, &now);
        }
        let (sender, typed) = mpsc::unbounded_channel();
        // A read of the terminal cannot be given up: the thread ends with the process.
        thread::spawn(move || {
            let mut bytes = io::stdin().lock().bytes();
            while let Some(Ok(key)) = bytes.next() {
                if sender.send(key).is_err() {
                    break;
                }
            }
        });
        Self { before, typed }
    }

    /// The next key; never, when there are no more.
    pub(super) async fn next(&mut self) -> u8 {
        match self.typed.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _unset = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Lines at the bottom of the terminal.
#[derive(Default)]
pub(super) struct Screen {
    lines: usize,
}

impl Screen {
    /// Whether there is one: both ends are a terminal that can move its cursor.
    pub(super) fn is_there() -> bool {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        io::stdout().is_terminal() && io::stdin().is_terminal() && !is_dumb
    }

    pub(super) fn columns() -> usize {
        let size = tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0);
        size.map_or(COLUMNS, |size| size.ws_col.into())
    }

    /// Prints `text` above, for good, and draws the lines anew.
    pub(super) fn draw(&mut self, text: &str, lines: &[String]) {
        let columns = Self::columns();
        let mut out = String::new();
        if self.lines > 0 {
            out += &format!("\x1b[{}A", self.lines);
        }
        out += "\r\x1b[J";
        out += text;
        for line in lines {
            out.extend(line.chars().take(columns.saturating_sub(1)));
            out.push('\n');
        }
        self.lines = lines.len();
        let mut to = io::stdout();
        // A reader that is gone has seen enough.
        let _closed = to.write_all(out.as_bytes()).and_then(|()| to.flush());
    }
}
