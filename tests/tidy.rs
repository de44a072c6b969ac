//! The rules of `docs/ARCHITECTURE.md`, checked: who may use whom, what is pure, what documents name.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a pure file must not name, and why.
const IMPURE: [(&str, &str); 13] = [
    ("tokio", "async belongs to the shell"),
    ("tonic::", "gRPC belongs to the shell"),
    ("std::net", "sockets belong to the shell"),
    ("std::fs", "files belong to the shell"),
    ("std::thread", "threads belong to the shell"),
    ("std::env", "the environment belongs to the shell"),
    ("Instant", "the time comes in as an argument"),
    ("SystemTime", "the time comes in as an argument"),
    ("rand::", "random numbers come in as arguments"),
    ("getrandom", "random numbers come in as arguments"),
    ("HashMap", "its order differs from run to run"),
    ("HashSet", "its order differs from run to run"),
    ("thread_rng", "random numbers come in as arguments"),
];

/// Functions that are longer than allowed today, with the length that they must not exceed.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];
const FUNCTION_LINES_MAX: usize = 90;

/// Files with more lines before their tests than allowed, with their length of today.
const LONG_FILES: &[(&str, usize)] = &[
    // One stream's brain: every message it can say stands in one place.
    ("watch/session", 571),
];
const FILE_LINES_MAX: usize = 560;

struct Row {
    is_pure: bool,
    may_use: BTreeSet<String>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn architecture() -> String {
    fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap()
}

/// The module table by module name.
fn rows(document: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, kind, uses] = cells[..] else { continue };
        let is_pure = match kind {
            "pure" => true,
            "shell" => false,
            other => panic!("a module is pure or shell, not {other}"),
        };
        let may_use = uses.split(',').map(|name| name.trim().to_owned()).collect();
        rows.insert(name.trim_matches('`').to_owned(), Row { is_pure, may_use });
    }
    rows
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Source files by their path below `src/`, without the suffix, with the text before their tests.
/// Files that are compiled for tests alone are left out.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    assert!(files.len() > 50, "the sources are there");
    let texts: Vec<(PathBuf, String)> =
        files.into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    let for_tests: BTreeSet<PathBuf> =
        texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    texts
        .into_iter()
        .filter(|(path, _)| {
            let is_below =
                |test: &PathBuf| path == test || path.starts_with(test.with_extension(""));
            !for_tests.iter().any(is_below)
        })
        .map(|(path, text)| {
            let name = path.strip_prefix(&src).unwrap().with_extension("");
            let name = name.to_str().unwrap().trim_end_matches("/mod").to_owned();
            let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
            (name, text[..end].to_owned())
        })
        .collect()
}

/// The files of modules that a file declares for tests alone.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_root = path.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs");
    let folder = if is_root { path.parent().unwrap().to_owned() } else { path.with_extension("") };
    text.split("#[cfg(test)]\n")
        .skip(1)
        .filter_map(|rest| {
            let declaration = rest.lines().next()?.trim();
            let name = declaration.strip_suffix(';')?.rsplit(' ').next()?;
            declaration.contains("mod ").then(|| folder.join(name).with_extension("rs"))
        })
        .collect()
}

/// The row with the longest name that a file lies under.
fn row_of<'r>(rows: &'r BTreeMap<String, Row>, file: &str) -> Option<(&'r str, &'r Row)> {
    rows.iter()
        .filter(|(name, _)| file == *name || file.starts_with(&format!("{name}/")))
        .max_by_key(|(name, _)| name.len())
        .map(|(name, row)| (name.as_str(), row))
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// Complaints about one file under its row.
fn complaints(name: &str, row_name: &str, row: &Row, text: &str) -> Vec<String> {
    let code = without_comments(text);
    let mut found = Vec::new();
    for (word, reason) in IMPURE.iter().filter(|_| row.is_pure) {
        if code.contains(word) {
            found.push(format!("src/{name}.rs is pure but names {word}: {reason}"));
        }
    }
    let own = row_name.split('/').next().unwrap();
    for prefix in ["crate::", "quoin::"] {
        for rest in code.split(prefix).skip(1) {
            let used: String =
                rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // Planted bugs sit wherever the real ones would.
            let is_free = used == own || used == "planted" || used.is_empty();
            if !is_free && !row.may_use.contains(&used) {
                found.push(format!("src/{name}.rs uses {used}, which its row does not allow"));
            }
        }
    }
    found
}

#[test]
fn modules_keep_to_their_rows() {
    let document = architecture();
    let rows = rows(&document);
    assert!(rows.len() > 15, "the table is there");
    let mut found = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| name != "lib") {
        match row_of(&rows, name) {
            Some((row_name, row)) => found.extend(complaints(name, row_name, row, text)),
            None => found.push(format!("src/{name}.rs has no row in docs/ARCHITECTURE.md")),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_can_fail() {
    let table = "| `a` | x | pure | types |\n| `a/shell` | x | shell | types |";
    let rows = rows(table);
    let check = |file: &str, text: &str| {
        let (name, row) = row_of(&rows, file).unwrap();
        complaints(file, name, row, text).len()
    };
    assert_eq!(check("a", "use crate::types::X; // tokio"), 0);
    assert_eq!(check("a", "use tokio::sync;"), 1);
    assert_eq!(check("a/b", "use crate::server::X;"), 1);
    assert_eq!(check("a/shell", "use tokio::sync; use crate::a::B;"), 0);
    assert!(row_of(&rows, "ab").is_none());
}

#[test]
fn files_begin_with_a_comment_and_stay_short() {
    let mut found = Vec::new();
    for (name, text) in sources() {
        if !text.trim_start().starts_with("//!") {
            found.push(format!("src/{name}.rs begins without a comment on what it is"));
        }
        let lines = text.lines().count();
        let allowed = LONG_FILES.iter().find(|(file, _)| *file == name);
        if lines > allowed.map_or(FILE_LINES_MAX, |(_, lines)| *lines) {
            found.push(format!("src/{name}.rs has {lines} lines before its tests"));
        }
        if without_comments(&text).contains(".unwrap()") {
            found.push(format!("src/{name}.rs unwraps outside tests"));
        }
        found.extend(long_functions(&name, &text));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Functions from their `fn` to the brace that closes them at the same indentation.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_function = ["fn ", "pub fn ", "pub(super) fn ", "async fn ", "pub async fn "]
            .iter()
            .any(|start| code.starts_with(start));
        if !is_function {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let end = format!("{indent}}}");
        let length = lines[at..].iter().position(|line| *line == end).unwrap_or(0) + 1;
        let function = code.split("fn ").nth(1).and_then(|rest| rest.split(['(', '<']).next());
        let function = function.unwrap_or_default();
        let listed = LONG_FUNCTIONS.iter().find(|(f, n, _)| *f == name && *n == function);
        if length > listed.map_or(FUNCTION_LINES_MAX, |(_, _, lines)| *lines) {
            found.push(format!("src/{name}.rs: {function} has {length} lines"));
        }
    }
    found
}

/// What stands between backticks, outside of code blocks.
fn quoted(document: &str) -> Vec<String> {
    let mut in_block = false;
    let mut quoted = Vec::new();
    for line in document.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            quoted.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    quoted
}

#[test]
fn the_architecture_page_names_what_exists() {
    let document = architecture();
    let sources: String = sources().into_iter().map(|(_, text)| text).collect();
    let mut found = Vec::new();
    for name in quoted(&document) {
        let is_type = name.starts_with(char::is_uppercase)
            && name.chars().all(|c| c.is_alphanumeric() || c == '_');
        let is_path = ["src/", "tests/", "docs/", "proto/"].iter().any(|p| name.starts_with(p));
        if is_type && !sources.contains(&name) {
            found.push(format!("there is no type {name}"));
        }
        if is_path && !root().join(&name).exists() {
            found.push(format!("there is no {name}"));
        }
    }
    // Paths in the pictures too.
    for word in document.split_whitespace().filter(|word| word.starts_with("src/")) {
        if !root().join(word).exists() {
            found.push(format!("there is no {word}"));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
