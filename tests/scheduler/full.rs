//! A store that becomes full: no result is lost by it.

use crate::cluster::{Engine, Exit, Setup, eventually};
use crate::on_each_engine;
use crate::service::{Service, case};
use crate::team::Team;
use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, DeleteOptions};
use quoin::scheduler::model::Status;
use serde_json::{Value, json};

on_each_engine![runs_are_refused_before_results_are, results_wait_until_a_full_store_has_room,];

/// Small, but no run of these tests needs so much.
const QUOTA: i64 = 32 << 20;
const VALUE: usize = 512 << 10;
const TASKS: u32 = 120;

async fn team(engine: Engine) -> (Team, Service) {
    let setup = Setup::new(engine, 1).flag(format!("--quota-backend-bytes={QUOTA}"));
    let mut team = Team::new(setup.start().await);
    team.start_scheduler().says("leading the scheduler").await.unwrap();
    team.start_worker("w1", 2, &[]).await;
    (team, Service::start().await)
}

fn plan(service: &Service, repeats: u32) -> Value {
    let case = case(service, "slow", 100, json!({}));
    json!({"cases": [case], "run": {"cases": [{"case": "slow"}], "repeats": repeats}})
}

async fn used(client: &mut Client) -> i64 {
    let status = client.status().await.unwrap();
    assert_eq!(status.db_size_quota(), QUOTA);
    // The crate's name for `db_size_in_use`.
    status.raft_used_db_size()
}

/// Writes until so many bytes of a hundred are in use.
async fn fill(client: &mut Client, percent: i64) {
    let (value, wanted) = ("x".repeat(VALUE), QUOTA / 100 * percent);
    let before = used(client).await;
    let missing = u64::try_from(wanted - before).unwrap_or(0).div_ceil(VALUE as u64);
    for number in 0..missing {
        client.put(format!("filler/{percent}/{number}"), value.as_str(), None).await.unwrap();
    }
    // etcd tells of what it has with its next batch.
    eventually("a fuller store", async || match used(&mut client.clone()).await {
        used if used >= wanted => Ok(()),
        used => Err(format!("{used} of {wanted} bytes are in use")),
    })
    .await;
}

/// Writes until the store refuses.
async fn fill_up(client: &mut Client) {
    let value = "x".repeat(VALUE);
    let mut count = 0;
    while client.put(format!("filler/last/{count}"), value.as_str(), None).await.is_ok() {
        count += 1;
        assert!(count * (VALUE as i64) < QUOTA, "it takes more than its quota");
    }
}

/// Gives room again, as an operator does.
async fn empty(client: &mut Client) {
    let everything = DeleteOptions::new().with_prefix();
    let deleted = client.delete("filler/", Some(everything)).await.unwrap();
    let revision = deleted.header().unwrap().revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.unwrap();
    client.defragment().await.unwrap();
    let raised = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    for alarm in raised.alarms() {
        let mut options = AlarmOptions::new();
        options.with_member(alarm.member_id());
        client.alarm(AlarmAction::Deactivate, alarm.alarm(), Some(options)).await.unwrap();
    }
}

async fn has_passed(team: &Team, run: &str, tasks: u32) {
    let status = team.ended(run).await;
    assert_eq!(
        (status.state.as_str(), status.totals.get(Status::Passed)),
        ("passed", tasks.into())
    );
    let (code, _, said) = team.says(&["run", "verify", run]).await;
    assert_eq!((code, said.as_str()), (0, ""));
}

async fn runs_are_refused_before_results_are(engine: Engine) {
    let (team, service) = team(engine).await;
    let mut client = team.client().await;
    fill(&mut client, 85).await;
    let run = team.submit(&plan(&service, TASKS)).await;
    team.has_results(&run, 1).await;
    fill(&mut client, 95).await;
    let (code, said) = team.submit_refused(&json!({"run": {"cases": [{"case": "slow"}]}})).await;
    assert!(
        said.starts_with("the store is nearly full, ") && said.contains(" of 33554432 bytes"),
        "{said}"
    );
    assert_eq!(code, Exit::Code(3));
    assert!(team.results(&run).await.len() < TASKS as usize, "the run is not over");
    has_passed(&team, &run, TASKS).await;
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    assert!(alarms.alarms().is_empty(), "the last room is for results");
    empty(&mut client).await;
    let run = team.submit(&plan(&service, 1)).await;
    has_passed(&team, &run, 1).await;
}

async fn results_wait_until_a_full_store_has_room(engine: Engine) {
    let (team, service) = team(engine).await;
    let mut client = team.client().await;
    fill(&mut client, 85).await;
    let run = team.submit(&plan(&service, TASKS)).await;
    team.has_results(&run, 1).await;
    fill_up(&mut client).await;
    assert!(team.results(&run).await.len() < TASKS as usize, "the run is not over");
    let called = service.calls().len();
    eventually("tasks whose results find no room", async || {
        let ended = service.calls().iter().filter(|call| call.end.is_some()).count();
        if ended >= called { Ok(()) } else { Err(format!("{ended} of {called}")) }
    })
    .await;
    eventually("the reason", async || {
        let (_, why, _) = team.says(&["run", "why", &run]).await;
        if why.contains("the store is full") { Ok(()) } else { Err(why) }
    })
    .await;
    empty(&mut client).await;
    has_passed(&team, &run, TASKS).await;
    let mut tasks: Vec<String> = service.calls().into_iter().map(|call| call.task).collect();
    tasks.sort_unstable();
    tasks.dedup();
    assert_eq!(tasks.len(), TASKS as usize);
}
