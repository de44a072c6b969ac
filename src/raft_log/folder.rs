//! The log's folder: what is in it, who owns it, and making its names durable.

use super::segment::sequence_in;
use super::spare::SPARE_SUFFIX;
use crate::error::Fatal;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Segments by sequence, and files that a crash left behind.
pub(super) fn list(folder: &Path) -> Result<(BTreeMap<u64, PathBuf>, Vec<PathBuf>), Fatal> {
    let failed = |e: io::Error| Fatal::with(format!("list log folder {}", folder.display()), e);
    let (mut segments, mut spares) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(sequence) = sequence_in(name) {
            segments.insert(sequence, path);
        } else if name.ends_with(SPARE_SUFFIX) {
            spares.push(path);
        }
    }
    Ok((segments, spares))
}

/// How long a process that is going may still hold the folder: one that was killed, or a child that
/// was forked off another a moment ago and has not become what it is to be.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Holds the folder for this process as long as the file is open.
pub(super) fn lock(folder: &Path) -> Result<File, Fatal> {
    let path = folder.join("lock");
    let failed = |e: io::Error| Fatal::with(format!("lock {}", path.display()), e);
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                let folder = folder.display();
                let text = format!("data directory is locked by another process: {folder}");
                return Err(Fatal::new(text));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

/// Makes created, renamed and removed names durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
