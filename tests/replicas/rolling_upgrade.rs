//! Upgrade and rollback with two builds of the program. `scripts/try-upgrade` builds the older one and runs this; the newer one is
//! that of this source. Where the newer program only expanded the database, both work on it. Where it took something away, the
//! older replicas release their accounts and write no more.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use sqlx::PgConnection;

use crate::support;
use crate::support::test_env::daemon_process::current_program;
use crate::support::test_env::{Scenario, TempDatabase, TestEnv, WAIT_TIMEOUT};
use crate::{
    Replica, SECOND, account_owners, assert_delivered, assert_one_owner_at_a_time, is_shared_evenly,
    record_owner_changes, scenario,
};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// How long segments continue to end: longer than the replacements take on a busy machine.
const LOAD: Duration = Duration::from_secs(120);

fn older_program() -> PathBuf {
    let program = std::env::var_os("OLDER_PROGRAM").expect("OLDER_PROGRAM names an older program: scripts/try-upgrade");
    std::path::absolute(program).expect("a path")
}

/// The replicas, and the number that the next log file gets.
struct Deployment {
    replicas: Vec<Replica>,
    started: usize,
}

impl Deployment {
    fn start(&mut self, env: &TestEnv, name: &str, program: &Path) {
        self.started += 1;
        self.replicas.push(Replica::start_program(env, name, program, &format!("replica-{}.log", self.started)));
    }

    /// Shuts a replica down in order.
    async fn stop(&mut self, env: &TestEnv, name: &str) {
        let at = self.replicas.iter().position(|replica| replica.name == name).expect("a replica of that name");
        let mut replica = self.replicas.remove(at);
        replica.signal(Signal::TERM);
        env.wait_until(&format!("{name} ends"), async || replica.child.try_wait().unwrap().is_some()).await;
        assert_eq!(replica.child.wait().unwrap().code(), Some(0), "{}", replica.log_text());
    }

    fn replica(&self, name: &str) -> &Replica {
        self.replicas.iter().find(|replica| replica.name == name).expect("a replica of that name")
    }

    async fn wait_until_shared(&self, env: &TestEnv, names: &[&str]) {
        env.wait_until_within(WAIT_TIMEOUT, &format!("{names:?} share the accounts"), async || {
            is_shared_evenly(&account_owners(env).await, names)
        })
        .await;
    }

    async fn assert_all_ready(&self, env: &TestEnv) {
        for replica in &self.replicas {
            replica.wait_for_readiness(env, 200).await;
            assert!(!replica.log_text().contains("newer version"), "{}", replica.log_text());
        }
    }
}

impl Replica {
    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until `/readyz` answers with this status; returns the body.
    async fn wait_for_readiness(&self, env: &TestEnv, wanted: u16) -> String {
        let mut answered = String::new();
        env.wait_until(&format!("readyz of {} answers {wanted}", self.name), async || {
            let log = self.log_text();
            let Some((_, rest)) = log.rsplit_once("the dashboard is at ") else { return false };
            let url = rest.split_whitespace().next().unwrap_or_default();
            let (status, body) = support::http_get(&format!("{url}readyz")).await;
            answered = body;
            status == wanted
        })
        .await;
        answered
    }
}

async fn newest_migration(db: &mut PgConnection) -> i64 {
    sqlx::query_scalar("select max(version) from _sqlx_migrations where success").fetch_one(db).await.unwrap()
}

/// The migration that a program must know to write.
async fn oldest_writer(db: &mut PgConnection) -> i64 {
    let text: String =
        sqlx::query_scalar("select value from meta where key = 'schema.oldest_writer'").fetch_one(db).await.unwrap();
    text.parse().unwrap()
}

/// When replicas last wrote, by the database.
async fn heartbeats(db: &mut PgConnection, names: &[&str]) -> Vec<(String, i64)> {
    let query = "select name, heartbeat from replica where name = any($1) order by name";
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    sqlx::query_as(query).bind(names).fetch_all(db).await.unwrap()
}

/// Asserts that these replicas, which are too old for the database, are unready, own nothing and write nothing, and that
/// `writers` own everything.
async fn assert_shut_out(
    env: &TestEnv,
    db: &mut PgConnection,
    deployment: &Deployment,
    old: &[&str],
    writers: &[&str],
) {
    for name in old {
        let replica = deployment.replica(name);
        let body = replica.wait_for_readiness(env, 503).await;
        assert!(body.contains("newer version of this program has migrated"), "{body}");
        env.wait_until(&format!("{name} has released its accounts"), async || {
            replica.log_text().contains("released all accounts; writing stops")
        })
        .await;
    }
    deployment.wait_until_shared(env, writers).await;
    let before = heartbeats(db, old).await;
    env.clock.sleep(5 * SECOND).await;
    assert_eq!(heartbeats(db, old).await, before, "a replica that is too old writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an older program: scripts/try-upgrade"]
async fn replicas_are_replaced_one_at_a_time_forth_and_back_under_load() {
    let (older, newer) = (older_program(), current_program());
    let scenario = scenario(LOAD).set("http.listen", "127.0.0.1:0").configure_sim(|sim| sim.traffic.per_minute = 40.0);
    let mut env = TestEnv::new(TempDatabase::postgres().await, scenario).await;
    env.set_program(&older);
    let mut db = record_owner_changes(&env).await;
    let created = newest_migration(&mut db).await;
    let mut deployment = Deployment { replicas: Vec::new(), started: 0 };
    for name in NAMES {
        deployment.start(&env, name, &older);
    }
    deployment.wait_until_shared(&env, &NAMES).await;

    // Forth. The first newer replica migrates the database.
    env.set_program(&newer);
    deployment.stop(&env, NAMES[0]).await;
    deployment.start(&env, NAMES[0], &newer);
    deployment.replica(NAMES[0]).wait_for_readiness(&env, 200).await;
    let migrated = newest_migration(&mut db).await;
    let is_expanded_only = oldest_writer(&mut db).await <= created;
    println!("the older program created migration {created}, the newer one migrated to {migrated}");
    if !is_expanded_only {
        println!("that shuts the older program out");
        assert_shut_out(&env, &mut db, &deployment, &NAMES[1..], &NAMES[..1]).await;
    }
    for (index, name) in NAMES.iter().enumerate().skip(1) {
        deployment.stop(&env, name).await;
        deployment.start(&env, name, &newer);
        deployment.wait_until_shared(&env, if is_expanded_only { &NAMES } else { &NAMES[..=index] }).await;
        if is_expanded_only {
            deployment.assert_all_ready(&env).await;
        }
    }

    // Back, and then forth as after a migration that takes something away.
    if is_expanded_only {
        for name in NAMES {
            deployment.stop(&env, name).await;
            deployment.start(&env, name, &older);
            deployment.wait_until_shared(&env, &NAMES).await;
            deployment.assert_all_ready(&env).await;
        }
        if migrated > created {
            deployment.start(&env, "four", &newer);
            deployment.replica("four").wait_for_readiness(&env, 200).await;
            let contract = "update meta set value = $1 where key in ('schema.oldest_writer', 'schema.newest_marked')";
            sqlx::query(contract).bind(migrated.to_string()).execute(&mut db).await.unwrap();
            assert_shut_out(&env, &mut db, &deployment, &NAMES, &["four"]).await;
        } else {
            println!("both programs have the same migrations: no replica could be too old");
        }
    }
    let load_ended = env.clock.now() >= env.begin + LOAD;
    env.expect_complete_archive().await;
    assert_delivered(&env).await;
    env.run_ok(&["verify"]).await;
    let changes = assert_one_owner_at_a_time(&env, &mut db).await;
    let stats = env.sim.stats();
    println!(
        "{changes} changes of owner; {} requests, {} refused, at most {} of 240 in any minute; {} segments, the export equals \
         the simulator's ledger{}",
        stats.total_requests(),
        stats.total_refused(),
        stats.peak_per_minute,
        env.expected_segments().len(),
        if load_ended { "; the load ended before the last replacement" } else { "" }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an older program: scripts/try-upgrade"]
async fn the_older_program_opens_a_file_that_the_newer_one_expanded_and_no_other() {
    let (older, newer) = (older_program(), current_program());
    let mut env = TestEnv::new(TempDatabase::sqlite(), Scenario::live(20 * SECOND)).await;
    let mut is_shut_out = false;
    for program in [&older, &newer, &older, &newer] {
        env.set_program(program);
        if *program == older && env.log().contains("stopped") {
            let started = env.run(&["status"]).await;
            is_shut_out = started.status != 0;
            if is_shut_out {
                for command in ["run", "status", "export"] {
                    env.run(&[command]).await.assert_output(1, &["newer version of this program", "hint:"]);
                }
                continue;
            }
        }
        let requests = env.sim.stats().total_requests();
        env.start();
        env.wait_until("it fetches", async || env.sim.stats().total_requests() > requests + 3).await;
        env.stop().await;
        for command in ["status", "export", "verify"] {
            env.run_ok(&[command]).await;
        }
    }
    println!("the older program {}", if is_shut_out { "is shut out, and says so" } else { "went on with the file" });
    env.start();
    env.expect_complete_archive().await;
    env.stop().await;
    env.run_ok(&["verify"]).await;
}
