//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// After this long a condition is taken to be never met: far above what a healthy cluster
/// needs even on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Returns the value that `condition` gives once it is met; panics after [`LIMIT`] with what
/// was waited for and why it was last not met.
pub async fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(LIMIT, what, condition).await
}

/// Like [`eventually`], with its own deadline.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let why = match tokio::time::timeout(left, condition()).await {
            Ok(Ok(value)) => return value,
            Ok(Err(why)) => why,
            Err(_) => "the last look at it did not return".into(),
        };
        if Instant::now() >= deadline {
            panic!("no {what} within {limit:?}: {why}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
