//! Attempts against real servers and real processes.

mod calls;
mod commands;

use super::{Attempt, Executor, Outcome, Settings};
use crate::scheduler::model::{Environment, TestCase};
use crate::tls::Dialer;
use serde_json::{Value, json};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// Nothing in these tests takes so long.
const LONG: Duration = Duration::from_secs(30);

/// An executor with a folder of its own, which may call this machine and run commands.
struct Bench {
    executor: Executor,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::dialling(Dialer::default(), change)
    }

    fn dialling(dialer: Dialer, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(folder.path().join("artifacts"));
        settings.targets.loopback = true;
        settings.allows_commands = true;
        change(&mut settings);
        Self { executor: Executor::open(settings, dialer).unwrap(), folder }
    }

    async fn run(&self, case: Value) -> Outcome {
        self.run_until(case, LONG, std::future::pending()).await
    }

    async fn run_until(
        &self,
        case: Value,
        timeout: Duration,
        cancel: impl Future<Output = ()>,
    ) -> Outcome {
        let case = parsed(case);
        let environment = environment();
        let deadline = Instant::now() + timeout;
        let attempt = attempt(&case, Some(&environment), deadline);
        tokio::time::timeout(2 * LONG, self.executor.run(attempt, cancel)).await.unwrap()
    }

    fn artifact(&self, digest: &Value) -> Vec<u8> {
        let digest = digest.as_str().unwrap();
        std::fs::read(self.folder.path().join("artifacts").join(digest)).unwrap()
    }
}

/// Unchecked: a worker meets what was taken by others.
fn parsed(mut case: Value) -> TestCase {
    case["id"] = json!("c");
    serde_json::from_value(case).unwrap()
}

fn environment() -> Environment {
    let config = json!({"who": "world", "port": 80});
    let config = config.as_object().unwrap().clone();
    Environment { id: "lab".into(), config, ..Environment::default() }
}

fn attempt<'a>(
    case: &'a TestCase,
    environment: Option<&'a Environment>,
    deadline: Instant,
) -> Attempt<'a> {
    Attempt { case, environment, run: "r1", lane: 3, ordinal: 7, attempt: 2, fence: 99, deadline }
}

/// Of an outcome's detail.
fn said(outcome: &Outcome, name: &str) -> Value {
    outcome.detail.as_ref().map_or(Value::Null, |detail| detail[name].clone())
}
