//! `quoin env`: where cases run.

use super::FAILED;
use super::desk::{Desk, Done, Trouble, count_of, json, read, say, table};
use super::places::Places;
use crate::scheduler::catalog::{self, Written};
use crate::scheduler::checks::check_places;
use crate::scheduler::execute::{Rule, Targets};
use crate::scheduler::model::{Environment, Health, Refusal};
use crate::scheduler::plan_file::{self, Given};
use crate::scheduler::steer;
use clap::Subcommand;
use serde_json::{Value, json as value};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum EnvAction {
    /// Writes environments: one, a list, or those of a plan file. Health and state of one that is there stay
    /// as they are where the file does not name them
    Put {
        /// YAML or JSON; - is standard input
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Give a variable of the file another value: name=value
        #[arg(long = "set", value_parser = super::submits::assignment)]
        variables: Vec<(String, String)>,
        /// Let an environment name a link-local or reserved target: address or network
        #[arg(long = "allow-target")]
        allow_targets: Vec<Rule>,
    },
    /// Prints an environment
    Get { environment: String },
    /// Lists environments
    Ls,
    /// Deletes environments; runs keep their copies
    Rm {
        #[arg(required = true)]
        environments: Vec<String>,
    },
    /// Has environments checked now, at the urls that their checks name; exits with 1 if one is not good
    Check {
        #[arg(required = true)]
        environments: Vec<String>,
    },
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
        EnvAction::Put { files, variables, allow_targets } => {
            let (mut given, mut places) = (Vec::new(), Places::default());
            for file in files {
                let fail = |error| Trouble::Usage(format!("{}: {error}", file.display()));
                let found = plan_file::environments(&read(&file)?, &variables).map_err(fail)?;
                places.add(&file, &found);
                given.extend(found);
            }
            let written = put(desk, &given, allow_targets).await;
            let written = written.map_err(|trouble| places.locate(trouble))?;
            desk.show(&value!({"environments": written}), |_| {
                count_of(written.len(), "environment")
            });
        }
        EnvAction::Get { environment } => {
            let found = catalog::get::<Environment>(&desk.client, &environment).await?;
            say(&json(&found));
        }
        EnvAction::Ls => {
            let fits = |found: &Environment| !found.is_deleted;
            let found = catalog::all(&desk.client, fits).await?;
            let found: Vec<Environment> = found.into_iter().map(|s| s.value).collect();
            desk.show(&found, |found| show(found));
        }
        EnvAction::Rm { environments } => {
            let deleted = catalog::delete_all::<Environment>(&desk.client, &environments).await?;
            desk.tell(&value!({"deleted": deleted}));
        }
        EnvAction::Check { environments } => return check(&environments, desk).await,
        EnvAction::Maintenance { environment, reason, end } => {
            let (health, reason) = match end {
                true => (Health::Unknown, String::new()),
                false => (Health::Maintenance, reason),
            };
            let changed =
                catalog::change::<Environment>(&desk.client, &environment, None, |before| {
                    let unknown =
                        || Refusal::new(404, format!("unknown environment {environment}"));
                    let before = before.ok_or_else(unknown)?.clone();
                    Ok(Environment { health, health_reason: reason.clone(), ..before })
                })
                .await?;
            desk.tell(&value!({
                "environment": environment, "health": changed.value.health,
                "health_reason": changed.value.health_reason, "version": changed.version,
            }));
        }
    }
    Ok(0)
}

async fn put(
    desk: &Desk,
    given: &[Given<Environment>],
    allowed: Vec<Rule>,
) -> Result<Vec<Written>, Trouble> {
    check_all(given, allowed)?;
    Ok(catalog::put_all(&desk.client, given).await?)
}

/// That all are fine by themselves, and name nothing that must not be called.
pub(super) fn check_all(given: &[Given<Environment>], allowed: Vec<Rule>) -> Result<(), Refusal> {
    let targets = Targets { allowed, ..Targets::default() };
    for Given { value, .. } in given {
        value.check()?;
        let about = |refusal: Refusal| refusal.about("environment", &value.id);
        check_places(value, &targets).map_err(about)?;
    }
    Ok(())
}

/// The exit code tells whether all are good.
async fn check(environments: &[String], desk: &Desk) -> Done {
    let (mut checked, mut code) = (Vec::new(), 0);
    for environment in environments {
        let found = steer::check(&desk.client, environment).await?;
        if !found.is_good {
            code = FAILED;
        }
        if !desk.wants_json {
            let (health, took) = (found.health.word(), found.duration_ms);
            say(&match found.is_good {
                true => format!("{environment} answered in {took} ms; its health is {health}"),
                false => format!("{environment}: {}; its health is {health}", found.message),
            });
        }
        let mut shown = value!(found);
        shown["environment"] = environment.as_str().into();
        checked.push(shown);
    }
    desk.tell(&Value::from(checked));
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
            environment.state.word().to_owned(),
            environment.state_reason.clone(),
            health.to_owned(),
            environment.health_reason.clone(),
        ]
    });
    let titles =
        ["environment", "capacity", "labels", "state", "its reason", "health", "its reason"];
    table(titles, rows.collect())
}
