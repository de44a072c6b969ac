//! `quoin flaky`: which cases come and go, and what is to be done about them meanwhile.

use super::desk::{Desk, Done, Trouble, now_ms, percent, table, time};
use crate::scheduler::analysis::Stats;
use crate::scheduler::catalog;
use crate::scheduler::model::{CaseState, Refusal, TestCase};
use crate::scheduler::view::{FlakyCase, read};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

/// The end of a longer one might be a time that cannot be written.
const PERIOD_MAX: Duration = Duration::from_secs(1_000 * 365 * 24 * 3_600);

#[derive(Debug, Subcommand)]
pub enum FlakyAction {
    /// Lists flaky cases, and those that are muted or skipped
    Ls,
    /// Lets a case run without its failures failing a run
    Mute(Change),
    /// Lets a case's failures count again, or lets it run again
    #[command(visible_alias = "unskip")]
    Unmute { case: String },
    /// Does not run a case
    Skip(Change),
}

#[derive(Debug, Args)]
pub struct Change {
    case: String,
    /// Why, for those who wonder
    #[arg(long, value_parser = reason)]
    reason: String,
    /// For how long: 7d, 12h; for ever where it is not said
    #[arg(long = "for", value_parser = period)]
    period: Option<Duration>,
}

fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a reason is some text".into()),
        _ => Ok(text.to_owned()),
    }
}

fn period(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match period {
        Duration::ZERO => Err("it is over at once".into()),
        period if period > PERIOD_MAX => Err("it is longer than 1000 years".into()),
        period => Ok(period),
    }
}

/// What is known of a case in an environment.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    found: FlakyCase,
    /// The last outcomes, oldest first.
    last: String,
    pass_rate: Option<f64>,
}

pub(super) async fn run(action: FlakyAction, desk: &Desk) -> Done {
    match action {
        FlakyAction::Ls => {
            let found = find(desk).await?;
            desk.show(&found, |found| list(found));
        }
        FlakyAction::Mute(change) => set(desk, CaseState::Muted, change).await?,
        FlakyAction::Skip(change) => set(desk, CaseState::Skipped, change).await?,
        FlakyAction::Unmute { case } => {
            let change = Change { case, reason: String::new(), period: None };
            set(desk, CaseState::Enabled, change).await?;
        }
    }
    Ok(0)
}

async fn set(desk: &Desk, state: CaseState, change: Change) -> Result<(), Trouble> {
    let Change { case, reason, period } = change;
    let until = period.map(|period| time(now_ms().saturating_add(period.as_millis() as u64)));
    let changed = catalog::change::<TestCase>(&desk.client, &case, None, |before| {
        let before = before.ok_or_else(|| Refusal::new(404, format!("unknown case {case}")))?;
        let (state_reason, state_until) = (reason.clone(), until.clone());
        Ok(TestCase { state, state_reason, state_until, ..before.clone() })
    })
    .await?;
    let TestCase { state, state_reason, state_until, .. } = changed.value;
    desk.tell(&json!({
        "case": case, "state": state, "reason": state_reason, "until": state_until,
        "version": changed.version,
    }));
    Ok(())
}

async fn find(desk: &Desk) -> Result<Vec<Found>, Trouble> {
    let (found, _) = read::flaky(&desk.client, now_ms()).await?;
    let show = |mut found: FlakyCase| {
        if found.is_expired {
            // It runs and counts as any other, so that no reason is left.
            (found.state, found.is_expired, found.until) = (CaseState::Enabled, false, None);
            found.reason.clear();
        }
        let stats = found.stats.as_ref();
        let last = stats.map(Stats::strip).unwrap_or_default();
        Found { last, pass_rate: stats.and_then(Stats::pass_rate), found }
    };
    let is_listed = |found: &FlakyCase| !found.is_expired || found.score.is_flaky;
    Ok(found.into_iter().filter(is_listed).map(show).collect())
}

fn list(found: &[Found]) -> String {
    let rows = found.iter().map(|Found { found, last, pass_rate }| {
        let state = match (found.state, found.score.has_recovered) {
            (CaseState::Enabled, _) => "",
            (CaseState::Muted, true) => "muted, passes again",
            (CaseState::Muted, false) => "muted",
            (CaseState::Skipped, _) => "skipped",
        };
        [
            found.case.clone(),
            found.environment.clone(),
            format!("{:.2}", found.score.score),
            last.clone(),
            pass_rate.map(percent).unwrap_or_default(),
            state.to_owned(),
            found.reason.clone(),
            found.until.clone().unwrap_or_default(),
        ]
    });
    let titles = ["case", "environment", "score", "last", "passed", "state", "reason", "until"];
    table(titles, rows.collect())
}
