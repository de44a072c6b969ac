//! Runs a load: threads, the common course of a run, and what it counts.
//!
//! Each thread is a lane: a single-threaded runtime with connections of its own. Lanes share two
//! counters and nothing else, so more lanes cost no more for each request. Everything is open
//! before the clock starts, and nothing is closed before it has stopped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use super::process::{self, Probe, ServerUse};
use super::wire::{CallError, Connection, Endpoint, Reply};
use super::{BenchError, LoadArgs};

/// How long a run takes if nothing is said about it.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Longest latency that is told apart from longer ones, in nanoseconds: ten minutes.
const LATENCY_MAX: u64 = 600_000_000_000;
/// How often the server's memory is sampled and the progress bar drawn.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// A load that lanes can carry. Methods run on a lane's own thread.
pub(super) trait Load: Send + Sync + 'static {
    /// What a lane holds open during the run.
    type State;

    async fn open(self: &Arc<Self>, lane: &Lane) -> Result<Self::State, BenchError>;

    /// Puts the load on until the course is over; returns when all answers are here.
    async fn run(self: &Arc<Self>, state: &mut Self::State, course: &Arc<Course>) -> Tally;

    /// Removes what the load left behind; not measured.
    async fn close(self: &Arc<Self>, state: Self::State) -> Result<(), BenchError>;
}

/// One thread's share.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    /// Numbers of its connections, among all of them.
    pub(super) connections: Range<u64>,
    endpoints: Arc<[Endpoint]>,
}

impl Lane {
    /// Whether this lane does what is to be done once.
    pub(super) fn is_first(&self) -> bool {
        self.connections.start == 0
    }

    /// Opens connection number `number`.
    pub(super) async fn connect(&self, number: u64) -> Result<Connection, BenchError> {
        let endpoint = &self.endpoints[number as usize % self.endpoints.len()];
        Connection::open(endpoint).await.map_err(BenchError::call(format!("connect to {endpoint}")))
    }
}

/// What all lanes share: the numbers of requests, and when it is over.
#[derive(Debug)]
pub(super) struct Course {
    next: AtomicU64,
    total: u64,
    duration: Option<Duration>,
    /// Between two requests, if there is a rate.
    interval: Option<Duration>,
    start: OnceLock<Instant>,
    done: AtomicU64,
}

/// The right to send one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    /// Counts requests from 0, over all lanes.
    pub(super) number: u64,
    /// When the request was to be sent: its latency counts from here.
    pub(super) due: Instant,
}

impl Course {
    fn new(options: &LoadArgs) -> Self {
        let duration = match (options.total, options.duration) {
            (_, Some(duration)) => Some(duration),
            (Some(_), None) => None,
            (None, None) => Some(DURATION_DEFAULT),
        };
        Self {
            next: AtomicU64::new(0),
            total: options.total.unwrap_or(u64::MAX),
            duration,
            interval: options.rate.map(|rate| Duration::from_secs_f64(1.0 / rate as f64)),
            start: OnceLock::new(),
            done: AtomicU64::new(0),
        }
    }

    /// When the clock started.
    pub(super) fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    /// The next request to send, when it is due; nothing when the run is over.
    pub(super) async fn claim(&self) -> Option<Ticket> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.total {
            return None;
        }
        let now = Instant::now();
        let due = match self.interval {
            Some(interval) => self.start() + interval.mul_f64(number as f64),
            None => now,
        };
        if self.duration.is_some_and(|duration| due.duration_since(self.start()) >= duration) {
            return None;
        }
        if due > now {
            tokio::time::sleep_until(due.into()).await;
        }
        Some(Ticket { number, due })
    }

    /// Counts a finished request for the progress bar.
    pub(super) fn advance(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    fn progress_bar(&self) -> ProgressBar {
        if !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (length, template) = match self.duration {
            Some(duration) => {
                (duration.as_millis() as u64, "{elapsed:>4} [{wide_bar}] {percent}% {msg}")
            }
            None => (self.total, "{elapsed:>4} [{wide_bar}] {pos}/{len} {msg}"),
        };
        let style = ProgressStyle::with_template(template);
        ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    fn draw(&self, bar: &ProgressBar) {
        let elapsed = self.start().elapsed();
        let done = self.done.load(Ordering::Relaxed);
        let position = if self.duration.is_some() { elapsed.as_millis() as u64 } else { done };
        bar.set_position(position);
        bar.set_message(format!("{:.0}/s", done as f64 / elapsed.as_secs_f64().max(1e-3)));
    }
}

/// What one lane, or all of them, counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// Nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Bytes of answers.
    pub(super) bytes: u64,
    /// How often each error came.
    pub(super) errors: BTreeMap<String, u64>,
    /// When the last answer came.
    pub(super) finished: Option<Instant>,
    /// What only one kind of load counts, by name.
    pub(super) extra: BTreeMap<String, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 3);
        Self {
            latency: latency.expect("the bounds are constants that a histogram takes"),
            bytes: 0,
            errors: BTreeMap::new(),
            finished: None,
            extra: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts an answer that came now.
    pub(super) fn record(&mut self, due: Instant, bytes: u64) {
        let now = Instant::now();
        self.latency.saturating_record(now.saturating_duration_since(due).as_nanos() as u64);
        self.bytes += bytes;
        self.finished = Some(now);
    }

    pub(super) fn error(&mut self, text: String) {
        *self.errors.entry(text).or_default() += 1;
        self.finished = Some(Instant::now());
    }

    pub(super) fn add(&mut self, name: &str, number: u64) {
        match self.extra.get_mut(name) {
            Some(sum) => *sum += number,
            None => drop(self.extra.insert(name.to_owned(), number)),
        }
    }

    pub(super) fn merge(&mut self, other: &Tally) {
        // Refused only for values out of bounds, and the bounds are the same.
        let _ = self.latency.add(&other.latency);
        self.bytes += other.bytes;
        self.finished = self.finished.max(other.finished);
        for (text, count) in &other.errors {
            *self.errors.entry(text.clone()).or_default() += count;
        }
        for (name, number) in &other.extra {
            self.add(name, *number);
        }
    }
}

/// A finished run.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) tally: Tally,
    /// From the start to the last answer.
    pub(super) elapsed: Duration,
    pub(super) server: Option<ServerUse>,
    /// Processor time of this process, in seconds.
    pub(super) generator_cpu: f64,
    /// What the server says it is.
    pub(super) server_version: String,
}

/// Where a run stands; lanes follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Open,
    Run,
    Close,
}

/// What a lane reports.
enum Signal {
    Opened,
    Finished(Box<Tally>),
    Closed,
    Failed(BenchError),
}

/// Runs `load` as `options` say.
pub(super) async fn drive<L: Load>(options: &LoadArgs, load: L) -> Result<Measured, BenchError> {
    let endpoints = parse_endpoints(&options.endpoints)?;
    let server_version = server_version(&endpoints[0]).await?;
    // Before anything is open, so that what connections and preparation take counts as growth.
    let mut probe = options.server_pid.map(Probe::start).transpose()?;
    let course = Arc::new(Course::new(options));
    let (stage, stages) = watch::channel(Stage::Open);
    let (signal, mut signals) = mpsc::unbounded_channel();
    let load = Arc::new(load);
    let lanes = lanes(options, endpoints);
    for lane in &lanes {
        let (load, lane, course) = (load.clone(), lane.clone(), course.clone());
        let (stages, signal) = (stages.clone(), signal.clone());
        thread::Builder::new()
            .name("bench-lane".into())
            .spawn(move || lane_thread(&load, &lane, &course, stages, &signal))
            .map_err(BenchError::io("start a thread"))?;
    }
    drop(signal);
    for _ in &lanes {
        next_signal(&mut signals).await?;
    }

    if let Some(probe) = &mut probe {
        probe.begin()?;
    }
    let generator_before = process::own_cpu_seconds()?;
    let start = course.start();
    let bar = course.progress_bar();
    stage.send_replace(Stage::Run);
    let mut tally = Tally::default();
    let mut running = lanes.len();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    while running > 0 {
        tokio::select! {
            signal = next_signal(&mut signals) => if let Signal::Finished(part) = signal? {
                tally.merge(&part);
                running -= 1;
            },
            _ = ticks.tick() => {
                course.draw(&bar);
                if let Some(probe) = &mut probe { probe.sample()?; }
            }
        }
    }
    let server = probe.map(Probe::finish).transpose()?;
    let generator_cpu = process::own_cpu_seconds()? - generator_before;
    bar.finish_and_clear();

    stage.send_replace(Stage::Close);
    for _ in &lanes {
        next_signal(&mut signals).await?;
    }
    let elapsed = tally.finished.map_or(Duration::ZERO, |end| end.duration_since(start));
    Ok(Measured { tally, elapsed, server, generator_cpu, server_version })
}

fn parse_endpoints(texts: &[String]) -> Result<Arc<[Endpoint]>, BenchError> {
    let endpoints: Result<Arc<[_]>, _> = texts.iter().map(|text| Endpoint::parse(text)).collect();
    endpoints.map_err(BenchError::Usage)
}

/// Spreads the connections over as many lanes as there are processors for.
fn lanes(options: &LoadArgs, endpoints: Arc<[Endpoint]>) -> Vec<Lane> {
    let processors = thread::available_parallelism().map_or(1, |number| number.get() as u64);
    let threads = options.threads.unwrap_or(processors).min(options.connections);
    let share = |lane: u64| lane * options.connections / threads;
    (0..threads)
        .map(|lane| Lane {
            connections: share(lane)..share(lane + 1),
            endpoints: endpoints.clone(),
        })
        .collect()
}

/// Asks the server what it is; this is also the check that it can be reached at all.
async fn server_version(endpoint: &Endpoint) -> Result<String, BenchError> {
    use crate::pb::etcdserverpb::{StatusRequest, StatusResponse};
    let connection = Connection::open(endpoint)
        .await
        .map_err(BenchError::call(format!("connect to {endpoint}")))?;
    let request = StatusRequest::default();
    match connection.call("/etcdserverpb.Maintenance/Status", &request).await {
        Ok(StatusResponse { version, .. }) => Ok(version),
        Err(CallError::Status { .. }) => Ok("unknown".into()),
        Err(error) => Err(BenchError::call(format!("ask {endpoint} for its status"))(error)),
    }
}

async fn next_signal(signals: &mut mpsc::UnboundedReceiver<Signal>) -> Result<Signal, BenchError> {
    match signals.recv().await {
        Some(Signal::Failed(error)) => Err(error),
        Some(signal) => Ok(signal),
        None => Err(BenchError::Usage("a thread of the generator ended early".into())),
    }
}

fn lane_thread<L: Load>(
    load: &Arc<L>,
    lane: &Lane,
    course: &Arc<Course>,
    mut stages: watch::Receiver<Stage>,
    signal: &mpsc::UnboundedSender<Signal>,
) {
    let work = async {
        let mut state = load.open(lane).await?;
        // A receiver that is gone means that the run was given up; so does a closed stage.
        let _ = signal.send(Signal::Opened);
        if stages.wait_for(|stage| *stage >= Stage::Run).await.is_err() {
            return Ok(());
        }
        let tally = load.run(&mut state, course).await;
        let _ = signal.send(Signal::Finished(Box::new(tally)));
        if stages.wait_for(|stage| *stage >= Stage::Close).await.is_err() {
            return Ok(());
        }
        load.close(state).await?;
        let _ = signal.send(Signal::Closed);
        Ok(())
    };
    let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => LocalSet::new().block_on(&runtime, work),
        Err(error) => Err(BenchError::io("start a runtime")(error)),
    };
    if let Err(error) = result {
        let _ = signal.send(Signal::Failed(error));
    }
}

/// A request with one answer, sent again and again.
pub(super) trait Job: Send + Sync + 'static {
    const PATH: &'static str;
    /// Bytes of each answer that [`Job::check`] needs; a longer answer is counted, not kept.
    const KEEP: usize;

    /// Request number `number`, framed.
    fn request(&self, number: u64) -> Bytes;

    /// Looks at an answer; the error text is counted.
    fn check(&self, reply: &Reply, tally: &mut Tally) -> Result<(), String>;

    /// Runs once, before the clock starts.
    async fn prepare(&self, connection: &Connection) -> Result<(), BenchError>;

    /// Runs once, after the clock has stopped.
    async fn clean_up(&self, connection: &Connection) -> Result<(), BenchError>;
}

/// The load of a [`Job`]: so many requests in flight on each connection.
pub(super) struct Unary<J> {
    pub(super) job: J,
    /// In flight on each connection.
    pub(super) streams: u64,
}

/// A lane's connections; the first lane prepares and cleans up.
pub(super) struct UnaryState {
    connections: Vec<Connection>,
    is_first: bool,
}

impl<J: Job> Load for Unary<J> {
    type State = UnaryState;

    async fn open(self: &Arc<Self>, lane: &Lane) -> Result<UnaryState, BenchError> {
        let mut connections = Vec::new();
        for number in lane.connections.clone() {
            connections.push(lane.connect(number).await?);
        }
        if lane.is_first() {
            self.job.prepare(&connections[0]).await?;
        }
        Ok(UnaryState { connections, is_first: lane.is_first() })
    }

    async fn run(self: &Arc<Self>, state: &mut UnaryState, course: &Arc<Course>) -> Tally {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut workers = JoinSet::new();
        for connection in &state.connections {
            for _ in 0..self.streams {
                let worker =
                    worker(self.clone(), connection.clone(), course.clone(), tally.clone());
                workers.spawn_local(worker);
            }
        }
        while workers.join_next().await.is_some() {}
        tally.take()
    }

    async fn close(self: &Arc<Self>, state: UnaryState) -> Result<(), BenchError> {
        if state.is_first { self.job.clean_up(&state.connections[0]).await } else { Ok(()) }
    }
}

async fn worker<J: Job>(
    load: Arc<Unary<J>>,
    connection: Connection,
    course: Arc<Course>,
    tally: Rc<RefCell<Tally>>,
) {
    let mut caller = match connection.caller(J::PATH) {
        Ok(caller) => caller,
        Err(error) => return tally.borrow_mut().error(error.to_string()),
    };
    while let Some(ticket) = course.claim().await {
        let result = caller.call(load.job.request(ticket.number), J::KEEP).await;
        let mut tally = tally.borrow_mut();
        match result {
            Ok(reply) => {
                tally.record(ticket.due, reply.bytes);
                if let Err(text) = load.job.check(&reply, &mut tally) {
                    tally.error(text);
                }
            }
            Err(error) => {
                tally.error(error.to_string());
                if error.is_transport() {
                    return;
                }
            }
        }
        course.advance();
    }
}
