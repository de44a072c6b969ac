//! Numbers of the process, read from /proc, and the names that only a Go program has.
//!
//! Where the system does not say, a number is 0. Of Go's runtime those that mean something here -
//! threads, tasks, memory - have true values; all others are 0, since there is no garbage collector.

use super::Metrics;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Ticks in a second of the times in /proc: Linux' constant for programs.
const TICKS: f64 = 100.0;

/// Memory in RAM and memory addressed, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub resident: u64,
    pub addressed: u64,
}

/// A line `name: number kB` of a file.
fn kib_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub fn memory() -> Memory {
    let status = read("/proc/self/status");
    let bytes = |name| kib_of(&status, name) * 1024;
    Memory { resident: bytes("VmRSS:"), addressed: bytes("VmSize:") }
}

fn threads() -> u64 {
    kib_of(&read("/proc/self/status"), "Threads:")
}

/// The soft limit in a line of /proc/self/limits; `u64::MAX` for none.
fn limit(name: &str) -> u64 {
    let limits = read("/proc/self/limits");
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => u64::MAX,
        soft => soft.and_then(|number| number.parse().ok()).unwrap_or(0),
    }
}

/// What the process may have open at a time.
pub fn open_files_max() -> u64 {
    limit("Max open files")
}

fn open_files() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64)
}

/// A field of /proc/self/stat, by its number in the manual, from 3 on.
fn stat(field: usize) -> u64 {
    let stat = read("/proc/self/stat");
    // The second field is a name that may hold anything.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    rest.split(' ').nth(field - 3).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn cpu_seconds() -> f64 {
    (stat(14) + stat(15)) as f64 / TICKS
}

/// When the process started, in seconds since 1970.
fn started() -> f64 {
    let boot: f64 = read("/proc/stat")
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|time| time.trim().parse().ok())
        .unwrap_or(0.0);
    match boot > 0.0 {
        true => boot + stat(22) as f64 / TICKS,
        false => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64()),
    }
}

/// Bytes that came in and went out through all interfaces that the process sees.
fn network_bytes() -> (u64, u64) {
    let table = read("/proc/self/net/netstat");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return (0, 0) };
    let value = |wanted| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        let pair = pairs.find(|(name, _)| *name == wanted);
        pair.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    (value("InOctets"), value("OutOctets"))
}

pub(super) fn register(metrics: &Metrics) {
    metrics.counters(
        "process_cpu_seconds_total",
        "Time of processors that this process has used.",
        &[],
        || vec![(vec![], cpu_seconds())],
    );
    metrics.gauge("process_resident_memory_bytes", "Memory in RAM.", || memory().resident as f64);
    metrics
        .gauge("process_virtual_memory_bytes", "Memory addressed.", || memory().addressed as f64);
    metrics.gauge("process_virtual_memory_max_bytes", "Memory that may be addressed.", || {
        limit("Max address space") as f64
    });
    metrics.gauge("process_open_fds", "Files and sockets open.", || open_files() as f64);
    metrics.gauge("process_max_fds", "Files and sockets that may be open.", || {
        open_files_max() as f64
    });
    metrics.gauge("os_fd_used", "Files and sockets open.", || open_files() as f64);
    metrics.gauge("os_fd_limit", "Files and sockets that may be open.", || open_files_max() as f64);
    metrics.gauge("process_start_time_seconds", "When the process started.", started);
    metrics.counter(
        "process_network_receive_bytes_total",
        "Bytes received by the process' network namespace.",
        || network_bytes().0,
    );
    metrics.counter(
        "process_network_transmit_bytes_total",
        "Bytes sent by the process' network namespace.",
        || network_bytes().1,
    );
    register_names_of_go(metrics);
}

/// Names that carry memory in use, with what they mean here: all of it is in RAM and in use.
const IN_USE: [&str; 3] =
    ["go_memstats_alloc_bytes", "go_memstats_heap_alloc_bytes", "go_memstats_heap_inuse_bytes"];
const ADDRESSED: [&str; 2] = ["go_memstats_heap_sys_bytes", "go_memstats_sys_bytes"];
/// Names for which there is nothing here.
const NOTHING: [&str; 16] = [
    "go_gc_gogc_percent",
    "go_gc_gomemlimit_bytes",
    "go_memstats_buck_hash_sys_bytes",
    "go_memstats_gc_sys_bytes",
    "go_memstats_heap_idle_bytes",
    "go_memstats_heap_objects",
    "go_memstats_heap_released_bytes",
    "go_memstats_last_gc_time_seconds",
    "go_memstats_mcache_inuse_bytes",
    "go_memstats_mcache_sys_bytes",
    "go_memstats_mspan_inuse_bytes",
    "go_memstats_mspan_sys_bytes",
    "go_memstats_next_gc_bytes",
    "go_memstats_other_sys_bytes",
    "go_memstats_stack_inuse_bytes",
    "go_memstats_stack_sys_bytes",
];
const NOTHING_COUNTED: [&str; 3] =
    ["go_memstats_alloc_bytes_total", "go_memstats_frees_total", "go_memstats_mallocs_total"];

fn register_names_of_go(metrics: &Metrics) {
    for name in IN_USE {
        metrics.gauge(name, "Memory in RAM.", || memory().resident as f64);
    }
    for name in ADDRESSED {
        metrics.gauge(name, "Memory addressed.", || memory().addressed as f64);
    }
    for name in NOTHING {
        metrics.gauge(name, "Always 0: there is no Go runtime here.", || 0.0);
    }
    for name in NOTHING_COUNTED {
        metrics.counter(name, "Always 0: there is no Go runtime here.", || 0);
    }
    metrics.empty_summary("go_gc_duration_seconds", "Empty: there is no garbage collector here.");
    metrics.gauges("go_info", "What the server is built with.", &["version"], || {
        vec![(vec![RUNTIME.to_owned()], 1.0)]
    });
    metrics.gauge("go_threads", "Threads of the process.", || threads() as f64);
    let runtime = tokio::runtime::Handle::try_current().ok();
    let workers = runtime.clone();
    metrics.gauge("go_goroutines", "Tasks that have not ended.", move || {
        runtime.as_ref().map_or(0, |runtime| runtime.metrics().num_alive_tasks()) as f64
    });
    metrics.gauge("go_sched_gomaxprocs_threads", "Threads that run tasks.", move || {
        workers.as_ref().map_or(0, |runtime| runtime.metrics().num_workers()) as f64
    });
}

/// What stands where etcd names its Go release.
pub const RUNTIME: &str = "rust";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_tells_limits_memory_and_times() {
        assert!(open_files_max() >= 20);
        assert!((1..=open_files_max()).contains(&open_files()));
        let Memory { resident, addressed } = memory();
        assert!((1 << 20..1 << 40).contains(&resident));
        assert!(addressed >= resident);
        assert!(threads() >= 1);
        assert!(cpu_seconds() < 100_000.0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((1e9..now + 2.0).contains(&started()), "{}", started());
    }
}
