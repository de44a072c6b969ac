//! What the command line leaves as it was, refuses and complains of.

use crate::cluster::{Cluster, Engine};
use crate::commands::write;
use crate::on_each_engine;
use crate::team::Team;
use serde_json::{Value, json};

on_each_engine![
    what_people_set_stays_when_files_are_written_again,
    wrong_usage_is_no_failed_test,
    what_is_refused_writes_nothing,
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
    // Those of etcdctl have its codes.
    assert_eq!(team.says(&["get", "--bogus"]).await.0, 1);
    let endless = ["flaky", "mute", "a", "--reason", "x", "--for", "99999999999d"];
    assert!(team.says(&endless).await.2.contains("longer than 1000 years"));
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
    assert_eq!((code, &*said), (3, "Error: the store does not answer: connection refused\n"));
}

async fn what_is_left_out_is_told(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let text = "[{id: a, kind: command, command: [ls], on_lost: never, mutual_tag: t, state: muted},\n\
                {id: b, kind: command, command: [ls], output: \"\", case_pre: {case: a, policy: passed}},\n\
                {id: c, kind: command, command: [ls], case_pre: a}]\n";
    assert_eq!(team.says(&["case", "put", &write(&team, "cases.yaml", text)]).await.0, 0);
    let (code, table, said) = team.says(&["case", "ls", "--limit", "2"]).await;
    assert!(code == 0 && table.contains("b") && !table.contains(" c "), "{table}");
    assert_eq!(said, "Warning: there are more than 2 cases: see them with --limit 20\n");
    assert_eq!(team.says(&["case", "ls", "--limit", "3"]).await.2, "");
    let (code, _, said) = team.says(&["case", "export", "csv"]).await;
    let wanted = "Warning: 2 cases say what csv cannot hold, of output, state; yaml and json can\n";
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
