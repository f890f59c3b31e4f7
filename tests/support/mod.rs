//! What several test programs share.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod answers;
pub mod daemon;
pub mod front;
pub mod postgres;
pub mod receiver;
pub mod road;
pub mod scrape;
pub mod villain;

use ringcx_extractor::db::{Access, Db};
use tempfile::TempDir;

/// A database of one kind, empty, that goes with the test.
pub struct TestDb {
    pub db: Db,
    pub folder: TempDir,
}

pub async fn sqlite() -> TestDb {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let db = Db::open_sqlite(&folder.path().join("test.db"), Access::Own).await.expect("a database");
    TestDb { db, folder }
}

pub async fn postgres() -> TestDb {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = tokio::task::spawn_blocking(postgres::database).await.expect("a database");
    TestDb { db: Db::open_postgres(&url, Access::Own, 4).await.expect("a connection"), folder }
}

/// The status and the body that a GET of this is answered with.
pub async fn fetched(url: &str) -> (u16, String) {
    ringcx_extractor::ringcx::install_tls();
    let patience = std::time::Duration::from_secs(10);
    let client = reqwest::Client::builder().no_proxy().timeout(patience).build().expect("a client");
    let answer = client.get(url).send().await.expect("an answer");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

/// Runs one test body on both databases, as two tests.
#[macro_export]
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::support::sqlite().await).await; })+
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name($crate::support::postgres().await).await; })+
        }
    };
}
