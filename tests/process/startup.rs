//! What a member says, and how it ends, when it cannot start as it was asked to; and that
//! nothing is lost by the attempt.

use crate::cluster::{Cluster, Engine, Exit, Folder, Process, Setup, eventually, product};
use crate::on_each_engine;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

on_each_engine![
    a_bad_command_line_is_refused_in_clear_words,
    pages_are_printed_and_end_well,
    a_port_in_use_is_refused,
    a_folder_that_cannot_be_had_is_named_as_by_etcd,
    a_folder_that_others_can_read_is_warned_of,
    the_folder_of_another_member_is_refused,
    a_member_that_lost_its_folder_is_refused,
    a_second_start_on_one_folder_waits_for_the_first_to_end,
    the_state_of_another_engine_is_refused,
    damage_in_the_middle_of_the_log_is_refused_and_named,
    a_state_that_was_removed_is_missed,
    a_database_that_cannot_be_read_stops_the_member,
    a_socket_in_the_file_system_serves_like_a_port,
];

/// Runs the server to its end: how it ended, and all that it wrote.
pub(crate) async fn end_of(
    flags: &[String],
    variables: &[(&str, &str)],
    folder: &Path,
) -> (Exit, String) {
    let mut command: Vec<OsString> = vec![product().binary.clone().into()];
    command.extend(flags.iter().map(OsString::from));
    let mut process = Process::start(&command, variables, &folder.join("attempt.log"));
    let exit = process.end().await;
    (exit, process.output())
}

/// A member's own flags and more; the last of two equal flags counts.
pub(crate) fn flags_of(cluster: &Cluster, member: usize, more: &[&str]) -> Vec<String> {
    let more = more.iter().map(|&flag| flag.to_owned());
    cluster.members[member].flags.iter().cloned().chain(more).collect()
}

async fn a_bad_command_line_is_refused_in_clear_words(engine: Engine) {
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let data = cluster.data_folder(0);
    let table: [(&str, i32, &str); 16] = [
        ("--nonsense", 2, "flag provided but not defined: -nonsense"),
        ("--snapshot-count=abc", 2, r#"invalid value "abc" for flag -snapshot-count: parse error"#),
        ("--pre-vote=perhaps", 2, r#"invalid boolean value "perhaps" for -pre-vote"#),
        ("--initial-cluster-state=x", 2, r#"invalid value "x" for flag -initial-cluster-state"#),
        ("--listen-client-urls=127.0.0.1:1", 2, r#"invalid value "127.0.0.1:1" for flag"#),
        ("--listen-client-urls=http://127.0.0.1", 2, r#"does not have the form "host:port""#),
        (
            "--listen-peer-urls=ftp://127.0.0.1:1",
            2,
            "URL scheme must be http, https, unix, or unixs",
        ),
        ("--advertise-client-urls=http://127.0.0.1:1/path", 2, "URL must not contain a path"),
        (
            "--listen-client-urls=http://example.invalid:1",
            1,
            "expected IP in URL for binding (http://example.invalid:1)",
        ),
        ("--name=nobody", 1, "in the initial cluster configuration"),
        ("--initial-advertise-peer-urls=http://127.0.0.1:9", 1, "--initial-advertise-peer-urls"),
        (
            "--election-timeout=100",
            1,
            "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        ("--election-timeout=60000", 1, "is too long, and should be set less than 50000ms"),
        ("--heartbeat-interval=0", 1, "--heartbeat-interval must be >0 (set to 0ms)"),
        ("positional", 1, "is not a valid flag"),
        ("--data-dir=/dev/null/data", 1, "not a directory"),
    ];
    for (flag, code, text) in table {
        if !product().at_least(3, 6) && code == 2 && flag.contains("state") {
            continue;
        }
        let (exit, said) = end_of(&flags_of(&cluster, 0, &[flag]), &[], cluster.folder()).await;
        assert_eq!(exit, Exit::Code(code), "{flag}: {said}");
        let said = said.to_lowercase();
        assert!(said.contains(&text.to_lowercase()), "{flag} is answered with {said}");
        let log = std::fs::read_dir(data.join("member/wal"));
        assert!(log.map_or(0, Iterator::count) == 0, "{flag} has begun a member");
    }
    for value in ["other", &cluster.members[0].name] {
        let variables = [("ETCD_NAME", value)];
        let (exit, said) = end_of(&cluster.members[0].flags, &variables, cluster.folder()).await;
        assert_eq!(exit, Exit::Code(1), "{said}");
        let text =
            "conflicting environment variable is shadowed by corresponding command-line flag";
        assert!(said.contains(text) && said.contains("ETCD_NAME"), "{said}");
    }
    // The same flags without the mistake.
    let mut cluster = cluster;
    cluster.start_all().await.unwrap();
    cluster.client().await.put("key", "value", None).await.unwrap();
}

async fn pages_are_printed_and_end_well(_engine: Engine) {
    let folder = Folder::new();
    let (exit, page) = end_of(&["--version".into()], &[], folder.path()).await;
    assert_eq!(exit, Exit::Code(0));
    let first = page.lines().next().unwrap();
    let version = first.strip_prefix("etcd Version: ").expect("tools read the first line");
    assert_eq!(version.split('.').count(), 3, "{version}");
    assert!(!product().ours || page.contains("\nQuoin Version: "), "{page}");
    let (exit, page) = end_of(&["--help".into()], &[], folder.path()).await;
    assert_eq!(exit, Exit::Code(0));
    for flag in ["--listen-client-urls", "--initial-cluster", "--snapshot-count"] {
        assert!(page.contains(flag), "{flag} is not explained");
    }
}

async fn a_port_in_use_is_refused(engine: Engine) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    for flag in ["--listen-client-urls=http://", "--listen-peer-urls=http://"] {
        let address = cluster.members[0].flags.iter().find_map(|f| f.strip_prefix(flag)).unwrap();
        let taken = TcpListener::bind(address).unwrap();
        let (exit, said) = end_of(&cluster.members[0].flags, &[], cluster.folder()).await;
        assert_eq!(exit, Exit::Code(1), "{said}");
        let error = format!(r#""error":"listen tcp {address}: bind: address already in use""#);
        assert!(said.contains(&error), "{said}");
        assert!(said.contains(r#""msg":"discovery failed""#), "{said}");
        drop(taken);
    }
    cluster.start_all().await.unwrap();
    cluster.client().await.put("key", "value", None).await.unwrap();
}

async fn a_folder_that_cannot_be_had_is_named_as_by_etcd(engine: Engine) {
    let cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    // Not even root can make a folder there.
    let nowhere = "/proc/quoin-test";
    let taken = cluster.folder().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::set_permissions(&taken, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(taken.join("member"), "a file").unwrap();
    let taken = taken.display().to_string();
    let of_member = format!("member directory: open {taken}/member/.touch: not a directory");
    for (folder, error) in [
        (nowhere, format!("data directory: mkdir {nowhere}: no such file or directory")),
        (&taken, of_member),
    ] {
        let flags = flags_of(&cluster, 0, &[&format!("--data-dir={folder}")]);
        let (exit, said) = end_of(&flags, &[], cluster.folder()).await;
        assert_eq!(exit, Exit::Code(1), "{said}");
        let error = format!(r#""error":"cannot access {error}""#);
        for (level, message) in [("error", "bootstrap failed"), ("fatal", "discovery failed")] {
            let is_line = |line: &str| {
                line.contains(&format!(r#""level":"{level}""#))
                    && line.contains(&format!(r#""msg":"{message}""#))
                    && line.contains(&error)
            };
            assert!(said.lines().any(is_line), "{level} {message} {error}: {said}");
        }
    }
}

async fn a_folder_that_others_can_read_is_warned_of(engine: Engine) {
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let mode = |mode| std::fs::Permissions::from_mode(mode);
    let data = cluster.data_folder(0);
    std::fs::set_permissions(&data, mode(0o755)).unwrap();
    cluster.start_all().await.unwrap();
    cluster.client().await.put("key", "value", None).await.unwrap();
    let said = cluster.members[0].output();
    assert!(said.contains("check file permission"), "{said}");
    let words = "but the permission is \\\"drwxr-xr-x\\\". The recommended permission is \\\"-rwx------\\\"";
    assert!(said.contains(words), "{said}");
    let inner = std::fs::metadata(data.join("member")).unwrap().permissions();
    assert_eq!(inner.mode() & 0o777, 0o700, "what lies in it is the owner's alone");
    cluster.kill(0);
    cluster.restart(0).await;
    still_there(&cluster, 0).await;
}

async fn still_there(cluster: &Cluster, member: usize) {
    let mut client = cluster.client_of(member).await;
    let answer = client.get("key", None).await.unwrap();
    assert_eq!(answer.kvs()[0].value(), b"value");
}

async fn the_folder_of_another_member_is_refused(engine: Engine) {
    if !product().ours {
        // etcd runs with the identity that it finds.
        return;
    }
    let mut cluster = Setup::new(engine, 3).start().await;
    cluster.client().await.put("key", "value", None).await.unwrap();
    (0..3).for_each(|member| cluster.kill(member));
    let foreign = format!("--data-dir={}", cluster.data_folder(0).display());
    let (exit, said) = end_of(&flags_of(&cluster, 1, &[&foreign]), &[], cluster.folder()).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    let names = [cluster.members[0].name.clone(), cluster.members[1].name.clone()];
    assert!(said.contains("it belongs to member"), "{said}");
    assert!(names.iter().all(|name| said.contains(name)), "{said}");
    cluster.start_all().await.unwrap();
    for member in 0..3 {
        still_there(&cluster, member).await;
    }
}

async fn a_member_that_lost_its_folder_is_refused(engine: Engine) {
    let mut cluster = Setup::new(engine, 3).start().await;
    cluster.client().await.put("key", "value", None).await.unwrap();
    cluster.kill(2);
    let data = cluster.data_folder(2);
    let aside = data.with_extension("aside");
    std::fs::rename(&data, &aside).unwrap();
    let (exit, said) = end_of(&cluster.members[2].flags, &[], cluster.folder()).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    assert!(said.contains("has already been bootstrapped"), "{said}");
    // With its folder it is welcome again.
    let _remains = std::fs::remove_dir_all(&data);
    std::fs::rename(&aside, &data).unwrap();
    cluster.restart(2).await;
    still_there(&cluster, 2).await;
}

async fn a_second_start_on_one_folder_waits_for_the_first_to_end(engine: Engine) {
    let mut cluster = Setup::new(engine, 1).start().await;
    cluster.client().await.put("key", "value", None).await.unwrap();
    // With ports of its own, so that the folder is all they share.
    let free = |flag: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("{flag}=http://{}", listener.local_addr().unwrap())
    };
    let ports = [free("--listen-client-urls"), free("--listen-peer-urls")];
    let mut command: Vec<OsString> = vec![product().binary.clone().into()];
    command.extend(flags_of(&cluster, 0, &[&ports[0], &ports[1]]).iter().map(OsString::from));
    let mut second = Process::start(&command, &[], &cluster.folder().join("second.log"));
    if product().ours {
        second.says("another process uses this data directory").await.unwrap();
        assert!(second.output().contains(&cluster.data_folder(0).display().to_string()));
        still_there(&cluster, 0).await;
        // One that waits can be stopped.
        second.ask_to_stop();
        assert_eq!(second.end().await, Exit::Signal(15));
        second = Process::start(&command, &[], &cluster.folder().join("second.log"));
        second.says("another process uses this data directory").await.unwrap();
    }
    cluster.kill(0);
    second.says("ready to serve client requests").await.unwrap();
    second.kill();
    cluster.restart(0).await;
    still_there(&cluster, 0).await;
}

async fn the_state_of_another_engine_is_refused(engine: Engine) {
    if !product().ours {
        return;
    }
    let mut cluster = Setup::new(engine, 1).start().await;
    cluster.client().await.put("key", "value", None).await.unwrap();
    cluster.kill(0);
    let other = match engine {
        Engine::Memory => Engine::Rocksdb,
        Engine::Rocksdb => Engine::Memory,
    };
    let flag = format!("--engine={}", other.name());
    let (exit, said) = end_of(&flags_of(&cluster, 0, &[&flag]), &[], cluster.folder()).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    let text = match cfg!(feature = "rocksdb") {
        true => format!("start with --engine {}", engine.name()),
        false => "is not in this build".to_owned(),
    };
    assert!(said.contains(&text), "{said}");
    cluster.restart(0).await;
    still_there(&cluster, 0).await;
}

async fn damage_in_the_middle_of_the_log_is_refused_and_named(engine: Engine) {
    if !product().ours {
        return;
    }
    let mut cluster = Setup::new(engine, 1).start().await;
    let mut client = cluster.client().await;
    client.put("key", "value", None).await.unwrap();
    let marker = "a value that can be found in a file";
    client.put("marked", marker, None).await.unwrap();
    for number in 0..20 {
        client.put(format!("key{number}"), "v", None).await.unwrap();
    }
    cluster.kill(0);
    let (segment, offset) = find(&cluster.data_folder(0).join("member/wal"), marker);
    let file = std::fs::OpenOptions::new().write(true).open(&segment).unwrap();
    file.write_all_at(b"A", offset).unwrap();
    let (exit, said) = end_of(&cluster.members[0].flags, &[], cluster.folder()).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name), "{name} is not named: {said}");
    // Nothing was cut away: with the right byte everything is there again.
    file.write_all_at(b"a", offset).unwrap();
    cluster.restart(0).await;
    still_there(&cluster, 0).await;
    let all = etcd_client::GetOptions::new().with_all_keys().with_count_only();
    let answer = cluster.client().await.get("", Some(all)).await.unwrap();
    assert_eq!(answer.count(), 22);
}

/// The file under a folder that holds the text, and where.
fn find(folder: &Path, text: &str) -> (PathBuf, u64) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            return (path, at as u64);
        }
    }
    panic!("{text:?} is in no file of {}", folder.display());
}

async fn a_state_that_was_removed_is_missed(engine: Engine) {
    let setup = Setup::new(engine, 1).flag("--snapshot-count=100");
    let mut cluster = setup.flag("--snapshot-catchup-entries=10").start().await;
    let mut client = cluster.client_of(0).await;
    // The state of entry 100 becomes durable beside the writes, and then the log is cut.
    let process = cluster.members[0].process();
    eventually("cut of the log", async || {
        for _ in 0..50 {
            client.put("key", "value", None).await.map_err(|e| e.to_string())?;
        }
        let is_cut = process.output().contains("compacted Raft logs");
        is_cut.then_some(()).ok_or_else(|| "the log says nothing of it".into())
    })
    .await;
    let snap = cluster.data_folder(0).join("member/snap");
    cluster.terminate(0).await;
    std::fs::remove_dir_all(&snap).expect("remove the state");
    let (exit, said) = end_of(&flags_of(&cluster, 0, &[]), &[], cluster.folder()).await;
    assert_eq!(exit, Exit::Code(1), "{said}");
    assert!(said.contains("a stored snapshot or the database was removed"), "{said}");
}

async fn a_database_that_cannot_be_read_stops_the_member(engine: Engine) {
    if engine == Engine::Memory || !product().ours {
        return;
    }
    let mut cluster = Cluster::start(engine, 1).await;
    let mut client = cluster.client_of(0).await;
    for n in 0..500_u32 {
        // Not compressible, so that the file is nearly all values.
        let value: Vec<u8> =
            (0..1000_u32).map(|i| ((n * 1000 + i).wrapping_mul(0x9e37_79b9) >> 13) as u8).collect();
        client.put(format!("key{n:04}"), value, None).await.expect("a put");
    }
    cluster.terminate(0).await;
    let files =
        std::fs::read_dir(cluster.data_folder(0).join("member/snap/db")).expect("a database");
    let files = files.map(|file| file.expect("a file").path());
    let tables = files.filter(|path| path.extension().is_some_and(|ending| ending == "sst"));
    let largest =
        tables.max_by_key(|path| path.metadata().map_or(0, |m| m.len())).expect("a table");
    let length = largest.metadata().expect("its length").len();
    let file = std::fs::OpenOptions::new().write(true).open(&largest).expect("open the table");
    file.write_all_at(&[0xa5; 64], length / 2).expect("damage the table");
    cluster.spawn(0);
    // It starts, since nothing reads that part; whoever asks for it gets an error, and it ends.
    cluster.members[0].ready().await.expect("a start");
    let mut client = cluster.client_of(0).await;
    let all = etcd_client::GetOptions::new().with_prefix();
    client.get("key", Some(all)).await.expect_err("no answer can be true");
    cluster.members[0].process().says("failed to read the store").await.expect("a reason");
    assert_eq!(cluster.members[0].ended().await, Exit::Code(1));
}

/// Asks for a page over a socket in the file system.
async fn page_over(socket: &Path, page: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::UnixStream::connect(socket).await?;
    let head = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

async fn a_socket_in_the_file_system_serves_like_a_port(engine: Engine) {
    // A path in the test's own folder may be longer than such an address can be.
    let folder = tempfile::tempdir().expect("make a folder");
    let socket = folder.path().join("client.sock");
    let mut cluster = Cluster::prepare(&Setup::new(engine, 1)).await;
    let port = cluster.endpoints()[0].clone();
    let listen = format!("--listen-client-urls={port},unix://{}", socket.display());
    cluster.members[0].flags.push(listen);
    cluster.start_all().await.expect("a member that starts");
    let answer = page_over(&socket, "/health").await.expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(r#""health":"true""#),
        "{answer}"
    );

    // What a killed process leaves behind is in nobody's way.
    cluster.kill(0);
    assert!(socket.exists(), "nobody was left to remove it");
    page_over(&socket, "/health").await.expect_err("nobody listens");
    cluster.restart(0).await;
    let answer = page_over(&socket, "/version").await.expect("an answer");
    assert!(answer.contains("etcdserver"), "{answer}");
    let mut channel = cluster.client_of(0).await;
    channel.put("a", "1", None).await.expect("a put over the port");
    cluster.terminate(0).await;
    assert!(!socket.exists(), "removed in the end");
}
