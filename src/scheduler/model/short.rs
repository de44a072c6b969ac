//! Lists in short, as people write them.

use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Deserializer};
use serde_json::Value;

/// A list, one element of it, null for none; an element may be given by its name alone.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + for<'a> From<&'a str>,
{
    let elements = match Value::deserialize(deserializer)? {
        Value::Null => Vec::new(),
        Value::Array(elements) => elements,
        element => vec![element],
    };
    let parse = |element| match element {
        Value::String(name) => Ok(T::from(name.as_str())),
        element => serde_json::from_value(element).map_err(serde::de::Error::custom),
    };
    elements.into_iter().map(parse).collect()
}
