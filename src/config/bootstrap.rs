//! The first members of a cluster, as `--initial-cluster` names them.
//!
//! Read only while a member has no data: afterwards the cluster itself knows its members.

use crate::config::error::ConfigError;
use crate::config::ids::{bootstrap_member_id, cluster_id};
use crate::config::url::{MemberUrl, Scheme, joined};
use crate::config::{ClusterState, Config};
use crate::types::{ClusterId, MemberId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};

/// How a member without data comes into being.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// It is one of the founders, who all compute the same ids.
    Found { cluster_id: ClusterId, own_id: MemberId, members: Vec<InitialMember> },
    /// It was added to a running cluster, which is to be asked for all ids: peer URLs by name,
    /// this member's own among them.
    Join { peer_urls: BTreeMap<String, Vec<MemberUrl>> },
}

/// A founding member. Lists are ordered by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<MemberUrl>,
}

/// Finds the address of `host:port`.
type Resolve<'a> = &'a dyn Fn(&str) -> Result<SocketAddr, String>;

impl Config {
    /// Checks the description of the first members. Asks the name service only if this
    /// member's URLs are written differently in the two flags that must agree on them.
    pub fn bootstrap(&self) -> Result<Bootstrap, ConfigError> {
        self.bootstrap_with(&resolve)
    }

    /// The same for first members that were not given by flag.
    ///
    /// # Errors
    /// As [`Config::bootstrap`].
    pub fn bootstrap_from(&self, cluster: &str, token: &str) -> Result<Bootstrap, ConfigError> {
        self.read(cluster, token, &resolve)
    }

    fn bootstrap_with(&self, resolve: Resolve<'_>) -> Result<Bootstrap, ConfigError> {
        self.read(&self.initial_cluster, &self.initial_cluster_token, resolve)
    }

    fn read(
        &self,
        cluster: &str,
        token: &str,
        resolve: Resolve<'_>,
    ) -> Result<Bootstrap, ConfigError> {
        let by_name = parse_initial_cluster(cluster)?;
        let Some(own_urls) = by_name.get(&self.name) else {
            return Err(ConfigError::bootstrap(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            )));
        };
        if self.initial_cluster_state == ClusterState::New {
            self.check_own_urls(own_urls, resolve)?;
        }
        let mut seen = BTreeSet::new();
        for url in by_name.values().flatten() {
            if !seen.insert(url) {
                let all = printed(&by_name);
                let message = format!("initial cluster {all} has duplicate url");
                return Err(ConfigError::bootstrap(message));
            }
            url.check_port().map_err(|error| {
                ConfigError::bootstrap(format!("failed to resolve {:?} ({error})", url.as_str()))
            })?;
        }
        match self.initial_cluster_state {
            ClusterState::Existing => Ok(Bootstrap::Join { peer_urls: by_name }),
            ClusterState::New => Ok(found(&self.name, by_name, token)),
        }
    }

    fn check_own_urls(&self, own: &[MemberUrl], resolve: Resolve<'_>) -> Result<(), ConfigError> {
        let advertised = &self.advertise_peer_urls;
        let Err(reason) = same_addresses(advertised, own, resolve) else {
            return Ok(());
        };
        let name = &self.name;
        let with_name = |url: &MemberUrl| format!("{name}={url}");
        let missing: Vec<String> =
            own.iter().filter(|url| !advertised.contains(url)).map(with_name).collect();
        if !missing.is_empty() {
            return Err(ConfigError::bootstrap(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({reason})",
                missing.join(","),
                joined(advertised),
            )));
        }
        let missing: Vec<MemberUrl> =
            advertised.iter().filter(|url| !own.contains(url)).cloned().collect();
        let advertised: Vec<String> = advertised.iter().map(with_name).collect();
        Err(ConfigError::bootstrap(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            joined(&missing),
            advertised.join(","),
        )))
    }
}

fn found(own: &str, by_name: BTreeMap<String, Vec<MemberUrl>>, token: &str) -> Bootstrap {
    let mut own_id = MemberId(0);
    let mut members = Vec::new();
    for (name, peer_urls) in by_name {
        let id = bootstrap_member_id(&peer_urls, token);
        if name == own {
            own_id = id;
        }
        members.push(InitialMember { id, name, peer_urls });
    }
    members.sort_by_key(|member| member.id);
    let cluster_id = cluster_id(members.iter().map(|member| member.id));
    Bootstrap::Found { cluster_id, own_id, members }
}

/// Reads `a=url,b=url,a=url`.
fn parse_initial_cluster(text: &str) -> Result<BTreeMap<String, Vec<MemberUrl>>, ConfigError> {
    let mut by_name: BTreeMap<String, Vec<MemberUrl>> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (name, url) = part.split_once('=').unwrap_or((part, ""));
        let url = MemberUrl::parse(url).map_err(|error| {
            ConfigError::bootstrap(format!("error setting up initial cluster: {error}"))
        })?;
        by_name.entry(name.to_string()).or_default().push(url);
    }
    by_name.values_mut().for_each(|urls| urls.sort());
    Ok(by_name)
}

fn printed(by_name: &BTreeMap<String, Vec<MemberUrl>>) -> String {
    let pairs = by_name.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (name, url)));
    pairs.map(|(name, url)| format!("{name}={url}")).collect::<Vec<_>>().join(",")
}

/// Whether two lists of URLs name the same addresses, as written or once their hosts are resolved.
pub fn are_same_addresses(a: &[MemberUrl], b: &[MemberUrl]) -> bool {
    let sorted = |urls: &[MemberUrl]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    same_addresses(&sorted(a), &sorted(b), &resolve).is_ok()
}

/// Whether two sorted lists are equal, as written or once their hosts are resolved.
fn same_addresses(a: &[MemberUrl], b: &[MemberUrl], resolve: Resolve<'_>) -> Result<(), String> {
    if a == b {
        return Ok(());
    }
    if a.len() != b.len() {
        let quoted = |urls: &[MemberUrl]| {
            let urls: Vec<String> = urls.iter().map(|url| format!("{:?}", url.as_str())).collect();
            urls.join(" ")
        };
        return Err(format!("len([{}]) != len([{}])", quoted(a), quoted(b)));
    }
    let (a, b) = (resolved(a, resolve)?, resolved(b, resolve)?);
    match a.iter().zip(&b).find(|(a, b)| a != b) {
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
        None => Ok(()),
    }
}

/// localhost stays a name, as in etcd: it is never equal to 127.0.0.1.
fn resolved(urls: &[MemberUrl], resolve: Resolve<'_>) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for url in urls {
        let is_socket_file = matches!(url.scheme(), Scheme::Unix | Scheme::Unixs);
        if is_socket_file || url.host() == "localhost" {
            all.push(url.to_string());
            continue;
        }
        let address = resolve(url.address())
            .map_err(|error| format!("failed to resolve {:?} ({error})", url.as_str()))?;
        let scheme = url.as_str().split(':').next().unwrap_or_default();
        all.push(format!("{scheme}://{address}"));
    }
    all.sort();
    Ok(all)
}

fn resolve(address: &str) -> Result<SocketAddr, String> {
    let mut addresses = address.to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().ok_or_else(|| "no such host".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ErrorKind, Invocation, read};

    const THREE: &str = "--initial-cluster=a=http://127.0.0.1:2380,b=http://10.0.0.2:2380,\
                         c=http://10.0.0.3:2380,b=http://10.0.0.2:2390";

    /// Knows two names for one address, and fails for all others.
    fn known(address: &str) -> Result<SocketAddr, String> {
        match address {
            "node.example:1" | "alias.example:1" | "10.0.0.9:1" => Ok(([10, 0, 0, 9], 1).into()),
            "other.example:1" => Ok(([10, 0, 0, 8], 1).into()),
            _ => Err("no such host".to_string()),
        }
    }

    fn bootstrap(args: &[&str]) -> Result<Bootstrap, ConfigError> {
        match read(args.iter().map(Into::into), [])? {
            Invocation::Start(config, _) => config.bootstrap_with(&known),
            Invocation::Print(page) => panic!("{page}"),
        }
    }

    fn advertised(in_cluster: &str, advertised: &str) -> Result<Bootstrap, ConfigError> {
        let cluster: Vec<String> = in_cluster.split(',').map(|url| format!("a={url}")).collect();
        bootstrap(&[
            "--name=a",
            &format!("--initial-cluster={}", cluster.join(",")),
            &format!("--initial-advertise-peer-urls={advertised}"),
        ])
    }

    #[test]
    fn one_member_founds_the_cluster_of_etcds_defaults() {
        let Ok(Bootstrap::Found { cluster_id, own_id, members }) = bootstrap(&[]) else {
            panic!("founds");
        };
        assert_eq!(cluster_id.to_string(), "cdf818194e3a8c32");
        assert_eq!(own_id.to_string(), "8e9e05c52164694d");
        assert_eq!(members.len(), 1);
        assert_eq!((members[0].id, members[0].name.as_str()), (own_id, "default"));
    }

    #[test]
    fn three_members_compute_the_same_ids() {
        let own = [
            ("a", "http://127.0.0.1:2380", "71405583d3e2d5ce"),
            ("b", "http://10.0.0.2:2390,http://10.0.0.2:2380", "c3149cc42eb9d823"),
            ("c", "http://10.0.0.3:2380", "7aa181191753809e"),
        ];
        for (name, urls, id) in own {
            let name = format!("--name={name}");
            let urls = format!("--initial-advertise-peer-urls={urls}");
            let args = [&name, &urls, "--initial-cluster-token=tok", THREE];
            let Ok(Bootstrap::Found { cluster_id, own_id, members }) = bootstrap(&args) else {
                panic!("founds");
            };
            assert_eq!(own_id.to_string(), id);
            assert_eq!(cluster_id.to_string(), "cb084b01568a0d33");
            let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
            assert_eq!(names, ["a", "c", "b"], "ordered by id");
        }
    }

    #[test]
    fn a_member_that_joins_needs_its_name_but_not_its_advertised_urls() {
        let join = ["--name=c", "--initial-cluster-state=existing", THREE];
        let Ok(Bootstrap::Join { peer_urls }) = bootstrap(&join) else { panic!("joins") };
        assert_eq!(joined(&peer_urls["b"]), "http://10.0.0.2:2380,http://10.0.0.2:2390");
        assert!(bootstrap(&["--name=d", "--initial-cluster-state=existing", THREE]).is_err());
    }

    #[test]
    fn own_urls_may_be_written_differently_if_they_resolve_to_the_same() {
        let fine = [
            ("http://node.example:1", "http://node.example:1"),
            ("http://node.example:1", "http://alias.example:1"),
            ("http://10.0.0.9:1", "http://node.example:1"),
            // Equal texts are not resolved.
            ("http://unknown.example:1", "http://unknown.example:1"),
        ];
        for (in_cluster, in_flag) in fine {
            let result = advertised(in_cluster, in_flag);
            assert!(result.is_ok(), "{in_cluster} {in_flag} {result:?}");
        }
    }

    #[test]
    fn descriptions_that_contradict_themselves_are_refused() {
        let table = [
            (
                bootstrap(&["--name=x", "--initial-cluster=y=http://localhost:2380"]),
                "couldn't find local name \"x\" in the initial cluster configuration",
            ),
            (
                bootstrap(&["--initial-cluster="]),
                "couldn't find local name \"default\" in the initial cluster configuration",
            ),
            (
                bootstrap(&["--initial-cluster=a,b"]),
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            ),
            (
                bootstrap(&["--initial-cluster=default=bad"]),
                "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: bad",
            ),
            (
                bootstrap(&[
                    "--initial-cluster=default=http://localhost:2380,x=http://localhost:2380",
                ]),
                "initial cluster default=http://localhost:2380,x=http://localhost:2380 has duplicate url",
            ),
            (
                advertised("http://localhost:2381", "http://localhost:2380"),
                "--initial-cluster has a=http://localhost:2381 but missing from \
                 --initial-advertise-peer-urls=http://localhost:2380 \
                 (resolved urls: \"http://localhost:2380\" != \"http://localhost:2381\")",
            ),
            (
                advertised("http://node.example:1", "http://other.example:1"),
                "--initial-cluster has a=http://node.example:1 but missing from \
                 --initial-advertise-peer-urls=http://other.example:1 \
                 (resolved urls: \"http://10.0.0.8:1\" != \"http://10.0.0.9:1\")",
            ),
            (
                advertised("http://unknown.example:1", "http://localhost:1"),
                "--initial-cluster has a=http://unknown.example:1 but missing from \
                 --initial-advertise-peer-urls=http://localhost:1 \
                 (failed to resolve \"http://unknown.example:1\" (no such host))",
            ),
            (
                advertised("http://localhost:1,http://localhost:2", "http://localhost:1"),
                "--initial-cluster has a=http://localhost:2 but missing from \
                 --initial-advertise-peer-urls=http://localhost:1 \
                 (len([\"http://localhost:1\"]) != len([\"http://localhost:1\" \"http://localhost:2\"]))",
            ),
            (
                advertised("http://localhost:1", "http://localhost:1,http://localhost:2"),
                "--initial-advertise-peer-urls has http://localhost:2 but missing from \
                 --initial-cluster=a=http://localhost:1,a=http://localhost:2",
            ),
        ];
        for (result, message) in table {
            let error = result.unwrap_err();
            assert_eq!((error.message.as_str(), error.exit_code), (message, 1));
            assert_eq!(error.kind, ErrorKind::Bootstrap);
        }
    }
}
