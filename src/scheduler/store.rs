//! What the scheduler asks of the store: compares and operations of one transaction, keys with their
//! revisions, and what a watch brings. The shell translates for the client; the simulation plays the
//! store.

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key is the one that was created at this revision.
    CreatedAt(String, i64),
    /// It is not: it was deleted, or created again.
    NotCreatedAt(String, i64),
    /// The key was last changed at this revision.
    ChangedAt(String, i64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Vec<u8>,
        lease: i64,
    },
    Delete(String),
    /// All keys from the first on that are below the second.
    DeleteRange(String, String),
    Get(String),
}

impl Op {
    pub fn put(key: String, value: &impl serde::Serialize) -> Self {
        // Maps with other keys than strings are all that JSON cannot hold.
        let value = serde_json::to_vec(value).unwrap_or_default();
        Self::Put { key, value, lease: 0 }
    }

    /// Deletes all keys with a prefix.
    pub fn delete_all(prefix: String) -> Self {
        let end = String::from_utf8(super::keys::range_end(&prefix)).unwrap_or_default();
        Self::DeleteRange(prefix, end)
    }

    /// What it adds to a transaction, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.len(),
            Self::Delete(key) | Self::Get(key) => key.len(),
            Self::DeleteRange(first, end) => first.len() + end.len(),
        }
    }
}

/// If all compares hold, `then` happens, else `otherwise`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

/// A key as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kv {
    pub key: String,
    pub value: Vec<u8>,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub lease: i64,
}

/// A change that a watch brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Kv),
    Delete { key: String },
}

/// All changes of one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub revision: i64,
    pub changes: Vec<Change>,
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed {
        revision: i64,
    },
    /// A compare did not hold: what `otherwise` read, in its order.
    Refused {
        revision: i64,
        found: Vec<Option<Kv>>,
    },
    /// It did not happen and will not: the store refuses such a thing now, in these words.
    Failed(String),
    /// It may have happened, may not, and may yet.
    Unknown,
}
