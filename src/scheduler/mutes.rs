//! Mutes that end by themselves.

use super::catalog;
use super::client::Client;
use super::model::{CaseState, TestCase, milliseconds};
use super::submit::SubmitError;

/// Lets a muted case be as any other that had recovered at a time, in milliseconds since 1970. A mute that
/// is newer is about what happened later, and stays.
///
/// # Errors
///
/// What the store says. That somebody changes it at the same time is none.
pub(super) async fn end(client: &Client, case: &str, recovered: u64) -> Result<(), SubmitError> {
    let found = catalog::find::<TestCase>(client, case).await?;
    let is_meant = |case: &TestCase| {
        let since = case.state_since.as_deref().and_then(milliseconds);
        let is_newer = since.is_some_and(|since| since > recovered);
        case.state == CaseState::Muted && !case.is_deleted && !is_newer
    };
    let Some(found) = found.filter(|found| is_meant(&found.value)) else { return Ok(()) };
    let ended = TestCase {
        state: CaseState::Enabled,
        state_reason: String::new(),
        state_until: None,
        ..found.value
    };
    match catalog::put(client, ended, Some(found.version)).await {
        Ok(_) => tracing::info!(case, "a muted case has recovered: it counts again"),
        Err(SubmitError::Refused(refusal)) if refusal.status == 409 => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
