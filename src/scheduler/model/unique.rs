//! JSON of which each field is given once: of two with one name readers take one or the other, and who wrote
//! them would not hear which.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Reads a value.
///
/// # Errors
///
/// What is wrong with the text, with the place, or which field is given twice.
pub fn unique(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let found = Unique.deserialize(&mut reader)?;
    reader.end().map(|()| found)
}

struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut found = Vec::new();
        while let Some(item) = items.next_element_seed(Unique)? {
            found.push(item);
        }
        Ok(found.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut found = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if found.contains_key(&name) {
                return Err(Error::custom(format!("field `{name}` is given twice")));
            }
            found.insert(name, fields.next_value_seed(Unique)?);
        }
        Ok(found.into())
    }
}

#[cfg(test)]
mod tests {
    use super::unique;
    use serde_json::Value;

    #[test]
    fn a_value_is_read_as_always() {
        for text in [
            r#"{"a": [1, -2, 1.5, 18446744073709551615, 1e300, "x\u00e9", null, true], "b": {"a": {}}}"#,
            "[]",
            "null",
            " 7 ",
        ] {
            let plain: Value = serde_json::from_str(text).unwrap();
            assert_eq!(unique(text.as_bytes()).unwrap(), plain);
        }
        for text in ["{", "{} x", "1e999", "[1,]", "\"\u{1}\"", &"[".repeat(100_000)] {
            let plain = serde_json::from_str::<Value>(text).unwrap_err();
            assert_eq!(unique(text.as_bytes()).unwrap_err().to_string(), plain.to_string());
        }
    }

    #[test]
    fn a_field_is_given_once() {
        for (text, name) in
            [(r#"{"a": 1, "a": 1}"#, "a"), (r#"[{"b": {"c": 1, "\u0063": 2}}]"#, "c")]
        {
            let said = unique(text.as_bytes()).unwrap_err().to_string();
            assert!(
                said.starts_with(&format!("field `{name}` is given twice at line 1")),
                "{said}"
            );
        }
    }
}
