//! Members as processes: bad input at their start, and what is left after they were killed.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

#[path = "../checker/mod.rs"]
mod checker;
#[path = "../cluster/mod.rs"]
mod cluster;

mod arguments;
mod full_disk;
mod kill;
mod log;
mod rolling;
mod startup;
mod supervisor;
mod sync;
mod upgrade;
mod workload;
