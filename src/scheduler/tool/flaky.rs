//! `quoin flaky`: which cases come and go, and what is to be done about them meanwhile.

use super::desk::{Desk, Done, Trouble, now_ms, percent, table, time};
use crate::scheduler::analysis::{FlakeRule, FlakeScore, Stats};
use crate::scheduler::catalog;
use crate::scheduler::keys;
use crate::scheduler::model::{CaseState, Refusal, TestCase};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
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
    case: String,
    environment: String,
    #[serde(flatten)]
    score: FlakeScore,
    /// The last outcomes, oldest first.
    last: String,
    pass_rate: Option<f64>,
    state: CaseState,
    reason: String,
    until: Option<String>,
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

/// What has ended by itself has no reason any more.
fn end_state(case: &mut TestCase, now: u64) {
    let before = case.state;
    case.end_state(now);
    if case.state != before {
        case.state_reason.clear();
        case.state_until = None;
    }
}

async fn find(desk: &Desk) -> Result<Vec<Found>, Trouble> {
    let (kvs, _) = desk.client.prefix(keys::STATS, 0).await?;
    let now = now_ms();
    let mut cases = super::cases::matching(desk, "", usize::MAX, |_| true).await?;
    cases.iter_mut().for_each(|case| end_state(case, now));
    let cases: BTreeMap<&str, &TestCase> =
        cases.iter().map(|case| (case.id.as_str(), case)).collect();
    let mut found = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for kv in &kvs {
        let name = kv.key.strip_prefix(keys::STATS).and_then(|name| name.split_once('/'));
        let (Some((case, environment)), Ok(stats)) =
            (name, serde_json::from_slice::<Stats>(&kv.value))
        else {
            continue;
        };
        let score = FlakeRule::default().score(&stats, now);
        let known = cases.get(case);
        let state = known.map(|case| case.state).unwrap_or_default();
        if !score.is_flaky && state == CaseState::Enabled {
            continue;
        }
        seen.push(case);
        found.push(Found {
            case: case.to_owned(),
            environment: environment.trim_start_matches('-').to_owned(),
            score,
            last: stats.strip(),
            pass_rate: stats.pass_rate(),
            state,
            reason: known.map(|case| case.state_reason.clone()).unwrap_or_default(),
            until: known.and_then(|case| case.state_until.clone()),
        });
    }
    let quiet = cases.values().filter(|case| case.state != CaseState::Enabled);
    for case in quiet.filter(|case| !seen.contains(&case.id.as_str())) {
        found.push(Found {
            case: case.id.clone(),
            environment: String::new(),
            score: FlakeScore::default(),
            last: String::new(),
            pass_rate: None,
            state: case.state,
            reason: case.state_reason.clone(),
            until: case.state_until.clone(),
        });
    }
    found.sort_by(|a, b| b.score.score.total_cmp(&a.score.score));
    Ok(found)
}

fn list(found: &[Found]) -> String {
    let rows = found.iter().map(|found| {
        let state = match (found.state, found.score.has_recovered) {
            (CaseState::Enabled, _) => "",
            (CaseState::Muted, true) => "muted, has recovered",
            (CaseState::Muted, false) => "muted",
            (CaseState::Skipped, _) => "skipped",
        };
        [
            found.case.clone(),
            found.environment.clone(),
            format!("{:.2}", found.score.score),
            found.last.clone(),
            found.pass_rate.map(percent).unwrap_or_default(),
            state.to_owned(),
            found.reason.clone(),
            found.until.clone().unwrap_or_default(),
        ]
    });
    let titles = ["case", "environment", "score", "last", "passed", "state", "reason", "until"];
    table(titles, rows.collect())
}
