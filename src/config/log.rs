//! Flags about the log: level, format, where lines go, and when a file has grown too large.

use crate::config::error::ConfigError;
use crate::config::flags::Flags;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// From the least to the most severe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
    Dpanic,
    Panic,
    Fatal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Console,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    Stderr,
    Stdout,
    /// That of systemd.
    Journal,
    File(PathBuf),
}

/// When the log begins a new file, and which old ones it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// Bytes of a file.
    pub size_max: u64,
    /// Age above which old files are removed, in whole days; `None` for never.
    pub age_max: Option<Duration>,
    /// Old files kept; `None` for all.
    pub backups_max: Option<usize>,
    /// Old files are named by local time instead of UTC.
    pub local_time: bool,
    /// Old files are compressed with gzip.
    pub compress: bool,
}

/// What a file may grow to if nothing is said: 100 MiB.
const SIZE_MIB: u64 = 100;
const MIB: u64 = 1 << 20;
const DAY: u64 = 24 * 60 * 60;

pub(super) fn outputs(flags: &Flags) -> Result<Vec<LogOutput>, ConfigError> {
    match flags.text("logger") {
        "zap" => {}
        "capnslog" => return Err(ConfigError::flags("--logger=capnslog is removed in v3.5")),
        logger => return Err(ConfigError::flags(format!("unknown logger option {logger:?}"))),
    }
    let mut names: Vec<&str> = flags.text("log-outputs").split(',').collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 && names.contains(&"default") {
        let message = "multi logoutput for \"default\" is not supported yet";
        return Err(ConfigError::flags(message));
    }
    if names.len() > 1 && names.contains(&"systemd/journal") {
        let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        return Err(ConfigError::flags(format!(
            "running with systemd/journal but other '--log-outputs' values ([{}]) are configured \
             with 'default'; override 'default' value with something else",
            quoted.join(" ")
        )));
    }
    let output = |name: &str| match name {
        "" => Err(ConfigError::flags("open sink \"\": open : no such file or directory")),
        "default" | "stderr" => Ok(LogOutput::Stderr),
        "systemd/journal" => Ok(LogOutput::Journal),
        "stdout" => Ok(LogOutput::Stdout),
        path => Ok(LogOutput::File(PathBuf::from(path))),
    };
    names.into_iter().map(output).collect()
}

/// None unless it is switched on.
pub(super) fn rotation(
    flags: &Flags,
    outputs: &[LogOutput],
) -> Result<Option<LogRotation>, ConfigError> {
    if !flags.switch("enable-log-rotation") {
        return Ok(None);
    }
    if outputs.iter().filter(|output| matches!(output, LogOutput::File(_))).count() != 1 {
        return Err(ConfigError::flags(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ));
    }
    read_rotation(flags.text("log-rotation-config-json")).map(Some).map_err(ConfigError::flags)
}

fn read_rotation(json: &str) -> Result<LogRotation, String> {
    let value: Value = serde_json::from_str(json).map_err(|error| {
        let what = match error.is_eof() {
            true => "unexpected end of JSON input".to_owned(),
            false => error.to_string(),
        };
        format!("improperly formatted log rotation config: {what}")
    })?;
    let wrong = |what: &str| format!("invalid log rotation config: {what}");
    let fields = value.as_object().ok_or_else(|| wrong("it must be an object"))?;
    let number = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => {
            value.as_u64().ok_or_else(|| wrong(&format!("{name} must be a whole number from 0 on")))
        }
    };
    let switch = |name: &str| match fields.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => {
            value.as_bool().ok_or_else(|| wrong(&format!("{name} must be true or false")))
        }
    };
    let size = match number("maxsize")? {
        0 => SIZE_MIB,
        size => size,
    };
    let above_zero = |number: u64| Some(number).filter(|number| *number > 0);
    Ok(LogRotation {
        size_max: size.saturating_mul(MIB),
        age_max: above_zero(number("maxage")?)
            .map(|days| Duration::from_secs(days.saturating_mul(DAY))),
        backups_max: above_zero(number("maxbackups")?)
            .map(|count| usize::try_from(count).unwrap_or(usize::MAX)),
        local_time: switch("localtime")?,
        compress: switch("compress")?,
    })
}

pub(super) fn format(flags: &Flags) -> Result<LogFormat, ConfigError> {
    match flags.text("log-format") {
        "json" | "" => Ok(LogFormat::Json),
        "console" => Ok(LogFormat::Console),
        other => {
            let message = format!("unknown log format: {other}, supported values json, console");
            Err(ConfigError::flags(message))
        }
    }
}

/// etcd panics at a wrong level, hence the other exit code.
pub(super) fn level(flags: &Flags) -> Result<LogLevel, ConfigError> {
    let text = flags.text("log-level");
    match text.to_ascii_lowercase().as_str() {
        "debug" => Ok(LogLevel::Debug),
        "info" | "" => Ok(LogLevel::Info),
        "warn" | "warning" => Ok(LogLevel::Warn),
        "error" => Ok(LogLevel::Error),
        "dpanic" => Ok(LogLevel::Dpanic),
        "panic" => Ok(LogLevel::Panic),
        "fatal" => Ok(LogLevel::Fatal),
        _ => Err(ConfigError::usage(format!("unrecognized level: {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_is_read_as_its_json_says() {
        let bounded = LogRotation {
            size_max: 5 * MIB,
            age_max: Some(Duration::from_secs(2 * DAY)),
            backups_max: Some(3),
            local_time: true,
            compress: true,
        };
        let json = r#"{"maxsize":5,"maxage":2,"maxbackups":3,"localtime":true,"compress":true}"#;
        assert_eq!(read_rotation(json), Ok(bounded));
        let plain = LogRotation {
            size_max: 100 * MIB,
            age_max: None,
            backups_max: None,
            local_time: false,
            compress: false,
        };
        assert_eq!(read_rotation("{}"), Ok(plain));
        assert_eq!(read_rotation(r#"{"maxsize":0,"maxage":null,"other":"x"}"#), Ok(plain));
        for (json, fault) in [
            ("{", "improperly formatted log rotation config: unexpected end of JSON input"),
            ("x", "improperly formatted log rotation config: "),
            ("[]", "invalid log rotation config: it must be an object"),
            (
                r#"{"maxsize":"a"}"#,
                "invalid log rotation config: maxsize must be a whole number from 0 on",
            ),
            (r#"{"maxage":-1}"#, "invalid log rotation config: maxage"),
            (r#"{"compress":1}"#, "invalid log rotation config: compress must be true or false"),
        ] {
            let error = read_rotation(json).unwrap_err();
            assert!(error.starts_with(fault), "{json}: {error}");
        }
    }
}
