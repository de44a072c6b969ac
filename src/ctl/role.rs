//! `quoin role`: what those who have a role may read and write.

use clap::{Args, Subcommand};

use super::calls::{
    ROLE_ADD, ROLE_DELETE, ROLE_GET, ROLE_GRANT_PERMISSION, ROLE_LIST, ROLE_REVOKE_PERMISSION,
};
use super::client::Client;
use super::failure::Failure;
use super::keys::{OPEN_END, end_of_prefix};
use super::options::Options;
use super::show::{Done, Role};
use crate::pb::authpb::Permission;
use crate::pb::authpb::permission::Type;
use crate::pb::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGrantPermissionRequest,
    AuthRoleListRequest, AuthRoleRevokePermissionRequest,
};

#[derive(Debug, Subcommand)]
pub enum RoleAction {
    /// Adds a role, which permits nothing yet
    Add(Words),
    /// Deletes a role
    Delete(Words),
    /// Tells what a role permits
    Get(Words),
    /// Lists all roles
    List(Words),
    /// Permits keys to a role: ROLE read|write|readwrite KEY [RANGE_END]
    GrantPermission(PermissionArgs),
    /// Takes the permission of keys from a role: ROLE KEY [RANGE_END]
    RevokePermission(PermissionArgs),
}

#[derive(Debug, Args)]
pub struct Words {
    /// The role's name
    #[arg(value_name = "ROLE")]
    args: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PermissionArgs {
    /// The role, and for a grant read, write or readwrite; then the key, and where a range ends
    #[arg(value_name = "ROLE [PERMISSION] KEY [RANGE_END]")]
    args: Vec<String>,
    /// All keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// KEY and all keys behind it, in the order of bytes
    #[arg(long)]
    from_key: bool,
}

pub(super) async fn run(options: &Options, action: RoleAction) -> Result<(), Failure> {
    match action {
        RoleAction::Add(Words { args }) => add(options, &args).await,
        RoleAction::Delete(Words { args }) => delete(options, &args).await,
        RoleAction::Get(Words { args }) => get(options, &args).await,
        RoleAction::List(Words { args }) => {
            if !args.is_empty() {
                return Err(Failure::args("role list command requires no arguments"));
            }
            let look = options.look()?;
            let client = Client::short(options).await?;
            look.print(&client.call(&ROLE_LIST, AuthRoleListRequest {}).await?)
        }
        RoleAction::GrantPermission(args) => grant(options, &args).await,
        RoleAction::RevokePermission(args) => revoke(options, &args).await,
    }
}

async fn add(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [name] = args else {
        return Err(Failure::args("role add command requires role name as its argument"));
    };
    let look = options.look()?;
    let request = AuthRoleAddRequest { name: name.clone() };
    let answer = Client::short(options).await?.call(&ROLE_ADD, request).await?;
    look.print(&Done {
        name: "AuthRoleAddResponse",
        text: format!("Role {name} created\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn delete(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [role] = args else {
        return Err(Failure::args("role delete command requires role name as its argument"));
    };
    let look = options.look()?;
    let request = AuthRoleDeleteRequest { role: role.clone() };
    let answer = Client::short(options).await?.call(&ROLE_DELETE, request).await?;
    look.print(&Done {
        name: "AuthRoleDeleteResponse",
        text: format!("Role {role} deleted\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

async fn get(options: &Options, args: &[String]) -> Result<(), Failure> {
    let [name] = args else {
        return Err(Failure::args("role get command requires role name as its argument"));
    };
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&ROLE_GET, AuthRoleGetRequest { role: name.clone() }).await?;
    look.print(&Role { name, answer: &answer })
}

async fn grant(options: &Options, args: &PermissionArgs) -> Result<(), Failure> {
    let [name, kind, keys @ ..] = &args.args[..] else { return Err(few_for_grant()) };
    if keys.is_empty() {
        return Err(few_for_grant());
    }
    let kind = match kind.to_uppercase().as_str() {
        "READ" => Type::Read,
        "WRITE" => Type::Write,
        "READWRITE" => Type::Readwrite,
        _ => return Err(Failure::args(format!("invalid permission type: {kind}"))),
    };
    let (key, range_end) = args.range(keys)?;
    let look = options.look()?;
    let permission =
        Permission { perm_type: kind.into(), key: key.into(), range_end: range_end.into() };
    let request = AuthRoleGrantPermissionRequest { name: name.clone(), perm: Some(permission) };
    let answer = Client::short(options).await?.call(&ROLE_GRANT_PERMISSION, request).await?;
    look.print(&Done {
        name: "AuthRoleGrantPermissionResponse",
        text: format!("Role {name} updated\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

fn few_for_grant() -> Failure {
    Failure::args(
        "role grant command requires role name, permission type, and key [endkey] as its argument",
    )
}

async fn revoke(options: &Options, args: &PermissionArgs) -> Result<(), Failure> {
    let few = "role revoke-permission command requires role name and key [endkey] as its argument";
    let [role, given, ..] = &args.args[..] else { return Err(Failure::args(few)) };
    let (key, end) = args.range(&args.args[1..])?;
    let look = options.look()?;
    let request = AuthRoleRevokePermissionRequest {
        role: role.clone(),
        key: key.into(),
        range_end: end.clone().into(),
    };
    let answer = Client::short(options).await?.call(&ROLE_REVOKE_PERMISSION, request).await?;
    let what = match &end[..] {
        b"" => format!("key {given}"),
        OPEN_END => format!("range [{given}, <open ended>"),
        end => format!("range [{given}, {})", String::from_utf8_lossy(end)),
    };
    look.print(&Done {
        name: "AuthRoleRevokePermissionResponse",
        text: format!("Permission of {what} is revoked from role {role}\n"),
        fields: Some(answer.header),
        answer: &answer,
    })
}

impl PermissionArgs {
    /// The key and where its range ends.
    fn range(&self, keys: &[String]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let key = keys[0].clone().into_bytes();
        let both = "--from-key and --prefix flags are mutually exclusive";
        match (self.prefix, self.from_key, keys.get(1)) {
            (true, true, None) => Err(Failure::args(both)),
            (true, true, _) if key.is_empty() => Err(Failure::args(both)),
            (true, ..) | (_, true, _) if key.is_empty() => {
                Ok((OPEN_END.to_vec(), OPEN_END.to_vec()))
            }
            // Permissions have no empty key; and of a range that begins with it, no end is taken.
            _ if key.is_empty() => Ok((OPEN_END.to_vec(), Vec::new())),
            (true, _, Some(_)) => {
                Err(Failure::args("unexpected endkey argument with --prefix flag"))
            }
            (_, true, Some(_)) => {
                Err(Failure::args("unexpected endkey argument with --from-key flag"))
            }
            (_, _, Some(end)) => Ok((key, end.clone().into_bytes())),
            (true, _, None) => {
                let end = end_of_prefix(&key);
                Ok((key, end))
            }
            (_, true, None) => Ok((key, OPEN_END.to_vec())),
            (false, false, None) => Ok((key, Vec::new())),
        }
    }
}
