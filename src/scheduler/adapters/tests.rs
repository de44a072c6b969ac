//! Texts as the tools print them.

use super::{Form, Suite, export, has_no_tests, import, plain};
use crate::scheduler::model::{Kind, TestCase};
use crate::scheduler::plan_file;
use serde_json::json;

fn of(form: Form, text: &str) -> Result<Vec<TestCase>, String> {
    import(form, &Suite { text: text.into(), folder: Some("/p".into()) }, &[])
}

#[test]
fn each_tool_s_tests_become_commands() {
    let nextest = json!({"rust-build-meta": {}, "test-count": 2, "rust-suites": {"kv::api": {
        "package-name": "kv", "binary-path": "/t/api-1", "cwd": "/p/kv",
        "testcases": {
            "put::works": {"ignored": false, "filter-match": {"status": "matches"}},
            "filtered": {"ignored": false, "filter-match": {"status": "mismatch", "reason": "string"}},
            "slow": {"ignored": true}
        }
    }}});
    let found = of(Form::Nextest, &format!("   Compiling kv\n{nextest}")).unwrap();
    let shown: Vec<_> = found.iter().map(plain).collect();
    let wanted = json!({
        "id": "kv::api::put::works", "kind": "command", "folder": "/p/kv",
        "command": ["/t/api-1", "--exact", "put::works", "--nocapture"],
        "variables": {"CARGO_MANIFEST_DIR": "/p/kv"}, "labels": {"suite": "kv::api"},
    });
    assert_eq!(shown, [wanted]);

    let pytest = "tests/test_a.py::test_one\ntests/test_a.py::TestB::test_two[x-1]\n\n2 tests collected in 0.01s\n";
    let found = of(Form::Pytest, pytest).unwrap();
    assert_eq!(found[1].id, "tests.test_a.py::TestB::test_two[x-1]");
    assert_eq!(found[1].command.last().unwrap(), "tests/test_a.py::TestB::test_two[x-1]");
    assert_eq!((found.len(), found[0].folder.as_deref()), (2, Some("/p")));

    let event = |output: &str| {
        json!({"Action": "output", "Package": "example.org/kv/api", "Output": output}).to_string()
    };
    let lines = [
        event("TestPut\n"),
        event("TestPut/sub thing\n"),
        event("ok  \texample.org/kv/api\t0.1s\n"),
    ];
    let start = json!({"Time": "x", "Action": "start", "Package": "p"}).to_string();
    let found = of(Form::Gotest, &(start + "\n" + &lines.join("\n"))).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, "example.org.kv.api.TestPut");
    assert_eq!(found[0].command[3..], ["-v", "-run", "^TestPut$", "example.org/kv/api"]);
    let pattern = crate::scheduler::model::pattern(found[0].output.as_ref().unwrap()).unwrap();
    assert!(pattern.is_match("=== RUN   TestPut\nsaid--- PASS: TestPut (0.00s)\nPASS\n"));
    assert!(pattern.is_match("--- SKIP: TestPut (0.00s)\n"));
    // It is not there any more, or another has a name that begins alike.
    assert!(!pattern.is_match("testing: warning: no tests to run\nPASS\n"));
    assert!(!pattern.is_match("--- PASS: TestPutAll (0.00s)\n"));
}

#[test]
fn no_test_is_lost_beside_others_of_its_name() {
    let tests = ["a", "a", "a~2", "a"].map(|name| format!("<testcase name=\"{name}\"/>"));
    let report = format!("<testsuite>{}</testsuite>", tests.concat());
    let ids: Vec<String> =
        of(Form::Junit, &report).unwrap().into_iter().map(|case| case.id).collect();
    assert_eq!(ids, ["a", "a~3", "a~2", "a~4"]);
}

#[test]
fn what_a_name_brings_into_a_command_is_not_filled_again() {
    let report =
        r#"<testsuite><testcase classname="K" name="t[{class}]{x}" file="f"/></testsuite>"#;
    let words = ["run {name} {class} {file} {".to_owned()];
    let suite = Suite { text: report.to_owned(), folder: None };
    let found = super::import(Form::Junit, &suite, &words).unwrap();
    assert_eq!(found[0].command, ["run t[{class}]{x} K f {"]);
}

#[test]
fn pytest_names_tests_as_seen_from_the_folder_whatever_its_configuration_says() {
    let words = super::listing(Form::Pytest);
    assert!(words.contains(&"--rootdir=."), "{words:?}");
    assert!(words.contains(&"--verbosity=-1") && !words.contains(&"-q"), "{words:?}");
}

#[test]
fn tables_are_read_and_written_alike() {
    let text = "id,url,output,case_pre,mutual_tag,est_ms,command\n\
                a,http://h/a,\"x, \"\"y\"\"\nz\",,t1;t2,50,\n\
                b,,,a,,,ls -l\n";
    let found = of(Form::Csv, text).unwrap();
    assert_eq!(found[0].output.as_deref(), Some("x, \"y\"\nz"));
    assert_eq!((found[0].mutual_tag.len(), found[0].est_ms), (2, Some(50)));
    assert_eq!((found[1].kind, found[1].command.len()), (Kind::Command, 2));
    assert_eq!(of(Form::Csv, &export("csv", &found).unwrap()).unwrap(), found);
    let yaml = export("yaml", &found).unwrap();
    let read = crate::scheduler::plan_file::cases(&yaml, &[]).unwrap();
    let read: Vec<_> = read.into_iter().map(|given| given.value).collect();
    assert_eq!(read, found);
    let wrong = [
        ("id,ulr\na,b\n", "line 1: \"ulr\" is none of"),
        ("id,url,match\na,http://h/,none\nb,http://h/,none,c\n", "line 3: 4 fields under 3 titles"),
        ("id,url,match\nx,ftp://h,none\n", "line 2: case x: url \"ftp://h\" is not http"),
        ("id,url\n\"a,http://h\n", "line 2: a quote is not closed"),
        (
            "id,est_ms\na,soon\n",
            "line 2: not a case: est_ms is string \"soon\", not a whole number",
        ),
        ("id,url,id\na,http://h/,b\n", "line 1: id is there twice"),
        (
            "id,url,match\na,http://h/,none\nb,http://h/,none\na,http://i/,none\n",
            "line 4: case a is described in line 2",
        ),
    ];
    for (text, said) in wrong {
        let error = of(Form::Csv, text).unwrap_err();
        assert!(error.starts_with(said), "{error}");
    }
}

#[test]
fn a_build_that_fails_is_told_as_text() {
    let said = "{\"ImportPath\":\"kv\",\"Action\":\"build-output\",\"Output\":\"# kv\\n\"}\n\
                {\"ImportPath\":\"kv\",\"Action\":\"build-output\",\"Output\":\"./a.go:3: oops\\n\"}\n\
                {\"ImportPath\":\"kv\",\"Action\":\"build-fail\"}\nplain\n\
                {\"Action\":\"output\",\"Package\":\"kv\",\"Output\":\"FAIL\\tkv [build failed]\\n\"}\n";
    let text = "# kv\n./a.go:3: oops\nplain\nFAIL\tkv [build failed]\n";
    assert_eq!(super::complaint(Form::Gotest, said), text);
    assert_eq!(super::complaint(Form::Pytest, said), said);
}

#[test]
fn a_test_with_braces_in_its_name_is_no_placeholder() {
    let found = of(Form::Pytest, "test_a.py::test_b[\"{{z}}\"-x]\n").unwrap();
    let words = &found[0].command;
    assert_eq!(words[..2], ["python3", "-c"]);
    assert!(words.iter().all(|word| !word.contains("{{")), "{words:?}");
    assert!(words[2].contains(r#""test_a.py::test_b[\"\x7b\x7bz}}\"-x]""#), "{words:?}");
    assert_eq!(found[0].id, "test_a.py::test_b[\"{{z}}\"-x]");
}

/// A case that says all that a case can say, but for what people set of it.
fn talkative() -> TestCase {
    let case = json!({
        "id": "a", "name": "n, \"m\"", "kind": "http", "url": "http://h/a", "method": "PUT",
        "headers": {"Accept": "text/html; q=0.5", "X": "1"}, "input": "a;b\n", "output": "{}",
        "match": "json-subset", "case_pre": [
            "plain", {"case": "b", "policy": "passed"}, {"case": "c c", "scope": "repeat"},
            {"case": "d", "scope": "global", "soft": true}, {"case": "e", "policy": {"ratio": 0.9}},
        ],
        "mutual_tag": ["t", {"tag": "u", "scope": "env"}, {"tag": "v", "scope": "run", "chain": true}],
        "requires": {"os": "linux", "gpu": ""}, "slots": 2, "priority": -3, "timeout_ms": 5,
        "slow_ms": 4, "retries": {"test": 1, "infra": 0, "backoff_ms": 7}, "on_lost": "never",
        "owner": "me", "labels": {"area": "shop", "tier": "1=x"}, "est_ms": 9,
    });
    serde_json::from_value(case).unwrap()
}

#[test]
fn a_table_holds_all_that_a_cell_can_hold() {
    let command = TestCase {
        id: "c".into(),
        kind: Kind::Command,
        command: vec!["sh".into(), "-c".into(), "a b".into()],
        folder: Some("/p".into()),
        variables: [("A".to_owned(), "1".to_owned())].into(),
        case_pre: vec!["x (passed)".into(), "y; z".into()],
        mutual_tag: vec!["odd (chain)".into()],
        labels: [("a=b".to_owned(), " ".to_owned())].into(),
        ..super::blank()
    };
    let cases = [talkative(), command];
    let text = export("csv", &cases).unwrap();
    assert_eq!(of(Form::Csv, &text).unwrap(), cases, "{text}");
    assert!(
        text.contains(
            "plain;b (passed);c c (repeat);d (global soft);e (ratio=0.9),t;u (env);v (run chain)"
        ),
        "{text}"
    );
    for short in
        ["gpu;os=linux", "test=1;infra=0;backoff_ms=7", "area=shop;tier=1=x", "never", ",-3,"]
    {
        assert!(text.contains(short), "{short} in {text}");
    }
    assert_eq!(super::lost_in_csv(&cases), (0, [].into()));
    // Each field by itself, too.
    let all = serde_json::to_value(talkative()).unwrap();
    for (name, value) in all.as_object().unwrap() {
        if matches!(name.as_str(), "id" | "name") || name.starts_with("gmt") {
            continue;
        }
        let mut one = json!({"id": "a", "url": "http://h/a", "match": "none"});
        one[name] = value.clone();
        let one: TestCase = serde_json::from_value(one).unwrap();
        if one.check().is_ok() {
            let text = export("csv", std::slice::from_ref(&one)).unwrap();
            assert_eq!(of(Form::Csv, &text).unwrap(), [one], "{name}: {text}");
        }
    }
    let lossy = TestCase {
        steps: json!(["look"]),
        output: Some(String::new()),
        state: crate::scheduler::model::CaseState::Muted,
        ..talkative()
    };
    let lost = ["output", "state", "steps"].map(str::to_owned);
    assert_eq!(super::lost_in_csv(&[talkative(), lossy]), (1, lost.into()));
}

#[test]
fn lists_of_urls_are_calls() {
    let text = "# health\nhttps://h/a/b/ 204\nPUT http://h/c\n\nhttp://h/c\nhttp://h/c\n";
    let found = of(Form::Urls, text).unwrap();
    let shown: Vec<_> = found.iter().map(|case| (case.id.as_str(), case.url.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("h.a.b", "https://h/a/b/"),
            ("PUT h.c", "http://h/c"),
            ("h.c", "http://h/c"),
            ("h.c~2", "http://h/c")
        ]
    );
    assert_eq!(found[0].output.as_deref(), Some("204"));
    assert_eq!(of(Form::Urls, &export("urls", &found).unwrap()).unwrap(), found);
    assert_eq!(
        of(Form::Urls, "http://h/ x y").unwrap_err(),
        "line 1: it is not [METHOD] URL [STATUS]"
    );
    assert!(of(Form::Urls, "\nmail://h/").unwrap_err().starts_with("line 2: "));
}

#[test]
fn a_report_s_tests_become_commands_or_work_for_people() {
    let xml = "<testsuite name='s'><testcase classname='c' name='n' time='0.25'/></testsuite>";
    let suite = Suite { text: xml.into(), folder: None };
    let found = import(Form::Junit, &suite, &["run".into(), "{class}::{name}".into()]).unwrap();
    assert_eq!((found[0].id.as_str(), found[0].est_ms), ("c.n", Some(250)));
    assert_eq!(found[0].command, ["run", "c::n"]);
    assert_eq!(of(Form::Junit, xml).unwrap()[0].kind, Kind::Manual);
    // Of our own reports each case comes once, under its name.
    let ours = "<testsuites><testsuite name='pay in lab'>\
                <testcase classname='pay' name='pay#0' time='1'/><testcase classname='pay' name='pay#1'/>\
                </testsuite><testsuite name='pay in far'><testcase classname='pay' name='pay#0'/></testsuite>\
                <testsuite name='latest'><testcase classname='lab' name='cart'>\
                <properties><property name='case' value='cart'/></properties></testcase></testsuite></testsuites>";
    let found = of(Form::Junit, ours).unwrap();
    let shown: Vec<_> = found.iter().map(|case| (&*case.id, &*case.name)).collect();
    assert_eq!(shown, [("pay", "pay"), ("cart", "cart")]);
    assert!(found.iter().all(|case| case.labels.is_empty()), "{found:?}");
    assert!(of(Form::Junit, "<x").unwrap_err().starts_with("line 1"));
}

/// What looks like a variable of a plan file was read as one, and refused.
#[test]
fn exported_cases_come_back_with_what_looks_like_a_variable() {
    let odd = ["${HOME}", "$${HOME}", "$$${x", "$", "$$", "{{x}}", "${{x}}", "a ${\n$${}", "${"];
    let case = |(n, text): (usize, &str)| -> TestCase {
        let case = json!({
            "id": format!("c{n}"), "kind": "command", "command": ["sh", "-c", text],
            "input": text, "variables": {"X": text}, "labels": {"as": text},
        });
        serde_json::from_value(case).unwrap()
    };
    let cases: Vec<TestCase> = odd.into_iter().enumerate().map(case).collect();
    for form in ["yaml", "json"] {
        let text = export(form, &cases).unwrap();
        let found =
            plan_file::cases(&text, &[]).unwrap_or_else(|why| panic!("{form}: {why}\n{text}"));
        let found: Vec<TestCase> = found.into_iter().map(|given| given.value).collect();
        assert_eq!(found, cases, "{form}:\n{text}");
    }
}

#[test]
fn only_pytest_says_by_its_code_that_there_are_no_tests() {
    let says =
        |form: Form| (0..256).filter(move |code| has_no_tests(form, *code)).collect::<Vec<_>>();
    assert_eq!(says(Form::Pytest), [5]);
    assert_eq!(says(Form::Nextest), [0; 0]);
    assert_eq!(says(Form::Gotest), [0; 0]);
}
