//! The KV service: validation first, then the call, then one header.

use super::access::{Access, Credentials, Permit, Wanted};
use super::budget::{Budget, Share};
use super::header::Headers;
use super::limits::Limits;
use super::long_work::apart;
use super::metadata;
use super::quota;
use super::validate;
use crate::error::{Fatal, RequestError};
use crate::machine::Response as Outcome;
use crate::metrics::services::Reads;
use crate::mvcc::{EncodedRange, RangeStream, View};
use crate::pb::etcdserverpb::kv_server::Kv;
use crate::pb::etcdserverpb::response_op::Response as OpResponse;
use crate::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, ResponseOp, TxnRequest,
    TxnResponse,
};
use crate::pb::quoinpb::command::Request as Command;
use crate::replica::Handle;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Bytes of a RangeStream's chunk: what a client that reads slowly costs, several times over.
const CHUNK_BYTES_MAX: usize = 128 << 10;

/// What a Range is answered with.
pub(super) enum RangeAnswer {
    Short(RangeResponse),
    Long(LongRange),
}

/// A long answer on its way out, and what it holds in memory.
pub(super) struct LongRange {
    pub(super) range: EncodedRange,
    pub(super) share: Share,
    handle: Handle,
}

impl LongRange {
    /// Takes out what was not held: it is read while it is sent.
    ///
    /// The stream ends early, with an error, when the revision could not be held for so long.
    pub(super) fn take_rest(
        &mut self,
    ) -> Option<impl Stream<Item = Result<Bytes, Status>> + use<>> {
        let state = (self.range.rest.take()?, self.handle.clone());
        let pieces = futures_util::stream::try_unfold(state, async |(mut rest, handle)| {
            let (pieces, rest) = apart(move || (rest.next_pieces(), rest)).await?;
            let next = answer(&handle, pieces)?.map(|pieces| (pieces, (rest, handle)));
            Ok::<_, Status>(next)
        });
        let apart = |pieces: Vec<Bytes>| futures_util::stream::iter(pieces.into_iter().map(Ok));
        Some(pieces.map_ok(apart).try_flatten())
    }
}

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
        let share = self.budget.share();
        let range = move |view: &View| {
            let range = view.range_encoded(&request, &|bytes| share.grow(bytes))?;
            Ok(range.map(|range| (range, share)))
        };
        let read = read_long(&self.handle, range).await;
        let (mut range, share) = self.counted(begun, read)?;
        self.access.confirm(&permit)?;
        self.headers.fill(&mut range.header);
        Ok(RangeAnswer::Long(LongRange { range, share, handle: self.handle.clone() }))
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
    work: impl FnOnce(&View) -> Result<Result<T, RequestError>, Fatal> + Send + 'static,
) -> Result<T, Status> {
    let view = handle.view().clone();
    answer(handle, apart(move || work(&view)).await?)
}

/// What was read, or an error for the client; where the store cannot be read, the node stops.
fn answer<T>(handle: &Handle, result: Result<Result<T, RequestError>, Fatal>) -> Result<T, Status> {
    match result {
        Ok(answer) => answer.map_err(Status::from),
        Err(fatal) => {
            handle.fail(fatal);
            Err(RequestError::Stopped.into())
        }
    }
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
        let read = read_long(&self.handle, move |view| view.range(&request)).await;
        let mut response = self.counted(begun, read)?;
        self.access.confirm(&permit)?;
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
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
        let bytes_max = self.limits.request_bytes_max.min(CHUNK_BYTES_MAX);
        let begun = Instant::now();
        let stream = answer(&self.handle, self.handle.view().range_stream(&request, bytes_max));
        let stream = self.counted(begun, stream)?;
        let chunks = Chunks {
            stream,
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
            let mut response = if validate::reads_single_keys(&request) {
                answer(&self.handle, self.handle.view().txn_read_only(&request))?
            } else {
                read_long(&self.handle, move |view| view.txn_read_only(&request)).await?
            };
            self.count_txn(&response);
            self.access.confirm(&permit)?;
            self.headers.fill(&mut response.header);
            return Ok(Response::new(response));
        }
        let (credentials, request) = self.take(request);
        match self.propose(&credentials, Command::Txn(request)).await? {
            Outcome::Txn(mut response) => {
                self.headers.fill(&mut response.header);
                Ok(Response::new(response))
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

/// A range on its way out.
struct Chunks {
    stream: RangeStream,
    permit: Permit,
    access: Access,
    handle: Handle,
    headers: Headers,
}

/// Makes the next piece of a range when the client has room for it: one that does not read holds
/// neither a thread nor more than the pieces that are on their way.
async fn next_chunk(
    chunks: Option<Chunks>,
) -> Option<(Result<RangeStreamResponse, Status>, Option<Chunks>)> {
    let mut chunks = chunks?;
    let (chunk, chunks) = match apart(move || (chunks.stream.next_chunk(), chunks)).await {
        Ok(made) => made,
        Err(error) => return Some((Err(error.into()), None)),
    };
    let confirmed = |chunk| Ok(chunks.access.confirm(&chunks.permit).map(|()| chunk)?);
    match answer(&chunks.handle, chunk).and_then(confirmed) {
        Ok(Some(mut response)) => {
            if response.header.is_some() {
                chunks.headers.fill(&mut response.header);
            }
            let chunk = RangeStreamResponse { range_response: Some(response) };
            Some((Ok(chunk), Some(chunks)))
        }
        Ok(None) => None,
        Err(status) => Some((Err(status), None)),
    }
}
