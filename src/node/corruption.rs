//! Whether all members hold the same data: at a start, from time to time, and after compactions.
//!
//! Members that hold the same history have the same hash at the same revision, as far as they have
//! compacted alike ([`crate::mvcc::HashKv`]). A member that differs from others refuses to start
//! if that was asked for; a leader that finds a difference raises the alarm CORRUPT. The rules about
//! who is to blame are etcd's, and so are the texts. What it leaves out is repair.

use crate::config::DataChecks;
use crate::error::{Fatal, RequestError};
use crate::mvcc::HashKv;
use crate::pb::etcdserverpb::alarm_request::AlarmAction;
use crate::pb::etcdserverpb::{AlarmRequest, AlarmType};
use crate::pb::quoinpb::command::Request;
use crate::peer::Links;
use crate::peer::hash::{HashAnswer, HashError, ask_hash};
use crate::replica::Handle;
use crate::types::{Index, MemberId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often to look whether the log is replayed.
const REPLAY_INTERVAL: Duration = Duration::from_millis(5);

/// Compares this member with the others.
#[derive(Clone)]
pub(super) struct Checks {
    pub(super) handle: Handle,
    pub(super) links: Links,
}

/// What one of the others answered.
type Answers = Vec<(MemberId, Result<HashAnswer, HashError>)>;

impl Checks {
    /// Begins the checks that go on while the node lives.
    pub(super) fn spawn(
        &self,
        settings: &DataChecks,
        tasks: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        if let Some(pause) = settings.pause {
            tasks.spawn(self.clone().now_and_then(pause, stop.clone()));
        }
        if let Some(pause) = settings.compaction_pause {
            tasks.spawn(self.clone().after_compactions(pause, stop.clone()));
        }
    }

    /// The check before clients are served, if it is asked for: once `committed`, the last entry
    /// that was known to be committed before the start, is applied.
    ///
    /// # Errors
    /// When another member has other data, or the own cannot be read.
    pub(super) async fn at_start(&self, committed: Option<Index>) -> Result<(), Fatal> {
        let Some(committed) = committed else { return Ok(()) };
        while self.handle.applied_index() < committed {
            tokio::time::sleep(REPLAY_INTERVAL).await;
        }
        let own_id = self.handle.member_id();
        let timeout = format!("{:?}", self.handle.request_timeout());
        tracing::info!("local-member-id" = %own_id, timeout, "starting initial corruption check");
        let own = self
            .hash(0)
            .await?
            .map_err(|error| Fatal::new(format!("{own_id} failed to fetch hash ({error:?})")))?;
        let mut differ = 0;
        for (peer, answer) in self.ask_all(own.revision).await {
            differ += usize::from(differs_at_start(own_id, &own, peer, &answer));
        }
        if differ > 0 {
            return Err(Fatal::new(format!("{own_id} found data inconsistency with peers")));
        }
        tracing::info!(
            "local-member-id" = %own_id, "initial corruption checking passed; no corruption"
        );
        Ok(())
    }

    /// Compares the present data of all, in this pause, while this member leads.
    async fn now_and_then(self, pause: Duration, mut stop: watch::Receiver<bool>) {
        let check = async {
            loop {
                tokio::time::sleep(pause).await;
                if self.leads()
                    && let Err(error) = self.compare_present().await
                {
                    tracing::warn!(error, "failed to check hash KV");
                }
            }
        };
        tokio::select! {
            () = check => {}
            // An error means that the node is gone.
            _ended = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Compares what compaction left over, in this pause, while this member leads.
    async fn after_compactions(self, pause: Duration, mut stop: watch::Receiver<bool>) {
        let mut checked = 0;
        let check = async {
            loop {
                tokio::time::sleep(pause).await;
                if self.leads() {
                    self.compare_compacted(&mut checked).await;
                }
            }
        };
        tokio::select! {
            () = check => {}
            _ended = stop.wait_for(|stop| *stop) => {}
        }
    }

    fn leads(&self) -> bool {
        self.handle.leader() == Some(self.handle.member_id())
    }

    async fn compare_present(&self) -> Result<(), String> {
        let before = self.own_hash(0).await?;
        let answers = self.ask_all(before.revision).await;
        // What others had applied when they answered is applied here after this.
        self.handle.read_barrier().await.map_err(|error| format!("{error:?}"))?;
        let after = self.own_hash(0).await?;
        let own_id = self.handle.member_id();
        if let Some(corrupt) = blame_of_present(own_id, &before, &after, &answers) {
            self.raise(corrupt).await;
        }
        let answered = answers.iter().filter(|(_, answer)| answer.is_ok()).count();
        tracing::info!("number-of-peers-checked" = answered, "finished peer corruption check");
        Ok(())
    }

    /// `checked`: the last compacted revision at which all members were found equal.
    async fn compare_compacted(&self, checked: &mut i64) {
        let own_id = self.handle.member_id();
        let timeout = format!("{:?}", self.handle.request_timeout());
        tracing::info!("local-member-id" = %own_id, timeout, "starting compact hash check");
        let compacted = self.handle.view().compacted();
        let mut hashes = 0;
        if compacted > *checked {
            // Compacted further meanwhile: the next check sees to that.
            if let Ok(own) = self.own_hash(compacted).await {
                hashes = 1;
                let answers = self.ask_all(compacted).await;
                match blame_of_compacted(own_id, &own, &answers) {
                    Verdict::Equal => *checked = compacted,
                    Verdict::Unsure => {}
                    Verdict::Corrupt(members) => {
                        for member in members {
                            self.raise(member).await;
                        }
                    }
                }
            }
        }
        tracing::info!("number-of-hashes-checked" = hashes, "finished compaction hash check");
    }

    async fn own_hash(&self, revision: i64) -> Result<HashKv, String> {
        match self.hash(revision).await {
            Ok(hashed) => hashed.map_err(|error| format!("{error:?}")),
            Err(fatal) => {
                let text = fatal.to_string();
                self.handle.fail(fatal);
                Err(text)
            }
        }
    }

    async fn hash(&self, revision: i64) -> Result<Result<HashKv, RequestError>, Fatal> {
        let view = self.handle.view().clone();
        let hashed = tokio::task::spawn_blocking(move || view.hash_kv(revision)).await;
        hashed.map_err(|e| Fatal::with("hash the data", e))?
    }

    /// All other members' hashes up to a revision.
    async fn ask_all(&self, revision: i64) -> Answers {
        let handle = &self.handle;
        let own = handle.member_id();
        let (cluster, timeout) = (handle.cluster_id(), handle.request_timeout());
        let mut questions = JoinSet::new();
        for member in handle.members().iter().filter(|member| member.id != own.0) {
            let id = MemberId(member.id);
            let Some(channel) = self.links.channel(id) else { continue };
            questions
                .spawn(async move { (id, ask_hash(channel, cluster, revision, timeout).await) });
        }
        let mut answers = questions.join_all().await;
        answers.sort_by_key(|(id, _)| *id);
        for (id, answer) in &answers {
            if let Err(error) = answer {
                tracing::warn!(
                    "local-member-id" = %own, "requested-revision" = revision,
                    "remote-peer-id" = %id, %error, "failed hash kv request"
                );
            }
        }
        answers
    }

    /// `corrupt`: 0 if it cannot be told who is.
    async fn raise(&self, corrupt: MemberId) {
        let alarm = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: corrupt.0,
            alarm: AlarmType::Corrupt as i32,
        };
        if let Err(error) = self.handle.propose(Request::Alarm(alarm), usize::MAX).await {
            tracing::warn!(?error, "failed to raise the alarm CORRUPT");
        }
    }
}

/// Whether the other member's data contradicts that of one that starts.
fn differs_at_start(
    own_id: MemberId,
    own: &HashKv,
    peer: MemberId,
    answer: &Result<HashAnswer, HashError>,
) -> bool {
    let say = |text: &'static str, other: &HashAnswer| {
        tracing::warn!(
            "local-member-id" = %own_id,
            "local-member-revision" = own.revision,
            "local-member-compact-revision" = own.compacted,
            "local-member-hash" = own.hash,
            "remote-peer-id" = %peer,
            "remote-peer-revision" = other.header.revision,
            "remote-peer-compact-revision" = other.compact_revision,
            "remote-peer-hash" = other.hash,
            "{text}"
        );
    };
    match answer {
        Ok(other) if other.hash == own.hash => false,
        Ok(other) if other.compact_revision == own.compacted => {
            say("found different hash values from remote peer", other);
            true
        }
        Ok(other) => {
            say("found different compact revision values from remote peer", other);
            false
        }
        Err(error) => {
            let none = HashAnswer::default();
            match error {
                HashError::FutureRevision => say("cannot fetch hash from slow remote peer", &none),
                HashError::Compacted => {
                    say("cannot fetch hash from remote peer; local member is behind", &none);
                }
                HashError::OtherCluster => say("cluster ID mismatch", &none),
                HashError::NoAnswer(_) => {}
            }
            false
        }
    }
}

/// Whom a leader finds corrupt that hashed its data before and after it asked the others: the
/// first, as etcd does, since one alarm stops all writes.
fn blame_of_present(
    own_id: MemberId,
    before: &HashKv,
    after: &HashKv,
    answers: &Answers,
) -> Option<MemberId> {
    let is_same_state = (before.revision, before.compacted) == (after.revision, after.compacted);
    if is_same_state && before.hash != after.hash {
        tracing::warn!(
            "revision-1" = before.revision,
            "compact-revision-1" = before.compacted,
            "hash-1" = before.hash,
            "revision-2" = after.revision,
            "compact-revision-2" = after.compacted,
            "hash-2" = after.hash,
            "found hash mismatch"
        );
        return Some(own_id);
    }
    for (peer, answer) in answers {
        let Ok(answer) = answer else { continue };
        let complaint = if answer.header.revision > after.current {
            "revision from follower must be less than or equal to leader's"
        } else if answer.compact_revision > after.compacted {
            "compact revision from follower must be less than or equal to leader's"
        } else if answer.compact_revision == before.compacted && answer.hash != before.hash {
            "same compact revision then hashes must match"
        } else {
            continue;
        };
        tracing::warn!(
            "leader-revision" = after.current,
            "leader-compact-revision" = after.compacted,
            "leader-hash" = before.hash,
            "follower-revision" = answer.header.revision,
            "follower-compact-revision" = answer.compact_revision,
            "follower-hash" = answer.hash,
            "follower-peer-id" = %peer,
            "{complaint}"
        );
        return Some(*peer);
    }
    None
}

/// What comparing the leftovers of one compaction came to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// All members answered, and alike.
    Equal,
    /// No two differ, but not all could be asked.
    Unsure,
    /// Those differ from a majority; 0 stands for "some, nobody knows who".
    Corrupt(Vec<MemberId>),
}

fn blame_of_compacted(own_id: MemberId, own: &HashKv, answers: &Answers) -> Verdict {
    let mut by_hash = BTreeMap::from([(own.hash, vec![own_id])]);
    for (peer, answer) in answers {
        let reason = match answer {
            Ok(answer) if answer.compact_revision == own.compacted => {
                by_hash.entry(answer.hash).or_default().push(*peer);
                continue;
            }
            Ok(answer) => format!(
                "the peer's CompactRevision {} doesn't match leader's CompactRevision {}",
                answer.compact_revision, own.compacted
            ),
            Err(_) => "no response".to_owned(),
        };
        let peers = answers.len();
        tracing::warn!(
            "number-of-peers" = peers, "leader-id" = %own_id, "peer-id" = %peer, reason,
            "Skipped peer's hash"
        );
    }
    let answered = by_hash.values().map(Vec::len).sum::<usize>() - 1;
    if by_hash.len() == 1 {
        return verdict_of_equals(own, answered, answers.len());
    }
    let members = answers.len() + 1;
    let quorum = members / 2 + 1;
    let majority = by_hash.iter().find(|(_, ids)| ids.len() >= quorum).map(|(hash, _)| *hash);
    if majority.is_none() {
        tracing::error!(
            "leader-id" = %own_id,
            "leader-revision" = own.revision,
            "leader-compact-revision" = own.compacted,
            "leader-hash" = own.hash,
            "Detected compaction hash mismatch but cannot identify the corrupted members, so \
             intentionally set the memberID as 0"
        );
    }
    let mut corrupt = vec![];
    for (hash, ids) in by_hash.into_iter().filter(|(hash, _)| Some(*hash) != majority) {
        let names: Vec<String> = ids.iter().map(MemberId::to_string).collect();
        tracing::error!(
            "leader-id" = %own_id,
            "leader-revision" = own.revision,
            "leader-compact-revision" = own.compacted,
            "leader-hash" = own.hash,
            "peer-hash" = hash,
            "peer-ids" = names.join(","),
            "quorum-exist" = majority.is_some(),
            "Detected compaction hash mismatch"
        );
        corrupt.extend(ids);
    }
    Verdict::Corrupt(if majority.is_some() { corrupt } else { vec![MemberId(0)] })
}

fn verdict_of_equals(own: &HashKv, answered: usize, peers: usize) -> Verdict {
    if answered == peers {
        tracing::info!(
            "number-of-peers-checked" = answered,
            revision = own.revision,
            compactRevision = own.compacted,
            "successfully checked hash on whole cluster"
        );
        return Verdict::Equal;
    }
    tracing::warn!(
        "number-of-peers-checked" = answered,
        "number-of-peers" = peers,
        revision = own.revision,
        compactRevision = own.compacted,
        "skipped revision in compaction hash check; was not able to check all peers"
    );
    Verdict::Unsure
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::hash::HashHeader;

    const OWN: MemberId = MemberId(1);

    fn hashed(hash: u32, revision: i64, compacted: i64) -> HashKv {
        HashKv { hash, revision, compacted, current: revision }
    }

    fn answer(hash: u32, revision: i64, compacted: i64) -> Result<HashAnswer, HashError> {
        Ok(HashAnswer {
            header: HashHeader { revision },
            hash,
            compact_revision: compacted,
            hash_revision: revision,
        })
    }

    fn silent() -> Result<HashAnswer, HashError> {
        Err(HashError::NoAnswer("refused".to_owned()))
    }

    fn answers(all: Vec<Result<HashAnswer, HashError>>) -> Answers {
        (2..).map(MemberId).zip(all).collect()
    }

    #[test]
    fn one_that_starts_complains_of_other_data_only_after_the_same_compaction() {
        let own = hashed(7, 10, 3);
        let table = [
            (answer(7, 10, 3), false),
            (answer(7, 12, 4), false),
            (answer(8, 10, 3), true),
            (answer(8, 10, 4), false),
            (silent(), false),
            (Err(HashError::Compacted), false),
            (Err(HashError::FutureRevision), false),
            (Err(HashError::OtherCluster), false),
        ];
        for (answer, expected) in table {
            assert_eq!(differs_at_start(OWN, &own, MemberId(2), &answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn a_leader_blames_the_first_whose_present_data_contradicts_its_own() {
        let (before, after) = (hashed(7, 10, 3), hashed(9, 12, 5));
        let table = [
            (vec![answer(7, 10, 3), answer(7, 12, 3)], None),
            (vec![answer(1, 12, 5), silent()], None),
            (vec![answer(1, 12, 4)], None),
            (vec![answer(7, 13, 3)], Some(MemberId(2))),
            (vec![answer(7, 10, 3), answer(7, 10, 6)], Some(MemberId(3))),
            (vec![silent(), answer(8, 10, 3), answer(6, 10, 3)], Some(MemberId(3))),
        ];
        for (given, expected) in table {
            let given = answers(given);
            assert_eq!(blame_of_present(OWN, &before, &after, &given), expected, "{given:?}");
        }
        let changed = hashed(8, 10, 3);
        assert_eq!(blame_of_present(OWN, &before, &changed, &vec![]), Some(OWN));
    }

    #[test]
    fn a_majority_tells_who_is_corrupt_after_a_compaction() {
        let own = hashed(7, 10, 10);
        let (good, bad, worse) = (|| answer(7, 11, 10), || answer(8, 11, 10), || answer(9, 11, 10));
        let corrupt = |ids: &[u64]| Verdict::Corrupt(ids.iter().copied().map(MemberId).collect());
        let table = [
            (vec![], Verdict::Equal),
            (vec![good(), good()], Verdict::Equal),
            (vec![good(), silent()], Verdict::Unsure),
            (vec![good(), answer(8, 11, 9)], Verdict::Unsure),
            (vec![good(), bad()], corrupt(&[3])),
            (vec![bad(), bad()], corrupt(&[1])),
            (vec![bad(), worse()], corrupt(&[0])),
            (vec![bad()], corrupt(&[0])),
            (vec![bad(), silent()], corrupt(&[0])),
            (vec![good(), good(), bad(), worse()], corrupt(&[4, 5])),
            // Of four, two are no majority.
            (vec![good(), bad(), bad()], corrupt(&[0])),
        ];
        for (given, expected) in table {
            let given = answers(given);
            assert_eq!(blame_of_compacted(OWN, &own, &given), expected, "{given:?}");
        }
    }
}
