//! `quoin bench report`: results of several servers side by side, as medians and ratios.
//!
//! It reads the lines that `--json` printed. A result belongs to the cell and the server that its
//! labels name; the runs of one server in one cell are one row, of which each figure is the
//! median. It measures nothing itself.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use serde::Serialize;

use super::BenchError;
use super::args::ReportArgs;
use super::outcome::{Outcome, time};

const MEBIBYTE: f64 = (1 << 20) as f64;

/// The figures of a row, each the median of its runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    server: String,
    version: String,
    runs: usize,
    /// Runs in which a request failed or was answered wrongly.
    failed_runs: usize,
    /// By name: `ops` (for each second), `p50` and `p99` (microseconds), `cpu` (microseconds for
    /// each operation), `rss`, `peak` and `growth` (bytes).
    figures: BTreeMap<&'static str, f64>,
    /// Largest over smallest throughput of the runs.
    spread: f64,
    /// Each figure divided by the baseline's, where that has one.
    ratios: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Cell {
    cell: String,
    title: String,
    unit: String,
    settings: Vec<(String, String)>,
    rows: Vec<Row>,
}

/// One thing to reach, and what was reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Goal {
    text: String,
    /// Nothing if it was not measured.
    reached: Option<f64>,
    is_met: Option<bool>,
}

#[derive(Debug, Serialize)]
struct Report {
    notes: Vec<(String, String)>,
    cells: Vec<Cell>,
    goals: Vec<Goal>,
}

/// Reads the results; gives the page, and writes the JSON file if one is asked for.
pub(super) fn run(args: &ReportArgs) -> Result<String, BenchError> {
    let mut outcomes = Vec::new();
    for file in &args.files {
        let name = file.display();
        let text = fs::read_to_string(file).map_err(BenchError::io(format!("read {name}")))?;
        for (number, line) in (1..).zip(text.lines()) {
            let outcome: Outcome = serde_json::from_str(line).map_err(|source| {
                BenchError::Format { what: format!("{name}, line {number}"), source }
            })?;
            outcomes.push(outcome);
        }
    }
    let cells = cells(outcomes, &args.baseline);
    let goals: Result<_, _> = args.goal.iter().map(|goal| judge(goal, &cells)).collect();
    let notes = machine().into_iter().chain(args.note.iter().cloned()).collect();
    let report = Report { notes, cells, goals: goals? };
    if let Some(path) = &args.json {
        let name = path.display();
        let text = serde_json::to_string_pretty(&report)
            .map_err(|source| BenchError::Format { what: format!("write {name}"), source })?;
        fs::write(path, text + "\n").map_err(BenchError::io(format!("write {name}")))?;
    }
    Ok(page(&report, &args.baseline))
}

/// What this machine is, from Linux's own description.
fn machine() -> Vec<(String, String)> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = value(&cpus, "model name").unwrap_or_else(|| "unknown".into());
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    vec![
        ("processor".into(), format!("{count} x {model}")),
        ("memory".into(), memory),
        ("kernel".into(), read("/proc/sys/kernel/osrelease").trim().to_owned()),
    ]
}

/// Things by name, in the order in which the names first appeared.
type Groups<T> = Vec<(String, T)>;

/// Groups results by cell and by server, both in the order in which they first appear.
fn cells(outcomes: Vec<Outcome>, baseline: &str) -> Vec<Cell> {
    let mut groups: Groups<Groups<Vec<Outcome>>> = Vec::new();
    for outcome in outcomes {
        let label = |name: &str, other: &str| {
            outcome.labels.get(name).cloned().unwrap_or_else(|| other.to_owned())
        };
        let servers = group(&mut groups, label("cell", &outcome.kind));
        group(servers, label("server", &outcome.server_version)).push(outcome);
    }
    groups.into_iter().filter_map(|(cell, servers)| cell_of(cell, servers, baseline)).collect()
}

/// The entry of a name; a new one at the end if there is none.
fn group<T: Default>(groups: &mut Groups<T>, name: String) -> &mut T {
    let at = groups.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
        groups.push((name, T::default()));
        groups.len() - 1
    });
    &mut groups[at].1
}

fn cell_of(cell: String, servers: Groups<Vec<Outcome>>, baseline: &str) -> Option<Cell> {
    let first = servers.first()?.1.first()?.clone();
    let mut rows: Vec<Row> =
        servers.into_iter().map(|(server, outcomes)| row(server, &outcomes)).collect();
    let base = rows.iter().find(|row| row.server == baseline).map(|row| row.figures.clone());
    for row in &mut rows {
        for (name, value) in &row.figures {
            let base = base.as_ref().and_then(|base| base.get(name));
            if let Some(base) = base.filter(|base| **base > 0.0) {
                row.ratios.insert(name, value / base);
            }
        }
    }
    let title = first.labels.get("title").cloned().unwrap_or_else(|| cell.clone());
    Some(Cell { cell, title, unit: first.unit, settings: first.settings, rows })
}

fn row(server: String, outcomes: &[Outcome]) -> Row {
    let mut figures = BTreeMap::new();
    let mut put = |name, of: &dyn Fn(&Outcome) -> Option<f64>| {
        let values: Vec<f64> = outcomes.iter().filter_map(of).collect();
        if let Some(value) = median(values) {
            figures.insert(name, value);
        }
    };
    let measured = |outcome: &Outcome| (outcome.operations > 0).then_some(());
    put("ops", &|one| measured(one).map(|()| one.throughput));
    put("p50", &|one| measured(one).map(|()| one.latency_us.p50));
    put("p99", &|one| measured(one).map(|()| one.latency_us.p99));
    put("cpu", &|one| one.server_cpu_us);
    put("generator", &|one| measured(one).map(|()| one.generator_cpu_us));
    put("rss", &|one| one.server.as_ref().map(|server| server.rss_after as f64));
    put("peak", &|one| one.server.as_ref().map(|server| server.rss_peak as f64));
    put("growth", &|one| one.server.as_ref().map(|server| server.growth() as f64));
    let throughputs = || outcomes.iter().map(|one| one.throughput);
    let smallest = throughputs().fold(f64::INFINITY, f64::min);
    let largest = throughputs().fold(0.0, f64::max);
    Row {
        server,
        version: outcomes.first().map(|one| one.server_version.clone()).unwrap_or_default(),
        runs: outcomes.len(),
        failed_runs: outcomes.iter().filter(|one| !one.errors.is_empty()).count(),
        figures,
        spread: if smallest > 0.0 { largest / smallest } else { 1.0 },
        ratios: BTreeMap::new(),
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Reads "cell server measure <= number" or "... <= 0.5x", and holds it against the rows.
fn judge(text: &str, cells: &[Cell]) -> Result<Goal, BenchError> {
    let wrong = || BenchError::Usage(format!("--goal {text:?}: not \"cell server measure <= 15\""));
    let words: Vec<&str> = text.split_whitespace().collect();
    let &[cell, server, measure, relation, bound] = &words[..] else { return Err(wrong()) };
    let is_ratio = bound.ends_with('x');
    let number: f64 = bound.trim_end_matches('x').parse().map_err(|_| wrong())?;
    let is_within: fn(f64, f64) -> bool = match relation {
        "<=" => |reached, bound| reached <= bound,
        ">=" => |reached, bound| reached >= bound,
        _ => return Err(wrong()),
    };
    let row = cells
        .iter()
        .filter(|one| one.cell == cell)
        .flat_map(|one| &one.rows)
        .find(|row| row.server == server);
    let reached = row.and_then(|row| {
        let values = if is_ratio { &row.ratios } else { &row.figures };
        let value = *values.get(measure)?;
        Some(if !is_ratio && is_size(measure) { value / MEBIBYTE } else { value })
    });
    let is_met = reached.map(|reached| is_within(reached, number));
    Ok(Goal { text: text.to_owned(), reached, is_met })
}

/// Whether a goal gives this measure in MiB.
fn is_size(measure: &str) -> bool {
    matches!(measure, "rss" | "peak" | "growth")
}

fn page(report: &Report, baseline: &str) -> String {
    let mut page = String::new();
    for (name, value) in &report.notes {
        let _ = writeln!(page, "{name:<12} {value}");
    }
    for cell in &report.cells {
        let _ = write!(page, "\n{}\n{}", cell.title, table(cell, baseline));
    }
    if !report.goals.is_empty() {
        let _ = writeln!(page, "\ngoals");
    }
    for goal in &report.goals {
        let word = match goal.is_met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let reached = goal.reached.map_or("-".into(), |value| format!("{value:.2}"));
        let _ = writeln!(page, "  {word:<12} {:<48} reached {reached}", goal.text);
    }
    page
}

fn table(cell: &Cell, baseline: &str) -> String {
    let mut table = String::new();
    let cpu = if cell.unit == "second" { "cpu us/s" } else { "cpu us/op" };
    let _ = writeln!(
        table,
        "  {:<16}{:>9}{:>7}{:>10}{:>10}{:>11}{:>10}{:>10}{:>11} | x {baseline}: {:>6}{:>6}{:>6}{:>8}",
        "server",
        "ops/s",
        "spread",
        "p50",
        "p99",
        cpu,
        "gen us/op",
        "peak MiB",
        "growth MiB",
        "ops",
        "p50",
        "cpu",
        "growth"
    );
    for row in &cell.rows {
        let number = |name: &str, scale: f64, digits: usize| {
            row.figures.get(name).map_or("-".into(), |value| format!("{:.digits$}", value / scale))
        };
        let latency = |name: &str| row.figures.get(name).map_or("-".into(), |value| time(*value));
        let ratio = |name: &str| row.ratios.get(name).map_or("-".into(), |x| format!("{x:.2}"));
        let indent = baseline.len() + 4;
        let _ = write!(
            table,
            "  {:<16}{:>9}{:>7}{:>10}{:>10}{:>11}{:>10}{:>10}{:>11} | {:indent$}{:>6}{:>6}{:>6}{:>8}",
            row.server,
            number("ops", 1.0, 0),
            format!("{:.2}", row.spread),
            latency("p50"),
            latency("p99"),
            number("cpu", 1.0, 1),
            number("generator", 1.0, 1),
            number("peak", MEBIBYTE, 1),
            number("growth", MEBIBYTE, 1),
            "",
            ratio("ops"),
            ratio("p50"),
            ratio("cpu"),
            ratio("growth"),
        );
        let failed = row.failed_runs;
        let _ = writeln!(
            table,
            "{}",
            if failed > 0 { format!("  {failed} FAILED") } else { String::new() }
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::process::ServerUse;

    fn outcome(cell: &str, server: &str, throughput: f64, cpu: f64) -> Outcome {
        let used = ServerUse {
            cpu_seconds: cpu / 1e6,
            rss_before: 10 << 20,
            rss_after: 20 << 20,
            rss_peak: 30 << 20,
            peak_is_sampled: false,
        };
        let mut outcome = Outcome::idle(Duration::from_secs(1), used);
        outcome.labels.insert("cell".into(), cell.into());
        outcome.labels.insert("server".into(), server.into());
        (outcome.operations, outcome.throughput) = (1, throughput);
        outcome
    }

    #[test]
    fn rows_are_medians_and_ratios_of_the_baseline() {
        let outcomes = vec![
            outcome("put", "quoin", 100.0, 10.0),
            outcome("put", "etcd", 40.0, 50.0),
            outcome("put", "quoin", 400.0, 12.0),
            outcome("put", "etcd", 60.0, 30.0),
            outcome("put", "quoin", 200.0, 11.0),
            outcome("get", "quoin", 7.0, 1.0),
        ];
        let cells = cells(outcomes, "etcd");
        assert_eq!(cells.len(), 2);
        let quoin = &cells[0].rows[0];
        assert_eq!((quoin.server.as_str(), quoin.runs, quoin.spread), ("quoin", 3, 4.0));
        assert_eq!(quoin.figures["ops"], 200.0);
        assert_eq!(quoin.ratios["ops"], 4.0);
        assert!((quoin.ratios["cpu"] - 11.0 / 40.0).abs() < 1e-9);
        assert!(cells[1].rows[0].ratios.is_empty(), "without a baseline there is no ratio");
    }

    #[test]
    fn goals_are_numbers_or_shares_of_the_baseline() {
        let outcomes =
            vec![outcome("put", "quoin", 100.0, 10.0), outcome("put", "etcd", 50.0, 40.0)];
        let cells = cells(outcomes, "etcd");
        for (text, is_met) in [
            ("put quoin cpu <= 15", Some(true)),
            ("put quoin cpu <= 9.5", Some(false)),
            ("put quoin cpu <= 0.25x", Some(true)),
            ("put quoin ops >= 2.1x", Some(false)),
            ("put quoin growth <= 20", Some(true)),
            ("put quoin rss <= 19", Some(false)),
            ("get quoin cpu <= 15", None),
        ] {
            assert_eq!(judge(text, &cells).unwrap().is_met, is_met, "{text}");
        }
        for text in ["put quoin cpu 15", "put quoin cpu < 15", "put quoin cpu <= fast"] {
            assert!(judge(text, &cells).is_err(), "{text}");
        }
    }
}
