//! Plan files: cases, environments and a run in YAML, of which JSON is a part.
//!
//! `${name}` stands for a variable: one that the file gives a value under `variables`, or that was given
//! on the command line, which wins. Values are put in as text before anything else is read, so that
//! `${ms}` may be a number; `$${` stands for `${` itself. Nothing is read from other files or from the
//! environment.

use super::model::{Environment, RunSpec, TestCase, in_words};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The section of a plan that gives values to be put in.
const VARIABLES: &str = "variables";
const BYTES_MAX: usize = 256 << 20;
/// Of a short text too: an alias may stand for many.
const EVENTS_MIN: usize = 10_000;

/// A definition as a file gives it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given<T> {
    pub value: T,
    /// The fields that the file names; all others have their defaults.
    pub named: BTreeSet<String>,
    /// The line of the file at which it begins, from 1; 0 if it was not read from one.
    pub line: u64,
}

/// One that was not read from a file names nothing.
impl<T> From<T> for Given<T> {
    fn from(value: T) -> Self {
        Self { value, named: BTreeSet::new(), line: 0 }
    }
}

/// What a plan file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub cases: Vec<Given<TestCase>>,
    pub environments: Vec<Given<Environment>>,
    pub run: RunSpec,
}

/// The same as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    /// Values of variables, all taken as text, which are put in already.
    #[serde(rename = "variables")]
    _variables: BTreeMap<String, String>,
    cases: Vec<TestCase>,
    environments: Vec<Environment>,
    #[serde(default = "blank_run")]
    run: RunSpec,
}

/// The fields of a definition.
type Names = BTreeMap<String, IgnoredAny>;

/// The fields of each definition of a plan.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    cases: Vec<Spanned<Names>>,
    environments: Vec<Spanned<Names>>,
}

/// What a run is that says nothing: that differs from a value of zeros.
fn blank_run() -> RunSpec {
    serde_json::from_str("{}").unwrap_or_default()
}

impl Plan {
    /// What a plan is that says nothing.
    pub fn blank() -> Self {
        Self { run: blank_run(), ..Default::default() }
    }
}

/// Reads a plan. What it holds is not checked beyond its form.
///
/// # Errors
///
/// What is wrong, with the line.
pub fn read(text: &str, set: &[(String, String)]) -> Result<Plan, String> {
    plan(&fill(text, set)?)
}

fn plan(text: &str) -> Result<Plan, String> {
    let Written { cases, environments, run, .. } = parse(text)?;
    let named: Named = parse(text)?;
    let cases = given("case", cases, named.cases, |case| &case.id)?;
    let places = given("environment", environments, named.environments, |place| &place.id);
    let environments = places?;
    Ok(Plan { cases, environments, run })
}

fn given<T>(
    what: &str,
    values: Vec<T>,
    named: Vec<Spanned<Names>>,
    id: fn(&T) -> &String,
) -> Result<Vec<Given<T>>, String> {
    let mut places = BTreeMap::new();
    for (value, place) in values.iter().zip(1..) {
        if let Some(first) = places.insert(id(value), place) {
            let id = id(value);
            return Err(format!("{what} {id} is described twice, as number {first} and {place}"));
        }
    }
    let both = values.into_iter().zip(named);
    let given = both.map(|(value, named)| {
        let line = named.referenced.line();
        Given { value, named: named.value.into_keys().collect(), line }
    });
    Ok(given.collect())
}

/// Reads cases: one, a list of them, or those of a plan.
///
/// # Errors
///
/// What is wrong, with the line.
pub fn cases(text: &str, set: &[(String, String)]) -> Result<Vec<Given<TestCase>>, String> {
    some(text, set, "case", |case: &TestCase| &case.id, |plan| plan.cases)
}

/// Reads environments: one, a list of them, or those of a plan.
///
/// # Errors
///
/// What is wrong, with the line.
pub fn environments(
    text: &str,
    set: &[(String, String)],
) -> Result<Vec<Given<Environment>>, String> {
    some(text, set, "environment", |place: &Environment| &place.id, |plan| plan.environments)
}

fn some<T: DeserializeOwned>(
    text: &str,
    set: &[(String, String)],
    what: &str,
    id: fn(&T) -> &String,
    of: impl FnOnce(Plan) -> Vec<Given<T>>,
) -> Result<Vec<Given<T>>, String> {
    let text = fill(text, set)?;
    let says_nothing =
        |line: &str| matches!(line.trim(), "" | "---") || line.trim().starts_with('#');
    if text.lines().all(says_nothing) {
        return Err(format!("there is no {what} in it"));
    }
    match parse(&text)? {
        Shape::List => given(what, parse(&text)?, parse(&text)?, id),
        Shape::Fields(names)
            if names.contains(&format!("{what}s")) || names.contains(VARIABLES) =>
        {
            plan(&text).map(of)
        }
        _ => given(what, vec![parse(&text)?], vec![parse(&text)?], id),
    }
}

/// What a text is at its top.
enum Shape {
    List,
    Fields(BTreeSet<String>),
    Other,
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("definitions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Shape::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Shape, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, _)) = fields.next_entry::<String, IgnoredAny>()? {
            names.insert(name);
        }
        Ok(Shape::Fields(names))
    }

    fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
        Ok(Shape::Other)
    }

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape::Other)
    }
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("more than {BYTES_MAX} bytes"));
    }
    // As many parts as have room in so many bytes: what is limited besides is aliases, which make more of
    // them than were written.
    let options = serde_saphyr::options! {
        // As YAML 1.2 has them: `no` and `n` are names like others.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_events: text.len().saturating_mul(2).max(EVENTS_MIN),
            max_nodes: text.len().max(EVENTS_MIN),
            max_total_scalar_bytes: BYTES_MAX,
        },
    };
    let read = serde_saphyr::from_str_with_options(text, options);
    read.map_err(|error| in_words(&error.without_snippet().to_string()))
}

/// A text in which a plan file puts no variables in: filled, it is what it was.
pub fn literal(text: &str) -> String {
    text.replace("${", "$${")
}

/// Puts the values of variables in.
fn fill(text: &str, set: &[(String, String)]) -> Result<String, String> {
    let mut values = defaults(text)?;
    for (name, value) in set {
        if value.chars().any(char::is_control) {
            return Err(format!("the value of {name} is more than one line of text"));
        }
        if !values.contains_key(name) && !text.contains(&format!("${{{name}}}")) {
            return Err(format!("there is no variable {name}"));
        }
        values.insert(name.clone(), value.clone());
    }
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            filled.push_str(before);
            filled.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        let line = || 1 + filled.matches('\n').count() + rest[..at].matches('\n').count();
        let end = rest[at..].find('}').ok_or_else(|| format!("line {}: ${{ without }}", line()))?;
        let name = &rest[at + 2..at + end];
        let value = values.get(name);
        let value = value.ok_or_else(|| format!("line {}: no variable {name}", line()))?;
        filled.push_str(&rest[..at]);
        filled.push_str(value);
        rest = &rest[at + end + 1..];
    }
    filled.push_str(rest);
    Ok(filled)
}

/// The values that the file itself gives. Its other parts may be no YAML before these are put in, so
/// that section is cut out by its indentation.
fn defaults(text: &str) -> Result<BTreeMap<String, String>, String> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Section {
        variables: BTreeMap<String, String>,
    }
    let is_start =
        |line: &&str| line.strip_prefix(VARIABLES).is_some_and(|rest| rest.starts_with(':'));
    let Some(start) = text.lines().position(|line| is_start(&line)) else {
        if !text.contains(VARIABLES) {
            return Ok(BTreeMap::new());
        }
        // A file in JSON may hold them as well; one that does is read as it is.
        let read = parse::<Section>(text).unwrap_or_default();
        return Ok(read.variables);
    };
    let inner = |line: &&str| line.starts_with([' ', '\t', '#', '}']) || line.trim().is_empty();
    let section = text.lines().skip(start).take(1);
    let section = section.chain(text.lines().skip(start + 1).take_while(inner));
    let blank = "\n".repeat(start);
    let section = blank + &section.collect::<Vec<_>>().join("\n");
    parse::<Section>(&section).map(|section| section.variables)
}

#[cfg(test)]
mod tests {
    use super::{cases, environments, read};

    const PLAN: &str = "\
variables:
  ms: 3000   # of one case
  word: hello
cases:
  - id: a
    kind: command
    command: [sleep, \"${ms}e-3\"]
    est_ms: ${ms}
  - {id: b, kind: command, command: [echo, \"$${word} is ${word}\"], case_pre: a}
environments:
  - id: lab
    config: {port: 80}
run:
  cases: [{case: a, repeats: 5}, {case: b}]
";

    fn set(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.into(), value.into())]
    }

    #[test]
    fn variables_have_the_value_of_the_file_or_of_the_command_line() {
        let plan = read(PLAN, &[]).unwrap();
        assert_eq!(plan.cases[0].value.command, ["sleep", "3000e-3"]);
        assert_eq!(plan.cases[0].value.est_ms, Some(3_000));
        assert_eq!(plan.cases[1].value.command, ["echo", "${word} is hello"]);
        let plan = read(PLAN, &set("ms", "30")).unwrap();
        assert_eq!(
            (plan.cases[0].value.est_ms, plan.run.cases[0].repeats.clone()),
            (Some(30), Some(5.into()))
        );
        assert_eq!(plan.environments[0].value.config["port"], 80);
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        let with = |from, to| read(&PLAN.replace(from, to), &[]).unwrap_err();
        assert!(with("is ${word}", "is ${wort}").contains("line 9: no variable wort"));
        let unknown = with("est_ms", "est");
        assert!(unknown.contains("unknown field `est`") && unknown.contains("line 8"), "{unknown}");
        let names =
            cases("{id: n, kind: command, command: [\"true\"], mutual_tag: [y, no]}", &[]).unwrap();
        assert_eq!((&*names[0].value.id, names[0].value.mutual_tag.len()), ("n", 2));
        let soon = with("est_ms: ${ms}", "est_ms: -1");
        assert!(soon.contains("this is not a whole number from 0 at line 8"), "{soon}");
        let twice = with("kind: command\n    command", "id: a\n    command");
        assert!(twice.contains("duplicate") && twice.contains("line 6"), "{twice}");
        assert!(with("run:", "runs:").contains("unknown field `runs`"));
        assert_eq!(read(PLAN, &set("sm", "1")).unwrap_err(), "there is no variable sm");
        assert!(read(PLAN, &set("ms", "1\n- x")).unwrap_err().contains("more than one line"));
        assert!(with("est_ms: ${ms}", "est_ms: soon").contains("line 8"));
        let twins = with("{id: b,", "{id: a,");
        assert_eq!(twins, "case a is described twice, as number 1 and 2");
        for empty in ["", " \n", "---\n# later\n"] {
            assert_eq!(cases(empty, &[]).unwrap_err(), "there is no case in it");
        }
        let twins = environments("[{id: x}, {id: y}, {id: x}]", &[]).unwrap_err();
        assert_eq!(twins, "environment x is described twice, as number 1 and 3");
    }

    #[test]
    fn each_definition_knows_the_line_at_which_it_begins() {
        let plan = read(&format!("# a plan\n\n{PLAN}"), &set("ms", "30")).unwrap();
        let lines: Vec<u64> = plan.cases.iter().map(|case| case.line).collect();
        assert_eq!((&lines[..], plan.environments[0].line), (&[7, 11][..], 13));
        // What looks like one within a text is none.
        let text = "- name: |\n    - id: b\n  id: a\n-\n  id: b\n";
        let lines: Vec<u64> =
            environments(text, &[]).unwrap().iter().map(|place| place.line).collect();
        assert_eq!(lines, [1, 5]);
        let text = "[\n {\"id\": \"a\"},\n {\"id\": \"b\"}]";
        let lines: Vec<u64> =
            environments(text, &[]).unwrap().iter().map(|place| place.line).collect();
        assert_eq!(lines, [2, 3]);
        assert_eq!(environments("\nid: x\n", &[]).unwrap()[0].line, 2);
    }

    #[test]
    fn many_cases_are_read_and_aliases_do_not_make_more_of_few() {
        let many = |count: u32| -> String {
            let case =
                |number| format!("- {{id: case-{number}, kind: manual, labels: {{a: b}}}}\n");
            (0..count).map(case).collect()
        };
        // More than a million parts, and than 250,000 values.
        assert_eq!(cases(&many(60_000), &[]).unwrap().len(), 60_000);
        let mut text = String::from("run: {labels: {a: &a0 [x, x, x, x, x, x, x, x, x, x]}}\nb:\n");
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text += &format!("  - &a{level} [{aliases}]\n");
        }
        let refused = cases(&text, &[]).unwrap_err();
        assert!(refused.contains("alias") || refused.contains("budget"), "{refused}");
    }

    #[test]
    fn a_file_of_cases_is_one_a_list_or_a_plan() {
        let one = "id: a\nkind: command\ncommand: [ls]\n";
        assert_eq!(cases(one, &[]).unwrap().len(), 1);
        let list = "[{\"id\": \"a\", \"kind\": \"command\", \"command\": [\"ls\"]}]";
        assert_eq!(cases(list, &[]).unwrap()[0].value.command, ["ls"]);
        assert_eq!(cases(PLAN, &[]).unwrap().len(), 2);
        assert_eq!(environments(PLAN, &[]).unwrap()[0].value.id, "lab");
        assert_eq!(environments("id: x\n", &[]).unwrap()[0].value.id, "x");
        let names = |text: &str| -> Vec<String> {
            cases(text, &[]).unwrap().remove(0).named.into_iter().collect()
        };
        assert_eq!((names(one), names(list)), (names(list), names(one)));
        assert_eq!(names(PLAN), ["command", "est_ms", "id", "kind"]);
        assert_eq!(names("{id: a, state_until: null}"), ["id", "state_until"]);
        let blank = super::Plan::blank().run;
        assert_eq!((blank.repeats, blank.queue.as_str()), (1, "default"));
    }
}
