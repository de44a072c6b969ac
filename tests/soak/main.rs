//! The test scheduler while everything dies in turn: schedulers, workers and members.
//!
//! With `QUOIN_TEST_BINARY` the store is another server, for example etcd.

#![allow(unreachable_pub, dead_code, reason = "parts of what other tests use")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../scheduler/service.rs"]
mod service;
#[path = "../scheduler/team.rs"]
mod team;

use cluster::{Engine, Setup, eventually, product};
use etcd_client::GetOptions;
use quoin::scheduler::coordinator::RunStatus;
use quoin::scheduler::keys;
use quoin::scheduler::model::Status;
use serde_json::{Value, json};
use service::{Service, case};
use std::time::Duration;
use team::Team;
use tokio::time::{Instant, MissedTickBehavior, interval};

on_each_engine![all_die_in_turn_and_nothing_is_lost];

const LEADER_EVERY: Duration = Duration::from_secs(5);
const WORKER_EVERY: Duration = Duration::from_secs(3);
const MEMBER_EVERY: Duration = Duration::from_secs(20);
/// Under so many deaths, on a machine that does other things as well.
const LIMIT: Duration = Duration::from_secs(180);
const TASKS: usize = 20_000;

/// What was killed, and what came in its place.
struct Reaper {
    team: Team,
    started: usize,
    leaders: usize,
    workers: usize,
    members: usize,
}

impl Reaper {
    async fn start_worker(&mut self) {
        self.started += 1;
        // Not the name of one that died: that is held until its lease ends.
        self.team.start_worker(&format!("w{}", self.started), 8, &[]).await;
    }

    async fn kill_leader(&mut self) {
        let mut client = self.team.cluster.client().await;
        let leader = eventually("a leader", async || {
            let options = GetOptions::new().with_prefix();
            let found =
                client.get(keys::LEADERS, Some(options)).await.map_err(|e| e.to_string())?;
            let first = found.kvs().iter().min_by_key(|kv| kv.create_revision());
            let first = first.ok_or("nobody stands for election")?;
            let value: Value = serde_json::from_slice(first.value()).unwrap();
            Ok(value["id"].as_str().unwrap_or_default().to_owned())
        })
        .await;
        let place = (0..self.team.schedulers.len()).find(|place| leader == format!("s{place}"));
        // It may be one that died a moment ago.
        if let Some(place) =
            place.filter(|place| self.team.schedulers[*place].has_ended().is_none())
        {
            self.team.schedulers[place].kill();
            self.leaders += 1;
            self.team.start_scheduler();
        }
    }

    async fn kill_worker(&mut self) {
        let place = self.workers % self.team.workers.len();
        let name = self.team.workers.keys().nth(place).unwrap().clone();
        self.team.workers.remove(&name).unwrap().kill();
        self.workers += 1;
        self.start_worker().await;
    }

    async fn kill_member(&mut self) {
        let index = self.members % self.team.cluster.members.len();
        self.members += 1;
        self.team.cluster.kill(index);
        self.team.cluster.restart(index).await;
    }

    /// The end of a run, killing until then.
    async fn reap(&mut self, run: &str) -> RunStatus {
        let begun = Instant::now();
        let mut client = self.team.cluster.client().await;
        let mut leader = interval(LEADER_EVERY);
        let mut worker = interval(WORKER_EVERY);
        let mut member = interval(MEMBER_EVERY);
        let mut look = interval(Duration::from_millis(200));
        for timer in [&mut leader, &mut worker, &mut member, &mut look] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first is at once.
            timer.tick().await;
        }
        loop {
            tokio::select! {
                _ = leader.tick() => self.kill_leader().await,
                _ = worker.tick() => self.kill_worker().await,
                _ = member.tick() => self.kill_member().await,
                _ = look.tick() => {
                    // The member that is asked may be the one that was killed.
                    let Ok(found) = client.get(keys::status(run), None).await else { continue };
                    let status = found.kvs().first().map(|kv| {
                        serde_json::from_slice::<RunStatus>(kv.value()).unwrap()
                    });
                    match status {
                        Some(status) if status.ended.is_some() => return status,
                        status => {
                            if begun.elapsed() > LIMIT {
                                let why = self.team.says(&["run", "why", run]).await.1;
                                panic!("after {LIMIT:?}: {status:?}\n{why}");
                            }
                        }
                    }
                }
            }
        }
    }
}

/// 0 lost, 0 doubled, whatever dies.
async fn all_die_in_turn_and_nothing_is_lost(engine: Engine) {
    let mut team = Team::new(Setup::new(engine, 3).fast_elections().start().await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_scheduler();
    let service = Service::start().await;
    let mut reaper = Reaper { team, started: 0, leaders: 0, workers: 0, members: 0 };
    for _ in 0..3 {
        reaper.start_worker().await;
    }
    let run = reaper.team.submit(&load(&service)).await;
    let status = reaper.reap(&run).await;
    let Reaper { team, leaders, workers, members, .. } = reaper;
    let seen = format!("{leaders} leaders, {workers} workers, {members} members: {status:?}");
    assert!(leaders > 1 && workers > 2 && members > 0, "{seen}");
    let results = team.audit(&run, TASKS).await;
    let lost = results.values().flatten().filter(|(_, status, _)| *status == Status::Lost);
    assert!(lost.count() > 0, "{seen}");
    // What was lost with several workers is given up; the rest passes.
    let given_up = status.totals.get(Status::Error) + status.totals.get(Status::Lost);
    let passed = status.totals.get(Status::Passed);
    assert_eq!(passed + given_up, TASKS as u64, "{seen}");
    assert!(given_up <= 10, "{seen}");
    let (code, said, error) = team.says(&["run", "verify", &run]).await;
    assert_eq!(code, 0, "{said}{error}");
    hold_apart(&service);
    if !product().ours {
        return;
    }
    let all: Vec<usize> = (0..3).collect();
    team.cluster.same_revision(&all).await;
}

fn load(service: &Service) -> Value {
    let same_repeat = json!({"case": "other", "scope": "repeat", "policy": "ended"});
    let tag = json!({"tag": "printer", "chain": true});
    // Whoever holds the tag dies often, and nobody has it then until he has certainly stopped.
    let cases = [
        (9_000, case(service, "plain", 40, json!({}))),
        (5_000, case(service, "other", 40, json!({}))),
        (5_000, case(service, "after", 20, json!({"case_pre": same_repeat}))),
        (1_000, case(service, "tagged", 5, json!({"mutual_tag": tag}))),
    ];
    let selected =
        cases.iter().map(|(repeats, case)| json!({"case": case["id"], "repeats": repeats}));
    let selected: Vec<Value> = selected.collect();
    let cases: Vec<&Value> = cases.iter().map(|(_, case)| case).collect();
    json!({"cases": cases, "run": {"cases": selected}})
}

/// No two that held the tag were with the service at a time. A worker that was killed does not wait
/// for its answer, so that only answers count that somebody waited for.
fn hold_apart(service: &Service) {
    let calls = service.calls();
    let mut held: Vec<_> = calls.iter().filter(|call| call.case == "tagged").collect();
    held.sort_by_key(|call| call.start);
    for pair in held.windows(2) {
        if let Some(end) = pair[0].end {
            assert!(end <= pair[1].start, "{pair:?} hold one tag at a time");
        }
    }
}
