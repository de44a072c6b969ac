//! `quoin env`: where cases run.

use super::desk::{Desk, Done, Trouble, json, read, say, table};
use crate::scheduler::catalog;
use crate::scheduler::model::{Environment, Health, Refusal};
use crate::scheduler::plan_file;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum EnvAction {
    /// Writes environments: one, a list, or those of a plan file
    Put {
        /// YAML or JSON; - is standard input
        files: Vec<PathBuf>,
        /// Give a variable of the file another value: name=value
        #[arg(long = "set", value_parser = super::submits::assignment)]
        variables: Vec<(String, String)>,
    },
    /// Prints an environment
    Get { environment: String },
    /// Lists environments
    Ls,
    /// Deletes environments; runs keep their copies
    Rm { environments: Vec<String> },
    /// Lets nothing more start in an environment while somebody works on it
    Maintenance {
        environment: String,
        /// Why, for those who wait
        #[arg(long, default_value = "")]
        reason: String,
        /// The work is done
        #[arg(long)]
        end: bool,
    },
}

pub(super) async fn run(action: EnvAction, desk: &Desk) -> Done {
    match action {
        EnvAction::Put { files, variables } => {
            if files.is_empty() {
                return Err(Trouble::Usage("no file is named".into()));
            }
            for file in files {
                let found = plan_file::environments(&read(&file)?, &variables);
                let fail = |error| Trouble::Usage(format!("{}: {error}", file.display()));
                for environment in found.map_err(fail)? {
                    catalog::put(&desk.client, environment, None).await?;
                }
            }
        }
        EnvAction::Get { environment } => {
            let found = catalog::get::<Environment>(&desk.client, &environment).await?;
            say(&json(&found));
        }
        EnvAction::Ls => {
            let fits = |found: &Environment| !found.is_deleted;
            let listed = catalog::list(&desk.client, None, 10_000, fits).await?;
            let found: Vec<Environment> = listed.items.into_iter().map(|s| s.value).collect();
            desk.show(&found, |found| show(found));
        }
        EnvAction::Rm { environments } => {
            for environment in environments {
                catalog::delete::<Environment>(&desk.client, &environment, None).await?;
            }
        }
        EnvAction::Maintenance { environment, reason, end } => {
            let (health, reason) = match end {
                true => (Health::Unknown, String::new()),
                false => (Health::Maintenance, reason),
            };
            catalog::change::<Environment>(&desk.client, &environment, None, |before| {
                let unknown = || Refusal::new(404, format!("unknown environment {environment}"));
                let before = before.ok_or_else(unknown)?.clone();
                Ok(Environment { health, health_reason: reason.clone(), ..before })
            })
            .await?;
        }
    }
    Ok(0)
}

fn show(found: &[Environment]) -> String {
    let rows = found.iter().map(|environment| {
        let health = match environment.health {
            Health::Unknown => "",
            Health::Good => "good",
            Health::Bad => "bad",
            Health::Looping => "looping",
            Health::Maintenance => "maintenance",
            Health::Retired => "retired",
        };
        let labels = environment.labels.iter().map(|(name, value)| format!("{name}={value}"));
        [
            environment.id.clone(),
            environment.capacity.map(|capacity| capacity.to_string()).unwrap_or_default(),
            labels.collect::<Vec<_>>().join(" "),
            health.to_owned(),
            environment.health_reason.clone(),
        ]
    });
    table(["environment", "capacity", "labels", "health", "reason"], rows.collect())
}
