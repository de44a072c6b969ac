//! Starts one or three members of the built server as child processes, and takes them down.
//!
//! What it promises: members get the flags that etcd's own test harness passes, ports that no
//! other test has, and folders under `etcd-test-data/run/` which are removed when the test
//! passes, kept and named when it fails. Dropping a [`Cluster`] kills its members, and only
//! those. Nothing here waits a fixed time: [`eventually`] polls a condition up to a deadline.
//!
//! `QUOIN_TEST_BINARY` names another server (a real etcd, another build) to run the same tests
//! on; `QUOIN_TEST_ENGINES` lists the engines to test, separated by commas.

#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test crate uses a part")]

mod certificates;
mod client;
mod engine;
mod member;
mod ports;
mod process;
mod proxy;
mod wait;

pub use certificates::{Authority, Certificate};
pub use client::{Raw, channel};
pub use engine::{Engine, Product, etcd_tools, product, run, skipped};
pub use member::{Member, READY};
pub use ports::Ports;
pub use process::{Exit, Process};
pub use proxy::Links;
pub use wait::{LIMIT, eventually, within};

use etcd_client::{Client, ConnectOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where members keep their data, and what happens to it at the end.
pub struct Folder(Option<tempfile::TempDir>);

impl Folder {
    /// Named after the running test; on the disk of the project, not in a memory file system.
    pub fn new() -> Folder {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("etcd-test-data/run");
        std::fs::create_dir_all(&base).expect("create etcd-test-data/run");
        let prefix = format!("{}-", test_name());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(base);
        Folder(Some(folder.expect("create a test folder")))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("taken at drop only").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kept = self.0.take().map(tempfile::TempDir::keep).unwrap_or_default();
            eprintln!("data folders and logs are kept in {}", kept.display());
        }
    }
}

/// The test's name as cargo prints it, fit for a file name.
pub fn test_name() -> String {
    let thread = std::thread::current();
    thread.name().unwrap_or("test").replace("::", ".")
}

/// What a cluster is started with.
#[derive(Clone)]
pub struct Setup {
    pub engine: Engine,
    pub members: usize,
    /// Added to each member's flags; the last of two equal flags counts.
    pub flags: Vec<String>,
    /// Whether peers talk through a proxy that can cut, delay and heal their links.
    pub proxied: bool,
}

impl Setup {
    pub fn new(engine: Engine, members: usize) -> Setup {
        Setup { engine, members, flags: vec![], proxied: false }
    }

    pub fn flag(mut self, flag: impl Into<String>) -> Setup {
        self.flags.push(flag.into());
        self
    }

    /// Ten heartbeats to an election timeout as by default, but three times as fast.
    pub fn fast_elections(self) -> Setup {
        self.flag("--heartbeat-interval=30").flag("--election-timeout=300")
    }

    pub fn proxied(mut self) -> Setup {
        self.proxied = true;
        self
    }

    pub async fn start(self) -> Cluster {
        let mut attempts = 3;
        loop {
            let mut cluster = Cluster::prepare(&self).await;
            attempts -= 1;
            match cluster.start_all().await {
                Ok(()) => return cluster,
                Err(why)
                    if attempts > 0 && why.to_lowercase().contains("address already in use") => {}
                Err(why) => panic!("{why}"),
            }
        }
    }
}

pub struct Cluster {
    pub members: Vec<Member>,
    links: Option<Links>,
    ports: Ports,
    // After the members, which write to it until they are killed.
    folder: Folder,
}

impl Cluster {
    /// Starts members with default flags, and waits until all serve.
    pub async fn start(engine: Engine, members: usize) -> Cluster {
        Setup::new(engine, members).start().await
    }

    /// Everything but the processes.
    pub async fn prepare(setup: &Setup) -> Cluster {
        let folder = Folder::new();
        let mut ports = Ports::reserve();
        let addresses: Vec<member::Addresses> = (0..setup.members)
            .map(|_| member::Addresses {
                client: ports.take(),
                peer: ports.take(),
                advertised_peer: ports.take(),
            })
            .collect();
        let links = match setup.proxied {
            true => Some(Links::open(&addresses).await),
            false => None,
        };
        let base = test_name();
        let names: Vec<String> =
            (0..setup.members).map(|index| format!("{base}-test-{index}")).collect();
        let peer_port = |a: &member::Addresses| match setup.proxied {
            true => a.advertised_peer,
            false => a.peer,
        };
        let initial: Vec<String> = names
            .iter()
            .zip(&addresses)
            .map(|(name, a)| format!("{name}=http://127.0.0.1:{}", peer_port(a)))
            .collect();
        let initial = initial.join(",");
        let members = names
            .iter()
            .zip(&addresses)
            .map(|(name, a)| Member::new(folder.path(), name, a, peer_port(a), &initial, setup))
            .collect();
        Cluster { members, links, ports, folder }
    }

    /// Everything but the process of one more member, which `add` makes known to the cluster
    /// under its peer URL. Returns its place among the members.
    pub async fn prepare_joining(
        &mut self,
        engine: Engine,
        add: impl AsyncFnOnce(String),
    ) -> usize {
        let addresses = member::Addresses {
            client: self.ports.take(),
            peer: self.ports.take(),
            advertised_peer: self.ports.take(),
        };
        let url = format!("http://127.0.0.1:{}", addresses.peer);
        add(url.clone()).await;
        let name = format!("{}-test-{}", test_name(), self.members.len());
        // Whoever has answered knows of it already, others a little later; and there may be no leader to
        // ask until it runs.
        let mut listed = vec![];
        for index in (0..self.members.len()).filter(|&index| self.members[index].is_running()) {
            let known = self.raw(index).members().await;
            if known.len() > listed.len() {
                listed = known;
            }
        }
        let initial: Vec<String> = listed
            .iter()
            .map(|member| {
                let urls = member.peer_ur_ls.iter();
                let own = if member.peer_ur_ls == [url.clone()] { &name } else { &member.name };
                urls.map(|url| format!("{own}={url}")).collect::<Vec<_>>().join(",")
            })
            .collect();
        let setup = Setup::new(engine, 1).flag("--initial-cluster-state=existing");
        let (folder, port) = (self.folder.path(), addresses.peer);
        let joining = Member::new(folder, &name, &addresses, port, &initial.join(","), &setup);
        self.members.push(joining);
        self.members.len() - 1
    }

    /// Starts every member that does not run, all at once, and waits until they serve.
    pub async fn start_all(&mut self) -> Result<(), String> {
        for index in 0..self.members.len() {
            if !self.members[index].is_running() {
                self.spawn(index);
            }
        }
        for member in &mut self.members {
            member.ready().await?;
        }
        Ok(())
    }

    /// Starts a member without waiting for it.
    pub fn spawn(&mut self, index: usize) {
        self.members[index].spawn();
        if let Some(links) = &self.links {
            links.set_process(index, self.members[index].pid());
        }
    }

    /// Starts a member that was killed or terminated, and waits until it serves.
    pub async fn restart(&mut self, index: usize) {
        self.spawn(index);
        if let Err(why) = self.members[index].ready().await {
            panic!("{why}");
        }
    }

    /// SIGKILL: the member has no chance to write anything more.
    pub fn kill(&mut self, index: usize) {
        self.members[index].kill();
    }

    /// SIGTERM: returns how the member ended and how long that took.
    pub async fn terminate(&mut self, index: usize) -> (Exit, Duration) {
        let asked = Instant::now();
        let exit = self.members[index].terminate().await;
        (exit, asked.elapsed())
    }

    pub fn links(&self) -> &Links {
        self.links.as_ref().expect("the cluster was set up with a proxy")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_folder(&self, index: usize) -> PathBuf {
        self.members[index].data_folder.clone()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// A client that spreads its calls over all members.
    pub async fn client(&self) -> Client {
        connect(&self.endpoints()).await
    }

    /// A client of one member.
    pub async fn client_of(&self, index: usize) -> Client {
        connect(&[self.members[index].endpoint.clone()]).await
    }

    /// One client for each member.
    pub async fn clients(&self) -> Vec<Client> {
        let mut clients = vec![];
        for index in 0..self.members.len() {
            clients.push(self.client_of(index).await);
        }
        clients
    }

    /// The wire's own stubs, for what the client crate cannot send.
    pub fn raw(&self, index: usize) -> Raw {
        Raw::new(&self.members[index].endpoint)
    }

    /// The member that all running members take for their leader.
    pub async fn leader(&self) -> usize {
        let running: Vec<usize> =
            (0..self.members.len()).filter(|&i| self.members[i].is_running()).collect();
        self.leader_among(&running).await
    }

    /// The member among `indexes` that all of those take for their leader.
    pub async fn leader_among(&self, indexes: &[usize]) -> usize {
        eventually(&format!("a leader among {indexes:?}"), async || {
            let mut ids = vec![];
            let mut leaders = vec![];
            for &index in indexes {
                let status = self.raw(index).status().await.map_err(|e| e.to_string())?;
                ids.push(status.header.unwrap_or_default().member_id);
                leaders.push(status.leader);
            }
            let leader = leaders[0];
            if leaders.iter().any(|&other| other != leader) {
                return Err(format!("members differ: {leaders:x?}"));
            }
            let position = ids.iter().position(|&id| id == leader);
            position.map(|at| indexes[at]).ok_or(format!("{leader:x} is not among {ids:x?}"))
        })
        .await
    }

    /// Waits until all given members have applied the same revision, which it returns.
    pub async fn same_revision(&self, indexes: &[usize]) -> i64 {
        eventually("equal revisions", async || {
            let mut revisions = vec![];
            for &index in indexes {
                let status = self.raw(index).status().await.map_err(|e| e.to_string())?;
                revisions.push(status.header.unwrap_or_default().revision);
            }
            let first = revisions[0];
            match revisions.iter().all(|&revision| revision == first) {
                true => Ok(first),
                false => Err(format!("{revisions:?}")),
            }
        })
        .await
    }
}

async fn connect(endpoints: &[String]) -> Client {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_secs(2))
        .with_timeout(Duration::from_secs(15));
    Client::connect(endpoints, Some(options)).await.expect("make a client")
}
