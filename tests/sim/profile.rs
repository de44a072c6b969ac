//! What one seed's world is like: its size, its limits, and which faults it knows.
//!
//! Each seed has some families of faults and not others, and each more or less of them: a
//! world with everything at once finds less.

use super::random::Random;
use quoin::watch::Limits;

/// Microseconds.
pub type Micros = u64;

pub const MILLI: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Chances are out of a thousand.
#[derive(Clone, Debug)]
pub struct Profile {
    pub members: u64,
    /// Members that may be added, and others removed; none in most worlds.
    pub spares: u64,
    /// The engine keeps nothing by itself, and snapshots are stored.
    pub is_volatile: bool,
    pub tick: Micros,
    pub election_ticks: usize,
    pub snapshot_count: u64,
    pub snapshot_pause: Micros,
    pub catch_up_entries: u64,
    pub compaction_entries_max: usize,
    pub inbox_max: usize,
    pub watch_limits: Limits,

    /// How long clients are at work and faults come.
    pub duration: Micros,
    pub clients: usize,
    pub watchers: usize,
    pub keys: u64,
    pub think_max: Micros,
    pub client_timeout: Micros,
    pub with_leases: bool,
    pub with_compaction: bool,

    pub delay_max: Micros,
    /// Messages that take up to `slow_max` instead.
    pub slow: u64,
    pub slow_max: Micros,
    pub loss: u64,
    pub duplicates: u64,
    /// Messages of old that come once more.
    pub replays: u64,
    pub client_loss: u64,
    /// Mean time between two faults; none when 0.
    pub fault_interval: Micros,
    pub faults: Vec<Fault>,
    /// Users, roles and passwords change, and auth is mostly on.
    pub with_auth: bool,
    /// Members' clocks run slow by up to so much. A fast clock would end leases early, by right.
    pub clock_slow: u64,
}

/// Families of faults that come from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    CrashOne,
    CrashAll,
    /// The process dies at a write or sync within a round.
    CrashInRound,
    Pause,
    /// One member alone, or two halves.
    Partition,
    /// One direction of a link, or all that one member sends or hears.
    OneWay,
    /// Two members that cannot reach each other but everybody else.
    Bridge,
    TransferLeader,
    /// The engine writes something back by itself.
    PartialFlush,
}

const FAULTS: [Fault; 9] = [
    Fault::CrashOne,
    Fault::CrashAll,
    Fault::CrashInRound,
    Fault::Pause,
    Fault::Partition,
    Fault::OneWay,
    Fault::Bridge,
    Fault::TransferLeader,
    Fault::PartialFlush,
];

impl Profile {
    pub fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed, "profile");
        let random = &mut random;
        let members = *random.pick(&[1, 3, 3, 3, 3, 3, 3, 5]);
        let tick = *random.pick(&[50, 100]) * MILLI;
        let some = |random: &mut Random, max: u64| {
            if random.chance(500) { random.between(1, max) } else { 0 }
        };
        let faults: Vec<Fault> = FAULTS.into_iter().filter(|_| random.chance(350)).collect();
        Self {
            members,
            is_volatile: random.chance(500),
            tick,
            election_ticks: *random.pick(&[5, 10]),
            snapshot_count: random.skewed(3, 200),
            snapshot_pause: if random.chance(300) { random.between(1, 1_000_000) } else { 0 },
            catch_up_entries: random.skewed(0, 50),
            compaction_entries_max: random.skewed(1, 64) as usize,
            inbox_max: if random.chance(200) { random.between(4, 64) as usize } else { 16_384 },
            watch_limits: Self::watch_limits(random),
            duration: if random.chance(100) {
                random.between(20, 60) * SECOND
            } else {
                random.between(6, 16) * SECOND
            },
            clients: random.between(2, 5) as usize,
            watchers: random.between(1, 4) as usize,
            keys: random.between(2, 8),
            think_max: random.between(5, 200) * MILLI,
            client_timeout: random.between(500, 7000) * MILLI,
            with_leases: random.chance(600),
            with_compaction: random.chance(600),
            delay_max: random.skewed(1, 40) * MILLI,
            slow: some(random, 100),
            slow_max: random.between(50, 5000) * MILLI,
            loss: some(random, 200),
            duplicates: some(random, 200),
            replays: some(random, 100),
            client_loss: some(random, 100),
            fault_interval: if faults.is_empty() { 0 } else { random.between(100, 2000) * MILLI },
            faults,
            clock_slow: some(random, 50),
            // Drawn last, so that worlds without them stay what they were.
            spares: if random.chance(400) { random.between(1, 3) } else { 0 },
            with_auth: random.chance(300),
        }
    }

    /// Members that there can be.
    pub fn all(&self) -> u64 {
        self.members + self.spares
    }

    fn watch_limits(random: &mut Random) -> Limits {
        if random.chance(300) {
            return Limits::default();
        }
        Limits {
            queue_bytes_max: random.skewed(1, 2000) as usize,
            inbox_bytes_max: random.skewed(1, 4000) as usize,
            matches_max: random.skewed(0, 20) as usize,
            history_events_max: random.skewed(1, 20) as usize,
            history_bytes_max: random.skewed(1, 1000) as usize,
        }
    }
}
