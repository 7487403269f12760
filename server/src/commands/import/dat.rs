//! The `.dat` files of older MovieLens sets (1M, 10M) and of MovieTweetings: no header, `::` between the fields.
//!
//! Each line becomes a line of tab-separated text, so that [`super::table::Table`] reads it like any other. A line that
//! is not UTF-8 is read as Latin-1, in which GroupLens wrote its titles of 2003.

use std::io::{BufRead, Read, Result};

/// Tab-separated text of a `.dat` file, with a header before it.
pub(super) struct Dat<R> {
    source: R,
    line: Vec<u8>,
    given: usize,
}

impl<R: BufRead> Dat<R> {
    /// `columns` are the header's names.
    pub(super) fn new(source: R, columns: &[&str]) -> Dat<R> {
        Dat { source, line: format!("{}\n", columns.join("\t")).into_bytes(), given: 0 }
    }

    fn refill(&mut self) -> Result<()> {
        self.line.clear();
        self.given = 0;
        self.source.read_until(b'\n', &mut self.line)?;
        let text = match str::from_utf8(&self.line) {
            Ok(text) => text.to_owned(),
            Err(_) => self.line.iter().map(|&byte| char::from(byte)).collect(),
        };
        self.line = text.replace('\t', " ").replace("::", "\t").into_bytes();
        Ok(())
    }
}

impl<R: BufRead> Read for Dat<R> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.given == self.line.len() {
            self.refill()?;
        }
        let count = out.len().min(self.line.len() - self.given);
        out[..count].copy_from_slice(&self.line[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_parted_and_latin_1_is_understood() {
        let mut text = String::new();
        let source = &b"1::Am\xe9lie (2001)::Comedy|Romance\n2::\xc3\x89toile\tx (1989)::\n"[..];
        Dat::new(source, &["movieId", "title", "genres"]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "movieId\ttitle\tgenres\n1\tAm\u{e9}lie (2001)\tComedy|Romance\n2\t\u{c9}toile x (1989)\t\n");
    }
}
