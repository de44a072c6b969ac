//! The command line's own rules where etcdctl's differ from those of the library that reads it.
//!
//! Switches take `=true` and `=false`; the value of a flag may begin with a dash; the last of two
//! equal flags counts; what is wrong is said in etcdctl's words, with its exit code.

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Command};

use super::failure::{ERROR, Failure};
use super::go;

/// Commands of etcdctl that do nothing by themselves: it answers them, and any word behind them that
/// is none of their commands, with their help page.
const GROUPS: [&str; 9] =
    ["alarm", "auth", "downgrade", "endpoint", "lease", "member", "role", "snapshot", "user"];

/// Commands of the scheduler that have others below them.
const OWN_GROUPS: [&str; 8] = ["case", "env", "flaky", "queue", "report", "result", "run", "tag"];

/// Adds the rules to the description of a command and of all below it.
pub fn with_rules(command: Command) -> Command {
    let command = command.args_override_self(true).mut_args(|arg| {
        let arg = if is_variable_wrong(&arg) { arg.env(Resettable::Reset) } else { arg };
        let takes_value = arg.get_long().is_some() && matches!(arg.get_action(), ArgAction::Set);
        let may_begin_with_dash = takes_value && !arg.is_require_equals_set();
        if may_begin_with_dash { arg.allow_hyphen_values(true) } else { arg }
    });
    command.mut_subcommands(with_rules)
}

/// Whether a flag's variable is set to what the flag does not take.
fn is_variable_wrong(arg: &clap::Arg) -> bool {
    let Some(value) = arg.get_env().and_then(std::env::var_os) else { return false };
    let alone = Command::new("alone").arg(arg.clone().required(false));
    !value.is_empty() && alone.try_get_matches_from(["alone"]).is_err()
}

/// The help page that is the answer to a command line which names no command, if it is.
pub fn help_instead(
    command: &mut Command,
    args: &[OsString],
    error: &clap::Error,
) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::InvalidSubcommand) {
        return None;
    }
    let group = args.iter().filter_map(|arg| arg.to_str()).find(|arg| GROUPS.contains(arg))?;
    Some(command.find_subcommand_mut(group)?.render_help().to_string())
}

/// The first word of a command line that is neither a flag nor a flag's value: the command.
pub fn word<'a>(command: &Command, args: &'a [OsString]) -> Option<&'a str> {
    let mut args = args.iter().filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        let takes_next = |given: &clap::Arg| {
            let is_it = given.get_long().is_some_and(|name| arg.strip_prefix("--") == Some(name))
                || given.get_short().is_some_and(|letter| arg == format!("-{letter}"));
            is_it && given.get_action().takes_values() && !given.is_require_equals_set()
        };
        if !arg.starts_with('-') {
            return Some(arg);
        }
        if command.get_arguments().any(takes_next) {
            args.next();
        }
    }
    None
}

/// Turns `--switch=true` into `--switch`, and takes `--switch=false` away.
///
/// # Errors
/// When the value is neither.
pub fn plain_switches(command: &Command, args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    let mut plain = Vec::with_capacity(args.len());
    let mut is_behind_dashes = false;
    let mut path = vec![command];
    for arg in args {
        is_behind_dashes |= arg == "--";
        path.extend(path.last().and_then(|command| command.find_subcommand(&arg)));
        let switch = arg.to_str().filter(|_| !is_behind_dashes).and_then(|text| {
            let (name, value) = text.strip_prefix("--")?.split_once('=')?;
            path.iter().any(|command| is_switch(command, name)).then_some((name, value))
        });
        let is_on = match switch {
            None => None,
            Some((name, value)) => Some(go::parse_bool(value).map_err(|why| {
                let value = go::quote(value.as_bytes());
                Failure::new(
                    ERROR,
                    format!("invalid argument {value} for \"--{name}\" flag: {why}"),
                )
            })?),
        };
        match (is_on, switch) {
            (Some(true), Some((name, _))) => plain.push(format!("--{name}").into()),
            (Some(false), _) => {}
            _ => plain.push(arg),
        }
    }
    Ok(plain)
}

fn is_switch(command: &Command, name: &str) -> bool {
    let is_it = |arg: &clap::Arg| {
        arg.get_long() == Some(name) && matches!(arg.get_action(), ArgAction::SetTrue)
    };
    command.get_arguments().any(is_it)
}

/// Whether a help page was asked for, which is no error: print it to standard output.
pub fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// What is wrong with a command line, in etcdctl's words.
pub fn complaint(error: &clap::Error) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let flag = || name_of(&text(ContextKind::InvalidArg));
    let value = text(ContextKind::InvalidValue);
    let why = std::error::Error::source(error).map(ToString::to_string);
    let is_missing = value.is_empty() && why.is_none();
    let complaint = match error.kind() {
        ErrorKind::UnknownArgument => unknown(&text(ContextKind::InvalidArg), own_group(error)),
        ErrorKind::InvalidSubcommand => {
            unknown_command(text(ContextKind::InvalidSubcommand).as_bytes(), own_group(error))
        }
        ErrorKind::InvalidValue | ErrorKind::NoEquals | ErrorKind::TooFewValues if is_missing => {
            format!("flag needs an argument: {}", flag())
        }
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let value = go::quote(value.as_bytes());
            let known = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(known)) if !known.is_empty() => {
                    format!(": known are {}", known.join(", "))
                }
                _ => String::new(),
            };
            let why = why.unwrap_or_else(|| format!("no such value{known}"));
            format!("invalid argument {value} for {:?} flag: {why}", flag())
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = match error.get(ContextKind::InvalidArg) {
                Some(ContextValue::Strings(texts)) => texts.join(", "),
                _ => text(ContextKind::InvalidArg),
            };
            format!("missing: {missing}\nRun with --help for usage.")
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            text.lines().next().unwrap_or_default().to_owned()
        }
    };
    Failure::new(ERROR, complaint)
}

/// The flag alone, of "--rev <REVISION>" and "-w, --write-out <FORM>".
fn name_of(flag: &str) -> String {
    let first = flag.split([' ', '=', '[']).next().unwrap_or_default();
    first.trim_end_matches(',').to_owned()
}

/// The command of ours, such as `quoin run`, below which something is wrong, if it is one that has no example
/// in etcdctl.
fn own_group(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return None };
    let usage = usage.to_string();
    let mut words = usage.split_whitespace().skip(1);
    let (program, group) = (words.next()?, words.next()?);
    OWN_GROUPS.contains(&group).then(|| {
        let is_word = |word: &&str| word.starts_with(|first: char| first.is_ascii_lowercase());
        let more = words.take_while(is_word);
        [program, group].into_iter().chain(more).collect::<Vec<_>>().join(" ")
    })
}

fn unknown_command(word: &[u8], below: Option<String>) -> String {
    let word = go::quote(word);
    match below {
        Some(below) => {
            format!("unknown command {word} for \"{below}\"\nRun '{below} --help' for usage.")
        }
        None => format!("unknown command {word} for \"quoin\"\nRun 'quoin help tools' for usage."),
    }
}

fn unknown(arg: &str, below: Option<String>) -> String {
    match arg.strip_prefix("--") {
        Some(_) => format!("unknown flag: {}", name_of(arg)),
        None if arg.starts_with('-') => {
            let letter = arg.chars().nth(1).unwrap_or_default();
            format!("unknown shorthand flag: '{letter}' in {arg}")
        }
        None => unknown_command(arg.as_bytes(), below),
    }
}
