//! One member: raft, its log and the state machine, driven by one thread.
//!
//! The brain (`replica`, `round`, `input`, `inbound`, `install`, `pending`, `reads`, `lessor`,
//! `retention`, `peer_message`, `settings`) is pure: inputs in, outputs out, so that the simulation runs the very code that
//! ships. `driver` is the thread around it, `stopwatch` its clock, and `handle` what everybody else holds.

mod changes;
mod driver;
mod handle;
mod inbound;
mod input;
mod install;
mod lessor;
mod peer_message;
mod own;
mod pending;
mod reads;
#[expect(clippy::module_inception, reason = "the type's own file, beside its parts")]
mod replica;
mod retention;
mod round;
#[cfg(test)]
mod scripts;
mod serving;
mod settings;
mod stopwatch;

pub use driver::{Driver, DriverParts};
pub use handle::Handle;
pub use input::{
    Effect, Input, LeaseCall, LeaseCounts, Millis, Output, ReceivedSnapshot, Reply, SnapshotBlocks,
    Status,
};
pub use install::{complete_install, replay};
pub use replica::Replica;
pub use settings::Settings;
pub use stopwatch::Stopwatch;
