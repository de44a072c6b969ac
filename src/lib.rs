//! Quoin: a Raft-replicated key-value server that any etcd v3 client can use.
//!
//! Read the modules in this order; `docs/ARCHITECTURE.md` has the table of what
//! each may use and the life of a Put.

pub mod types;
pub mod error;
pub mod planted;
pub mod pb;
pub mod describe;
pub mod metrics;
pub mod config;
pub mod bolt;
pub mod storage;
pub mod mvcc;
pub mod machine;
pub mod backup;
pub mod raft_log;
pub mod replica;
pub mod watch;
pub mod tls;
pub mod dns;
pub mod peer;
pub mod server;
pub mod node;
pub mod logging;
pub mod ctl;
pub mod bench;
pub mod snapshot_tool;
pub mod gateway;
pub mod scheduler;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
