//! Markdown: tables, and text that comes from outside.

use std::fmt;

/// A table whose cells are Markdown.
pub struct Table {
    columns: usize,
    text: String,
    rows: usize,
}

impl Table {
    pub fn new(heads: impl IntoIterator<Item = impl AsRef<str>>) -> Table {
        let mut table = Table { columns: 0, text: String::new(), rows: 0 };
        table.columns = table.line(heads);
        table.text += &format!("|{}\n", "---|".repeat(table.columns));
        table
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) {
        let cells = self.line(cells);
        debug_assert_eq!(cells, self.columns, "a row has a cell for every column");
        self.rows += 1;
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    fn line(&mut self, cells: impl IntoIterator<Item = impl AsRef<str>>) -> usize {
        self.text.push('|');
        let count = cells.into_iter().map(|cell| self.text += &format!(" {} |", cell.as_ref())).count();
        self.text.push('\n');
        count
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text that means itself: the name of a reader's server, an error, a command.
pub fn plain(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '|' | '[' | ']' | '#' | '~' => escaped.extend(['\\', character]),
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '&' => escaped += "&amp;",
            _ if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A table that is long is folded away behind its name.
pub fn folded(name: &str, table: &Table) -> String {
    const LONG: usize = 16;
    match table.rows() > LONG {
        true => format!("<details><summary>{name}</summary>\n\n{table}\n</details>\n\n"),
        false => format!("{name}:\n\n{table}\n"),
    }
}
