//! Texts as the tools print them.

use super::{Form, Suite, export, import, plain};
use crate::scheduler::model::{Kind, TestCase};
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
    assert_eq!(found[0].command[3..], ["-run", "^TestPut$", "example.org/kv/api"]);
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
        ("id,est_ms\na,soon\n", "line 2: invalid type"),
    ];
    for (text, said) in wrong {
        let error = of(Form::Csv, text).unwrap_err();
        assert!(error.starts_with(said), "{error}");
    }
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
    assert!(of(Form::Junit, "<x").unwrap_err().starts_with("line 1"));
}
