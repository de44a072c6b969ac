//! What is kept of runs: histories, latest results, reports, segments in blocks, and for how long.

use crate::cluster::{Engine, Setup, eventually};
use crate::service::Service;
use crate::team::Team;
use etcd_client::GetOptions;
use quoin::scheduler::keys;
use quoin::scheduler::record::{History, Latest, Report};
use serde_json::{Value, json};

async fn read<T: serde::de::DeserializeOwned>(team: &Team, key: &str) -> T {
    let found = team.client().await.get(key, None).await.unwrap();
    let kv = found.kvs().first().unwrap_or_else(|| panic!("there is no {key}"));
    serde_json::from_slice(kv.value()).unwrap()
}

async fn count(team: &Team, prefix: &str) -> i64 {
    let options = GetOptions::new().with_prefix().with_count_only();
    team.client().await.get(prefix, Some(options)).await.unwrap().count()
}

async fn is_empty(team: &Team, prefixes: &[&str]) {
    eventually("keys to go", async || {
        for prefix in prefixes {
            let left = count(team, prefix).await;
            if left > 0 {
                return Err(format!("{left} of {prefix}"));
            }
        }
        Ok(())
    })
    .await;
}

fn case(service: &Service, id: &str, more: Value) -> Value {
    let mut case = json!({"id": id, "url": service.url(id, 20), "output": "ok"});
    case.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    case
}

/// A person passes the manual case, once it waits for that.
async fn look(team: &Team, run: &str) {
    let words = ["run", "verdict", run, "look", "passed", "--message", "it is well", "--by", "Ann"];
    eventually("a manual task", async || match team.says(&words).await {
        (0, ..) => Ok(()),
        (_, _, said) => Err(said),
    })
    .await;
    let (code, _, said) = team.says(&words).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("does not wait for a verdict"), "{said}");
}

pub async fn what_is_kept_of_runs(engine: Engine) {
    let mut team = Team::new(Setup::new(engine, 1).fast_elections().start().await);
    team.start_scheduler_with(&[
        "--scheduler-listen-url",
        "http://127.0.0.1:0",
        "--keep-runs",
        "1",
    ])
    .says("leading the scheduler")
    .await
    .unwrap();
    team.start_worker("w1", 4, &[]).await;
    let service = Service::start().await;
    let cases = [
        case(&service, "good", json!({"mutual_tag": "one"})),
        case(&service, "bad", json!({"retries": {"test": 1, "backoff_ms": 1}})),
        json!({"id": "look", "kind": "manual", "name": "look at it"}),
    ];
    let selected = json!([{"case": "good", "repeats": 5}, {"case": "bad"}, {"case": "look"}]);
    let plan = json!({"cases": cases, "run": {"cases": selected, "name": "nightly"}});
    let first = team.submit(&plan).await;
    look(&team, &first).await;
    let status = team.ended(&first).await;
    assert_eq!((status.state.as_str(), status.totals.ended()), ("failed", 7), "{status:?}");

    let good: History = read(&team, &keys::stats("good", "")).await;
    assert_eq!((good.stats.n, good.stats.pass, good.stats.strip().as_str()), (5, 5, "PPPPP"));
    assert!(good.stats.estimate().unwrap() >= 20);
    let bad: History = read(&team, &keys::stats("bad", "")).await;
    assert_eq!((bad.stats.n, bad.stats.fail), (1, 1), "a case with retries has run once");
    let latest: Latest = read(&team, "/results/good/-").await;
    assert_eq!((latest.status.as_str(), latest.run.as_str()), ("passed", first.as_str()));
    let latest: Latest = read(&team, "/results/look/-").await;
    assert_eq!((latest.status.as_str(), latest.worker.as_str()), ("passed", keys::PEOPLE));

    let report: Report = read(&team, &keys::report(&first)).await;
    assert_eq!((report.totals, report.attempts), (status.totals, 8));
    assert_eq!((report.name.as_str(), report.failures.len()), ("nightly", 1));
    let failure = &report.failures[0];
    assert_eq!((failure.case.as_str(), failure.attempt, failure.worker.as_str()), ("bad", 2, "w1"));
    assert!(report.times.bound_ms >= 100, "five of 20 ms under one tag: {:?}", report.times);
    assert!(report.times.bound_ms <= report.times.makespan_ms);

    is_empty(&team, &[&keys::segments(&first), keys::ROLLS]).await;
    team.audit(&first, 7).await;

    let second = team.submit(&plan).await;
    look(&team, &second).await;
    team.ended(&second).await;
    let good: History = read(&team, &keys::stats("good", "")).await;
    assert_eq!(good.stats.n, 10);
    is_empty(&team, &[&keys::run(&first), &keys::report(&first), &keys::blocks(&first)]).await;
    assert_eq!(count(&team, keys::ENDED).await, 1);
    assert_eq!(count(&team, &keys::report(&second)).await, 1);
}
