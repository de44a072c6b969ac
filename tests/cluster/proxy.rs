//! Links between members that a test can cut, one way or both, delay and heal.
//!
//! Each member advertises a port of the proxy as its peer address. Who has connected is found
//! by the process that owns the other end of the connection, so that each ordered pair of
//! members is a link of its own, with no privileges needed. A cut link holds its bytes back,
//! as a network that drops packets does: no end learns of it, and what was sent before the
//! cut was healed arrives then. What it cannot do is to reorder, lose or repeat within a
//! connection: TCP hides that from a server anyway.

use super::member::Addresses;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

#[derive(Clone, Copy, Default)]
struct Link {
    is_cut: bool,
    delay: Duration,
}

struct Shared {
    /// By sender, then receiver.
    links: Vec<Vec<watch::Sender<Link>>>,
    processes: Mutex<Vec<Option<u32>>>,
}

pub struct Links {
    shared: Arc<Shared>,
    listeners: Vec<AbortHandle>,
}

/// Chunks on their way: bounds what a delayed or cut link keeps in memory.
const CHUNKS_MAX: usize = 64;

impl Links {
    pub async fn open(addresses: &[Addresses]) -> Links {
        let count = addresses.len();
        let link = || watch::Sender::new(Link::default());
        let links = (0..count).map(|_| (0..count).map(|_| link()).collect()).collect();
        let processes = Mutex::new(vec![None; count]);
        let shared = Arc::new(Shared { links, processes });
        let mut listeners = vec![];
        for (to, member) in addresses.iter().enumerate() {
            let from = ("127.0.0.1", member.advertised_peer);
            let listener = TcpListener::bind(from).await.expect("listen for peers");
            let accepting = accept(shared.clone(), listener, to, member.peer);
            listeners.push(tokio::spawn(accepting).abort_handle());
        }
        Links { shared, listeners }
    }

    pub fn set_process(&self, member: usize, pid: Option<u32>) {
        self.shared.processes.lock().expect("no panic under this lock")[member] = pid;
    }

    /// What `from` sends does not reach `to` any more; the other way stays open.
    pub fn cut_one_way(&self, from: usize, to: usize) {
        self.shared.links[from][to].send_modify(|link| link.is_cut = true);
    }

    pub fn cut(&self, one: usize, other: usize) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Cuts a member off from all others.
    pub fn isolate(&self, member: usize) {
        for other in (0..self.shared.links.len()).filter(|&other| other != member) {
            self.cut(member, other);
        }
    }

    /// Each chunk of bytes from one to the other arrives this much later, in order.
    pub fn delay(&self, from: usize, to: usize, delay: Duration) {
        self.shared.links[from][to].send_modify(|link| link.delay = delay);
    }

    /// No cuts, no delays.
    pub fn heal(&self) {
        for link in self.shared.links.iter().flatten() {
            link.send_replace(Link::default());
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.listeners.iter().for_each(AbortHandle::abort);
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, to: usize, peer: u16) {
    loop {
        let Ok((incoming, source)) = listener.accept().await else { continue };
        let proxy = listener.local_addr().expect("a listener has an address");
        // A connection that is closed already has no owner, and needs none.
        let Some(from) = shared.owner(source, proxy) else { continue };
        tokio::spawn(connect(shared.clone(), incoming, from, to, peer));
    }
}

impl Shared {
    /// Whose process holds the socket that connected from `source`.
    fn owner(&self, source: SocketAddr, proxy: SocketAddr) -> Option<usize> {
        let inode = inode(source.port(), proxy.port())?;
        let socket = format!("socket:[{inode}]");
        let processes = self.processes.lock().expect("no panic under this lock").clone();
        processes.iter().position(|pid| pid.is_some_and(|pid| has_open(pid, &socket)))
    }
}

/// The kernel's number of the socket on 127.0.0.1 between two ports.
fn inode(local: u16, remote: u16) -> Option<String> {
    let (local, remote) = (format!("0100007F:{local:04X}"), format!("0100007F:{remote:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").expect("read the table of sockets");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let matches = fields.len() > 9 && fields[1] == local && fields[2] == remote;
        matches.then(|| fields[9].to_owned())
    })
}

fn has_open(pid: u32, file: &str) -> bool {
    let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    open.flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == file)
}

async fn connect(shared: Arc<Shared>, incoming: TcpStream, from: usize, to: usize, peer: u16) {
    let there = shared.links[from][to].subscribe();
    let back = shared.links[to][from].subscribe();
    // A member that is down refuses: the caller sees its connection closed.
    let mut way = there.clone();
    if way.wait_for(|link| !link.is_cut).await.is_err() {
        return;
    }
    let Ok(outgoing) = TcpStream::connect(("127.0.0.1", peer)).await else { return };
    let nagle = incoming.set_nodelay(true).and(outgoing.set_nodelay(true));
    if nagle.is_err() {
        return;
    }
    let (from_caller, to_caller) = incoming.into_split();
    let (from_member, to_member) = outgoing.into_split();
    tokio::join!(carry(from_caller, to_member, there), carry(from_member, to_caller, back));
}

/// Moves bytes one way until either end closes.
async fn carry(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut link: watch::Receiver<Link>,
) {
    let (sender, mut receiver) = mpsc::channel(CHUNKS_MAX);
    let reading = read(from, sender, link.clone());
    let writing = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            let open = link.wait_for(|link| !link.is_cut).await.is_ok();
            if !open || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        let open = link.wait_for(|link| !link.is_cut).await.is_ok();
        if open {
            // The other end may be gone: then there is nobody to tell.
            let _ = to.shutdown().await;
        }
    };
    tokio::join!(reading, writing);
}

async fn read(
    mut from: impl AsyncRead + Unpin,
    to: mpsc::Sender<(Instant, Bytes)>,
    link: watch::Receiver<Link>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + link.borrow().delay;
        if to.send((due, Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            return;
        }
    }
}
