//! What the services tell of failures, of cases that come and go, of tags that are wanted, and of checks.

use crate::cluster::{Cluster, Engine, eventually};
use crate::http::Caller;
use crate::on_each_engine;
use crate::service::Service;
use crate::team::Team;
use quoin::scheduler::analysis::{Ended, Stats, Verdict};
use quoin::scheduler::keys;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

on_each_engine![
    failures_are_grouped_compared_and_saved,
    flaky_cases_are_listed_and_set_apart,
    a_muted_case_that_has_recovered_counts_again,
    nobody_sets_a_case_apart_without_a_reason,
    tags_are_told_with_who_waits_and_environments_with_their_checks,
];

async fn serving(engine: Engine) -> (Team, Caller, Service) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let caller = Caller::new(&team.service_url(0).await);
    (team, caller, Service::start().await)
}

async fn add(caller: &Caller, service: &Service, id: &str, ms: u64, more: Value) {
    let mut case = json!({"id": id, "url": service.url(id, ms), "output": "ok"});
    case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    assert_eq!(caller.call("POST", "/v1/testcases", case).await.status, 201);
}

async fn submit(caller: &Caller, spec: Value) -> String {
    let made = caller.call("POST", "/v1/runs", spec).await;
    made.body["run"].as_str().unwrap_or_else(|| panic!("{}", made.body)).to_owned()
}

async fn failures_are_grouped_compared_and_saved(engine: Engine) {
    let (mut team, caller, service) = serving(engine).await;
    add(&caller, &service, "bad", 1, json!({"retries": {"test": 1, "backoff_ms": 1}})).await;
    add(&caller, &service, "good", 1, json!({"mutual_tag": "printer"})).await;
    team.start_worker("w1", 2, &[]).await;
    let both = json!([{"case": "bad"}, {"case": "good"}]);
    let first = submit(&caller, json!({"cases": both, "repeats": 3, "owner": "ann"})).await;
    team.ended(&first).await;
    let groups = caller.get(&format!("/v1/runs/{first}/failures")).await.body;
    let group = &groups["items"][0];
    assert_eq!(
        (&groups["groups"], &group["tasks"], &group["kind"]),
        (&json!(1), &json!(3), &json!("product"))
    );
    assert_eq!(group["lanes"], json!([{"lane": 0, "case": "bad"}]));
    let alike =
        url::form_urlencoded::byte_serialize(group["fingerprint"].as_str().unwrap().as_bytes());
    let alike: String = alike.collect();
    let tasks = format!("/v1/runs/{first}/tasks?status=failures&fingerprint=");
    let found = caller.get(&format!("{tasks}{alike}")).await.body;
    assert_eq!(found["items"].as_array().unwrap().len(), 3, "{found}");
    let none = caller.get(&format!("{tasks}other")).await.body;
    assert_eq!(none["items"], json!([]));

    // The case is known to fail since then.
    let past = caller.get("/v1/testcases/bad/history").await.body["stats"]["-"].clone();
    assert_eq!(past["failing_run"], json!(first), "{past}");
    let task = caller.get(&format!("/v1/runs/{first}/tasks/0/0")).await.body;
    let recorded = task["attempts"][1]["revision"].as_i64().unwrap();
    assert!((1..=recorded).contains(&past["failing_revision"].as_i64().unwrap()), "{past} {task}");

    // Attempts beyond the first are told at every level, and how well the slots were used.
    let listed = caller.get("/v1/runs").await.body["items"][0].clone();
    assert_eq!((&listed["run"], &listed["retries"]), (&json!(first), &json!(3)), "{listed}");
    let efficiency = listed["efficiency"].as_f64().unwrap();
    assert!(efficiency > 0.0 && efficiency <= 1.0, "{listed}");
    let status = caller.get(&format!("/v1/runs/{first}")).await.body["status"].clone();
    assert_eq!(status["retries"], 3, "{status}");
    let lanes = caller.get(&format!("/v1/runs/{first}/lanes")).await.body;
    assert_eq!(
        (&lanes["items"][0]["retries"], &lanes["items"][1]["retries"]),
        (&json!(3), &json!(0))
    );
    let bound = caller.get(&format!("/v1/runs/{first}/bound")).await.body;
    let (running, rate) = (&bound["running"], bound["rate"].as_f64().unwrap());
    assert_eq!((running, &bound["assigned"], &bound["ends"]), (&json!(0), &json!(0), &Value::Null));
    assert!(rate > 0.0, "{bound}");

    // Put right, it is told as fixed.
    let right = json!({"url": service.url("well", 1)});
    assert_eq!(caller.call("PATCH", "/v1/testcases/bad", right).await.status, 200);
    let second = submit(&caller, json!({"cases": [{"case": "bad"}]})).await;
    team.ended(&second).await;
    let found = caller.get(&format!("/v1/runs/{second}/compare?with={first}")).await.body;
    assert_eq!(found["fixed"], json!([{"case": "bad", "environment": ""}]), "{found}");
    assert_eq!(found["gone"], json!([{"case": "good", "environment": ""}]));
    let back = caller.get(&format!("/v1/runs/{first}/compare?with={second}")).await.body;
    assert_eq!(back["broken"], json!([{"case": "bad", "environment": ""}]));
    let unknown = caller.get(&format!("/v1/runs/{first}/compare?with=x")).await;
    assert_eq!((unknown.status, unknown.message()), (404, "unknown run x"));

    // Also beside what it was itself, as long as the store has that.
    let submitted = team.client().await.get(keys::run(&first), None).await.unwrap();
    let submitted = submitted.kvs()[0].mod_revision();
    let itself = format!("/v1/runs/{first}/compare?with={first}&at=");
    let found = caller.get(&format!("{itself}{submitted}")).await.body;
    assert_eq!(found["added"].as_array().unwrap().len(), 2, "{found}");
    let found = caller.get(&format!("{itself}{}", groups["revision"])).await.body;
    assert_eq!((&found["added"], &found["broken"]), (&json!([]), &json!([])), "{found}");
    for (revision, status, why) in [
        ("0", 400, "a revision is above 0"),
        ("99999999", 400, "the store has not come to this revision yet"),
    ] {
        let refused = caller.get(&format!("{itself}{revision}")).await;
        assert_eq!((refused.status, refused.message()), (status, why));
    }

    // The slowest case comes first, with its last durations and where they are going.
    add(&caller, &service, "slow", 60, json!({})).await;
    let third = submit(&caller, json!({"cases": [{"case": "slow"}]})).await;
    team.ended(&third).await;
    let slowest = caller.get("/v1/slowest").await.body;
    let names = [0, 1, 2].map(|at| slowest["items"][at]["case"].clone());
    assert_eq!(names[0], "slow", "{slowest}");
    assert!(names.contains(&json!("good")), "{slowest}");
    let slow = &slowest["items"][0];
    assert!(slow["p90"].as_u64().unwrap() >= 60, "{slowest}");
    assert_eq!(
        (slow["durations"].as_array().unwrap().len(), &slow["trend"]),
        (1, &json!("unknown"))
    );
    let past = caller.get("/v1/testcases/slow/history").await.body;
    assert_eq!(past["trends"], json!({"-": "unknown"}), "{past}");
    // Workers say how long they live without another sign of life.
    let lease = caller.get("/v1/instances/w1").await.body["lease"].clone();
    let (left, granted) = (lease["left_s"].as_i64().unwrap(), lease["granted_s"].as_i64().unwrap());
    assert!((0..=granted).contains(&left), "{lease}");

    for (form, kind, begin) in [
        ("html", "text/html; charset=utf-8", "<!doctype html>"),
        ("junit", "application/xml", "<?xml"),
    ] {
        let saved = caller.get(&format!("/v1/runs/{first}/report?form={form}")).await;
        assert_eq!((saved.status, &*saved.headers["content-type"]), (200, kind));
        let file = &saved.headers["content-disposition"];
        assert!(file.starts_with(&format!("attachment; filename=\"run-{first}.")), "{file}");
        let text = saved.body.as_str().unwrap().to_lowercase();
        assert!(text.starts_with(begin), "{text}");
    }
    let saved = caller.get(&format!("/v1/runs/{first}/report?form=json")).await;
    assert_eq!(saved.body["failures"].as_array().unwrap().len(), 3);
    let unknown = caller.get(&format!("/v1/runs/{first}/report?form=pdf")).await;
    assert_eq!(unknown.status, 400);
    // Where slots were idle is told with the cause.
    let timeline = caller.get(&format!("/v1/runs/{first}/timeline")).await.body;
    assert_eq!(timeline["gaps"][0][2], "start", "{timeline}");
    long_runs_are_shown_in_parts(&caller, &first).await;

    // Lists are narrowed by tag and owner.
    for (tag, tasks) in [("printer", 3), ("other", 0)] {
        let found = caller.get(&format!("/v1/runs/{first}/tasks?tag={tag}")).await.body;
        assert_eq!(found["items"].as_array().unwrap().len(), tasks, "{found}");
        let told = team.json(&["result", "ls", &first, "--tag", tag]).await;
        assert_eq!(told["tasks"], found["items"]);
    }
    for (owner, runs) in [("ann", 1), ("bob", 0)] {
        let found = caller.get(&format!("/v1/runs?owner={owner}")).await.body;
        assert_eq!(found["items"].as_array().unwrap().len(), runs, "{found}");
        let told = team.json(&["run", "ls", "--owner", owner]).await;
        assert_eq!(told["runs"].as_array().unwrap().len(), runs, "{told}");
    }
}

/// Of a run with three tasks that ended at their second attempt, and three at their first.
async fn long_runs_are_shown_in_parts(caller: &Caller, run: &str) {
    let part = async |window: &str| {
        let found = caller.get(&format!("/v1/runs/{run}/timeline?{window}")).await;
        assert_eq!(found.status, 200, "{window}");
        let counts = [&found.body["before"], &found.body["after"], &found.body["left_out"]];
        let [before, after, left_out] = counts.map(|count| count.as_u64().unwrap());
        let rows = found.body["rows"].as_array().unwrap().clone();
        assert_eq!((before + after, left_out + rows.len() as u64), (left_out, 9), "{window}");
        assert!(rows.is_sorted_by_key(|row| row[5].as_u64()), "{window}");
        (rows, before, after)
    };
    let (all, ..) = part("").await;
    let (last, before, after) = part("limit=2").await;
    assert_eq!((&last[..], before, after), (&all[7..], 7, 0));
    let (first, before, after) = part("from=0&limit=2").await;
    assert_eq!((&first[..], before, after), (&all[..2], 0, 7));
    let (end, start) = (all[8][5].as_u64().unwrap(), all[0][5].as_u64().unwrap());
    let (earlier, _, after) = part(&format!("to={end}")).await;
    assert!(after > 0 && earlier.iter().all(|row| row[5].as_u64() < Some(end)), "{earlier:?}");
    let (none, before, after) = part(&format!("to={start}")).await;
    assert_eq!((none.len(), before, after), (0, 0, 9));
    for window in ["limit=0", "limit=20001", "from=x", "from=2&to=1"] {
        let found = caller.get(&format!("/v1/runs/{run}/timeline?{window}")).await;
        assert_eq!(found.status, 400, "{window}");
    }
}

async fn flaky_cases_are_listed_and_set_apart(engine: Engine) {
    let (team, caller, service) = serving(engine).await;
    for id in ["calm", "shaky"] {
        add(&caller, &service, id, 1, json!({"owner": "Ann"})).await;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut client = team.client().await;
    for (id, letters) in [("calm", "PPPPPP"), ("shaky", "PFPFPF")] {
        let mut stats = Stats::default();
        for letter in letters.chars() {
            let verdict = if letter == 'P' { Verdict::Passed } else { Verdict::Failed };
            stats.add(&Ended {
                verdict,
                run: "r",
                at: now,
                duration_ms: 1,
                revision: 1,
                fingerprint: "",
            });
        }
        let value = serde_json::to_vec(&stats).unwrap();
        client.put(keys::stats(id, ""), value, None).await.unwrap();
    }
    let listed = async || {
        let found = caller.get("/v1/flaky").await.body["items"].as_array().unwrap().clone();
        let show = |case: &Value| {
            format!("{} {}", case["case"].as_str().unwrap(), case["state"].as_str().unwrap())
        };
        found.iter().map(show).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, ["shaky enabled"]);
    let one = caller.get("/v1/flaky").await.body["items"][0].clone();
    assert_eq!(
        (&one["is_flaky"], &one["owner"], &one["environment"]),
        (&json!(true), &json!("Ann"), &json!(""))
    );
    let history = caller.get("/v1/testcases/shaky/history").await.body;
    assert_eq!(history["scores"]["-"]["is_flaky"], true, "{history}");

    // Muted from the version that was seen, once.
    let mute = json!({
        "state": "muted", "state_reason": "it shakes", "state_until": "2099-01-01T00:00:00Z",
        "version": one["version"],
    });
    assert_eq!(caller.call("PATCH", "/v1/testcases/shaky", mute.clone()).await.status, 200);
    let late = caller.call("PATCH", "/v1/testcases/shaky", mute).await;
    assert_eq!(late.status, 409, "{}", late.body);
    let skip = json!({
        "state": "skipped", "state_reason": "no printer", "state_until": "2001-01-01T00:00:00Z",
    });
    assert_eq!(caller.call("PATCH", "/v1/testcases/calm", skip).await.status, 200);
    assert_eq!(listed().await, ["shaky muted", "calm skipped"]);
    let found = caller.get("/v1/flaky?limit=1").await.body;
    assert_eq!(
        (&found["items"][0]["reason"], &found["items"][0]["until"]),
        (&json!("it shakes"), &json!("2099-01-01T00:00:00Z"))
    );
    let next = format!("/v1/flaky?limit=1&next={}", found["next"].as_str().unwrap());
    let found = caller.get(&next).await.body;
    assert_eq!((&found["items"][0]["is_expired"], &found["next"]), (&json!(true), &Value::Null));
    for id in ["calm", "shaky"] {
        let enable = json!({"state": "enabled", "state_reason": null, "state_until": null});
        assert_eq!(caller.call("PATCH", &format!("/v1/testcases/{id}"), enable).await.status, 200);
    }
    assert_eq!(listed().await, ["shaky enabled"]);
}

async fn nobody_sets_a_case_apart_without_a_reason(engine: Engine) {
    let (team, caller, service) = serving(engine).await;
    add(&caller, &service, "calm", 1, json!({})).await;
    let path = "/v1/testcases/calm";
    let whole = caller.get(path).await.body;
    let with = |more: Value| {
        let mut case = whole.clone();
        case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        case
    };
    let mute = json!({"state": "muted"});
    let mut new = with(json!({"state": "skipped", "state_reason": ""}));
    new["id"] = json!("new");
    for (method, path, body) in [
        ("PATCH", path, mute.clone()),
        ("PATCH", path, json!({"state": "skipped", "state_reason": " \t"})),
        ("PUT", path, with(mute.clone())),
        ("POST", "/v1/testcases", new),
    ] {
        let refused = caller.call(method, path, body.clone()).await;
        assert_eq!(refused.status, 422, "{method} {body}: {}", refused.body);
        assert!(refused.message().contains("say why in state_reason"), "{}", refused.body);
    }
    let (code, _, said) = team.says(&["flaky", "mute", "calm", "--reason", " "]).await;
    assert_eq!(code, 2, "{said}");
    // One that somebody has muted by hand may be changed otherwise, and muted for a reason.
    let mut muted = with(mute);
    muted.as_object_mut().unwrap().remove("version");
    let file = crate::commands::write(&team, "calm.json", &muted.to_string());
    let (code, _, said) = team.says(&["case", "put", &file]).await;
    assert!(code == 2 && said.contains("say why in state_reason"), "{said}");
    team.client().await.put("/testcases/calm", muted.to_string(), None).await.unwrap();
    assert_eq!(team.says(&["case", "put", &file]).await.0, 0);
    let given = |more: Value| caller.call("PATCH", path, more);
    assert_eq!(given(json!({"owner": "Ann"})).await.status, 200);
    assert_eq!(given(json!({"state": "skipped"})).await.status, 422);
    assert_eq!(given(json!({"state": "skipped", "state_reason": "it leaks"})).await.status, 200);
    assert_eq!(given(json!({"state_reason": null})).await.status, 422);
    // Enabled again, it takes nothing of that with it to the next time.
    assert_eq!(given(json!({"state": "enabled"})).await.status, 200);
    assert_eq!(given(json!({"state": "muted"})).await.status, 422);
    let until = json!({"state": "muted", "state_reason": "x", "state_until": "tomorrow"});
    assert_eq!(given(until).await.status, 400);
}

async fn tags_are_told_with_who_waits_and_environments_with_their_checks(engine: Engine) {
    let (mut team, caller, service) = serving(engine).await;
    for (id, tag) in [("one", "busy"), ("two", "busy"), ("three", "calm")] {
        add(&caller, &service, id, 20_000, json!({"mutual_tag": tag})).await;
    }
    let spec =
        json!({"cases": [{"case": "one"}, {"case": "two"}, {"case": "three"}], "repeats": 2});
    team.start_worker("w1", 4, &[]).await;
    let run = submit(&caller, spec).await;
    let tags = eventually("holders and waiters", async || {
        let tags = caller.get("/v1/tags").await.body["items"].clone();
        let is_there = (&tags[0]["waiting_tasks"], &tags[1]["waiting_tasks"])
            == (&json!(3), &json!(1))
            && !tags[0]["holders"][0]["since_ms"].is_null();
        if is_there { Ok(tags) } else { Err(tags.to_string()) }
    })
    .await;
    // Most tasks wait for the first.
    assert_eq!((&tags[0]["tag"], &tags[1]["tag"]), (&json!("busy"), &json!("calm")), "{tags}");
    assert_eq!((&tags[0]["waiting_lanes"], &tags[1]["waiting_tasks"]), (&json!(2), &json!(1)));
    let holder = &tags[0]["holders"][0];
    assert!(["one", "two"].contains(&holder["case"].as_str().unwrap()), "{tags}");
    let spec = caller.get(&format!("/v1/runs/{run}")).await.body["spec"].clone();
    assert_eq!(tags[0]["waits_since"], spec["submitted"]);
    assert!(holder["since_ms"].as_u64() >= spec["submitted"].as_u64(), "{tags}");
    // Two run; the rest is with nobody, since a tag is held by one.
    eventually("what runs", async || {
        let bound = caller.get(&format!("/v1/runs/{run}/bound")).await.body;
        let is_so = (&bound["running"], &bound["assigned"]) == (&json!(2), &json!(0));
        if is_so { Ok(()) } else { Err(bound.to_string()) }
    })
    .await;
    assert_eq!(caller.call("POST", &format!("/v1/runs/{run}/cancel"), json!({})).await.status, 202);
    team.ended(&run).await;

    let check = json!({"url": service.url("lab", 1), "every": 3_600});
    for lab in [json!({"id": "lab", "check": check}), json!({"id": "plain"})] {
        assert_eq!(caller.call("POST", "/v1/environments", lab).await.status, 201);
    }
    eventually("a check", async || {
        let found = caller.get("/v1/environments?checks=true").await.body["items"].clone();
        let times = ["checked", "next"].map(|name| found[0]["checked"][name].as_u64());
        match times {
            [Some(checked), Some(next)] if next == checked + 3_600_000 => Ok(()),
            _ => Err(found.to_string()),
        }
    })
    .await;
    let plain = caller.get("/v1/environments").await.body["items"].clone();
    assert_eq!((&plain[0]["checked"], &plain[1]["id"]), (&Value::Null, &json!("plain")));
    let version = |body: &Value| format!("\"{}\"", body["version"]);
    let stale = version(&plain[1]);
    let close = json!({"health": "maintenance", "health_reason": "new disks", "version": plain[1]["version"]});
    let closed = caller.call("PATCH", "/v1/environments/plain", close).await;
    assert_eq!(
        (&closed.body["health"], &closed.body["health_reason"]),
        (&json!("maintenance"), &json!("new disks"))
    );
    let gone = caller.raw("DELETE", "/v1/environments/plain", &[("if-match", &stale)], "").await;
    assert_eq!(gone.status, 409, "{}", gone.body);
    let seen = version(&closed.body);
    let gone = caller.raw("DELETE", "/v1/environments/plain", &[("if-match", &seen)], "").await;
    assert_eq!((gone.status, &gone.body["isDelete"]), (200, &json!(true)));
}

async fn a_muted_case_that_has_recovered_counts_again(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 1, &["--allow-command"]).await;
    let broken = team.file("broken");
    let script = format!("[ {{{{place}}}} = lab ] || [ ! -e {broken} ]");
    let place = |id: &str| json!({"id": id, "config": {"place": id}});
    let plan = |repeats: u32, places: &[&str]| {
        json!({
            "cases": [{"id": "shaky", "kind": "command", "command": ["sh", "-c", script]}],
            "environments": [place("lab"), place("field")],
            "run": {"cases": [{"case": "shaky"}], "repeats": repeats, "environments": places},
        })
    };
    let state = async |team: &Team| {
        let case = team.json(&["case", "get", "shaky"]).await;
        case["state"].as_str().unwrap_or("enabled").to_owned()
    };
    std::fs::write(&broken, "").unwrap();
    let run = team.submit(&plan(1, &["lab", "field"])).await;
    assert_eq!(team.ended(&run).await.state, "failed");
    let mute = ["flaky", "mute", "shaky", "--reason", "the field is closed"];
    assert_eq!(team.says(&mute).await.0, 0);
    for (repeats, places) in [(30, &["lab"][..]), (1, &["field"]), (1, &["lab"])] {
        let run = team.submit(&plan(repeats, places)).await;
        assert_eq!(team.ended(&run).await.state, "passed");
    }
    assert_eq!(state(&team).await, "muted", "it fails in the field");
    std::fs::remove_file(&broken).unwrap();
    let run = team.submit(&plan(9, &["field"])).await;
    team.ended(&run).await;
    assert_eq!(state(&team).await, "muted", "nine have passed");
    // Another leader counts on.
    team.schedulers[0].kill();
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let run = team.submit(&plan(1, &["field"])).await;
    team.ended(&run).await;
    eventually("the case to count again", async || match &*state(&team).await {
        "enabled" => Ok(()),
        other => Err(other.to_owned()),
    })
    .await;
    // What is muted anew has to recover anew.
    assert_eq!(team.says(&mute).await.0, 0);
    let run = team.submit(&plan(9, &["lab", "field"])).await;
    team.ended(&run).await;
    assert_eq!(state(&team).await, "muted");
    std::fs::write(&broken, "").unwrap();
    assert_eq!(team.says(&["flaky", "unmute", "shaky"]).await.0, 0);
    let run = team.submit(&plan(1, &["field"])).await;
    assert_eq!(team.ended(&run).await.state, "failed");
}
