//! `migrate --to`: an archive that was created on SQLite is copied to Postgres and continues there.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use ringcx_extractor::db::{Db, PostgresCopy, sql};
use ringcx_extractor::model::{AccountId, TimeRange};
use ringcx_extractor::sim::compare_export;
use secrecy::ExposeSecret;
use serde_json::Value;
use support::test_env::scenario::millis;
use support::test_env::{Scenario, TempDatabase, TestEnv};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Live data, a backfill of a month, and slow summaries, so that work is always in progress.
fn scenario(length: Duration) -> Scenario {
    let scenario = Scenario::live(length).set("discovery.start", "now").set("discovery.max_window", "1h");
    scenario.set("fetch.retry_max", "3s").configure_sim(|sim| {
        sim.traffic.history = 30 * DAY;
        sim.traffic.per_minute = 0.02;
        sim.availability.summary_after = millis(2_000, 8_000);
    })
}

async fn create_postgres_url() -> String {
    let url = tokio::task::spawn_blocking(support::postgres_cluster::create_database).await.unwrap();
    url.expose_secret().to_owned()
}

/// Waits until some of the backfill's more than 700 windows are read, and items wait for a retry.
async fn wait_until_busy(env: &TestEnv) {
    env.wait_until("the first window is read", async || env.account_status().await["watermark"].is_string()).await;
    env.run(&["backfill", "--from", "30d", "--to", "2s"]).await.assert_output(0, &[]);
    env.wait_until("some of the month is read", async || env.sim.expected_archive().announced_count() > 100).await;
    env.wait_until("items wait", async || env.account_status().await["work"]["waiting"].as_u64() > Some(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_moves_to_postgres_in_the_middle_of_everything() {
    let length = 12 * SECOND;
    let mut env = TestEnv::new(TempDatabase::sqlite(), scenario(length)).await;
    let account = env.main_account();
    let burst = |at| ringcx_extractor::sim::Burst { from: at, width: length - SECOND, count: 150 };
    env.sim.add_burst(&account, burst(env.begin));
    env.start();
    wait_until_busy(&env).await;
    let url = create_postgres_url().await;
    env.run(&["migrate", "--to", &url]).await.assert_output(1, &["another daemon", "is using the database", "hint:"]);
    env.stop().await;

    let before = capture_state(&env).await;
    let first = env.run(&["export"]).await;
    let mark = first.err.trim().rsplit(' ').next().unwrap().to_owned();
    let heads = env.database.folder.path().join("manifests.jsonl").display().to_string();
    env.run_ok(&["verify", "--manifests", &heads]).await;
    let file = env.database.url.strip_prefix("sqlite:").unwrap().to_owned();
    let bytes = std::fs::read(&file).unwrap();
    let secret = env.database.folder.path().join("url");
    std::fs::write(&secret, format!("{url}\n")).unwrap();
    let output = env.run(&["migrate", "--to-file", &secret.display().to_string()]).await;
    output.assert_output(0, &["copied", "rows of", "set database.url"]);
    assert!(std::fs::read(&file).unwrap() == bytes, "the SQLite file is not what it was");
    env.run(&["migrate", "--to", &url])
        .await
        .assert_output(1, &["is in use already", "hint: move into an empty database"]);
    env.run(&["migrate", "--to", "mysql://u:secret@h/d"]).await.assert_output(2, &["is not a Postgres URL", "hint:"]);
    env.set("database.url", url.clone());
    env.run(&["migrate", "--to", &url]).await.assert_output(2, &["is already a Postgres URL", "hint:"]);

    // The hash chains were copied.
    env.run_ok(&["verify", "--against", &heads]).await;

    let after = capture_state(&env).await;
    assert!(after.export == before.export, "the archive holds something else");
    assert!(after.queue == before.queue, "something else is left to be done");
    assert_eq!((&after.watermark, &after.done), (&before.watermark, &before.done));
    assert!(before.queue.iter().any(|item| item["tries"].as_u64() > Some(0)), "nothing was backing off");
    assert!(!before.export.is_empty() && before.export == first.out, "the export before");
    let (audit, _) = env.audit_json().await;
    assert_ne!(audit["accounts"][0]["segments"]["announced"], 0);

    env.start();
    wait_until_month_complete(&env).await;
    assert_eq!(
        env.sim.expected_archive().repeated_serves(),
        Vec::<String>::new(),
        "what was fetched before the copy is not fetched again"
    );
    let watermark = env.account_status().await["watermark"].as_str().unwrap().to_owned();
    assert!(watermark.as_str() > before.watermark.as_str(), "the watermark does not move on from {}", before.watermark);
    assert_mark_still_valid(&env, &mark, &first.out).await;
}

/// The state that a copy must not change.
struct ArchiveState {
    export: String,
    queue: Vec<Value>,
    watermark: String,
    done: Value,
}

async fn capture_state(env: &TestEnv) -> ArchiveState {
    let account = env.account_status().await;
    let mut queue = env.queue_items(&["--all"]).await;
    for item in &mut queue {
        // Waiting items become ready as time passes.
        item["state"] = Value::Null;
    }
    queue.sort_by_key(Value::to_string);
    ArchiveState {
        export: env.run_ok(&["export"]).await,
        queue,
        watermark: account["watermark"].as_str().unwrap().to_owned(),
        done: account["work"]["done"].clone(),
    }
}

async fn wait_until_month_complete(env: &TestEnv) {
    let all = TimeRange { from: env.begin - 31 * DAY, to: env.begin + DAY };
    env.wait_until("the month is complete", async || {
        let ledger = env.sim.expected_archive().segments_in(all, env.sim.now());
        let there = env.sim.now() > env.begin + 21 * SECOND;
        there
            && ledger.len() > 800
            && compare_export(&env.run_ok(&["export"]).await, &ledger, env.scenario.wants).is_empty()
    })
    .await;
    env.wait_for_audit().await;
    env.assert_contract_kept();
    assert_eq!(env.sim.stats().total_refused(), 0, "requests beyond a limit");
}

/// Asserts that an export mark of SQLite is valid on Postgres: `--changed-since` contains every new or changed segment.
async fn assert_mark_still_valid(env: &TestEnv, mark: &str, before: &str) {
    let lines = |text: &str| -> HashMap<String, String> {
        let id = |line: &str| {
            ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segment_id"].as_str().unwrap().to_owned()
        };
        text.lines().map(|line| (id(line), line.to_owned())).collect()
    };
    let (before, now) = (lines(before), lines(&env.run_ok(&["export"]).await));
    let since = lines(&env.run_ok(&["export", "--changed-since", mark]).await);
    for (id, line) in &now {
        assert!(before.get(id) == Some(line) || since.get(id) == Some(line), "{id} changed and is left out");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_moves_with_what_postgres_cannot_hold_replaced() {
    let source = support::open_sqlite().await;
    let from = source.db.clone();
    let now = ringcx_extractor::clock::Time(1_700_000_000_000);
    let account = from.register_account(&AccountId::new("1", "2"), Some("one\0two"), now).await.unwrap();
    let owned = from.acquire_leases(&[account.key], "here", 10 * SECOND, now).await.unwrap().remove(0);
    from.request_backfill(account.key, TimeRange { from: now - DAY, to: now }, true, now).await.unwrap();
    from.release_leases(&[owned], now).await.unwrap();

    let target = support::open_postgres().await;
    let to = target.db.clone();
    // An interrupted copy leaves nothing.
    let mut moving = PostgresCopy::begin(&from, &to).await.unwrap();
    moving.copy_tables(&|_| {}).await.unwrap();
    drop(moving);
    assert!(to.accounts().await.unwrap().is_empty());

    let mut moving = PostgresCopy::begin(&from, &to).await.unwrap();
    let rows = moving.rows();
    moving.copy_tables(&|_| {}).await.unwrap();
    let moved = moving.finish(now).await.unwrap();
    assert_eq!((moved.replaced_texts, moved.tables.iter().map(|table| table.rows).sum::<u64>()), (1, rows));
    let held = to.accounts().await.unwrap().remove(0);
    assert_eq!((held.key, held.name.as_deref(), held.owner), (account.key, Some("one\u{fffd}two"), None));
    // New rows are numbered after the copied ones, and the next owner gets a new epoch.
    let second = to.register_account(&AccountId::new("1", "3"), None, now).await.unwrap();
    assert_eq!(second.key.0, account.key.0 + 1);
    let taken = to.acquire_leases(&[account.key], "there", 10 * SECOND, now).await.unwrap().remove(0);
    assert!(taken.epoch > owned.epoch + 1);
    assert_eq!(
        uncopied_tables(&from, &moved.tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>()).await,
        Vec::<String>::new()
    );
}

/// Tables that were not copied, without those of the index and of the database itself.
async fn uncopied_tables(from: &Db, moved: &[String]) -> Vec<String> {
    let stmt = sql("select name from pragma_table_list where schema = 'main' and type = 'table' order by name");
    let names: Vec<String> = from.values(stmt).await.unwrap();
    let is_internal = |name: &str| ["sqlite_", "_sqlx", "search_"].iter().any(|other| name.starts_with(other));
    names.into_iter().filter(|name| !is_internal(name) && !moved.contains(name)).collect()
}
