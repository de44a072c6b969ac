//! The data folder: who it belongs to, its lock, and where things lie in it.
//!
//! `member/` marks an initialised folder, as etcd's tools expect; it holds `id.json`, `wal/`
//! (the raft log), `snap/` (stored snapshots) and `snap/db/` (RocksDB). The identity is written
//! last at the first start, so a folder whose initialisation was cut off starts afresh.

use crate::describe::os_words;
use crate::error::Fatal;
use crate::pb::etcdserverpb::Member;
use crate::types::{ClusterId, MemberId};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The layout of the folder. Another number is refused.
const FORMAT: u32 = 1;
/// How long a process that is going may still hold the folder.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// Who a folder belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    format: u32,
    /// Hexadecimal, as ids are printed everywhere.
    cluster_id: String,
    member_id: String,
    /// The member's name at its first start.
    pub name: String,
    /// The engine that holds the state.
    pub engine: String,
    /// The first members, on whose state the log begins.
    founders: Vec<Founder>,
    /// For one that joined: the members that were there, until its log tells who is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<Founder>,
}

/// One of the first members, or of those that a new one met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Founder {
    pub id: String,
    pub name: String,
    pub peer_urls: Vec<String>,
}

impl Founder {
    pub fn of(member: &Member) -> Self {
        Self {
            id: MemberId(member.id).to_string(),
            name: member.name.clone(),
            peer_urls: member.peer_ur_ls.clone(),
        }
    }

    fn member(&self) -> Member {
        Member {
            id: u64::from_str_radix(&self.id, 16).unwrap_or_default(),
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls.clone(),
            ..Member::default()
        }
    }
}

impl Identity {
    pub fn new(
        cluster: ClusterId,
        member: MemberId,
        name: &str,
        engine: &str,
        founders: Vec<Founder>,
    ) -> Self {
        Self {
            format: FORMAT,
            cluster_id: cluster.to_string(),
            member_id: member.to_string(),
            name: name.to_owned(),
            engine: engine.to_owned(),
            founders,
            contacts: Vec::new(),
        }
    }

    /// That of a member that joins those.
    pub fn joining(self, contacts: Vec<Founder>) -> Self {
        Self { contacts, ..self }
    }

    /// The first members as the state machine takes them.
    pub fn founders(&self) -> Vec<Member> {
        self.founders.iter().map(Founder::member).collect()
    }

    /// Whom a member that joined met at first.
    pub fn contacts(&self) -> Vec<Member> {
        self.contacts.iter().map(Founder::member).collect()
    }

    /// Whether this member was added to a cluster that was there before it.
    pub fn has_joined(&self) -> bool {
        !self.contacts.is_empty()
    }

    pub fn member_id(&self) -> Option<MemberId> {
        u64::from_str_radix(&self.member_id, 16).ok().map(MemberId)
    }

    pub fn cluster_id(&self) -> Option<ClusterId> {
        u64::from_str_radix(&self.cluster_id, 16).ok().map(ClusterId)
    }
}

/// An opened and locked data folder.
pub struct Folder {
    member: PathBuf,
    wal: PathBuf,
    /// Held for the life of the process; the lock goes with it.
    _lock: File,
}

impl Folder {
    /// Creates what is missing, checks permissions and takes the lock.
    ///
    /// # Errors
    /// Named by folder: not creatable, readable by others, locked by another process.
    pub fn open(data: &Path, wal: Option<&Path>) -> Result<Self, Fatal> {
        let lock = lock_file(data)?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        let mut taken = lock.try_lock();
        while matches!(taken, Err(fs::TryLockError::WouldBlock)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            taken = lock.try_lock();
        }
        match taken {
            Ok(()) => Self::locked(data, wal, lock),
            Err(fs::TryLockError::WouldBlock) => Err(Fatal::new(format!(
                "lock {}: another process uses this data directory",
                data.display()
            ))),
            Err(fs::TryLockError::Error(e)) => {
                Err(Fatal::with(format!("lock {}", data.display()), e))
            }
        }
    }

    /// Like [`Folder::open`], but says so and waits while another process holds the lock: a member
    /// may be started before its predecessor has quite gone.
    ///
    /// # Errors
    /// As those of [`Folder::open`], but for the lock.
    pub fn wait_and_open(data: &Path, wal: Option<&Path>) -> Result<Self, Fatal> {
        report(data)?;
        let lock = lock_file(data)?;
        let locked = match lock.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                let folder = data.display().to_string();
                tracing::warn!(
                    "data-dir" = folder,
                    "another process uses this data directory; waiting until it ends"
                );
                lock.lock()
            }
            Err(fs::TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        locked.map_err(|e| Fatal::with(format!("lock {}", data.display()), e))?;
        Self::locked(data, wal, lock)
    }

    fn locked(data: &Path, wal: Option<&Path>, lock: File) -> Result<Self, Fatal> {
        let member = data.join("member");
        let wal = wal.map_or_else(|| member.join("wal"), Path::to_path_buf);
        private_folder(&wal, "WAL")?;
        private_folder(&member.join("snap"), "snapshot")?;
        Ok(Self { member, wal, _lock: lock })
    }

    pub fn wal(&self) -> &Path {
        &self.wal
    }

    pub fn snapshots(&self) -> PathBuf {
        self.member.join("snap")
    }

    pub fn database(&self) -> PathBuf {
        self.member.join("snap").join("db")
    }

    /// Whose folder it is; `None` before the first start was completed.
    ///
    /// # Errors
    /// When the identity cannot be read or has another format.
    pub fn identity(&self) -> Result<Option<Identity>, Fatal> {
        let path = self.member.join("id.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Fatal::with(format!("read {}", path.display()), error)),
        };
        let identity: Identity = serde_json::from_slice(&text)
            .map_err(|e| Fatal::with(format!("read {}", path.display()), e))?;
        if identity.format != FORMAT {
            return Err(Fatal::new(format!(
                "read {}: format {} is not known to this version",
                path.display(),
                identity.format
            )));
        }
        Ok(Some(identity))
    }

    /// Completes a first start.
    ///
    /// # Errors
    /// When the file cannot be made durable.
    pub fn write_identity(&self, identity: &Identity) -> Result<(), Fatal> {
        let path = self.member.join("id.json");
        let temporary = self.member.join("id.json.tmp");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(identity)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::remove_file(self.member.join("initialising"))?;
            File::open(&self.member)?.sync_all()
        };
        write().map_err(|e| Fatal::with(format!("write {}", path.display()), e))
    }

    /// Prepares a first start: empties what an earlier, unfinished one left behind.
    ///
    /// # Errors
    /// When the folder holds data but no identity, which no unfinished start explains.
    pub fn begin_first_start(&self) -> Result<(), Fatal> {
        let marker = self.member.join("initialising");
        let folders = [self.wal.clone(), self.member.join("snap")];
        let begin = || -> std::io::Result<Option<PathBuf>> {
            if !marker.exists() {
                for folder in &folders {
                    if let Some(entry) = fs::read_dir(folder)?.next() {
                        return Ok(Some(entry?.path()));
                    }
                }
                File::create(&marker)?.sync_all()?;
                File::open(&self.member)?.sync_all()?;
                return Ok(None);
            }
            for folder in &folders {
                for entry in fs::read_dir(folder)? {
                    let entry = entry?;
                    match entry.file_type()?.is_dir() {
                        true => fs::remove_dir_all(entry.path())?,
                        false => fs::remove_file(entry.path())?,
                    }
                }
            }
            Ok(None)
        };
        let path = self.member.display();
        match begin().map_err(|e| Fatal::with(format!("initialise {path}"), e))? {
            None => Ok(()),
            // There ours is a folder.
            Some(found) if self.member.join("snap").join("db").is_file() => {
                Err(Fatal::new(format!(
                    "initialise {path}: it holds the data of an etcd ({}), which only etcd can read; move it: take \
                 a snapshot of the running etcd (etcdctl snapshot save), make a folder of it (quoin \
                 snapshot restore), and start with that",
                    found.display()
                )))
            }
            Some(found) => Err(Fatal::new(format!(
                "initialise {path}: it holds {} but no id.json; restore id.json or use an \
                 empty directory",
                found.display()
            ))),
        }
    }
}

/// Tells the log what is there before anything is touched; refuses the folder of etcd's old proxy.
fn report(data: &Path) -> Result<(), Fatal> {
    let folder = data.display().to_string();
    // What cannot be listed is refused by those who come next.
    let entries = fs::read_dir(data).into_iter().flatten().flatten();
    let names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.iter().any(|name| name == "proxy") {
        let what = "v2 http proxy has already been deprecated in 3.6";
        return Err(Fatal::new(format!("{what}: {folder} has the data of one")));
    }
    for name in names.iter().filter(|name| *name != "member") {
        tracing::warn!(
            filename = name,
            "data-dir" = folder,
            "found invalid file under data directory"
        );
    }
    match names.iter().any(|name| name == "member") {
        true => tracing::info!(
            "data-dir" = folder,
            "dir-type" = "member",
            "server has already been initialized"
        ),
        false => tracing::info!(
            "data-dir" = folder,
            "dir-type" = "empty",
            "Initialize and start etcd server"
        ),
    }
    Ok(())
}

/// Opens the file whose lock is the folder's, and creates what lies above it.
fn lock_file(data: &Path) -> Result<File, Fatal> {
    private_folder(data, "data")?;
    let member = data.join("member");
    private_folder(&member, "member")?;
    let path = member.join("lock");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| Fatal::with(format!("open {}", path.display()), e))
}

/// Permissions as `ls` writes them.
fn permission_letters(mode: u32) -> String {
    let letters = "rwxrwxrwx".chars().zip((0..9).rev());
    letters.map(|(letter, bit)| if mode >> bit & 1 == 1 { letter } else { '-' }).collect()
}

/// Creates a folder for its owner alone, or checks that an existing one is writable. `role` is what the
/// folder is, for the refusal.
fn private_folder(path: &Path, role: &str) -> Result<(), Fatal> {
    let probe = path.join(".touch");
    let fail = |what: &str, path: &Path, e: std::io::Error| {
        let (path, why) = (path.display(), os_words(&e));
        Fatal::new(format!("cannot access {role} directory: {what} {path}: {why}"))
    };
    if !path.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| fail("mkdir", path, e))?;
    }
    if !path.is_dir() {
        return Err(fail("open", &probe, std::io::ErrorKind::NotADirectory.into()));
    }
    let mode = fs::metadata(path).map_err(|e| fail("stat", path, e))?.permissions().mode();
    if mode & 0o777 != 0o700 {
        // Like etcd: volumes come with other permissions, and what lies in the folder has its own.
        let error = format!(
            "directory \"{}\" exist, but the permission is \"d{}\". The recommended permission is \
             \"-rwx------\" to prevent possible unprivileged access to the data",
            path.display(),
            permission_letters(mode)
        );
        tracing::warn!(error, "check file permission");
    }
    File::create(&probe).and_then(|_| fs::remove_file(&probe)).map_err(|e| fail("open", &probe, e))
}
