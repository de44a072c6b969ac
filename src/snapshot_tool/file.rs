//! A backup file: an etcd database, and behind it the SHA-256 of its bytes.

use super::SnapshotError;
use crate::bolt::Source;
use crate::error::Fatal;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

const HASH_LEN: u64 = 32;
/// Databases are whole disk sectors: what is left over is a checksum.
const SECTOR_LEN: u64 = 512;

pub(super) struct SnapshotFile {
    file: File,
    path: PathBuf,
    /// Bytes of the database.
    len: u64,
    has_hash: bool,
}

impl SnapshotFile {
    pub(super) fn open(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |e| SnapshotError::new(format!("open {}: {e}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(SnapshotError::new(format!("{} is no file", path.display())));
        }
        let has_hash = metadata.len() % SECTOR_LEN == HASH_LEN;
        let len = if has_hash { metadata.len() - HASH_LEN } else { metadata.len() };
        Ok(Self { file, path: path.to_owned(), len, has_hash })
    }

    /// Compares the checksum with that of the bytes.
    ///
    /// # Errors
    /// When there is none, or another.
    pub(super) fn check_hash(&self) -> Result<(), SnapshotError> {
        if !self.has_hash {
            return Err(SnapshotError::new("snapshot missing hash but --skip-hash-check=false"));
        }
        let mut stored = [0; HASH_LEN as usize];
        self.read_at(self.len, &mut stored)?;
        let computed = self.hash()?;
        if stored != computed {
            return Err(SnapshotError::new(format!(
                "expected sha256 {}, got {}: the file was truncated or changed",
                hexadecimal(&stored),
                hexadecimal(&computed)
            )));
        }
        Ok(())
    }

    fn hash(&self) -> Result<[u8; HASH_LEN as usize], SnapshotError> {
        let mut hash = Sha256::new();
        let mut part = vec![0; 1 << 20];
        let mut bytes = (&self.file).take(self.len);
        loop {
            match bytes.read(&mut part) {
                Ok(0) => return Ok(hash.finalize().into()),
                Ok(len) => hash.update(&part[..len]),
                Err(error) => {
                    let path = self.path.display();
                    return Err(SnapshotError::new(format!("read {path}: {error}")));
                }
            }
        }
    }
}

impl Source for SnapshotFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|e| Fatal::with(format!("read {} at {offset}", self.path.display()), e))
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
