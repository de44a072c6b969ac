//! What a member does with a client's call: the steps of `server` and `replica::Handle`.

use super::auth::Permit;
use super::member::{Call, Streaming};
use super::profile::MILLI;
use super::world::{Event, Phase, Violation, World};
use crate::checker::{Outcome, Request, Response};
use quoin::error::RequestError;
use quoin::machine::{self, Caller, encode_command_of};
use quoin::pb::etcdserverpb::{LeaseKeepAliveResponse, RangeResponse, ResponseHeader};
use quoin::pb::quoinpb::{LeaseRevokeBatch, command::Request as Command};
use quoin::replica::{Input, LeaseCall, Millis, Reply};
use quoin::server::{status, validate};
use quoin::types::{MemberId, RequestId};

/// How long a member works on a request at most, as the driver sets it.
pub const REQUEST_TIMEOUT: Millis = 7_000;

impl World {
    pub fn call_arrives(&mut self, id: u64, call: Call) -> Result<(), Violation> {
        let writer = match self.writer(id, &call)? {
            Ok(writer) => writer,
            Err(refused) => {
                self.answer_later(call, outcome(&refused));
                return Ok(());
            }
        };
        let now = self.now;
        let member = &mut self.members[id as usize - 1];
        let deadline = member.local(now) + REQUEST_TIMEOUT;
        let boot = member.boot;
        let Some(running) = &mut member.running else {
            // Nobody listens there: it surely has no effect.
            let outcome = Outcome::Refused(tonic::Code::Unavailable as i32, "refused".to_owned());
            self.after(MILLI, Event::Answer { call, outcome });
            return Ok(());
        };
        running.sequence += 1;
        let sequence = running.sequence;
        let request_id = RequestId { member: MemberId(id), boot: (id << 32) + boot * 2, sequence };
        let caller = Caller { user: &writer.user, revision: writer.revision };
        let propose = |command: Command| Input::Propose {
            id: request_id,
            command: encode_command_of(caller, request_id, command),
            deadline,
        };
        let mut call = call;
        let input = match &call.request {
            Request::Range(request) if request.serializable || running.reads_at_once => None,
            Request::Range(_) => Some(Input::Read { id: request_id, deadline }),
            Request::Txn(request) if validate::is_read_only_txn(request) => {
                let at_once = validate::is_serializable_txn(request) || running.reads_at_once;
                (!at_once).then_some(Input::Read { id: request_id, deadline })
            }
            Request::Put(request) => Some(propose(Command::Put(request.clone()))),
            Request::DeleteRange(request) => Some(propose(Command::DeleteRange(request.clone()))),
            Request::Txn(request) => Some(propose(Command::Txn(request.clone()))),
            Request::Compact(request) => Some(propose(Command::Compaction(*request))),
            Request::LeaseGrant(request) => Some(propose(Command::LeaseGrant(*request))),
            Request::LeaseRevoke(request) => {
                let batch = LeaseRevokeBatch { ids: vec![request.id], expired: false };
                Some(propose(Command::LeaseRevoke(batch)))
            }
            Request::LeaseKeepAlive(request) => {
                call.revision = running.view.revision();
                let lease = LeaseCall::Renew { lease: request.id };
                Some(Input::Lease { id: request_id, call: lease, deadline })
            }
        };
        match input {
            None => self.serve_soon(id, boot, call),
            Some(input) => {
                running.calls.insert(sequence, call);
                self.input(id, input);
            }
        }
        Ok(())
    }

    fn serve_soon(&mut self, member: u64, boot: u64, call: Call) {
        let delay = self.time_random.skewed(1, 5 * MILLI);
        self.after(delay, Event::Serve { member, boot, call });
    }

    /// Carries out a read that need not wait any more.
    pub fn serve(&mut self, id: u64, boot: u64, call: Call) -> Result<(), Violation> {
        if !self.is_alive(id, boot) {
            self.answer_later(call, Outcome::Unknown);
            return Ok(());
        }
        let permit = match self.permit(id, &call)? {
            Ok(permit) => permit,
            Err(refused) => {
                self.answer_later(call, outcome(&refused));
                return Ok(());
            }
        };
        if let Request::Range(request) = &call.request
            && validate::range_stream(request).is_ok()
            && self.time_random.chance(300)
        {
            return self.begin_stream(id, boot, call, permit);
        }
        let Some(running) = self.running(id) else { return Ok(()) };
        let view = &running.view;
        let answer = match &call.request {
            Request::Range(request) => view.range(request).map(|r| r.map(Response::Range)),
            Request::Txn(request) => view.txn_read_only(request).map(|r| r.map(Response::Txn)),
            other => return Err(format!("{other:?} is no read")),
        };
        let answer = answer.map_err(|fatal| format!("member {id} stops: {fatal}"))?;
        self.answer_later(call, answer.map_or_else(|error| outcome(&error), Outcome::Answer));
        Ok(())
    }

    /// Answers a range in pieces, between which anything may happen.
    fn begin_stream(
        &mut self,
        id: u64,
        boot: u64,
        call: Call,
        permit: Permit,
    ) -> Result<(), Violation> {
        let bytes_max = self.time_random.between(1, 200) as usize;
        let Request::Range(request) = &call.request else { return Ok(()) };
        let Some(running) = self.running(id) else { return Ok(()) };
        let begun = running.view.range_stream(request, bytes_max);
        match begun.map_err(|fatal| format!("member {id} stops: {fatal}"))? {
            Err(error) => self.answer_later(call, outcome(&error)),
            Ok(stream) => {
                running.next_job += 1;
                let streaming = running.next_job;
                running
                    .streaming
                    .insert(streaming, Streaming { call, permit, stream, found: vec![] });
                self.after(0, Event::Chunk { member: id, boot, streaming });
            }
        }
        Ok(())
    }

    pub fn chunk(&mut self, id: u64, boot: u64, number: u64) -> Result<(), Violation> {
        if !self.is_alive(id, boot) {
            return Ok(());
        }
        let delay = self.time_random.skewed(10, 100 * MILLI);
        let Some(running) = self.running(id) else { return Ok(()) };
        let Some(mut streaming) = running.streaming.remove(&number) else { return Ok(()) };
        let chunk = streaming.stream.next_chunk();
        let confirmed = self.confirm(id, &streaming.permit, &streaming.call.request)?;
        let chunk = chunk.map_err(|fatal| format!("member {id} stops: {fatal}"))?;
        match chunk.and_then(|chunk| confirmed.map(|()| chunk)) {
            Err(error) => self.answer_later(streaming.call, outcome(&error)),
            Ok(None) => return Err(format!("member {id} ends a range without its last part")),
            Ok(Some(mut chunk)) => {
                streaming.found.append(&mut chunk.kvs);
                if chunk.header.is_some() {
                    let response = RangeResponse { kvs: streaming.found, ..chunk };
                    let answer = Outcome::Answer(Response::Range(response));
                    self.answer_later(streaming.call, answer);
                } else if let Some(running) = self.running(id) {
                    running.streaming.insert(number, streaming);
                    self.after(delay, Event::Chunk { member: id, boot, streaming: number });
                }
            }
        }
        Ok(())
    }

    /// The replica has answered.
    pub fn reply(
        &mut self,
        id: u64,
        boot: u64,
        request: RequestId,
        reply: Result<Reply, RequestError>,
    ) -> Result<(), Violation> {
        if self.running(id).is_some_and(|running| running.changes.remove(&request.sequence)) {
            return Ok(());
        }
        if let Some(login) = self.running(id).and_then(|r| r.logins.remove(&request.sequence)) {
            self.login_goes_on(id, boot, login, reply);
            return Ok(());
        }
        let Some(call) = self.running(id).and_then(|r| r.calls.remove(&request.sequence)) else {
            return Err(format!("member {id} answers {request} twice or without being asked"));
        };
        let response = match reply {
            Err(error) => {
                self.answer_later(call, outcome(&error));
                return Ok(());
            }
            Ok(Reply::Readable) => {
                self.serve_soon(id, boot, call);
                return Ok(());
            }
            Ok(Reply::Applied(response)) => match response {
                machine::Response::Put(response) => Response::Put(response),
                machine::Response::DeleteRange(response) => Response::DeleteRange(response),
                machine::Response::Txn(response) => Response::Txn(response),
                machine::Response::Compact { response, .. } => Response::Compact(response),
                machine::Response::LeaseGrant(response) => Response::LeaseGrant(response),
                machine::Response::LeaseRevoke(response) => Response::LeaseRevoke(response),
                machine::Response::Alarm(_)
                | machine::Response::Members(_)
                | machine::Response::Authenticated { .. }
                | machine::Response::Done => {
                    return Err("nobody asked for this".to_owned());
                }
            },
            Ok(Reply::Lease { ttl, .. }) => {
                let Request::LeaseKeepAlive(renewal) = &call.request else {
                    return Err(format!("{:?} was answered as a renewal", call.request));
                };
                let header = ResponseHeader { revision: call.revision, ..Default::default() };
                let id = renewal.id;
                Response::LeaseKeepAlive(LeaseKeepAliveResponse { header: Some(header), id, ttl })
            }
            Ok(Reply::Leases(_)) => return Err("nobody asked for all leases".to_owned()),
            Ok(Reply::Keys(_)) => return Err("nobody asked for the keys of leases".to_owned()),
            Ok(Reply::Defragmented) => return Err("nobody asked to defragment".to_owned()),
        };
        self.answer_later(call, Outcome::Answer(response));
        Ok(())
    }

    /// Sends an answer on its way to the client, where it may never arrive.
    fn answer_later(&mut self, call: Call, outcome: Outcome) {
        if self.phase == Phase::Faults && self.net_random.chance(self.profile.client_loss) {
            return;
        }
        let delay = self.net_random.skewed(20, 5 * MILLI);
        self.after(delay, Event::Answer { call, outcome });
    }
}

/// What a client may conclude from an error.
fn outcome(error: &RequestError) -> Outcome {
    use RequestError as E;
    let is_open = matches!(
        error,
        E::NoLeader
            | E::NotLeader
            | E::LeaderChanged
            | E::Stopped
            | E::Timeout
            | E::TimeoutDueToLeaderFail
            | E::TimeoutDueToConnectionLost
            | E::TimeoutWaitAppliedIndex
    );
    if is_open {
        return Outcome::Unknown;
    }
    let (code, text) = status::code_and_text(error);
    Outcome::Refused(code as i32, text.to_owned())
}
