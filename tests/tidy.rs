//! The rules of `docs/ARCHITECTURE.md`, checked: who may use whom, what is pure, how long things
//! may get, which words do not belong here, and whether what documents name exists.
//!
//! Each rule is a function from text to complaints, so that a test can show it failing. It reads
//! text and no syntax trees: it finds what somebody writes by mistake, not what somebody hides.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What a pure file must not name, and why.
const IMPURE: [(&str, &str); 18] = [
    ("tokio", "async belongs to the shell"),
    ("tonic", "gRPC belongs to the shell"),
    ("hyper", "HTTP belongs to the shell"),
    ("axum", "HTTP belongs to the shell"),
    ("std::net", "sockets belong to the shell"),
    ("std::fs", "files belong to the shell"),
    ("std::io", "files and sockets belong to the shell"),
    ("std::thread", "threads belong to the shell"),
    ("std::process", "processes belong to the shell"),
    ("std::env", "the environment belongs to the shell"),
    ("Instant", "the time comes in as an argument"),
    ("SystemTime", "the time comes in as an argument"),
    ("rand", "random numbers come in as arguments"),
    ("getrandom", "random numbers come in as arguments"),
    ("RandomState", "its order differs from run to run"),
    ("HashMap", "its order differs from run to run"),
    ("HashSet", "its order differs from run to run"),
    ("rocksdb::", "one file knows RocksDB"),
];

/// Pure files that may name one of these words all the same: file, word, reason.
const IMPURE_ALLOWED: &[(&str, &str, &str)] = &[];

/// Functions above the limit: file, function, lines of today, reason. Shorten one and lower its
/// number; a function within the limit must leave the list.
const LONG_FUNCTIONS: &[(&str, &str, usize, &str)] = &[];
const FUNCTION_LINES_MAX: usize = 70;

/// Files above the limit, counted before their tests: file, lines of today, reason.
const LONG_FILES: &[(&str, usize, &str)] = &[];
const FILE_LINES_MAX: usize = 500;

/// What stands nowhere in the project, and why.
const BANNED: [(&str, &str); 8] = [
    ("TODO", "do it, or leave it out"),
    ("FIXME", "mend it"),
    ("XXX", "say what is wrong"),
    ("HACK", "say why it is so"),
    ("todo!", "do it, or leave it out"),
    ("dbg!", "left behind"),
    ("/root/", "a path of one machine"),
    ("/home/", "a path of one machine"),
];
/// Names of files that say nothing of what is in them.
const BANNED_FILES: [&str; 5] = ["util", "utils", "common", "helper", "helpers"];

#[derive(Debug, PartialEq)]
struct Row {
    is_pure: bool,
    may_use: BTreeSet<String>,
}

/// A source file: its path below `src/` without suffix, and its text before its tests.
struct Source {
    name: String,
    is_mod: bool,
    text: String,
}

impl Source {
    fn path(&self) -> String {
        format!("src/{}{}.rs", self.name, if self.is_mod { "/mod" } else { "" })
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
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
        let uses = uses.split(',').map(str::trim).filter(|name| *name != "-");
        let row = Row { is_pure, may_use: uses.map(str::to_owned).collect() };
        let twice = rows.insert(name.trim_matches('`').to_owned(), row);
        assert!(twice.is_none(), "{name} has two rows");
    }
    rows
}

fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// All files of `src/` that are compiled for more than tests.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let texts: Vec<(PathBuf, String)> = files("src", ".rs")
        .into_iter()
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(texts.len() > 50, "the sources are there");
    let for_tests: BTreeSet<PathBuf> =
        texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_for_tests = |path: &PathBuf| {
        for_tests.iter().any(|test| path == test || path.starts_with(test.with_extension("")))
    };
    let mut sources = Vec::new();
    for (path, text) in texts.into_iter().filter(|(path, _)| !is_for_tests(path)) {
        let name = path.strip_prefix(&src).unwrap().with_extension("");
        let name = name.to_str().unwrap().to_owned();
        let (name, is_mod) = match name.strip_suffix("/mod") {
            Some(module) => (module.to_owned(), true),
            None => (name, false),
        };
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        sources.push(Source { name, is_mod, text: text[..end].to_owned() });
    }
    sources
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

/// Code without line comments; `://` in a string begins none.
fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let comment = line.match_indices("//").find(|(at, _)| !line[..*at].ends_with(':'));
        line[..comment.map_or(line.len(), |(at, _)| at)].to_owned()
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where a word stands by itself and not as part of a longer one.
fn word_at(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let (before, after) = (&text[..*at], &text[at + word.len()..]);
        let joins = |c: Option<char>| c.is_some_and(is_word);
        !(word.starts_with(is_word) && joins(before.chars().last()))
            && !(word.ends_with(is_word) && joins(after.chars().next()))
    })
}

/// The crate's modules that code names: behind `crate::`, in a group behind it, or by climbing
/// with `super::` out of a file that lies `depth` modules deep.
fn modules_used(code: &str, depth: usize) -> BTreeSet<String> {
    let up = "super::".repeat(depth);
    let mut used = BTreeSet::new();
    for prefix in ["crate::", "quoin::", up.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            if code[..at].ends_with(|c| is_word(c) || c == ':') {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let Some(group) = rest.strip_prefix('{') else {
                used.insert(rest.chars().take_while(|c| is_word(*c)).collect());
                continue;
            };
            let mut nested = 0;
            let end = group.find(|c| {
                nested += i32::from(c == '{') - i32::from(c == '}');
                nested < 0
            });
            for name in group[..end.unwrap()].split([',', '{', '}']) {
                used.insert(name.trim().chars().take_while(|c| is_word(*c)).collect());
            }
        }
    }
    used
}

/// Complaints about what a file names, under its row.
fn misuse(source: &Source, row_name: &str, row: &Row) -> Vec<String> {
    let Source { name, is_mod, text } = source;
    let path = source.path();
    let code = without_comments(text);
    let mut found = Vec::new();
    for (word, reason) in IMPURE.iter().filter(|_| row.is_pure) {
        let allowed = IMPURE_ALLOWED.iter().any(|(file, known, _)| file == name && known == word);
        if word_at(&code, word).is_some() && !allowed {
            found.push(format!("{path} is pure but names {word}: {reason}"));
        }
    }
    let own = row_name.split('/').next().unwrap();
    let depth = name.split('/').count();
    for used in modules_used(&code, depth) {
        // A macro or an item of the root itself has no row.
        let is_module = used.starts_with(|c: char| c.is_lowercase());
        if is_module && used != own && !row.may_use.contains(&used) {
            found.push(format!("{path} uses {used}, which its row does not allow"));
        }
    }
    if code.lines().any(|line| line.starts_with("pub") && line.contains(" use ")) && !is_mod {
        found.push(format!("{path} re-exports: only a module's own mod.rs may"));
    }
    found
}

/// Complaints about the size and form of a file.
fn disorder(source: &Source, long_files: &[(&str, usize, &str)]) -> Vec<String> {
    let Source { name, text, .. } = source;
    let path = source.path();
    let mut found = Vec::new();
    if !text.trim_start().starts_with("//!") {
        found.push(format!("{path} begins without a comment on what it is"));
    }
    if without_comments(text).contains(".unwrap()") {
        found.push(format!("{path} unwraps outside tests"));
    }
    let last = name.rsplit('/').next().unwrap();
    if BANNED_FILES.contains(&last) {
        found.push(format!("{path}: {last} says nothing of what is in it"));
    }
    let listed = long_files.iter().find(|(file, ..)| file == name).map(|(_, lines, _)| *lines);
    found.extend(overlong(&path, text.lines().count(), FILE_LINES_MAX, listed));
    found
}

/// The ratchet: above the limit only as listed, and on the list only above the limit.
fn overlong(what: &str, lines: usize, max: usize, listed: Option<usize>) -> Option<String> {
    match listed {
        Some(listed) if lines > listed => {
            Some(format!("{what} grew from {listed} to {lines} lines"))
        }
        Some(_) if lines <= max => Some(format!("{what} has {lines} lines: take it off the list")),
        None if lines > max => Some(format!("{what} has {lines} lines; {max} are allowed")),
        _ => None,
    }
}

/// Functions with their lengths, from `fn` to the brace that closes them at the same indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let Some(start) = word_at(code, "fn").filter(|_| !code.starts_with("//")) else { continue };
        let is_item = code[..start].split_whitespace().all(|word| {
            word.starts_with("pub") || ["const", "async", "unsafe", "extern"].contains(&word)
        });
        let name: String =
            code[start + 2..].trim_start().chars().take_while(|c| is_word(*c)).collect();
        if !is_item || name.is_empty() {
            continue;
        }
        let opens = lines[at..].iter().position(|line| line.ends_with(['{', ';', '}'])).unwrap();
        if !lines[at + opens].ends_with('{') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[at..].iter().position(|line| *line == end).unwrap() + 1;
        found.push((name, length));
    }
    found
}

fn long_functions(source: &Source, list: &[(&str, &str, usize, &str)]) -> Vec<String> {
    let known = |function: &str| {
        let entry = list.iter().find(|(file, name, ..)| *file == source.name && *name == function);
        entry.map(|(_, _, lines, _)| *lines)
    };
    let functions = functions(&source.text).into_iter();
    functions
        .filter_map(|(function, lines)| {
            let what = format!("{}: {function}", source.path());
            overlong(&what, lines, FUNCTION_LINES_MAX, known(&function))
        })
        .collect()
}

fn banned_words(path: &str, text: &str) -> Vec<String> {
    let banned = BANNED.iter().filter(|(word, _)| word_at(text, word).is_some());
    banned.map(|(word, reason)| format!("{path} says {word}: {reason}")).collect()
}

/// What stands between backticks, outside of code blocks.
fn quoted(document: &str) -> Vec<&str> {
    let outside = document.split("```").step_by(2);
    outside.flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

/// Types and paths that a document names and that are not there. `definitions`: all code.
fn missing(path: &str, document: &str, definitions: &str) -> Vec<String> {
    let kinds = ["struct", "enum", "trait", "type", "union", "message", "service"];
    let mut found = Vec::new();
    for name in quoted(document) {
        let is_type = name.starts_with(char::is_uppercase)
            && name.chars().all(|c| c.is_alphanumeric())
            && name.contains(char::is_lowercase);
        let is_defined = |kind: &&str| word_at(definitions, &format!("{kind} {name}")).is_some();
        if is_type && !kinds.iter().any(is_defined) {
            found.push(format!("{path} names the type {name}, which does not exist"));
        }
    }
    // Paths in pictures too.
    let folders = ["src/", "tests/", "docs/", "proto/", "scripts/", "benches/"];
    for word in document.split(|c: char| c.is_whitespace() || "`()[]|,;:".contains(c)) {
        let named = word.trim_end_matches('.');
        if folders.iter().any(|folder| named.starts_with(folder)) && !root().join(named).exists() {
            found.push(format!("{path} names {named}, which does not exist"));
        }
    }
    found
}

/// Modules that use each other in a circle; a part counts as its module.
fn circles(rows: &BTreeMap<String, Row>) -> Vec<String> {
    let top = |name: &str| name.split('/').next().unwrap().to_owned();
    let mut arrows = BTreeMap::<String, BTreeSet<String>>::new();
    for (name, row) in rows {
        let used = row.may_use.iter().map(|used| top(used)).filter(|used| *used != top(name));
        arrows.entry(top(name)).or_default().extend(used);
    }
    // Takes modules away that use nothing that is left, until none is left or all use others.
    while let Some(free) =
        arrows.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| name.clone())
    {
        arrows.remove(&free);
        for used in arrows.values_mut() {
            used.remove(&free);
        }
    }
    arrows.into_iter().map(|(name, used)| format!("{name} cannot do without {used:?}")).collect()
}

fn assert_none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn modules_keep_to_their_rows() {
    let rows = rows(&read("docs/ARCHITECTURE.md"));
    assert!(rows.len() > 15, "the table is there");
    let sources = sources();
    let mut found = circles(&rows);
    for source in sources.iter().filter(|source| source.name != "lib") {
        match row_of(&rows, &source.name) {
            Some((row_name, row)) => found.extend(misuse(source, row_name, row)),
            None => found.push(format!("{} has no row in docs/ARCHITECTURE.md", source.path())),
        }
    }
    for (name, row) in &rows {
        let has_file =
            sources.iter().any(|source| row_of(&rows, &source.name).unwrap_or(("", row)).0 == name);
        if !has_file {
            found.push(format!("the row {name} is for no file"));
        }
        let unknown = row.may_use.iter().filter(|used| !rows.contains_key(*used));
        found.extend(unknown.map(|used| format!("the row {name} allows {used}, which has no row")));
    }
    assert_none(found);
}

#[test]
fn files_and_functions_stay_short_and_say_what_they_are() {
    let mut found = Vec::new();
    let sources = sources();
    for source in &sources {
        found.extend(disorder(source, LONG_FILES));
        found.extend(long_functions(source, LONG_FUNCTIONS));
    }
    let exists = |file: &str| sources.iter().any(|source| source.name == file);
    let listed = LONG_FILES.iter().map(|(file, ..)| file);
    let listed = listed.chain(LONG_FUNCTIONS.iter().map(|(file, ..)| file));
    let gone = listed.chain(IMPURE_ALLOWED.iter().map(|(file, ..)| file)).filter(|f| !exists(f));
    found.extend(gone.map(|file| format!("a list names src/{file}.rs, which does not exist")));
    for folder in ["tests", "benches"] {
        for path in files(folder, ".rs") {
            if !fs::read_to_string(&path).unwrap().starts_with("//!") {
                found.push(format!("{} begins without a comment on what it is", path.display()));
            }
        }
    }
    assert_none(found);
}

#[test]
fn banned_words_stand_nowhere() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "docs", "proto", "scripts"] {
        for path in files(folder, "").iter().filter(|path| !path.ends_with("tests/tidy.rs")) {
            // What is no text is data of a test.
            let Ok(text) = fs::read_to_string(path) else { continue };
            found.extend(banned_words(&path.display().to_string(), &text));
        }
    }
    for path in ["README.md", "Makefile", "Cargo.toml", "build.rs", ".ci/run"] {
        found.extend(banned_words(path, &read(path)));
    }
    assert_none(found);
}

#[test]
fn documents_name_what_exists() {
    let mut definitions: String =
        sources().iter().map(|source| without_comments(&source.text)).collect();
    for path in files("proto", ".proto") {
        definitions.push_str(&fs::read_to_string(path).unwrap());
    }
    let mut found = Vec::new();
    for path in files("docs", ".md").into_iter().chain([root().join("README.md")]) {
        let text = fs::read_to_string(&path).unwrap();
        found.extend(missing(&path.display().to_string(), &text, &definitions));
    }
    assert_none(found);
}

#[cfg(test)]
mod each_rule_can_fail {
    use super::*;

    fn source(name: &str, text: &str) -> Source {
        Source { name: name.to_owned(), is_mod: false, text: text.to_owned() }
    }

    /// Complaints about a file under a small table.
    fn check(file: &str, text: &str) -> Vec<String> {
        let rows = rows("| `a` | x | pure | types |\n| `a/shell` | x | shell | types |");
        let (name, row) = row_of(&rows, file).unwrap();
        misuse(&source(file, text), name, row)
    }

    #[test]
    fn purity() {
        assert_eq!(check("a", "use crate::types::X; // tokio"), [""; 0]);
        assert_eq!(check("a/shell", "use tokio::sync; use crate::a::B;"), [""; 0]);
        for (word, _) in IMPURE {
            let found = check("a/b", &format!("let x = {word}::new(\"http://x\");"));
            assert_eq!(found.len(), 1, "{word}: {found:?}");
        }
        assert_eq!(check("a", "let u = \"http://x\"; tokio::spawn(y);").len(), 1);
        assert_eq!(check("a", "struct Instantiated; let operand = 1;"), [""; 0]);
    }

    #[test]
    fn arrows() {
        assert_eq!(check("a/b", "use crate::server::X;").len(), 1);
        assert_eq!(check("a/b", "use crate::{types::{X, Y}, server};").len(), 1);
        assert_eq!(check("a/b", "use super::super::server::X;").len(), 1);
        assert_eq!(check("a/b", "use super::c::X;"), [""; 0]);
        assert!(row_of(&rows("| `a` | x | pure | - |"), "ab").is_none());
        let round = rows("| `a` | x | pure | b |\n| `b` | x | pure | a |\n| `c` | x | pure | - |");
        assert_eq!(circles(&round).len(), 2);
        assert_eq!(circles(&rows("| `a/x` | x | shell | a, c |\n| `c` | x | pure | - |")), [""; 0]);
    }

    #[test]
    fn re_exports() {
        assert_eq!(check("a/b", "pub use super::X;").len(), 1);
        assert_eq!(check("a/b", "pub(crate) use super::X;").len(), 1);
        let module = Source { is_mod: true, ..source("a", "pub use b::X;") };
        assert_eq!(misuse(&module, "a", &Row { is_pure: true, may_use: BTreeSet::new() }), [""; 0]);
    }

    #[test]
    fn form_and_size() {
        let fine = "//! What it is.\n";
        assert_eq!(disorder(&source("a", fine), &[]), [""; 0]);
        assert_eq!(disorder(&source("a", "fn x() {}"), &[]).len(), 1);
        assert_eq!(disorder(&source("a", &format!("{fine}let x = y.unwrap();")), &[]).len(), 1);
        assert_eq!(disorder(&source("a/utils", fine), &[]).len(), 1);
        let long = fine.repeat(501);
        assert_eq!(disorder(&source("a", &long), &[]).len(), 1);
        assert_eq!(disorder(&source("a", &long), &[("a", 501, "")]), [""; 0]);
        assert_eq!(disorder(&source("a", &long), &[("a", 500, "")]).len(), 1, "it grew");
        assert_eq!(disorder(&source("a", fine), &[("a", 501, "")]).len(), 1, "it shrank");
    }

    #[test]
    fn long_bodies() {
        let trait_of =
            "trait T {\n    fn declared(\n        &self,\n    ) -> X;\n    fn one() {}\n";
        let body = "        x();\n".repeat(69);
        let text = format!("{trait_of}    pub(super) async fn long() {{\n{body}    }}\n}}\n");
        assert_eq!(functions(&text), [("long".to_owned(), 71)]);
        assert_eq!(long_functions(&source("a", &text), &[]).len(), 1);
        assert_eq!(long_functions(&source("a", &text), &[("a", "long", 71, "")]), [""; 0]);
    }

    #[test]
    fn words_and_names() {
        assert_eq!(banned_words("a", "// TODO: x").len(), 1);
        assert_eq!(banned_words("a", "XXXX and todo"), [""; 0]);
        let document = "`Known` `Gone` `src/lib.rs` ```\n`Other`\n src/gone.rs```";
        let found = missing("a", document, "pub struct Known;\nstruct GoneAway;");
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
