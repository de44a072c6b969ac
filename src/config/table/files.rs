//! Where the flags of the table stand in a configuration file, which of them are lists there, and
//! what only a file can say.

use crate::config::table::{self, Flag, Group, Kind, Role};

/// Groups of keys in a configuration file.
pub(in crate::config) const GROUPS: [&str; 7] = [
    "client-transport-security",
    "discovery-config",
    "discovery-config.client",
    "discovery-config.client.auth",
    "discovery-config.client.secure",
    "peer-transport-security",
    "socket-options",
];

/// Flags that etcd does not have: a file that was made for it cannot say these.
pub(in crate::config) const OURS: [&str; 2] = ["engine", "range-memory-bytes"];

/// What only a file can say: etcd has keys for these, and no flags.
pub(in crate::config) static ONLY_IN_FILES: [Flag; 2] = [
    Flag {
        name: "client-cert-allowed-cn",
        kind: Kind::Text,
        default: "",
        role: Role::Effective(Group::ClientTls, "names", ""),
    },
    Flag {
        name: "client-skip-client-san-verification",
        kind: Kind::Switch,
        default: "false",
        role: Role::Effective(Group::ClientTls, "", ""),
    },
];

/// Where flags stand in a file, if not under their own names.
pub(in crate::config) const KEYS: [(&str, &str); 35] = [
    ("client-transport-security.allowed-cn", "client-cert-allowed-cn"),
    ("client-transport-security.allowed-hostname", "client-cert-allowed-hostname"),
    ("client-transport-security.auto-tls", "auto-tls"),
    ("client-transport-security.cert-file", "cert-file"),
    ("client-transport-security.client-cert-auth", "client-cert-auth"),
    ("client-transport-security.client-cert-file", "client-cert-file"),
    ("client-transport-security.client-key-file", "client-key-file"),
    ("client-transport-security.key-file", "key-file"),
    (
        "client-transport-security.skip-client-san-verification",
        "client-skip-client-san-verification",
    ),
    ("client-transport-security.trusted-ca-file", "trusted-ca-file"),
    ("discovery-config.client.auth.password", "discovery-password"),
    ("discovery-config.client.auth.username", "discovery-user"),
    ("discovery-config.client.dial-timeout", "discovery-dial-timeout"),
    ("discovery-config.client.endpoints", "discovery-endpoints"),
    ("discovery-config.client.keepalive-time", "discovery-keepalive-time"),
    ("discovery-config.client.keepalive-timeout", "discovery-keepalive-timeout"),
    ("discovery-config.client.request-timeout", "discovery-request-timeout"),
    ("discovery-config.client.secure.cacert", "discovery-cacert"),
    ("discovery-config.client.secure.cert", "discovery-cert"),
    (
        "discovery-config.client.secure.insecure-skip-tls-verify",
        "discovery-insecure-skip-tls-verify",
    ),
    ("discovery-config.client.secure.insecure-transport", "discovery-insecure-transport"),
    ("discovery-config.client.secure.key", "discovery-key"),
    ("discovery-config.token", "discovery-token"),
    ("peer-transport-security.allowed-cn", "peer-cert-allowed-cn"),
    ("peer-transport-security.allowed-hostname", "peer-cert-allowed-hostname"),
    ("peer-transport-security.auto-tls", "peer-auto-tls"),
    ("peer-transport-security.cert-file", "peer-cert-file"),
    ("peer-transport-security.client-cert-auth", "peer-client-cert-auth"),
    ("peer-transport-security.client-cert-file", "peer-client-cert-file"),
    ("peer-transport-security.client-key-file", "peer-client-key-file"),
    ("peer-transport-security.key-file", "peer-key-file"),
    ("peer-transport-security.skip-client-san-verification", "peer-skip-client-san-verification"),
    ("peer-transport-security.trusted-ca-file", "peer-trusted-ca-file"),
    ("socket-options.reuse-port", "socket-reuse-port"),
    ("socket-options.reuse-address", "socket-reuse-address"),
];

/// Flags that files do not have: they have no meaning there, or only in a group.
pub(in crate::config) const NOT_IN_FILES: [&str; 6] = [
    "client-crl-file",
    "discovery-fallback",
    "peer-crl-file",
    "raft-read-timeout",
    "raft-write-timeout",
    "config-file",
];

/// Flags that a file gives as lists.
pub(in crate::config) const LISTS: [&str; 7] = [
    "cipher-suites",
    "client-cert-allowed-cn",
    "client-cert-allowed-hostname",
    "discovery-endpoints",
    "log-outputs",
    "peer-cert-allowed-cn",
    "peer-cert-allowed-hostname",
];

/// The flag that a key of a file sets; groups and keys are joined by dots.
pub(in crate::config) fn find(key: &str) -> Option<&'static Flag> {
    if let Some((_, name)) = KEYS.iter().find(|(path, _)| *path == key) {
        return named(name);
    }
    let is_elsewhere = NOT_IN_FILES.contains(&key) || KEYS.iter().any(|(_, name)| *name == key);
    table::find(key)
        .filter(|flag| !is_elsewhere && !matches!(flag.role, Role::Dropped | Role::Version))
}

/// A flag of the table, or what stands for one in files alone.
pub(in crate::config) fn named(name: &str) -> Option<&'static Flag> {
    table::find(name).or_else(|| ONLY_IN_FILES.iter().find(|flag| flag.name == name))
}

pub(in crate::config) fn is_list(flag: &Flag) -> bool {
    LISTS.contains(&flag.name)
}
