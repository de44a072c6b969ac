//! Joining a running cluster: who is there, and who this member is to be among them.

use super::folder::{Folder, Founder, Identity};
use crate::config::{Config, ETCD_VERSION, MemberUrl, are_same_addresses};
use crate::error::Fatal;
use crate::pb::etcdserverpb::Member;
use crate::pb::quoinpb::MembersAnswer;
use crate::peer::ask_members;
use crate::tls::Dialer;
use crate::types::{ClusterId, MemberId};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// The least that a cluster may have.
const LEAST_VERSION: (u64, u64) = (3, 0);

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
    if !is_compatible(&answers(own, &answer.members, dialer).await) {
        return Err(Fatal::new("incompatible with current running cluster"));
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

/// What the other members say, by their ids. Who does not answer says nothing.
async fn answers(
    own: MemberId,
    members: &[Member],
    dialer: &Dialer,
) -> Vec<(MemberId, MembersAnswer)> {
    let others = members.iter().filter(|member| member.id != own.0);
    let mut asked = JoinSet::new();
    for member in others.cloned() {
        let (id, dialer) = (MemberId(member.id), dialer.clone());
        asked.spawn(async move {
            for url in &member.peer_ur_ls {
                match ask_members(&dialer, url).await {
                    Ok(answer) => return Some((id, answer)),
                    Err(error) => tracing::warn!(
                        address = url,
                        "remote-member-id" = %id,
                        error,
                        "failed to reach the peer URL"
                    ),
                }
            }
            None
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asked.join_next().await {
        answers.extend(answer.ok().flatten());
    }
    answers
}

/// Whether a member of this version has a place in a cluster of theirs: somebody must say, and nobody
/// must say otherwise.
fn is_compatible(answers: &[(MemberId, MembersAnswer)]) -> bool {
    let is_downgrading = answers.iter().any(|(_, answer)| answer.is_downgrading);
    let (major, minor) = parse_version(ETCD_VERSION).unwrap_or(LEAST_VERSION);
    // While a cluster goes down, it is those of the version below that may join.
    let own = (major, minor + u64::from(is_downgrading));
    let least = if is_downgrading { own } else { LEAST_VERSION };
    let mut is_known = false;
    for (id, answer) in answers {
        // One of an older version of ours does not say.
        let text = answer.cluster_version.as_deref().unwrap_or("3.0.0");
        if text.is_empty() {
            // Not decided yet, and perhaps never without this member's vote: it will be the lowest that a
            // member speaks. (etcd refuses here, and its cluster of one that grew too early stays stuck.)
            is_known = true;
            continue;
        }
        let Some(version) = parse_version(text) else {
            tracing::warn!(
                "remote-member-id" = %id,
                "remote-member-cluster-version" = text,
                "failed to parse cluster version of remote member"
            );
            continue;
        };
        let (field, bound, what) = match version {
            version if version < least => ("minimum", least, "low"),
            version if version > own => ("maximum", own, "high"),
            _ => {
                is_known = true;
                continue;
            }
        };
        let fields = serde_json::json!({
            "remote-member-id": id.to_string(),
            "remote-member-cluster-version": text,
            format!("{field}-cluster-version-supported"): format!("{}.{}.0", bound.0, bound.1),
        });
        tracing::warn!(
            zap_fields = fields.to_string(),
            "cluster version of remote member is not compatible; too {what}"
        );
        return false;
    }
    is_known
}

/// The first two numbers of three.
fn parse_version(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split('.').map(|number| number.parse::<u64>().ok());
    let version = (numbers.next()??, numbers.next()??);
    numbers.next()??;
    numbers.next().is_none().then_some(version)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_this_version_or_an_earlier_one_is_compatible() {
        let table: [(&[Option<&str>], bool, bool); 13] = [
            (&[Some("3.7.0")], false, true),
            (&[Some("3.6.0"), Some("3.7.0")], false, true),
            (&[Some("3.0.0")], false, true),
            (&[None], false, true),
            (&[], false, false),
            (&[Some("")], false, true),
            (&[Some("latest")], false, false),
            (&[Some(""), Some("3.7.0")], false, true),
            (&[Some(""), Some("3.8.0")], false, false),
            (&[Some("3.7.0"), Some("3.8.0")], false, false),
            (&[Some("2.9.0"), Some("3.7.0")], false, false),
            (&[Some("3.7.0")], true, false),
            (&[Some("3.8.0")], true, true),
        ];
        for (versions, is_downgrading, expected) in table {
            let answer = |version: &Option<&str>| MembersAnswer {
                cluster_version: version.map(str::to_owned),
                is_downgrading,
                ..MembersAnswer::default()
            };
            let answers: Vec<_> =
                versions.iter().map(|version| (MemberId(1), answer(version))).collect();
            assert_eq!(is_compatible(&answers), expected, "{versions:?} {is_downgrading}");
        }
    }
}
