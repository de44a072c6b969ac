//! Which watchers want a key: the index behind the registry and behind a stream's catch-up.
//!
//! Watchers of one key stand in an ordered map; watchers of ranges stand in a balanced
//! tree ordered by the range's start, where each node knows how far the ranges below it
//! reach. Finding the watchers of a key costs O(log n) for the first kind and
//! O(log n + k) for k overlapping ranges that nest or stand apart. Watchers of equal ranges share one node,
//! so a thousand watchers of one prefix cost one step of the search.
//!
//! It knows nothing of revisions or streams.

use crate::types::{KeyEnd, KeyRange};
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

/// Watchers by the keys they want. `K` names a watcher, `V` travels with it.
///
/// A watcher stands here at most once per range; the caller removes it with the same
/// range that it gave on insertion.
#[derive(Debug)]
pub struct KeyIndex<K, V> {
    exact: BTreeMap<Bytes, Members<K, V>>,
    ranges: Link<K, V>,
    len: usize,
}

/// Called for each watcher found; `Break` ends the search.
pub type Found<'a, K, V> = dyn FnMut(K, V) -> ControlFlow<()> + 'a;

impl<K: Ord + Copy, V: Copy> KeyIndex<K, V> {
    pub fn new() -> Self {
        Self { exact: BTreeMap::new(), ranges: None, len: 0 }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a watcher, or replaces its value when it stands there already.
    pub fn insert(&mut self, range: &KeyRange, id: K, value: V) {
        let added = match &range.end {
            KeyEnd::Single => match self.exact.entry(range.start.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Members::One(id, value));
                    true
                }
                Entry::Occupied(mut entry) => entry.get_mut().insert(id, value),
            },
            end => insert(&mut self.ranges, &range.start, &Reach::of(end), id, value),
        };
        self.len += usize::from(added);
    }

    /// Removes a watcher. Returns whether it was there.
    pub fn remove(&mut self, range: &KeyRange, id: K) -> bool {
        let removed = match &range.end {
            KeyEnd::Single => match self.exact.entry(range.start.clone()) {
                Entry::Vacant(_) => false,
                Entry::Occupied(mut entry) => {
                    let removed = entry.get_mut().remove(id);
                    if entry.get().is_empty() {
                        entry.remove();
                    }
                    removed
                }
            },
            end => remove(&mut self.ranges, &range.start, &Reach::of(end), id),
        };
        self.len -= usize::from(removed);
        removed
    }

    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Visits the watchers that want this key: those of the key itself in the order of
    /// their names, then those of ranges.
    pub fn visit(&self, key: &[u8], found: &mut Found<'_, K, V>) -> ControlFlow<()> {
        if let Some(members) = self.exact.get(key) {
            members.visit(found)?;
        }
        stab(&self.ranges, key, found)
    }

    /// Whether any watcher wants this key.
    pub fn any(&self, key: &[u8]) -> bool {
        self.visit(key, &mut |_, _| ControlFlow::Break(())).is_break()
    }
}

impl<K: Ord + Copy, V: Copy> Default for KeyIndex<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The watchers of one key or of one range. Most have a single one, which needs no map.
#[derive(Debug)]
enum Members<K, V> {
    One(K, V),
    Many(BTreeMap<K, V>),
}

impl<K: Ord + Copy, V: Copy> Members<K, V> {
    /// Returns whether the watcher is new.
    fn insert(&mut self, id: K, value: V) -> bool {
        match self {
            Members::One(present, old) if *present == id => {
                *old = value;
                false
            }
            Members::One(present, old) => {
                *self = Members::Many(BTreeMap::from([(*present, *old), (id, value)]));
                true
            }
            Members::Many(map) => map.insert(id, value).is_none(),
        }
    }

    /// Returns whether the watcher was there. May leave nobody: see [`Members::is_empty`].
    fn remove(&mut self, id: K) -> bool {
        match self {
            Members::One(present, _) if *present == id => {
                *self = Members::Many(BTreeMap::new());
                true
            }
            Members::One(..) => false,
            Members::Many(map) => map.remove(&id).is_some(),
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Members::Many(map) if map.is_empty())
    }

    fn visit(&self, found: &mut Found<'_, K, V>) -> ControlFlow<()> {
        match self {
            Members::One(id, value) => found(*id, *value),
            Members::Many(map) => map.iter().try_for_each(|(id, value)| found(*id, *value)),
        }
    }
}

/// Where a range ends, in an order that puts "nowhere" last.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Before(Bytes),
    Unbounded,
}

impl Reach {
    /// `Single` never comes here: such watchers stand in the map of exact keys.
    fn of(end: &KeyEnd) -> Self {
        match end {
            KeyEnd::Before(end) => Reach::Before(end.clone()),
            KeyEnd::Single | KeyEnd::Unbounded => Reach::Unbounded,
        }
    }

    fn covers(&self, key: &[u8]) -> bool {
        match self {
            Reach::Before(end) => key < &end[..],
            Reach::Unbounded => true,
        }
    }
}

type Link<K, V> = Option<Box<Node<K, V>>>;

/// A node of a height-balanced (AVL) tree in the order of (start, end).
#[derive(Debug)]
struct Node<K, V> {
    start: Bytes,
    end: Reach,
    /// The furthest end in the subtree of this node.
    furthest: Reach,
    height: u8,
    members: Members<K, V>,
    left: Link<K, V>,
    right: Link<K, V>,
}

impl<K, V> Node<K, V> {
    /// Derives height and furthest end from the children.
    fn update(&mut self) {
        self.height = 1 + height(&self.left).max(height(&self.right));
        let children = [&self.left, &self.right];
        let ends = children.into_iter().flatten().map(|child| &child.furthest);
        self.furthest = ends.chain([&self.end]).max().unwrap_or(&self.end).clone();
    }

    fn order(&self, start: &Bytes, end: &Reach) -> Ordering {
        (start, end).cmp(&(&self.start, &self.end))
    }
}

fn height<K, V>(link: &Link<K, V>) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

fn insert<K: Ord + Copy, V: Copy>(
    link: &mut Link<K, V>,
    start: &Bytes,
    end: &Reach,
    id: K,
    value: V,
) -> bool {
    let Some(node) = link else {
        *link = Some(Box::new(Node {
            start: start.clone(),
            end: end.clone(),
            furthest: end.clone(),
            height: 1,
            members: Members::One(id, value),
            left: None,
            right: None,
        }));
        return true;
    };
    let added = match node.order(start, end) {
        Ordering::Equal => return node.members.insert(id, value),
        Ordering::Less => insert(&mut node.left, start, end, id, value),
        Ordering::Greater => insert(&mut node.right, start, end, id, value),
    };
    rebalance(link);
    added
}

fn remove<K: Ord + Copy, V: Copy>(
    link: &mut Link<K, V>,
    start: &Bytes,
    end: &Reach,
    id: K,
) -> bool {
    let Some(node) = link else { return false };
    let removed = match node.order(start, end) {
        Ordering::Less => remove(&mut node.left, start, end, id),
        Ordering::Greater => remove(&mut node.right, start, end, id),
        Ordering::Equal => {
            let removed = node.members.remove(id);
            if !node.members.is_empty() {
                return removed;
            }
            let (left, mut right) = (node.left.take(), node.right.take());
            *link = match pop_first(&mut right) {
                None => left,
                Some(mut successor) => {
                    successor.left = left;
                    successor.right = right;
                    Some(successor)
                }
            };
            removed
        }
    };
    rebalance(link);
    removed
}

/// Takes the leftmost node out of the subtree.
fn pop_first<K, V>(link: &mut Link<K, V>) -> Link<K, V> {
    let node = link.as_mut()?;
    if node.left.is_some() {
        let first = pop_first(&mut node.left);
        rebalance(link);
        return first;
    }
    let mut first = link.take()?;
    *link = first.right.take();
    Some(first)
}

/// Restores height balance and the derived fields of a node whose children changed by one level.
fn rebalance<K, V>(link: &mut Link<K, V>) {
    let Some(node) = link else { return };
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        if let Some(child) = &node.left
            && height(&child.left) < height(&child.right)
        {
            rotate_left(&mut node.left);
        }
        rotate_right(link);
    } else if right > left + 1 {
        if let Some(child) = &node.right
            && height(&child.right) < height(&child.left)
        {
            rotate_right(&mut node.right);
        }
        rotate_left(link);
    } else {
        node.update();
    }
}

fn rotate_right<K, V>(link: &mut Link<K, V>) {
    let Some(mut node) = link.take() else { return };
    let Some(mut top) = node.left.take() else {
        *link = Some(node);
        return;
    };
    node.left = top.right.take();
    node.update();
    top.right = Some(node);
    top.update();
    *link = Some(top);
}

fn rotate_left<K, V>(link: &mut Link<K, V>) {
    let Some(mut node) = link.take() else { return };
    let Some(mut top) = node.right.take() else {
        *link = Some(node);
        return;
    };
    node.right = top.left.take();
    node.update();
    top.left = Some(node);
    top.update();
    *link = Some(top);
}

/// Visits the members of all ranges that contain the key, in the order of (start, end).
fn stab<K: Ord + Copy, V: Copy>(
    link: &Link<K, V>,
    key: &[u8],
    found: &mut Found<'_, K, V>,
) -> ControlFlow<()> {
    let Some(node) = link else { return ControlFlow::Continue(()) };
    if !node.furthest.covers(key) {
        return ControlFlow::Continue(());
    }
    stab(&node.left, key, found)?;
    if key < &node.start[..] {
        return ControlFlow::Continue(());
    }
    if node.end.covers(key) {
        node.members.visit(found)?;
    }
    stab(&node.right, key, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Checks order, balance and derived fields; returns the number of members.
    fn check(link: &Link<u32, ()>) -> usize {
        let Some(node) = link else { return 0 };
        assert!(height(&node.left).abs_diff(height(&node.right)) <= 1, "out of balance");
        let mut copy = (node.height, node.furthest.clone());
        for child in [&node.left, &node.right].into_iter().flatten() {
            copy.0 = copy.0.max(child.height + 1);
            copy.1 = copy.1.max(child.furthest.clone());
        }
        assert_eq!(copy, (node.height, node.furthest.clone()), "stale derived field");
        if let Some(left) = &node.left {
            assert_eq!(node.order(&left.start, &left.end), Ordering::Less);
        }
        if let Some(right) = &node.right {
            assert_eq!(node.order(&right.start, &right.end), Ordering::Greater);
        }
        let own = match &node.members {
            Members::One(..) => 1,
            Members::Many(map) => map.len(),
        };
        assert!(own > 0, "node without members");
        own + check(&node.left) + check(&node.right)
    }

    fn range(from: u8, to: u8) -> KeyRange {
        let end = match to {
            0 => Bytes::new(),
            255 => Bytes::from_static(&[0]),
            _ => Bytes::copy_from_slice(&[to]),
        };
        KeyRange::new(Bytes::copy_from_slice(&[from]), end)
    }

    fn wanted(index: &KeyIndex<u32, ()>, key: &[u8]) -> Vec<u32> {
        let mut ids = Vec::new();
        let end = index.visit(key, &mut |id, ()| {
            ids.push(id);
            ControlFlow::Continue(())
        });
        assert!(end.is_continue());
        ids.sort_unstable();
        ids
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            steps in prop::collection::vec((any::<bool>(), 1u8..30, 0u8..32, 0u32..8), 1..200)
        ) {
            let mut index = KeyIndex::new();
            let mut list: Vec<(KeyRange, u32)> = Vec::new();
            for (add, from, to, id) in steps {
                let range = range(from, if to == 31 { 255 } else { to });
                let at = list.iter().position(|held| *held == (range.clone(), id));
                if add {
                    index.insert(&range, id, ());
                    if at.is_none() {
                        list.push((range, id));
                    }
                } else {
                    prop_assert_eq!(index.remove(&range, id), at.is_some());
                    if let Some(at) = at {
                        list.swap_remove(at);
                    }
                }
                prop_assert_eq!(index.len(), list.len());
                let single = list.iter().filter(|(range, _)| range.is_single()).count();
                prop_assert_eq!(check(&index.ranges) + single, list.len());
            }
            for key in 0u8..34 {
                let mut naive: Vec<u32> = list
                    .iter()
                    .filter(|(range, _)| range.contains(&[key]))
                    .map(|(_, id)| *id)
                    .collect();
                naive.sort_unstable();
                prop_assert_eq!(wanted(&index, &[key]), naive.clone());
                prop_assert_eq!(index.any(&[key]), !naive.is_empty());
            }
        }
    }

    #[test]
    fn a_hundred_thousand_disjoint_ranges_stay_shallow() {
        let mut index = KeyIndex::new();
        let key = |n: u32| Bytes::copy_from_slice(&n.to_be_bytes());
        for n in 0..100_000 {
            index.insert(&KeyRange::new(key(n * 2), key(n * 2 + 2)), n, ());
        }
        assert!(height(&index.ranges) <= 24);
        assert_eq!(wanted(&index, &key(77_777)), [38_888]);
        for n in 0..99_999 {
            assert!(index.remove(&KeyRange::new(key(n * 2), key(n * 2 + 2)), n));
        }
        assert_eq!(height(&index.ranges), 1);
    }
}
