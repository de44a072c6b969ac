//! The cluster's members as the log decides them, and who of them votes.
//!
//! Mirrors the space `member`; both change together, in the batch of the entry that causes it. An
//! id that was removed stays known: it never comes back, and whoever bears it is told to go.

use super::table::read_all;
use super::{Applied, META_CONFIGURATION, Machine, Response};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::Member;
use crate::pb::quoinpb::command::Request;
use crate::pb::quoinpb::{Configuration, MemberAdd, MemberAttributes, MemberUpdate};
use crate::storage::{Engine, Space, WriteBatch};
use crate::types::MemberId;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// How a change of members changes who votes and who only follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigurationChange {
    AddVoter(MemberId),
    AddLearner(MemberId),
    Remove(MemberId),
}

/// All members. Invariant: those that are learners and those that are not are the learners and the
/// voters of the configuration beside it.
#[derive(Clone, Debug, Default)]
pub struct MemberTable {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

impl MemberTable {
    pub(super) fn open(engine: &dyn Engine) -> Result<Self, Fatal> {
        let mut table = Self::default();
        read_all(engine, Space::Member, "members", &mut |key, value| {
            let id = u64::from_be_bytes(key.try_into().ok()?);
            if value.as_slice().is_empty() {
                table.removed.insert(MemberId(id));
                return Some(());
            }
            let member = Member::decode(value.as_slice()).ok().filter(|member| member.id == id)?;
            table.insert(member);
            Some(())
        })?;
        Ok(table)
    }

    /// The members by id.
    pub fn all(&self) -> &BTreeMap<MemberId, Member> {
        &self.members
    }

    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether this id was a member's and will never be one again.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// The ids that were members'.
    pub fn removed(&self) -> &BTreeSet<MemberId> {
        &self.removed
    }

    /// Who votes and who only follows.
    pub(super) fn configuration(&self) -> Configuration {
        let ids = |learners: bool| {
            let chosen = self.members.values().filter(|member| member.is_learner == learners);
            chosen.map(|member| member.id).collect()
        };
        Configuration { voters: ids(false), learners: ids(true) }
    }

    fn insert(&mut self, member: Member) {
        self.members.insert(MemberId(member.id), member);
    }

    pub(super) fn put(&mut self, member: Member, batch: &mut WriteBatch) {
        batch.put(Space::Member, member.id.to_be_bytes().to_vec(), member.encode_to_vec());
        self.insert(member);
    }

    fn has_url_of(&self, urls: &[String], except: u64) -> bool {
        let others = self.members.values().filter(|member| member.id != except);
        others.flat_map(|member| &member.peer_ur_ls).any(|url| urls.contains(url))
    }

    /// # Errors
    /// `MemberNotFound` for an id that was removed, `MemberExists`, `PeerUrlExists`,
    /// `TooManyLearners`.
    pub(super) fn add(
        &mut self,
        request: MemberAdd,
        batch: &mut WriteBatch,
    ) -> Result<ConfigurationChange, RequestError> {
        let member = request.member.unwrap_or_default();
        let id = MemberId(member.id);
        if self.is_removed(id) {
            return Err(RequestError::MemberNotFound);
        }
        if self.members.contains_key(&id) {
            return Err(RequestError::MemberExists);
        }
        if self.has_url_of(&member.peer_ur_ls, member.id) {
            return Err(RequestError::PeerUrlExists);
        }
        let learners = self.members.values().filter(|member| member.is_learner).count();
        if member.is_learner && learners >= request.learners_max as usize {
            return Err(RequestError::TooManyLearners);
        }
        let change = match member.is_learner {
            true => ConfigurationChange::AddLearner(id),
            false => ConfigurationChange::AddVoter(id),
        };
        self.put(member, batch);
        Ok(change)
    }

    /// # Errors
    /// `MemberNotFound`; `NotEnoughStartedMembers` when nobody who votes would be left.
    pub(super) fn remove(
        &mut self,
        id: MemberId,
        batch: &mut WriteBatch,
    ) -> Result<ConfigurationChange, RequestError> {
        if !self.members.contains_key(&id) {
            return Err(RequestError::MemberNotFound);
        }
        if self.configuration().voters == [id.0] {
            return Err(RequestError::NotEnoughStartedMembers);
        }
        self.members.remove(&id);
        self.removed.insert(id);
        batch.put(Space::Member, id.0.to_be_bytes().to_vec(), Vec::new());
        Ok(ConfigurationChange::Remove(id))
    }

    /// Removes all others. The one that stays votes, whatever it was.
    pub(super) fn keep_only(&mut self, own: Member, batch: &mut WriteBatch) {
        let id = MemberId(own.id);
        let others: Vec<MemberId> =
            self.members.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.members.remove(&other);
            self.removed.insert(other);
            batch.put(Space::Member, other.0.to_be_bytes().to_vec(), Vec::new());
        }
        self.removed.remove(&id);
        self.put(Member { is_learner: false, ..own }, batch);
    }

    /// # Errors
    /// `MemberNotFound`, `NotLearner`.
    pub(super) fn promote(
        &mut self,
        id: MemberId,
        batch: &mut WriteBatch,
    ) -> Result<ConfigurationChange, RequestError> {
        let member = self.members.get(&id).ok_or(RequestError::MemberNotFound)?;
        if !member.is_learner {
            return Err(RequestError::NotLearner);
        }
        self.put(Member { is_learner: false, ..member.clone() }, batch);
        Ok(ConfigurationChange::AddVoter(id))
    }

    /// # Errors
    /// `MemberNotFound`, `PeerUrlExists`.
    pub(super) fn update(
        &mut self,
        request: MemberUpdate,
        batch: &mut WriteBatch,
    ) -> Result<(), RequestError> {
        let id = MemberId(request.member_id);
        let member = self.members.get(&id).ok_or(RequestError::MemberNotFound)?;
        if self.has_url_of(&request.peer_urls, id.0) {
            return Err(RequestError::PeerUrlExists);
        }
        self.put(Member { peer_ur_ls: request.peer_urls, ..member.clone() }, batch);
        Ok(())
    }

    /// # Errors
    /// `MemberNotFound`.
    pub(super) fn set_attributes(
        &mut self,
        request: MemberAttributes,
        batch: &mut WriteBatch,
    ) -> Result<(), RequestError> {
        let id = MemberId(request.member_id);
        let member = self.members.get(&id).ok_or(RequestError::MemberNotFound)?;
        let (name, client_ur_ls) = (request.name, request.client_urls);
        self.put(Member { name, client_ur_ls, ..member.clone() }, batch);
        Ok(())
    }
}

impl Machine {
    /// A change of members, and with it of who votes.
    pub(super) fn change_members(
        &mut self,
        request: Request,
        batch: &mut WriteBatch,
        applied: &mut Applied,
    ) -> Result<Response, RequestError> {
        let members = &mut self.members;
        applied.configuration_change = match request {
            Request::MemberAdd(request) => Some(members.add(request, batch)?),
            Request::MemberPromote(request) => {
                Some(members.promote(MemberId(request.member_id), batch)?)
            }
            Request::MemberRemove(request) => {
                Some(members.remove(MemberId(request.member_id), batch)?)
            }
            Request::MemberUpdate(request) => {
                members.update(request, batch)?;
                None
            }
            _ => None,
        };
        applied.members_changed = true;
        self.configuration = members.configuration();
        batch.put(Space::Meta, META_CONFIGURATION, self.configuration.encode_to_vec());
        Ok(Response::Members(members.all().values().cloned().collect()))
    }
}
