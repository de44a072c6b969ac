//! etcd's database and our state, each made from the other.
//!
//! [`export`] writes a capture as the database that an etcd of the same history would hold, and
//! [`import`] makes a new cluster's state from such a database, etcd's or ours. Kept are keys with
//! all retained revisions and versions, the compacted revision, leases, users, roles, the auth
//! switch, alarms and the cluster's version; members are exported, but a new cluster brings its
//! own. [`status`] sums a database up as etcd's tools do.
//!
//! Left out: how much of a lease had passed, which tools restore to its full length anyway, and a
//! running downgrade.

mod export;
mod import;
mod schema;
mod status;
#[cfg(test)]
mod tests;

pub use export::{Exported, export, version};
pub use import::{Imported, import};
pub use status::{Status, status};
