//! Results of a claim on their way: which go together, what they leave of it, and what is kept of
//! those that come too late.

use super::{Held, Request};
use crate::scheduler::keys;
use crate::scheduler::model::{Item, Ordinals, Row, Segment};
use crate::scheduler::store::Op;

/// More of what nobody wants is not kept.
const LATE_BYTES_MAX: usize = 64 * 1024;

/// What had ended under a claim that is gone.
pub(super) fn late(worker: &str, key: &str, held: Held) -> Vec<Request> {
    let name = key.rsplit('/').next().unwrap_or_default();
    let sent = held.delivery.map(|delivery| delivery.body.then.into_iter());
    let sent = sent.into_iter().flatten().filter_map(|op| match op {
        Op::Put { key, value, .. } if key.starts_with(keys::SEGMENTS) => Some(value),
        _ => None,
    });
    let kept = (!held.rows.is_empty()).then(|| {
        let segment = Segment { claim: held.fence, rows: held.rows };
        serde_json::to_vec(&segment).unwrap_or_default()
    });
    let numbered = sent.chain(kept).zip(0..).filter(|(value, _)| value.len() <= LATE_BYTES_MAX);
    let tell = |(value, part): (Vec<u8>, u32)| {
        let key = keys::late(&held.run, &format!("{worker}-{name}-{part}"));
        Request::Late { key, value }
    };
    numbered.map(tell).collect()
}

/// The first rows, as many as fit.
pub(super) fn take_rows(rows: &mut Vec<Row>, bytes_max: usize) -> Vec<Row> {
    let mut bytes = 0;
    let fits = |row: &&Row| {
        let detail = row.detail.as_ref().map_or(0, |detail| detail.to_string().len());
        bytes += 64 + detail;
        bytes <= bytes_max
    };
    // One that is too large by itself is cut by whoever made it.
    let count = rows.iter().take_while(fits).count().max(1).min(rows.len());
    rows.drain(..count).collect()
}

/// What is left of items without these tasks, each a lane and an ordinal.
pub(super) fn without(items: &[Item], gone: &[(u32, u32)]) -> Vec<Item> {
    let mut left = Vec::new();
    for item in items {
        let mut ordinals = Ordinals::new();
        ordinals.insert_range(item.from, item.to);
        for (_, ordinal) in gone.iter().filter(|(lane, _)| *lane == item.lane) {
            ordinals.remove(*ordinal);
        }
        left.extend(ordinals.intervals().map(|(from, to)| Item { from, to, ..*item }));
    }
    left
}
