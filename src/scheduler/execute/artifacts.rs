//! Outputs that are too large for the store: files in a folder of the worker, named by the SHA-256
//! of what they hold.
//!
//! A file appears under its name when it is complete and on disk, and never changes. The folder is
//! bounded: what was used longest ago goes first. So a digest in a record may outlive its file, and
//! nothing but people may depend on one. One process owns the folder.

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncWriteExt as _;

/// Files under this ending are being written, or were when the process ended.
const UNFINISHED: &str = ".unfinished";
const DIGEST_CHARS: usize = 64;
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// The folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Artifacts {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    bytes_max: u64,
    kept: Mutex<Kept>,
    /// Held while the process lives.
    _lock: File,
}

/// What is in the folder, by last use.
#[derive(Debug, Default)]
struct Kept {
    by_use: BTreeMap<u64, (String, u64)>,
    uses: HashMap<String, u64>,
    next_use: u64,
    /// Of all files, unfinished ones included.
    bytes: u64,
    next_file: u64,
}

impl Kept {
    fn add(&mut self, digest: &str, bytes: u64) {
        self.by_use.insert(self.next_use, (digest.to_owned(), bytes));
        self.uses.insert(digest.to_owned(), self.next_use);
        self.next_use += 1;
    }

    /// Takes out what was used longest ago.
    fn pop(&mut self) -> Option<String> {
        let (_, (digest, bytes)) = self.by_use.pop_first()?;
        self.uses.remove(&digest);
        self.bytes -= bytes;
        Some(digest)
    }

    /// Whether it is there; if so it was used just now.
    fn touch(&mut self, digest: &str) -> Option<u64> {
        let used = self.uses.get(digest)?;
        let (_, bytes) = self.by_use.remove(used)?;
        self.add(digest, bytes);
        Some(bytes)
    }
}

/// A complete file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Artifact {
    pub(super) digest: String,
    pub(super) bytes: u64,
}

/// Locks a file. A process that is going, or a child that has not become what it is to be, may
/// hold it for a moment more.
fn take(lock: &File) -> Result<(), TryLockError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

impl Artifacts {
    /// Takes the folder over, making it if need be, with at most so many bytes of files in it.
    ///
    /// # Errors
    /// When it cannot be read or written, and when another process has it.
    pub fn open(folder: &Path, bytes_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        take(&lock).map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other(format!(
                "{} belongs to another process: is there a worker of this name already?",
                folder.display()
            )),
            TryLockError::Error(error) => error,
        })?;
        let mut found: Vec<(SystemTime, String, u64)> = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(UNFINISHED) {
                std::fs::remove_file(entry.path())?;
            } else if is_digest(&name) {
                let about = entry.metadata()?;
                found.push((about.modified()?, name, about.len()));
            }
        }
        found.sort_unstable();
        let mut kept = Kept::default();
        for (_, digest, bytes) in found {
            kept.bytes += bytes;
            kept.add(&digest, bytes);
        }
        let folder = folder.to_owned();
        let inner = Inner { folder, bytes_max, kept: Mutex::new(kept), _lock: lock };
        let artifacts = Self { inner: Arc::new(inner) };
        artifacts.reserve(0);
        Ok(artifacts)
    }

    /// The file of a digest and its length in bytes; none if it is not, or no longer, there.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn read(&self, digest: &str) -> io::Result<Option<(File, u64)>> {
        let Some(bytes) = self.inner.kept.lock().touch(digest) else { return Ok(None) };
        match File::open(self.path(digest)) {
            Ok(file) => Ok(Some((file, bytes))),
            // Removed between the two lines, or by somebody else.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.folder.join(name)
    }

    /// Makes room for so many bytes more, and counts them; false if there is none even after all
    /// complete files are gone.
    fn reserve(&self, bytes: u64) -> bool {
        let mut kept = self.inner.kept.lock();
        while kept.bytes + bytes > self.inner.bytes_max {
            let Some(digest) = kept.pop() else { return false };
            if let Err(error) = std::fs::remove_file(self.path(&digest)) {
                tracing::warn!(%digest, %error, "failed to remove an artifact");
            }
        }
        kept.bytes += bytes;
        true
    }

    /// Begins a file of at most so many bytes; what is written beyond them is left out.
    pub(super) async fn begin(&self, bytes_max: u64) -> io::Result<Unfinished> {
        let number = {
            let mut kept = self.inner.kept.lock();
            kept.next_file += 1;
            kept.next_file
        };
        let path = self.path(&format!("{number}{UNFINISHED}"));
        let file = tokio::fs::File::create(&path).await?;
        let (artifacts, hash) = (self.clone(), Sha256::new());
        let place = Place { artifacts, path, bytes: 0, is_moved: false };
        Ok(Unfinished { file, hash, bytes_max, is_cut: false, place })
    }

    /// Stores bytes that are there as a whole.
    pub(super) async fn keep(&self, bytes: &[u8]) -> io::Result<Artifact> {
        let digest = hex(&Sha256::digest(bytes));
        if self.inner.kept.lock().touch(&digest).is_some() {
            return Ok(Artifact { digest, bytes: bytes.len() as u64 });
        }
        let mut unfinished = self.begin(bytes.len() as u64).await?;
        unfinished.write(bytes).await?;
        if unfinished.is_cut() {
            return Err(io::Error::other("no room for the artifact"));
        }
        unfinished.finish().await
    }
}

/// A file that is being written. Dropped unfinished, it goes.
pub(super) struct Unfinished {
    file: tokio::fs::File,
    hash: Sha256,
    bytes_max: u64,
    is_cut: bool,
    place: Place,
}

/// Bytes and a name that are given back unless the file becomes complete.
struct Place {
    artifacts: Artifacts,
    path: PathBuf,
    bytes: u64,
    is_moved: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_moved {
            self.artifacts.inner.kept.lock().bytes -= self.bytes;
            // A file that stays behind goes at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Unfinished {
    /// Whether something was left out.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = self.bytes_max - self.place.bytes;
        let taken = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        self.is_cut |= taken < bytes.len();
        if taken == 0 {
            return Ok(());
        }
        if !self.place.artifacts.reserve(taken as u64) {
            self.is_cut = true;
            self.bytes_max = self.place.bytes;
            return Ok(());
        }
        self.place.bytes += taken as u64;
        self.hash.update(&bytes[..taken]);
        self.file.write_all(&bytes[..taken]).await
    }

    /// Gives the file its name.
    pub(super) async fn finish(mut self) -> io::Result<Artifact> {
        self.file.flush().await?;
        self.file.sync_data().await?;
        let digest = hex(&self.hash.finalize());
        let artifact = Artifact { digest, bytes: self.place.bytes };
        let artifacts = self.place.artifacts.clone();
        let mut kept = artifacts.inner.kept.lock();
        if kept.touch(&artifact.digest).is_none() {
            std::fs::rename(&self.place.path, artifacts.path(&artifact.digest))?;
            self.place.is_moved = true;
            kept.add(&artifact.digest, artifact.bytes);
        }
        // Before the place gives its bytes back.
        drop(kept);
        Ok(artifact)
    }
}

fn is_digest(name: &str) -> bool {
    name.len() == DIGEST_CHARS && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use tempfile::TempDir;

    fn names(folder: &TempDir) -> Vec<String> {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    fn content(artifacts: &Artifacts, digest: &str) -> Option<Vec<u8>> {
        let (mut file, length) = artifacts.read(digest).unwrap()?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, length);
        Some(content)
    }

    #[tokio::test]
    async fn a_file_is_named_by_its_content_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 1 << 20).unwrap();
        let kept = artifacts.keep(b"hello").await.unwrap();
        let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!((kept.digest.as_str(), kept.bytes), (sha, 5));
        let mut parts = artifacts.begin(100).await.unwrap();
        parts.write(b"hel").await.unwrap();
        parts.write(b"lo").await.unwrap();
        assert_eq!(parts.finish().await.unwrap(), kept, "the same once more");
        assert_eq!(names(&folder), [sha]);
        drop(artifacts);
        let artifacts = Artifacts::open(folder.path(), 1 << 20).unwrap();
        assert_eq!(content(&artifacts, sha).unwrap(), b"hello");
        assert_eq!(artifacts.inner.kept.lock().bytes, 5);
        for digest in ["", "../lock", "lock", &"0".repeat(64)] {
            assert!(artifacts.read(digest).unwrap().is_none(), "{digest}");
        }
    }

    #[tokio::test]
    async fn what_was_used_longest_ago_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 10).unwrap();
        let first = artifacts.keep(b"aaaa").await.unwrap().digest;
        let second = artifacts.keep(b"bbbb").await.unwrap().digest;
        assert!(content(&artifacts, &first).is_some());
        let third = artifacts.keep(b"cccc").await.unwrap().digest;
        assert!(content(&artifacts, &second).is_none(), "the first was read since");
        assert!(content(&artifacts, &first).is_some() && content(&artifacts, &third).is_some());
        assert_eq!(names(&folder).len(), 2);
        drop(artifacts);
        let artifacts = Artifacts::open(folder.path(), 4).unwrap();
        assert_eq!(names(&folder).len(), 1, "a smaller folder from now on");
        assert_eq!(artifacts.inner.kept.lock().bytes, 4);
    }

    #[tokio::test]
    async fn a_file_is_cut_at_its_limit_and_at_that_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(folder.path(), 10).unwrap();
        let mut file = artifacts.begin(4).await.unwrap();
        file.write(b"abc").await.unwrap();
        assert!(!file.is_cut());
        file.write(b"def").await.unwrap();
        assert!(file.is_cut());
        let kept = file.finish().await.unwrap();
        assert_eq!(content(&artifacts, &kept.digest).unwrap(), b"abcd");
        let mut file = artifacts.begin(100).await.unwrap();
        file.write(b"0123456789").await.unwrap();
        assert!(!file.is_cut() && content(&artifacts, &kept.digest).is_none());
        file.write(b"x").await.unwrap();
        assert!(file.is_cut());
        drop(file);
        assert_eq!((names(&folder), artifacts.inner.kept.lock().bytes), (vec![], 0));
    }

    #[tokio::test]
    async fn leftovers_go_and_a_second_owner_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("7.unfinished"), "x").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "x").unwrap();
        let _artifacts = Artifacts::open(folder.path(), 10).unwrap();
        assert_eq!(names(&folder), ["notes.txt"], "what is not ours stays");
        let error = Artifacts::open(folder.path(), 10).unwrap_err().to_string();
        assert!(error.contains("belongs to another process"), "{error}");
    }
}
