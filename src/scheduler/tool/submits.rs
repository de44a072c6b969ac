//! `quoin run submit` and `rerun`: from a plan file, from words, or from a run that was.

use super::desk::{Desk, Trouble, now_ms, read, time};
use super::places::Places;
use super::{cases, desk, environments};
use crate::scheduler::catalog;
use crate::scheduler::execute::Rule;
use crate::scheduler::model::{Missing, Repeats, RunSpec, Selected};
use crate::scheduler::plan_file::{self, Plan};
use crate::scheduler::submit;
use crate::scheduler::view::{self, Again, RunBook};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A plan file in YAML or JSON with cases, environments and a run; - is standard input
    file: Option<PathBuf>,
    /// Give a variable of the file another value: name=value
    #[arg(long = "set", value_parser = assignment)]
    variables: Vec<(String, String)>,
    /// A case to run, case=repeats, or prefix* for all whose ids begin so
    #[arg(long = "case")]
    cases: Vec<String>,
    /// How often each case runs
    #[arg(long, visible_alias = "repeats")]
    repeat: Option<u32>,
    /// An environment to run in; may be named several times
    #[arg(long = "env")]
    environments: Vec<String>,
    /// What it is called in lists and reports
    #[arg(long)]
    name: Option<String>,
    /// The queue that it waits in, if not the one named default
    #[arg(long)]
    queue: Option<String>,
    /// Within the queue; higher first
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    /// Submits with one request id are one run
    #[arg(long)]
    request_id: Option<String>,
    /// Whose it is
    #[arg(long)]
    owner: Option<String>,
    /// Run predecessors that are not selected too
    #[arg(long, conflicts_with = "ignore_missing_predecessors")]
    include_predecessors: bool,
    /// Do as if predecessors that are not selected had ended
    #[arg(long)]
    ignore_missing_predecessors: bool,
    /// Let a case or an environment of the file name a link-local or reserved target: address or network
    #[arg(long = "allow-target")]
    allow_targets: Vec<Rule>,
    #[command(flatten)]
    pub(super) then: Then,
}

/// What follows a submit.
#[derive(Debug, Args)]
pub struct Then {
    /// Wait for its end, and exit as it went
    #[arg(long)]
    pub(super) wait: bool,
    /// At the end, write a report: FILE.html, .xml (JUnit) or .json; waits
    #[arg(long = "report")]
    pub(super) reports: Vec<PathBuf>,
}

/// Which tasks of a run are run again.
#[derive(Debug, Args)]
#[group(required = true)]
pub struct Which {
    /// Those that failed, timed out, were lost or ended in error, but for muted ones
    #[arg(long)]
    failed: bool,
    /// Those that were lost with their workers
    #[arg(long)]
    lost: bool,
    /// Those that were skipped or canceled
    #[arg(long)]
    never_run: bool,
    /// All
    #[arg(long, conflicts_with_all = ["failed", "lost", "never_run"])]
    all: bool,
}

/// Reads name=value.
pub(super) fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is not name=value".into()),
    }
}

/// Submits what was asked for; the run's id.
pub(super) async fn submit(args: &SubmitArgs, desk: &Desk) -> Result<String, Trouble> {
    let mut plan = match &args.file {
        Some(file) => plan_file::read(&read(file)?, &args.variables)
            .map_err(|error| Trouble::Usage(format!("{}: {error}", file.display())))?,
        None if args.cases.is_empty() => {
            return Err(Trouble::Usage("neither a plan file nor --case is given".into()));
        }
        None => Plan::blank(),
    };
    refine(args, &mut plan.run)?;
    let mut places = Places::default();
    if let Some(file) = &args.file {
        places.add(file, &plan.cases);
        places.add(file, &plan.environments);
    }
    let done = check_and_send(plan, &args.allow_targets, desk).await;
    done.map_err(|trouble| places.locate(trouble))
}

/// Nothing is written of a plan of which a part is wrong.
async fn check_and_send(plan: Plan, allowed: &[Rule], desk: &Desk) -> Result<String, Trouble> {
    cases::check_all(&plan.cases, allowed)?;
    environments::check_all(&plan.environments, allowed.to_vec())?;
    if plan.run.cases.is_empty() {
        return Err(Trouble::Nothing("the run selects no cases".into()));
    }
    if !plan.cases.is_empty() || !plan.environments.is_empty() {
        let client = &desk.client;
        let cases = catalog::beside(client, &plan.cases).await?;
        let environments = catalog::beside(client, &plan.environments).await?;
        let spec = RunSpec { submitted: now_ms(), ..plan.run.clone() };
        submit::check(client, &spec, &cases, &environments).await?;
    }
    if !plan.cases.is_empty() {
        cases::save(desk, &plan.cases, allowed).await?;
    }
    catalog::put_all(&desk.client, &plan.environments).await?;
    send(plan.run, desk).await
}

/// What words say beats what the file says.
fn refine(args: &SubmitArgs, run: &mut RunSpec) -> Result<(), Trouble> {
    if !args.cases.is_empty() {
        run.cases = Vec::new();
    }
    let is_of_number = |c: char| c.is_ascii_digit() || "+-.".contains(c);
    for words in &args.cases {
        let counted = words.rsplit_once('=').map(|(case, count)| (case, count, count.parse()));
        run.cases.push(match counted {
            Some((case, _, Ok(repeats))) => {
                Selected { case: case.into(), repeats: Some(Repeats::Same(repeats)) }
            }
            Some((case, count, Err(_))) if count.starts_with(is_of_number) => {
                return Err(Trouble::Usage(format!("case {case}: {count} repeats")));
            }
            _ => Selected { case: words.clone(), repeats: None },
        });
    }
    if !args.environments.is_empty() {
        run.environments = args.environments.clone();
    }
    run.repeats = args.repeat.unwrap_or(run.repeats);
    run.priority = args.priority.unwrap_or(run.priority);
    for (given, field) in
        [(&args.name, &mut run.name), (&args.queue, &mut run.queue), (&args.owner, &mut run.owner)]
    {
        if let Some(given) = given {
            field.clone_from(given);
        }
    }
    if args.request_id.is_some() {
        run.request_id.clone_from(&args.request_id);
    }
    if args.include_predecessors {
        run.missing = Missing::Include;
    } else if args.ignore_missing_predecessors {
        run.missing = Missing::Ignore;
    }
    Ok(())
}

async fn send(run: RunSpec, desk: &Desk) -> Result<String, Trouble> {
    let submitted = now_ms();
    let spec = RunSpec {
        id: format!("{submitted:011x}{:05x}", rand::random::<u32>() & 0xf_ffff),
        gmt_create: time(submitted),
        submitted,
        ..run
    };
    let made = submit::submit(&desk.client, &spec).await?;
    made.warnings.iter().for_each(desk::warn);
    Ok(made.run)
}

/// Submits a run of those tasks of another that ended so.
pub(super) async fn rerun(book: &RunBook, which: &Which, desk: &Desk) -> Result<String, Trouble> {
    let again = Again {
        failed: which.failed,
        lost: which.lost,
        unstarted: which.never_run,
        all: which.all,
    };
    let spec = view::rerun(book, again);
    let spec =
        spec.ok_or_else(|| Trouble::Nothing(format!("run {} has no such tasks", book.spec.id)))?;
    send(spec, desk).await
}
