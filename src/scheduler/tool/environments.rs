//! `quoin env`: where cases run.

use super::FAILED;
use super::desk::{Desk, Done, Trouble, json, read, say, table};
use crate::scheduler::catalog;
use crate::scheduler::model::{Environment, Health, Refusal};
use crate::scheduler::plan_file;
use crate::scheduler::steer;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum EnvAction {
    /// Writes environments: one, a list, or those of a plan file. Health and state of one that is there stay
    /// as they are where the file does not name them
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
    /// Has environments checked now, at the urls that their checks name
    Check { environments: Vec<String> },
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
                catalog::put_all(&desk.client, &found.map_err(fail)?).await?;
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
        EnvAction::Check { environments } => return check(&environments, desk).await,
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

/// The exit code tells whether all are good.
async fn check(environments: &[String], desk: &Desk) -> Done {
    if environments.is_empty() {
        return Err(Trouble::Usage("no environment is named".into()));
    }
    let mut code = 0;
    for environment in environments {
        let found = steer::check(&desk.client, environment).await?;
        desk.show(&found, |found| {
            let (health, took) = (found.health.word(), found.duration_ms);
            match found.is_good {
                true => format!("{environment} answered in {took} ms; its health is {health}"),
                false => format!("{environment}: {}; its health is {health}", found.message),
            }
        });
        if !found.is_good {
            code = FAILED;
        }
    }
    Ok(code)
}

fn show(found: &[Environment]) -> String {
    let rows = found.iter().map(|environment| {
        let health = match environment.health {
            Health::Unknown => "",
            health => health.word(),
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
