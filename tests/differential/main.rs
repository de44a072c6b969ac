//! The same random requests to Quoin and to a real etcd, and the same answers.
//!
//! [`generate`] makes sequences of requests from a seed: keys, transactions, leases, watches,
//! users and roles with all their options, malformed ones among them. What etcd 3.7.1 answered
//! is recorded in `recorded.txt`, one digest for each sequence; Quoin must answer alike on both
//! engines, up to ids and times. A sequence that differs is printed with its answers, beside
//! those of a real etcd if `scripts/etcd` has built one.
//!
//! `QUOIN_TEST_BINARY=path/to/etcd QUOIN_RECORD=1 cargo test --test differential` records anew,
//! `QUOIN_SEQUENCE=n` runs and prints one sequence, `QUOIN_SEED=n` those of another seed against
//! a real etcd that runs beside.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod generate;
mod random;
mod relative;
mod session;
mod watches;

use cluster::{Engine, Process, Raw, Setup, product};
use sha1::{Digest, Sha1};
use std::path::{Path, PathBuf};

on_each_engine![
    recorded_sequences_are_answered_as_by_etcd,
    the_second_quarter_is_too,
    the_third_quarter_is_too,
    the_last_quarter_is_too,
];

const SEED: u64 = 20_261_121;
const SEQUENCES: u64 = 5000;
/// Digests in one line of the recording.
const ROW: usize = 8;
/// Servers at work at the same time, each with its part of the sequences.
const SERVERS: u64 = 2;
/// Sequences of [`SEED`] in which Quoin answers otherwise on purpose, and why.
const ON_PURPOSE: [(u64, &str); 3] = [
    (57, "the id of a watch that a compaction ended is free again; etcd keeps it for the stream"),
    (
        1579,
        "an interval that ends before its start needs the right to its start; what etcd asks \
            for depends on the shape of its tree of permissions, and nothing is read either way",
    ),
    (1886, "as 57"),
];
/// Sequences that are printed when they differ; the first one usually explains the others.
const SHOWN: usize = 5;

fn digest(transcript: &[String]) -> String {
    let digest = Sha1::digest(transcript.join("\n").as_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn recording() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential/recorded.txt")
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What both servers are started with: nothing here is about disks, or how long hashing takes.
fn setup(engine: Engine) -> Setup {
    Setup::new(engine, 1).flag("--unsafe-no-fsync").flag("--bcrypt-cost=4")
}

/// The transcripts of the sequences that are asked for, on the server under test.
async fn transcripts(engine: Engine, seed: u64, numbers: Vec<u64>) -> Vec<(u64, Vec<String>)> {
    let share = numbers.len().div_ceil(SERVERS as usize).max(1);
    let mut tasks = Vec::new();
    for part in numbers.chunks(share).map(<[u64]>::to_vec) {
        let cluster = setup(engine).start().await;
        tasks.push(tokio::spawn(async move {
            let done = on_one(&cluster.raw(0), seed, part).await;
            drop(cluster);
            done
        }));
    }
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.unwrap());
    }
    all
}

async fn on_one(raw: &Raw, seed: u64, numbers: Vec<u64>) -> Vec<(u64, Vec<String>)> {
    session::prepare(raw).await;
    let mut all = Vec::new();
    for number in numbers {
        let steps = generate::sequence(seed, number);
        all.push((number, session::transcript(raw, &steps).await));
    }
    all
}

async fn the_second_quarter_is_too(engine: Engine) {
    quarter(engine, 1).await;
}

async fn the_third_quarter_is_too(engine: Engine) {
    quarter(engine, 2).await;
}

async fn the_last_quarter_is_too(engine: Engine) {
    quarter(engine, 3).await;
}

/// The first quarter, or whatever else the environment asks for.
async fn recorded_sequences_are_answered_as_by_etcd(engine: Engine) {
    if let Some(number) = variable("QUOIN_SEQUENCE") {
        let seed = variable("QUOIN_SEED").unwrap_or(SEED);
        for (number, lines) in transcripts(engine, seed, vec![number]).await {
            eprintln!("sequence {number} of seed {seed}\n{}", lines.join("\n"));
        }
        return;
    }
    if let Some(seed) = variable("QUOIN_SEED") {
        return compare_live(engine, seed).await;
    }
    if std::env::var_os("QUOIN_RECORD").is_some() {
        assert!(!product().ours, "what Quoin answers is no measure for Quoin");
        return record(&transcripts(engine, SEED, (0..SEQUENCES).collect()).await);
    }
    quarter(engine, 0).await;
}

/// Compares a quarter of the sequences with the recording.
async fn quarter(engine: Engine, place: u64) {
    let (from, to) = (place * SEQUENCES / 4, (place + 1) * SEQUENCES / 4);
    let found = transcripts(engine, SEED, (from..to).collect()).await;
    let text = std::fs::read_to_string(recording()).expect("read the recording");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(heading().as_str()), "recorded for other sequences");
    let expected: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    assert_eq!(expected.len() as u64, SEQUENCES);
    let differ: Vec<u64> = found
        .iter()
        .filter(|(number, lines)| digest(lines) != expected[*number as usize])
        .map(|(number, _)| *number)
        .collect();
    let on_purpose = |number: &u64| ON_PURPOSE.iter().any(|(known, _)| known == number);
    let (known, differ): (Vec<u64>, Vec<u64>) = differ.into_iter().partition(on_purpose);
    // Those of watches only differ when the compaction's end comes before the next creation.
    let must_differ = |number: &u64| on_purpose(number) && ![57, 1886].contains(number);
    let equal: Vec<u64> =
        (from..to).filter(must_differ).filter(|number| !known.contains(number)).collect();
    assert!(equal.is_empty() || !product().ours, "these differ no longer: {equal:?}");
    show(SEED, &found, &differ).await;
    let count = differ.len();
    assert!(differ.is_empty(), "{count} sequences of seed {SEED} are answered otherwise");
}

fn heading() -> String {
    format!("{SEQUENCES} sequences of seed {SEED} as etcd 3.7.1 answers them")
}

fn record(found: &[(u64, Vec<String>)]) {
    let digests: Vec<String> = found.iter().map(|(_, lines)| digest(lines)).collect();
    let rows: Vec<String> = digests.chunks(ROW).map(|row| row.join(" ")).collect();
    std::fs::write(recording(), format!("{}\n{}\n", heading(), rows.join("\n"))).unwrap();
}

/// A real etcd beside the server under test, if there is one on this machine.
fn real_etcd() -> Option<PathBuf> {
    let home = PathBuf::from(std::env::var_os("HOME")?);
    let cache = std::env::var_os("QUOIN_CACHE").map_or(home.join(".cache/quoin"), PathBuf::from);
    let path = cache.join("bin/etcd");
    path.exists().then_some(path)
}

/// Transcripts by a real etcd.
async fn by_etcd(seed: u64, numbers: Vec<u64>) -> Option<Vec<(u64, Vec<String>)>> {
    let binary = real_etcd()?;
    let folder = cluster::Folder::new();
    let mut ports = cluster::Ports::reserve();
    let client = format!("http://127.0.0.1:{}", ports.take());
    let peer = format!("http://127.0.0.1:{}", ports.take());
    let command = [
        binary.display().to_string(),
        format!("--data-dir={}", folder.path().join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".into(),
        "--bcrypt-cost=4".into(),
    ];
    let mut etcd = Process::start(&command, &[], &folder.path().join("etcd.log"));
    etcd.says(cluster::READY).await.unwrap();
    let all = on_one(&Raw::new(&client), seed, numbers).await;
    drop(etcd);
    Some(all)
}

/// Prints some of the sequences that differ, with etcd's answers where they can be had.
async fn show(seed: u64, found: &[(u64, Vec<String>)], differ: &[u64]) {
    let shown: Vec<u64> = differ.iter().copied().take(SHOWN).collect();
    if shown.is_empty() {
        return;
    }
    eprintln!("these differ: {differ:?}");
    let etcd = by_etcd(seed, shown.clone()).await;
    for number in shown {
        let of = |all: &[(u64, Vec<String>)]| {
            let one = all.iter().find(|(candidate, _)| *candidate == number);
            one.map(|(_, lines)| lines.clone()).unwrap_or_default()
        };
        let (ours, theirs) = (of(found), etcd.as_deref().map(of));
        eprintln!("\nsequence {number} of seed {seed}");
        for (place, line) in ours.iter().enumerate() {
            match theirs.as_ref().and_then(|theirs| theirs.get(place)) {
                Some(theirs) if theirs != line => {
                    eprintln!(
                        "{line}\n  etcd:\n    {}",
                        theirs.lines().skip(1).collect::<Vec<_>>().join("\n")
                    );
                }
                _ => eprintln!("{line}"),
            }
        }
    }
}

/// Another seed's sequences, on a real etcd beside.
async fn compare_live(engine: Engine, seed: u64) {
    let count = variable("QUOIN_SEQUENCES").unwrap_or(SEQUENCES);
    let found = transcripts(engine, seed, (0..count).collect()).await;
    let Some(expected) = by_etcd(seed, (0..count).collect()).await else {
        panic!("scripts/etcd builds the etcd that this compares with");
    };
    let differ: Vec<u64> = found
        .iter()
        .zip(&expected)
        .filter(|(found, expected)| found.1 != expected.1)
        .map(|(found, _)| found.0)
        .collect();
    show(seed, &found, &differ).await;
    assert!(differ.is_empty(), "{} sequences of seed {seed} differ", differ.len());
}

mod the_generator {
    use super::{SEED, generate};
    use std::collections::BTreeSet;

    /// A generator that changes makes the recording worthless; one that forgets calls too.
    #[test]
    fn makes_every_call() {
        let mut seen = BTreeSet::new();
        for number in 0..2000 {
            for step in generate::sequence(SEED, number) {
                let text = format!("{:?}", step.call);
                let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
                seen.insert(text[..end].to_owned());
            }
        }
        assert_eq!(seen.len(), 32, "{seen:?}");
    }

    #[test]
    fn makes_the_same_sequence_again() {
        let again = |number| format!("{:?}", generate::sequence(SEED, number));
        assert_eq!(again(17), again(17));
        assert_ne!(again(17), again(27));
    }
}
