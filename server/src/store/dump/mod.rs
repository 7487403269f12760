//! Everything that a store holds, table by table, in an order and a form that both implementations share: how a team
//! moves from one to the other with nothing lost.
//!
//! Below the words of [`super::Store`]: rows as they lie in the tables, erased and merged ones as they are. Must not know
//! SQL, nor what a row means.

mod stream;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use marquee_engine::types::Seq;

use crate::error::Result;

pub use stream::{Problem, Summary, read, write};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Int,
    /// A finite number.
    Real,
    /// True or false.
    Flag,
    /// A text that callers wrote: any character, NUL included.
    Name,
    /// A text of our own, without NUL.
    Text,
    /// Bytes.
    Bytes,
}

/// A column; any may be null as far as this is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name in either database.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// A table.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in either database.
    pub name: &'static str,
    /// Rows are in order of the first so many columns, which no two rows share.
    pub key_columns: usize,
    /// Its columns.
    pub columns: &'static [Column],
    /// Rows that are read or written at once: so many fit in memory whatever they hold.
    pub page_rows: usize,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not said.
    Null,
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Real`].
    Real(f64),
    /// Of [`Kind::Flag`].
    Flag(bool),
    /// Of [`Kind::Name`] or [`Kind::Text`].
    Text(String),
    /// Of [`Kind::Bytes`].
    Bytes(Vec<u8>),
}

/// A row: one value for each column.
pub type Row = Vec<Value>;

/// One moment of a store, read to its end.
#[async_trait]
pub trait Dump: Send {
    /// The log's newest position at that moment.
    fn log_end(&self) -> Seq;

    /// The first [`Table::page_rows`] rows behind `after`, in order; fewer at the end.
    async fn page(&mut self, table: &'static Table, after: Option<&Row>) -> Result<Vec<Row>>;
}

/// An empty store that is being filled. Dropped before [`Restore::commit`], it stays empty.
#[async_trait]
pub trait Restore: Send {
    /// Adds rows.
    async fn put(&mut self, table: &'static Table, rows: Vec<Row>) -> Result<()>;

    /// Makes it last. The log goes on behind `log_end`.
    async fn commit(self: Box<Self>, log_end: Seq) -> Result<()>;
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind }
}

const fn table(name: &'static str, key_columns: usize, page_rows: usize, columns: &'static [Column]) -> Table {
    Table { name, key_columns, columns, page_rows }
}

/// Every table, in the order of a dump.
pub static TABLES: [Table; 11] = [
    table(
        "log",
        1,
        2_000,
        &[
            column("seq", Kind::Int),
            column("kind", Kind::Int),
            column("received_ms", Kind::Int),
            column("user_key", Kind::Name),
            column("event_id", Kind::Name),
            column("event_type", Kind::Name),
            column("item_id", Kind::Name),
            column("value", Kind::Real),
            column("watched_seconds", Kind::Real),
            column("time_ms", Kind::Int),
            column("surface", Kind::Name),
            column("session_id", Kind::Name),
            column("slate_id", Kind::Name),
            column("position", Kind::Int),
            column("query", Kind::Name),
            column("payload", Kind::Text),
            column("moved_seq", Kind::Int),
            column("moved_from", Kind::Name),
        ],
    ),
    table("event_ids", 1, 10_000, &[column("hash", Kind::Bytes), column("received_ms", Kind::Int)]),
    table(
        "items",
        1,
        1_000,
        &[
            column("id", Kind::Name),
            column("seq", Kind::Int),
            column("deleted", Kind::Flag),
            column("json", Kind::Text),
        ],
    ),
    table("users", 1, 1_000, &[column("id", Kind::Name), column("updated_ms", Kind::Int), column("json", Kind::Text)]),
    table(
        "aliases",
        2,
        2_000,
        &[column("anonymous_key", Kind::Name), column("seq", Kind::Int), column("user_key", Kind::Name)],
    ),
    table("tombstones", 2, 10_000, &[column("seq", Kind::Int), column("key_hash", Kind::Bytes)]),
    table(
        "slates",
        1,
        100,
        &[
            column("slate_id", Kind::Name),
            column("user_key", Kind::Name),
            column("now_ms", Kind::Int),
            column("json", Kind::Text),
            column("columns_hash", Kind::Int),
            column("row_items", Kind::Text),
            column("row_features", Kind::Bytes),
        ],
    ),
    table(
        "repeats",
        1,
        20,
        &[
            column("id", Kind::Int),
            column("first_ms", Kind::Int),
            column("last_ms", Kind::Int),
            column("entries", Kind::Bytes),
        ],
    ),
    table(
        "bundles",
        1,
        20,
        &[
            column("version", Kind::Name),
            column("created_ms", Kind::Int),
            column("parent", Kind::Name),
            column("location", Kind::Name),
            column("manifest", Kind::Text),
        ],
    ),
    table(
        "activations",
        1,
        1_000,
        &[
            column("id", Kind::Int),
            column("version", Kind::Name),
            column("activated_ms", Kind::Int),
            column("rolled_back_ms", Kind::Int),
        ],
    ),
    table(
        "ingested",
        2,
        1_000,
        &[column("log", Kind::Name), column("partition", Kind::Int), column("next", Kind::Int)],
    ),
];

impl Table {
    /// The names of all columns, for a statement.
    pub(super) fn names(&self) -> String {
        self.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
    }

    /// The columns that rows are ordered by, for a statement.
    pub(super) fn key_names(&self) -> String {
        self.columns[..self.key_columns].iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
    }
}
