//! A data folder on a small file system that runs full, and gets room again.

use crate::cluster::{Cluster, Engine, Exit, Folder, Setup, product, skipped, within};
use crate::on_each_engine;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

on_each_engine![a_full_disk_loses_nothing];

/// Removed when the disk is full.
const BALLAST: usize = 40 << 20;
const VALUE: usize = 100_000;

/// etcd reserves segments of 64 MB and more for its state; ours begin small.
fn size() -> usize {
    if product().ours { 96 << 20 } else { 320 << 20 }
}

/// A file system in a file, unmounted at drop.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where mounting is not allowed.
    fn new(folder: &Path) -> Option<Mounted> {
        let image = folder.join("disk.img");
        std::fs::File::create(&image).unwrap().set_len(size() as u64).unwrap();
        let point = folder.join("disk");
        std::fs::create_dir(&point).unwrap();
        let did = |program: &str, args: &[&str], path: &[&Path]| {
            let done = Command::new(program).args(args).args(path).output();
            done.is_ok_and(|output| output.status.success())
        };
        let ready = did("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&image])
            && did("mount", &["-o", "loop"], &[&image, &point]);
        ready.then_some(Mounted(point))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

async fn a_full_disk_loses_nothing(engine: Engine) {
    // Removed after the file system in it is unmounted: what is declared last is dropped first.
    let folder = Folder::new();
    let Some(disk) = Mounted::new(folder.path()) else {
        return skipped("a file system can be mounted only by root");
    };
    let ballast = disk.0.join("ballast");
    std::fs::write(&ballast, vec![1; BALLAST]).unwrap();
    let data = format!("--data-dir={}", disk.0.join("data").display());
    let mut cluster: Cluster = Setup::new(engine, 1).flag(data).start().await;

    let mut client = cluster.client().await;
    let value = |number: usize| format!("{number:06}").repeat(VALUE / 6);
    let mut written = 0;
    while client.put(format!("key{written:06}"), value(written), None).await.is_ok() {
        written += 1;
        assert!(written * VALUE < size(), "the disk was not full");
    }
    assert!(written * VALUE > 5 << 20, "full after {written} values");
    let exit = cluster.members[0].ended().await;
    let said = std::fs::read_to_string(&cluster.members[0].log).unwrap().to_lowercase();
    assert_ne!(exit, Exit::Code(0));
    assert!(said.contains("no space left on device"), "{exit:?}: {said}");
    // As long as it is full, it says so and changes nothing.
    cluster.spawn(0);
    let limit = Duration::from_secs(20);
    let serves = within(limit, "an end or readiness", async || {
        let process = cluster.members[0].process();
        match (process.has_ended(), process.output()) {
            (Some(exit), _) => Ok(Err(exit)),
            (None, said) if said.contains(crate::cluster::READY) => Ok(Ok(())),
            (None, said) => Err(said),
        }
    })
    .await;
    match serves {
        Ok(()) => cluster.kill(0),
        Err(exit) => {
            assert_ne!(exit, Exit::Code(0));
            cluster.members[0].ended().await;
        }
    }

    std::fs::remove_file(&ballast).unwrap();
    cluster.restart(0).await;
    let mut client = cluster.client().await;
    for number in 0..written {
        let answer = client.get(format!("key{number:06}"), None).await.unwrap();
        let kv = answer.kvs().first().unwrap_or_else(|| panic!("key{number} is lost"));
        assert!(kv.value() == value(number).as_bytes(), "key{number} has another value");
    }
    client.put("after", "value", None).await.unwrap();
    cluster.kill(0);
}
