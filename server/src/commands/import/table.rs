//! Delimited text, row by row: a header, line numbers, and rows that are kept even when they cannot be read.

use std::collections::HashMap;
use std::io::Read;

use anyhow::{Context, Result};

/// How the text is delimited.
#[derive(Debug, Clone, Copy)]
pub(super) enum Delimited {
    /// Commas, quotes as in RFC 4180.
    Comma,
    /// Tabs, no quotes.
    Tab,
}

/// A reader of one file.
pub(super) struct Table<R> {
    reader: csv::Reader<R>,
    columns: HashMap<String, usize>,
    names: Vec<String>,
    record: csv::ByteRecord,
    /// Lines before the first row that are not in the file.
    added_lines: u64,
}

impl<R: Read> Table<R> {
    /// Reads the header. `name` turns a header's cell into a column's name.
    pub(super) fn open(source: R, delimited: Delimited, name: fn(&str) -> &str) -> Result<Table<R>> {
        let mut builder = csv::ReaderBuilder::new();
        builder.flexible(true);
        if let Delimited::Tab = delimited {
            builder.delimiter(b'\t').quoting(false);
        }
        let mut reader = builder.from_reader(source);
        let headers = reader.headers().context("reading the header")?;
        // Excel writes a byte order mark.
        let names: Vec<String> =
            headers.iter().map(|cell| name(cell.trim_start_matches('\u{feff}').trim()).to_owned()).collect();
        let columns = names.iter().cloned().enumerate().map(|(index, name)| (name, index)).collect();
        Ok(Table { reader, columns, names, record: csv::ByteRecord::new(), added_lines: 0 })
    }

    /// The header was added by the reader: lines are counted as in the file.
    pub(super) fn without_header_line(self) -> Table<R> {
        Table { added_lines: 1, ..self }
    }

    /// Fails when a column that is needed is not there.
    pub(super) fn need(&self, columns: &[&str]) -> Result<()> {
        for column in columns {
            anyhow::ensure!(
                self.columns.contains_key(*column),
                "the column {column} is missing; there are {}",
                self.names.join(", ")
            );
        }
        Ok(())
    }

    /// The columns, in order.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The next row; `None` at the end. Fails only when the file cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>> {
        if !self.reader.read_byte_record(&mut self.record).context("reading a row")? {
            return Ok(None);
        }
        let line = self.record.position().map_or(0, |position| position.line() - self.added_lines);
        let mut bad = None;
        let mut cells = Vec::with_capacity(self.record.len());
        for cell in &self.record {
            match std::str::from_utf8(cell) {
                Ok(text) => cells.push(text),
                Err(_) => {
                    bad = Some("not UTF-8".to_owned());
                    cells.push("");
                }
            }
        }
        if bad.is_none() && cells.len() != self.names.len() {
            bad = Some(format!("wrong number of fields: must be {}", self.names.len()));
        }
        let raw = || {
            let cells: Vec<_> = self.record.iter().map(String::from_utf8_lossy).collect();
            cells.join("\t")
        };
        let raw = if bad.is_some() { raw() } else { String::new() };
        Ok(Some(Row { line, bad, cells, raw, columns: &self.columns }))
    }
}

/// One row.
pub(super) struct Row<'t> {
    /// One-based, in the file.
    pub(super) line: u64,
    /// Why it cannot be read, if so.
    pub(super) bad: Option<String>,
    cells: Vec<&'t str>,
    raw: String,
    columns: &'t HashMap<String, usize>,
}

impl<'t> Row<'t> {
    /// The cell, trimmed; empty when the column is not there.
    pub(super) fn get(&self, column: &str) -> &'t str {
        self.exact(column).trim()
    }

    /// The cell as it is: ids are kept exactly.
    pub(super) fn exact(&self, column: &str) -> &'t str {
        self.columns.get(column).and_then(|&index| self.cells.get(index)).copied().unwrap_or("")
    }

    /// The row for the quarantine.
    pub(super) fn text(&self) -> String {
        if self.raw.is_empty() { self.cells.join("\t") } else { self.raw.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rows_are_told_apart_and_the_rest_is_read() {
        let text = b"id,title\n1,\"A, B\"\n2,\xff\xfe\n3\n4,\"two\nlines\"\n5,last\n";
        let mut table = Table::open(&text[..], Delimited::Comma, |name| name).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = table.next().unwrap() {
            rows.push((row.line, row.get("title").to_owned(), row.bad.clone()));
        }
        assert_eq!(rows[0], (2, "A, B".to_owned(), None));
        assert_eq!(rows[1].2.as_deref(), Some("not UTF-8"));
        assert_eq!(rows[2].2.as_deref(), Some("wrong number of fields: must be 2"));
        assert_eq!((rows[3].0, rows[4].0), (5, 7));
    }
}
