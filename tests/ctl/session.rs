//! Recorded sessions: what they look like, and how one is played.
//!
//! A block begins with `$ ` and a command in etcdctl's words; `@3 ` before it stops it, by SIGINT,
//! when three lines of output are there. Lines that begin with `< ` are its standard input. Then
//! comes what it prints, errors behind `! `, and the exit code behind `= `. `{1}` is the first lease
//! that was granted, `{member}` the member's id, `{endpoint}` its address.

use crate::cluster::{Cluster, Engine, LIMIT};
use crate::on_each_engine;
use quoin::pb::etcdserverpb::LeaseLeasesRequest;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

on_each_engine![keys, transactions, watches, leases, cluster_and_servers, users, locks, mistakes];

async fn keys(engine: Engine) {
    play("keys", engine).await;
}

async fn transactions(engine: Engine) {
    play("transactions", engine).await;
}

async fn watches(engine: Engine) {
    play("watches", engine).await;
}

async fn leases(engine: Engine) {
    play("leases", engine).await;
}

async fn cluster_and_servers(engine: Engine) {
    play("cluster", engine).await;
}

async fn users(engine: Engine) {
    play("users", engine).await;
}

async fn locks(engine: Engine) {
    play("locks", engine).await;
}

async fn mistakes(engine: Engine) {
    play("mistakes", engine).await;
}

/// One command of a session.
struct Block {
    command: String,
    input: Vec<String>,
    answer: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(command) = line.strip_prefix("$ ") {
            blocks.push(Block { command: command.to_owned(), input: vec![], answer: vec![] });
            continue;
        }
        let block = blocks.last_mut().expect("a command comes first");
        match line.strip_prefix("< ").or((line == "<").then_some("")) {
            Some(input) => block.input.push(input.to_owned()),
            None => block.answer.push(line.to_owned()),
        }
    }
    blocks
}

async fn play(name: &str, engine: Engine) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ctl/sessions").join(name);
    let recorded = std::fs::read_to_string(&path).unwrap();
    let recorder = std::env::var_os("QUOIN_RECORD_ETCDCTL").map(PathBuf::from);
    let cluster = Cluster::start(engine, 1).await;
    let mut player = Player::new(&cluster, recorder.clone()).await;
    let comments = recorded.lines().take_while(|line| line.starts_with('#'));
    let mut played: Vec<String> = comments.map(str::to_owned).collect();
    let mut differences = Vec::new();
    for block in blocks(&recorded) {
        let answer = player.run(&block).await;
        if answer != block.answer {
            let (wanted, found) = (block.answer.join("\n"), answer.join("\n"));
            differences
                .push(format!("$ {}\n--- etcdctl\n{wanted}\n--- quoin\n{found}", block.command));
        }
        played.push(format!("$ {}", block.command));
        played.extend(block.input.iter().map(|line| format!("< {line}").trim_end().to_owned()));
        played.extend(answer);
    }
    match recorder {
        Some(_) => std::fs::write(&path, played.join("\n") + "\n").unwrap(),
        None => assert!(differences.is_empty(), "{}", differences.join("\n\n")),
    }
}

struct Player<'c> {
    cluster: &'c Cluster,
    /// Plays instead of `quoin`.
    recorder: Option<PathBuf>,
    endpoint: String,
    peer: String,
    name: String,
    cluster_id: u64,
    member_id: u64,
    leases: Vec<i64>,
    /// Members that were added.
    added: Vec<u64>,
}

impl<'c> Player<'c> {
    async fn new(cluster: &'c Cluster, recorder: Option<PathBuf>) -> Self {
        let raw = cluster.raw(0);
        let header = raw.status().await.unwrap().header.unwrap();
        let own = raw.members().await.remove(0);
        let host = |url: &str| url.trim_start_matches("http://").to_owned();
        Player {
            cluster,
            recorder,
            endpoint: host(&cluster.members[0].endpoint),
            peer: host(&own.peer_ur_ls[0]),
            name: own.name,
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            leases: vec![],
            added: vec![],
        }
    }

    /// What the command says in the form of a session.
    async fn run(&mut self, block: &Block) -> Vec<String> {
        let (stop_after, command) = match block.command.strip_prefix('@') {
            Some(rest) => {
                let (count, command) = rest.split_once(' ').unwrap();
                (Some(count.parse().unwrap()), command)
            }
            None => (None, block.command.as_str()),
        };
        let mut words = self.words(command);
        let mut command = match &self.recorder {
            Some(etcdctl) => Command::new(etcdctl),
            None => Command::new(env!("CARGO_BIN_EXE_quoin")),
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCDCTL_")) {
            command.env_remove(name);
        }
        while let Some((name, value)) =
            words[0].split_once('=').filter(|(name, _)| name.starts_with("ETCDCTL_"))
        {
            command.env(name, value);
            words.remove(0);
        }
        if !words.iter().any(|word| word.starts_with("--endpoints")) {
            words.insert(0, format!("--endpoints={}", self.endpoint));
        }
        let verb = words.iter().position(|word| !word.starts_with('-')).unwrap();
        let of_keys = ["get", "put", "del", "txn", "watch"].contains(&words[verb].as_str());
        if of_keys && self.recorder.is_none() {
            words.insert(verb, "kv".to_owned());
        }
        let input: String = block.input.iter().map(|line| format!("{line}\n")).collect();
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = move || finish(command.spawn().unwrap(), &input, stop_after);
        let (stdout, stderr, code) = tokio::task::spawn_blocking(run).await.unwrap();
        self.learn_ids().await;
        let mut answer: Vec<String> = self.normal(&stdout).lines().map(str::to_owned).collect();
        let errors = self.normal(&stderr);
        // etcdctl writes its log there too, and how a command is used behind what is wrong.
        let errors = errors.lines().filter(|line| !line.starts_with("{\"level\""));
        let errors = errors.take_while(|line| !line.starts_with("Usage:"));
        answer.extend(errors.map(|line| format!("! {line}")));
        answer.push(format!("= {code}"));
        answer
    }

    fn words(&self, command: &str) -> Vec<String> {
        let mut command = command
            .replace("{member}", &format!("{:x}", self.member_id))
            .replace("{endpoint}", &self.endpoint);
        for (index, lease) in self.leases.iter().enumerate() {
            command = command.replace(&format!("{{{}}}", index + 1), &format!("{lease:016x}"));
        }
        let mut words = vec![];
        let mut rest = command.trim_start();
        while !rest.is_empty() {
            let mut word = String::new();
            while let Some(c) = rest.chars().next().filter(|c| *c != ' ') {
                let is_quote = c == '\'' || c == '"';
                let quoted = is_quote.then(|| rest[1..].split_once(c)).flatten();
                match quoted {
                    Some((inside, behind)) => {
                        word.push_str(inside);
                        rest = behind;
                    }
                    None => {
                        word.push(c);
                        rest = &rest[c.len_utf8()..];
                    }
                }
            }
            words.push(word);
            rest = rest.trim_start();
        }
        words
    }

    async fn learn_ids(&mut self) {
        let mut raw = self.cluster.raw(0);
        // Refused where authentication is on, and with it the list of members.
        let Ok(listed) = raw.lease.lease_leases(LeaseLeasesRequest {}).await else { return };
        let ids = listed.into_inner().leases.into_iter().map(|lease| lease.id);
        let fresh: Vec<i64> = ids.filter(|id| !self.leases.contains(id)).collect();
        self.leases.extend(fresh);
        let own = self.member_id;
        let ids = raw.members().await.into_iter().map(|member| member.id);
        let fresh: Vec<u64> = ids.filter(|id| *id != own && !self.added.contains(id)).collect();
        self.added.extend(fresh);
    }

    /// Text in which what differs between two runs has names.
    fn normal(&self, text: &str) -> String {
        let mut text = text
            .replace(&self.endpoint, "{endpoint}")
            .replace(&self.peer, "{peer}")
            .replace(&self.name, "{name}");
        let mut ids = vec![("{member}".to_owned(), self.member_id)];
        ids.push(("{cluster}".to_owned(), self.cluster_id));
        ids.extend(self.added.iter().enumerate().map(|(i, id)| (format!("{{added{i}}}"), *id)));
        for (name, id) in &ids {
            text = text.replace(&id.to_string(), name);
            // In sentences, short ids are filled with blanks.
            for before in ["Member ", "cluster "] {
                let padded = format!("{before}{id:16x}");
                text = text.replace(&padded, &format!("{before}{name}"));
            }
            text = text.replace(&format!("{id:x}"), name);
        }
        for (index, id) in self.leases.iter().enumerate() {
            let name = match text.contains(&format!("/{id:x}\n")) {
                true => continue,
                false => format!("{{{}}}", index + 1),
            };
            text = text.replace(&id.to_string(), &name).replace(&format!("{id:016x}"), &name);
        }
        for marker in [
            "raft_term\":",
            "raftTerm\":",
            "raftIndex\":",
            "raftAppliedIndex\":",
            "dbSize\":",
            "dbSizeInUse\":",
            "hash\":",
            "RaftTerm\" : ",
            "RaftIndex\" : ",
            "RaftAppliedIndex\" : ",
            "DBSize\" : ",
            "DBSizeInUse\" : ",
            "Hash\" : ",
            "remaining(",
            "ttl\":",
            "TTL\" : ",
            "took = ",
            "]. took ",
            "took\":\"",
            "Took\" : ",
        ] {
            text = without_values(&text, marker);
        }
        let has_end = text.ends_with('\n');
        let lines: Vec<String> = text.lines().map(|line| self.normal_line(line)).collect();
        lines.join("\n") + if has_end { "\n" } else { "" }
    }

    fn normal_line(&self, line: &str) -> String {
        // Keys of locks and elections end with a lease that is gone by now.
        if let Some((name, id)) = line.split_once('/')
            && (12..=16).contains(&id.len())
            && id.chars().all(|c| c.is_ascii_hexdigit())
        {
            return format!("{name}/{{lease}}");
        }
        // Members come in the order of their ids.
        if let Some(initial) = line.strip_prefix("ETCD_INITIAL_CLUSTER=") {
            let mut members: Vec<&str> = initial.trim_matches('"').split(',').collect();
            members.sort_unstable();
            return format!("ETCD_INITIAL_CLUSTER=\"{}\"", members.join(","));
        }
        // Widths follow what is in a table.
        if line.starts_with(['┌', '├', '└']) {
            let mut parts: Vec<char> = line.chars().collect();
            parts.dedup();
            return parts.into_iter().collect();
        }
        let (separator, cells): (&str, Vec<String>) = match line.starts_with('│') {
            true => ("│", line.split('│').map(|cell| cell.trim().to_owned()).collect()),
            false => (", ", line.split(", ").map(str::to_owned).collect()),
        };
        let first = usize::from(separator == "│");
        let mut cells = cells;
        let is_status = cells.len() >= 16 && cells[first] == "{endpoint}";
        let is_hash = cells.len() == 3 + 2 * first && cells[first] == "{endpoint}";
        let is_health = separator == "│" && cells.len() == 6 && cells[1] == "{endpoint}";
        let varying: &[usize] = match (is_status, is_health, is_hash) {
            (true, ..) => &[4, 5, 6, 10, 11, 12],
            (_, true, _) => &[2],
            (_, _, true) => &[1],
            _ => &[],
        };
        varying.iter().for_each(|at| cells[first + at] = "N".to_owned());
        cells.join(separator)
    }
}

/// Replaces each value that follows a marker, up to what cannot belong to it.
fn without_values(text: &str, marker: &str) -> String {
    let mut parts = text.split(marker);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !(c.is_alphanumeric() || c == '.' || c == '-'));
        let rest = &part[end.unwrap_or(part.len())..];
        // `[...]. took 1ms. (...)`: the point is no part of the time.
        let full_stop = if part[..part.len() - rest.len()].ends_with('.') { "." } else { "" };
        out.push_str(&format!("{marker}N{full_stop}{rest}"));
    }
    out
}

/// Feeds a process and waits for its end; stops it when `stop_after` lines of output are there.
fn finish(mut child: Child, input: &str, stop_after: Option<usize>) -> (String, String, String) {
    // A process that does not read its input is no failure.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| text).unwrap_or_default()
    });
    let stdout = child.stdout.take().unwrap();
    let pid = Pid::from_child(&child);
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if sender
                .send(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned())
                .is_err()
            {
                return;
            }
        }
    });
    let deadline = Instant::now() + LIMIT;
    let mut output = String::new();
    let mut seen = 0;
    loop {
        if stop_after == Some(seen) {
            kill_process(pid, Signal::INT).unwrap();
        }
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => output.push_str(&line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                child.kill().unwrap();
                panic!("it does not end; so far: {output}");
            }
        }
        seen += 1;
    }
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => panic!("it does not end: {output}"),
            None => std::thread::park_timeout(Duration::from_millis(2)),
        }
    };
    let code = status.code().map_or("signal".to_owned(), |code| code.to_string());
    let errors = String::from_utf8_lossy(&errors.join().unwrap()).into_owned();
    (output, errors, code)
}
