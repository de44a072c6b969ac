//! A token of the store for a name and password: what the page asks for, so that it need not keep a
//! password.

use super::Shared;
use super::answer::{Problem, ok};
use super::ask::Object;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    name: String,
    password: String,
}

/// Answers with a token, to be shown as `Authorization: Bearer TOKEN` for as long as the store knows it.
pub(super) async fn log_in(
    State(shared): State<Shared>,
    body: Object,
) -> Result<Response, Problem> {
    let Login { name, password } = body.parse("a name and password")?;
    let token = shared.inner.callers.log_in(&name, &password).await?;
    Ok(ok(&json!({ "token": token })))
}
