//! What test tools list: cargo-nextest, pytest, go test.

use super::{Suite, command};
use crate::scheduler::model::{OutputMatch, TestCase};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct NextestList {
    #[serde(rename = "rust-suites")]
    suites: BTreeMap<String, NextestSuite>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct NextestSuite {
    binary_path: String,
    cwd: String,
    #[serde(default)]
    testcases: BTreeMap<String, NextestTest>,
}

#[derive(Deserialize)]
struct NextestTest {
    #[serde(default)]
    ignored: bool,
    /// Whether nextest's own configuration takes it.
    #[serde(default, rename = "filter-match")]
    filter: NextestFilter,
}

#[derive(Default, Deserialize)]
struct NextestFilter {
    #[serde(default)]
    status: String,
}

impl NextestTest {
    fn is_run(&self) -> bool {
        !self.ignored && self.filter.status != "mismatch"
    }
}

/// What `cargo nextest list --message-format json` prints: each test is run by its binary, as nextest
/// itself does, in the folder of its package. Tests that are ignored or filtered out are left out.
pub(super) fn nextest(text: &str) -> Result<Vec<TestCase>, String> {
    // Compilers may say something before it.
    let start = text.find('{').ok_or("it is no JSON")?;
    let list: NextestList =
        serde_json::from_str(&text[start..]).map_err(|error| error.to_string())?;
    let mut cases = Vec::new();
    for (binary, suite) in list.suites {
        for (name, _) in suite.testcases.into_iter().filter(|(_, test)| test.is_run()) {
            let words = [suite.binary_path.as_str(), "--exact", &name, "--nocapture"];
            let words = words.map(str::to_owned).to_vec();
            let mut case = command(&format!("{binary}::{name}"), words, Some(&suite.cwd));
            case.variables.insert("CARGO_MANIFEST_DIR".into(), suite.cwd.clone());
            case.labels.insert("suite".into(), binary.clone());
            cases.push(case);
        }
    }
    Ok(cases)
}

/// The words that run a test. In braces such as `{{z}}` a name would stand for a value of the environment:
/// then Python is told the name with other letters for them.
fn pytest_words(node: &str) -> Vec<String> {
    let words: Vec<String> = if node.contains("{{") {
        // What JSON writes between quotes Python reads alike.
        let literal = json!(node).to_string().replace('{', "\\x7b");
        let options = "'-q', '-p', 'no:cacheprovider'";
        let program = format!("import pytest, sys; sys.exit(pytest.main([{options}, {literal}]))");
        vec!["python3".into(), "-c".into(), program]
    } else {
        let words = ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", node];
        words.map(str::to_owned).into()
    };
    words
}

/// What `pytest --collect-only -q` prints: a line for each test, and some words at the end.
pub(super) fn pytest(suite: &Suite) -> Vec<TestCase> {
    let tests = suite.text.lines().map(str::trim_end).filter(|line| {
        let file = line.split("::").next().unwrap_or_default();
        line.contains("::") && file.ends_with(".py")
    });
    let case = |node: &str| {
        let mut case = command(node, pytest_words(node), suite.folder.as_deref());
        let file = node.split("::").next().unwrap_or_default();
        case.labels.insert("suite".into(), file.to_owned());
        case
    };
    tests.map(case).collect()
}

/// What `go test -json` printed, as text: its events but for those that only say how a package came out.
pub(super) fn go_complaint(said: &str) -> String {
    let text = said.lines().map(|line| match serde_json::from_str::<GoEvent>(line) {
        Ok(event) if event.action.ends_with("output") => event.output,
        Ok(_) => String::new(),
        Err(_) => format!("{line}\n"),
    });
    text.collect()
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct GoEvent {
    action: String,
    package: String,
    output: String,
}

/// What `go test -list . -json ./...` prints: events, of which those with a test's name count.
pub(super) fn gotest(suite: &Suite) -> Result<Vec<TestCase>, String> {
    let mut cases = Vec::new();
    for (line, number) in suite.text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let event: GoEvent =
            serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        let name = event.output.trim();
        let is_test = ["Test", "Example", "Fuzz"].iter().any(|kind| name.starts_with(kind))
            && !name.contains(char::is_whitespace);
        if event.action != "output" || !is_test {
            continue;
        }
        let pattern = format!("^{name}$");
        let words = ["go", "test", "-count=1", "-v", "-run", &pattern, &event.package];
        let words = words.map(str::to_owned).to_vec();
        let id = format!("{}.{name}", event.package);
        let mut case = command(&id, words, suite.folder.as_deref());
        // Without a test of this name go says that all is well.
        case.output_match = Some(OutputMatch::Regex);
        case.output = Some(format!(r"--- (PASS|SKIP): {} \(", regex::escape(name)));
        case.labels.insert("suite".into(), event.package);
        cases.push(case);
    }
    Ok(cases)
}
