//! Whether a certificate's owner comes from where its certificate says.
//!
//! An address in the certificate must be the one it comes from; a name must be that address's
//! name, or lead to it. This may ask the name service, so it blocks.

use super::certificate::Certificate;
use std::net::{IpAddr, ToSocketAddrs as _};

/// Checks the names of a certificate against the address that its owner comes from. One without
/// names fits anywhere.
///
/// # Errors
/// etcd's text for it.
pub(super) fn check(certificate: &Certificate, remote: IpAddr) -> Result<(), String> {
    check_with(certificate, remote, &System)
}

/// What is asked of the name service.
trait Names {
    fn name_of(&self, address: IpAddr) -> Result<String, String>;
    fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, String>;
}

struct System;

impl Names for System {
    fn name_of(&self, address: IpAddr) -> Result<String, String> {
        dns_lookup::lookup_addr(&address)
            .map_err(|error| format!("lookup {address}: {}", std::io::Error::from(error)))
    }

    fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let found = (name, 0).to_socket_addrs();
        let found = found.map_err(|_| format!("lookup {name}: no such host"))?;
        Ok(found.map(|address| address.ip().to_canonical()).collect())
    }
}

fn check_with(certificate: &Certificate, remote: IpAddr, names: &dyn Names) -> Result<(), String> {
    let (remote, known) = (remote.to_canonical(), &certificate.dns_names);
    if !certificate.addresses.is_empty() {
        match certificate.check_host(&remote.to_string()) {
            Ok(()) => return Ok(()),
            Err(text) if known.is_empty() => return Err(text),
            Err(_) => {}
        }
    }
    if known.is_empty() {
        return Ok(());
    }
    let mut failure = None;
    match names.name_of(remote) {
        Ok(name) if known.iter().any(|known| fits(known, &name)) => return Ok(()),
        Ok(_) => {}
        Err(error) => failure = Some(error),
    }
    for name in known.iter().filter(|name| !name.starts_with("*.")) {
        match names.addresses_of(name) {
            Ok(found) if found.contains(&remote) => return Ok(()),
            Ok(_) => {}
            Err(error) => failure = Some(error),
        }
    }
    let failure = failure.map_or(String::new(), |error| format!(" ({error})"));
    let quoted: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    let quoted = quoted.join(" ");
    Err(format!("tls: \"{remote}\" does not match any of DNSNames [{quoted}]{failure}"))
}

/// A star stands for any labels in front, as etcd has it here.
fn fits(known: &str, name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    match known.strip_prefix('*') {
        Some(tail) if tail.starts_with('.') => name.ends_with(tail),
        _ => known == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10.0.0.1 is host.b.example, and so is what a.example leads to.
    struct Fixed;

    impl Names for Fixed {
        fn name_of(&self, address: IpAddr) -> Result<String, String> {
            match address.to_string().as_str() {
                "10.0.0.1" => Ok("host.b.example.".to_owned()),
                _ => Err("unknown".to_owned()),
            }
        }

        fn addresses_of(&self, name: &str) -> Result<Vec<IpAddr>, String> {
            match name {
                "a.example" => Ok(vec![[10, 0, 0, 1].into()]),
                _ => Err("no such host".to_owned()),
            }
        }
    }

    #[test]
    fn a_certificate_counts_where_it_was_made_out_for() {
        let check = |addresses: &[[u8; 4]], names: &[&str], remote: &str| {
            let certificate = Certificate {
                addresses: addresses.iter().map(|address| (*address).into()).collect(),
                dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Certificate::default()
            };
            check_with(&certificate, remote.parse().unwrap(), &Fixed)
        };
        assert_eq!(check(&[], &[], "10.0.0.1"), Ok(()), "no names, no check");
        assert_eq!(check(&[[10, 0, 0, 1]], &[], "10.0.0.1"), Ok(()));
        assert_eq!(check(&[[10, 0, 0, 1]], &[], "::ffff:10.0.0.1"), Ok(()));
        assert_eq!(check(&[[10, 0, 0, 2]], &["a.example"], "10.0.0.1"), Ok(()), "forward");
        assert_eq!(check(&[], &["host.b.example"], "10.0.0.1"), Ok(()), "reverse");
        assert_eq!(check(&[], &["*.b.example"], "10.0.0.1"), Ok(()), "a star");
        assert_eq!(check(&[], &["*.example"], "10.0.0.1"), Ok(()), "for several labels");
        let table: [(&[[u8; 4]], &[&str], &str, &str); 3] = [
            (
                &[[10, 0, 0, 2]],
                &[],
                "10.0.0.1",
                "x509: certificate is valid for 10.0.0.2, not 10.0.0.1",
            ),
            (
                &[[10, 0, 0, 2]],
                &["*.c", "d"],
                "10.0.0.1",
                r#"tls: "10.0.0.1" does not match any of DNSNames ["*.c" "d"] (no such host)"#,
            ),
            (
                &[],
                &["a.example"],
                "10.0.0.3",
                r#"tls: "10.0.0.3" does not match any of DNSNames ["a.example"] (unknown)"#,
            ),
        ];
        for (addresses, names, remote, text) in table {
            assert_eq!(check(addresses, names, remote), Err(text.to_owned()));
        }
    }
}
