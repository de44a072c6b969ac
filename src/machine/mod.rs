//! The replicated state machine: a committed command goes in, a response and events come out.
//!
//! Deterministic: every member that applies the same entries holds the same state and
//! makes the same responses; nothing here reads a clock or draws a number. All that one
//! call of [`Machine::apply`] changes - keys, leases, members and the applied index -
//! reaches the engine in one batch, so a crash never separates them. What it leaves out:
//! deadlines of leases (leader's business, `replica::lessor`) and request checks that need no
//! state (`server::validate`).

mod alarm;
mod auth;
mod command;
mod founding;
mod lease;
mod members;
mod observer;
mod permission;
#[cfg(test)]
mod scripts;
mod snapshot;
mod table;
mod tokens;
mod version;

pub use alarm::AlarmTable;
pub use auth::{AuthState, AuthView, ROOT};
pub use command::{
    changes_configuration, counted_len, decode_command, encode_command, encode_command_of,
};
pub use founding::{FOUNDED_AT, found, found_attachment, found_lease};
pub use lease::LeaseTable;
pub use members::{ConfigurationChange, MemberTable};
pub use observer::{Observer, Operation};
pub use permission::{Caller, Need};
pub use snapshot::{Capture, restore};

use crate::error::{Fatal, RequestError};
use crate::mvcc::{Commit, CompactionProgress, LeaseChange, Mvcc, View};
use crate::pb::etcdserverpb::{
    AlarmResponse, CompactionRequest, CompactionResponse, DeleteRangeResponse, LeaseGrantResponse,
    LeaseRevokeResponse, Member, PutResponse, ResponseHeader, TxnResponse,
};
use crate::pb::quoinpb::{Configuration, command::Request};
use crate::planted::{self, Bug};
use crate::storage::{Engine, Space, WriteBatch};
use crate::types::{Index, RequestId, Term};
use auth::AuthTable;
use bytes::{Buf, BufMut, Bytes};
use command::{Parts, decode_parts};
use prost::Message;
use std::sync::Arc;
use version::{META_CLUSTER_VERSION, Versions};

/// Meta keys of the machine; `mvcc` keeps its own beside them.
const META_APPLIED: &[u8] = b"machine/applied";
const META_CONFIGURATION: &[u8] = b"machine/configuration";
const META_FORMAT: &[u8] = b"machine/format";

/// The layout of the stored state. A folder with another number is refused.
const FORMAT: u32 = 1;

/// A committed entry, stripped of raft's types. `command` is empty for the entry that a
/// new leader commits to open its term.
#[derive(Clone, Debug)]
pub struct CommittedEntry {
    pub index: Index,
    pub term: Term,
    pub command: Bytes,
}

/// What a request came to on every member alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub id: RequestId,
    pub result: Result<Response, RequestError>,
}

/// The answer to a replicated request. Headers carry the revision only.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    /// `physical`: to be answered only when the physical removal has finished here.
    Compact {
        response: CompactionResponse,
        physical: bool,
    },
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    Alarm(AlarmResponse),
    /// All members after a change.
    Members(Vec<Member>),
    /// A user's password was right: the token that was given out, or none if the member that was
    /// asked makes it, and the auth revision of that moment.
    Authenticated {
        token: String,
        auth_revision: u64,
    },
    /// A change of members' attributes, of the cluster's versions, or of users and roles.
    Done,
}

/// Everything that one [`Machine::apply`] call brought about, in log order.
#[derive(Debug, Default)]
pub struct Applied {
    pub outcomes: Vec<Outcome>,
    pub commits: Vec<Commit>,
    /// Leases granted (id, TTL in seconds) and removed, for the lessor.
    pub granted: Vec<(i64, i64)>,
    pub revoked: Vec<i64>,
    /// How many of these had expired.
    pub expired: usize,
    /// Of the last entry, if it changed who votes or who only follows.
    pub configuration_change: Option<ConfigurationChange>,
    /// Members, the cluster's versions or alarms.
    pub members_changed: bool,
}

/// The state at the moment of the last applied entry.
pub struct Machine {
    engine: Arc<dyn Engine>,
    mvcc: Mvcc,
    leases: LeaseTable,
    alarms: AlarmTable,
    auth: AuthTable,
    members: MemberTable,
    configuration: Configuration,
    versions: Versions,
    applied_index: Index,
    applied_term: Term,
    /// Where the log ended when this process started.
    log_found: (Term, Index),
    observer: Option<Box<dyn Observer>>,
}

impl Machine {
    /// Reads the state that the engine holds.
    ///
    /// # Errors
    /// When a record cannot be decoded or the folder has another format.
    pub fn open(engine: Arc<dyn Engine>) -> Result<Self, Fatal> {
        let mut machine = Self {
            mvcc: Mvcc::open(engine.clone())?,
            leases: LeaseTable::default(),
            alarms: AlarmTable::default(),
            auth: AuthTable::open(engine.as_ref(), AuthView::default())?,
            members: MemberTable::default(),
            configuration: Configuration::default(),
            versions: Versions::default(),
            applied_index: 0,
            applied_term: 0,
            log_found: (0, 0),
            observer: None,
            engine,
        };
        machine.load()?;
        Ok(machine)
    }

    /// Reads everything but `mvcc` from the engine.
    fn load(&mut self) -> Result<(), Fatal> {
        let engine = self.engine.as_ref();
        if let Some(format) = engine.get(Space::Meta, META_FORMAT)? {
            let found = format.as_ref().try_get_u32().map_err(|e| Fatal::with("read format", e))?;
            if found != FORMAT {
                return Err(Fatal::new(format!(
                    "open state of format {found}: this version reads format {FORMAT} only"
                )));
            }
        }
        (self.applied_index, self.applied_term) = match engine.get(Space::Meta, META_APPLIED)? {
            Some(value) => decode_applied(&value)?,
            None => (0, 0),
        };
        self.configuration = match engine.get(Space::Meta, META_CONFIGURATION)? {
            Some(value) => {
                Configuration::decode(value).map_err(|e| Fatal::with("read configuration", e))?
            }
            None => Configuration::default(),
        };
        self.versions = Versions::open(engine)?;
        self.leases = LeaseTable::open(engine)?;
        self.alarms = AlarmTable::open(engine)?;
        self.auth = AuthTable::open(engine, self.auth.view().clone())?;
        self.members = MemberTable::open(engine)?;
        Ok(())
    }

    /// Gives a fresh state its first members. Every member of a new cluster calls this with the
    /// same list, so that all start from one state at index 0.
    ///
    /// # Errors
    /// When the state is not fresh, or the engine fails.
    pub fn bootstrap(&mut self, members: Vec<Member>) -> Result<(), Fatal> {
        if self.is_bootstrapped() || self.applied_index != 0 {
            return Err(Fatal::new("bootstrap a state that already has members"));
        }
        let mut batch = WriteBatch::new();
        for member in members {
            self.members.put(member, &mut batch);
        }
        self.configuration = self.members.configuration();
        batch.put(Space::Meta, META_FORMAT, FORMAT.to_be_bytes().to_vec());
        batch.put(Space::Meta, META_CONFIGURATION, self.configuration.encode_to_vec());
        batch.put(Space::Meta, META_APPLIED, encode_applied(0, 0));
        self.engine.write(batch)
    }

    /// Makes this the only member, as no entry of the log does: for a member that goes on alone,
    /// with a log that begins here. The applied index stays.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn become_sole_member(&mut self, own: Member) -> Result<(), Fatal> {
        let mut batch = WriteBatch::new();
        self.members.keep_only(own, &mut batch);
        self.configuration = self.members.configuration();
        batch.put(Space::Meta, META_CONFIGURATION, self.configuration.encode_to_vec());
        self.engine.write(batch)
    }

    pub fn is_bootstrapped(&self) -> bool {
        !self.configuration.voters.is_empty()
    }

    pub fn applied_index(&self) -> Index {
        self.applied_index
    }

    /// The term of the entry at the applied index.
    pub fn applied_term(&self) -> Term {
        self.applied_term
    }

    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    pub fn members(&self) -> &MemberTable {
        &self.members
    }

    pub fn cluster_version(&self) -> Option<&str> {
        self.versions.cluster()
    }

    /// The version that the cluster is asked to go down to.
    pub fn downgrade_target(&self) -> Option<&str> {
        self.versions.downgrade()
    }

    pub fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    pub fn alarms(&self) -> &AlarmTable {
        &self.alarms
    }

    pub fn view(&self) -> View {
        self.mvcc.view()
    }

    pub fn auth(&self) -> &AuthState {
        self.auth.state()
    }

    pub fn auth_view(&self) -> AuthView {
        self.auth.view().clone()
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Tells where the log ended when this process started. Tokens that entries up to there gave out
    /// have ended with the process before, here, whether or not those entries are applied once more.
    /// Answers and what is stored do not depend on it.
    pub fn found_log(&mut self, end: Index, term: Term) {
        self.log_found = (term, end);
    }

    /// Applies entries in order and writes one batch. The changes are visible to readers on return.
    ///
    /// # Errors
    /// On a gap in the indexes, an entry that cannot be decoded, or a failing engine: the node
    /// must stop, since the other members may have gone on.
    pub fn apply(&mut self, entries: &[CommittedEntry]) -> Result<Applied, Fatal> {
        let mut applied = Applied::default();
        if entries.is_empty() {
            return Ok(applied);
        }
        let mut batch = WriteBatch::new();
        self.tell(|observer| observer.begins());
        for entry in entries {
            assert_eq!(entry.index, self.applied_index + 1, "entries are applied in index order");
            assert!(entry.term >= self.applied_term, "terms never fall along the log");
            if !entry.command.is_empty() {
                let operation = self
                    .apply_command(entry, &mut batch, &mut applied)
                    .map_err(|e| Fatal::with(format!("apply entry {}", entry.index), e))?;
                if let Some(outcome) = applied.outcomes.last() {
                    self.tell(|observer| observer.applied(operation, &entry.command, outcome));
                }
            }
            self.applied_index = entry.index;
            self.applied_term = entry.term;
        }
        if planted::has(Bug::AppliedIndexApart) {
            self.engine.write(std::mem::take(&mut batch))?;
        }
        batch.put(Space::Meta, META_APPLIED, encode_applied(self.applied_index, self.applied_term));
        self.mvcc.store_size(&mut batch);
        self.engine.write(batch)?;
        // First, so that nobody reads what was written after a right was withdrawn from them.
        self.auth.publish();
        self.mvcc.publish();
        Ok(applied)
    }

    fn apply_command(
        &mut self,
        entry: &CommittedEntry,
        batch: &mut WriteBatch,
        applied: &mut Applied,
    ) -> Result<Operation, Fatal> {
        let command = decode_parts(entry.command.clone())?;
        let operation = Operation::of(&command.request);
        let checked = self.check(&command);
        let Parts { id, request, .. } = command;
        if let Err(refused) = checked {
            applied.outcomes.push(Outcome { id, result: Err(refused) });
            return Ok(operation);
        }
        let result = match request {
            Request::Put(request) => {
                let mut txn = self.mvcc.begin(batch);
                let result = txn.put(&request, &|id| self.leases.contains(id))?;
                let finished = txn.finish();
                self.finish_write(finished.commit, finished.lease_changes, batch, applied);
                result.map(Response::Put)
            }
            Request::DeleteRange(request) => {
                let mut txn = self.mvcc.begin(batch);
                let response = txn.delete_range(&request)?;
                let finished = txn.finish();
                self.finish_write(finished.commit, finished.lease_changes, batch, applied);
                Ok(Response::DeleteRange(response))
            }
            Request::Txn(request) => {
                let leases = &self.leases;
                let mut txn = self.mvcc.begin(batch);
                let result = txn.txn(&request, &|id| leases.contains(id))?;
                let finished = txn.finish();
                self.finish_write(finished.commit, finished.lease_changes, batch, applied);
                result.map(Response::Txn)
            }
            Request::Compaction(request) => self.compact(&request, batch)?,
            Request::LeaseGrant(request) => self.grant(&request, batch, applied),
            Request::LeaseRevoke(request) => self.revoke_all(&request, batch, applied)?,
            Request::MemberAttributes(request) => {
                self.members.set_attributes(request, batch).map(|()| {
                    applied.members_changed = true;
                    Response::Done
                })
            }
            request @ (Request::MemberAdd(_)
            | Request::MemberUpdate(_)
            | Request::MemberPromote(_)
            | Request::MemberRemove(_)) => self.change_members(request, batch, applied),
            Request::Alarm(request) => {
                let alarms = self.alarms.carry_out(&request, batch);
                applied.members_changed = true;
                Ok(Response::Alarm(AlarmResponse { header: Some(self.header()), alarms }))
            }
            Request::ClusterVersion(request) => {
                self.versions.set_cluster(request.version, batch);
                applied.members_changed = true;
                Ok(Response::Done)
            }
            Request::Downgrade(request) => {
                self.versions.set_downgrade(request.target, batch);
                applied.members_changed = true;
                Ok(Response::Done)
            }
            request => self.change_auth(request, entry, batch)?,
        };
        applied.outcomes.push(Outcome { id, result });
        Ok(operation)
    }

    fn change_auth(
        &mut self,
        request: Request,
        entry: &CommittedEntry,
        batch: &mut WriteBatch,
    ) -> Result<Result<Response, RequestError>, Fatal> {
        let is_new = (entry.term, entry.index) > self.log_found;
        self.auth.apply(request, entry.index, is_new, batch)
    }

    /// Whether alarms and the caller's rights let a command pass.
    fn check(&self, command: &Parts) -> Result<(), RequestError> {
        self.alarms.check(&command.request)?;
        self.auth.state().check_command(command.caller(), &command.request, &self.leases)
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader { revision: self.mvcc.revision(), ..Default::default() }
    }

    fn finish_write(
        &mut self,
        commit: Option<Commit>,
        lease_changes: Vec<LeaseChange>,
        batch: &mut WriteBatch,
        applied: &mut Applied,
    ) {
        for change in &lease_changes {
            self.leases.reattach(&change.key, change.old, change.new, batch);
        }
        applied.commits.extend(commit);
    }

    fn compact(
        &mut self,
        request: &CompactionRequest,
        batch: &mut WriteBatch,
    ) -> Result<Result<Response, RequestError>, Fatal> {
        Ok(self.mvcc.compact(batch, request.revision)?.map(|()| Response::Compact {
            response: CompactionResponse { header: Some(self.header()) },
            physical: request.physical,
        }))
    }

    /// One bounded step of physical compaction, in a batch of its own.
    pub fn compaction_step(&mut self, entries_max: usize) -> Result<CompactionProgress, Fatal> {
        let mut batch = WriteBatch::new();
        self.tell(|observer| observer.begins());
        let progress = self.mvcc.compaction_step(&mut batch, entries_max)?;
        if !batch.is_empty() {
            self.engine.write(batch)?;
            self.mvcc.publish();
            self.tell(|observer| observer.compacted(progress));
        }
        Ok(progress)
    }

    /// Gives up the space that compaction freed: see [`View::size`].
    pub fn defragment(&mut self) -> Result<(), Fatal> {
        let mut batch = WriteBatch::new();
        self.mvcc.defragment(&mut batch);
        self.engine.write(batch)?;
        self.mvcc.publish();
        Ok(())
    }

    /// The state as of the applied index, to be read in pieces on another thread.
    pub fn capture(&self) -> Result<Capture, Fatal> {
        Capture::new(self)
    }

    /// Replaces the state by a snapshot's blocks, in the order in which [`Capture`] gave them.
    pub fn restore(
        &mut self,
        blocks: &mut dyn FnMut() -> Result<Option<Bytes>, Fatal>,
    ) -> Result<(), Fatal> {
        self.tell(|observer| observer.restoring(true));
        self.mvcc.begin_reload();
        restore(self.engine.as_ref(), blocks)?;
        self.load()?;
        // Readers keep the views they hold: the shared state behind them moves on.
        self.mvcc.reload()?;
        self.tell(|observer| observer.restoring(false));
        Ok(())
    }
}

fn encode_applied(index: Index, term: Term) -> Vec<u8> {
    let mut value = Vec::with_capacity(16);
    value.put_u64(index);
    value.put_u64(term);
    value
}

fn decode_applied(mut value: &[u8]) -> Result<(Index, Term), Fatal> {
    if value.len() != 16 {
        return Err(Fatal::new("read applied index: record has a wrong length"));
    }
    Ok((value.get_u64(), value.get_u64()))
}
