//! `quoin bench chaos`: workers of its own are killed, nothing is lost, and no process is left.

use crate::cluster::{Cluster, Engine, Exit, eventually};
use crate::on_each_engine;
use crate::team::Team;
use serde_json::Value;

on_each_engine![
    nothing_is_lost_while_workers_are_killed,
    a_chaos_that_is_interrupted_leaves_nothing_behind,
    a_chaos_without_a_store_leaves_nothing_behind,
];

/// Processes of this program that were started as workers on this store.
fn workers_on(endpoint: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    processes.filter(|line| line.contains(" worker ") && line.contains(endpoint)).collect()
}

async fn started(engine: Engine) -> (Team, String) {
    let mut team = Team::new(Cluster::start(engine, 1).await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    let endpoint = team.cluster.endpoints().join(",");
    (team, endpoint)
}

async fn nothing_is_lost_while_workers_are_killed(engine: Engine) {
    let (team, endpoint) = started(engine).await;
    let words = ["bench", "chaos", "--json", "--repeats", "80", "--kill-every", "1s", "--ttl", "2"];
    let (code, out, said) = team.says(&words).await;
    let found: Value = serde_json::from_str(&out).unwrap_or_default();
    assert_eq!((code, &found["faults"]), (0, &Value::Array(Vec::new())), "{out} {said}");
    let number = |name: &str| found[name].as_u64().unwrap();
    assert_eq!(["tasks", "lost", "doubled"].map(number), [320, 0, 0]);
    assert!(number("killed") > 0 && found["checked_history"] == true, "{out}");
    team.audit(found["run"].as_str().unwrap(), 320).await;
    assert_eq!(workers_on(&endpoint), [""; 0]);
    // Too short for a kill it proves nothing.
    let (code, out, _) = team.says(&["bench", "chaos", "--repeats", "1"]).await;
    assert!(code == 1 && out.contains("no worker was killed"), "{out}");
    assert!(out.contains("TOO SHORT") && !out.contains("FAULTS"), "{out}");
    assert!(out.contains("0 lost, 0 doubled, 0 retried"), "{out}");
}

async fn a_chaos_that_is_interrupted_leaves_nothing_behind(engine: Engine) {
    let (team, endpoint) = started(engine).await;
    let mut bench = team.process("chaos.log", &["bench", "chaos", "--kill-every", "500ms"]);
    eventually("its workers", async || match workers_on(&endpoint).len() {
        3.. => Ok(()),
        found => Err(format!("{found}")),
    })
    .await;
    eventually("its run", async || {
        match team.json(&["run", "ls"]).await["runs"][0]["state"].as_str() {
            Some("running") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    bench.interrupt();
    assert_eq!(bench.end().await, Exit::Code(1));
    assert!(bench.output().contains("interrupted: the run is canceled"), "{}", bench.output());
    assert_eq!(workers_on(&endpoint), [""; 0]);
    eventually("the end of its run", async || {
        match team.json(&["run", "ls"]).await["runs"][0]["state"].as_str() {
            Some("canceled") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn a_chaos_without_a_store_leaves_nothing_behind(engine: Engine) {
    let (mut team, endpoint) = started(engine).await;
    let words = ["bench", "chaos", "--timeout", "3s", "--case-time", "10s"];
    let mut bench = team.process("chaos.log", &words);
    eventually("its workers", async || match workers_on(&endpoint).len() {
        3.. => Ok(()),
        found => Err(format!("{found}")),
    })
    .await;
    team.cluster.kill(0);
    assert_eq!(bench.end().await, Exit::Code(1));
    assert_eq!(workers_on(&endpoint), [""; 0]);
}
