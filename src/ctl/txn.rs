//! `quoin kv txn`: a transaction from standard input, in etcdctl's form.
//!
//! Three paragraphs, each ended by an empty line: what is compared, what is done if all of it
//! holds, and what is done otherwise. Comparisons of leases work here; etcdctl 3.7.1 stops with a
//! stack trace at them.

use std::io::BufRead;

use bytes::Bytes;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};

use super::calls::TXN;
use super::client::Client;
use super::failure::{Failure, INVALID_INPUT};
use super::kv::{DelArgs, GetArgs, PutArgs, os_words};
use super::look::say;
use super::options::Options;
use super::{go, line};
use crate::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::pb::etcdserverpb::request_op::Request;
use crate::pb::etcdserverpb::{Compare, RequestOp, TxnRequest};

#[derive(Debug, Args)]
#[command(after_help = "\
Standard input has three parts, each ended by an empty line: comparisons, what is done if all of
them hold, and what is done otherwise. For example:

  mod(\"greeting\") > \"0\"

  put greeting \"hello again\"

  put greeting hello
  get greeting

A comparison is one of version, create, mod, value or lease, a key in brackets, one of = != < >,
and a value in quotes. What is done is put, get or del, with their flags.")]
pub struct TxnArgs {
    /// Say what is read next
    #[arg(short, long)]
    interactive: bool,
    #[arg(hide = true)]
    args: Vec<String>,
}

/// One thing that a transaction does.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_subcommand = true)]
enum Operation {
    Get(GetArgs),
    Put(PutArgs),
    Del(DelArgs),
}

pub(super) async fn run(options: &Options, args: &TxnArgs) -> Result<(), Failure> {
    if !args.args.is_empty() {
        return Err(Failure::args("txn command does not accept argument"));
    }
    let look = options.look()?;
    let prompt = |text| if args.interactive { say(text) } else { Ok(()) };
    let mut stdin = std::io::stdin().lock();
    prompt("compares:")?;
    let mut compare = Vec::new();
    while let Some(line) = line_of_part(&mut stdin)? {
        compare.push(comparison(&line)?);
    }
    prompt("success requests (get, put, del):")?;
    let success = operations(&mut stdin).await?;
    prompt("failure requests (get, put, del):")?;
    let failure = operations(&mut stdin).await?;
    drop(stdin);
    let request = TxnRequest { compare, success, failure };
    look.print(&Client::short(options).await?.call(&TXN, request).await?)
}

/// The next line of a part; nothing at the empty line that ends it.
fn line_of_part(input: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let mut line = String::new();
    let read = input.read_line(&mut line);
    read.map_err(|error| Failure::new(INVALID_INPUT, error.to_string()))?;
    match line.trim() {
        _ if !line.ends_with('\n') => Err(Failure::new(INVALID_INPUT, "EOF")),
        "" => Ok(None),
        line => Ok(Some(line.to_owned())),
    }
}

/// Reads `target("key") operator "value"`.
fn comparison(line: &str) -> Result<Compare, Failure> {
    let malformed =
        |why: &str| Failure::new(INVALID_INPUT, format!("malformed comparison: {line}{why}"));
    let (target, rest) = line.split_once('(').ok_or_else(|| malformed(""))?;
    let parts = Parts::read(rest);
    let (Some(key), Some(operator), Some(value)) = (&parts.key, parts.operator, &parts.value)
    else {
        let key = go::quote(parts.key.as_deref().unwrap_or_default());
        let operator = parts.operator.unwrap_or_default();
        return Err(malformed(&format!("; got {target}({key}) {operator} \"\"")));
    };
    let number = |radix| {
        let text = std::str::from_utf8(value).unwrap_or_default();
        go::parse_int(text, radix).map_err(|_| {
            Failure::new(INVALID_INPUT, format!("invalid txn compare request: {line}"))
        })
    };
    let (target, wanted) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => {
            (CompareTarget::Value, TargetUnion::Value(Bytes::copy_from_slice(value)))
        }
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        other => return Err(malformed(&format!(" (unknown target {other})"))),
    };
    let result = match operator {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        other => return Err(malformed(&format!(" (unknown operator {other})"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: Bytes::copy_from_slice(key),
        range_end: Bytes::new(),
        target_union: Some(wanted),
    })
}

/// What stands behind the opening bracket, as far as it could be read.
struct Parts<'l> {
    key: Option<Vec<u8>>,
    operator: Option<&'l str>,
    value: Option<Vec<u8>>,
}

impl<'l> Parts<'l> {
    fn read(text: &'l str) -> Self {
        let mut parts = Parts { key: None, operator: None, value: None };
        let Some((key, rest)) = go::unquote(text.trim_start()) else { return parts };
        parts.key = Some(key);
        let Some(rest) = rest.strip_prefix(')').filter(|rest| rest.starts_with([' ', '\t'])) else {
            return parts;
        };
        let rest = rest.trim_start();
        let (operator, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        parts.operator = Some(operator).filter(|operator| !operator.is_empty());
        parts.value = go::unquote(rest.trim_start()).map(|(value, _)| value);
        parts
    }
}

async fn operations(input: &mut impl BufRead) -> Result<Vec<RequestOp>, Failure> {
    let mut operations = Vec::new();
    while let Some(line) = line_of_part(input)? {
        operations.push(operation(&line).await?);
    }
    Ok(operations)
}

async fn operation(line: &str) -> Result<RequestOp, Failure> {
    let invalid = |what| Failure::new(INVALID_INPUT, format!("invalid txn {what}: {line}"));
    let words = go::words(line).ok_or_else(|| Failure::new(INVALID_INPUT, "invalid syntax"))?;
    if words.len() < 2 {
        return Err(invalid("compare request"));
    }
    let command = line::with_rules(Operation::command());
    let args = line::plain_switches(&command, os_words(words)).map_err(|_| invalid("request"))?;
    let matches = command.try_get_matches_from(args);
    let operation = matches.and_then(|matches| Operation::from_arg_matches(&matches));
    let request = match operation.map_err(|_| invalid("request"))? {
        Operation::Get(args) => Request::RequestRange(args.request()?),
        Operation::Put(args) => Request::RequestPut(args.request(|| None)?),
        Operation::Del(args) => Request::RequestDeleteRange(args.request().await?),
    };
    Ok(RequestOp { request: Some(request) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons() {
        let read = |line| comparison(line).map_err(|failure| failure.to_string());
        let of = |target: CompareTarget, result: CompareResult, wanted| {
            Ok(Compare {
                result: result.into(),
                target: target.into(),
                key: "k(".into(),
                range_end: Bytes::new(),
                target_union: Some(wanted),
            })
        };
        let mod_revision =
            of(CompareTarget::Mod, CompareResult::Greater, TargetUnion::ModRevision(7));
        assert_eq!(read(r#"mod( "k(")  >  "7" behind"#), mod_revision);
        let lease = of(CompareTarget::Lease, CompareResult::NotEqual, TargetUnion::Lease(0x10));
        assert_eq!(read(r#"lease("k(") != "10""#), lease);
        let value = of(CompareTarget::Value, CompareResult::Equal, TargetUnion::Value("\n".into()));
        assert_eq!(read(r#"val("k(") = "\n""#), value);
        let refused = [
            (r#"mod"#, ""),
            (r#"mod(k) = "0""#, r#"; got mod("")  """#),
            (r#"mod("k")>"0""#, r#"; got mod("k")  """#),
            (r#"mod("k" ) > "0""#, r#"; got mod("k")  """#),
            (r#"mod("k") >"0""#, r#"; got mod("k") >"0" """#),
            (r#"mod("k") > 0"#, r#"; got mod("k") > """#),
            (r#"size("k") > "0""#, " (unknown target size)"),
            (r#"mod("k") ~ "0""#, " (unknown operator ~)"),
        ];
        for (line, why) in refused {
            assert_eq!(read(line), Err(format!("malformed comparison: {line}{why}")));
        }
        let line = r#"ver("k") = "x""#;
        assert_eq!(read(line), Err(format!("invalid txn compare request: {line}")));
    }

    #[tokio::test]
    async fn operations_of_a_transaction() {
        let read = async |line| operation(line).await.map_err(|failure| failure.to_string());
        let put = read("put 'a b' \"x\\ty\" --prev-kv=true").await.unwrap().request;
        let Some(Request::RequestPut(put)) = put else { panic!("{put:?}") };
        assert_eq!((&put.key[..], &put.value[..], put.prev_kv), (&b"a b"[..], &b"x\ty"[..], true));
        for line in ["bar t1", "get t1 --zzz", "get t1 --rev=x"] {
            assert_eq!(read(line).await, Err(format!("invalid txn request: {line}")));
        }
        assert_eq!(read("get").await, Err("invalid txn compare request: get".to_owned()));
        let few = "put command needs 1 argument and input from stdin or 2 arguments";
        assert_eq!(read("put a").await, Err(few.to_owned()));
    }
}
