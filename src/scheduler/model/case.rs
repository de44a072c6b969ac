//! A test case: what is done, what is expected, and what must hold before and beside it.

use super::names::{check_depth, check_id, check_labels, check_tag};
use super::plainly::read;
use super::short::one_or_many;
use super::{Labels, Refusal};
use http::{HeaderName, HeaderValue, Method};
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use url::Url;

/// A claim of several tags is one transaction.
const TAGS_MAX: usize = 16;
/// What servers answer with (RFC 9110, 15), and what commands end with.
const STATUSES: RangeInclusive<i32> = 100..=599;
const EXIT_CODES: RangeInclusive<i32> = 0..=255;
const LABELS_MAX: usize = 32;
const PREDECESSORS_MAX: usize = 1_000;
const RETRIES_MAX: u32 = 100;
const SLOTS_MAX: u32 = 1_024;
const PRIORITY_MAX: i32 = 1_000;
/// Headers that a connection has of its own: no case names them.
pub const OWN_HEADERS: [&str; 7] =
    ["connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
/// A week: longer is a mistake of units.
pub(super) const TIMEOUT_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// A pattern that compiles to more is a mistake or an attack.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Fields that are texts of which a run depends on none: cases that differ in nothing else have the
/// same rules.
pub(super) const FREE_TEXTS: [&str; 11] = [
    "id",
    "name",
    "url",
    "method",
    "folder",
    "input",
    "output",
    "owner",
    "state_reason",
    "gmt_create",
    "gmt_modified",
];

/// The definition of a case, as it is kept under `/testcases/{id}`. All but id and what its kind
/// needs may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TestCase {
    pub id: String,
    pub name: String,
    pub kind: Kind,
    /// Whom a case of kind http calls.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// POST unless said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Program and arguments of a case of kind command; there is no shell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Body of the call, or standard input of the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// What is expected back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub output_match: Option<OutputMatch>,
    /// For people, above all those who give the verdict of a manual case.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub steps: Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub expected_result: Value,
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub case_pre: Vec<Predecessor>,
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub mutual_tag: Vec<TagUse>,
    /// Labels that a worker must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub requires: Labels,
    /// How much of a worker's capacity one task takes.
    #[serde(default = "one")]
    pub slots: u32,
    /// Within a run; higher first.
    pub priority: i32,
    #[serde(default = "timeout_default")]
    pub timeout_ms: u64,
    /// Longer is marked as slow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_ms: Option<u64>,
    pub retries: Retries,
    pub on_lost: OnLost,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// How long one task takes, while nothing better is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub est_ms: Option<u64>,
    pub state: CaseState,
    /// Why it is muted or skipped, and until when (RFC 3339).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state_reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_until: Option<String>,
    /// Since when it is so, for this reason and until then; set when it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_since: Option<String>,
    pub gmt_create: String,
    pub gmt_modified: String,
    #[serde(rename = "isDelete")]
    pub is_deleted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A call of an interface.
    #[default]
    Http,
    /// A program on the worker's machine, if that worker allows it.
    Command,
    /// A person gives the verdict; it takes no slot.
    Manual,
}

/// How an answer is compared with the expected output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputMatch {
    /// Byte for byte.
    Exact,
    /// Equal as JSON values.
    Json,
    /// All that is expected is there; there may be more.
    JsonSubset,
    Regex,
    /// The status code alone: `output`, or any of 200 to 299 without it.
    Status,
    /// Any answer will do.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All tasks of the predecessor in the same run and environment.
    #[default]
    Run,
    /// Only the repeat with the same number.
    Repeat,
    /// All open tasks of the predecessor in any run.
    Global,
}

/// Which end of a predecessor allows its successors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    #[default]
    Ended,
    Passed,
    /// At least this part of its tasks passed.
    Ratio(f64),
}

/// A case that must have ended before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Predecessor {
    pub case: String,
    pub scope: Scope,
    pub policy: Policy,
    /// Ignored in a run that does not contain it.
    pub soft: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TagScope {
    #[default]
    Global,
    Run,
    Env,
}

/// A mutual-exclusion tag that a task holds while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TagUse {
    pub tag: String,
    pub scope: TagScope,
    /// Several repeats may run one after another on one worker under one hold of the tag.
    pub chain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// After a failed verdict or a timeout.
    pub test: u32,
    /// After an error: no verdict was reached.
    pub infra: u32,
    /// Before the first retry; doubled for each further one.
    pub backoff_ms: u64,
}

impl Default for Retries {
    fn default() -> Self {
        Self { test: 0, infra: 2, backoff_ms: 1_000 }
    }
}

/// What becomes of a task whose worker is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLost {
    /// It is tried again: executed at least once.
    #[default]
    Retry,
    /// It ends as lost: executed at most once.
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaseState {
    #[default]
    Enabled,
    /// Runs, but its failures do not fail the run.
    Muted,
    /// Does not run.
    Skipped,
}

fn one() -> u32 {
    1
}

fn timeout_default() -> u64 {
    60_000
}

impl From<&str> for Predecessor {
    fn from(case: &str) -> Self {
        Self { case: case.into(), ..Default::default() }
    }
}

impl From<&str> for TagUse {
    fn from(tag: &str) -> Self {
        Self { tag: tag.into(), ..Default::default() }
    }
}

impl TestCase {
    /// Reads a definition.
    ///
    /// # Errors
    ///
    /// 400 with what is wrong, also where single values are fine but make no sense together.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let case: TestCase = read("a case", text)?;
        case.check()?;
        Ok(case)
    }

    /// What the case says by itself; whether its predecessors exist and form no circle is seen
    /// beside the others.
    pub fn check(&self) -> Result<(), Refusal> {
        self.check_fields().map_err(|refusal| refusal.about("case", &self.id))
    }

    fn check_fields(&self) -> Result<(), Refusal> {
        let id = &self.id;
        check_id("case", id)?;
        if id.ends_with('*') {
            let text = format!("case id {id:?} ends with *, which stands for all that begin so");
            return Err(Refusal::malformed(text));
        }
        let fail = |message: String| Err(Refusal::malformed(format!("case {id}: {message}")));
        if let Err(message) = self.check_kind() {
            return fail(message);
        }
        if self.case_pre.len() > PREDECESSORS_MAX {
            return fail(format!("more than {PREDECESSORS_MAX} predecessors"));
        }
        for predecessor in &self.case_pre {
            check_id("predecessor", &predecessor.case)?;
            if predecessor.case == *id {
                return fail(format!("waits for itself: {id} -> {id}"));
            }
            if let Policy::Ratio(ratio) = predecessor.policy
                && !(0.0..=1.0).contains(&ratio)
            {
                return fail(format!("ratio {ratio} is not between 0 and 1"));
            }
        }
        let tags: BTreeSet<_> = self.mutual_tag.iter().map(|tag| (&tag.tag, tag.scope)).collect();
        if tags.len() < self.mutual_tag.len() {
            return fail("a tag is named twice".into());
        }
        if self.mutual_tag.len() > TAGS_MAX {
            return fail(format!("more than {TAGS_MAX} tags"));
        }
        for tag in &self.mutual_tag {
            check_tag(&tag.tag)?;
        }
        if self.requires.len() > LABELS_MAX || self.labels.len() > LABELS_MAX {
            return fail(format!("more than {LABELS_MAX} labels"));
        }
        check_labels(&self.requires).or_else(fail)?;
        check_depth("steps", &self.steps).or_else(fail)?;
        check_depth("expected_result", &self.expected_result).or_else(fail)?;
        self.check_numbers().or_else(fail)
    }

    fn check_kind(&self) -> Result<(), String> {
        match self.kind {
            Kind::Http => {
                // One that begins with a value of the environment is seen when that is known.
                let is_known = !self.url.starts_with("{{");
                if is_known && !is_http(&self.url) {
                    return Err(format!("url {:?} is not http or https", self.url));
                }
                self.check_request().and_then(|()| self.check_output())
            }
            Kind::Command if self.command.first().is_none_or(String::is_empty) => {
                Err("kind is command, but there is no command".into())
            }
            Kind::Manual if self.steps.is_null() && self.name.is_empty() => {
                Err("kind is manual, but there are neither steps nor a name".into())
            }
            Kind::Command => self.check_command().and_then(|()| self.check_output()),
            Kind::Manual => Ok(()),
        }
    }

    /// Whether a process can be given it.
    fn check_command(&self) -> Result<(), String> {
        if self.command.iter().chain(&self.folder).any(|word| word.contains('\0')) {
            return Err("a word of the command, or its folder, has a NUL".into());
        }
        let is_bad = |name: &str| name.is_empty() || name.contains(['=', '\0']);
        let mut variables = self.variables.iter();
        match variables.find(|(name, value)| is_bad(name) || value.contains('\0')) {
            Some((name, _)) => Err(format!("variable {name:?} cannot be given to a process")),
            None => Ok(()),
        }
    }

    /// Whether it can be sent. Values of the environment are seen when they are known.
    fn check_request(&self) -> Result<(), String> {
        let is_known = |text: &str| !text.contains("{{");
        if is_known(&self.url) {
            Url::parse(&self.url).map_err(|error| format!("url {:?}: {error}", self.url))?;
        }
        if let Some(method) = &self.method {
            match Method::from_bytes(method.to_ascii_uppercase().as_bytes()) {
                Err(_) => return Err(format!("method {method:?} is none")),
                Ok(Method::CONNECT) => return Err(format!("method {method:?} is not sent")),
                Ok(_) => {}
            }
        }
        for (name, value) in &self.headers {
            let is_value = !is_known(value) || HeaderValue::from_str(value).is_ok();
            let is_name = HeaderName::from_bytes(name.as_bytes())
                .is_ok_and(|name| !OWN_HEADERS.contains(&name.as_str()));
            if !is_name || !is_value {
                return Err(format!("header {name:?} cannot be sent"));
            }
        }
        Ok(())
    }

    /// Whether what is expected is something that can be compared with.
    fn check_output(&self) -> Result<(), String> {
        let matching = self.matching();
        let Some(output) = &self.output else {
            if matches!(matching, OutputMatch::Status | OutputMatch::None) {
                return Ok(());
            }
            let word = serde_json::to_value(matching).unwrap_or_default();
            let word = word.as_str().unwrap_or_default();
            return Err(format!(
                "match is {word}, but there is no output to compare with: give it, or match: none"
            ));
        };
        // Values of the environment are seen when they are known.
        if output.contains("{{") {
            return Ok(());
        }
        match matching {
            OutputMatch::Json | OutputMatch::JsonSubset => serde_json::from_str::<Value>(output)
                .map(|_| ())
                .map_err(|error| format!("output is not JSON: {error}")),
            OutputMatch::Regex => pattern(output).map(|_| ()),
            OutputMatch::Status => {
                let codes = if self.kind == Kind::Http { STATUSES } else { EXIT_CODES };
                match output.trim().parse::<i32>() {
                    Ok(code) if codes.contains(&code) => Ok(()),
                    _ => Err(format!("output {output:?} is no status to compare with")),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_numbers(&self) -> Result<(), String> {
        let Retries { test, infra, .. } = self.retries;
        if test > RETRIES_MAX || infra > RETRIES_MAX {
            return Err(format!("more than {RETRIES_MAX} retries"));
        }
        if !(1..=SLOTS_MAX).contains(&self.slots) {
            return Err(format!("slots {} is not between 1 and {SLOTS_MAX}", self.slots));
        }
        if self.priority.abs() > PRIORITY_MAX {
            return Err(format!("priority {} is beyond {PRIORITY_MAX}", self.priority));
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            let timeout = self.timeout_ms;
            return Err(format!("timeout_ms {timeout} is not between 1 and {TIMEOUT_MS_MAX}"));
        }
        for (name, value) in [
            ("est_ms", self.est_ms.unwrap_or(0)),
            ("slow_ms", self.slow_ms.unwrap_or(0)),
            ("backoff_ms", self.retries.backoff_ms),
        ] {
            if value > TIMEOUT_MS_MAX {
                return Err(format!("{name} {value} is more than {TIMEOUT_MS_MAX}"));
            }
        }
        Ok(())
    }

    /// How its output is compared. Exact, as test teams are used to, where an output is given for a
    /// call; commands without an output pass by their exit code.
    pub fn matching(&self) -> OutputMatch {
        self.output_match.unwrap_or(match (self.kind, &self.output) {
            (Kind::Http, _) | (_, Some(_)) => OutputMatch::Exact,
            (_, None) => OutputMatch::None,
        })
    }
}

/// Whether a url says that it is called by HTTP, in letters of whatever case (RFC 3986, section 3.1).
pub fn is_http(url: &str) -> bool {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// The pattern that a case expects.
///
/// # Errors
///
/// Why it is none.
pub fn pattern(output: &str) -> Result<Regex, String> {
    RegexBuilder::new(output).size_limit(PATTERN_BYTES_MAX).build().map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim();
        format!("output is no pattern: {}", reason.trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::{Policy, Scope, TestCase};
    use serde_json::{Value, json};

    fn parse(case: Value) -> Result<TestCase, String> {
        TestCase::parse(case.to_string().as_bytes()).map_err(|refusal| {
            assert_eq!(refusal.status, 400);
            refusal.message
        })
    }

    fn with(field: &str, value: Value) -> Result<TestCase, String> {
        let mut case = json!({"id": "c", "url": "http://127.0.0.1:1/", "output": "ok"});
        case[field] = value;
        parse(case)
    }

    #[test]
    fn schemes_have_letters_of_any_case() {
        assert!(with("url", json!("HTTP://127.0.0.1/")).is_ok());
        let text = "case c: url \"httpx://127.0.0.1/\" is not http or https";
        assert_eq!(with("url", json!("httpx://127.0.0.1/")).unwrap_err(), text);
    }

    #[test]
    fn predecessors_and_tags_are_named_in_short_or_in_full() {
        let case = with("case_pre", json!("a")).unwrap();
        assert_eq!(case.case_pre, ["a".into()]);
        let case = with("case_pre", json!(["a", {"case": "b", "scope": "repeat"}])).unwrap();
        assert_eq!(case.case_pre[1].scope, Scope::Repeat);
        let case = with("case_pre", json!({"case": "b", "policy": {"ratio": 0.5}})).unwrap();
        assert_eq!(case.case_pre[0].policy, Policy::Ratio(0.5));
        assert_eq!(with("case_pre", Value::Null).unwrap().case_pre, []);
        assert_eq!(with("mutual_tag", json!("t")).unwrap().mutual_tag, ["t".into()]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let case = with("mutual_tag", json!(["a", {"tag": "b", "scope": "env", "chain": true}]));
        let case = case.unwrap();
        assert_eq!(parse(serde_json::to_value(&case).unwrap()).unwrap(), case);
    }

    #[test]
    fn a_status_is_one_that_there_is() {
        let with = |kind: &str, output: &str| {
            let case = json!({"id": "c", "kind": kind, "url": "http://x/", "command": ["true"],
                "match": "status", "output": output});
            TestCase::parse(case.to_string().as_bytes()).map(|_| ())
        };
        for (kind, output, is_one) in [
            ("http", "100", true),
            ("http", "599", true),
            ("http", "99", false),
            ("http", "999", false),
            ("command", "0", true),
            ("command", "255", true),
            ("command", "256", false),
            ("command", "-1", false),
        ] {
            let said = with(kind, output);
            assert_eq!(said.is_ok(), is_one, "{kind} {output}: {said:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let many: Vec<String> = (0..17).map(|n| n.to_string()).collect();
        for (field, value, text) in [
            ("id", json!(""), "case without an id"),
            ("id", json!(" \t"), "case without an id"),
            ("id", json!("a/b"), "case id \"a/b\" has a slash or control character"),
            ("method", json!("GE T"), "case c: method \"GE T\" is none"),
            ("headers", json!({"x": "a\nb"}), "case c: header \"x\" cannot be sent"),
            ("id", json!(".."), "case id \"..\" is none that a path can have"),
            ("match", json!("status"), "case c: output \"ok\" is no status to compare with"),
            ("url", json!("ftp://x"), "case c: url \"ftp://x\" is not http or https"),
            (
                "output",
                Value::Null,
                "case c: match is exact, but there is no output to compare with: give it, or match: none",
            ),
            ("case_pre", json!("c"), "case c: waits for itself: c -> c"),
            (
                "case_pre",
                json!({"case": "a", "policy": {"ratio": 2}}),
                "case c: ratio 2 is not between 0 and 1",
            ),
            ("mutual_tag", json!(""), "a tag is empty"),
            ("mutual_tag", json!("a/b"), "tag \"a/b\" has a slash or control character"),
            ("id", json!("a\u{202e}b"), "case id \"a\\u{202e}b\" has a slash or control character"),
            ("mutual_tag", json!("x".repeat(129)), "a tag is longer than 128 bytes"),
            ("mutual_tag", json!(many), "case c: more than 16 tags"),
            ("mutual_tag", json!(["a", "a"]), "case c: a tag is named twice"),
            ("requires", json!({"@os": "x"}), "case c: label \"@os\" begins with @"),
            ("slots", json!(0), "case c: slots 0 is not between 1 and 1024"),
            ("timeout_ms", json!(0), "case c: timeout_ms 0 is not between 1 and 604800000"),
            ("kind", json!("command"), "case c: kind is command, but there is no command"),
        ] {
            assert_eq!(with(field, value).unwrap_err(), text);
        }
        for (field, value, text) in [
            ("command", json!(["a\0"]), "case c: a word of the command, or its folder, has a NUL"),
            ("folder", json!("/\0"), "case c: a word of the command, or its folder, has a NUL"),
            ("variables", json!({"": "x"}), "case c: variable \"\" cannot be given to a process"),
            (
                "variables",
                json!({"a=": "x"}),
                "case c: variable \"a=\" cannot be given to a process",
            ),
            (
                "variables",
                json!({"a": "\0"}),
                "case c: variable \"a\" cannot be given to a process",
            ),
        ] {
            let mut case = json!({"id": "c", "kind": "command", "command": ["x"]});
            case[field] = value;
            assert_eq!(parse(case).unwrap_err(), text);
        }
        let matching = |how: &str, output: &str| {
            parse(json!({"id": "c", "url": "http://a/", "match": how, "output": output}))
        };
        let pattern = matching("regex", "a(").unwrap_err();
        assert!(pattern.starts_with("case c: output is no pattern: "), "{pattern}");
        assert!(matching("regex", r"\w{9999}{9999}").is_err(), "too large a pattern");
        // What stands there is known with the environment.
        for how in ["json", "regex", "status"] {
            assert!(matching(how, "{{expected}}").is_ok(), "{how}");
        }
        for how in ["exact", "json", "json-subset", "regex"] {
            let text = format!(
                "case c: match is {how}, but there is no output to compare with: give it, or match: none"
            );
            for sent in [json!({"url": "http://a/"}), json!({"kind": "command", "command": ["x"]})]
            {
                let mut case = sent;
                case["id"] = json!("c");
                case["match"] = json!(how);
                assert_eq!(parse(case).unwrap_err(), text);
            }
        }
        let unknown = with("retires", json!(1)).unwrap_err();
        assert!(unknown.starts_with("not a case: unknown field `retires`"), "{unknown}");
        assert!(
            with("slots", json!(-1))
                .unwrap_err()
                .starts_with("not a case: slots is integer `-1`, not a")
        );
    }
}
