//! From other tools' tests to cases and back. Pure: what those tools list comes in as text.
//!
//! Ids are made of the tests' own names, with `.` where they have a slash. A test becomes a command that
//! runs it alone, in the folder in which it was listed: workers need that folder too.

mod lists;
mod suites;
#[cfg(test)]
mod tests;

use crate::scheduler::junit;
use crate::scheduler::model::{Kind, TestCase};
use crate::scheduler::plan_file;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What is imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    Nextest,
    Pytest,
    Gotest,
    Csv,
    Urls,
    Junit,
}

/// The label of cases that were imported from a tool's list: the tool, where it was asked, and what their ids
/// begin with. What has the same is of the same import.
pub const SOURCE_LABEL: &str = "imported";

/// What a tool said of a project's tests.
#[derive(Clone, Debug, Default)]
pub struct Suite {
    pub text: String,
    /// Where it was asked, if it was.
    pub folder: Option<String>,
}

/// The words that list a project's tests; none for what is no tool's.
pub fn listing(form: Form) -> &'static [&'static str] {
    match form {
        Form::Nextest => &["cargo", "nextest", "list", "--message-format", "json"],
        // Names as seen from the folder, wherever the configuration is, and in the shape of `-q`, however
        // many `-v` and `-q` the configuration has.
        Form::Pytest => {
            &["python3", "-m", "pytest", "--collect-only", "--verbosity=-1", "--rootdir=."]
        }
        Form::Gotest => &["go", "test", "-list", ".", "-json", "./..."],
        Form::Csv | Form::Urls | Form::Junit => &["false"],
    }
}

/// Whether it is a tool's list of all tests that a project has.
pub fn is_suite(form: Form) -> bool {
    matches!(form, Form::Nextest | Form::Pytest | Form::Gotest)
}

/// Whether a tool that ended with this code says that there are no tests.
pub fn has_no_tests(form: Form, code: i32) -> bool {
    match form {
        Form::Pytest => code == 5,
        _ => false,
    }
}

/// What people can read of what a tool said when it could not list the tests.
pub fn complaint(form: Form, said: &str) -> String {
    match form {
        Form::Gotest => suites::go_complaint(said),
        _ => said.to_owned(),
    }
}

/// Makes cases. `command` is what runs a test of a JUnit report.
///
/// # Errors
///
/// What is wrong with the text, with the line where there is one.
pub fn import(form: Form, suite: &Suite, command: &[String]) -> Result<Vec<TestCase>, String> {
    let mut cases = match form {
        Form::Nextest => suites::nextest(&suite.text)?,
        Form::Pytest => suites::pytest(suite),
        Form::Gotest => suites::gotest(suite)?,
        Form::Csv => lists::csv(&suite.text)?,
        Form::Urls => lists::urls(&suite.text)?,
        Form::Junit => of_junit(&suite.text, command)?,
    };
    number_twins(&mut cases);
    for case in &cases {
        case.check().map_err(|refusal| refusal.message)?;
    }
    Ok(cases)
}

/// Prints cases as yaml, json, csv or urls. The first two are read as plan files are, and come back as they were.
///
/// # Errors
///
/// When there is no such form.
pub fn export(form: &str, cases: &[TestCase]) -> Result<String, String> {
    let values: Vec<Value> = cases.iter().map(plain).collect();
    match form {
        // Maps with other keys than strings are all that JSON cannot hold.
        "json" => {
            let text = serde_json::to_string_pretty(&values).unwrap_or_default() + "\n";
            Ok(plan_file::literal(&text))
        }
        "yaml" => {
            let plan = BTreeMap::from([("cases", values)]);
            let text = serde_saphyr::to_string(&plan).map_err(|error| error.to_string())?;
            Ok(plan_file::literal(&text))
        }
        "csv" => Ok(lists::to_csv(cases)),
        "urls" => Ok(lists::to_urls(cases)),
        other => Err(format!("{other:?} is not yaml, json, csv, urls or junit")),
    }
}

/// How many cases say what a table has no place for, and in which fields.
pub fn lost_in_csv(cases: &[TestCase]) -> (usize, BTreeSet<String>) {
    let lost: Vec<_> = cases.iter().map(lists::lost).filter(|lost| !lost.is_empty()).collect();
    (lost.len(), lost.into_iter().flatten().collect())
}

/// A case without the fields that say what would hold anyway, or are set when it is written.
pub fn plain(case: &TestCase) -> Value {
    let is_set = |name: &str| name.starts_with("gmt_") || name == "state_since";
    let value = |case: &TestCase| serde_json::to_value(case).unwrap_or_default();
    let (mut own, usual) = (value(case), value(&blank()));
    if let (Value::Object(own), Value::Object(usual)) = (&mut own, usual) {
        own.retain(|name, value| !is_set(name) && (name == "id" || usual.get(name) != Some(value)));
    }
    own
}

/// What a case is that says nothing.
fn blank() -> TestCase {
    serde_json::from_str("{}").unwrap_or_default()
}

/// A case of kind command.
fn command(id: &str, words: Vec<String>, folder: Option<&str>) -> TestCase {
    let folder = folder.map(str::to_owned);
    TestCase { id: as_id(id), kind: Kind::Command, command: words, folder, ..blank() }
}

/// A name as an id can be: short enough, without slashes.
fn as_id(name: &str) -> String {
    const BYTES_MAX: usize = 200;
    let name = name.replace('/', ".");
    let name: String = name.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=BYTES_MAX.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
    name[..end.unwrap_or_default()].trim().trim_start_matches('.').to_owned()
}

/// Gives cases of one name a number each, from the second on, that no case has as its name.
fn number_twins(cases: &mut [TestCase]) {
    let mut taken: BTreeSet<String> = cases.iter().map(|case| case.id.clone()).collect();
    let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
    for case in cases {
        let number = numbers.entry(case.id.clone()).or_default();
        *number += 1;
        while *number > 1 {
            let id = format!("{}~{number}", case.id);
            if taken.insert(id.clone()) {
                case.id = id;
                break;
            }
            *number += 1;
        }
    }
}

/// Puts what a report says of a test into a word: what comes in by that is not looked at again.
fn fill(word: &str, test: &junit::Case) -> String {
    let values = [("{name}", &test.name), ("{class}", &test.class), ("{file}", &test.file)];
    let mut filled = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        filled += &rest[..at];
        rest = &rest[at..];
        let found = values.iter().find_map(|(name, value)| Some((value, rest.strip_prefix(name)?)));
        let (value, after) = match found {
            Some((value, after)) => (value.as_str(), after),
            None => rest.split_at(1),
        };
        filled += value;
        rest = after;
    }
    filled + rest
}

/// The case that a test is of, in a report that we wrote. Before there was a property for it, the class was
/// the case, and the name the same with the number of the repeat.
fn own_case(test: &junit::Case) -> Option<&str> {
    let named = test.properties.iter().find(|(name, _)| name == junit::CASE_PROPERTY);
    let is_repeat = |rest: &str| {
        let number = rest.strip_prefix('#').unwrap_or_default();
        rest.is_empty() || !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let is_own = !test.class.is_empty()
        && test.name.strip_prefix(test.class.as_str()).is_some_and(is_repeat);
    named.map(|(_, case)| case.as_str()).or_else(|| is_own.then_some(test.class.as_str()))
}

fn of_junit(text: &str, words: &[String]) -> Result<Vec<TestCase>, String> {
    let report = junit::read(text.as_bytes()).map_err(|invalid| invalid.to_string())?;
    let (mut cases, mut own) = (Vec::new(), BTreeSet::new());
    for suite in &report.suites {
        for test in &suite.cases {
            let own_name = own_case(test);
            if own_name.is_some_and(|name| !own.insert(name)) {
                // Another repeat of it, or the same in another environment.
                continue;
            }
            let name = match (own_name, test.class.as_str()) {
                (Some(name), _) => name.to_owned(),
                (None, "") => test.name.clone(),
                (None, class) => format!("{class}.{}", test.name),
            };
            let words = words.iter().map(|word| fill(word, test)).collect::<Vec<_>>();
            let is_command = !words.is_empty();
            let mut case = command(&name, words, None);
            if !is_command {
                case.kind = Kind::Manual;
                case.name = name;
            }
            case.est_ms = test.time_us.map(|us| us.div_ceil(1_000).max(1));
            if !suite.name.is_empty() && own_name.is_none() {
                case.labels.insert("suite".into(), suite.name.clone());
            }
            cases.push(case);
        }
    }
    Ok(cases)
}
