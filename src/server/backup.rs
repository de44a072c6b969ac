//! The Snapshot call: this member's state as an etcd database, with its checksum behind it.
//!
//! The database is written to a file first, at the speed of the disk, and sent from there: so a slow
//! client holds back nothing, and the state is pinned only while it is read. The file has no name,
//! so it goes with the call or the process. Memory needed is independent of the state's size.

use crate::backup::{Exported, export, version};
use crate::error::{Fatal, RequestError};
use crate::machine::Capture;
use crate::pb::etcdserverpb::SnapshotResponse;
use crate::replica::Handle;
use bytes::Bytes;
use futures_util::stream::try_unfold;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::Stream;
use tonic::Status;

/// What one message carries: etcd's, on which clients count for their progress.
const BLOB_LEN: usize = 32 << 10;
/// What is read from the file at a time.
const PIECE_LEN: usize = 1 << 20;
/// Calls under way at a time; each has a file as large as the state.
const CALLS_MAX: usize = 4;

/// Makes backups of one member.
#[derive(Clone)]
pub struct Backups {
    /// On the disk that holds the state.
    folder: Arc<PathBuf>,
    calls: Arc<Semaphore>,
    /// One state is read at a time.
    reading: Arc<tokio::sync::Mutex<()>>,
    /// Tells files apart for as long as they have a name.
    made: Arc<AtomicU64>,
}

impl Backups {
    /// Files are made in this folder, in which `*.tmp` is removed when a member starts.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder: Arc::new(folder),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            reading: Arc::default(),
            made: Arc::default(),
        }
    }

    /// Captures the state and begins to send it.
    ///
    /// # Errors
    /// When too many calls are under way, the member is stopping, or the file cannot be written.
    pub async fn stream(
        &self,
        handle: &Handle,
    ) -> Result<impl Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static, Status> {
        let permit = self.calls.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::from(RequestError::TooManyRequests))?;
        let reading = self.reading.lock().await;
        let capture = handle.capture().await?;
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("backup-{number}.tmp"));
        let written = tokio::task::spawn_blocking(move || write(&path, &capture)).await;
        drop(reading);
        match written {
            Ok(Ok((file, len, version))) => {
                tracing::info!(bytes = len, "sending database snapshot to client");
                Ok(send(file, len, version, permit))
            }
            Ok(Err(Failure::File(error))) => {
                tracing::warn!(%error, "failed to write a database snapshot for a client");
                Err(Status::internal(format!("write database snapshot: {error}")))
            }
            Ok(Err(Failure::Replaced)) => Err(RequestError::TimeoutWaitAppliedIndex.into()),
            Ok(Err(Failure::State(fatal))) => {
                handle.fail(fatal);
                Err(RequestError::Stopped.into())
            }
            // Its thread is gone, as in a node that stops.
            Err(_) => Err(RequestError::Stopped.into()),
        }
    }
}

enum Failure {
    /// The call fails, the member goes on.
    File(io::Error),
    /// A snapshot from the leader was installed while the state was read.
    Replaced,
    State(Fatal),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// Writes the database to a file that has lost its name, and goes back to its beginning.
fn write(path: &Path, capture: &Capture) -> Result<(File, u64, String), Failure> {
    let options =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
    std::fs::remove_file(path)?;
    let mut file = BufWriter::with_capacity(PIECE_LEN, options);
    let mut failed = None;
    let exported = export(capture, &mut |page| {
        file.write_all(page).map_err(|error| {
            failed = Some(error);
            Fatal::new("write database snapshot")
        })
    });
    let Exported { head, len } = match (exported, failed) {
        (_, Some(error)) => return Err(Failure::File(error)),
        (Err(_), None) if !capture.is_intact() => return Err(Failure::Replaced),
        (Err(fatal), None) => return Err(Failure::State(fatal)),
        (Ok(exported), None) => exported,
    };
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&head)?;
    file.seek(SeekFrom::Start(0))?;
    Ok((file, len, version(capture).to_owned()))
}

/// A database on its way to a client.
struct Sending {
    file: File,
    /// Not yet read.
    left: u64,
    /// Read and not yet sent.
    blobs: VecDeque<Bytes>,
    hash: Sha256,
    is_hash_sent: bool,
    _permit: OwnedSemaphorePermit,
}

impl Sending {
    fn read_piece(mut self) -> io::Result<Self> {
        let len = self.left.min(PIECE_LEN as u64);
        let mut piece = vec![0; len as usize];
        self.file.read_exact(&mut piece)?;
        self.hash.update(&piece);
        self.left -= len;
        let mut piece = Bytes::from(piece);
        while !piece.is_empty() {
            self.blobs.push_back(piece.split_to(piece.len().min(BLOB_LEN)));
        }
        Ok(self)
    }

    fn remaining(&self) -> u64 {
        self.left + self.blobs.iter().map(|blob| blob.len() as u64).sum::<u64>()
    }

    /// The checksum of all blobs is the last one.
    fn next_blob(&mut self) -> Option<Bytes> {
        if let Some(blob) = self.blobs.pop_front() {
            return Some(blob);
        }
        if std::mem::replace(&mut self.is_hash_sent, true) {
            return None;
        }
        Some(Bytes::copy_from_slice(&self.hash.finalize_reset()))
    }
}

fn send(
    file: File,
    len: u64,
    version: String,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static {
    let sending = Sending {
        file,
        left: len,
        blobs: VecDeque::new(),
        hash: Sha256::new(),
        is_hash_sent: false,
        _permit: permit,
    };
    try_unfold((sending, version), |(mut sending, version)| async move {
        if sending.blobs.is_empty() && sending.left > 0 {
            let read = tokio::task::spawn_blocking(move || sending.read_piece()).await;
            let read = read.map_err(|_| Status::from(RequestError::Stopped))?;
            sending = read.map_err(|e| Status::internal(format!("read database snapshot: {e}")))?;
        }
        let Some(blob) = sending.next_blob() else { return Ok(None) };
        let remaining_bytes = sending.remaining();
        let message =
            SnapshotResponse { header: None, remaining_bytes, blob, version: version.clone() };
        Ok(Some((message, (sending, version))))
    })
}
