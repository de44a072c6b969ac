//! Reads through an unfinished batch: the batch's writes hide the engine's.

use super::{Flow, Read, Space, Value, Visitor, WriteBatch};
use crate::error::Fatal;
use bytes::Bytes;

/// The store as it will be once `batch` is written over `base`.
pub struct Overlay<'a, R: Read + ?Sized> {
    base: &'a R,
    batch: &'a WriteBatch,
}

impl<'a, R: Read + ?Sized> Overlay<'a, R> {
    pub fn new(base: &'a R, batch: &'a WriteBatch) -> Self {
        Self { base, batch }
    }

    /// Visits what the batch holds in `[start, end)`; returns where the visitor wants to go on
    /// when that lies at or after `end`, and whether it stopped.
    fn visit_batch(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visitor<'_>,
    ) -> Flow {
        let mut from = start.to_vec();
        'again: loop {
            for (key, value) in self.batch.range(space, &from, end) {
                let Some(value) = value else { continue };
                match visit(key, Value::Shared(value)) {
                    Flow::Next => {}
                    Flow::Stop => return Flow::Stop,
                    Flow::Seek(target) if end.is_some_and(|end| &target[..] >= end) => {
                        return Flow::Seek(target);
                    }
                    Flow::Seek(target) => {
                        from = target;
                        continue 'again;
                    }
                }
            }
            return Flow::Next;
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
        if self.batch.space_is_empty(space) {
            return self.base.scan(space, start, end, visit);
        }
        // `next` is the first key that has not been offered to the visitor yet.
        let mut next = start.to_vec();
        let mut stopped = false;
        self.base.scan(space, start, end, &mut |key, value| {
            if key < &next[..] {
                return Flow::Seek(next.clone());
            }
            match self.visit_batch(space, &next, Some(key), visit) {
                Flow::Stop => {
                    stopped = true;
                    return Flow::Stop;
                }
                Flow::Seek(target) if &target[..] > key => {
                    next.clone_from(&target);
                    return Flow::Seek(target);
                }
                Flow::Seek(_) | Flow::Next => {}
            }
            let flow = match self.batch.get(space, key) {
                None => visit(key, value),
                Some(Some(written)) => visit(key, Value::Shared(written)),
                Some(None) => Flow::Next,
            };
            match &flow {
                Flow::Next => {
                    next.clear();
                    next.extend_from_slice(key);
                    next.push(0);
                }
                Flow::Seek(target) => next.clone_from(target),
                Flow::Stop => stopped = true,
            }
            flow
        })?;
        if !stopped && end.is_none_or(|end| &next[..] < end) {
            self.visit_batch(space, &next, end, visit);
        }
        Ok(())
    }
}
