//! Rows of the schema as they lie there; see [`crate::store::dump`].

use async_trait::async_trait;
use marquee_engine::types::Seq;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres};

use super::fields::Fields;
use super::log;
use super::months::Months;
use super::session::{Live, Server, failed};
use crate::error::{Error, Result};
use crate::store::dump::{self, Kind, Row, TABLES, Table, Value};

/// One moment of the schema, held by a transaction that reads.
pub(super) struct Dump {
    sql: PgConnection,
    log_end: Seq,
}

impl Dump {
    pub(super) async fn begin(server: &Server) -> Result<Dump> {
        let mut sql = server.connect_for_long().await.map_err(server.opening())?;
        sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut sql)
            .await
            .map_err(failed("beginning a dump"))?;
        let log_end = log::end(&mut sql).await?;
        Ok(Dump { sql, log_end })
    }
}

#[async_trait]
impl dump::Dump for Dump {
    fn log_end(&self) -> Seq {
        self.log_end
    }

    async fn page(&mut self, table: &'static Table, after: Option<&Row>) -> Result<Vec<Row>> {
        // Numbers of any width are read as one.
        let cast = |column: &dump::Column| match column.kind {
            Kind::Int => format!("{}::bigint", column.name),
            _ => column.name.to_owned(),
        };
        let (names, keys) = (table.columns.iter().map(cast).collect::<Vec<_>>().join(", "), table.key_names());
        let behind = match after {
            Some(_) => {
                let places: Vec<String> = (1..=table.key_columns).map(|place| format!("${place}")).collect();
                format!("WHERE ({keys}) > ({})", places.join(", "))
            }
            None => String::new(),
        };
        let text = format!("SELECT {names} FROM {} {behind} ORDER BY {keys} LIMIT {}", table.name, table.page_rows);
        let mut query = sqlx::query(AssertSqlSafe(text));
        for value in after.into_iter().flat_map(|row| &row[..table.key_columns]) {
            query = bind_key(query, value);
        }
        let rows = query.fetch_all(&mut self.sql).await.map_err(failed("dumping"))?;
        rows.iter().map(|row| read(table, row)).collect()
    }
}

/// Texts of keys are names: bytes.
fn bind_key<'q>(query: Query<'q, Postgres, PgArguments>, value: &Value) -> Query<'q, Postgres, PgArguments> {
    match value.clone() {
        Value::Int(value) => query.bind(value),
        Value::Text(value) => query.bind(value.into_bytes()),
        Value::Bytes(value) => query.bind(value),
        Value::Flag(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Null => query.bind(None::<i64>),
    }
}

fn read(table: &Table, row: &PgRow) -> Result<Row> {
    let fields = Fields { row, doing: "dumping" };
    let value = |(index, column): (usize, &dump::Column)| {
        let value = match column.kind {
            Kind::Int => fields.get::<Option<i64>>(index)?.map(Value::Int),
            Kind::Real => fields.get::<Option<f64>>(index)?.map(Value::Real),
            Kind::Flag => fields.get::<Option<bool>>(index)?.map(Value::Flag),
            Kind::Name => fields.text(index)?.map(Value::Text),
            Kind::Text => fields.get::<Option<String>>(index)?.map(Value::Text),
            Kind::Bytes => fields.get::<Option<Vec<u8>>>(index)?.map(Value::Bytes),
        };
        Ok(value.unwrap_or(Value::Null))
    };
    table.columns.iter().enumerate().map(value).collect()
}

/// A transaction over everything that is put; other writers wait.
pub(super) struct Restore {
    live: Live,
}

impl Restore {
    /// FailedPrecondition for a store that holds anything.
    pub(super) async fn begin(server: &Server) -> Result<Restore> {
        let mut sql = server.connect_for_long().await.map_err(server.opening())?;
        let end = log::lock(&mut sql).await?;
        for table in &TABLES {
            let text = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            let is_filled: bool = sqlx::query_scalar(AssertSqlSafe(text))
                .fetch_one(&mut sql)
                .await
                .map_err(failed("looking whether the store is empty"))?;
            if is_filled {
                return Err(Error::FailedPrecondition(format!("the store is not empty: it has {}", table.name)));
            }
        }
        match end {
            0 => Ok(Restore { live: Live { sql, months: Months::default() } }),
            _ => Err(Error::FailedPrecondition("the store was used before: its log has begun".to_owned())),
        }
    }
}

#[async_trait]
impl dump::Restore for Restore {
    async fn put(&mut self, table: &'static Table, rows: Vec<Row>) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        if let Some(received) =
            table.columns.iter().position(|column| table.name == "log" && column.name == "received_ms")
        {
            let moments = rows.iter().filter_map(|row| match row[received] {
                Value::Int(at) => Some(at),
                _ => None,
            });
            self.live.months.prepare(&mut self.live.sql, moments).await?;
        }
        let arrays: Vec<String> = (1..).zip(table.columns).map(|(place, column)| array(place, column.kind)).collect();
        let text =
            format!("INSERT INTO {} ({}) SELECT * FROM unnest({})", table.name, table.names(), arrays.join(", "));
        let mut query = sqlx::query(AssertSqlSafe(text));
        for (index, column) in table.columns.iter().enumerate() {
            query = bind_column(query, column.kind, &rows, index);
        }
        query.execute(&mut self.live.sql).await.map(|_| ()).map_err(failed("restoring"))
    }

    async fn commit(mut self: Box<Self>, log_end: Seq) -> Result<()> {
        // Numbers that the database hands out go on behind those that were brought along.
        let behind = |table: &str| {
            format!("SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table} HAVING max(id) > 0")
        };
        sqlx::raw_sql(AssertSqlSafe(format!(
            "UPDATE log_end SET seq = {log_end}; {}; {}; COMMIT",
            behind("repeats"),
            behind("activations")
        )))
        .execute(&mut self.live.sql)
        .await
        .map(|_| ())
        .map_err(failed("restoring"))
    }
}

fn array(place: usize, kind: Kind) -> String {
    let of = match kind {
        Kind::Int => "bigint",
        Kind::Real => "float8",
        Kind::Flag => "boolean",
        Kind::Text => "text",
        Kind::Name | Kind::Bytes => "bytea",
    };
    format!("${place}::{of}[]")
}

fn bind_column<'q>(
    query: Query<'q, Postgres, PgArguments>,
    kind: Kind,
    rows: &[Row],
    index: usize,
) -> Query<'q, Postgres, PgArguments> {
    fn all<'r, T>(rows: &'r [Row], index: usize, of: impl Fn(&'r Value) -> Option<T>) -> Vec<Option<T>> {
        rows.iter().map(|row| of(&row[index])).collect()
    }
    match kind {
        Kind::Int => query.bind(all(rows, index, |value| match value {
            Value::Int(value) => Some(*value),
            _ => None,
        })),
        Kind::Real => query.bind(all(rows, index, |value| match value {
            Value::Real(value) => Some(*value),
            _ => None,
        })),
        Kind::Flag => query.bind(all(rows, index, |value| match value {
            Value::Flag(value) => Some(*value),
            _ => None,
        })),
        Kind::Text => query.bind(all(rows, index, |value| match value {
            Value::Text(value) => Some(value.as_str()),
            _ => None,
        })),
        Kind::Name | Kind::Bytes => query.bind(all(rows, index, |value| match value {
            Value::Text(value) => Some(value.as_bytes()),
            Value::Bytes(value) => Some(value.as_slice()),
            _ => None,
        })),
    }
}
