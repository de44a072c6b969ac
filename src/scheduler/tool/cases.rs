//! `quoin case`: what is tested.

use super::desk::{Desk, Done, Trouble, cell, count_of, json, read, say, table, warn, write};
use super::places::Places;
use crate::scheduler::adapters::{self, Form, SOURCE_LABEL, Suite};
use crate::scheduler::catalog::{self, Written};
use crate::scheduler::checks::check_case;
use crate::scheduler::execute::{Rule, Targets};
use crate::scheduler::model::{CaseState, Kind, Refusal, TestCase};
use crate::scheduler::plan_file::{self, Given};
use clap::{Subcommand, ValueEnum as _};
use serde_json::json as value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

/// Lines of what a tool says when it cannot list a project's tests; the last ones.
const COMPLAINT_LINES: usize = 20;

#[derive(Debug, Subcommand)]
pub enum CaseAction {
    /// Writes cases: one, a list, or those of a plan file. One that is muted or skipped stays so where the
    /// file does not name its state
    Put {
        /// YAML or JSON; - is standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Give a variable of the file another value: name=value
        #[arg(long = "set", value_parser = super::submits::assignment)]
        variables: Vec<(String, String)>,
        /// Let a case call a link-local or reserved target: address or network
        #[arg(long = "allow-target")]
        allow_targets: Vec<Rule>,
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
        /// Whose they are
        #[arg(long)]
        owner: Option<String>,
        /// Those with this tag
        #[arg(long)]
        tag: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Deletes cases; runs keep their copies
    Rm {
        #[arg(required = true)]
        cases: Vec<String>,
    },
    /// Turns a project's own tests, or a list, into cases
    #[command(after_help = "\
nextest, pytest, gotest  the folder of a project whose tests are listed with that tool, or a file with what
                         it listed; each test becomes a case of kind command
csv                      a file with a line of field names; lists within a field have ; between them,
                         a predecessor's rules stand behind it, pay (repeat passed soft), or (ratio=0.9),
                         and so do a tag's, printer (env chain); labels are name=value;name=value
urls                     lines of [METHOD] URL [STATUS]; each becomes a case of kind http
junit                    a report; with --command each test becomes a command, else a case for people; of
                         a report that was written here each case comes once, under its own name")]
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
        #[arg(long, conflicts_with = "prune")]
        dry_run: bool,
        /// For nextest, pytest and gotest: delete the cases that were imported from the same place with the
        /// same prefix before, and whose tests are gone
        #[arg(long)]
        prune: bool,
        /// Let a case call a link-local or reserved target: address or network
        #[arg(long = "allow-target")]
        allow_targets: Vec<Rule>,
    },
    /// Prints cases for others. Of a case csv has all but steps, expected results, mutes and empty texts;
    /// yaml and json have all
    Export {
        /// junit has the latest results
        #[arg(value_parser = ["yaml", "json", "csv", "urls", "junit"])]
        form: String,
        /// Those whose id begins so
        #[arg(long, default_value = "")]
        prefix: String,
        /// A file; standard output if none is named
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
}

pub(super) async fn run(action: CaseAction, desk: &Desk) -> Done {
    match action {
        CaseAction::Put { files, variables, allow_targets } => {
            put(desk, &files, &variables, &allow_targets).await?;
        }
        CaseAction::Get { case } => {
            let found = catalog::get::<TestCase>(&desk.client, &case).await?;
            say(&json(&found));
        }
        CaseAction::Ls { prefix, labels, owner, tag, limit } => {
            let has = |case: &TestCase| {
                labels.iter().all(|(name, value)| case.labels.get(name) == Some(value))
                    && owner.as_ref().is_none_or(|owner| case.owner == *owner)
                    && tag.as_ref().is_none_or(|tag| case.mutual_tag.iter().any(|t| t.tag == *tag))
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
            let deleted = catalog::delete_all::<TestCase>(&desk.client, &cases).await?;
            desk.tell(&value!({"deleted": deleted}));
        }
        CaseAction::Import { form, path, prefix, command, dry_run, prune, allow_targets } => {
            if prune && !adapters::is_suite(form) {
                let text =
                    "--prune is for nextest, pytest and gotest, which list all tests there are";
                return Err(Trouble::Usage(text.into()));
            }
            let cases = import(form, &path, &prefix, &command)?;
            match dry_run {
                true => say(&json(&cases)),
                false => take_in(desk, cases, prune, &allow_targets).await?,
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

async fn put(
    desk: &Desk,
    files: &[PathBuf],
    set: &[(String, String)],
    allowed: &[Rule],
) -> Result<(), Trouble> {
    let (mut cases, mut places) = (Vec::new(), Places::default());
    for file in files {
        let fail = |error| Trouble::Usage(format!("{}: {error}", file.display()));
        let given = plan_file::cases(&read(file)?, set).map_err(fail)?;
        places.add(file, &given);
        cases.extend(given);
    }
    let saved = save(desk, &cases, allowed).await;
    tell(desk, &saved.map_err(|trouble| places.locate(trouble))?);
    Ok(())
}

/// Writes imported cases, and sees which of an earlier import are gone.
async fn take_in(
    desk: &Desk,
    cases: Vec<TestCase>,
    prune: bool,
    allowed: &[Rule],
) -> Result<(), Trouble> {
    let reported: Vec<String> =
        cases.iter().filter(|case| case.kind == Kind::Manual).map(|case| case.id.clone()).collect();
    let known = catalog::of_ids::<TestCase>(&desk.client, &reported).await?;
    let count = cases.len();
    // A report tells of results: what a case does, or what a person shall do, it does not know.
    let beside = |case: TestCase| {
        let known = known.get(&case.id).filter(|known| !known.is_deleted);
        let Some(known) = known.filter(|_| case.kind == Kind::Manual) else { return Some(case) };
        let est_ms = case.est_ms.or(known.est_ms);
        (known.kind == Kind::Manual).then(|| TestCase { est_ms, ..known.clone() })
    };
    let cases: Vec<TestCase> = cases.into_iter().filter_map(beside).collect();
    if cases.len() < count {
        let text = "already described, not as work for people, stay as they are";
        warn(format_args!("{text}: {}", count_of(count - cases.len(), "case")));
    }
    let source = cases.first().and_then(|case| case.labels.get(SOURCE_LABEL)).cloned();
    let ids: BTreeSet<String> = cases.iter().map(|case| case.id.clone()).collect();
    let given: Vec<_> = cases.into_iter().map(Given::from).collect();
    let written = save(desk, &given, allowed).await?;
    let mut gone = Vec::new();
    if let Some(source) = source {
        let is_gone = |case: &TestCase| {
            case.labels.get(SOURCE_LABEL) == Some(&source) && !ids.contains(&case.id)
        };
        let found = matching(desk, "", usize::MAX, is_gone).await?;
        gone.extend(found.into_iter().map(|case| case.id));
    }
    let mut told = value!({"cases": written, "gone": gone, "deleted": []});
    if prune {
        told["deleted"] = value!(catalog::delete_all::<TestCase>(&desk.client, &gone).await?);
    }
    desk.show(&told, |_| {
        let deleted = match (prune, gone.len()) {
            (false, _) | (true, 0) => String::new(),
            (true, count) => format!(", {} whose tests are gone deleted", count_of(count, "case")),
        };
        count_of(written.len(), "case") + &deleted
    });
    if !prune && !gone.is_empty() {
        let first = cell(&gone[0], 60);
        let more = if gone.len() > 1 { " and others" } else { "" };
        warn(format_args!(
            "the tests of {} that were imported from there are gone, {first}{more}: --prune deletes them",
            count_of(gone.len(), "case")
        ));
    }
    Ok(())
}

fn tell(desk: &Desk, written: &[Written]) {
    desk.show(&value!({"cases": written}), |_| count_of(written.len(), "case"));
}

/// That all are fine by themselves, and call nothing that must not be called.
pub(super) fn check_all(given: &[Given<TestCase>], allowed: &[Rule]) -> Result<(), Refusal> {
    let targets = Targets { allowed: allowed.to_vec(), ..Targets::default() };
    for Given { value, .. } in given {
        value.check()?;
        check_case(value, &targets).map_err(|why| why.about("case", &value.id))?;
    }
    Ok(())
}

/// Writes cases, all of which are fine by themselves and close no circle.
pub(super) async fn save(
    desk: &Desk,
    cases: &[Given<TestCase>],
    allowed: &[Rule],
) -> Result<Vec<Written>, Trouble> {
    check_all(cases, allowed)?;
    let values: Vec<TestCase> = cases.iter().map(|given| given.value.clone()).collect();
    catalog::check_order(&desk.client, &values).await?;
    Ok(catalog::put_all(&desk.client, cases).await?)
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
    let now = super::desk::now_ms();
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
        let is_over = case.state_at(now) != case.state;
        let state = if is_over { format!("{state} (expired)") } else { state.to_owned() };
        let estimate = case.est_ms.map(|ms| super::desk::duration(ms.saturating_mul(1_000)));
        [
            case.id.clone(),
            kind.to_owned(),
            names(case.case_pre.iter().map(|before| before.case.as_str()).collect()),
            names(case.mutual_tag.iter().map(|used| used.tag.as_str()).collect()),
            estimate.unwrap_or_default(),
            state,
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
            let text = list(form, &folder).map_err(fail)?.unwrap_or_default();
            Suite { text, folder: Some(folder.display().to_string()) }
        }
        _ => Suite { text: read(path)?, folder: None },
    };
    let mut cases = adapters::import(form, &suite, command).map_err(fail)?;
    if cases.is_empty() {
        let advice = match adapters::is_suite(form) && path.is_file() {
            true => {
                " in what is taken for the output of the tool: name a folder to have them listed"
            }
            false => "",
        };
        let text = format!("{}: there are no tests{advice}", path.display());
        return Err(Trouble::Nothing(text));
    }
    let place = if path.as_os_str() == "-" { None } else { std::fs::canonicalize(path).ok() };
    let place = place.as_deref().unwrap_or(path).display();
    let form_name = form.to_possible_value().map_or_else(String::new, |f| f.get_name().to_owned());
    let source = format!("{form_name} {place} {prefix}");
    for case in &mut cases {
        case.id.insert_str(0, prefix);
        if adapters::is_suite(form) {
            case.labels.insert(SOURCE_LABEL.into(), source.clone());
        }
    }
    Ok(cases)
}

/// Asks a project's own tool for its tests. Nothing if it says that there are none.
fn list(form: Form, folder: &PathBuf) -> Result<Option<String>, String> {
    let words = adapters::listing(form);
    let output = Command::new(words[0]).args(&words[1..]).current_dir(folder).output();
    let output = output.map_err(|error| format!("{}: {error}", words.join(" ")))?;
    if output.status.code().is_some_and(|code| adapters::has_no_tests(form, code)) {
        return Ok(None);
    }
    if !output.status.success() {
        let [said, complained] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let text = match complained.trim() {
            "" => adapters::complaint(form, &said),
            _ => complained.into_owned(),
        };
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(COMPLAINT_LINES)..].join("\n");
        return Err(format!("{} ended with {}:\n{last}", words.join(" "), output.status));
    }
    Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
}
