//! `status`, and everything that is printed.

use super::file::SnapshotFile;
use super::{Form, SnapshotError, StatusArgs};
use crate::backup::{Status, status};
use crate::bolt::Database;
use std::io::Write as _;

pub(super) fn run(args: &StatusArgs) -> Result<(), SnapshotError> {
    let file = SnapshotFile::open(&args.filename)?;
    let database = Database::open(&file)?;
    database.check().map_err(|error| {
        SnapshotError::new(format!(
            "snapshot file integrity check failed. 1 errors found.\n{error}"
        ))
    })?;
    let status = status(&database)?;
    print(&match args.write_out {
        Form::Simple => format!("{}\n", columns(&status).join(", ")),
        Form::Json => json(&status),
        Form::Table => table(&status),
        Form::Fields => fields(&status),
    });
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
        size(status.size),
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
    let columns = columns(status);
    let widths: Vec<usize> = HEADINGS
        .iter()
        .zip(&columns)
        .map(|(heading, value)| heading.len().max(value.len()))
        .collect();
    let line = |left: &str, middle: &str, right: &str| {
        let parts: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        format!("{left}{}{right}\n", parts.join(middle))
    };
    let row = |cells: Vec<String>| format!("│ {} │\n", cells.join(" │ "));
    let headings = HEADINGS.iter().zip(&widths).map(|(text, width)| format!("{text:^width$}"));
    let values = columns.iter().zip(&widths).map(|(text, width)| format!("{text:>width$}"));
    [
        line("┌", "┬", "┐"),
        row(headings.collect()),
        line("├", "┼", "┤"),
        row(values.collect()),
        line("└", "┴", "┘"),
    ]
    .concat()
}

/// A number of bytes in units of thousands, with one digit behind the point below ten.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut unit, mut tenths) = (0, bytes as f64 * 10.0);
    while tenths >= 10_000.0 && unit + 1 < UNITS.len() {
        tenths /= 1000.0;
        unit += 1;
    }
    let rounded = (tenths + 0.5).floor() / 10.0;
    match rounded < 10.0 {
        true => format!("{rounded:.1} {}", UNITS[unit]),
        false => format!("{rounded:.0} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_etcds_tool_does() {
        let table = [
            (0, "0 B"),
            (9, "9 B"),
            (10, "10 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_480, "20 kB"),
            (45_056, "45 kB"),
            (1_550_000, "1.6 MB"),
            (16_801_792, "17 MB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

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
