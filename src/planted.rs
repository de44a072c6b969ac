//! Known bugs that can be switched on, to see that the simulation finds them.
//!
//! Each stands where it was made once, here or in another store. Without the feature
//! `planted-bugs` the answer is always no and the compiler removes the bug; no released binary
//! has the feature.

/// A bug that the code knows how to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// Entries are applied, and acknowledgements sent, before the log is synced.
    ApplyBeforePersist = 1,
    /// A leader answers a put when it has proposed it.
    AnswerBeforeCommit,
    /// Every round of a linearizable read has the same name.
    ReusedReadContext,
    /// A watch that has caught up misses the next revision.
    WatchEventLostAtCatchUp,
    /// A new leader lets leases end without their time to live.
    LeaseRevokedEarly,
    /// The applied index is stored in a batch of its own.
    AppliedIndexApart,
    /// A vote alone is not synced.
    VoteNotSynced,
    /// The log is cut beyond what is durable elsewhere.
    LogCutTooFar,
    /// Each op of a transaction moves the revision on.
    RevisionPerOp,
    /// Compaction removes a deletion at the compacted revision.
    TombstoneLostAtCompaction,
    /// A leader serves reads without asking whether it still leads.
    LeaseRead,
    /// A snapshot lacks the leases.
    SnapshotWithoutLeases,
    /// A forwarded write that arrives twice is proposed twice.
    ForwardedTwice,
    /// A write is handed over again in a later term although it may still be committed.
    HandedOverAgain,
    /// A member that lags drops what members send whom it does not know yet.
    StrangersIgnored,
    /// The commit of a change of members is told before it is durable.
    ChangeCommitForgotten,
    /// A caller's rights are checked by the member that was asked, not where they are used.
    CheckedWhereProposed,
    /// Credentials from before the last change of rights are good for reads and writes.
    OldCredentials,
    /// A password that was right before the last change of rights still brings a token.
    PasswordCheckedEarlier,
    /// A user with a new password keeps the tokens of the old one.
    TokensOutlivePassword,
    /// The test scheduler's worker delivers results whatever became of its claim.
    LateResultCounted,
    /// It compares that the claim is the one it was given, but not that it is as it was.
    ResultComparesCreation,
    /// A leader of the test scheduler does not look which tags are held when it begins.
    TagGivenTwice,
    /// What waits for a case starts when the last task of it has.
    BarrierCrossed,
    /// A new leader overlooks claims of workers that are gone.
    ClaimLostAtLeaderChange,
    /// A leader that was deposed writes on.
    LeaderNotCompared,
    /// A worker's slot is not free again when its task is lost or ends.
    SlotLeaked,
    /// A new leader counts results in histories that hold them already.
    HistoryCountedTwice,
}

impl Bug {
    pub const ALL: [Bug; 28] = [
        Bug::ApplyBeforePersist,
        Bug::AnswerBeforeCommit,
        Bug::ReusedReadContext,
        Bug::WatchEventLostAtCatchUp,
        Bug::LeaseRevokedEarly,
        Bug::AppliedIndexApart,
        Bug::VoteNotSynced,
        Bug::LogCutTooFar,
        Bug::RevisionPerOp,
        Bug::TombstoneLostAtCompaction,
        Bug::LeaseRead,
        Bug::SnapshotWithoutLeases,
        Bug::ForwardedTwice,
        Bug::HandedOverAgain,
        Bug::StrangersIgnored,
        Bug::ChangeCommitForgotten,
        Bug::CheckedWhereProposed,
        Bug::OldCredentials,
        Bug::PasswordCheckedEarlier,
        Bug::TokensOutlivePassword,
        Bug::LateResultCounted,
        Bug::ResultComparesCreation,
        Bug::TagGivenTwice,
        Bug::BarrierCrossed,
        Bug::ClaimLostAtLeaderChange,
        Bug::LeaderNotCompared,
        Bug::SlotLeaked,
        Bug::HistoryCountedTwice,
    ];

    /// Whether it is in the test scheduler, which is simulated by itself.
    pub const fn is_of_scheduler(self) -> bool {
        self as u8 >= Bug::LateResultCounted as u8
    }

    pub const fn name(self) -> &'static str {
        match self {
            Bug::ApplyBeforePersist => "apply-before-persist",
            Bug::AnswerBeforeCommit => "answer-before-commit",
            Bug::ReusedReadContext => "reused-read-context",
            Bug::WatchEventLostAtCatchUp => "watch-event-lost-at-catch-up",
            Bug::LeaseRevokedEarly => "lease-revoked-early",
            Bug::AppliedIndexApart => "applied-index-apart",
            Bug::VoteNotSynced => "vote-not-synced",
            Bug::LogCutTooFar => "log-cut-too-far",
            Bug::RevisionPerOp => "revision-per-op",
            Bug::TombstoneLostAtCompaction => "tombstone-lost-at-compaction",
            Bug::LeaseRead => "lease-read",
            Bug::SnapshotWithoutLeases => "snapshot-without-leases",
            Bug::ForwardedTwice => "forwarded-twice",
            Bug::HandedOverAgain => "handed-over-again",
            Bug::StrangersIgnored => "strangers-ignored",
            Bug::ChangeCommitForgotten => "change-commit-forgotten",
            Bug::CheckedWhereProposed => "checked-where-proposed",
            Bug::OldCredentials => "old-credentials",
            Bug::PasswordCheckedEarlier => "password-checked-earlier",
            Bug::TokensOutlivePassword => "tokens-outlive-password",
            Bug::LateResultCounted => "late-result-counted",
            Bug::ResultComparesCreation => "result-compares-creation",
            Bug::TagGivenTwice => "tag-given-twice",
            Bug::BarrierCrossed => "barrier-crossed",
            Bug::ClaimLostAtLeaderChange => "claim-lost-at-leader-change",
            Bug::LeaderNotCompared => "leader-not-compared",
            Bug::SlotLeaked => "slot-leaked",
            Bug::HistoryCountedTwice => "history-counted-twice",
        }
    }
}

#[cfg(feature = "planted-bugs")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches this bug on, and every other one off.
#[cfg(feature = "planted-bugs")]
pub fn plant(bug: Option<Bug>) {
    let number = bug.map_or(0, |bug| bug as u8);
    PLANTED.store(number, std::sync::atomic::Ordering::SeqCst);
}

/// Whether the code is to behave as with this bug.
#[cfg(feature = "planted-bugs")]
pub(crate) fn has(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn has(_: Bug) -> bool {
    false
}
