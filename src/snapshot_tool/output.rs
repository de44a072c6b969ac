//! `status`, and everything that is printed.

use super::file::SnapshotFile;
use super::{SnapshotError, StatusArgs, only};
use crate::backup::{Status, status};
use crate::bolt::Database;
use crate::ctl::{size_text, table_text};
use std::io::Write as _;

pub(super) fn run(args: &StatusArgs, form: &str) -> Result<(), SnapshotError> {
    let file = SnapshotFile::open(only(&args.filename, "status")?)?;
    let database = Database::open(&file)?;
    database.check().map_err(|error| {
        SnapshotError::new(format!(
            "snapshot file integrity check failed. 1 errors found.\n{error}"
        ))
    })?;
    let status = status(&database)?;
    let text = match form {
        "simple" => format!("{}\n", columns(&status).join(", ")),
        "json" => json(&status),
        "table" => table(&status),
        "fields" => fields(&status),
        "protobuf" => return Err(SnapshotError::form("protobuf not supported as output format")),
        _ => return Err(SnapshotError::form("unsupported output format")),
    };
    print(&text);
    Ok(())
}

/// Prints to standard output; a reader that has gone has seen enough.
pub(super) fn print(text: &str) {
    let _closed = std::io::stdout().write_all(text.as_bytes());
}

pub(super) fn complain(error: &SnapshotError) {
    let _closed = writeln!(std::io::stderr(), "Error: {error}");
}

const HEADINGS: [&str; 5] = ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"];

fn columns(status: &Status) -> [String; 5] {
    [
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.keys.to_string(),
        size_text(status.size),
        status.version.clone(),
    ]
}

fn json(status: &Status) -> String {
    let Status { hash, revision, keys, size, version } = status;
    let version = serde_json::Value::from(version.as_str());
    format!(
        "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{size},\
         \"version\":{version}}}\n"
    )
}

fn fields(status: &Status) -> String {
    let Status { hash, revision, keys, size, version } = status;
    format!(
        "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\"Size\" : {size}\n\
         \"Version\" : {version}\n"
    )
}

fn table(status: &Status) -> String {
    table_text(&HEADINGS, &[columns(status).to_vec()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_those_of_etcds_tool() {
        let version = "3.7.0".to_owned();
        let status = Status { hash: 0x7e36_4d38, revision: 9, keys: 6, size: 45_056, version };
        assert_eq!(columns(&status).join(", "), "7e364d38, 9, 6, 45 kB, 3.7.0");
        assert_eq!(
            json(&status),
            "{\"hash\":2117487928,\"revision\":9,\"totalKey\":6,\"totalSize\":45056,\
             \"version\":\"3.7.0\"}\n"
        );
        assert_eq!(
            table(&status),
            "\
┌──────────┬──────────┬────────────┬────────────┬─────────┐
│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │
├──────────┼──────────┼────────────┼────────────┼─────────┤
│ 7e364d38 │        9 │          6 │      45 kB │   3.7.0 │
└──────────┴──────────┴────────────┴────────────┴─────────┘
"
        );
    }
}
