//! A watch, commit by commit, that outlives the member at which it was begun.

use super::{CALL_TIMEOUT, Client, kv, text};
use crate::scheduler::store::{Change, Commit};
use etcd_client::{Error, EventType, WatchResponse, WatchStream};
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Code;

/// Before a watch that broke is begun anew.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<WatchStream, Error>> + Send>>;

enum Source {
    Open(Box<WatchStream>),
    /// It is begun anew, however often the next commits are no longer waited for meanwhile.
    Broken(Opening),
}

/// A watch, commit by commit. Where its member goes away it goes on at another.
pub struct Commits {
    client: Client,
    prefix: String,
    /// The revision from which on commits have not been handed out.
    next: i64,
    source: Source,
}

impl Commits {
    pub(super) fn new(client: Client, prefix: &str, from: i64, stream: WatchStream) -> Self {
        Self { client, prefix: prefix.into(), next: from, source: Source::Open(Box::new(stream)) }
    }

    /// The next commits, at least one. All changes of a revision come together.
    ///
    /// # Errors
    ///
    /// When the watch cannot go on, for example because its revision was compacted.
    pub async fn next(&mut self) -> Result<Vec<Commit>, Error> {
        loop {
            let found = match &mut self.source {
                Source::Broken(opening) => match opening.await {
                    Ok(stream) => {
                        self.source = Source::Open(Box::new(stream));
                        continue;
                    }
                    Err(error) => return Err(error),
                },
                Source::Open(stream) => match stream.message().await {
                    Ok(Some(response)) => self.taken(&response),
                    Ok(None) => Err(Broken::ForNow),
                    Err(error) => Err(Broken::by(error)),
                },
            };
            match found {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(Broken::ForNow) => {
                    let (client, prefix) = (self.client.clone(), self.prefix.clone());
                    self.source = Source::Broken(Box::pin(reopened(client, prefix, self.next)));
                }
                Err(Broken::ForGood(error)) => return Err(error),
            }
        }
    }

    fn taken(&mut self, response: &WatchResponse) -> Result<Vec<Commit>, Broken> {
        if response.canceled() || response.compact_revision() != 0 {
            return Err(Broken::canceled(response));
        }
        let found = commits(response);
        let told = match found.last() {
            Some(last) => last.revision,
            // So far there was nothing.
            None if !response.created() => response.header().map_or(0, |header| header.revision()),
            None => 0,
        };
        self.next = self.next.max(told + 1);
        Ok(found)
    }
}

enum Broken {
    ForNow,
    ForGood(Error),
}

impl Broken {
    fn by(error: Error) -> Self {
        let is_of_member = |code| {
            matches!(
                code,
                Code::Unavailable
                    | Code::Unknown
                    | Code::Cancelled
                    | Code::Aborted
                    | Code::DeadlineExceeded
                    | Code::Internal
            )
        };
        match &error {
            Error::GRpcStatus(status) if !is_of_member(status.code()) => Self::ForGood(error),
            Error::GRpcStatus(_) | Error::TransportError(_) => Self::ForNow,
            _ => Self::ForGood(error),
        }
    }

    fn canceled(response: &WatchResponse) -> Self {
        match response.cancel_reason() {
            reason if response.compact_revision() == 0 && reason.contains("no leader") => {
                Self::ForNow
            }
            reason => Self::ForGood(Error::WatchError(reason.to_owned())),
        }
    }
}

/// Tries until a member takes the watch, or says that none will.
async fn reopened(client: Client, prefix: String, from: i64) -> Result<WatchStream, Error> {
    let mut pause = PAUSE;
    loop {
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        match timeout(CALL_TIMEOUT, client.stream(&prefix, from)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => match Broken::by(error) {
                Broken::ForNow => {}
                Broken::ForGood(error) => return Err(error),
            },
            Err(_) => {}
        }
    }
}

/// The commits of a message: without fragments it holds whole revisions only.
pub(super) fn commits(response: &WatchResponse) -> Vec<Commit> {
    let mut commits: Vec<Commit> = Vec::new();
    for event in response.events() {
        let Some(found) = event.kv() else { continue };
        let revision = found.mod_revision();
        let change = match event.event_type() {
            EventType::Put => Change::Put(kv(found)),
            EventType::Delete => Change::Delete { key: text(found.key()) },
        };
        match commits.last_mut() {
            Some(commit) if commit.revision == revision => commit.changes.push(change),
            _ => commits.push(Commit { revision, changes: vec![change] }),
        }
    }
    commits
}
