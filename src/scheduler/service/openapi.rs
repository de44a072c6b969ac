//! The description of all calls in OpenAPI's form: what tools make clients and forms from.
//!
//! It is made from two tables, one of calls and one of values. Tests see that every route is in it,
//! and every field of what is stored.

use super::answer::ok;
use super::openapi_filters::{
    CASE_FILTER, ENVIRONMENT_FILTER, PART, RUN_FILTER, TASK_FILTER, WANT, WINDOW, asked,
};
use super::openapi_values::{meaning, values};
use axum::response::Response;
use serde_json::{Map, Value, json};

/// One call.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    tag: &'static str,
    summary: &'static str,
    /// Names in the query with what they mean.
    query: &'static [(&'static str, &'static str)],
    /// Name of the value that is sent; empty for none.
    body: &'static str,
    /// Name of the value in the answer.
    answer: &'static str,
    status: u16,
    /// Errors that it has of its own.
    errors: &'static [u16],
}

const fn read(
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    query: &'static [(&'static str, &'static str)],
    answer: &'static str,
) -> Operation {
    let errors: &[u16] = &[400, 404];
    Operation { method: "GET", path, tag, summary, query, body: "", answer, status: 200, errors }
}

const fn change(
    (method, path): (&'static str, &'static str),
    tag: &'static str,
    summary: &'static str,
    (body, answer): (&'static str, &'static str),
    status: u16,
    errors: &'static [u16],
) -> Operation {
    Operation { method, path, tag, summary, query: &[], body, answer, status, errors }
}

/// Calls that may be made again: the second time they are answered with 200.
const SAME_AGAIN: [&str; 2] = ["/v1/runs", "/v1/instances"];

const C: &str = "test cases";
const E: &str = "environments";
const R: &str = "runs";
const I: &str = "instances";
const T: &str = "tags";
const Q: &str = "queues";
const S: &str = "results and reports";

/// All calls, in the order in which they are shown.
pub(super) const OPERATIONS: &[Operation] = &[
    read("/v1/testcases", C, "Lists test cases by id", CASE_FILTER, "CaseList"),
    change(
        ("POST", "/v1/testcases"),
        C,
        "Creates one",
        ("Case", "Case"),
        201,
        &[400, 409, 413, 422],
    ),
    read("/v1/testcases/{id}", C, "Reads one", &[], "Case"),
    change(
        ("PUT", "/v1/testcases/{id}"),
        C,
        "Writes one, in place of the version that If-Match or the body names",
        ("Case", "Case"),
        200,
        &[400, 404, 409, 412, 413, 422],
    ),
    change(
        ("PATCH", "/v1/testcases/{id}"),
        C,
        "Changes the fields that the body names; null takes one away",
        ("Object", "Case"),
        200,
        &[400, 404, 409, 413, 422],
    ),
    change(
        ("DELETE", "/v1/testcases/{id}"),
        C,
        "Marks one as deleted; runs keep their copies",
        ("", "Case"),
        200,
        &[404, 409],
    ),
    read("/v1/testcases/{id}/history", C, "What is known of its past", &[], "History"),
    read(
        "/v1/flaky",
        C,
        "Lists flaky cases, and those that are muted or skipped",
        &PART,
        "FlakyList",
    ),
    read(
        "/v1/slowest",
        C,
        "Lists cases by the time that they take, the slowest first",
        &PART,
        "SlowList",
    ),
    read("/v1/environments", E, "Lists environments by id", ENVIRONMENT_FILTER, "EnvironmentList"),
    change(
        ("POST", "/v1/environments"),
        E,
        "Creates one",
        ("Environment", "Environment"),
        201,
        &[400, 409, 413],
    ),
    read("/v1/environments/{id}", E, "Reads one", &[], "Environment"),
    change(
        ("PUT", "/v1/environments/{id}"),
        E,
        "Writes one, in place of the version that If-Match or the body names",
        ("Environment", "Environment"),
        200,
        &[400, 404, 409, 412, 413],
    ),
    change(
        ("PATCH", "/v1/environments/{id}"),
        E,
        "Changes the fields that the body names; null takes one away",
        ("Object", "Environment"),
        200,
        &[400, 404, 409, 413],
    ),
    change(
        ("DELETE", "/v1/environments/{id}"),
        E,
        "Marks one as deleted; runs keep their copies",
        ("", "Environment"),
        200,
        &[404, 409],
    ),
    read("/v1/environments/{id}/check", E, "What came of its last check", &[], "Checked"),
    change(
        ("POST", "/v1/environments/{id}/check"),
        E,
        "Has it checked now, and says what came of it",
        ("", "Checked"),
        200,
        &[404, 422, 503],
    ),
    change(
        ("POST", "/v1/runs"),
        R,
        "Submits a run; the same again under one request id is the same run, answered with 200",
        ("RunSpec", "Submitted"),
        201,
        &[400, 404, 409, 413, 422, 429],
    ),
    read(
        "/v1/runs",
        R,
        "Lists runs: open ones, then ended ones, the newest first",
        RUN_FILTER,
        "List",
    ),
    read("/v1/runs/{run}", R, "Reads what was submitted and how far it is", &[], "Run"),
    read("/v1/runs/{run}/events", R, "Follows a run: server-sent events", &[], "Events"),
    change(
        ("POST", "/v1/runs/{run}/pause"),
        R,
        "Gives nothing more out",
        ("", "Control"),
        202,
        &[404, 409],
    ),
    change(
        ("POST", "/v1/runs/{run}/resume"),
        R,
        "Lets it go on",
        ("", "Control"),
        202,
        &[404, 409],
    ),
    change(
        ("POST", "/v1/runs/{run}/cancel"),
        R,
        "Stops what runs and drops what waits",
        ("", "Control"),
        202,
        &[404, 409],
    ),
    change(
        ("POST", "/v1/runs/{run}/rerun"),
        R,
        "Submits what failed, was lost, did not start, or all of it again",
        ("Rerun", "Submitted"),
        201,
        &[400, 404, 409, 422, 429],
    ),
    read("/v1/runs/{run}/tasks", R, "Lists its tasks by lane and repeat", TASK_FILTER, "List"),
    read("/v1/runs/{run}/tasks/{lane}/{ordinal}", R, "Reads one with its attempts", &[], "Object"),
    change(
        ("POST", "/v1/runs/{run}/tasks/{lane}/{ordinal}/verdict"),
        R,
        "Records a person's verdict on a task of a manual case",
        ("Opinion", "Object"),
        202,
        &[400, 404, 409],
    ),
    read("/v1/runs/{run}/lanes", R, "Lists its cases in environments, counted", &PART, "List"),
    read("/v1/runs/{run}/waiting", R, "Says what each lane waits for", &[], "Object"),
    read("/v1/runs/{run}/bound", R, "Measures it: bound, efficiency, losses", &[], "Object"),
    read("/v1/runs/{run}/timeline", R, "Shows attempts as stretches of time", WINDOW, "Object"),
    read("/v1/runs/{run}/replay", R, "Tells what happened in order", &PART, "List"),
    read("/v1/runs/{run}/audit", R, "Checks its record", &[], "Object"),
    read("/v1/runs/{run}/failures", R, "Groups failures that are alike", &[], "FailureGroups"),
    read(
        "/v1/runs/{run}/compare",
        R,
        "Says what differs from an earlier run",
        &[("with", "The earlier run"), ("at", "As that was at this revision, if the store has it")],
        "Difference",
    ),
    read(
        "/v1/runs/{run}/report",
        R,
        "Writes its report as a file",
        &[("form", "html, junit or json")],
        "ReportFile",
    ),
    read("/v1/results", S, "Lists latest results by case and environment", &PART, "List"),
    read("/v1/results/{case}", S, "Lists a case's latest results", &PART, "List"),
    read("/v1/results/{case}/{environment}", S, "Reads the latest result", &[], "Result"),
    read("/v1/reports", S, "Lists reports of runs, newest first", &PART, "List"),
    read("/v1/reports/{run}", S, "Reads the report of a run that has ended", &[], "Object"),
    read("/v1/instances", I, "Lists workers by name, with what they hold", &PART, "InstanceList"),
    read("/v1/instances/{name}", I, "Reads one", &[], "Instance"),
    change(
        ("POST", "/v1/instances"),
        I,
        "Registers a service to which tasks are pushed: POST {url}/submit with an Order",
        ("Service", "Service"),
        201,
        &[400, 403, 409],
    ),
    change(
        ("DELETE", "/v1/instances/{name}"),
        I,
        "Takes such a registration away: the service gets nothing more, and ends what it has",
        ("", "Object"),
        200,
        &[404],
    ),
    Operation {
        query: WANT,
        ..change(
            ("POST", "/v1/claims"),
            I,
            "Gives tasks to a worker that asks; waits for the first if there is none",
            ("Claim", "Orders"),
            200,
            &[400, 409],
        )
    },
    change(
        ("POST", "/v1/claims/renew"),
        I,
        "Hears that a client is still there, and says which of its tasks shall end",
        ("Renewal", "Renewed"),
        200,
        &[400],
    ),
    change(
        ("POST", "/v1/claims/results"),
        I,
        "Takes the verdict on a task that was pushed or claimed; answers when it is recorded",
        ("Verdict", "Object"),
        202,
        &[400, 409, 503],
    ),
    change(
        ("POST", "/v1/instances/{name}/drain"),
        I,
        "Lets a worker finish what it has, and leave",
        ("", "Object"),
        202,
        &[404],
    ),
    read(
        "/v1/tags",
        T,
        "Lists tags that are held or have a capacity, the most wanted first",
        &[],
        "TagList",
    ),
    change(
        ("PUT", "/v1/tags/{tag}"),
        T,
        "Says how many may hold a tag at once",
        ("TagSettings", "TagSettings"),
        200,
        &[400],
    ),
    change(
        ("DELETE", "/v1/tags/{tag}"),
        T,
        "Takes a tag's capacity away: one may hold it",
        ("", "Object"),
        200,
        &[404],
    ),
    change(
        ("POST", "/v1/tags/{tag}/release"),
        T,
        "Takes a tag from its holder by force: what runs under it is canceled",
        ("Release", "Object"),
        202,
        &[400, 404, 409],
    ),
    read("/v1/queues", Q, "Lists queues that have settings", &[], "QueueList"),
    read("/v1/queues/{queue}", Q, "Reads one", &[], "Queue"),
    change(
        ("PUT", "/v1/queues/{queue}"),
        Q,
        "Sets a queue's weight and limits",
        ("Queue", "Queue"),
        200,
        &[400],
    ),
    change(
        ("DELETE", "/v1/queues/{queue}"),
        Q,
        "Takes a queue's settings away",
        ("", "Object"),
        200,
        &[404],
    ),
    change(
        ("POST", "/v1/login"),
        "about",
        "Gives the store's token for a user of the store",
        ("Login", "Token"),
        200,
        &[400, 401],
    ),
    read("/v1/openapi.json", "about", "This description", &[], "Object"),
];

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path = operation.path.split('/').filter_map(|part| {
        let name = part.strip_prefix('{')?.strip_suffix('}')?;
        let schema = match name {
            "lane" | "ordinal" => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            _ => json!({"type": "string"}),
        };
        Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
    });
    let in_query = operation.query.iter().map(|(name, description)| {
        let schema = asked(operation.path, name);
        let is_needed = matches!(*name, "with" | "form");
        json!({
            "name": name, "in": "query", "description": description, "required": is_needed,
            "schema": schema,
        })
    });
    let mut found: Vec<Value> = in_path.chain(in_query).collect();
    if operation.answer == "Events" {
        found.push(json!({
            "name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
            "description": "The revision that was seen last: what has changed since is told",
        }));
    }
    if operation.errors.contains(&409) && matches!(operation.method, "PUT" | "PATCH" | "DELETE") {
        let description = "The version that was seen; another one is answered with 409";
        let schema = json!({"type": "string", "pattern": "^(\\*|(W/)?\"?[0-9]+\"?)$"});
        found.push(json!({
            "name": "If-Match", "in": "header", "description": description, "schema": schema,
        }));
        if operation.errors.contains(&412) {
            let description = "* lets nothing be written over what is there";
            found.push(json!({
                "name": "If-None-Match", "in": "header", "description": description,
                "schema": {"type": "string", "enum": ["*"]},
            }));
        }
    }
    found
}

/// The call's name in clients that tools make: its method, and its path without `v1`, such as `getRunsByRunTasks`.
fn operation_id(operation: &Operation) -> String {
    let mut id = operation.method.to_lowercase();
    for part in operation.path.split('/').skip(2) {
        let inner = part.trim_matches(['{', '}']);
        if inner != part {
            id += "By";
        }
        for word in inner.split('.') {
            let mut letters = word.chars();
            id.extend(letters.next().map(|first| first.to_ascii_uppercase()));
            id += letters.as_str();
        }
    }
    id
}

fn describe(operation: &Operation) -> Value {
    let schema = |name| json!({"schema": reference(name)});
    let content = match operation.answer {
        "Events" => json!({"text/event-stream": schema("Events")}),
        "ReportFile" => json!({
            "text/html": schema("ReportFile"), "application/xml": schema("ReportFile"),
            "application/json": schema("Object"),
        }),
        answer => json!({"application/json": schema(answer)}),
    };
    let good = json!({"description": operation.summary, "content": content});
    let mut answers = Map::from_iter([(operation.status.to_string(), good)]);
    if SAME_AGAIN.contains(&operation.path) && operation.status == 201 {
        let mut again = answers[&operation.status.to_string()].clone();
        again["description"] = "It was there already, made by the same call".into();
        answers.insert("200".to_owned(), again);
    }
    if operation.method == "PUT" && operation.errors.contains(&412) {
        let mut new = answers[&operation.status.to_string()].clone();
        new["description"] = "There was none, and it is made".into();
        answers.insert("201".to_owned(), new);
    }
    let own = operation.errors.iter().map(|status| (status.to_string(), meaning(*status)));
    // What any call may be answered with: who asks, how, and whether the store is there.
    let others = ("default".to_owned(), "Anything else that keeps the call from being served");
    for (status, meaning) in own.chain([others]) {
        let content = json!({"application/json": {"schema": reference("Error")}});
        answers.insert(status, json!({"description": meaning, "content": content}));
    }
    let mut described = json!({
        "operationId": operation_id(operation), "tags": [operation.tag], "summary": operation.summary,
        "parameters": parameters(operation), "responses": answers,
    });
    // Where nothing need be said, the type of the content says that no page of somebody else's asks.
    let body = if operation.method == "POST" { "Object" } else { "" };
    let body = if operation.body.is_empty() { body } else { operation.body };
    if !body.is_empty() {
        described["requestBody"] = json!({
            "required": true, "content": {"application/json": {"schema": reference(body)}},
        });
    }
    described
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = describe(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quoin's test scheduler",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Calls that change something carry application/json. Errors have one \
                            shape, the schema Error. A call that shows a user of the store is \
                            done with that user's rights: by a token of the store, or by name and \
                            password. Where the scheduler has a token of its own, or demands users, \
                            each call shows one of them.",
        },
        "security": [{}, {"token": []}, {"password": []}],
        "paths": paths,
        "components": {
            "schemas": values(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "password": {"type": "http", "scheme": "basic"},
            },
        },
    })
}

pub(super) async fn serve() -> Response {
    ok(&document())
}

#[cfg(test)]
mod tests {
    use super::super::routes::calls;
    use super::{OPERATIONS, document, values};
    use crate::scheduler::model::{Environment, RunSpec, TestCase};
    use serde_json::Value;
    use std::collections::BTreeSet;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let routes: BTreeSet<(String, &str)> =
            calls().known.into_iter().map(|(method, path)| (method.to_string(), path)).collect();
        let described: BTreeSet<(String, &str)> = OPERATIONS
            .iter()
            .map(|operation| (operation.method.to_owned(), operation.path))
            .collect();
        assert_eq!(described.len(), OPERATIONS.len(), "a call is described twice");
        assert_eq!(routes, described);
    }

    #[test]
    fn every_call_has_a_name_of_its_own() {
        let document = document();
        let paths = document["paths"].as_object().unwrap().values();
        let calls = paths.flat_map(|path| path.as_object().unwrap().values());
        let ids: Vec<&str> = calls.map(|call| call["operationId"].as_str().unwrap()).collect();
        let is_name = |id: &&str| id.chars().all(|c| c.is_ascii_alphanumeric());
        assert!(ids.iter().all(is_name), "{ids:?}");
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), OPERATIONS.len(), "{ids:?}");
        for id in ["getTestcases", "patchTestcasesById", "getRunsByRunTasksByLaneByOrdinal"] {
            assert!(ids.contains(&id), "{id}");
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut left = vec![&document];
        while let Some(value) = left.pop() {
            match value {
                Value::Object(fields) => left.extend(fields.values()),
                Value::Array(elements) => left.extend(elements),
                Value::String(text) if text.starts_with("#/") => {
                    assert!(document.pointer(&text[1..]).is_some(), "{text}");
                }
                _ => {}
            }
        }
    }

    /// Fields of a value that `deny_unknown_fields` lists when it meets a wrong one.
    fn fields<T: serde::de::DeserializeOwned + std::fmt::Debug>() -> BTreeSet<String> {
        let error = serde_json::from_str::<T>(r#"{"?": 1}"#).unwrap_err().to_string();
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_field_that_is_stored_is_described() {
        let values = values();
        for (name, fields) in [
            ("Case", fields::<TestCase>()),
            ("Environment", fields::<Environment>()),
            ("RunSpec", fields::<RunSpec>()),
        ] {
            let described = values[name]["properties"].as_object().unwrap();
            let described: BTreeSet<String> =
                described.keys().filter(|field| *field != "version").cloned().collect();
            let given = ["id", "gmt_create", "submitted"].map(str::to_owned);
            let fields = fields.into_iter().filter(|f| name != "RunSpec" || !given.contains(f));
            assert_eq!(described, fields.collect(), "{name}");
        }
    }
}
