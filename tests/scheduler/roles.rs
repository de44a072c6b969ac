//! Roles over the prefixes: who may do what when the store has users, and who is told that he may not.

use crate::browser::Browser;
use crate::cluster::{Cluster, Engine, Folder};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use base64::Engine as _;
use serde_json::json;
use std::process::Command;

on_each_engine![
    each_role_may_do_what_it_is_for_and_no_more,
    services_act_with_the_rights_of_who_calls,
    a_store_without_users_knows_nobody,
    the_page_asks_who_looks,
];

const ROLES: [&str; 7] = ["viewer", "runner", "tester", "author", "worker", "scheduler", "admin"];

/// Makes the example's roles, and a user of each one's name.
async fn with_users(cluster: &Cluster) {
    let mut client = cluster.client_of(0).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/roles.sh");
    let mut command = Command::new("sh");
    command.args([script, "--endpoints", &cluster.endpoints().join(",")]);
    command.env("QUOIN", env!("CARGO_BIN_EXE_quoin"));
    let made = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    for role in ROLES {
        client.user_add(role, "secret", None).await.unwrap();
        client.user_grant_role(role, role).await.unwrap();
    }
    client.user_add("guest", "secret", None).await.unwrap();
    client.auth_enable().await.unwrap();
}

async fn each_role_may_do_what_it_is_for_and_no_more(engine: Engine) {
    let cluster = Cluster::start(engine, 1).await;
    with_users(&cluster).await;
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
    team.access = as_user("viewer");
    let refused = team.says(&["worker", "drain", "w1"]).await;
    let said = "Error: the store refuses: permission denied\n".to_owned();
    assert_eq!(refused, (3, String::new(), said));
}

fn basic(user: &str, password: &str) -> (String, String) {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    ("authorization".to_owned(), format!("Basic {text}"))
}

/// A scheduler that demands users, in a store that has them.
async fn strict(engine: Engine) -> (Team, String) {
    let cluster = Cluster::start(engine, 1).await;
    with_users(&cluster).await;
    let mut team = Team::new(cluster);
    team.access = vec!["--user".to_owned(), "scheduler:secret".to_owned()];
    let flags = ["--scheduler-listen-url", "http://127.0.0.1:0", "--scheduler-require-auth"];
    team.start_scheduler_with(&flags).says("leading the scheduler").await.unwrap();
    let url = team.service_url(0).await;
    (team, url)
}

async fn services_act_with_the_rights_of_who_calls(engine: Engine) {
    let (mut team, url) = strict(engine).await;
    let service = Service::start().await;
    let as_user = |user: &str| {
        let mut caller = Caller::new(&url);
        caller.headers.push(basic(user, "secret"));
        caller
    };
    let (viewer, runner, author) = (as_user("viewer"), as_user("runner"), as_user("author"));
    let (admin, worker, guest) = (as_user("admin"), as_user("worker"), as_user("guest"));
    let nobody = Caller::new(&url);

    // Who is nobody sees nothing but the page and the description.
    let refused = nobody.get("/v1/runs").await;
    assert_eq!((refused.status, refused.headers["www-authenticate"].as_str()), (401, "Bearer"));
    assert_eq!(nobody.get("/v1/openapi.json").await.status, 200);
    let mut wrong = Caller::new(&url);
    for (name, value) in [basic("viewer", "wrong"), basic("nobody", "secret"), basic("", "")] {
        wrong.headers = vec![(name, value)];
        let refused = wrong.get("/v1/runs").await;
        assert_eq!(refused.status, 401, "{}", refused.body);
        assert_eq!(refused.message(), "the store knows no such user with this password");
    }
    for said in ["Bearer made.up", "made.up", "Basic ?", "Bearer a\u{e9}"] {
        wrong.headers = vec![("authorization".to_owned(), said.to_owned())];
        assert_eq!(wrong.get("/v1/runs").await.status, 401, "{said}");
    }

    // Each may do what his role says.
    let case = json!({"id": "one", "url": service.url("one", 1), "output": "ok"});
    for caller in [&viewer, &runner, &worker] {
        let refused = caller.call("POST", "/v1/testcases", case.clone()).await;
        assert_eq!(refused.status, 403, "{}", refused.body);
        assert_eq!(refused.message(), "the store does not let this user do that");
    }
    assert_eq!(author.call("POST", "/v1/testcases", case).await.status, 201);
    let spec = json!({"cases": [{"case": "one"}], "repeats": 5});
    assert_eq!(viewer.call("POST", "/v1/runs", spec.clone()).await.status, 403);
    let made = runner.call("POST", "/v1/runs", spec).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let run = made.body["run"].as_str().unwrap().to_owned();
    let cancel = format!("/v1/runs/{run}/cancel");
    assert_eq!(viewer.call("POST", &cancel, json!({})).await.status, 403);
    let queue = json!({"weight": 2});
    assert_eq!(author.call("PUT", "/v1/queues/q", queue.clone()).await.status, 403);
    assert_eq!(admin.call("PUT", "/v1/queues/q", queue).await.status, 200);

    // Workers over HTTP must be users who may be workers.
    let pushed = json!({"name": "pushed", "url": service.url("pushed", 1), "max_task_num": 1});
    for (caller, status) in [(&runner, 403), (&author, 403), (&worker, 201)] {
        let said = caller.call("POST", "/v1/instances", pushed.clone()).await;
        assert_eq!(said.status, status, "{}", said.body);
    }
    let gone = worker.call("DELETE", "/v1/instances/pushed", json!({})).await;
    assert_eq!(gone.status, 200, "{}", gone.body);
    let asking = json!({"worker": "puller", "max_task_num": 5});
    for caller in [&viewer, &runner, &author] {
        assert_eq!(caller.call("POST", "/v1/claims", asking.clone()).await.status, 403);
    }
    let mut orders = Vec::new();
    while orders.len() < 5 {
        let given = worker.call("POST", "/v1/claims?want=5", asking.clone()).await;
        assert_eq!(given.status, 200, "{}", given.body);
        orders.extend(given.body["tasks"].as_array().unwrap().clone());
    }
    for order in orders {
        let verdict = json!({"recordId": order["recordId"], "status": "passed"});
        let said = runner.call("POST", "/v1/claims/results", verdict.clone()).await;
        assert_eq!(said.status, 403, "{}", said.body);
        assert_eq!(worker.call("POST", "/v1/claims/results", verdict).await.status, 202);
    }
    team.access = vec!["--user".to_owned(), "root:secret".to_owned()];
    crate::cluster::eventually("the end of the run", async || {
        let shown = viewer.get(&format!("/v1/runs/{run}")).await;
        if shown.body["status"]["state"] == "passed" { Ok(()) } else { Err(shown.body.to_string()) }
    })
    .await;

    // What one has seen and the services keep is not shown to another.
    let tasks = format!("/v1/runs/{run}/tasks");
    assert_eq!(viewer.get(&tasks).await.body["items"].as_array().unwrap().len(), 5);
    assert_eq!(viewer.send("GET", &format!("/v1/runs/{run}/events"), &[], "").await.status(), 200);
    for path in ["tasks", "lanes", "waiting", "bound", "timeline", "audit", "events"] {
        let refused = guest.get(&format!("/v1/runs/{run}/{path}")).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.body);
    }

    // A token of the store does as well, until the store takes it back.
    let login = |name: &str, password: &str| json!({"name": name, "password": password});
    let token = nobody.call("POST", "/v1/login", login("viewer", "secret")).await;
    assert_eq!(token.status, 200, "{}", token.body);
    let token = token.body["token"].as_str().unwrap().to_owned();
    assert_eq!(nobody.call("POST", "/v1/login", login("viewer", "wrong")).await.status, 401);
    let mut with_token = Caller::new(&url);
    with_token.headers = vec![("authorization".to_owned(), format!("Bearer {token}"))];
    assert_eq!(with_token.get(&tasks).await.status, 200);
    assert_eq!(with_token.call("POST", &cancel, json!({})).await.status, 403);
    let mut root = team.cluster.client_of(0).await;
    root.update_user(Some(("root".into(), "secret".into()))).await.unwrap();
    root.user_revoke_role("viewer", "viewer").await.unwrap();
    assert_eq!(with_token.get(&tasks).await.status, 403, "rights are the store's to say");
    assert_eq!(viewer.get(&tasks).await.status, 403);
    root.user_delete("viewer").await.unwrap();
    for caller in [&with_token, &viewer] {
        let refused = caller.get(&tasks).await;
        assert_eq!(refused.status, 401, "{}", refused.body);
    }
}

async fn a_store_without_users_knows_nobody(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    let file = team.file("token");
    std::fs::write(&file, "a-word-that-is-long").unwrap();
    let flags = ["--scheduler-listen-url", "http://127.0.0.1:0", "--scheduler-token-file", &file];
    team.start_scheduler_with(&flags).says("leading the scheduler").await.unwrap();
    let mut caller = Caller::new(&team.service_url(0).await);
    let word = ("authorization".to_owned(), "Bearer a-word-that-is-long".to_owned());
    let made_up = ("authorization".to_owned(), "Bearer made.up".to_owned());
    for (headers, status) in
        [(vec![], 401), (vec![word], 200), (vec![made_up], 401), (vec![basic("root", "x")], 401)]
    {
        caller.headers = headers;
        let answer = caller.get("/v1/runs").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let login = caller.call("POST", "/v1/login", json!({"name": "a", "password": "b"})).await;
    assert_eq!((login.status, login.message()), (401, "the store has no users"));
}

async fn the_page_asks_who_looks(engine: Engine) {
    let folder = Folder::new();
    let Some(browser) = Browser::start(folder.path()).await else {
        eprintln!("skipped: the page in a browser, since there is no chromium");
        return;
    };
    let (_team, url) = strict(engine).await;
    let mut author = Caller::new(&url);
    author.headers.push(basic("author", "secret"));
    let case = json!({"id": "one", "url": "http://127.0.0.1:1/", "output": "ok"});
    assert_eq!(author.call("POST", "/v1/testcases", case).await.status, 201);
    browser.open(&url).await;
    let fill = |user: &str, password: &str| {
        format!(
            "(() => {{ const [name, secret] = document.querySelectorAll('dialog[open] form input'); \
             if (!secret) return false; name.value = '{user}'; secret.value = '{password}'; return true }})()"
        )
    };
    browser.until(&fill("viewer", "wrong")).await;
    browser.picture("login").await;
    browser.press_button("Go on").await;
    let told = browser.until("document.querySelector('dialog[open] .problem')?.textContent").await;
    assert_eq!(told, "the store knows no such user with this password");
    browser.until(&fill("viewer", "secret")).await;
    browser.press_button("Go on").await;
    browser.until("document.body.innerText.includes('No runs yet')").await;
    browser.until("document.getElementById('who').textContent === 'Log out viewer'").await;
    let kept = browser.value(
        "JSON.stringify([{...sessionStorage}, {...localStorage}, location.href, document.cookie])",
    );
    let kept = kept.await.unwrap();
    assert!(!kept.as_str().unwrap().contains("secret"), "no password is kept: {kept}");
    // A viewer changes nothing, and is told so; and when he has gone, nobody sees anything.
    browser.key("n").await;
    browser.click("document.querySelector('.pick label input')").await;
    browser.press_button("Submit").await;
    let told = browser.until("document.querySelector('dialog .problem').textContent").await;
    assert_eq!(told, "the store does not let this user do that");
    browser.press_button("Close").await;
    browser.until("!document.querySelector('dialog[open]')").await;
    browser.click("document.getElementById('who')").await;
    browser.until("!!document.querySelector('dialog[open] form')").await;
    assert!(
        !browser
            .value("document.body.innerText.includes('No runs yet')")
            .await
            .unwrap()
            .as_bool()
            .unwrap()
    );
}
