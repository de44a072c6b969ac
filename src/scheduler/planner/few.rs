//! Short lists of numbers, of which there are millions: up to three have no memory of their own.

/// Numbers in the order in which they were added; few, as a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Few {
    Inline(u8, [u32; 3]),
    #[expect(clippy::box_collection, reason = "each lane has such lists, which must stay small")]
    Boxed(Box<Vec<u32>>),
}

impl Few {
    pub(super) const NONE: Few = Few::Inline(0, [0; 3]);

    pub(super) fn push(&mut self, number: u32) {
        match self {
            Few::Inline(count, inline) => match inline.get_mut(usize::from(*count)) {
                Some(free) => {
                    *free = number;
                    *count += 1;
                }
                None => *self = Few::Boxed(Box::new([&*inline, &[number][..]].concat())),
            },
            Few::Boxed(boxed) => boxed.push(number),
        }
    }
}

impl Default for Few {
    fn default() -> Self {
        Few::NONE
    }
}

impl FromIterator<u32> for Few {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Self {
        let mut few = Few::default();
        for number in numbers {
            few.push(number);
        }
        few
    }
}

impl std::ops::Deref for Few {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Few::Inline(count, inline) => &inline[..usize::from(*count)],
            Few::Boxed(boxed) => boxed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Few;

    #[test]
    fn there_may_be_many() {
        for count in 0..9 {
            assert!((0..count).collect::<Few>().iter().copied().eq(0..count));
        }
    }
}
