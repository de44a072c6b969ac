//! How often a case of a run is to run: alike everywhere, or as said of each environment.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How often a case runs in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Repeats {
    /// In each environment of the run.
    Same(u32),
    /// By environment; in those that are not named it does not run.
    Each(Box<BTreeMap<String, u32>>),
}

impl Repeats {
    /// As often in each of these environments as said, written as shortly as can be: `all` are those
    /// of the run.
    pub fn new(each: BTreeMap<String, u32>, all: &[String]) -> Self {
        let of_all = all.iter().map(|environment| each.get(environment).copied());
        let mut of_all = of_all.map(Option::unwrap_or_default);
        match of_all.next() {
            Some(first) if of_all.all(|other| other == first) => Self::Same(first),
            _ => Self::Each(Box::new(each)),
        }
    }

    /// In one environment.
    pub fn within(&self, environment: &str) -> u32 {
        match self {
            Self::Same(repeats) => *repeats,
            Self::Each(each) => each.get(environment).copied().unwrap_or_default(),
        }
    }

    /// In `places` environments together.
    pub fn sum(&self, places: usize) -> u64 {
        match self {
            Self::Same(repeats) => u64::from(*repeats).saturating_mul(places as u64),
            Self::Each(each) => each.values().map(|repeats| u64::from(*repeats)).sum(),
        }
    }

    /// How many environments of `places` it runs in.
    pub fn width(&self, places: usize) -> usize {
        match self {
            Self::Same(repeats) => places * usize::from(*repeats > 0),
            Self::Each(each) => each.values().filter(|repeats| **repeats > 0).count(),
        }
    }

    /// Environments of `all` in which it runs and the other does not.
    pub fn beyond<'a>(&self, other: &Self, all: &'a [String]) -> impl Iterator<Item = &'a String> {
        let all = if matches!(other, Self::Same(_)) { &[] } else { all };
        all.iter().filter(|place| self.within(place) > 0 && other.within(place) == 0)
    }

    /// Adds those of another selection of the same case; `all` are the environments of the run. Says the
    /// sum where both run in one.
    pub fn add(&mut self, other: &Self, all: &[String]) -> Option<u32> {
        if let (Self::Same(sum), Self::Same(more)) = (&mut *self, other) {
            *sum = sum.saturating_add(*more);
            return Some(*sum);
        }
        let (mut sums, mut of_both) = (BTreeMap::new(), None);
        for environment in all {
            let (here, more) = (self.within(environment), other.within(environment));
            let sum = here.saturating_add(more);
            if sum > 0 {
                sums.insert(environment.clone(), sum);
            }
            of_both = of_both.or((here > 0 && more > 0).then_some(sum));
        }
        *self = Self::new(sums, all);
        of_both
    }

    /// Lets it run so often in environments in which `other` runs and this does not, which are returned.
    pub fn fill<'a>(&mut self, other: &Self, repeats: u32, all: &'a [String]) -> Vec<&'a String> {
        let missing: Vec<&String> = other.beyond(self, all).collect();
        let Self::Each(each) = self else { return Vec::new() };
        each.extend(missing.iter().map(|environment| ((*environment).clone(), repeats)));
        missing
    }

    /// Lets it run as often as `other` at least, where it runs at all and may be changed: in environments of
    /// `all` that `may` takes. Says whether that changed anything.
    pub fn raise(&mut self, other: &Self, all: &[String], may: impl Fn(&str) -> bool) -> bool {
        if all.is_empty() {
            let Self::Same(repeats) = self else { return false };
            let is_less = may("") && (1..other.within("")).contains(repeats);
            *repeats = if is_less { other.within("") } else { *repeats };
            return is_less;
        }
        let is_less = |environment: &&String| {
            (1..other.within(environment)).contains(&self.within(environment)) && may(environment)
        };
        let less: Vec<&String> = all.iter().filter(is_less).collect();
        if less.is_empty() {
            return false;
        }
        let here = all.iter().map(|environment| (environment.clone(), self.within(environment)));
        let mut each: BTreeMap<String, u32> = here.filter(|(_, repeats)| *repeats > 0).collect();
        each.extend(less.into_iter().map(|place| (place.clone(), other.within(place))));
        *self = Self::new(each, all);
        true
    }
}

impl Default for Repeats {
    fn default() -> Self {
        Self::Each(Box::default())
    }
}

/// Of one environment. Not derived: what is wrong would be said in words of the program, and YAML would take texts
/// that look like numbers.
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;
        impl Visitor<'_> for Found {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of repeats for each environment")
            }

            fn visit_u64<E: Error>(self, repeats: u64) -> Result<Number, E> {
                let wrong = |_| E::invalid_value(Unexpected::Unsigned(repeats), &self);
                u32::try_from(repeats).map(Number).map_err(wrong)
            }
        }
        deserializer.deserialize_any(Found)
    }
}

/// Not derived: that would keep each value in between, of which there may be a million.
impl<'de> Deserialize<'de> for Repeats {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;
        impl<'de> Visitor<'de> for Found {
            type Value = Repeats;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of repeats, or one for each environment by its id")
            }

            fn visit_u64<E: Error>(self, repeats: u64) -> Result<Repeats, E> {
                let wrong = |_| E::invalid_value(Unexpected::Unsigned(repeats), &self);
                u32::try_from(repeats).map(Repeats::Same).map_err(wrong)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Repeats, A::Error> {
                let each =
                    BTreeMap::<String, Number>::deserialize(MapAccessDeserializer::new(map))?;
                let each = each.into_iter().map(|(environment, Number(n))| (environment, n));
                Ok(Repeats::Each(Box::new(each.collect())))
            }
        }
        deserializer.deserialize_any(Found)
    }
}

impl From<u32> for Repeats {
    fn from(repeats: u32) -> Self {
        Self::Same(repeats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACES: [&str; 3] = ["a", "b", "c"];

    fn some() -> impl Strategy<Value = Repeats> {
        let each = prop::collection::btree_map(
            prop::sample::select(&PLACES[..]).prop_map(str::to_owned),
            1_u32..4,
            0..4,
        );
        prop_oneof![
            (1_u32..4).prop_map(Repeats::Same),
            each.prop_map(|each| Repeats::Each(Box::new(each))),
        ]
    }

    fn numbers(repeats: &Repeats) -> [u32; 3] {
        PLACES.map(|place| repeats.within(place))
    }

    proptest! {
        #[test]
        fn repeats_do_what_a_number_for_each_environment_does(one in some(), other in some()) {
            let all = PLACES.map(str::to_owned);
            let (here, there) = (numbers(&one), numbers(&other));
            prop_assert_eq!(one.sum(3), here.iter().map(|n| u64::from(*n)).sum::<u64>());
            prop_assert_eq!(one.width(3), here.iter().filter(|n| **n > 0).count());
            let beyond: Vec<&String> = one.beyond(&other, &all).collect();
            let expected = (0..3).filter(|n| here[*n] > 0 && there[*n] == 0).map(|n| &all[n]);
            prop_assert_eq!(&beyond, &expected.collect::<Vec<_>>());
            let mut sum = one.clone();
            let said = sum.add(&other, &all);
            let sums: Vec<u32> = here.iter().zip(there).map(|(a, b)| a + b).collect();
            prop_assert_eq!(&numbers(&sum)[..], &sums[..]);
            let of_both = (0..3).find(|n| here[*n] > 0 && there[*n] > 0);
            prop_assert_eq!(said, of_both.map(|n| sums[n]));
            let mut filled = other.clone();
            prop_assert_eq!(filled.fill(&one, 7, &all), beyond);
            let expected: Vec<u32> =
                here.iter().zip(there).map(|(a, b)| if *a > 0 && b == 0 { 7 } else { b }).collect();
            prop_assert_eq!(&numbers(&filled)[..], &expected[..]);
            let may = |place: &str| place != "b";
            let mut raised = other.clone();
            let expected: Vec<u32> = (0..3)
                .map(|n| match there[n] {
                    repeats if repeats > 0 && may(PLACES[n]) => repeats.max(here[n]),
                    repeats => repeats,
                })
                .collect();
            prop_assert_eq!(raised.raise(&one, &all, may), expected != there);
            prop_assert_eq!(&numbers(&raised)[..], &expected[..]);
            let text = serde_json::to_string(&one).unwrap();
            prop_assert_eq!(serde_json::from_str::<Repeats>(&text).unwrap(), one);
        }
    }

    #[test]
    fn what_is_alike_everywhere_is_one_number() {
        let all = PLACES.map(str::to_owned);
        let of = |each: &[(&str, u32)]| {
            Repeats::new(each.iter().map(|(place, n)| ((*place).to_owned(), *n)).collect(), &all)
        };
        assert_eq!(of(&[("a", 2), ("b", 2), ("c", 2)]), Repeats::Same(2));
        for each in [&[("a", 2), ("b", 2)][..], &[("a", 2), ("b", 2), ("c", 1)]] {
            assert!(matches!(of(each), Repeats::Each(_)), "{each:?}");
        }
    }

    #[test]
    fn what_is_no_number_of_repeats_is_refused() {
        for wrong in ["-1", "1.5", "4294967296", "\"3\"", "[1]", "null"] {
            let each = format!("{{\"a\": {wrong}}}");
            for text in [wrong, &each] {
                let error = serde_json::from_str::<Repeats>(text).unwrap_err().to_string();
                let said =
                    error.contains("invalid") && error.contains("expected a number of repeats");
                assert!(said && !error.contains("u32"), "{text}: {error}");
                let error = serde_saphyr::from_str::<Repeats>(text).unwrap_err().to_string();
                assert!(error.contains("expected a number of repeats"), "{text}: {error}");
            }
        }
        let both = [serde_json::from_str("{\"a\": 3}").ok(), serde_saphyr::from_str("a: 3").ok()];
        let each = Repeats::Each(Box::new([("a".to_owned(), 3)].into()));
        assert_eq!(both, [Some(each.clone()), Some(each)]);
    }
}
