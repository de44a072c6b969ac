//! The table of flags.
//!
//! A row is the only place that knows a flag's name, type, default and help; parsing, variables,
//! the help page and the list of flags without effect all come from it.

pub(super) mod files;

use crate::config::url::MemberUrl;
use crate::config::value;

pub(super) struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub role: Role,
}

/// What a value must look like.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// Text that no log may show.
    Secret,
    Switch,
    Unsigned,
    /// As [`Kind::Unsigned`], but at most 2^32 - 1.
    Unsigned32,
    Signed,
    Duration,
    /// URLs; empty leaves what was there.
    Urls,
    /// URLs, or one star.
    Origins,
    OneOf(&'static [&'static str]),
    /// Comma-separated, each one of these.
    SomeOf(&'static [&'static str]),
    Gates,
    /// Of former days: any value is taken, as a switch.
    Legacy,
}

/// What a flag does here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Has its effect: group of the help page, placeholder of the value, help text.
    Effective(Group, &'static str, &'static str),
    /// Read and checked, so that a command line written for etcd starts, but nothing acts on it.
    Accepted,
    /// As [`Role::Accepted`], with etcd's warning when it is used.
    Deprecated(&'static str),
    /// Warned of and dropped.
    Dropped,
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Member,
    Cluster,
    Consensus,
    Http,
    Limits,
    Auth,
    Checks,
    ClientTls,
    PeerTls,
    Tls,
    Logging,
    Unsafe,
}

impl Flag {
    pub(super) fn variable(&self) -> String {
        let prefix = if files::OURS.contains(&self.name) { "QUOIN" } else { "ETCD" };
        format!("{prefix}_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    pub(super) fn is_switch(&self) -> bool {
        matches!(self.kind, Kind::Switch | Kind::Legacy)
    }

    /// Whether `text` fits; the error is what Go prints after the colon.
    pub(super) fn check(&self, text: &str) -> Result<(), String> {
        match self.kind {
            Kind::Text | Kind::Secret | Kind::Legacy => Ok(()),
            Kind::Switch => value::switch(text).map(drop).map_err(String::from),
            Kind::Unsigned => value::unsigned(text).map(drop).map_err(String::from),
            Kind::Unsigned32 => check_unsigned32(text),
            Kind::Signed => value::signed(text).map(drop).map_err(String::from),
            Kind::Duration => value::nanoseconds(text).map(drop).map_err(String::from),
            Kind::Urls if text.is_empty() => Ok(()),
            Kind::Origins if text == "*" => Ok(()),
            Kind::Urls | Kind::Origins => MemberUrl::parse_list(text).map(drop),
            Kind::OneOf(known) if known.contains(&text) => Ok(()),
            Kind::OneOf(_) => Err("invalid value".to_string()),
            Kind::SomeOf(known) => match text.split(',').find(|part| !known.contains(part)) {
                Some(unknown) => Err(format!("invalid value {unknown:?}")),
                None => Ok(()),
            },
            Kind::Gates => gates(text).map(drop),
        }
    }

    pub(super) fn differs_from_default(&self, text: &str) -> bool {
        match self.kind {
            Kind::Switch => value::switch(text) != value::switch(self.default),
            Kind::Unsigned | Kind::Unsigned32 => {
                value::unsigned(text) != value::unsigned(self.default)
            }
            Kind::Signed => value::signed(text) != value::signed(self.default),
            Kind::Duration => value::nanoseconds(text) != value::nanoseconds(self.default),
            _ => text != self.default,
        }
    }
}

pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

fn check_unsigned32(text: &str) -> Result<(), String> {
    let failure = match value::unsigned(text) {
        Ok(number) if number <= u64::from(u32::MAX) => return Ok(()),
        Ok(_) | Err(value::RANGE) => "value out of range",
        Err(_) => "invalid syntax",
    };
    Err(format!("strconv.ParseUint: parsing {text:?}: {failure}"))
}

/// Feature gates that act here.
const EFFECTIVE_GATES: [&str; 2] = ["CompactHashCheck", "InitialCorruptCheck"];

/// Every gate, with the stage that it has reached and whether it is on. A gate's own name counts
/// more than its group's, and of one name the last.
pub(super) fn all_gates(text: &str) -> Result<Vec<(&'static str, &'static str, bool)>, String> {
    let given = gates(text)?;
    let last = |name: &str| given.iter().rev().find(|(found, _)| *found == name).map(|(_, on)| *on);
    let state = |(name, stage, default): (&'static str, &'static str, bool)| {
        let group = if stage == BETA { "AllBeta" } else { "AllAlpha" };
        (name, stage, last(name).or_else(|| last(group)).unwrap_or(default))
    };
    Ok(GATES.map(state).into())
}

/// Whether a gate is on.
pub(super) fn is_open(gate: &str, text: &str) -> Result<bool, String> {
    Ok(all_gates(text)?.into_iter().any(|(name, _, is_on)| name == gate && is_on))
}

/// Whether gates are named that nothing acts on.
pub(super) fn names_idle_gates(text: &str) -> bool {
    let is_idle = |(name, _): &(&str, bool)| !EFFECTIVE_GATES.contains(name) && *name != "AllAlpha";
    gates(text).is_ok_and(|gates| gates.iter().any(is_idle))
}

const ALPHA: &str = "ALPHA";
const BETA: &str = "BETA";

/// etcd's feature gates: name, stage, and whether they are on by default. Few act on anything here; a
/// wrong name must still stop the start.
const GATES: [(&str, &str, bool); 11] = [
    ("AllAlpha", ALPHA, false),
    ("AllBeta", BETA, false),
    ("CompactHashCheck", ALPHA, false),
    ("FastLeaseKeepAlive", BETA, true),
    ("InitialCorruptCheck", ALPHA, false),
    ("LeaseCheckpoint", ALPHA, false),
    ("LeaseCheckpointPersist", ALPHA, false),
    ("PriorityRequest", ALPHA, false),
    ("SetMemberLocalAddr", ALPHA, false),
    ("StopGRPCServiceOnDefrag", ALPHA, false),
    ("TxnModeWriteWithSharedBuffer", BETA, true),
];

/// Reads `Name=true,Other=false`.
pub(super) fn gates(text: &str) -> Result<Vec<(&str, bool)>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let Some((name, on)) = part.split_once('=') else {
                return Err(format!("missing bool value for {part}"));
            };
            let (name, on) = (name.trim(), on.trim());
            let on = value::switch(on).map_err(|_| {
                format!("invalid value of {name}={on}, err: strconv.ParseBool: parsing {on:?}: invalid syntax")
            })?;
            if !GATES.iter().any(|(known, ..)| *known == name) {
                return Err(format!("unrecognized feature gate: {name}"));
            }
            Ok((name, on))
        })
        .collect()
}

const DEFAULT_ENGINE: &str = if cfg!(feature = "rocksdb") { "rocksdb" } else { "memory" };

/// What etcd takes for "not given": if only the name is, the name's own URLs take its place.
pub(super) const INITIAL_CLUSTER: &str = "default=http://localhost:2380";

const LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

const fn effective(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    placeholder: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, role: Role::Effective(group, placeholder, help) }
}

const fn accepted(name: &'static str, kind: Kind, default: &'static str) -> Flag {
    Flag { name, kind, default, role: Role::Accepted }
}

const fn dropped(name: &'static str) -> Flag {
    Flag { name, kind: Kind::Legacy, default: "", role: Role::Dropped }
}

// One row a flag, however long: rustfmt would spread each over eight lines.
#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &{
    use Group::*;
    use Kind::*;
    [
        effective("name", Text, "default", Member, "name", "\
            Name of this member, different from the names of all others."),
        effective("config-file", Text, "", Member, "path", "\
            File with all that flags say otherwise, in YAML or JSON: see docs/operations.md. All \
            other flags and variables are ignored with it, but for those that etcd does not have."),
        effective("data-dir", Text, "", Member, "path", "\
            Folder for all that this member stores; <name>.etcd if not given. It is created with \
            mode 0700. Once it holds a member, the --initial-* flags are ignored."),
        effective("wal-dir", Text, "", Member, "path", "\
            Folder for the raft log, to put it on a disk of its own. By default it lies in the \
            data folder."),
        effective("engine", OneOf(&["memory", "rocksdb"]), DEFAULT_ENGINE, Member, "engine", "\
            Where keys and values live: 'rocksdb' on disk, 'memory' in memory with snapshots on \
            disk. Both survive a crash."),
        effective("listen-client-urls", Urls, "http://localhost:2379", Member, "urls", "\
            Where to listen for clients: http:// or https://, an IP address or localhost, and a port; \
            one port may have both. Needs --advertise-client-urls beside it."),
        effective("listen-client-http-urls", Urls, "", Member, "urls", "\
            Where to serve HTTP and JSON to clients. If given, --listen-client-urls serve gRPC \
            alone."),
        effective("metrics", Text, "basic", Http, "level", "\
            What /metrics tells: 'basic', or 'extensive' with the time that each call takes."),
        effective("warning-apply-duration", Duration, "100ms", Logging, "duration", "\
            A request that takes longer to be applied or read is logged."),
        effective("listen-metrics-urls", Urls, "", Member, "urls", "\
            Where to answer probes of health, apart from clients."),
        effective("listen-peer-urls", Urls, "http://localhost:2380", Member, "urls", "\
            Where to listen for other members."),
        effective("advertise-client-urls", Urls, "http://localhost:2379", Member, "urls", "\
            Where clients find this member, as it tells the others. Names are allowed."),

        effective("initial-advertise-peer-urls", Urls, "http://localhost:2380", Cluster, "urls", "\
            Where the other members find this one. Must equal this member's part of \
            --initial-cluster."),
        effective("initial-cluster", Text, INITIAL_CLUSTER, Cluster, "name=url,...", "\
            All first members with their peer URLs, the same text for each of them. If only --name \
            is given, it follows the name. A name with several URLs is repeated."),
        effective("initial-cluster-token", Text, "etcd-cluster", Cluster, "text", "\
            Goes into member and cluster ids. Give each cluster its own, and members of one never \
            join another by mistake."),
        effective("initial-cluster-state", OneOf(&["new", "existing"]), "new", Cluster, "state", "\
            'new' to found a cluster, 'existing' to join one that this member was added to."),

        effective("discovery-token", Text, "", Cluster, "text", "\
            In the place of --initial-cluster: the first members find each other in the registry \
            under this text. It makes one cluster; never use it again."),
        effective("discovery-endpoints", Text, "", Cluster, "urls", "\
            Members of the cluster that keeps the registry: an etcd or a Quoin."),
        effective("discovery-user", Secret, "", Cluster, "name[:password]", "\
            User of the registry."),
        effective("discovery-password", Secret, "", Cluster, "text", "\
            The user's password."),
        effective("discovery-dial-timeout", Duration, "2s", Cluster, "time", "\
            How long to try to reach the registry at one time."),
        effective("discovery-request-timeout", Duration, "5s", Cluster, "time", "\
            How long to wait for an answer before asking again."),
        effective("discovery-keepalive-time", Duration, "2s", Cluster, "time", "\
            How long the connection may be silent before it is pinged."),
        effective("discovery-keepalive-timeout", Duration, "6s", Cluster, "time", "\
            How long to wait for the answer to a ping."),
        effective("discovery-insecure-transport", Switch, "true", Cluster, "", "\
            Speak plain text with endpoints of the registry that name neither http:// nor https://."),
        effective("discovery-insecure-skip-tls-verify", Switch, "false", Cluster, "", "\
            Believe any certificate of the registry: for tests alone."),
        effective("discovery-cert", Text, "", Cluster, "file", "\
            The certificate to show to the registry."),
        effective("discovery-key", Text, "", Cluster, "file", "\
            The private key of that certificate."),
        effective("discovery-cacert", Text, "", Cluster, "file", "\
            Certificates of authorities that may vouch for the registry."),
        effective("discovery-srv", Text, "", Cluster, "domain", "\
            In the place of --initial-cluster: the first members find each other by SRV records of \
            this domain."),
        effective("discovery-srv-name", Text, "", Cluster, "text", "\
            A suffix of the services' names in these records."),

        effective("heartbeat-interval", Unsigned, "100", Consensus, "ms", "\
            Milliseconds between heartbeats of the leader. About the round trip between members."),
        effective("election-timeout", Unsigned, "1000", Consensus, "ms", "\
            Milliseconds without heartbeat until a follower stands for election: at least 5 times \
            the heartbeat interval, at most 50000, the same for all members."),
        effective("initial-election-tick-advance", Switch, "true", Consensus, "", "\
            After a start, stand for election without waiting for a whole election timeout."),
        effective("pre-vote", Switch, "true", Consensus, "", "\
            Ask whether an election could be won before starting one, so that a member that was \
            cut off does not disturb the others when it returns."),
        effective("snapshot-count", Unsigned, "10000", Consensus, "entries", "\
            Entries of the raft log between two of its cuts; 0 is the default."),
        effective("snapshot-catchup-entries", Unsigned, "5000", Consensus, "entries", "\
            Entries kept at a cut for followers that lag. One that lags more gets a snapshot."),

        effective("enable-grpc-gateway", Switch, "true", Http, "", "\
            Offer all calls as POST requests with JSON bodies below /v3/."),
        effective("enable-pprof", Switch, "false", Http, "", "\
            Show the pages below /debug/pprof/."),
        effective("cors", Origins, "*", Http, "urls", "\
            Origins of web pages that may see answers: http://host:port, or * for all."),
        effective("host-whitelist", Text, "*", Http, "names", "\
            Names that a plain-text request may have in its Host header; * for all."),

        effective("strict-reconfig-check", Switch, "true", Limits, "", "\
            Refuse changes of members that could leave the cluster without a quorum."),
        effective("max-learners", Signed, "1", Limits, "count", "\
            Members that follow without a vote."),
        effective("max-txn-ops", Unsigned, "128", Limits, "count", "\
            Operations, or comparisons, in one transaction."),
        effective("max-request-bytes", Unsigned, "1572864", Limits, "bytes", "\
            Size of one write as it is replicated."),
        effective("max-concurrent-streams", Unsigned32, "4294967295", Limits, "count", "\
            Calls open at one time on one client's connection."),
        effective("range-memory-bytes", Unsigned, "536870912", Limits, "bytes", "\
            What large answers may hold in memory, all together; above it some are read a second \
            time while they are sent, others wait, and are refused if nobody gives room back."),
        effective("quota-backend-bytes", Signed, "0", Limits, "bytes", "\
            Size of the store above which it takes no more; 0 is 2 GiB, below 0 is no bound."),
        effective("socket-reuse-port", Switch, "false", Member, "", "\
            Let other processes listen on the same ports."),
        effective("socket-reuse-address", Switch, "false", Member, "", "\
            Listen on ports whose last connections are still closing; here that is always so."),
        effective("memory-mlock", Switch, "false", Member, "", "\
            Keep all memory from being swapped out. Needs the right to lock as much."),
        effective("grpc-keepalive-min-time", Duration, "5s", Limits, "time", "\
            How long a client with calls under way waits between its pings; 0 is 5m."),
        effective("grpc-keepalive-interval", Duration, "2h", Limits, "time", "\
            How long a client's connection may be silent before it is pinged; 0 is never."),
        effective("grpc-keepalive-timeout", Duration, "20s", Limits, "time", "\
            How long to wait for the answer before the connection is closed."),
        effective("watch-progress-notify-interval", Duration, "10m", Limits, "time", "\
            How often a quiet watch that asks for it is told how far it is."),

        effective("auto-compaction-mode", Text, "periodic", Limits, "mode", "\
            What the leader compacts by itself. periodic: what is older than the retention. \
            revision: what is that many revisions behind."),
        effective("auto-compaction-retention", Text, "0", Limits, "amount", "\
            How much of the past to keep: hours or a time like 90m, or a number of revisions. \
            0 is all of it."),

        effective("auth-token", Text, "simple", Auth, "kind", "\
            Tokens for users who have shown their password: 'simple', kept by the members, or \
            'jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m', which prove themselves."),
        effective("auth-token-ttl", Unsigned, "300", Auth, "seconds", "\
            How long a simple token is good after its last use."),
        effective("bcrypt-cost", Unsigned, "10", Auth, "cost", "\
            Effort of hashing a password, from 4 to 31; each step doubles it."),

        effective("corrupt-check-time", Duration, "0s", Checks, "time", "\
            How often the leader compares the data of all members; 0 is never. Members that differ \
            raise the alarm CORRUPT, which stops all writes."),
        effective("compact-hash-check-time", Duration, "1m", Checks, "time", "\
            With the gate CompactHashCheck: how often the leader compares what the last compaction \
            left on all members."),
        effective("feature-gates", Gates, "", Checks, "name=true,...", "\
            InitialCorruptCheck: a member compares its data with the others' before it serves, and \
            does not start if they differ. CompactHashCheck: see above. etcd's other gates have no \
            effect."),

        effective("cert-file", Text, "", ClientTls, "path", "\
            Certificate to show to clients on https:// URLs, and those that signed it, in PEM form. \
            All files about TLS are read again when they change."),
        effective("key-file", Text, "", ClientTls, "path", "\
            Its key."),
        effective("trusted-ca-file", Text, "", ClientTls, "path", "\
            Who signs the certificates of clients. If given, every client must show one."),
        effective("client-cert-auth", Switch, "false", ClientTls, "", "\
            Every client must show a certificate. With users, its common name is the user's unless a \
            token says otherwise."),
        effective("client-crl-file", Text, "", ClientTls, "path", "\
            List of revoked certificates."),
        effective("client-cert-allowed-hostname", Text, "", ClientTls, "names", "\
            Names or addresses, of which a client's certificate must be made out to one."),
        effective("client-cert-file", Text, "", ClientTls, "path", "\
            Checked with its key at the start, without other effect: no member dials as a client."),
        effective("client-key-file", Text, "", ClientTls, "path", "\
            Its key."),
        effective("auto-tls", Switch, "false", ClientTls, "", "\
            Make a certificate at the first start if none is given."),

        effective("peer-cert-file", Text, "", PeerTls, "path", "\
            Certificate to show to other members, when they dial and when they are dialled."),
        effective("peer-key-file", Text, "", PeerTls, "path", "\
            Its key."),
        effective("peer-trusted-ca-file", Text, "", PeerTls, "path", "\
            Who signs the certificates of members. If given, every one must show one."),
        effective("peer-client-cert-auth", Switch, "false", PeerTls, "", "\
            Every member that dials must show a certificate."),
        effective("peer-client-cert-file", Text, "", PeerTls, "path", "\
            Certificate to show to members that are dialled, if not the first one."),
        effective("peer-client-key-file", Text, "", PeerTls, "path", "\
            Its key."),
        effective("peer-crl-file", Text, "", PeerTls, "path", "\
            List of revoked certificates."),
        effective("peer-cert-allowed-cn", Text, "", PeerTls, "names", "\
            Common names, of which a member's certificate must have one."),
        effective("peer-cert-allowed-hostname", Text, "", PeerTls, "names", "\
            Names or addresses, of which it must be made out to one."),
        effective("peer-skip-client-san-verification", Switch, "false", PeerTls, "", "\
            Do not check that a member comes from where its certificate says."),
        effective("peer-auto-tls", Switch, "false", PeerTls, "", "\
            Make a certificate at the first start if none is given, and check nobody's."),

        effective("self-signed-cert-validity", Unsigned, "1", Tls, "years", "\
            How long a certificate counts that a member makes for itself."),
        effective("cipher-suites", Text, "", Tls, "names", "\
            What TLS 1.2 may use, by Go's names; all that is offered if empty."),
        effective("tls-min-version", Text, "TLS1.2", Tls, "version", "\
            TLS1.2 or TLS1.3."),
        effective("tls-max-version", Text, "", Tls, "version", "\
            The same; the newest if empty."),

        effective("log-level", Text, "info", Logging, "level", "\
            debug, info, warn, error, dpanic, panic or fatal."),
        effective("log-format", Text, "json", Logging, "format", "\
            json: one object a line. console: for the eye."),
        effective("log-outputs", Text, "default", Logging, "list", "\
            default (that is stderr), stderr, stdout, systemd/journal, or paths of files, separated \
            by commas."),
        effective("warning-unary-request-duration", Duration, "300ms", Logging, "time", "\
            A call that takes longer is told of in the log."),
        effective("enable-log-rotation", Switch, "false", Logging, "", "\
            Begin a new file when the log's has grown to a size. Needs one path in --log-outputs."),
        effective("log-rotation-config-json", Text, LOG_ROTATION, Logging, "json", "\
            maxsize in MiB; maxage in days and maxbackups, 0 for any, bound the old files; localtime \
            names them by local time, compress stores them with gzip."),

        effective("force-new-cluster", Switch, "false", Unsafe, "", "\
            Make this member's data a cluster of its own; the others count as removed. For the day \
            on which a majority is lost for good."),
        effective("unsafe-no-fsync", Switch, "false", Unsafe, "", "\
            Do not wait for the disk. Writes that were confirmed are lost when the machine stops."),

        Flag { name: "version", kind: Switch, default: "false", role: Role::Version },

        accepted("backend-batch-interval", Duration, "0s"),
        accepted("backend-batch-limit", Signed, "0"),
        accepted("backend-bbolt-freelist-type", Text, "map"),
        accepted("bootstrap-defrag-threshold-megabytes", Unsigned, "0"),
        accepted("compaction-batch-limit", Signed, "1000"),
        accepted("compaction-sleep-interval", Duration, "10ms"),
        accepted("discovery-fallback", OneOf(&["exit", "proxy"]), "exit"),
        accepted("distributed-tracing-address", Text, "localhost:4317"),
        accepted("distributed-tracing-instance-id", Text, ""),
        accepted("distributed-tracing-sampling-rate", Signed, "0"),
        accepted("distributed-tracing-service-name", Text, "etcd"),
        accepted("downgrade-check-time", Duration, "5s"),
        accepted("enable-distributed-tracing", Switch, "false"),
        accepted("logger", Text, "zap"),
        accepted("max-wals", Unsigned, "5"),
        accepted("raft-read-timeout", Duration, "5s"),
        accepted("raft-write-timeout", Duration, "5s"),

        Flag { name: "max-snapshots", kind: Unsigned, default: "5", role: Role::Deprecated("\
            --max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.") },
        Flag { name: "v2-deprecation", kind: SomeOf(&["write-only", "write-only-drop-data", "gone"]),
            default: "write-only", role: Role::Deprecated("\
            --v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is \
            enforced, ignoring user input.") },

        dropped("cluster-active-size"),
        dropped("cluster-remove-delay"),
        dropped("cluster-sync-interval"),
        dropped("config"),
        dropped("force"),
        dropped("max-result-buffer"),
        dropped("max-retry-attempts"),
        dropped("peer-election-timeout"),
        dropped("peer-heartbeat-interval"),
        dropped("retry-interval"),
        dropped("snapshot"),
        dropped("v"),
        dropped("vv"),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_defaults_fit() {
        let names: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        assert_eq!(names.len(), FLAGS.len());
        for flag in FLAGS {
            assert_eq!(flag.check(flag.default), Ok(()), "{}", flag.name);
            assert!(!flag.differs_from_default(flag.default), "{}", flag.name);
        }
    }

    #[test]
    fn variables_follow_names() {
        let variable = |name| find(name).unwrap().variable();
        assert_eq!(variable("listen-client-urls"), "ETCD_LISTEN_CLIENT_URLS");
        assert_eq!(variable("engine"), "QUOIN_ENGINE");
    }

    #[test]
    fn gates_are_names_with_switches() {
        let table = [
            ("", Ok(vec![])),
            (" A", Err("missing bool value for A")),
            (
                "CompactHashCheck=true, AllBeta=f",
                Ok(vec![("CompactHashCheck", true), ("AllBeta", false)]),
            ),
            ("CompactHashCheck", Err("missing bool value for CompactHashCheck")),
            ("Nope=true", Err("unrecognized feature gate: Nope")),
            (
                "AllAlpha=x",
                Err(
                    "invalid value of AllAlpha=x, err: strconv.ParseBool: parsing \"x\": invalid syntax",
                ),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(gates(text), expected.map_err(String::from), "{text}");
        }
    }

    #[test]
    fn lists_of_choices_name_the_wrong_one() {
        let flag = find("v2-deprecation").unwrap();
        assert_eq!(flag.check("gone,write-only"), Ok(()));
        assert_eq!(flag.check("gone,x"), Err(r#"invalid value "x""#.to_string()));
    }
}
