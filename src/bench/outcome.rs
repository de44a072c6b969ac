//! What a run measured, as a page of text or a line of JSON.
//!
//! The JSON form is read back by `quoin bench report`; its field names are stable.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::BenchError;
use super::args::LoadArgs;
use super::load::{Measured, Tally};
use super::process::ServerUse;

/// A name and what was chosen for it.
pub(super) type Setting = (&'static str, String);

const MEBIBYTE: f64 = (1 << 20) as f64;

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Latency {
    fn new(histogram: &Histogram<u64>) -> Self {
        let at = |percentile| histogram.value_at_percentile(percentile) as f64 / 1e3;
        Self {
            mean: histogram.mean() / 1e3,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: histogram.max() as f64 / 1e3,
        }
    }
}

/// One run's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// The sub-command.
    pub(super) kind: String,
    /// What one operation is called: the unit of throughput, latency and processor time.
    pub(super) unit: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) endpoints: Vec<String>,
    pub(super) server_version: String,
    pub(super) settings: Vec<(String, String)>,
    /// Operations that ended well.
    pub(super) operations: u64,
    pub(super) seconds: f64,
    /// Operations for each second.
    pub(super) throughput: f64,
    /// Bytes of answers for each second.
    pub(super) bytes_per_second: f64,
    pub(super) latency_us: Latency,
    /// How often each error came, by code and text.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) extra: BTreeMap<String, u64>,
    pub(super) server: Option<ServerUse>,
    /// Processor time of the server for each operation, in microseconds.
    pub(super) server_cpu_us: Option<f64>,
    /// The same of the generator: near `1e6 / throughput`, it is the generator that was measured.
    pub(super) generator_cpu_us: f64,
}

impl Outcome {
    pub(super) fn new(
        kind: &str,
        load: &LoadArgs,
        settings: Vec<Setting>,
        measured: Measured,
    ) -> Self {
        let Measured { tally, elapsed, server, generator_cpu, server_version } = measured;
        let Tally { latency, bytes, errors, extra, .. } = tally;
        let operations = latency.len();
        let seconds = elapsed.as_secs_f64();
        let per_second = |number: f64| if seconds > 0.0 { number / seconds } else { 0.0 };
        let per_operation = |cpu: f64| cpu * 1e6 / operations.max(1) as f64;
        let common = [
            ("connections", load.connections.to_string()),
            ("streams", load.streams.to_string()),
            ("rate", load.rate.map_or("unlimited".into(), |rate| rate.to_string())),
        ];
        let settings = common.into_iter().chain(settings);
        Self {
            kind: kind.into(),
            unit: kind.into(),
            labels: BTreeMap::new(),
            endpoints: load.endpoints.clone(),
            server_version,
            settings: settings.map(|(name, value)| (name.to_owned(), value)).collect(),
            operations,
            seconds,
            throughput: per_second(operations as f64),
            bytes_per_second: per_second(bytes as f64),
            latency_us: Latency::new(&latency),
            errors,
            extra,
            server_cpu_us: server.as_ref().map(|server| per_operation(server.cpu_seconds)),
            server,
            generator_cpu_us: per_operation(generator_cpu),
        }
    }

    /// The result of looking at a server that does nothing.
    pub(super) fn idle(elapsed: Duration, server: ServerUse) -> Self {
        Self {
            kind: "idle".into(),
            unit: "second".into(),
            labels: BTreeMap::new(),
            endpoints: vec![],
            server_version: String::new(),
            settings: vec![],
            operations: 0,
            seconds: elapsed.as_secs_f64(),
            throughput: 0.0,
            bytes_per_second: 0.0,
            latency_us: Latency::default(),
            errors: BTreeMap::new(),
            extra: BTreeMap::new(),
            server_cpu_us: Some(server.cpu_seconds * 1e6 / elapsed.as_secs_f64()),
            server: Some(server),
            generator_cpu_us: 0.0,
        }
    }

    /// One line.
    pub(super) fn to_json(&self) -> Result<String, BenchError> {
        let line = serde_json::to_string(self)
            .map_err(|source| BenchError::Format { what: "write the result".into(), source })?;
        Ok(line + "\n")
    }

    fn write_load(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = &self.latency_us;
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        for (at, line) in settings.chunks(5).enumerate() {
            let name = if at == 0 { "settings" } else { "" };
            writeln!(f, "{}{}", row(name), line.join(", "))?;
        }
        let (operations, seconds) = (self.operations, self.seconds);
        writeln!(f, "{}{operations} in {seconds:.2} s", row("done"))?;
        write!(f, "{}{:.0} /s", row("throughput"), self.throughput)?;
        writeln!(f, ", {:.1} MiB/s of answers", self.bytes_per_second / MEBIBYTE)?;
        write!(f, "{}mean {}", row("latency"), time(latency.mean))?;
        for (name, value) in [
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ] {
            write!(f, "   {name} {}", time(value))?;
        }
        writeln!(f)?;
        for (name, number) in &self.extra {
            writeln!(f, "{}{number}", row(name))?;
        }
        if self.errors.is_empty() {
            writeln!(f, "{}none", row("errors"))?;
        }
        for (at, (text, count)) in self.errors.iter().enumerate() {
            writeln!(f, "{}{count} x {text}", row(if at == 0 { "errors" } else { "" }))?;
        }
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, unit, server_version, .. } = self;
        if kind == "idle" {
            writeln!(f, "idle for {:.1} s", self.seconds)?;
        } else {
            writeln!(f, "{kind} against {} ({server_version})", self.endpoints.join(", "))?;
            self.write_load(f)?;
        }
        if let (Some(server), Some(cpu)) = (&self.server, self.server_cpu_us) {
            let share = server.cpu_seconds / self.seconds.max(1e-9);
            writeln!(
                f,
                "{}cpu {cpu:.1} us for each {unit} ({share:.2} processors)",
                row("server")
            )?;
            let mut memory = format!("memory {}", size(server.rss_before));
            write!(memory, " -> {}, peak {}", size(server.rss_after), size(server.rss_peak))?;
            write!(memory, " (+{})", size(server.growth()))?;
            let sampled = if server.peak_is_sampled { ", sampled" } else { "" };
            writeln!(f, "{}{memory}{sampled}", row(""))?;
        }
        if kind != "idle" {
            let own = self.generator_cpu_us;
            let share = own * self.throughput / 1e6;
            writeln!(
                f,
                "{}cpu {own:.1} us for each {unit} ({share:.2} processors)",
                row("generator")
            )?;
        }
        Ok(())
    }
}

/// The left column.
fn row(name: &str) -> String {
    format!("  {name:<12}")
}

/// A time of so many microseconds, short.
pub(super) fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e5 => format!("{:.2} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MEBIBYTE)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn times_are_short_and_in_the_right_unit() {
        for (us, text) in [
            (0.4, "0 us"),
            (999.0, "999 us"),
            (1500.0, "1.50 ms"),
            (2.5e5, "250 ms"),
            (2e6, "2.00 s"),
        ] {
            assert_eq!(time(us), text);
        }
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut tally = Tally::default();
        let due = Instant::now();
        for milliseconds in 1..=1000u64 {
            tally.latency.record(milliseconds * 1_000_000).unwrap();
        }
        assert!(due.elapsed() < Duration::from_secs(60));
        let latency = Latency::new(&tally.latency);
        for (value, expected) in [(latency.p50, 500e3), (latency.p99, 990e3), (latency.max, 1000e3)]
        {
            assert!((value - expected).abs() <= expected * 0.002, "{value} for {expected}");
        }
    }

    #[test]
    fn an_outcome_reads_back_as_it_was_written() {
        let server = ServerUse {
            cpu_seconds: 0.5,
            rss_before: 1,
            rss_after: 2,
            rss_peak: 3,
            peak_is_sampled: false,
        };
        let mut outcome = Outcome::idle(Duration::from_secs(2), server);
        outcome.errors.insert("Unavailable: etcdserver: no leader".into(), 3);
        outcome.labels.insert("cell".into(), "idle".into());
        let line = outcome.to_json().unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&line).unwrap(), outcome);
        assert_eq!(outcome.server_cpu_us, Some(250_000.0));
    }
}
