//! `save`: a backup from a running member, of either kind.

use super::file::SnapshotFile;
use super::output::print;
use super::{SaveArgs, SnapshotError};
use crate::ctl::{self, Failure, Options, os_words};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tonic::Status;

pub(super) async fn run(args: SaveArgs, options: &Options) -> Result<(), SnapshotError> {
    let [filename] = &args.filename[..] else {
        return Err(SnapshotError::usage("snapshot save expects one argument <filename>"));
    };
    save(filename, options).await.map_err(SnapshotError::of_save)
}

async fn save(filename: &Path, options: &Options) -> Result<(), SnapshotError> {
    let endpoints = options.endpoints().await?;
    if endpoints.len() > 1 {
        return Err(SnapshotError::new(format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            endpoints.join(" ")
        )));
    }
    let mut part = filename.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let name = part.display();
    // First, since what cannot be written need not be fetched.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part);
    let file = file.map_err(|e| {
        SnapshotError::new(format!("could not open {name} (open {name}: {})", os_words(&e)))
    })?;
    let fetching = fetch(options, &part, file);
    let fetched = match options.timeout_if_given() {
        None => fetching.await,
        Some(time) => tokio::time::timeout(time, fetching)
            .await
            .unwrap_or_else(|_| Err(SnapshotError::new("context deadline exceeded"))),
    };
    let renamed = fetched.and_then(|version| {
        let to = filename.display();
        let renamed = fs::rename(&part, filename).and_then(|()| sync_folder(filename));
        renamed.map(|()| version).map_err(|e| {
            let why = os_words(&e);
            SnapshotError::new(format!(
                "could not rename {name} to {to} (rename {name} {to}: {why})"
            ))
        })
    });
    let version = match renamed {
        Ok(version) => version,
        Err(error) => {
            // What was fetched so far is of no use.
            let _absent = fs::remove_file(&part);
            return Err(error);
        }
    };
    print(&format!("Snapshot saved at {}\n", filename.display()));
    if !version.is_empty() {
        print(&format!("Server version {version}\n"));
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes what the member sends, durably, and checks it; returns the storage version.
async fn fetch(options: &Options, part: &Path, file: File) -> Result<String, SnapshotError> {
    let failed = |e: io::Error| SnapshotError::new(format!("write {}: {e}", part.display()));
    let refused = |status: Status| SnapshotError::from(Failure::from(status));
    let mut blobs = ctl::backup(options).await?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut version = String::new();
    while let Some(message) = blobs.message().await.map_err(refused)? {
        file.write_all(&message.blob).map_err(failed)?;
        version = message.version;
    }
    let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    let saved = SnapshotFile::open(part)?;
    saved.check_hash().map_err(|error| {
        SnapshotError::new(format!("what the server sent is not whole: {error}"))
    })?;
    Ok(version)
}
