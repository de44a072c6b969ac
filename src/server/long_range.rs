//! Answers to ranges that are too long for a connection's turn: made on other threads, in pieces where that is possible,
//! and held within the [`Budget`](super::budget::Budget).

use super::access::{Access, Permit};
use super::budget::{Budget, Share};
use super::header::Headers;
use super::kv::answer;
use super::long_work::{Kind, apart, apart_unattended};
use crate::error::{Fatal, RequestError};
use crate::mvcc::{EncodedRange, RangeStream, Step, View, is_sorted};
use crate::pb::etcdserverpb::{
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::KeyValue;
use crate::replica::Handle;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use prost::Message as _;
use std::sync::Arc;
use tokio_stream::Stream;
use tonic::Status;

/// Bytes of a RangeStream's chunk: what a client that reads slowly costs, several times over.
const CHUNK_BYTES_MAX: usize = 128 << 10;

/// What a pair takes beside its key and its value while it is not encoded.
const PAIR_BYTES: usize = size_of::<KeyValue>();

/// A long answer on its way out, and what it holds in memory.
pub(super) struct LongRange {
    pub(super) range: EncodedRange,
    pub(super) share: Share,
    handle: Handle,
}

impl LongRange {
    /// Reads a range: one in key order in pieces, any other at once.
    ///
    /// # Errors
    /// Those of [`View::range`], `TooManyRequests`.
    pub(super) async fn read(
        handle: &Handle,
        budget: &Arc<Budget>,
        request: RangeRequest,
    ) -> Result<Self, Status> {
        let (range, share) = if is_sorted(&request) {
            held(handle, budget, move |view, share| {
                let room = |bytes: usize| {
                    share.add(bytes);
                    true
                };
                view.range_encoded(&request, &room)
            })
            .await?
        } else {
            in_key_order(handle, budget, request).await?
        };
        Ok(Self { range, share, handle: handle.clone() })
    }

    /// Takes out what was not held: it is read while it is sent.
    ///
    /// The stream ends early, with an error, when the revision could not be held for so long.
    pub(super) fn take_rest(
        &mut self,
    ) -> Option<impl Stream<Item = Result<Bytes, Status>> + use<>> {
        let state = (self.range.rest.take()?, self.handle.clone());
        let pieces = futures_util::stream::try_unfold(state, async |(mut rest, handle)| {
            loop {
                let step = move || (rest.step(), rest);
                let (step, again) = apart_unattended(Kind::Piece, step).await?;
                match answer(&handle, step)? {
                    Step::GoOn => rest = again,
                    Step::Made(pieces) => return Ok(Some((pieces, (again, handle)))),
                    Step::Over => return Ok::<_, Status>(None),
                }
            }
        });
        let apart = |pieces: Vec<Bytes>| futures_util::stream::iter(pieces.into_iter().map(Ok));
        Some(pieces.map_ok(apart).try_flatten())
    }
}

/// Does a read whose answer is held as a whole; the work says what that is.
async fn held<T: Send + 'static>(
    handle: &Handle,
    budget: &Arc<Budget>,
    work: impl FnOnce(&View, &Share) -> Result<Result<T, RequestError>, Fatal> + Send + 'static,
) -> Result<(T, Share), Status> {
    let (view, share) = (handle.view().clone(), budget.share());
    let turn = budget.turn().await?;
    let (done, share) = turn.apart(move || (work(&view, &share), share)).await?;
    Ok((answer(handle, done)?, share))
}

/// A range as a message, and what it holds: the pairs, and what becomes of them.
///
/// # Errors
/// Those of [`View::range`], `TooManyRequests`.
pub(super) async fn whole_range(
    handle: &Handle,
    budget: &Arc<Budget>,
    request: RangeRequest,
    copies: usize,
) -> Result<(RangeResponse, Share), Status> {
    held(handle, budget, move |view, share| {
        let response = view.range(&request)?;
        if let Ok(response) = &response {
            share.hold(response.encoded_len() * copies + response.kvs.len() * PAIR_BYTES);
        }
        Ok(response)
    })
    .await
}

/// A read-only transaction over ranges, and what its answer holds.
///
/// # Errors
/// Those of [`View::txn_read_only`], `TooManyRequests`.
pub(super) async fn whole_txn(
    handle: &Handle,
    budget: &Arc<Budget>,
    request: TxnRequest,
    copies: usize,
) -> Result<(TxnResponse, Share), Status> {
    held(handle, budget, move |view, share| {
        let response = view.txn_read_only(&request)?;
        if let Ok(response) = &response {
            share.hold(response.encoded_len() * copies);
        }
        Ok(response)
    })
    .await
}

/// A step first, which is enough for most; the rest at once.
async fn in_key_order(
    handle: &Handle,
    budget: &Arc<Budget>,
    request: RangeRequest,
) -> Result<(EncodedRange, Share), Status> {
    loop {
        let share = budget.share();
        let mut encoding = answer(handle, handle.view().begin_encoding(&request))?;
        let step = move || (encoding.step(&|bytes| share.grow(bytes)), encoding, share);
        let (stepped, mut encoding, mut share) = apart(Kind::Piece, step).await?;
        answer(handle, stepped.map(Ok))?;
        if !encoding.is_done() {
            let walk = move || {
                let mut walked = Ok(());
                while walked.is_ok() && !encoding.is_done() {
                    walked = encoding.step(&|bytes| share.grow(bytes));
                }
                (walked, encoding, share)
            };
            let walked;
            (walked, encoding, share) = apart(Kind::Walk, walk).await?;
            answer(handle, walked.map(Ok))?;
        }
        if let Some(range) = encoding.finish() {
            return Ok((range, share));
        }
    }
}

/// A RangeStream on its way out.
pub(super) struct Chunks {
    pub(super) source: Source,
    pub(super) permit: Permit,
    pub(super) access: Access,
    pub(super) handle: Handle,
    pub(super) headers: Headers,
}

/// Where the chunks come from.
pub(super) enum Source {
    /// The store, when there is room for them.
    Walk(RangeStream),
    /// An answer that is all there because it is sorted.
    Sorted(Sorted),
}

impl Source {
    /// Begins to answer: at once, or for a sorted range when it has been read.
    ///
    /// # Errors
    /// Those of [`View::range`], `TooManyRequests`.
    pub(super) async fn begin(
        handle: &Handle,
        budget: &Arc<Budget>,
        request: RangeRequest,
        bytes_max: usize,
    ) -> Result<Self, Status> {
        let bytes_max = bytes_max.min(CHUNK_BYTES_MAX);
        if !is_sorted(&request) || request.count_only {
            let stream = answer(handle, handle.view().range_stream(&request, bytes_max))?;
            return Ok(Self::Walk(stream));
        }
        let (mut response, share) = whole_range(handle, budget, request, 1).await?;
        let left = std::mem::take(&mut response.kvs).into_iter();
        Ok(Self::Sorted(Sorted { left, last: Some(response), bytes_max, _share: share }))
    }

    /// The next chunk; `None` after the last one.
    async fn next(self, handle: &Handle) -> Result<Option<(RangeResponse, Self)>, Status> {
        match self {
            Self::Sorted(mut sorted) => {
                let next = sorted.next();
                Ok(next.map(|chunk| (chunk, Self::Sorted(sorted))))
            }
            Self::Walk(mut stream) => loop {
                let step = move || (stream.step(), stream);
                let (step, again) = apart_unattended(Kind::Piece, step).await?;
                match answer(handle, step)? {
                    Step::GoOn => stream = again,
                    Step::Made(chunk) => return Ok(Some((chunk, Self::Walk(again)))),
                    Step::Over => return Ok(None),
                }
            },
        }
    }
}

/// A sorted range on its way out in chunks.
pub(super) struct Sorted {
    left: std::vec::IntoIter<KeyValue>,
    /// All but the pairs; goes with the last of them.
    last: Option<RangeResponse>,
    bytes_max: usize,
    _share: Share,
}

impl Iterator for Sorted {
    type Item = RangeResponse;

    fn next(&mut self) -> Option<RangeResponse> {
        let (mut kvs, mut bytes) = (vec![], 0);
        while bytes < self.bytes_max
            && let Some(kv) = self.left.next()
        {
            bytes += kv.encoded_len();
            kvs.push(kv);
        }
        match self.left.len() {
            0 => self.last.take().map(|last| RangeResponse { kvs, ..last }),
            _ => Some(RangeResponse { kvs, ..RangeResponse::default() }),
        }
    }
}

/// Makes the next piece of a range when the client has room for it: one that does not read holds
/// neither a thread nor more than the pieces that are on their way.
pub(super) async fn next_chunk(
    chunks: Option<Chunks>,
) -> Option<(Result<RangeStreamResponse, Status>, Option<Chunks>)> {
    let Chunks { source, permit, access, handle, headers } = chunks?;
    let next = source.next(&handle).await;
    let confirmed = |next| Ok(access.confirm(&permit).map(|()| next)?);
    match next.and_then(confirmed) {
        Ok(Some((mut response, source))) => {
            if response.header.is_some() {
                headers.fill(&mut response.header);
            }
            let chunk = RangeStreamResponse { range_response: Some(response) };
            Some((Ok(chunk), Some(Chunks { source, permit, access, handle, headers })))
        }
        Ok(None) => None,
        Err(status) => Some((Err(status), None)),
    }
}
