//! Whether a case counts, is muted or is skipped: why, since when and until when.

use super::case::{CaseState, TestCase};
use super::refusal::Refusal;
use jiff::Timestamp;
use std::time::UNIX_EPOCH;

impl TestCase {
    /// Whether it says why it is muted or skipped, and until when, beside what was there before. What was muted
    /// without a reason, by hand or when files could do so, may go on so.
    pub(in crate::scheduler) fn check_state(&self, before: Option<&Self>) -> Result<(), Refusal> {
        let is_kept = before.is_some_and(|before| before.state_until == self.state_until);
        let until = self.state_until.as_deref().filter(|_| !is_kept);
        if let Some(until) = until.filter(|until| until.parse::<Timestamp>().is_err()) {
            return Err(Refusal::malformed(format!(
                "case {}: state_until {until:?} is no time like 2000-12-31T18:00:00Z",
                self.id
            )));
        }
        let goes_on = before.is_some_and(|before| {
            before.state == self.state && before.state_reason.trim().is_empty()
        });
        let word = match self.state {
            CaseState::Enabled => return Ok(()),
            CaseState::Muted => "muted",
            CaseState::Skipped => "skipped",
        };
        if goes_on || !self.state_reason.trim().is_empty() {
            return Ok(());
        }
        let text = format!("case {} is to be {word}: say why in state_reason", self.id);
        Err(Refusal::new(422, text))
    }

    /// How it stands at a time, in milliseconds since 1970: a mute or skip until a time before that is over.
    /// What is no time never passes.
    pub fn state_at(&self, now: u64) -> CaseState {
        match self.state_until.as_deref().and_then(milliseconds).is_some_and(|until| until <= now) {
            true => CaseState::Enabled,
            false => self.state,
        }
    }

    /// Says since when its state is as it is, when it is written at a time in place of another. Why and until when it
    /// was another is not kept: that would be true of the next time as well.
    pub(in crate::scheduler) fn date_state(&mut self, before: Option<&Self>, now: &str) {
        if self.state == CaseState::Enabled {
            self.state_reason.clear();
            self.state_until = None;
        }
        let of = |case: &Self| (case.state, case.state_reason.clone(), case.state_until.clone());
        let before = before.filter(|before| of(before) == of(self));
        self.state_since = match (self.state, before) {
            (CaseState::Enabled, _) => None,
            (_, Some(before)) => before.state_since.clone(),
            (_, None) => Some(now.to_owned()),
        };
    }
}

/// A time as definitions have it (RFC 3339), in milliseconds since 1970.
pub(in crate::scheduler) fn milliseconds(time: &str) -> Option<u64> {
    if let Ok(time) = time.parse::<Timestamp>() {
        return u64::try_from(time.as_millisecond()).ok();
    }
    // Written when less was asked of times.
    let since = humantime::parse_rfc3339_weak(time).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{CaseState, TestCase};

    #[test]
    fn a_mute_is_one_until_its_time() {
        let mut case = TestCase { state: CaseState::Muted, ..TestCase::default() };
        assert_eq!(case.state_at(u64::MAX), CaseState::Muted, "for ever");
        case.state_until = Some("1970-01-01T00:00:01Z".into());
        assert_eq!(
            [999, 1_000].map(|now| case.state_at(now)),
            [CaseState::Muted, CaseState::Enabled]
        );
        case.state_until = Some("1970-01-01T08:00:01+08:00".into());
        assert_eq!(
            [999, 1_000].map(|now| case.state_at(now)),
            [CaseState::Muted, CaseState::Enabled]
        );
    }

    #[test]
    fn what_is_no_time_is_refused_where_it_is_new() {
        let until = |until: &str| TestCase {
            id: "c".into(),
            state: CaseState::Muted,
            state_reason: "x".into(),
            state_until: Some(until.into()),
            ..TestCase::default()
        };
        for time in ["2026-11-23T22:00:00+08:00", "2026-11-23T22:00:00.5Z"] {
            assert_eq!(until(time).check_state(None), Ok(()));
        }
        for other in ["tomorrow", "2026-11-30", "2026-11-30T18:00:00", ""] {
            let refusal = until(other).check_state(Some(&until("soon"))).unwrap_err();
            let text = "is no time like 2000-12-31T18:00:00Z";
            assert_eq!(refusal.status, 400);
            assert_eq!(refusal.message, format!("case c: state_until {other:?} {text}"));
        }
        assert_eq!(until("soon").check_state(Some(&until("soon"))), Ok(()), "it was so before");
    }

    #[test]
    fn what_was_said_of_a_state_ends_with_it() {
        let mut case = TestCase {
            state_reason: "old".into(),
            state_until: Some("2026-11-30T18:00:00Z".into()),
            ..TestCase::default()
        };
        case.date_state(None, "now");
        assert_eq!((&*case.state_reason, &case.state_until), ("", &None));
    }
}
