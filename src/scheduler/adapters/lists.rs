//! Cases as tables: CSV with a line of field names, and lists of URLs.

use super::{as_id, blank};
use crate::scheduler::model::{Kind, OutputMatch, Predecessor, TagUse, TestCase};
use serde_json::{Map, Value};

/// The fields that a table can hold. Lists within one have `;` between their parts; the words of a
/// command have blanks between them, or are a JSON list.
const FIELDS: [&str; 15] = [
    "id",
    "name",
    "kind",
    "url",
    "method",
    "command",
    "folder",
    "input",
    "output",
    "match",
    "case_pre",
    "mutual_tag",
    "timeout_ms",
    "est_ms",
    "owner",
];

/// Reads rows of fields: commas between them, quotes around those that hold commas, quotes or line
/// breaks. Each with the line on which it begins.
fn rows(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut is_quoted, mut was_quoted) = (false, false);
    let (mut line, mut begin) = (1, 1);
    let mut chars = text.trim_start_matches('\u{feff}').chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() && !was_quoted => (is_quoted, was_quoted) = (true, true),
            ',' if !is_quoted => {
                row.push(std::mem::take(&mut field));
                was_quoted = false;
            }
            '\r' if !is_quoted && chars.peek() == Some(&'\n') => {}
            '\n' if !is_quoted => {
                row.push(std::mem::take(&mut field));
                was_quoted = false;
                rows.push((begin, std::mem::take(&mut row)));
                line += 1;
                begin = line;
            }
            c => {
                line += usize::from(c == '\n');
                field.push(c);
            }
        }
    }
    if is_quoted {
        return Err(format!("line {begin}: a quote is not closed"));
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push((begin, row));
    }
    rows.retain(|(_, row)| row.iter().any(|field| !field.trim().is_empty()));
    Ok(rows)
}

pub(super) fn csv(text: &str) -> Result<Vec<TestCase>, String> {
    let mut rows = rows(text)?.into_iter();
    let Some((_, titles)) = rows.next() else { return Ok(Vec::new()) };
    let titles: Vec<String> = titles.iter().map(|title| title.trim().to_lowercase()).collect();
    if let Some(other) = titles.iter().find(|title| !FIELDS.contains(&title.as_str())) {
        return Err(format!("line 1: {other:?} is none of {}", FIELDS.join(", ")));
    }
    let mut cases = Vec::new();
    for (line, row) in rows {
        if row.len() > titles.len() {
            return Err(format!("line {line}: {} fields under {} titles", row.len(), titles.len()));
        }
        let mut object = Map::new();
        for (title, field) in titles.iter().zip(row).filter(|(_, field)| !field.is_empty()) {
            object.insert(title.clone(), value(title, field));
        }
        let is_command = object.contains_key("command") && !object.contains_key("kind");
        if is_command {
            object.insert("kind".into(), "command".into());
        }
        let case: TestCase = serde_json::from_value(Value::Object(object))
            .map_err(|error| format!("line {line}: {error}"))?;
        case.check().map_err(|refusal| format!("line {line}: {refusal}"))?;
        cases.push(case);
    }
    Ok(cases)
}

fn value(title: &str, field: String) -> Value {
    let parts = |separator: fn(char) -> bool| {
        let parts = field.split(separator).map(str::trim).filter(|part| !part.is_empty());
        Value::from(parts.collect::<Vec<_>>())
    };
    match title {
        "case_pre" | "mutual_tag" => parts(|c| c == ';'),
        "command" if field.trim_start().starts_with('[') => {
            serde_json::from_str(&field).unwrap_or(Value::String(field))
        }
        "command" => parts(char::is_whitespace),
        "timeout_ms" | "est_ms" => {
            field.trim().parse::<u64>().map_or(Value::String(field), Value::from)
        }
        _ => Value::String(field),
    }
}

pub(super) fn to_csv(cases: &[TestCase]) -> String {
    let mut text = FIELDS.join(",") + "\n";
    for case in cases {
        let of = super::plain(case);
        let fields = FIELDS.iter().map(|field| {
            let names = |names: Vec<&str>| names.join(";");
            match *field {
                "case_pre" => {
                    names(case.case_pre.iter().map(|before: &Predecessor| &*before.case).collect())
                }
                "mutual_tag" => {
                    names(case.mutual_tag.iter().map(|used: &TagUse| &*used.tag).collect())
                }
                field => match &of[field] {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                },
            }
        });
        let fields: Vec<String> = fields.map(|field| quoted(&field)).collect();
        text += &(fields.join(",") + "\n");
    }
    text
}

/// The fields of a case of which a row does not tell all.
pub(super) fn lost(case: &TestCase) -> Vec<String> {
    let of_rules = |before: &Predecessor| *before != Predecessor::from(&*before.case);
    let of_scope = |used: &TagUse| *used != TagUse::from(&*used.tag);
    let mut lost = Vec::new();
    if let Value::Object(said) = super::plain(case) {
        lost.extend(said.into_iter().map(|(name, _)| name));
    }
    lost.retain(|name| match name.as_str() {
        "case_pre" => case.case_pre.iter().any(of_rules),
        "mutual_tag" => case.mutual_tag.iter().any(of_scope),
        name => !FIELDS.contains(&name),
    });
    lost
}

fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// Lines of `[METHOD] URL [STATUS]`; what begins with `#` is passed over. Without a status any of 200 to
/// 299 will do.
pub(super) fn urls(text: &str) -> Result<Vec<TestCase>, String> {
    let mut cases = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (method, rest) = match words[..] {
            [] => continue,
            [first, ..] if first.starts_with('#') => continue,
            [method, _, ..] if method.chars().all(|c| c.is_ascii_uppercase()) => {
                (method, &words[1..])
            }
            _ => ("GET", &words[..]),
        };
        let (url, status) = match rest {
            [url] => (*url, None),
            [url, status] if status.parse::<u16>().is_ok() => (*url, Some((*status).to_owned())),
            _ => return Err(format!("line {number}: it is not [METHOD] URL [STATUS]")),
        };
        let name = url.split_once("://").map_or(url, |(_, rest)| rest);
        let name = if method == "GET" { name.to_owned() } else { format!("{method} {name}") };
        let case = TestCase {
            id: as_id(name.trim_end_matches('/')),
            url: url.to_owned(),
            method: Some(method.to_owned()),
            output: status,
            output_match: Some(OutputMatch::Status),
            ..blank()
        };
        case.check().map_err(|refusal| format!("line {number}: {refusal}"))?;
        cases.push(case);
    }
    Ok(cases)
}

pub(super) fn to_urls(cases: &[TestCase]) -> String {
    let calls = cases.iter().filter(|case| case.kind == Kind::Http);
    let lines = calls.map(|case| {
        let is_status = case.output_match == Some(OutputMatch::Status);
        let status = case.output.as_ref().filter(|_| is_status);
        let status = status.map(|status| format!(" {status}")).unwrap_or_default();
        format!("{} {}{status}\n", case.method.as_deref().unwrap_or("POST"), case.url)
    });
    lines.collect()
}
