//! The command line of `quoin`, compared with etcdctl 3.7.1.
//!
//! Sessions are command lines with what etcdctl answers to them on one of our members, in
//! `tests/ctl/sessions`. Here `quoin` is asked the same and must answer the same, but for ids, times
//! and sizes: output, errors and exit codes. `QUOIN_RECORD_ETCDCTL=/path/to/etcdctl` records the
//! sessions anew.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod own;
mod session;
