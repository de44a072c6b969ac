//! Discovery: first members find each other through keys in another cluster, that of the registry.
//!
//! Below `/_etcd/registry/TOKEN`, `_config/size` says how many members there will be, and each one
//! registers itself under `members/ID` as `name=url,...`. The first to register are the members;
//! one more is refused. Keys, texts and pauses are etcd's, so members of both can meet. The registry
//! is any etcd or Quoin; it is asked again for as long as it does not answer.

use crate::config::{Bootstrap, Config, Discovery};
use crate::error::Fatal;
use crate::pb::etcdserverpb::auth_client::AuthClient;
use crate::pb::etcdserverpb::kv_client::KvClient;
use crate::pb::etcdserverpb::watch_client::WatchClient;
use crate::pb::etcdserverpb::{
    AuthenticateRequest, PutRequest, RangeRequest, RangeResponse, WatchCreateRequest, WatchRequest,
    watch_request::RequestUnion,
};
use crate::pb::mvccpb::KeyValue;
use crate::tls::{DialOptions, Dialer, endpoint_url};
use bytes::Bytes;
use std::time::Duration;
use tokio_stream::StreamExt as _;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

const PREFIX: &str = "/_etcd/registry";
/// Pauses double up to this power of two, in seconds.
const DOUBLINGS_MAX: u32 = 8;

/// What the registry's keys are wrong about; anything else is tried again.
const SIZE_NOT_FOUND: &str = "discovery: size key not found";
const BAD_SIZE: &str = "discovery: size key is bad";
const FULL: &str = "discovery: cluster is full";
const INVALID_URL: &str = "discovery: invalid peer URL";

/// Registers this member and waits for the others; what they found together.
///
/// # Errors
/// When the registry's keys leave no place for this member, or name URLs that are none.
pub(super) async fn join(config: &Config, discovery: &Discovery) -> Result<Bootstrap, Fatal> {
    let own: Vec<String> =
        config.advertise_peer_urls.iter().map(|url| format!("{}={url}", config.name)).collect();
    let own = own.join(",");
    let token = &discovery.token;
    let refused = |e: crate::config::ConfigError| Fatal::new(e.message);
    let Bootstrap::Found { own_id, .. } = config.bootstrap_from(&own, token).map_err(refused)?
    else {
        return Err(Fatal::new(
            "discovery URL should not be set when joining existing initial cluster",
        ));
    };
    tracing::info!("Bootstrapping cluster using v3 discovery.");
    let joined = match Registry::open(discovery) {
        Ok(mut registry) => registry.join(&own_id.to_string(), &own).await,
        Err(why) => Err(why),
    };
    let endpoints = discovery.endpoints.join(",");
    let error = match joined {
        Ok(cluster) => match config.bootstrap_from(&cluster, token) {
            Ok(bootstrap) => {
                tracing::info!(
                    "discovery-token" = token,
                    "discovery-endpoints" = endpoints,
                    cluster,
                    "discovery joined cluster successfully"
                );
                return Ok(bootstrap);
            }
            Err(error) if error.message.contains("has duplicate url") => {
                return Err(Fatal::new(format!("discovery cluster {cluster} has duplicate url")));
            }
            Err(error) if error.message.starts_with("couldn't find local name") => {
                return Err(Fatal::new(error.message));
            }
            Err(_) => INVALID_URL.to_owned(),
        },
        Err(why) => why,
    };
    tracing::error!(
        "discovery-token" = token,
        "discovery-endpoints" = endpoints,
        error,
        "discovery failed to join cluster"
    );
    let error = format!("failed to join discovery cluster ({error})");
    tracing::warn!(
        "discovery-token" = token,
        "discovery-endpoints" = endpoints,
        error,
        "failed to bootstrap; discovery token was already used"
    );
    tracing::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
    Err(Fatal::new(error))
}

/// Those that have registered, in the order in which they did.
#[derive(Debug, Default)]
struct Registered {
    /// Revision of creation, key, `name=url,...`.
    members: Vec<(i64, String, String)>,
}

impl Registered {
    /// Takes note of a key; says so, and why not if it is of no use.
    fn add(&mut self, kv: &KeyValue) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (key, member) = (text(&kv.key), text(&kv.value));
        let problem = if !member.contains('=') {
            "invalid peer info returned from discovery service"
        } else if self.members.iter().any(|(_, known, _)| *known == key) {
            "found duplicate peer from discovery service"
        } else {
            tracing::info!(
                memberKey = key,
                memberInfo = member,
                "found peer from discovery service"
            );
            self.members.push((kv.create_revision, key, member));
            self.members.sort();
            return;
        };
        tracing::warn!(memberKey = key, memberInfo = member, "{problem}");
    }

    /// Whether so many others were first that there is no place for `own`.
    fn is_full_for(&self, own: &str, size: usize) -> bool {
        let place = self.members.iter().position(|(_, key, _)| key == own);
        place.unwrap_or(self.members.len()) >= size
    }

    /// The first so many, as `--initial-cluster` has them.
    fn cluster(&self, size: usize) -> String {
        let members: Vec<&str> =
            self.members.iter().take(size).map(|(_, _, member)| &member[..]).collect();
        members.join(",")
    }
}

/// How many members the key wants.
fn size(answer: &RangeResponse) -> Result<usize, &'static str> {
    let kv = answer.kvs.first().ok_or(SIZE_NOT_FOUND)?;
    let size = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse::<usize>().ok());
    size.filter(|size| *size > 0).ok_or(BAD_SIZE)
}

/// The cluster with the keys.
struct Registry<'a> {
    settings: &'a Discovery,
    /// The first is asked first; one that does not answer goes to the end.
    channels: Vec<Channel>,
    base: String,
    failures: u32,
}

impl<'a> Registry<'a> {
    fn open(settings: &'a Discovery) -> Result<Self, String> {
        let tls = &settings.tls;
        let dialer = Dialer::new(DialOptions {
            ca_file: tls.ca_file.clone(),
            cert_file: tls.cert_file.clone(),
            key_file: tls.key_file.clone(),
            skips_verification: tls.skips_verification,
            ..DialOptions::default()
        });
        let dialer = dialer.map_err(|error| error.to_string())?;
        let channels =
            settings.endpoints.iter().map(|endpoint| channel(settings, &dialer, endpoint));
        let channels = channels.collect::<Result<Vec<_>, _>>()?;
        let base = format!("{PREFIX}/{}", settings.token);
        Ok(Self { settings, channels, base, failures: 0 })
    }

    fn members_key(&self) -> String {
        format!("{}/members", self.base)
    }

    /// All members, once there are enough.
    async fn join(&mut self, id: &str, own: &str) -> Result<String, String> {
        let key = format!("{}/{id}", self.members_key());
        self.check(&key).await?;
        self.register(&key, own).await;
        let (mut registered, size, revision) = self.check(&key).await?;
        while registered.members.len() < size {
            self.wait_for_others(&mut registered, size, revision + 1).await;
        }
        Ok(registered.cluster(size))
    }

    /// Who is there, how many there are to be, and the registry's revision.
    async fn check(&mut self, own: &str) -> Result<(Registered, usize, i64), String> {
        loop {
            let key = format!("{}/_config/size", self.base);
            let size = match self.range(&key, Bytes::new()).await {
                Ok(answer) => size(&answer)?,
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(
                        clusterSizeKey = key,
                        error,
                        "failed to get cluster size from discovery service"
                    );
                    self.pause("cluster status check").await;
                    continue;
                }
            };
            let prefix = self.members_key();
            match self.range(&prefix, after_prefix(&prefix)).await {
                Ok(answer) => {
                    self.failures = 0;
                    let mut registered = Registered::default();
                    answer.kvs.iter().for_each(|kv| registered.add(kv));
                    let revision = answer.header.unwrap_or_default().revision;
                    return match registered.is_full_for(own, size) {
                        true => Err(FULL.to_owned()),
                        false => Ok((registered, size, revision)),
                    };
                }
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(
                        membersKeyPrefix = prefix,
                        error,
                        "failed to get cluster members from discovery service"
                    );
                    self.pause("cluster status check").await;
                }
            }
        }
    }

    async fn register(&mut self, key: &str, own: &str) {
        loop {
            let request = PutRequest {
                key: key.to_owned().into(),
                value: own.to_owned().into(),
                ..PutRequest::default()
            };
            match self.put(request).await {
                Ok(()) => {
                    self.failures = 0;
                    tracing::info!(
                        memberKey = key,
                        memberInfo = own,
                        "register member itself successfully"
                    );
                    return;
                }
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(
                        memberKey = key,
                        error,
                        "failed to register members itself to the discovery service"
                    );
                    self.pause("register member itself").await;
                }
            }
        }
    }

    /// Returns when enough are there, or the watch has ended.
    async fn wait_for_others(&mut self, registered: &mut Registered, size: usize, from: i64) {
        let found = registered.members.len();
        tracing::info!(
            clusterSize = size,
            "found-peers" = found,
            "waiting for peers from discovery service"
        );
        if let Err(status) = self.watch(registered, size, from).await {
            tracing::warn!(error = status.message(), "failed to watch the discovery service");
            self.pause("wait for peers").await;
            return;
        }
        let found = registered.members.len();
        tracing::info!(
            clusterSize = size,
            "found-peers" = found,
            "found all needed peers from discovery service"
        );
    }

    async fn watch(
        &mut self,
        registered: &mut Registered,
        size: usize,
        start_revision: i64,
    ) -> Result<(), Status> {
        let prefix = self.members_key();
        let create = WatchCreateRequest {
            range_end: after_prefix(&prefix),
            key: prefix.into(),
            start_revision,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // Open for as long as answers are wanted.
        let requests = tokio_stream::once(create).chain(tokio_stream::pending());
        let channel = self.channels[0].clone();
        let request = self.with_token(&channel, requests).await?;
        let answers = WatchClient::new(channel).watch(request).await;
        let mut answers = answers.inspect_err(|_| self.channels.rotate_left(1))?.into_inner();
        while registered.members.len() < size {
            let Some(answer) = answers.message().await? else {
                return Err(Status::unavailable("the watch has ended"));
            };
            if answer.canceled {
                return Err(Status::unavailable(answer.cancel_reason));
            }
            answer.events.iter().filter_map(|event| event.kv.as_ref()).for_each(|kv| {
                registered.add(kv);
            });
        }
        Ok(())
    }

    async fn range(&mut self, key: &str, range_end: Bytes) -> Result<RangeResponse, Status> {
        let key = Bytes::from(key.to_owned());
        let request = RangeRequest { key, range_end, ..RangeRequest::default() };
        let channel = self.channels[0].clone();
        let asked = async {
            let request = self.with_token(&channel, request).await?;
            KvClient::new(channel.clone()).range(request).await
        };
        let answered = in_time(self.settings.request_timeout, asked).await;
        Ok(answered.inspect_err(|_| self.channels.rotate_left(1))?.into_inner())
    }

    async fn put(&mut self, request: PutRequest) -> Result<(), Status> {
        let channel = self.channels[0].clone();
        let asked = async {
            let request = self.with_token(&channel, request).await?;
            KvClient::new(channel.clone()).put(request).await
        };
        let answered = in_time(self.settings.request_timeout, asked).await;
        answered.inspect_err(|_| self.channels.rotate_left(1)).map(drop)
    }

    /// The request in the user's name, if there is one: with a token of this moment.
    async fn with_token<T>(&self, channel: &Channel, message: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        if let Some((name, password)) = &self.settings.user {
            let (name, password) = (name.clone(), password.clone());
            let login = AuthClient::new(channel.clone())
                .authenticate(AuthenticateRequest { name, password })
                .await?;
            let token = AsciiMetadataValue::try_from(login.into_inner().token);
            let token = token.map_err(|_| Status::internal("the token is no text"))?;
            request.metadata_mut().insert("token", token);
        }
        Ok(request)
    }

    async fn pause(&mut self, reason: &str) {
        self.failures += 1;
        let backoff = Duration::from_secs(1 << self.failures.min(DOUBLINGS_MAX));
        let shown = format!("{backoff:?}");
        tracing::warn!(reason, backoff = shown, "retry connecting to discovery service");
        tokio::time::sleep(backoff).await;
    }
}

async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}

fn channel(settings: &Discovery, dialer: &Dialer, endpoint: &str) -> Result<Channel, String> {
    let url = endpoint_url(endpoint, settings.tls.is_secure_by_default);
    dialer.lazy(&url, |channel| {
        channel
            .connect_timeout(settings.dial_timeout)
            .http2_keep_alive_interval(settings.keepalive_time)
            .keep_alive_timeout(settings.keepalive_timeout)
    })
}

/// The end of the range of all keys that begin with a prefix, whose last byte is never 255.
fn after_prefix(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &str, value: &str, create_revision: i64) -> KeyValue {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        KeyValue { key, value, create_revision, ..KeyValue::default() }
    }

    #[test]
    fn the_first_to_register_are_the_members() {
        let mut registered = Registered::default();
        for (key, value, revision) in [
            ("m/3", "c=http://c:1", 9),
            ("m/1", "a=http://a:1,a=http://a:2", 4),
            ("m/x", "no member", 2),
            ("m/2", " b=http://b:1\n", 7),
            ("m/1", "again=http://a:1", 3),
        ] {
            registered.add(&kv(key, value, revision));
        }
        assert_eq!(registered.members.len(), 3);
        assert_eq!(registered.cluster(2), "a=http://a:1,a=http://a:2,b=http://b:1");
        assert_eq!(registered.cluster(9), "a=http://a:1,a=http://a:2,b=http://b:1,c=http://c:1");
        let is_full = |own, size| registered.is_full_for(own, size);
        assert!(is_full("m/3", 2) && !is_full("m/2", 2) && !is_full("m/3", 3));
        assert!(is_full("m/new", 3) && !is_full("m/new", 4));
    }

    #[test]
    fn the_size_is_a_number_above_zero() {
        let answer = |value: &str| RangeResponse {
            kvs: vec![kv("size", value, 1)],
            ..RangeResponse::default()
        };
        assert_eq!(size(&answer("3")), Ok(3));
        for bad in ["", "0", "-1", "three", "3 "] {
            assert_eq!(size(&answer(bad)), Err(BAD_SIZE), "{bad:?}");
        }
        assert_eq!(size(&RangeResponse::default()), Err(SIZE_NOT_FOUND));
    }
}
