//! Which server is tested, and on which engines.

use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

/// The state machine's storage, as `--engine` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Rocksdb,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Engine::Memory => "memory",
            Engine::Rocksdb => "rocksdb",
        }
    }
}

/// The server under test.
pub struct Product {
    pub binary: PathBuf,
    /// The version of etcd that it is, or is compatible with.
    pub version: (u32, u32),
    /// Quoin, not an etcd.
    pub ours: bool,
}

impl Product {
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }
}

pub fn product() -> &'static Product {
    static PRODUCT: LazyLock<Product> = LazyLock::new(|| {
        let binary = match std::env::var_os("QUOIN_TEST_BINARY") {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(env!("CARGO_BIN_EXE_quoin")),
        };
        let output = Command::new(&binary).arg("--version").output();
        let output = output.unwrap_or_else(|e| panic!("run {}: {e}", binary.display()));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("etcd Version: "))
            .unwrap_or_else(|| panic!("no version in {text:?}"));
        let mut numbers = version.trim().split('.').map(|part| part.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Product { binary, version, ours: text.to_lowercase().contains("quoin") }
    });
    &PRODUCT
}

/// The folder with etcd 3.7.1 and its tools, where scripts/etcd puts them.
pub fn etcd_tools() -> Option<PathBuf> {
    let cache = std::env::var_os("QUOIN_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/quoin")))?;
    let bin = cache.join("bin");
    let output = Command::new(bin.join("etcd")).arg("--version").output().ok()?;
    let is_it = output.stdout.starts_with(b"etcd Version: 3.7.1\n");
    (is_it && bin.join("etcdctl").exists() && bin.join("etcdutl").exists()).then_some(bin)
}

/// Says that a test does nothing here, and why. On the continuous integration machine nothing
/// is skipped for want of a tool.
pub fn skipped(why: &str) {
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        panic!("must not be skipped: {why}");
    }
    eprintln!("skipped: {}: {why}", super::test_name());
}

fn is_asked_for(engine: Engine) -> bool {
    match std::env::var("QUOIN_TEST_ENGINES") {
        Ok(list) => list.split(',').any(|name| name.trim() == engine.name()),
        // An etcd has one engine of its own: one of the two runs is enough.
        Err(_) => product().ours || engine == Engine::Memory,
    }
}

/// No test may take longer, whatever it waits for.
const TEST_LIMIT: Duration = Duration::from_secs(240);

/// Runs a test body on an engine.
///
/// The body is polled on the test's own thread, whose panic is what keeps the folders.
pub fn run<F: Future<Output = ()>>(engine: Engine, body: impl FnOnce(Engine) -> F) {
    if !is_asked_for(engine) {
        eprintln!("not asked for: {}", super::test_name());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("start a runtime");
    runtime.block_on(async {
        let ended = tokio::time::timeout(TEST_LIMIT, body(engine)).await;
        ended.unwrap_or_else(|_| panic!("not done within {TEST_LIMIT:?}"));
    });
}

/// Declares a test for each engine of each named body, `name::memory` and `name::rocksdb`.
#[macro_export]
macro_rules! on_each_engine {
    ($($body:ident),* $(,)?) => {$(
        mod $body {
            #[test]
            fn memory() {
                $crate::cluster::run($crate::cluster::Engine::Memory, super::$body);
            }

            #[cfg(feature = "rocksdb")]
            #[test]
            fn rocksdb() {
                $crate::cluster::run($crate::cluster::Engine::Rocksdb, super::$body);
            }
        }
    )*};
}
