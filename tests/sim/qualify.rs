//! Shows that the simulation finds bugs: switches them on one after the other.

use super::many;
use super::options::Options;
use quoin::planted::{Bug, plant as switch};
use std::process::ExitCode;
use std::time::Instant;

/// A planted bug must be found within so many seeds.
const QUALIFYING_SEEDS: u64 = 5000;

/// Switches the named bug on; whether it is one of the test scheduler.
pub fn plant(name: Option<&str>) -> Result<bool, String> {
    let Some(name) = name else { return Ok(false) };
    match Bug::ALL.into_iter().find(|bug| bug.name() == name) {
        Some(bug) => {
            switch(Some(bug));
            Ok(bug.is_of_scheduler())
        }
        None => {
            let names: Vec<_> = Bug::ALL.into_iter().map(Bug::name).collect();
            Err(format!("unknown bug {name}; there are: {}", names.join(", ")))
        }
    }
}

/// Looks for each bug in turn, and sees that without any nothing is found.
pub fn all(options: &Options) -> ExitCode {
    let mut missed = 0;
    println!("{:<30} {:>6} {:>8}  found as", "planted bug", "seeds", "seconds");
    for bug in Bug::ALL {
        switch(Some(bug));
        let started = Instant::now();
        let scheduler = bug.is_of_scheduler();
        let result = many(&Options { seeds: QUALIFYING_SEEDS, scheduler, ..options.clone() });
        let took = started.elapsed().as_secs_f64();
        match result {
            Err((seed, violation)) => {
                let short: String =
                    violation.lines().next().unwrap_or("").chars().take(100).collect();
                let seeds = seed - options.from + 1;
                println!("{:<30} {seeds:>6} {took:>8.1}  {short}", bug.name());
            }
            Ok(_) => {
                missed += 1;
                println!("{:<30} {:>6} {took:>8.1}  NOT FOUND", bug.name(), "-");
            }
        }
    }
    switch(None);
    if missed > 0 {
        println!("{missed} planted bugs were not found within {QUALIFYING_SEEDS} seeds");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
