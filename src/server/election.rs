//! The Election service: who stands first under a name leads, and says so by its key's value.

use super::ownership::{Caller, Queues, op, prefix, prefix_end};
use super::watch::{Followed, Messages};
use crate::error::RequestError;
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::watch_create_request::FilterType;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, ResponseHeader, TxnRequest, WatchCreateRequest,
    WatchResponse, request_op,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use crate::pb::v3electionpb::election_server::Election;
use crate::pb::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use bytes::Bytes;
use futures_util::stream;
use prost::Message as _;
use std::collections::VecDeque;
use std::pin::Pin;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

/// Serves v3electionpb.Election for one member.
#[derive(Clone)]
pub struct ElectionService {
    queues: Queues,
}

impl ElectionService {
    pub(super) fn new(queues: Queues) -> Self {
        Self { queues }
    }
}

/// That the leader's key is still the one that it campaigned with.
fn still_leads(leader: &LeaderKey) -> Compare {
    Compare {
        key: leader.key.clone(),
        target: CompareTarget::Create.into(),
        result: CompareResult::Equal.into(),
        target_union: Some(TargetUnion::CreateRevision(leader.rev)),
        ..Compare::default()
    }
}

fn only_if(condition: Compare, change: request_op::Request) -> TxnRequest {
    TxnRequest { compare: vec![condition], success: vec![op(change)], failure: vec![] }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        let (caller, request) = Caller::of(&self.queues.handle, request)?;
        let CampaignRequest { name, lease, value } = request;
        let mut place = self.queues.enter(caller, &name, lease, value).await?;
        // etcd answers with the header of the candidacy, not of the victory.
        let header = place.header;
        place.first(RequestError::ElectionNotLeader).await?;
        let (rev, lease) = (place.create_revision, place.lease);
        let (key, _) = place.keep();
        let leader = Some(LeaderKey { name, key, rev, lease });
        Ok(Response::new(CampaignResponse { header, leader }))
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        let (caller, request) = Caller::of(&self.queues.handle, request)?;
        let leader = request.leader.ok_or(RequestError::LeaderFieldMissing)?;
        let lease = self.queues.lease(&caller, leader.lease).await?;
        let (key, value) = (leader.key.clone(), request.value);
        let put = PutRequest { key, value, lease, ..PutRequest::default() };
        let txn = only_if(still_leads(&leader), request_op::Request::RequestPut(put));
        let answer = self.queues.txn(&caller, txn).await?;
        if !answer.succeeded {
            return Err(RequestError::ElectionNotLeader.into());
        }
        Ok(Response::new(ProclaimResponse { header: answer.header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        let (caller, LeaderRequest { name }) = Caller::of(&self.queues.handle, request)?;
        match self.queues.first(&caller, &name).await? {
            (Some(kv), header) => Ok(Response::new(LeaderResponse { header, kv: Some(kv) })),
            (None, _) => Err(RequestError::ElectionNoLeader.into()),
        }
    }

    type ObserveStream =
        Pin<Box<dyn Stream<Item = Result<LeaderResponse, Status>> + Send + 'static>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let insists = super::validate::requires_leader(request.metadata());
        let (caller, LeaderRequest { name }) = Caller::of(&self.queues.handle, request)?;
        let queues = self.queues.clone();
        let observer = Observer { queues, caller, name, insists, state: State::Looking };
        let answers = stream::unfold(Some(observer), |observer| async {
            let mut observer = observer?;
            match observer.next().await {
                Ok(answer) => Some((Ok(answer), Some(observer))),
                Err(End::Told(status)) => Some((Err(*status), None)),
                Err(End::Silent) => None,
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        let (caller, ResignRequest { leader }) = Caller::of(&self.queues.handle, request)?;
        let leader = leader.ok_or(RequestError::LeaderFieldMissing)?;
        let delete =
            DeleteRangeRequest { key: leader.key.clone(), ..DeleteRangeRequest::default() };
        let txn = only_if(still_leads(&leader), request_op::Request::RequestDeleteRange(delete));
        // Who leads no more has nothing to give up, and is told no error.
        let answer = self.queues.txn(&caller, txn).await?;
        Ok(Response::new(ResignResponse { header: answer.header }))
    }
}

/// Follows an election for one client: the leader of the moment, then each change.
struct Observer {
    queues: Queues,
    caller: Caller,
    name: Bytes,
    insists: bool,
    state: State,
}

enum State {
    /// Who leads is to be read.
    Looking,
    /// Nobody does; the first key to come will.
    Vacant(Events),
    /// What the leader's key goes through.
    Led(Events),
}

/// The events of one watch, one by one, each with its message's header.
struct Events {
    messages: Messages<Followed>,
    header: ResponseHeader,
    waiting: VecDeque<Event>,
}

impl Events {
    /// The next event; none where history no longer has it.
    async fn next(&mut self, queues: &Queues) -> Result<Option<Event>, Status> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let Some(message) = self.messages.next().await else { return Ok(None) };
            let message = message?;
            self.header = queues.headers.at(message.revision);
            let mut encoded = Vec::with_capacity(message.len_bytes());
            message.encode(&self.header, &mut encoded);
            let response = WatchResponse::decode(&encoded[..])
                .map_err(|error| Status::internal(error.to_string()))?;
            if response.canceled {
                return Ok(None);
            }
            self.waiting = response.events.into();
        }
    }
}

impl Observer {
    async fn next(&mut self) -> Result<LeaderResponse, End> {
        loop {
            match &mut self.state {
                State::Looking => {
                    if let Some(response) = self.look().await? {
                        return Ok(response);
                    }
                }
                State::Vacant(events) => match events.next(&self.queues).await.map_err(ended)? {
                    Some(Event { kv: Some(kv), .. }) => {
                        let header = ResponseHeader { revision: kv.mod_revision, ..events.header };
                        self.follow(&kv, kv.mod_revision);
                        return Ok(LeaderResponse { header: Some(header), kv: Some(kv) });
                    }
                    _ => self.state = State::Looking,
                },
                State::Led(events) => match events.next(&self.queues).await.map_err(ended)? {
                    Some(event) if event.r#type() == EventType::Put => {
                        return Ok(LeaderResponse { header: Some(events.header), kv: event.kv });
                    }
                    _ => self.state = State::Looking,
                },
            }
        }
    }

    /// Reads who leads.
    async fn look(&mut self) -> Result<Option<LeaderResponse>, End> {
        let (first, header) = self.queues.first(&self.caller, &self.name).await.map_err(ended)?;
        let revision = header.map_or(0, |header| header.revision);
        if let Some(kv) = first {
            self.follow(&kv, revision);
            return Ok(Some(LeaderResponse { header, kv: Some(kv) }));
        }
        let prefix = prefix(&self.name);
        self.state = State::Vacant(self.events(WatchCreateRequest {
            range_end: prefix_end(&prefix),
            key: prefix,
            start_revision: revision + 1,
            filters: vec![FilterType::Nodelete.into()],
            ..WatchCreateRequest::default()
        }));
        Ok(None)
    }

    /// Tells of the leader's key from the revision on.
    fn follow(&mut self, leader: &KeyValue, revision: i64) {
        self.state = State::Led(self.events(WatchCreateRequest {
            key: leader.key.clone(),
            start_revision: revision + 1,
            ..WatchCreateRequest::default()
        }));
    }

    fn events(&self, create: WatchCreateRequest) -> Events {
        Events {
            messages: self.queues.watches.follow([create], self.insists),
            header: ResponseHeader::default(),
            waiting: VecDeque::new(),
        }
    }
}

/// How an observation ends: a node that stops and a lost leader are told, any other reason is not, and
/// the stream is over as if all were well.
enum End {
    Told(Box<Status>),
    Silent,
}

fn ended(status: Status) -> End {
    let known = [RequestError::Stopped, RequestError::NoLeader].map(Status::from);
    let is_known = |known: &Status| known.message() == status.message();
    known.into_iter().find(is_known).map_or(End::Silent, |known| End::Told(Box::new(known)))
}
