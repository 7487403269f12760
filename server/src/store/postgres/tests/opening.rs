//! What goes wrong at start: in plain words, with the key of the config, without the password.

use super::*;

/// The tests' URL with parts replaced.
fn with(change: impl FnOnce(&mut url::Url)) -> String {
    let mut url = url::Url::parse(&testkit::server("MARQUEE_TEST_POSTGRES")).unwrap();
    change(&mut url);
    url.into()
}

async fn refused(url: String) -> String {
    let mut schema = Schema::new();
    let good = std::mem::replace(&mut schema.config.store.url, url.into());
    let refused = schema.open().await.map(|_| ()).unwrap_err();
    schema.config.store.url = good;
    match refused {
        Error::InvalidArgument { field, rule } => {
            assert_eq!(field, "store.url");
            assert!(!rule.contains("hush"), "{rule}");
            rule
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_used_is_named_in_plain_words() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let unreachable = refused(format!("postgres://ann:hush@127.0.0.1:{port}/x")).await;
    assert!(unreachable.contains(&format!("127.0.0.1:{port} cannot be reached")), "{unreachable}");
    let unknown = refused("postgres://ann:hush@no-such-host.invalid/x".to_owned()).await;
    assert!(unknown.contains("no-such-host.invalid:5432 cannot be reached"), "{unknown}");
    let database = refused(with(|url| url.set_path("/no-such-database"))).await;
    assert!(database.contains("has no database \"no-such-database\""), "{database}");
    let user = refused(with(|url| {
        url.set_username("nobody-here").unwrap();
        url.set_password(Some("hush")).unwrap();
    }))
    .await;
    assert!(user.contains("\"nobody-here\""), "{user}");
    // The tests' server speaks plain text.
    let tls = refused(with(|url| url.set_query(Some("sslmode=require")))).await;
    assert!(tls.contains("TLS"), "{tls}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut schema = Schema::new();
    let url = format!("postgres://ann:hush@{}/x", silent.local_addr().unwrap());
    let good = std::mem::replace(&mut schema.config.store.url, url.as_str().into());
    schema.config.store.connect_timeout_ms = 100;
    let refused = schema.open().await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, Error::InvalidArgument { rule, .. } if rule.contains("connect_timeout_ms")),
        "{refused:?}"
    );
    schema.config.store.url = good;
}

#[tokio::test]
async fn a_newer_schema_is_refused_in_plain_words() {
    let schema = Schema::new();
    schema.open().await.unwrap().close().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'later', TRUE, '', 0)",
    )
    .execute(&mut schema.connect().await)
    .await
    .unwrap();
    let refused = schema.open().await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, Error::InvalidArgument { field, rule } if field == "store.url" && rule.contains("999")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn several_processes_may_make_the_schema_at_once() {
    let schema = Schema::new();
    let (a, b, c, d) = tokio::join!(schema.open(), schema.open(), schema.open(), schema.open());
    let stores = [a, b, c, d].map(|store| store.unwrap());
    for (n, store) in stores.iter().enumerate() {
        store.append_events(vec![event(&n.to_string())], 1).await.unwrap();
    }
    assert_eq!(stores[0].log_end().await.unwrap(), 4);
    for store in &stores {
        store.close().await;
    }
}

#[tokio::test]
async fn an_administrators_schema_needs_no_right_to_make_one() {
    let schema = Schema::new();
    let mut admin = schema.connect().await;
    let (name, role) = (schema.config.namespace.clone(), testkit::unique("role"));
    let run = async |sql: &mut sqlx::PgConnection, text: String| {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(sql).await.unwrap();
    };
    run(
        &mut admin,
        format!("CREATE ROLE \"{role}\" LOGIN PASSWORD 'hush'; CREATE SCHEMA \"{name}\" AUTHORIZATION \"{role}\""),
    )
    .await;
    let mut limited = Schema::new();
    limited.config.namespace = name;
    limited.config.store.url = with(|url| {
        url.set_username(&role).unwrap();
        url.set_password(Some("hush")).unwrap();
    })
    .into();
    let store = limited.open().await;
    // One who may not: says so.
    let forbidden = Config { namespace: testkit::unique("other"), ..limited.config.clone() };
    let refused = Postgres::open(&forbidden, Arc::new(Metrics::new())).await.map(|_| ()).unwrap_err();
    let done = match &store {
        Ok(store) => store.append_events(vec![event("1")], 1_767_225_600_000).await,
        Err(error) => Err(error.clone()),
    };
    if let Ok(store) = store {
        store.close().await;
    }
    drop(limited);
    run(&mut admin, format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    assert!(matches!(done.unwrap()[..], [Outcome::Accepted { seq: 1, .. }]));
    assert!(matches!(&refused, Error::InvalidArgument { rule, .. } if rule.contains("permission")), "{refused:?}");
}
