//! The copies of definitions that a run is submitted with, as they lie in the store: many cases in one
//! key, and what most of them say said once.

use super::case::FREE_TEXTS;
use super::{Environment, Outline, Repeats, Rules, TestCase};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The value of `run/{run}/def/{first}`, with its cases in full, in outline, or not read yet.
///
/// The cases of a run are numbered, and lane n is case n mod `total` in environment n div `total`.
/// Long runs have a `base` beside them, which is an object as well: a case has its fields, but for
/// those that it gives itself, and those that are null there.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Definitions<C = TestCase> {
    /// All cases of the run.
    pub total: u32,
    /// The number of the first of these.
    pub first: u32,
    pub cases: Vec<C>,
    /// Of these, where the run does not name its cases: there are too many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repeats: Vec<Repeats>,
    /// With the first cases only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environments: Vec<Environment>,
}

/// A case that is read when it is needed.
#[derive(Clone, Debug)]
pub struct Unread {
    base: Arc<str>,
    text: Box<str>,
}

impl Unread {
    /// # Errors
    ///
    /// When it is no case.
    pub fn read(&self) -> serde_json::Result<TestCase> {
        whole(&serde_json::from_str(&self.base)?, &self.text, &mut String::new())
    }
}

#[derive(Deserialize)]
struct Stored<'a> {
    total: u32,
    first: u32,
    #[serde(borrow)]
    base: Option<&'a RawValue>,
    #[serde(borrow)]
    cases: Vec<&'a RawValue>,
    #[serde(default)]
    repeats: Vec<Repeats>,
    #[serde(default)]
    environments: Vec<Environment>,
}

impl<'a> Stored<'a> {
    fn base(&self) -> serde_json::Result<Fields<'a>> {
        self.base.map_or(Ok(Fields::default()), |base| serde_json::from_str(base.get()))
    }

    fn with<C>(
        self,
        read: impl FnMut(&'a RawValue) -> serde_json::Result<C>,
    ) -> serde_json::Result<Definitions<C>> {
        Ok(Definitions {
            total: self.total,
            first: self.first,
            cases: self.cases.into_iter().map(read).collect::<Result<_, _>>()?,
            repeats: self.repeats,
            environments: self.environments,
        })
    }
}

impl Definitions {
    /// # Errors
    ///
    /// When the text is not what a submit writes.
    pub fn parse(text: &[u8]) -> serde_json::Result<Self> {
        let stored: Stored<'_> = serde_json::from_slice(text)?;
        let (base, mut merged) = (stored.base()?, String::new());
        stored.with(|case| whole(&base, case.get(), &mut merged))
    }
}

impl Definitions<Outline> {
    /// What the plan of a run needs. `rules` are those of the case that was read last.
    ///
    /// # Errors
    ///
    /// When the text is not what a submit writes.
    pub fn outlines(text: &[u8], rules: &mut Option<Arc<Rules>>) -> serde_json::Result<Self> {
        let stored: Stored<'_> = serde_json::from_slice(text)?;
        let (base, mut merged) = (stored.base()?, String::new());
        let of_base = match stored.base {
            Some(_) => Some(Outline::new(&whole(&base, "{}", &mut merged)?, rules)),
            None => None,
        };
        stored.with(|case| {
            if let Some(of_base) = &of_base
                && let Brief { id: Some(id), is_alike: true } = serde_json::from_str(case.get())?
            {
                return Ok(of_base.alike(&id));
            }
            Ok(Outline::new(&whole(&base, case.get(), &mut merged)?, rules))
        })
    }
}

impl Definitions<Unread> {
    /// # Errors
    ///
    /// When the text is not what a submit writes.
    pub fn unread(text: &[u8]) -> serde_json::Result<Self> {
        let stored: Stored<'_> = serde_json::from_slice(text)?;
        let base: Arc<str> = stored.base.map_or("{}", |base| base.get()).into();
        stored.with(|case| Ok(Unread { base: base.clone(), text: case.get().into() }))
    }
}

/// How many cases a pack holds, and how many there are in the run.
pub fn count(text: &[u8]) -> Option<(usize, u32)> {
    let stored: Stored<'_> = serde_json::from_slice(text).ok()?;
    Some((stored.cases.len(), stored.total))
}

/// A case that says only what differs from what most say; `merged` is room for it.
fn whole(base: &Fields<'_>, text: &str, merged: &mut String) -> serde_json::Result<TestCase> {
    if base.0.is_empty() {
        return serde_json::from_str(text);
    }
    let own: Fields<'_> = serde_json::from_str(text)?;
    merged.clear();
    merged.push('{');
    let inherited = base.0.iter().filter(|(name, _)| own.0.iter().all(|(own, _)| own != name));
    let said = own.0.iter().filter(|(_, value)| value.get() != "null");
    for (name, value) in inherited.chain(said) {
        if merged.len() > 1 {
            merged.push(',');
        }
        merged.push_str(&quoted(name));
        merged.push(':');
        merged.push_str(value.get());
    }
    merged.push('}');
    serde_json::from_str(merged)
}

/// A name as JSON has it.
pub(super) fn quoted(name: &str) -> String {
    // A string is always written.
    serde_json::to_string(name).unwrap_or_default()
}

/// A text, borrowed if it stands there as it is.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The fields of an object in their order, not understood.
#[derive(Default)]
pub(super) struct Fields<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;
        impl<'de> Visitor<'de> for Found {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(24);
                while let Some((Text(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Found)
    }
}

/// What a case says of itself beside others.
struct Brief<'a> {
    id: Option<Cow<'a, str>>,
    /// It differs in nothing that its run depends on.
    is_alike: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for Brief<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Found;
        impl<'de> Visitor<'de> for Found {
            type Value = Brief<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Brief<'de>, A::Error> {
                let mut brief = Brief { id: None, is_alike: true };
                while let Some(Text(name)) = map.next_key()? {
                    if name == "id" {
                        let Text(id) = map.next_value()?;
                        brief.id = Some(id);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                        brief.is_alike &= FREE_TEXTS.contains(&&*name);
                    }
                }
                Ok(brief)
            }
        }
        deserializer.deserialize_map(Found)
    }
}
