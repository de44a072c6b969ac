//! Where the pages of a long read begin and end.
//!
//! A store counts all keys of what it is asked for, whatever the limit, so that pages that all go to the end of a long
//! range cost its length each. A page therefore ends, beside its limit, where keys begin to differ from those
//! that came last; where that holds little, the next one goes further.

/// The part of a range that is asked for next.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
    /// The end of the whole range.
    end: Vec<u8>,
    /// Where the byte is that tells a part from the next, counted from 1.
    place: usize,
    /// By how much that byte rises in a part.
    step: u8,
}

impl Part {
    /// The whole range, which its limit may cut.
    pub(super) fn new(from: Vec<u8>, end: Vec<u8>) -> Self {
        Self { from, to: end.clone(), end, place: 0, step: 1 }
    }

    /// Goes on behind what an answer held: its keys in order, cut at the limit if `has_more`. False if nothing is left.
    pub(super) fn advance(&mut self, keys: &[&[u8]], limit: usize, has_more: bool) -> bool {
        match keys {
            [first, .., last] | [first @ last] if has_more => {
                let alike = first.iter().zip(*last).take_while(|(a, b)| a == b).count();
                (self.place, self.step) = ((alike + 1).min(last.len()), 1);
                self.to = behind(&last[..self.place], 1);
                self.from = [last, &[0][..]].concat();
            }
            _ if self.to >= self.end => return false,
            _ => {
                if keys.is_empty() {
                    (self.place, self.step) = (self.place.saturating_sub(1), 1);
                } else if keys.len() < limit / 4 {
                    self.step = self.step.saturating_mul(2);
                }
                self.from = std::mem::take(&mut self.to);
                self.to = behind(&self.from[..self.place.min(self.from.len())], self.step);
            }
        }
        if self.to.is_empty() || self.to > self.end {
            self.to = self.end.clone();
        }
        true
    }
}

/// The first key behind all that begin so, or with so many other values of the last byte; nothing if there is none.
fn behind(prefix: &[u8], mut step: u8) -> Vec<u8> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if let Some(next) = last.checked_add(step) {
            key.push(next);
            break;
        }
        step = 1;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Reads all keys below `k`, and says how many the store has counted for that.
    fn read(keys: &BTreeSet<Vec<u8>>, limit: usize) -> (Vec<Vec<u8>>, usize) {
        let (mut found, mut counted, mut asked) = (Vec::new(), 0, 0);
        let mut part = Part::new(b"k".to_vec(), b"l".to_vec());
        loop {
            asked += 1;
            let asked_max = 5 * (keys.len() / limit) + 300;
            assert!(part.from < part.to && asked <= asked_max, "{asked} by {limit}: {part:?}");
            let held: Vec<&[u8]> =
                keys.range(part.from.clone()..part.to.clone()).map(|key| &**key).collect();
            counted += held.len() + 1;
            let page = &held[..held.len().min(limit)];
            found.extend(page.iter().map(|key| key.to_vec()));
            if !part.advance(page, limit, page.len() < held.len()) {
                return (found, counted);
            }
        }
    }

    #[test]
    fn all_keys_are_read_once_and_none_is_counted_for_each_page() {
        let numbers = |count: u32, step: u32| -> BTreeSet<Vec<u8>> {
            (0..count).map(|n| format!("k-{:07}", n * step).into_bytes()).collect()
        };
        let scattered = |count: u64, bytes: usize| -> BTreeSet<Vec<u8>> {
            let number = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            (0..count).map(|n| [b"k", &number(n)[..bytes]].concat()).collect()
        };
        let nested: BTreeSet<Vec<u8>> =
            (1..3_000).map(|n| [&b"k"[..], &vec![255; n]].concat()).collect();
        let others = [b"a".to_vec(), b"j".to_vec(), b"l".to_vec(), b"z".to_vec()];
        for (name, keys) in [
            ("none", BTreeSet::new()),
            ("one", numbers(1, 1)),
            ("dense", numbers(100_000, 1)),
            ("sparse", numbers(30_000, 321)),
            ("scattered", scattered(50_000, 8)),
            ("short", scattered(50_000, 2)),
            ("nested", nested),
            ("two kinds", numbers(20_000, 1).union(&scattered(20_000, 8)).cloned().collect()),
        ] {
            let all: BTreeSet<Vec<u8>> = keys.iter().chain(&others).cloned().collect();
            for limit in [1, 10, 1_000] {
                if limit == 1 && keys.len() > 3_000 {
                    continue;
                }
                let (found, counted) = read(&all, limit);
                assert!(found.iter().eq(&keys), "{name} by {limit}: {} found", found.len());
                let at_most = if name == "nested" { usize::MAX } else { 20 * keys.len() + 100 };
                assert!(counted <= at_most, "{name} by {limit}: {counted} counted");
            }
        }
    }
}
