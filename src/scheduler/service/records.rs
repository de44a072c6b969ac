//! What was recorded: the latest result of each case in each environment, and reports of runs.

use super::Services;
use super::answer::{Problem, ok};
use super::ask::{Asked, InPath, Part, token};
use crate::scheduler::keys;
use crate::scheduler::store::Kv;
use axum::response::Response;
use serde_json::{Map, Value, json};

/// A record as it lies in the store, with its version and what its key says.
fn show(kv: &Kv, names: &[(&str, &str)]) -> Value {
    let mut shown: Map<String, Value> =
        names.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    match serde_json::from_slice(&kv.value) {
        Ok(Value::Object(fields)) => shown.extend(fields),
        Ok(value) => {
            shown.insert("value".into(), value);
        }
        // By hand anything may be written there.
        Err(_) => {
            shown.insert("value".into(), String::from_utf8_lossy(&kv.value).into());
        }
    }
    shown.insert("version".into(), kv.mod_revision.into());
    shown.into()
}

fn show_result(kv: &Kv) -> Value {
    let name = kv.key.strip_prefix(keys::RESULTS).unwrap_or_default();
    let (case, environment) = name.split_once('/').unwrap_or((name, ""));
    show(kv, &[("case", case), ("environment", environment)])
}

fn show_report(kv: &Kv) -> Value {
    show(kv, &[("run", kv.key.strip_prefix(keys::REPORTS).unwrap_or_default())])
}

/// A page of what has a prefix.
async fn list(
    services: &Services,
    prefix: &str,
    part: &Part,
    is_backwards: bool,
    show: impl Fn(&Kv) -> Value,
) -> Result<Response, Problem> {
    let (limit, after) = (part.limit()? as i64, part.after()?);
    let (from, end) = match (after, is_backwards) {
        (Some(after), false) => (format!("{prefix}{after}\0"), keys::range_end(prefix)),
        (Some(before), true) => (prefix.to_owned(), format!("{prefix}{before}").into_bytes()),
        (None, _) => (prefix.to_owned(), keys::range_end(prefix)),
    };
    let page = services.store().await?.page(&from, &end, limit, is_backwards).await?;
    let last = page.kvs.last().filter(|_| page.has_more);
    let next = last.and_then(|kv| kv.key.strip_prefix(prefix)).map(token);
    let items: Vec<Value> = page.kvs.iter().map(show).collect();
    Ok(ok(&json!({"items": items, "next": next, "left": page.count})))
}

pub(super) async fn list_results(
    services: Services,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    list(&services, keys::RESULTS, &part, false, show_result).await
}

pub(super) async fn results_of_case(
    services: Services,
    InPath(case): InPath<String>,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    list(&services, &format!("{}{case}/", keys::RESULTS), &part, false, show_result).await
}

pub(super) async fn get_result(
    services: Services,
    InPath((case, environment)): InPath<(String, String)>,
) -> Result<Response, Problem> {
    let key = format!("{}{case}/{environment}", keys::RESULTS);
    let found = services.store().await?.get(&key).await?;
    let unknown = || Problem::new(404, format!("no result of {case} in {environment}"));
    found.map(|kv| ok(&show_result(&kv))).ok_or_else(unknown)
}

/// Newest first.
pub(super) async fn list_reports(
    services: Services,
    Asked(part): Asked<Part>,
) -> Result<Response, Problem> {
    list(&services, keys::REPORTS, &part, true, show_report).await
}

pub(super) async fn get_report(
    services: Services,
    InPath(run): InPath<String>,
) -> Result<Response, Problem> {
    let found = services.store().await?.get(&format!("{}{run}", keys::REPORTS)).await?;
    let found = found.map(|kv| ok(&show_report(&kv)));
    found.ok_or_else(|| Problem::new(404, format!("no report of run {run}")))
}
