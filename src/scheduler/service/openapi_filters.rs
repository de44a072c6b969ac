//! What may be asked in the query of calls, with what it means.

use serde_json::{Value, json};

pub(super) const PART: [(&str, &str); 2] = [
    ("limit", "How many at most: 1 to 1000, 50 unless said"),
    ("next", "Where the list goes on: what the last page has said as `next`"),
];
pub(super) const CASE_FILTER: &[(&str, &str)] = &[
    PART[0],
    PART[1],
    ("owner", "Whose cases"),
    ("state", "enabled, muted or skipped"),
    ("kind", "http, command or manual"),
    ("tag", "A mutual-exclusion tag"),
    ("label", "name=value, or a name with any value"),
    ("text", "Part of id, name or owner"),
    ("history", "true: with `stats`, what is known of each case's past by environment"),
];
pub(super) const ENVIRONMENT_FILTER: &[(&str, &str)] = &[
    PART[0],
    PART[1],
    ("health", "unknown, good, bad, looping, maintenance or retired"),
    ("text", "Part of id or name"),
    ("checks", "true: with `checked`, what came of each one's last check"),
];

pub(super) const RUN_FILTER: &[(&str, &str)] = &[
    PART[0],
    PART[1],
    ("state", "open, ended, passed, failed, canceled or incomplete"),
    ("owner", "Whose runs"),
    ("queue", "Of which queue"),
    ("text", "Part of id, name or owner"),
];

pub(super) const WINDOW: &[(&str, &str)] = &[
    ("from", "No attempt that ended before this time, in milliseconds since 1970"),
    ("to", "None that began then or later"),
    ("limit", "At most so many: the last of them, or the first where only from is given"),
];
pub(super) const TASK_FILTER: &[(&str, &str)] = &[
    PART[0],
    PART[1],
    ("status", "Codes or their words with commas between them, or failures"),
    ("case", "Of one case"),
    ("environment", "In one environment"),
    ("tag", "With a mutual-exclusion tag"),
    ("flaky", "true: those that passed after a failed attempt"),
    ("fingerprint", "Those that said what a group of failures said"),
];

pub(super) const WANT: &[(&str, &str)] = &[
    ("want", "How many at most: 1 to 1000, 1 unless said"),
    ("wait", "Seconds to wait for the first: at most 60, 20 unless said"),
];

/// The form of what is asked in the query of a call.
pub(super) fn asked(path: &str, name: &str) -> Value {
    match name {
        "limit" if path.ends_with("/timeline") => json!({"type": "integer", "minimum": 1}),
        "limit" | "want" => json!({"type": "integer", "minimum": 1, "maximum": 1_000}),
        "at" | "from" | "to" | "wait" => json!({"type": "integer", "minimum": 0}),
        "history" | "checks" | "flaky" => json!({"type": "boolean"}),
        "form" => json!({"type": "string", "enum": ["html", "junit", "json"]}),
        _ => json!({"type": "string"}),
    }
}
