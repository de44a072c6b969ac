//! Short keys and values kept inside the memory engine's tree nodes.
//!
//! A `Bytes` costs 32 bytes and an allocation of its own, and each comparison on the way down
//! a tree then misses the cache once more. Log keys, lease keys, versions of user keys up to
//! 8 bytes and most log values fit into the space that a pointer and a length would take.

use super::Value;
use bytes::Bytes;
use std::borrow::Borrow;
use std::cmp::Ordering;

/// Longest key kept in the node: the version of an 8-byte user key.
const KEY_INLINE_MAX: usize = 22;
/// Longest value kept in the node.
const VALUE_INLINE_MAX: usize = 23;

/// An owned key, ordered as its bytes are.
pub(crate) enum Key {
    Inline { len: u8, bytes: [u8; KEY_INLINE_MAX] },
    Boxed(Box<[u8]>),
}

/// An owned value, shared with readers unless it is short.
pub(super) enum Stored {
    Inline { len: u8, bytes: [u8; VALUE_INLINE_MAX] },
    Shared(Bytes),
}

// The point of the two types is their size.
const _: () = assert!(size_of::<Key>() == 24 && size_of::<Stored>() == 32);

/// The bytes in an array that is known to be long enough, and their number.
fn inline<const N: usize>(from: &[u8]) -> (u8, [u8; N]) {
    let mut bytes = [0; N];
    bytes[..from.len()].copy_from_slice(from);
    (from.len() as u8, bytes)
}

impl Key {
    pub(crate) fn new(key: Bytes) -> Self {
        if key.len() <= KEY_INLINE_MAX {
            let (len, bytes) = inline(&key);
            return Self::Inline { len, bytes };
        }
        // Takes over the buffer where nobody shares it, and never keeps a larger one alive.
        Self::Boxed(Vec::from(key).into_boxed_slice())
    }

    pub(crate) fn copied(key: &[u8]) -> Self {
        if key.len() <= KEY_INLINE_MAX {
            let (len, bytes) = inline(key);
            return Self::Inline { len, bytes };
        }
        Self::Boxed(key.into())
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Boxed(bytes) => bytes,
        }
    }
}

impl Stored {
    /// Keeps what is given without a copy unless it is short.
    pub(super) fn kept(value: Bytes) -> Self {
        if value.len() <= VALUE_INLINE_MAX { Self::short(&value) } else { Self::Shared(value) }
    }

    /// Keeps a copy, so that a value cut from a larger buffer does not keep all of it alive.
    pub(super) fn copied(value: &[u8]) -> Self {
        if value.len() <= VALUE_INLINE_MAX {
            Self::short(value)
        } else {
            Self::Shared(Bytes::copy_from_slice(value))
        }
    }

    fn short(value: &[u8]) -> Self {
        let (len, bytes) = inline(value);
        Self::Inline { len, bytes }
    }

    pub(super) fn as_value(&self) -> Value<'_> {
        match self {
            Self::Inline { len, bytes } => Value::Borrowed(&bytes[..usize::from(*len)]),
            Self::Shared(bytes) => Value::Shared(bytes),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline { len, .. } => usize::from(*len),
            Self::Shared(bytes) => bytes.len(),
        }
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_slice()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}
