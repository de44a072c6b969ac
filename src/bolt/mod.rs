//! Database files in bbolt's format, which etcd keeps its state and its backups in.
//!
//! [`Database`] reads a file that bbolt has written, [`Writer`] makes one that bbolt opens. Neither
//! touches files itself: the reader asks a [`Source`], the writer hands its pages to its owner, in
//! order. The reader trusts no byte: checksums of the meta pages, bounds, kinds and numbers of
//! pages, sizes and order of keys are checked, each page is visited once at most, and whatever does
//! not fit is an error that names the page.
//!
//! Left out, because etcd uses neither: buckets within buckets, and changing a database in place.

mod format;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Database, Source, Visit};
pub use writer::{Sink, Writer};

/// Bytes of a page in files that are written here: that of all machines etcd is commonly run on.
pub const PAGE_LEN: usize = format::PAGE_LEN;
