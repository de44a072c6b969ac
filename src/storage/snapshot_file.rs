//! Stored snapshots: files of checked blocks in `member/snap`, each a whole state at one index.
//!
//! A file is written under a temporary name and gets its real one, its index in hexadecimal,
//! only when it is complete and durable; so a file that has its name but cannot be read is
//! damaged, which is an error and never skipped. What the blocks mean is their writer's business.

use crate::error::Fatal;
use crate::types::{Index, Term};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: [u8; 8] = *b"quoinsnp";
const FORMAT: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 8 + 4;
/// Stands where a block's length would: the footer follows.
const END: u32 = u32::MAX;
/// No block is larger: writers cut at a small part of it, but one record may be a whole value.
const BLOCK_MAX: u32 = 64 << 20;

/// The folder with all snapshots of a member.
pub struct SnapshotStore {
    folder: PathBuf,
    /// Tells temporary files of one process apart.
    staged: AtomicU64,
}

impl SnapshotStore {
    /// Opens the folder and removes what unfinished writers left behind.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: PathBuf) -> Result<Self, Fatal> {
        let store = Self { folder, staged: AtomicU64::new(0) };
        for path in store.files("tmp")? {
            fs::remove_file(&path).map_err(|e| failed("remove", &path, e))?;
        }
        Ok(store)
    }

    fn files(&self, extension: &str) -> Result<Vec<PathBuf>, Fatal> {
        let mut files = Vec::new();
        let entries = fs::read_dir(&self.folder).map_err(|e| failed("read", &self.folder, e))?;
        for entry in entries {
            let path = entry.map_err(|e| failed("read", &self.folder, e))?.path();
            if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Begins a snapshot of the state at (index, term).
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn stage(&self, index: Index, term: Term) -> Result<Staging, Fatal> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{index:016x}-{number}.tmp"));
        let target = self.folder.join(format!("{index:016x}.snap"));
        let file = File::create(&path).map_err(|e| failed("create", &path, e))?;
        let mut staging = Staging {
            file: BufWriter::with_capacity(1 << 20, file),
            temporary: Temporary { path, target },
            blocks: 0,
            bytes: 0,
        };
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORMAT.to_be_bytes());
        header.extend_from_slice(&index.to_be_bytes());
        header.extend_from_slice(&term.to_be_bytes());
        header.extend_from_slice(&crc32c::crc32c(&header).to_be_bytes());
        staging.write(&header)?;
        Ok(staging)
    }

    /// Opens the newest snapshot.
    ///
    /// # Errors
    /// When it cannot be read or is damaged; older ones are no substitute, since the log may be
    /// cut behind them.
    pub fn newest(&self) -> Result<Option<SnapshotReader>, Fatal> {
        match self.files("snap")?.pop() {
            Some(path) => SnapshotReader::open(&path).map(Some),
            None => Ok(None),
        }
    }

    /// Removes all but the newest `keep` snapshots.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn keep_newest(&self, keep: usize) -> Result<(), Fatal> {
        let files = self.files("snap")?;
        for path in &files[..files.len().saturating_sub(keep)] {
            fs::remove_file(path).map_err(|e| failed("remove", path, e))?;
        }
        Ok(())
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Fatal {
    Fatal::with(format!("{what} {}", path.display()), error)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Removes its file when dropped before it got its real name.
struct Temporary {
    path: PathBuf,
    target: PathBuf,
}

impl Temporary {
    fn publish(&self) -> Result<(), Fatal> {
        fs::rename(&self.path, &self.target)
            .and_then(|()| sync_folder(&self.target))
            .map_err(|e| failed("publish snapshot", &self.target, e))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Absent after publication; else the next start removes what could not be removed here.
        let _absent = fs::remove_file(&self.path);
    }
}

/// A snapshot that is being written.
pub struct Staging {
    file: BufWriter<File>,
    temporary: Temporary,
    blocks: u64,
    bytes: u64,
}

impl Staging {
    /// # Errors
    /// When the disk fails or is full, or the block is too large to be read again.
    pub fn write_block(&mut self, block: &[u8]) -> Result<(), Fatal> {
        let length = u32::try_from(block.len()).ok().filter(|length| *length <= BLOCK_MAX);
        let Some(length) = length else {
            return Err(Fatal::new(format!("write snapshot: a block has {} bytes", block.len())));
        };
        let length = length.to_be_bytes();
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), block);
        self.write(&length)?;
        self.write(&checksum.to_be_bytes())?;
        self.write(block)?;
        self.blocks += 1;
        self.bytes += block.len() as u64;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        self.file.write_all(bytes).map_err(|e| failed("write", &self.temporary.path, e))
    }

    /// Completes the file and makes its content durable, still under its temporary name.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn finish(mut self) -> Result<StagedSnapshot, Fatal> {
        let mut footer = Vec::with_capacity(24);
        footer.extend_from_slice(&END.to_be_bytes());
        footer.extend_from_slice(&self.blocks.to_be_bytes());
        footer.extend_from_slice(&self.bytes.to_be_bytes());
        footer.extend_from_slice(&crc32c::crc32c(&footer).to_be_bytes());
        self.write(&footer)?;
        let Self { file, temporary, bytes, .. } = self;
        file.into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .map_err(|e| failed("write", &temporary.path, e))?;
        let reader = SnapshotReader::open(&temporary.path)?;
        Ok(StagedSnapshot { temporary, reader, bytes })
    }
}

/// A complete snapshot that does not count yet. Dropping it removes it.
pub struct StagedSnapshot {
    temporary: Temporary,
    reader: SnapshotReader,
    bytes: u64,
}

impl StagedSnapshot {
    /// Gives the snapshot its name: from now on it is found at start.
    ///
    /// # Errors
    /// When the file cannot be renamed durably.
    pub fn publish(&mut self) -> Result<(), Fatal> {
        self.temporary.publish()
    }

    /// Removes it again after it was published and is needed no more.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove(&mut self) -> Result<(), Fatal> {
        fs::remove_file(&self.temporary.target)
            .map_err(|e| failed("remove", &self.temporary.target, e))
    }

    /// Bytes of all blocks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// As [`SnapshotReader::next_block`].
    pub fn next_block(&mut self) -> Result<Option<Bytes>, Fatal> {
        self.reader.next_block()
    }
}

/// Reads a snapshot's blocks in order and checks each.
pub struct SnapshotReader {
    file: BufReader<File>,
    path: PathBuf,
    index: Index,
    term: Term,
    offset: u64,
    /// Where the part begins that is being read: header, block or footer.
    part: u64,
    blocks: u64,
    bytes: u64,
    ended: bool,
}

impl SnapshotReader {
    /// # Errors
    /// When the file cannot be read, is no snapshot, or is of another format.
    pub fn open(path: &Path) -> Result<Self, Fatal> {
        let file = File::open(path).map_err(|e| failed("open", path, e))?;
        let mut reader = Self {
            file: BufReader::with_capacity(1 << 20, file),
            path: path.to_owned(),
            index: 0,
            term: 0,
            offset: 0,
            part: 0,
            blocks: 0,
            bytes: 0,
            ended: false,
        };
        let header: [u8; HEADER] = reader.read()?;
        let (body, checksum) = header.split_at(HEADER - 4);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if body[..8] != MAGIC || crc32c::crc32c(body).to_be_bytes() != checksum {
            return Err(reader.damaged("its header"));
        }
        if body[8..12] != FORMAT.to_be_bytes() {
            let format = number(&body[8..12]);
            return Err(Fatal::new(format!(
                "read snapshot {}: its format {format} at offset 8 is not known",
                path.display()
            )));
        }
        reader.index = number(&body[12..20]);
        reader.term = number(&body[20..28]);
        Ok(reader)
    }

    pub fn index(&self) -> Index {
        self.index
    }

    pub fn term(&self) -> Term {
        self.term
    }

    /// The next block, or `None` at the end.
    ///
    /// # Errors
    /// When a checksum does not match, or the file ends too early or too late.
    pub fn next_block(&mut self) -> Result<Option<Bytes>, Fatal> {
        if self.ended {
            return Ok(None);
        }
        self.part = self.offset;
        let length: [u8; 4] = self.read()?;
        match u32::from_be_bytes(length) {
            END => self.footer().map(|()| None),
            bytes if bytes > BLOCK_MAX => Err(self.damaged("a block's length")),
            bytes => {
                let checksum: [u8; 4] = self.read()?;
                let mut block = vec![0; bytes as usize];
                self.read_into(&mut block)?;
                let found = crc32c::crc32c_append(crc32c::crc32c(&length), &block);
                if found.to_be_bytes() != checksum {
                    return Err(self.damaged("a block"));
                }
                self.blocks += 1;
                self.bytes += u64::from(bytes);
                Ok(Some(block.into()))
            }
        }
    }

    fn footer(&mut self) -> Result<(), Fatal> {
        let footer: [u8; 20] = self.read()?;
        let mut expected = END.to_be_bytes().to_vec();
        expected.extend_from_slice(&self.blocks.to_be_bytes());
        expected.extend_from_slice(&self.bytes.to_be_bytes());
        expected.extend_from_slice(&crc32c::crc32c(&expected).to_be_bytes());
        if footer[..] != expected[4..] {
            return Err(self.damaged("its footer"));
        }
        let mut rest = [0];
        let more = self.file.read(&mut rest).map_err(|e| failed("read", &self.path, e))?;
        if more > 0 {
            self.part = self.offset;
            return Err(self.damaged("bytes behind its footer"));
        }
        self.ended = true;
        Ok(())
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], Fatal> {
        let mut bytes = [0; N];
        self.read_into(&mut bytes)?;
        Ok(bytes)
    }

    fn read_into(&mut self, bytes: &mut [u8]) -> Result<(), Fatal> {
        match self.file.read_exact(bytes) {
            Ok(()) => {
                self.offset += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged("its end, which comes too early"))
            }
            Err(error) => Err(failed("read", &self.path, error)),
        }
    }

    fn damaged(&self, what: &str) -> Fatal {
        Fatal::new(format!(
            "read snapshot {}: {what} is damaged at offset {}",
            self.path.display(),
            self.part
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(folder: &Path) -> PathBuf {
        let store = SnapshotStore::open(folder.to_owned()).unwrap();
        let mut staging = store.stage(7, 3).unwrap();
        staging.write_block(b"first").unwrap();
        staging.write_block(b"").unwrap();
        staging.write_block(b"third").unwrap();
        staging.finish().unwrap().publish().unwrap();
        folder.join("0000000000000007.snap")
    }

    fn read_all(path: &Path) -> Result<Vec<Bytes>, Fatal> {
        let mut reader = SnapshotReader::open(path)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block()? {
            blocks.push(block);
        }
        Ok(blocks)
    }

    #[test]
    fn what_is_published_is_read_again_and_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = stored(folder.path());
        assert_eq!(read_all(&path).unwrap(), [&b"first"[..], b"", b"third"]);
        fs::write(folder.path().join("0000000000000009-0.tmp"), b"half").unwrap();
        let store = SnapshotStore::open(folder.path().to_owned()).unwrap();
        let newest = store.newest().unwrap().unwrap();
        assert_eq!((newest.index(), newest.term()), (7, 3));
        drop(store.stage(8, 3).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the snapshot is left");
    }

    /// The refusal of these bytes as the snapshot at `path`.
    fn refusal(path: &Path, bytes: &[u8]) -> String {
        fs::write(path, bytes).unwrap();
        let refusal = read_all(path).expect_err("refused").to_string();
        assert!(refusal.contains(path.to_str().unwrap()), "{refusal}");
        refusal
    }

    /// Where the parts of the file that [`stored`] makes begin: header, three blocks, footer.
    const PARTS: [usize; 5] = [0, 32, 45, 53, 66];
    const LENGTH: usize = 90;

    fn part_of(offset: usize) -> usize {
        PARTS.into_iter().rfind(|part| *part <= offset).unwrap()
    }

    #[test]
    fn every_truncation_is_refused_with_the_part_that_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = stored(folder.path());
        let whole = fs::read(&path).unwrap();
        assert_eq!(whole.len(), LENGTH);
        for length in 0..whole.len() {
            let refusal = refusal(&path, &whole[..length]);
            let expected = format!("too early is damaged at offset {}", part_of(length));
            assert!(refusal.contains(&expected), "cut at {length}: {refusal}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused_with_the_part_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = stored(folder.path());
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refusal = refusal(&path, &flipped);
            let expected = format!("damaged at offset {}", part_of(bit / 8));
            assert!(refusal.ends_with(&expected), "bit {bit}: {refusal}");
        }
    }

    #[test]
    fn a_foreign_file_and_bytes_behind_the_footer_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = stored(folder.path());
        let whole = fs::read(&path).unwrap();
        let foreign = refusal(&path, &b"not a snapshot at all ".repeat(9));
        assert!(foreign.ends_with("its header is damaged at offset 0"), "{foreign}");
        let empty = refusal(&path, b"");
        assert!(empty.ends_with("too early is damaged at offset 0"), "{empty}");
        let longer = refusal(&path, &[&whole[..], b"x"].concat());
        assert!(longer.ends_with("bytes behind its footer is damaged at offset 90"), "{longer}");
    }

    #[test]
    fn another_format_is_refused_by_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = stored(folder.path());
        let mut newer = fs::read(&path).unwrap();
        newer[8..12].copy_from_slice(&2_u32.to_be_bytes());
        let checksum = crc32c::crc32c(&newer[..HEADER - 4]).to_be_bytes();
        newer[HEADER - 4..HEADER].copy_from_slice(&checksum);
        let refusal = refusal(&path, &newer);
        assert!(refusal.ends_with("its format 2 at offset 8 is not known"), "{refusal}");
    }

    /// Blocks that are whole in themselves, but not the ones that the footer counts.
    #[test]
    fn a_missing_block_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = stored(folder.path());
        let whole = fs::read(&path).unwrap();
        let refusal = refusal(&path, &[&whole[..45], &whole[53..]].concat());
        assert!(refusal.ends_with("its footer is damaged at offset 58"), "{refusal}");
    }
}
