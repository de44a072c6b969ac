//! The KV service: validation first, then the call, then one header.

use super::access::{Access, Credentials, Permit, Wanted};
use super::budget::{Budget, Share};
use super::header::Headers;
use super::limits::Limits;
use super::long_range::{Chunks, LongRange, Source, next_chunk, whole_range, whole_txn};
use super::long_work::{Kind, apart};
use super::metadata;
use super::quota;
use super::validate;
use crate::error::{Fatal, RequestError};
use crate::machine::Response as Outcome;
use crate::metrics::services::Reads;
use crate::mvcc::View;
use crate::pb::etcdserverpb::kv_server::Kv;
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::response_op::Response as OpResponse;
use crate::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseOp, TxnRequest,
    TxnResponse,
};
use crate::pb::quoinpb::command::Request as Command;
use crate::replica::Handle;
use prost::Message as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// What becomes of a message on its way through the generated server and the gateway: itself in protobuf, and JSON
/// twice as long.
const COPIES: usize = 3;

/// What a Range is answered with.
pub(super) enum RangeAnswer {
    Short(RangeResponse),
    Long(LongRange),
}

/// Bytes of a transaction's ranges that are told of without waiting for room.
const SHORT_TXN_BYTES_MAX: usize = 256 << 10;

/// Serves etcdserverpb.KV for one member.
#[derive(Clone)]
pub struct KvService {
    handle: Handle,
    headers: Headers,
    limits: Limits,
    access: Access,
    budget: Arc<Budget>,
    numbers: Reads,
}

impl KvService {
    pub fn new(handle: Handle, limits: Limits, access: Access, numbers: Reads) -> Self {
        let budget = Budget::new(limits.range_bytes);
        let headers = Headers::new(handle.clone());
        Self { headers, handle, limits, access, budget, numbers }
    }

    /// Counts a range that was begun at this time, and passes its result on.
    fn counted<T>(&self, begun: Instant, result: Result<T, Status>) -> Result<T, Status> {
        self.numbers.range[usize::from(result.is_ok())].observe_time(begun.elapsed());
        self.numbers.ranges.add(1);
        result
    }

    /// Counts what a transaction read.
    fn count_txn(&self, response: &TxnResponse) {
        let ranges = ranges(response);
        self.numbers.ranges.add(ranges);
        self.numbers.txns.add(u64::from(ranges > 1));
    }

    /// Takes a request apart into who sent it and what it says.
    fn open<T>(&self, request: Request<T>) -> Result<(Credentials, T), Status> {
        metadata::check(&self.handle, request.metadata())?;
        Ok(self.take(request))
    }

    /// The same, once the call was let in. For a read that is after it has waited: auth may have been
    /// switched on long ago, and this member only now know of it.
    fn take<T>(&self, request: Request<T>) -> (Credentials, T) {
        let credentials =
            self.access.credentials(request.metadata().as_ref(), request.extensions());
        (credentials, request.into_inner())
    }

    async fn propose(&self, from: &Credentials, command: Command) -> Result<Outcome, Status> {
        let bytes_max = self.limits.request_bytes_max;
        self.access.propose(from, command, bytes_max).await.map_err(Status::from)
    }

    /// Checks a Range, and waits until it can be answered.
    async fn begin_range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<(RangeRequest, Permit), Status> {
        match request.get_ref().serializable {
            true => metadata::check_on_learner(&self.handle, request.metadata())?,
            false => metadata::check(&self.handle, request.metadata())?,
        }
        validate::range(request.get_ref())?;
        self.read_barrier(request.get_ref().serializable).await?;
        let (credentials, request) = self.take(request);
        let permit = self.permit_range(&credentials, &request).await?;
        Ok((request, permit))
    }

    async fn permit_range(
        &self,
        credentials: &Credentials,
        request: &RangeRequest,
    ) -> Result<Permit, RequestError> {
        let wanted = || {
            let (key, range_end) = (request.key.clone(), request.range_end.clone());
            Wanted::Range { key, range_end }
        };
        self.access.permit(credentials, wanted).await
    }

    /// Answers a Range: a short one here, any other in encoded form.
    pub(super) async fn range_answer(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<RangeAnswer, Status> {
        let (request, permit) = self.begin_range(request).await?;
        let begun = Instant::now();
        let short = answer(&self.handle, self.handle.view().range_if_short(&request));
        let is_long = matches!(short, Ok(None));
        let short = if is_long { short } else { self.counted(begun, short) };
        if let Some(mut response) = short? {
            self.access.confirm(&permit)?;
            self.headers.fill(&mut response.header);
            return Ok(RangeAnswer::Short(response));
        }
        let read = LongRange::read(&self.handle, &self.budget, request).await;
        let mut long = self.counted(begun, read)?;
        self.access.confirm(&permit)?;
        self.headers.fill(&mut long.range.header);
        Ok(RangeAnswer::Long(long))
    }

    /// Whether what a transaction tells is little as things stand: then it need not wait for room. What
    /// is written until it is applied may make it more, but seldom and not by much.
    fn is_short(&self, request: &TxnRequest) -> bool {
        let mut left = SHORT_TXN_BYTES_MAX;
        self.is_shorter(request, &mut left)
    }

    fn is_shorter(&self, request: &TxnRequest, left: &mut usize) -> bool {
        request.success.iter().chain(&request.failure).all(|op| {
            let range = match &op.request {
                Some(Op::RequestRange(range)) => range.clone(),
                Some(Op::RequestDeleteRange(delete)) if delete.prev_kv => RangeRequest {
                    key: delete.key.clone(),
                    range_end: delete.range_end.clone(),
                    ..Default::default()
                },
                Some(Op::RequestTxn(nested)) => return self.is_shorter(nested, left),
                _ => return true,
            };
            match answer(&self.handle, self.handle.view().range_if_short(&range)) {
                Ok(Some(response)) => {
                    let len = response.encoded_len();
                    let fits = len <= *left;
                    *left = left.saturating_sub(len);
                    fits
                }
                Ok(None) => false,
                // The transaction itself will tell.
                Err(_) => true,
            }
        })
    }

    async fn read_barrier(&self, serializable: bool) -> Result<(), Status> {
        if serializable {
            return Ok(());
        }
        self.handle.read_barrier().await.map_err(Status::from)
    }
}

/// Ranges in a transaction's answer, those of transactions in it among them.
fn ranges(response: &TxnResponse) -> u64 {
    let count = |operation: &ResponseOp| match &operation.response {
        Some(OpResponse::ResponseRange(_)) => 1,
        Some(OpResponse::ResponseTxn(nested)) => ranges(nested),
        _ => 0,
    };
    response.responses.iter().map(count).sum()
}

/// Runs a read that may take long where it does not hold up the connection's other calls.
pub(super) async fn read_long<T: Send + 'static>(
    handle: &Handle,
    kind: Kind,
    work: impl FnOnce(&View) -> Result<Result<T, RequestError>, Fatal> + Send + 'static,
) -> Result<T, Status> {
    let view = handle.view().clone();
    answer(handle, apart(kind, move || work(&view)).await?)
}

/// What was read, or an error for the client; where the store cannot be read, the node stops.
pub(super) fn answer<T>(
    handle: &Handle,
    result: Result<Result<T, RequestError>, Fatal>,
) -> Result<T, Status> {
    match result {
        Ok(answer) => answer.map_err(Status::from),
        Err(fatal) => {
            handle.fail(fatal);
            Err(RequestError::Stopped.into())
        }
    }
}

/// An answer that goes along with what it holds.
fn holding<T>(message: T, share: Option<Share>) -> Response<T> {
    let mut response = Response::new(message);
    if let Some(share) = share {
        response.extensions_mut().insert(Arc::new(share));
    }
    response
}

pub(super) fn unexpected(outcome: &Outcome) -> Status {
    tracing::error!(?outcome, "a command was answered with another command's response");
    RequestError::Stopped.into()
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let (request, permit) = self.begin_range(request).await?;
        let begun = Instant::now();
        let short = answer(&self.handle, self.handle.view().range_if_short(&request));
        let read = match short {
            Ok(Some(response)) => Ok((response, None)),
            Ok(None) => {
                let read = whole_range(&self.handle, &self.budget, request, COPIES).await;
                read.map(|(response, share)| (response, Some(share)))
            }
            Err(status) => Err(status),
        };
        let (mut response, share) = self.counted(begun, read)?;
        self.access.confirm(&permit)?;
        self.headers.fill(&mut response.header);
        Ok(holding(response, share))
    }

    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send + 'static>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        validate::range_stream(request.get_ref())?;
        self.read_barrier(request.get_ref().serializable).await?;
        let (credentials, request) = self.take(request);
        let permit = self.permit_range(&credentials, &request).await?;
        let bytes_max = self.limits.request_bytes_max;
        let begun = Instant::now();
        let source = Source::begin(&self.handle, &self.budget, request, bytes_max).await;
        let chunks = Chunks {
            source: self.counted(begun, source)?,
            permit,
            access: self.access.clone(),
            handle: self.handle.clone(),
            headers: self.headers.clone(),
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(Some(chunks), next_chunk))))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        quota::admit(&self.handle, &self.limits, quota::put_cost(&request)).await?;
        validate::put(&request)?;
        match self.propose(&credentials, Command::Put(request)).await? {
            Outcome::Put(mut response) => {
                self.headers.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        validate::delete_range(&request)?;
        match self.propose(&credentials, Command::DeleteRange(request)).await? {
            Outcome::DeleteRange(mut response) => {
                self.headers.fill(&mut response.header);
                Ok(Response::new(response))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        metadata::check(&self.handle, request.metadata())?;
        quota::admit(&self.handle, &self.limits, quota::txn_cost(request.get_ref())).await?;
        validate::txn(request.get_ref(), self.limits.txn_ops_max)?;
        if validate::is_read_only_txn(request.get_ref()) {
            self.read_barrier(validate::is_serializable_txn(request.get_ref())).await?;
            let (credentials, request) = self.take(request);
            let permit = self.access.permit(&credentials, || Wanted::Txn(request.clone())).await?;
            let is_short = validate::reads_single_keys(&request) || self.is_short(&request);
            let (mut response, share) = if is_short {
                (answer(&self.handle, self.handle.view().txn_read_only(&request))?, None)
            } else {
                let read = whole_txn(&self.handle, &self.budget, request, COPIES).await?;
                (read.0, Some(read.1))
            };
            self.count_txn(&response);
            self.access.confirm(&permit)?;
            self.headers.fill(&mut response.header);
            return Ok(holding(response, share));
        }
        let (credentials, request) = self.take(request);
        let place = match validate::tells_of_ranges(&request) && !self.is_short(&request) {
            true => Some(self.budget.place().await?),
            false => None,
        };
        match self.propose(&credentials, Command::Txn(request)).await? {
            Outcome::Txn(mut response) => {
                self.headers.fill(&mut response.header);
                let share = place.map(|_place| {
                    let share = self.budget.share();
                    share.hold(response.encoded_len() * COPIES);
                    share
                });
                Ok(holding(response, share))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let (credentials, request) = self.open(request)?;
        match self.propose(&credentials, Command::Compaction(request)).await? {
            Outcome::Compact { response: CompactionResponse { mut header }, .. } => {
                self.headers.fill(&mut header);
                Ok(Response::new(CompactionResponse { header }))
            }
            other => Err(unexpected(&other)),
        }
    }
}
