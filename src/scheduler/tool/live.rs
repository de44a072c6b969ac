//! `quoin run watch`, and waiting for a run: a bar, what has run for longest, failures as they come. Where
//! nobody looks, a character for each task.

use super::desk::{Desk, Trouble, duration, now_ms, plain, say, warn};
use super::runs::{code, line, waiting};
use super::terminal::{Keys, Screen};
use crate::scheduler::client::Commits;
use crate::scheduler::keys;
use crate::scheduler::model::{Status, Totals};
use crate::scheduler::submit::SubmitError;
use crate::scheduler::view::{End, Live, Unstarted, Waiting, read, totals_line};
use std::future::poll_fn;
use std::io::{self, Write as _};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Tasks that are shown while they run.
const LONGEST_MAX: usize = 8;
/// Lanes with skipped tasks that are told at the end.
const SKIPPED_MAX: usize = 20;
/// Between two drawings.
const TICK: Duration = Duration::from_millis(100);
/// A store that does not answer for so long is at fault.
const PATIENCE: Duration = Duration::from_secs(30);
/// Characters of a line that somebody else has written.
const SAID_MAX: usize = 200;
/// It is told why a run stands still that does for so long, once each time.
const STILL: Duration = Duration::from_secs(5);
/// Reasons for that which are told.
const REASONS_MAX: usize = 3;
/// Characters in a line of them.
const DOTS: usize = 80;
/// More that end at once without an attempt are told by their number.
const DOTS_AT_ONCE_MAX: u64 = 1_000;

/// Shows a run until its end; the exit code is how it went. None if somebody left it running before.
pub(super) async fn watch(desk: &Desk, run: &str) -> Result<Option<u8>, Trouble> {
    let is_seen = !desk.wants_json && Screen::is_there();
    let stopped = any(signals(is_seen));
    let text = format!("no longer watched: run {run} goes on");
    unless(stopped, text, look_on(desk, run, is_seen)).await
}

/// What is done after a watch: since then Ctrl-C ends nothing by itself.
pub(super) async fn after<T>(
    work: impl Future<Output = Result<T, Trouble>>,
    text: String,
) -> Result<T, Trouble> {
    unless(any(signals(false)), text, work).await
}

async fn unless<T>(
    stopped: impl Future<Output = ()>,
    text: String,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    tokio::select! {
        done = work => done,
        () = stopped => Err(Trouble::Usage(text)),
    }
}

async fn look_on(desk: &Desk, run: &str, is_seen: bool) -> Result<Option<u8>, Trouble> {
    let mut show: Box<dyn Show> = match (desk.wants_json, is_seen) {
        (true, _) => Box::new(Silent),
        (false, true) => Box::new(Picture::default()),
        (false, false) => Box::new(Dots::default()),
    };
    let mut keys = is_seen.then(Keys::new);
    // Those that were shown: after the store was away, the run is read from its begin again.
    let mut shown = 0;
    let mut away: Option<Instant> = None;
    let has_all = loop {
        let before = shown;
        match follow(desk, run, show.as_mut(), &mut keys, &mut shown).await {
            Ok(Followed::Ended { has_all }) => break has_all,
            Ok(Followed::Left) => {
                drop(keys);
                say("watching ended; the run goes on");
                return Ok(None);
            }
            Err(Trouble::Submit(SubmitError::Store(text))) => {
                if shown > before {
                    away = None;
                }
                if away.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                    return Err(Trouble::Submit(SubmitError::Store(text)));
                }
                sleep(TICK).await;
            }
            Err(trouble) => return Err(trouble),
        }
    };
    drop(keys);
    let summary = read::summary(&desk.client, run, 0).await?;
    let mut skipped = Vec::new();
    if !has_all && !desk.wants_json {
        let book = read::book(&desk.client, run).await?;
        show.ends(&book.given_up());
        skipped = book.skipped(SKIPPED_MAX + 1);
    }
    show.end(&summary.totals, &skipped);
    desk.show(&summary, line);
    Ok(Some(code(&summary.state)))
}

/// Why a run is followed no longer.
enum Followed {
    /// Whether all that ended was shown.
    Ended { has_all: bool },
    /// Somebody has seen enough.
    Left,
}

/// Follows a run to its end, or until somebody leaves it.
async fn follow(
    desk: &Desk,
    run: &str,
    show: &mut dyn Show,
    keys: &mut Option<Keys>,
    shown: &mut usize,
) -> Result<Followed, Trouble> {
    let book = read::book(&desk.client, run).await?;
    let mut live = Live::new(&book, now_ms());
    let mut commits = desk.client.watch(keys::PREFIX, book.revision + 1).await?;
    let mut name = book.spec.name.clone();
    if name.is_empty() {
        name.clone_from(&book.spec.id);
    }
    let total = book.attempts.len();
    drop(book);
    let known = live.take_ends().split_off((*shown).min(total));
    *shown += known.len();
    show.ends(&known);
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut still = Still::default();
    while live.status().ended.is_none() {
        tokio::select! {
            found = next(&mut commits) => {
                let now = now_ms();
                for commit in found? {
                    live.commit(&commit, now);
                }
                let ends = live.take_ends();
                *shown += ends.len();
                show.ends(&ends);
            }
            _ = tick.tick() => {
                show.draw(&name, &live);
                // A store that does not answer is told of by the watch.
                if still.is_news(&live)
                    && let Ok((_, found)) = read::why(&desk.client, run, now_ms()).await
                    && !found.is_empty()
                {
                    show.say(&format!("nothing runs: {}\n", reasons(&found)));
                }
            }
            key = key(keys) => match key {
                b't' => show.toggle(),
                b'w' => match read::why(&desk.client, run, now_ms()).await {
                    Ok((_, found)) if found.is_empty() => show.say("nothing waits\n"),
                    Ok((_, found)) => show.say(&waiting(&found, now_ms())),
                    Err(error) => show.say(&format!("{error}\n")),
                },
                b'q' => return Ok(Followed::Left),
                _ => {}
            },
        }
    }
    Ok(Followed::Ended { has_all: live.has_all() })
}

/// Since when no worker has had anything of a run.
#[derive(Default)]
struct Still {
    since: Option<Instant>,
    ended: u64,
    is_told: bool,
}

impl Still {
    /// Whether that is long ago and was not told.
    fn is_news(&mut self, live: &Live) -> bool {
        let ended = live.totals().ended();
        if live.given() > 0 || ended != self.ended {
            *self = Self { ended, ..Self::default() };
            return false;
        }
        let is_long = self.since.get_or_insert_with(Instant::now).elapsed() >= STILL;
        is_long && !std::mem::replace(&mut self.is_told, is_long)
    }
}

/// Why lanes wait, each reason once, in one line.
fn reasons(found: &[Waiting]) -> String {
    let mut texts: Vec<&str> = Vec::new();
    for waiting in found {
        if !texts.contains(&&*waiting.text) {
            texts.push(&waiting.text);
        }
        if texts.len() > REASONS_MAX {
            break;
        }
    }
    let more = if texts.len() > REASONS_MAX { "; and more (run why)" } else { "" };
    texts.truncate(REASONS_MAX);
    plain(&texts.join("; "), SAID_MAX * REASONS_MAX) + more
}

async fn next(
    commits: &mut Commits,
) -> Result<Vec<crate::scheduler::store::Commit>, etcd_client::Error> {
    commits.next().await
}

async fn key(keys: &mut Option<Keys>) -> u8 {
    match keys {
        Some(keys) => keys.next().await,
        None => std::future::pending().await,
    }
}

/// What asks this process to end. Its terminal, if it has one, must be put right before.
fn signals(is_at_terminal: bool) -> Vec<Signal> {
    let mut kinds = vec![SignalKind::interrupt()];
    if is_at_terminal {
        kinds.extend([SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()]);
    }
    kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect()
}

async fn any(mut signals: Vec<Signal>) {
    poll_fn(|context| {
        let has_come = |signal: &mut Signal| signal.poll_recv(context).is_ready();
        match signals.iter_mut().any(has_come) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

/// How a run is shown while it goes on.
trait Show {
    fn ends(&mut self, ends: &[End]);
    fn draw(&mut self, name: &str, live: &Live);
    fn say(&mut self, text: &str);
    fn toggle(&mut self);
    /// `skipped` may be one lane more than is to be told.
    fn end(&mut self, totals: &Totals, skipped: &[Unstarted]);
}

/// For programs: the end alone is told.
struct Silent;

impl Show for Silent {
    fn ends(&mut self, _: &[End]) {}
    fn draw(&mut self, _: &str, _: &Live) {}
    fn say(&mut self, text: &str) {
        warn(text.trim_end());
    }
    fn toggle(&mut self) {}
    fn end(&mut self, _: &Totals, _: &[Unstarted]) {}
}

/// What was skipped and why, in lines.
fn told_skipped(skipped: &[Unstarted]) -> String {
    let lines = skipped.iter().take(SKIPPED_MAX).map(|found| {
        let place = if found.environment.is_empty() { "" } else { "@" };
        let tasks = if found.tasks == 1 { "" } else { &*format!(", {} tasks", found.tasks) };
        let reason = found.reason.as_ref();
        let reason = reason.map(|reason| format!(": {}", plain(reason, SAID_MAX)));
        let reason = reason.unwrap_or_default();
        format!("skipped {}{place}{}{tasks}{reason}\n", found.case, found.environment)
    });
    let more = if skipped.len() > SKIPPED_MAX { "and more were skipped\n" } else { "" };
    lines.chain([more.to_owned()]).collect()
}

/// The end of an attempt that went wrong, in lines.
fn told(end: &End) -> Option<String> {
    let status = end.row.status;
    if !status.fails_run() {
        return None;
    }
    let place = if end.environment.is_empty() { "" } else { "@" };
    let task = format!("{}{place}{}#{}", end.case, end.environment, end.row.ordinal);
    let again = match end.ended {
        None => ", again",
        Some(_) if end.is_muted => ", muted",
        Some(_) => "",
    };
    // Nobody knows since when it ran that was lost with its worker.
    let took = match (status, end.row.duration) {
        (Status::Lost, 0) => String::new(),
        (_, took) => format!(" after {}", duration(took)),
    };
    let mut text = format!("{} {task} on {}{took}{again}\n", status.word(), end.worker);
    for (name, said) in crate::scheduler::report::sayings(end.row.detail.as_ref()) {
        for line in said.lines().take(10) {
            text += &format!("    {name}: {}\n", plain(line, SAID_MAX));
        }
    }
    Some(text)
}

#[derive(Default)]
struct Dots {
    /// Tasks that have their character.
    count: u64,
    column: usize,
    failures: Vec<String>,
}

impl Show for Dots {
    fn ends(&mut self, ends: &[End]) {
        let mut text = String::new();
        let before = self.count;
        for end in ends {
            self.failures.extend(told(end).filter(|_| end.ended.is_some()));
            let Some(status) = end.ended else { continue };
            text.push(match status {
                Status::Passed if end.is_flaky => '±',
                Status::Passed => '·',
                Status::Failed => 'F',
                Status::Error => 'E',
                Status::TimedOut => 'T',
                Status::Lost => 'L',
                Status::Pending | Status::Running | Status::Canceled | Status::Skipped => '°',
            });
            self.next(&mut text);
        }
        if self.count > before {
            print(&text);
        }
    }

    fn draw(&mut self, _: &str, _: &Live) {}

    fn say(&mut self, text: &str) {
        if std::mem::take(&mut self.column) > 0 {
            say("");
        }
        warn(text.trim_end());
    }

    fn toggle(&mut self) {}

    fn end(&mut self, totals: &Totals, skipped: &[Unstarted]) {
        print(&self.rest(totals));
        if self.column > 0 {
            say("");
        }
        for failure in &self.failures {
            say(failure.trim_end());
        }
        print(&told_skipped(skipped));
    }
}

impl Dots {
    /// Ends lines that are full.
    fn next(&mut self, text: &mut String) {
        self.count += 1;
        self.column += 1;
        if self.column == DOTS {
            self.column = 0;
            text.push('\n');
        }
    }

    /// Characters of those that ended without an attempt.
    fn rest(&mut self, totals: &Totals) -> String {
        let mut text = String::new();
        let left = totals.ended().saturating_sub(self.count);
        if left > DOTS_AT_ONCE_MAX {
            let line = if self.column > 0 { "\n" } else { "" };
            (self.count, self.column) = (self.count + left, 0);
            return format!("{line}° x {left}\n");
        }
        for _ in 0..left {
            text.push('°');
            self.next(&mut text);
        }
        text
    }
}

fn print(text: &str) {
    let mut out = io::stdout();
    // A reader that is gone has seen enough.
    let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

struct Picture {
    screen: Screen,
    /// To be printed above.
    text: String,
    shows_tasks: bool,
}

impl Default for Picture {
    fn default() -> Self {
        Self { screen: Screen::default(), text: String::new(), shows_tasks: true }
    }
}

impl Show for Picture {
    fn ends(&mut self, ends: &[End]) {
        self.text.extend(ends.iter().filter_map(told));
    }

    fn draw(&mut self, name: &str, live: &Live) {
        let totals = live.totals();
        let (ended, total) = (totals.ended(), totals.total.max(1));
        let width = 30;
        let full = (ended * width / total) as usize;
        let bar: String = std::iter::repeat_n('█', full)
            .chain(std::iter::repeat_n('░', width as usize - full))
            .collect();
        let seconds = now_ms().saturating_sub(live.submitted()) / 1_000;
        let mut lines = vec![
            format!("{}  {}:{:02}", plain(name, SAID_MAX), seconds / 60, seconds % 60),
            format!("{bar} {}, {} with workers", totals_line(&totals), live.given()),
        ];
        if self.shows_tasks {
            let now = now_ms();
            for runs in live.longest(LONGEST_MAX) {
                let place = if runs.environment.is_empty() { "" } else { "@" };
                let task = format!("{}{place}{}#{}", runs.case, runs.environment, runs.ordinal);
                let took = duration(now.saturating_sub(runs.since) * 1_000);
                lines.push(format!("  {took:>9}  {task} on {}", runs.worker));
            }
        }
        lines.push("t: what runs   w: why the rest waits   q: leave it running".into());
        self.screen.draw(&std::mem::take(&mut self.text), &lines);
    }

    fn say(&mut self, text: &str) {
        self.text += text;
    }

    fn toggle(&mut self) {
        self.shows_tasks = !self.shows_tasks;
    }

    fn end(&mut self, _: &Totals, skipped: &[Unstarted]) {
        self.text += &told_skipped(skipped);
        self.screen.draw(&std::mem::take(&mut self.text), &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Dots, told, told_skipped};
    use crate::scheduler::model::{Row, Status, Totals};
    use crate::scheduler::view::{End, Unstarted};
    use serde_json::json;

    #[test]
    fn what_never_ran_has_its_character_and_its_reason() {
        let mut dots = Dots { count: 78, column: 78, ..Dots::default() };
        let mut totals = Totals::default();
        totals.add(Status::Passed, 78);
        totals.add(Status::Skipped, 2);
        totals.add(Status::Canceled, 1);
        assert_eq!(dots.rest(&totals), "°°\n°");
        assert_eq!((dots.count, dots.column, &*dots.rest(&totals)), (81, 1, ""));
        let lane = |tasks: u32, environment: &str, reason: Option<&str>| Unstarted {
            case: "a".into(),
            environment: environment.into(),
            status: Status::Skipped,
            tasks,
            reason: reason.map(str::to_owned),
        };
        let told = told_skipped(&[lane(1, "", None), lane(2, "lab", Some("it rains"))]);
        assert_eq!(told, "skipped a\nskipped a@lab, 2 tasks: it rains\n");
        assert!(told_skipped(&vec![lane(1, "", None); 21]).ends_with("and more were skipped\n"));
    }

    #[test]
    fn many_that_end_without_an_attempt_are_told_by_their_number() {
        let of = |count| {
            let mut totals = Totals::default();
            totals.add(Status::Canceled, count);
            totals
        };
        let mut dots = Dots::default();
        assert_eq!(dots.rest(&of(3)), "°°°");
        assert_eq!(dots.rest(&of(3)), "");
        assert_eq!(dots.rest(&of(10_000_003)), "\n° x 10000000\n");
        assert_eq!((dots.count, dots.column), (10_000_003, 0));
        assert_eq!(Dots::default().rest(&of(1_001)), "° x 1001\n");
        assert_eq!(Dots::default().rest(&of(1_000)).chars().filter(|c| *c == '°').count(), 1_000);
    }

    #[test]
    fn a_failure_is_told_with_what_it_said() {
        let detail = json!({"message": "exit code 1", "stderr": "a\tc\nb\u{1b}[1m\r\n\u{9b}2J\n"});
        let row = Row {
            lane: 0,
            ordinal: 3,
            attempt: 1,
            status: Status::Failed,
            start: 0,
            duration: 1_500,
            detail: Some(detail),
        };
        let mut end = End {
            case: "pay".into(),
            environment: "lab".into(),
            row,
            worker: "w1".into(),
            ended: None,
            is_flaky: false,
            is_muted: true,
        };
        let told_text = told(&end).unwrap();
        assert_eq!(
            told_text,
            "failed pay@lab#3 on w1 after 1.5 ms, again\n    message: exit code 1\n    \
             stderr: a       c\n    stderr: b\\u{1b}[1m\n    stderr: \\u{9b}2J\n"
        );
        (end.row.status, end.row.duration, end.row.detail) = (Status::Lost, 0, None);
        assert_eq!(told(&end).unwrap(), "lost pay@lab#3 on w1, again\n");
        end.row.status = Status::Passed;
        assert_eq!(told(&end), None);
    }
}
