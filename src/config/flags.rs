//! How a command line and the environment become [`Flags`].
//!
//! The rules are those of Go's flag package and of etcd's use of it. They are spelled out here
//! because no crate has them: long names after a single dash, switches that take `=false` but
//! no separate word, "the last one wins", a variable that must not be set beside its flag, and
//! the exit codes.

use crate::config::error::{ConfigError, Notice};
use crate::config::table::{FLAGS, Flag, Kind, Role, all_gates, files, find, is_open};
use crate::config::url::MemberUrl;
use crate::config::value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

/// What the user set, still as text that fits its flag.
#[derive(Debug, Default)]
pub(super) struct Flags {
    given: BTreeMap<&'static str, String>,
    is_of_a_file: bool,
}

/// What a command line asks for.
pub(super) enum CommandLine {
    Help,
    Version,
    Start(Flags),
}

impl Flags {
    /// None yet, and to be set by a configuration file.
    pub(super) fn of_a_file() -> Self {
        Self { is_of_a_file: true, ..Self::default() }
    }

    /// Whether a configuration file set them: what only makes sense for command lines is not
    /// asked for then.
    pub(super) fn is_of_a_file(&self) -> bool {
        self.is_of_a_file
    }

    /// Reads arguments (without the program's name).
    pub(super) fn from_args(
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<CommandLine, ConfigError> {
        let mut flags = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = unicode(arg)?;
            if arg == "--" {
                args.next().map_or(Ok(()), |first| Err(positional(&unicode(first)?)))?;
                break;
            }
            if arg.len() < 2 || !arg.starts_with('-') {
                return Err(positional(&arg));
            }
            let name = arg.strip_prefix("--").unwrap_or(&arg[1..]);
            if name.is_empty() || name.starts_with(['-', '=']) {
                return Err(ConfigError::usage(format!("bad flag syntax: {arg}")));
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (name, None),
            };
            let Some(flag) = find(name) else {
                if name == "help" || name == "h" {
                    return Ok(CommandLine::Help);
                }
                return Err(ConfigError::usage(format!("flag provided but not defined: -{name}")));
            };
            let value = match value {
                Some(value) => value,
                None if flag.is_switch() => "true".to_string(),
                None => match args.next() {
                    Some(value) => unicode(value)?,
                    None => {
                        return Err(ConfigError::usage(format!("flag needs an argument: -{name}")));
                    }
                },
            };
            flags.set_from_argument(flag, value)?;
        }
        if flags.switch("version") {
            Ok(CommandLine::Version)
        } else {
            Ok(CommandLine::Start(flags))
        }
    }

    /// The configuration file that the command line or else a variable names.
    pub(super) fn config_file(&self, environment: &[(OsString, OsString)]) -> Option<String> {
        let flag = find("config-file")?;
        let variable = OsString::from(flag.variable());
        let of_variable = environment.iter().find(|(name, _)| *name == variable);
        let given = self.given.get(flag.name).filter(|path| !path.is_empty()).cloned();
        given
            .or_else(|| of_variable.map(|(_, path)| path.to_string_lossy().into_owned()))
            .filter(|path| !path.is_empty())
    }

    /// Takes over what etcd has no word for, from a command line and variables, where these flags
    /// do not say it. A file that was written for etcd cannot.
    ///
    /// # Errors
    /// Those of [`Flags::add_environment`].
    pub(super) fn add_own(
        &mut self,
        mut others: Self,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Vec<Notice>, ConfigError> {
        others.given.retain(|name, _| files::OURS.contains(name));
        let ours: Vec<OsString> =
            files::OURS.iter().filter_map(|name| Some(find(name)?.variable().into())).collect();
        let environment = environment.into_iter().filter(|(name, _)| ours.contains(name));
        let notices = others.add_environment(environment)?;
        for (name, value) in others.given {
            self.given.entry(name).or_insert(value);
        }
        Ok(notices)
    }

    /// Adds what variables set. `environment` may hold others; those are left alone.
    pub(super) fn add_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<Notice>, ConfigError> {
        let variables: BTreeMap<String, String> = environment
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("ETCD_") || name.starts_with("QUOIN_"))
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        let mut unknown = variables.clone();
        for flag in FLAGS {
            let name = flag.variable();
            if variables.contains_key(&name) && self.is_given(flag.name) {
                return Err(ConfigError::shadowed(name));
            }
        }
        let mut notices = Vec::new();
        for flag in FLAGS {
            let name = flag.variable();
            let Some(value) = variables.get(&name) else { continue };
            unknown.remove(&name);
            if flag.role == Role::Version {
                let fields = vec![("key", name), ("value", value.clone())];
                notices.push(Notice::warn("cannot set special environment variable", fields));
            } else if !value.is_empty() {
                flag.check(value).map_err(|error| {
                    ConfigError::flags(format!("invalid value {value:?} for {name}: {error}"))
                })?;
                let shown = if matches!(flag.kind, Kind::Secret) { "***" } else { value };
                let fields = vec![("variable-name", name), ("variable-value", shown.to_string())];
                notices.push(Notice::info("recognized and used environment variable", fields));
                self.set(flag, value.clone());
            }
        }
        for name in unknown.into_keys().filter(|name| name.starts_with("ETCD_")) {
            let fields = vec![("environment-variable", name)];
            notices.push(Notice::warn("unrecognized environment variable", fields));
        }
        Ok(notices)
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The rows of `role` that the user set to something else than the default.
    pub(super) fn changed(&self, role: Role) -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(move |flag| {
            let given = self.given.get(flag.name);
            flag.role == role && given.is_some_and(|given| flag.differs_from_default(given))
        })
    }

    /// The warnings of etcd about flags that the user should stop using.
    pub(super) fn outdated(&self) -> Vec<Notice> {
        let given = FLAGS.iter().filter(|flag| self.is_given(flag.name));
        given
            .filter_map(|flag| match flag.role {
                Role::Deprecated(warning) => Some(Notice::warn(warning, vec![])),
                Role::Dropped => {
                    let fields = vec![("flag-name", flag.name.to_string())];
                    Some(Notice::warn("flag is no longer supported - ignoring", fields))
                }
                _ => None,
            })
            .collect()
    }

    pub(super) fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(text) => text,
            None => files::named(name).map_or("", |flag| flag.default),
        }
    }

    pub(super) fn switch(&self, name: &str) -> bool {
        value::switch(self.text(name)).expect(CHECKED)
    }

    pub(super) fn unsigned(&self, name: &str) -> u64 {
        value::unsigned(self.text(name)).expect(CHECKED)
    }

    pub(super) fn signed(&self, name: &str) -> i64 {
        value::signed(self.text(name)).expect(CHECKED)
    }

    /// Nanoseconds, of either sign.
    pub(super) fn nanoseconds(&self, name: &str) -> i64 {
        value::nanoseconds(self.text(name)).expect(CHECKED)
    }

    pub(super) fn urls(&self, name: &str) -> Vec<MemberUrl> {
        match self.text(name) {
            "" => Vec::new(),
            text => MemberUrl::parse_list(text).expect(CHECKED),
        }
    }

    /// What is not negative.
    pub(super) fn duration(&self, name: &str) -> Duration {
        Duration::from_nanos(self.nanoseconds(name).max(0).cast_unsigned())
    }

    /// Every feature gate: its name, its stage, and whether it is on.
    pub(super) fn gates(&self) -> Vec<(&'static str, &'static str, bool)> {
        all_gates(self.text("feature-gates")).expect(CHECKED)
    }

    pub(super) fn gate(&self, name: &str) -> bool {
        is_open(name, self.text("feature-gates")).expect(CHECKED)
    }

    fn set_from_argument(&mut self, flag: &'static Flag, value: String) -> Result<(), ConfigError> {
        flag.check(&value).map_err(|error| {
            let name = flag.name;
            let what = if matches!(flag.kind, Kind::Switch) { "boolean value" } else { "value" };
            let preposition = if matches!(flag.kind, Kind::Switch) { "for" } else { "for flag" };
            ConfigError::usage(format!("invalid {what} {value:?} {preposition} -{name}: {error}"))
        })?;
        self.set(flag, value);
        Ok(())
    }

    /// An empty list of URLs counts as given, but changes nothing.
    pub(super) fn set(&mut self, flag: &'static Flag, value: String) {
        if matches!(flag.kind, Kind::Urls) && value.is_empty() {
            self.given.entry(flag.name).or_insert_with(|| flag.default.to_string());
        } else {
            self.given.insert(flag.name, value);
        }
    }
}

const CHECKED: &str = "given values are checked when they are set, defaults by a test";

fn unicode(arg: OsString) -> Result<String, ConfigError> {
    arg.into_string().map_err(|arg| ConfigError::usage(format!("argument is not UTF-8: {arg:?}")))
}

fn positional(arg: &str) -> ConfigError {
    ConfigError::flags(format!("{arg:?} is not a valid flag"))
}
