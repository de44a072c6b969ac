//! Backups and migration: the Snapshot call, `quoin snapshot`, and the way from etcd and back.
//!
//! Where etcd and its tools are needed and missing (scripts/etcd builds them), the test says so by
//! its name and does nothing.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../cluster/mod.rs"]
mod cluster;

mod member;
mod migration;
mod stream;
mod tool;
