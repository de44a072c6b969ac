//! Quoin: a Raft-replicated key-value server that any etcd v3 client can use.
//!
//! Read the modules in this order; `docs/ARCHITECTURE.md` has the table of what
//! each may use and the life of a Put.

pub mod bench;
pub mod config;
pub mod error;
pub mod logging;
pub mod machine;
pub mod mvcc;
pub mod node;
pub mod pb;
pub mod peer;
pub mod raft_log;
pub mod replica;
pub mod server;
pub mod storage;
pub mod types;
pub mod watch;
