//! Runs the scripts beside this file on both logs, which must print the same.

use super::disk::{DiskLog, DiskLogOptions};
use super::memory::{CrashChoice, MemoryDisk, MemoryLog};
use super::segment::Faults;
use super::*;
use crate::types::{ClusterId, MemberId};
use goldenscript::{Argument, ArgumentConsumer, Command, Context};
use raft::{GetEntriesContext, Storage};
use std::error::Error;
use std::fmt::Write as _;
use std::num::ParseIntError;
use std::path::Path;
use test_each_file::test_each_path;

test_each_path! { in "src/raft_log/testscripts" as scripts_memory => run_on_memory }
test_each_path! { in "src/raft_log/testscripts" as scripts_disk => run_on_disk }

fn run_on_memory(path: &Path) {
    goldenscript::run(&mut Runner { place: MemoryPlace::new() }, path).unwrap();
}

fn run_on_disk(path: &Path) {
    goldenscript::run(&mut Runner { place: DiskPlace::new() }, path).unwrap();
}

/// A place where a log lives over restarts.
trait Place {
    type Log: LogStore;

    fn log(&mut self) -> &mut Self::Log;

    /// Opens the log again as a new process would.
    fn reopen(&mut self) -> Result<(), Fatal>;

    /// Stops the machine, then opens the log again.
    fn crash(&mut self, keep: CrashChoice) -> Result<(), Fatal>;

    fn fail_next_sync(&mut self);
}

struct MemoryPlace {
    disk: MemoryDisk,
    log: MemoryLog,
}

impl MemoryPlace {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        Self { log: MemoryLog::open(&disk), disk }
    }
}

impl Place for MemoryPlace {
    type Log = MemoryLog;

    fn log(&mut self) -> &mut MemoryLog {
        &mut self.log
    }

    fn reopen(&mut self) -> Result<(), Fatal> {
        self.log = MemoryLog::open(&self.disk);
        Ok(())
    }

    fn crash(&mut self, keep: CrashChoice) -> Result<(), Fatal> {
        self.disk.crash(keep);
        self.reopen()
    }

    fn fail_next_sync(&mut self) {
        self.disk.fail_after(0);
    }
}

struct DiskPlace {
    folder: tempfile::TempDir,
    /// Empty only while the log is being opened again.
    log: Option<DiskLog>,
    faults: Faults,
}

impl DiskPlace {
    fn new() -> Self {
        let mut place =
            Self { folder: tempfile::tempdir().unwrap(), log: None, faults: Faults::default() };
        place.reopen().unwrap();
        place
    }
}

impl Place for DiskPlace {
    type Log = DiskLog;

    fn log(&mut self) -> &mut DiskLog {
        self.log.as_mut().unwrap()
    }

    fn reopen(&mut self) -> Result<(), Fatal> {
        self.log = None;
        self.faults = Faults::default();
        let folder = self.folder.path().join("wal");
        let mut options = DiskLogOptions::new(folder, ClusterId(0xc), MemberId(0xa));
        // Small enough for scripts to fill several segments and to leave the cache.
        (options.segment_bytes, options.first_segment_bytes) = (8192, 4096);
        options.cache_bytes = 1024;
        let mut log = DiskLog::open(options)?;
        log.set_faults(self.faults.clone());
        self.log = Some(log);
        Ok(())
    }

    fn crash(&mut self, keep: CrashChoice) -> Result<(), Fatal> {
        let unsynced = self.log().unsynced_groups();
        self.log = None;
        let keep = match keep {
            CrashChoice::LoseUnsynced => 0,
            CrashChoice::KeepGroups(groups) => groups,
        };
        // All unsynced groups are in the last segment: the rest of it never reached the disk.
        if let Some((path, at)) = unsynced.get(keep) {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[*at as usize..].fill(0);
            std::fs::write(path, bytes).unwrap();
        }
        self.reopen()
    }

    fn fail_next_sync(&mut self) {
        self.faults.0.lock().1 = Some(0);
    }
}

struct Runner<P> {
    place: P,
}

impl<P: Place> goldenscript::Runner for Runner<P> {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut output = String::new();
        let mut args = command.consume_args();
        match command.name.as_str() {
            // append [INDEX@TERM[=DATA] ...] [commit=N] [term=N] [vote=N] [bytes=N]
            "append" => {
                let hard_state = self.hard_state(&mut args)?;
                let bytes = number(&mut args, "bytes")?.unwrap_or(0) as usize;
                let mut entries = Vec::new();
                for argument in &entries_in(command) {
                    entries.push(parse_entry(argument, bytes)?);
                }
                self.place.log().append(&entries, hard_state.as_ref())?;
                self.show(&mut output)?;
                return Ok(output);
            }
            // fill first=INDEX last=INDEX term=N bytes=N: one append and one sync for each
            "fill" => {
                let (first, last) =
                    (number(&mut args, "first")?.unwrap(), number(&mut args, "last")?.unwrap());
                let (term, bytes) = (
                    number(&mut args, "term")?.unwrap(),
                    number(&mut args, "bytes")?.unwrap() as usize,
                );
                for index in first..=last {
                    let entry = parse_entry(&format!("{index}@{term}"), bytes)?;
                    self.place.log().append(&[entry], None)?;
                    self.place.log().sync()?;
                }
                self.show(&mut output)?;
            }
            "sync" => {
                self.place.log().sync()?;
                self.show(&mut output)?;
            }
            // truncate-front INDEX
            "truncate-front" => {
                let index = args.next_pos().ok_or("index missing")?.parse()?;
                self.place.log().truncate_front(index)?;
                self.show(&mut output)?;
            }
            // reset INDEX@TERM [commit=N] [term=N] [vote=N]
            "reset" => {
                let present = self.place.log().hard_state();
                let hard_state = self.hard_state(&mut args)?.unwrap_or(present);
                let at = args.next_pos().ok_or("position missing")?;
                let Entry { index, term, .. } = parse_entry(at, 0)?;
                self.place.log().reset(index, term, &hard_state)?;
                self.show(&mut output)?;
            }
            // entries LOW HIGH [max=BYTES]
            "entries" => {
                let max = number(&mut args, "max")?;
                let low = args.next_pos().ok_or("low missing")?.parse()?;
                let high = args.next_pos().ok_or("high missing")?.parse()?;
                let context = GetEntriesContext::empty(false);
                for entry in self.place.log().entries(low, high, max, context)? {
                    writeln!(output, "{}", show_entry(&entry))?;
                }
            }
            // terms INDEX ...
            "terms" => {
                while let Some(index) = args.next_pos() {
                    match self.place.log().term(index.parse()?) {
                        Ok(term) => writeln!(output, "{index}: term {term}")?,
                        Err(error) => writeln!(output, "{index}: {error}")?,
                    }
                }
            }
            // offer-snapshot [INDEX@TERM]
            "offer-snapshot" => {
                let snapshot = args.next_pos().map(|at| {
                    let entry = parse_entry(at, 0)?;
                    let mut snapshot = Snapshot::default();
                    snapshot.mut_metadata().index = entry.index;
                    snapshot.mut_metadata().term = entry.term;
                    Ok::<_, Box<dyn Error>>(snapshot)
                });
                self.place.log().offer_snapshot(snapshot.transpose()?);
            }
            // snapshot [at-least=INDEX]
            "snapshot" => {
                let request = number(&mut args, "at-least")?.unwrap_or(0);
                match self.place.log().snapshot(request, 2) {
                    Ok(snapshot) => {
                        let metadata = snapshot.get_metadata();
                        writeln!(output, "snapshot {}@{}", metadata.index, metadata.term)?;
                    }
                    Err(error) => writeln!(output, "{error}")?,
                }
            }
            "take-request" => {
                writeln!(output, "requested: {}", self.place.log().take_snapshot_request())?;
            }
            "set-voters" => {
                let mut conf_state = ConfState::default();
                while let Some(id) = args.next_pos() {
                    conf_state.voters.push(id.parse()?);
                }
                self.place.log().set_conf_state(conf_state);
            }
            "initial-state" => {
                let state = self.place.log().initial_state()?;
                writeln!(output, "voters {:?}", state.conf_state.voters)?;
                writeln!(output, "{}", show_hard_state(&state.hard_state))?;
            }
            "reopen" => {
                self.place.reopen()?;
                self.show(&mut output)?;
            }
            // crash [keep=GROUPS]
            "crash" => {
                let keep = number(&mut args, "keep")?;
                let keep = keep.map_or(CrashChoice::LoseUnsynced, |groups| {
                    CrashChoice::KeepGroups(groups as usize)
                });
                self.place.crash(keep)?;
                self.show(&mut output)?;
            }
            // The disk refuses; each log says so in its own words.
            "failing-sync" => {
                self.place.fail_next_sync();
                match self.place.log().sync() {
                    Ok(()) => return Err("the sync succeeded".into()),
                    Err(_) => writeln!(output, "failed")?,
                }
            }
            name => return Err(format!("unknown command {name}").into()),
        }
        args.reject_next()?;
        Ok(output)
    }
}

fn number(args: &mut ArgumentConsumer<'_>, key: &str) -> Result<Option<u64>, ParseIntError> {
    args.take_key(key).map(str::parse).transpose()
}

impl<P: Place> Runner<P> {
    /// The present hard state changed as the arguments say; `None` when they say nothing.
    fn hard_state(
        &mut self,
        args: &mut ArgumentConsumer<'_>,
    ) -> Result<Option<HardState>, Box<dyn Error>> {
        let mut hard_state = self.place.log().hard_state();
        let mut given = false;
        for (key, field) in [
            ("term", &mut hard_state.term),
            ("vote", &mut hard_state.vote),
            ("commit", &mut hard_state.commit),
        ] {
            if let Some(value) = number(args, key)? {
                *field = value;
                given = true;
            }
        }
        Ok(given.then_some(hard_state))
    }

    fn show(&mut self, output: &mut String) -> Result<(), Box<dyn Error>> {
        let log = self.place.log();
        let (first, last) = (log.first_index()?, log.last_index()?);
        let terms =
            (first - 1..=last).map(|index| log.term(index)).collect::<Result<Vec<_>, _>>()?;
        write!(output, "base {}@{}, entries ", first - 1, terms[0])?;
        match first <= last {
            true => write!(output, "{first}@{}..{last}@{}", terms[1], terms[terms.len() - 1])?,
            false => write!(output, "none")?,
        }
        let bytes = log.entry_bytes();
        writeln!(output, " ({bytes} bytes), {}", show_hard_state(&log.hard_state()))?;
        Ok(())
    }
}

/// The arguments that name entries, with or without data.
fn entries_in(command: &Command) -> Vec<String> {
    let texts = command.args.iter().filter_map(|argument| match argument {
        Argument::Positional(text) => Some(text.clone()),
        Argument::KeyValue(key, data) if key.contains('@') => Some(format!("{key}={data}")),
        _ => None,
    });
    texts.collect()
}

fn parse_entry(text: &str, bytes: usize) -> Result<Entry, Box<dyn Error>> {
    let (place, data) = text.split_once('=').unwrap_or((text, ""));
    let (index, term) = place.split_once('@').ok_or("want INDEX@TERM")?;
    let mut entry = Entry { index: index.parse()?, term: term.parse()?, ..Entry::default() };
    let mut data = data.as_bytes().to_vec();
    data.resize(data.len().max(bytes), b'.');
    entry.data = data.into();
    Ok(entry)
}

fn show_entry(entry: &Entry) -> String {
    let data = String::from_utf8_lossy(&entry.data);
    let shown = if data.len() > 20 { format!("{} bytes", data.len()) } else { data.into_owned() };
    format!("{}@{} {shown}", entry.index, entry.term).trim_end().to_owned()
}

fn show_hard_state(state: &HardState) -> String {
    format!("term {} vote {} commit {}", state.term, state.vote, state.commit)
}
