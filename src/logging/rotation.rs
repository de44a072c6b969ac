//! A log file that makes way for a new one when it has grown to a size.
//!
//! Old files lie beside it, named by the time of the change: `quoin.log` becomes
//! `quoin-2026-01-02T15-04-05.000.log`, and `.gz` behind that once it is compressed. Names and rules
//! are those of etcd, so that what collects its files finds ours. Removing and compressing goes on
//! beside the log. Trouble with old files never holds up a line: the log goes on in the file it has.

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use parking_lot::Mutex;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// When a new file begins, and which old ones stay.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bytes; a line never spans two files, so a single longer line exceeds it.
    pub size_max: u64,
    pub age_max: Option<Duration>,
    pub backups_max: Option<usize>,
    pub local_time: bool,
    pub compress: bool,
}

/// The file that is written to.
pub struct RotatingFile {
    path: PathBuf,
    rules: Rules,
    file: File,
    size: u64,
    /// Held while old files are looked through.
    tidying: Arc<Mutex<()>>,
}

impl RotatingFile {
    /// Opens or creates the file, its folder too, and looks through the old ones.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path, rules: Rules) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let file = open(path, 0o600)?;
        let size = file.metadata()?.len();
        let (path, tidying) = (path.to_owned(), Arc::default());
        let opened = Self { path, rules, file, size, tidying };
        opened.start_tidying();
        Ok(opened)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode() & 0o777;
        let zone = zone(self.rules.local_time);
        let mut now = Timestamp::now();
        let backup = loop {
            let name = backup_name(&self.path, &now.to_zoned(zone.clone()));
            // Two changes within a millisecond must not share a name.
            if !name.exists() && !gzipped(&name).exists() {
                break name;
            }
            now = now.saturating_add(Duration::from_millis(1)).map_err(io::Error::other)?;
        };
        fs::rename(&self.path, &backup)?;
        self.file = open(&self.path, mode)?;
        self.size = 0;
        self.start_tidying();
        Ok(())
    }

    fn start_tidying(&self) {
        let (path, rules, tidying) = (self.path.clone(), self.rules, self.tidying.clone());
        let work = move || {
            let _alone = tidying.lock();
            // What cannot be removed or compressed now is looked at again at the next change.
            let _kept = tidy(&path, rules, Timestamp::now());
        };
        let started = std::thread::Builder::new().name("log-files".to_owned()).spawn(work);
        drop(started);
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.size > 0 && self.size + line.len() as u64 > self.rules.size_max {
            // Better a file too large than a line lost.
            let _goes_on = self.rotate();
        }
        let written = self.file.write(line)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn open(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(mode).open(path)
}

fn zone(is_local: bool) -> TimeZone {
    if is_local { TimeZone::system() } else { TimeZone::UTC }
}

/// The two parts of a log's name that stand around the time.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let ending = text(path.extension());
    let ending = if ending.is_empty() { ending } else { format!(".{ending}") };
    (format!("{}-", text(path.file_stem())), ending)
}

fn backup_name(path: &Path, time: &Zoned) -> PathBuf {
    let (start, end) = parts(path);
    path.with_file_name(format!("{start}{}{end}", time.strftime(TIME)))
}

fn gzipped(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

/// Removes old files that the rules do not keep, then compresses the others.
fn tidy(path: &Path, rules: Rules, now: Timestamp) -> io::Result<()> {
    let mut backups = backups(path, rules.local_time)?;
    backups.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let oldest = rules.age_max.and_then(|age| now.checked_sub(age).ok());
    for (at, (time, backup)) in backups.into_iter().enumerate() {
        let is_surplus = rules.backups_max.is_some_and(|max| at >= max);
        if is_surplus || oldest.is_some_and(|oldest| time < oldest) {
            fs::remove_file(backup)?;
        } else if rules.compress && backup.extension().is_none_or(|end| end != "gz") {
            compress(&backup)?;
        }
    }
    Ok(())
}

fn backups(path: &Path, is_local: bool) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (start, end) = parts(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
        let backup = entry?.path();
        let name = backup.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        let time = name.strip_prefix(&start).and_then(|rest| rest.strip_suffix(&end));
        let time = time.and_then(|time| DateTime::strptime(TIME, time).ok());
        let time = time.and_then(|time| time.to_zoned(zone(is_local)).ok());
        if let Some(time) = time {
            found.push((time.timestamp(), backup));
        }
    }
    Ok(found)
}

fn compress(backup: &Path) -> io::Result<()> {
    let mut from = File::open(backup)?;
    let mode = from.metadata()?.permissions().mode() & 0o777;
    let (whole, unfinished) = (gzipped(backup), backup.with_extension("gz-unfinished"));
    let to =
        OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&unfinished)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?;
    fs::rename(unfinished, whole)?;
    fs::remove_file(backup)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const RULES: Rules = Rules {
        size_max: 100,
        age_max: None,
        backups_max: None,
        local_time: false,
        compress: false,
    };

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_begins_at_the_size_and_no_line_is_lost_or_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/quoin.log");
        let mut log = RotatingFile::open(&path, RULES).unwrap();
        let lines: Vec<String> = (0..30).map(|n| format!("line {n:02} of all\n")).collect();
        for line in &lines {
            log.write_all(line.as_bytes()).unwrap();
        }
        let mut all = String::new();
        let names = names(path.parent().unwrap());
        // Six lines of 15 bytes go into 100.
        assert_eq!(names.len(), 5, "{names:?}");
        for name in &names {
            let text = fs::read_to_string(path.with_file_name(name)).unwrap();
            assert_eq!(text.lines().count(), 6, "{name}");
            let is_dated = name.starts_with("quoin-20") && name.ends_with(".log");
            assert!(is_dated || name == "quoin.log", "{name}");
            all.push_str(&text);
        }
        assert_eq!(all, lines.concat(), "names sort by time");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // A start goes on in the file, and counts what it holds.
        let mut log = RotatingFile::open(&path, RULES).unwrap();
        log.write_all(&[b'x'; 11]).unwrap();
        assert_eq!(fs::read(&path).unwrap().len(), 11);
    }

    #[test]
    fn old_files_go_by_count_and_age_and_the_rest_is_compressed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.log");
        let days = ["01", "02", "03", "04"];
        for day in days {
            let name = format!("q-2026-01-{day}T10-00-00.000.log");
            fs::write(folder.path().join(name), format!("day {day}")).unwrap();
        }
        for name in ["q.log", "q-other.log", "p-2026-01-01T10-00-00.000.log"] {
            fs::write(folder.path().join(name), "stays").unwrap();
        }
        let now: Timestamp = "2026-01-05T09:00:00Z".parse().unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        // Three days old is the second of January.
        let rules = Rules { age_max: Some(3 * day), ..RULES };
        tidy(&path, rules, now).unwrap();
        assert!(!names(folder.path()).contains(&"q-2026-01-01T10-00-00.000.log".to_owned()));
        let rules = Rules { backups_max: Some(2), compress: true, ..RULES };
        tidy(&path, rules, now).unwrap();
        // Once more finds nothing to do.
        tidy(&path, rules, now).unwrap();
        let expected = [
            "p-2026-01-01T10-00-00.000.log",
            "q-2026-01-03T10-00-00.000.log.gz",
            "q-2026-01-04T10-00-00.000.log.gz",
            "q-other.log",
            "q.log",
        ];
        assert_eq!(names(folder.path()), expected);
        let file = File::open(folder.path().join(expected[2])).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "day 04");
    }
}
