//! Options of `quoin bench`, as the command line reads them.
//!
//! Each default is a load that a laptop bears; nothing here depends on the server.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::tasks::Load;

/// Put load on any etcd v3 endpoint and measure what comes back.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(super) kind: Kind,
}

#[derive(Debug, Subcommand)]
pub(super) enum Kind {
    /// Write single keys. They stay in the store.
    Put(PutArgs),
    /// Read single keys, or ranges of many. Write them first: `put --sequential-keys`.
    Range(RangeArgs),
    /// Transactions of one comparison that holds and some puts and gets. Their keys stay.
    Txn(TxnArgs),
    /// Time from the start of a put to its event at each watcher. Its keys are removed.
    Watch(WatchArgs),
    /// Grant leases, or keep them alive. They are revoked at the end.
    Lease(LeaseArgs),
    /// Loads for the test scheduler. It and its workers (with `--allow-loopback`) must be there.
    Tasks(TasksArgs),
    /// The load `plain` of `tasks`: 5 cases that do not care about each other, 1000 times each.
    B1(TeamArgs),
    /// The load `chain` of `tasks`: 4 cases in a chain, 500 times each.
    B2(TeamArgs),
    /// The load `exclusive` of `tasks`: 4 cases, 250 times each, none of which runs beside itself.
    B3(TeamArgs),
    /// The load `noop` of `tasks`: one case that does nothing, 50,000 times.
    Noop(TeamArgs),
    /// A load on workers that are started here, one of which is killed every few seconds: no task may be lost or
    /// recorded twice. A scheduler must be there.
    Chaos(ChaosArgs),
    /// Submit a run of many tasks, as `quoin run submit` does, and cancel it. A scheduler must be there and
    /// no worker; the cases stay.
    Submit(SubmitArgs),
    /// What one core decides of tests, without a store.
    Planner(PlannerArgs),
    /// Send nothing; see what a server uses by itself.
    Idle(IdleArgs),
    /// Compare the results of several runs (`--json`) in a table.
    Report(ReportArgs),
}

impl Kind {
    /// Whether to print JSON, and the labels to print with it.
    pub(super) fn presentation(&self) -> (bool, BTreeMap<String, String>) {
        let output = match self {
            Kind::Put(args) => &args.load.output,
            Kind::Range(args) => &args.load.output,
            Kind::Txn(args) => &args.load.output,
            Kind::Watch(args) => &args.load.output,
            Kind::Lease(args) => &args.load.output,
            Kind::Idle(args) => &args.output,
            Kind::Tasks(TasksArgs { team: args, .. })
            | Kind::B1(args)
            | Kind::B2(args)
            | Kind::B3(args)
            | Kind::Noop(args) => return (args.json, BTreeMap::new()),
            Kind::Chaos(args) => return (args.json, BTreeMap::new()),
            Kind::Submit(args) => return (args.json, BTreeMap::new()),
            Kind::Planner(_) | Kind::Report(_) => return (false, BTreeMap::new()),
        };
        (output.json, output.label.iter().cloned().collect())
    }
}

/// What every load has.
#[derive(Debug, Args)]
pub(super) struct LoadArgs {
    /// Servers, as http://host:port; connections are spread over them in turn.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub(super) endpoints: Vec<String>,
    /// Connections.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(super) connections: u64,
    /// Requests in flight on each connection (watch: writers; lease keep-alive: streams).
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(super) streams: u64,
    /// Stop after so many requests (watch: puts).
    #[arg(long, conflicts_with = "duration", value_parser = at_least_one)]
    pub(super) total: Option<u64>,
    /// Stop after this time: 10s, 500ms, 2m. [default: 10s, unless --total is given]
    #[arg(long, value_parser = parse_duration)]
    pub(super) duration: Option<Duration>,
    /// Requests for each second, over all connections; latency then counts from the moment a
    /// request was due. Without it each stream sends as soon as it has its answer.
    #[arg(long, value_parser = at_least_one)]
    pub(super) rate: Option<u64>,
    /// Threads of the generator. [default: one for each processor it may use]
    #[arg(long, value_parser = at_least_one)]
    pub(super) threads: Option<u64>,
    /// The server's process on this machine: adds its processor time and memory.
    #[arg(long)]
    pub(super) server_pid: Option<u32>,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct OutputArgs {
    /// Print one line of JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
    /// name=value to carry into the JSON result; `report` reads `cell` and `server`.
    #[arg(long, value_parser = parse_label)]
    pub(super) label: Vec<(String, String)>,
}

/// Which keys are used, and in which order.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// Bytes of each key: the prefix, then a decimal number padded with zeros.
    #[arg(long, default_value_t = 8, value_parser = at_least_one)]
    pub(super) key_size: u64,
    /// Number of different keys.
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one)]
    pub(super) key_space: u64,
    /// Start of every key.
    #[arg(long, default_value = "")]
    pub(super) key_prefix: String,
    /// Take keys in order instead of at random (the same random order in every run).
    #[arg(long)]
    pub(super) sequential_keys: bool,
}

#[derive(Debug, Args)]
pub(super) struct PutArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    #[command(flatten)]
    pub(super) keys: KeyArgs,
    /// Bytes of each value; they are random, so that compression gains nothing.
    #[arg(long, default_value_t = 256)]
    pub(super) value_size: u64,
}

#[derive(Debug, Args)]
pub(super) struct RangeArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    #[command(flatten)]
    pub(super) keys: KeyArgs,
    /// Keys that one request spans.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(super) range_keys: u64,
    /// Ask for at most so many of them; 0 is all.
    #[arg(long, default_value_t = 0)]
    pub(super) limit: u64,
    /// Confirm each read with a quorum (the default).
    #[arg(long, conflicts_with = "serializable")]
    pub(super) linearizable: bool,
    /// Read what the asked member has.
    #[arg(long)]
    pub(super) serializable: bool,
    /// Ask for keys without values.
    #[arg(long)]
    pub(super) keys_only: bool,
    /// Ask for the number of keys alone.
    #[arg(long)]
    pub(super) count_only: bool,
    /// Use the RangeStream call (etcd 3.7 and later).
    #[arg(long)]
    pub(super) range_stream: bool,
}

#[derive(Debug, Args)]
pub(super) struct TxnArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    #[command(flatten)]
    pub(super) keys: KeyArgs,
    /// Bytes of each value.
    #[arg(long, default_value_t = 256)]
    pub(super) value_size: u64,
    /// Puts in one transaction, of neighbouring keys.
    #[arg(long, default_value_t = 1)]
    pub(super) puts: u64,
    /// Gets in one transaction.
    #[arg(long, default_value_t = 0)]
    pub(super) gets: u64,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Watchers; the watching streams are spread over --connections.
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    pub(super) watchers: u64,
    /// Streams that carry them.
    #[arg(long, default_value_t = 100, value_parser = at_least_one)]
    pub(super) watch_streams: u64,
    /// Different keys that are watched and written in turn; with 1, each put reaches every watcher.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub(super) watched_keys: u64,
    /// Bytes of each value; 8 at least, for the time of its put.
    #[arg(long, default_value_t = 256)]
    pub(super) value_size: u64,
}

#[derive(Debug, Args)]
pub(super) struct LeaseArgs {
    #[command(flatten)]
    pub(super) load: LoadArgs,
    /// Measure keep-alive on open streams instead of grants.
    #[arg(long)]
    pub(super) keepalive: bool,
    /// Leases to keep alive. [default: one for each stream]
    #[arg(long, requires = "keepalive", value_parser = at_least_one)]
    pub(super) leases: Option<u64>,
    /// Time to live of each lease, in seconds.
    #[arg(long, default_value_t = 300, value_parser = at_least_one)]
    pub(super) ttl: u64,
}

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    #[arg(value_enum)]
    pub(super) load: Load,
    /// The process of a worker on this machine, to be killed when the load `lost` has begun.
    #[arg(long, required_if_eq("load", "lost"))]
    pub(super) kill: Option<i32>,
    #[command(flatten)]
    pub(super) team: TeamArgs,
}

/// What a load for the test scheduler is measured with.
#[derive(Debug, Args)]
pub(super) struct TeamArgs {
    /// The store in which the scheduler works.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub(super) endpoints: Vec<String>,
    /// Slots that the workers have together.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) slots: u32,
    /// What a task usually takes.
    #[arg(long, default_value = "30ms", value_parser = parse_duration)]
    pub(super) case_time: Duration,
    /// Repeats of each case, if not those of the load.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeats: Option<u32>,
    /// Give up on a run after so long.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    pub(super) timeout: Duration,
    /// What must be reached, for example "over <= 5": took (seconds), over (percent above the bound), rate (tasks a
    /// second), start-p50, start-p99, hand-over-p50 (milliseconds), lost (seconds).
    #[arg(long = "goal", value_parser = parse_goal)]
    pub(super) goals: Vec<TaskGoal>,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ChaosArgs {
    /// The store in which the scheduler works.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub(super) endpoints: Vec<String>,
    /// Workers at one time.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) workers: u32,
    /// Slots that they have together, at least.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) slots: u32,
    /// Before a worker is killed, and another one started.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(super) kill_every: Duration,
    /// Seconds after which a worker that was killed is taken for dead.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..=60))]
    pub(super) ttl: u32,
    /// What a task takes.
    #[arg(long, default_value = "30ms", value_parser = parse_duration)]
    pub(super) case_time: Duration,
    /// Repeats of each of the four cases. [default: 500]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) repeats: Option<u32>,
    /// Give up after so long.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    pub(super) timeout: Duration,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

impl ChaosArgs {
    /// Slots of each worker.
    pub(super) fn capacity(&self) -> u32 {
        self.slots.div_ceil(self.workers)
    }
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    #[arg(value_enum)]
    pub(super) what: Many,
    /// The store in which the scheduler works.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    pub(super) endpoints: Vec<String>,
    /// Tasks of the run.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) tasks: u32,
    /// The process of the scheduler that leads, on this machine: adds its peak of memory.
    #[arg(long)]
    pub(super) scheduler_pid: Option<u32>,
    /// What must be reached, for example "took <= 10": took (seconds), memory (MiB of the larger process).
    #[arg(long = "goal", value_parser = parse_goal)]
    pub(super) goals: Vec<TaskGoal>,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct PlannerArgs {
    /// Tasks of each load, about.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) tasks: u32,
    /// What must be reached by each load, for example "rate >= 500000": rate (tasks a second).
    #[arg(long = "goal", value_parser = parse_goal)]
    pub(super) goals: Vec<TaskGoal>,
}

/// What many tasks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Many {
    /// Repeats of at most a thousand cases
    Repeats,
    /// Each a case of its own
    Distinct,
}

/// What a load of tasks must reach.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TaskGoal {
    pub(super) measure: String,
    is_most: bool,
    bound: f64,
}

impl TaskGoal {
    pub(super) fn is_met(&self, reached: f64) -> bool {
        if self.is_most { reached <= self.bound } else { reached >= self.bound }
    }
}

impl fmt::Display for TaskGoal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = if self.is_most { "<=" } else { ">=" };
        write!(f, "{} {relation} {}", self.measure, self.bound)
    }
}

#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    /// The process to look at.
    #[arg(long)]
    pub(super) server_pid: u32,
    /// For how long.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub(super) duration: Duration,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Files of results, one JSON object a line, as `--json` prints them.
    #[arg(required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Server (label `server`) that the others are compared with.
    #[arg(long, default_value = "etcd")]
    pub(super) baseline: String,
    /// A line "name=text" for the head of the report.
    #[arg(long, value_parser = parse_label)]
    pub(super) note: Vec<(String, String)>,
    /// What a measure must reach: "cell server measure <= 15", or "... <= 0.5x" for a share of the
    /// baseline's. Measures: ops, p50, p99, cpu, rss, peak, growth.
    #[arg(long)]
    pub(super) goal: Vec<String>,
    /// Also write everything as JSON to this file.
    #[arg(long)]
    pub(super) json: Option<PathBuf>,
}

fn parse_goal(text: &str) -> Result<TaskGoal, String> {
    const MEASURES: [&str; 8] =
        ["took", "over", "rate", "start-p50", "start-p99", "hand-over-p50", "lost", "memory"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let (&[measure, relation @ ("<=" | ">="), bound], true) =
        (&words[..], words.first().is_some_and(|word| MEASURES.contains(word)))
    else {
        return Err(format!("must look like \"over <= 5\", with one of {}", MEASURES.join(", ")));
    };
    let bound = bound.parse().map_err(|_| format!("{bound} is no number"))?;
    Ok(TaskGoal { measure: measure.to_owned(), is_most: relation == "<=", bound })
}

fn at_least_one(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| "must look like 10s, 500ms or 2m".to_owned())?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err("must end in ms, s, m or h".into()),
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("must be more than nothing and less than ages".into()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("must look like name=value".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_a_positive_number() {
        for (text, expected) in [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1.5s", 1_500)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "10", "s", "0s", "-1s", "1.2.3s", "1e300h", "5 s", "3d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn goals_name_a_measure_and_a_bound() {
        let goal = parse_goal("over <= 5").expect("a goal");
        assert_eq!((goal.is_met(5.0), goal.is_met(5.1)), (true, false));
        let goal = parse_goal("rate >= 10000").expect("a goal");
        assert_eq!((goal.is_met(9_999.0), goal.is_met(10_000.0)), (false, true));
        assert_eq!(goal.to_string(), "rate >= 10000");
        for text in ["", "over", "over 5", "over < 5", "over <= x", "speed >= 1", "over <= 5 s"] {
            assert!(parse_goal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_keep_what_follows_the_first_equals_sign() {
        assert_eq!(parse_label("cell=a=b"), Ok(("cell".into(), "a=b".into())));
        assert!(parse_label("cell").is_err());
        assert!(parse_label("=b").is_err());
    }
}
