//! `save`: a backup from a running member, of either kind.

use super::file::SnapshotFile;
use super::output::print;
use super::{SaveArgs, SnapshotError, TlsArgs};
use crate::pb::etcdserverpb::auth_client::AuthClient;
use crate::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use crate::pb::etcdserverpb::{AuthenticateRequest, SnapshotRequest};
use crate::tls::{DialOptions, Dialer, endpoint_url};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

pub(super) async fn run(args: SaveArgs) -> Result<(), SnapshotError> {
    let [endpoint] = &args.endpoints[..] else {
        return Err(SnapshotError::usage(format!(
            "snapshot must be requested to one selected node, not multiple {:?}",
            args.endpoints
        )));
    };
    let mut part = args.filename.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let fetching = fetch(&args, endpoint, &part);
    let fetched = match args.command_timeout.is_zero() {
        true => fetching.await,
        false => tokio::time::timeout(args.command_timeout, fetching)
            .await
            .unwrap_or_else(|_| Err(SnapshotError::new("context deadline exceeded"))),
    };
    let version = match fetched {
        Ok(version) => version,
        Err(error) => {
            // What was fetched so far is of no use.
            let _absent = fs::remove_file(&part);
            return Err(error);
        }
    };
    let name = args.filename.display();
    fs::rename(&part, &args.filename)
        .and_then(|()| sync_folder(&args.filename))
        .map_err(|e| SnapshotError::new(format!("rename {} to {name}: {e}", part.display())))?;
    print(&format!("Snapshot saved at {name}\n"));
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
async fn fetch(args: &SaveArgs, endpoint: &str, part: &Path) -> Result<String, SnapshotError> {
    let failed = |e: io::Error| SnapshotError::new(format!("write {}: {e}", part.display()));
    let refused = |status: Status| SnapshotError::new(status.message());
    let channel = connect(args, endpoint).await?;
    let mut request = tonic::Request::new(SnapshotRequest {});
    if let Some(token) = token(args, channel.clone()).await? {
        request.metadata_mut().insert("token", token);
    }
    let mut client = MaintenanceClient::new(channel);
    let mut blobs = client.snapshot(request).await.map_err(refused)?.into_inner();
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(part);
    let mut file = BufWriter::with_capacity(1 << 20, file.map_err(failed)?);
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

async fn connect(args: &SaveArgs, endpoint: &str) -> Result<Channel, SnapshotError> {
    let TlsArgs { cacert, cert, key, insecure_skip_tls_verify, insecure_transport } = &args.tls;
    let options = DialOptions {
        ca_file: cacert.clone(),
        cert_file: cert.clone(),
        key_file: key.clone(),
        skips_verification: *insecure_skip_tls_verify,
        ..DialOptions::default()
    };
    let url = endpoint_url(endpoint, options.wants_tls() || !insecure_transport);
    let dialer = Dialer::new(options).map_err(|error| SnapshotError::new(error.to_string()))?;
    let channel = dialer.connect(&url, |channel| channel.connect_timeout(args.dial_timeout)).await;
    channel.map_err(|error| SnapshotError::new(format!("failed to connect to {endpoint}: {error}")))
}

/// Where a user is given, what shows that it is that user.
async fn token(
    args: &SaveArgs,
    channel: Channel,
) -> Result<Option<AsciiMetadataValue>, SnapshotError> {
    let Some(user) = &args.user else { return Ok(None) };
    let (name, password) = match (&args.password, user.split_once(':')) {
        (Some(password), _) => (user.clone(), password.clone()),
        (None, Some((name, password))) => (name.to_owned(), password.to_owned()),
        (None, None) => return Err(SnapshotError::usage("the password of --user is missing")),
    };
    let answer =
        AuthClient::new(channel).authenticate(AuthenticateRequest { name, password }).await;
    let answer = answer.map_err(|status| SnapshotError::new(status.message()))?;
    let token = AsciiMetadataValue::try_from(answer.into_inner().token);
    token.map(Some).map_err(|_| SnapshotError::new("the server's token is no text"))
}
