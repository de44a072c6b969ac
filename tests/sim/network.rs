//! Links between members: each direction can be cut; messages are lost, late, doubled, and
//! come again long after.

use super::profile::{Micros, Profile};
use super::random::Random;
use quoin::pb::quoinpb::PeerMessage;
use std::collections::BTreeSet;

/// Old messages remembered, to be sent once more.
const ARCHIVED_MAX: usize = 200;

#[derive(Default)]
pub struct Network {
    /// Directions that are cut, as (from, to).
    cuts: BTreeSet<(u64, u64)>,
    archive: Vec<PeerMessage>,
    is_healed: bool,
}

impl Network {
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cuts.contains(&(from, to))
    }

    pub fn cut(&mut self, links: impl IntoIterator<Item = (u64, u64)>) {
        self.cuts.extend(links);
    }

    pub fn mend(&mut self) {
        self.cuts.clear();
    }

    /// From now on every message arrives, soon and once.
    pub fn heal(&mut self) {
        self.mend();
        self.archive.clear();
        self.is_healed = true;
    }

    pub fn delay(&self, profile: &Profile, random: &mut Random) -> Micros {
        if !self.is_healed && random.chance(profile.slow) {
            return random.between(0, profile.slow_max);
        }
        random.skewed(20, profile.delay_max)
    }

    /// What arrives because this message is sent, and how much later.
    pub fn send(
        &mut self,
        message: PeerMessage,
        profile: &Profile,
        random: &mut Random,
    ) -> Vec<(Micros, PeerMessage)> {
        let mut arriving = Vec::new();
        if self.is_cut(message.from, message.to) {
            return arriving;
        }
        if self.is_healed {
            arriving.push((self.delay(profile, random), message));
            return arriving;
        }
        if random.chance(profile.replays) && !self.archive.is_empty() {
            let old = random.pick(&self.archive).clone();
            if !self.is_cut(old.from, old.to) {
                arriving.push((self.delay(profile, random), old));
            }
        }
        if profile.replays > 0 {
            let place = random.below(ARCHIVED_MAX as u64) as usize;
            match self.archive.get_mut(place) {
                Some(archived) => *archived = message.clone(),
                None => self.archive.push(message.clone()),
            }
        }
        if random.chance(profile.duplicates) {
            arriving.push((self.delay(profile, random), message.clone()));
        }
        if !random.chance(profile.loss) {
            arriving.push((self.delay(profile, random), message));
        }
        arriving
    }
}
