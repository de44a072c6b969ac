//! Submits that are not like most: of very many cases, and right after what they name was changed.

use crate::team;
use quoin::scheduler::catalog;
use quoin::scheduler::client::{Access, Client};
use quoin::scheduler::keys;
use quoin::scheduler::model::{Definitions, Kind, RunSpec, Selected, TestCase};
use quoin::scheduler::plan_file::Given;
use quoin::scheduler::submit;
use serde_json::json;

/// More than a run names itself, and more than one key holds the definitions of.
const MANY: u32 = 2_500;

fn commanded(id: &str, name: &str) -> TestCase {
    let parsed = TestCase { id: id.into(), kind: Kind::Command, ..Default::default() };
    let command = vec!["true".to_owned()];
    TestCase { name: name.into(), command, slots: 1, timeout_ms: 60_000, ..parsed }
}

fn given(cases: &[TestCase]) -> Vec<Given<TestCase>> {
    cases.iter().cloned().map(Given::from).collect()
}

async fn client_of(endpoints: &[String]) -> Client {
    let access = Access { endpoints: endpoints.to_vec(), ..Default::default() };
    Client::connect(&access).await.unwrap()
}

pub async fn a_run_may_have_very_many_cases(engine: crate::Engine) {
    let (mut team, _service) = team(engine, 1, &[]).await;
    team.start_worker("w1", 8, &["--allow-command"]).await;
    let client = client_of(&team.cluster.endpoints()).await;
    let cases: Vec<TestCase> =
        (0..MANY).map(|n| commanded(&format!("m.{n:05}"), &format!("{n:0>200}"))).collect();
    catalog::put_all(&client, &given(&cases)).await.unwrap();
    // One that is not wanted any more is none of them.
    assert_eq!(team.says(&["case", "rm", "m.00007"]).await.0, 0);
    let run = team.submit_words(&["--case", "m.*", "--name", "many"]).await;
    let status = team.ended(&run).await;
    let passed = status.totals.get(quoin::scheduler::model::Status::Passed);
    assert_eq!((status.state.as_str(), passed), ("passed", u64::from(MANY) - 1));
    let (packs, _) = client.prefix(&keys::definition_packs(&run), 0).await.unwrap();
    assert!(packs.len() > 1, "the definitions are in several keys");
    let spec = client.get(&keys::run(&run)).await.unwrap().unwrap();
    assert!(spec.value.len() < 1_000, "the run's own key stays small");
    let (code, _, said) = team.says(&["run", "verify", &run]).await;
    assert_eq!((code, said.as_str()), (0, ""));
    let shown = team.json(&["result", "get", &run, "m.02499#0"]).await;
    assert_eq!(shown["task"]["case"], json!("m.02499"), "{shown}");

    // Also what has been deleted since.
    assert_eq!(team.says(&["case", "rm", "m.00009"]).await.0, 0);
    let again = team.json(&["run", "rerun", &run, "--all"]).await;
    let status = team.ended(again["run"].as_str().unwrap()).await;
    assert_eq!(status.totals.get(quoin::scheduler::model::Status::Passed), u64::from(MANY) - 1);

    let (code, _, said) = team.says(&["run", "submit", "--case", "nobody.*"]).await;
    assert_eq!((code, said.trim()), (4, "Error: no case begins with nobody."));
}

/// Many definitions are written at once, such that it is as if they had been written one by one.
pub async fn many_definitions_are_written_together(engine: crate::Engine) {
    let cluster = crate::Setup::new(engine, 1).start().await;
    let client = client_of(&cluster.endpoints()).await;
    let named = |name: &str, count: u32| -> Vec<TestCase> {
        (0..count).map(|n| commanded(&format!("m.{n:03}"), name)).collect()
    };
    catalog::put_all(&client, &given(&named("first", 150))).await.unwrap();
    catalog::delete::<TestCase>(&client, "m.004", None).await.unwrap();
    let before = catalog::get::<TestCase>(&client, "m.003").await.unwrap();

    let mut cases = named("second", 151);
    cases.push(commanded("m.003", "third"));
    // A transaction would hold three of these at most.
    cases.extend((0..12).map(|n| commanded(&format!("n.{n}"), &"n".repeat(400_000))));
    catalog::put_all(&client, &given(&cases)).await.unwrap();
    let after = catalog::list::<TestCase>(&client, None, 1_000, |_| true).await.unwrap().items;
    assert_eq!(after.len(), 163);
    let third = &after[3];
    assert_eq!((&*third.value.name, third.version > before.version), ("third", true));
    assert_eq!(third.value.gmt_create, before.value.gmt_create);
    let others = after.iter().filter(|case| case.value.name == "second");
    assert_eq!(others.filter(|case| !case.value.is_deleted).count(), 150);

    let mut cases = named("fourth", 10);
    cases[9].slots = 0;
    let refused = catalog::put_all(&client, &given(&cases)).await.unwrap_err().to_string();
    assert!(refused.contains("slots"), "{refused}");
    assert_eq!(catalog::get::<TestCase>(&client, "m.000").await.unwrap().value.name, "second");
}

/// Whichever members are asked, a submit goes by what was written before it.
pub async fn a_submit_sees_what_was_written_before(engine: crate::Engine) {
    let cluster = crate::Setup::new(engine, 3).fast_elections().start().await;
    let endpoints = cluster.endpoints();
    let mut clients = Vec::new();
    for endpoint in &endpoints {
        clients.push(client_of(std::slice::from_ref(endpoint)).await);
    }
    for n in 0..60_usize {
        let (writer, reader) = (&clients[n % 3], &clients[(n + 1 + n / 3 % 2) % 3]);
        catalog::put(writer, commanded("changing", &n.to_string()), None).await.unwrap();
        let spec = RunSpec {
            id: format!("run{n}"),
            cases: vec![Selected { case: "changing".into(), repeats: None }],
            repeats: 1,
            queue: "default".into(),
            ..Default::default()
        };
        let made = submit::submit(reader, &spec).await.unwrap();
        assert!(made.is_new);
        let kv = reader.get(&keys::definitions(&spec.id, 0)).await.unwrap().unwrap();
        let found = Definitions::parse(&kv.value).unwrap();
        assert_eq!(found.cases[0].name, n.to_string());
    }
}
