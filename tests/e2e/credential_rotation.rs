//! Credentials that change while the daemon runs, and Postgres behind PgBouncer.
//!
//! The tests with PgBouncer run where it is installed; `scripts/check-pgbouncer` insists on it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringcx_extractor::sim::AcceptedCredentials;
use rustix::process::Signal;
use sqlx::Connection as _;
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! {
    a_new_client_secret_and_jwt_in_the_settings_are_used_after_sighup,
}

const SECOND: Duration = Duration::from_secs(1);

async fn a_new_client_secret_and_jwt_in_the_settings_are_used_after_sighup(database: TempDatabase) {
    let mut env = TestEnv::with_daemon(database, Scenario::live(3 * SECOND)).await;
    // A token that is revoked before its first use is taken for a missing role, and kept for a minute.
    env.wait_until("the first login is complete", async || env.sim.stats().exchanges > 0).await;
    let fresh = AcceptedCredentials { client_secret: "new-secret".into(), jwt: "new.jwt".into(), ..Default::default() };
    env.sim.control().set_credentials(fresh.clone());
    env.set("auth.client_secret", fresh.client_secret);
    env.set("auth.jwt", fresh.jwt);
    env.signal(Signal::HUP);
    env.wait_for_log("the credentials have changed: logging in with the new ones").await;
    env.wait_until("the second login is complete", async || env.sim.stats().exchanges > 1).await;
    env.sim.control().revoke_all_tokens();
    env.expect_complete_archive().await;
    env.stop().await;
}

/// PgBouncer with its defaults in front of a database. It ends with the test.
struct PgBouncer {
    process: Child,
    folder: tempfile::TempDir,
}

impl PgBouncer {
    /// `None` where it is not installed.
    fn start(database_url: &str, mode: &str) -> Option<PgBouncer> {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            assert!(std::env::var_os("REQUIRE_PGBOUNCER").is_none(), "PgBouncer is not installed");
            println!("skipped: PgBouncer is not installed");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("rxpb").tempdir_in("/tmp").unwrap();
        let (server, name) = server_and_name(database_url);
        std::fs::write(folder.path().join("users"), "\"postgres\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\n{name} = host={server} dbname={name}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {0}\n\
             auth_type = trust\nauth_file = {0}/users\nlogfile = {0}/log\npool_mode = {mode}\n",
            folder.path().display()
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        let chown = Command::new("chown").args(["-R", "postgres"]).arg(folder.path()).status();
        let mut command = match chown {
            // It refuses to run as root.
            Ok(status) if status.success() => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", program]);
                command
            }
            _ => Command::new(program),
        };
        let process = command.arg("-q").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(PgBouncer { process, folder })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.6432")
    }

    /// The URL of the same database through the pooler.
    fn url(&self, database_url: &str) -> String {
        let (_, name) = server_and_name(database_url);
        format!("postgres://postgres@localhost:6432/{name}?host={}", self.folder.path().display())
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The folder of the server's socket, and the database's name.
fn server_and_name(database_url: &str) -> (String, String) {
    let (rest, server) = database_url.split_once("?host=").unwrap();
    (server.to_owned(), rest.rsplit_once('/').unwrap().1.to_owned())
}

async fn env_behind(mode: &str) -> Option<(TestEnv, PgBouncer)> {
    let mut database = TempDatabase::postgres().await;
    let pooler = PgBouncer::start(&database.url, mode)?;
    database.url = pooler.url(&database.url);
    let env = TestEnv::new(database, Scenario::live(2 * SECOND)).await;
    env.wait_until("PgBouncer listens", async || pooler.socket().exists()).await;
    Some((env, pooler))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_in_session_mode_works_with_its_defaults() {
    let Some((mut env, _pooler)) = env_behind("session").await else { return };
    env.start();
    env.expect_complete_archive().await;
    env.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pgbouncer_in_transaction_mode_is_refused_at_the_start_with_what_to_do() {
    let Some((env, _pooler)) = env_behind("transaction").await else { return };
    env.run(&["run"])
        .await
        .assert_output(1, &["a connection pooler in transaction mode", "hint:", "pool_mode = session"]);
    assert_eq!(env.sim.stats().total_requests(), 0);
}

async fn execute(connection: &mut sqlx::PgConnection, statement: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await.unwrap();
}

/// Passwords that are valid for some seconds, as tokens of a cloud's identity service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_password_that_keeps_changing_is_read_for_each_new_connection() {
    let database = TempDatabase::postgres().await;
    let (url, file) = (database.url.clone(), database.folder.path().join("url"));
    let (_, name) = server_and_name(&url);
    let mut admin = sqlx::PgConnection::connect(&url).await.unwrap();
    let role = |number: usize| format!("token_{name}_{number}");
    let write = |number: usize| std::fs::write(&file, url.replace("postgres@", &format!("{}@", role(number)))).unwrap();
    execute(&mut admin, format!("create role {} login superuser", role(0))).await;
    write(0);
    let mut env = TestEnv::new(database, Scenario::live(6 * SECOND)).await;
    env.scenario.settings.remove("database.url");
    env.set("database.url_file", file.display().to_string());
    env.start();
    env.wait_for_log("working").await;
    for number in 1..3 {
        // The next token is there before this one ends.
        execute(&mut admin, format!("create role {} login superuser", role(number))).await;
        write(number);
        env.clock.sleep(3 * SECOND).await;
        execute(&mut admin, format!("alter role {} nologin", role(number - 1))).await;
        let end = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' and pid <> pg_backend_pid()"
        );
        execute(&mut admin, end).await;
    }
    env.expect_complete_archive().await;
    env.stop().await;
    assert!(!env.log().contains("not permitted to log in"), "an old token was used for a new connection");
}
