//! Engines for tests: a mirror that does everything on two engines and panics on the first
//! difference, and the list of all engines that a script should run on.

use super::memory::MemoryEngine;
use super::{Engine, Read, Space, Value, Visitor, WriteBatch};
use crate::error::Fatal;
use bytes::Bytes;
use parking_lot::RwLock;
use std::sync::Arc;

/// Two engines that must never differ. Answers are those of the first.
pub(crate) struct Mirror {
    first: Box<dyn Engine>,
    second: Box<dyn Engine>,
    /// Keeps a write from coming between the two halves of a read.
    gate: RwLock<()>,
}

impl Mirror {
    /// Both must be empty, or equal.
    pub(crate) fn new(first: Box<dyn Engine>, second: Box<dyn Engine>) -> Self {
        Self { first, second, gate: RwLock::new(()) }
    }
}

impl Read for Mirror {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let _gate = self.gate.read();
        let first = self.first.get(space, key)?;
        let second = self.second.get(space, key)?;
        assert_eq!(first, second, "get {space:?} {}", key.escape_ascii());
        Ok(first)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        let _gate = self.gate.read();
        let mut visits = Vec::new();
        self.first.scan(space, start, end, &mut |key, value| {
            let flow = visit(key, value);
            visits.push((key.to_vec(), value.to_bytes(), flow.clone()));
            flow
        })?;
        let mut visits = visits.into_iter();
        self.second.scan(space, start, end, &mut |key, value| {
            let (first_key, first_value, flow) = visits
                .next()
                .unwrap_or_else(|| panic!("scan {space:?}: excess key {}", key.escape_ascii()));
            assert_eq!(first_key.escape_ascii().to_string(), key.escape_ascii().to_string());
            assert_eq!(first_value, value.as_slice(), "value of {}", key.escape_ascii());
            flow
        })?;
        if let Some((key, _, flow)) = visits.next() {
            panic!("scan {space:?}: missing key {}, {flow:?}", key.escape_ascii());
        }
        Ok(())
    }

    fn first(
        &self,
        space: Space,
        key: &[u8],
        prefix_len: usize,
        visit: &mut dyn FnMut(&[u8], Value<'_>),
    ) -> Result<(), Fatal> {
        let _gate = self.gate.read();
        let mut first = None;
        self.first.first(space, key, prefix_len, &mut |found, value| {
            first = Some((found.to_vec(), value.to_bytes()));
            visit(found, value);
        })?;
        let mut second = None;
        self.second.first(space, key, prefix_len, &mut |found, value| {
            second = Some((found.to_vec(), value.to_bytes()));
        })?;
        assert_eq!(first, second, "first {space:?} {}", key.escape_ascii());
        Ok(())
    }
}

impl Engine for Mirror {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let _gate = self.gate.write();
        self.first.write(batch.clone())?;
        self.second.write(batch)
    }

    fn clear(&self) -> Result<(), Fatal> {
        let _gate = self.gate.write();
        self.first.clear()?;
        self.second.clear()?;
        for space in Space::ALL {
            for engine in [&self.first, &self.second] {
                engine.scan(space, b"", None, &mut |key, _| {
                    panic!("{} is in {space:?} after clear", key.escape_ascii())
                })?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Fatal> {
        self.first.flush()?;
        self.second.flush()
    }

    fn is_volatile(&self) -> bool {
        self.first.is_volatile() || self.second.is_volatile()
    }

    fn is_stalled(&self) -> bool {
        self.first.is_stalled() || self.second.is_stalled()
    }

    fn size(&self) -> (u64, u64) {
        self.first.size()
    }

    fn name(&self) -> &'static str {
        "mirror"
    }
}

/// An engine with the temporary folder it lives in.
#[cfg(feature = "rocksdb")]
struct InFolder {
    engine: super::rocks::RocksEngine,
    /// Removed after the engine is closed.
    _folder: tempfile::TempDir,
}

#[cfg(feature = "rocksdb")]
impl InFolder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let options = super::rocks::RocksOptions::default();
        let engine = super::rocks::RocksEngine::open(&folder.path().join("db"), options);
        let engine = engine.expect("open an engine");
        Self { engine, _folder: folder }
    }
}

#[cfg(feature = "rocksdb")]
impl Read for InFolder {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        self.engine.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.engine.scan(space, start, end, visit)
    }

    fn scan_past_cache(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.engine.scan_past_cache(space, start, end, visit)
    }

    fn first(
        &self,
        space: Space,
        key: &[u8],
        prefix_len: usize,
        visit: &mut dyn FnMut(&[u8], Value<'_>),
    ) -> Result<(), Fatal> {
        self.engine.first(space, key, prefix_len, visit)
    }
}

#[cfg(feature = "rocksdb")]
impl Engine for InFolder {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        self.engine.write(batch)
    }

    fn clear(&self) -> Result<(), Fatal> {
        self.engine.clear()
    }

    fn flush(&self) -> Result<(), Fatal> {
        self.engine.flush()
    }

    fn is_volatile(&self) -> bool {
        self.engine.is_volatile()
    }

    fn is_stalled(&self) -> bool {
        self.engine.is_stalled()
    }

    fn size(&self) -> (u64, u64) {
        self.engine.size()
    }

    fn name(&self) -> &'static str {
        self.engine.name()
    }
}

/// Makes a new empty engine.
pub(crate) type Maker = fn() -> Arc<dyn Engine>;

/// All engines that a script should run on: memory, a mirror, and RocksDB where it is built
/// in. The mirror is of memory and RocksDB, or of memory twice.
pub(crate) const ENGINE_MAKERS: &[Maker] = &[
    || Arc::new(MemoryEngine::new()),
    #[cfg(feature = "rocksdb")]
    || Arc::new(InFolder::new()),
    #[cfg(feature = "rocksdb")]
    || Arc::new(Mirror::new(Box::new(MemoryEngine::new()), Box::new(InFolder::new()))),
    #[cfg(not(feature = "rocksdb"))]
    || Arc::new(Mirror::new(Box::new(MemoryEngine::new()), Box::new(MemoryEngine::new()))),
];

/// One new engine of each kind, with its name.
pub(crate) fn test_engines() -> impl Iterator<Item = (&'static str, Arc<dyn Engine>)> {
    ENGINE_MAKERS.iter().map(|make| make()).map(|engine| (engine.name(), engine))
}
