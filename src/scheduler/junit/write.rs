//! From a report to XML.

use super::{Case, Reason, Report, Suite};
use crate::scheduler::model::Status;
use std::fmt::Write as _;

/// The report as a document in UTF-8. Characters that XML cannot hold, such as those that colour a
/// terminal, stand as U+FFFD.
pub fn write(report: &Report) -> String {
    let mut document = Document { text: String::new() };
    document.text.push_str("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites");
    document.attribute("name", &report.name);
    document.counts(report.cases());
    document.text.push_str(">\n");
    for suite in &report.suites {
        document.suite(suite);
    }
    document.text.push_str("</testsuites>\n");
    document.text
}

struct Document {
    text: String,
}

impl Document {
    fn attribute(&mut self, name: &str, value: &str) {
        let _ = write!(self.text, " {name}=\"");
        self.escaped(value, true);
        self.text.push('"');
    }

    fn attribute_unless_empty(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.attribute(name, value);
        }
    }

    fn counts<'c>(&mut self, cases: impl Iterator<Item = &'c Case>) {
        let [mut tests, mut failures, mut errors, mut skipped, mut time] = [0_u64; 5];
        for case in cases {
            tests += 1;
            time += case.time_us.unwrap_or_default();
            match element(case.status) {
                Some("failure") => failures += 1,
                Some("error") => errors += 1,
                Some(_) => skipped += 1,
                None => {}
            }
        }
        let numbers =
            [("tests", tests), ("failures", failures), ("errors", errors), ("skipped", skipped)];
        for (name, number) in numbers {
            let _ = write!(self.text, " {name}=\"{number}\"");
        }
        self.time(time);
    }

    fn time(&mut self, time_us: u64) {
        let _ = write!(self.text, " time=\"{}.{:06}\"", time_us / 1_000_000, time_us % 1_000_000);
    }

    fn suite(&mut self, suite: &Suite) {
        self.text.push_str("  <testsuite");
        self.attribute("name", &suite.name);
        self.counts(suite.cases.iter());
        self.attribute_unless_empty("timestamp", &suite.timestamp);
        self.attribute_unless_empty("hostname", &suite.host);
        self.text.push_str(">\n");
        self.properties("    ", &suite.properties);
        for case in &suite.cases {
            self.case(case);
        }
        self.output("    ", "system-out", &suite.output);
        self.output("    ", "system-err", &suite.stderr);
        self.text.push_str("  </testsuite>\n");
    }

    fn case(&mut self, case: &Case) {
        self.text.push_str("    <testcase");
        self.attribute("name", &case.name);
        self.attribute("classname", &case.class);
        self.attribute_unless_empty("file", &case.file);
        if let Some(time_us) = case.time_us {
            self.time(time_us);
        }
        self.text.push_str(">\n");
        self.properties("      ", &case.properties);
        if let Some(element) = element(case.status) {
            let is_told = matches!(case.status, Status::TimedOut | Status::Lost | Status::Canceled);
            let kind = if is_told { case.status.word() } else { &case.reason.kind };
            self.reason(element, kind, &case.reason);
        }
        let earlier = if case.status == Status::Passed { "flakyFailure" } else { "rerunFailure" };
        for reason in &case.earlier {
            self.reason(earlier, &reason.kind, reason);
        }
        self.output("      ", "system-out", &case.output);
        self.output("      ", "system-err", &case.stderr);
        self.text.push_str("    </testcase>\n");
    }

    fn reason(&mut self, element: &str, kind: &str, reason: &Reason) {
        let _ = write!(self.text, "      <{element}");
        self.attribute_unless_empty("message", &reason.message);
        self.attribute_unless_empty("type", kind);
        self.text.push('>');
        self.escaped(&reason.text, false);
        let _ = writeln!(self.text, "</{element}>");
    }

    fn properties(&mut self, indent: &str, properties: &[(String, String)]) {
        if properties.is_empty() {
            return;
        }
        let _ = writeln!(self.text, "{indent}<properties>");
        for (name, value) in properties {
            let _ = write!(self.text, "{indent}  <property");
            self.attribute("name", name);
            self.attribute("value", value);
            self.text.push_str("/>\n");
        }
        let _ = writeln!(self.text, "{indent}</properties>");
    }

    fn output(&mut self, indent: &str, element: &str, output: &str) {
        if !output.is_empty() {
            let _ = write!(self.text, "{indent}<{element}>");
            self.escaped(output, false);
            let _ = writeln!(self.text, "</{element}>");
        }
    }

    /// In attributes, white space would be read as blanks; anywhere, a carriage return as a line
    /// break.
    fn escaped(&mut self, text: &str, is_attribute: bool) {
        for c in text.chars() {
            match c {
                '<' => self.text.push_str("&lt;"),
                '>' => self.text.push_str("&gt;"),
                '&' => self.text.push_str("&amp;"),
                '"' if is_attribute => self.text.push_str("&quot;"),
                '\r' => self.text.push_str("&#13;"),
                '\n' if is_attribute => self.text.push_str("&#10;"),
                '\t' if is_attribute => self.text.push_str("&#9;"),
                '\n' | '\t' => self.text.push(c),
                '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => self.text.push('\u{fffd}'),
                c => self.text.push(c),
            }
        }
    }
}

/// The element that says how a case came out; none for one that passed.
fn element(status: Status) -> Option<&'static str> {
    match status {
        Status::Passed => None,
        Status::Failed | Status::TimedOut => Some("failure"),
        Status::Error | Status::Lost => Some("error"),
        Status::Skipped | Status::Canceled | Status::Pending | Status::Running => Some("skipped"),
    }
}
