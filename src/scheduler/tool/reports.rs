//! `quoin report`: a run's report, all of it cut at one revision.

use super::desk::{Desk, Done, Trouble, write};
use super::trends;
use crate::scheduler::junit;
use crate::scheduler::report;
use crate::scheduler::view::{RunBook, read};
use clap::Subcommand;
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum ReportAction {
    /// One HTML file that needs no other
    Html(Where),
    /// JUnit's XML
    Junit(Where),
    /// JSON
    Json(Where),
    /// How the last runs went, and where they are going
    Trend {
        /// Only runs of this name
        #[arg(long)]
        name: Option<String>,
        /// So many, the newest
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
        limit: u16,
    },
    /// What differs between two runs: what broke, what is mended, what is slower or quicker
    Compare {
        /// A run's id
        first: String,
        /// The id of a later one
        second: String,
    },
}

#[derive(Debug, clap::Args)]
pub struct Where {
    /// The run's id
    run: String,
    /// A file; standard output if none is named
    #[arg(long, short)]
    output: Option<PathBuf>,
}

pub(super) async fn run(action: ReportAction, desk: &Desk) -> Done {
    let (to, form): (_, fn(&RunBook) -> String) = match action {
        ReportAction::Trend { name, limit } => {
            return trends::trend(desk, name.as_deref(), limit.into()).await;
        }
        ReportAction::Compare { first, second } => {
            return trends::compare(desk, &first, &second).await;
        }
        ReportAction::Html(to) => (to, report::html),
        ReportAction::Junit(to) => (to, as_junit),
        ReportAction::Json(to) => (to, report::json),
    };
    let book = read::book(&desk.client, &to.run).await?;
    write(to.output.as_deref(), &form(&book))?;
    Ok(0)
}

fn as_junit(book: &RunBook) -> String {
    junit::write(&report::junit(book))
}

/// The form that a file's name asks for.
fn form_of(file: &Path) -> Result<fn(&RunBook) -> String, Trouble> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("html" | "htm") => Ok(report::html),
        Some("xml") => Ok(as_junit),
        Some("json") => Ok(report::json),
        _ => {
            let text = "a report's file ends with .html, .xml or .json";
            Err(Trouble::Usage(format!("{}: {text}", file.display())))
        }
    }
}

/// That reports can be written later, as far as that shows without writing them.
pub(super) fn check(files: &[PathBuf]) -> Result<(), Trouble> {
    for file in files {
        form_of(file)?;
        let fail = |what: &str| Err(Trouble::Usage(format!("{}: {what}", file.display())));
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        if file.is_dir() {
            return fail("it is a folder");
        }
        if !folder.is_none_or(Path::is_dir) {
            return fail("there is no such folder");
        }
    }
    Ok(())
}

/// Writes a report in the form that the file's name asks for.
pub(super) fn write_as_named(book: &RunBook, file: &Path) -> Result<(), Trouble> {
    write(Some(file), &form_of(file)?(book))
}
