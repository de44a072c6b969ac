//! What the command line leaves as it was, refuses and complains of.

use crate::cluster::{Cluster, Engine};
use crate::commands::write;
use crate::on_each_engine;
use crate::team::Team;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

on_each_engine![
    what_people_set_stays_when_files_are_written_again,
    wrong_usage_is_no_failed_test,
    a_run_that_is_watched_can_be_left,
    a_watch_that_is_ended_restores_the_terminal,
    what_is_refused_writes_nothing,
    mistakes_of_a_plan_name_their_line,
    a_store_that_refuses_does_not_fall_silent,
    what_is_left_out_is_told,
    a_case_in_two_environments_is_named_with_one,
];

fn fields<const N: usize>(found: &Value, names: [&str; N]) -> [Value; N] {
    names.map(|name| found[name].clone())
}

async fn what_people_set_stays_when_files_are_written_again(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let plan = |name: &str, of_case: &str, of_place: &str| {
        let text = format!(
            "cases:\n  - {{id: a, name: {name}, kind: command, command: [ls]{of_case}}}\n\
             environments:\n  - {{id: lab, name: {name}{of_place}}}\n\
             run: {{cases: [{{case: a}}], environments: [lab]}}\n"
        );
        write(&team, "plan.yaml", &text)
    };
    let file = plan("first", "", "");
    assert_eq!(team.says(&["case", "put", &file]).await.0, 0);
    assert_eq!(team.says(&["env", "put", &file]).await.0, 0);
    let mute = ["flaky", "mute", "a", "--reason", "known", "--for", "7d"];
    assert_eq!(team.says(&mute).await.0, 0);
    assert_eq!(team.says(&["env", "maintenance", "lab", "--reason", "new disk"]).await.0, 0);
    let of_case = ["state", "state_reason", "state_until"];
    let of_place = ["health", "health_reason"];
    let mark = || async {
        (team.json(&["case", "get", "a"]).await, team.json(&["env", "get", "lab"]).await)
    };
    let (muted, closed) = mark().await;
    let (muted, closed) = (fields(&muted, of_case), fields(&closed, of_place));
    assert_eq!((&muted[1], &closed), (&json!("known"), &[json!("maintenance"), json!("new disk")]));

    let csv = write(&team, "a.csv", "id,name,command\na,fifth,ls\n");
    let ways: [(&str, &[&str]); 3] =
        [("second", &["case", "put"]), ("third", &["env", "put"]), ("fourth", &["run", "submit"])];
    for (name, words) in ways {
        let file = plan(name, "", "");
        assert_eq!(team.says(&[words, &[&*file]].concat()).await.0, 0);
        let (case, place) = mark().await;
        assert_eq!(
            (fields(&case, of_case), fields(&place, of_place)),
            (muted.clone(), closed.clone())
        );
        assert!(case["name"] == name || place["name"] == name);
    }
    assert_eq!(team.says(&["case", "import", "csv", &csv]).await.0, 0);
    let case = team.json(&["case", "get", "a"]).await;
    assert_eq!((fields(&case, of_case), &case["name"]), (muted, &json!("fifth")));

    // What a file names is what it says, with its reason.
    let file =
        plan("sixth", ", state: enabled", ", health: good, state: reserved, state_reason: mine");
    assert_eq!(team.says(&["run", "submit", &file]).await.0, 0);
    let (case, place) = mark().await;
    assert_eq!(fields(&case, of_case), [json!("enabled"), Value::Null, Value::Null]);
    assert_eq!(fields(&place, of_place), [json!("good"), Value::Null]);
    assert_eq!(team.says(&["env", "put", &plan("seventh", "", "")]).await.0, 0);
    let place = team.json(&["env", "get", "lab"]).await;
    assert_eq!(
        fields(&place, ["health", "state", "state_reason"]),
        ["good", "reserved", "mine"].map(Value::from)
    );
}

async fn wrong_usage_is_no_failed_test(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let words: [&[&str]; 15] = [
        &["run", "submit", "--bogus"],
        &["run", "bogus"],
        &["run", "watch"],
        &["run", "submit", "--case", "a", "--priority", "x"],
        &["--user", "run:get", "run", "watch"],
        &["run", "watch", "r", "--json=perhaps"],
        &["tag", "capacity", "a", "0"],
        &["case", "import", "bogus", "x"],
        &["flaky", "mute", "a"],
        &["flaky", "mute", "a", "--reason", " "],
        &["flaky", "mute", "a", "--reason", "x", "--for", "0s"],
        &["flaky", "mute", "a", "--reason", "x", "--for", "99999999999d"],
        &["scheduler", "--bogus"],
        &["worker", "ls", "--bogus"],
        &["report", "html", "r", "--output"],
    ];
    for words in words {
        let (code, out, said) = team.says(words).await;
        assert_eq!((code, &*out), (2, ""), "{words:?}: {said}");
        assert!(said.starts_with("Error: ") && !said.contains("panicked"), "{words:?}: {said}");
    }
    for (case, wanted) in [("a=-1", "case a: -1 repeats"), ("a=0.5", "case a: 0.5 repeats")] {
        let (code, _, said) = team.says(&["run", "submit", "--case", case]).await;
        assert_eq!((code, said), (2, format!("Error: {wanted}\n")));
    }
    // Those of etcdctl have its codes.
    assert_eq!(team.says(&["get", "--bogus"]).await.0, 1);
    let endless = ["flaky", "mute", "a", "--reason", "x", "--for", "99999999999d"];
    assert!(team.says(&endless).await.2.contains("longer than 1000 years"));
}

/// Though it ends soon: what is said to be a server is none.
#[test]
fn the_folder_of_a_demonstration_is_made() {
    let parent = std::env::temp_dir().join(format!("quoin-run-{}", std::process::id()));
    let folder = parent.join("new").join("er");
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/run"))
        .arg("/bin/false")
        .env("QUOIN_RUN_DIR", &folder)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("member one did not start"), "{said}");
    assert!(folder.join("one.log").is_file(), "{said}");
    std::fs::remove_dir_all(&parent).unwrap();
}

/// What a demonstration says can be typed, from anywhere.
#[test]
fn a_demonstration_says_what_can_be_typed() {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let is_base = |base: &u16| [0, 1, 11, 100, 101, 200, 201].iter().all(|n| is_free(base + n));
    let first = 15_000 + (std::process::id() % 40) as u16 * 300;
    let base = (first..32_000).step_by(300).find(is_base).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/run"))
        .arg(env!("CARGO_BIN_EXE_quoin"))
        .env("QUOIN_RUN_DIR", folder.path().join("data"))
        .env("QUOIN_RUN_PORT", base.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(script.stdout.take().unwrap()).lines();
    while !said.contains("Ctrl-C stops everything.") {
        let line = lines.next().unwrap_or_else(|| panic!("it has ended: {said}"));
        said += &(line.unwrap() + "\n");
    }
    let binary = concat!("  ", env!("CARGO_BIN_EXE_quoin"), " ");
    // One that ends only when it is stopped.
    let is_told = |line: &&str| line.starts_with(binary) && !line.contains(" watch ");
    let told: Vec<&str> = said.lines().filter(is_told).collect();
    let ends: Vec<_> = told
        .iter()
        .map(|line| {
            let mut shell = Command::new("sh");
            shell.args(["-c", line]).current_dir(folder.path()).output().unwrap()
        })
        .collect();
    // It stops what it has started.
    let stop = Command::new("kill").arg(script.id().to_string()).status().unwrap();
    assert!(stop.success() && script.wait().unwrap().success(), "{said}");
    for (line, end) in told.iter().zip(&ends) {
        assert!(end.status.success(), "{line}: {}", String::from_utf8_lossy(&end.stderr));
    }
    let has = |words: &str| told.iter().any(|line| line.contains(words));
    assert!(
        ["kv put", "kv get", "run submit", "run show", "run verify"].into_iter().all(has),
        "{said}"
    );
}

#[test]
fn a_bench_without_a_load_is_wrong_usage() {
    let bench = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quoin"));
        let output = command.arg("bench").args(words).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for words in [&[][..], &["nope"], &["b1", "--bogus"]] {
        let (code, out, said) = bench(words);
        assert_eq!((code, &*out), (Some(2), ""), "{words:?}: {said}");
        let has_usage = said.contains("Usage: quoin bench") && said.contains("noop");
        assert_eq!(has_usage, words.len() < 2, "{words:?}: {said}");
    }
    assert!(bench(&["nope"]).2.starts_with("Error: unknown command \"nope\""));
    assert_eq!(bench(&["--help"]).0, Some(0));
}

/// On a terminal, by a key.
/// Runs a command of the shell at a terminal of its own.
fn at_terminal(command: &str) -> Child {
    Command::new("script")
        .args(["-qec", command, "/dev/null"])
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn a_run_that_is_watched_can_be_left(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let text = "{cases: [{id: look, kind: manual, name: look}], run: {cases: [{case: look}]}}";
    let plan = write(&team, "plan.yaml", text);
    let run = team.submit_file(&plan).await;
    let endpoint = team.cluster.endpoints().join(",");
    let shown = async |words: String| {
        let command = format!("{} run {words} --endpoints {endpoint}", env!("CARGO_BIN_EXE_quoin"));
        let work = move || {
            let mut terminal = at_terminal(&command);
            let mut out = terminal.stdout.take().unwrap();
            let (mut seen, mut some) = (Vec::new(), [0; 4096]);
            let mut has_left = false;
            loop {
                let count = out.read(&mut some).unwrap();
                if count == 0 {
                    break;
                }
                seen.extend_from_slice(&some[..count]);
                if !has_left && String::from_utf8_lossy(&seen).contains("q: leave it running") {
                    terminal.stdin.as_mut().unwrap().write_all(b"q").unwrap();
                    has_left = true;
                }
            }
            (terminal.wait().unwrap().code(), String::from_utf8_lossy(&seen).into_owned())
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    };
    let (code, seen) = shown(format!("watch {run}")).await;
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.ends_with("watching ended; the run goes on\r\n"), "{seen:?}");
    assert!(!seen.contains("Error"), "{seen:?}");
    // Whoever waits for its end has not seen it pass.
    let (code, seen) = shown(format!("submit {plan} --wait")).await;
    assert_eq!(code, Some(2), "{seen}");
    assert!(seen.ends_with("watching ended; the run goes on\r\n"), "{seen:?}");
    let open = team.json(&["run", "ls", "--state", "accepted"]).await;
    assert_eq!(open["runs"].as_array().unwrap().len(), 2, "{open}");
}

/// Whoever ends the command leaves the terminal as it was.
async fn a_watch_that_is_ended_restores_the_terminal(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let text = "{cases: [{id: look, kind: manual, name: look}], run: {cases: [{case: look}]}}";
    let run = team.submit_file(&write(&team, "plan.yaml", text)).await;
    let endpoint = team.cluster.endpoints().join(",");
    let program = env!("CARGO_BIN_EXE_quoin");
    let watch = format!("exec {program} run watch {run} --endpoints {endpoint}");
    let words = format!("sh -c 'echo pid $$; {watch}'; stty -a");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let words = words.clone();
        let work = move || {
            let mut terminal = at_terminal(&words);
            let mut out = terminal.stdout.take().unwrap();
            let (mut seen, mut some) = (String::new(), [0; 4096]);
            let mut is_sent = false;
            loop {
                let count = out.read(&mut some).unwrap();
                if count == 0 {
                    break;
                }
                seen += &String::from_utf8_lossy(&some[..count]);
                if !is_sent && seen.contains("q: leave it running") {
                    let pid = seen.split_whitespace().nth(1).unwrap().parse().unwrap();
                    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
                    is_sent = true;
                }
            }
            terminal.wait().unwrap();
            seen
        };
        let seen = tokio::task::spawn_blocking(work).await.unwrap();
        let modes = seen.split_once("goes on").map(|(_, modes)| modes).unwrap_or_default();
        let has = |wanted: &str| modes.split_whitespace().any(|word| word == wanted);
        assert!(has("echo") && has("icanon"), "{signal:?}: {seen}");
    }
}

async fn what_is_refused_writes_nothing(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let case = "{id: new, kind: command, command: [ls]}";
    let submit = async |text: &str, more: &[&str]| {
        let file = write(&team, "plan.yaml", text);
        let said = team.says(&[&["run", "submit", &*file], more].concat()).await;
        assert_eq!(team.json(&["case", "ls"]).await, json!([]), "{text}");
        assert_eq!(team.json(&["env", "ls"]).await, json!([]), "{text}");
        assert_eq!(team.json(&["run", "ls"]).await["runs"], json!([]), "{text}");
        (said.0, said.2)
    };
    let both = format!("cases: [{case}]\nenvironments: [{{id: lab}}]\n");
    let run = |run: &str| format!("{both}run: {run}\n");
    let unknown = submit(&run("{cases: [{case: new}, {case: old}]}"), &[]).await;
    assert_eq!(unknown, (2, "Error: unknown case old\n".into()));
    let nowhere = submit(&run("{cases: [{case: new}], environments: [moon]}"), &[]).await;
    assert!(nowhere.0 == 2 && nowhere.1.contains("moon"), "{nowhere:?}");
    let none = submit(&run("{cases: [{case: 'x*'}]}"), &[]).await;
    assert_eq!(none, (4, "Error: no case begins with x\n".into()));
    let fine = run("{cases: [{case: 'n*'}], environments: [lab]}");
    let pdf = submit(&fine, &["--report", &team.file("foo.pdf")]).await;
    assert!(pdf.0 == 2 && pdf.1.contains("ends with .html, .xml or .json"), "{pdf:?}");
    let lost = submit(&fine, &["--report", &team.file("none/x.html")]).await;
    assert!(lost.0 == 2 && lost.1.contains("there is no such folder"), "{lost:?}");
    let twins =
        submit(&format!("cases: [{case}, {case}]\nrun: {{cases: [{{case: new}}]}}\n"), &[]).await;
    assert!(twins.0 == 2 && twins.1.contains("case new is described twice"), "{twins:?}");
    let file = write(&team, "twins.yaml", &format!("[{case}, {case}]"));
    assert_eq!(team.says(&["case", "put", &file]).await.0, 2);
    assert_eq!(team.json(&["case", "ls"]).await, json!([]));

    let file = write(&team, "plan.yaml", &fine);
    assert_eq!(team.says(&["run", "submit", &file]).await.0, 0);
}

async fn mistakes_of_a_plan_name_their_line(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let plan = |pay: &str, lab: &str| {
        format!(
            "# line 1\ncases:\n  - {{id: login, kind: command, command: [ls], name: \"id: pay\"}}\n\
             \x20 - name: |\n      - id: pay\n    id: pay\n    kind: command\n    command: [ls]\n{pay}\
             environments:\n  - id: lab\n{lab}run: {{cases: [{{case: pay}}], environments: [lab]}}\n"
        )
    };
    for (pay, lab, line, text) in [
        ("    case_pre: cart\n", "", 4, "case pay waits for cart, which is not selected"),
        ("    case_pre: pay\n", "", 4, "case pay: waits for itself"),
        ("    mutual_tag: a/b\n", "", 4, "tag \"a/b\" has a slash"),
        ("    timeout_ms: 0\n", "", 4, "case pay: timeout_ms 0 is not between"),
        ("    requires: {os: a}\n", "    labels: {os: b}\n", 4, "case pay requires os=a"),
        ("", "    capacity: 0\n", 10, "environment lab: capacity is 0"),
        ("", "    health: retired\n", 10, "environment lab is retired"),
    ] {
        let file = write(&team, "plan.yaml", &plan(pay, lab));
        let (code, _, said) = team.says(&["run", "submit", &file]).await;
        assert_eq!(code, 2, "{said}");
        assert!(said.starts_with(&format!("Error: {file}: line {line}: {text}")), "{said}");
    }
    let circle = "\n[{id: a, kind: command, command: [ls], case_pre: b},\n\
                  {id: b, kind: command, command: [ls], case_pre: a}]\n";
    let file = write(&team, "circle.yaml", circle);
    let said = team.says(&["case", "put", &file]).await.2;
    let wanted = "line 2: cases wait for each other: a -> b -> a\n";
    assert_eq!(said, format!("Error: {file}: {wanted}"));
    // What is about no definition of the file has no line of it.
    let file = write(&team, "plan.yaml", &plan("", "").replace("{case: pay}", "{case: old}"));
    assert_eq!(team.says(&["run", "submit", &file]).await.2, "Error: unknown case old\n");
}

async fn a_store_that_refuses_does_not_fall_silent(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let run = ["run", "at", "r", "--rev", "9999"];
    let (code, _, said) = team.says(&run).await;
    assert_eq!((code, &*said), (2, "Error: the store has not come to this revision yet\n"));
    let mut client = team.client().await;
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.user_add("guest", "secret", None).await.unwrap();
    client.auth_enable().await.unwrap();
    for (user, wanted) in [
        ("guest:secret", "the store refuses: permission denied"),
        ("guest:other", "the store refuses: authentication failed, invalid user ID or password"),
        ("", "the store refuses: user name is empty"),
    ] {
        team.access = match user {
            "" => Vec::new(),
            user => vec!["--user".into(), user.into()],
        };
        let (code, _, said) = team.says(&["case", "ls"]).await;
        assert_eq!((code, said), (3, format!("Error: {wanted}\n")), "{user}");
    }
    team.cluster.members[0].kill();
    let (code, _, said) = team.says(&["case", "ls"]).await;
    let endpoint = team.cluster.endpoints().remove(0);
    let address = endpoint.trim_start_matches("http://");
    let wanted =
        format!("Error: the store does not answer: {address}: connect: connection refused\n");
    assert_eq!((code, said), (3, wanted));
}

async fn what_is_left_out_is_told(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let text = "[{id: a, kind: command, command: [ls], on_lost: never, mutual_tag: t, state: muted, state_reason: r},\n\
                {id: b, kind: command, command: [ls], output: \"\", case_pre: {case: a, policy: passed}},\n\
                {id: c, kind: command, command: [ls], case_pre: a}]\n";
    assert_eq!(team.says(&["case", "put", &write(&team, "cases.yaml", text)]).await.0, 0);
    let (code, table, said) = team.says(&["case", "ls", "--limit", "2"]).await;
    assert!(code == 0 && table.contains("b") && !table.contains(" c "), "{table}");
    assert_eq!(said, "Warning: there are more than 2 cases: see them with --limit 20\n");
    assert_eq!(team.says(&["case", "ls", "--limit", "3"]).await.2, "");
    let (code, _, said) = team.says(&["case", "export", "csv"]).await;
    let wanted = "Warning: 2 cases say what csv cannot hold, of output, state, state_reason; yaml and json can\n";
    assert_eq!((code, &*said), (0, wanted));
    assert_eq!(team.says(&["case", "export", "csv", "--prefix", "c"]).await.2, "");
    let (_, text, _) = team.says(&["case", "export", "csv"]).await;
    let file = write(&team, "a.csv", &text);
    assert_eq!(team.says(&["case", "import", "csv", &file]).await.0, 0);
    let case = team.json(&["case", "get", "a"]).await;
    assert_eq!((&case["on_lost"], &case["state"]), (&json!("never"), &json!("muted")));
    let case = team.json(&["case", "get", "b"]).await;
    assert_eq!(case["case_pre"][0]["policy"], "passed");
}

async fn a_case_in_two_environments_is_named_with_one(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let plan = "cases: [{id: look, kind: manual, name: look}]\nenvironments: [{id: here}, {id: there}]\n\
                run: {cases: [{case: look}], environments: [here, there]}\n";
    let run = team.submit_file(&write(&team, "plan.yaml", plan)).await;
    let (code, _, said) = team.says(&["run", "verdict", &run, "look#0", "passed"]).await;
    let wanted = "Error: case look is in several environments, here, there: name it look@environment#number\n";
    assert_eq!((code, &*said), (2, wanted));
    let of = async |task: &str| {
        let found = team.json(&["run", "why", &run, task]).await;
        found["waiting"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w["environment"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("look").await, ["here", "there"]);
    assert_eq!(of("look@there").await, ["there"]);
    assert_eq!(team.says(&["run", "why", &run, "other"]).await.0, 2);
}
