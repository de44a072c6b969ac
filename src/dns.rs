//! What DNS knows of services: SRV records, which the standard library does not look up.
//!
//! Asked are the name servers of /etc/resolv.conf, for full names only: its search list is left out.
//! Texts of errors are those of Go's resolver as far as they can be.

use hickory_resolver::Resolver;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;
use hickory_resolver::system_conf::read_system_conf;
use std::net::{SocketAddr, ToSocketAddrs};

/// Where one instance of a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// A full name, with the dot at its end.
    pub target: String,
    pub port: u16,
    /// Lower ones are to be tried first.
    pub priority: u16,
    pub weight: u16,
}

impl Srv {
    /// `host:port`, as URLs have it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.target.strip_suffix('.').unwrap_or(&self.target), self.port)
    }
}

/// The instances of a service over TCP in a domain, those that are to be tried first in front.
///
/// # Errors
/// In Go's words: when there is none, and when no name server says.
pub async fn services(service: &str, domain: &str) -> Result<Vec<Srv>, String> {
    let name = format!("_{service}._tcp.{domain}");
    let (config, options) =
        read_system_conf().map_err(|error| format!("lookup {name}: {error}"))?;
    let server = config.name_servers().first().map(|server| SocketAddr::from((server.ip, 53)));
    let failed = |why: &str| match server {
        Some(server) => format!("lookup {name} on {server}: {why}"),
        None => format!("lookup {name}: {why}"),
    };
    let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let resolver =
        resolver.with_options(options).build().map_err(|error| failed(&error.to_string()))?;
    let found = resolver.srv_lookup(format!("{}.", name.trim_end_matches('.'))).await;
    let found = found.map_err(|error| failed(&reason(&error)))?;
    let record = |data: &RData| match data {
        RData::SRV(srv) => Some(Srv {
            target: srv.target.to_string(),
            port: srv.port,
            priority: srv.priority,
            weight: srv.weight,
        }),
        _ => None,
    };
    let mut records: Vec<Srv> =
        found.answers().iter().filter_map(|answer| record(&answer.data)).collect();
    if records.is_empty() {
        return Err(failed("no such host"));
    }
    records.sort_by_key(|srv| (srv.priority, u16::MAX - srv.weight));
    Ok(records)
}

fn reason(error: &NetError) -> String {
    match error {
        error if error.is_no_records_found() => "no such host".to_owned(),
        NetError::Timeout => "i/o timeout".to_owned(),
        NetError::Dns(DnsError::ResponseCode(_)) => "server misbehaving".to_owned(),
        other => other.to_string(),
    }
}

/// The address of `host:port`: like Go, the first of the fourth version, else the first. Blocks while
/// it asks.
///
/// # Errors
/// In Go's words.
pub fn address(host_and_port: &str) -> Result<SocketAddr, String> {
    let host = host_and_port.rsplit_once(':').map_or(host_and_port, |(host, _)| host);
    let unknown = || format!("lookup {}: no such host", host.trim_end_matches('.'));
    let found: Vec<SocketAddr> = host_and_port.to_socket_addrs().map_err(|_| unknown())?.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(unknown)
}

/// URLs of the members of a cluster that DNS knows, those with TLS in front, and the record of each.
///
/// # Errors
/// When DNS knows none of either kind.
pub async fn clients(service_name: &str, domain: &str) -> Result<Vec<(String, Srv)>, String> {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for scheme in ["https", "http"] {
        match services(&service("etcd-client", service_name, scheme), domain).await {
            Ok(records) => {
                let url = |srv: &Srv| format!("{scheme}://{}:{}", srv.target, srv.port);
                found.extend(records.into_iter().map(|srv| (url(&srv), srv)));
            }
            Err(error) => errors.push(error),
        }
    }
    match &errors[..] {
        [tls, plain] => Err(format!("dns lookup errors: {tls} and {plain}")),
        _ => Ok(found),
    }
}

/// The name of a service with a scheme's suffix and one of its own.
pub fn service(service: &str, name: &str, scheme: &str) -> String {
    let tls = if scheme == "https" { "-ssl" } else { "" };
    let own = if name.is_empty() { String::new() } else { format!("-{name}") };
    format!("{service}{tls}{own}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_have_a_suffix_for_tls_and_one_of_their_own() {
        let table = [
            ("", "http", "etcd-server"),
            ("", "https", "etcd-server-ssl"),
            ("x", "http", "etcd-server-x"),
            ("x", "https", "etcd-server-ssl-x"),
        ];
        for (name, scheme, expected) in table {
            assert_eq!(service("etcd-server", name, scheme), expected);
        }
    }
}
