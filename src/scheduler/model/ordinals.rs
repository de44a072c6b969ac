//! Sets of the repeats of a lane, held as intervals: a lane of a million repeats that end roughly in
//! order costs a few of them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A set of ordinals. Its JSON form is the list of its intervals, `[[from, to], ...]`, without `to`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct Ordinals {
    /// While it is one interval, as most sets always are; nothing if that ends where it begins.
    from: u32,
    to: u32,
    /// Else all there are.
    many: Option<Box<Many>>,
}

#[derive(Clone, Debug, Default)]
struct Many {
    /// From start to end, neither overlapping nor touching.
    intervals: BTreeMap<u32, u32>,
    count: u32,
}

impl Ordinals {
    pub const fn new() -> Self {
        Self { from: 0, to: 0, many: None }
    }

    pub fn count(&self) -> u32 {
        self.many.as_ref().map_or(self.to - self.from, |many| many.count)
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn contains(&self, ordinal: u32) -> bool {
        match &self.many {
            Some(many) => many.interval_of(ordinal).is_some(),
            None => (self.from..self.to).contains(&ordinal),
        }
    }

    /// The intervals in order, each as (from, to) without `to`.
    pub fn intervals(&self) -> impl Iterator<Item = (u32, u32)> {
        let many = self.many.as_ref().map(|many| &many.intervals);
        let one = (self.from < self.to && many.is_none()).then_some((self.from, self.to));
        one.into_iter().chain(many.into_iter().flatten().map(|(from, to)| (*from, *to)))
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.intervals().flat_map(|(from, to)| from..to)
    }

    /// Whether the ordinal was not in it before.
    pub fn insert(&mut self, ordinal: u32) -> bool {
        self.insert_range(ordinal, ordinal + 1) == 1
    }

    /// Adds an interval; returns how many of its ordinals are new.
    pub fn insert_range(&mut self, from: u32, to: u32) -> u32 {
        if from >= to {
            return 0;
        }
        if self.many.is_none() {
            if self.from == self.to {
                (self.from, self.to) = (from, to);
                return to - from;
            }
            if from <= self.to && self.from <= to {
                let present = self.to.min(to) - self.from.max(from);
                (self.from, self.to) = (self.from.min(from), self.to.max(to));
                return to - from - present;
            }
        }
        self.many().insert_range(from, to)
    }

    /// Whether the ordinal was in it.
    pub fn remove(&mut self, ordinal: u32) -> bool {
        if self.many.is_none() {
            if !(self.from..self.to).contains(&ordinal) {
                return false;
            }
            if ordinal == self.from {
                self.from += 1;
                return true;
            }
            if ordinal + 1 == self.to {
                self.to -= 1;
                return true;
            }
        }
        self.many().remove(ordinal)
    }

    /// Takes out up to `max` ordinals that follow each other, the lowest there are.
    pub fn take_first(&mut self, max: u32) -> Option<(u32, u32)> {
        let (from, to) = self.intervals().next().filter(|_| max > 0)?;
        let end = to.min(from.saturating_add(max));
        match &mut self.many {
            Some(many) => many.cut_first(from, end, to),
            None => self.from = end,
        }
        Some((from, end))
    }

    fn many(&mut self) -> &mut Many {
        self.many.get_or_insert_with(|| {
            let mut many = Box::<Many>::default();
            many.insert_range(self.from, self.to);
            many
        })
    }
}

impl Many {
    fn interval_of(&self, ordinal: u32) -> Option<(u32, u32)> {
        let (from, to) = self.intervals.range(..=ordinal).next_back()?;
        (ordinal < *to).then_some((*from, *to))
    }

    fn insert_range(&mut self, from: u32, to: u32) -> u32 {
        if from >= to {
            return 0;
        }
        let (mut start, mut end, mut present) = (from, to, 0);
        // Whatever overlaps or touches melts into one interval.
        while let Some((&a, &b)) = self.intervals.range(..=end).next_back() {
            if b < start {
                break;
            }
            present += b.min(to).saturating_sub(a.max(from));
            (start, end) = (start.min(a), end.max(b));
            self.intervals.remove(&a);
        }
        self.intervals.insert(start, end);
        let new = to - from - present;
        self.count += new;
        new
    }

    fn remove(&mut self, ordinal: u32) -> bool {
        let Some((from, to)) = self.interval_of(ordinal) else { return false };
        self.intervals.remove(&from);
        if from < ordinal {
            self.intervals.insert(from, ordinal);
        }
        if ordinal + 1 < to {
            self.intervals.insert(ordinal + 1, to);
        }
        self.count -= 1;
        true
    }

    /// Takes out what lies before `end` of the first interval.
    fn cut_first(&mut self, from: u32, end: u32, to: u32) {
        self.intervals.remove(&from);
        if end < to {
            self.intervals.insert(end, to);
        }
        self.count -= end - from;
    }
}

impl Default for Ordinals {
    fn default() -> Self {
        Self::new()
    }
}

impl PartialEq for Ordinals {
    fn eq(&self, other: &Self) -> bool {
        self.intervals().eq(other.intervals())
    }
}

impl Eq for Ordinals {}

impl From<Vec<(u32, u32)>> for Ordinals {
    fn from(intervals: Vec<(u32, u32)>) -> Self {
        let mut set = Self::new();
        for (from, to) in intervals {
            set.insert_range(from, to);
        }
        set
    }
}

impl From<Ordinals> for Vec<(u32, u32)> {
    fn from(set: Ordinals) -> Self {
        set.intervals().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Ordinals;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((0..4u8, 0..60u32, 0..20u32), 0..80)) {
            let mut set = Ordinals::new();
            let mut model = BTreeSet::new();
            for (what, at, length) in steps {
                match what {
                    0 => {
                        let new = (at..at + length).filter(|ordinal| model.insert(*ordinal)).count();
                        prop_assert_eq!(set.insert_range(at, at + length), new as u32);
                    }
                    1 => prop_assert_eq!(set.insert(at), model.insert(at)),
                    2 => prop_assert_eq!(set.remove(at), model.remove(&at)),
                    _ => {
                        let taken = set.take_first(length).map_or(0..0, |(from, to)| from..to);
                        prop_assert!(taken.len() <= length as usize);
                        prop_assert_eq!(taken.is_empty(), length == 0 || model.is_empty());
                        for ordinal in taken {
                            prop_assert_eq!(model.pop_first(), Some(ordinal));
                        }
                    }
                }
                prop_assert_eq!(set.count() as usize, model.len());
                prop_assert!(set.iter().eq(model.iter().copied()));
                prop_assert_eq!(set.contains(at), model.contains(&at));
                let intervals: Vec<_> = set.intervals().collect();
                prop_assert!(intervals.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", set);
            }
        }
    }
}
