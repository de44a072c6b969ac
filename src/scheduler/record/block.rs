//! Segments of a run that has ended, many in one value: fewer keys, and nothing lost of what each
//! said.

use crate::scheduler::keys;
use crate::scheduler::model::{Row, Segment};
use crate::scheduler::store::Kv;
use serde::{Deserialize, Serialize};

/// Bytes of a block, and segments in one: their keys are deleted in the transaction that writes it.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;
const BLOCK_SEGMENTS_MAX: usize = 8_192;

/// The value of `rblock/{run}/{n}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Block {
    pub segments: Vec<Rolled>,
}

/// A segment as it was at its own key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rolled {
    /// The last part of its key.
    pub name: String,
    /// At which it was recorded.
    pub revision: i64,
    pub claim: i64,
    pub rows: Vec<Row>,
}

impl Rolled {
    /// None for what is no segment.
    pub fn of(kv: &Kv) -> Option<Self> {
        let (_, name) = kv.key.strip_prefix(keys::SEGMENTS)?.split_once('/')?;
        let segment: Segment = serde_json::from_slice(&kv.value).ok()?;
        let name = name.to_owned();
        Some(Self { name, revision: kv.mod_revision, claim: segment.claim, rows: segment.rows })
    }

    /// Who ran it; `run` is that of its block.
    pub fn worker(&self) -> &str {
        let name = self.name.rsplitn(4, '-').nth(3);
        name.unwrap_or_default()
    }
}

/// The segments of a block as if they were at their own keys, with the revisions they were recorded at.
pub fn unrolled(run: &str, block: &Kv) -> Vec<Kv> {
    let found: Option<Block> = serde_json::from_slice(&block.value).ok();
    let segments = found.map(|found| found.segments).unwrap_or_default();
    let unroll = |found: Rolled| {
        let segment = Segment { claim: found.claim, rows: found.rows };
        Kv {
            key: format!("{}{}", keys::segments(run), found.name),
            value: serde_json::to_vec(&segment).unwrap_or_default(),
            create_revision: found.revision,
            mod_revision: found.revision,
            lease: 0,
        }
    };
    segments.into_iter().map(unroll).collect()
}

/// Fills a block with segments in the order of their keys.
#[derive(Debug, Default)]
pub struct Packer {
    block: Block,
    bytes: usize,
    first: Option<String>,
    last: Option<String>,
    taken: usize,
}

impl Packer {
    /// Takes one more in, if there is room. What is no segment takes its place and goes.
    pub fn take(&mut self, kv: &Kv) -> bool {
        let bytes = kv.value.len() + kv.key.len() + 64;
        let is_full = self.bytes + bytes > BLOCK_BYTES_MAX || self.taken >= BLOCK_SEGMENTS_MAX;
        if self.taken > 0 && is_full {
            return false;
        }
        self.taken += 1;
        self.bytes += bytes;
        self.first.get_or_insert_with(|| kv.key.clone());
        self.last = Some(kv.key.clone());
        self.block.segments.extend(Rolled::of(kv));
        true
    }

    /// The block, with the first and the last key of what it holds.
    pub fn finish(self) -> Option<(Block, String, String)> {
        Some((self.block, self.first?, self.last?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(part: u32, bytes: usize) -> Kv {
        let segment = Segment { claim: 5, rows: Vec::new() };
        let mut value = serde_json::to_vec(&segment).unwrap();
        value.extend(std::iter::repeat_n(b' ', bytes));
        let key = keys::segment("r", "a-b", "ff-1", part);
        Kv { key, value, mod_revision: 9, ..Default::default() }
    }

    #[test]
    fn a_block_is_full_at_a_megabyte() {
        let mut packer = Packer::default();
        assert!(packer.take(&kv(0, 600_000)));
        assert!(!packer.take(&kv(1, 600_000)));
        assert!(packer.take(&kv(2, 300_000)));
        let (block, first, last) = packer.finish().unwrap();
        assert_eq!((first, last), (kv(0, 0).key, kv(2, 0).key));
        let found: Vec<_> = block.segments.iter().map(|s| (s.name.as_str(), s.worker())).collect();
        assert_eq!(found, [("a-b-ff-1-0", "a-b"), ("a-b-ff-1-2", "a-b")]);
        assert_eq!((block.segments[0].revision, block.segments[0].claim), (9, 5));
        assert_eq!(Packer::default().finish(), None);
        let value = serde_json::to_vec(&block).unwrap();
        let back = unrolled("r", &Kv { value, ..Default::default() });
        assert_eq!((back.len(), &back[1].key, back[1].mod_revision), (2, &kv(2, 0).key, 9));
        assert_eq!(Rolled::of(&back[1]).as_ref(), Some(&block.segments[1]));
    }
}
