//! What readers see: ranges at a revision, history since one, and pins.

use super::key::{self, Record};
use super::scan::VersionScan;
use super::txn::{check_revision, read_only};
use super::{Commit, Shared};
use crate::error::{Fatal, RequestError};
use crate::pb::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use crate::storage::{Engine, Flow, Space};
use crate::types::{KeyEnd, KeyRange, Revision};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Log entries looked at in one engine scan.
const ENTRIES_PER_PIECE: usize = 512;
/// Log entries that one call of [`View::history`] looks at before it ends at the next revision, however
/// few of them are wanted: some milliseconds.
const HISTORY_ENTRIES_MAX: usize = 16 * ENTRIES_PER_PIECE;
/// Keys in the first chunk of a streamed range, as etcd has it: the client sees something early.
const FIRST_CHUNK_KEYS: usize = 10;

/// A reader's handle. Cheap to clone; never blocks the writer beyond one bounded engine scan.
#[derive(Clone)]
pub struct View {
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
}

/// History begins above this revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted(pub i64);

/// Whole revisions, in order. `next` is the first one not looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    pub commits: Vec<Commit>,
    pub next: i64,
}

/// Holds physical removal back from a revision until dropped.
pub struct Pin {
    shared: Arc<Shared>,
    revision: i64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(holders) = pins.get_mut(&self.revision) {
            *holders -= 1;
            if *holders == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}

impl View {
    pub(super) fn new(engine: Arc<dyn Engine>, shared: Arc<Shared>) -> Self {
        Self { engine, shared }
    }

    /// The newest revision whose changes are all visible.
    pub fn revision(&self) -> i64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// The last compacted revision; 0 before the first compaction.
    pub fn compacted(&self) -> i64 {
        self.shared.compacted.load(Ordering::Acquire)
    }

    /// How often the content was replaced by a snapshot, as a number that is odd meanwhile. What was
    /// read between two equal even answers comes from one state; what was read otherwise may miss
    /// anything, and a reader to whom that matters must read again.
    pub fn replacements(&self) -> u64 {
        self.shared.replacements.load(Ordering::SeqCst)
    }

    /// Pins a revision. What was removed before the call stays removed: check
    /// [`View::compacted`] after it.
    pub fn pin(&self, revision: i64) -> Pin {
        *self.shared.pins.lock().entry(revision).or_default() += 1;
        Pin { shared: self.shared.clone(), revision }
    }

    /// Answers a range request at the present or the asked revision.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn range(
        &self,
        request: &RangeRequest,
    ) -> Result<Result<RangeResponse, RequestError>, Fatal> {
        let (at, revision, pin) = match self.pinned(request.revision) {
            Ok(pinned) => pinned,
            Err(error) => return Ok(Err(error)),
        };
        let response = super::range::range(self.engine.as_ref(), request, at, revision)?;
        drop(pin);
        Ok(Ok(response))
    }

    /// Fixes the revision to read at: (it, the store's, the pin that keeps it readable).
    fn pinned(&self, asked: i64) -> Result<(i64, i64, Pin), RequestError> {
        let revision = self.revision();
        let at = if asked > 0 { asked } else { revision };
        let pin = self.pin(at);
        // After the pin: a compaction before it is seen here, a later one respects it.
        check_revision(at, revision, self.compacted())?;
        Ok((at, revision, pin))
    }

    /// Begins to answer a range in chunks of about `bytes_max`, all at one revision.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn range_stream(
        &self,
        request: &RangeRequest,
        bytes_max: usize,
    ) -> Result<Result<RangeStream, RequestError>, Fatal> {
        let (at, revision, pin) = match self.pinned(request.revision) {
            Ok(pinned) => pinned,
            Err(error) => return Ok(Err(error)),
        };
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        Ok(Ok(RangeStream {
            engine: self.engine.clone(),
            scan: Some(VersionScan::new(&range, at)),
            request: request.clone(),
            revision,
            bytes_max,
            count: 0,
            sent: 0,
            _pin: pin,
        }))
    }

    /// Answers a transaction of ranges alone.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn txn_read_only(
        &self,
        request: &TxnRequest,
    ) -> Result<Result<TxnResponse, RequestError>, Fatal> {
        let revision = self.revision();
        // The lowest revision that any range may ask for is still readable while this lives.
        let _pin = self.pin(self.compacted());
        read_only(self.engine.as_ref(), request, revision, self.compacted())
    }

    /// The pair at a revision; `None` when there was none or it has been compacted away.
    pub fn get_at(&self, user_key: &[u8], revision: i64) -> Result<Option<KeyValue>, Fatal> {
        let _pin = self.pin(revision);
        if revision < self.compacted() {
            return Ok(None);
        }
        let range = KeyRange { start: Bytes::copy_from_slice(user_key), end: KeyEnd::Single };
        let mut found = None;
        VersionScan::new(&range, revision).all(self.engine.as_ref(), &mut |visible| {
            let record = visible.record.to_bytes();
            let key = key::user_key(visible.prefix);
            found = key::key_value(key, visible.revision.main, &record)?;
            Ok(false)
        })?;
        Ok(found)
    }

    /// Whole revisions from `from` on, up to the published one, until about `events_max` events
    /// of wanted keys or `bytes_max` bytes of them were read, or until the call has taken long.
    ///
    /// # Errors
    /// The compacted revision, when `from` lies below it.
    pub fn history(
        &self,
        from: i64,
        wanted: &dyn Fn(&[u8]) -> bool,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Result<History, Compacted>, Fatal> {
        let revision = self.revision();
        let _pin = self.pin(from);
        let compacted = self.compacted();
        if from < compacted {
            return Ok(Err(Compacted(compacted)));
        }
        let mut commits: Vec<Commit> = Vec::new();
        let (mut events, mut bytes, mut seen) = (0, 0, 0);
        let mut current = from;
        let mut next = key::log_key(Revision::new(from, 0));
        let end = key::log_key(Revision::new(revision + 1, 0));
        loop {
            let (entries, more) = self.log_piece(&next, &end)?;
            for (at, user_key) in entries {
                let begins = at.main != std::mem::replace(&mut current, at.main);
                let full =
                    events >= events_max || bytes >= bytes_max || seen >= HISTORY_ENTRIES_MAX;
                if begins && full {
                    return Ok(Ok(History { commits, next: at.main }));
                }
                seen += 1;
                if !wanted(&user_key) {
                    continue;
                }
                let event = self.event(at, user_key)?;
                let kv = event.kv.as_ref();
                events += 1;
                bytes += kv.map_or(0, |kv| kv.key.len() + kv.value.len());
                match commits.last_mut().filter(|commit| commit.revision == at.main) {
                    Some(commit) => commit.events.push(event),
                    None => commits.push(Commit { revision: at.main, events: vec![event] }),
                }
            }
            match more {
                Some(place) => next = place,
                None => return Ok(Ok(History { commits, next: revision + 1 })),
            }
        }
    }

    /// A bounded run of the log, and where to go on.
    #[expect(clippy::type_complexity, reason = "a pair that one caller takes apart at once")]
    fn log_piece(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Result<(Vec<(Revision, Bytes)>, Option<Vec<u8>>), Fatal> {
        let mut entries = Vec::new();
        let mut more = None;
        let mut failed = None;
        self.engine.scan(Space::Log, start, Some(end), &mut |place, user_key| {
            if entries.len() == ENTRIES_PER_PIECE {
                more = Some(place.to_vec());
                return Flow::Stop;
            }
            match key::split_log(place) {
                Ok(revision) => {
                    entries.push((revision, user_key.to_bytes()));
                    Flow::Next
                }
                Err(fatal) => {
                    failed = Some(fatal);
                    Flow::Stop
                }
            }
        })?;
        match failed {
            Some(fatal) => Err(fatal),
            None => Ok((entries, more)),
        }
    }

    fn event(&self, at: Revision, user_key: Bytes) -> Result<Event, Fatal> {
        let place = key::version_key(&user_key, at);
        let Some(record) = self.engine.get(Space::Kv, &place)? else {
            return Err(Fatal::new(format!("read history at {at}: its version is missing")));
        };
        Ok(match key::key_value(user_key.clone(), at.main, &record)? {
            Some(kv) => Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: None },
            None => {
                let kv = KeyValue { key: user_key, mod_revision: at.main, ..KeyValue::default() };
                Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: None }
            }
        })
    }
}

/// A range on its way out in chunks. All but the last chunk carry pairs only; the last one has
/// header, `more` and the exact count.
pub struct RangeStream {
    engine: Arc<dyn Engine>,
    scan: Option<VersionScan>,
    request: RangeRequest,
    revision: i64,
    bytes_max: usize,
    count: i64,
    sent: usize,
    _pin: Pin,
}

impl RangeStream {
    /// The next chunk, or `None` after the last one.
    ///
    /// # Errors
    /// None beyond a failing engine: the revision is pinned.
    pub fn next_chunk(&mut self) -> Result<Result<Option<RangeResponse>, RequestError>, Fatal> {
        let Some(mut scan) = self.scan.take() else { return Ok(Ok(None)) };
        let limit = usize::try_from(self.request.limit).ok().filter(|limit| *limit > 0);
        let (engine, request) = (self.engine.clone(), &self.request);
        let (count, sent, bytes_max) = (&mut self.count, &mut self.sent, self.bytes_max);
        let (mut kvs, mut bytes) = (Vec::new(), 0);
        let mut full = false;
        while !full
            && scan.piece(engine.as_ref(), &mut |visible| {
                let record = visible.record.as_slice();
                let Record::Put { create, version, lease, value_at } = key::decode(record)? else {
                    return Ok(true);
                };
                *count += 1;
                if request.count_only || limit.is_some_and(|limit| *sent >= limit) {
                    return Ok(true);
                }
                let key = key::user_key(visible.prefix);
                let mut kv = KeyValue {
                    key,
                    create_revision: create,
                    mod_revision: visible.revision.main,
                    version,
                    ..KeyValue::default()
                };
                if !request.keys_only {
                    kv.value = visible.record.to_bytes().slice(value_at..);
                    kv.lease = lease;
                }
                bytes += kv.key.len() + kv.value.len() + 32;
                kvs.push(kv);
                *sent += 1;
                full = bytes >= bytes_max || *sent == FIRST_CHUNK_KEYS;
                Ok(!full)
            })?
        {}
        if full {
            self.scan = Some(scan);
            return Ok(Ok(Some(RangeResponse { kvs, ..RangeResponse::default() })));
        }
        let more = !self.request.count_only
            && limit.is_some_and(|limit| self.count > i64::try_from(limit).unwrap_or(i64::MAX));
        let header = ResponseHeader { revision: self.revision, ..ResponseHeader::default() };
        Ok(Ok(Some(RangeResponse { header: Some(header), kvs, more, count: self.count })))
    }
}
