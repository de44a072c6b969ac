//! What every command has at hand: the store, how to print, and what goes wrong.

use super::{INFRASTRUCTURE, NOTHING, USAGE};
use crate::ctl;
use crate::scheduler::client::{Access, Client};
use crate::scheduler::model::Refusal;
use crate::scheduler::submit::SubmitError;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Columns from one stop of tabs to the next.
const TAB: usize = 8;

pub(super) struct Desk {
    pub(super) client: Client,
    pub(super) wants_json: bool,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(super) enum Trouble {
    Submit(SubmitError),
    /// What was typed or handed in.
    Usage(String),
    Store(String),
    /// What was asked for is empty.
    Nothing(String),
}

pub(super) type Done = Result<u8, Trouble>;

impl Trouble {
    pub(super) fn code(&self) -> u8 {
        match self {
            // Nothing is wrong with what was asked for: later, there is room.
            Self::Submit(SubmitError::Refused(Refusal { status: 429, .. })) => INFRASTRUCTURE,
            Self::Submit(SubmitError::Refused(_)) | Self::Usage(_) => USAGE,
            Self::Submit(SubmitError::Store(_) | SubmitError::Answer(_)) | Self::Store(_) => {
                INFRASTRUCTURE
            }
            Self::Submit(SubmitError::Nothing(_)) | Self::Nothing(_) => NOTHING,
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit(error) => error.fmt(f),
            Self::Usage(text) | Self::Store(text) | Self::Nothing(text) => f.write_str(text),
        }
    }
}

impl From<SubmitError> for Trouble {
    fn from(error: SubmitError) -> Self {
        Self::Submit(error)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Submit(refusal.into())
    }
}

impl From<etcd_client::Error> for Trouble {
    fn from(error: etcd_client::Error) -> Self {
        Self::Submit(error.into())
    }
}

impl Desk {
    pub(super) async fn open(access: &Access, wants_json: bool) -> Result<Self, Trouble> {
        Ok(Self { client: Client::connect(access).await?, wants_json })
    }

    /// One JSON document, or what `text` makes of it for people.
    pub(super) fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T) -> String) {
        match self.wants_json {
            true => say(&json(value)),
            false => say(text(value).trim_end_matches('\n')),
        }
    }

    /// What was done, for programs: people see that nobody complains.
    pub(super) fn tell(&self, done: &impl Serialize) {
        if self.wants_json {
            say(&json(done));
        }
    }
}

/// `1 case`, `2 cases`
pub(super) fn count_of(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

pub(super) fn json(value: &impl Serialize) -> String {
    // Maps with other keys than strings are all that JSON cannot hold.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(super) fn say(text: &str) {
    // A reader that closes the pipe early has seen enough.
    let _closed = writeln!(io::stdout(), "{text}");
}

pub(super) fn warn(text: impl fmt::Display) {
    let _closed = writeln!(io::stderr(), "Warning: {text}");
}

pub(super) fn table<const N: usize>(titles: [&str; N], rows: Vec<[String; N]>) -> String {
    // Whatever a cell says, it commands no terminal.
    let shown = |cell: String| match cell.chars().any(|c| c.is_control() && c != '\n') {
        true => cell.lines().map(|line| plain(line, usize::MAX)).collect::<Vec<_>>().join("\n"),
        false => cell,
    };
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|row| row.into_iter().map(shown).collect()).collect();
    ctl::table_text(&titles, &rows)
}

/// A file's text; `-` is standard input.
pub(super) fn read(file: &Path) -> Result<String, Trouble> {
    let read = match file.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()),
        false => std::fs::read_to_string(file),
    };
    read.map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            Trouble::Usage(format!("{}: it is not text in UTF-8", file.display()))
        }
        _ => Trouble::Usage(format!("{}: {error}", file.display())),
    })
}

/// Writes to a file, or to standard output where none is named.
pub(super) fn write(file: Option<&Path>, text: &str) -> Result<(), Trouble> {
    let Some(file) = file else {
        let _closed = io::stdout().write_all(text.as_bytes());
        return Ok(());
    };
    std::fs::write(file, text)
        .map_err(|error| Trouble::Usage(format!("{}: {error}", file.display())))
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The last millisecond of the year 9999: times behind it cannot be written.
pub(super) const TIME_MAX: u64 = 253_402_300_799_999;

/// A time as people write it, without a fraction.
pub(super) fn time(ms: u64) -> String {
    if ms > TIME_MAX {
        return "after the year 9999".to_owned();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// A duration in microseconds, with as many digits as make sense.
pub(super) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1_000.0),
        1_000_000..60_000_000 => format!("{:.3} s", us as f64 / 1_000_000.0),
        _ => {
            let seconds = us / 1_000_000;
            let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
            match hours {
                0 => format!("{minutes}:{:02}", seconds % 60),
                _ => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
            }
        }
    }
}

pub(super) fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// A line that somebody else has written, for a terminal, at most so many characters of it: tabs reach to the
/// next column of eight, and nothing in it moves the cursor or changes colors.
pub(super) fn plain(line: &str, chars_max: usize) -> String {
    let (mut text, mut column) = (String::new(), 0);
    for c in line.chars() {
        if column >= chars_max {
            break;
        }
        let shown = match c {
            '\t' => " ".repeat(TAB - column % TAB),
            c if c.is_control() => c.escape_unicode().to_string(),
            c => c.to_string(),
        };
        column += shown.chars().count();
        text += &shown;
    }
    text
}

/// Text for one cell: the first line of it, cut.
pub(super) fn cell(text: &str, chars_max: usize) -> String {
    let line = text.lines().next().unwrap_or_default();
    let is_whole = line.len() == text.len() && line.chars().count() <= chars_max;
    let cut: String = line.chars().filter(|c| !c.is_control()).take(chars_max).collect();
    if is_whole { cut } else { format!("{cut}...") }
}

#[cfg(test)]
mod tests {
    use super::{TIME_MAX, plain, time};

    #[test]
    fn nothing_that_a_test_says_commands_a_terminal() {
        assert_eq!(plain("a\tbcd\te\t\tf", 80), "a       bcd     e               f");
        let told = super::table(["x"], vec![["a\u{1b}[31mb".to_owned()]]);
        assert!(told.contains("a\\u{1b}[31mb"), "{told}");
        assert_eq!(plain("x\u{1b}]0;t\u{7}\u{9b}1mü", 80), "x\\u{1b}]0;t\\u{7}\\u{9b}1mü");
        assert_eq!(plain("12345678\t9", 8), "12345678");
    }

    #[test]
    fn any_time_can_be_shown() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(TIME_MAX), "9999-12-31T23:59:59Z");
        assert_eq!([time(TIME_MAX + 1), time(u64::MAX)], ["after the year 9999"; 2]);
    }
}
