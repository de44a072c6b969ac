//! One member: its flags, its folder, its process.

use super::{Exit, Process, Setup, product};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Ports on 127.0.0.1.
pub struct Addresses {
    pub client: u16,
    pub peer: u16,
    /// Where peers reach it when a proxy stands in between.
    pub advertised_peer: u16,
}

pub struct Member {
    pub name: String,
    /// `http://127.0.0.1:port`, for clients.
    pub endpoint: String,
    pub data_folder: PathBuf,
    pub log: PathBuf,
    pub flags: Vec<String>,
    wrapper: Vec<String>,
    process: Option<Process>,
}

/// What a supervisor waits for.
pub const READY: &str = "ready to serve client requests";

impl Member {
    pub fn new(
        folder: &Path,
        name: &str,
        addresses: &Addresses,
        advertised_peer: u16,
        initial_cluster: &str,
        setup: &Setup,
    ) -> Member {
        let data_folder = folder.join(name);
        create_private(&data_folder);
        let endpoint = format!("http://127.0.0.1:{}", addresses.client);
        let mut flags = vec![
            format!("--name={name}"),
            format!("--listen-client-urls={endpoint}"),
            format!("--advertise-client-urls={endpoint}"),
            format!("--listen-peer-urls=http://127.0.0.1:{}", addresses.peer),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{advertised_peer}"),
            "--initial-cluster-token=new".into(),
            format!("--data-dir={}", data_folder.display()),
            "--snapshot-count=10000".into(),
            "--initial-cluster-token=new".into(),
            format!("--initial-cluster={initial_cluster}"),
            "--initial-cluster-state=new".into(),
        ];
        if product().ours {
            flags.push(format!("--engine={}", setup.engine.name()));
        }
        flags.extend(setup.flags.iter().filter(|flag| is_known(flag)).cloned());
        Member {
            name: name.into(),
            endpoint,
            data_folder,
            log: folder.join(format!("{name}.log")),
            flags,
            wrapper: vec![],
            process: None,
        }
    }

    pub fn spawn(&mut self) {
        assert!(!self.is_running(), "{} runs already", self.name);
        let mut command: Vec<OsString> = self.wrapper.iter().map(OsString::from).collect();
        command.push(product().binary.clone().into());
        command.extend(self.flags.iter().map(OsString::from));
        self.process = Some(Process::start(&command, &[("ETCD_VERIFY", "all")], &self.log));
    }

    /// Waits until it serves; an error with the end of its log if it ends instead.
    pub async fn ready(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        self.process().says(READY).await.map_err(|why| format!("{name} {why}"))
    }

    /// From now on it is started through this command, such as strace with its options; none
    /// starts it directly.
    pub fn wrap_command(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the member was started")
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether it was started and not stopped by the test; a paused one counts as stopped.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.is_paused())
    }

    /// This run's log.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    pub async fn terminate(&mut self) -> Exit {
        self.process().ask_to_stop();
        let exit = self.process().end().await;
        self.process = None;
        exit
    }

    /// Forgets a process that has ended by itself, and returns how.
    pub async fn ended(&mut self) -> Exit {
        let exit = self.process().end().await;
        self.process = None;
        exit
    }

    pub fn pause(&mut self) {
        self.process().pause();
    }

    pub fn resume(&mut self) {
        self.process().resume();
    }
}

/// A folder that only its owner may enter, as etcd wants it.
pub fn create_private(folder: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder);
    made.unwrap_or_else(|e| panic!("create {}: {e}", folder.display()));
}

/// Older servers do not know every flag; a test that needs one asks for the version itself.
fn is_known(flag: &str) -> bool {
    let newer =
        ["--snapshot-catchup-entries", "--feature-gates", "--watch-progress-notify-interval"];
    product().at_least(3, 6) || !newer.iter().any(|name| flag.starts_with(name))
}
