//! Who calls, where that is a user of the store: shown by a token of the store, or by name and password,
//! for which the store gives a token.
//!
//! What the store has said of a caller is kept for a minute, under a digest with a key of this process:
//! neither names nor passwords are kept. It says who somebody is, never what he may do: rights are
//! looked at by the store, call by call. A token that the store refuses later is forgotten at once.

use super::answer::Problem;
use crate::scheduler::client::{Access, Client, Door};
use aws_lc_rs::digest::SHA256_OUTPUT_LEN;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use etcd_client::Error;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

/// Said where somebody shows a user of a store that has none.
pub(super) const NO_USERS: &str = "the store has no users";

/// How long it is believed who somebody is.
const LIFE: Duration = Duration::from_secs(60);
/// Callers that are known at one time; the one that came first makes room.
const CALLERS_MAX: usize = 1_000;
/// Passwords that the store looks at for us at one time: that is meant to be slow.
const EXCHANGES_MAX: usize = 4;

/// What somebody says he is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// A token of the store.
    Token(String),
    Password {
        name: String,
        password: String,
    },
}

impl Shown {
    /// From the value of `Authorization`: `Bearer TOKEN`, `Basic` as in RFC 7617, or a token alone, as
    /// the store's own gateway takes it.
    pub(super) fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        let (scheme, rest) = match value.split_once(' ') {
            Some((scheme, rest)) => (scheme, rest.trim()),
            None if value.eq_ignore_ascii_case("bearer") => (value, ""),
            None => ("bearer", value),
        };
        if scheme.eq_ignore_ascii_case("bearer") {
            return (!rest.is_empty()).then(|| Self::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (name, password) = text.split_once(':')?;
        Some(Self::Password { name: name.to_owned(), password: password.to_owned() })
    }
}

type Digest = [u8; SHA256_OUTPUT_LEN];

struct Known {
    since: Instant,
    client: OnceCell<Client>,
}

/// Users of the store who have called lately.
pub(super) struct Callers {
    access: Access,
    door: OnceCell<Door>,
    known: Mutex<BTreeMap<Digest, Arc<Known>>>,
    key: Key,
    exchanges: Semaphore,
}

impl Callers {
    pub(super) fn new(access: Access) -> Self {
        let key = Key::new(HMAC_SHA256, &rand::random::<Digest>());
        let (door, known) = Default::default();
        Self { access, door, known, key, exchanges: Semaphore::new(EXCHANGES_MAX) }
    }

    /// The store as this caller.
    pub(super) async fn find(&self, shown: &Shown) -> Result<Client, Problem> {
        let known = self.known(self.digest(shown), Instant::now());
        let client = known.client.get_or_try_init(async || match shown {
            Shown::Token(token) => self.with_token(token).await,
            Shown::Password { name, password } => {
                let token = self.log_in(name, password).await?;
                Ok(self.door().await?.client(&token).await?)
            }
        });
        let found = client.await.cloned();
        if found.is_err() {
            self.forget(shown);
        }
        found
    }

    /// A token of the store for a name and password.
    pub(super) async fn log_in(&self, name: &str, password: &str) -> Result<String, Problem> {
        let door = self.door().await?;
        let _place = self.exchanges.acquire().await;
        door.token(name, password).await.map_err(refused)
    }

    pub(super) fn forget(&self, shown: &Shown) {
        self.known.lock().remove(&self.digest(shown));
    }

    async fn door(&self) -> Result<&Door, Problem> {
        Ok(self.door.get_or_try_init(async || Door::open(&self.access)).await?)
    }

    /// A store without users lets any token pass, so it is asked whether it has some.
    async fn with_token(&self, token: &str) -> Result<Client, Problem> {
        let door = self.door().await?;
        match door.token("", "").await {
            Err(error) if !is_about_user(&error) => return Err(refused(error)),
            _ => {}
        }
        let client = door.client(token).await.map_err(refused)?;
        match client.may_read(crate::scheduler::keys::RUNS).await {
            Err(error) if !is_denied(&error) => Err(refused(error)),
            // Whoever is denied something is known.
            _ => Ok(client),
        }
    }

    fn digest(&self, shown: &Shown) -> Digest {
        let text = match shown {
            Shown::Token(token) => format!("t{token}"),
            // No name has a colon: Basic could not say it.
            Shown::Password { name, password } => format!("p{name}:{password}"),
        };
        let mut digest = Digest::default();
        digest.copy_from_slice(sign(&self.key, text.as_bytes()).as_ref());
        digest
    }

    fn known(&self, digest: Digest, now: Instant) -> Arc<Known> {
        let mut known = self.known.lock();
        known.retain(|_, known| now.duration_since(known.since) < LIFE);
        if known.len() >= CALLERS_MAX && !known.contains_key(&digest) {
            let oldest = known.iter().min_by_key(|(_, known)| known.since);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                known.remove(&oldest);
            }
        }
        let new = || Arc::new(Known { since: now, client: OnceCell::new() });
        known.entry(digest).or_insert_with(new).clone()
    }
}

fn says(error: &Error, text: &str) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains(text))
}

fn is_denied(error: &Error) -> bool {
    says(error, "permission denied")
}

/// That a store with users does not know this one.
fn is_about_user(error: &Error) -> bool {
    says(error, "authentication failed") || says(error, "user name is empty")
}

/// Why somebody is not who he says he is, or that it cannot be found out.
fn refused(error: Error) -> Problem {
    if is_about_user(&error) {
        return Problem::new(401, "the store knows no such user with this password");
    }
    if says(&error, "authentication is not enabled") {
        return Problem::new(401, NO_USERS);
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use super::{CALLERS_MAX, Callers, LIFE, Shown};
    use crate::scheduler::client::Access;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;

    #[test]
    fn callers_show_tokens_or_names_with_passwords() {
        let token = |text: &str| Some(Shown::Token(text.into()));
        let password = |name: &str, password: &str| {
            Some(Shown::Password { name: name.into(), password: password.into() })
        };
        for (value, wanted) in [
            ("Bearer a.1", token("a.1")),
            ("bearer  a.1 ", token("a.1")),
            ("a.1", token("a.1")),
            ("Basic ZXZlOnNlY3JldA==", password("eve", "secret")),
            ("basic ZXZlOmE6Yg==", password("eve", "a:b")),
            ("Basic ZXZl", None),
            ("Basic ???", None),
            ("Digest x", None),
            ("Bearer ", None),
            ("", None),
        ] {
            assert_eq!(Shown::parse(value), wanted, "{value}");
        }
    }

    #[test]
    fn what_is_kept_of_callers_has_a_bound_and_no_secret() {
        let (callers, now) = (Callers::new(Access::default()), Instant::now());
        let digest = |number: usize| callers.digest(&Shown::Token(number.to_string()));
        let first = callers.known(digest(0), now);
        assert!(Arc::ptr_eq(&first, &callers.known(digest(0), now)));
        for number in 1..=CALLERS_MAX {
            callers.known(digest(number), now + Duration::from_millis(1));
        }
        assert_eq!(callers.known.lock().len(), CALLERS_MAX);
        assert!(!callers.known.lock().contains_key(&digest(0)), "the oldest went");
        callers.forget(&Shown::Token("1".into()));
        assert_eq!(callers.known.lock().len(), CALLERS_MAX - 1);
        let other = Callers::new(Access::default());
        assert_ne!(other.digest(&Shown::Token("1".into())), digest(1), "each process has its key");
        let password = Shown::Password { name: "1".into(), password: String::new() };
        assert_ne!(callers.digest(&password), digest(1));
    }

    #[test]
    fn who_somebody_is_is_believed_for_a_minute() {
        let (callers, now) = (Callers::new(Access::default()), Instant::now());
        let digest = callers.digest(&Shown::Token("a".into()));
        let first = callers.known(digest, now);
        let later = now + LIFE - Duration::from_millis(1);
        assert!(Arc::ptr_eq(&first, &callers.known(digest, later)));
        assert!(!Arc::ptr_eq(&first, &callers.known(digest, now + LIFE)));
    }
}
