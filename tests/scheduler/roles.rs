//! Roles over the prefixes: who may do what when the store has users, and who is told that he may not.

use crate::cluster::{Cluster, Engine};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use serde_json::json;
use std::process::Command;

on_each_engine![each_role_may_do_what_it_is_for_and_no_more];

async fn each_role_may_do_what_it_is_for_and_no_more(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client_of(0).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/roles.sh");
    let mut command = Command::new("sh");
    command.args([script, "--endpoints", &cluster.endpoints().join(",")]);
    command.env("QUOIN", env!("CARGO_BIN_EXE_quoin"));
    let made = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    for role in ["viewer", "runner", "author", "worker", "scheduler", "admin"] {
        client.user_add(role, "secret", None).await.unwrap();
        client.user_grant_role(role, role).await.unwrap();
    }
    client.auth_enable().await.unwrap();

    let mut team = Team::new(cluster);
    let service = Service::start().await;
    let as_user = |user: &str| vec!["--user".to_owned(), format!("{user}:secret")];
    team.access = as_user("scheduler");
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    team.access = as_user("worker");
    team.start_worker("w1", 2, &[]).await;

    let case = json!({"id": "one", "url": service.url("one", 1), "output": "ok"});
    let plan = |cases: Vec<serde_json::Value>| json!({"cases": cases, "run": {"cases": [{"case": "one"}], "repeats": 5}});
    team.access = as_user("runner");
    let refused = team.submit_refused(&plan(vec![case.clone()])).await;
    assert!(refused.1.contains("permission denied"), "a runner writes no cases: {refused:?}");
    team.access = as_user("author");
    let first = team.submit(&plan(vec![case])).await;
    team.access = as_user("viewer");
    let refused = team.submit_refused(&plan(Vec::new())).await;
    assert!(refused.1.contains("permission denied"), "a viewer submits nothing: {refused:?}");
    team.access = as_user("runner");
    let second = team.submit(&plan(Vec::new())).await;
    for run in [first, second] {
        team.access = as_user("viewer");
        crate::cluster::eventually("the end of a run", async || {
            let shown = String::from_utf8(team.run(&["show", &run]).await.stdout).unwrap();
            if shown.starts_with("passed: 5 of 5 ended") { Ok(()) } else { Err(shown) }
        })
        .await;
        let shown = caller.get(&format!("/v1/runs/{run}")).await;
        assert_eq!(shown.body["status"]["state"], "passed", "{}", shown.body);
    }
    for user in ["worker", "viewer"] {
        team.access = as_user(user);
        let refused = team.submit_refused(&plan(Vec::new())).await;
        assert!(refused.1.contains("permission denied"), "{user}: {refused:?}");
    }
}
