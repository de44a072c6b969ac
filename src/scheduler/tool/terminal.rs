//! The terminal while a run is watched: keys without Enter, and lines at the bottom that are drawn
//! again and again.

use parking_lot::Mutex;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::Once;
use std::{panic, thread};
use tokio::sync::mpsc;

/// Columns where the terminal does not say.
const COLUMNS: usize = 80;

/// The terminal as it was, while it is otherwise.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Keys are read one by one while it lives; then the terminal is as it was, after a panic too.
pub(super) struct Keys {
    typed: mpsc::UnboundedReceiver<u8>,
}

impl Keys {
    pub(super) fn new() -> Self {
        // Nothing is dropped where a panic ends the process at once.
        static RESTORED: Once = Once::new();
        RESTORED.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |what| {
                restore();
                next(what);
            }));
        });
        if let Ok(before) = tcgetattr(io::stdin()) {
            let mut now = before.clone();
            *BEFORE.lock() = Some(before);
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
        Self { typed }
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
        restore();
    }
}

fn restore() {
    // Whoever has it now is about to do the same.
    if let Some(before) = BEFORE.try_lock().and_then(|mut before| before.take()) {
        let _unset = tcsetattr(io::stdin(), OptionalActions::Now, &before);
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

#[cfg(test)]
mod tests {
    use super::Keys;
    use std::process::Command;

    const TERMINAL: &str = "QUOIN_TEST_AT_TERMINAL";

    /// As where a panic ends the process: nothing is dropped.
    #[test]
    fn the_terminal_is_as_it_was_after_a_panic() {
        if std::env::var_os(TERMINAL).is_some() {
            std::mem::forget(Keys::new());
            let now = Command::new("stty").arg("-a").status().unwrap();
            panic!("as it shall: {now}");
        }
        let program = std::env::current_exe().unwrap();
        let name = std::thread::current().name().unwrap().to_owned();
        let words = format!("{} --exact {name} --nocapture; stty -a", program.display());
        let output = Command::new("script")
            .args(["-qec", &words, "/dev/null"])
            .env(TERMINAL, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let modes: Vec<&str> = said
            .split_whitespace()
            .filter(|word| word.ends_with("echo;") || word.ends_with("echo"))
            .collect();
        assert_eq!(modes, ["-echo", "echo"], "{said}");
    }
}
