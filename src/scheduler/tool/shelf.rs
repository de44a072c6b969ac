//! A worker's artifacts for whoever looks at results: `GET /artifacts/{digest}`, and nothing else.

use crate::scheduler::execute::Artifacts;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use url::Url;

const CHUNK_BYTES: usize = 64 << 10;

/// Listens at a url such as `http://127.0.0.1:0`, and serves as long as the process is there. Returns where.
///
/// # Errors
/// When it is not such a url, or the address cannot be had.
pub(super) async fn serve(listen: &str, artifacts: Artifacts) -> io::Result<String> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "it is not http://ADDRESS:PORT");
    let url = Url::parse(listen).ok().filter(|url| url.scheme() == "http").ok_or_else(wrong)?;
    let address = url.socket_addrs(|| None)?.into_iter().next().ok_or_else(wrong)?;
    let listener = TcpListener::bind::<SocketAddr>(address).await?;
    let url = format!("http://{}/artifacts", listener.local_addr()?);
    let router = Router::new().route("/artifacts/{digest}", get(show)).with_state(artifacts);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::warn!(%error, "artifacts are served no longer");
        }
    });
    Ok(url)
}

/// One artifact, as bytes that no browser shall take for a page.
async fn show(State(artifacts): State<Artifacts>, Path(digest): Path<String>) -> Response {
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = if is_digest { artifacts.read(&digest) } else { Ok(None) };
    let (file, bytes) = match found {
        Ok(Some(found)) => found,
        Ok(None) => {
            return (StatusCode::NOT_FOUND, "no such artifact, or not any more\n").into_response();
        }
        Err(error) => {
            tracing::warn!(%error, digest, "cannot read an artifact");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let chunks =
        futures_util::stream::try_unfold(tokio::fs::File::from_std(file), async |mut file| {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = file.read(&mut chunk).await?;
            chunk.truncate(count);
            Ok::<_, io::Error>((count > 0).then_some((Bytes::from(chunk), file)))
        });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{digest}\"")),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, Body::from_stream(chunks)).into_response()
}
