//! Members killed, paused and cut off under concurrent clients; then the history is checked.

use crate::checker::{self, History};
use crate::cluster::{Engine, Setup};
use crate::on_each_engine;
use crate::workload::Workload;

on_each_engine![thirty_kills_lose_nothing, pauses_and_partitions_show_nothing_stale,];

const MEMBERS: usize = 3;
const CLIENTS: u64 = 6;
/// A round with less load than this would prove little.
const CALLS_PER_ROUND: usize = 60;

/// Who is killed in a round.
enum Victims {
    Leader,
    Follower,
    All,
}

async fn thirty_kills_lose_nothing(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS)
        .fast_elections()
        .flag("--snapshot-count=200")
        .flag("--snapshot-catchup-entries=50");
    let mut cluster = setup.start().await;
    let workload = Workload::start(&cluster, CLIENTS);
    for round in 0..30 {
        workload.progress(CALLS_PER_ROUND).await;
        let victims = [Victims::Leader, Victims::Follower, Victims::All];
        match &victims[round % victims.len()] {
            Victims::All => {
                (0..MEMBERS).for_each(|member| cluster.kill(member));
                cluster.start_all().await.unwrap();
            }
            one => {
                let leader = cluster.leader().await;
                let offset = if matches!(one, Victims::Leader) { 0 } else { 1 + round % 2 };
                let victim = (leader + offset) % MEMBERS;
                cluster.kill(victim);
                // Two of three go on without the third.
                workload.progress(CALLS_PER_ROUND / 4).await;
                cluster.restart(victim).await;
            }
        }
    }
    workload.progress(CALLS_PER_ROUND).await;
    let history = workload.finish(&cluster).await;
    explain(&history, 30 * CALLS_PER_ROUND);
}

async fn pauses_and_partitions_show_nothing_stale(engine: Engine) {
    let setup = Setup::new(engine, MEMBERS)
        .fast_elections()
        .flag("--snapshot-count=200")
        .flag("--snapshot-catchup-entries=50")
        .proxied();
    let mut cluster = setup.start().await;
    let workload = Workload::start(&cluster, CLIENTS);
    for round in 0..10 {
        workload.progress(CALLS_PER_ROUND).await;
        let leader = cluster.leader().await;
        let [one, other] = [(leader + 1) % MEMBERS, (leader + 2) % MEMBERS];
        let mut paused = None;
        match round % 5 {
            0 => {
                cluster.members[leader].pause();
                paused = Some(leader);
            }
            1 => cluster.links().isolate(leader),
            2 => [one, other].iter().for_each(|&from| cluster.links().cut_one_way(from, leader)),
            3 => cluster.links().cut(one, other),
            _ => [one, other].iter().for_each(|&to| cluster.links().cut_one_way(leader, to)),
        }
        workload.progress(CALLS_PER_ROUND / 2).await;
        cluster.links().heal();
        if let Some(member) = paused {
            cluster.members[member].resume();
        }
    }
    workload.progress(CALLS_PER_ROUND).await;
    let history = workload.finish(&cluster).await;
    explain(&history, 10 * CALLS_PER_ROUND);
}

/// The checker's verdict, with the first few violations if there are any.
fn explain(history: &History, calls_min: usize) {
    let answered = history.operations.iter().filter(|call| call.answer().is_some()).count();
    let unknown = history.operations.iter().filter(|call| is_unknown(call)).count();
    eprintln!(
        "{} calls, {answered} answered, {unknown} unknown, {} commits, {} watches",
        history.operations.len(),
        history.commits.len(),
        history.watches.len()
    );
    assert!(answered >= calls_min, "{answered} answers are too little load");
    let violations = checker::check(history);
    let shown: Vec<_> = violations.iter().take(5).collect();
    assert!(violations.is_empty(), "{} violations: {shown:#?}", violations.len());
}

fn is_unknown(call: &checker::Operation) -> bool {
    call.outcome == checker::Outcome::Unknown
}
