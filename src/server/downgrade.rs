//! The Downgrade call: which version the cluster may be asked to go down to.
//!
//! The target is recorded, and the leader then lowers the cluster's version to it. Members stay
//! what they are: no older Quoin reads what they store.

use crate::error::RequestError;
use crate::pb::etcdserverpb::downgrade_request::DowngradeAction;
use crate::pb::etcdserverpb::{DowngradeInfo, DowngradeRequest};
use crate::pb::quoinpb::{Downgrade, command::Request as Command};
use crate::replica::Handle;

/// What Status says of it.
pub(super) fn info(handle: &Handle) -> DowngradeInfo {
    match handle.downgrade_target() {
        Some(target_version) => DowngradeInfo { enabled: true, target_version },
        None => DowngradeInfo::default(),
    }
}

/// Carries the call out, and returns the cluster's version of before, as `major.minor`.
///
/// # Errors
/// Targets that are no version, or not the one just below the cluster's; a downgrade under way;
/// availability errors.
pub(super) async fn carry_out(
    handle: &Handle,
    request: &DowngradeRequest,
) -> Result<String, RequestError> {
    match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => Ok(validate(handle, &request.version).await?.0),
        Ok(DowngradeAction::Enable) => {
            let (current, target) = validate(handle, &request.version).await?;
            propose(handle, target).await?;
            Ok(current)
        }
        Ok(DowngradeAction::Cancel) => {
            handle.read_barrier().await?;
            if handle.downgrade_target().is_some() {
                propose(handle, String::new()).await?;
            } else {
                let error = "etcdserver: no inflight downgrade job";
                tracing::warn!(error, "failed to cancel downgrade");
            }
            Ok(short(cluster_version(handle)?))
        }
        Err(_) => Err(RequestError::UnknownMethod),
    }
}

async fn propose(handle: &Handle, target: String) -> Result<(), RequestError> {
    handle.propose(Command::Downgrade(Downgrade { target }), usize::MAX).await.map(drop)
}

/// The cluster's version, short, and the target in full.
async fn validate(handle: &Handle, asked: &str) -> Result<(String, String), RequestError> {
    let asked = parse(asked).ok_or(RequestError::DowngradeVersionFormat)?;
    handle.read_barrier().await?;
    let current = cluster_version(handle)?;
    if !is_just_below(asked, current) {
        return Err(RequestError::DowngradeTarget);
    }
    if handle.downgrade_target().is_some() {
        return Err(RequestError::DowngradeInProgress);
    }
    let (major, minor) = asked;
    Ok((short(current), format!("{major}.{minor}.0")))
}

fn is_just_below(target: (u64, u64), current: (u64, u64)) -> bool {
    target.0 == current.0 && target.1.checked_add(1) == Some(current.1)
}

fn cluster_version(handle: &Handle) -> Result<(u64, u64), RequestError> {
    let version = handle.cluster_version().and_then(|version| parse(&version));
    version.ok_or(RequestError::ClusterVersionUnavailable)
}

fn short((major, minor): (u64, u64)) -> String {
    format!("{major}.{minor}")
}

/// Major and minor of a semantic version, whose patch may be left out.
fn parse(text: &str) -> Option<(u64, u64)> {
    parse_full(text).or_else(|| parse_full(&format!("{text}.0")))
}

/// As the library does that etcd reads versions with: signs and leading zeros in words of its own.
fn parse_full(text: &str) -> Option<(u64, u64)> {
    let (text, metadata) = text.split_once('+').unwrap_or((text, ""));
    let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if ![metadata, pre_release].iter().all(|part| part.chars().all(is_allowed)) {
        return None;
    }
    let mut numbers = text.splitn(3, '.').map(number);
    let (major, minor, _patch) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some((major, minor))
}

fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_number && *number <= i64::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_etcd_reads_them() {
        let good = ["3.6", "3.6.0", "3.6.9", "3.6.0-rc.1", "03.6", "3.06", "3.6.0+x", "3.6.1-a+b"];
        for text in good {
            assert_eq!(parse(text), Some((3, 6)), "{text:?}");
        }
        let bad = [
            "",
            "x",
            "3",
            "3.6.x",
            "v3.6",
            " 3.6",
            "3.6.0.0",
            "3.-6",
            "3.6.",
            ".6",
            "-3.6",
            "+3.6",
            "3.6-alpha",
            "3.6+x",
            "3.6.0-a b",
            "3.6.0+\u{e9}",
            "99999999999999999999.1",
            "9223372036854775808.1",
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("9223372036854775807.1"), Some((i64::MAX as u64, 1)));
    }

    #[test]
    fn only_the_version_just_below_is_a_target() {
        let table = [
            ((3, 6), true),
            ((3, 7), false),
            ((3, 5), false),
            ((3, 8), false),
            ((2, 6), false),
            ((4, 6), false),
            ((3, u64::MAX), false),
        ];
        for (target, expected) in table {
            assert_eq!(is_just_below(target, (3, 7)), expected, "{target:?}");
        }
        assert!(!is_just_below((3, u64::MAX), (4, 0)));
    }
}
