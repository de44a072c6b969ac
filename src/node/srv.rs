//! Discovery by DNS: first members find each other through SRV records of a domain.
//!
//! `_etcd-server-ssl._tcp` and `_etcd-server._tcp` name them, with and without TLS. A member knows
//! itself by the address of its own URL; the others get numbers for names until they tell theirs.
//! Lines and texts are etcd's.

use crate::config::{Bootstrap, Config, MemberUrl, SrvDomain};
use crate::dns::{self, Srv};
use crate::error::Fatal;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Finds the address of `host:port`.
type Resolve<'a> = &'a dyn Fn(&str) -> Result<SocketAddr, String>;

/// The members that DNS knows, and whether they are to show a certificate of the domain itself.
pub(super) struct Found {
    pub(super) bootstrap: Bootstrap,
    pub(super) with_tls: bool,
}

/// Looks the members up.
///
/// # Errors
/// When DNS knows none, or not this one; and as [`Config::bootstrap`].
pub(super) async fn join(config: &Config, srv: &SrvDomain) -> Result<Found, Fatal> {
    let (mut cluster, mut errors) = (Vec::new(), Vec::new());
    for scheme in ["https", "http"] {
        let members = members(config, srv, scheme).await;
        match members {
            Ok(members) => cluster.extend(members),
            Err(error) => errors.push(error),
        }
    }
    let error = errors.join("\n");
    if !error.is_empty() {
        tracing::warn!(error, "failed to resolve during SRV discovery");
    }
    let refused = |why: &str| Fatal::new(format!("error setting up initial cluster: {why}"));
    if cluster.is_empty() {
        return Err(refused(&error));
    }
    for node in &cluster {
        tracing::info!(node, "got bootstrap from DNS for etcd-server");
    }
    let own = format!("{}=", config.name);
    if !cluster.iter().any(|member| member.starts_with(&own)) {
        let name = &config.name;
        return Err(refused(&format!("cannot find local etcd member {name:?} in SRV records")));
    }
    let cluster = cluster.join(",");
    let bootstrap = config.bootstrap_from(&cluster, &config.initial_cluster_token);
    let bootstrap = bootstrap.map_err(|error| Fatal::new(error.message))?;
    let with_tls = cluster.contains("https://") && config.tls.peer.trusted_ca_file.is_none();
    Ok(Found { bootstrap, with_tls })
}

/// The members of one kind, as `name=url`.
async fn members(
    config: &Config,
    srv: &SrvDomain,
    scheme: &'static str,
) -> Result<Vec<String>, String> {
    let service = dns::service("etcd-server", &srv.service_name, scheme);
    let (name, urls) = (config.name.clone(), config.advertise_peer_urls.clone());
    let records = dns::services(&service, &srv.domain).await;
    let (asked, shown) = (service.clone(), name.clone());
    // Looking up addresses blocks.
    let cluster = tokio::task::spawn_blocking(move || {
        Query { service: &asked, scheme, name: &name, own: &urls }.cluster(records, &dns::address)
    });
    let cluster = cluster.await.map_err(|error| error.to_string())?;
    let plain = if scheme == "https" { "etcd-server-ssl" } else { "etcd-server" };
    let found = cluster.as_deref().unwrap_or_default();
    let advertised: Vec<&str> = config.advertise_peer_urls.iter().map(MemberUrl::as_str).collect();
    let mut fields = serde_json::json!({
        "service-scheme": scheme,
        "service-name": service,
        "server-name": shown,
        "discovery-srv": srv.domain,
        "advertise-peer-urls": advertised,
        "found-cluster": found,
    });
    if let Err(error) = &cluster {
        fields["error"] = error.as_str().into();
    }
    tracing::info!(zap_fields = fields.to_string(), "get cluster for {plain} SRV");
    cluster
}

/// What was asked for, and by whom.
struct Query<'a> {
    service: &'a str,
    scheme: &'a str,
    name: &'a str,
    own: &'a [MemberUrl],
}

impl Query<'_> {
    fn cluster(
        &self,
        records: Result<Vec<Srv>, String>,
        resolve: Resolve<'_>,
    ) -> Result<Vec<String>, String> {
        let mut own = BTreeMap::new();
        for url in self.own {
            own.insert(resolve(url.address())?, url);
        }
        let service = self.service;
        let failed = |why| format!("error querying DNS SRV records for _{service} {why}");
        let (mut cluster, mut numbered, mut failure) = (Vec::new(), 0, String::new());
        for srv in records.map_err(failed)? {
            let address = match resolve(&format!("{}:{}", srv.target, srv.port)) {
                Ok(address) => address,
                Err(error) => {
                    failure = error;
                    continue;
                }
            };
            let url = format!("{}://{}", self.scheme, srv.address());
            let own = own.get(&address);
            let name = match own {
                Some(_) => self.name.to_owned(),
                None => {
                    numbered += 1;
                    (numbered - 1).to_string()
                }
            };
            match own.filter(|own| own.as_str().split(':').next() != Some(self.scheme)) {
                None => cluster.push(format!("{name}={url}")),
                Some(own) => {
                    failure = format!(
                        "bootstrap at {url} from DNS for {service} has scheme mismatch with \
                         expected peer {own}"
                    );
                }
            }
        }
        match cluster.is_empty() && !failure.is_empty() {
            true => Err(failed(failure)),
            false => Ok(cluster),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(target: &str, port: u16) -> Srv {
        Srv { target: format!("{target}.example."), port, priority: 0, weight: 0 }
    }

    /// Knows `mN.example` as 10.0.0.N, with and without the dot.
    fn resolve(address: &str) -> Result<SocketAddr, String> {
        let (host, port) = address.rsplit_once(':').unwrap();
        let host = host.trim_end_matches('.');
        let number = host.strip_prefix('m').and_then(|host| host.strip_suffix(".example"));
        match number.and_then(|number| number.parse::<u8>().ok()) {
            Some(number) => Ok(([10, 0, 0, number], port.parse().unwrap()).into()),
            None => Err(format!("lookup {host}: no such host")),
        }
    }

    fn cluster(
        scheme: &str,
        own: &str,
        records: Result<Vec<Srv>, String>,
    ) -> Result<Vec<String>, String> {
        let own = [MemberUrl::parse(own).unwrap()];
        let service = dns::service("etcd-server", "", scheme);
        Query { service: &service, scheme, name: "one", own: &own }.cluster(records, &resolve)
    }

    #[test]
    fn a_member_knows_itself_by_its_address_and_numbers_the_others() {
        let all = vec![srv("m3", 1), srv("m1", 1), srv("nowhere", 1), srv("m2", 1), srv("m1", 2)];
        let found = cluster("http", "http://m1.example:1", Ok(all.clone())).unwrap();
        assert_eq!(
            found,
            [
                "0=http://m3.example:1",
                "one=http://m1.example:1",
                "1=http://m2.example:1",
                "2=http://m1.example:2",
            ]
        );
        // One that is not among them is found missing later.
        let found = cluster("http", "http://m9.example:1", Ok(all)).unwrap();
        assert!(found.len() == 4 && found.iter().all(|member| !member.starts_with("one=")));
    }

    #[test]
    fn what_is_wrong_is_told_when_nothing_is_left() {
        let failed = |what: &str| Err(what.to_owned());
        assert_eq!(
            cluster("https", "http://m1.example:1", Ok(vec![srv("m1", 1)])),
            failed(
                "error querying DNS SRV records for _etcd-server-ssl bootstrap at \
                 https://m1.example:1 from DNS for etcd-server-ssl has scheme mismatch with \
                 expected peer http://m1.example:1"
            )
        );
        assert_eq!(
            cluster("http", "http://m1.example:1", Ok(vec![srv("nowhere", 1)])),
            failed(
                "error querying DNS SRV records for _etcd-server lookup nowhere.example: no such \
                 host"
            )
        );
        assert_eq!(
            cluster("http", "http://m1.example:1", Err("lookup x: no such host".to_owned())),
            failed("error querying DNS SRV records for _etcd-server lookup x: no such host")
        );
        assert_eq!(
            cluster("http", "http://nowhere.example:1", Ok(vec![srv("m1", 1)])),
            failed("lookup nowhere.example: no such host")
        );
        let mixed = cluster("https", "http://m1.example:1", Ok(vec![srv("m1", 1), srv("m2", 1)]));
        assert_eq!(mixed.unwrap(), ["0=https://m2.example:1"]);
    }
}
