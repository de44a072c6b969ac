//! The one way from an endpoint's text to a connection, for the command line and `quoin snapshot`.
//!
//! A connection is made before the first request is sent, so that a server which cannot be reached
//! is known to have got nothing.

use std::time::Duration;

use tonic::transport::Channel;

use crate::tls::{DialOptions, Dialer, endpoint_url};

/// Go's library asks for signs of life no more often, whatever it is told.
const KEEPALIVE_MIN: Duration = Duration::from_secs(10);

/// How connections are made.
pub(super) struct Dialing {
    dialer: Dialer,
    /// Endpoints without a scheme are spoken to over TLS.
    is_secure_by_default: bool,
    /// How long it may take; zero is for ever.
    timeout: Duration,
    /// How often a silent server is asked for a sign of life, and how long it may take to give it.
    keepalive: (Duration, Duration),
}

impl Dialing {
    /// # Errors
    /// When a file is missing or not what it should be.
    pub(super) fn new(
        security: DialOptions,
        is_plain_by_default: bool,
        timeout: Duration,
        keepalive: (Duration, Duration),
    ) -> Result<Self, String> {
        let is_secure_by_default = security.wants_tls() || !is_plain_by_default;
        let dialer = Dialer::new(security).map_err(|error| error.to_string())?;
        Ok(Self { dialer, is_secure_by_default, timeout, keepalive })
    }

    /// Connects to one server.
    ///
    /// # Errors
    /// In words that follow "failed to connect to <endpoint>: ".
    pub(super) async fn connect(&self, endpoint: &str) -> Result<Channel, String> {
        let url = endpoint_url(endpoint, self.is_secure_by_default);
        let tuned = self.dialer.connect(&url, |channel| {
            let (interval, timeout) = self.keepalive;
            let channel = match self.timeout.is_zero() {
                true => channel,
                false => channel.connect_timeout(self.timeout),
            };
            match interval.is_zero() {
                true => channel,
                false => channel
                    .http2_keep_alive_interval(interval.max(KEEPALIVE_MIN))
                    .keep_alive_timeout(timeout),
            }
        });
        tuned.await
    }
}
