//! Whom a case of kind http may call.
//!
//! A case's url is what a user typed, and it is called from inside of the network that the workers
//! stand in. So addresses that only mean something there are refused unless the worker's operator
//! allows them. What counts is the address that is connected to, not the name in the url: a name
//! that leads somewhere else at its second look-up gains nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What cases may call. By default every public address and nothing else.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// What is allowed beyond public addresses.
    pub allowed: Vec<Rule>,
    /// Nothing but what is listed is allowed, public addresses included.
    pub only_listed: bool,
    /// This machine may be called: for a worker that serves this machine's user alone.
    pub loopback: bool,
}

/// One entry of an allow-list: `host`, `*.domain` (names below it), an address, or `address/bits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// A name in a url, in lower case. It allows private addresses, since whoever lists the name
    /// trusts its DNS so far; link-local ones, where clouds hand out secrets, it does not.
    Host(String),
    /// All names that end with this, which begins with a dot.
    Below(String),
    /// All addresses of a network, whatever kind they are.
    Network(IpAddr, u8),
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = |why: &str| Err(format!("{text:?} is no target: {why}"));
        if let Some((address, bits)) = text.split_once('/') {
            let Ok(address) = address.parse::<IpAddr>() else {
                return fail("before the slash there is no address");
            };
            let bits_max = if address.is_ipv4() { 32 } else { 128 };
            return match bits.parse::<u8>() {
                Ok(bits) if bits <= bits_max => Ok(Rule::Network(address, bits)),
                _ => fail("behind the slash there is no number of bits"),
            };
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(Rule::Network(address, if address.is_ipv4() { 32 } else { 128 }));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_name) {
            return fail("it is neither a name nor an address");
        }
        let name = name.to_ascii_lowercase();
        Ok(if text.starts_with('*') { Rule::Below(format!(".{name}")) } else { Rule::Host(name) })
    }
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Public,
    Loopback,
    Private,
    LinkLocal,
    /// Not of one machine, or of none: multicast, reserved, for documentation.
    Special,
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reach::Public => "public",
            Reach::Loopback => "loopback",
            Reach::Private => "private",
            Reach::LinkLocal => "link-local",
            Reach::Special => "reserved",
        })
    }
}

impl Targets {
    /// Whether `address`, to which the url's `host` leads, may be called.
    ///
    /// # Errors
    /// Why not, for the record of the attempt.
    pub fn check(&self, host: &str, address: IpAddr) -> Result<(), String> {
        let (address, reach) = (address.to_canonical(), reach(address));
        let is_listed = self.allowed.iter().any(|rule| rule.allows(host, address, reach));
        let is_open = match reach {
            Reach::Public => !self.only_listed,
            Reach::Loopback => self.loopback,
            _ => false,
        };
        match is_listed || is_open {
            true => Ok(()),
            false => Err(format!("{host} leads to {address}, a {reach} address")),
        }
    }
}

impl Rule {
    fn allows(&self, host: &str, address: IpAddr, reach: Reach) -> bool {
        let by_name = matches!(reach, Reach::Public | Reach::Loopback | Reach::Private);
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self {
            Rule::Host(name) => by_name && host == *name,
            Rule::Below(suffix) => by_name && host.ends_with(suffix.as_str()),
            Rule::Network(network, bits) => is_within(address, network.to_canonical(), *bits),
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    // Shifted by all bits that an address has, nothing is left to differ.
    let differ = |a: u128, b: u128, width: u8| {
        (a ^ b).checked_shr(u32::from(width.saturating_sub(bits))).unwrap_or_default() != 0
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => !differ(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => !differ(a.into(), b.into(), 128),
        _ => false,
    }
}

/// What an address is for. Addresses of version 6 that carry one of version 4 are what that one is.
pub fn reach(address: IpAddr) -> Reach {
    match address.to_canonical() {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        [169, 254, ..] => Reach::LinkLocal,
        // The third is shared between a provider and its customers.
        [10, ..] | [192, 168, ..] | [100, 64..=127, ..] | [172, 16..=31, ..] => Reach::Private,
        [0, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [224..=255, ..] => Reach::Special,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Reach::Special,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let segments = address.segments();
    let carried =
        |high: u16, low: u16| reach_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] => Reach::Special,
        // Compatible addresses of old, translation, and 6to4.
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => carried(high, low),
        [0x2002, high, low, ..] => carried(high, low),
        [0xfe80..=0xfebf, ..] => Reach::LinkLocal,
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0x64, 0xff9b, 1, ..] => Reach::Private,
        // Of all others only 2000::/3 is given out; from it, Teredo and documentation.
        [0x2001, 0, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Reach::Special,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_what_they_are_for() {
        let table = [
            (Reach::Public, &["8.8.8.8", "172.15.0.1", "172.32.0.1", "2a00:1450::1"][..]),
            (Reach::Public, &["100.63.0.1", "100.128.0.1", "192.0.1.1", "2002:808:808::1"]),
            (Reach::Loopback, &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]),
            (Reach::Loopback, &["64:ff9b::7f00:1", "::127.0.0.1", "2002:7f00:1::"]),
            (Reach::Private, &["10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.0.1"]),
            (Reach::Private, &["100.64.0.1", "fd00::1", "fec0::1", "::ffff:10.0.0.1"]),
            (Reach::LinkLocal, &["169.254.169.254", "fe80::1", "::ffff:169.254.169.254"]),
            (Reach::LinkLocal, &["64:ff9b::a9fe:a9fe"]),
            (Reach::Special, &["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "240.0.0.1"]),
            (Reach::Special, &["ff02::1", "2001:db8::1", "192.0.2.1", "198.18.0.1", "100::1"]),
        ];
        for (expected, addresses) in table {
            for address in addresses {
                assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    fn allows(targets: &Targets, host: &str, address: &str) -> bool {
        targets.check(host, address.parse().unwrap()).is_ok()
    }

    fn listing(rules: &[&str]) -> Targets {
        let allowed = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        Targets { allowed, ..Targets::default() }
    }

    #[test]
    fn only_public_addresses_are_allowed_by_default() {
        let targets = Targets::default();
        assert!(allows(&targets, "example.org", "93.184.215.14"));
        for address in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "0.0.0.0", "fd00::1"] {
            assert!(!allows(&targets, "example.org", address), "{address}");
        }
        let refused = targets.check("a.example", "10.0.0.1".parse().unwrap());
        assert_eq!(refused, Err("a.example leads to 10.0.0.1, a private address".to_owned()));
    }

    #[test]
    fn loopback_alone_opens_no_other_network() {
        let targets = Targets { loopback: true, ..Targets::default() };
        assert!(allows(&targets, "localhost", "127.0.0.1") && allows(&targets, "x", "::1"));
        assert!(!allows(&targets, "localhost", "10.0.0.1"));
    }

    #[test]
    fn lists_open_names_and_networks() {
        let targets = listing(&["lab.example", "*.Test.example", "10.1.0.0/16", "fd00::/8"]);
        assert!(allows(&targets, "LAB.example.", "192.168.0.1"));
        assert!(allows(&targets, "a.test.example", "10.9.0.1"));
        assert!(!allows(&targets, "test.example", "10.9.0.1"), "only below it");
        assert!(!allows(&targets, "atest.example", "10.9.0.1"));
        assert!(allows(&targets, "x", "10.1.2.3") && !allows(&targets, "x", "10.2.2.3"));
        assert!(allows(&targets, "x", "::ffff:10.1.2.3"));
        assert!(allows(&targets, "x", "fd12::1") && !allows(&targets, "x", "fe80::1"));
        assert!(!allows(&targets, "lab.example", "169.254.169.254"), "a name is not enough");
        assert!(allows(&listing(&["169.254.169.254"]), "x", "169.254.169.254"));
        assert!(allows(&listing(&["0.0.0.0/0"]), "x", "127.0.0.1"), "all of version 4");
        assert!(!allows(&listing(&["0.0.0.0/0"]), "x", "::1"));
    }

    #[test]
    fn a_closed_list_allows_nothing_else() {
        let targets = Targets { only_listed: true, ..listing(&["a.example"]) };
        assert!(allows(&targets, "a.example", "8.8.8.8") && !allows(&targets, "b", "8.8.8.8"));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in ["", "10.0.0.0/33", "a/8", "10.0.0.0/", "http://a", "a b", "*.", "*", ".a"] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
