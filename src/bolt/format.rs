//! Where things lie in a page. All numbers are little-endian.
//!
//! A page begins with its number (8 bytes), its kind (2), its number of elements (2) and how many
//! more pages it spans (4). Elements follow, 16 bytes each, then keys and values. An element tells
//! where its key begins, counted from the element itself; a value lies right behind its key. A
//! branch has a page for each key, the first of that page's subtree. A meta page names the root, a
//! leaf in which each bucket is a pair: its name, and 16 bytes that hold its root page, which is 0
//! when a whole page of its own follows there.

/// What files written here have.
pub(super) const PAGE_LEN: usize = 4096;
/// What bbolt itself would look for when it searches the second meta page.
pub(super) const PAGE_LENS: [usize; 16] = {
    let mut lens = [0; 16];
    let mut at = 0;
    while at < lens.len() {
        lens[at] = 1024 << at;
        at += 1;
    }
    lens
};

pub(super) const PAGE_HEAD: usize = 16;
pub(super) const ELEMENT: usize = 16;
pub(super) const BUCKET_HEAD: usize = 16;

pub(super) const KIND_BRANCH: u16 = 0x01;
pub(super) const KIND_LEAF: u16 = 0x02;
pub(super) const KIND_META: u16 = 0x04;
pub(super) const KIND_FREELIST: u16 = 0x10;

/// Set in a leaf's element whose value is a bucket.
pub(super) const ELEMENT_IS_BUCKET: u32 = 0x01;

/// Stands for the number of elements when there are that many or more; the number is then the
/// first element.
pub(super) const FREELIST_COUNT_ELSEWHERE: u16 = 0xFFFF;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes that the checksum covers, and where it stands.
const META_SUMMED: usize = 56;
const META_LEN: usize = META_SUMMED + 8;
/// Bytes at the beginning of a meta page that say everything.
pub(super) const META_PAGE_HEAD: usize = PAGE_HEAD + META_LEN;
/// Named as the freelist when it is not stored.
const NO_FREELIST: u64 = u64::MAX;

/// The content of a meta page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_len: usize,
    pub(super) root: u64,
    pub(super) freelist: Option<u64>,
    /// Number of pages: the first that is not part of the database.
    pub(super) pages: u64,
    pub(super) transaction: u64,
}

impl Meta {
    /// Reads the first bytes of a meta page.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub(super) fn decode(head: &[u8; META_PAGE_HEAD]) -> Result<Self, String> {
        let (kind, meta) = (u16_at(head, 8), &head[PAGE_HEAD..]);
        let (magic, version) = (u32_at(meta, 0), u32_at(meta, 4));
        if magic != MAGIC {
            return Err(format!("it begins with {magic:#010x}, not with bbolt's {MAGIC:#010x}"));
        }
        if version != VERSION {
            return Err(format!("it has format {version}, not {VERSION}"));
        }
        let (stored, computed) = (u64_at(meta, META_SUMMED), fnv1a(&meta[..META_SUMMED]));
        if stored != computed {
            return Err(format!(
                "its checksum is {stored:016x}, that of its bytes {computed:016x}"
            ));
        }
        if kind != KIND_META {
            return Err(format!("its page has kind {kind:#x}, not {KIND_META:#x}"));
        }
        let page_len = u32_at(meta, 8) as usize;
        if !PAGE_LENS.contains(&page_len) {
            return Err(format!("its page size is {page_len}"));
        }
        Ok(Self {
            page_len,
            root: u64_at(meta, 16),
            freelist: Some(u64_at(meta, 32)).filter(|page| *page != NO_FREELIST),
            pages: u64_at(meta, 40),
            transaction: u64_at(meta, 48),
        })
    }

    /// The whole page; its number follows from the transaction's, as bbolt has it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = page_head(self.transaction % 2, KIND_META, 0, 0).to_vec();
        page.extend_from_slice(&MAGIC.to_le_bytes());
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&(self.page_len as u32).to_le_bytes());
        page.extend_from_slice(&0u32.to_le_bytes());
        page.extend_from_slice(&bucket_head(self.root));
        for number in [self.freelist.unwrap_or(NO_FREELIST), self.pages, self.transaction] {
            page.extend_from_slice(&number.to_le_bytes());
        }
        let checksum = fnv1a(&page[PAGE_HEAD..]);
        page.extend_from_slice(&checksum.to_le_bytes());
        page.resize(self.page_len, 0);
        page
    }
}

/// The first bytes of a page.
pub(super) fn page_head(number: u64, kind: u16, count: u16, overflow: u32) -> [u8; PAGE_HEAD] {
    let mut head = [0; PAGE_HEAD];
    head[..8].copy_from_slice(&number.to_le_bytes());
    head[8..10].copy_from_slice(&kind.to_le_bytes());
    head[10..12].copy_from_slice(&count.to_le_bytes());
    head[12..].copy_from_slice(&overflow.to_le_bytes());
    head
}

/// A bucket's root page, and its counter, which etcd never uses.
pub(super) fn bucket_head(root: u64) -> [u8; BUCKET_HEAD] {
    let mut head = [0; BUCKET_HEAD];
    head[..8].copy_from_slice(&root.to_le_bytes());
    head
}

/// The numbers at these places; the callers have checked that they are there.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    number_at(&bytes[at..at + 2]) as u16
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    number_at(&bytes[at..at + 4]) as u32
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    number_at(&bytes[at..at + 8])
}

fn number_at(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The 64-bit Fowler-Noll-Vo hash, variant 1a.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}
