//! The store as the scheduler sees it, through the crate etcd-client: transactions, consistent reads
//! and watches, in the words of `store`.

mod commits;
mod door;
mod members;
mod parts;
mod rights;
mod room;

pub use commits::Commits;
pub use door::Door;
pub use room::Room;

use super::keys;
use super::store::{Commit, Compare, Kv, Op, Outcome, Txn};
use commits::commits;
use etcd_client::{
    Certificate, CompareOp, ConnectOptions, DeleteOptions, Error, GetOptions, Identity, KvClient,
    PutOptions, SortOrder, SortTarget, TlsOptions, TxnOp, TxnOpResponse, WatchOptions, WatchStream,
};
use members::Members;
use parts::Part;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tower::util::BoxCloneSyncService;

/// After which it is not known what became of a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(7);
/// Silence while calls wait after which the server is pinged; within 5 seconds, or without a call, it would object.
const PING_INTERVAL: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Before a watch is asked again how far it has come.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Keys in the first page of a long read. How many the next one has follows from their length.
const PAGE: i64 = 100;
const PAGE_MAX: i64 = 10_000;
/// Bytes that a page should have.
const PAGE_BYTES: usize = 4 << 20;
/// Nothing is added to a part of a list that has so many bytes.
const LISTED_BYTES: usize = 16 << 20;
/// Bytes of one answer: a page of definitions of runs is long.
const ANSWER_BYTES_MAX: usize = 512 << 20;

/// How to reach the store.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub endpoints: Vec<String>,
    /// Name and password.
    pub user: Option<(String, String)>,
    /// In PEM form: whom to trust; those whom the system trusts if there is nothing.
    pub authorities: Option<Vec<u8>>,
    /// Certificate and key to show, in PEM form.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// How long somebody waits for an answer.
    pub patience: Patience,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug, Default)]
pub enum Patience {
    /// As long as calls of the kind may take: programs try again.
    #[default]
    Usual,
    /// Somebody sits before it. Whoever reads is told by then that the store does not answer.
    Reads(Duration),
    /// The same of all calls, though it is not known then what became of a change.
    All(Duration),
}

impl Access {
    /// # Errors
    ///
    /// When an endpoint cannot be one, or files for TLS cannot be used.
    pub fn check(&self) -> Result<(), String> {
        match Members::new(self) {
            Ok(_) => Ok(()),
            Err(Error::InvalidArgs(text)) => Err(text),
            Err(error) => Err(error.to_string()),
        }
    }

    fn tls(&self) -> Option<TlsOptions> {
        let is_meant = self.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        let mut tls = TlsOptions::new();
        tls = match &self.authorities {
            Some(authorities) => tls.ca_certificate(Certificate::from_pem(authorities)),
            None => tls.with_enabled_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        is_meant.then_some(tls)
    }
}

/// A part of a range.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub kvs: Vec<Kv>,
    pub has_more: bool,
    /// Keys in the whole range.
    pub count: i64,
    pub revision: i64,
}

#[derive(Clone)]
pub struct Client {
    inner: etcd_client::Client,
}

impl Client {
    /// # Errors
    ///
    /// When no endpoint can be used at all; that none answers now is seen at the first call.
    pub async fn connect(access: &Access) -> Result<Self, Error> {
        let mut options = ConnectOptions::new().with_auto_token_refresh(true);
        if let Some((name, password)) = &access.user {
            options = options.with_user(name, password);
        }
        let channel = BoxCloneSyncService::new(Members::new(access)?);
        let channel = etcd_client::Channel::Custom(channel);
        Ok(Self { inner: etcd_client::Client::from_channel(channel, Some(options)).await? })
    }

    fn kv(&self) -> KvClient {
        self.inner.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// Tries a transaction.
    pub async fn txn(&self, txn: &Txn) -> Outcome {
        let mut client = self.kv();
        let asked = etcd_client::Txn::new()
            .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
            .and_then(txn.then.iter().map(op).collect::<Vec<_>>())
            .or_else(txn.otherwise.iter().map(op).collect::<Vec<_>>());
        let answer = match timeout(CALL_TIMEOUT, client.txn(asked)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return failed(&error),
            Err(_) => return Outcome::Unknown,
        };
        let revision = answer.header().map_or(0, |header| header.revision());
        if answer.succeeded() {
            return Outcome::Committed { revision };
        }
        let found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(mut found) => found.take_kvs().first().map(kv),
            _ => None,
        });
        Outcome::Refused { revision, found: found.collect() }
    }

    /// One key, as it is now.
    pub async fn get(&self, key: &str) -> Result<Option<Kv>, Error> {
        let answer = self.kv().get(key, None).await?;
        Ok(answer.kvs().first().map(kv))
    }

    /// Keys that are there, as they are now, all at one revision; at most 128 can be asked for.
    pub async fn get_all(&self, keys: &[String]) -> Result<Vec<Kv>, Error> {
        self.get_many(keys, &GetOptions::new()).await
    }

    /// The same as whichever member is asked has them: it need not ask the others, and may be behind.
    pub async fn get_all_near(&self, keys: &[String]) -> Result<Vec<Kv>, Error> {
        self.get_many(keys, &GetOptions::new().with_serializable()).await
    }

    async fn get_many(&self, keys: &[String], options: &GetOptions) -> Result<Vec<Kv>, Error> {
        let get = |key: &String| TxnOp::get(key.as_str(), Some(options.clone()));
        let gets: Vec<TxnOp> = keys.iter().map(get).collect();
        let asked = etcd_client::Txn::new().and_then(gets);
        let answer = timeout(CALL_TIMEOUT, self.kv().txn(asked)).await;
        let answer =
            answer.map_err(|_| tonic::Status::deadline_exceeded("no answer in time"))??;
        let found = answer.op_responses().into_iter().filter_map(|response| match response {
            TxnOpResponse::Get(mut found) => found.take_kvs().first().map(kv),
            _ => None,
        });
        Ok(found.collect())
    }

    /// One key, as it was at a revision; 0 for the newest.
    pub async fn get_at(&self, key: &str, revision: i64) -> Result<Option<Kv>, Error> {
        let options = GetOptions::new().with_revision(revision);
        let answer = self.kv().get(key, Some(options)).await?;
        Ok(answer.kvs().first().map(kv))
    }

    /// The names of all keys with a prefix, in order, without their values.
    pub async fn keys(&self, prefix: &str, revision: i64) -> Result<(Vec<String>, i64), Error> {
        let options = GetOptions::new().with_keys_only();
        let (kvs, revision) = self.range(prefix, revision, &options).await?;
        Ok((kvs.into_iter().map(|kv| kv.key).collect(), revision))
    }

    /// All keys with a prefix as they are now, in order, with their revisions but without their values.
    pub async fn versions(&self, prefix: &str) -> Result<Vec<Kv>, Error> {
        let (kvs, _) = self.range(prefix, 0, &GetOptions::new().with_keys_only()).await?;
        Ok(kvs)
    }

    /// All keys with a prefix, at one revision: the given one, or the newest. Returns that too.
    pub async fn prefix(&self, prefix: &str, revision: i64) -> Result<(Vec<Kv>, i64), Error> {
        self.range(prefix, revision, &GetOptions::new()).await
    }

    async fn range(
        &self,
        prefix: &str,
        revision: i64,
        options: &GetOptions,
    ) -> Result<(Vec<Kv>, i64), Error> {
        let mut found = Vec::new();
        let revision = self.pages(prefix, revision, options, |kv| found.push(kv)).await?;
        Ok((found, revision))
    }

    /// Hands out all keys with a prefix in order, at one revision: the given one, or the newest. Returns
    /// that.
    pub async fn each(
        &self,
        prefix: &str,
        revision: i64,
        take: impl FnMut(Kv),
    ) -> Result<i64, Error> {
        self.pages(prefix, revision, &GetOptions::new(), take).await
    }

    /// The same without their values.
    pub async fn each_key(
        &self,
        prefix: &str,
        revision: i64,
        take: impl FnMut(Kv),
    ) -> Result<i64, Error> {
        self.pages(prefix, revision, &GetOptions::new().with_keys_only(), take).await
    }

    async fn pages(
        &self,
        prefix: &str,
        mut revision: i64,
        options: &GetOptions,
        mut take: impl FnMut(Kv),
    ) -> Result<i64, Error> {
        let ask = |part: &Part, limit: i64, revision: i64| {
            let (mut kv, from) = (self.kv(), part.from.clone());
            let options = options.clone().with_range(part.to.clone()).with_limit(limit);
            let options = options.with_revision(revision);
            async move { kv.get(from, Some(options)).await }
        };
        let (mut part, mut limit) = (Part::new(prefix.into(), keys::range_end(prefix)), PAGE);
        let mut answer = ask(&part, limit, revision).await?;
        loop {
            if revision == 0 {
                revision = answer.header().map_or(0, |header| header.revision());
            }
            let (kvs, has_more) = (answer.take_kvs(), answer.more());
            let found: Vec<_> = kvs.iter().map(|kv| kv.key()).collect();
            if !part.advance(&found, limit as usize, has_more) {
                kvs.into_iter().for_each(|found| take(taken(found)));
                return Ok(revision);
            }
            let bytes: usize = kvs.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
            let fitting = (PAGE_BYTES * kvs.len()).checked_div(bytes);
            limit = fitting.map_or(limit, |keys| (keys as i64).clamp(PAGE / 10, PAGE_MAX));
            // The store looks for the next page while this one is taken in.
            let (next, ()) = tokio::join!(ask(&part, limit, revision), async {
                kvs.into_iter().for_each(|found| take(taken(found)));
            });
            answer = next?;
        }
    }

    /// The first keys from `from` up to `end`, as they are now, or the last ones, last first: at most `limit`, and
    /// fewer where they are long.
    pub async fn page(
        &self,
        from: &str,
        end: &[u8],
        limit: i64,
        is_backwards: bool,
    ) -> Result<Page, Error> {
        let (mut from, mut end) = (from.as_bytes().to_vec(), end.to_vec());
        let (mut found, mut bytes, mut keys) = (Page::default(), 0, PAGE);
        loop {
            let wanted = keys.min(limit - found.kvs.len() as i64);
            let mut options = GetOptions::new().with_range(&*end).with_limit(wanted);
            if is_backwards {
                options = options.with_sort(SortTarget::Key, SortOrder::Descend);
            }
            let answer = timeout(CALL_TIMEOUT, self.kv().get(&*from, Some(options))).await;
            let late = |_| tonic::Status::deadline_exceeded("no answer in time");
            let mut answer = answer.map_err(late)??;
            let kvs = answer.take_kvs();
            let last = kvs.last().map(|kv| kv.key().to_vec());
            bytes += kvs.iter().map(|kv| kv.value().len()).sum::<usize>();
            let count = if found.kvs.is_empty() { answer.count() } else { found.count };
            found.kvs.extend(kvs.into_iter().map(taken));
            let revision = answer.header().map_or(0, |header| header.revision());
            found = Page { has_more: answer.more(), count, revision, ..found };
            let is_enough = found.kvs.len() as i64 >= limit || bytes >= LISTED_BYTES;
            match last {
                Some(last) if found.has_more && !is_enough && is_backwards => end = last,
                Some(last) if found.has_more && !is_enough => from = [&*last, b"\0"].concat(),
                _ => return Ok(found),
            }
            keys = ((PAGE_BYTES * found.kvs.len() / bytes.max(1)) as i64).clamp(1, PAGE_MAX);
        }
    }

    /// The first keys with a prefix, as they are now.
    pub async fn first_of(&self, prefix: &str, limit: i64) -> Result<Vec<Kv>, Error> {
        let options = GetOptions::new().with_range(keys::range_end(prefix)).with_limit(limit);
        let answer = self.kv().get(prefix, Some(options)).await?;
        Ok(answer.kvs().iter().map(kv).collect())
    }

    /// The last key from `prefix` up to `end`, as it is now.
    pub async fn last_below(&self, prefix: &str, end: &str) -> Result<Option<Kv>, Error> {
        self.last(prefix, GetOptions::new().with_range(end)).await
    }

    /// The same at a revision, from whichever member is asked: one that is not there yet refuses.
    pub async fn last_below_at(
        &self,
        prefix: &str,
        end: &str,
        revision: i64,
    ) -> Result<Option<Kv>, Error> {
        let options = GetOptions::new().with_range(end).with_revision(revision);
        self.last(prefix, options.with_serializable()).await
    }

    async fn last(&self, prefix: &str, options: GetOptions) -> Result<Option<Kv>, Error> {
        let options = options.with_sort(SortTarget::Key, SortOrder::Descend).with_limit(1);
        let answer = self.kv().get(prefix, Some(options)).await?;
        Ok(answer.kvs().first().map(kv))
    }

    pub async fn grant(&self, ttl: i64) -> Result<i64, Error> {
        Ok(self.inner.lease_client().grant(ttl, None).await?.id())
    }

    pub async fn revoke(&self, lease: i64) -> Result<(), Error> {
        self.inner.lease_client().revoke(lease).await.map(drop)
    }

    /// Seconds until a lease ends if it is not prolonged, and what it was granted for; none if it has ended.
    pub async fn lease_left(&self, lease: i64) -> Result<Option<(i64, i64)>, Error> {
        let found = self.inner.lease_client().time_to_live(lease, None).await?;
        Ok((found.ttl() >= 0).then(|| (found.ttl(), found.granted_ttl())))
    }

    /// A stream that prolongs a lease.
    pub async fn keep_alive(
        &self,
        lease: i64,
    ) -> Result<(etcd_client::LeaseKeeper, etcd_client::LeaseKeepAliveStream), Error> {
        self.inner.lease_client().keep_alive(lease).await
    }

    /// Commits on keys with a prefix, from a revision on.
    pub async fn watch(&self, prefix: &str, from: i64) -> Result<Commits, Error> {
        let stream = self.stream(prefix, from).await?;
        Ok(Commits::new(self.clone(), prefix, from, stream))
    }

    async fn stream(&self, prefix: &str, from: i64) -> Result<WatchStream, Error> {
        let options = WatchOptions::new()
            .with_range(keys::range_end(prefix))
            .with_start_revision(from)
            .with_progress_notify();
        let mut client = self.inner.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        client.watch(prefix, Some(options)).await
    }

    /// All commits on keys with a prefix between two revisions, both included, in order.
    ///
    /// # Errors
    ///
    /// When the store has compacted the first of them, or says nothing for long.
    pub async fn history(
        &self,
        prefix: &str,
        from: i64,
        to: i64,
        mut take: impl FnMut(Commit),
    ) -> Result<(), Error> {
        let mut stream = self.stream(prefix, from).await?;
        loop {
            // The answer says how far the watch has come, once it has come to the newest revision.
            stream.request_progress().await?;
            let silence = sleep(PROGRESS_INTERVAL);
            tokio::pin!(silence);
            loop {
                let response = tokio::select! {
                    response = timeout(CALL_TIMEOUT, stream.message()) => response,
                    () = &mut silence => break,
                };
                let silent = |_| Error::WatchError("no answer".into());
                let Some(response) = response.map_err(silent)?? else {
                    return Err(Error::WatchError("the watch has ended".into()));
                };
                if response.canceled() || response.compact_revision() != 0 {
                    return Err(Error::WatchError(response.cancel_reason().to_owned()));
                }
                let reached = response.header().map_or(0, |header| header.revision());
                let is_progress = response.events().is_empty() && !response.created();
                commits(&response).into_iter().filter(|c| c.revision <= to).for_each(&mut take);
                if is_progress && reached >= to {
                    return Ok(());
                }
            }
        }
    }
}

/// Keys of the scheduler are text; others are not its own.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn kv(found: &etcd_client::KeyValue) -> Kv {
    Kv {
        key: text(found.key()),
        value: found.value().to_vec(),
        create_revision: found.create_revision(),
        mod_revision: found.mod_revision(),
        lease: found.lease(),
    }
}

fn taken(found: etcd_client::KeyValue) -> Kv {
    let (create_revision, mod_revision) = (found.create_revision(), found.mod_revision());
    let lease = found.lease();
    let (key, value) = found.into_key_value();
    let key = String::from_utf8(key).unwrap_or_else(|error| text(error.as_bytes()));
    Kv { key, value, create_revision, mod_revision, lease }
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Asked;
    match compare {
        Compare::Absent(key) => Asked::create_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::CreatedAt(key, at) => Asked::create_revision(key.as_str(), CompareOp::Equal, *at),
        Compare::NotCreatedAt(key, at) => {
            Asked::create_revision(key.as_str(), CompareOp::NotEqual, *at)
        }
        Compare::ChangedAt(key, at) => Asked::mod_revision(key.as_str(), CompareOp::Equal, *at),
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = (*lease != 0).then(|| PutOptions::new().with_lease(*lease));
            TxnOp::put(key.as_str(), value.clone(), options)
        }
        Op::Delete(key) => TxnOp::delete(key.as_str(), None),
        Op::DeleteRange(first, end) => {
            let options = DeleteOptions::new().with_range(end.as_str());
            TxnOp::delete(first.as_str(), Some(options))
        }
        Op::Get(key) => TxnOp::get(key.as_str(), None),
    }
}

/// What an error says of a transaction: that it cannot have happened, or nothing.
fn failed(error: &Error) -> Outcome {
    use tonic::Code;
    match error {
        Error::GRpcStatus(status)
            if matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::ResourceExhausted
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::FailedPrecondition
            ) =>
        {
            Outcome::Failed(status.message().to_owned())
        }
        _ => Outcome::Unknown,
    }
}
