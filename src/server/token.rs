//! Tokens: what a client shows instead of its password, once it has shown that.
//!
//! Simple ones are drawn here and given out through the log; every member knows them, in memory,
//! until they have not been used for a while. Those of the other kind prove themselves, see
//! [`super::jwt`]. No token is ever written into a log line.

use super::jwt::Jwt;
use crate::error::RequestError;
use crate::machine::AuthView;
use crate::replica::Handle;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch::Receiver;

/// Letters in front of a simple token's index: 91 bits.
const PREFIX_LETTERS: usize = 16;
/// How often tokens that nobody uses are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// What etcd says of a flag that it cannot make sense of.
pub(super) const INVALID_OPTIONS: &str = "auth: invalid auth options";

/// How tokens are made and checked.
pub enum Tokens {
    Simple {
        ttl: Duration,
        /// What the tokens' times are counted from.
        started: Instant,
    },
    Jwt(Box<Jwt>),
}

impl Tokens {
    /// Tokens of the kind that `--auth-token` asks for; simple ones end when they have not been used
    /// for `simple_ttl`.
    ///
    /// # Errors
    /// With etcd's text when the flag or a key that it names is wrong.
    pub fn open(flag: &str, simple_ttl: Duration) -> Result<Self, String> {
        let mut parts = flag.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        for part in parts {
            let Some((name, value)) = part.split_once('=').filter(|(_, v)| !v.contains('=')) else {
                return Err(INVALID_OPTIONS.to_owned());
            };
            if options.insert(name, value).is_some() {
                return Err(INVALID_OPTIONS.to_owned());
            }
        }
        match kind {
            "simple" | "" => Ok(Tokens::Simple { ttl: simple_ttl, started: Instant::now() }),
            "jwt" => Ok(Tokens::Jwt(Box::new(Jwt::open(&options)?))),
            _ => Err(INVALID_OPTIONS.to_owned()),
        }
    }

    /// Letters for a new simple token; empty where the log gives out none.
    pub(super) fn draw_prefix(&self) -> String {
        let letter = |_| {
            let number = rand::random_range(0..52u8);
            char::from(if number < 26 { b'a' + number } else { b'A' + number - 26 })
        };
        match self {
            Tokens::Simple { .. } => (0..PREFIX_LETTERS).map(letter).collect(),
            Tokens::Jwt(_) => String::new(),
        }
    }

    /// The token of a user whose password was right: the one that the log gave out, or one of our
    /// own that vouches for the user at this auth revision.
    ///
    /// # Errors
    /// `VerifyOnlyTokens` where there is no key to sign with.
    pub(super) fn issue(
        &self,
        user: &str,
        given_out: String,
        auth_revision: u64,
    ) -> Result<String, RequestError> {
        match self {
            Tokens::Simple { .. } => Ok(given_out),
            Tokens::Jwt(jwt) => jwt.sign(user, auth_revision),
        }
    }

    /// The user that a token stands for, and the auth revision at which it vouches for it.
    pub(super) async fn verify(
        &self,
        token: &str,
        handle: &Handle,
    ) -> Result<(Arc<str>, u64), RequestError> {
        let (ttl, started) = match self {
            Tokens::Jwt(jwt) => return jwt.verify(token),
            Tokens::Simple { ttl, started } => (millis(*ttl), *started),
        };
        let auth = handle.auth();
        let redeem = || {
            // In this order: a change that takes the token away raises the revision with it.
            let revision = auth.state().revision();
            auth.redeem(token, millis(started.elapsed()), ttl).map(|user| (user, revision))
        };
        if let Some(found) = redeem() {
            return Ok(found);
        }
        // Another member may have given it out, and its entry not have come here yet.
        if AuthView::token_index(token).is_some_and(|index| index > handle.applied_index()) {
            handle.read_barrier().await?;
            return redeem().ok_or(RequestError::InvalidAuthToken);
        }
        Err(RequestError::InvalidAuthToken)
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// Drops tokens that nobody uses, until the node stops.
pub(super) async fn sweep(tokens: Arc<Tokens>, auth: AuthView, mut stop: Receiver<bool>) {
    let Tokens::Simple { ttl, started } = *tokens else { return };
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // An error means that the node is gone.
            _ = stop.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {
                if auth.is_enabled() {
                    auth.expire_tokens(millis(started.elapsed()), millis(ttl));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_read_as_etcd_reads_it() {
        let table = [
            ("simple", None),
            ("", None),
            ("simple,more=1", None),
            ("other", Some(INVALID_OPTIONS)),
            ("jwt", Some(INVALID_OPTIONS)),
            ("jwt,sign-method", Some(INVALID_OPTIONS)),
            ("jwt,sign-method=none", Some(INVALID_OPTIONS)),
            ("jwt,sign-method=RS256,pub-key=no/such/file", Some(INVALID_OPTIONS)),
            ("jwt,sign-method=HS256,sign-method=HS256", Some(INVALID_OPTIONS)),
            ("jwt,sign-method=HS256,ttl=long", Some(INVALID_OPTIONS)),
            ("jwt,sign-method=HS256", Some("auth: missing key data")),
            ("jwt,sign-method=RS256", Some("auth: missing key data")),
        ];
        for (flag, expected) in table {
            let refused = Tokens::open(flag, Duration::from_secs(300)).err();
            assert_eq!(refused.as_deref(), expected, "{flag}");
        }
    }

    #[test]
    fn prefixes_are_letters_and_differ() {
        let tokens = Tokens::open("simple", Duration::from_secs(300)).unwrap();
        let (one, other) = (tokens.draw_prefix(), tokens.draw_prefix());
        assert!(one.len() == PREFIX_LETTERS && one.chars().all(|c| c.is_ascii_alphabetic()));
        assert_ne!(one, other);
    }
}
