//! Reads through an unfinished batch: the batch's writes hide the engine's.

use super::{Flow, Read, Space, Value, Visitor, WriteBatch};
use crate::error::Fatal;
use bytes::Bytes;
use std::collections::btree_map;

/// The store as it will be once `batch` is written over `base`.
pub struct Overlay<'a, R: Read + ?Sized> {
    base: &'a R,
    batch: &'a WriteBatch,
}

impl<'a, R: Read + ?Sized> Overlay<'a, R> {
    pub fn new(base: &'a R, batch: &'a WriteBatch) -> Self {
        Self { base, batch }
    }
}

/// The batch's side of a merging scan.
///
/// Invariant: `ahead`, and all of `rest` behind it, lie in the scanned range and at or after the
/// place where the visitor wants to go on.
struct Writes<'a, 'v> {
    batch: &'a WriteBatch,
    space: Space,
    end: Option<&'a [u8]>,
    /// The first write that has not been reached.
    ahead: Option<(&'a Bytes, &'a Option<Bytes>)>,
    rest: btree_map::Range<'a, Bytes, Option<Bytes>>,
    visit: &'a mut Visitor<'v>,
    is_stopped: bool,
}

impl Writes<'_, '_> {
    fn advance(&mut self) {
        self.ahead = self.rest.next();
    }

    /// Offers a pair to the visitor and follows its wish on this side.
    fn offer(&mut self, key: &[u8], value: Value<'_>) -> Flow {
        let flow = (self.visit)(key, value);
        match &flow {
            Flow::Next => {}
            Flow::Stop => self.is_stopped = true,
            Flow::Seek(target) => {
                assert!(&target[..] > key, "a scan goes only forward");
                if self.ahead.is_some_and(|(key, _)| key[..] < target[..]) {
                    self.rest = self.batch.range(self.space, target, self.end);
                    self.advance();
                }
            }
        }
        flow
    }

    /// Offers what the batch puts before `limit` (no limit: to the end). `Next` when the
    /// visitor's place is not after `limit`, else where it wants to go on.
    fn offer_before(&mut self, limit: Option<&[u8]>) -> Flow {
        let mut place = Flow::Next;
        while let Some((key, written)) = self.ahead {
            if limit.is_some_and(|limit| &key[..] >= limit) {
                break;
            }
            self.advance();
            if let Some(value) = written {
                place = self.offer(key, Value::Shared(value));
                if place == Flow::Stop {
                    return Flow::Stop;
                }
            }
        }
        match place {
            Flow::Seek(target) if limit.is_some_and(|limit| &target[..] > limit) => {
                Flow::Seek(target)
            }
            _ => Flow::Next,
        }
    }

    /// Merges one pair of the base into the scan.
    fn merge(&mut self, key: &[u8], value: Value<'_>) -> Flow {
        let place = self.offer_before(Some(key));
        if place != Flow::Next {
            return place;
        }
        match self.ahead {
            Some((written_key, written)) if written_key == key => {
                self.advance();
                match written {
                    Some(value) => self.offer(key, Value::Shared(value)),
                    None => Flow::Next,
                }
            }
            _ => self.offer(key, value),
        }
    }
}

impl<R: Read + ?Sized> Read for Overlay<'_, R> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Fatal> {
        match self.batch.get(space, key) {
            Some(written) => Ok(written.cloned()),
            None => self.base.get(space, key),
        }
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Result<(), Fatal> {
        let mut rest = self.batch.range(space, start, end);
        let ahead = rest.next();
        if ahead.is_none() {
            return self.base.scan(space, start, end, visit);
        }
        let batch = self.batch;
        let mut writes = Writes { batch, space, end, ahead, rest, visit, is_stopped: false };
        self.base.scan(space, start, end, &mut |key, value| writes.merge(key, value))?;
        if !writes.is_stopped {
            writes.offer_before(None);
        }
        Ok(())
    }

    fn first(
        &self,
        space: Space,
        key: &[u8],
        prefix_len: usize,
        visit: &mut dyn FnMut(&[u8], Value<'_>),
    ) -> Result<(), Fatal> {
        let prefix = &key[..prefix_len];
        let is_written = |(found, _): (&Bytes, _)| found.starts_with(prefix);
        if !self.batch.range(space, key, None).next().is_some_and(is_written) {
            return self.base.first(space, key, prefix_len, visit);
        }
        self.scan(space, key, None, &mut |found, value| {
            if found.starts_with(prefix) {
                visit(found, value);
            }
            Flow::Stop
        })
    }
}
