//! Simple tokens: given out through the log, so that each member knows them, and kept in memory only.
//!
//! A token is `PREFIX.INDEX`: letters that the member which was asked drew at random, and the
//! index of the entry that gave it out. How long it lives is each member's own matter: time
//! is passed in. A restart, like a snapshot that replaces the state, forgets all tokens; an entry that
//! is applied once more after a restart, from a log that held it before, brings none back.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Milliseconds of a clock that never falls.
type Millis = u64;

#[derive(Debug)]
struct Token {
    prefix: String,
    user: Arc<str>,
    /// None until the first look at the clock after it was given out.
    ends: Option<Millis>,
}

/// The tokens that are good now.
#[derive(Debug, Default)]
pub(super) struct TokenTable {
    /// By index. It is no secret, so finding a token by it tells nothing about the rest.
    tokens: BTreeMap<u64, Token>,
}

/// What an entry does to tokens; takes effect when the entry becomes visible.
#[derive(Debug)]
pub(super) enum TokenChange {
    Assign { index: u64, prefix: String, user: String },
    DropUser(String),
    DropAll,
}

impl TokenTable {
    pub(super) fn change(&mut self, change: TokenChange) {
        match change {
            TokenChange::Assign { index, prefix, user } => {
                self.tokens.insert(index, Token { prefix, user: user.into(), ends: None });
            }
            TokenChange::DropUser(user) => self.tokens.retain(|_, token| *token.user != *user),
            TokenChange::DropAll => self.tokens.clear(),
        }
    }

    /// Whose token it is; using it prolongs its life to `ttl` from now.
    pub(super) fn redeem(&mut self, text: &str, now: Millis, ttl: Millis) -> Option<Arc<str>> {
        let (prefix, index) = split(text)?;
        let token = self.tokens.get_mut(&index)?;
        if !equal(token.prefix.as_bytes(), prefix.as_bytes()) {
            return None;
        }
        if token.ends.is_some_and(|ends| ends <= now) {
            self.tokens.remove(&index);
            return None;
        }
        token.ends = Some(now.saturating_add(ttl));
        Some(token.user.clone())
    }

    /// Drops the tokens whose time is over, and starts the time of new ones.
    pub(super) fn expire(&mut self, now: Millis, ttl: Millis) {
        self.tokens.retain(|_, token| *token.ends.get_or_insert(now.saturating_add(ttl)) > now);
    }
}

/// The parts of a token's text, if it has its form.
pub(super) fn split(text: &str) -> Option<(&str, u64)> {
    let (prefix, index) = text.split_once('.')?;
    Some((prefix, index.parse().ok()?))
}

/// Takes as long wherever the difference is.
fn equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TokenTable {
        let mut table = TokenTable::default();
        for (index, user) in [(7, "ann"), (8, "bob"), (9, "ann")] {
            let (prefix, user) = (format!("abc{index}"), user.to_owned());
            table.change(TokenChange::Assign { index, prefix, user });
        }
        table
    }

    #[test]
    fn a_token_lives_as_long_as_it_is_used() {
        let mut table = table();
        assert_eq!(table.redeem("abc7.7", 1_000, 300).as_deref(), Some("ann"));
        assert_eq!(table.redeem("abc7.7", 1_299, 300).as_deref(), Some("ann"));
        assert_eq!(table.redeem("abc7.7", 1_598, 300).as_deref(), Some("ann"));
        assert_eq!(table.redeem("abc7.7", 1_898, 300), None, "its time is over");
        assert_eq!(table.redeem("abc7.7", 1_000, 300), None, "and stays over");
    }

    #[test]
    fn an_unused_token_ends_too() {
        let mut table = table();
        table.expire(1_000, 300);
        assert_eq!(table.redeem("abc7.7", 1_200, 300).as_deref(), Some("ann"));
        table.expire(1_300, 300);
        assert_eq!(table.tokens.len(), 1, "only the used one is left");
        table.expire(1_500, 300);
        assert!(table.tokens.is_empty());
    }

    #[test]
    fn only_the_whole_text_is_a_token() {
        let mut table = table();
        for wrong in ["", ".", "abc7", "abc7.", ".7", "abc7.8", "abc8.7", "abc.7", "abc7.7.7", "7"]
        {
            assert_eq!(table.redeem(wrong, 0, 300), None, "{wrong}");
        }
    }

    #[test]
    fn tokens_are_dropped_by_user_and_all_at_once() {
        let mut table = table();
        table.change(TokenChange::DropUser("ann".to_owned()));
        assert_eq!(table.redeem("abc9.9", 0, 300), None);
        assert_eq!(table.redeem("abc8.8", 0, 300).as_deref(), Some("bob"));
        table.change(TokenChange::DropAll);
        assert_eq!(table.redeem("abc8.8", 0, 300), None);
    }
}
