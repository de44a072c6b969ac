//! Ports that no other test has, and that no outgoing connection can take in between.
//!
//! Ports handed out by the kernel are also what outgoing connections get as their own, so a
//! member that is restarted could find its port taken. These come from below that region, in
//! blocks: a test holds a listener on a block's first port for as long as it uses the rest.

use std::net::TcpListener;

const FIRST: u16 = 10_000;
const BLOCK: u16 = 16;
const BLOCKS: u16 = 1_400;

pub struct Ports {
    _guard: TcpListener,
    next: u16,
    end: u16,
}

impl Ports {
    pub fn reserve() -> Ports {
        use std::sync::atomic::{AtomicU32, Ordering};
        static TRIES: AtomicU32 = AtomicU32::new(0);
        // Processes start at different places, so that they seldom meet.
        let start = std::process::id().wrapping_mul(7919);
        for _ in 0..BLOCKS {
            let step = TRIES.fetch_add(1, Ordering::Relaxed);
            let block = (start.wrapping_add(step) % u32::from(BLOCKS)) as u16;
            let first = FIRST + block * BLOCK;
            let Ok(guard) = TcpListener::bind(("127.0.0.1", first)) else { continue };
            let ports = Ports { _guard: guard, next: first + 1, end: first + BLOCK };
            if (ports.next..ports.end).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
                return ports;
            }
        }
        panic!("no free block of ports");
    }

    pub fn take(&mut self) -> u16 {
        assert!(self.next < self.end, "a test needs at most {} ports", BLOCK - 1);
        self.next += 1;
        self.next - 1
    }
}
