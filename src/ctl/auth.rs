//! `quoin auth`: the switch that makes users and roles count.

use clap::{Args, Subcommand};

use super::calls::{AUTH_DISABLE, AUTH_ENABLE, AUTH_STATUS, ROLE_ADD, USER_GRANT_ROLE};
use super::client::Client;
use super::failure::Failure;
use super::look::say;
use super::options::Options;
use super::show::Done;
use crate::pb::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest,
    AuthUserGrantRoleRequest,
};

const ROOT: &str = "root";
/// What a server says that misses the role of the user root.
const NO_ROOT_ROLE: &str = "etcdserver: root user does not have root role";

#[derive(Debug, Subcommand)]
pub enum AuthAction {
    /// Turns authentication on; there must be a user root
    Enable(NoArgs),
    /// Turns authentication off
    Disable(NoArgs),
    /// Tells whether authentication is on
    Status(NoArgs),
}

#[derive(Debug, Args)]
pub struct NoArgs {
    #[arg(hide = true)]
    args: Vec<String>,
}

pub(super) async fn run(options: &Options, action: AuthAction) -> Result<(), Failure> {
    let (name, args) = match &action {
        AuthAction::Enable(NoArgs { args }) => ("enable", args),
        AuthAction::Disable(NoArgs { args }) => ("disable", args),
        AuthAction::Status(NoArgs { args }) => ("status", args),
    };
    if !args.is_empty() {
        let text = format!("auth {name} command does not accept any arguments");
        return Err(Failure::args(text));
    }
    let look = options.look()?;
    let client = Client::short(options).await?;
    match action {
        AuthAction::Enable(_) => {
            enable(&client).await?;
            say("Authentication Enabled")
        }
        AuthAction::Disable(_) => {
            client.call(&AUTH_DISABLE, AuthDisableRequest {}).await?;
            say("Authentication Disabled")
        }
        AuthAction::Status(_) => {
            let answer = client.call(&AUTH_STATUS, AuthStatusRequest {}).await?;
            let (is_on, revision) = (answer.enabled, answer.auth_revision);
            look.print(&Done {
                name: "AuthStatusResponse",
                text: format!("Authentication Status: {is_on}\nAuthRevision: {revision}\n"),
                fields: None,
                answer: &answer,
            })
        }
    }
}

/// Turns it on; gives the user root its role first, where it has none.
async fn enable(client: &Client) -> Result<(), Failure> {
    let Err(status) = client.call(&AUTH_ENABLE, AuthEnableRequest {}).await else { return Ok(()) };
    if status.message() != NO_ROOT_ROLE {
        return Err(status.into());
    }
    client.call(&ROLE_ADD, AuthRoleAddRequest { name: ROOT.to_owned() }).await?;
    let (user, role) = (ROOT.to_owned(), ROOT.to_owned());
    client.call(&USER_GRANT_ROLE, AuthUserGrantRoleRequest { user, role }).await?;
    client.call(&AUTH_ENABLE, AuthEnableRequest {}).await?;
    Ok(())
}
