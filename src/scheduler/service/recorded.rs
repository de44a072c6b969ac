//! Whether what somebody said of a task has been recorded: he is told so only then, since until then it can
//! be lost with this process.

use super::answer::Problem;
use crate::scheduler::client::{Client, Commits};
use crate::scheduler::keys;
use crate::scheduler::model::{Claim, Segment};
use crate::scheduler::store::{Change, Commit, Kv};
use crate::scheduler::submit::SubmitError;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::timeout;

/// A store that takes longer may have recorded it or not.
const PATIENCE: Duration = Duration::from_secs(10);

/// An attempt, as its record names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attempt {
    lane: u32,
    ordinal: u32,
    attempt: u32,
    /// Create revision of the claim.
    fence: i64,
}

impl Attempt {
    /// From `{run}-{lane}-{ordinal}-{attempt}-{fence}`.
    fn parse(record: &str) -> Option<Self> {
        let mut parts = record.rsplitn(5, '-');
        let fence = parts.next()?.parse().ok()?;
        let attempt = parts.next()?.parse().ok()?;
        let ordinal = parts.next()?.parse().ok()?;
        let lane = parts.next()?.parse().ok()?;
        Some(Self { lane, ordinal, attempt, fence })
    }

    fn is_in(&self, claim: &Claim) -> bool {
        claim
            .items
            .iter()
            .any(|item| item.lane == self.lane && (item.from..item.to).contains(&self.ordinal))
    }
}

/// The claim of an attempt, watched from before the verdict is handed over.
pub(super) struct Recording {
    client: Client,
    attempt: Attempt,
    claim: String,
    run: String,
    commits: Commits,
}

fn parse<T: DeserializeOwned>(kv: &Kv) -> Option<T> {
    serde_json::from_slice(&kv.value).ok()
}

impl Recording {
    /// Nothing if the store has no such claim of that worker any more.
    pub(super) async fn begin(
        client: Client,
        worker: &str,
        record: &str,
    ) -> Result<Option<Self>, Problem> {
        let Some(attempt) = Attempt::parse(record) else { return Ok(None) };
        let claims = client.prefix(&keys::claims(worker), 0).await;
        let (claims, revision) = claims.map_err(SubmitError::from)?;
        let found = claims.into_iter().find(|kv| kv.create_revision == attempt.fence);
        let Some((found, claim)) = found.and_then(|kv| Some((parse::<Claim>(&kv)?, kv.key))) else {
            return Ok(None);
        };
        if !attempt.is_in(&found) {
            return Ok(None);
        }
        let commits = client.watch(&claim, revision + 1).await.map_err(SubmitError::from)?;
        Ok(Some(Self { client, attempt, claim, run: found.run, commits }))
    }

    /// Waits until the claim holds the task no longer; whether its end was recorded then.
    pub(super) async fn end(mut self) -> Result<bool, Problem> {
        let unknown = || {
            Problem::new(503, "the store has not answered: it may be recorded or not, say it again")
        };
        let left = async {
            loop {
                let commits = self.commits.next().await?;
                if commits.iter().any(|commit| has_left(commit, &self.claim, &self.attempt)) {
                    return Ok::<_, etcd_client::Error>(());
                }
            }
        };
        timeout(PATIENCE, left).await.map_err(|_| unknown())?.map_err(|_| unknown())?;
        let Some((worker, claim)) = keys::parse_claim(&self.claim) else { return Ok(false) };
        let segments = format!("{}{worker}-{claim}-", keys::segments(&self.run));
        let (segments, _) = self.client.prefix(&segments, 0).await.map_err(|_| unknown())?;
        let mut rows = segments.iter().filter_map(parse::<Segment>).flat_map(|found| found.rows);
        let Attempt { lane, ordinal, attempt, .. } = self.attempt;
        Ok(rows.any(|row| (row.lane, row.ordinal, row.attempt) == (lane, ordinal, attempt)))
    }
}

fn has_left(commit: &Commit, claim: &str, attempt: &Attempt) -> bool {
    commit.changes.iter().any(|change| match change {
        Change::Put(kv) if kv.key == claim => {
            parse::<Claim>(kv).is_none_or(|found| !attempt.is_in(&found))
        }
        Change::Put(_) => false,
        Change::Delete { key } => key == claim,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_name_attempts() {
        let attempt = Attempt { lane: 3, ordinal: 4, attempt: 1, fence: 77 };
        assert_eq!(Attempt::parse("a-run-3-4-1-77"), Some(attempt));
        assert_eq!(Attempt::parse("1-77"), None);
        assert_eq!(Attempt::parse("run-x-4-1-77"), None);
    }
}
