//! Tells the cluster who this member is.

use crate::config::Config;
use crate::metrics::Metrics;
use crate::pb::quoinpb::{MemberAttributes, command::Request};
use crate::replica::Handle;
use std::time::{Duration, Instant};

/// Pause between attempts to publish this member's name, while there is no quorum.
const PUBLISH_PAUSE: Duration = Duration::from_millis(200);

/// Tells the cluster this member's name and client URLs, again until it is committed.
pub(super) async fn publish(handle: &Handle, config: &Config, metrics: &Metrics) {
    let attributes = MemberAttributes {
        member_id: handle.member_id().0,
        name: config.name.clone(),
        client_urls: config
            .advertise_client_urls
            .iter()
            .map(|url| url.as_str().to_owned())
            .collect(),
    };
    loop {
        let begun = Instant::now();
        let told = handle.propose(Request::MemberAttributes(attributes.clone()), usize::MAX).await;
        metrics.calls.published(told.is_ok(), begun.elapsed());
        match told {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(?error, "failed to publish local member to cluster; trying again");
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
        }
    }
}
