//! What is not taken, each with its text; nothing of it is written.

use crate::cluster::{Cluster, Engine, Exit};
use crate::on_each_engine;
use crate::team::Team;
use serde_json::{Value, json};

on_each_engine![each_bad_plan_has_its_text];

/// A refusal that is about a definition of the file tells first where that stands.
fn without_place(text: &str) -> &str {
    text.split_once(".json: line 1: ").map_or(text, |(_, text)| text)
}

async fn each_bad_plan_has_its_text(engine: Engine) {
    let team = Team::new(Cluster::start(engine, 1).await);
    let case = |id: &str, before: Value| json!({"id": id, "url": "http://127.0.0.1:1/", "output": "", "case_pre": before});
    let run = |cases: &[&str]| {
        let cases: Vec<Value> = cases.iter().map(|case| json!({"case": case})).collect();
        json!({ "cases": cases })
    };
    let none = || json!([]);
    let big = json!({"cases": [{"case": "a", "repeats": 10_000_001}]});
    let nowhere = json!({"cases": [{"case": "a"}], "environments": ["nowhere"]});
    for (cases, run, text) in [
        (vec![], run(&["nobody"]), "unknown case nobody"),
        (vec![case("a", none())], nowhere, "unknown environment nowhere"),
        (vec![case("a", json!("a"))], run(&["a"]), "case a: waits for itself: a -> a"),
        (
            vec![case("a", json!("c")), case("b", json!("a")), case("c", json!("b"))],
            run(&["a", "b", "c"]),
            "cases wait for each other: a -> c -> b -> a",
        ),
        (
            vec![case("a", none()), case("b", json!("a"))],
            run(&["b"]),
            "case b waits for a, which is not selected: include missing predecessors, or ignore them",
        ),
        (vec![case("a", none())], big, "10000001 tasks are more than 10000000"),
    ] {
        let refused = team.submit_refused(&json!({"cases": cases, "run": run})).await;
        assert_eq!((refused.0, without_place(&refused.1)), (Exit::Code(2), text));
    }
    // That is nothing to run, as where no case has the name that was asked for.
    let nothing = team.submit_refused(&json!({"cases": [], "run": run(&[])})).await;
    assert_eq!((nothing.0, without_place(&nothing.1)), (Exit::Code(4), "the run selects no cases"));
    let unknown = team.submit_refused(&json!({"cases": [{"id": "a", "retires": 1}]})).await;
    assert!(unknown.1.contains("unknown field `retires`"), "{unknown:?}");
    let left =
        team.client().await.get("/tcss/", Some(etcd_client::GetOptions::new().with_prefix())).await;
    assert!(left.unwrap().kvs().is_empty(), "something was written");
}
