//! What readers on other threads use: the published state, at one revision per call.
//!
//! A reader takes no lock that the writer holds for longer than one bounded engine scan or
//! write. It sees whole revisions only, up to the published one.

use super::FIRST_REVISION;
use super::compaction::NEVER;
use super::newest_cache::NewestCache;
use super::pins::{Pin, Pins};
use super::range::{answer, answer_if_short, header};
use super::reader::{Source, newest};
use super::txn::{Path, State, check};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::response_op::Response;
use crate::pb::etcdserverpb::{RangeRequest, RangeResponse, ResponseOp, TxnRequest, TxnResponse};
use crate::pb::mvccpb::KeyValue;
use crate::storage::Engine;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Bytes of newest versions kept beside an engine that does not hold them in memory.
const CACHE_BYTES: usize = 64 << 20;

/// What the writer and all views share.
pub(super) struct Shared {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) cache: NewestCache,
    revision: AtomicI64,
    /// -1 before the first compaction.
    compacted: AtomicI64,
    /// Bytes as shown: allocated, in use.
    size: [AtomicU64; 2],
    /// Odd while the engine's content is being replaced.
    replacements: AtomicU64,
    pub(super) pins: Arc<Pins>,
}

impl Shared {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Self {
        // A seek in memory costs no more than a look into a cache.
        let cache_bytes = if engine.is_volatile() && !cfg!(test) { 0 } else { CACHE_BYTES };
        Self {
            engine,
            cache: NewestCache::new(cache_bytes),
            revision: AtomicI64::new(FIRST_REVISION),
            compacted: AtomicI64::new(NEVER),
            size: Default::default(),
            replacements: AtomicU64::new(0),
            pins: Arc::default(),
        }
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source { store: &*self.engine, cache: &self.cache }
    }

    pub(super) fn publish(&self, revision: i64, compacted: i64, (allocated, in_use): (u64, u64)) {
        self.size[0].store(allocated, Ordering::Relaxed);
        self.size[1].store(in_use, Ordering::Relaxed);
        // In this order, so that nobody sees a compacted revision above the present one.
        self.revision.store(revision, Ordering::Release);
        self.compacted.store(compacted, Ordering::Release);
    }

    pub(super) fn begin_replacement(&self) {
        self.replacements.fetch_or(1, Ordering::SeqCst);
        self.cache.close();
    }

    pub(super) fn end_replacement(&self, revision: i64) {
        self.cache.open(revision);
        if !self.replacements.load(Ordering::SeqCst).is_multiple_of(2) {
            self.replacements.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(super) fn replacements(&self) -> u64 {
        self.replacements.load(Ordering::SeqCst)
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }
}

/// Reads the published state. Cheap to clone; all clones are the same view.
#[derive(Clone)]
pub struct View {
    shared: Arc<Shared>,
}

impl View {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The published revision: everything up to it can be read.
    pub fn revision(&self) -> i64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// The published compacted revision, -1 before the first compaction. It can itself be read.
    pub fn compacted(&self) -> i64 {
        self.shared.compacted()
    }

    /// Bytes that the store holds, as (allocated, in use): in steps of 4 KiB, never nothing. The
    /// second falls with compaction, the first with defragmentation.
    pub fn size(&self) -> (u64, u64) {
        let [allocated, in_use] = &self.shared.size;
        (allocated.load(Ordering::Relaxed), in_use.load(Ordering::Relaxed))
    }

    /// How often the content was replaced by a snapshot, as a number that is odd meanwhile. What was
    /// read between two equal even answers comes from one state. Ranges and transactions see to that
    /// themselves; what [`View::history`] and [`View::get_at`] found otherwise may miss anything, and
    /// a reader to whom that matters must read again.
    pub fn replacements(&self) -> u64 {
        self.shared.replacements()
    }

    /// How many readers hold a revision against removal.
    pub fn pins_held(&self) -> usize {
        self.shared.pins.count()
    }

    /// A pin that stays until it is dropped: see [`Pin`].
    pub fn pin(&self, revision: i64) -> Pin {
        self.shared.pins.pin(revision, false)
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Answers at the requested revision; the header carries the present one.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range(
        &self,
        request: &RangeRequest,
    ) -> Result<Result<RangeResponse, RequestError>, Fatal> {
        let is_one_key = request.range_end.is_empty();
        self.at_revision(request.revision, is_one_key, |at, current| {
            let response = answer(self.shared.source(), request, at)?;
            Ok(Ok(RangeResponse { header: header(current), ..response }))
        })
    }

    /// Like [`View::range`], but gives up with `None` when that takes more than one engine scan or
    /// gives many bytes.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range_if_short(
        &self,
        request: &RangeRequest,
    ) -> Result<Result<Option<RangeResponse>, RequestError>, Fatal> {
        self.at_revision(request.revision, true, |at, current| {
            let response = answer_if_short(self.shared.source(), request, at)?;
            let headed = |response| RangeResponse { header: header(current), ..response };
            Ok(Ok(response.map(headed)))
        })
    }

    /// The key as it was at `revision`. `None` when it did not exist, and when the revision is
    /// compacted.
    pub fn get_at(&self, user_key: &[u8], revision: i64) -> Result<Option<KeyValue>, Fatal> {
        let found = newest(self.shared.source(), user_key, revision, |version| {
            version.to_key_value(bytes::Bytes::copy_from_slice(user_key))
        })?;
        // Checked afterwards: before a version can go, its revision is published as compacted.
        Ok(found.filter(|_| revision >= self.compacted()))
    }

    /// Carries out a Txn whose ops, taken or not, are all ranges or such Txns.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn txn_read_only(
        &self,
        request: &TxnRequest,
    ) -> Result<Result<TxnResponse, RequestError>, Fatal> {
        self.at_revision(0, false, |_, current| {
            // Pinned before the compacted revision is looked at, so that what is checked stays.
            let _pin = oldest_requested(request).map(|revision| self.pin(revision));
            let compacted = self.compacted();
            let state = State { source: self.shared.source(), revision: current, compacted };
            let mut path = Path::choose(&state, request)?;
            if let Err(error) = check(&state, request, &mut path, &|_| false)? {
                return Ok(Err(error));
            }
            let mut response = self.run(request, &mut path, current)?;
            response.header = header(current);
            Ok(Ok(response))
        })
    }

    fn run(
        &self,
        request: &TxnRequest,
        path: &mut Path,
        current: i64,
    ) -> Result<TxnResponse, Fatal> {
        let (succeeded, ops) = path.enter(request);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    let at = if range.revision > 0 { range.revision } else { current };
                    let response = answer(self.shared.source(), range, at)?;
                    Some(Response::ResponseRange(RangeResponse {
                        header: header(current),
                        ..response
                    }))
                }
                Some(Request::RequestTxn(nested)) => {
                    Some(Response::ResponseTxn(self.run(nested, path, current)?))
                }
                None => None,
                Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)) => {
                    return Err(Fatal::new("execute a writing transaction as a read"));
                }
            };
            responses.push(ResponseOp { response });
        }
        Ok(TxnResponse { header: header(0), succeeded, responses })
    }

    /// Runs a read at the requested revision (the present one if not positive), given as `read`'s
    /// first argument; the second is the present one.
    ///
    /// A read of one engine scan needs no pin: it is enough that its revision is not compacted
    /// afterwards, because versions go only after that is published.
    pub(super) fn at_revision<T>(
        &self,
        requested: i64,
        is_one_scan: bool,
        read: impl Fn(i64, i64) -> Result<Result<T, RequestError>, Fatal>,
    ) -> Result<Result<T, RequestError>, Fatal> {
        loop {
            let replacements = self.replacements();
            if !replacements.is_multiple_of(2) {
                return Ok(Err(RequestError::TimeoutWaitAppliedIndex));
            }
            let current = self.revision();
            let at = if requested > 0 { requested } else { current };
            if at > current {
                return Ok(Err(RequestError::FutureRevision));
            }
            let _pin = (!is_one_scan).then(|| self.pin(at));
            let is_compacted_before = !is_one_scan && at < self.compacted();
            if !is_compacted_before {
                let answer = read(at, current)?;
                let is_compacted = is_one_scan && at < self.compacted();
                if !is_compacted && self.replacements() == replacements {
                    return Ok(answer);
                }
            }
            // Compacted or replaced meanwhile. The present revision is another one now.
            if requested > 0 && at < self.compacted() {
                return Ok(Err(RequestError::Compacted));
            }
        }
    }
}

/// The lowest past revision that a range of the Txn, taken or not, asks for.
fn oldest_requested(request: &TxnRequest) -> Option<i64> {
    let ops = request.success.iter().chain(&request.failure);
    ops.filter_map(|op| match &op.request {
        Some(Request::RequestRange(range)) => Some(range.revision).filter(|at| *at > 0),
        Some(Request::RequestTxn(nested)) => oldest_requested(nested),
        _ => None,
    })
    .min()
}
