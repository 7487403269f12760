//! Opening a schema: is the server fit, make the schema, apply what is missing. Several processes may do so at once.

use sqlx::migrate::MigrateError;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::fields::Fields;
use super::session::{Server, failed};
use crate::error::{Error, Result};
use crate::store::schema_problem;

/// The oldest server that is tested for: 13, as `server_version_num` says it.
const VERSION_MIN: i32 = 130_000;

pub(super) async fn run(server: &Server) -> Result<()> {
    let mut sql = server.connect_for_long().await.map_err(server.opening())?;
    fit(&mut sql).await?;
    // One process after the other, the schema's making included. Ends with the connection, too.
    sqlx::query("SELECT pg_advisory_lock(hashtextextended($1, 0))")
        .bind(format!("marquee migrations of {}", server.schema))
        .execute(&mut sql)
        .await
        .map_err(server.opening())?;
    make_schema(&mut sql, server).await?;
    let mut migrations = sqlx::migrate!("migrations/postgres");
    migrations.set_locking(false);
    migrations.run(&mut sql).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => server.opening()(error),
        other => schema_problem(other),
    })?;
    // It has done its work; a server that hangs now is met by the next connection.
    tokio::time::timeout(server.connect, sql.close()).await.ok();
    Ok(())
}

async fn fit(sql: &mut PgConnection) -> Result<()> {
    let doing = "asking the server for its version";
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), pg_is_in_recovery()",
    )
    .fetch_one(sql)
    .await
    .map_err(failed(doing))?;
    let fields = Fields { row: &row, doing };
    let (version, encoding, is_standby) = (fields.get::<i32>(0)?, fields.get::<String>(1)?, fields.get::<bool>(2)?);
    let rule = if version < VERSION_MIN {
        format!("needs PostgreSQL {} or later, and this is {}", VERSION_MIN / 10_000, version / 10_000)
    } else if encoding != "UTF8" {
        format!("needs a database in UTF8, and this one is in {encoding}")
    } else if is_standby {
        "names a standby, which takes no writes".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::invalid("store.url", rule))
}

/// Asks first: a schema that an administrator made needs no right to make one.
async fn make_schema(sql: &mut PgConnection, server: &Server) -> Result<()> {
    let is_there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)")
        .bind(&*server.schema)
        .fetch_one(&mut *sql)
        .await
        .map_err(server.opening())?;
    if !is_there {
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA \"{}\"", server.schema)))
            .execute(sql)
            .await
            .map_err(server.opening())?;
    }
    Ok(())
}
