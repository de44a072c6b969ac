//! `quoin kv watch`: prints changes as they happen, and runs a command at each.
//!
//! A stream that breaks is opened again, at the next server, from the revision behind the last one
//! seen: no event is lost or printed twice. A server that cancels a watch ends the command.

use std::ffi::OsString;
use std::io::BufRead as _;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;

use super::calls::WATCH;
use super::client::{Client, is_unavailable};
use super::failure::{ERROR, Failure, INTERRUPTED, INVALID_INPUT, text_of};
use super::kv::{int, key_of, os_words};
use super::look::{Look, say, warn};
use super::options::Options;
use super::{child, go, keys, line};
use crate::pb::etcdserverpb::watch_request::RequestUnion;
use crate::pb::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::pb::mvccpb::Event;
use crate::pb::mvccpb::event::EventType;

const KEY_VARIABLE: &str = "ETCDCTL_WATCH_KEY";
const END_VARIABLE: &str = "ETCDCTL_WATCH_RANGE_END";
const NO_LEADER: &str = "etcdserver: no leader";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE_REVISION: &str = "etcdserver: mvcc: required revision is a future revision";
/// Before a stream that broke is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// Requests of a stream on their way: its creation, and a request for progress now and then.
const REQUESTS_MAX: usize = 8;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The command behind -- runs once for each event and finds it in the variables ETCD_WATCH_REVISION,
ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE. The key may also come from
ETCDCTL_WATCH_KEY, and the end of a range from ETCDCTL_WATCH_RANGE_END.")]
pub struct WatchArgs {
    /// The key, and the key before which a range ends
    #[arg(value_names = ["KEY", "RANGE_END"])]
    args: Vec<OsString>,
    /// Read watches from standard input, such as: watch greeting --prev-kv
    #[arg(short, long)]
    interactive: bool,
    /// Watch all keys that begin with KEY
    #[arg(long)]
    prefix: bool,
    /// Begin with the changes of this revision; 0 is with the next change
    #[arg(long, value_name = "REVISION", default_value = "0", value_parser = int)]
    rev: i64,
    /// Print the pair that was there before, too
    #[arg(long)]
    prev_kv: bool,
    /// Print now and then up to which revision all changes were seen
    #[arg(long)]
    progress_notify: bool,
    /// A command to run at each event
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// A line of standard input that asks for a watch.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct WatchLine {
    #[command(flatten)]
    args: WatchArgs,
}

/// What the environment says is watched.
struct Environment {
    key: OsString,
    end: OsString,
}

/// One watch.
struct Watch {
    create: WatchCreateRequest,
    command: Vec<OsString>,
}

pub(super) async fn run(options: &Options, args: WatchArgs) -> Result<(), Failure> {
    let variable = |name| std::env::var_os(name).unwrap_or_default();
    let environment = Environment { key: variable(KEY_VARIABLE), end: variable(END_VARIABLE) };
    if environment.key.is_empty() && !environment.end.is_empty() {
        let end = go::quote(environment.end.as_encoded_bytes());
        return Err(Failure::args(format!("{KEY_VARIABLE} is empty but got {END_VARIABLE}={end}")));
    }
    let look = options.look()?;
    if args.interactive {
        let client = Arc::new(Client::endless(options).await?);
        return interact(client, look, environment).await;
    }
    let has_bare_separator = std::env::args_os().next_back().is_some_and(|arg| arg == "--");
    let watch = args.watch(&environment, has_bare_separator)?;
    let client = Client::endless(options).await?;
    // Nobody asks this one for progress.
    let (_asking, asked) = mpsc::channel(1);
    follow(&client, look, watch, asked).await?;
    Err(Failure::new(INTERRUPTED, "watch is canceled by the server"))
}

impl WatchArgs {
    fn watch(&self, environment: &Environment, has_bare_separator: bool) -> Result<Watch, Failure> {
        if has_bare_separator {
            return Err(Failure::args(
                "bad number of arguments (found separator --, but no commands)",
            ));
        }
        let mut args = self.args.clone();
        if !environment.key.is_empty() {
            if !args.is_empty() {
                return Err(Failure::args(
                    "bad number of arguments (found conflicting environment key)",
                ));
            }
            args.push(environment.key.clone());
            args.extend(Some(environment.end.clone()).filter(|end| !end.is_empty()));
        }
        let Some(key) = args.first() else {
            return Err(Failure::args("bad number of arguments"));
        };
        let end = match &args[..] {
            [_, _] if self.prefix => {
                return Err(Failure::args("`range_end` and `--prefix` are mutually exclusive"));
            }
            [_, end] => Some(key_of(end).to_vec()),
            _ => None,
        };
        let (key, end) = keys::range(key_of(key).to_vec(), end, self.prefix, false);
        let create = WatchCreateRequest {
            key: key.into(),
            range_end: end.into(),
            start_revision: self.rev,
            prev_kv: self.prev_kv,
            progress_notify: self.progress_notify,
            ..WatchCreateRequest::default()
        };
        Ok(Watch { create, command: self.command.clone() })
    }
}

/// Watches what lines of standard input ask for, until there are no more.
async fn interact(
    client: Arc<Client>,
    look: Look,
    environment: Environment,
) -> Result<(), Failure> {
    let mut lines = lines_of_stdin();
    let mut watches = tokio::task::JoinSet::new();
    let mut asking: Vec<mpsc::Sender<()>> = Vec::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(Ok(Err(failure))) = watches.join_next() => return Err(failure),
        };
        let Some(line) = line else {
            let text = "error reading watch request line: EOF";
            return Err(Failure::new(INVALID_INPUT, text));
        };
        let words =
            go::words(&line).ok_or_else(|| Failure::new(INVALID_INPUT, "invalid syntax"))?;
        let first = words.first().map(|word| String::from_utf8_lossy(word).into_owned());
        match first.as_deref() {
            None => warn(&format!("Invalid command: {line} (watch and progress supported)")),
            Some("watch") if words.len() < 2 && environment.key.is_empty() => {
                warn(&format!("Invalid command {line} (command type or key is not provided)"));
            }
            Some("watch") => {
                let watch = watch_of_line(words, &environment)?;
                let (sender, asked) = mpsc::channel(1);
                asking.push(sender);
                let client = client.clone();
                watches.spawn(async move { follow(&client, look, watch, asked).await });
            }
            Some("progress") => {
                // A watch that is still busy with the last request answers that one.
                asking.retain(|watch| !matches!(watch.try_send(()), Err(TrySendError::Closed(()))));
            }
            Some(_) => warn(&format!("Invalid command {line} (only support watch)")),
        }
    }
}

fn watch_of_line(words: Vec<Vec<u8>>, environment: &Environment) -> Result<Watch, Failure> {
    let has_bare_separator = words.last().is_some_and(|word| word == b"--");
    let command = line::with_rules(WatchLine::command());
    let args = os_words(words).split_off(1);
    let args = line::plain_switches(&command, args)?;
    let matches = command.try_get_matches_from(args);
    let line = matches.and_then(|matches| WatchLine::from_arg_matches(&matches));
    let line = line.map_err(|error| Failure::args(line::complaint(&error).to_string()))?;
    line.args.watch(environment, has_bare_separator)
}

/// A thread of its own reads: a read of standard input cannot be given up.
fn lines_of_stdin() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Prints what a watch is told until a server cancels it.
async fn follow(
    client: &Client,
    look: Look,
    mut watch: Watch,
    mut asked: mpsc::Receiver<()>,
) -> Result<(), Failure> {
    loop {
        let broken = match follow_stream(client, look, &mut watch, &mut asked).await {
            Ok(true) => return Ok(()),
            Ok(false) => continue,
            Err(End::Failed(failure)) => return Err(failure),
            Err(End::Broken(status)) => status,
        };
        let is_passing = is_unavailable(&broken) || broken.code() == tonic::Code::Internal;
        let is_leaderless = broken.message() == NO_LEADER;
        let goes_on = is_passing && !is_leaderless;
        if !goes_on && !client.renew_after(broken.message()).await? {
            return end(look, &text_of(&broken));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Why a stream is left.
enum End {
    Broken(tonic::Status),
    Failed(Failure),
}

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Broken(status)
    }
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Watches on one stream; true if the watch has ended, false if it is to begin anew.
async fn follow_stream(
    client: &Client,
    look: Look,
    watch: &mut Watch,
    asked: &mut mpsc::Receiver<()>,
) -> Result<bool, End> {
    let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
    let create = RequestUnion::CreateRequest(watch.create.clone());
    // There is room for it, and somebody who takes it.
    let _sent = requests.send(WatchRequest { request_union: Some(create) }).await;
    let mut answers = client.converse(&WATCH, ReceiverStream::new(outgoing)).await?;
    let mut is_asked = true;
    loop {
        let answer = tokio::select! {
            answer = answers.message() => answer?,
            question = asked.recv(), if is_asked => {
                is_asked = question.is_some();
                if is_asked {
                    let progress = RequestUnion::ProgressRequest(WatchProgressRequest {});
                    let _lost = requests.try_send(WatchRequest { request_union: Some(progress) });
                }
                continue;
            }
        };
        let Some(answer) = answer else {
            return Err(End::Broken(tonic::Status::unavailable("the stream has ended")));
        };
        if answer.canceled {
            if client.renew_after(&answer.cancel_reason).await? {
                return Ok(false);
            }
            match (answer.compact_revision, &answer.cancel_reason[..]) {
                (0, "") => end(look, FUTURE_REVISION)?,
                (0, reason) => end(look, reason)?,
                _ => {
                    warn(&format!("watch was canceled ({COMPACTED})"));
                    look.print(&answer)?;
                }
            }
            return Ok(true);
        }
        watch.resume_behind(&answer);
        if !answer.created {
            tell(look, watch, answer).await?;
        }
    }
}

impl Watch {
    /// Where to go on if the stream breaks.
    fn resume_behind(&mut self, answer: &WatchResponse) {
        let revision = answer.header.map_or(0, |header| header.revision);
        let next = &mut self.create.start_revision;
        let last = answer.events.last().and_then(|event| event.kv.as_ref());
        match last {
            Some(kv) => *next = kv.mod_revision + 1,
            None if answer.created && *next == 0 => *next = revision + 1,
            // Progress: all up to this revision has been told.
            None if !answer.created => *next = (*next).max(revision + 1),
            None => {}
        }
    }
}

/// Prints the end of a watch that a server does not go on with.
fn end(look: Look, reason: &str) -> Result<(), Failure> {
    warn(&format!("watch was canceled ({reason})"));
    look.print(&WatchResponse { canceled: true, ..WatchResponse::default() })
}

/// Prints what came, and runs the command for each event.
async fn tell(look: Look, watch: &Watch, answer: WatchResponse) -> Result<(), Failure> {
    let revision = answer.header.map_or(0, |header| header.revision);
    if answer.events.is_empty() {
        say(&format!("progress notify: {revision}"))?;
    }
    look.print(&answer)?;
    if watch.command.is_empty() {
        return Ok(());
    }
    for event in &answer.events {
        let run = child::run(watch.command.clone(), variables(revision, event)).await;
        if let Err(child::Broken { text, .. }) = run {
            let words: Vec<String> =
                watch.command.iter().map(|word| go::quote(word.as_encoded_bytes())).collect();
            warn(&format!("command {} error ({text})", go::list(&words)));
            return Err(Failure::silent(ERROR));
        }
    }
    Ok(())
}

fn variables(revision: i64, event: &Event) -> Vec<(&'static str, String)> {
    let kind = match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    };
    let kv = event.kv.clone().unwrap_or_default();
    vec![
        ("ETCD_WATCH_REVISION", revision.to_string()),
        ("ETCD_WATCH_EVENT_TYPE", go::quote(kind.as_bytes())),
        ("ETCD_WATCH_KEY", go::quote(&kv.key)),
        ("ETCD_WATCH_VALUE", go::quote(&kv.value)),
    ]
}
