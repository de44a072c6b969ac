//! `quoin kv get|put|del`: single keys and ranges. `txn` and `watch` have files of their own.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};

use super::calls::{DELETE_RANGE, PUT, RANGE, RANGE_STREAM};
use super::client::Client;
use super::failure::Failure;
use super::look::{Form, warn};
use super::options::Options;
use super::txn::TxnArgs;
use super::watch::WatchArgs;
use super::{go, keys, txn, watch};
use crate::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::pb::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse};

/// How long `del` of a range can be stopped.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

#[derive(Debug, Subcommand)]
pub enum KvAction {
    /// Gets a key, or a range of keys
    Get(GetArgs),
    /// Puts a value under a key
    Put(PutArgs),
    /// Deletes a key, or the keys of a range
    Del(DelArgs),
    /// Does several things at once, if what is compared holds
    Txn(TxnArgs),
    /// Prints changes as they happen
    Watch(WatchArgs),
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The key, and the key before which a range ends
    #[arg(value_names = ["KEY", "RANGE_END"])]
    args: Vec<OsString>,
    /// l: what a majority agrees on; s: what the asked member has
    #[arg(long, default_value = "l", value_name = "l|s")]
    consistency: String,
    /// Sort the results: ASCEND or DESCEND
    #[arg(long, value_name = "ORDER", default_value = "", hide_default_value = true)]
    order: String,
    /// Sort by CREATE, KEY, MODIFY, VALUE or VERSION
    #[arg(long, value_name = "TARGET", default_value = "", hide_default_value = true)]
    sort_by: String,
    /// Print so many results at most; 0 is all
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = int)]
    limit: i64,
    /// Get all keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// Get KEY and all keys behind it, in the order of bytes
    #[arg(long)]
    from_key: bool,
    /// Get what was there at this revision; 0 is now
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    rev: i64,
    /// Get keys without values
    #[arg(long)]
    keys_only: bool,
    /// Get the number of keys alone; goes with --write-out=fields
    #[arg(long)]
    count_only: bool,
    /// Print values without their keys; goes with --write-out=simple
    #[arg(long)]
    print_value_only: bool,
    /// Leave out keys that were made before this revision
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    min_create_rev: i64,
    /// Leave out keys that were made after this revision
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    max_create_rev: i64,
    /// Leave out keys that were changed last before this revision
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    min_mod_rev: i64,
    /// Leave out keys that were changed last after this revision
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    max_mod_rev: i64,
    /// Let the server send the results in pieces
    #[arg(long)]
    stream: bool,
}

#[derive(Debug, Args)]
pub struct PutArgs {
    /// The key and its value; without a value, standard input is the value
    #[arg(value_names = ["KEY", "VALUE"])]
    args: Vec<OsString>,
    /// Let the key live as long as this lease, a hexadecimal number
    #[arg(long, value_name = "LEASE", default_value = "0", hide_default_value = true)]
    lease: String,
    /// Print the pair that was there before
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value, and give the key a new lease
    #[arg(long)]
    ignore_value: bool,
    /// Keep the lease, and give the key a new value
    #[arg(long)]
    ignore_lease: bool,
}

#[derive(Debug, Args)]
pub struct DelArgs {
    /// The key, and the key before which a range ends
    #[arg(value_names = ["KEY", "RANGE_END"])]
    args: Vec<OsString>,
    /// Delete all keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// Print the pairs that were deleted
    #[arg(long)]
    prev_kv: bool,
    /// Delete KEY and all keys behind it, in the order of bytes
    #[arg(long)]
    from_key: bool,
    /// Delete a range without two seconds to think again
    #[arg(long)]
    range: bool,
}

/// A number among flags.
pub(super) fn int(text: &str) -> Result<i64, String> {
    go::parse_int(text, 0)
}

pub(super) async fn run(options: &Options, action: KvAction) -> Result<(), Failure> {
    match action {
        KvAction::Get(args) => get(options, &args).await,
        KvAction::Put(args) => {
            let request = args.request(stdin)?;
            let answer = Client::short(options).await?.call(&PUT, request).await?;
            options.look()?.print(&answer)
        }
        KvAction::Del(args) => {
            let request = args.request().await?;
            let answer = Client::short(options).await?.call(&DELETE_RANGE, request).await?;
            options.look()?.print(&answer)
        }
        KvAction::Txn(args) => txn::run(options, &args).await,
        KvAction::Watch(args) => watch::run(options, args).await,
    }
}

async fn get(options: &Options, args: &GetArgs) -> Result<(), Failure> {
    let request = args.request()?;
    let mut look = options.look()?;
    let client = Client::short(options).await?;
    let answer = match args.stream {
        false => client.call(&RANGE, request).await?,
        true => {
            let mut pieces = client.listen(&RANGE_STREAM, request).await?;
            let mut whole = RangeResponse::default();
            while let Some(piece) = pieces.message().await? {
                let piece = piece.range_response.unwrap_or_default();
                whole.header = piece.header.or(whole.header);
                whole.kvs.extend(piece.kvs);
                whole.more |= piece.more;
                whole.count = whole.count.max(piece.count);
            }
            whole
        }
    };
    if args.count_only && look.form != Form::Fields {
        return Err(Failure::args("--count-only is only for `--write-out=fields`"));
    }
    if args.print_value_only && !look.is_simple() {
        return Err(Failure::args("print-value-only is only for `--write-out=simple`"));
    }
    look.value_only = args.print_value_only;
    look.print(&answer)
}

fn argument(args: &[OsString], at: usize) -> Option<Vec<u8>> {
    args.get(at).map(|arg| arg.as_bytes().to_vec())
}

impl GetArgs {
    pub(super) fn request(&self) -> Result<RangeRequest, Failure> {
        let Some(key) = argument(&self.args, 0) else {
            return Err(Failure::args(
                "get command needs one argument as key and an optional argument as range_end",
            ));
        };
        keys::check_range(1, self.prefix, self.from_key)?;
        if self.keys_only && self.count_only {
            return Err(Failure::args(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let serializable = keys::is_serializable(&self.consistency)?;
        keys::check_range(self.args.len(), self.prefix, self.from_key)?;
        let order = self.order()?;
        let target = self.target()?;
        self.check_revisions()?;
        let (key, end) = keys::range(key, argument(&self.args, 1), self.prefix, self.from_key);
        // As etcd's client does: keys come in this order anyway.
        let is_natural = target == SortTarget::Key && order == SortOrder::Ascend;
        let order = if is_natural { SortOrder::None } else { order };
        Ok(RangeRequest {
            key: key.into(),
            range_end: end.into(),
            limit: self.limit,
            revision: self.rev.max(0),
            sort_order: order.into(),
            sort_target: target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod_rev.max(0),
            max_mod_revision: self.max_mod_rev.max(0),
            min_create_revision: self.min_create_rev.max(0),
            max_create_revision: self.max_create_rev.max(0),
        })
    }

    fn order(&self) -> Result<SortOrder, Failure> {
        match self.order.to_uppercase().as_str() {
            "" => Ok(SortOrder::None),
            "ASCEND" => Ok(SortOrder::Ascend),
            "DESCEND" => Ok(SortOrder::Descend),
            _ => Err(Failure::feature(format!("bad sort order {}", self.order))),
        }
    }

    fn target(&self) -> Result<SortTarget, Failure> {
        match self.sort_by.to_uppercase().as_str() {
            "" | "KEY" => Ok(SortTarget::Key),
            "CREATE" => Ok(SortTarget::Create),
            "MODIFY" => Ok(SortTarget::Mod),
            "VALUE" => Ok(SortTarget::Value),
            "VERSION" => Ok(SortTarget::Version),
            _ => Err(Failure::feature(format!("bad sort target {}", self.sort_by))),
        }
    }

    fn check_revisions(&self) -> Result<(), Failure> {
        let ranges = [
            ("Create", self.min_create_rev, self.max_create_rev),
            ("Mod", self.min_mod_rev, self.max_mod_rev),
        ];
        match ranges.iter().find(|(_, min, max)| *max > 0 && min > max) {
            None => Ok(()),
            Some((what, min, max)) => {
                Err(Failure::feature(format!("getMin{what}Rev(={min}) > getMax{what}Rev(={max})")))
            }
        }
    }
}

impl PutArgs {
    /// `input` is the value where none is among the arguments.
    pub(super) fn request(
        &self,
        input: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Result<PutRequest, Failure> {
        let few =
            || Failure::args("put command needs 1 argument and input from stdin or 2 arguments");
        let key = argument(&self.args, 0).ok_or_else(few)?;
        let value = match (self.ignore_value, argument(&self.args, 1)) {
            (true, None) => Vec::new(),
            (true, Some(_)) => {
                return Err(Failure::args(
                    "put command needs only 1 argument when 'ignore-value' is set",
                ));
            }
            (false, Some(value)) => value,
            (false, None) => input().filter(|input| !input.is_empty()).ok_or_else(few)?,
        };
        let lease = go::parse_int(&self.lease, 16)
            .map_err(|why| Failure::args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
        Ok(PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }
}

fn stdin() -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).ok().map(|_| bytes)
}

impl DelArgs {
    pub(super) async fn request(&self) -> Result<DeleteRangeRequest, Failure> {
        let (Some(key), 1..=2) = (argument(&self.args, 0), self.args.len()) else {
            return Err(Failure::args(
                "del command needs one argument as key and an optional argument as range_end",
            ));
        };
        keys::check_range(self.args.len(), self.prefix, self.from_key)?;
        let end = argument(&self.args, 1);
        if let Some(end) = end.as_ref().filter(|_| !self.range) {
            warn(&format!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command \
                 within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
                go::quote(&key),
                go::quote(end),
            ));
            tokio::time::sleep(SECOND_THOUGHTS).await;
        }
        let (key, end) = keys::range(key, end, self.prefix, self.from_key);
        Ok(DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: self.prev_kv })
    }
}

/// Words of a line as arguments of a command.
pub(super) fn os_words(words: Vec<Vec<u8>>) -> Vec<OsString> {
    words.into_iter().map(OsString::from_vec).collect()
}

/// An argument as the bytes of a key.
pub(super) fn key_of(arg: &OsStr) -> Bytes {
    Bytes::copy_from_slice(arg.as_bytes())
}
