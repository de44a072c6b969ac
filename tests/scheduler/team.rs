//! A test team's set-up: a cluster, schedulers and workers as processes, and the command line.

use crate::cluster::{Cluster, Exit, Folder, Process, eventually};
use etcd_client::{Client, GetOptions};
use quoin::scheduler::coordinator::RunStatus;
use quoin::scheduler::keys;
use quoin::scheduler::model::{Segment, Status};
use quoin::scheduler::record;
use quoin::scheduler::store::Kv;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Command, Output};

pub struct Team {
    pub cluster: Cluster,
    pub schedulers: Vec<Process>,
    pub workers: BTreeMap<String, Process>,
    /// Flags with which the store is reached, beside the endpoints.
    pub access: Vec<String>,
    /// Endpoints that are named before the members.
    pub others: Vec<String>,
    // After those that write to it.
    folder: Folder,
}

/// Ends of attempts of each task, in the order of their revisions: attempt, status and worker.
pub type Results = BTreeMap<(u32, u32), Vec<(u32, Status, String)>>;

impl Team {
    pub fn new(cluster: Cluster) -> Team {
        let folder = Folder::new();
        let (schedulers, workers) = (Vec::new(), BTreeMap::new());
        Team { cluster, schedulers, workers, access: vec![], others: vec![], folder }
    }

    fn endpoints(&self) -> String {
        [self.others.clone(), self.cluster.endpoints()].concat().join(",")
    }

    pub fn process(&self, log: &str, words: &[&str]) -> Process {
        let mut command = vec![env!("CARGO_BIN_EXE_quoin").to_owned()];
        command.extend(words.iter().map(|word| (*word).to_owned()));
        command.extend(["--endpoints".to_owned(), self.endpoints()]);
        command.extend(self.access.clone());
        Process::start(&command, &[], &self.folder.path().join(log))
    }

    /// Starts one more scheduler. The first leads.
    pub fn start_scheduler(&mut self) -> &mut Process {
        self.start_scheduler_with(&["--scheduler-listen-url", "http://127.0.0.1:0"])
    }

    pub fn start_scheduler_with(&mut self, more: &[&str]) -> &mut Process {
        let name = format!("s{}", self.schedulers.len());
        let words: Vec<&str> =
            ["scheduler", "--name", &name].into_iter().chain(more.iter().copied()).collect();
        let process = self.process(&format!("{name}.log"), &words);
        self.schedulers.push(process);
        self.schedulers.last_mut().unwrap()
    }

    /// Where a scheduler offers its services.
    pub async fn service_url(&mut self, scheduler: usize) -> String {
        let process = &mut self.schedulers[scheduler];
        process.says("serving test cases").await.unwrap();
        let output = process.output();
        let line = output.lines().find(|line| line.contains("serving test cases")).unwrap();
        let line: Value = serde_json::from_str(line).unwrap();
        line["url"].as_str().unwrap().to_owned()
    }

    pub async fn start_worker(&mut self, name: &str, capacity: u32, more: &[&str]) {
        let artifacts = self.folder.path().join(format!("{name}-artifacts"));
        let (artifacts, capacity) = (artifacts.to_str().unwrap().to_owned(), capacity.to_string());
        let mut words = vec!["worker", "--name", name, "--capacity", &capacity];
        words.extend(["--allow-loopback", "--artifacts", &artifacts]);
        words.extend(more);
        let mut process = self.process(&format!("{name}.log"), &words);
        process.says("registered as a worker").await.unwrap();
        self.workers.insert(name.to_owned(), process);
    }

    /// Runs `quoin run ...`.
    pub async fn run(&self, words: &[&str]) -> Output {
        self.quoin(&[&["run"], words].concat()).await
    }

    /// Runs a command that does what it should, and prints one JSON document.
    pub async fn json(&self, words: &[&str]) -> Value {
        let output = self.quoin(&[words, &["--json"]].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs a command: exit code, what it printed, and what it complained of.
    pub async fn says(&self, words: &[&str]) -> (i32, String, String) {
        let output = self.quoin(words).await;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    pub fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub async fn quoin(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quoin"));
        command.args(words).args(["--endpoints", &self.endpoints()]).args(&self.access);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    fn write_plan(&self, plan: &Value) -> String {
        let file = self.folder.path().join("plan.json");
        std::fs::write(&file, plan.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// Submits a plan that is taken; the run's id.
    pub async fn submit(&self, plan: &Value) -> String {
        self.submit_file(&self.write_plan(plan)).await
    }

    pub async fn submit_file(&self, file: &str) -> String {
        self.submit_words(&[file]).await
    }

    pub async fn submit_words(&self, words: &[&str]) -> String {
        let output = self.run(&[&["submit"], words].concat()).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Submits a plan that is refused: exit code and text.
    pub async fn submit_refused(&self, plan: &Value) -> (Exit, String) {
        let output = self.run(&["submit", &self.write_plan(plan)]).await;
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        (output.status.into(), text.trim_start_matches("Error: ").to_owned())
    }

    pub async fn client(&self) -> Client {
        self.cluster.client_of(0).await
    }

    /// How many stand for election or lead.
    pub async fn leaders(&self) -> i64 {
        let options = GetOptions::new().with_prefix().with_count_only();
        self.client().await.get(keys::LEADERS, Some(options)).await.unwrap().count()
    }

    /// Waits for the end of a run.
    pub async fn ended(&self, run: &str) -> RunStatus {
        let mut client = self.client().await;
        crate::cluster::within(std::time::Duration::from_secs(120), "end of a run", async || {
            let found = client.get(keys::status(run), None).await.map_err(|e| e.to_string())?;
            let kv = found.kvs().first().ok_or("no status yet")?;
            let status: RunStatus = serde_json::from_slice(kv.value()).unwrap();
            match status.ended {
                Some(_) => Ok(status),
                None => Err(format!("{status:?}")),
            }
        })
        .await
    }

    /// Waits until a person is asked about a task of a run.
    pub async fn waits_for_people(&self, run: &str) {
        let mut client = self.client().await;
        eventually("a manual task", async || {
            let options = GetOptions::new().with_prefix();
            let found = client.get(keys::claims(keys::PEOPLE), Some(options)).await;
            let found = found.map_err(|error| error.to_string())?;
            let is_meant = |claim: &[u8]| {
                serde_json::from_slice::<Value>(claim).is_ok_and(|claim| claim["run"] == run)
            };
            let is_there = found.kvs().iter().any(|kv| is_meant(kv.value()));
            if is_there { Ok(()) } else { Err("nobody is asked".to_owned()) }
        })
        .await;
    }

    /// Waits until so many tasks of a run have results.
    pub async fn has_results(&self, run: &str, count: usize) {
        eventually("results", async || match self.results(run).await.len() {
            found if found >= count => Ok(()),
            found => Err(format!("{found} of {count}")),
        })
        .await;
    }

    /// All results of a run, as the store has them.
    pub async fn results(&self, run: &str) -> Results {
        let mut client = self.client().await;
        let options = GetOptions::new().with_prefix();
        let found = client.get(keys::segments(run), Some(options)).await.unwrap();
        let revision = found.header().unwrap().revision();
        let kv = |key: &str, value: &[u8], mod_revision| {
            let (key, value) = (key.to_owned(), value.to_vec());
            Kv { key, value, mod_revision, ..Default::default() }
        };
        let mut kvs: Vec<Kv> = found
            .kvs()
            .iter()
            .map(|found| kv(found.key_str().unwrap(), found.value(), found.mod_revision()))
            .collect();
        // Those of a run that is over may be in blocks already.
        let options = GetOptions::new().with_prefix().with_revision(revision);
        let found = client.get(keys::blocks(run), Some(options)).await.unwrap();
        let blocks = found.kvs().iter().map(|found| kv("", found.value(), 0));
        kvs.extend(blocks.flat_map(|block| record::unrolled(run, &block)));
        kvs.sort_by_key(|kv| kv.mod_revision);
        let mut results = Results::new();
        for kv in kvs {
            let (_, worker, _) = keys::parse_segment(&kv.key).unwrap();
            let segment: Segment = serde_json::from_slice(&kv.value).unwrap();
            for row in segment.rows {
                let of_task = results.entry((row.lane, row.ordinal)).or_default();
                of_task.push((row.attempt, row.status, worker.to_owned()));
            }
        }
        results
    }

    /// That each of so many tasks has exactly one last result, that attempts are numbered without
    /// gaps, and that nothing is left behind.
    pub async fn audit(&self, run: &str, tasks: usize) -> Results {
        let results = self.results(run).await;
        assert_eq!(results.len(), tasks, "tasks with results");
        for (task, attempts) in &results {
            let numbers: Vec<u32> = attempts.iter().map(|(attempt, ..)| *attempt).collect();
            let wanted: Vec<u32> = (1..=attempts.len() as u32).collect();
            assert_eq!(numbers, wanted, "attempts of {task:?}: {attempts:?}");
            let passed = attempts.iter().filter(|(_, status, _)| *status == Status::Passed);
            assert!(passed.count() <= 1, "{task:?} passed twice: {attempts:?}");
        }
        let mut client = self.client().await;
        eventually("an empty store", async || {
            for prefix in [keys::CLAIMS, keys::TAGS, keys::OPEN] {
                let options = GetOptions::new().with_prefix().with_keys_only();
                let found = client.get(prefix, Some(options)).await.map_err(|e| e.to_string())?;
                if let Some(kv) = found.kvs().first() {
                    return Err(format!("{} is left", kv.key_str().unwrap()));
                }
            }
            Ok(())
        })
        .await;
        results
    }
}
