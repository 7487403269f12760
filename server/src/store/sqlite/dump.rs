//! Rows of the file as they lie there; see [`crate::store::dump`].

use async_trait::async_trait;
use marquee_engine::types::Seq;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _, Sqlite, SqliteConnection};

use super::{failed, log, opening};
use crate::error::{Error, Result};
use crate::store::dump::{self, Kind, Row, TABLES, Table, Value};

/// One moment of the file, held by a transaction that reads.
pub(super) struct Dump {
    connection: SqliteConnection,
    log_end: Seq,
}

impl Dump {
    pub(super) async fn begin(options: &SqliteConnectOptions) -> Result<Dump> {
        let mut connection = options.connect().await.map_err(opening)?;
        begin(&mut connection, "BEGIN").await?;
        let log_end = log::end(&mut connection).await?;
        Ok(Dump { connection, log_end })
    }
}

#[async_trait]
impl dump::Dump for Dump {
    fn log_end(&self) -> Seq {
        self.log_end
    }

    async fn page(&mut self, table: &'static Table, after: Option<&Row>) -> Result<Vec<Row>> {
        let (names, keys) = (table.names(), table.key_names());
        let behind = match after {
            Some(_) => format!("WHERE ({keys}) > ({})", places(table.key_columns)),
            None => String::new(),
        };
        let text = format!("SELECT {names} FROM {} {behind} ORDER BY {keys} LIMIT {}", table.name, table.page_rows);
        let mut query = sqlx::query(AssertSqlSafe(text));
        for value in after.into_iter().flat_map(|row| &row[..table.key_columns]) {
            query = bind(query, value);
        }
        let rows = query.fetch_all(&mut self.connection).await.map_err(failed("dumping"))?;
        rows.iter().map(|row| read(table, row)).collect()
    }
}

fn read(table: &Table, row: &SqliteRow) -> Result<Row> {
    let failed = failed("dumping");
    let value = |(index, kind): (usize, Kind)| {
        let value = match kind {
            Kind::Int => row.try_get::<Option<i64>, _>(index).map(|value| value.map(Value::Int)),
            Kind::Real => row.try_get::<Option<f64>, _>(index).map(|value| value.map(Value::Real)),
            Kind::Flag => row.try_get::<Option<bool>, _>(index).map(|value| value.map(Value::Flag)),
            Kind::Name | Kind::Text => row.try_get::<Option<String>, _>(index).map(|value| value.map(Value::Text)),
            Kind::Bytes => row.try_get::<Option<Vec<u8>>, _>(index).map(|value| value.map(Value::Bytes)),
        };
        value.map(|value| value.unwrap_or(Value::Null)).map_err(&failed)
    };
    table.columns.iter().map(|column| column.kind).enumerate().map(value).collect()
}

/// A transaction over everything that is put.
pub(super) struct Restore {
    connection: SqliteConnection,
}

impl Restore {
    /// FailedPrecondition for a store that holds anything.
    pub(super) async fn begin(options: &SqliteConnectOptions) -> Result<Restore> {
        let mut connection = options.connect().await.map_err(opening)?;
        begin(&mut connection, "BEGIN IMMEDIATE").await?;
        for table in &TABLES {
            let text = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            let is_filled: bool = sqlx::query_scalar(AssertSqlSafe(text))
                .fetch_one(&mut connection)
                .await
                .map_err(failed("looking whether the store is empty"))?;
            if is_filled {
                return Err(Error::FailedPrecondition(format!("the store is not empty: it has {}", table.name)));
            }
        }
        match log::end(&mut connection).await? {
            0 => Ok(Restore { connection }),
            _ => Err(Error::FailedPrecondition("the store was used before: its log has begun".to_owned())),
        }
    }
}

#[async_trait]
impl dump::Restore for Restore {
    async fn put(&mut self, table: &'static Table, rows: Vec<Row>) -> Result<()> {
        let text = format!("INSERT INTO {} ({}) VALUES ({})", table.name, table.names(), places(table.columns.len()));
        let text = sqlx::SqlSafeStr::into_sql_str(AssertSqlSafe(text));
        for row in &rows {
            let query = row.iter().fold(sqlx::query(text.clone()), bind);
            query.execute(&mut self.connection).await.map_err(failed("restoring"))?;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, log_end: Seq) -> Result<()> {
        // Positions of erased rows are not reused either.
        sqlx::raw_sql(AssertSqlSafe(format!(
            "DELETE FROM sqlite_sequence WHERE name = 'log'; \
             INSERT INTO sqlite_sequence (name, seq) SELECT 'log', {log_end} WHERE {log_end} > 0; COMMIT"
        )))
        .execute(&mut self.connection)
        .await
        .map_err(failed("restoring"))?;
        self.connection.close().await.map_err(failed("restoring"))
    }
}

async fn begin(connection: &mut SqliteConnection, how: &'static str) -> Result<()> {
    sqlx::raw_sql(how).execute(connection).await.map(|_| ()).map_err(failed("beginning"))
}

fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}

fn bind<'q>(query: Query<'q, Sqlite, SqliteArguments>, value: &Value) -> Query<'q, Sqlite, SqliteArguments> {
    match value.clone() {
        Value::Null => query.bind(None::<i64>),
        Value::Int(value) => query.bind(value),
        Value::Real(value) => query.bind(value),
        Value::Flag(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
    }
}
