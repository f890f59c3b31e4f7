//! Moving house: an archive that has grown on SQLite goes on growing on Postgres as if nothing had happened.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use ringcx_extractor::db::{Db, Moving, sql};
use ringcx_extractor::model::{AccountId, Stretch};
use ringcx_extractor::sim::compare;
use secrecy::ExposeSecret;
use serde_json::Value;
use support::daemon::plan::millis;
use support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Live data, a month of the past asked for, and summaries that take their time: there is always something under way.
fn plan(length: Duration) -> Plan {
    let plan = Plan::live(length).set("discovery.start", "now").set("discovery.max_window", "1h");
    plan.set("fetch.retry_max", "3s").sim(|sim| {
        sim.traffic.history = 30 * DAY;
        sim.traffic.per_minute = 0.02;
        sim.availability.summary_after = millis(2_000, 8_000);
    })
}

async fn new_database() -> String {
    let url = tokio::task::spawn_blocking(support::postgres::database).await.unwrap();
    url.expose_secret().to_owned()
}

/// Waits for windows of the backfill, of which there are more than seven hundred, and for items that wait to be tried again.
async fn in_the_middle(rig: &Rig) {
    rig.until("the first window is read", async || rig.account().await["watermark"].is_string()).await;
    rig.run(&["backfill", "--from", "30d", "--to", "2s"]).await.is(0, &[]);
    rig.until("some of the month is read", async || rig.sim.ledger().announced_count() > 100).await;
    rig.until("items wait", async || rig.account().await["work"]["waiting"].as_u64() > Some(0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_moves_to_postgres_in_the_middle_of_everything() {
    let length = 12 * SECOND;
    let mut rig = Rig::new(Place::sqlite(), plan(length)).await;
    let account = rig.main_account();
    let burst = |at| ringcx_extractor::sim::Burst { from: at, width: length - SECOND, count: 150 };
    rig.sim.add_burst(&account, burst(rig.begin));
    rig.start();
    in_the_middle(&rig).await;
    let url = new_database().await;
    rig.run(&["migrate", "--to", &url]).await.is(1, &["another daemon", "is using the database", "hint:"]);
    rig.stop().await;

    let before = picture(&rig).await;
    let first = rig.run(&["export"]).await;
    let mark = first.err.trim().rsplit(' ').next().unwrap().to_owned();
    let heads = rig.place.folder.path().join("manifests.jsonl").display().to_string();
    rig.output(&["verify", "--manifests", &heads]).await;
    let file = rig.place.url.strip_prefix("sqlite:").unwrap().to_owned();
    let bytes = std::fs::read(&file).unwrap();
    let secret = rig.place.folder.path().join("url");
    std::fs::write(&secret, format!("{url}\n")).unwrap();
    let output = rig.run(&["migrate", "--to-file", &secret.display().to_string()]).await;
    output.is(0, &["moved", "rows of", "set database.url"]);
    assert!(std::fs::read(&file).unwrap() == bytes, "the SQLite file is not what it was");
    rig.run(&["migrate", "--to", &url]).await.is(1, &["is in use already", "hint: move into an empty database"]);
    rig.run(&["migrate", "--to", "mysql://u:secret@h/d"]).await.is(2, &["names no Postgres database", "hint:"]);
    rig.set("database.url", url.clone());
    rig.run(&["migrate", "--to", &url]).await.is(2, &["names Postgres already", "hint:"]);

    // The chains came along.
    rig.output(&["verify", "--against", &heads]).await;

    let after = picture(&rig).await;
    assert!(after.export == before.export, "the archive holds something else");
    assert!(after.queue == before.queue, "something else is left to be done");
    assert_eq!((&after.watermark, &after.done), (&before.watermark, &before.done));
    assert!(before.queue.iter().any(|item| item["tries"].as_u64() > Some(0)), "nothing was backing off");
    assert!(!before.export.is_empty() && before.export == first.out, "the export before");
    let (audit, _) = rig.audit().await;
    assert_ne!(audit["accounts"][0]["segments"]["announced"], 0);

    rig.start();
    finished(&rig).await;
    assert_eq!(
        rig.sim.ledger().served_again(),
        Vec::<String>::new(),
        "what was fetched before the move is not fetched again"
    );
    let watermark = rig.account().await["watermark"].as_str().unwrap().to_owned();
    assert!(watermark.as_str() > before.watermark.as_str(), "the watermark does not move on from {}", before.watermark);
    changed_since(&rig, &mark, &first.out).await;
}

/// What must not change by a move.
struct Picture {
    export: String,
    queue: Vec<Value>,
    watermark: String,
    done: Value,
}

async fn picture(rig: &Rig) -> Picture {
    let account = rig.account().await;
    let mut queue = rig.queue(&["--all"]).await;
    for item in &mut queue {
        // What waits becomes ready as time goes by.
        item["state"] = Value::Null;
    }
    queue.sort_by_key(Value::to_string);
    Picture {
        export: rig.output(&["export"]).await,
        queue,
        watermark: account["watermark"].as_str().unwrap().to_owned(),
        done: account["work"]["done"].clone(),
    }
}

async fn finished(rig: &Rig) {
    let all = Stretch { from: rig.begin - 31 * DAY, to: rig.begin + DAY };
    rig.until("the month is complete", async || {
        let ledger = rig.sim.ledger().ledger_for(all, rig.sim.now());
        let there = rig.sim.now() > rig.begin + 21 * SECOND;
        there && ledger.len() > 800 && compare(&rig.output(&["export"]).await, &ledger, rig.plan.wants).is_empty()
    })
    .await;
    rig.audit_passes().await;
    rig.kept_the_contract();
    assert_eq!(rig.sim.stats().refused_in_all(), 0, "requests beyond a limit");
}

/// A mark made on SQLite holds on Postgres: whatever is new or different since is in.
async fn changed_since(rig: &Rig, mark: &str, before: &str) {
    let lines = |text: &str| -> HashMap<String, String> {
        let id = |line: &str| {
            ringcx_extractor::lenient_json::from_str::<Value>(line).unwrap()["segment_id"].as_str().unwrap().to_owned()
        };
        text.lines().map(|line| (id(line), line.to_owned())).collect()
    };
    let (before, now) = (lines(before), lines(&rig.output(&["export"]).await));
    let since = lines(&rig.output(&["export", "--changed-since", mark]).await);
    for (id, line) in &now {
        assert!(before.get(id) == Some(line) || since.get(id) == Some(line), "{id} changed and is left out");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_moves_with_what_postgres_cannot_hold_replaced() {
    let held = support::sqlite().await;
    let from = held.db.clone();
    let now = ringcx_extractor::clock::Time(1_700_000_000_000);
    let account = from.enrol(&AccountId::new("1", "2"), Some("one\0two"), now).await.unwrap();
    let owned = from.take(&[account.key], "here", 10 * SECOND, now).await.unwrap().remove(0);
    from.request_backfill(account.key, Stretch { from: now - DAY, to: now }, true, now).await.unwrap();
    from.let_go(&[owned], now).await.unwrap();

    let room = support::postgres().await;
    let to = room.db.clone();
    // Cut short, it never happened.
    let mut moving = Moving::begin(&from, &to).await.unwrap();
    moving.carry(&|_| {}).await.unwrap();
    drop(moving);
    assert!(to.accounts().await.unwrap().is_empty());

    let mut moving = Moving::begin(&from, &to).await.unwrap();
    let rows = moving.rows();
    moving.carry(&|_| {}).await.unwrap();
    let moved = moving.finish(now).await.unwrap();
    assert_eq!((moved.replaced, moved.tables.iter().map(|table| table.rows).sum::<u64>()), (1, rows));
    let held = to.accounts().await.unwrap().remove(0);
    assert_eq!((held.key, held.name.as_deref(), held.owner), (account.key, Some("one\u{fffd}two"), None));
    // The next rows are numbered after those that came along, and the next owner's epoch is a new one.
    let second = to.enrol(&AccountId::new("1", "3"), None, now).await.unwrap();
    assert_eq!(second.key, account.key + 1);
    let taken = to.take(&[account.key], "there", 10 * SECOND, now).await.unwrap().remove(0);
    assert!(taken.epoch > owned.epoch + 1);
    assert_eq!(
        missing(&from, &moved.tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>()).await,
        Vec::<String>::new()
    );
}

/// Tables that stayed behind, other than the index's and the databases' own.
async fn missing(from: &Db, moved: &[String]) -> Vec<String> {
    let stmt = sql("select name from pragma_table_list where schema = 'main' and type = 'table' order by name");
    let names = from.all(stmt).await.unwrap();
    let names = names.iter().map(|row| row.text(0).unwrap());
    let own = |name: &str| ["sqlite_", "_sqlx", "search_"].iter().any(|other| name.starts_with(other));
    names.filter(|name| !own(name) && !moved.contains(name)).collect()
}
