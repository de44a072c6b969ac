//! What is written is read again, and no damage is taken for content.

use super::format::{KIND_BRANCH, META_PAGE_HEAD};
use super::{Database, PAGE_LEN, Writer};
use crate::error::Fatal;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;
type Buckets = BTreeMap<Vec<u8>, Pairs>;

fn written(buckets: &Buckets) -> Vec<u8> {
    let mut file = Vec::new();
    let mut sink = |page: &[u8]| {
        assert!(page.len().is_multiple_of(PAGE_LEN), "whole pages");
        file.extend_from_slice(page);
        Ok(())
    };
    let mut writer = Writer::new(&mut sink).unwrap();
    for (name, pairs) in buckets {
        writer.begin_bucket(name).unwrap();
        for (key, value) in pairs {
            writer.put(key, value).unwrap();
        }
    }
    let (head, len) = writer.finish().unwrap();
    file[..head.len()].copy_from_slice(&head);
    assert_eq!(file.len() as u64, len);
    file
}

fn read(file: &[u8]) -> Result<Buckets, Fatal> {
    let source = file;
    let source: &[u8] = source;
    let view = Bytes(source);
    let database = Database::open(&view)?;
    let mut buckets: Buckets =
        database.buckets()?.into_iter().map(|name| (name, Pairs::new())).collect();
    database.walk(None, &mut |bucket, key, value| {
        let pairs = buckets.get_mut(bucket).expect("a bucket that was listed");
        assert!(pairs.insert(key.to_vec(), value.to_vec()).is_none(), "a key comes once");
        Ok(())
    })?;
    database.check()?;
    Ok(buckets)
}

/// Bytes as a source.
struct Bytes<'a>(&'a [u8]);

impl super::Source for Bytes<'_> {
    fn len(&self) -> u64 {
        super::Source::len(self.0)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Fatal> {
        self.0.read_at(offset, bytes)
    }
}

/// Three levels, a bucket without pairs, and a value that spans pages.
fn sample() -> Buckets {
    let long = |number: u32| vec![number as u8; 700 + number as usize % 300];
    let many = (0..400u32).map(|n| (format!("{:0>90}", n * 7).into_bytes(), long(n))).collect();
    let large = BTreeMap::from([
        (b"a".to_vec(), vec![1; 3 * PAGE_LEN]),
        (b"b".to_vec(), Vec::new()),
        (b"c".to_vec(), vec![2; PAGE_LEN]),
    ]);
    let few = BTreeMap::from([(b"k".to_vec(), b"v".to_vec())]);
    BTreeMap::from([
        (b"empty".to_vec(), Pairs::new()),
        (b"few".to_vec(), few),
        (b"large".to_vec(), large),
        (b"many".to_vec(), many),
    ])
}

fn pairs() -> impl Strategy<Value = Pairs> {
    let key = prop::collection::vec(any::<u8>(), 1..40);
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (3_900..4_200usize).prop_map(|len| vec![7; len]),
        1 => (8_000..20_000usize).prop_map(|len| vec![9; len]),
    ];
    prop::collection::btree_map(key, value, 0..120)
}

#[test]
fn keys_longer_than_pages_make_a_tree_that_ends() {
    for (count, len) in [(2u8, 3_900), (2, 4_050), (5, 3_000), (9, 32_768), (100, 4_096)] {
        let key = |number: u8| [&[number][..], &vec![b'k'; len - 1]].concat();
        let pairs: Pairs = (0..count).map(|number| (key(number), vec![number])).collect();
        let buckets = Buckets::from([(b"authUsers".to_vec(), pairs)]);
        let file = written(&buckets);
        assert_eq!(read(&file).unwrap(), buckets, "{count} of {len}");
        // Each key stands in a leaf, and in branches that become half as many from level to level.
        let most = usize::from(count) * (len + PAGE_LEN) * 4 + 64 * PAGE_LEN;
        assert!(file.len() <= most, "{count} of {len}: {} bytes", file.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_again(
        buckets in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..9), pairs(), 0..5),
    ) {
        prop_assert_eq!(read(&written(&buckets)).unwrap(), buckets);
    }

    #[test]
    fn no_bytes_make_reading_panic(
        mut page in prop::collection::vec(any::<u8>(), 3 * PAGE_LEN),
        kinds in prop::collection::vec(0..4u16, 3),
    ) {
        // Random pages behind good meta pages, with kinds and numbers that let the reader go on.
        let file = written(&BTreeMap::from([(b"b".to_vec(), Pairs::new())]));
        let pages = file.len() / PAGE_LEN;
        let mut file = [file, std::mem::take(&mut page)].concat();
        for (at, kind) in kinds.into_iter().enumerate() {
            let number = pages - 1 + at;
            let head = super::format::page_head(number as u64, kind, 3, 0);
            file[number * PAGE_LEN..number * PAGE_LEN + 16].copy_from_slice(&head);
        }
        let _ = read(&file);
    }
}

#[test]
fn the_sample_has_branches_and_all_pages_are_in_use() {
    let file = written(&sample());
    assert_eq!(read(&file).unwrap(), sample());
    let kinds = file.chunks(PAGE_LEN).map(|page| super::format::u16_at(page, 8));
    let branches = kinds.filter(|kind| *kind == KIND_BRANCH).count();
    assert!(branches > 2, "two levels of branches: {branches}");
}

#[test]
fn every_truncation_is_refused() {
    let file = written(&sample());
    let cuts = (0..META_PAGE_HEAD).chain((PAGE_LEN..file.len()).step_by(5093));
    for len in cuts.chain([file.len() - 1]) {
        let refusal = read(&file[..len]).expect_err("refused").to_string();
        let says = refusal.contains("truncated") || refusal.contains("the file ends before it");
        assert!(says, "cut at {len}: {refusal}");
    }
}

/// A flipped bit is refused, or gives the same pairs with one of them changed: keys and values have
/// no checksum in this format, and a bit of padding means nothing.
#[test]
fn a_flipped_bit_is_refused_or_changes_one_pair() {
    let whole = sample();
    let file = written(&whole);
    let mut refused = 0;
    for bit in (0..file.len() * 8).step_by(6131).chain(0..META_PAGE_HEAD * 8) {
        let mut flipped = file.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(found) = read(&flipped) else {
            refused += 1;
            continue;
        };
        let count = |buckets: &Buckets| buckets.values().map(Pairs::len).sum::<usize>();
        let same = |name: &Vec<u8>, pairs: &Pairs| {
            let same =
                |(key, value)| whole.get(name).and_then(|pairs| pairs.get(key)) == Some(value);
            pairs.iter().filter(|pair| same(*pair)).count()
        };
        let is_named_anew = found.keys().ne(whole.keys());
        let kept: usize = found.iter().map(|(name, pairs)| same(name, pairs)).sum();
        let lost = count(&whole) - kept;
        assert!(lost <= 1 || is_named_anew, "bit {bit} lost {lost} pairs");
    }
    assert!(refused > 50, "{refused} were refused");
}

#[test]
fn every_flipped_bit_of_a_page_head_or_an_element_is_refused() {
    let file = written(&sample());
    let mut flipped = file.clone();
    let mut kinds = std::collections::BTreeSet::new();
    for (number, page) in file.chunks(PAGE_LEN).enumerate().skip(2) {
        let is_head = super::format::u64_at(page, 0) == number as u64;
        if !is_head || (number > 12 && number % 7 != 0 && number < file.len() / PAGE_LEN - 6) {
            continue;
        }
        kinds.insert(super::format::u16_at(page, 8));
        // The lengths of the last pair could be told from padding only.
        let head = 16 * (1 + usize::from(super::format::u16_at(page, 10))) - 12;
        for bit in (0..head * 8).step_by(3) {
            let at = number * PAGE_LEN + bit / 8;
            flipped[at] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit} of page {number}");
            flipped[at] ^= 1 << (bit % 8);
        }
    }
    assert_eq!(kinds.len(), 3, "leaves, branches and the list of free pages");
}

/// The refusal of the sample with these bytes at this place.
fn refusal(offset: usize, bytes: &[u8]) -> String {
    let mut file = written(&sample());
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    // The meta pages have to be good for the rest to be looked at.
    read(&file).expect_err("refused").to_string()
}

#[test]
fn refusals_say_what_is_wrong() {
    let file = written(&sample());
    let root = file.len() - PAGE_LEN;
    let number = |page: usize| (page as u64).to_le_bytes();
    let first_branch = file
        .chunks(PAGE_LEN)
        .position(|page| super::format::u16_at(page, 8) == KIND_BRANCH)
        .expect("the sample has branches");
    let table: [(usize, &[u8], &str); 9] = [
        (root, &number(5), "says that it is page 5"),
        (root + 8, &[4, 0], "neither branch nor leaf"),
        (root + 12, &[1, 0, 0, 0], "spans 2 pages"),
        (root + 10, &[0xFF, 0xFF], "more elements than room"),
        (root + 16, &[0, 0, 0, 0], "a pair beside its buckets"),
        (root + 20, &[0, 0, 0, 0], "out of its place"),
        (root + 24, &[0, 0, 0, 0], "an empty key"),
        (first_branch * PAGE_LEN + 24, &number(1 << 40), "is named, but there are"),
        (first_branch * PAGE_LEN + 24, &number(first_branch), "named twice"),
    ];
    for (offset, bytes, says) in table {
        let refusal = refusal(offset, bytes);
        assert!(refusal.contains(says), "{says}: {refusal}");
    }
    for foreign in [&b""[..], &[0; 100_000], b"SQLite format 3\0", &[0xFF; 70_000]] {
        let refusal = read(foreign).expect_err("refused").to_string();
        assert!(refusal.contains("this is no bbolt database"), "{refusal}");
    }
}

#[test]
fn one_damaged_meta_page_does_no_harm() {
    let file = written(&sample());
    for (page, is_read) in [(0..1, true), (1..2, true), (0..2, false)] {
        let mut damaged = file.clone();
        for page in page {
            damaged[page * PAGE_LEN + 30] ^= 1;
        }
        assert_eq!(read(&damaged).is_ok(), is_read);
    }
}

#[test]
fn keys_and_buckets_out_of_order_are_not_written() {
    let mut sink = |_: &[u8]| Ok(());
    let mut writer = Writer::new(&mut sink).unwrap();
    assert!(writer.put(b"a", b"").is_err(), "no bucket");
    assert!(writer.begin_bucket(b"").is_err());
    writer.begin_bucket(b"m").unwrap();
    writer.put(b"b", b"").unwrap();
    for key in [&b""[..], b"a", b"b"] {
        assert!(writer.put(key, b"").is_err(), "{key:?}");
    }
    writer.put(b"c", b"").unwrap();
    assert!(writer.begin_bucket(b"l").is_err());
}
