//! Reports as other tools write them, ours, and what strangers may send.

use super::{Case, Reason, Report, Suite, read, write};
use crate::scheduler::model::Status;

const PYTEST: &str = include_str!("fixtures/pytest.xml");
const NEXTEST: &str = include_str!("fixtures/nextest.xml");
const GOTESTSUM: &str = include_str!("fixtures/gotestsum.xml");

fn parsed(text: &str) -> Report {
    read(text.as_bytes()).unwrap()
}

fn statuses(report: &Report) -> Vec<(&str, Status)> {
    report.cases().map(|case| (case.name.as_str(), case.status)).collect()
}

#[test]
fn reports_of_pytest_are_read() {
    let report = parsed(PYTEST);
    let expected = [
        ("test_create[a-1]", Status::Passed),
        ("test_delete", Status::Failed),
        ("test_later", Status::Skipped),
        ("test_query", Status::Error),
        ("test_both", Status::Failed),
    ];
    assert_eq!(statuses(&report), expected);
    let [suite] = &report.suites[..] else { panic!("{report:?}") };
    assert_eq!((suite.host.as_str(), suite.name.as_str()), ("ci-7", "pytest"));
    assert_eq!(suite.properties, [("arch".to_owned(), "x86_64".to_owned())]);
    let [create, delete, later, query, both] = &suite.cases[..] else { panic!("{suite:?}") };
    assert_eq!(create.properties[0].1, "amélie & co");
    assert_eq!((create.time_us, create.class.as_str()), (Some(12_000), "tests.test_user"));
    assert_eq!(create.output, "created user 1\ncreated user 2\n");
    let message = "AssertionError: assert {'a': 1} == {'a': 2}\n  Full diff: <here>";
    assert_eq!(delete.reason.message, message);
    assert!(delete.reason.text.ends_with("\n\ntests/test_user.py:12: AssertionError"));
    assert_eq!(
        (later.reason.kind.as_str(), later.reason.message.as_str()),
        ("pytest.skip", "not yet")
    );
    assert_eq!(query.reason.message, "failed on setup with \"RuntimeError: no database\"");
    assert_eq!(both.reason.text, "early", "the failure, not what came of it");
}

#[test]
fn reports_of_nextest_are_read() {
    let report = parsed(NEXTEST);
    assert_eq!(report.name, "nextest-run");
    let [flaky, failed, passed] = &report.suites[0].cases[..] else { panic!("{report:?}") };
    assert_eq!((flaky.status, flaky.earlier.len()), (Status::Passed, 1));
    assert_eq!(flaky.earlier[0].text, "thread 'kv' panicked", "without its outputs");
    assert_eq!((flaky.output.as_str(), flaky.stderr.as_str()), ("", ""));
    assert_eq!((failed.status, failed.time_us), (Status::Failed, Some(2_000_000)));
    assert_eq!((failed.reason.kind.as_str(), failed.earlier.len()), ("test timeout", 1));
    assert_eq!((failed.output.as_str(), failed.stderr.as_str()), ("running 1 test <1>\n", "a & b"));
    assert_eq!((passed.status, passed.time_us), (Status::Passed, Some(1_000)));
}

#[test]
fn reports_of_gotestsum_are_read() {
    let report = parsed(GOTESTSUM);
    let names: Vec<&str> = report.suites.iter().map(|suite| suite.name.as_str()).collect();
    assert_eq!(names, ["example.org/shop/cart", "example.org/shop/empty"]);
    let expected = [
        ("TestAdd", Status::Passed),
        ("TestAdd/two_items", Status::Failed),
        ("TestSlow", Status::Skipped),
    ];
    assert_eq!(statuses(&report), expected);
    let failed = &report.suites[0].cases[1];
    assert!(failed.reason.text.contains("\n    cart_test.go:14: got 1, want 2\n"));
}

#[test]
fn what_is_written_is_read_back() {
    for text in [PYTEST, NEXTEST, GOTESTSUM] {
        let report = parsed(text);
        assert_eq!(parsed(&write(&report)), report);
    }
}

fn case(name: &str, status: Status) -> Case {
    Case { name: name.into(), status, ..Case::default() }
}

#[test]
fn every_end_of_a_task_is_written_and_read_back() {
    let ends = [
        Status::Passed,
        Status::Failed,
        Status::Error,
        Status::Skipped,
        Status::Canceled,
        Status::TimedOut,
        Status::Lost,
    ];
    let cases: Vec<Case> = ends.map(|status| case("a", status)).into();
    let suite = Suite { name: "s".into(), cases, ..Suite::default() };
    let text = write(&Report { name: "r".into(), suites: vec![suite] });
    let read: Vec<Status> = parsed(&text).cases().map(|case| case.status).collect();
    assert_eq!(read, ends);
    let counts = "tests=\"7\" failures=\"2\" errors=\"2\" skipped=\"2\" time=\"0.000000\"";
    assert_eq!(text.matches(counts).count(), 2, "{text}");
}

#[test]
fn any_text_survives_but_what_xml_cannot_hold() {
    let text = "a\tb\nc\r\nd ]]> <x y=\"z\"> & &amp; 'é' 例 \u{10ffff}";
    let reason = Reason { message: text.into(), kind: text.into(), text: text.into() };
    let case = Case {
        class: text.into(),
        file: text.into(),
        time_us: Some(1_234_567),
        reason,
        properties: vec![(text.into(), text.into())],
        output: text.into(),
        ..case(text, Status::Failed)
    };
    let suite =
        Suite { name: text.into(), cases: vec![case], stderr: text.into(), ..Suite::default() };
    let report = Report { name: text.into(), suites: vec![suite] };
    assert_eq!(parsed(&write(&report)), report);
    let colour = Report { name: "\x1b[31m\0".into(), suites: vec![] };
    assert_eq!(parsed(&write(&colour)).name, "\u{fffd}[31m\u{fffd}");
}

#[test]
fn suites_within_suites_carry_both_names() {
    let text = "<testsuite name='a'><testcase name='1'/><testsuite name='b'><testcase name='2'/>\
                </testsuite><testcase name='3'/></testsuite>";
    let report = parsed(text);
    let names: Vec<(&str, usize)> =
        report.suites.iter().map(|suite| (suite.name.as_str(), suite.cases.len())).collect();
    assert_eq!(names, [("a", 2), ("a/b", 1)]);
}

#[test]
fn what_is_no_report_is_refused_with_its_line() {
    let deep = "<testsuite>\n".repeat(40);
    let attributes: String = (0..100).map(|n| format!(" a{n}='1'")).collect();
    let table = [
        ("", 1, "no report in it"),
        ("hello", 1, "text outside of the root"),
        ("\n<html/>", 2, "<html> is no report of tests"),
        ("<testsuites>\n", 2, "it ends within an element"),
        ("<testsuites>\n</testsuite>", 2, ""),
        ("<testsuites/>\n<testsuites/>", 2, "a second root"),
        ("<testsuites>\n<testsuite name='&bomb;'/></testsuites>", 2, ""),
        ("<testsuite>\n<system-out>&bomb;</system-out></testsuite>", 2, "unknown entity bomb"),
        ("<testsuite>\n<system-out>&#x110000;</system-out></testsuite>", 2, ""),
        (
            "<?xml version='1.0'?>\n<!DOCTYPE x [<!ENTITY a 'aa'><!ENTITY b '&a;&a;'>]>\n<testsuites/>",
            2,
            "a document type is not taken",
        ),
        ("<testsuite a='1' a='2'/>", 1, ""),
        ("<testsuite>\n<testcase name=x/></testsuite>", 2, ""),
        (&deep, 33, "more than 32 elements deep"),
        (&format!("<testsuite{attributes}/>"), 1, "more than 64 attributes"),
    ];
    for (text, line, message) in table {
        let error = read(text.as_bytes()).expect_err(text);
        assert_eq!(error.line, line, "{error} of {text}");
        assert!(message.is_empty() || error.message == message, "{error} of {text}");
    }
    let error = read(b"<testsuite>\n\xff</testsuite>").unwrap_err();
    assert_eq!((error.line, error.message.as_str()), (2, "not UTF-8"));
}

#[test]
fn times_that_make_no_sense_are_left_out() {
    for (time, expected) in
        [("1,000.5", Some(1_000_500_000)), ("-1", None), ("NaN", None), ("", None)]
    {
        let text = format!("\u{feff}<testsuite><testcase name='a' time='{time}'/></testsuite>");
        assert_eq!(parsed(&text).suites[0].cases[0].time_us, expected, "{time}");
    }
}
