//! Members as processes: bad input at their start, and what is left after they were killed.

#[path = "../checker/mod.rs"]
mod checker;
#[path = "../cluster/mod.rs"]
mod cluster;
