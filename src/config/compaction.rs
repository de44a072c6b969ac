//! The two flags about dropping old revisions, read together.
//!
//! The error texts are etcd's, and within them those of Go's reader of durations.

use super::error::ConfigError;
use super::value;
use std::time::Duration;

/// What a leader compacts of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    /// Everything that is older than this.
    Periodic(Duration),
    /// Everything that is so many revisions behind the present one.
    Revisions(i64),
}

/// Nanoseconds of an hour, the unit of a period without one.
const HOUR: i64 = 3_600_000_000_000;

/// Reads mode and retention; none when nothing is to be dropped.
///
/// # Errors
/// Retentions that are neither a number nor a duration. Below zero etcd never stops compacting;
/// here that is an error too.
pub(super) fn read(mode: &str, retention: &str) -> Result<Option<AutoCompaction>, ConfigError> {
    let is_periodic = mode != "revision";
    let amount = match number(retention) {
        Some(number) if is_periodic => number.checked_mul(HOUR),
        Some(number) => Some(number),
        None => Some(value::nanoseconds(retention).map_err(|_| refused(&fault(retention)))?),
    };
    // What a number of nanoseconds cannot say.
    let amount = amount.and_then(|amount| u64::try_from(amount).ok());
    let Some(amount) = amount else { return Err(refused(&invalid(retention))) };
    Ok(match amount {
        0 => None,
        _ if is_periodic => Some(AutoCompaction::Periodic(Duration::from_nanos(amount))),
        _ => Some(AutoCompaction::Revisions(amount as i64)),
    })
}

fn refused(fault: &str) -> ConfigError {
    ConfigError::bootstrap(format!("error parsing CompactionRetention: {fault}"))
}

/// A number that is not below zero. Nothing at all counts as zero.
fn number(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    // The standard library reads signs and digits as Go does, and nothing else.
    text.parse().ok().filter(|number| *number >= 0)
}

fn invalid(text: &str) -> String {
    format!("time: invalid duration {text:?}")
}

/// What is wrong with a duration that could not be read.
fn fault(text: &str) -> String {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    while !rest.is_empty() {
        let tail = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let whole = &rest[..rest.len() - tail.len()];
        let after_point = tail.strip_prefix('.').unwrap_or(tail);
        let unit = after_point.trim_start_matches(|c: char| c.is_ascii_digit());
        let has_fraction = after_point.len() < tail.len() && unit.len() < after_point.len();
        let is_number = match whole {
            "" => has_fraction,
            digits => digits.parse::<u64>().is_ok_and(|number| number <= 1 << 63),
        };
        if !is_number {
            return invalid(text);
        }
        let end = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        let (unit, next) = unit.split_at(end);
        if unit.is_empty() {
            return format!("time: missing unit in duration {text:?}");
        }
        if value::nanoseconds(&format!("1{unit}")).is_err() {
            return format!("time: unknown unit {unit:?} in duration {text:?}");
        }
        rest = next;
    }
    invalid(text)
}

#[cfg(test)]
mod tests {
    use super::AutoCompaction::{Periodic, Revisions};
    use super::*;

    #[test]
    fn a_number_is_hours_or_revisions_and_else_it_is_a_duration() {
        let hours = |hours: u64| Some(Periodic(Duration::from_secs(3600 * hours)));
        let table = [
            ("periodic", "0", None),
            ("periodic", "", None),
            ("periodic", "0s", None),
            ("periodic", "-0", None),
            ("revision", "0", None),
            ("periodic", "8", hours(8)),
            ("periodic", "+5", hours(5)),
            ("periodic", "1h30m", Some(Periodic(Duration::from_secs(5400)))),
            ("periodic", "72h", hours(72)),
            ("periodic", "10ms", Some(Periodic(Duration::from_millis(10)))),
            ("revision", "1000", Some(Revisions(1000))),
            // Nanoseconds, as in etcd.
            ("revision", "1us", Some(Revisions(1000))),
        ];
        for (mode, retention, expected) in table {
            assert_eq!(read(mode, retention), Ok(expected), "{mode} {retention:?}");
        }
    }

    #[test]
    fn what_is_no_retention_is_refused_in_the_words_of_etcd() {
        let table = [
            ("x", r#"time: invalid duration "x""#),
            ("-", r#"time: invalid duration "-""#),
            ("-1", r#"time: missing unit in duration "-1""#),
            ("1.5", r#"time: missing unit in duration "1.5""#),
            ("1h5", r#"time: missing unit in duration "1h5""#),
            ("1x", r#"time: unknown unit "x" in duration "1x""#),
            ("1h2d", r#"time: unknown unit "d" in duration "1h2d""#),
            (" 1h", r#"time: invalid duration " 1h""#),
            (".h", r#"time: invalid duration ".h""#),
            ("99999999999999999999", r#"time: invalid duration "99999999999999999999""#),
            ("9999999999h", r#"time: invalid duration "9999999999h""#),
            // etcd starts with these two, and compacts without end.
            ("-1h", r#"time: invalid duration "-1h""#),
            ("9999999", r#"time: invalid duration "9999999""#),
        ];
        for (retention, fault) in table {
            let error = read("periodic", retention).unwrap_err();
            let text = format!("error parsing CompactionRetention: {fault}");
            assert_eq!((error.message, error.exit_code), (text, 1), "{retention:?}");
        }
    }
}
