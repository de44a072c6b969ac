//! Joining a running cluster: who is there, and who this member is to be among them.

use super::folder::{Folder, Founder, Identity};
use crate::config::{Config, MemberUrl, are_same_addresses};
use crate::error::Fatal;
use crate::pb::etcdserverpb::Member;
use crate::pb::quoinpb::MembersAnswer;
use crate::peer::ask_members;
use crate::tls::Dialer;
use crate::types::{ClusterId, MemberId};
use std::collections::BTreeMap;

/// The identity of a member that was added to the cluster whose peer URLs `--initial-cluster` gives
/// by name.
///
/// # Errors
/// When nobody there answers, or knows other members than the flag tells; when this member has
/// been a member before, since it may have voted and acknowledged entries that it no longer knows.
pub(super) async fn identity(
    config: &Config,
    folder: &Folder,
    peer_urls: &BTreeMap<String, Vec<MemberUrl>>,
    dialer: &Dialer,
) -> Result<Identity, Fatal> {
    let answer = ask_around(config, peer_urls, dialer).await?;
    let own = own_id(config, peer_urls, &answer.members)?;
    let has_started = |member: &Member| member.id == own.0 && !member.client_ur_ls.is_empty();
    if answer.members.iter().any(has_started) {
        return Err(Fatal::new(format!("member {own} has already been bootstrapped")));
    }
    folder.begin_first_start()?;
    let founders = answer.founders.iter().map(Founder::of).collect();
    let others = answer.members.iter().filter(|member| member.id != own.0);
    let cluster = ClusterId(answer.cluster_id);
    Ok(Identity::new(cluster, own, &config.name, config.engine.name(), founders)
        .joining(others.map(Founder::of).collect()))
}

/// The first answer of another member.
async fn ask_around(
    config: &Config,
    peer_urls: &BTreeMap<String, Vec<MemberUrl>>,
    dialer: &Dialer,
) -> Result<MembersAnswer, Fatal> {
    let others = peer_urls.iter().filter(|(name, _)| **name != config.name);
    for url in others.flat_map(|(_, urls)| urls) {
        match ask_members(dialer, url.as_str()).await {
            Ok(answer) if !answer.founders.is_empty() => return Ok(answer),
            Ok(_) => tracing::warn!(url = url.as_str(), "a peer knows no cluster"),
            Err(error) => {
                tracing::warn!(url = url.as_str(), error, "failed to get the members from a peer");
            }
        }
    }
    Err(Fatal::new(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the \
         given URLs",
    ))
}

/// Matches the members by their peer URLs, of which each set must be the same on both sides.
fn own_id(
    config: &Config,
    peer_urls: &BTreeMap<String, Vec<MemberUrl>>,
    members: &[Member],
) -> Result<MemberId, Fatal> {
    let refused =
        |why: String| Fatal::new(format!("error validating peerURLs of --initial-cluster: {why}"));
    if peer_urls.len() != members.len() {
        return Err(refused("member count is unequal".to_owned()));
    }
    let mut named: Vec<(&String, &Vec<MemberUrl>)> = peer_urls.iter().collect();
    let mut own = None;
    for member in members {
        let texts = sorted(member.peer_ur_ls.iter().map(String::as_str));
        let urls: Result<Vec<MemberUrl>, String> =
            texts.iter().map(|url| MemberUrl::parse(url)).collect();
        let urls = urls.unwrap_or_default();
        // As written first: names are asked for only where texts differ.
        let at = named
            .iter()
            .position(|(_, named)| sorted(named.iter().map(MemberUrl::as_str)) == texts)
            .or_else(|| named.iter().position(|(_, named)| are_same_addresses(named, &urls)));
        let Some(at) = at else {
            let id = MemberId(member.id);
            return Err(refused(format!(
                "PeerURLs: no match found for existing member ({id}, {texts:?})"
            )));
        };
        let (name, _) = named.remove(at);
        if *name == config.name {
            own = Some(MemberId(member.id));
        }
    }
    own.ok_or_else(|| refused(format!("couldn't find local name \"{}\"", config.name)))
}

fn sorted<'a>(urls: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut urls: Vec<&str> = urls.collect();
    urls.sort_unstable();
    urls
}
