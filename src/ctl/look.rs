//! In which form an answer is printed, and the printing itself.
//!
//! Each kind of answer says what it looks like in each form ([`Show`]); not every kind has all
//! forms, and then the command fails as etcdctl does. Keys and values are bytes and are written as
//! they are.

use std::io::Write as _;

use serde_json::Value;

use super::failure::{BAD_FEATURE, ERROR, Failure};
use super::json;

/// The form of output that `--write-out` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Simple,
    Fields,
    Json,
    Table,
    Protobuf,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) form: Form,
    /// Bytes and ids as hexadecimal numbers.
    pub(super) hex: bool,
    /// Of pairs, the values alone.
    pub(super) value_only: bool,
}

/// An answer that can be printed. A form that gives `None` is not offered for it.
pub(super) trait Show {
    fn simple(&self, look: &Look, out: &mut Vec<u8>);
    fn fields(&self, look: &Look) -> Option<Vec<u8>>;
    fn json(&self, look: &Look) -> Option<Value>;
    fn protobuf(&self) -> Option<Vec<u8>>;
    fn table(&self) -> Option<String> {
        None
    }
}

impl Look {
    /// `None`: there is no form of that name.
    pub(super) fn new(form: &str, hex: bool) -> Option<Self> {
        let form = match form {
            "simple" => Form::Simple,
            "fields" => Form::Fields,
            "json" => Form::Json,
            "table" => Form::Table,
            "protobuf" => Form::Protobuf,
            _ => return None,
        };
        Some(Self { form, hex, value_only: false })
    }

    pub(super) fn is_simple(&self) -> bool {
        self.form == Form::Simple
    }

    /// Prints an answer.
    ///
    /// # Errors
    /// When this kind of answer has no such form, or nobody reads standard output any more.
    pub(super) fn print(&self, answer: &dyn Show) -> Result<(), Failure> {
        let (name, output) = match self.form {
            Form::Simple => {
                let mut out = Vec::new();
                answer.simple(self, &mut out);
                ("simple", Some(out))
            }
            Form::Fields => ("fields", answer.fields(self)),
            Form::Json => ("json", answer.json(self).map(|value| json::line(&value))),
            Form::Table => ("table", answer.table().map(String::into_bytes)),
            Form::Protobuf => ("protobuf", answer.protobuf()),
        };
        let unsupported =
            || Failure::new(BAD_FEATURE, format!("{name} not supported as output format"));
        write(&output.ok_or_else(unsupported)?)
    }
}

/// Writes to standard output, at once.
///
/// # Errors
/// When nobody reads it any more, of which there is nothing to say to anybody.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|_| Failure::silent(ERROR))
}

/// Writes a line to standard output.
pub(super) fn say(line: &str) -> Result<(), Failure> {
    write(format!("{line}\n").as_bytes())
}

/// Writes a line to standard error.
pub(super) fn warn(line: &str) {
    // If nobody reads it, there is nobody to tell.
    let _closed = writeln!(std::io::stderr(), "{line}");
}
