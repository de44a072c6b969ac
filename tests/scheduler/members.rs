//! Of three members one is down, or answers no longer: the store has its quorum, so nothing may stand.

use crate::cluster::{Cluster, Engine, Exit, eventually};
use crate::on_each_engine;
use crate::team::Team;
use serde_json::json;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

on_each_engine![
    a_member_that_is_down_loses_and_stops_nothing,
    a_member_that_hangs_stops_nothing,
    the_death_of_the_stores_leader_stops_nothing,
    an_address_where_no_member_answers_stops_nothing,
    a_store_without_quorum_is_told_of_in_time,
    a_worker_is_there_again_as_soon_as_the_store_is,
];

/// Five seconds of work for four slots.
const TASKS: usize = 100;

struct Scene {
    team: Team,
    run: String,
    /// The member that leads the store.
    leader: usize,
}

impl Scene {
    /// A run that has just begun.
    async fn start(engine: Engine, on_lost: &str) -> Scene {
        Self::start_with(Team::new(Cluster::start(engine, 3).await), on_lost).await
    }

    async fn start_with(mut team: Team, on_lost: &str) -> Scene {
        let leader = team.cluster.leader().await;
        team.start_scheduler().says("leading the scheduler").await.unwrap();
        // Longer than any election: nothing but a lost connection can take its tasks from it.
        team.start_worker("w1", 4, &["--allow-command", "--ttl", "30"]).await;
        let case = json!({
            "id": "slow", "kind": "command", "command": ["sleep", "0.2"], "on_lost": on_lost,
        });
        let run = json!({"cases": [{"case": "slow"}], "repeats": TASKS});
        let run = team.submit(&json!({"cases": [case], "run": run})).await;
        team.has_results(&run, 4).await;
        Scene { team, run, leader }
    }

    /// A member that is not asked by the test itself.
    fn other_than_leader(&self) -> usize {
        if self.leader == 1 { 2 } else { 1 }
    }

    /// Commands go to whichever member is there.
    async fn commands_work(&self) {
        for _ in 0..8 {
            let (code, _, said) = self.team.says(&["run", "show", &self.run]).await;
            assert_eq!(code, 0, "{said}");
        }
    }

    async fn passes(&self) {
        let ended = self.team.ended(&self.run).await;
        assert_eq!(ended.state, "passed");
        self.team.audit(&self.run, TASKS).await;
    }
}

async fn a_member_that_is_down_loses_and_stops_nothing(engine: Engine) {
    let mut scene = Scene::start(engine, "never").await;
    scene.team.cluster.kill(scene.other_than_leader());
    scene.commands_work().await;
    scene.passes().await;
    let worker = scene.team.workers["w1"].output();
    assert!(!worker.contains("lost its lease"), "{worker}");
    // Who comes meanwhile finds the others, too.
    scene.team.start_worker("w2", 1, &[]).await;
    scene.team.workers.get_mut("w2").unwrap().ask_to_stop();
    assert_eq!(scene.team.workers.get_mut("w2").unwrap().end().await, Exit::Code(0));
}

async fn a_member_that_hangs_stops_nothing(engine: Engine) {
    let mut scene = Scene::start(engine, "retry").await;
    let hangs = scene.other_than_leader();
    scene.team.cluster.members[hangs].pause();
    scene.commands_work().await;
    scene.passes().await;
    scene.team.cluster.members[hangs].resume();
}

async fn the_death_of_the_stores_leader_stops_nothing(engine: Engine) {
    let mut scene = Scene::start(engine, "never").await;
    // The test asks the first member: it must be another that dies.
    if scene.leader == 0 {
        let other = scene.team.cluster.raw(1).status().await.unwrap().header.unwrap().member_id;
        let mut client = scene.team.cluster.client_of(0).await;
        client.move_leader(other).await.unwrap();
        scene.leader = scene.team.cluster.leader().await;
    }
    assert_ne!(scene.leader, 0);
    scene.team.cluster.kill(scene.leader);
    scene.commands_work().await;
    scene.passes().await;
    let worker = scene.team.workers["w1"].output();
    assert!(!worker.contains("lost its lease"), "{worker}");
}

/// Where connections are taken and closed at once, as proxies do before a member that is down.
async fn closing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    format!("http://{address}")
}

async fn an_address_where_no_member_answers_stops_nothing(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 3).await);
    // The port for other members speaks HTTP, but is none for clients.
    let flags = team.cluster.members[0].flags.iter();
    let for_peers = flags.filter_map(|flag| flag.strip_prefix("--listen-peer-urls=")).next();
    team.others = vec![closing().await, for_peers.unwrap().to_owned()];
    let wrong = team.others.clone();
    let scene = Scene::start_with(team, "never").await;
    scene.commands_work().await;
    for _ in 0..4 {
        let run = json!({"cases": [{"case": "slow"}], "name": "one more"});
        scene.team.submit(&json!({ "run": run })).await;
    }
    scene.passes().await;
    let worker = scene.team.workers["w1"].output();
    assert!(!worker.contains("lost its lease"), "{worker}");
    // Each is complained of, and not without end.
    for address in wrong {
        let address = address.trim_start_matches("http://");
        let told = worker.lines().filter(|line| {
            line.contains("a member of the store is away") && line.contains(address)
        });
        assert_eq!(told.count(), 1, "{worker}");
    }
}

async fn a_store_without_quorum_is_told_of_in_time(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 3).await);
    team.cluster.kill(1);
    team.cluster.kill(2);
    let ls = ["run", "ls", "--command-timeout", "1s"];
    let said = timeout(Duration::from_secs(4), team.says(&ls)).await;
    let (code, _, said) = said.expect("it is told when it was asked for");
    assert_eq!(code, 3, "{said}");
    assert!(said.starts_with("Error: the store does not answer"), "{said}");
    // Nothing else was said: as long as any short command.
    let said = timeout(Duration::from_secs(10), team.says(&["run", "ls"])).await;
    assert_eq!(said.expect("it is told within five seconds").0, 3);
    team.others = vec!["%%%".into()];
    let (code, _, said) = team.says(&["run", "ls"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("%%%"), "{said}");
}

async fn a_worker_is_there_again_as_soon_as_the_store_is(engine: Engine) {
    let mut team = Team::new(Cluster::start(engine, 3).await);
    team.start_worker("w1", 1, &[]).await;
    team.cluster.kill(1);
    team.cluster.kill(2);
    let lost = async || {
        let output = team.workers["w1"].output();
        // If it was still beginning it says the other.
        let is_lost = ["lost its lease", "lost the store"].iter().any(|said| output.contains(said));
        is_lost.then_some(()).ok_or(output)
    };
    eventually("worker without a store", lost).await;
    for member in [1, 2] {
        team.cluster.spawn(member);
    }
    let output = eventually("second registration", async || {
        let output = team.workers["w1"].output();
        match output.matches("registered as a worker").count() {
            2 => Ok(output),
            _ => Err(output),
        }
    });
    let output = output.await;
    assert!(!output.contains("another worker of this name"), "{output}");
}
