//! The command line as a test team types it: tables and JSON, exit codes, what is refused.

use crate::cluster::{self, Cluster, Engine};
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use quoin::scheduler::keys;
use serde_json::{Value, json};

on_each_engine![
    definitions_are_written_listed_and_deleted,
    a_run_is_looked_at_from_all_sides,
    what_waits_says_why,
    commands_go_only_to_workers_that_run_them,
    cases_are_muted_and_skipped_for_a_time,
    the_seed_loads_run,
];

pub async fn with_worker(engine: Engine) -> Team {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 4, &["--allow-command"]).await;
    team
}

pub fn write(team: &Team, name: &str, text: &str) -> String {
    let file = team.file(name);
    std::fs::write(&file, text).unwrap();
    file
}

async fn definitions_are_written_listed_and_deleted(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let plan = write(
        &team,
        "plan.yaml",
        "cases:\n  - {id: a, kind: command, command: [ls], owner: me, labels: {area: shop}}\n  \
         - {id: b, kind: command, command: [ls], case_pre: a, mutual_tag: [t]}\n\
         environments:\n  - {id: lab, capacity: 3, config: {port: 80}}\n",
    );
    assert_eq!(team.says(&["case", "put", &plan]).await, (0, "2 cases\n".into(), String::new()));
    assert_eq!(team.says(&["env", "put", &plan]).await.0, 0);
    let found = team.json(&["case", "get", "b"]).await;
    assert_eq!(
        (&found["case_pre"][0]["case"], &found["mutual_tag"][0]["tag"]),
        (&json!("a"), &json!("t"))
    );
    let (code, table, _) = team.says(&["case", "ls"]).await;
    assert!(code == 0 && table.contains("│ CASE │") && table.contains("command"), "{table}");
    let labelled = team.json(&["case", "ls", "--label", "area=shop"]).await;
    assert_eq!(labelled.as_array().unwrap().len(), 1);

    let circle = write(&team, "circle.yaml", "{id: a, kind: command, command: [ls], case_pre: b}");
    let (code, _, said) = team.says(&["case", "put", &circle]).await;
    let wanted = format!("Error: {circle}: line 1: cases wait for each other: a -> b -> a\n");
    assert_eq!((code, said), (2, wanted));
    let bad =
        write(&team, "bad.yaml", "cases:\n  - id: a/b\n    kind: command\n    command: [ls]\n");
    let (code, _, said) = team.says(&["case", "put", &bad]).await;
    let wanted =
        format!("Error: {bad}: line 2: case id \"a/b\" has a slash or control character\n");
    assert_eq!((code, said), (2, wanted));
    let worse = write(&team, "worse.yaml", "cases:\n  - id: a\n    kinds: command\n");
    let (code, _, said) = team.says(&["case", "put", &worse]).await;
    assert!(
        code == 2 && said.contains("unknown field `kinds`") && said.contains("line 3"),
        "{said}"
    );
    assert_eq!(team.says(&["case", "get", "nobody"]).await.2, "Error: unknown case nobody\n");

    assert_eq!(team.says(&["env", "maintenance", "lab", "--reason", "new disk"]).await.0, 0);
    let lab = &team.json(&["env", "ls"]).await[0];
    assert_eq!(
        (&lab["health"], &lab["health_reason"]),
        (&json!("maintenance"), &json!("new disk"))
    );
    let reserve =
        "{id: lab, capacity: 3, state: reserved, state_reason: for ann, config: {port: 80}}";
    let reserve = write(&team, "reserve.yaml", reserve);
    assert_eq!(team.says(&["env", "put", &reserve]).await.0, 0);
    let table = team.says(&["env", "ls"]).await.1;
    let line = table.lines().find(|line| line.contains("lab")).unwrap();
    let cells: Vec<&str> = line.split('│').map(str::trim).collect();
    assert_eq!(cells[1..8], ["lab", "3", "", "reserved", "for ann", "maintenance", "new disk"]);
    assert_eq!(team.says(&["env", "maintenance", "lab", "--end"]).await.0, 0);
    assert_eq!(team.json(&["env", "get", "lab"]).await["health"], "unknown");

    let urls = write(&team, "urls.txt", "http://127.0.0.1:1/a 204\nPUT http://127.0.0.1:1/b\n");
    assert_eq!(
        team.says(&["case", "import", "urls", &urls, "--prefix", "u-"]).await.1,
        "2 cases\n"
    );
    let exported = team.says(&["case", "export", "urls", "--prefix", "u-"]).await.1;
    assert_eq!(exported, "GET http://127.0.0.1:1/a 204\nPUT http://127.0.0.1:1/b\n");
    let yaml = team.says(&["case", "export", "yaml"]).await.1;
    let again = write(&team, "again.yaml", &yaml);
    assert_eq!(team.says(&["case", "put", &again]).await.1, "4 cases\n");
    let none = write(&team, "none.txt", "# nothing\n");
    assert_eq!(team.says(&["case", "import", "urls", &none]).await.0, 4);

    assert_eq!(team.says(&["case", "rm", "b", "a"]).await.0, 0);
    assert_eq!(team.json(&["case", "ls"]).await.as_array().unwrap().len(), 2);
    assert_eq!(team.says(&["case", "rm", "a"]).await.0, 2);
    assert_eq!(team.says(&["env", "rm", "lab"]).await.0, 0);
    assert_eq!(team.json(&["env", "ls"]).await, json!([]));

    assert_eq!(team.says(&["queue", "weight", "nightly", "3"]).await.0, 0);
    assert_eq!(team.says(&["queue", "pause", "nightly"]).await.0, 0);
    let queue = &team.json(&["queue", "ls"]).await[0];
    assert_eq!((&queue["weight"], &queue["paused"]), (&json!(3), &json!(true)));
    assert_eq!(team.says(&["tag", "capacity", "t", "2"]).await.0, 0);
    assert_eq!(team.json(&["tag", "ls"]).await[0]["capacity"], 2);
    let table = team.says(&["tag", "ls"]).await.1;
    let line = table.lines().find(|line| line.contains("free")).unwrap();
    let cells: Vec<&str> = line.split('│').map(str::trim).collect();
    assert_eq!(cells[1..5], ["t", "2", "", "free"], "{table}");
    for (reason, text) in [("x", "nobody holds tag t"), (" ", "a release needs a reason")] {
        let said = team.says(&["tag", "release", "t", "--reason", reason]).await.2;
        assert_eq!(said, format!("Error: {text}\n"));
    }
    assert_eq!(team.says(&["worker", "drain", "w9"]).await.2, "Error: unknown worker w9\n");
    assert_eq!(team.json(&["run", "ls"]).await["runs"], json!([]));
    assert_eq!(
        team.says(&["run", "show", "r"]).await,
        (2, String::new(), "Error: unknown run r\n".into())
    );
    assert_eq!(team.says(&["run", "submit"]).await.0, 2);
    assert_eq!(team.says(&["run", "submit", "--case", "x*"]).await.0, 4);
}

const MIXED: &str = "\
cases:
  - {id: good, kind: command, command: [sh, -c, 'echo fine']}
  - {id: bad, kind: command, command: [sh, -c, 'echo \"<broken> & sad\" >&2; exit 3'], case_pre: good}
run: {name: a mixed bag, cases: [{case: good, repeats: 4}, {case: bad, repeats: 2}]}
";

async fn a_run_is_looked_at_from_all_sides(engine: Engine) {
    let team = with_worker(engine).await;
    let plan = write(&team, "plan.yaml", MIXED);
    let (html, xml) = (team.file("r.html"), team.file("r.xml"));
    let words = ["run", "submit", &plan, "--wait", "--report", &html, "--report", &xml];
    let words = [&words[..], &["--request-id", "nightly-1"]].concat();
    let (code, said, _) = team.says(&words).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((code, lines[1]), (1, "····FF"), "{said}");
    assert!(
        lines[2].starts_with("failed bad#") && said.contains("stderr: <broken> & sad"),
        "{said}"
    );
    assert!(said.contains("failed: 6 of 6 ended, 4 passed, 2 failed in "), "{said}");
    let run = lines[0];
    let html = std::fs::read_to_string(html).unwrap();
    assert!(html.contains("&lt;broken&gt; &amp; sad") && !html.contains("<broken>"));
    assert!(html.contains("a mixed bag") && html.contains("</svg>") && html.ends_with("</html>\n"));
    let xml = std::fs::read(xml).unwrap();
    let report = quoin::scheduler::junit::read(&xml).unwrap();
    assert_eq!(report.cases().count(), 6);

    let listed = team.json(&["run", "ls", "--state", "failed"]).await;
    assert_eq!(
        (&listed["runs"][0]["id"], &listed["runs"][0]["totals"]["failures"]),
        (&json!(run), &json!(2))
    );
    assert_eq!(team.json(&["run", "ls", "--before", run]).await["runs"], json!([]));
    let failed = team.json(&["result", "ls", run, "--status", "failed", "--limit", "1"]).await;
    assert_eq!((&failed["tasks"][0]["case"], &failed["next"]), (&json!("bad"), &json!([1, 1])));
    let task = team.json(&["result", "get", run, "bad#1"]).await;
    assert_eq!(task["attempts"][0]["detail"]["stderr"], "<broken> & sad\n");
    assert_eq!(task["attempts"][0]["worker"], "w1");
    let (code, text, _) = team.says(&["result", "get", run, "good#0"]).await;
    assert!(code == 0 && text.contains("output: fine"), "{text}");
    let report: Value = serde_json::from_str(&team.says(&["report", "json", run]).await.1).unwrap();
    assert_eq!(
        (&report["run"]["state"], report["failures"].as_array().unwrap().len()),
        (&json!("failed"), 2)
    );

    // What the leader wrote of it is the same.
    let kept = team.client().await.get(keys::report(run), None).await.unwrap();
    let kept: Value = serde_json::from_slice(kept.kvs()[0].value()).unwrap();
    let (numbers, times) = (&report["numbers"], &kept["times"]);
    assert_eq!(numbers["slots"], times["slots"]);
    let makespan_ms = numbers["makespan"].as_u64().unwrap() / 1_000;
    assert_eq!(times["makespan_ms"], makespan_ms);
    let [one, other] = [numbers, times].map(|found| found["efficiency"].as_f64().unwrap());
    assert!((one - other).abs() < 1e-9 && one > 0.0, "{numbers} and {times}");

    let bound = team.json(&["run", "bound", run]).await;
    assert_eq!(bound["slots"], 4);
    assert!(bound["bound"].as_u64().unwrap() <= bound["makespan"].as_u64().unwrap(), "{bound}");
    let audit = team.json(&["run", "verify", run]).await;
    assert_eq!((&audit["clean"], &audit["history"]), (&json!(true), &json!(true)), "{audit}");
    for rule in
        ["one_result", "one_claim", "order", "slots", "attempts", "totals", "final", "idleness"]
    {
        assert!(audit["audit"]["checked"][rule].as_u64() > Some(0), "{rule} in {audit}");
    }
    assert_eq!(team.says(&["run", "why", run]).await.1, "nothing waits; the run is failed\n");
    assert_eq!(team.says(&["run", "why", run, "bad#1"]).await.1, "bad#1 is failed on w1\n");
    assert_eq!(team.says(&["run", "why", run, "bad@-#1"]).await.1, "bad#1 is failed on w1\n");
    let (code, _, said) = team.says(&["run", "why", run, "bad#99"]).await;
    assert_eq!((code, &*said), (2, &*format!("Error: run {run} has no task bad#99\n")));

    let (code, said, _) = team.says(&["run", "rerun", run, "--failed", "--wait", "--json"]).await;
    let again: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &again["rerun_of"], &again["totals"]["total"]), (1, &json!(run), &json!(2)));
    let (code, _, said) = team.says(&["run", "rerun", run, "--lost"]).await;
    assert_eq!((code, said), (4, format!("Error: run {run} has no such tasks\n")));
    let same = ["run", "submit", "--case", "good=3", "--request-id", "once", "--wait"];
    let first = team.says(&same).await;
    assert_eq!(first.0, 0, "{first:?}");
    assert_eq!(team.says(&same).await.1.lines().next(), first.1.lines().next());
    let (code, _, said) = team.says(&["run", "submit", "--case", "bad"]).await;
    assert_eq!(code, 2);
    assert!(said.contains("case bad waits for good, which is not selected"), "{said}");
    let with = ["run", "submit", "--case", "bad", "--include-predecessors", "--wait"];
    assert!(team.says(&with).await.1.contains("2 of 2 ended, 1 passed, 1 failed"));
}

async fn commands_go_only_to_workers_that_run_them(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("strict", 8, &[]).await;
    let case = json!({"id": "local", "kind": "command", "command": ["true"]});
    let plan = json!({"cases": [case], "run": {"cases": [{"case": "local"}], "repeats": 20}});
    let run = team.submit(&plan).await;
    let waiting = async || team.json(&["run", "why", &run]).await["waiting"][0].clone();
    cluster::eventually("a reason", async || match waiting().await {
        Value::Null => Err("nothing waits".to_owned()),
        _ => Ok(()),
    })
    .await;
    let why = waiting().await;
    assert_eq!(
        (&why["reason"], &why["text"], &why["tasks"]),
        (&json!("label"), &json!("no worker runs commands"), &json!(20))
    );
    team.start_worker("fit", 1, &["--allow-command"]).await;
    assert_eq!(team.ended(&run).await.state, "passed");
    let results = team.json(&["result", "ls", &run]).await;
    let tasks = results["tasks"].as_array().unwrap();
    assert!(tasks.len() == 20 && tasks.iter().all(|task| task["worker"] == "fit"), "{results}");
}

async fn what_waits_says_why(engine: Engine) {
    let mut team = with_worker(engine).await;
    let service = Service::start().await;
    let case = |id: &str, more: Value| {
        let mut case = json!({"id": id, "url": service.url(id, 20_000), "output": "ok"});
        case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        case
    };
    let cases = [
        case("first", json!({"mutual_tag": "printer"})),
        case("second", json!({"case_pre": "first"})),
        case("far", json!({"requires": {"os": "plan9"}})),
    ];
    let selected: Vec<Value> = cases.iter().map(|case| json!({"case": case["id"]})).collect();
    let run = team.submit(&json!({"cases": cases, "run": {"cases": selected, "repeats": 2}})).await;
    cluster::eventually("a held tag", async || match service.calls().is_empty() {
        true => Err("nobody called".to_owned()),
        false => Ok(()),
    })
    .await;
    let why = team.json(&["run", "why", &run]).await;
    let text = |at: usize| why["waiting"][at]["text"].as_str().unwrap().to_owned();
    assert_eq!(text(0), "tag printer is held by case first on w1; 1 lane waits for it");
    assert_eq!(text(1), "case first must end first: 2 of 2 repeats are open");
    assert_eq!(text(2), "no worker with os=plan9");
    assert_eq!(team.says(&["run", "why", &run, "first#0"]).await.1, "first#0 is running on w1\n");
    let (_, table, _) = team.says(&["run", "why", &run, "far"]).await;
    assert!(table.contains("no worker with os=plan9") && !table.contains("second"), "{table}");
    let tag = &team.json(&["tag", "ls"]).await[0];
    assert_eq!(
        (&tag["tag"], &tag["worker"], &tag["run"], &tag["unit"]),
        (&json!("printer"), &json!("w1"), &json!(run), &json!(1))
    );
    let worker = &team.json(&["worker", "ls"]).await[0];
    assert_eq!((&worker["worker"], &worker["tasks"]), (&json!("w1"), &json!(1)));

    assert_eq!(team.says(&["tag", "release", "printer", "--reason", "it hangs"]).await.0, 0);
    cluster::eventually("the second repeat", async || match service.calls().len() {
        2.. => Ok(()),
        calls => Err(format!("{calls} calls")),
    })
    .await;
    let canceled = team.json(&["result", "ls", &run, "--status", "canceled"]).await;
    assert_eq!(canceled["tasks"][0]["case"], "first");
    assert!(team.run(&["cancel", &run]).await.status.success());
    assert_eq!(team.says(&["run", "watch", &run]).await.0, 5);
    assert_eq!(team.says(&["worker", "drain", "w1"]).await.0, 0);
    assert_eq!(team.workers.get_mut("w1").unwrap().end().await, cluster::Exit::Code(0));
}

async fn cases_are_muted_and_skipped_for_a_time(engine: Engine) {
    let team = with_worker(engine).await;
    let plan = write(&team, "plan.yaml", MIXED);
    assert_eq!(team.says(&["case", "put", &plan]).await.0, 0);
    let named =
        |name| ["run", "submit", "--case", "good", "--case", "bad", "--wait", "--name", name];
    let submit = named("both");
    let (code, said, _) = team.says(&submit).await;
    assert!(code == 1 && said.contains("2 ended, 1 passed, 1 failed in"), "{code} {said}");
    assert_eq!(team.says(&["flaky", "mute", "bad", "--reason", "known", "--for", "7d"]).await.0, 0);
    let (code, said, _) = team.says(&submit).await;
    assert!(code == 0 && said.contains("2 ended, 1 passed, 1 failed, 1 muted in"), "{code} {said}");
    let listed = team.json(&["flaky", "ls"]).await;
    let bad = listed.as_array().unwrap().iter().find(|found| found["case"] == "bad").unwrap();
    assert_eq!((&bad["state"], &bad["reason"]), (&json!("muted"), &json!("known")));
    assert_eq!(team.says(&["flaky", "mute", "bad", "--reason", "x", "--for", "1ms"]).await.0, 0);
    assert_eq!(team.says(&submit).await.0, 1, "its time is over");
    assert_eq!(team.says(&["flaky", "skip", "bad", "--reason", "broken"]).await.0, 0);
    let (code, said, _) = team.says(&submit).await;
    assert!(
        code == 0 && said.contains("passed: 2 of 2 ended, 1 passed, 1 skipped"),
        "{code} {said}"
    );
    assert_eq!(team.says(&["flaky", "unmute", "bad"]).await.0, 0);
    assert_eq!(team.says(&submit).await.0, 1);
    assert_eq!(
        team.says(&["flaky", "mute", "nobody", "--reason", "x"]).await.2,
        "Error: unknown case nobody\n"
    );
    let trend = team.json(&["report", "trend", "--limit", "5"]).await;
    let runs = trend["runs"].as_array().unwrap();
    let states: Vec<&str> = runs.iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["failed", "passed", "failed", "passed", "failed"]);
    assert_eq!(trend["failures"], "steady");
    let (_, text, _) = team.says(&["report", "trend"]).await;
    assert!(text.contains("flaky tasks: steady"), "{text}");
    // Runs that share no name need have nothing in common.
    for name in ["other", ""] {
        assert_eq!(team.says(&named(name)).await.0, 1);
        let words = ["report", "trend", "--limit", "1"];
        let (_, text, _) = team.says(if name.is_empty() { &words } else { &words[..2] }).await;
        assert!(text.contains("show no trend") && !text.contains("steady"), "{text}");
    }
    let none = ["report", "trend", "--name", "nightly"];
    assert_eq!(team.says(&none).await.2, "Error: no run named nightly has ended\n");
    let id = |at: usize| runs[at]["run"].as_str().unwrap();
    let difference = team.json(&["report", "compare", id(0), id(3)]).await;
    assert_eq!((&difference["gone"], &difference["broken"]), (&json!([["bad", ""]]), &json!([])));
    assert_eq!(team.says(&["report", "compare", id(0), "x"]).await.2, "Error: unknown run x\n");
    let shown = team.json(&["run", "show", id(4)]).await;
    let rev = shown["revision"].as_i64().unwrap().to_string();
    let then = team.json(&["run", "at", id(4), "--rev", &rev]).await;
    assert_eq!(then, shown);
    let before = team.says(&["run", "at", id(4), "--rev", "2"]).await;
    assert_eq!((before.0, before.2), (2, format!("Error: unknown run {}\n", id(4))));
}

async fn the_seed_loads_run(engine: Engine) {
    let team = with_worker(engine).await;
    for (load, tasks) in [("b1", 10), ("b2", 8), ("b3", 8)] {
        let plan = format!("{}/examples/{load}.yaml", env!("CARGO_MANIFEST_DIR"));
        let words = ["run", "submit", &plan, "--set", "ms=10", "--set", "repeats=2", "--wait"];
        let (code, said, _) = team.says(&words).await;
        assert!(code == 0 && said.contains(&format!("{tasks} of {tasks} ended")), "{load}: {said}");
        let run = said.lines().next().unwrap();
        assert_eq!(team.json(&["run", "verify", run]).await["clean"], true);
    }
}
