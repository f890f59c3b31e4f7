//! Test support that several test programs share.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod delay_proxy;
pub mod hostile_server;
pub mod metric_catalog;
pub mod postgres_cluster;
pub mod s3_server;
pub mod stub_api;
pub mod stub_issuer;
pub mod test_env;
pub mod tls_proxy;
pub mod webhook_receiver;

use ringcx_extractor::db::{Db, OpenMode, Stmt, sql};
use tempfile::TempDir;

/// An empty open database, removed with the test.
pub struct TestDb {
    pub db: Db,
    pub folder: TempDir,
}

impl TestDb {
    /// Makes the database drop each row that is inserted into this table, without an error.
    pub async fn drop_inserted_rows(&self, table: &str) {
        let action = if self.db.sqlite_path().is_some() {
            "begin select raise(ignore); end"
        } else {
            let function =
                "create or replace function drop_row() returns trigger language plpgsql as 'begin return null; end'";
            self.db.run(sql(function)).await.expect("a function");
            "for each row execute function drop_row()"
        };
        let trigger = format!("create trigger drop_{table} before insert on {table} {action}");
        self.db.run(Stmt::built(trigger)).await.expect("a trigger");
    }
}

pub async fn open_sqlite() -> TestDb {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let db = Db::open_sqlite(&folder.path().join("test.db"), OpenMode::CreateOrMigrate).await.expect("a database");
    TestDb { db, folder }
}

pub async fn open_postgres() -> TestDb {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = tokio::task::spawn_blocking(postgres_cluster::create_database).await.expect("a database");
    TestDb { db: Db::open_postgres(&url, OpenMode::CreateOrMigrate, 4).await.expect("a connection"), folder }
}

/// Sends a GET request; returns the status and the body of the response.
pub async fn http_get(url: &str) -> (u16, String) {
    ringcx_extractor::ringcx::install_tls();
    let timeout = std::time::Duration::from_secs(10);
    let client = reqwest::Client::builder().no_proxy().timeout(timeout).build().expect("a client");
    let response = client.get(url).send().await.expect("a response");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

/// Runs each test body on SQLite and on Postgres, as two tests.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::support::open_sqlite().await).await; })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::support::open_postgres().await).await; })+
        }
    };
}
