//! The version that the cluster works at, and the one that it is asked to go down to.
//!
//! Mirrors two records of the space `meta`; each changes in the batch of the entry that causes it.

use crate::error::Fatal;
use crate::storage::{Engine, Space, WriteBatch};

pub(super) const META_CLUSTER_VERSION: &[u8] = b"machine/cluster_version";
const META_DOWNGRADE: &[u8] = b"machine/downgrade";

/// Versions as text, with three numbers.
#[derive(Debug, Default)]
pub(super) struct Versions {
    cluster: Option<String>,
    downgrade: Option<String>,
}

impl Versions {
    pub(super) fn open(engine: &dyn Engine) -> Result<Self, Fatal> {
        let read = |key| match engine.get(Space::Meta, key)? {
            Some(value) => String::from_utf8(value.to_vec())
                .map(Some)
                .map_err(|e| Fatal::with("read cluster version", e)),
            None => Ok(None),
        };
        Ok(Self { cluster: read(META_CLUSTER_VERSION)?, downgrade: read(META_DOWNGRADE)? })
    }

    pub(super) fn cluster(&self) -> Option<&str> {
        self.cluster.as_deref()
    }

    pub(super) fn downgrade(&self) -> Option<&str> {
        self.downgrade.as_deref()
    }

    pub(super) fn set_cluster(&mut self, version: String, batch: &mut WriteBatch) {
        batch.put(Space::Meta, META_CLUSTER_VERSION, version.clone().into_bytes());
        self.cluster = Some(version);
    }

    /// Asks for a version, or with an empty one for none.
    pub(super) fn set_downgrade(&mut self, target: String, batch: &mut WriteBatch) {
        if target.is_empty() {
            batch.delete(Space::Meta, META_DOWNGRADE.to_vec());
        } else {
            batch.put(Space::Meta, META_DOWNGRADE, target.clone().into_bytes());
        }
        self.downgrade = Some(target).filter(|target| !target.is_empty());
    }
}
