//! The test-case scheduler: spreads the cases of a run over workers, keeps apart what must not run
//! together, keeps in order what must, and records each result exactly once.
//!
//! It is a stranger to the server: all that it knows is kept in an etcd-compatible store, which it
//! reaches as any client does.

pub mod adapters;
pub mod agent;
pub mod analysis;
pub mod catalog;
pub mod checks;
pub mod client;
mod clock;
mod complaints;
pub mod hooks;
pub mod coordinator;
mod definitions;
pub mod execute;
pub mod junit;
pub mod keys;
pub mod leader;
mod late;
mod lease;
pub mod model;
mod mutes;
pub mod numbers;
mod page;
pub mod planner;
pub mod record;
pub mod service;
pub mod plan_file;
pub mod report;
pub mod steer;
pub mod store;
pub mod submit;
pub mod tool;
pub mod view;
pub mod worker;
