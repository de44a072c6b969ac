//! Runs the steps of scenario.json with the crate `etcd-client` and writes one line for each.
//!
//! usage: scenario SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]
//!
//! What differs between two runs is written by name: revisions count from the first one seen,
//! leases and added members go by the names that the scenario gives them. An argument that a
//! step leaves out reads as empty, zero or false.

#![allow(clippy::print_stdout, reason = "what it prints is its purpose")]

mod cluster;
mod keys;
mod people;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds each call; all of them answer at once from a healthy cluster.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same for a client whom no server may answer.
const SHORT_PATIENCE: Duration = Duration::from_secs(4);

type Outcome = Result<String, Failure>;

/// Why a step came to nothing.
enum Failure {
    Refused(Error),
    /// The client has no call for it.
    Skipped(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Refused(error)
    }
}

/// One step with its arguments.
struct Step(Value);

impl Step {
    fn text(&self, name: &str) -> String {
        self.0[name].as_str().unwrap_or_default().to_owned()
    }

    fn number(&self, name: &str) -> i64 {
        self.0[name].as_i64().unwrap_or_default()
    }

    fn has(&self, name: &str) -> bool {
        !matches!(self.0[name], Value::Null | Value::Bool(false))
    }

    fn list(&self, name: &str) -> &[Value] {
        self.0[name].as_array().map_or(&[], Vec::as_slice)
    }
}

/// The texts of an authority's certificate, and of a certificate and its key.
#[derive(Clone)]
struct Tls {
    authority: String,
    certificate: String,
    key: String,
}

impl Tls {
    fn options(&self, trusts: bool, shows: bool) -> TlsOptions {
        let mut options = TlsOptions::new();
        if trusts {
            options = options.ca_certificate(Certificate::from_pem(&self.authority));
        }
        if shows {
            options = options.identity(Identity::from_pem(&self.certificate, &self.key));
        }
        options
    }
}

async fn connect(
    endpoint: &str,
    tls: Option<&Tls>,
    options: ConnectOptions,
) -> Result<Client, Error> {
    let options = match tls {
        Some(tls) => options.with_tls(tls.options(true, true)),
        None => options,
    };
    Client::connect([endpoint], Some(options)).await
}

struct Runner {
    endpoints: Vec<String>,
    tls: Option<Tls>,
    client: Client,
    base: i64,
    leases: BTreeMap<String, i64>,
    members: BTreeMap<String, u64>,
    locks: BTreeMap<String, Vec<u8>>,
    elections: BTreeMap<String, etcd_client::LeaderKey>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (file, endpoints, tls) = match &arguments[..] {
        [file, endpoints] => (file, endpoints, None),
        [file, endpoints, files @ ..] if files.len() == 3 => {
            let text = |index: usize| std::fs::read_to_string(&files[index]);
            let tls = Tls { authority: text(0)?, certificate: text(1)?, key: text(2)? };
            (file, endpoints, Some(tls))
        }
        _ => return Err("usage: scenario SCENARIO ENDPOINT[,ENDPOINT...] [CA CERT KEY]".into()),
    };
    let scenario: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
    let mut client = connect(&endpoints[0], tls.as_ref(), ConnectOptions::new()).await?;
    let first = client.get("nothing", None).await?;
    let mut runner = Runner {
        base: first.header().map_or(0, |header| header.revision()),
        endpoints,
        tls,
        client,
        // A lease that nobody granted.
        leases: BTreeMap::from([("nonexistent".to_owned(), 0x7abc)]),
        members: BTreeMap::new(),
        locks: BTreeMap::new(),
        elections: BTreeMap::new(),
    };
    for (index, step) in scenario["steps"].as_array().ok_or("no steps")?.iter().enumerate() {
        let step = Step(step.clone());
        let outcome = runner.outcome(&step).await;
        println!("{} {}: {outcome}", index + 1, step.text("do"));
    }
    Ok(())
}

impl Runner {
    async fn connect(&self, endpoint: &str, options: ConnectOptions) -> Result<Client, Error> {
        connect(endpoint, self.tls.as_ref(), options).await
    }

    /// Whether a client is served that may lack trust or a certificate; how it says that it is not
    /// depends on when it hears of it.
    async fn dial(&self, step: &Step) -> Outcome {
        let Some(tls) = &self.tls else {
            return Err(Failure::Skipped("there are no certificates".to_owned()));
        };
        let tls = tls.options(step.has("trusts"), step.has("shows"));
        let options = ConnectOptions::new().with_tls(tls).with_timeout(SHORT_PATIENCE);
        let read = async {
            let mut client = Client::connect([&self.endpoints[0]], Some(options)).await?;
            client.get(step.text("key"), None).await
        };
        let served =
            tokio::time::timeout(SHORT_PATIENCE, read).await.is_ok_and(|read| read.is_ok());
        Ok(if served { "served" } else { "refused" }.to_owned())
    }

    async fn outcome(&mut self, step: &Step) -> String {
        let (client, own) = match step.0["as"].as_str().and_then(|user| user.split_once(':')) {
            None => (self.client.clone(), None),
            // A client for each step: it authenticates anew, with today's rights.
            Some((name, password)) => {
                let options = ConnectOptions::new().with_user(name, password);
                match self.connect(&self.endpoints[0], options).await {
                    Ok(client) => (client.clone(), Some(client)),
                    Err(error) => return format!("cannot connect: {}", describe(&error)),
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, self.carry_out(step, client)).await;
        drop(own);
        let text = match ended {
            Err(_) => "no answer".to_owned(),
            Ok(Ok(text)) => text,
            Ok(Err(Failure::Skipped(why))) => format!("SKIPPED {why}"),
            Ok(Err(Failure::Refused(error))) => describe(&error),
        };
        self.named(text)
    }

    async fn carry_out(&mut self, step: &Step, client: Client) -> Outcome {
        let name = step.text("do");
        match name.split('_').next().unwrap_or_default() {
            "put" | "get" | "del" | "compact" | "txn" | "watch" => self.key(step, client).await,
            "lease" => self.lease_call(step, client).await,
            "lock" => self.lock(step, client).await,
            "election" => self.election(step, client).await,
            "auth" | "role" | "user" => self.auth(step, client).await,
            "member" => self.member(step, client).await,
            "dial" => self.dial(step).await,
            _ => self.maintenance(step, client).await,
        }
    }

    fn no_call<T>(&self) -> Result<T, Failure> {
        Err(Failure::Skipped("etcd-client has no call for it".to_owned()))
    }

    /// Names for lease ids, as they stand in keys of locks and elections and in errors: whole
    /// words, for a short id may stand within a longer one.
    fn named(&self, text: String) -> String {
        let parts = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
        let named = parts.map(|part| {
            let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_word = |id: i64| word == format!("{id:x}") || word == id.to_string();
            match self.leases.iter().find(|(_, id)| is_word(**id)) {
                Some((name, _)) => format!("<{name}>{}", &part[word.len()..]),
                None => part.to_owned(),
            }
        });
        named.collect()
    }

    fn revision(&self, revision: i64) -> String {
        match revision {
            0 => "0".to_owned(),
            _ => format!("{:+}", revision - self.base),
        }
    }

    fn of(&self, header: Option<&etcd_client::ResponseHeader>) -> String {
        self.revision(header.map_or(0, |header| header.revision()))
    }

    /// The store's revision for one of the scenario's.
    fn absolute(&self, revision: i64) -> i64 {
        if revision == 0 { 0 } else { self.base + revision }
    }

    fn lease(&self, id: i64) -> String {
        let known = self.leases.iter().find(|(_, known)| **known == id);
        known.map_or(id.to_string(), |(name, _)| format!("<{name}>"))
    }

    fn id_of(&self, lease: &str) -> Result<i64, Failure> {
        let missing = || Failure::Skipped(format!("etcd-client has no lease {lease}"));
        self.leases.get(lease).copied().ok_or_else(missing)
    }
}

fn describe(error: &Error) -> String {
    match error {
        Error::GRpcStatus(status) => format!("{:?}: {}", status.code(), status.message()),
        other => other.to_string(),
    }
}

/// The first key behind all that start with this one, which ends in ASCII.
fn prefix_end(key: &str) -> Vec<u8> {
    let mut end = key.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
