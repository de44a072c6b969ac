//! `{{key}}` in what a case sends and expects: stands for a value of the environment's configuration.
//!
//! What stands for a key is taken as it is: neither quoted for where it lands, nor filled again. So
//! a configured value may hold braces of its own, which is also how to send them.

use crate::scheduler::model::Environment;
use serde_json::Value;
use std::borrow::Cow;

/// Replaces all keys. Texts in other braces than those of a key stay as they are.
///
/// # Errors
/// Which key the environment does not configure.
pub(in crate::scheduler) fn fill<'t>(
    text: &'t str,
    environment: Option<&Environment>,
) -> Result<Cow<'t, str>, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, key, after)) = next_key(rest) {
        filled.push_str(before);
        match environment.and_then(|environment| look_up(environment, key)) {
            Some(Value::String(value)) => filled.push_str(value),
            Some(value) => filled.push_str(&value.to_string()),
            None => return Err(unknown(key, environment)),
        }
        rest = after;
    }
    if rest.len() == text.len() {
        return Ok(Cow::Borrowed(text));
    }
    filled.push_str(rest);
    Ok(Cow::Owned(filled))
}

fn unknown(key: &str, environment: Option<&Environment>) -> String {
    match environment {
        Some(environment) => format!("environment {} has no key {key}", environment.id),
        None => format!("{{{{{key}}}}} is unknown: the task runs in no environment"),
    }
}

/// The first key with what is before and behind it.
fn next_key(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find("{{").map(|open| from + open) {
        let inner = &text[open + 2..];
        let close = inner.find("}}")?;
        let key = inner[..close].trim_matches(' ');
        let is_key = |c: char| c.is_alphanumeric() || "_-.".contains(c);
        if !key.is_empty() && key.chars().all(is_key) {
            return Some((&text[..open], key, &inner[close + 2..]));
        }
        from = open + 1;
    }
    None
}

/// The value of a key; with dots in it, also that of a key within a value.
fn look_up<'e>(environment: &'e Environment, key: &str) -> Option<&'e Value> {
    if let Some(value) = environment.config.get(key) {
        return Some(value);
    }
    let mut parts = key.split('.');
    let first = environment.config.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.get(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn environment() -> Environment {
        let config = json!({"host": "a.example", "port": 80, "db": {"name": "n"}, "x": "{{host}}"});
        let config = config.as_object().unwrap().clone();
        Environment { id: "lab".into(), config, ..Environment::default() }
    }

    #[test]
    fn keys_are_replaced() {
        let environment = environment();
        let table = [
            ("plain", "plain"),
            ("http://{{host}}:{{port}}/", "http://a.example:80/"),
            ("{{ host }}{{db.name}}", "a.examplen"),
            ("{{x}}", "{{host}}"),
            ("{\"a\":{\"b\":{}}} {{", "{\"a\":{\"b\":{}}} {{"),
            ("{{{host}}}", "{a.example}"),
            ("{{ a b }} {{}} {{port}}", "{{ a b }} {{}} 80"),
        ];
        for (text, expected) in table {
            assert_eq!(fill(text, Some(&environment)).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_named() {
        let error = fill("{{host}}{{gone}}", Some(&environment())).unwrap_err();
        assert_eq!(error, "environment lab has no key gone");
        assert_eq!(
            fill("{{a}}", None).unwrap_err(),
            "{{a}} is unknown: the task runs in no environment"
        );
        assert!(fill("{{host.a}}", Some(&environment())).is_err());
    }
}
