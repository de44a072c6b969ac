//! Builds a database in one pass over its sorted pairs.
//!
//! Pages leave in the order of their numbers as soon as they are full; what stays in memory is one
//! unfinished page for each level of the tree. Only the two meta pages are known last: their place
//! is left free, and [`Writer::finish`] returns them for the owner to write there.

use super::format::{
    ELEMENT, ELEMENT_IS_BUCKET, KIND_BRANCH, KIND_FREELIST, KIND_LEAF, Meta, PAGE_HEAD, PAGE_LEN,
    bucket_head, page_head,
};
use crate::error::Fatal;

/// Takes whole pages, one after the other, from the beginning of the file on.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), Fatal> + 'a;

/// Elements of a page are counted in 16 bits, of which bbolt keeps the highest number free.
const ELEMENTS_MAX: usize = 0xFFFE;
/// A bucket whose page has at most so many bytes has it within its pair, as in bbolt.
const INLINE_MAX: usize = PAGE_LEN / 4;
/// Two at least, as bbolt has it, however long their keys are: with one alone a level would be no shorter
/// than the one below, and the tree would have no end.
const BRANCH_ELEMENTS_MIN: usize = 2;
/// The longest key that bbolt takes.
const KEY_LEN_MAX: usize = 32 << 10;
/// The longest value that bbolt takes, less a page for what stands around it.
const VALUE_LEN_MAX: usize = (1 << 31) - 2 - PAGE_LEN;

/// A database on its way into a file. Buckets are written one after the other, in the order of
/// their names, each from its pairs in the order of their keys.
pub struct Writer<'a> {
    sink: &'a mut Sink<'a>,
    /// The number of the next page.
    next: u64,
    /// Unfinished pages of the bucket: its leaf first, then branches upwards.
    levels: Vec<Level>,
    /// The bucket that is being written.
    bucket: Option<Vec<u8>>,
    last_key: Option<Vec<u8>>,
    /// Names of the finished buckets, and what the root holds of them.
    buckets: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The unfinished page of one level.
#[derive(Default)]
struct Level {
    elements: Vec<Element>,
    /// Keys and values.
    data: Vec<u8>,
    /// Whether a page of this level was written before.
    has_siblings: bool,
}

struct Element {
    key_len: u32,
    /// Of a leaf's element.
    flags: u32,
    value_len: u32,
    /// Of a branch's element.
    page: u64,
    /// Where the key begins in the data.
    at: usize,
}

impl Level {
    fn len(&self) -> usize {
        PAGE_HEAD + self.elements.len() * ELEMENT + self.data.len()
    }

    fn len_with(&self, data_len: usize) -> usize {
        self.len() + ELEMENT + data_len
    }

    fn is_full_for(&self, data_len: usize, elements_min: usize) -> bool {
        self.elements.len() >= elements_min
            && (self.len_with(data_len) > PAGE_LEN || self.elements.len() == ELEMENTS_MAX)
    }

    fn push(&mut self, key: &[u8], value: &[u8], flags: u32, page: u64) {
        let (key_len, value_len) = (key.len() as u32, value.len() as u32);
        self.elements.push(Element { key_len, flags, value_len, page, at: self.data.len() });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn first_key(&self) -> Vec<u8> {
        let len = self.elements.first().map_or(0, |first| first.key_len as usize);
        self.data[..len].to_vec()
    }

    /// The page's bytes, filled up to whole pages, and how many pages these are.
    fn encode(&self, kind: u16, number: u64) -> (Vec<u8>, u64) {
        let pages = self.len().div_ceil(PAGE_LEN);
        let mut page = Vec::with_capacity(pages * PAGE_LEN);
        let count = self.elements.len() as u16;
        page.extend_from_slice(&page_head(number, kind, count, (pages - 1) as u32));
        for (place, element) in self.elements.iter().enumerate() {
            let position = (self.elements.len() - place) * ELEMENT + element.at;
            let position = (position as u32).to_le_bytes();
            if kind == KIND_LEAF {
                page.extend_from_slice(&element.flags.to_le_bytes());
                page.extend_from_slice(&position);
                page.extend_from_slice(&element.key_len.to_le_bytes());
                page.extend_from_slice(&element.value_len.to_le_bytes());
            } else {
                page.extend_from_slice(&position);
                page.extend_from_slice(&element.key_len.to_le_bytes());
                page.extend_from_slice(&element.page.to_le_bytes());
            }
        }
        page.extend_from_slice(&self.data);
        page.resize(pages * PAGE_LEN, 0);
        (page, pages as u64)
    }

    /// A leaf's bytes as they stand within a pair: not filled up.
    fn inline(&self) -> Vec<u8> {
        let (mut page, _) = self.encode(KIND_LEAF, 0);
        page.truncate(self.len());
        page
    }
}

impl<'a> Writer<'a> {
    /// Begins a database: hands out the free place of the meta pages, and an empty list of free
    /// pages.
    ///
    /// # Errors
    /// The sink's.
    pub fn new(sink: &'a mut Sink<'a>) -> Result<Self, Fatal> {
        sink(&[0; 2 * PAGE_LEN])?;
        let mut freelist = page_head(FREELIST, KIND_FREELIST, 0, 0).to_vec();
        freelist.resize(PAGE_LEN, 0);
        sink(&freelist)?;
        Ok(Self {
            sink,
            next: FREELIST + 1,
            levels: Vec::new(),
            bucket: None,
            last_key: None,
            buckets: Vec::new(),
        })
    }

    /// Ends the bucket before, if there is one, and begins the next.
    ///
    /// # Errors
    /// The sink's; an empty name, or one that does not come after the one before.
    pub fn begin_bucket(&mut self, name: &[u8]) -> Result<(), Fatal> {
        self.end_bucket()?;
        let is_behind = self.buckets.last().is_none_or(|(last, _)| &last[..] < name);
        if name.is_empty() || name.len() > KEY_LEN_MAX || !is_behind {
            return Err(Fatal::new(format!(
                "write database: bucket \"{}\" is out of order",
                name.escape_ascii()
            )));
        }
        self.bucket = Some(name.to_vec());
        Ok(())
    }

    /// Adds a pair to the bucket.
    ///
    /// # Errors
    /// The sink's; no bucket, a key that does not come after the one before, one that is empty, or
    /// a key or value of a size that the format does not have.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fatal> {
        let refuse = |why: &str| {
            let shown = &key[..key.len().min(64)];
            Err(Fatal::new(format!("write database: key \"{}\" {why}", shown.escape_ascii())))
        };
        if self.bucket.is_none() {
            return refuse("belongs to no bucket");
        }
        if key.is_empty() || key.len() > KEY_LEN_MAX || value.len() > VALUE_LEN_MAX {
            return refuse("has no length that the format knows, or its value has none");
        }
        if self.last_key.as_ref().is_some_and(|last| &last[..] >= key) {
            return refuse("is out of order");
        }
        let last_key = self.last_key.get_or_insert_default();
        last_key.clear();
        last_key.extend_from_slice(key);
        self.add_leaf_element(key, value, 0)
    }

    /// Ends the last bucket and writes the root. Returns the meta pages, which belong at the
    /// beginning of the file, and how long the file is.
    ///
    /// # Errors
    /// The sink's.
    pub fn finish(mut self) -> Result<(Vec<u8>, u64), Fatal> {
        self.end_bucket()?;
        for (name, bucket) in std::mem::take(&mut self.buckets) {
            self.add_leaf_element(&name, &bucket, ELEMENT_IS_BUCKET)?;
        }
        let root = match self.finish_levels()? {
            Some(root) => root,
            None => self.write_page(&Level::default(), KIND_LEAF)?,
        };
        let meta = |transaction| Meta {
            page_len: PAGE_LEN,
            root,
            freelist: Some(FREELIST),
            pages: self.next,
            transaction,
        };
        let mut head = meta(2).encode();
        head.extend_from_slice(&meta(1).encode());
        Ok((head, self.next * PAGE_LEN as u64))
    }

    fn end_bucket(&mut self) -> Result<(), Fatal> {
        let Some(name) = self.bucket.take() else { return Ok(()) };
        self.last_key = None;
        let bucket = match self.inline_page() {
            Some(page) => [&bucket_head(0)[..], &page].concat(),
            None => {
                let root = self.finish_levels()?;
                bucket_head(root.expect("what is empty needs no page of its own")).to_vec()
            }
        };
        self.buckets.push((name, bucket));
        Ok(())
    }

    /// The page of a bucket that needs none of its own.
    fn inline_page(&mut self) -> Option<Vec<u8>> {
        let page = match &self.levels[..] {
            [] => Level::default().inline(),
            [leaf] if !leaf.has_siblings && leaf.len() <= INLINE_MAX => leaf.inline(),
            _ => return None,
        };
        self.levels.clear();
        Some(page)
    }

    fn add_leaf_element(&mut self, key: &[u8], value: &[u8], flags: u32) -> Result<(), Fatal> {
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        if self.levels[0].is_full_for(key.len() + value.len(), 1) {
            self.flush(0)?;
        }
        self.levels[0].push(key, value, flags, 0);
        Ok(())
    }

    /// Writes the unfinished page of a level, and names it in the level above.
    fn flush(&mut self, level: usize) -> Result<(), Fatal> {
        let full = std::mem::take(&mut self.levels[level]);
        let kind = if level == 0 { KIND_LEAF } else { KIND_BRANCH };
        let first_key = full.first_key();
        let page = self.write_page(&full, kind)?;
        self.levels[level].has_siblings = true;
        if level + 1 == self.levels.len() {
            self.levels.push(Level::default());
        }
        if self.levels[level + 1].is_full_for(first_key.len(), BRANCH_ELEMENTS_MIN) {
            self.flush(level + 1)?;
        }
        self.levels[level + 1].push(&first_key, &[], 0, page);
        Ok(())
    }

    /// Writes all unfinished pages; returns the topmost one, if there is any.
    fn finish_levels(&mut self) -> Result<Option<u64>, Fatal> {
        let mut level = 0;
        while level < self.levels.len() {
            let is_top = level + 1 == self.levels.len() && !self.levels[level].has_siblings;
            if is_top {
                let top = std::mem::take(&mut self.levels[level]);
                let kind = if level == 0 { KIND_LEAF } else { KIND_BRANCH };
                self.levels.clear();
                return self.write_page(&top, kind).map(Some);
            }
            self.flush(level)?;
            level += 1;
        }
        Ok(None)
    }

    fn write_page(&mut self, level: &Level, kind: u16) -> Result<u64, Fatal> {
        let number = self.next;
        let (page, pages) = level.encode(kind, number);
        (self.sink)(&page)?;
        self.next += pages;
        Ok(number)
    }
}

/// The page of the list of free pages: the first behind the meta pages.
const FREELIST: u64 = 2;
