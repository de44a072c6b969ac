//! What the log on disk does with torn, damaged, missing and foreign files, and with a disk
//! that fails.

use super::disk::{DiskLog, DiskLogOptions};
use super::memory::{CrashChoice, MemoryDisk, MemoryLog};
use super::segment::Faults;
use super::*;
use crate::types::{ClusterId, MemberId};
use raft::{GetEntriesContext, Storage};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn options(folder: &Path) -> DiskLogOptions {
    let mut options = DiskLogOptions::new(folder.join("wal"), ClusterId(0xc), MemberId(0xa));
    (options.segment_bytes, options.first_segment_bytes) = (8192, 4096);
    options.cache_bytes = 2048;
    options
}

fn open(folder: &Path) -> Result<DiskLog, Fatal> {
    DiskLog::open(options(folder))
}

/// Without waiting for the disk, for tests that open very often.
fn open_fast(folder: &Path) -> Result<DiskLog, Fatal> {
    DiskLog::open(DiskLogOptions { unsafe_no_fsync: true, ..options(folder) })
}

fn entry(index: Index, term: Term, data: &str) -> Entry {
    Entry { index, term, data: data.as_bytes().to_vec().into(), ..Entry::default() }
}

fn hard_state(term: Term, vote: u64, commit: Index) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

/// All entries as (index, term, data).
fn content(log: &DiskLog) -> Vec<(Index, Term, String)> {
    let (first, last) = (log.first_index().unwrap(), log.last_index().unwrap());
    let entries = log.entries(first, last + 1, None, GetEntriesContext::empty(false)).unwrap();
    let text = |entry: &Entry| String::from_utf8(entry.data.to_vec()).unwrap();
    entries.iter().map(|entry| (entry.index, entry.term, text(entry))).collect()
}

fn segment(folder: &Path, sequence: u64) -> PathBuf {
    folder.join("wal").join(format!("{sequence:016x}.log"))
}

/// A log with three synced groups and one that is not; where the last one starts and ends.
fn three_synced_one_not() -> (TempDir, Vec<u8>, usize, usize) {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    log.append(&[entry(1, 1, "one")], Some(&hard_state(1, 2, 0))).unwrap();
    log.sync().unwrap();
    log.append(&[entry(2, 1, "two"), entry(3, 1, "three")], None).unwrap();
    log.sync().unwrap();
    log.append(&[], Some(&hard_state(2, 3, 2))).unwrap();
    log.sync().unwrap();
    log.append(&[entry(4, 2, "four"), entry(5, 2, "five")], Some(&hard_state(2, 3, 3))).unwrap();
    let (path, start) = log.unsynced_groups().remove(0);
    drop(log);
    let bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (folder, bytes, start as usize, end.next_multiple_of(8))
}

/// Opens a log whose only segment is `bytes`.
fn open_bytes(bytes: &[u8]) -> (TempDir, Result<DiskLog, Fatal>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("wal")).unwrap();
    std::fs::write(segment(folder.path(), 1), bytes).unwrap();
    let log = open_fast(folder.path());
    (folder, log)
}

fn synced_part() -> Vec<(Index, Term, String)> {
    vec![(1, 1, "one".into()), (2, 1, "two".into()), (3, 1, "three".into())]
}

#[test]
fn a_group_torn_at_any_byte_is_cut() {
    let (_folder, bytes, start, end) = three_synced_one_not();
    for torn_at in start..end {
        for filler in [0, 0xff] {
            let mut torn = bytes.clone();
            torn[torn_at..end].fill(filler);
            let (folder, log) = open_bytes(&torn);
            let mut log = log.unwrap();
            if torn == bytes {
                assert_eq!(log.last_index().unwrap(), 5);
                continue;
            }
            assert_eq!(content(&log), synced_part(), "torn at {torn_at}");
            assert_eq!(log.hard_state(), hard_state(2, 3, 2));
            // The log goes on from there and the torn bytes do not come back.
            log.append(&[entry(4, 2, "new")], None).unwrap();
            drop(log);
            let log = open_fast(folder.path()).unwrap();
            assert_eq!(content(&log).split_off(3), [(4, 2, "new".to_owned())]);
        }
    }
}

#[test]
fn a_file_cut_short_at_any_byte_is_refused() {
    let (_folder, bytes, start, end) = three_synced_one_not();
    for len in start..end {
        let (folder, log) = open_bytes(&bytes[..len]);
        let text = log.err().unwrap().to_string();
        let path = segment(folder.path(), 1);
        let expected = format!("segment {} is damaged at offset {len}", path.display());
        assert!(text.contains(&expected), "{text}");
    }
}

#[test]
fn a_damaged_byte_anywhere_cuts_only_what_was_not_synced() {
    let (_folder, bytes, start, end) = three_synced_one_not();
    for damaged_at in (0..end + 64).chain([bytes.len() - 1]) {
        for damage in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[damaged_at] ^= damage;
            let (folder, log) = open_bytes(&damaged);
            match log {
                Ok(log) => {
                    let found = content(&log);
                    assert!(damaged_at >= start, "accepted damage at {damaged_at}");
                    assert_eq!(found[..3], synced_part());
                    let is_behind = damaged_at >= end;
                    assert_eq!(found.len(), if is_behind { 5 } else { 3 });
                }
                Err(fatal) => {
                    let text = fatal.to_string();
                    let path = segment(folder.path(), 1);
                    assert!(damaged_at < start, "refused damage at {damaged_at}: {text}");
                    assert!(text.contains(&format!("{}", path.display())), "{text}");
                    assert!(text.contains("offset"), "{text}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_last_group_is_refused_once_it_was_synced() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    log.append(&[entry(1, 1, "one")], None).unwrap();
    log.sync().unwrap();
    drop(log);
    let path = segment(folder.path(), 1);
    let bytes = std::fs::read(&path).unwrap();
    // From the group to the end of its padded record.
    for damaged_at in 512..512 + 32 + 32 + 8 {
        let mut damaged = bytes.clone();
        damaged[damaged_at] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        let text = open(folder.path()).err().unwrap().to_string();
        assert_eq!(
            text,
            format!(
                "open raft log: segment {} is damaged at offset 512: record group 1 was synced \
                 and cannot be read",
                path.display()
            )
        );
    }
    // The mark behind it protects, but is not needed.
    let mut damaged = bytes;
    damaged[512 + 32 + 32 + 8..].fill(0xee);
    std::fs::write(&path, damaged).unwrap();
    assert_eq!(content(&open(folder.path()).unwrap()).len(), 1);
}

/// The system may write back a later page and not an earlier one: all of it was unsynced.
#[test]
fn groups_behind_a_hole_that_was_never_synced_are_cut_and_stay_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    log.append(&[entry(1, 1, "one")], None).unwrap();
    log.sync().unwrap();
    for index in 2..=4 {
        log.append(&[entry(index, 1, "old")], None).unwrap();
    }
    let (path, hole) = log.unsynced_groups().remove(0);
    drop(log);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[hole as usize..hole as usize + 72].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let mut log = open(folder.path()).unwrap();
    assert_eq!(log.last_index().unwrap(), 1);
    // A group of the same length ends just where the old third one starts.
    log.append(&[entry(2, 1, "new")], None).unwrap();
    drop(log);
    let log = open(folder.path()).unwrap();
    assert_eq!(content(&log).split_off(1), [(2, 1, "new".to_owned())]);
}

/// Fills several segments; returns the log and the paths of its segments.
fn several_segments(folder: &Path) -> (DiskLog, Vec<PathBuf>) {
    let mut log = open(folder).unwrap();
    for index in 1..=100 {
        log.append(&[entry(index, 1, &"x".repeat(150))], Some(&hard_state(1, 0, index))).unwrap();
        log.sync().unwrap();
    }
    let mut paths: Vec<_> = std::fs::read_dir(folder.join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 4);
    (log, paths)
}

fn refusal(folder: &Path) -> String {
    open(folder).err().expect("the log is refused").to_string()
}

#[test]
fn missing_and_foreign_segments_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (log, paths) = several_segments(folder.path());
    drop(log);
    let away = folder.path().join("away");
    let shown = |position: usize| paths[position].display().to_string();

    std::fs::rename(&paths[1], &away).unwrap();
    assert_eq!(
        refusal(folder.path()),
        format!(
            "open raft log: segment {} is missing between {} and {}",
            shown(1),
            shown(0),
            shown(2)
        )
    );
    std::fs::rename(&away, &paths[1]).unwrap();

    std::fs::rename(&paths[0], &away).unwrap();
    let text = refusal(folder.path());
    let expected = format!("open raft log: segments before {} are missing: entries 1 to", shown(1));
    assert!(text.starts_with(&expected), "{text}");
    std::fs::rename(&away, &paths[0]).unwrap();

    std::fs::copy(&paths[1], &away).unwrap();
    std::fs::copy(&paths[2], &paths[1]).unwrap();
    assert_eq!(
        refusal(folder.path()),
        format!("open raft log: segment {} is 0000000000000003.log under another name", shown(1))
    );
    std::fs::copy(&away, &paths[1]).unwrap();

    // Damage in a segment that is not the last one is never a torn tail.
    let mut bytes = std::fs::read(&paths[1]).unwrap();
    let sound = bytes.clone();
    bytes[5000..].fill(0);
    std::fs::write(&paths[1], bytes).unwrap();
    let text = refusal(folder.path());
    assert!(text.contains(&format!("segment {} is damaged at offset", shown(1))), "{text}");
    std::fs::write(&paths[1], sound).unwrap();

    // As it was, it opens.
    assert_eq!(open(folder.path()).unwrap().last_index().unwrap(), 100);

    let mut foreign = options(folder.path());
    foreign.member = MemberId(0xb);
    let text = DiskLog::open(foreign).err().unwrap().to_string();
    assert_eq!(
        text,
        format!(
            "open raft log: segment {} belongs to member a of cluster c, this is member b of cluster c",
            shown(0)
        )
    );
}

#[test]
fn another_format_is_refused_by_name() {
    let (_folder, mut bytes, ..) = three_synced_one_not();
    bytes[8] = 7;
    let checksum = crc32c::crc32c(&bytes[..508]).to_le_bytes();
    bytes[508..512].copy_from_slice(&checksum);
    let (_folder, log) = open_bytes(&bytes);
    let text = log.err().unwrap().to_string();
    assert!(text.ends_with("has format 7, this version reads format 1 only"), "{text}");
}

#[test]
fn a_second_owner_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path()).unwrap();
    assert_eq!(
        refusal(folder.path()),
        format!(
            "data directory is locked by another process: {}",
            folder.path().join("wal").display()
        )
    );
    drop(log);
    open(folder.path()).unwrap();
}

#[test]
fn whether_a_folder_holds_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let wal = folder.path().join("wal");
    assert!(!DiskLog::exists(&wal).unwrap());
    std::fs::create_dir(&wal).unwrap();
    assert!(!DiskLog::exists(&wal).unwrap());
    drop(open(folder.path()).unwrap());
    assert!(DiskLog::exists(&wal).unwrap());
}

/// Lets each write, then each sync, of a run with several segments fail; after a restart all
/// that was synced is there.
#[test]
fn a_failing_disk_loses_nothing_that_was_synced() {
    for fails_sync in [false, true] {
        // Each of the first ones, among them those of the first roll, then some of the rest.
        for succeed in (0..24).chain((24..).step_by(11)) {
            let folder = tempfile::tempdir().unwrap();
            let mut log = open(folder.path()).unwrap();
            let faults = Faults::default();
            match fails_sync {
                false => *faults.0.lock() = (Some(succeed), Some(u32::MAX)),
                true => faults.0.lock().1 = Some(succeed),
            }
            log.set_faults(faults);
            let mut synced = 0;
            let failed = (1..=60).find_map(|index| {
                let data = entry(index, 1, &"y".repeat(150));
                let written = log
                    .append(&[data], Some(&hard_state(1, 0, index - 1)))
                    .and_then(|()| log.sync());
                synced = if written.is_ok() { index } else { synced };
                written.err()
            });
            let Some(failed) = failed else {
                assert!(succeed > 60, "the run has several segments");
                break;
            };
            let verb = if fails_sync { "Input/output error" } else { "No space left on device" };
            assert!(failed.to_string().contains(verb), "{failed}");
            let again = log.append(&[entry(synced + 1, 1, "again")], None).unwrap_err();
            assert_eq!(again.to_string(), "write raft log after an earlier failure");
            assert!(log.sync().is_err());
            drop(log);
            let log = open(folder.path()).unwrap();
            let last = log.last_index().unwrap();
            assert!(last == synced || last == synced + 1, "synced {synced}, found {last}");
        }
    }
}

#[test]
fn old_segments_are_used_again_and_never_show_old_content() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    let mut oracle = Vec::new();
    let mut cut = 0;
    for index in 1..=600 {
        let data = format!("{index}:{}", "z".repeat((index as usize * 37) % 200));
        log.append(&[entry(index, 1, &data)], Some(&hard_state(1, 0, index))).unwrap();
        log.sync().unwrap();
        oracle.push((index, 1, data));
        if index % 50 == 0 {
            cut = index - 10;
            log.truncate_front(cut).unwrap();
        }
        if index % 70 == 0 {
            drop(log);
            log = open(folder.path()).unwrap();
            assert_eq!(content(&log), oracle[cut as usize..]);
        }
    }
    drop(log);
    let files = std::fs::read_dir(folder.path().join("wal")).unwrap().count();
    assert!(files <= 6, "{files} files are left");
}

#[test]
fn more_than_a_segment_holds_is_written_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    // Many entries at once, and one that is larger than any segment.
    let mut entries: Vec<_> = (1..=80).map(|i| entry(i, 2, &"m".repeat(300))).collect();
    entries.push(entry(81, 2, &"huge".repeat(5000)));
    log.append(&entries, Some(&hard_state(2, 1, 81))).unwrap();
    log.sync().unwrap();
    log.append(&[entry(82, 2, "after")], None).unwrap();
    let before = content(&log);
    drop(log);
    let log = open(folder.path()).unwrap();
    assert_eq!(content(&log), before);
    assert_eq!((log.last_index().unwrap(), log.hard_state()), (82, hard_state(2, 1, 81)));
}

#[test]
fn an_entry_damaged_while_the_log_is_open_is_not_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path());
    options.cache_bytes = 0;
    let mut log = DiskLog::open(options).unwrap();
    log.append(&[entry(1, 1, "one"), entry(2, 1, "two")], None).unwrap();
    log.sync().unwrap();
    let path = segment(folder.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|window| window == b"two").unwrap();
    bytes[at] = b'T';
    std::fs::write(&path, bytes).unwrap();
    let read = |low, high| log.entries(low, high, None, GetEntriesContext::empty(false));
    assert_eq!(read(1, 2).unwrap().len(), 1);
    let text = read(1, 3).unwrap_err().to_string();
    assert!(text.contains("entry 2 is damaged at offset"), "{text}");
}

/// A log of three segments, of which five entries are committed.
fn three_segments(folder: &Path) -> DiskLog {
    let mut log = open(folder).unwrap();
    let mut index = 0;
    while !segment(folder, 3).exists() {
        index += 1;
        let commit = index.min(5);
        log.append(&[entry(index, 1, &"x".repeat(150))], Some(&hard_state(1, 0, commit))).unwrap();
        log.sync().unwrap();
    }
    log
}

/// Segments whose entries were all replaced are given back, although the next segment was
/// begun when they still counted: known to the running log, and found out by a restart.
#[test]
fn segments_with_replaced_entries_are_given_back() {
    for by_snapshot in [false, true] {
        for reopened in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut log = three_segments(folder.path());
            match by_snapshot {
                true => log.reset(7, 2, &hard_state(2, 0, 7)).unwrap(),
                false => {
                    let entries = [entry(6, 2, "replaced"), entry(7, 2, "too")];
                    log.append(&entries, Some(&hard_state(2, 0, 7))).unwrap();
                    log.sync().unwrap();
                }
            }
            if reopened {
                drop(log);
                log = open(folder.path()).unwrap();
            }
            log.truncate_front(6).unwrap();
            log.append(&[entry(8, 2, "more")], Some(&hard_state(2, 0, 8))).unwrap();
            let before = content(&log);
            drop(log);
            assert!(!segment(folder.path(), 2).exists());
            assert_eq!(content(&open(folder.path()).unwrap()), before);
        }
    }
}

#[test]
fn only_the_last_segment_has_groups_that_are_not_synced() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path()).unwrap();
    for index in 1..=100 {
        log.append(&[entry(index, 1, &"x".repeat(150))], None).unwrap();
        let unsynced = log.unsynced_groups();
        assert!(unsynced.iter().all(|(path, _)| *path == unsynced[0].0));
    }
}

/// Random writes, crashes and reopens on both logs, which must agree all along.
#[test]
fn both_logs_agree_on_random_histories() {
    for seed in 1..=80u64 {
        // Xorshift: good enough to choose, and the same everywhere.
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let mut twins = Twins::new();
        for _ in 0..150 {
            twins.random_step(&mut draw);
            twins.compare(seed);
        }
    }
}

struct Twins {
    folder: TempDir,
    disk: MemoryDisk,
    memory: MemoryLog,
    log: Option<DiskLog>,
}

impl Twins {
    fn new() -> Self {
        let (folder, disk) = (tempfile::tempdir().unwrap(), MemoryDisk::new());
        let (memory, log) = (MemoryLog::open(&disk), open_fast(folder.path()).unwrap());
        Self { folder, disk, memory, log: Some(log) }
    }

    fn random_step(&mut self, draw: &mut dyn FnMut(u64) -> u64) {
        let Self { memory, log: Some(log), .. } = self else { panic!("a log is open") };
        let (base, last) = (memory.first_index().unwrap() - 1, memory.last_index().unwrap());
        let mut next = memory.hard_state();
        match draw(12) {
            0..=5 => {
                let replaced = if draw(4) == 0 { draw(last - next.commit + 1) } else { 0 };
                let first = last + 1 - replaced;
                next.term += draw(2);
                let entries: Vec<_> = (first..first + draw(5))
                    .map(|index| entry(index, next.term, &"r".repeat(draw(300) as usize)))
                    .collect();
                let last = entries.last().map_or(last, |entry| entry.index);
                next.commit += draw(last - next.commit + 1);
                // A term without its hard state is no history that raft makes.
                memory.append(&entries, Some(&next)).unwrap();
                log.append(&entries, Some(&next)).unwrap();
            }
            6 | 7 => {
                memory.sync().unwrap();
                log.sync().unwrap();
            }
            8 => {
                let index = base + draw(next.commit - base + 1);
                memory.truncate_front(index).unwrap();
                log.truncate_front(index).unwrap();
            }
            9 => {
                let index = next.commit + draw(20);
                next.term += 1;
                memory.reset(index, next.term, &next).unwrap();
                log.reset(index, next.term, &next).unwrap();
            }
            10 => self.crash(draw),
            _ => self.reopen(),
        }
    }

    fn crash(&mut self, draw: &mut dyn FnMut(u64) -> u64) {
        let unsynced = self.log.take().unwrap().unsynced_groups();
        let keep = draw(unsynced.len() as u64 + 1) as usize;
        if let Some((path, at)) = unsynced.get(keep) {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[*at as usize..].fill(draw(256) as u8);
            std::fs::write(path, bytes).unwrap();
        }
        // The one on disk syncs by itself when it begins a segment.
        let durable = self.disk.unsynced_groups() - unsynced.len();
        self.disk.crash(CrashChoice::KeepGroups(durable + keep));
        self.reopen();
    }

    fn reopen(&mut self) {
        self.log = None;
        self.log = Some(open_fast(self.folder.path()).unwrap());
        self.memory = MemoryLog::open(&self.disk);
    }

    fn compare(&self, seed: u64) {
        let (memory, log) = (&self.memory, self.log.as_ref().unwrap());
        assert_eq!(log.hard_state(), memory.hard_state(), "seed {seed}");
        assert_eq!(log.entry_bytes(), memory.entry_bytes(), "seed {seed}");
        let (first, last) = (memory.first_index().unwrap(), memory.last_index().unwrap());
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (first, last));
        assert_eq!(log.term(first - 1).unwrap(), memory.term(first - 1).unwrap(), "seed {seed}");
        let none = || GetEntriesContext::empty(false);
        assert_eq!(
            log.entries(first, last + 1, None, none()).unwrap(),
            memory.entries(first, last + 1, None, none()).unwrap(),
            "seed {seed}"
        );
    }
}
