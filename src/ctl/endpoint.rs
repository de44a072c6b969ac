//! `quoin endpoint`: how single servers are, each asked by itself.

use std::time::Instant;

use clap::{Args, Subcommand};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::io::Write as _;

use super::Ignored;
use super::calls::{ALARM, HASH_KV, MEMBER_LIST, RANGE, STATUS};
use super::client::{Client, Patience, User};
use super::failure::{ERROR, Failure};
use super::json::message;
use super::kv::int;
use super::look::{Look, Show, warn};
use super::options::Options;
use super::show_kv::header;
use super::{go, password, table};
use crate::pb::etcdserverpb::{
    AlarmRequest, AlarmType, HashKvRequest, HashKvResponse, MemberListRequest, RangeRequest,
    StatusRequest, StatusResponse,
};

const DENIED: &str = "etcdserver: permission denied";

#[derive(Debug, Args)]
pub struct EndpointArgs {
    /// Ask all members of the cluster, not only --endpoints
    #[arg(long, global = true)]
    cluster: bool,
    #[command(subcommand)]
    action: EndpointAction,
}

#[derive(Debug, Subcommand)]
enum EndpointAction {
    /// Tells whether servers can answer with a majority behind them
    Health(Ignored),
    /// Tells what servers say of themselves: version, size, leader, progress
    Status(Ignored),
    /// Prints the hash of each server's keys and their past, to compare
    Hashkv(HashArgs),
}

#[derive(Debug, Args)]
struct HashArgs {
    /// Hash what is up to this revision; 0 is all
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    rev: i64,
    #[command(flatten)]
    _ignored: Ignored,
}

pub(super) async fn run(options: &Options, args: EndpointArgs) -> Result<(), Failure> {
    let look = options.look()?;
    let user = password::user(options)?;
    let endpoints = endpoints(options, user.clone(), args.cluster).await?;
    let servers = Servers { options, user, endpoints };
    match args.action {
        EndpointAction::Health(_) => servers.health(&look).await,
        EndpointAction::Status(_) => servers.status(&look).await,
        EndpointAction::Hashkv(HashArgs { rev, .. }) => servers.hash(&look, rev).await,
    }
}

/// The servers of `--endpoints`, or all that members name as their own.
pub(super) async fn endpoints(
    options: &Options,
    user: Option<User>,
    of_cluster: bool,
) -> Result<Vec<String>, Failure> {
    let given = options.endpoints().await?;
    if !of_cluster {
        return Ok(given);
    }
    let patience = Patience::of(options.command_timeout());
    let client = Client::of(given, options, user, patience).await;
    let client = client.map_err(|failure| failure.with_code(ERROR))?;
    let answer = client.call(&MEMBER_LIST, MemberListRequest { linearizable: true }).await;
    let answer = answer.map_err(|status| {
        let text = Failure::from(status).to_string();
        let what = "failed to fetch endpoints from etcd cluster member list";
        Failure::new(ERROR, format!("{what}: {text}"))
    })?;
    Ok(answer.members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

/// Servers to ask one by one.
pub(super) struct Servers<'o> {
    pub(super) options: &'o Options,
    pub(super) user: Option<User>,
    pub(super) endpoints: Vec<String>,
}

impl Servers<'_> {
    /// A client of one of them, with a command's whole time.
    pub(super) async fn client(&self, endpoint: &str) -> Result<Client, Failure> {
        let endless = Patience::Endless;
        let (endpoints, user) = (vec![endpoint.to_owned()], self.user.clone());
        let client = Client::of(endpoints, self.options, user, endless).await?;
        Ok(client.with_patience(Patience::of(self.options.command_timeout())))
    }

    async fn health(&self, look: &Look) -> Result<(), Failure> {
        let asking = self.endpoints.iter().map(|endpoint| self.health_of(endpoint));
        let healths = Healths(join_all(asking).await);
        look.print(&healths)?;
        match healths.0.iter().any(|health| !health.error.is_empty()) {
            true => Err(Failure::new(ERROR, "unhealthy cluster")),
            false => Ok(()),
        }
    }

    async fn health_of(&self, endpoint: &str) -> Health {
        let mut health = Health { endpoint: endpoint.to_owned(), ..Health::default() };
        let client = match self.client(endpoint).await {
            Ok(client) => client,
            Err(failure) => {
                health.error = failure.to_string();
                return health;
            }
        };
        let started = Instant::now();
        let request = RangeRequest { key: "health".into(), ..RangeRequest::default() };
        let answer = client.call(&RANGE, request).await;
        health.took = go::duration(started.elapsed());
        // Who may not read it has had an answer from a majority all the same.
        if let Err(status) = answer
            && status.message() != DENIED
        {
            health.error = Failure::from(status).to_string();
            return health;
        }
        health.error = match client.call(&ALARM, AlarmRequest::default()).await {
            Err(_) => "Unable to fetch the alarm list".to_owned(),
            Ok(answer) if answer.alarms.is_empty() => String::new(),
            Ok(answer) => {
                let name = |alarm: AlarmType| match alarm {
                    AlarmType::Nospace => "NOSPACE ",
                    AlarmType::Corrupt => "CORRUPT ",
                    AlarmType::None => "UNKNOWN ",
                };
                let names: String = answer.alarms.iter().map(|each| name(each.alarm())).collect();
                format!("Active Alarm(s): {names}")
            }
        };
        health
    }

    async fn status(&self, look: &Look) -> Result<(), Failure> {
        let mut statuses = Statuses(Vec::new());
        let mut is_whole = true;
        for endpoint in &self.endpoints {
            match self.client(endpoint).await?.call(&STATUS, StatusRequest {}).await {
                Ok(status) => statuses.0.push((endpoint.clone(), status)),
                Err(status) => {
                    let why = Failure::from(status);
                    warn(&format!("Failed to get the status of endpoint {endpoint} ({why})"));
                    is_whole = false;
                }
            }
        }
        look.print(&statuses)?;
        if is_whole { Ok(()) } else { Err(Failure::silent(ERROR)) }
    }

    async fn hash(&self, look: &Look, revision: i64) -> Result<(), Failure> {
        let mut hashes = Hashes(Vec::new());
        let mut last = Ok(());
        for endpoint in &self.endpoints {
            let request = HashKvRequest { revision };
            match self.client(endpoint).await?.call(&HASH_KV, request).await {
                Ok(hash) => hashes.0.push((endpoint.clone(), hash)),
                Err(status) => {
                    let why = Failure::from(status);
                    warn(&format!("Failed to get the hash of endpoint {endpoint} ({why})"));
                    last = Err(why);
                }
            }
        }
        look.print(&hashes)?;
        last
    }
}

#[derive(Default)]
struct Health {
    endpoint: String,
    took: String,
    /// Empty if it is well.
    error: String,
}

struct Healths(Vec<Health>);

impl Show for Healths {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        for Health { endpoint, took, error } in &self.0 {
            match &error[..] {
                "" => put!(
                    out,
                    "{endpoint} is healthy: successfully committed proposal: took = {took}\n"
                ),
                error => {
                    warn(&format!("{endpoint} is unhealthy: failed to commit proposal: {error}"));
                }
            }
        }
    }

    fn fields(&self, _look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for Health { endpoint, took, error } in &self.0 {
            put!(out, "\"Endpoint\" : {}\n", go::quote(endpoint.as_bytes()));
            put!(out, "\"Health\" : {}\n\"Took\" : {took}\n", error.is_empty());
            put!(out, "\"Error\" : {error}\n\n");
        }
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        let one = |health: &Health| {
            let Health { endpoint, took, error } = health;
            let is_well = error.is_empty();
            let mut value = json!({"endpoint": endpoint, "health": is_well, "took": took});
            if !is_well {
                value["error"] = Value::from(error.as_str());
            }
            value
        };
        Some(self.0.iter().map(one).collect())
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }

    fn table(&self) -> Option<String> {
        let row = |health: &Health| {
            let Health { endpoint, took, error } = health;
            vec![endpoint.clone(), error.is_empty().to_string(), took.clone(), error.clone()]
        };
        let rows: Vec<_> = self.0.iter().map(row).collect();
        Some(table::render(&["endpoint", "health", "took", "error"], &rows))
    }
}

struct Statuses(Vec<(String, StatusResponse)>);

impl Statuses {
    fn rows(&self) -> Vec<Vec<String>> {
        let size = |bytes: i64| crate::describe::size(u64::try_from(bytes).unwrap_or_default());
        let row = |(endpoint, status): &(String, StatusResponse)| {
            let id = status.header.map_or(0, |header| header.member_id);
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            // A server with no file at all has nothing unused.
            let used = (status.db_size_in_use * 100).checked_div(status.db_size).unwrap_or(100);
            vec![
                endpoint.clone(),
                format!("{id:x}"),
                status.version.clone(),
                status.storage_version.clone(),
                size(status.db_size),
                size(status.db_size_in_use),
                format!("{}%", 100 - used),
                size(status.db_size_quota),
                (status.leader == id).to_string(),
                status.is_learner.to_string(),
                status.raft_term.to_string(),
                status.raft_index.to_string(),
                status.raft_applied_index.to_string(),
                status.errors.join(", "),
                downgrade.target_version,
                downgrade.enabled.to_string(),
            ]
        };
        self.0.iter().map(row).collect()
    }
}

impl Show for Statuses {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        self.rows().iter().for_each(|row| put!(out, "{}\n", row.join(", ")));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let text = |text: &str| go::quote(text.as_bytes());
        for (endpoint, status) in &self.0 {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            header(look, status.header.as_ref(), &mut out);
            for (name, value) in [
                ("Version", text(&status.version)),
                ("StorageVersion", text(&status.storage_version)),
                ("DBSize", status.db_size.to_string()),
                ("DBSizeInUse", status.db_size_in_use.to_string()),
                ("DBSizeQuota", status.db_size_quota.to_string()),
                ("Leader", status.leader.to_string()),
                ("IsLearner", status.is_learner.to_string()),
                ("RaftIndex", status.raft_index.to_string()),
                ("RaftTerm", status.raft_term.to_string()),
                ("RaftAppliedIndex", status.raft_applied_index.to_string()),
                ("Errors", go::list(&status.errors)),
                ("Endpoint", text(endpoint)),
                ("DowngradeTargetVersion", text(&downgrade.target_version)),
                ("DowngradeEnabled", downgrade.enabled.to_string()),
            ] {
                put!(out, "\"{name}\" : {value}\n");
            }
            put!(out, "\n");
        }
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        let one = |(endpoint, status): &(String, StatusResponse)| json!({"Endpoint": endpoint, "Status": message("StatusResponse", status)});
        Some(null_if_empty(self.0.iter().map(one).collect()))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }

    fn table(&self) -> Option<String> {
        let titles = [
            "endpoint",
            "ID",
            "version",
            "storage version",
            "db size",
            "in use",
            "percentage not in use",
            "quota",
            "is leader",
            "is learner",
            "raft term",
            "raft index",
            "raft applied index",
            "errors",
            "downgrade target version",
            "downgrade enabled",
        ];
        Some(table::render(&titles, &self.rows()))
    }
}

struct Hashes(Vec<(String, HashKvResponse)>);

impl Hashes {
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(endpoint, hash): &(String, HashKvResponse)| {
            vec![endpoint.clone(), hash.hash.to_string(), hash.hash_revision.to_string()]
        };
        self.0.iter().map(row).collect()
    }
}

impl Show for Hashes {
    fn simple(&self, _look: &Look, out: &mut Vec<u8>) {
        self.rows().iter().for_each(|row| put!(out, "{}\n", row.join(", ")));
    }

    fn fields(&self, look: &Look) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        for (endpoint, hash) in &self.0 {
            header(look, hash.header.as_ref(), &mut out);
            put!(out, "\"Endpoint\" : {}\n", go::quote(endpoint.as_bytes()));
            put!(out, "\"Hash\" : {}\n\"HashRevision\" : {}\n\n", hash.hash, hash.hash_revision);
        }
        Some(out)
    }

    fn json(&self, _look: &Look) -> Option<Value> {
        let one = |(endpoint, hash): &(String, HashKvResponse)| json!({"Endpoint": endpoint, "HashKV": message("HashKVResponse", hash)});
        Some(null_if_empty(self.0.iter().map(one).collect()))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }

    fn table(&self) -> Option<String> {
        Some(table::render(&["endpoint", "hash", "hash_revision"], &self.rows()))
    }
}

/// Go's form of a list in which nothing was put.
fn null_if_empty(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { Value::Array(list) }
}
