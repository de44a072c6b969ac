//! The faults that come from time to time.

use super::profile::{Fault, MILLI, SECOND};
use super::world::{Event, Phase, World};
use quoin::replica::Input;

impl World {
    /// Sees to the next fault.
    pub fn after_fault(&mut self) {
        let interval = self.profile.fault_interval;
        if interval > 0 {
            let delay = self.fault_random.between(1, 2 * interval);
            self.after(delay, Event::Fault);
        }
    }

    pub fn fault(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        let fault = *self.fault_random.pick(&self.profile.faults);
        self.summary.faults += 1;
        self.trace(|_| format!("fault: {fault:?}"));
        match fault {
            Fault::CrashOne => {
                let id = self.any_member();
                self.crash(id);
            }
            Fault::CrashAll => {
                for id in 1..=self.profile.all() {
                    // Not always all of them, and each restarts in its own time.
                    if !self.fault_random.chance(200) {
                        self.crash(id);
                    }
                }
            }
            Fault::CrashInRound => {
                let id = self.any_member();
                self.doom(id);
            }
            Fault::Pause => {
                let id = self.any_member();
                let pause = self.fault_random.skewed(100 * MILLI, 6 * SECOND);
                self.member(id).paused_until = self.now + pause;
            }
            Fault::Partition | Fault::OneWay | Fault::Bridge => self.cut(fault),
            Fault::TransferLeader => {
                let id = self.any_member();
                self.input(id, Input::TransferLeader { to: None });
            }
            Fault::PartialFlush => {
                let id = self.any_member();
                let disk = &self.members[id as usize - 1].engine_disk;
                disk.flush(self.fault_random.below(disk.unflushed() as u64 + 1) as usize);
            }
        }
        self.after_fault();
    }

    /// Mostly the leader: what happens to it matters most.
    fn any_member(&mut self) -> u64 {
        let is_leader = |id: &u64| {
            let running = self.members[*id as usize - 1].running.as_ref();
            running.is_some_and(|running| running.replica.status().is_leader)
        };
        let leader = (1..=self.profile.all()).find(is_leader);
        match leader {
            Some(leader) if self.fault_random.chance(400) => leader,
            _ => self.fault_random.between(1, self.profile.all()),
        }
    }

    /// Lets the member die while it installs a snapshot.
    pub fn doom_install(&mut self, id: u64) {
        let is_known = self.profile.faults.contains(&Fault::CrashInRound);
        if is_known && self.phase == Phase::Faults && self.fault_random.chance(300) {
            // At the first or second use of the log's disk: both belong to the installation.
            let steps = self.fault_random.below(2) as u32;
            let member = self.member(id);
            if member.running.is_some() && !member.is_doomed {
                member.is_doomed = true;
                member.log_disk.fail_after(steps);
            }
        }
    }

    /// Lets one of the next uses of a disk be the member's last.
    fn doom(&mut self, id: u64) {
        let is_log = self.fault_random.chance(600);
        let steps = self.fault_random.below(8) as u32;
        let member = self.member(id);
        if member.running.is_none() || member.is_doomed {
            return;
        }
        member.is_doomed = true;
        match is_log {
            true => member.log_disk.fail_after(steps),
            false => member.engine_disk.fail_after(steps),
        }
    }

    fn cut(&mut self, fault: Fault) {
        let members = self.profile.all();
        let random = &mut self.fault_random;
        let one = random.between(1, members);
        let others: Vec<u64> = (1..=members).filter(|id| *id != one).collect();
        if others.is_empty() {
            return;
        }
        let other = *random.pick(&others);
        let links: Vec<(u64, u64)> = match fault {
            Fault::Partition => {
                // One alone, or with some of the others.
                let side: Vec<u64> =
                    (1..=members).filter(|id| *id == one || random.chance(250)).collect();
                let away = |id: &u64| !side.contains(id);
                let pairs = side
                    .iter()
                    .flat_map(|a| (1..=members).filter(away).flat_map(move |b| [(*a, b), (b, *a)]));
                pairs.collect()
            }
            Fault::OneWay => match random.below(3) {
                0 => vec![(one, other)],
                1 => others.iter().map(|to| (one, *to)).collect(),
                _ => others.iter().map(|from| (*from, one)).collect(),
            },
            _ => vec![(one, other), (other, one)],
        };
        let duration = random.skewed(100 * MILLI, 6 * SECOND);
        self.network.cut(links);
        self.after(duration, Event::Mend);
    }
}
