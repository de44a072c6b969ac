//! `quoin lease`: what keys can be tied to, so that they vanish with their owner.

use std::time::Duration;

use clap::{Args, Subcommand};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Ignored;
use super::calls::{LEASE_GRANT, LEASE_KEEP_ALIVE, LEASE_LEASES, LEASE_REVOKE, LEASE_TIME_TO_LIVE};
use super::client::{Client, is_unavailable};
use super::failure::{BAD_CONNECTION, Failure};
use super::look::say;
use super::options::Options;
use super::show::{Done, TimeToLive};
use super::{go, keys};
use crate::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest,
};

/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// Of a lease's time, the part after which it is renewed.
const RENEWALS: u32 = 3;

#[derive(Debug, Subcommand)]
pub enum LeaseAction {
    /// Makes a lease that lives for TTL seconds
    Grant(Words),
    /// Ends a lease, and deletes the keys that are tied to it
    Revoke(Words),
    /// Tells how long a lease still lives
    Timetolive(TimeToLiveArgs),
    /// Lists all leases
    List(Ignored),
    /// Renews a lease, again and again
    KeepAlive(KeepAliveArgs),
}

#[derive(Debug, Args)]
pub struct Words {
    /// Seconds for `grant`; a hexadecimal number for the others
    #[arg(value_name = "TTL or LEASE")]
    args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TimeToLiveArgs {
    /// The lease, a hexadecimal number
    #[arg(value_name = "LEASE")]
    args: Vec<String>,
    /// Name the keys that are tied to it
    #[arg(long)]
    keys: bool,
}

#[derive(Debug, Args)]
pub struct KeepAliveArgs {
    /// The lease, a hexadecimal number
    #[arg(value_name = "LEASE")]
    args: Vec<String>,
    /// Renew it once, and stop
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(options: &Options, action: LeaseAction) -> Result<(), Failure> {
    match action {
        LeaseAction::Grant(Words { args }) => grant(options, &args).await,
        LeaseAction::Revoke(Words { args }) => revoke(options, &args).await,
        LeaseAction::Timetolive(args) => time_to_live(options, &args).await,
        LeaseAction::List(_) => {
            let look = options.look()?;
            let client = Client::short(options).await?;
            let answer = client.call(&LEASE_LEASES, LeaseLeasesRequest {}).await;
            look.print(&answer.map_err(unreachable)?)
        }
        LeaseAction::KeepAlive(args) => keep_alive(options, &args).await,
    }
}

/// What etcdctl tells of these calls has another exit code than of others.
fn unreachable(status: tonic::Status) -> Failure {
    Failure::from(status).with_code(BAD_CONNECTION)
}

async fn grant(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [ttl] = args else {
        return Err(Failure::args("lease grant command needs TTL argument"));
    };
    let ttl = go::parse_int(ttl, 10).map_err(|why| Failure::args(format!("bad TTL ({why})")))?;
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&LEASE_GRANT, LeaseGrantRequest { ttl, id: 0 }).await;
    look.print(&answer.map_err(|s| Failure::from(s).because("failed to grant lease"))?)
}

async fn revoke(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [id] = args else {
        return Err(Failure::args("lease revoke command needs 1 argument"));
    };
    let id = keys::lease(id)?;
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&LEASE_REVOKE, LeaseRevokeRequest { id }).await;
    let answer = answer.map_err(|s| Failure::from(s).because("failed to revoke lease"))?;
    look.print(&Done {
        name: "LeaseRevokeResponse",
        text: format!("lease {id:016x} revoked\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn time_to_live(options: &Options, args: &TimeToLiveArgs) -> Result<(), Failure> {
    let [id] = &args.args[..] else {
        return Err(Failure::args("lease timetolive command needs lease ID as argument"));
    };
    let request = LeaseTimeToLiveRequest { id: keys::lease(id)?, keys: args.keys };
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&LEASE_TIME_TO_LIVE, request).await.map_err(unreachable)?;
    look.print(&TimeToLive { answer, with_keys: args.keys })
}

async fn keep_alive(options: &Options, args: &KeepAliveArgs) -> Result<(), Failure> {
    let [id] = &args.args[..] else {
        return Err(Failure::args("lease keep-alive command needs lease ID as argument"));
    };
    let id = keys::lease(id)?;
    let look = options.look()?;
    if args.once {
        let client = Client::short(options).await?;
        let answer = Renewal::open(&client, id).await.map_err(unreachable)?.first;
        return match answer.ttl {
            ..=0 => {
                let text = "etcdserver: requested lease not found";
                Err(Failure::new(BAD_CONNECTION, text))
            }
            _ => look.print(&answer),
        };
    }
    let client = Client::endless(options).await?;
    renew(&client, id, |answer| look.print(answer)).await?;
    match look.is_simple() {
        true => say(&format!("lease {id:016x} expired or revoked.")),
        false => Ok(()),
    }
}

/// Renews a lease, three times in its time, until it is gone.
///
/// # Errors
/// When the server refuses, or `told` fails, which hears each answer.
pub(super) async fn renew(
    client: &Client,
    id: i64,
    mut told: impl FnMut(&LeaseKeepAliveResponse) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let mut answer = match Renewal::open(client, id).await {
            Ok(renewal) => renewal,
            Err(status) if is_unavailable(&status) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(status) => return Err(unreachable(status)),
        };
        let mut last = answer.first;
        loop {
            if last.ttl <= 0 {
                return Ok(());
            }
            told(&last)?;
            let seconds = u64::try_from(last.ttl).unwrap_or_default();
            tokio::time::sleep(Duration::from_secs(seconds) / RENEWALS).await;
            match answer.stream.again(id).await {
                Some(next) => last = next,
                None => break,
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A stream on which a lease is renewed, and its first answer.
struct Renewal {
    first: LeaseKeepAliveResponse,
    stream: RenewalStream,
}

struct RenewalStream {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: tonic::Streaming<LeaseKeepAliveResponse>,
}

impl Renewal {
    async fn open(client: &Client, id: i64) -> Result<Self, tonic::Status> {
        let (requests, outgoing) = mpsc::channel(1);
        // There is room for it, and somebody who takes it.
        let _sent = requests.send(LeaseKeepAliveRequest { id }).await;
        let answers = client.converse(&LEASE_KEEP_ALIVE, ReceiverStream::new(outgoing)).await?;
        let mut stream = RenewalStream { requests, answers };
        let first = stream.answers.message().await?;
        let ended = || tonic::Status::unavailable("the stream has ended");
        Ok(Self { first: first.ok_or_else(ended)?, stream })
    }
}

impl RenewalStream {
    /// Renews once more; nothing if the stream has ended.
    async fn again(&mut self, id: i64) -> Option<LeaseKeepAliveResponse> {
        self.requests.send(LeaseKeepAliveRequest { id }).await.ok()?;
        self.answers.message().await.ok().flatten()
    }
}
