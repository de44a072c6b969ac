//! What commands that change something tell programs, and what people ask of those that hold and say things.

use crate::cluster::{Cluster, Engine, eventually};
use crate::commands::{with_worker, write};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use quoin::scheduler::model::Status;
use serde_json::{Value, json};

on_each_engine![
    what_was_done_is_told_as_json,
    a_queue_takes_so_many_runs,
    who_holds_a_tag_is_told_with_its_tasks,
    a_tag_that_a_person_holds_is_released_by_force,
    muted_failures_are_none_in_reports,
    what_each_attempt_said_is_printed,
    a_key_that_holds_another_case_says_so,
    who_waits_for_a_run_that_stands_still_hears_why,
    what_was_skipped_says_why,
    files_say_why_they_mute_and_call_nothing_secret,
    what_is_asked_for_by_unknown_words_is_refused,
    tests_that_are_gone_are_told_and_pruned,
    a_report_of_ours_comes_back_as_the_same_cases,
];

async fn what_was_done_is_told_as_json(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let plan = write(
        &team,
        "plan.yaml",
        "cases:\n  - {id: a, kind: command, command: [ls]}\n  - {id: b, kind: command, command: [ls]}\n\
         environments:\n  - {id: lab}\n",
    );
    let names = |told: &Value| -> Vec<String> {
        let of = |one: &Value| {
            assert!(one["version"].as_i64() > Some(0), "{one}");
            one["id"].as_str().unwrap().to_owned()
        };
        told.as_array().unwrap().iter().map(of).collect()
    };
    let told = team.json(&["case", "put", &plan]).await;
    assert_eq!(names(&told["cases"]), ["a", "b"]);
    let version = &told["cases"][1]["version"];
    assert_eq!(&team.json(&["case", "get", "b"]).await["version"], version);
    let urls = write(&team, "urls.txt", "http://127.0.0.1:1/x\n");
    let told = team.json(&["case", "import", "urls", &urls]).await;
    assert_eq!(names(&told["cases"]), ["127.0.0.1:1.x"]);
    assert_eq!(names(&team.json(&["env", "put", &plan]).await["environments"]), ["lab"]);
    assert_eq!(team.says(&["env", "put", &plan]).await.1, "1 environment\n");
    let told = team.json(&["env", "maintenance", "lab", "--reason", "disks"]).await;
    assert_eq!(
        (&told["environment"], &told["health"], &told["health_reason"]),
        (&json!("lab"), &json!("maintenance"), &json!("disks"))
    );
    let told = team.json(&["flaky", "mute", "a", "--reason", "known", "--for", "7d"]).await;
    assert_eq!(
        (&told["case"], &told["state"], &told["reason"], told["until"].is_string()),
        (&json!("a"), &json!("muted"), &json!("known"), true)
    );
    let told = team.json(&["flaky", "unmute", "a"]).await;
    assert_eq!((&told["state"], &told["until"]), (&json!("enabled"), &Value::Null));
    let told = team.json(&["tag", "capacity", "t", "2"]).await;
    assert_eq!((&told["tag"], &told["capacity"]), (&json!("t"), &json!(2)));
    let first = told["version"].as_i64().unwrap();
    let told = team.json(&["queue", "weight", "q", "3"]).await;
    assert_eq!((&told["queue"], &told["weight"]), (&json!("q"), &json!(3)));
    assert_eq!(told["version"], first + 1);
    for (words, field, value) in [
        (&["queue", "limit", "q", "5"][..], "limit", json!(5)),
        (&["queue", "pause", "q"], "paused", json!(true)),
        (&["queue", "resume", "q"], "paused", json!(false)),
        (&["queue", "limit", "q", "0"], "limit", Value::Null),
        (&["queue", "runs", "q", "4"], "runs_max", json!(4)),
    ] {
        let told = team.json(words).await;
        assert_eq!((&told[field], &told["weight"]), (&value, &json!(3)), "{words:?}: {told}");
    }
    assert_eq!(names(&team.json(&["case", "rm", "a", "b"]).await["deleted"]), ["a", "b"]);
    assert_eq!(names(&team.json(&["env", "rm", "lab"]).await["deleted"]), ["lab"]);

    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 1, &[]).await;
    let told = team.json(&["worker", "drain", "w1"]).await;
    assert_eq!((&told["worker"], &told["draining"]), (&json!("w1"), &json!(true)));
    for words in [["case", "rm"], ["case", "put"], ["env", "rm"], ["env", "put"], ["env", "check"]]
    {
        let (code, out, said) = team.says(&words).await;
        assert_eq!((code, &*out), (2, ""), "{words:?}");
        assert!(said.starts_with("Error: missing: <"), "{words:?}: {said}");
    }
}

async fn a_queue_takes_so_many_runs(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let plan = write(&team, "plan.yaml", "{id: a, kind: command, command: [ls]}");
    assert_eq!(team.says(&["case", "put", &plan]).await.0, 0);
    assert_eq!(team.says(&["queue", "runs", "nightly", "1"]).await.0, 0);
    let submit = ["run", "submit", "--case", "a", "--queue", "nightly"];
    assert_eq!(team.says(&submit).await.0, 0);
    let (code, _, said) = team.says(&submit).await;
    assert_eq!((code, said.trim()), (3, "Error: queue nightly is full: 1 runs are open"));
    let (_, table, _) = team.says(&["queue", "ls"]).await;
    assert!(table.contains("1 of 1"), "{table}");
    assert_eq!(team.json(&["queue", "ls"]).await[0]["runs_max"], 1);
    assert_eq!(team.says(&["queue", "runs", "nightly", "0"]).await.0, 0);
    assert_eq!(team.says(&submit).await.0, 0);
}

async fn who_holds_a_tag_is_told_with_its_tasks(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    // By the word of its own it is the same worker.
    let artifacts = team.file("w1-artifacts");
    let words = ["worker", "start", "--name", "w1", "--allow-loopback", "--artifacts", &artifacts];
    let mut worker = team.process("w1.log", &words);
    let service = Service::start().await;
    let case = json!({
        "id": "first", "url": service.url("first", 20_000), "output": "ok", "mutual_tag": "printer"
    });
    let plan = json!({"cases": [case], "run": {"cases": [{"case": "first"}], "repeats": 2}});
    let run = team.submit(&plan).await;
    let holders = async || team.json(&["tag", "holders", "printer"]).await;
    eventually("a holder", async || match holders().await[0]["worker"] == "w1" {
        true => Ok(()),
        false => Err("nobody".to_owned()),
    })
    .await;
    let held = &holders().await[0];
    assert_eq!(
        (&held["case"], &held["run"], &held["tasks"], &held["unit"]),
        (&json!("first"), &json!(run), &json!([[0, 1]]), &json!(1))
    );
    let (_, table, _) = team.says(&["tag", "holders"]).await;
    assert!(table.contains("printer") && table.contains("#0"), "{table}");
    assert_eq!(team.json(&["tag", "holders", "print"]).await, json!([]));
    let release = ["tag", "release", "printer", "--reason", "it hangs", "--by", "ann"];
    let told = team.json(&release).await;
    assert_eq!(
        (&told["reason"], &told["released"][0]["worker"], &told["released"][0]["is_free"]),
        (&json!("it hangs"), &json!("w1"), &json!(false))
    );
    let said = async || team.says(&["result", "get", &run, "first#0"]).await.1;
    eventually("the reason", async || match said().await {
        text if text.contains("message: forced by ann, tag printer was released: it hangs\n") => {
            Ok(())
        }
        text => Err(text),
    })
    .await;
    let told = team.json(&["run", "cancel", &run]).await;
    assert_eq!(told, json!({"run": run, "control": "canceled"}));
    worker.kill();
}

async fn what_each_attempt_said_is_printed(engine: Engine) {
    let mut team = with_worker(engine).await;
    let long = "yes 0123456789 | head -c 200000; echo odd >&2; exit 1";
    let cases = json!([
        {"id": "long", "kind": "command", "command": ["sh", "-c", long],
         "retries": {"test": 1, "backoff_ms": 1}},
        {"id": "red", "kind": "command", "command": ["printf", "\\033[31mred\\r\\n"], "output": ""},
        {"id": "mute", "kind": "command", "command": ["true"]},
    ]);
    let selected = json!({"cases": [{"case": "long"}, {"case": "red"}, {"case": "mute"}]});
    let run = team.submit(&json!({"cases": cases, "run": selected})).await;
    team.ended(&run).await;
    // Nothing that a test says commands a terminal; whoever pipes it gets it as it is.
    let (_, text, _) = team.says(&["result", "get", &run, "red"]).await;
    assert!(text.contains("  output: \\u{1b}[31mred\n"), "{text}");
    let (_, text, _) = team.says(&["result", "logs", &run, "red"]).await;
    assert!(text.contains("\x1b[31mred"), "{text}");
    let logs = team.json(&["result", "logs", &run, "long#0"]).await;
    let logs = logs.as_array().unwrap();
    let told: Vec<_> = logs.iter().map(|log| (log["attempt"].as_u64(), &log["stream"])).collect();
    for attempt in [1, 2] {
        for stream in ["output", "stderr"] {
            assert!(told.contains(&(Some(attempt), &json!(stream))), "{told:?}");
        }
    }
    let output = logs.iter().find(|log| log["stream"] == "output").unwrap();
    assert_eq!(output["bytes"], 200_000);
    let (url, digest) = (output["url"].as_str().unwrap(), output["artifact"].as_str().unwrap());
    assert!(url.starts_with("http://127.0.0.1:") && url.ends_with(digest), "{output}");
    let (code, text, _) = team.says(&["result", "logs", &run, "long#0", "--attempt", "2"]).await;
    assert!(code == 0 && !text.contains("attempt 1"), "{text}");
    assert!(text.contains("--- attempt 2 on w1: stderr\nodd\n"), "{text}");
    assert!(text.contains(&format!("of 200000 bytes; all of it is at {url}\n")), "{text}");
    let (code, _, said) = team.says(&["result", "logs", &run, "long#0", "--attempt", "3"]).await;
    assert_eq!((code, &*said), (4, "Error: long#0 has no attempt 3 that has ended\n"));
    let (code, said, _) = team.says(&["result", "logs", &run, "mute"]).await;
    assert_eq!((code, &*said), (0, "mute#0 has said nothing that was stored\n"));

    // When its worker is gone the artifact is known by its digest.
    team.workers.get_mut("w1").unwrap().ask_to_stop();
    assert_eq!(team.workers.get_mut("w1").unwrap().end().await, crate::cluster::Exit::Code(0));
    let (_, text, _) = team.says(&["result", "logs", &run, "long#0"]).await;
    assert!(text.contains(&format!("as artifact {digest}, and is not here\n")), "{text}");
}

async fn a_key_that_holds_another_case_says_so(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let mut client = team.client().await;
    let value = json!({"id": "other", "kind": "command", "command": ["ls"]}).to_string();
    client.put("/testcases/mine", value, None).await.unwrap();
    let (code, _, said) = team.says(&["case", "rm", "mine"]).await;
    assert_eq!(code, 2);
    assert!(
        said.starts_with("Error: the key /testcases/mine holds a case with the id \"other\""),
        "{said}"
    );
    assert_eq!(team.says(&["case", "rm"]).await.0, 2);
}

async fn files_say_why_they_mute_and_call_nothing_secret(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let cases = |more: &str| {
        format!(
            "cases:\n  - {{id: a, kind: command, command: [ls]}}\n  - {{id: b, {more}}}\n\
             run: {{cases: [{{case: a}}]}}\n"
        )
    };
    let muted = "kind: command, command: [ls], state: muted";
    let secret = "url: \"http://169.254.169.254/latest\", output: \"\"";
    for (more, wanted) in [
        (muted, "case b is to be muted: say why in state_reason"),
        (
            &*muted.replace("muted", "skipped, state_reason: \" \""),
            "case b is to be skipped: say why",
        ),
        (secret, "case b: 169.254.169.254 leads to 169.254.169.254, a link-local address"),
    ] {
        let file = write(&team, "cases.yaml", &cases(more));
        for words in [&["case", "put", &file][..], &["run", "submit", &file]] {
            let (code, _, said) = team.says(words).await;
            let wanted = format!("Error: {file}: line 3: {wanted}");
            assert!(code == 2 && said.starts_with(&wanted), "{words:?}: {said}");
            assert_eq!(team.json(&["case", "ls"]).await, json!([]), "nothing is written");
        }
    }
    let file = write(&team, "cases.yaml", &cases(secret));
    let words = ["case", "put", &file, "--allow-target", "169.254.0.0/16"];
    assert_eq!(team.says(&words).await.0, 0);
    let urls = write(&team, "urls.txt", "GET http://169.254.169.254/ 200\n");
    let (code, _, said) = team.says(&["case", "import", "urls", &urls]).await;
    assert!(code == 2 && said.contains("a link-local address"), "{said}");

    // Who mutes one by its reason may leave that out of his file, or go on as before.
    let why = ["flaky", "mute", "b", "--reason", "it shakes"];
    assert_eq!(team.says(&why).await.0, 0);
    let file = write(&team, "cases.yaml", &cases("kind: command, command: [pwd]"));
    assert_eq!(team.says(&["case", "put", &file]).await.0, 0);
    let case = team.json(&["case", "get", "b"]).await;
    assert_eq!((&case["state"], &case["state_reason"]), (&json!("muted"), &json!("it shakes")));
    let file = write(&team, "cases.yaml", &cases(muted));
    assert_eq!(team.says(&["case", "put", &file]).await.0, 2);
}

async fn who_waits_for_a_run_that_stands_still_hears_why(engine: Engine) {
    let team = with_worker(engine).await;
    let plan = write(
        &team,
        "plan.yaml",
        "cases:\n  - {id: far, kind: command, command: [\"true\"], requires: {gpu: yes}}\n\
         run: {cases: [far], no_worker_timeout_ms: 9000}\n",
    );
    for more in [&[][..], &["--json"]] {
        let words = [&["run", "submit", &plan, "--wait"][..], more].concat();
        let (_, said, heard) = team.says(&words).await;
        let why = "Warning: nothing runs: no worker with gpu=yes runs commands\n";
        assert_eq!(heard, why, "{said}");
    }
}

async fn what_was_skipped_says_why(engine: Engine) {
    let mut team = with_worker(engine).await;
    let plan = write(
        &team,
        "plan.yaml",
        "cases:\n  - {id: bad, kind: command, command: [\"false\"]}\n  \
         - {id: after, kind: command, command: [\"true\"], case_pre: {case: bad, policy: passed}}\n  \
         - {id: last, kind: command, command: [\"true\"], case_pre: {case: after, policy: passed}}\n  \
         - {id: off, kind: command, command: [\"true\"], state: skipped, state_reason: no printer}\n\
         run: {repeats: 2, cases: [{case: bad}, {case: after}, {case: last}, {case: \"off\"}]}\n",
    );
    let (code, said, _) = team.says(&["run", "submit", &plan, "--wait"]).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines[1]), (1, "FF°°°°°°"), "{said}");
    let reasons = [
        ("after", "case bad must pass first: 0 of 2 did"),
        ("last", "case after must pass first: 0 of 2 did"),
        ("off", "the case is skipped: no printer"),
    ];
    let run = lines[0];
    let table = team.says(&["run", "show", run]).await.1;
    let row = |name: &str| -> Vec<&str> {
        let rows = table.lines().map(|line| line.split('│').map(str::trim).collect::<Vec<_>>());
        let mut rows = rows.filter(|cells| cells.get(1).is_some_and(|cell| *cell == name));
        rows.next().unwrap_or_else(|| panic!("no {name}: {table}"))
    };
    let titles =
        ["CASE", "ENVIRONMENT", "TASKS", "PASSED", "FAILED", "SKIPPED", "RUNNING", "WAITING"];
    assert_eq!(row("CASE")[1..9], titles, "{table}");
    assert_eq!(row("bad")[3..7], ["2", "", "2", ""], "{table}");
    assert_eq!(row("after")[3..7], ["2", "", "", "2"], "{table}");
    let xml = team.says(&["report", "junit", run]).await.1;
    let report = quoin::scheduler::junit::read(xml.as_bytes()).unwrap();
    for (case, reason) in reasons {
        assert!(said.contains(&format!("skipped {case}, 2 tasks: {reason}\n")), "{said}");
        let task = format!("{case}#1");
        assert_eq!(team.json(&["result", "get", run, &task]).await["task"]["reason"], reason);
        let (_, text, _) = team.says(&["result", "get", run, &task]).await;
        assert_eq!(text, format!("{task}: skipped, {reason}\n"));
        let test = report.cases().find(|test| test.name == task).unwrap();
        assert_eq!((test.status, &*test.reason.message), (Status::Skipped, reason));
    }
    let xml = team.says(&["case", "export", "junit"]).await.1;
    let report = quoin::scheduler::junit::read(xml.as_bytes()).unwrap();
    let bad = report.cases().find(|test| test.name == "bad").unwrap();
    assert_eq!((bad.status, &*bad.reason.message), (Status::Failed, "exit code 1"), "{xml}");
    let caller = Caller::new(&team.service_url(0).await);
    let tasks = caller.get(&format!("/v1/runs/{run}/tasks?status=skipped")).await.body;
    assert_eq!(tasks["items"][0]["reason"], reasons[0].1, "{tasks}");

    // A mute that is over is no mute.
    let mute = ["flaky", "mute", "off", "--reason", "x", "--for", "1ms"];
    assert_eq!(team.says(&mute).await.0, 0);
    assert_eq!(team.json(&["flaky", "ls"]).await, json!([]));
}

async fn what_is_asked_for_by_unknown_words_is_refused(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    for (words, known) in [
        (
            ["run", "ls", "--state", "bogus"],
            "accepted, waiting, running, paused, canceling, passed",
        ),
        (["result", "ls", "r", "--status=bogus"], "pending, running, passed, failed, error"),
        (["case", "export", "bogus", "--prefix=x"], "yaml, json, csv, urls, junit"),
    ] {
        let (code, out, said) = team.says(&words).await;
        assert_eq!((code, &*out), (2, ""), "{words:?}: {said}");
        assert!(said.contains(known), "{words:?}: {said}");
    }
    let caller = Caller::new(&team.service_url(0).await);
    for (path, said) in [
        ("/v1/runs?state=bogus", "unknown state \"bogus\": known are open, ended, accepted"),
        ("/v1/testcases?state=bogus", "unknown state \"bogus\": known are enabled, muted, skipped"),
        ("/v1/testcases?kind=bogus", "unknown kind \"bogus\": known are http, command, manual"),
        ("/v1/environments?health=bogus", "unknown health \"bogus\": known are unknown, good"),
    ] {
        let refused = caller.get(path).await;
        assert_eq!(refused.status, 400, "{path}");
        assert!(refused.message().starts_with(said), "{}", refused.message());
    }
    for path in ["/v1/runs?state=open", "/v1/testcases?kind=http", "/v1/environments?health=good"] {
        assert_eq!(caller.get(path).await.status, 200, "{path}");
    }
}

async fn tests_that_are_gone_are_told_and_pruned(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let list = |tests: &[&str]| {
        let lines: Vec<String> = tests.iter().map(|test| format!("test_a.py::{test}\n")).collect();
        write(&team, "list.txt", &lines.concat())
    };
    let import = async |tests: &[&str], more: &[&str]| {
        let file = list(tests);
        team.says(&[&["case", "import", "pytest", &*file], more].concat()).await
    };
    let cases = async || {
        let listed = team.json(&["case", "ls"]).await;
        let ids =
            listed.as_array().unwrap().iter().map(|case| case["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(import(&["one", "two", "three"], &[]).await, (0, "3 cases\n".into(), String::new()));
    assert_eq!(import(&["two"], &["--prefix", "x."]).await.0, 0);
    // Those of another import, and those that people wrote, are theirs.
    let own = write(
        &team,
        "own.yaml",
        "{id: own, kind: command, command: [ls], labels: {imported: mine}}",
    );
    assert_eq!(team.says(&["case", "put", &own]).await.0, 0);
    let (code, said, warned) = import(&["one"], &[]).await;
    assert_eq!((code, &*said), (0, "1 case\n"));
    assert_eq!(
        warned,
        "Warning: the tests of 2 cases that were imported from there are gone, test_a.py::three and \
         others: --prune deletes them\n"
    );
    assert_eq!(cases().await.len(), 5);
    let (code, said, warned) = import(&["one"], &["--prune"]).await;
    assert_eq!((code, &*warned), (0, ""));
    assert_eq!(said, "1 case, 2 cases whose tests are gone deleted\n");
    assert_eq!(cases().await, ["own", "test_a.py::one", "x.test_a.py::two"]);
    assert_eq!(import(&["one"], &["--prune"]).await.1, "1 case\n");
    let (code, _, said) = team.says(&["case", "import", "csv", &own, "--prune"]).await;
    assert!(code == 2 && said.contains("--prune is for nextest, pytest and gotest"), "{said}");
}

async fn a_report_of_ours_comes_back_as_the_same_cases(engine: Engine) {
    let team = with_worker(engine).await;
    let plan = write(
        &team,
        "plan.yaml",
        "cases:\n  - {id: a, kind: command, command: [\"true\"]}\n  - {id: look, kind: manual, name: look, steps: look hard, owner: Ann}\n\
         environments: [{id: lab}, {id: far}]\n\
         run: {repeats: 2, environments: [lab, far], cases: [{case: a}]}\n",
    );
    let run = team.says(&["run", "submit", &plan, "--wait"]).await.1;
    let run = run.lines().next().unwrap();
    let before = team.json(&["case", "ls"]).await;
    for words in [["report", "junit", run], ["case", "export", "junit"]] {
        let xml = write(&team, "r.xml", &team.says(&words).await.1);
        let shown = team.says(&["case", "import", "junit", &xml, "--dry-run"]).await.1;
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let ids: Vec<&Value> = shown.as_array().unwrap().iter().map(|case| &case["id"]).collect();
        let wanted = [json!("a"), json!("look")];
        assert_eq!(ids, wanted.iter().take(ids.len()).collect::<Vec<_>>(), "{shown}");
        let (code, _, said) = team.says(&["case", "import", "junit", &xml]).await;
        let wanted =
            "Warning: already described, not as work for people, stay as they are: 1 case\n";
        assert_eq!((code, &*said), (0, wanted));
        let after = team.json(&["case", "ls"]).await;
        assert_eq!((&after[0], after.as_array().unwrap().len()), (&before[0], 2), "{after}");
        // What a person shall do stays, too.
        for field in ["steps", "owner", "name"] {
            assert_eq!(after[1][field], before[1][field], "{after}");
        }
    }
}

async fn a_tag_that_a_person_holds_is_released_by_force(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let case = json!({"id": "look", "kind": "manual", "steps": ["look"], "mutual_tag": "desk"});
    let run = team.submit(&json!({"cases": [case], "run": {"cases": [{"case": "look"}]}})).await;
    team.waits_for_people(&run).await;
    let (code, ..) = team.says(&["tag", "release", "desk", "--reason", "stuck"]).await;
    assert_eq!(code, 0);
    let status = team.ended(&run).await;
    // Nobody canceled the run, and it has not passed.
    assert_eq!((&*status.state, status.totals.get(Status::Canceled)), ("incomplete", 1));
    team.audit(&run, 1).await;
    let (code, ..) = team.says(&["run", "watch", &run]).await;
    assert_eq!(code, 1);
}

async fn muted_failures_are_none_in_reports(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 1, &["--allow-command"]).await;
    let case = json!({"id": "known", "kind": "command", "command": ["false"],
        "state": "muted", "state_reason": "it shakes"});
    let run = team.submit(&json!({"cases": [case], "run": {"cases": [{"case": "known"}]}})).await;
    assert_eq!(team.ended(&run).await.state, "passed");
    let (code, report, said) = team.says(&["report", "junit", &run]).await;
    assert_eq!(code, 0, "{said}");
    assert!(report.contains("failures=\"0\"") && report.contains("skipped=\"1\""), "{report}");
    assert!(report.contains("muted, failed: exit code 1"), "{report}");
}
