//! What goes wrong again and again is told now and then.

use std::time::{Duration, Instant};

/// The same complaint is told anew after so long.
const SILENCE: Duration = Duration::from_secs(30);

/// What was complained of last.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<(Instant, String)>,
}

impl Complaints {
    /// Whether a complaint is to be told: it is another one than the last, or that was long ago.
    pub(super) fn is_news(&mut self, text: &str) -> bool {
        let is_known =
            self.last.as_ref().is_some_and(|(at, last)| last == text && at.elapsed() < SILENCE);
        if !is_known {
            self.last = Some((Instant::now(), text.to_owned()));
        }
        !is_known
    }
}

#[cfg(test)]
mod tests {
    use super::Complaints;

    #[test]
    fn what_is_said_is_not_said_again_at_once() {
        let mut complaints = Complaints::default();
        let told =
            ["away", "away", "refused", "refused", "away"].map(|text| complaints.is_news(text));
        assert_eq!(told, [true, false, true, false, true]);
    }
}
