//! The one algorithm behind all reads: for each user key of an interval, the newest version at
//! or below a revision.

use super::key;
use crate::error::Fatal;
use crate::storage::{Flow, Read, Space, Value};
use crate::types::{KeyRange, Revision};

/// Engine pairs looked at in one scan: bounds how long the memory engine holds a writer up.
const PAIRS_PER_PIECE: usize = 512;
/// Versions to step over before seeking: a step is much cheaper than a seek.
const STEPS_BEFORE_SEEK: usize = 4;

/// A version that is visible: the key's prefix, its revision and its record.
pub(super) struct Visible<'a> {
    pub(super) prefix: &'a [u8],
    pub(super) revision: Revision,
    pub(super) record: Value<'a>,
}

/// Walks an interval in bounded pieces, holding no lock between them.
pub(super) struct VersionScan {
    next: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    at: i64,
    /// Prefix of the key that was decided last, whose other versions are stepped over.
    decided: Vec<u8>,
}

impl VersionScan {
    pub(super) fn new(range: &KeyRange, at: i64) -> Self {
        let (start, end) = key::bounds(range);
        let next = (!range.is_empty()).then_some(start);
        Self { next, end, at, decided: Vec::new() }
    }

    /// Walks the whole interval.
    pub(super) fn all<R: Read + ?Sized>(
        mut self,
        reader: &R,
        visit: &mut dyn FnMut(Visible<'_>) -> Result<bool, Fatal>,
    ) -> Result<(), Fatal> {
        while self.piece(reader, visit)? {}
        Ok(())
    }

    /// Walks one piece, tombstones included; false at the end. The visitor returns false to stop
    /// the piece behind the version it was given.
    pub(super) fn piece<R: Read + ?Sized>(
        &mut self,
        reader: &R,
        visit: &mut dyn FnMut(Visible<'_>) -> Result<bool, Fatal>,
    ) -> Result<bool, Fatal> {
        let Some(start) = self.next.take() else { return Ok(false) };
        let at = self.at;
        let decided = &mut self.decided;
        let (mut pairs, mut steps) = (0, 0);
        let mut next = None;
        let mut failed = None;
        reader.scan(Space::Kv, &start, self.end.as_deref(), &mut |place, record| {
            if pairs == PAIRS_PER_PIECE {
                next = Some(place.to_vec());
                return Flow::Stop;
            }
            pairs += 1;
            let (prefix, revision) = match key::split(place) {
                Ok(parts) => parts,
                Err(fatal) => {
                    failed = Some(fatal);
                    return Flow::Stop;
                }
            };
            if prefix == &decided[..] {
                steps += 1;
                return match steps < STEPS_BEFORE_SEEK {
                    true => Flow::Next,
                    false => Flow::Seek(key::behind(prefix)),
                };
            }
            if revision.main > at {
                steps += 1;
                if steps < STEPS_BEFORE_SEEK {
                    return Flow::Next;
                }
                steps = 0;
                let mut target = prefix.to_vec();
                key::push_revision(&mut target, Revision::new(at, u32::MAX));
                return Flow::Seek(target);
            }
            steps = 0;
            decided.clear();
            decided.extend_from_slice(prefix);
            match visit(Visible { prefix, revision, record }) {
                Ok(true) => Flow::Next,
                Ok(false) => {
                    next = Some(key::behind(prefix));
                    Flow::Stop
                }
                Err(fatal) => {
                    failed = Some(fatal);
                    Flow::Stop
                }
            }
        })?;
        if let Some(fatal) = failed {
            return Err(fatal);
        }
        self.next = next;
        Ok(self.next.is_some())
    }
}
