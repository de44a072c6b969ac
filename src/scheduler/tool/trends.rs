//! `quoin report trend` and `compare`: runs beside each other.

use super::desk::{Desk, Done, Trouble, duration, percent, table, time};
use crate::scheduler::analysis::{self, Difference, Trend};
use crate::scheduler::keys;
use crate::scheduler::model::Status;
use crate::scheduler::record::EndedRun;
use crate::scheduler::view::read;
use serde::Serialize;
use std::fmt::Write as _;

/// Runs that have ended are read in parts of so many.
const PAGE: i64 = 500;

#[derive(Serialize)]
struct Trends {
    /// The newest last.
    runs: Vec<EndedRun>,
    /// From submit to end.
    took: Trend,
    /// Tasks that failed their run.
    failures: Trend,
    /// Tasks that passed after a failed attempt.
    flaky: Trend,
}

pub(super) async fn trend(desk: &Desk, name: Option<&str>, limit: usize) -> Done {
    let mut runs = ended(desk, name, limit).await?;
    runs.reverse();
    if runs.is_empty() {
        let of = name.map(|name| format!(" named {name}")).unwrap_or_default();
        return Err(Trouble::Nothing(format!("no run{of} has ended")));
    }
    let of = |value: fn(&EndedRun) -> u64| {
        let points: Vec<f64> = runs.iter().map(|run| value(run) as f64).collect();
        analysis::trend(&points)
    };
    let found = Trends {
        took: of(|run| run.ended.saturating_sub(run.started)),
        failures: of(|run| run.totals.failures),
        flaky: of(|run| run.totals.flaky),
        runs,
    };
    desk.show(&found, trend_text);
    Ok(0)
}

/// Runs that have ended, the newest first.
async fn ended(desk: &Desk, name: Option<&str>, limit: usize) -> Result<Vec<EndedRun>, Trouble> {
    let (mut found, mut from) = (Vec::new(), keys::ENDED.to_owned());
    let end = keys::range_end(keys::ENDED);
    loop {
        let page = desk.client.page(&from, &end, PAGE, false).await?;
        let parse = |kv: &crate::scheduler::store::Kv| serde_json::from_slice(&kv.value).ok();
        let runs = page.kvs.iter().filter_map(parse);
        found.extend(runs.filter(|run: &EndedRun| name.is_none_or(|name| name == run.name)));
        found.truncate(limit);
        match page.kvs.last() {
            Some(last) if page.has_more && found.len() < limit => {
                from = format!("{}\0", last.key);
            }
            _ => return Ok(found),
        }
    }
}

fn trend_text(found: &Trends) -> String {
    let rows = found.runs.iter().map(|run| {
        let passed = run.totals.get(Status::Passed);
        [
            run.run.clone(),
            run.name.clone(),
            time(run.ended),
            run.state.clone(),
            run.totals.total.to_string(),
            percent(passed as f64 / run.totals.total.max(1) as f64),
            run.totals.failures.to_string(),
            run.totals.flaky.to_string(),
            duration(run.ended.saturating_sub(run.started) * 1_000),
        ]
    });
    let titles = ["run", "name", "ended", "state", "tasks", "passed", "failures", "flaky", "took"];
    let mut text = table(titles, rows.collect());
    let first = found.runs.first().map_or("", |run| &run.name);
    if first.is_empty() || found.runs.iter().any(|run| run.name != first) {
        text += "runs without a name or of different ones show no trend: choose some by --name\n";
        return text;
    }
    for (what, trend) in
        [("time", found.took), ("failures", found.failures), ("flaky tasks", found.flaky)]
    {
        let word = match trend {
            Trend::Rising(by) => format!("rising by {}", percent(by)),
            Trend::Falling(by) => format!("falling by {}", percent(by)),
            Trend::Steady => "steady".to_owned(),
            Trend::Unclear => "no clear trend".to_owned(),
            Trend::Unknown => "too few runs to tell".to_owned(),
        };
        // It cannot fail.
        let _infallible = writeln!(text, "{what}: {word}");
    }
    text
}

pub(super) async fn compare(desk: &Desk, first: &str, second: &str) -> Done {
    let (first, second) =
        tokio::try_join!(read::book(&desk.client, first), read::book(&desk.client, second))?;
    let found = analysis::compare(&first.trials(), &second.trials());
    desk.show(&found, compare_text);
    Ok(0)
}

fn name(case: &str, environment: &str) -> String {
    match environment {
        "" => case.to_owned(),
        environment => format!("{case}@{environment}"),
    }
}

fn compare_text(found: &Difference) -> String {
    let of = |what: &'static str, names: &[(String, String)]| -> Vec<[String; 3]> {
        let row = |(case, place): &(String, String)| [what.into(), name(case, place), "".into()];
        names.iter().map(row).collect()
    };
    let timed = |what: &'static str, names: &[(String, String, u64, u64)]| -> Vec<[String; 3]> {
        let row = |(case, place, old, new): &(String, String, u64, u64)| {
            let times = format!("{} -> {}", duration(old * 1_000), duration(new * 1_000));
            [what.into(), name(case, place), times]
        };
        names.iter().map(row).collect()
    };
    let rows = [
        of("broken", &found.broken),
        of("fixed", &found.fixed),
        timed("slower", &found.slower),
        timed("quicker", &found.quicker),
        of("added", &found.added),
        of("gone", &found.gone),
    ]
    .concat();
    match rows.is_empty() {
        true => "nothing differs".to_owned(),
        false => table(["what", "case", "median"], rows),
    }
}
