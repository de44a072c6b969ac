//! `docs/compatibility.md` names every call, every flag and every metric, and only tests that exist.
//!
//! Each rule is a function from text to complaints, so that a test can show it failing.

#![allow(clippy::unwrap_used, reason = "a test program")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join("docs/compatibility.md")).unwrap()
}

/// The text of all files below a folder with this suffix.
fn texts(folder: &str, suffix: &str) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(suffix) {
                found.push(fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

/// Rows without their header: the cells of each.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let lines = page.lines().filter(|line| line.starts_with("| "));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn has_row(page: &str, name: &str) -> bool {
    rows(page).iter().any(|row| row[0] == format!("`{name}`"))
}

/// Calls of a `.proto` file as they stand on the wire.
fn calls(proto: &str) -> Vec<String> {
    let word = |line: &str| -> String {
        line.chars().take_while(|c| c.is_alphanumeric() || *c == '.' || *c == '_').collect()
    };
    let (mut package, mut service, mut calls) = (String::new(), String::new(), Vec::new());
    for line in proto.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("package ") {
            package = word(name);
        } else if let Some(name) = line.strip_prefix("service ") {
            service = word(name);
        } else if let Some(name) = line.strip_prefix("rpc ") {
            calls.push(format!("{package}.{service}/{}", word(name)));
        }
    }
    calls
}

/// Names of flags in the source of their table: the first argument of a row.
fn flags(table: &str) -> Vec<String> {
    let row = |line: &str| {
        let (constructor, rest) = line.trim().split_once("(\"")?;
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        let (name, _) = rest.split_once('"')?;
        let is_name =
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        (!constructor.is_empty() && constructor.chars().all(plain) && is_name)
            .then(|| name.to_owned())
    };
    table.lines().filter_map(row).collect()
}

/// Names in a table of metrics: the first word of a row.
fn metrics(table: &str) -> Vec<String> {
    let rows = table.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|row| row.split_whitespace().next()).map(str::to_owned).collect()
}

/// Tests and files that stand in backticks in the last cell of a row.
fn references(page: &str) -> Vec<String> {
    let last = rows(page).into_iter().filter_map(|row| row.last().copied().map(str::to_owned));
    last.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .filter(|name| name.contains('/') && !name.contains(' '))
        .collect()
}

/// Why a reference leads nowhere, if it does.
fn broken(root: &Path, reference: &str) -> Option<String> {
    let Some((file, function)) = reference.split_once("::") else {
        let exists = root.join(reference).exists();
        return (!exists).then(|| format!("{reference} does not exist"));
    };
    let file = file.trim_end_matches(".rs");
    let folder = if file.starts_with("src/") { root.to_owned() } else { root.join("tests") };
    let Ok(text) = fs::read_to_string(folder.join(format!("{file}.rs"))) else {
        return Some(format!("{reference}: there is no {file}.rs"));
    };
    let is_there = text.contains(&format!("fn {function}("));
    (!is_there).then(|| format!("{reference}: there is no such test"))
}

/// Complaints about rows: a state must be one of the three, and an open row says why.
fn unclear(page: &str) -> Vec<String> {
    let states = |row: &&Vec<&str>| {
        let known = |cell: &&str| {
            ["as etcd", "ours alone", "taken"].iter().any(|state| cell.starts_with(state))
                || ["**open**: ", "**differs**: "].iter().any(|state| cell.starts_with(state))
        };
        let is_header = row.iter().all(|cell| !cell.contains(['`', '*', '"']))
            && (row.contains(&"state") || row[0].starts_with("---"));
        !is_header && !row.iter().any(known)
    };
    rows(page).iter().filter(states).map(|row| format!("{} has no state", row[0])).collect()
}

#[test]
fn every_call_has_a_row() {
    let page = page();
    let calls: Vec<String> = ["proto/etcd", "proto/grpc"]
        .iter()
        .flat_map(|folder| texts(folder, ".proto"))
        .flat_map(|proto| calls(&proto))
        .collect();
    assert!(calls.len() > 50, "{calls:?}");
    let missing: Vec<&String> = calls.iter().filter(|call| !has_row(&page, call)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}

#[test]
fn every_flag_has_a_row() {
    let page = page();
    let mut tables = texts("src/config/table", ".rs");
    tables.push(fs::read_to_string(root().join("src/config/table.rs")).unwrap());
    let flags: Vec<String> = tables.iter().flat_map(|table| flags(table)).collect();
    assert!(flags.len() > 100, "{flags:?}");
    let missing: Vec<&String> =
        flags.iter().filter(|flag| !has_row(&page, &format!("--{flag}"))).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}

#[test]
fn every_metric_has_a_row() {
    let page = page();
    let names: Vec<String> = ["contract.txt", "etcd-3.7.1.txt"]
        .iter()
        .map(|file| fs::read_to_string(root().join("tests/metrics").join(file)).unwrap())
        .flat_map(|table| metrics(&table))
        .collect();
    assert!(names.len() > 250, "{}", names.len());
    let missing: Vec<&String> = names.iter().filter(|name| !has_row(&page, name)).collect();
    assert!(missing.is_empty(), "without a row: {missing:?}");
}

#[test]
fn every_test_that_is_named_exists() {
    let references = references(&page());
    assert!(references.len() > 150, "{}", references.len());
    let broken: Vec<String> =
        references.iter().filter_map(|reference| broken(&root(), reference)).collect();
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn every_row_has_a_state() {
    let unclear = unclear(&page());
    assert!(unclear.is_empty(), "\n{}", unclear.join("\n"));
}

#[test]
fn each_rule_can_fail() {
    let page = "| `--known` | as etcd | `api/range::no_such_test` |\n| `--odd` | perhaps | |\n";
    assert!(has_row(page, "--known") && !has_row(page, "--unknown"));
    assert_eq!(unclear(page), ["`--odd` has no state"]);
    assert_eq!(references(page), ["api/range::no_such_test"]);
    for gone in ["api/range::no_such_test", "api/nothing::at_all", "tests/nothing.json"] {
        assert!(broken(&root(), gone).is_some(), "{gone}");
    }
    assert_eq!(
        flags("    effective(\"a-flag\", Text, \"x\",\n    let x = y(\"no flag\");"),
        ["a-flag"]
    );
    assert_eq!(metrics("# About.\na_total counter -\n"), ["a_total"]);
    assert_eq!(calls("package p;\nservice S {\n  rpc Do(A) returns (B);"), ["p.S/Do"]);
}
