//! `quoin case`: what is tested.

use super::desk::{Desk, Done, Trouble, json, read, say, table, warn, write};
use crate::scheduler::adapters::{self, Form, Suite};
use crate::scheduler::catalog;
use crate::scheduler::model::{CaseState, Kind, TestCase};
use crate::scheduler::plan_file::{self, Given};
use clap::Subcommand;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Subcommand)]
pub enum CaseAction {
    /// Writes cases: one, a list, or those of a plan file. One that is muted or skipped stays so where the
    /// file does not name its state
    Put {
        /// YAML or JSON; - is standard input
        files: Vec<PathBuf>,
        /// Give a variable of the file another value: name=value
        #[arg(long = "set", value_parser = super::submits::assignment)]
        variables: Vec<(String, String)>,
    },
    /// Prints a case
    Get { case: String },
    /// Lists cases
    Ls {
        /// Those whose id begins so
        #[arg(long, default_value = "")]
        prefix: String,
        /// Those with a label: name=value
        #[arg(long = "label", value_parser = super::submits::assignment)]
        labels: Vec<(String, String)>,
        #[arg(long)]
        owner: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Deletes cases; runs keep their copies
    Rm { cases: Vec<String> },
    /// Turns a project's own tests, or a list, into cases
    #[command(after_help = "\
nextest, pytest, gotest  the folder of a project whose tests are listed with that tool, or a file with what
                         it listed; each test becomes a case of kind command
csv                      a file with a line of field names; lists within a field have ; between them
urls                     lines of [METHOD] URL [STATUS]; each becomes a case of kind http
junit                    a report; with --command each test becomes a command, else a case for people")]
    Import {
        form: Form,
        /// Folder or file; - is standard input
        path: PathBuf,
        /// What each id begins with
        #[arg(long, default_value = "")]
        prefix: String,
        /// For junit: the words of a command, in which {name}, {class} and {file} stand for the test's
        #[arg(long, num_args = 1.., allow_hyphen_values = true)]
        command: Vec<String>,
        /// Print the cases instead of writing them
        #[arg(long)]
        dry_run: bool,
    },
    /// Prints cases for others. Of a case, csv has names, what is done and expected, and after and apart from
    /// which cases; yaml and json have all
    Export {
        /// yaml, json, csv, urls or junit (the latest results)
        form: String,
        #[arg(long, default_value = "")]
        prefix: String,
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(action: CaseAction, desk: &Desk) -> Done {
    match action {
        CaseAction::Put { files, variables } => put(desk, &files, &variables).await?,
        CaseAction::Get { case } => {
            let found = catalog::get::<TestCase>(&desk.client, &case).await?;
            say(&json(&found));
        }
        CaseAction::Ls { prefix, labels, owner, limit } => {
            let has = |case: &TestCase| {
                labels.iter().all(|(name, value)| case.labels.get(name) == Some(value))
                    && owner.as_ref().is_none_or(|owner| case.owner == *owner)
            };
            let mut found = matching(desk, &prefix, limit.saturating_add(1), has).await?;
            if found.len() > limit {
                found.truncate(limit);
                let more = limit.saturating_mul(10).max(1);
                warn(format_args!(
                    "there are more than {limit} cases: see them with --limit {more}"
                ));
            }
            desk.show(&found, |found| show(found));
        }
        CaseAction::Rm { cases } => {
            for case in cases {
                catalog::delete::<TestCase>(&desk.client, &case, None).await?;
            }
        }
        CaseAction::Import { form, path, prefix, command, dry_run } => {
            let cases = import(form, &path, &prefix, &command)?;
            match dry_run {
                true => say(&json(&cases)),
                false => {
                    let given: Vec<_> = cases.into_iter().map(Given::from).collect();
                    save(desk, &given).await?;
                }
            }
        }
        CaseAction::Export { form, prefix, output } => {
            let cases = matching(desk, &prefix, usize::MAX, |_| true).await?;
            let text = match form.as_str() {
                "junit" => super::results::latest_as_junit(desk, &cases).await?,
                form => adapters::export(form, &cases).map_err(Trouble::Usage)?,
            };
            if form == "csv" {
                let (count, fields) = adapters::lost_in_csv(&cases);
                let fields = Vec::from_iter(fields).join(", ");
                if count > 0 {
                    let whose = if count == 1 {
                        "1 case says".into()
                    } else {
                        format!("{count} cases say")
                    };
                    warn(format_args!(
                        "{whose} what csv cannot hold, of {fields}; yaml and json can"
                    ));
                }
            }
            write(output.as_deref(), &text)?;
        }
    }
    Ok(0)
}

async fn put(desk: &Desk, files: &[PathBuf], set: &[(String, String)]) -> Result<(), Trouble> {
    if files.is_empty() {
        return Err(Trouble::Usage("no file is named".into()));
    }
    for file in files {
        let name = file.display();
        let cases = plan_file::cases(&read(file)?, set);
        save(desk, &cases.map_err(|error| Trouble::Usage(format!("{name}: {error}")))?).await?;
    }
    Ok(())
}

/// Writes cases, all of which are fine by themselves and close no circle.
pub(super) async fn save(desk: &Desk, cases: &[Given<TestCase>]) -> Result<(), Trouble> {
    for case in cases {
        case.value.check()?;
    }
    let values: Vec<TestCase> = cases.iter().map(|given| given.value.clone()).collect();
    catalog::check_order(&desk.client, &values).await?;
    catalog::put_all(&desk.client, cases).await?;
    let count = if cases.len() == 1 { "1 case".into() } else { format!("{} cases", cases.len()) };
    if !desk.wants_json {
        say(&count);
    }
    Ok(())
}

pub(super) async fn matching(
    desk: &Desk,
    prefix: &str,
    limit: usize,
    fits: impl Fn(&TestCase) -> bool,
) -> Result<Vec<TestCase>, Trouble> {
    let (mut found, mut after) = (Vec::new(), None);
    let fits = |case: &TestCase| !case.is_deleted && case.id.starts_with(prefix) && fits(case);
    loop {
        let page = limit.saturating_sub(found.len()).min(1_000);
        let listed = catalog::list::<TestCase>(&desk.client, after.as_deref(), page, fits).await?;
        found.extend(listed.items.into_iter().map(|stored| stored.value));
        after = listed.next;
        if after.is_none() || found.len() >= limit {
            return Ok(found);
        }
    }
}

fn show(cases: &[TestCase]) -> String {
    let names = |names: Vec<&str>| names.join(" ");
    let rows = cases.iter().map(|case| {
        let kind = match case.kind {
            Kind::Http => "http",
            Kind::Command => "command",
            Kind::Manual => "manual",
        };
        let state = match case.state {
            CaseState::Enabled => "",
            CaseState::Muted => "muted",
            CaseState::Skipped => "skipped",
        };
        let estimate = case.est_ms.map(|ms| super::desk::duration(ms.saturating_mul(1_000)));
        [
            case.id.clone(),
            kind.to_owned(),
            names(case.case_pre.iter().map(|before| before.case.as_str()).collect()),
            names(case.mutual_tag.iter().map(|used| used.tag.as_str()).collect()),
            estimate.unwrap_or_default(),
            state.to_owned(),
            case.owner.clone(),
        ]
    });
    table(["case", "kind", "after", "tags", "estimate", "state", "owner"], rows.collect())
}

fn import(
    form: Form,
    path: &PathBuf,
    prefix: &str,
    command: &[String],
) -> Result<Vec<TestCase>, Trouble> {
    let fail = |error: String| Trouble::Usage(format!("{}: {error}", path.display()));
    let suite = match (form, path.is_dir()) {
        (Form::Nextest | Form::Pytest | Form::Gotest, true) => {
            let folder = std::fs::canonicalize(path).map_err(|error| fail(error.to_string()))?;
            let text = list(form, &folder).map_err(fail)?;
            Suite { text, folder: Some(folder.display().to_string()) }
        }
        _ => Suite { text: read(path)?, folder: None },
    };
    let mut cases = adapters::import(form, &suite, command).map_err(fail)?;
    if cases.is_empty() {
        return Err(Trouble::Nothing(format!("{}: there are no tests", path.display())));
    }
    for case in &mut cases {
        case.id.insert_str(0, prefix);
    }
    Ok(cases)
}

/// Asks a project's own tool for its tests.
fn list(form: Form, folder: &PathBuf) -> Result<String, String> {
    let words = adapters::listing(form);
    let output = Command::new(words[0]).args(&words[1..]).current_dir(folder).output();
    let output = output.map_err(|error| format!("{}: {error}", words.join(" ")))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = if text.trim().is_empty() {
            String::from_utf8_lossy(&output.stdout).into_owned()
        } else {
            text
        };
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        return Err(format!(
            "{} ended with {}: {}",
            words.join(" "),
            output.status,
            last.join("; ")
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
