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
    let title = |(column, title): (usize, &&str)| {
        let title = title.replace('_', " ").to_uppercase();
        let lines = rows.iter().filter_map(|row| row.get(column)).flat_map(|text| text.lines());
        let widest = lines.map(|line| line.chars().count()).max().unwrap_or_default();
        // The library's own centring leaves the odd space on the left.
        let left = widest.saturating_sub(title.chars().count()) / 2;
        Cell::new(format!("{:left$}{title}", "")).set_alignment(CellAlignment::Left)
    };
    table.set_header(titles.iter().enumerate().map(title));
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
        let centred = "\
┌─────────┬────────┐
│ STATUS  │  ERR   │
├─────────┼────────┤
│ started │ no one │
└─────────┴────────┘
";
        let row = vec!["started".to_owned(), "no one".to_owned()];
        assert_eq!(render(&["status", "err"], &[row]), centred);
        let bare = "\
┌──────────┬──────┐
│ HASH REV │ NAME │
└──────────┴──────┘
";
        assert_eq!(render(&["hash_rev", "Name"], &[]), bare);
    }
}
