//! Processor time and memory of a process, from Linux's process table.
//!
//! Processor time is what the kernel charged the whole process, in steps of 10 ms: a run of some
//! seconds is needed for it to mean anything. Peak memory is the kernel's own mark, reset at the
//! start of a run; where it may not be reset, the largest sample stands in and the result says so.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::BenchError;
use super::args::IdleArgs;
use super::outcome::Outcome;

/// Clock ticks in a second, as the kernel shows them to every program on Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// What to write to `clear_refs` to reset the peak of resident memory.
const RESET_PEAK: &str = "5";

/// What a server used during a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ServerUse {
    /// User and system time, in seconds.
    pub(super) cpu_seconds: f64,
    /// Resident memory before the run, in bytes, as the others.
    pub(super) rss_before: u64,
    pub(super) rss_after: u64,
    pub(super) rss_peak: u64,
    /// The peak is the largest sample, because the kernel's mark could not be reset.
    pub(super) peak_is_sampled: bool,
}

impl ServerUse {
    /// How far memory went up at most during the run, in bytes.
    pub(super) fn growth(&self) -> u64 {
        self.rss_peak.saturating_sub(self.rss_before)
    }
}

/// Watches one process during a run.
#[derive(Debug)]
pub(super) struct Probe {
    pid: u32,
    cpu_before: f64,
    rss_before: u64,
    rss_sampled: u64,
    has_reset_peak: bool,
}

impl Probe {
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    pub(super) fn start(pid: u32) -> Result<Self, BenchError> {
        let has_reset_peak = fs::write(format!("/proc/{pid}/clear_refs"), RESET_PEAK).is_ok();
        let rss_before = status_bytes(pid, "VmRSS:")?;
        let cpu_before = cpu_seconds(&pid.to_string())?;
        Ok(Self { pid, cpu_before, rss_before, rss_sampled: rss_before, has_reset_peak })
    }

    /// Counts processor time from now on; memory counts from the start.
    pub(super) fn begin(&mut self) -> Result<(), BenchError> {
        self.cpu_before = cpu_seconds(&self.pid.to_string())?;
        Ok(())
    }

    pub(super) fn sample(&mut self) -> Result<(), BenchError> {
        self.rss_sampled = self.rss_sampled.max(status_bytes(self.pid, "VmRSS:")?);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<ServerUse, BenchError> {
        let cpu_seconds = cpu_seconds(&self.pid.to_string())? - self.cpu_before;
        self.sample()?;
        let peak = if self.has_reset_peak { status_bytes(self.pid, "VmHWM:")? } else { 0 };
        Ok(ServerUse {
            cpu_seconds,
            rss_before: self.rss_before,
            rss_after: status_bytes(self.pid, "VmRSS:")?,
            rss_peak: peak.max(self.rss_sampled),
            peak_is_sampled: !self.has_reset_peak,
        })
    }
}

/// Processor time of this process so far.
pub(super) fn own_cpu_seconds() -> Result<f64, BenchError> {
    cpu_seconds("self")
}

/// The most memory that a process ever had, in bytes; nothing of one that has ended.
pub(super) fn peak(pid: u32) -> Option<u64> {
    status_bytes(pid, "VmHWM:").ok()
}

/// Watches a server that nobody talks to.
pub(super) async fn idle(args: &IdleArgs) -> Result<Outcome, BenchError> {
    const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
    let mut probe = Probe::start(args.server_pid)?;
    let start = Instant::now();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    while start.elapsed() < args.duration {
        ticks.tick().await;
        probe.sample()?;
    }
    let elapsed = start.elapsed();
    Ok(Outcome::idle(elapsed, probe.finish()?))
}

fn read(pid: &str, file: &str) -> Result<String, BenchError> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(BenchError::io(format!("read {path}")))
}

fn cpu_seconds(pid: &str) -> Result<f64, BenchError> {
    let text = read(pid, "stat")?;
    let ticks = stat_ticks(&text)
        .ok_or_else(|| BenchError::Usage(format!("/proc/{pid}/stat has an unknown form")))?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// User and system time of a `stat` line. The name, second of its fields, may contain anything.
fn stat_ticks(text: &str) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn status_bytes(pid: u32, field: &str) -> Result<u64, BenchError> {
    let text = read(&pid.to_string(), "status")?;
    field_bytes(&text, field).ok_or_else(|| {
        BenchError::Usage(format!("process {pid} has no memory ({field}): is it still running?"))
    })
}

fn field_bytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_table_is_read_whatever_the_program_is_called() {
        let line = "7 (a ) (b) 5) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 3 0 100 0 0";
        assert_eq!(stat_ticks(line), Some(300));
        assert_eq!(stat_ticks("7 (cut) S 1 2"), None);
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(field_bytes(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(field_bytes(status, "VmSwap:"), None);
    }

    #[test]
    fn a_probe_sees_what_this_process_uses() {
        let probe = Probe::start(std::process::id()).unwrap();
        let start = Instant::now();
        let block = vec![1u8; 64 << 20];
        while start.elapsed() < Duration::from_millis(100) {
            std::hint::black_box(&block);
        }
        let used = probe.finish().unwrap();
        assert!(used.cpu_seconds >= 0.03, "{used:?}");
        assert!(used.growth() >= 32 << 20, "{used:?}");
        assert!(Probe::start(u32::MAX).is_err());
    }
}
