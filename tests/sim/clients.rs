//! Clients: each makes one call after another, to any member, and knows what it was told.

use super::member::Call;
use super::profile::{MILLI, Micros, Profile};
use super::random::Random;
use super::work;
use super::world::{Event, Phase, World};
use crate::checker::{Operation, Outcome, Request, Response};
use bytes::Bytes;
use quoin::error::RequestError;
use quoin::pb::etcdserverpb::{PutRequest, RangeRequest};
use quoin::pb::mvccpb::KeyValue;
use quoin::server::status;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The key of the calls that every client makes in the end.
const LAST: &[u8] = b"last";

fn is_last(request: &Request) -> bool {
    match request {
        Request::Put(request) => request.key == LAST,
        Request::Range(request) => request.key == LAST,
        _ => false,
    }
}

#[derive(Default)]
pub struct Client {
    pub number: usize,
    /// The call under way.
    operation: Option<usize>,
    /// Calls made so far, for values that nobody else writes.
    pub count: u64,
    pub last_revision: i64,
    pub compacted: i64,
    pub known: BTreeMap<Bytes, KeyValue>,
    /// Leases that were granted to it.
    pub leases: Vec<i64>,
    /// As whom it logs in, if at all, and what it got for it.
    pub user: Option<String>,
    pub token: Option<Arc<str>>,
    pub wants_login: bool,
    /// It does not ask for a token again before.
    pub login_due: Micros,
    /// Calls that it still has to see answered once the faults are over.
    last_calls: u32,
}

impl Client {
    pub fn new(number: usize) -> Self {
        Self { number, last_calls: 2, ..Self::default() }
    }

    pub fn is_done(&self) -> bool {
        self.last_calls == 0 && self.operation.is_none()
    }

    /// What an error says about the token.
    fn learn_refusal(&mut self, text: &str) {
        let is = |error| text == status::text(&error);
        if is(RequestError::UserEmpty) || is(RequestError::InvalidAuthToken) {
            self.token = None;
            self.wants_login = true;
        }
    }

    /// The last ones are simple: they show that the members serve again.
    fn request(&mut self, phase: Phase, profile: &Profile, random: &mut Random) -> Request {
        self.count += 1;
        let key = Bytes::from_static(LAST);
        match (phase, self.last_calls) {
            (Phase::Faults, _) => work::request(self, profile, random),
            (Phase::Healing, 2) => {
                let value = format!("{}-{}", self.number, self.count).into();
                Request::Put(PutRequest { key, value, ..Default::default() })
            }
            (Phase::Healing, _) => Request::Range(RangeRequest { key, ..Default::default() }),
        }
    }

    fn learn(&mut self, request: &Request, response: &Response) {
        let revision = response.header().map_or(0, |header| header.revision);
        self.last_revision = self.last_revision.max(revision);
        match (request, response) {
            (Request::Range(request), Response::Range(response)) => {
                let is_present = request.revision == 0 && !request.keys_only;
                for kv in response.kvs.iter().filter(|_| is_present) {
                    self.known.insert(kv.key.clone(), kv.clone());
                }
            }
            (_, Response::LeaseGrant(response)) => self.leases.push(response.id),
            (_, Response::LeaseKeepAlive(response)) if response.ttl <= 0 => {
                self.leases.retain(|id| *id != response.id);
            }
            (Request::Compact(request), Response::Compact(_)) => {
                self.compacted = self.compacted.max(request.revision);
            }
            _ => {}
        }
    }
}

impl World {
    /// The client makes its next call.
    pub fn next(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if client.operation.is_some() || client.is_done() {
            return;
        }
        if self.profile.with_auth {
            self.log_in_if_needed(number);
        }
        let client = &mut self.clients[number];
        let request = client.request(self.phase, &self.profile, &mut self.work_random);
        let token = client.token.clone();
        let operation = self.history.operations.len();
        client.operation = Some(operation);
        self.history.operations.push(Operation {
            invoked: self.now,
            returned: u64::MAX,
            request: request.clone(),
            outcome: Outcome::Unknown,
        });
        let member = self.work_random.between(1, self.profile.all());
        self.trace(|_| format!("client {number} calls {member}, {operation}: {request:?}"));
        self.after(self.profile.client_timeout, Event::Timeout { client: number, operation });
        if self.phase == Phase::Faults && self.net_random.chance(self.profile.client_loss) {
            return;
        }
        let acknowledged = self.oracle.rights.acknowledged;
        let call = Call { client: number, operation, request, revision: 0, token, acknowledged };
        let delay = self.net_random.skewed(20, 5 * MILLI);
        self.after(delay, Event::CallArrives { member, call });
    }

    pub fn answer(&mut self, call: Call, outcome: Outcome) {
        let client = &mut self.clients[call.client];
        if client.operation != Some(call.operation) {
            return;
        }
        client.operation = None;
        let recorded = &mut self.history.operations[call.operation];
        recorded.returned = self.now;
        recorded.outcome = outcome;
        if let Outcome::Refused(_, text) = &recorded.outcome {
            client.learn_refusal(text);
        }
        if let Some(response) = recorded.answer() {
            client.learn(&call.request, response);
            if is_last(&call.request) {
                client.last_calls = client.last_calls.saturating_sub(1);
            }
        }
        let operation = call.operation;
        self.trace(|world| {
            format!("answer {operation}: {:?}", world.history.operations[operation].outcome)
        });
        self.think(call.client);
    }

    pub fn timeout(&mut self, number: usize, operation: usize) {
        let client = &mut self.clients[number];
        if client.operation == Some(operation) {
            client.operation = None;
            self.trace(|_| format!("client {number} gives up {operation}"));
            self.think(number);
        }
    }

    fn think(&mut self, client: usize) {
        let delay = self.work_random.skewed(MILLI, self.profile.think_max);
        self.after(delay, Event::Next { client });
    }
}
