//! Loads on single calls of the KV service: put, range, txn.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::BenchError;
use super::args::{KeyArgs, PutArgs, RangeArgs, TxnArgs};
use super::load::{Job, Tally, Unary, drive};
use super::outcome::{Outcome, Setting};
use super::wire::{CallError, Connection, Reply, frame};
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{
    Compare, PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp,
    TxnRequest, TxnResponse,
};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// An answer of this size is looked at during the run; a longer one is only counted.
const CHECKED_MAX: usize = 16 << 10;
/// Random bytes that values are cut from, beside the longest value.
const POOL_SIZE: usize = 1 << 20;

/// Which key a request uses.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    digits: usize,
    space: u64,
    is_sequential: bool,
}

impl Keys {
    fn new(args: &KeyArgs) -> Result<Self, BenchError> {
        let prefix = args.key_prefix.clone();
        let digits = (args.key_size as usize).saturating_sub(prefix.len());
        let largest = (args.key_space - 1).to_string();
        if digits < largest.len() {
            return Err(BenchError::Usage(format!(
                "--key-size {} is too short for the prefix {prefix:?} and {} different keys",
                args.key_size, args.key_space
            )));
        }
        Ok(Self { prefix, digits, space: args.key_space, is_sequential: args.sequential_keys })
    }

    /// The place, in the space, of the key that request `number` uses.
    fn index(&self, number: u64) -> u64 {
        if self.is_sequential { number % self.space } else { scramble(number) % self.space }
    }

    /// The key at a place; places beyond the space follow its last key in order.
    fn key(&self, index: u64) -> Bytes {
        if index >= self.space {
            // After every key of the space: ':' is the byte after '9'.
            return Bytes::from(format!("{}:", self.prefix));
        }
        Bytes::from(format!("{}{index:0width$}", self.prefix, width = self.digits))
    }

    fn settings(&self, settings: &mut Vec<Setting>) {
        let size = self.prefix.len() + self.digits;
        settings.push(("key_size", size.to_string()));
        settings.push(("key_space", self.space.to_string()));
        settings
            .push(("key_order", if self.is_sequential { "sequential" } else { "random" }.into()));
    }
}

/// A well-spread number for each number (the finishing step of the SplitMix64 generator).
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Values that do not compress: pieces of one random pool, each at another place.
#[derive(Debug)]
pub(super) struct Values {
    pool: Bytes,
    size: usize,
}

impl Values {
    pub(super) fn new(size: u64) -> Self {
        let size = size as usize;
        // Another pool in each run, so that a second run does not rewrite the same values.
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let pool: Vec<u8> = (0..(POOL_SIZE + size).div_ceil(8) as u64)
            .flat_map(|word| scramble(word ^ (seed as u64)).to_le_bytes())
            .collect();
        Self { pool: Bytes::from(pool), size }
    }

    pub(super) fn value(&self, number: u64) -> Bytes {
        let start = scramble(number) as usize % POOL_SIZE;
        self.pool.slice(start..start + self.size)
    }
}

struct Put {
    keys: Keys,
    values: Values,
}

impl Job for Put {
    const PATH: &'static str = PUT;
    const KEEP: usize = 0;

    fn request(&self, number: u64) -> Bytes {
        let key = self.keys.key(self.keys.index(number));
        frame(&PutRequest { key, value: self.values.value(number), ..PutRequest::default() })
    }

    fn check(&self, _reply: &Reply, _tally: &mut Tally) -> Result<(), String> {
        Ok(())
    }

    /// Two puts of one key: the answers during the run are only counted, so make sure here that
    /// this server's puts do something.
    async fn prepare(&self, connection: &Connection) -> Result<(), BenchError> {
        let put = PutRequest {
            key: self.keys.key(0),
            value: self.values.value(0),
            ..PutRequest::default()
        };
        let mut revisions = [0; 2];
        for revision in &mut revisions {
            let answer: PutResponse =
                connection.call(PUT, &put).await.map_err(BenchError::call("put one key"))?;
            *revision = answer.header.map_or(0, |header| header.revision);
        }
        if revisions[1] <= revisions[0] {
            return Err(BenchError::Usage(format!(
                "the server answers puts, but its revision goes from {} to {}",
                revisions[0], revisions[1]
            )));
        }
        Ok(())
    }

    async fn clean_up(&self, _connection: &Connection) -> Result<(), BenchError> {
        Ok(())
    }
}

pub(super) async fn put(args: &PutArgs) -> Result<Outcome, BenchError> {
    let keys = Keys::new(&args.keys)?;
    let mut settings = vec![];
    keys.settings(&mut settings);
    settings.push(("value_size", args.value_size.to_string()));
    let job = Put { keys, values: Values::new(args.value_size) };
    let measured = drive(&args.load, Unary { job, streams: args.load.streams }).await?;
    Ok(Outcome::new("put", &args.load, settings, measured))
}

/// `STREAMED` chooses the RangeStream call.
struct Get<const STREAMED: bool> {
    keys: Keys,
    /// All but the key and its range's end.
    request: RangeRequest,
    range_keys: u64,
}

impl<const STREAMED: bool> Get<STREAMED> {
    fn ranged(&self, number: u64) -> RangeRequest {
        let start = self.keys.index(number).min(self.keys.space - self.range_keys);
        let mut request = self.request.clone();
        request.key = self.keys.key(start);
        if self.range_keys > 1 {
            request.range_end = self.keys.key(start + self.range_keys);
        }
        request
    }

    /// Keys that a full answer carries, and the count that it states.
    fn expected(&self) -> (u64, i64) {
        let limit = match self.request.limit {
            0 => u64::MAX,
            limit => limit as u64,
        };
        let keys = if self.request.count_only { 0 } else { self.range_keys.min(limit) };
        (keys, self.range_keys as i64)
    }

    /// Keys and count of an answer, put together from its pieces.
    fn found(reply: &Reply) -> Result<(u64, i64), CallError> {
        let parts = if STREAMED {
            let pieces = reply.messages::<RangeStreamResponse>()?.into_iter();
            pieces.filter_map(|piece| piece.range_response).collect()
        } else {
            reply.messages::<RangeResponse>()?
        };
        let keys = parts.iter().map(|part| part.kvs.len() as u64).sum();
        Ok((keys, parts.last().map_or(0, |part| part.count)))
    }
}

impl<const STREAMED: bool> Job for Get<STREAMED> {
    const PATH: &'static str = if STREAMED { RANGE_STREAM } else { RANGE };
    const KEEP: usize = CHECKED_MAX;

    fn request(&self, number: u64) -> Bytes {
        frame(&self.ranged(number))
    }

    fn check(&self, reply: &Reply, tally: &mut Tally) -> Result<(), String> {
        if reply.body.len() as u64 != reply.bytes {
            // Too long to be looked at; one such answer was checked before the run.
            tally.add("keys", self.expected().0);
            return Ok(());
        }
        let (keys, count) = Self::found(reply).map_err(|error| error.to_string())?;
        tally.add("keys", keys);
        if (keys, count) == self.expected() {
            return Ok(());
        }
        Err("an answer without all its keys: were they written?".into())
    }

    /// Reads one whole range and checks that all is there.
    async fn prepare(&self, connection: &Connection) -> Result<(), BenchError> {
        let call = BenchError::call("read one range");
        let answer = match connection.caller(Self::PATH) {
            Ok(mut caller) => caller.call(self.request(0), usize::MAX).await,
            Err(error) => Err(error),
        };
        let (keys, count) = answer.and_then(|reply| Self::found(&reply)).map_err(call)?;
        if (keys, count) == self.expected() {
            return Ok(());
        }
        let (expected_keys, expected_count) = self.expected();
        Err(BenchError::Usage(format!(
            "a range answers {keys} keys of {count} instead of {expected_keys} of \
             {expected_count}: write them first, with quoin bench put --sequential-keys --total {}",
            self.keys.space
        )))
    }

    async fn clean_up(&self, _connection: &Connection) -> Result<(), BenchError> {
        Ok(())
    }
}

pub(super) async fn range(args: &RangeArgs) -> Result<Outcome, BenchError> {
    let keys = Keys::new(&args.keys)?;
    if args.range_keys > keys.space {
        return Err(BenchError::Usage("--range-keys exceeds --key-space".into()));
    }
    let request = RangeRequest {
        limit: i64::try_from(args.limit).map_err(|_| BenchError::Usage("--limit".into()))?,
        serializable: args.serializable,
        keys_only: args.keys_only,
        count_only: args.count_only,
        ..RangeRequest::default()
    };
    let mut settings = vec![];
    keys.settings(&mut settings);
    let mode = if args.serializable { "serializable" } else { "linearizable" };
    settings.push(("mode", mode.into()));
    settings.push(("range_keys", args.range_keys.to_string()));
    settings.push(("limit", args.limit.to_string()));
    settings.push(("keys_only", args.keys_only.to_string()));
    settings.push(("count_only", args.count_only.to_string()));
    settings.push(("call", if args.range_stream { "RangeStream" } else { "Range" }.into()));
    let streams = args.load.streams;
    let range_keys = args.range_keys;
    let measured = if args.range_stream {
        drive(&args.load, Unary { job: Get::<true> { keys, request, range_keys }, streams }).await?
    } else {
        drive(&args.load, Unary { job: Get::<false> { keys, request, range_keys }, streams })
            .await?
    };
    Ok(Outcome::new("range", &args.load, settings, measured))
}

struct Txn {
    keys: Keys,
    values: Values,
    puts: u64,
    gets: u64,
}

impl Txn {
    fn txn(&self, number: u64) -> TxnRequest {
        let start = self.keys.index(number);
        let key = |offset: u64| self.keys.key((start + offset) % self.keys.space);
        // Versions count from 0, so it always holds; the server has to look the key up for it.
        let compare = Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: key(0),
            target_union: Some(TargetUnion::Version(-1)),
            ..Compare::default()
        };
        let puts = (0..self.puts).map(|offset| {
            let value = self.values.value(number + offset);
            Request::RequestPut(PutRequest { key: key(offset), value, ..PutRequest::default() })
        });
        let gets = (0..self.gets).map(|offset| {
            Request::RequestRange(RangeRequest { key: key(offset), ..RangeRequest::default() })
        });
        let success = puts.chain(gets).map(|request| RequestOp { request: Some(request) });
        TxnRequest { compare: vec![compare], success: success.collect(), failure: vec![] }
    }
}

impl Job for Txn {
    const PATH: &'static str = TXN;
    const KEEP: usize = CHECKED_MAX;

    fn request(&self, number: u64) -> Bytes {
        frame(&self.txn(number))
    }

    fn check(&self, reply: &Reply, _tally: &mut Tally) -> Result<(), String> {
        match reply.message::<TxnResponse>() {
            None => Ok(()),
            Some(Ok(answer))
                if answer.succeeded && answer.responses.len() as u64 == self.puts + self.gets =>
            {
                Ok(())
            }
            Some(Ok(_)) => Err("a transaction whose comparison holds did not succeed".into()),
            Some(Err(error)) => Err(error.to_string()),
        }
    }

    async fn prepare(&self, _connection: &Connection) -> Result<(), BenchError> {
        Ok(())
    }

    async fn clean_up(&self, _connection: &Connection) -> Result<(), BenchError> {
        Ok(())
    }
}

pub(super) async fn txn(args: &TxnArgs) -> Result<Outcome, BenchError> {
    let keys = Keys::new(&args.keys)?;
    if args.puts > keys.space {
        return Err(BenchError::Usage("--puts exceeds --key-space".into()));
    }
    let mut settings = vec![];
    keys.settings(&mut settings);
    settings.push(("value_size", args.value_size.to_string()));
    settings.push(("puts", args.puts.to_string()));
    settings.push(("gets", args.gets.to_string()));
    let job = Txn { keys, values: Values::new(args.value_size), puts: args.puts, gets: args.gets };
    let measured = drive(&args.load, Unary { job, streams: args.load.streams }).await?;
    Ok(Outcome::new("txn", &args.load, settings, measured))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(size: u64, space: u64, prefix: &str) -> Result<Keys, BenchError> {
        Keys::new(&KeyArgs {
            key_size: size,
            key_space: space,
            key_prefix: prefix.into(),
            sequential_keys: true,
        })
    }

    #[test]
    fn keys_have_their_size_and_order() {
        let keys = keys(8, 1000, "r/").unwrap();
        assert_eq!(keys.key(0), "r/000000");
        assert_eq!(keys.key(keys.index(1999)), "r/000999");
        assert!((0..1000).all(|index| keys.key(index) < keys.key(index + 1)));
        assert!((0..=1000).all(|index| keys.key(index).len() == 8 || index == 1000));
    }

    #[test]
    fn keys_too_short_for_their_number_are_refused() {
        assert!(keys(3, 1000, "").is_ok());
        assert!(keys(3, 1001, "").is_err());
        assert!(keys(4, 1000, "r/").is_err());
        assert!(keys(1, 1, "long").is_err());
    }

    #[test]
    fn random_keys_reach_the_whole_space() {
        let mut keys = keys(8, 100, "").unwrap();
        keys.is_sequential = false;
        let mut seen = [0u32; 100];
        for number in 0..10_000 {
            seen[keys.index(number) as usize] += 1;
        }
        assert!(seen.iter().all(|&times| (50..200).contains(&times)), "{seen:?}");
    }

    #[test]
    fn a_range_stays_inside_the_space() {
        let request = RangeRequest::default();
        let get = Get::<false> { keys: keys(2, 100, "").unwrap(), request, range_keys: 30 };
        for number in 0..200 {
            let request = get.ranged(number);
            let start: u64 = String::from_utf8(request.key.to_vec()).unwrap().parse().unwrap();
            let end = if start == 70 { ":".into() } else { format!("{:02}", start + 30) };
            assert_eq!((start <= 70, request.range_end), (true, Bytes::from(end)));
        }
    }
}
