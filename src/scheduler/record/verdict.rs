//! A person's verdict on a manual case: it is delivered as a worker delivers a result, by whoever the
//! person speaks to.

use super::Running;
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Item, Ordinals, Row, Segment};
use crate::scheduler::store::{Compare, Kv, Op, Txn};

/// The tasks that wait for a verdict under a claim of `PEOPLE`; the start is not known.
pub fn waiting(claim: &Claim) -> impl Iterator<Item = Running> {
    claim.items.iter().flat_map(|item| {
        let tasks = item.from..item.to;
        tasks.map(|ordinal| (claim.run.clone(), item.lane, ordinal, item.attempt, 0))
    })
}

/// The transaction that records a verdict, if the claim is as it was read, and shows the claim and
/// the segment as they are if it is not. None if the task does not wait under this claim; the row's
/// attempt is that of the claim whatever it says.
pub fn give(kv: &Kv, row: Row) -> Option<Txn> {
    let (worker, name) = keys::parse_claim(&kv.key)?;
    let claim: Claim = serde_json::from_slice(&kv.value).ok()?;
    let is_meant =
        |item: &&Item| item.lane == row.lane && (item.from..item.to).contains(&row.ordinal);
    let attempt = claim.items.iter().find(is_meant)?.attempt;
    let mut left = Vec::new();
    for item in &claim.items {
        let mut ordinals = Ordinals::new();
        ordinals.insert_range(item.from, item.to);
        if is_meant(&item) {
            ordinals.remove(row.ordinal);
        }
        left.extend(ordinals.intervals().map(|(from, to)| Item { from, to, ..*item }));
    }
    // Each change of a claim has a part of its own.
    let part = (kv.mod_revision & i64::from(u32::MAX >> 1)) as u32;
    let segment_key = keys::segment(&claim.run, worker, name, part);
    let segment = Segment { claim: kv.create_revision, rows: vec![Row { attempt, ..row }] };
    let mut then = vec![Op::put(segment_key.clone(), &segment)];
    if left.is_empty() {
        then.push(Op::Delete(kv.key.clone()));
        then.extend(claim.tags.iter().map(|tag| Op::Delete(format!("{}{tag}", keys::TAGS))));
    } else {
        then.push(Op::put(kv.key.clone(), &Claim { items: left, ..claim }));
    }
    Some(Txn {
        compares: vec![Compare::ChangedAt(kv.key.clone(), kv.mod_revision)],
        then,
        otherwise: vec![Op::Get(segment_key), Op::Get(kv.key.clone())],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::model::Status;

    #[test]
    fn a_verdict_takes_its_task_out_of_the_claim() {
        let item = Item { lane: 1, from: 0, to: 3, attempt: 2 };
        let claim = Claim {
            run: "r".into(),
            items: vec![item],
            tags: vec!["desk/0".into()],
            ..Default::default()
        };
        let mut kv = Kv {
            key: keys::claim(keys::PEOPLE, 255, 1),
            value: serde_json::to_vec(&claim).unwrap(),
            create_revision: 7,
            mod_revision: 9,
            lease: 0,
        };
        let row = |ordinal| Row {
            lane: 1,
            ordinal,
            attempt: 0,
            status: Status::Passed,
            start: 1,
            duration: 0,
            detail: None,
        };
        assert_eq!(give(&kv, row(3)), None);
        let txn = give(&kv, row(1)).unwrap();
        assert_eq!(txn.compares, [Compare::ChangedAt(kv.key.clone(), 9)]);
        let Op::Put { key, value, .. } = &txn.then[0] else { panic!("{txn:?}") };
        assert_eq!(keys::parse_segment(key), Some(("r", keys::PEOPLE, "ff-1")));
        let segment: Segment = serde_json::from_slice(value).unwrap();
        assert_eq!((segment.claim, segment.rows[0].attempt), (7, 2));
        let Op::Put { value, .. } = &txn.then[1] else { panic!("{txn:?}") };
        let left: Claim = serde_json::from_slice(value).unwrap();
        let tasks: Vec<u32> = waiting(&left).map(|(_, _, ordinal, ..)| ordinal).collect();
        assert_eq!(tasks, [0, 2]);
        // The last one frees the tag.
        let last = Claim { items: vec![Item { from: 2, ..item }], ..claim };
        kv.value = serde_json::to_vec(&last).unwrap();
        let txn = give(&kv, row(2)).unwrap();
        assert_eq!(txn.then[1..], [Op::Delete(kv.key), Op::Delete(keys::tag("desk", 0))]);
    }
}
