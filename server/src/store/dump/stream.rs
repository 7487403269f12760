//! A dump as a stream of JSON lines: a header, a line for each row, a closing line with counts and a SHA-256 of all lines
//! before it. The same content is the same bytes, whichever store wrote it.
//!
//! `{"marquee_store":{"format":1,"log_end":7}}`, `{"items":{"deleted":false,"id":"i","json":"{...}","seq":3}}`,
//! `{"end":{"rows":{"items":1,...},"sha256":"..."}}`. What is null is left out; bytes are in hex.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};

use marquee_engine::types::Seq;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use super::{Column, Dump, Kind, Restore, Row, TABLES, Table, Value};
use crate::error::Error;
use crate::store::columns::{bytes_to_hex, hex_to_bytes};

/// Of the header; a reader refuses others.
const FORMAT: u64 = 1;
/// A longer line is no line of a dump.
const LINE_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What a dump held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows of each table.
    pub rows: BTreeMap<String, u64>,
    /// SHA-256 of every line before the closing one, in hex.
    pub sha256: String,
}

/// Why a dump was not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file or the pipe.
    #[error("{0}")]
    Stream(#[from] std::io::Error),
    /// The store.
    #[error("{}", .0.detail())]
    Store(#[from] Error),
    /// What was read is not a whole dump, or not of a kind that is known.
    #[error("line {line}: {what}")]
    Dump {
        /// One-based.
        line: u64,
        /// What is wrong there.
        what: String,
    },
}

/// Writes all of it; `progress` hears how many rows are written.
///
/// # Errors
/// The store cannot be read, or the stream not written.
pub async fn write(
    dump: &mut dyn Dump,
    out: &mut (dyn Write + Send),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary, Problem> {
    let mut lines = Lines { out, hash: Sha256::new() };
    lines.put(&json!({"marquee_store": {"format": FORMAT, "log_end": dump.log_end()}}))?;
    let mut rows = BTreeMap::new();
    let mut written = 0;
    for table in &TABLES {
        let mut count: u64 = 0;
        let mut last: Option<Row> = None;
        loop {
            let page = dump.page(table, last.as_ref()).await?;
            for row in &page {
                lines.put(&encode(table, row)?)?;
            }
            count += page.len() as u64;
            written += page.len() as u64;
            progress(written);
            match page.into_iter().next_back() {
                Some(row) => last = Some(row),
                None => break,
            }
        }
        rows.insert(table.name.to_owned(), count);
    }
    let sha256 = bytes_to_hex(&lines.hash.clone().finalize());
    lines.put(&json!({"end": {"rows": rows, "sha256": sha256}}))?;
    lines.out.flush()?;
    Ok(Summary { rows, sha256 })
}

struct Lines<'w> {
    out: &'w mut (dyn Write + Send),
    hash: Sha256,
}

impl Lines<'_> {
    fn put(&mut self, line: &Json) -> std::io::Result<()> {
        let mut text = line.to_string();
        text.push('\n');
        self.hash.update(text.as_bytes());
        self.out.write_all(text.as_bytes())
    }
}

fn encode(table: &Table, row: &Row) -> Result<Json, Problem> {
    let mut fields = Map::new();
    for (column, value) in table.columns.iter().zip(row) {
        let value = match value {
            Value::Null => continue,
            Value::Int(value) => Json::from(*value),
            Value::Real(value) if value.is_finite() => Json::from(*value),
            Value::Real(_) => {
                let detail = format!("{}.{} is not finite", table.name, column.name);
                return Err(Error::internal("reading the store", detail).into());
            }
            Value::Flag(value) => Json::from(*value),
            Value::Text(value) => Json::from(value.as_str()),
            Value::Bytes(value) => Json::from(bytes_to_hex(value)),
        };
        fields.insert(column.name.to_owned(), value);
    }
    Ok(json!({ table.name: fields }))
}

/// Reads all of it and makes it last only when counts and checksum agree and nothing follows; `progress` hears how many
/// rows are read.
///
/// # Errors
/// It is no whole dump, or the store cannot be written: then nothing is kept.
pub async fn read(
    mut restore: Box<dyn Restore>,
    input: &mut (dyn BufRead + Send),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary, Problem> {
    let mut reader = Reader { input, line: 0, hash: Sha256::new() };
    let log_end = reader.header()?;
    let mut rows: BTreeMap<String, u64> = TABLES.iter().map(|table| (table.name.to_owned(), 0)).collect();
    let (mut place, mut page, mut total) = (0, Vec::new(), 0);
    let end = loop {
        let before = reader.hash.clone();
        let (name, body) = reader.next()?.ok_or_else(|| reader.wrong("it ends before its closing line"))?;
        if name == "end" {
            break (body, bytes_to_hex(&before.finalize()));
        }
        let at = TABLES.iter().position(|table| table.name == name);
        let at = at.ok_or_else(|| reader.wrong(format!("table {name:?} is not known: a newer Marquee wrote it?")))?;
        if at < place {
            return Err(reader.wrong(format!("table {name:?} comes too late")));
        }
        if at != place || page.len() >= TABLES[place].page_rows {
            restore.put(&TABLES[place], std::mem::take(&mut page)).await?;
            place = at;
        }
        page.push(decode(&TABLES[at], body).map_err(|what| reader.wrong(what))?);
        *rows.entry(name).or_default() += 1;
        total += 1;
        progress(total);
    };
    let (said, sha256) = end;
    if said.get("sha256").and_then(Json::as_str) != Some(&sha256) {
        return Err(reader.wrong("the checksum differs: the dump was altered or damaged"));
    }
    if said.get("rows") != Some(&json!(rows)) {
        return Err(reader.wrong("the counts differ: the dump was altered or damaged"));
    }
    if reader.next()?.is_some() {
        return Err(reader.wrong("something follows the closing line"));
    }
    restore.put(&TABLES[place], page).await?;
    restore.commit(log_end).await?;
    Ok(Summary { rows, sha256 })
}

/// A line's one key and what stands there.
type Line = (String, Map<String, Json>);

struct Reader<'r> {
    input: &'r mut (dyn BufRead + Send),
    line: u64,
    hash: Sha256,
}

impl Reader<'_> {
    fn wrong(&self, what: impl Into<String>) -> Problem {
        Problem::Dump { line: self.line, what: what.into() }
    }

    fn header(&mut self) -> Result<Seq, Problem> {
        let no_dump = "this is no dump of a store";
        let (name, body) = self.next()?.ok_or_else(|| self.wrong(no_dump))?;
        match (name.as_str(), body.get("format").and_then(Json::as_u64), body.get("log_end").and_then(Json::as_i64)) {
            ("marquee_store", Some(FORMAT), Some(log_end)) if log_end >= 0 => Ok(log_end as Seq),
            ("marquee_store", Some(format), _) if format != FORMAT => {
                Err(self.wrong(format!("format {format} is not known, only {FORMAT}: a newer Marquee wrote it?")))
            }
            _ => Err(self.wrong(no_dump)),
        }
    }

    /// The next line; `None` at the end.
    fn next(&mut self) -> Result<Option<Line>, Problem> {
        self.line += 1;
        let mut line = Vec::new();
        let length = (&mut *self.input).take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(None);
        }
        if line.pop() != Some(b'\n') {
            return Err(self.wrong("the line is cut off, or longer than a line can be"));
        }
        self.hash.update(&line);
        self.hash.update(b"\n");
        let parsed: Map<String, Json> =
            serde_json::from_slice(&line).map_err(|error| self.wrong(format!("no JSON object: {error}")))?;
        let mut entries = parsed.into_iter();
        match (entries.next(), entries.next()) {
            (Some((name, Json::Object(body))), None) => Ok(Some((name, body))),
            _ => Err(self.wrong("an object with one key was expected")),
        }
    }
}

fn decode(table: &Table, mut fields: Map<String, Json>) -> Result<Row, String> {
    let row = table.columns.iter().map(|column| value(column, fields.remove(column.name))).collect::<Result<_, _>>()?;
    match fields.keys().next() {
        None => Ok(row),
        Some(unknown) => Err(format!("{}.{unknown} is not known: a newer Marquee wrote it?", table.name)),
    }
}

fn value(column: &Column, said: Option<Json>) -> Result<Value, String> {
    let Some(said) = said else { return Ok(Value::Null) };
    let read = match (column.kind, said) {
        (Kind::Int, Json::Number(number)) => number.as_i64().map(Value::Int),
        (Kind::Real, Json::Number(number)) => number.as_f64().map(Value::Real),
        (Kind::Flag, Json::Bool(flag)) => Some(Value::Flag(flag)),
        (Kind::Name | Kind::Text, Json::String(text)) => Some(Value::Text(text)),
        (Kind::Bytes, Json::String(hex)) => hex_to_bytes(&hex).map(Value::Bytes),
        _ => None,
    };
    read.ok_or_else(|| format!("{} has a value of another kind", column.name))
}
