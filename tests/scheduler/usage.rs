//! What the command line leaves as it was, refuses and complains of.

use crate::cluster::{Cluster, Engine};
use crate::commands::write;
use crate::on_each_engine;
use crate::team::Team;
use serde_json::{Value, json};

on_each_engine![what_people_set_stays_when_files_are_written_again];

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
