//! `quoin lock` and `quoin elect`: one of many does something at a time.
//!
//! Each holds a lease that it renews; whoever dies loses lock or office when its lease runs out.
//! The waiting is the servers', which offer locks and elections as calls. Interrupted, a command
//! gives back what it holds and the lease with it; etcdctl leaves the lease to run out.

use std::ffi::OsString;
use std::future::Future;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::calls::{CAMPAIGN, LEASE_GRANT, LEASE_REVOKE, LOCK, OBSERVE, RANGE, RESIGN, UNLOCK};
use super::client::{Client, is_unavailable};
use super::failure::{BAD_FEATURE, ERROR, Failure};
use super::kv::key_of;
use super::options::Options;
use super::{child, lease};
use crate::pb::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, RangeRequest, RangeResponse};
use crate::pb::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ResignRequest};
use crate::pb::v3lockpb::{LockRequest, UnlockRequest};

/// Seconds after which the place of one who died in an election is free.
const OFFICE_TTL: i64 = 60;

#[derive(Debug, Args)]
#[command(after_help = "\
Without a command, the lock is held until the process is interrupted. A command finds
ETCD_LOCK_KEY and ETCD_LOCK_REV among its variables; its exit code is that of `quoin lock`.")]
pub struct LockArgs {
    /// The lock's name, and a command to run while it is held
    #[arg(value_names = ["NAME", "COMMAND"])]
    args: Vec<OsString>,
    /// Seconds after which the lock of one who died is free
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    ttl: i64,
}

#[derive(Debug, Args)]
pub struct ElectArgs {
    /// The election's name, and what to announce when elected
    #[arg(value_names = ["NAME", "PROPOSAL"])]
    args: Vec<OsString>,
    /// Print who is elected, again and again
    #[arg(short, long)]
    listen: bool,
}

/// What the process is told from outside: to stop.
async fn interrupted() {
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        // Then a signal ends the process at once, as by default.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// A lease of our own.
struct Session {
    client: Client,
    lease: i64,
}

impl Session {
    async fn open(options: &Options, ttl: i64) -> Result<Self, Failure> {
        let client = Client::endless(options).await?;
        let answer = client.call(&LEASE_GRANT, LeaseGrantRequest { ttl, id: 0 }).await?;
        Ok(Self { client, lease: answer.id })
    }

    /// Does something for as long as the lease lives and nobody interrupts.
    async fn during<T>(
        &self,
        what: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>, Failure> {
        tokio::select! {
            done = what => done.map(Some),
            renewed = lease::renew(&self.client, self.lease, |_| Ok(())) => {
                renewed?;
                Err(Failure::new(ERROR, "session expired"))
            }
            () = interrupted() => Ok(None),
        }
    }

    /// Gives the lease back.
    async fn close(&self) {
        let request = LeaseRevokeRequest { id: self.lease };
        // If it is gone already, or cannot be reached, it runs out by itself.
        let _left = self.client.call(&LEASE_REVOKE, request).await;
    }

    /// The key that was won, as it is now.
    async fn key(&self, key: bytes::Bytes) -> Result<RangeResponse, Failure> {
        Ok(self.client.call(&RANGE, RangeRequest { key, ..RangeRequest::default() }).await?)
    }
}

pub(super) async fn lock(options: &Options, args: &LockArgs) -> Result<(), Failure> {
    let Some((name, command)) = args.args.split_first() else {
        let text = "lock takes a lock name argument and an optional command to execute";
        return Err(Failure::args(text));
    };
    let look = options.look()?;
    if command.is_empty() && look.form == super::look::Form::Table {
        return Err(Failure::new(BAD_FEATURE, "table not supported as output format"));
    }
    let session = Session::open(options, args.ttl).await?;
    let request = LockRequest { name: key_of(name), lease: session.lease };
    let locking = async { Ok(session.client.call(&LOCK, request).await?) };
    let outcome = match session.during(locking).await {
        Ok(None) => Err(Failure::new(ERROR, "context canceled")),
        Err(failure) => Err(failure),
        Ok(Some(locked)) => {
            let key = locked.key.clone();
            let held = async {
                if command.is_empty() {
                    let answer = session.key(locked.key.clone()).await?;
                    if answer.kvs.is_empty() {
                        return Err(Failure::new(ERROR, "lock lost on init"));
                    }
                    look.print(&answer)?;
                    return std::future::pending().await;
                }
                let revision = locked.header.map_or(0, |header| header.revision);
                let variables = vec![
                    ("ETCD_LOCK_KEY", String::from_utf8_lossy(&locked.key).into_owned()),
                    ("ETCD_LOCK_REV", revision.to_string()),
                ];
                let run = child::run(command.to_vec(), variables).await;
                run.map_err(|broken| Failure::new(broken.code, broken.text))
            };
            let held = session.during(held).await;
            let unlocked = session.client.call(&UNLOCK, UnlockRequest { key }).await;
            held.and_then(|_| Ok(unlocked.map(drop)?))
        }
    };
    session.close().await;
    outcome
}

pub(super) async fn elect(options: &Options, args: &ElectArgs) -> Result<(), Failure> {
    match (&args.args[..], args.listen) {
        ([name], true) => observe(options, name).await,
        ([_], false) => Err(Failure::args("no proposal argument but -l not set")),
        ([name, proposal], false) => campaign(options, name, proposal).await,
        ([_, _], true) => Err(Failure::args("proposal given but -l is set")),
        _ => Err(Failure::args(
            "elect takes one election name argument and an optional proposal argument",
        )),
    }
}

async fn campaign(options: &Options, name: &OsString, value: &OsString) -> Result<(), Failure> {
    let look = options.look()?;
    let session = Session::open(options, OFFICE_TTL).await?;
    let (name, value) = (key_of(name), key_of(value));
    let request = CampaignRequest { name, lease: session.lease, value };
    let campaigning = async { Ok(session.client.call(&CAMPAIGN, request).await?) };
    let outcome = match session.during(campaigning).await {
        Ok(None) => Err(Failure::new(ERROR, "context canceled")),
        Err(failure) => Err(failure),
        Ok(Some(won)) => {
            let leader: LeaderKey = won.leader.unwrap_or_default();
            let key = leader.key.clone();
            let in_office = async {
                look.print(&session.key(key).await?)?;
                std::future::pending::<Result<(), Failure>>().await
            };
            let held = session.during(in_office).await;
            let resigned = session.client.call(&RESIGN, ResignRequest { leader: Some(leader) });
            let resigned = resigned.await;
            held.and_then(|_| Ok(resigned.map(drop)?))
        }
    };
    session.close().await;
    outcome
}

async fn observe(options: &Options, name: &OsString) -> Result<(), Failure> {
    let look = options.look()?;
    let client = Client::endless(options).await?;
    let mut last = None;
    let observing = async {
        loop {
            let mut leaders = client.listen(&OBSERVE, LeaderRequest { name: key_of(name) }).await?;
            loop {
                let leader = match leaders.message().await {
                    Ok(Some(leader)) => leader,
                    Ok(None) => break,
                    Err(status) if is_unavailable(&status) => break,
                    Err(status) => return Err(Failure::from(status)),
                };
                // A stream that is opened again begins with whom we know.
                let seen = leader.kv.as_ref().map(|kv| (kv.key.clone(), kv.mod_revision));
                if seen == last {
                    continue;
                }
                last = seen;
                let answer = RangeResponse {
                    header: leader.header,
                    kvs: leader.kv.into_iter().collect(),
                    ..RangeResponse::default()
                };
                look.print(&answer)?;
            }
        }
    };
    tokio::select! {
        ended = observing => ended,
        () = interrupted() => Ok(()),
    }
}
