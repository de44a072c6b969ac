//! Compaction without being asked: a leader drops what is old, as the flags say.
//!
//! [`Schedule`] decides, with times and revisions passed in; [`run`] brings them to it. All
//! members keep count, so that a new leader goes on where the last one stopped. What was refused
//! is tried again at the next look.

use crate::config::AutoCompaction;
use crate::error::RequestError;
use crate::machine::{Caller, ROOT};
use crate::pb::etcdserverpb::CompactionRequest;
use crate::pb::quoinpb::command::Request;
use crate::replica::Handle;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two looks when a number of revisions is kept.
const REVISIONS_INTERVAL: Duration = Duration::from_secs(300);
/// A longer period is still served once in this time.
const PERIOD_MAX: Duration = Duration::from_secs(3600);
/// Looks in a period, or in the longest one.
const LOOKS: u32 = 10;
/// Between two attempts to learn what the cluster has committed.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(100);
/// Shorter periods are not looked at more often.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// When to compact, and up to which revision. Times are those since some start.
#[derive(Debug)]
struct Schedule {
    policy: AutoCompaction,
    /// One for each look of the last period, the oldest first.
    revisions: VecDeque<i64>,
    /// What was compacted last, and when.
    last: (i64, Duration),
    /// The first time a whole period must have passed, later a part of it will do.
    pause: Duration,
}

impl Schedule {
    fn new(policy: AutoCompaction, now: Duration, revision: i64) -> Self {
        let pause = match policy {
            AutoCompaction::Periodic(period) => period,
            AutoCompaction::Revisions(_) => Duration::ZERO,
        };
        Self { policy, revisions: [revision].into(), last: (0, now), pause }
    }

    /// Between two looks.
    fn interval(&self) -> Duration {
        match self.policy {
            AutoCompaction::Periodic(period) => (period.min(PERIOD_MAX) / LOOKS).max(INTERVAL_MIN),
            AutoCompaction::Revisions(_) => REVISIONS_INTERVAL,
        }
    }

    /// What to compact at this look, given the present revision, if this member leads.
    fn look(&mut self, now: Duration, revision: i64, leads: bool) -> Option<i64> {
        let (last, at) = self.last;
        let target = match self.policy {
            AutoCompaction::Periodic(period) => {
                let oldest = self.revisions.front().copied().unwrap_or(revision);
                self.revisions.push_back(revision);
                let kept = (period.as_nanos() / self.interval().as_nanos()) as usize + 1;
                if self.revisions.len() > kept {
                    self.revisions.pop_front();
                }
                oldest
            }
            AutoCompaction::Revisions(kept) => revision.saturating_sub(kept),
        };
        let is_due = leads && now.saturating_sub(at) >= self.pause;
        Some(target).filter(|target| is_due && *target > 0 && *target != last)
    }

    /// Takes note that this was compacted.
    fn compacted(&mut self, now: Duration, revision: i64) {
        self.last = (revision, now);
        self.pause = self.pause.min(PERIOD_MAX);
    }
}

/// Compacts until the node stops.
pub(super) async fn run(handle: Handle, policy: AutoCompaction, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = follow(&handle, policy) => {}
        // An error means that the node is gone.
        _ended = stop.wait_for(|stop| *stop) => {}
    }
}

async fn follow(handle: &Handle, policy: AutoCompaction) {
    // A member that has just started may know less than it had compacted: its own log is behind.
    while handle.read_barrier().await.is_err() {
        tokio::time::sleep(CATCH_UP_INTERVAL).await;
    }
    let start = Instant::now();
    let mut schedule = Schedule::new(policy, Duration::ZERO, handle.view().revision());
    loop {
        tokio::time::sleep(schedule.interval()).await;
        let leads = handle.leader() == Some(handle.member_id());
        let revision = handle.view().revision();
        let Some(target) = schedule.look(start.elapsed(), revision, leads) else { continue };
        if compact(handle, policy, target).await {
            schedule.compacted(start.elapsed(), target);
        }
    }
}

/// Whether the revision is compacted now, by this or before.
async fn compact(handle: &Handle, policy: AutoCompaction, revision: i64) -> bool {
    let (mode, retention) = match policy {
        AutoCompaction::Periodic(period) => ("periodic", format!("{period:?}")),
        AutoCompaction::Revisions(kept) => ("revision", kept.to_string()),
    };
    tracing::info!(revision, retention, "starting auto {mode} compaction");
    let begun = Instant::now();
    let request = Request::Compaction(CompactionRequest { revision, physical: false });
    // With auth on, compaction is an administrator's, and this one always exists.
    let caller = Caller { user: ROOT, revision: handle.auth().state().revision() };
    match handle.propose_as(caller, request, usize::MAX).await {
        Ok(_) | Err(RequestError::Compacted) => {
            let took = format!("{:?}", begun.elapsed());
            tracing::info!(revision, retention, took, "completed auto {mode} compaction");
            true
        }
        Err(error) => {
            tracing::warn!(revision, retention, ?error, "failed auto {mode} compaction");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Looks as often as it wants to, with a revision for each second since the start; what it
    /// compacts, by minutes.
    fn compactions(schedule: &mut Schedule, minutes: std::ops::Range<u32>) -> Vec<(u32, i64)> {
        let interval = schedule.interval();
        let mut found = vec![];
        for minute in minutes {
            let now = MINUTE * minute;
            if now.as_nanos().is_multiple_of(interval.as_nanos())
                && let Some(target) = schedule.look(now, now.as_secs() as i64, true)
            {
                schedule.compacted(now, target);
                found.push((minute, target));
            }
        }
        found
    }

    #[test]
    fn an_hour_is_kept_and_compacted_once_an_hour() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(60 * MINUTE), Duration::ZERO, 1);
        assert_eq!(schedule.interval(), 6 * MINUTE);
        // One look after the first is the oldest that is kept.
        let ago = |minute: i64| (minute - 66) * 60;
        let expected = [(60, 1), (120, ago(120)), (180, ago(180)), (240, ago(240))];
        assert_eq!(compactions(&mut schedule, 1..241), expected);
    }

    #[test]
    fn a_day_is_kept_and_compacted_once_an_hour_after_the_first() {
        let mut schedule =
            Schedule::new(AutoCompaction::Periodic(24 * 60 * MINUTE), Duration::ZERO, 1);
        assert_eq!(schedule.interval(), 6 * MINUTE);
        let day = 24 * 60;
        let expected = [(day, 1), (day + 60, 54 * 60), (day + 120, 114 * 60)];
        assert_eq!(compactions(&mut schedule, 1..day + 121), expected);
        assert_eq!(schedule.revisions.len(), 241, "one for each look of a day");
    }

    #[test]
    fn a_short_period_is_looked_at_ten_times() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE), Duration::ZERO, 1);
        assert_eq!(schedule.interval(), MINUTE);
        assert_eq!(compactions(&mut schedule, 1..31), [(10, 1), (20, 540), (30, 1140)]);
        let shortest = AutoCompaction::Periodic(Duration::from_nanos(1));
        assert_eq!(Schedule::new(shortest, Duration::ZERO, 1).interval(), INTERVAL_MIN);
    }

    #[test]
    fn what_did_not_change_is_not_compacted_again() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE), Duration::ZERO, 5);
        let mut found = vec![];
        for minute in 1..60 {
            let now = MINUTE * minute;
            if let Some(target) = schedule.look(now, 5, true) {
                schedule.compacted(now, target);
                found.push((minute, target));
            }
        }
        assert_eq!(found, [(10, 5)]);
    }

    #[test]
    fn a_failure_is_tried_again_at_the_next_look_with_what_is_old_then() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE), Duration::ZERO, 1);
        let mut asked = vec![];
        for minute in 1..14 {
            asked.extend(schedule.look(MINUTE * minute, i64::from(minute), true));
        }
        assert_eq!(asked, [1, 1, 1, 2]);
    }

    #[test]
    fn a_follower_keeps_count_and_leaves_compaction_to_the_leader() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE), Duration::ZERO, 1);
        for minute in 1..25 {
            assert_eq!(schedule.look(MINUTE * minute, i64::from(minute), false), None);
        }
        // It was elected: what is older than the period goes at once.
        assert_eq!(schedule.look(25 * MINUTE, 25, true), Some(14));
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let mut schedule = Schedule::new(AutoCompaction::Revisions(100), Duration::ZERO, 1);
        assert_eq!(schedule.interval(), 5 * MINUTE);
        let at = |number: u32| 5 * MINUTE * number;
        assert_eq!(schedule.look(at(1), 50, true), None, "nothing is that old");
        assert_eq!(schedule.look(at(2), 100, true), None);
        assert_eq!(schedule.look(at(3), 150, false), None, "another leads");
        assert_eq!(schedule.look(at(4), 150, true), Some(50));
        schedule.compacted(at(4), 50);
        assert_eq!(schedule.look(at(5), 150, true), None, "nothing happened since");
        assert_eq!(schedule.look(at(6), 151, true), Some(51));
    }
}
