//! The API of the built server as its clients see it: one and three real members, both engines.
//!
//! `single`, `members` and `faults` speak through the client crate alone; the modules that go
//! through the contract row by row use the wire's own stubs, which can send anything.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../checker/mod.rs"]
mod checker;
#[path = "../cluster/mod.rs"]
mod cluster;

mod about;
mod auto_compaction;
mod downgrade;
mod election;
mod auth;
mod auth_matrix;
mod authority;
mod bootstrap;
mod compressed;
mod corruption;
mod credentials;
mod discovery;
mod doors;
mod errors;
mod faults;
mod frames;
mod gateway;
mod gateway_ends;
mod gateway_time;
mod leadership;
mod lease;
mod lock;
mod maintenance;
mod many;
mod members;
mod membership;
mod metrics;
mod model;
mod pages;
mod range;
mod requests;
mod single;
mod tls;
mod tls_members;
mod txn;
mod watch;
mod websocket;
mod write;
