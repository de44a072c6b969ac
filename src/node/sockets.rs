//! Binding the sockets that a node listens on.

use super::secure::Speaks;
use crate::config::{MemberUrl, Scheme};
use crate::describe::os_words;
use crate::error::Fatal;
use crate::server::listener::{Listener, SocketFile};
use std::io;
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A bound socket, and what its URLs say of it.
pub(super) struct Bound {
    /// The first of its URLs.
    pub(super) url: MemberUrl,
    pub(super) speaks: Speaks,
    pub(super) listener: Listener,
}

/// Binds all URLs, several for one address as one socket; with `reuse_port`, beside other processes
/// that do so too.
///
/// # Errors
/// Names the URL that cannot be bound.
pub(super) async fn bind_all(urls: &[MemberUrl], reuse_port: bool) -> Result<Vec<Bound>, Fatal> {
    let mut sockets: Vec<Bound> = Vec::new();
    for url in urls {
        if let Some(same) = sockets.iter_mut().find(|bound| is_same_socket(&bound.url, url)) {
            same.speaks = same.speaks.and(url);
            continue;
        }
        let bound = match url.scheme() {
            Scheme::Unix | Scheme::Unixs => bind_path(Path::new(url.address())),
            Scheme::Http | Scheme::Https => bind_port(url, reuse_port).await,
        };
        let network = if is_file(url) { "unix" } else { "tcp" };
        let listener = bound.map_err(|e| {
            let (address, why) = (url.address(), os_words(&e));
            Fatal::new(format!("listen {network} {address}: bind: {why}"))
        })?;
        sockets.push(Bound { url: url.clone(), speaks: Speaks::of(url), listener });
    }
    Ok(sockets)
}

/// Whether the socket is one in the file system.
fn is_file(url: &MemberUrl) -> bool {
    matches!(url.scheme(), Scheme::Unix | Scheme::Unixs)
}

/// Whether two URLs differ in nothing but TLS.
fn is_same_socket(one: &MemberUrl, other: &MemberUrl) -> bool {
    // Port 0 is another one each time.
    one.address() == other.address()
        && is_file(one) == is_file(other)
        && (is_file(one) || one.port() != 0)
}

/// Takes the place of a socket file that an earlier process left behind, as etcd does.
fn bind_path(path: &Path) -> io::Result<Listener> {
    use std::os::unix::fs::FileTypeExt as _;
    if let Ok(found) = path.symlink_metadata()
        && found.file_type().is_socket()
    {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix { listener, file: SocketFile(path.to_owned()) })
}

/// Binds with address reuse, so that a restart within a second finds its port free.
async fn bind_port(url: &MemberUrl, reuse_port: bool) -> io::Result<Listener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host((url.host(), url.port())).await? {
        let attempt = || -> io::Result<TcpListener> {
            let socket = socket2::Socket::new(
                socket2::Domain::for_address(address),
                socket2::Type::STREAM.nonblocking().cloexec(),
                None,
            )?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(reuse_port)?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        };
        match attempt() {
            Ok(listener) => return Ok(Listener::Tcp(listener)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
