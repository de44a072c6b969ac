//! What changed from a revision on, for watches that are behind.

use super::Commit;
use super::key;
use super::view::View;
use crate::error::Fatal;
use crate::pb::mvccpb::event::EventType;
use crate::pb::mvccpb::{Event, KeyValue};
use crate::storage::{Engine, Flow, Space};
use crate::types::Revision;
use bytes::Bytes;

/// Changes that one engine scan looks at.
const SCAN_ENTRIES_MAX: usize = if cfg!(test) { 3 } else { 512 };

/// Changes that one call looks at, wanted or not, before it returns at the next revision.
const ENTRIES_MAX: usize = if cfg!(test) { 12 } else { 16 * 1024 };

/// A run of revisions from history.
#[derive(Clone, Debug, PartialEq)]
pub struct History {
    /// Those with wanted events, oldest first, each with all its wanted events.
    pub commits: Vec<Commit>,
    /// The first revision that was not looked at.
    pub next: i64,
}

/// History no longer reaches as far back as asked; it begins at this revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted(pub i64);

impl View {
    /// The events of keys that are `wanted`, of whole revisions, from revision `from` on.
    ///
    /// Ends at the published revision, or with the revision that reaches one of the limits:
    /// number of events, bytes of their keys and values, or changes looked at. Ends anywhere when a
    /// snapshot comes in between: see [`View::replacements`].
    pub fn history(
        &self,
        from: i64,
        wanted: &dyn Fn(&[u8]) -> bool,
        events_max: usize,
        bytes_max: usize,
    ) -> Result<Result<History, Compacted>, Fatal> {
        let replacements = self.replacements();
        let _pin = self.pin(from);
        let compacted = self.compacted();
        if from < compacted {
            return Ok(Err(Compacted(compacted)));
        }
        let until = self.revision() + 1;
        let engine = &*self.shared().engine;
        let mut piece = Vec::new();
        let mut taken = Taken::default();
        let mut start = Revision::new(from, 0);
        while start.main < until {
            let is_last = read_log(engine, start, until, wanted, &mut piece)?;
            for (revision, user_key) in piece.drain(..) {
                let is_new = revision.main != taken.last;
                if is_new && taken.is_enough(events_max, bytes_max) {
                    return Ok(Ok(History { commits: taken.commits, next: revision.main }));
                }
                if let Some(user_key) = user_key {
                    match event(engine, user_key, revision)? {
                        Some(event) => taken.add(revision.main, event),
                        None if self.replacements() != replacements => {
                            return Ok(Ok(History { commits: taken.commits, next: from }));
                        }
                        None => return Err(missing(revision)),
                    }
                }
                taken.entries += 1;
                taken.last = revision.main;
                start = Revision::new(revision.main, revision.sub + 1);
            }
            if is_last {
                break;
            }
        }
        Ok(Ok(History { commits: taken.commits, next: until.max(from) }))
    }
}

#[derive(Default)]
struct Taken {
    commits: Vec<Commit>,
    events: usize,
    bytes: usize,
    entries: usize,
    /// The revision of the last change looked at.
    last: i64,
}

impl Taken {
    fn is_enough(&self, events_max: usize, bytes_max: usize) -> bool {
        let is_full = self.events > 0 && (self.events >= events_max || self.bytes >= bytes_max);
        is_full || self.entries >= ENTRIES_MAX
    }

    fn add(&mut self, revision: i64, event: Event) {
        self.events += 1;
        self.bytes += event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
        match self.commits.last_mut() {
            Some(commit) if commit.revision == revision => commit.events.push(event),
            _ => self.commits.push(Commit { revision, events: vec![event] }),
        }
    }
}

/// Reads changes from `start` on into `piece`, the key only where it is wanted. Returns whether
/// there are no more before main revision `until`.
fn read_log(
    engine: &dyn Engine,
    start: Revision,
    until: i64,
    wanted: &dyn Fn(&[u8]) -> bool,
    piece: &mut Vec<(Revision, Option<Bytes>)>,
) -> Result<bool, Fatal> {
    let end = key::log_key(Revision::new(until, 0));
    let mut failure = None;
    let mut is_last = true;
    engine.scan(Space::Log, &key::log_key(start), Some(&end), &mut |log_key, user_key| {
        if piece.len() == SCAN_ENTRIES_MAX {
            is_last = false;
            return Flow::Stop;
        }
        match key::decode_log_key(log_key) {
            Ok(revision) => {
                let is_wanted = wanted(user_key.as_slice());
                piece.push((revision, is_wanted.then(|| user_key.to_bytes())));
                Flow::Next
            }
            Err(fatal) => {
                failure = Some(fatal);
                Flow::Stop
            }
        }
    })?;
    failure.map_or(Ok(is_last), Err)
}

fn missing(revision: Revision) -> Fatal {
    Fatal::new(format!("read history at {revision}: its version is missing"))
}

/// The event of one change, if its version is there.
fn event(engine: &dyn Engine, user_key: Bytes, revision: Revision) -> Result<Option<Event>, Fatal> {
    let Some(record) = engine.get(Space::Kv, &key::version_key(&user_key, revision))? else {
        return Ok(None);
    };
    let mod_revision = revision.main;
    let (r#type, kv) = match key::decode_record(&record)? {
        None => (EventType::Delete, KeyValue { key: user_key, mod_revision, ..Default::default() }),
        Some(put) => {
            let kv = KeyValue {
                key: user_key,
                create_revision: put.create,
                mod_revision,
                version: put.version,
                value: record.slice(put.value_at..),
                lease: put.lease,
            };
            (EventType::Put, kv)
        }
    };
    Ok(Some(Event { r#type: r#type as i32, kv: Some(kv), prev_kv: None }))
}
