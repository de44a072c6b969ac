//! The scheduler's services over HTTP: test cases, environments, runs, results, reports, workers, tags
//! and queues as REST with JSON under `/v1/`, and the page.
//!
//! Every scheduler process serves, whether it leads or not: all that is told comes from the store, and
//! all that is changed is changed there. What is served runs beside the leader on a thread of its own,
//! so that a slow reader or a long list holds no decision up.
//!
//! Users are the store's: a call that shows one is done with that user's rights, by the store itself.
//! Who shows none is the scheduler's own user to the store; whether he may call is decided by a flag, by
//! a token if there is one, and else by where the scheduler listens.
//!
//! Left out: users of its own, and rights that the store does not have.

mod answer;
mod ask;
mod callers;
mod claims;
mod definitions;
mod events;
mod failures;
mod flags;
mod flaky;
mod guard;
mod instances;
mod listen;
mod login;
mod metrics;
mod openapi;
mod openapi_filters;
mod openapi_values;
mod recorded;
mod records;
mod remote;
mod routes;
mod runs;
mod settings;
mod shelf;
mod slow;
mod station;
mod timeline;
mod views;

pub use flags::ServiceArgs;
pub use listen::{Running, start};

use super::client::{Access, Client};
use super::execute::{Caller, Rule, Targets};
use super::keys;
use super::numbers::Numbers;
use crate::tls::Dialer;
use answer::Problem;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use events::Feeds;
use std::sync::Arc;
use tokio::sync::{OnceCell, watch};

/// What is offered, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `http://` or `https://` with an address and a port.
    pub url: String,
    /// Certificate and key, where the url is https.
    pub tls: Option<(std::path::PathBuf, std::path::PathBuf)>,
    /// If there is one, nothing under `/v1/` is answered without it or a user of the store.
    pub token: Option<String>,
    /// Nothing under `/v1/` is answered without a user of the store, or the token.
    pub requires_auth: bool,
    /// Names under which it may be called, beside addresses.
    pub hosts: Vec<String>,
    /// Services beyond public addresses, and those of this machine where it alone is served, to which
    /// tasks may be pushed.
    pub targets: Vec<Rule>,
}

/// What all calls share.
#[derive(Clone)]
struct Shared {
    inner: Arc<Inner>,
}

struct Inner {
    access: Access,
    client: OnceCell<Client>,
    callers: callers::Callers,
    feeds: Feeds,
    shelf: shelf::Shelf,
    stations: remote::Stations,
    /// What services that are registered may be.
    targets: Targets,
    guard: guard::Rules,
    numbers: Arc<Numbers>,
    /// Turns true when the process is to end.
    stop: watch::Receiver<bool>,
}

impl Shared {
    fn new(
        access: Access,
        guard: guard::Rules,
        (targets, dialer): (Targets, Dialer),
        numbers: Arc<Numbers>,
        (url, stop): (String, watch::Receiver<bool>),
    ) -> Self {
        let (client, feeds, shelf) = Default::default();
        let caller = Caller::new(targets.clone(), dialer);
        let stations = remote::Stations::new(access.clone(), caller, url);
        let callers = callers::Callers::new(access.clone());
        let inner = Inner {
            access,
            client,
            callers,
            feeds,
            shelf,
            stations,
            targets,
            guard,
            numbers,
            stop,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What goes on beside calls.
    async fn keep(&self) {
        self.inner.stations.keep(async || self.store().await).await;
    }

    /// The store, with the scheduler's own rights. Its connections mend themselves once there is one.
    async fn store(&self) -> Result<Client, Problem> {
        let connect = || Client::connect(&self.inner.access);
        Ok(self.inner.client.get_or_try_init(connect).await?.clone())
    }
}

/// On whose behalf a call is done. The guard says so of each call that it lets pass.
#[derive(Clone)]
enum Behalf {
    Scheduler,
    /// A user of the store, with what asks the store as him.
    User(Arc<Client>),
}

/// What one call has: all that is shared, and the store with the rights of whoever calls.
#[derive(Clone)]
struct Services {
    inner: Arc<Inner>,
    behalf: Behalf,
}

impl FromRequestParts<Shared> for Services {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Problem> {
        // A call that came past the guard has no rights.
        let behalf = parts.extensions.get::<Behalf>().cloned();
        let behalf = behalf.ok_or_else(|| Problem::new(401, "it is not known who calls"))?;
        Ok(Self { inner: shared.inner.clone(), behalf })
    }
}

impl Services {
    /// The store, with the rights of whoever calls.
    async fn store(&self) -> Result<Client, Problem> {
        match &self.behalf {
            Behalf::User(client) => Ok(Client::clone(client)),
            Behalf::Scheduler => self.shared().store().await,
        }
    }

    /// What asks the store with the scheduler's own rights.
    fn shared(&self) -> Shared {
        Shared { inner: self.inner.clone() }
    }

    /// Whether who calls may see what is kept for all: everything of the scheduler that he could read.
    async fn check_may_read_all(&self) -> Result<(), Problem> {
        if let Behalf::User(client) = &self.behalf {
            client.may_read(keys::PREFIX).await?;
            client.may_read(keys::ENVIRONMENTS).await?;
        }
        Ok(())
    }

    /// Whether who calls may be this worker.
    async fn check_may_be_worker(&self, name: &str) -> Result<(), Problem> {
        if let Behalf::User(client) = &self.behalf {
            client.may_write(&keys::worker(name)).await?;
        }
        Ok(())
    }
}
