//! Loads on the Lease service: grants, and keep-alives on open streams.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::BenchError;
use super::args::LeaseArgs;
use super::load::{Course, Job, Lane, Load, Tally, Unary, drive};
use super::outcome::Outcome;
use super::wire::{CallError, Connection, Receiver, Reply, Sender, frame};
use crate::pb::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse,
};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

pub(super) async fn run(args: &LeaseArgs) -> Result<Outcome, BenchError> {
    let ttl = i64::try_from(args.ttl).map_err(|_| BenchError::Usage("--ttl".into()))?;
    let mut settings = vec![("ttl", args.ttl.to_string())];
    let load = &args.load;
    if args.keepalive {
        let streams = load.connections * load.streams;
        let leases = args.leases.unwrap_or(streams).max(streams);
        settings.push(("leases", leases.to_string()));
        let load =
            KeepAlive { ttl, streams: load.streams, leases_per_stream: leases.div_ceil(streams) };
        let measured = drive(&args.load, load).await?;
        return Ok(Outcome {
            unit: "keep-alive".into(),
            ..Outcome::new("lease", &args.load, settings, measured)
        });
    }
    let job = Grant { ttl, granted: Mutex::new(vec![]) };
    let measured = drive(load, Unary { job, streams: load.streams }).await?;
    Ok(Outcome { unit: "grant".into(), ..Outcome::new("lease", load, settings, measured) })
}

struct Grant {
    ttl: i64,
    granted: Mutex<Vec<i64>>,
}

impl Job for Grant {
    const PATH: &'static str = GRANT;
    const KEEP: usize = usize::MAX;

    fn request(&self, _number: u64) -> Bytes {
        frame(&LeaseGrantRequest { ttl: self.ttl, id: 0 })
    }

    fn check(&self, reply: &Reply, _tally: &mut Tally) -> Result<(), String> {
        match reply.message::<LeaseGrantResponse>() {
            Some(Ok(answer)) if answer.id != 0 && answer.ttl >= self.ttl => {
                self.granted.lock().push(answer.id);
                Ok(())
            }
            Some(Ok(answer)) => {
                Err(format!("a grant without lease or time to live: {}", answer.error))
            }
            Some(Err(error)) => Err(error.to_string()),
            None => Err("an answer that is cut".into()),
        }
    }

    async fn prepare(&self, _connection: &Connection) -> Result<(), BenchError> {
        Ok(())
    }

    async fn clean_up(&self, connection: &Connection) -> Result<(), BenchError> {
        let granted = std::mem::take(&mut *self.granted.lock());
        revoke(connection, granted).await
    }
}

struct KeepAlive {
    ttl: i64,
    /// On each connection.
    streams: u64,
    leases_per_stream: u64,
}

/// One stream and the leases that it keeps alive in turn.
struct Keeper {
    sender: Sender,
    receiver: Receiver,
    leases: Vec<i64>,
}

struct KeepAliveState {
    connections: Vec<Connection>,
    keepers: Vec<Keeper>,
    leases: Vec<i64>,
}

impl KeepAlive {
    async fn keeper(&self, connection: &Connection) -> Result<Keeper, CallError> {
        let mut leases = Vec::new();
        for _ in 0..self.leases_per_stream {
            let request = LeaseGrantRequest { ttl: self.ttl, id: 0 };
            leases.push(connection.call::<LeaseGrantResponse>(GRANT, &request).await?.id);
        }
        let first = frame(&LeaseKeepAliveRequest { id: leases[0] });
        let (sender, mut receiver) = connection.caller(KEEP_ALIVE)?.stream(first).await?;
        receiver.message::<LeaseKeepAliveResponse>().await?;
        Ok(Keeper { sender, receiver, leases })
    }
}

impl Load for KeepAlive {
    type State = KeepAliveState;

    async fn open(self: &Arc<Self>, lane: &Lane) -> Result<KeepAliveState, BenchError> {
        let mut state = KeepAliveState { connections: vec![], keepers: vec![], leases: vec![] };
        for number in lane.connections.clone() {
            let connection = lane.connect(number).await?;
            for _ in 0..self.streams {
                let keeper = self.keeper(&connection).await;
                let keeper = keeper.map_err(BenchError::call("open a keep-alive stream"))?;
                state.leases.extend(&keeper.leases);
                state.keepers.push(keeper);
            }
            state.connections.push(connection);
        }
        Ok(state)
    }

    async fn run(self: &Arc<Self>, state: &mut KeepAliveState, course: &Arc<Course>) -> Tally {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut workers = JoinSet::new();
        for keeper in state.keepers.drain(..) {
            let (course, tally) = (course.clone(), tally.clone());
            let ttl = self.ttl;
            workers.spawn_local(async move {
                if let Err(error) = keep_alive(keeper, ttl, &course, &tally).await {
                    tally.borrow_mut().error(error.to_string());
                }
            });
        }
        while workers.join_next().await.is_some() {}
        tally.take()
    }

    async fn close(self: &Arc<Self>, state: KeepAliveState) -> Result<(), BenchError> {
        revoke(&state.connections[0], state.leases).await
    }
}

/// Renews one lease after another until the course is over.
async fn keep_alive(
    mut keeper: Keeper,
    ttl: i64,
    course: &Course,
    tally: &RefCell<Tally>,
) -> Result<(), CallError> {
    let frames: Vec<Bytes> =
        keeper.leases.iter().map(|&id| frame(&LeaseKeepAliveRequest { id })).collect();
    let mut turn = 0;
    while let Some(ticket) = course.claim().await {
        keeper.sender.send(frames[turn].clone())?;
        let answer = keeper.receiver.message::<LeaseKeepAliveResponse>().await?;
        let mut tally = tally.borrow_mut();
        if (answer.id, answer.ttl) == (keeper.leases[turn], ttl) {
            tally.record(ticket.due, 0);
        } else {
            tally.error(format!("a keep-alive that answers time to live {}", answer.ttl));
        }
        turn = (turn + 1) % frames.len();
        course.advance();
    }
    Ok(())
}

/// Revokes leases, many at once.
async fn revoke(connection: &Connection, leases: Vec<i64>) -> Result<(), BenchError> {
    const IN_FLIGHT: usize = 256;
    for part in leases.chunks(IN_FLIGHT) {
        let mut calls = JoinSet::new();
        for &id in part {
            let connection = connection.clone();
            calls.spawn_local(async move {
                let request = LeaseRevokeRequest { id };
                connection.call::<LeaseRevokeResponse>(REVOKE, &request).await
            });
        }
        while let Some(result) = calls.join_next().await {
            if let Ok(Err(error)) = result {
                return Err(BenchError::call("revoke a lease of this run")(error));
            }
        }
    }
    Ok(())
}
