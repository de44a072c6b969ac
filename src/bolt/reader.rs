//! Walks a database of which no byte is trusted.

use super::format::{
    BUCKET_HEAD, ELEMENT, ELEMENT_IS_BUCKET, FREELIST_COUNT_ELSEWHERE, KIND_BRANCH, KIND_FREELIST,
    KIND_LEAF, META_PAGE_HEAD, Meta, PAGE_HEAD, PAGE_LENS, u16_at, u32_at, u64_at,
};
use crate::error::Fatal;
use std::ops::Range;

/// Where a database's bytes are read.
pub trait Source {
    /// How many bytes there are.
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `bytes` from `offset` on; asked only for what lies within the length.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal>;
}

impl Source for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal> {
        let part = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..offset.checked_add(bytes.len())?));
        match part {
            Some(part) => bytes.copy_from_slice(part),
            None => return Err(Fatal::new("read database: beyond its end")),
        }
        Ok(())
    }
}

/// Most levels of a tree. Each full one multiplies the pairs by more than a hundred, each
/// wretched one by two.
const DEPTH_MAX: usize = 40;

/// A page may span so much: the longest value that bbolt takes, with its key.
const SPAN_MAX: u64 = 1 << 31;

/// A database whose meta pages have been checked.
pub struct Database<'a> {
    source: &'a dyn Source,
    meta: Meta,
}

/// Gets each pair: the bucket's name, the key, the value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8], &[u8]) -> Result<(), Fatal> + 'a;

impl<'a> Database<'a> {
    /// Reads both meta pages and takes the newer one that is whole, as bbolt does.
    ///
    /// # Errors
    /// When neither is whole, or the file is shorter than the pages it should have.
    pub fn open(source: &'a dyn Source) -> Result<Self, Fatal> {
        let first = read_meta(source, 0);
        let second = match &first {
            Ok(meta) => read_meta(source, meta.page_len as u64),
            // The first would have told the page size: look where it may be.
            Err(_) => PAGE_LENS
                .iter()
                .map(|len| (read_meta(source, *len as u64), *len))
                .find_map(|(meta, len)| meta.ok().filter(|meta| meta.page_len == len))
                .ok_or_else(|| "it was found at no page size".to_owned()),
        };
        let meta = match (first, second) {
            (Ok(first), Ok(second)) if second.transaction > first.transaction => second,
            (Ok(meta), _) | (_, Ok(meta)) => meta,
            (Err(first), Err(second)) => {
                return Err(damaged(format!(
                    "this is no bbolt database: of its first meta page, {first}; of its second, \
                     {second}"
                )));
            }
        };
        let len = u128::from(meta.pages) * meta.page_len as u128;
        if len > u128::from(source.len()) {
            return Err(damaged(format!(
                "it is truncated: it has {} pages of {} bytes, the file only {} bytes",
                meta.pages,
                meta.page_len,
                source.len()
            )));
        }
        for (what, page) in [("root", Some(meta.root)), ("freelist", meta.freelist)] {
            if let Some(page) = page.filter(|page| !(2..meta.pages).contains(page)) {
                return Err(damaged(format!(
                    "its meta page names page {page} as the {what}, of {} pages",
                    meta.pages
                )));
            }
        }
        Ok(Self { source, meta })
    }

    /// Bytes of all pages.
    pub fn len(&self) -> u64 {
        self.meta.pages * self.meta.page_len as u64
    }

    /// A database has two meta pages at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The names of all buckets, in their order.
    ///
    /// # Errors
    /// When something on the way to them is damaged.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, Fatal> {
        let mut names = Vec::new();
        self.root(&mut Seen::new(self.meta.pages), &mut |_, name, _| {
            names.push(name.to_vec());
            Ok(())
        })?;
        Ok(names)
    }

    /// Visits all pairs, or those of the one bucket, in the order of buckets and keys.
    ///
    /// # Errors
    /// When something on the way to them is damaged; what `visit` returns.
    pub fn walk(&self, only: Option<&[u8]>, visit: &mut Visit<'_>) -> Result<(), Fatal> {
        let mut seen = Seen::new(self.meta.pages);
        self.walk_seen(only, &mut seen, visit)
    }

    /// Walks everything, and the list of free pages.
    ///
    /// # Errors
    /// When anything is damaged, or a page that is in use is also free.
    pub fn check(&self) -> Result<(), Fatal> {
        let mut seen = Seen::new(self.meta.pages);
        self.walk_seen(None, &mut seen, &mut |_, _, _| Ok(()))?;
        let Some(freelist) = self.meta.freelist else { return Ok(()) };
        let page = self.page(freelist, &mut seen)?;
        if page.kind != KIND_FREELIST {
            return Err(page.wrong("is named as the list of free pages"));
        }
        let (skipped, count) = match page.count {
            FREELIST_COUNT_ELSEWHERE if page.bytes.len() >= PAGE_HEAD + 8 => {
                (1, usize::try_from(u64_at(&page.bytes, PAGE_HEAD)).unwrap_or(usize::MAX))
            }
            count => (0, usize::from(count)),
        };
        let free = page.bytes[PAGE_HEAD..].chunks_exact(8).skip(skipped);
        if count > free.len() {
            return Err(page.wrong("lists more free pages than it has room for"));
        }
        for number in free.take(count).map(|bytes| u64_at(bytes, 0)) {
            if number < 2 || number >= self.meta.pages {
                return Err(damaged(format!("the list of free pages names page {number}")));
            }
            if !seen.insert(number) {
                return Err(damaged(format!(
                    "page {number} is both free and in use, or twice free"
                )));
            }
        }
        // Without the list of free pages bbolt takes what it cannot reach for free.
        match (2..self.meta.pages).find(|number| !seen.contains(*number)) {
            Some(lost) => Err(damaged(format!("page {lost} is neither free nor in use"))),
            None => Ok(()),
        }
    }

    fn walk_seen(
        &self,
        only: Option<&[u8]>,
        seen: &mut Seen,
        visit: &mut Visit<'_>,
    ) -> Result<(), Fatal> {
        self.root(seen, &mut |seen, name, bucket| {
            if only.is_some_and(|only| only != name) {
                return Ok(());
            }
            let pair = &mut |_: &mut Seen, key: &[u8], value: &[u8], flags: u32, page: u64| {
                if flags & ELEMENT_IS_BUCKET != 0 {
                    return Err(damaged(format!(
                        "page {page} holds a bucket within bucket \"{}\", which etcd has not",
                        name.escape_ascii()
                    )));
                }
                visit(name, key, value)
            };
            let Some((head, inline)) = bucket.split_at_checked(BUCKET_HEAD) else {
                return Err(damaged(format!("bucket \"{}\" is cut off", name.escape_ascii())));
            };
            match u64_at(head, 0) {
                0 => {
                    let page = Page::inline(inline, name)?;
                    self.leaf(&page, seen, &mut Bounds::default(), pair)
                }
                root => self.tree(root, seen, &mut Bounds::default(), 0, pair),
            }
        })
    }

    /// Visits the buckets: name, and what the root holds of it.
    fn root(&self, seen: &mut Seen, visit: &mut BucketVisit<'_>) -> Result<(), Fatal> {
        let mut bounds = Bounds::default();
        self.tree(self.meta.root, seen, &mut bounds, 0, &mut |seen, name, bucket, flags, page| {
            if flags & ELEMENT_IS_BUCKET == 0 {
                return Err(damaged(format!(
                    "page {page}, a root, holds a pair beside its buckets"
                )));
            }
            visit(seen, name, bucket)
        })
    }

    fn tree(
        &self,
        number: u64,
        seen: &mut Seen,
        bounds: &mut Bounds,
        depth: usize,
        visit: &mut ElementVisit<'_>,
    ) -> Result<(), Fatal> {
        let page = self.page(number, seen)?;
        match page.kind {
            KIND_LEAF => self.leaf(&page, seen, bounds, visit),
            KIND_BRANCH if depth < DEPTH_MAX => {
                let end = bounds.end.take();
                let elements = page.elements()?;
                for (place, element) in elements.iter().enumerate() {
                    bounds.enter(&page, page.key(element))?;
                    let next = elements.get(place + 1);
                    bounds.end =
                        next.map_or_else(|| end.clone(), |next| Some(page.key(next).to_vec()));
                    self.tree(element.child, seen, bounds, depth + 1, visit)?;
                }
                bounds.end = end;
                Ok(())
            }
            KIND_BRANCH => Err(page.wrong("lies too deep")),
            _ => Err(page.wrong("is neither branch nor leaf where one should be")),
        }
    }

    fn leaf(
        &self,
        page: &Page,
        seen: &mut Seen,
        bounds: &mut Bounds,
        visit: &mut ElementVisit<'_>,
    ) -> Result<(), Fatal> {
        for element in page.elements()? {
            let (key, value) = (page.key(&element), page.value(&element));
            bounds.take(page, key)?;
            visit(seen, key, value, element.flags, page.number)?;
        }
        Ok(())
    }

    /// Reads a page with all that it spans, once.
    fn page(&self, number: u64, seen: &mut Seen) -> Result<Page, Fatal> {
        if number < 2 || number >= self.meta.pages {
            return Err(damaged(format!(
                "page {number} is named, but there are {} pages",
                self.meta.pages
            )));
        }
        let len = self.meta.page_len as u64;
        let mut bytes = vec![0; len as usize];
        self.source.read_at(number * len, &mut bytes)?;
        let overflow = u64::from(u32_at(&bytes, 12));
        let (end, span) = (number + 1 + overflow, (1 + overflow) * len);
        let found = u64_at(&bytes, 0);
        if found != number {
            return Err(damaged(format!("page {number} says that it is page {found}")));
        }
        if end > self.meta.pages || span > SPAN_MAX {
            return Err(damaged(format!("page {number} spans {} pages", 1 + overflow)));
        }
        for part in number..end {
            if !seen.insert(part) {
                return Err(damaged(format!("page {part} is named twice")));
            }
        }
        bytes.resize(span as usize, 0);
        self.source.read_at((number + 1) * len, &mut bytes[len as usize..])?;
        Ok(Page { number, kind: u16_at(&bytes, 8), count: u16_at(&bytes, 10), bytes })
    }
}

/// Gets a bucket's name and what the root holds of it.
type BucketVisit<'a> = dyn FnMut(&mut Seen, &[u8], &[u8]) -> Result<(), Fatal> + 'a;
/// Gets a leaf's key, value and flags, and the page's number.
type ElementVisit<'a> = dyn FnMut(&mut Seen, &[u8], &[u8], u32, u64) -> Result<(), Fatal> + 'a;

fn read_meta(source: &dyn Source, offset: u64) -> Result<Meta, String> {
    let mut head = [0; META_PAGE_HEAD];
    if source.len() < offset + META_PAGE_HEAD as u64 {
        return Err(format!("the file ends before it, after {} bytes", source.len()));
    }
    source.read_at(offset, &mut head).map_err(|error| error.to_string())?;
    Meta::decode(&head)
}

struct Page {
    number: u64,
    kind: u16,
    count: u16,
    bytes: Vec<u8>,
}

impl Page {
    /// The page within a bucket's pair. It has no number.
    fn inline(bytes: &[u8], bucket: &[u8]) -> Result<Self, Fatal> {
        if bytes.len() < PAGE_HEAD || u16_at(bytes, 8) != KIND_LEAF {
            let bucket = bucket.escape_ascii();
            return Err(damaged(format!("bucket \"{bucket}\" is neither a page nor has one")));
        }
        let count = u16_at(bytes, 10);
        Ok(Self { number: 0, kind: KIND_LEAF, count, bytes: bytes.to_vec() })
    }

    /// The elements with the places of their keys and values, which follow each other without a gap
    /// from the end of the elements on: so no bit of an element can change unnoticed.
    fn elements(&self) -> Result<Vec<Element>, Fatal> {
        let mut next = PAGE_HEAD + usize::from(self.count) * ELEMENT;
        if next > self.bytes.len() {
            return Err(self.wrong("has more elements than room"));
        }
        let mut elements = Vec::with_capacity(usize::from(self.count));
        for (place, bytes) in self.bytes[PAGE_HEAD..next].chunks_exact(ELEMENT).enumerate() {
            let number = |at| u32_at(bytes, at) as usize;
            let (flags, position, key_len, value_len, child) = match self.kind {
                KIND_LEAF => (u32_at(bytes, 0), number(4), number(8), number(12), 0),
                _ => (0, number(0), number(4), 0, u64_at(bytes, 8)),
            };
            let key = PAGE_HEAD + place * ELEMENT + position;
            let value = next + key_len;
            if key_len == 0 {
                return Err(self.wrong("has an empty key"));
            }
            if flags & !ELEMENT_IS_BUCKET != 0 {
                return Err(self.wrong("has an element of an unknown kind"));
            }
            if key != next || value + value_len > self.bytes.len() {
                return Err(self.wrong("has a key or a value out of its place"));
            }
            next = value + value_len;
            elements.push(Element { key: key..value, value: value..next, flags, child });
        }
        Ok(elements)
    }

    fn key(&self, element: &Element) -> &[u8] {
        &self.bytes[element.key.clone()]
    }

    fn value(&self, element: &Element) -> &[u8] {
        &self.bytes[element.value.clone()]
    }

    fn wrong(&self, what: &str) -> Fatal {
        damaged(format!("page {} {what}", self.number))
    }
}

/// A pair of a leaf, or a subtree of a branch.
struct Element {
    key: Range<usize>,
    value: Range<usize>,
    flags: u32,
    child: u64,
}

/// Which pages have been met: a tree with a circle, or with two ways to a page, is damaged.
struct Seen {
    bits: Vec<u64>,
}

impl Seen {
    fn new(pages: u64) -> Self {
        Self { bits: vec![0; (pages / 64 + 1) as usize] }
    }

    /// Whether it was not yet there.
    fn insert(&mut self, page: u64) -> bool {
        let bit = 1 << (page % 64);
        let word = &mut self.bits[(page / 64) as usize];
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    fn contains(&self, page: u64) -> bool {
        self.bits[(page / 64) as usize] & 1 << (page % 64) != 0
    }
}

/// What the next key of a tree may be.
#[derive(Default)]
struct Bounds {
    last: Option<Vec<u8>>,
    /// The first key that belongs to a later subtree.
    end: Option<Vec<u8>>,
    /// The key under which the present subtree is named: it may be its first, but not less.
    start: Option<Vec<u8>>,
}

impl Bounds {
    /// Goes into the subtree that a branch names by this key.
    fn enter(&mut self, page: &Page, key: &[u8]) -> Result<(), Fatal> {
        let is_behind = self.last.as_ref().is_none_or(|last| &last[..] < key);
        let is_within = self.start.as_ref().is_none_or(|start| &start[..] <= key);
        if !is_behind || !is_within {
            return Err(page.wrong("names its subtrees out of order"));
        }
        self.start = Some(key.to_vec());
        Ok(())
    }

    fn take(&mut self, page: &Page, key: &[u8]) -> Result<(), Fatal> {
        let is_behind = self.last.as_ref().is_none_or(|last| &last[..] < key);
        let is_within = self.start.as_ref().is_none_or(|start| &start[..] <= key)
            && self.end.as_ref().is_none_or(|end| key < &end[..]);
        if !is_behind || !is_within {
            return Err(page.wrong("has its keys out of order"));
        }
        let last = self.last.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        Ok(())
    }
}

fn damaged(what: String) -> Fatal {
    Fatal::new(format!("read database: {what}"))
}
