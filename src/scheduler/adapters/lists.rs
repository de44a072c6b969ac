//! Cases as tables: CSV with a line of field names, and lists of URLs.

use super::{as_id, blank};
use crate::scheduler::model::{
    Kind, OutputMatch, Policy, Predecessor, Retries, Scope, TagScope, TagUse, TestCase, understand,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Display;

/// The fields that a table can hold, those that each has first. Lists within one have `;` between their
/// parts: predecessors and tags with their rules behind them, `pay (repeat passed)`; names with their values,
/// `os=linux;gpu`. What is written so and would be read as something else is JSON instead. The words of a
/// command have blanks between them, or are a JSON list.
const FIELDS: [&str; 24] = [
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
    "headers",
    "variables",
    "requires",
    "slots",
    "priority",
    "slow_ms",
    "retries",
    "on_lost",
    "labels",
];
/// So many are written even if no case says anything there.
const USUAL: usize = 15;

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
    if let Some(title) = titles.iter().enumerate().find(|(at, title)| titles[..*at].contains(title))
    {
        return Err(format!("line 1: {} is there twice", title.1));
    }
    let mut cases: Vec<TestCase> = Vec::new();
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
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
        let case: TestCase = understand("a case", Value::Object(object))
            .map_err(|refusal| format!("line {line}: {refusal}"))?;
        case.check().map_err(|refusal| format!("line {line}: {refusal}"))?;
        if let Some(other) = lines.insert(case.id.clone(), line) {
            return Err(format!("line {line}: case {} is described in line {other}", case.id));
        }
        cases.push(case);
    }
    Ok(cases)
}

/// What a field says, as JSON has it. What makes no sense stays text, which the case then refuses.
fn value(title: &str, field: String) -> Value {
    let parts = |separator: fn(char) -> bool| {
        field.split(separator).map(str::trim).filter(|part| !part.is_empty())
    };
    let list = |part: fn(&str) -> Value| Value::from_iter(parts(|c| c == ';').map(part));
    let map = |part: fn(&str) -> Value| {
        let pairs = parts(|c| c == ';').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let pairs = pairs.map(|(name, value)| (name.trim().to_owned(), part(value.trim())));
        Value::Object(pairs.collect())
    };
    let number = |text: &str| text.trim().parse::<i64>().map_or_else(|_| text.into(), Value::from);
    let is_json = match title {
        "case_pre" | "mutual_tag" | "command" => field.trim_start().starts_with('['),
        "headers" | "variables" | "requires" | "labels" | "retries" => {
            field.trim_start().starts_with('{')
        }
        _ => false,
    };
    match title {
        _ if is_json => serde_json::from_str(&field).unwrap_or(Value::String(field)),
        "case_pre" => list(|part| ruled(part, "case", predecessor_rule)),
        "mutual_tag" => list(|part| ruled(part, "tag", tag_rule)),
        "command" => parts(char::is_whitespace).collect(),
        "headers" | "variables" | "requires" | "labels" => map(|text| text.into()),
        "retries" => map(number),
        "timeout_ms" | "est_ms" | "slow_ms" | "slots" | "priority" => number(&field),
        _ => Value::String(field),
    }
}

/// A name with its rules behind it, `pay (repeat passed)`; the name alone if there are none.
fn ruled(part: &str, name: &str, rule: fn(&str) -> Option<(&'static str, Value)>) -> Value {
    let words = part.strip_suffix(')').and_then(|part| part.rsplit_once(" ("));
    let rules = words.and_then(|(of, words)| {
        let rules: Option<Vec<_>> = words.split_whitespace().map(rule).collect();
        Some((of.trim_end(), rules.filter(|rules| !rules.is_empty())?))
    });
    let Some((of, rules)) = rules else { return part.into() };
    let rules = rules.into_iter().map(|(name, value)| (name.to_owned(), value));
    Value::Object([(name.to_owned(), Value::from(of))].into_iter().chain(rules).collect())
}

fn predecessor_rule(word: &str) -> Option<(&'static str, Value)> {
    match word.split_once('=') {
        Some(("ratio", ratio)) => {
            let ratio: f64 = ratio.parse().ok()?;
            Some(("policy", json!({"ratio": ratio})))
        }
        Some(_) => None,
        None => match word {
            "run" | "repeat" | "global" => Some(("scope", word.into())),
            "ended" | "passed" => Some(("policy", word.into())),
            "soft" => Some(("soft", true.into())),
            _ => None,
        },
    }
}

fn tag_rule(word: &str) -> Option<(&'static str, Value)> {
    match word {
        "global" | "run" | "env" => Some(("scope", word.into())),
        "chain" => Some(("chain", true.into())),
        _ => None,
    }
}

/// The words that say what is other than usual, from a list of `(the word, whether it is so)`.
fn with_rules(name: &str, rules: &[(&str, bool)]) -> String {
    let words: Vec<&str> =
        rules.iter().filter(|(_, is_so)| *is_so).map(|(word, _)| *word).collect();
    match words[..] {
        [] => name.to_owned(),
        _ => format!("{name} ({})", words.join(" ")),
    }
}

fn of_predecessor(before: &Predecessor) -> String {
    let Predecessor { case, scope, policy, soft } = before;
    let ratio = match policy {
        Policy::Ratio(ratio) => format!("ratio={ratio}"),
        Policy::Ended | Policy::Passed => String::new(),
    };
    let rules = [
        ("repeat", *scope == Scope::Repeat),
        ("global", *scope == Scope::Global),
        ("passed", *policy == Policy::Passed),
        (&*ratio, !ratio.is_empty()),
        ("soft", *soft),
    ];
    with_rules(case, &rules)
}

fn of_tag(used: &TagUse) -> String {
    let TagUse { tag, scope, chain } = used;
    let rules =
        [("run", *scope == TagScope::Run), ("env", *scope == TagScope::Env), ("chain", *chain)];
    with_rules(tag, &rules)
}

fn of_pairs<'p, V: Display + 'p>(pairs: impl Iterator<Item = (&'p String, V)>) -> String {
    let pairs = pairs.map(|(name, value)| match value.to_string().as_str() {
        "" => name.clone(),
        value => format!("{name}={value}"),
    });
    pairs.collect::<Vec<_>>().join(";")
}

/// A field of a case as it stands in a table.
fn cell(case: &TestCase, title: &str, said: &Value) -> String {
    let Retries { test, infra, backoff_ms } = case.retries;
    let short = match (title, said) {
        (_, Value::Null) => return String::new(),
        (_, Value::String(text)) => return text.clone(),
        ("case_pre", _) => case.case_pre.iter().map(of_predecessor).collect::<Vec<_>>().join(";"),
        ("mutual_tag", _) => case.mutual_tag.iter().map(of_tag).collect::<Vec<_>>().join(";"),
        ("headers", _) => of_pairs(case.headers.iter()),
        ("variables", _) => of_pairs(case.variables.iter()),
        ("requires", _) => of_pairs(case.requires.iter()),
        ("labels", _) => of_pairs(case.labels.iter()),
        ("retries", _) => format!("test={test};infra={infra};backoff_ms={backoff_ms}"),
        (_, said) => said.to_string(),
    };
    let read = |text: &str| {
        let object = Map::from_iter([(title.to_owned(), value(title, text.to_owned()))]);
        serde_json::from_value::<TestCase>(Value::Object(object)).ok()
    };
    let is_same = |read: &TestCase| super::plain(read).get(title) == Some(said);
    if read(&short).as_ref().is_some_and(is_same) { short } else { said.to_string() }
}

pub(super) fn to_csv(cases: &[TestCase]) -> String {
    let said: Vec<Value> = cases.iter().map(super::plain).collect();
    let is_said = |field: &str| said.iter().any(|said| said.get(field).is_some());
    let (usual, others) = FIELDS.split_at(USUAL);
    let others = others.iter().filter(|field| is_said(field));
    let titles: Vec<&str> = usual.iter().chain(others).copied().collect();
    let mut text = titles.join(",") + "\n";
    for (case, said) in cases.iter().zip(&said) {
        let fields = titles.iter().map(|title| quoted(&cell(case, title, &said[*title])));
        text += &(fields.collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

/// The fields of a case that are others when its row is read again.
pub(super) fn lost(case: &TestCase) -> Vec<String> {
    let said = super::plain(case);
    let row = FIELDS.iter().map(|title| (*title, cell(case, title, &said[*title])));
    let fields = row.filter(|(_, field)| !field.is_empty());
    let fields = fields.map(|(title, field)| (title.to_owned(), value(title, field)));
    let read = serde_json::from_value::<TestCase>(Value::Object(fields.collect()));
    let read = read.map_or_else(|_| json!({}), |read| super::plain(&read));
    let Value::Object(said) = said else { return Vec::new() };
    said.into_iter().filter(|(name, value)| read.get(name) != Some(value)).map(|(n, _)| n).collect()
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
