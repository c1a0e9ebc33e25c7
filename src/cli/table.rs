//! Columns for people.

use super::text::printable;

/// A table: left-aligned columns two blanks apart, no lines, so that `awk` can read it too.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<Cell>>,
}

/// One cell.
#[derive(Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

/// What a cell's colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Head,
    Good,
    Busy,
    Quiet,
    Bad,
}

impl Tone {
    /// Returns the tone of a sandbox's status.
    pub(super) fn of_status(status: &str) -> Self {
        match status {
            "running" => Self::Good,
            "creating" => Self::Busy,
            "stopped" | "paused" => Self::Quiet,
            "error" => Self::Bad,
            _ => Self::Plain,
        }
    }

    /// Returns the SGR parameters (ECMA-48, 8.3.117).
    const fn parameters(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Head => Some("1"),
            Self::Good => Some("32"),
            Self::Busy => Some("33"),
            Self::Quiet => Some("2"),
            Self::Bad => Some("31"),
        }
    }
}

impl Cell {
    pub(super) fn new(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }

    pub(super) fn toned(text: &str, tone: Tone) -> Self {
        Self { text: if text.is_empty() { "-".to_owned() } else { printable(text) }, tone }
    }
}

impl Table {
    pub(super) fn with_head(columns: &[&str]) -> Self {
        Self { rows: vec![columns.iter().map(|name| Cell::toned(name, Tone::Head)).collect()] }
    }

    pub(super) fn push(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Writes the table as lines.
    pub(super) fn render(&self, colour: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                let code = cell.tone.parameters().filter(|_| colour);
                let padding = widths[column] + 2 - cell.text.chars().count();
                text.extend(code.map(|code| format!("\x1b[{code}m")));
                text.push_str(&cell.text);
                text.push_str(if code.is_some() { "\x1b[0m" } else { "" });
                if column + 1 < row.len() {
                    text.push_str(&" ".repeat(padding));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Writes a span of time in its one largest unit: `5s`, `3m`, `7h`, `12d`.
pub(super) fn age(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=59 => format!("{s}s"),
        s @ 60..=3_599 => format!("{}m", s / 60),
        s @ 3_600..=86_399 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// Writes a number of bytes with a unit and at most three digits: `1.5 MiB`, `256 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded down, so that 1023.99 MiB never reads as more than it is.
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 {
        (tenths, unit) = (tenths / 1024, unit + 1);
    }
    let unit = UNITS[unit.min(UNITS.len() - 1)];
    match (tenths / 10, tenths % 10) {
        (whole @ 100.., _) | (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

/// A limit as it was given; one that the server has reckoned is a bare number.
pub(super) fn limit(text: &str) -> String {
    text.parse().map_or_else(|_named| text.to_owned(), size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::with_head(&["ID", "STATUS"]);
        table.push(vec![Cell::new("\u{e4}bc"), Cell::toned("running", Tone::of_status("running"))]);
        table.push(vec![Cell::new(""), Cell::new("x\ny")]);
        table
    }

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        assert_eq!(table().render(false), "ID   STATUS\n\u{e4}bc  running\n-    x\u{fffd}y\n");
        assert_eq!(Table::default().render(false), "");
    }

    #[test]
    fn colours_do_not_move_columns() {
        let text = table().render(true);
        assert!(text.contains("\u{e4}bc  \x1b[32mrunning\x1b[0m\n"), "{text:?}");
        let (mut plain, mut is_code) = (String::new(), false);
        for c in text.chars() {
            match (c, is_code) {
                ('\x1b', _) => is_code = true,
                ('m', true) => is_code = false,
                (_, true) => {}
                (c, false) => plain.push(c),
            }
        }
        assert_eq!(plain, table().render(false));
    }

    #[test]
    fn sizes_are_short() {
        let check = |bytes, text: &str| assert_eq!(size(bytes), text);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(1_572_864, "1.5 MiB");
        check(268_435_456, "256 MiB");
        check(u64::MAX, "15.9 EiB");
        assert_eq!((limit("512M").as_str(), limit("3865470480").as_str()), ("512M", "3.5 GiB"));
    }

    #[test]
    fn ages_have_one_unit() {
        let check = |seconds, text: &str| assert_eq!(age(seconds), text);
        check(-5, "0s");
        check(59, "59s");
        check(60, "1m");
        check(3_599, "59m");
        check(86_399, "23h");
        check(86_400 * 400, "400d");
    }
}
