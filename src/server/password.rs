//! Passwords, made into hashes and compared with them away from the tasks that serve calls.
//!
//! A hash takes tens of milliseconds on purpose. So that nobody can take the whole machine with
//! it, no more are made at one time than there are processors, and the rest waits; and a password
//! that was right a short while ago is not hashed again, see `verified`. Clear text goes
//! no further than these two modules.

use super::verified::Verified;
use crate::error::RequestError;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes that bcrypt looks at.
const PASSWORD_BYTES_MAX: usize = 72;

/// Makes and compares hashes. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    cost: u32,
    turns: Arc<Semaphore>,
    verified: Arc<Verified>,
}

impl Passwords {
    /// `cost`: of new hashes, from 4 to 31; each step doubles the time.
    pub fn new(cost: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let turns = Arc::new(Semaphore::new(processors));
        Self { cost, turns, verified: Arc::new(Verified::new()) }
    }

    /// The hash as requests carry it.
    ///
    /// # Errors
    /// `PasswordTooLong`; `Stopped` when the node stops.
    pub(super) async fn hash(&self, password: String) -> Result<String, RequestError> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(RequestError::PasswordTooLong);
        }
        let cost = self.cost;
        let hash = self.run(move || bcrypt::hash_with_result(password, cost)).await?;
        let hash = hash.map_err(|_| RequestError::Stopped)?;
        // The form that Go's bcrypt writes.
        Ok(BASE64_STANDARD.encode(hash.format_for_version(bcrypt::Version::TwoA)))
    }

    /// Whether the password has this hash, which was the user's at this auth revision. Takes as long
    /// where there is no hash, so that time does not tell which users exist.
    ///
    /// # Errors
    /// `Stopped` when the node stops.
    pub(super) async fn verify(
        &self,
        password: String,
        hash: Option<Vec<u8>>,
        revision: u64,
    ) -> Result<bool, RequestError> {
        let verified = self.verified.clone();
        if verified.contains(&password, hash.as_deref().unwrap_or_default(), revision) {
            return Ok(true);
        }
        let cost = self.cost;
        self.run(move || match hash.map(String::from_utf8) {
            Some(Ok(hash)) => {
                // Somebody may have hashed it while this waited for its turn.
                if verified.contains(&password, hash.as_bytes(), revision) {
                    return true;
                }
                let is_right = bcrypt::verify(&password, &hash).unwrap_or(false);
                if is_right {
                    verified.insert(&password, hash.as_bytes(), revision);
                }
                is_right
            }
            _ => {
                let _in_vain = bcrypt::hash(password, cost);
                false
            }
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, RequestError> {
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| RequestError::Stopped)?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|_| RequestError::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_has_its_own_hash_only() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("right".to_owned()).await.unwrap();
        let stored = BASE64_STANDARD.decode(&hash).unwrap();
        assert!(stored.starts_with(b"$2a$04$"));
        let again = passwords.hash("right".to_owned()).await.unwrap();
        assert_ne!(hash, again, "each hash has a salt of its own");
        for (password, expected) in [("right", true), ("wrong", false), ("", false)] {
            // The second time it may be known already.
            for _ in 0..2 {
                let verified = passwords.verify(password.to_owned(), Some(stored.clone()), 1).await;
                assert_eq!(verified, Ok(expected), "{password}");
            }
        }
        for none in [None, Some(b"right".to_vec()), Some(vec![]), Some(vec![0xff])] {
            for password in ["right", ""] {
                assert_eq!(passwords.verify(password.to_owned(), none.clone(), 1).await, Ok(false));
            }
        }
        // Made by Go's bcrypt, of the text "pw".
        let hash = "$2a$10$CmViJ9qRZtsv3qbq.i.pD.8aBY7b2DJ/7RK9wwYz.mjQcb7oVNKjC";
        assert!(bcrypt::verify("pw", hash).unwrap());
        assert!(!bcrypt::verify("", hash).unwrap());
        let long = passwords.hash("x".repeat(73)).await;
        assert_eq!(long, Err(RequestError::PasswordTooLong));
        assert!(passwords.hash("x".repeat(72)).await.is_ok());
    }

    #[tokio::test]
    async fn a_password_that_was_right_is_not_hashed_again_until_auth_changes() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("right".to_owned()).await.unwrap();
        let stored = Some(BASE64_STANDARD.decode(&hash).unwrap());
        let right = |revision| passwords.verify("right".to_owned(), stored.clone(), revision);
        assert_eq!(right(3).await, Ok(true));
        // Without a turn nothing is hashed.
        let processors = passwords.turns.available_permits() as u32;
        let all = passwords.turns.acquire_many(processors).await.unwrap();
        assert_eq!(right(3).await, Ok(true));
        let soon = std::time::Duration::from_millis(50);
        let other = tokio::time::timeout(soon, right(4)).await;
        assert!(other.is_err(), "waits for its turn to be hashed");
        let wrong = passwords.verify("wrong".to_owned(), stored.clone(), 3);
        assert!(tokio::time::timeout(soon, wrong).await.is_err(), "waits too");
        drop(all);
        assert_eq!(right(4).await, Ok(true));
    }
}
