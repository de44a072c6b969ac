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
    /// A removed member goes when it has applied that, though others may need its vote to.
    RemovedLeavesAtOnce,
}

impl Bug {
    pub const ALL: [Bug; 17] = [
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
        Bug::RemovedLeavesAtOnce,
    ];

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
            Bug::RemovedLeavesAtOnce => "removed-leaves-at-once",
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
