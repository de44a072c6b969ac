//! An operator who changes the members while all goes on: adds, promotes and removes them.

use super::calls::REQUEST_TIMEOUT;
use super::member::Running;
use super::profile::{MILLI, SECOND};
use super::world::{Event, Phase, World};
use quoin::machine::encode_command;
use quoin::pb::etcdserverpb;
use quoin::pb::quoinpb::{MemberAdd, MemberChange, command::Request as Command};
use quoin::replica::Input;
use quoin::types::{MemberId, RequestId};

/// Chances, out of a thousand, that a member's tick is also a look at another member, who may know
/// that this one was removed. In life each second brings one.
const PROBES: u64 = 100;

impl World {
    /// Sees to the next change.
    pub fn after_change(&mut self) {
        if self.profile.spares > 0 {
            let delay = self.work_random.between(200 * MILLI, 4 * SECOND);
            self.after(delay, Event::Change);
        }
    }

    /// Asks a member for a change that makes sense from where it stands.
    pub fn change(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        self.after_change();
        let via = self.work_random.between(1, self.profile.all());
        let Some(command) = self.wanted_change(via) else { return };
        let now = self.now;
        let member = self.member(via);
        let deadline = member.local(now) + REQUEST_TIMEOUT;
        let boot = (via << 32) + member.boot * 2;
        let Some(running) = &mut member.running else { return };
        running.sequence += 1;
        running.changes.insert(running.sequence);
        let id = RequestId { member: MemberId(via), boot, sequence: running.sequence };
        self.trace(|_| format!("operator asks {via}, {}: {command:?}", id.sequence));
        self.input(via, Input::Propose { id, command: encode_command(id, command), deadline });
    }

    fn wanted_change(&mut self, via: u64) -> Option<Command> {
        let (first_spare, all) = (self.profile.members + 1, self.profile.all());
        let members = self.running(via)?.replica.machine().members().clone();
        let learner = members.all().values().find(|member| member.is_learner).map(|m| m.id);
        if let Some(member_id) = learner
            && self.work_random.chance(600)
        {
            return Some(Command::MemberPromote(MemberChange { member_id }));
        }
        let is_new = |id: &u64| {
            let id = MemberId(*id);
            members.get(id).is_none() && !members.is_removed(id)
        };
        let new = (first_spare..=all).find(is_new);
        if let Some(id) = new
            && self.work_random.chance(600)
        {
            let member = etcdserverpb::Member {
                id,
                peer_ur_ls: vec![format!("http://{id}")],
                is_learner: self.work_random.chance(500),
                ..Default::default()
            };
            return Some(Command::MemberAdd(MemberAdd { member: Some(member), learners_max: 1 }));
        }
        let ids: Vec<u64> = members.all().keys().map(|id| id.0).collect();
        let voters = members.all().values().filter(|member| !member.is_learner).count();
        // Some must stay whom the clients know.
        let founders = ids.iter().filter(|id| **id < first_spare).count();
        let member_id = *self.work_random.pick(&ids);
        let may_go = voters > 1 && (member_id >= first_spare || founders > 1);
        may_go.then_some(Command::MemberRemove(MemberChange { member_id }))
    }

    /// Follows what a member has applied: those that were added are started.
    pub fn members_changed(&mut self, id: u64) {
        let Some(running) = self.running(id) else { return };
        let known: Vec<u64> =
            running.replica.machine().members().all().keys().map(|id| id.0).collect();
        for id in known {
            if !std::mem::replace(&mut self.member(id).may_start, true) {
                self.summary.joined += 1;
                let delay = self.time_random.between(0, 2 * SECOND);
                self.after(delay, Event::Start { member: id });
            }
        }
    }

    /// A member that learns of its removal ends, for good.
    pub fn leave_if_removed(&mut self, id: u64) {
        if self.running(id).is_some_and(|running| running.replica.status().is_removed) {
            self.crash(id);
            self.member(id).may_start = false;
            self.summary.removed += 1;
            self.trace(|_| format!("{id} leaves, removed"));
        }
    }

    /// Looks, now and then, whether another member knows that this one was removed.
    pub fn probe(&mut self, id: u64) {
        if self.profile.spares == 0 || !self.time_random.chance(PROBES) {
            return;
        }
        let other = self.time_random.between(1, self.profile.all());
        let is_cut = self.network.is_cut(id, other) || self.network.is_cut(other, id);
        let knows =
            |running: &mut Running| running.replica.machine().members().is_removed(MemberId(id));
        if !is_cut && self.running(other).is_some_and(knows) {
            self.input(id, Input::ToldRemoved);
        }
    }

    /// The members as the one knows them that has applied most.
    pub fn current_members(&self) -> Vec<u64> {
        let running = self.members.iter().filter_map(|member| member.running.as_ref());
        let newest = running.max_by_key(|running| running.replica.status().applied_index);
        let members = newest.map(|running| running.replica.machine().members().all().keys());
        members.into_iter().flatten().map(|id| id.0).collect()
    }
}
