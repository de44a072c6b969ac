//! `quoin member`: who belongs to the cluster.

use clap::{Args, Subcommand};
use std::fmt::Write as _;

use super::Ignored;
use super::calls::{MEMBER_ADD, MEMBER_LIST, MEMBER_PROMOTE, MEMBER_REMOVE, MEMBER_UPDATE};
use super::client::Client;
use super::failure::{ERROR, Failure};
use super::go::quote;
use super::keys;
use super::look::write;
use super::options::Options;
use super::show::Done;
use crate::pb::etcdserverpb::{
    MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest,
};

#[derive(Debug, Subcommand)]
pub enum MemberAction {
    /// Lists all members
    List(ListArgs),
    /// Adds a member, and prints the settings that it is started with
    Add(AddArgs),
    /// Gives a member other peer URLs
    Update(UpdateArgs),
    /// Turns a learner into a member that votes
    Promote(Words),
    /// Removes a member
    Remove(Words),
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// l: what a majority agrees on; s: what the asked member knows
    #[arg(long, default_value = "l", value_name = "l|s")]
    consistency: String,
    #[command(flatten)]
    _ignored: Ignored,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The new member's name
    #[arg(value_name = "NAME")]
    args: Vec<String>,
    /// Where the others reach it, separated by commas
    #[arg(long, value_name = "URLS", default_value = "", hide_default_value = true)]
    peer_urls: String,
    /// It learns first, and does not vote until it is promoted
    #[arg(long)]
    learner: bool,
}

#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The member's id, a hexadecimal number
    #[arg(value_name = "MEMBER")]
    args: Vec<String>,
    /// Where the others reach it, separated by commas
    #[arg(long, value_name = "URLS", default_value = "", hide_default_value = true)]
    peer_urls: String,
}

#[derive(Debug, Args)]
pub struct Words {
    /// The member's id, a hexadecimal number
    #[arg(value_name = "MEMBER")]
    args: Vec<String>,
}

impl Words {
    fn id(&self) -> Result<u64, Failure> {
        id(&self.args)
    }
}

fn id(args: &[String]) -> Result<u64, Failure> {
    match args {
        [id] => keys::member(id),
        _ => Err(Failure::args("member ID is not provided")),
    }
}

pub(super) async fn run(options: &Options, action: MemberAction) -> Result<(), Failure> {
    match action {
        MemberAction::List(args) => {
            let linearizable = !keys::is_serializable(&args.consistency)?;
            let look = options.look()?;
            let request = MemberListRequest { linearizable };
            look.print(&Client::short(options).await?.call(&MEMBER_LIST, request).await?)
        }
        MemberAction::Add(args) => add(options, &args).await,
        MemberAction::Update(args) => update(options, &args).await,
        MemberAction::Promote(words) => promote(options, words.id()?).await,
        MemberAction::Remove(words) => remove(options, words.id()?).await,
    }
}

/// # Errors
/// When there is none, or one that etcd's client does not send.
fn urls(given: &str) -> Result<Vec<String>, Failure> {
    if given.is_empty() {
        return Err(Failure::args("member peer urls not provided"));
    }
    let urls: Vec<String> = given.split(',').map(str::to_owned).collect();
    let is_url = |url: &&String| {
        ["http://", "https://", "unix://", "unixs://"].iter().any(|scheme| url.starts_with(scheme))
    };
    match urls.iter().find(|url| !is_url(url)) {
        None => Ok(urls),
        Some(url) => {
            let text = format!("URL scheme must be http, https, unix, or unixs: {url}");
            Err(Failure::new(ERROR, text))
        }
    }
}

async fn add(options: &Options, args: &AddArgs) -> Result<(), Failure> {
    let name = match &args.args[..] {
        [] => return Err(Failure::args("member name not provided")),
        [name] => name,
        many => {
            let is_url = |arg: &&String| arg.to_lowercase().starts_with("http");
            let hints: String = many
                .iter()
                .filter(is_url)
                .map(|url| format!(", did you mean --peer-urls={url}"))
                .collect();
            return Err(Failure::args(format!("too many arguments{hints}")));
        }
    };
    let request = MemberAddRequest { peer_ur_ls: urls(&args.peer_urls)?, is_learner: args.learner };
    let look = options.look()?;
    let answer = Client::short(options).await?.call(&MEMBER_ADD, request).await?;
    let added = answer.member.clone().unwrap_or_default();
    let cluster = answer.header.map_or(0, |header| header.cluster_id);
    let learner = if added.is_learner { " as learner " } else { " " };
    look.print(&Done {
        name: "MemberAddResponse",
        text: format!("Member {:16x} added{learner}to cluster {cluster:16x}\n", added.id),
        fields: None,
        answer: &answer,
    })?;
    if !look.is_simple() {
        return Ok(());
    }
    let mut initial = Vec::new();
    for member in &answer.members {
        let own = if member.id == added.id { name } else { &member.name };
        initial.extend(member.peer_ur_ls.iter().map(|url| format!("{own}={url}")));
    }
    let mut settings = String::from("\n");
    for (variable, value) in [
        ("NAME", name),
        ("INITIAL_CLUSTER", &initial.join(",")),
        ("INITIAL_ADVERTISE_PEER_URLS", &args.peer_urls),
        ("INITIAL_CLUSTER_STATE", &"existing".to_owned()),
    ] {
        let _infallible = writeln!(settings, "ETCD_{variable}={}", quote(value.as_bytes()));
    }
    write(settings.as_bytes())
}

async fn update(options: &Options, args: &UpdateArgs) -> Result<(), Failure> {
    let id = id(&args.args)?;
    let request = MemberUpdateRequest { id, peer_ur_ls: urls(&args.peer_urls)? };
    let look = options.look()?;
    let answer = Client::short(options).await?.call(&MEMBER_UPDATE, request).await?;
    let cluster = answer.header.map_or(0, |header| header.cluster_id);
    look.print(&Done {
        name: "MemberUpdateResponse",
        text: format!("Member {id:16x} updated in cluster {cluster:16x}\n"),
        fields: None,
        answer: &answer,
    })
}

async fn promote(options: &Options, id: u64) -> Result<(), Failure> {
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&MEMBER_PROMOTE, MemberPromoteRequest { id }).await?;
    let cluster = answer.header.map_or(0, |header| header.cluster_id);
    look.print(&Done {
        name: "MemberPromoteResponse",
        text: format!("Member {id:16x} promoted in cluster {cluster:16x}\n"),
        fields: None,
        answer: &answer,
    })
}

async fn remove(options: &Options, id: u64) -> Result<(), Failure> {
    let look = options.look()?;
    let client = Client::short(options).await?;
    let answer = client.call(&MEMBER_REMOVE, MemberRemoveRequest { id }).await?;
    let cluster = answer.header.map_or(0, |header| header.cluster_id);
    look.print(&Done {
        name: "MemberRemoveResponse",
        text: format!("Member {id:16x} removed from cluster {cluster:16x}\n"),
        fields: None,
        answer: &answer,
    })
}
