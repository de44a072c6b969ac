//! The scheduler's services over HTTP: test cases, environments, runs, results, reports, workers, tags
//! and queues as REST with JSON under `/v1/`, and the page.
//!
//! Every scheduler process serves, whether it leads or not: all that is told comes from the store, and
//! all that is changed is changed there. What is served runs beside the leader on a thread of its own,
//! so that a slow reader or a long list holds no decision up.
//!
//! Left out: users of its own. Who may call is decided by a token, if there is one, and else by where
//! the scheduler listens; the store sees the scheduler's user.

mod answer;
mod ask;
mod claims;
mod definitions;
mod events;
mod flags;
mod guard;
mod instances;
mod listen;
mod openapi;
mod openapi_values;
mod records;
mod remote;
mod routes;
mod runs;
mod settings;
mod views;

pub use flags::ServiceArgs;
pub use listen::{Running, start};

use super::client::{Access, Client};
use super::execute::{Caller, Rule, Targets};
use crate::tls::Dialer;
use answer::Problem;
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
    /// If there is one, nothing under `/v1/` is answered without it.
    pub token: Option<String>,
    /// Names under which it may be called, beside addresses.
    pub hosts: Vec<String>,
    /// Services beyond public addresses, and those of this machine where it alone is served, to which
    /// tasks may be pushed.
    pub targets: Vec<Rule>,
}

/// What all calls share.
#[derive(Clone)]
pub(super) struct Services {
    inner: Arc<Inner>,
}

struct Inner {
    access: Access,
    client: OnceCell<Client>,
    feeds: Feeds,
    shelf: views::Shelf,
    stations: remote::Stations,
    /// What services that are registered may be.
    targets: Targets,
    guard: guard::Rules,
    /// Turns true when the process is to end.
    stop: watch::Receiver<bool>,
}

impl Services {
    fn new(
        access: Access,
        guard: guard::Rules,
        (targets, dialer): (Targets, Dialer),
        url: String,
        stop: watch::Receiver<bool>,
    ) -> Self {
        let (client, feeds, shelf) = Default::default();
        let caller = Caller::new(targets.clone(), dialer);
        let stations = remote::Stations::new(access.clone(), caller, url);
        let inner = Inner { access, client, feeds, shelf, stations, targets, guard, stop };
        Self { inner: Arc::new(inner) }
    }

    /// What goes on beside calls.
    async fn keep(&self) {
        self.inner.stations.keep(async || self.store().await).await;
    }

    /// The store. Its connections mend themselves once there is one.
    async fn store(&self) -> Result<Client, Problem> {
        let connect = || Client::connect(&self.inner.access);
        Ok(self.inner.client.get_or_try_init(connect).await?.clone())
    }
}
