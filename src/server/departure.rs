//! Word of a client of HTTP/1 that has gone while nobody reads from its connection.
//!
//! A request's call notices that its client has gone because the connection is read meanwhile. With bytes of a next
//! request already taken from the socket it is not, and a call that waits would go on for good; so the socket is looked
//! at then, see [`super::socket`], and calls that wait are told here.

use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// Tells the calls of a connection that its client has gone.
#[derive(Clone, Default)]
pub(super) struct Departure {
    told: Arc<OnceLock<watch::Sender<bool>>>,
}

impl Departure {
    /// Whether anybody wants to know.
    pub(super) fn is_asked_for(&self) -> bool {
        self.told.get().is_some()
    }

    pub(super) fn tell(&self) {
        if let Some(told) = self.told.get() {
            told.send_replace(true);
        }
    }

    pub(super) fn asked(&self) -> Departed {
        Departed(self.told.get_or_init(|| watch::Sender::new(false)).subscribe())
    }
}

/// What a request of HTTP/1 is told of its client: an extension of the request.
#[derive(Clone)]
pub(super) struct Departed(watch::Receiver<bool>);

impl Departed {
    /// Returns once the client has gone.
    pub(super) async fn wait(&mut self) {
        // An error means that the connection is gone, and the client with it.
        let _gone = self.0.wait_for(|is_gone| *is_gone).await;
    }
}
