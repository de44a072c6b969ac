//! The composition root: builds engine, log, replica, links, watches and server from a
//! configuration, runs them, and stops them in the reverse order.

mod auto_compaction;
mod corruption;
mod folder;
mod join;
mod open;
mod parts;
mod sockets;
mod start;

pub use folder::{Folder, Founder, Identity};
pub use start::{Exit, run};
