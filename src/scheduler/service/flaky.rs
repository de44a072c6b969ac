//! Cases that come and go, and those that are muted or skipped meanwhile.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, Part};
use super::runs::now_ms;
use super::views::Cut;
use crate::scheduler::view::read;
use axum::response::Response;

/// The flakiest first.
pub(super) async fn list(
    services: Services,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    let cut = Cut::new(&part)?;
    let (found, revision) = read::flaky(&services.store().await?, now_ms()).await?;
    Ok(ok(&cut.page(&found, revision)))
}
