//! Of three members one is down, or answers no longer: the store has its quorum, so nothing may stand.

use crate::cluster::{Cluster, Engine, Exit};
use crate::on_each_engine;
use crate::team::Team;
use serde_json::json;

on_each_engine![
    a_member_that_is_down_loses_and_stops_nothing,
    a_member_that_hangs_stops_nothing,
    the_death_of_the_stores_leader_stops_nothing,
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
        let mut team = Team::new(Cluster::start(engine, 3).await);
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
