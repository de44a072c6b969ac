//! `quoin compact`, `defrag`, `move-leader`, `downgrade` and `alarm`: what operators do now and
//! then.

use std::time::Instant;

use clap::{Args, Subcommand};

use super::Ignored;
use super::calls::{ALARM, COMPACT, DEFRAGMENT, DOWNGRADE, MOVE_LEADER, STATUS};
use super::client::Client;
use super::endpoint::{Servers, endpoints};
use super::failure::{ERROR, Failure};
use super::look::{say, warn};
use super::options::Options;
use super::show::Done;
use super::{go, password};
use crate::pb::etcdserverpb::alarm_request::AlarmAction as Asked;
use crate::pb::etcdserverpb::downgrade_request::DowngradeAction as Step;
use crate::pb::etcdserverpb::{
    AlarmRequest, AlarmResponse, CompactionRequest, DefragmentRequest, DowngradeRequest,
    MoveLeaderRequest, StatusRequest,
};

#[derive(Debug, Args)]
pub struct CompactArgs {
    /// The oldest revision that is kept
    #[arg(value_name = "REVISION")]
    args: Vec<String>,
    /// Wait until older revisions are removed from the disk
    #[arg(long)]
    physical: bool,
}

#[derive(Debug, Args)]
pub struct DefragArgs {
    /// Do it to all members of the cluster, not only --endpoints
    #[arg(long)]
    cluster: bool,
    #[command(flatten)]
    _ignored: Ignored,
}

#[derive(Debug, Args)]
pub struct MoveLeaderArgs {
    /// The member that is to lead, a hexadecimal number
    #[arg(value_name = "MEMBER")]
    args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum DowngradeAction {
    /// Tells whether the cluster could go back to VERSION
    Validate(VersionArgs),
    /// Prepares the cluster to go back to VERSION
    Enable(VersionArgs),
    /// Calls the preparation off
    Cancel(Ignored),
}

#[derive(Debug, Args)]
pub struct VersionArgs {
    /// The version, such as 3.6.0
    #[arg(value_name = "VERSION")]
    args: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum AlarmAction {
    /// Lists the alarms that are raised
    List(NoArgs),
    /// Takes all alarms back
    Disarm(NoArgs),
}

#[derive(Debug, Args)]
pub struct NoArgs {
    #[arg(hide = true)]
    args: Vec<String>,
}

pub(super) async fn compact(options: &Options, args: &CompactArgs) -> Result<(), Failure> {
    let [revision] = &args.args[..] else {
        return Err(Failure::args("compaction command needs 1 argument"));
    };
    let revision = go::parse_int(revision, 10).map_err(|why| Failure::new(ERROR, why))?;
    options.look()?;
    let request = CompactionRequest { revision, physical: args.physical };
    Client::short(options).await?.call(&COMPACT, request).await?;
    say(&format!("compacted revision {revision}"))
}

pub(super) async fn defrag(options: &Options, args: &DefragArgs) -> Result<(), Failure> {
    options.look()?;
    let user = password::user(options)?;
    let endpoints = endpoints(options, user.clone(), args.cluster).await?;
    let servers = Servers { options, user, endpoints };
    let mut is_done = true;
    for endpoint in &servers.endpoints {
        let client = servers.client(endpoint).await?;
        let started = Instant::now();
        let answer = client.call(&DEFRAGMENT, DefragmentRequest {}).await;
        let took = go::duration(started.elapsed());
        match answer {
            Ok(_) => {
                say(&format!("Finished defragmenting etcd member[{endpoint}]. took {took}"))?;
            }
            Err(status) => {
                let why = Failure::from(status);
                let what = format!("Failed to defragment etcd member[{endpoint}]. took {took}.");
                warn(&format!("{what} ({why})"));
                is_done = false;
            }
        }
    }
    if is_done { Ok(()) } else { Err(Failure::silent(ERROR)) }
}

/// Asks servers in turn who leads, for only the leader hands its part over.
pub(super) async fn move_leader(options: &Options, args: &MoveLeaderArgs) -> Result<(), Failure> {
    let [target] = &args.args[..] else {
        return Err(Failure::args("move-leader command needs 1 argument"));
    };
    let target_id = go::parse_uint(target, 16).map_err(Failure::args)?;
    let look = options.look()?;
    let user = password::user(options)?;
    let servers = Servers { options, user, endpoints: options.endpoints().await? };
    for endpoint in &servers.endpoints {
        let client = servers.client(endpoint).await?;
        let status = client.call(&STATUS, StatusRequest {}).await?;
        if status.header.is_none_or(|header| header.member_id != status.leader) {
            continue;
        }
        let answer = client.call(&MOVE_LEADER, MoveLeaderRequest { target_id }).await?;
        let leader = status.leader;
        return look.print(&Done {
            name: "MoveLeaderResponse",
            text: format!("Leadership transferred from {leader:x} to {target_id:x}\n"),
            fields: None,
            answer: &answer,
        });
    }
    let asked = go::list(&servers.endpoints);
    Err(Failure::args(format!("no leader endpoint given at {asked}")))
}

pub(super) async fn downgrade(options: &Options, action: &DowngradeAction) -> Result<(), Failure> {
    let (step, what, version) = match action {
        DowngradeAction::Validate(args) => (Step::Validate, "validate", args.version()?),
        DowngradeAction::Enable(args) => (Step::Enable, "enable", args.version()?),
        DowngradeAction::Cancel(_) => (Step::Cancel, "cancel", String::new()),
    };
    let look = options.look()?;
    let request = DowngradeRequest { action: step.into(), version };
    let answer = Client::short(options).await?.call(&DOWNGRADE, request).await?;
    look.print(&Done {
        name: "DowngradeResponse",
        text: format!("Downgrade {what} success, cluster version {}\n", answer.version),
        fields: None,
        answer: &answer,
    })
}

impl VersionArgs {
    fn version(&self) -> Result<String, Failure> {
        match &self.args[..] {
            [] => Err(Failure::args("TARGET_VERSION not provided")),
            [version] if version.is_empty() => Err(Failure::args("target version not provided")),
            [version] => Ok(version.clone()),
            _ => Err(Failure::args("too many arguments")),
        }
    }
}

pub(super) async fn alarm(options: &Options, action: &AlarmAction) -> Result<(), Failure> {
    let (name, args) = match action {
        AlarmAction::List(NoArgs { args }) => ("list", args),
        AlarmAction::Disarm(NoArgs { args }) => ("disarm", args),
    };
    if !args.is_empty() {
        return Err(Failure::args(format!("alarm {name} command accepts no arguments")));
    }
    let look = options.look()?;
    let client = Client::short(options).await?;
    let mut raised = client.call(&ALARM, request(Asked::Get, 0, 0)).await?;
    if let AlarmAction::Disarm(_) = action {
        let mut taken_back = AlarmResponse::default();
        // One by one: a server takes back one alarm of one member at a time.
        for alarm in raised.alarms {
            let request = request(Asked::Deactivate, alarm.member_id, alarm.alarm);
            taken_back.alarms.extend(client.call(&ALARM, request).await?.alarms);
        }
        raised = taken_back;
    }
    look.print(&raised)
}

fn request(action: Asked, member_id: u64, alarm: i32) -> AlarmRequest {
    AlarmRequest { action: action.into(), member_id, alarm }
}
