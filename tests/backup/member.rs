//! Single members of either product on chosen folders, and the tools' command lines.

use crate::cluster::{Engine, Folder, Ports, Process, READY, Raw, product};
use quoin::pb::etcdserverpb::{HashKvRequest, HashKvResponse, RangeRequest};
use quoin::pb::mvccpb::KeyValue;
use std::path::Path;
use std::process::Command;

/// What a command came to.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(program: &Path, args: &[&str]) -> Ran {
        let output = Command::new(program)
            .args(args)
            .env_remove("ETCDCTL_ENDPOINTS")
            .output()
            .unwrap_or_else(|e| panic!("run {}: {e}", program.display()));
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its output, if it went well.
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// `quoin snapshot ...`.
pub fn snapshot(args: &[&str]) -> Ran {
    Ran::of(Path::new(env!("CARGO_BIN_EXE_quoin")), &[&["snapshot"], args].concat())
}

/// Where one member lives; the same for both products, so that they follow each other.
pub struct Home {
    pub folder: Folder,
    _ports: Ports,
    client: u16,
    peer: u16,
}

impl Home {
    pub fn new() -> Home {
        let mut ports = Ports::reserve();
        let (client, peer) = (ports.take(), ports.take());
        Home { folder: Folder::new(), _ports: ports, client, peer }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    /// The flags that name the member, the same for servers and for tools.
    pub fn identity(&self) -> Vec<String> {
        let peer = self.peer_url();
        vec![
            "--name=m".to_owned(),
            format!("--initial-cluster=m={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ]
    }

    pub async fn start_etcd(&self, bin: &Path, data: &str) -> Server {
        self.start(&bin.join("etcd"), data, vec![]).await
    }

    pub async fn start_quoin(&self, engine: Engine, data: &str, more: &[&str]) -> Server {
        let mut flags = vec![format!("--engine={}", engine.name())];
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        self.start(&product().binary, data, flags).await
    }

    async fn start(&self, program: &Path, data: &str, more: Vec<String>) -> Server {
        let mut command = vec![program.display().to_string()];
        command.extend(self.identity());
        command.extend([
            format!("--data-dir={}", self.path(data)),
            format!("--listen-client-urls={}", self.endpoint()),
            format!("--advertise-client-urls={}", self.endpoint()),
            format!("--listen-peer-urls={}", self.peer_url()),
        ]);
        command.extend(more);
        let log = self.folder.path().join(format!("{data}.log"));
        let mut process = Process::start(&command, &[], &log);
        process.says(READY).await.unwrap_or_else(|why| panic!("{data} {why}"));
        Server { process, raw: Raw::new(&self.endpoint()) }
    }
}

pub struct Server {
    process: Process,
    pub raw: Raw,
}

impl Server {
    pub async fn stop(mut self) {
        self.process.ask_to_stop();
        self.process.end().await;
    }

    /// Hash, revision and compacted revision, as any member of the same history tells them.
    pub async fn hash(&mut self) -> (u32, i64, i64) {
        let answer = self.raw.maintenance.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
        let HashKvResponse { hash, hash_revision, compact_revision, .. } = answer.into_inner();
        (hash, hash_revision, compact_revision)
    }

    /// All keys as they are at a revision (0: now).
    pub async fn all(&mut self, revision: i64) -> Vec<KeyValue> {
        let (key, range_end) = (vec![0].into(), vec![0].into());
        let request = RangeRequest { key, range_end, revision, ..RangeRequest::default() };
        self.raw.kv.range(request).await.unwrap().into_inner().kvs
    }
}
