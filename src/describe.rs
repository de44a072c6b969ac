//! Requests, times and sizes as log lines show them: in the form that etcd's have, and without values or
//! passwords, of which no more than the size is told.

use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request as Op;
use crate::pb::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::pb::quoinpb::command::Request;
use std::fmt::Write as _;
use std::time::Duration;

/// Operations of a transaction that are described; the others are counted.
const OPERATIONS_MAX: usize = 16;

/// Why the operating system refused something, in Go's form: `address already in use`.
pub fn os_words(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    // Without the number that is added here.
    let Some((words, _)) = text.split_once(" (os error ") else { return text };
    let mut letters = words.chars();
    letters
        .next()
        .map_or(String::new(), |first| first.to_ascii_lowercase().to_string() + letters.as_str())
}

/// A time in Go's form: `1.5ms`.
pub fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let scaled = |unit: f64, name: &str| format!("{}{name}", nanos as f64 / unit);
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => scaled(1e3, "µs"),
        1_000_000..1_000_000_000 => scaled(1e6, "ms"),
        _ => {
            let minutes = time.as_secs() / 60;
            let seconds = time.as_secs() % 60;
            let rest = seconds as f64 + f64::from(time.subsec_nanos()) / 1e9;
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{rest}s"),
                (0, minutes) => format!("{minutes}m{rest}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
            }
        }
    }
}

/// A number of bytes in a unit of thousands, with one digit behind the point below ten.
pub fn size(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 10 {
        return format!("{count} B");
    }
    let step = (count.ilog10() / 3) as usize;
    let value = (count as f64 / 1000f64.powi(step as i32) * 10.0 + 0.5).floor() / 10.0;
    match value < 10.0 {
        true => format!("{value:.1} {}", UNITS[step]),
        false => format!("{value:.0} {}", UNITS[step]),
    }
}

/// Gathers `name:value` pairs; what is empty or zero is left out.
#[derive(Default)]
struct Text(String);

impl Text {
    fn put(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _written = write!(self.0, "{name}:{value} ");
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.put(name, format_args!("\"{}\"", bytes.escape_ascii()));
        }
    }

    fn number(&mut self, name: &str, number: i64) {
        if number != 0 {
            self.put(name, format_args!("{number}"));
        }
    }

    fn flag(&mut self, name: &str, is_set: bool) {
        if is_set {
            self.put(name, format_args!("true"));
        }
    }

    fn inner(&mut self, name: &str, inner: &str) {
        self.put(name, format_args!("<{inner}>"));
    }

    fn end(mut self) -> String {
        self.0.truncate(self.0.trim_end().len());
        self.0
    }
}

pub fn range(request: &RangeRequest) -> String {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.bytes("range_end", &request.range_end);
    text.number("limit", request.limit);
    text.number("revision", request.revision);
    text.flag("serializable", request.serializable);
    text.flag("keys_only", request.keys_only);
    text.flag("count_only", request.count_only);
    text.end()
}

pub fn put(request: &PutRequest) -> String {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.put("value_size", format_args!("{}", request.value.len()));
    text.number("lease", request.lease);
    text.flag("prev_kv", request.prev_kv);
    text.flag("ignore_value", request.ignore_value);
    text.flag("ignore_lease", request.ignore_lease);
    text.end()
}

pub fn delete_range(request: &DeleteRangeRequest) -> String {
    let mut text = Text::default();
    text.bytes("key", &request.key);
    text.bytes("range_end", &request.range_end);
    text.flag("prev_kv", request.prev_kv);
    text.end()
}

pub fn txn(request: &TxnRequest) -> String {
    let mut text = Text::default();
    for condition in request.compare.iter().take(OPERATIONS_MAX) {
        text.inner("compare", &compare(condition));
    }
    operations(&mut text, "success", &request.success);
    operations(&mut text, "failure", &request.failure);
    text.end()
}

fn operations(text: &mut Text, name: &str, operations: &[RequestOp]) {
    for operation in operations.iter().take(OPERATIONS_MAX) {
        let (kind, inner) = match &operation.request {
            Some(Op::RequestRange(request)) => ("request_range", range(request)),
            Some(Op::RequestPut(request)) => ("request_put", put(request)),
            Some(Op::RequestDeleteRange(request)) => {
                ("request_delete_range", delete_range(request))
            }
            // What is deeper may be as deep as a client likes.
            Some(Op::RequestTxn(_)) => ("request_txn", String::new()),
            None => continue,
        };
        text.inner(name, &format!("{kind}:<{inner}>"));
    }
    if operations.len() > OPERATIONS_MAX {
        text.put(name, format_args!("<and {} more>", operations.len() - OPERATIONS_MAX));
    }
}

fn compare(compare: &Compare) -> String {
    let mut text = Text::default();
    if compare.result() != CompareResult::Equal {
        text.put("result", format_args!("{}", compare.result().as_str_name()));
    }
    if compare.target() != CompareTarget::Version {
        text.put("target", format_args!("{}", compare.target().as_str_name()));
    }
    text.bytes("key", &compare.key);
    text.bytes("range_end", &compare.range_end);
    match &compare.target_union {
        Some(TargetUnion::Version(number)) => text.number("version", *number),
        Some(TargetUnion::CreateRevision(number)) => text.number("create_revision", *number),
        Some(TargetUnion::ModRevision(number)) => text.number("mod_revision", *number),
        Some(TargetUnion::Lease(number)) => text.number("lease", *number),
        Some(TargetUnion::Value(value)) => {
            text.put("value_size", format_args!("{}", value.len()));
        }
        None => {}
    }
    text.end()
}

/// A replicated request: of users and passwords not even the names are told.
pub fn command(request: &Request) -> String {
    let mut text = Text::default();
    match request {
        Request::Put(request) => text.inner("put", &put(request)),
        Request::DeleteRange(request) => text.inner("delete_range", &delete_range(request)),
        Request::Txn(request) => text.inner("txn", &txn(request)),
        Request::Compaction(request) => {
            text.inner("compaction", &format!("revision:{}", request.revision));
        }
        Request::LeaseGrant(request) => {
            text.inner("lease_grant", &format!("ttl:{} ID:{:x}", request.ttl, request.id));
        }
        Request::LeaseRevoke(request) => {
            text.inner("lease_revoke", &format!("leases:{}", request.ids.len()));
        }
        _ => {}
    }
    text.end()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::etcdserverpb::AuthUserAddRequest;

    #[test]
    fn times_have_the_form_that_go_gives_them() {
        for (nanos, text) in [
            (0, "0s"),
            (17, "17ns"),
            (236_532, "236.532µs"),
            (13_014_871, "13.014871ms"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (61_250_000_000, "1m1.25s"),
            (7_200_000_000_000, "2h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    fn secret() -> PutRequest {
        PutRequest { key: "k\n".into(), value: "secret".into(), lease: 7, ..PutRequest::default() }
    }

    #[test]
    fn no_value_is_told() {
        assert_eq!(put(&secret()), r#"key:"k\n" value_size:6 lease:7"#);
        let compare = Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Value as i32,
            key: "a".into(),
            target_union: Some(TargetUnion::Value("secret".into())),
            ..Compare::default()
        };
        let operation = RequestOp { request: Some(Op::RequestPut(secret())) };
        let request =
            TxnRequest { compare: vec![compare], success: vec![operation; 18], failure: vec![] };
        let text = command(&Request::Txn(request));
        assert!(!text.contains("secret"), "{text}");
        let begin = concat!(
            r#"txn:<compare:<result:GREATER target:VALUE key:"a" value_size:6> "#,
            r#"success:<request_put:<key:"k\n" value_size:6 lease:7>> success:<"#
        );
        assert!(text.starts_with(begin), "{text}");
        assert!(text.ends_with("success:<and 2 more>>"), "{text}");
    }

    #[test]
    fn nothing_of_a_password_is_told() {
        let user = AuthUserAddRequest { password: "secret".into(), ..Default::default() };
        assert_eq!(command(&Request::UserAdd(user)), "");
    }

    #[test]
    fn sizes() {
        let sizes = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (20_480, "20 kB"),
            (2_147_483_648, "2.1 GB"),
            (999_999, "1000 kB"),
        ];
        for (count, text) in sizes {
            assert_eq!(size(count), text);
        }
    }
}
