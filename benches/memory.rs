//! What the daemon holds in memory: idle with one account, and while one metadata answer of 300,000 segments comes in beside
//! another account's work. One command: `cargo bench --bench memory`.
//!
//! Prints the peak, how long the answer took to be stored, and the longest time in which nothing of the other account's was
//! stored meanwhile. `SEGMENTS=300000 IDLE=60` (seconds) are the knobs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use ringcx_extractor::clock::Clock;
use ringcx_extractor::db::{Access, Db, sql};
use ringcx_extractor::ringcx;
use support::{Daemon, Server, cpu, knob, memory};

/// Requests a minute of each account, and segments that the other one's first read announces: work for longer than this
/// takes.
const QUOTA: u64 = 6000;
const OTHER: u64 = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "serve") {
        return runtime.block_on(support::serve());
    }
    runtime.block_on(measure());
}

fn settings(url: &str, folder: &Path, accounts: &str, quota: u64) {
    let more = format!(
        r#"
        accounts = [{accounts}]
        discovery = {{ start = "now" }}
        limits = {{ requests_per_minute = {quota} }}
        http = {{ listen = "127.0.0.1:0" }}
        log = {{ filter = "warn" }}
        "#,
    );
    support::settings(url, folder, &more);
}

fn row(what: &str, value: f64) {
    println!("{what:<60}{value:>12.2}");
}

async fn idle(seconds: u64) {
    let clock = Clock::system();
    let server = Server::start(&[("SEGMENTS", 0), ("FRESH", 1)]);
    let folder = tempfile::tempdir().unwrap();
    settings(&server.url, folder.path(), r#"{ rc_account_id = "1", sub_account_id = "1" }"#, 120);
    let daemon = Daemon::start(folder.path());
    clock.sleep(Duration::from_secs(5)).await;
    let used = cpu(daemon.pid());
    clock.sleep(Duration::from_secs(seconds)).await;
    row("idle with one account: memory, MB", memory(daemon.pid(), "VmRSS"));
    row("  of it the program itself, shared and from its file", memory(daemon.pid(), "RssFile"));
    row("  at its peak", memory(daemon.pid(), "VmHWM"));
    row("  processor, percent of a core", (cpu(daemon.pid()) - used) * 100.0 / seconds as f64);
}

async fn large(segments: u64) {
    let clock = Clock::system();
    let server = Server::start(&[("SEGMENTS", OTHER), ("LARGE", segments), ("FRESH", 1)]);
    let folder = tempfile::tempdir().unwrap();
    let account = |sub: &str| format!(r#"{{ rc_account_id = "1", sub_account_id = "{sub}" }}"#);
    settings(&server.url, folder.path(), &account("1"), QUOTA);
    // The other account is at work before the large one comes.
    let daemon = Daemon::start(folder.path());
    let db = opened(folder.path()).await;
    while done(&db).await == 0 {
        clock.sleep(Duration::from_millis(20)).await;
    }
    let small = memory(daemon.pid(), "VmHWM");
    drop(daemon);
    // In a new place: an account that another process worked a moment ago is left alone for two seconds.
    let folder = tempfile::tempdir().unwrap();
    settings(&server.url, folder.path(), &format!("{}, {}", account("1"), account("large")), QUOTA);
    let daemon = Daemon::start(folder.path());
    let db = opened(folder.path()).await;
    let mut began = None;
    let (mut last, mut since, mut longest) = (0, None, Duration::ZERO);
    let took = loop {
        clock.sleep(Duration::from_millis(5)).await;
        let (now, stored, tick) = (done(&db).await, stored(&db).await, clock.tick());
        if now > last {
            longest = longest.max(since.map_or(Duration::ZERO, |since| tick.since(since)));
            (last, since) = (now, Some(tick));
        }
        if began.is_none() && server.asked().await.get("large").is_some_and(|(_, reads)| *reads > 0) {
            began = Some(tick);
        }
        if let Some(began) = began
            && stored
        {
            break tick.since(began);
        }
    };
    assert!(last > 0, "the other account was at work meanwhile");
    row("before: peak with one account at work, MB", small);
    row(&format!("{segments} segments in one answer: peak, MB"), memory(daemon.pid(), "VmHWM"));
    row("  stored within, s (the server makes it up meanwhile)", took.as_secs_f64());
    row("  longest time without a result of the other account, ms", longest.as_secs_f64() * 1000.0);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    // Its limits are lifted on purpose, and it says so.
    let complaints: Vec<&str> = log.lines().filter(|line| !line.contains(" WARN limits.")).take(20).collect();
    assert!(complaints.is_empty(), "it complained: {}", complaints.join("\n"));
}

async fn opened(folder: &Path) -> Db {
    let clock = Clock::system();
    loop {
        if let Ok(db) = Db::open_sqlite(&folder.join("bench.db"), Access::Existing).await {
            return db;
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

/// What is stored of the other account.
async fn done(db: &Db) -> i64 {
    let row = db.first(sql("select done from account where sub = '1'")).await.unwrap();
    row.map_or(0, |row| row.int(0).unwrap())
}

/// Whether the large answer is stored to its end.
async fn stored(db: &Db) -> bool {
    let stmt = sql("select 1 from reading r join account a on a.id = r.account where a.sub = 'large' limit 1");
    db.first(stmt).await.unwrap().is_some()
}

async fn measure() {
    ringcx::install_tls();
    idle(knob("IDLE", 60)).await;
    large(knob("SEGMENTS", 300_000)).await;
}
