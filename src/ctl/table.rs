//! Tables with the frame that etcdctl draws: titles centred and in capitals, cells to the right.

use comfy_table::{
    Cell, CellAlignment, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle,
};

const FRAME: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┌', '─', '┬', '┐'))
    .header_lines(ContentLineStyle::new('│', '│', '│'))
    .header_separator(LineStyle::new('├', '─', '┼', '┤'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

/// A table with its line breaks.
pub fn render(titles: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(match rows {
        [] => FRAME.header_separator(LineStyle::none()),
        _ => FRAME,
    });
    table.set_content_arrangement(ContentArrangement::Disabled);
    let title = |title: &&str| {
        Cell::new(title.replace('_', " ").to_uppercase()).set_alignment(CellAlignment::Center)
    };
    table.set_header(titles.iter().map(title));
    for row in rows {
        let cells = row.iter().map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
        table.add_row(cells);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn a_table() {
        let rows =
            [vec!["bdad96".to_owned(), String::new()], vec!["x".to_owned(), "m1".to_owned()]];
        let table = "\
┌──────────┬──────┐
│ HASH REV │ NAME │
├──────────┼──────┤
│   bdad96 │      │
│        x │   m1 │
└──────────┴──────┘
";
        assert_eq!(render(&["hash_rev", "Name"], &rows), table);
        let bare = "\
┌──────────┬──────┐
│ HASH REV │ NAME │
└──────────┴──────┘
";
        assert_eq!(render(&["hash_rev", "Name"], &[]), bare);
    }
}
