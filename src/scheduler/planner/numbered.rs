//! Things with numbers that are given in order and never again: found by number in one step. Between the
//! oldest and the newest there is room for each number, as large as a pointer.

use std::collections::VecDeque;

#[derive(Debug)]
pub(super) struct Numbered<T> {
    first: u32,
    /// The first is there, if any is.
    found: VecDeque<Option<Box<T>>>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { first: 0, found: VecDeque::new() }
    }
}

impl<T> Numbered<T> {
    fn place(&self, number: u32) -> Option<usize> {
        number.checked_sub(self.first).map(|place| place as usize)
    }

    pub(super) fn get(&self, number: u32) -> Option<&T> {
        self.found.get(self.place(number)?)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let place = self.place(number)?;
        self.found.get_mut(place)?.as_deref_mut()
    }

    /// Nothing may have the number yet.
    pub(super) fn insert(&mut self, number: u32, new: T) {
        if self.found.is_empty() {
            self.first = number;
        }
        for _ in number..self.first {
            self.found.push_front(None);
        }
        self.first = self.first.min(number);
        let place = (number - self.first) as usize;
        if self.found.len() <= place {
            self.found.resize_with(place + 1, || None);
        }
        self.found[place] = Some(Box::new(new));
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let place = self.place(number)?;
        let removed = self.found.get_mut(place)?.take();
        while let Some(None) = self.found.front() {
            self.found.pop_front();
            self.first += 1;
        }
        removed.map(|removed| *removed)
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let found = (self.first..).zip(&self.found);
        found.filter_map(|(number, found)| Some((number, found.as_deref()?)))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.found.iter().filter_map(Option::as_deref)
    }
}

#[cfg(test)]
mod tests {
    use super::Numbered;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((any::<bool>(), 0..20u32), 0..60)) {
            let mut numbered = Numbered::default();
            let mut model = BTreeMap::new();
            for (is_new, number) in steps {
                if is_new && !model.contains_key(&number) {
                    numbered.insert(number, number * 2);
                    model.insert(number, number * 2);
                } else {
                    prop_assert_eq!(numbered.remove(number), model.remove(&number));
                }
                prop_assert!(numbered.values().eq(model.values()));
                prop_assert!(numbered.iter().eq(model.iter().map(|(number, found)| (*number, found))));
                for number in 0..22 {
                    prop_assert_eq!(numbered.get(number), model.get(&number));
                    prop_assert_eq!(numbered.get_mut(number), model.get_mut(&number));
                }
            }
        }
    }
}
