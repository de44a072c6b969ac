//! A thread that has the next segment ready before it is needed, and takes care of old ones.
//!
//! Preparing means writing the whole file with zeros, which would hold up the log for a long
//! time. A segment that is no longer needed becomes the next spare where it can, so that in
//! steady use nothing is filled at all; its old content is harmless because checksums
//! of the new use start from another seed.

use super::folder::sync_folder;
use super::segment::LogFile;
use crate::error::Fatal;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Ending of files that are not part of the log.
pub(super) const SPARE_SUFFIX: &str = ".spare";

/// A file of its full size, durable, under a name of its own.
pub(super) struct Spare {
    pub(super) file: LogFile,
    pub(super) path: PathBuf,
    pub(super) size: u64,
}

enum Order {
    /// Make a spare of this size.
    Prepare { size: u64 },
    /// Remove these segments, oldest first. The first one of `recycle` bytes becomes the spare.
    Retire { segments: Vec<(PathBuf, u64)>, recycle: Option<u64> },
}

/// The thread's owner. Dropping it ends the thread; work under way is given up.
pub(super) struct Spares {
    orders: Option<Sender<Order>>,
    ready: Receiver<io::Result<Spare>>,
    thread: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    /// A spare was ordered and has not been taken.
    ordered: bool,
    folder: PathBuf,
    synced: bool,
}

impl Spares {
    /// `synced`: make durable what is prepared.
    pub(super) fn start(folder: &Path, synced: bool) -> Result<Self, Fatal> {
        let (orders, inbox) = channel();
        let (outbox, ready) = channel();
        let stopping = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            folder: folder.to_owned(),
            outbox,
            stopping: stopping.clone(),
            made: 0,
            synced,
        };
        let thread = std::thread::Builder::new()
            .name("raft-log-spare".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(|e| Fatal::with("start thread for spare log segments", e))?;
        Ok(Self {
            orders: Some(orders),
            ready,
            thread: Some(thread),
            stopping,
            ordered: false,
            folder: folder.to_owned(),
            synced,
        })
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread ends only with its owner, or by a panic, which `take` makes up for.
            let _ended = orders.send(order);
        }
    }

    /// Has a spare made unless one is there or under way.
    pub(super) fn prepare(&mut self, size: u64) {
        if !self.ordered {
            self.ordered = true;
            self.order(Order::Prepare { size });
        }
    }

    /// Has segments removed, oldest first. If no spare is there or under way, one of
    /// `size` bytes is kept as such.
    pub(super) fn retire(&mut self, segments: Vec<(PathBuf, u64)>, size: u64) {
        let recycle = !self.ordered && segments.iter().any(|(_, bytes)| *bytes == size);
        self.ordered |= recycle;
        self.order(Order::Retire { segments, recycle: recycle.then_some(size) });
    }

    /// A file of at least this size: the spare, waiting for it if it is being made, or a new one.
    ///
    /// # Errors
    /// When none can be made, as on a full disk.
    pub(super) fn take(&mut self, size_min: u64, size: u64) -> Result<Spare, Fatal> {
        if std::mem::take(&mut self.ordered)
            && let Ok(Ok(spare)) = self.ready.recv()
        {
            if spare.size >= size_min {
                return Ok(spare);
            }
            // Too small for one very large group. If it cannot be removed, the next start does it.
            let _left = std::fs::remove_file(&spare.path);
        }
        let path = self.folder.join(format!("now{SPARE_SUFFIX}"));
        let made = make(&path, size.max(size_min), self.synced, &|| true)
            .and_then(|spare| spare.ok_or_else(|| io::Error::from(io::ErrorKind::Interrupted)));
        made.map_err(|error| {
            let _left = std::fs::remove_file(&path);
            Fatal::with(format!("prepare log segment {}", path.display()), error)
        })
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened; nothing depends on it any more.
            let _panicked = thread.join();
        }
    }
}

struct Worker {
    folder: PathBuf,
    outbox: Sender<io::Result<Spare>>,
    stopping: Arc<AtomicBool>,
    made: u64,
    synced: bool,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Order>) {
        while let Ok(order) = inbox.recv() {
            match order {
                Order::Prepare { size } => {
                    let path = self.next_path();
                    match make(&path, size, self.synced, &|| !self.stopping.load(Ordering::Relaxed))
                    {
                        Ok(Some(spare)) => self.report(Ok(spare)),
                        Ok(None) => return,
                        Err(error) => {
                            // Gives the space back; what cannot be removed is at the next start.
                            let _left = std::fs::remove_file(&path);
                            self.report(Err(error));
                        }
                    }
                }
                Order::Retire { segments, recycle } => self.retire(segments, recycle),
            }
        }
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.folder.join(format!("next-{}{SPARE_SUFFIX}", self.made))
    }

    fn report(&self, spare: io::Result<Spare>) {
        // The owner has gone: the file is removed at the next start.
        let _ended = self.outbox.send(spare);
    }

    fn retire(&mut self, segments: Vec<(PathBuf, u64)>, mut recycle: Option<u64>) {
        for (path, size) in segments {
            if recycle == Some(size) {
                recycle = None;
                let recycled = self.recycle(&path, size);
                let stays = recycled.is_err();
                self.report(recycled);
                if stays {
                    return;
                }
                continue;
            }
            // One that stays is removed at the next start. Its successors must then stay
            // too, since a gap between segments is refused.
            if let Err(error) = std::fs::remove_file(&path).and_then(|()| sync_folder(&self.folder))
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove old log segment");
                if recycle.is_some() {
                    self.report(Err(error));
                }
                return;
            }
        }
    }

    fn recycle(&mut self, path: &Path, size: u64) -> io::Result<Spare> {
        let spare = self.next_path();
        std::fs::rename(path, &spare)?;
        sync_folder(&self.folder)?;
        Ok(Spare { file: LogFile::open(&spare)?, path: spare, size })
    }
}

/// Makes a file of zeros; `None` when it was told to give up.
fn make(
    path: &Path,
    size: u64,
    synced: bool,
    go_on: &dyn Fn() -> bool,
) -> io::Result<Option<Spare>> {
    let file = LogFile::create(path)?;
    Ok(file.fill(size, synced, go_on)?.then(|| Spare { file, path: path.to_owned(), size }))
}
