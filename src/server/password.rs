//! Passwords, made into hashes and compared with them away from the tasks that serve calls.
//!
//! A hash takes tens of milliseconds on purpose. So that nobody can take the whole machine with
//! it, no more are made at one time than there are processors, and the rest waits. Clear text
//! goes no further than this module.

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
}

impl Passwords {
    /// `cost`: of new hashes, from 4 to 31; each step doubles the time.
    pub fn new(cost: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { cost, turns: Arc::new(Semaphore::new(processors)) }
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

    /// Whether the password has this hash. Takes as long where there is no hash, so that time does
    /// not tell which users exist.
    ///
    /// # Errors
    /// `Stopped` when the node stops.
    pub(super) async fn verify(
        &self,
        password: String,
        hash: Option<Vec<u8>>,
    ) -> Result<bool, RequestError> {
        let cost = self.cost;
        self.run(move || match hash.map(String::from_utf8) {
            Some(Ok(hash)) => bcrypt::verify(password, &hash).unwrap_or(false),
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

/// Whether a hash that a client sends is one.
pub(super) fn is_hash(text: &str) -> bool {
    let hash = BASE64_STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    hash.is_some_and(|hash| hash.parse::<bcrypt::HashParts>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_has_its_own_hash_only() {
        let passwords = Passwords::new(4);
        let hash = passwords.hash("right".to_owned()).await.unwrap();
        assert!(is_hash(&hash));
        let stored = BASE64_STANDARD.decode(&hash).unwrap();
        assert!(stored.starts_with(b"$2a$04$"));
        let again = passwords.hash("right".to_owned()).await.unwrap();
        assert_ne!(hash, again, "each hash has a salt of its own");
        for (password, expected) in [("right", true), ("wrong", false), ("", false)] {
            let verified = passwords.verify(password.to_owned(), Some(stored.clone())).await;
            assert_eq!(verified, Ok(expected), "{password}");
        }
        assert_eq!(passwords.verify("right".to_owned(), None).await, Ok(false));
        assert_eq!(passwords.verify("right".to_owned(), Some(b"right".to_vec())).await, Ok(false));
        let long = passwords.hash("x".repeat(73)).await;
        assert_eq!(long, Err(RequestError::PasswordTooLong));
        assert!(passwords.hash("x".repeat(72)).await.is_ok());
    }

    #[test]
    fn only_a_hash_is_taken_for_one() {
        // Made by Go's bcrypt, of the text "pw".
        let hash = "$2a$10$CmViJ9qRZtsv3qbq.i.pD.8aBY7b2DJ/7RK9wwYz.mjQcb7oVNKjC";
        assert!(is_hash(&BASE64_STANDARD.encode(hash)));
        assert!(bcrypt::verify("pw", hash).unwrap());
        assert!(!bcrypt::verify("", hash).unwrap());
        for wrong in ["", "$2a$04$", "password", "$2a$04$zVHmKQtGGQob.b/Nc7l9NO"] {
            assert!(!is_hash(&BASE64_STANDARD.encode(wrong)), "{wrong}");
        }
        assert!(!is_hash(hash), "not encoded");
    }
}
