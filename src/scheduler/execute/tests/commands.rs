//! Cases of kind command.

use super::{Bench, LONG, said};
use crate::scheduler::model::Status;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

fn shell(script: &str) -> Value {
    json!({"kind": "command", "command": ["sh", "-c", script]})
}

/// Whether a process runs in this group; one that has ended and was not looked after counts for
/// nothing.
fn is_alive(group: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.flat_map(|process| std::fs::read_to_string(process.path().join("stat")));
    stats.into_iter().any(|stat| {
        // Behind the name, which may hold anything: state, parent, group.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[2] == group && !matches!(fields[0], "Z" | "X")
    })
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn until_written(path: &Path) {
    until("the command did not get so far", || path.exists()).await;
}

#[tokio::test]
async fn a_command_is_given_input_folder_and_variables() {
    let bench = Bench::new();
    std::fs::write(bench.folder.path().join("here"), "").unwrap();
    let mut case = shell(
        "cat; ls here; echo $WHO $1 $TCSS_RUN $TCSS_TASK $TCSS_ATTEMPT $TCSS_FENCE; test $TCSS_DEADLINE -gt 1",
    );
    case["command"].as_array_mut().unwrap().extend([json!("sh"), json!("{{port}}")]);
    case["input"] = json!("hello {{who}}\n");
    case["variables"] = json!({"WHO": "{{who}}"});
    case["folder"] = json!(bench.folder.path());
    case["output"] = json!("hello world\nhere\nworld 80 r1 3-7 2 99\n");
    let outcome = bench.run(case.clone()).await;
    assert_eq!((outcome.status, outcome.detail), (Status::Passed, None));
    case["output"] = json!("hello world\nhere\nworld 80 r1 3-7 2 99");
    let outcome = bench.run(case).await;
    assert_eq!(outcome.status, Status::Failed);
    assert_eq!(said(&outcome, "message"), "differs only in the line break at its end");
}

#[tokio::test]
async fn the_exit_decides() {
    let bench = Bench::new();
    let outcome = bench.run(shell("echo out; echo err >&2; exit 3")).await;
    let detail =
        json!({"message": "exit code 3: err", "exit": 3, "output": "out\n", "stderr": "err\n"});
    assert_eq!((outcome.status, outcome.detail), (Status::Failed, Some(detail)));
    let outcome = bench.run(shell("exit 0")).await;
    assert_eq!((outcome.status, outcome.detail), (Status::Passed, None));
    let outcome = bench.run(shell("kill -SEGV $$")).await;
    let detail = json!({"message": "killed by SIGSEGV", "signal": "SIGSEGV"});
    assert_eq!((outcome.status, outcome.detail), (Status::Failed, Some(detail)));
    let mut case = shell("exit 3");
    case["match"] = json!("status");
    case["output"] = json!("3");
    assert_eq!(bench.run(case).await.status, Status::Passed);
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error() {
    let bench = Bench::new();
    let outcome = bench.run(json!({"kind": "command", "command": ["/no/such/program"]})).await;
    let message = "start /no/such/program: No such file or directory (os error 2)";
    assert_eq!((outcome.status, said(&outcome, "message")), (Status::Error, json!(message)));
    let mut case = shell("true");
    case["folder"] = json!("/no/such/folder");
    let outcome = bench.run(case).await;
    let message = "folder /no/such/folder: No such file or directory (os error 2)";
    assert_eq!((outcome.status, said(&outcome, "message")), (Status::Error, json!(message)));
    let mut case = shell("true");
    case["variables"] = json!({"A": "{{gone}}"});
    let outcome = bench.run(case).await;
    assert_eq!(said(&outcome, "message"), "environment lab has no key gone");
    let outcome = bench.run(json!({"kind": "manual", "name": "look"})).await;
    assert_eq!(outcome.status, Status::Error);
    let strict = Bench::with(|settings| settings.allows_commands = false);
    let place = strict.folder.path().join("ran");
    let outcome = strict.run(shell(&format!("touch {}", place.display()))).await;
    let message = json!("this worker runs no commands");
    assert_eq!((outcome.status, said(&outcome, "message")), (Status::Error, message));
    assert!(!place.exists());
}

#[tokio::test]
async fn an_overdue_command_is_asked_to_end() {
    let bench = Bench::new();
    let script = "trap 'echo bye; exit 0' TERM; echo hello; while :; do sleep 0.05; done";
    // On a busy machine a shell takes its time to get so far.
    for timeout_ms in [300, 3_000, 15_000] {
        let mut case = shell(script);
        case["timeout_ms"] = json!(timeout_ms);
        let timeout = Duration::from_millis(timeout_ms);
        let outcome = bench.run_until(case, timeout, std::future::pending()).await;
        assert_eq!(outcome.status, Status::TimedOut, "{outcome:?}");
        assert_eq!(said(&outcome, "message"), format!("not done within {timeout_ms} ms"));
        if said(&outcome, "output") == "hello\nbye\n" {
            assert_eq!(said(&outcome, "exit"), 0);
            return;
        }
    }
    panic!("it was never asked");
}

#[tokio::test]
async fn a_command_that_does_not_listen_is_killed_with_all_its_children() {
    let bench = Bench::with(|settings| settings.grace = Duration::from_millis(50));
    let place = bench.folder.path().join("ready");
    let shown = place.display();
    let script = format!(
        "trap '' TERM; echo $$; sleep 600 & sleep 600 & touch {shown}; while :; do sleep 600; done"
    );
    let outcome = bench.run_until(shell(&script), LONG, until_written(&place)).await;
    assert_eq!((outcome.status, said(&outcome, "signal")), (Status::Canceled, json!("SIGKILL")));
    let group = said(&outcome, "output").as_str().unwrap().trim().to_owned();
    until("somebody is left", || !is_alive(&group)).await;
}

#[tokio::test]
async fn dropping_an_attempt_kills_the_command_at_once() {
    let bench = Bench::new();
    let place = bench.folder.path().join("group");
    let (shown, moved) = (place.with_extension("new").display().to_string(), place.display());
    let script =
        format!("trap '' TERM; echo $$ > {shown}; mv {shown} {moved}; sleep 600 & wait; wait");
    tokio::select! {
        outcome = bench.run(shell(&script)) => panic!("{outcome:?}"),
        () = until_written(&place) => {}
    }
    let group = std::fs::read_to_string(&place).unwrap().trim().to_owned();
    until("somebody is left", || !is_alive(&group)).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_holds_nothing_up() {
    let bench = Bench::new();
    let outcome = bench.run(shell("sleep 600 & echo $$")).await;
    assert_eq!((outcome.status, said(&outcome, "leaked")), (Status::Passed, json!(true)));
    assert!(outcome.duration < LONG);
    let group = said(&outcome, "output").as_str().unwrap().trim().to_owned();
    until("somebody is left", || !is_alive(&group)).await;
    // Out of the group, and so out of reach: it is not waited for.
    let outcome = bench.run(shell("setsid sleep 600 & echo $!")).await;
    assert_eq!((outcome.status, said(&outcome, "leaked")), (Status::Passed, json!(true)));
    assert!(outcome.duration < LONG);
    let far = said(&outcome, "output").as_str().unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(far).unwrap(), Signal::KILL).unwrap();
    // One that keeps its output to itself is not noticed, but killed too.
    let outcome = bench.run(shell("sleep 600 > /dev/null 2>&1 & echo $$")).await;
    assert_eq!(outcome.status, Status::Passed);
    let group = said(&outcome, "output").as_str().unwrap().trim().to_owned();
    until("somebody is left", || !is_alive(&group)).await;
}

#[tokio::test]
async fn long_outputs_are_kept_aside() {
    let bench = Bench::with(|settings| settings.record_bytes_max = 4_000);
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; exit 1";
    let outcome = bench.run(shell(script)).await;
    let expected: String = (0..30_000).map(|line| format!("line {line}\n")).collect();
    assert!(said(&outcome, "output").as_str().unwrap().starts_with("line 0\nline 1\n"));
    assert!(said(&outcome, "output_tail").as_str().unwrap().ends_with("line 29998\nline 29999\n"));
    assert_eq!(said(&outcome, "output_bytes"), expected.len());
    assert_eq!(bench.artifact(&said(&outcome, "output_artifact")), expected.as_bytes());
    assert!(outcome.detail.unwrap().to_string().len() < 4_500);
}

#[tokio::test]
async fn a_command_need_not_read_its_input() {
    let bench = Bench::new();
    let mut case = shell("echo done");
    case["input"] = json!("x".repeat(1 << 20));
    case["output"] = json!("done\n");
    let outcome = bench.run(case).await;
    assert_eq!(outcome.status, Status::Passed, "{outcome:?}");
}
