//! One member killed at each of its first syncs to disk, before the sync is done.

use crate::checker::{self, Outcome};
use crate::cluster::{Cluster, Engine, Setup, product, skipped};
use crate::on_each_engine;
use crate::workload::Workload;
use std::process::Command;

on_each_engine![killed_at_each_sync_it_has_lost_nothing];

const SYNCS: usize = 40;
const CLIENTS: u64 = 4;

async fn killed_at_each_sync_it_has_lost_nothing(engine: Engine) {
    if Command::new("strace").arg("-V").output().is_err() {
        return skipped("strace is missing");
    }
    let (mut answered, mut unknown) = (0, 0);
    for sync in 1..=SYNCS {
        // Snapshots too are written within these syncs.
        let setup =
            Setup::new(engine, 1).flag("--snapshot-count=10").flag("--snapshot-catchup-entries=5");
        let mut cluster = Cluster::prepare(&setup).await;
        if !product().ours {
            // An etcd killed in its first boot never serves from that folder again; ours must.
            cluster.start_all().await.unwrap();
            cluster.kill(0);
        }
        // With -D the member itself is the child, and the tracer watches from outside.
        let trace = format!("inject=fdatasync:signal=KILL:when={sync}");
        let options =
            ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"];
        let mut wrapper: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        wrapper.push(trace);
        cluster.members[0].wrap_command(wrapper);
        cluster.spawn(0);
        let workload = Workload::start(&cluster, CLIENTS);
        let exit = cluster.members[0].ended().await;
        assert_eq!(exit, crate::cluster::Exit::Signal(9), "at sync {sync}");

        cluster.members[0].wrap_command(vec![]);
        cluster.restart(0).await;
        workload.progress(20).await;
        let history = workload.finish(&cluster).await;
        answered += history.operations.iter().filter(|call| call.answer().is_some()).count();
        unknown +=
            history.operations.iter().filter(|call| call.outcome == Outcome::Unknown).count();
        let violations = checker::check(&history);
        assert!(violations.is_empty(), "at sync {sync}: {violations:#?}");
    }
    eprintln!("{answered} calls answered, {unknown} with unknown outcome");
}
