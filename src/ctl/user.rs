//! `quoin user`: who may ask.

use clap::{ArgAction, Args, Subcommand};

use super::calls::{
    ROLE_GET, USER_ADD, USER_CHANGE_PASSWORD, USER_DELETE, USER_GET, USER_GRANT_ROLE, USER_LIST,
    USER_REVOKE_ROLE,
};
use super::client::Client;
use super::failure::Failure;
use super::go;
use super::look::say;
use super::options::Options;
use super::password;
use super::show::{Done, Role};
use crate::pb::authpb::UserAddOptions;
use crate::pb::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGrantRoleRequest, AuthUserListRequest, AuthUserRevokeRoleRequest,
};

#[derive(Debug, Subcommand)]
pub enum UserAction {
    /// Adds a user, and asks for the password if it is not given
    Add(AddArgs),
    /// Deletes a user
    Delete(Words),
    /// Tells which roles a user has
    Get(GetArgs),
    /// Lists all users
    List(Words),
    /// Gives a user another password, and asks for it
    Passwd(PasswdArgs),
    /// Gives a user a role: USER ROLE
    GrantRole(Words),
    /// Takes a role from a user: USER ROLE
    RevokeRole(Words),
}

#[derive(Debug, Args)]
pub struct Words {
    /// The user's name, and a role's where one is needed
    #[arg(value_name = "NAME")]
    args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The user's name, or name:password
    #[arg(value_name = "USER")]
    args: Vec<String>,
    /// Ask for the password; with =false, it is the first word of standard input
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", action = ArgAction::Set, value_name = "BOOL",
          value_parser = go::parse_bool)]
    interactive: bool,
    /// The password
    #[arg(long, value_name = "PASSWORD", default_value = "", hide_default_value = true)]
    new_user_password: String,
    /// Let the user sign in by certificate alone
    #[arg(long)]
    no_password: bool,
}

#[derive(Debug, Args)]
pub struct PasswdArgs {
    /// The user's name
    #[arg(value_name = "USER")]
    args: Vec<String>,
    /// Ask for the password; with =false, it is the first word of standard input
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          default_value = "true", action = ArgAction::Set, value_name = "BOOL",
          value_parser = go::parse_bool)]
    interactive: bool,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The user's name
    #[arg(value_name = "USER")]
    args: Vec<String>,
    /// Tell what the user's roles permit
    #[arg(long)]
    detail: bool,
}

pub(super) async fn run(options: &Options, action: UserAction) -> Result<(), Failure> {
    match action {
        UserAction::Add(args) => add(options, &args).await,
        UserAction::Delete(Words { args }) => delete(options, &args).await,
        UserAction::Get(args) => get(options, &args).await,
        UserAction::List(Words { args }) => list(options, &args).await,
        UserAction::Passwd(args) => change_password(options, &args).await,
        UserAction::GrantRole(Words { args }) => grant_role(options, &args).await,
        UserAction::RevokeRole(Words { args }) => revoke_role(options, &args).await,
    }
}

impl AddArgs {
    /// Name and password.
    fn credentials(&self) -> Result<(String, String), Failure> {
        let [user] = &self.args[..] else {
            return Err(Failure::args("user add command requires user name as its argument"));
        };
        if self.no_password {
            return Ok((user.clone(), String::new()));
        }
        if !self.new_user_password.is_empty() {
            return Ok((user.clone(), self.new_user_password.clone()));
        }
        match user.split_once(':') {
            Some(("", _)) => Err(Failure::args("empty user name is not allowed")),
            Some((name, password)) => Ok((name.to_owned(), password.to_owned())),
            None if self.interactive => Ok((user.clone(), password::ask_twice(user)?)),
            None => Ok((user.clone(), password::from_stdin())),
        }
    }
}

async fn add(options: &Options, args: &AddArgs) -> Result<(), Failure> {
    let (name, password) = args.credentials()?;
    let look = options.look()?;
    let request = AuthUserAddRequest {
        name: name.clone(),
        password,
        options: Some(UserAddOptions { no_password: args.no_password }),
        hashed_password: String::new(),
    };
    let answer = Client::short(options).await?.call(&USER_ADD, request).await?;
    look.print(&Done {
        name: "AuthUserAddResponse",
        text: format!("User {name} created\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn delete(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [name] = args else {
        return Err(Failure::args("user delete command requires user name as its argument"));
    };
    let look = options.look()?;
    let request = AuthUserDeleteRequest { name: name.clone() };
    let answer = Client::short(options).await?.call(&USER_DELETE, request).await?;
    look.print(&Done {
        name: "AuthUserDeleteResponse",
        text: format!("User {name} deleted\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn get(options: &Options, args: &GetArgs) -> Result<(), Failure> {
    let [name] = &args.args[..] else {
        return Err(Failure::args("user get command requires user name as its argument"));
    };
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&USER_GET, AuthUserGetRequest { name: name.clone() }).await?;
    if !args.detail {
        let roles: String = answer.roles.iter().map(|role| format!(" {role}")).collect();
        return look.print(&Done {
            name: "AuthUserGetResponse",
            text: format!("User: {name}\nRoles:{roles}\n"),
            fields: None,
            answer: &answer,
        });
    }
    say(&format!("User: {name}"))?;
    for role in &answer.roles {
        say("")?;
        let answer = client.call(&ROLE_GET, AuthRoleGetRequest { role: role.clone() }).await?;
        look.print(&Role { name: role, answer: &answer })?;
    }
    Ok(())
}

async fn list(options: &Options, args: &[String]) -> Result<(), Failure> {
    if !args.is_empty() {
        return Err(Failure::args("user list command requires no arguments"));
    }
    let look = options.look()?;
    let answer = Client::short(options).await?.call(&USER_LIST, AuthUserListRequest {}).await?;
    let text = answer.users.iter().map(|user| format!("{user}\n")).collect();
    look.print(&Done { name: "AuthUserListResponse", text, fields: None, answer: &answer })
}

async fn change_password(options: &Options, args: &PasswdArgs) -> Result<(), Failure> {
    let [name] = &args.args[..] else {
        return Err(Failure::args("user passwd command requires user name as its argument"));
    };
    let password = match args.interactive {
        true => password::ask_twice(name)?,
        false => password::from_stdin(),
    };
    let look = options.look()?;
    let name = name.clone();
    let request = AuthUserChangePasswordRequest { name, password, hashed_password: String::new() };
    let answer = Client::short(options).await?.call(&USER_CHANGE_PASSWORD, request).await?;
    look.print(&Done {
        name: "AuthUserChangePasswordResponse",
        text: "Password updated\n".to_owned(),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn grant_role(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [user, role] = args else {
        return Err(Failure::args(
            "user grant command requires user name and role name as its argument",
        ));
    };
    let look = options.look()?;
    let request = AuthUserGrantRoleRequest { user: user.clone(), role: role.clone() };
    let answer = Client::short(options).await?.call(&USER_GRANT_ROLE, request).await?;
    look.print(&Done {
        name: "AuthUserGrantRoleResponse",
        text: format!("Role {role} is granted to user {user}\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn revoke_role(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [user, role] = args else {
        return Err(Failure::args(
            "user revoke-role requires user name and role name as its argument",
        ));
    };
    let look = options.look()?;
    let request = AuthUserRevokeRoleRequest { name: user.clone(), role: role.clone() };
    let answer = Client::short(options).await?.call(&USER_REVOKE_ROLE, request).await?;
    look.print(&Done {
        name: "AuthUserRevokeRoleResponse",
        text: format!("Role {role} is revoked from user {user}\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}
