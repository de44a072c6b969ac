//! Simulates clusters of the shipped replica, one seed after another, each on one thread and the
//! same at every run. `--help` tells the options; a failed seed prints how to run it again.

#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, reason = "a test program")]

#[path = "../checker/mod.rs"]
mod checker;

mod auth;
mod calls;
mod changes;
mod clients;
mod engine;
mod faults;
mod hub;
mod member;
mod network;
mod options;
mod oracle;
mod profile;
#[cfg(feature = "planted-bugs")]
mod qualify;
mod random;
mod rights;
mod scheduler;
mod watchers;
mod work;
mod world;

use options::Options;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use world::{Summary, Violation, World};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One seed in so many runs twice, to see that it is the same.
const TWICE_EVERY: u64 = 100;

fn main() -> ExitCode {
    #[cfg_attr(not(feature = "planted-bugs"), expect(unused_mut, reason = "set by planted bugs"))]
    let mut options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            return ExitCode::FAILURE;
        }
    };
    if options.bug.is_some() || options.qualify {
        #[cfg(not(feature = "planted-bugs"))]
        {
            println!("planted bugs want a build with --features planted-bugs");
            return ExitCode::FAILURE;
        }
        #[cfg(feature = "planted-bugs")]
        match qualify::plant(options.bug.as_deref()) {
            Ok(is_of_scheduler) => options.scheduler |= is_of_scheduler,
            Err(text) => {
                println!("{text}");
                return ExitCode::FAILURE;
            }
        }
    }
    if let Some(seed) = options.seed {
        return one(seed, &options);
    }
    #[cfg(feature = "planted-bugs")]
    if options.qualify {
        std::panic::set_hook(Box::new(|_| {}));
        return qualify::all(&options);
    }
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let result = many(&options);
    let took = started.elapsed().as_secs_f64();
    match result {
        Ok((seeds, summary)) => {
            let describe = if options.scheduler { describe_scheduler } else { describe };
            println!("{}", describe(seeds, &summary, took));
            ExitCode::SUCCESS
        }
        Err((seed, violation)) => {
            println!("seed {seed} fails after {took:.1} s: {violation}");
            println!("run it again: {}", options.command(seed));
            ExitCode::FAILURE
        }
    }
}

fn one(seed: u64, options: &Options) -> ExitCode {
    match simulate(seed, options.trace, options.scheduler) {
        Ok(summary) => {
            println!("seed {seed} passes: {summary:?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("seed {seed} fails: {violation}");
            ExitCode::FAILURE
        }
    }
}

fn simulate(seed: u64, trace: bool, scheduler: bool) -> Result<Summary, Violation> {
    if scheduler { scheduler::run(seed, trace) } else { World::new(seed, trace).run() }
}

fn run(seed: u64, scheduler: bool) -> Result<Summary, Violation> {
    match catch_unwind(AssertUnwindSafe(|| simulate(seed, false, scheduler))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panic: {}", text.unwrap_or("without a text")))
        }
    }
}

/// Runs seeds on several threads until one fails; returns the lowest that failed.
fn many(options: &Options) -> Result<(u64, Summary), (u64, Violation)> {
    let next = AtomicU64::new(options.from);
    let end = options.from + options.seeds;
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Summary::default());
    let failed: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    let passed = AtomicU64::new(0);
    let deadline =
        options.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
                while !stop.load(Ordering::Relaxed) && !is_over() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let mut result = run(seed, options.scheduler);
                    if let Ok(summary) = &result
                        && seed.is_multiple_of(TWICE_EVERY)
                        && run(seed, options.scheduler).as_ref() != Ok(summary)
                    {
                        result = Err("a second run went another way".to_owned());
                    }
                    match result {
                        Ok(summary) => {
                            passed.fetch_add(1, Ordering::Relaxed);
                            total.lock().unwrap().add(&summary);
                        }
                        Err(violation) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap();
                            if failed.as_ref().is_none_or(|(lowest, _)| seed < *lowest) {
                                *failed = Some((seed, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap() {
        Some(failed) => Err(failed),
        None => Ok((passed.into_inner(), total.into_inner().unwrap())),
    }
}

fn describe_scheduler(seeds: u64, summary: &Summary, took: f64) -> String {
    format!(
        "{seeds} seeds of the scheduler in {took:.1} s ({:.0} a minute), no violation: {:.1} simulated \
         hours, {} events, {} revisions, {} results of which {} were losses, {} terms, {} faults, {} crashes",
        seeds as f64 * 60.0 / took,
        summary.simulated as f64 / 3.6e6,
        summary.events,
        summary.revisions,
        summary.operations,
        summary.operations - summary.answered,
        summary.terms_led,
        summary.faults,
        summary.crashes,
    )
}

fn describe(seeds: u64, summary: &Summary, took: f64) -> String {
    format!(
        "{seeds} seeds in {took:.1} s ({:.0} a minute), no violation: {:.1} simulated hours, {} \
         events, {} calls of which {} answered, {} revisions, {} watch events, {} terms with a \
         leader, {} faults, {} crashes, {} snapshots installed, {} members joined and {} left, {} logins, {} calls refused for want of \
         a right, {} histories undecided",
        seeds as f64 * 60.0 / took,
        summary.simulated as f64 / 3.6e9,
        summary.events,
        summary.operations,
        summary.answered,
        summary.revisions,
        summary.watch_events,
        summary.terms_led,
        summary.faults,
        summary.crashes,
        summary.snapshots_installed,
        summary.joined,
        summary.removed,
        summary.logins,
        summary.denied,
        summary.undecided,
    )
}

impl Summary {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.operations += other.operations;
        self.answered += other.answered;
        self.revisions += other.revisions;
        self.terms_led += other.terms_led;
        self.faults += other.faults;
        self.crashes += other.crashes;
        self.snapshots_installed += other.snapshots_installed;
        self.joined += other.joined;
        self.removed += other.removed;
        self.logins += other.logins;
        self.denied += other.denied;
        self.watch_events += other.watch_events;
        self.simulated += other.simulated;
        self.undecided += other.undecided;
    }
}
