//! Reads a TOML table key by key and collects every problem, with the key and the rule, instead of stopping at the first.

use std::fmt::Display;
use std::ops::RangeInclusive;

use toml::{Table, Value};

/// One table under its dotted name. What was not asked for when it ends is unknown.
pub(crate) struct Reader<'a> {
    place: String,
    table: Table,
    known: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    /// The table of the whole file.
    pub(crate) fn new(table: Table, problems: &'a mut Vec<String>) -> Reader<'a> {
        Reader { place: String::new(), table, known: Vec::new(), problems }
    }

    /// A table inside; absent is empty.
    pub(crate) fn section(&mut self, key: &'static str) -> Reader<'_> {
        let table = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.wrong(key, format!("must be a table, not {}", other.type_str()));
                Table::new()
            }
        };
        Reader { place: format!("{}{key}.", self.place), table, known: Vec::new(), problems: self.problems }
    }

    /// A text; `default` when absent.
    pub(crate) fn text(&mut self, key: &'static str, default: &str) -> String {
        match self.take(key) {
            None => default.to_owned(),
            Some(Value::String(text)) => text,
            Some(other) => {
                self.wrong(key, format!("must be a text, not {}", other.type_str()));
                default.to_owned()
            }
        }
    }

    /// One of these words.
    pub(crate) fn word(&mut self, key: &'static str, words: &[&str]) -> String {
        let word = self.text(key, words[0]);
        if words.contains(&word.as_str()) {
            return word;
        }
        self.wrong(key, format!("must be one of {}, not \"{word}\"", words.join(", ")));
        words[0].to_owned()
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.wrong(key, format!("must be true or false, not {}", other.type_str()));
                default
            }
        }
    }

    /// A whole number in a range.
    pub(crate) fn whole(&mut self, key: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let number = match self.take(key) {
            None => return default,
            Some(Value::Integer(number)) => number,
            Some(other) => {
                self.wrong(key, format!("must be a whole number, not {}", other.type_str()));
                return default;
            }
        };
        let read = u64::try_from(number).ok();
        self.within(key, read.filter(|number| range.contains(number)), number, &range).unwrap_or(default)
    }

    /// A number in a range; whole ones are fine.
    pub(crate) fn number(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let number = match self.take(key) {
            None => return default,
            Some(Value::Float(number)) => number,
            Some(Value::Integer(number)) => number as f64,
            Some(other) => {
                self.wrong(key, format!("must be a number, not {}", other.type_str()));
                return default;
            }
        };
        self.within(key, Some(number).filter(|number| range.contains(number)), number, &range).unwrap_or(default)
    }

    /// Says that a value breaks a rule.
    pub(crate) fn wrong(&mut self, key: &str, rule: impl Display) {
        self.problems.push(format!("{}{key}: {rule}", self.place));
    }

    /// Everything that nobody asked for is unknown.
    pub(crate) fn finish(self) {
        for key in self.table.keys() {
            let known = self.known.join(", ");
            self.problems.push(format!("{}{key}: no such key; known here: {known}", self.place));
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn within<T, R: Display>(
        &mut self,
        key: &str,
        read: Option<T>,
        was: impl Display,
        range: &RangeInclusive<R>,
    ) -> Option<T> {
        if read.is_none() {
            self.wrong(key, format!("must be from {} to {}, not {was}", range.start(), range.end()));
        }
        read
    }
}
