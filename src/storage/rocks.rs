//! The RocksDB engine: one column family for each space, without RocksDB's own log.
//!
//! The raft log is the only write-ahead log. What a crash loses is therefore the suffix of whole
//! batches since the last flush; flushes are atomic over all families, so that the applied index
//! never comes apart from the data it stands for. RocksDB flushes by itself when its write
//! buffers are full and on [`Engine::flush`]. It leaves out repair: an error of the background
//! work makes every later write fail, and the node stops.

use super::{Engine, Flow, KV_SUFFIX_LEN, Read, Space, Value, Visitor, WriteBatch};
use crate::error::Fatal;
use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    FlushOptions, Options, ReadOptions, SliceTransform, WriteOptions,
};
use std::path::Path;

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct RocksOptions {
    /// Uncompressed blocks kept for reads. Small beside the page cache, which holds the files.
    pub block_cache_bytes: usize,
    /// All write buffers together; above it the oldest are flushed.
    pub write_buffers_bytes: usize,
    /// One write buffer of the families that hold users' data.
    pub write_buffer_bytes: usize,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 64 << 20,
            write_buffers_bytes: 128 << 20,
            write_buffer_bytes: 32 << 20,
        }
    }
}

/// Write buffers of one family before writes stop: enough to go on while some are flushed.
const WRITE_BUFFERS_MAX: i32 = 6;
/// Background threads: one flushes while another compacts, also on two cores.
const BACKGROUND_JOBS: i32 = 2;
/// Flushed files before they are merged: merging costs more than the few more files to look into.
const LEVEL_ZERO_FILES: i32 = 8;
/// Bytes a second that background work may write, so that it does not starve the raft log's syncs.
const BACKGROUND_BYTES_PER_SECOND: i64 = 256 << 20;
const COMPRESSION: [DBCompressionType; 7] = {
    let mut levels = [DBCompressionType::Lz4; 7];
    levels[0] = DBCompressionType::None;
    levels
};
/// Share of a write buffer that tells which user keys it holds.
const WRITE_BUFFER_FILTER: f64 = 0.05;
/// Files kept open; each costs memory for its index.
const OPEN_FILES_MAX: i32 = 512;

/// See the module's comment.
pub struct RocksEngine {
    db: DB,
    write_options: WriteOptions,
}

impl RocksEngine {
    /// Opens or creates the database in this folder.
    ///
    /// # Errors
    /// When RocksDB cannot open it: damage, a lock held by another process, a foreign folder.
    pub fn open(folder: &Path, options: RocksOptions) -> Result<Self, Fatal> {
        let mut database = Options::default();
        database.create_if_missing(true);
        database.create_missing_column_families(true);
        database.set_atomic_flush(true);
        database.set_db_write_buffer_size(options.write_buffers_bytes);
        database.set_max_background_jobs(BACKGROUND_JOBS);
        database.set_ratelimiter(BACKGROUND_BYTES_PER_SECOND, 100_000, 10);
        database.set_max_open_files(OPEN_FILES_MAX);
        database.set_bytes_per_sync(1 << 20);
        database.set_keep_log_file_num(2);
        database.set_max_log_file_size(8 << 20);
        database.set_paranoid_checks(true);
        // Everything goes through one writer thread; concurrency inside a batch gains nothing.
        database.set_allow_concurrent_memtable_write(false);
        let cache = Cache::new_lru_cache(options.block_cache_bytes);
        let families = Space::ALL
            .map(|space| ColumnFamilyDescriptor::new(space.name(), family(space, options, &cache)));
        let db = DB::open_cf_descriptors(&database, folder, families)
            .map_err(|e| Fatal::with(format!("open database {}", folder.display()), e))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        Ok(Self { db, write_options })
    }

    fn family(&self, space: Space) -> Result<&ColumnFamily, Fatal> {
        self.db
            .cf_handle(space.name())
            .ok_or_else(|| Fatal::new(format!("find column family {}", space.name())))
    }

    fn scan_with(
        &self,
        mut options: ReadOptions,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        options.set_total_order_seek(true);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut pairs = self.db.raw_iterator_cf_opt(self.family(space)?, options);
        pairs.seek(start);
        while let Some((key, value)) = pairs.item() {
            match visit(key, Value::Borrowed(value)) {
                Flow::Next => pairs.next(),
                Flow::Seek(target) => pairs.seek(target),
                Flow::Stop => return Ok(()),
            }
        }
        pairs.status().map_err(|e| Fatal::with(format!("scan {}", space.name()), e))
    }

    fn families(&self) -> Result<Vec<&ColumnFamily>, Fatal> {
        Space::ALL.into_iter().map(|space| self.family(space)).collect()
    }
}

fn family(space: Space, options: RocksOptions, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 << 10);
    table.set_format_version(5);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut family = Options::default();
    let is_large = matches!(space, Space::Kv | Space::Log);
    family.set_write_buffer_size(if is_large { options.write_buffer_bytes } else { 4 << 20 });
    family.set_max_write_buffer_number(WRITE_BUFFERS_MAX);
    family.set_level_compaction_dynamic_level_bytes(true);
    // At all levels: measured with random values, zstd at the last one cost a tenth of all CPU.
    family.set_compression_type(DBCompressionType::Lz4);
    // But not when flushed: such files are merged soon, and everything is written to them.
    family.set_compression_per_level(&COMPRESSION);
    family.set_level_zero_file_num_compaction_trigger(LEVEL_ZERO_FILES);
    if space == Space::Kv {
        // A put of a new key, and history, need not look where the user key does not occur.
        table.set_bloom_filter(10.0, false);
        table.set_whole_key_filtering(false);
        family.set_prefix_extractor(SliceTransform::create(
            "quoin.user-key",
            |key| key.split_at(key.len() - KV_SUFFIX_LEN).0,
            Some(|key| key.len() > KV_SUFFIX_LEN),
        ));
        family.set_memtable_prefix_bloom_ratio(WRITE_BUFFER_FILTER);
    }
    family.set_block_based_table_factory(&table);
    family
}

impl Read for RocksEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        let value = self.db.get_pinned_cf(self.family(space)?, key);
        let value = value.map_err(|e| Fatal::with(format!("read {}", space.name()), e))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        self.scan_with(ReadOptions::default(), space, start, end, visit)
    }

    fn scan_past_cache(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        self.scan_with(options, space, start, end, visit)
    }

    fn first(
        &self,
        space: Space,
        key: &[u8],
        prefix_len: usize,
        visit: &mut dyn FnMut(&[u8], Value<'_>),
    ) -> Result<(), Fatal> {
        let mut options = ReadOptions::default();
        if space == Space::Kv && key.len() == prefix_len + KV_SUFFIX_LEN {
            // Files and write buffers that hold no such prefix are passed over.
            options.set_prefix_same_as_start(true);
        } else {
            options.set_total_order_seek(true);
        }
        let mut pairs = self.db.raw_iterator_cf_opt(self.family(space)?, options);
        pairs.seek(key);
        if let Some((found, value)) = pairs.item() {
            if found.starts_with(&key[..prefix_len]) {
                visit(found, Value::Borrowed(value));
            }
            return Ok(());
        }
        pairs.status().map_err(|e| Fatal::with(format!("seek {}", space.name()), e))
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        let families = self.families()?;
        let mut writes = rocksdb::WriteBatch::default();
        for (space, key, value) in batch.into_writes() {
            let family = families[space as usize];
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        self.db
            .write_opt(writes, &self.write_options)
            .map_err(|e| Fatal::with("write batch to database", e))
    }

    fn clear(&self) -> Result<(), Fatal> {
        let failed = |e| Fatal::with("clear database", e);
        let families = self.families()?;
        let mut writes = rocksdb::WriteBatch::default();
        let mut filled = Vec::new();
        for family in families {
            let mut options = ReadOptions::default();
            options.set_total_order_seek(true);
            let mut pairs = self.db.raw_iterator_cf_opt(family, options);
            pairs.seek_to_last();
            if let Some(last) = pairs.key() {
                let mut behind = last.to_vec();
                behind.push(0);
                writes.delete_range_cf(family, &[][..], &behind[..]);
                filled.push((family, behind));
            }
            pairs.status().map_err(failed)?;
        }
        self.db.write_opt(writes, &self.write_options).map_err(failed)?;
        self.flush()?;
        for (family, behind) in filled {
            // The content is gone for readers; this gives its space back, most of it unread.
            self.db.delete_file_in_range_cf(family, &[][..], &behind[..]).map_err(failed)?;
            self.db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Fatal> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&self.families()?, &options)
            .map_err(|e| Fatal::with("flush database", e))
    }

    fn is_volatile(&self) -> bool {
        false
    }

    fn size(&self) -> (u64, u64) {
        let sum = |name: &str| -> u64 {
            let families = self.families().unwrap_or_default();
            let values = families.into_iter().map(|f| self.db.property_int_value_cf(f, name));
            values.map(|value| value.ok().flatten().unwrap_or(0)).sum()
        };
        let buffers = sum("rocksdb.cur-size-all-mem-tables");
        let files = sum("rocksdb.total-sst-files-size");
        (files + buffers, sum("rocksdb.live-sst-files-size") + buffers)
    }

    fn is_stalled(&self) -> bool {
        let stopped = self.db.property_int_value("rocksdb.is-write-stopped");
        // A database that cannot say fails its next write, and the node with it.
        matches!(stopped, Ok(Some(1..)))
    }

    fn name(&self) -> &'static str {
        "rocksdb"
    }
}
