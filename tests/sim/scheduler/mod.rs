//! Simulates the test scheduler: its shipped leader and worker, without their sockets, on a store of
//! paper. After every commit the ledger checks what the manual promises.

mod ledger;
mod load;
mod past;
mod store;
mod world;

use super::world::{Summary, Violation};

pub fn run(seed: u64, trace: bool) -> Result<Summary, Violation> {
    let mut world = world::World::new(seed, trace);
    match world.run() {
        Ok(()) => Ok(Summary {
            events: world.handled,
            operations: world.ledger.results,
            answered: world.ledger.results - world.ledger.lost,
            revisions: world.store.revision as u64,
            terms_led: world.terms,
            faults: world.faults,
            crashes: world.crashes,
            simulated: world.now - 1_000_000,
            ..Default::default()
        }),
        Err(text) => Err(text),
    }
}
