//! The values of the services, as OpenAPI describes them.

use serde_json::{Map, Value, json};

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// Of one letter at least.
fn name(description: &str) -> Value {
    json!({"type": "string", "minLength": 1, "description": description})
}

fn number(description: &str) -> Value {
    json!({"type": "integer", "description": description})
}

fn within(least: i64, most: u64, description: &str) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most, "description": description})
}

fn truth(description: &str) -> Value {
    json!({"type": "boolean", "description": description})
}

fn words(words: &[&str], description: &str) -> Value {
    json!({"type": "string", "enum": words, "description": description})
}

fn texts(description: &str) -> Value {
    let texts = json!({"type": "string"});
    json!({"type": "object", "additionalProperties": texts, "description": description})
}

fn any(description: &str) -> Value {
    json!({ "description": description })
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

/// What is only ever sent: it has these fields and no others, and must have some of them.
fn request(required: &[&str], properties: Value) -> Value {
    let mut request = object(properties);
    request["additionalProperties"] = false.into();
    request["required"] = json!(required);
    request
}

fn opinion() -> Value {
    let verdicts = words(&["passed", "failed", "error"], "What a person says");
    let fields = json!({
        "verdict": verdicts, "message": text("What was seen"), "by": text("Whose verdict it is"),
    });
    request(&["verdict"], fields)
}

fn list(of: &str) -> Value {
    let items = json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{of}")}});
    object(json!({
        "items": items,
        "next": {"type": ["string", "null"], "description": "Where the list goes on; null at its end"},
        "left": number("Keys from here to the end, before filters"),
        "revision": number("At which it was read"),
    }))
}

fn case() -> Value {
    let mut case = object(json!({
        "id": name("No slash, at most 256 bytes"),
        "name": text("For people"),
        "kind": words(&["http", "command", "manual"], "What is done"),
        "url": text("Whom a case of kind http calls; {{name}} stands for a value of the environment"),
        "method": text("POST unless said"),
        "headers": texts("Of the call"),
        "command": {"type": "array", "items": {"type": "string"}, "description": "Program and arguments"},
        "folder": text("Where the command runs"),
        "variables": texts("Of the command's environment"),
        "input": text("Body of the call, or standard input"),
        "output": text("What is expected back"),
        "match": words(
            &["exact", "json", "json-subset", "regex", "status", "none"],
            "How the answer is compared",
        ),
        "steps": any("For people"),
        "expected_result": any("For people"),
        "case_pre": any("Cases that must have ended: a name, {case, scope, policy, soft}, or a list"),
        "mutual_tag": any("Tags that are held meanwhile: a name, {tag, scope, chain}, or a list"),
        "requires": texts("Labels that a worker must have"),
        "slots": within(1, 1_024, "Of a worker's capacity"),
        "priority": within(-1_000, 1_000, "Within a run; higher first"),
        "timeout_ms": within(1, 7 * 24 * 3_600_000, "Of one attempt"),
        "slow_ms": number("Longer is marked as slow"),
        "retries": object(json!({
            "test": within(0, 100, "After a failed verdict or a timeout"),
            "infra": within(0, 100, "After an error without a verdict"),
            "backoff_ms": number("Before the first; doubled for each further one"),
        })),
        "on_lost": words(&["retry", "never"], "What becomes of a task whose worker is lost"),
        "owner": text("Whose it is"),
        "labels": texts("For filters"),
        "est_ms": number("How long a task takes, while nothing better is known"),
        "state": words(&["enabled", "muted", "skipped"], "Whether it runs and counts"),
        "state_reason": text("Why it is muted or skipped"),
        "state_until": text("Until when (RFC 3339)"),
        "state_since": text("Since when it is so (RFC 3339); set when it is written"),
        "gmt_create": text("Set by the service"),
        "gmt_modified": text("Set by the service"),
        "isDelete": truth("Set by the service"),
        "version": number("Revision of the last change"),
    }));
    case["required"] = json!(["id"]);
    case
}

fn environment() -> Value {
    let mut environment = object(json!({
        "id": name("No slash, at most 256 bytes"),
        "name": text("For people"),
        "config": {"type": "object", "description": "What {{name}} in cases stands for"},
        "labels": texts("Labels that a worker must have"),
        "capacity": within(1, u32::MAX.into(), "Tasks that may run here at once"),
        "health": words(
            &["unknown", "good", "bad", "looping", "maintenance", "retired"],
            "Whether something may start here",
        ),
        "health_reason": text("Why it is as it is"),
        "state": words(&["idle", "reserved", "running"], "Who has it: nothing new starts in one that is reserved"),
        "state_reason": text("Who reserved it, and for what"),
        "check": object(json!({
            "url": text("Answered with 200 to 299 when all is well"),
            "every": number("Seconds between two checks"),
        })),
        "gmt_create": text("Set by the service"),
        "gmt_modified": text("Set by the service"),
        "isDelete": truth("Set by the service"),
        "version": number("Revision of the last change"),
    }));
    environment["required"] = json!(["id"]);
    environment
}

fn checked() -> Value {
    object(json!({
        "is_good": truth("It answered with 200 to 299"),
        "message": text("Why it is not good"),
        "checked": number("When, in milliseconds since 1970"),
        "duration_ms": number("How long it took"),
        "next": number("When it is checked again, in milliseconds since 1970"),
        "health": text("What the environment's health is since"),
        "asked": number("Revision of the wish that it fulfils, 0 if nobody had asked"),
    }))
}

fn run_spec() -> Value {
    let case = object(json!({
        "case": text("Its id"),
        "repeats": {
            "description": "How often, in each environment or by environment; as the run says unless given",
            "oneOf": [within(1, 10_000_000, "In each environment"),
                {"type": "object", "additionalProperties": within(1, 10_000_000, "In that one")}],
        },
    }));
    let mut spec = object(json!({
        "name": text("For people"),
        "request_id": text("The same submit with the same id is the same run, for a day"),
        "cases": {"type": "array", "minItems": 1, "items": {"oneOf": [text("Its id"), case]}},
        "repeats": within(1, 10_000_000, "For cases that name no number of their own"),
        "environments": {"type": "array", "items": {"type": "string"}},
        "missing": words(&["refuse", "ignore", "include"], "Predecessors that are not selected"),
        "queue": text("Queues share by weight"),
        "priority": within(-1_000, 1_000, "Within the queue; higher first"),
        "deadline_ms": within(1, 365 * 24 * 3_600_000, "From the submit on; what has not started then is skipped"),
        "no_worker_timeout_ms": within(1, 365 * 24 * 3_600_000, "What no worker could run for so long is skipped"),
        "failures_max": within(1, u32::MAX.into(), "After so many failures nothing new starts"),
        "rerun_of": text("The run that this one repeats"),
        "owner": text("Whose it is"),
    }));
    spec["required"] = json!(["cases"]);
    spec
}

fn run() -> Value {
    let totals = "By status code (02 passed, 03 failed, 04 error, 05 canceled, 06 skipped, \
                  07 timed out, 08 lost), with total, flaky and failures";
    object(json!({
        "run": text("Its id"),
        "spec": {"$ref": "#/components/schemas/RunSpec"},
        "status": object(json!({
            "state": text("accepted; waiting, while no worker has anything of it; running, paused, canceling, passed, failed, canceled, incomplete"),
            "totals": {"type": "object", "description": totals},
            "retries": number("Attempts beyond the first of their tasks"),
            "started": number("Milliseconds since 1970"),
            "ended": number("Milliseconds since 1970"),
            "version": number("Revision of the last change"),
        })),
    }))
}

fn flaky() -> Value {
    object(json!({
        "case": text("Its id"),
        "environment": text("Empty where its runs name none, or it has not run"),
        "score": {"type": "number", "description": "The share of changes among its last outcomes, newer ones weighing more"},
        "is_flaky": truth("Whether that is much"),
        "changes": number("Changes and repeated attempts"),
        "comparisons": number("Outcomes that were compared"),
        "clean": number("Passes at the end"),
        "has_recovered": truth("Whether so many passes mean that it is mended"),
        "stats": any("What is known of its past"),
        "state": words(&["enabled", "muted", "skipped"], "Whether it runs and counts"),
        "is_expired": truth("The time of that is over: it runs and counts"),
        "reason": text("Why"), "until": text("Until when (RFC 3339)"), "owner": text("Whose it is"),
        "version": number("Of its definition; 0 where that is deleted"),
    }))
}

fn slow() -> Value {
    object(json!({
        "case": text("Its id"), "environment": text("Empty where its runs name none"),
        "n": number("Tasks that ran"), "p50": number("Milliseconds, of the last 64"),
        "p90": number("The same"), "durations": any("Of the last 64, the oldest first"),
        "trend": any("Where they are going: rising or falling by which part, steady, unclear, unknown"),
    }))
}

fn failure_groups() -> Value {
    let group = object(json!({
        "fingerprint": text("Of the message, without what changes each time"),
        "tasks": number("How many"),
        "statuses": any("The same by status code"),
        "message": text("Of one of them"),
        "lanes": {"type": "array", "items": {"type": "object"}, "description": "Cases in environments, the first of them"},
        "lanes_total": number("How many there are"),
        "is_flaky": truth("Whether one of the cases passes and fails by turns"),
        "kind": words(
            &["product", "test", "infrastructure", "investigate"],
            "What it looks like: a verdict, one of a flaky case, mostly none, or nothing that prevails",
        ),
    }));
    object(json!({
        "items": {"type": "array", "items": group},
        "groups": number("How many there are"),
        "revision": number("At which the run was read"),
    }))
}

fn difference() -> Value {
    let names = |description: &str| json!({"type": "array", "items": {"type": "object"}, "description": description});
    object(json!({
        "run": text("The later run"), "with": text("The earlier one"),
        "broken": names("Passed in the earlier, failed in the later"),
        "fixed": names("The other way round"),
        "slower": names("Passed in both: at least a quarter and 50 ms slower, by the medians"),
        "quicker": names("The other way round"),
        "added": names("Only in the later"), "gone": names("Only in the earlier"),
    }))
}

fn instance() -> Value {
    object(json!({
        "name": text("Its name"),
        "url": {"type": ["string", "null"], "description": "Where it says that it is"},
        "labels": texts("What it is"),
        "task_num": number("Tasks in open claims"),
        "max_task_num": number("Tasks that may run at once"),
        "prefetch": number("Tasks taken ahead for each slot, at most"),
        "no_commands": truth("It carries out no cases of kind command"),
        "draining": truth("It takes nothing more"),
        "resting": any("Null, or why it takes nothing for a while, and until when it is not looked again, in milliseconds since 1970: why, until"),
        "artifacts": text("Where it serves artifacts, each under its digest; empty for nowhere"),
        "registration": number("Revision at which it came"),
        "version": number("Revision of the last change"),
        "running": any("What runs now: [run, lane, ordinal, attempt, milliseconds since 1970]"),
        "lease": any("Seconds until it counts as lost unless it prolongs its lease: left_s, of granted_s"),
        "claims": {"type": "array", "items": {"type": "object"}},
    }))
}

/// What workers that speak HTTP say and are told.
fn names(description: &str) -> Value {
    json!({"type": "array", "items": {"type": "string"}, "description": description})
}

fn order() -> Value {
    object(json!({
        "recordId": text("To be named with the verdict"), "case": text("Its id"),
        "url": text("Whom to call"), "input": text("What with"), "output": text("What is expected"),
        "callback": text("Where the verdict is posted"), "attempt": number("From 1"),
        "fence": number("Grows with each giving; the tested system may refuse smaller ones"),
        "deadline": number("Milliseconds since 1970"),
    }))
}

fn of_remote_workers() -> [(&'static str, Value); 7] {
    [
        (
            "Service",
            request(
                &["name", "url", "max_task_num"],
                json!({
                    "name": name("No two workers share one"), "url": text("It is asked at {url}/submit"),
                    "max_task_num": within(1, 10_000, "Tasks at once"), "labels": texts("What it is"),
                    "commands": truth("It carries out cases of kind command as well"),
                }),
            ),
        ),
        (
            "Claim",
            request(
                &["worker"],
                json!({
                    "worker": name("Who asks; no two share a name"),
                    "max_task_num": within(1, 10_000, "Tasks at once; as many as are wanted unless said"),
                    "labels": texts("What it is"),
                    "commands": truth("It carries out cases of kind command as well"),
                    "records": names("All that it has; what it was given and does not name is lost"),
                }),
            ),
        ),
        ("Order", order()),
        (
            "Orders",
            object(json!({
                "tasks": {"type": "array", "items": {"$ref": "#/components/schemas/Order"}},
                "canceled": names("Records that the worker has and shall end"),
            })),
        ),
        (
            "Renewal",
            request(
                &["worker"],
                json!({
                    "worker": name("Who is still there"), "records": names("What it has"),
                }),
            ),
        ),
        (
            "Renewed",
            object(json!({
                "canceled": names("Records that shall end, and whose end is to be told"),
                "gone": names("Records that have ended or were given to others"),
            })),
        ),
        (
            "Verdict",
            request(
                &["recordId", "status"],
                json!({
                    "recordId": name("Of the order"),
                    "status": text("passed, failed, error or timed out; or 02, 03, 04, 07; canceled, or 05, of what was canceled"),
                    "message": text("Why, for people"), "result": text("What came back"),
                }),
            ),
        ),
    ]
}

/// What the past says of cases, and a run of its failures.
fn of_results() -> [(&'static str, Value); 8] {
    [
        (
            "History",
            object(json!({
                "stats": any("By environment: counts, percentiles, last outcomes, since when it fails"),
                "results": any("By environment: the latest result"),
                "scores": any("By environment: how flaky it is"),
                "trends": any("By environment: where its durations are going: rising or falling by which part, steady, unclear, unknown"),
            })),
        ),
        ("Flaky", flaky()),
        ("FlakyList", list("Flaky")),
        ("Slow", slow()),
        ("SlowList", list("Slow")),
        ("FailureGroups", failure_groups()),
        ("Difference", difference()),
        ("ReportFile", text("HTML or JUnit's XML, all of it cut at one revision")),
    ]
}

/// What people set while runs go on, and who they are.
fn of_settings() -> [(&'static str, Value); 7] {
    let capacity = within(1, u32::MAX.into(), "How many may hold it at once");
    let own = json!({"type": "string", "readOnly": true, "description": "Its name"});
    let mut tag = object(json!({"capacity": capacity, "tag": own}));
    tag["required"] = json!(["capacity"]);
    let queue = object(json!({
        "queue": text("Its name"),
        "weight": within(1, 1_000_000, "Its part beside other queues"),
        "limit": number("Tasks that may run at once"),
        "runs_max": number("Runs that may be open at once"),
        "paused": truth("Nothing new starts"),
        "version": {"type": "integer", "readOnly": true, "description": "Revision of the last change"},
    }));
    let login = json!({"name": text("A user of the store"), "password": text("")});
    [
        ("TagSettings", tag),
        ("TagList", list("Object")),
        ("Release", request(&["reason"], json!({"reason": name("For the worker's log")}))),
        ("Queue", queue),
        ("QueueList", list("Queue")),
        ("Login", request(&["name", "password"], login)),
        ("Token", object(json!({"token": text("To be shown as Authorization: Bearer")}))),
    ]
}

/// All schemas by name.
pub(super) fn values() -> Map<String, Value> {
    let error = object(json!({
        "status": number("The same as the answer's"),
        "reason": text("The same in words"),
        "message": text("What is wrong, for people"),
    }));
    let anything = json!({"type": "object"});
    let all = [
        ("Error", object(json!({ "error": error }))),
        ("Object", anything),
        ("List", list("Object")),
        ("Case", case()),
        ("CaseList", list("Case")),
        ("Environment", environment()),
        ("EnvironmentList", list("Environment")),
        ("RunSpec", run_spec()),
        ("Run", run()),
        (
            "Submitted",
            object(json!({
                "run": text("Its id"), "is_new": truth("Whether this call has made it"),
                "tasks": number("How many"), "lanes": number("Cases times environments"),
                "warnings": {"type": "array", "items": {"type": "string"}},
            })),
        ),
        (
            "Rerun",
            request(
                &[],
                json!({
                    "which": words(&["failed", "lost", "unstarted", "all"], "What of it"),
                    "request_id": text("As for a submit"),
                }),
            ),
        ),
        ("Control", object(json!({"run": text("Its id"), "control": text("What is wanted")}))),
        (
            "Events",
            text("Events `status` and, at last, `end`: data as `status` of a run, id its revision"),
        ),
        (
            "Result",
            object(json!({
                "case": text("Its id"), "environment": text("Its id"),
                "status": text("In a word"), "code": text("Status code"), "run": text("Of which run"),
                "lane": number("Its place in the run"), "ordinal": number("Which of its repeats, from 0"),
                "attempt": number("From 1"), "worker": text("Who ran it"),
                "start": number("Milliseconds since 1970"), "duration_ms": number("How long it took"),
                "logs": text("The begin of what it put out or said"),
                "revision": number("At which it was recorded"),
                "version": number("Revision of the last change"),
            })),
        ),
        ("Instance", instance()),
        ("InstanceList", list("Instance")),
        ("Opinion", opinion()),
        ("Checked", checked()),
    ];
    let all = all.into_iter().chain(of_settings()).chain(of_results()).chain(of_remote_workers());
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What an error of a status means.
pub(super) fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Malformed: the message says what is wrong",
        401 => "The store knows no such user, or has none",
        403 => "That must not be called, or not by this user",
        404 => "There is none of this name",
        409 => "Another version, another submit, or too late",
        412 => "There is one, or none, though If-None-Match or If-Match says otherwise",
        413 => "Longer than 1 MiB",
        422 => "It cannot be done with what there is",
        429 => "Too much for now: see Retry-After",
        _ => "The call cannot be served",
    }
}
