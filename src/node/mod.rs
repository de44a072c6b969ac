//! The composition root: builds engine, log, replica, links, watches and server from a
//! configuration, runs them, and stops them in the reverse order.

mod auto_compaction;
mod corruption;
mod discovery;
mod folder;
mod join;
mod measured;
mod new_cluster;
mod open;
mod parts;
mod process;
mod publish;
mod secure;
mod sockets;
mod srv;
mod start;
mod supervisor;

pub use folder::{Folder, Founder, Identity};
pub use start::{Exit, Node, Start, start};
