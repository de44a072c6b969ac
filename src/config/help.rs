//! The pages that a user sees before anything runs: help, usage, version.

use crate::config::ETCD_VERSION;
use crate::config::table::{FLAGS, Flag, Group, Kind, Role};

/// Goes to stderr below the message when a command line cannot be read.
pub fn usage(program: &str) -> String {
    format!(
        "\
Usage:

  {program} [flags]
    Start a member.

  {program} --version
    Print the versions.

  {program} --help
    Explain all flags and other commands.
"
    )
}

fn introduction(program: &str) -> String {
    let own_name = match program {
        "quoin" => "",
        _ => " This is Quoin, started by the name of etcd.",
    };
    let commands = [
        ("[serve] [flags]", "Start a member."),
        ("kv --help", "Read, write and watch keys."),
        ("help tools", "List all commands: those of etcdctl, and those of the test scheduler."),
        ("snapshot --help", "Make, look at and restore backups."),
        ("gateway start --help", "Pass connections on to a cluster."),
        ("bench --help", "Measure a running server."),
        ("scheduler --help", "Serve as a test scheduler; serve --scheduler does so"),
        ("", "in the process of a member, with its --scheduler- flags."),
        ("worker --help", "Run test cases for it."),
        ("--version", "Print the versions."),
        ("--help, help", "Print this page."),
    ];
    let commands: String =
        commands.map(|(flags, what)| format!("  {program} {flags:<22} {what}\n")).concat();
    format!(
        "\
Quoin keeps keys and values on one or more members that agree by Raft, and serves every
etcd v3 client. Its flags are those of etcd, and --engine and --range-memory-bytes.{own_name}

Usage:

{commands}
One member, for a look:

  {program} --data-dir /tmp/quoin

One of three:

  {program} --name a --data-dir /var/lib/quoin \\
    --listen-client-urls http://10.0.0.1:2379 \\
    --advertise-client-urls http://10.0.0.1:2379 \\
    --listen-peer-urls http://10.0.0.1:2380 \\
    --initial-advertise-peer-urls http://10.0.0.1:2380 \\
    --initial-cluster a=http://10.0.0.1:2380,b=http://10.0.0.2:2380,c=http://10.0.0.3:2380

How to write flags: with one dash or two, as '--flag value' or '--flag=value'; a switch
as '--flag' or '--flag=false', never '--flag false'. Times are like 500ms, 10s or 1h30m.
Lists are separated by commas. Of a flag given twice, the last one holds.

Each flag can be set by a variable instead: --data-dir by ETCD_DATA_DIR, and so on; the
two that etcd does not have by QUOIN_ENGINE and QUOIN_RANGE_MEMORY_BYTES. To set both is
an error. Or set all of them by a file: see --config-file.
"
    )
}

const WIDTH: usize = 86;

/// The whole page of `--help`.
pub(super) fn help(program: &str) -> String {
    let mut page = introduction(program);
    let groups = [
        (Group::Member, "Member"),
        (Group::Cluster, "First start of a cluster"),
        (Group::Consensus, "Consensus"),
        (Group::Http, "HTTP and JSON"),
        (Group::Limits, "Limits"),
        (Group::Auth, "Users and tokens"),
        (Group::Checks, "Checks of the data"),
        (Group::ClientTls, "TLS for clients"),
        (Group::PeerTls, "TLS between members"),
        (Group::Tls, "TLS for both"),
        (Group::Logging, "Logging"),
        (Group::Unsafe, "Unsafe"),
    ];
    for (group, title) in groups {
        page.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS {
            if let Role::Effective(of, placeholder, text) = flag.role
                && of == group
            {
                page.push_str(&heading(flag, placeholder));
                page.push_str(&wrapped(text, "      "));
            }
        }
    }
    page.push_str(
        "\nAccepted so that command lines written for etcd work, but without effect yet:\n",
    );
    page.push_str(&names(|role| role == Role::Accepted));
    page.push_str("\nOf older versions, accepted with a warning:\n");
    page.push_str(&names(|role| matches!(role, Role::Deprecated(_) | Role::Dropped)));
    page
}

/// Of the machine, by Go's name.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The page of `--version`: the lines of etcd, from the first of which tools read its version, and ours.
pub(super) fn version() -> String {
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: Not provided\nGo Version: none\nGo OS/Arch: {}/{}\n\
         Quoin Version: {}\n",
        std::env::consts::OS,
        architecture(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// What `version` prints: the lines of etcdctl, and ours.
pub fn tool_version() -> String {
    let api = ETCD_VERSION.rsplit_once('.').map_or(ETCD_VERSION, |(api, _patch)| api);
    let own = env!("CARGO_PKG_VERSION");
    format!("etcdctl version: {ETCD_VERSION}\nAPI version: {api}\nquoin version: {own}\n")
}

fn heading(flag: &Flag, placeholder: &str) -> String {
    let value = match flag.kind {
        Kind::Switch => String::new(),
        Kind::OneOf(known) => format!(" {}", known.join("|")),
        _ => format!(" <{placeholder}>"),
    };
    let default = if flag.default.is_empty() {
        String::new()
    } else {
        format!(" [default: {}]", flag.default)
    };
    format!("  --{}{value}{default}\n", flag.name)
}

fn names(of: impl Fn(Role) -> bool) -> String {
    let rows = FLAGS.iter().filter(|flag| of(flag.role));
    let names: Vec<String> = rows.map(|flag| format!("--{}", flag.name)).collect();
    wrapped(&names.join(" "), "  ")
}

fn wrapped(text: &str, indent: &str) -> String {
    let mut page = String::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && indent.len() + line.len() + 1 + word.len() > WIDTH {
            page.push_str(&format!("{indent}{line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    page.push_str(&format!("{indent}{line}\n"));
    page
}
