//! The daemon's memory: idle with one account, and during a metadata answer of 300,000 segments while another account works. One
//! command: `cargo bench --bench memory`.
//!
//! Prints the peak, the time until the answer was stored, and the longest time without a stored result of the other account.
//! Options: `SEGMENTS=300000`, `IDLE=60` (seconds), `BASELINE=FILE`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use ringcx_extractor::clock::{Clock, Tick};
use ringcx_extractor::db::{Db, OpenMode, sql};
use ringcx_extractor::ringcx;
use support::{BenchDaemon, StubServer, cpu_seconds, env_number, own_cpu_seconds, process_memory_mb};

/// The limit of each account.
const REQUESTS_PER_MINUTE: u64 = 6000;
/// Segments of the other account, whose artifacts take longer than the measurement.
const SMALL_ACCOUNT_SEGMENTS: u64 = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "serve") {
        return runtime.block_on(support::serve());
    }
    runtime.block_on(measure());
}

fn write_settings(url: &str, folder: &Path, accounts: &str, quota: u64) {
    let more = format!(
        r#"
        accounts = [{accounts}]
        discovery = {{ start = "now" }}
        limits = {{ requests_per_minute = {quota} }}
        http = {{ listen = "127.0.0.1:0" }}
        log = {{ filter = "warn" }}
        "#,
    );
    support::load_settings(url, folder, &more);
}

fn print_row(what: &str, value: f64) {
    println!("{what:<60}{value:>12.2}");
}

async fn measure_idle(seconds: u64) {
    let clock = Clock::system();
    let server = StubServer::start(&[("SEGMENTS", 0), ("FRESH", 1)]);
    let folder = tempfile::tempdir().unwrap();
    write_settings(&server.url, folder.path(), r#"{ rc_account_id = "1", sub_account_id = "1" }"#, 120);
    let daemon = BenchDaemon::start(folder.path());
    clock.sleep(Duration::from_secs(5)).await;
    let used = cpu_seconds(daemon.pid());
    clock.sleep(Duration::from_secs(seconds)).await;
    print_row("idle with one account: memory, MB", process_memory_mb(daemon.pid(), "VmRSS"));
    print_row("  of it the program itself, shared and from its file", process_memory_mb(daemon.pid(), "RssFile"));
    print_row("  at its peak", process_memory_mb(daemon.pid(), "VmHWM"));
    print_row("  processor, percent of a core", (cpu_seconds(daemon.pid()) - used) * 100.0 / seconds as f64);
}

async fn measure_large_answer(segments: u64) {
    let clock = Clock::system();
    let server = StubServer::start(&[("SEGMENTS", SMALL_ACCOUNT_SEGMENTS), ("LARGE", segments), ("FRESH", 1)]);
    let folder = tempfile::tempdir().unwrap();
    let account = |sub: &str| format!(r#"{{ rc_account_id = "1", sub_account_id = "{sub}" }}"#);
    write_settings(&server.url, folder.path(), &account("1"), REQUESTS_PER_MINUTE);
    // First the other account alone.
    let daemon = BenchDaemon::start(folder.path());
    let db = open_when_created(folder.path()).await;
    while small_account_done(&db).await == 0 {
        clock.sleep(Duration::from_millis(20)).await;
    }
    let small = process_memory_mb(daemon.pid(), "VmHWM");
    drop(daemon);
    // In a new folder, because a new process waits two seconds for an account that another process just used.
    let folder = tempfile::tempdir().unwrap();
    write_settings(&server.url, folder.path(), &format!("{}, {}", account("1"), account("large")), REQUESTS_PER_MINUTE);
    let daemon = BenchDaemon::start(folder.path());
    let db = open_when_created(folder.path()).await;
    let mut began: Option<(Tick, f64)> = None;
    let (mut last, mut since, mut longest) = (0, None, Duration::ZERO);
    let (took, cpu) = loop {
        clock.sleep(Duration::from_millis(5)).await;
        let (now, stored, tick) = (small_account_done(&db).await, is_large_answer_stored(&db).await, clock.tick());
        if now > last {
            longest = longest.max(since.map_or(Duration::ZERO, |since| tick.since(since)));
            (last, since) = (now, Some(tick));
        }
        if began.is_none() && server.request_counts().await.get("large").is_some_and(|(_, reads)| *reads > 0) {
            began = Some((tick, cpu_seconds(daemon.pid())));
        }
        if let Some((began, used)) = began
            && stored
        {
            break (tick.since(began), cpu_seconds(daemon.pid()) - used);
        }
    };
    assert!(last > 0, "the other account stored nothing");
    print_row("before: peak with one account at work, MB", small);
    print_row(&format!("{segments} segments in one answer: peak, MB"), process_memory_mb(daemon.pid(), "VmHWM"));
    print_row("  stored within, s (including the server's time)", took.as_secs_f64());
    let (bare, bare_cpu) = bare_read(&server.url).await;
    print_row("  a bare loop that discards the answer, s", bare.as_secs_f64());
    print_row("  ratio", took.as_secs_f64() / bare.as_secs_f64());
    print_row("  CPU seconds, with the other account's work", cpu);
    print_row("  of the bare loop", bare_cpu);
    print_row("  ratio", cpu / bare_cpu);
    print_row("  longest time without a result of the other account, ms", longest.as_secs_f64() * 1000.0);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    // Without the warning about the raised limits.
    let complaints: Vec<&str> = log.lines().filter(|line| !line.contains(" WARN limits.")).take(20).collect();
    assert!(complaints.is_empty(), "the log has warnings: {}", complaints.join("\n"));
    support::compare_with_baseline("memory", &[("large answer", bare_cpu / cpu)]);
}

/// How long it takes to receive the large answer and discard it, and the CPU seconds that this takes.
async fn bare_read(url: &str) -> (Duration, f64) {
    let clock = Clock::system();
    let (start, used) = (clock.tick(), own_cpu_seconds());
    let path = format!("{url}/voice/api/cx/integration/v1/accounts/1/sub-accounts/large/interaction-metadata");
    let request = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .post(path)
        .body(r#"{"segmentEndTime":"2027-01-01 00:00:00","timeInterval":900}"#);
    let mut answer = request.send().await.unwrap();
    while answer.chunk().await.unwrap().is_some() {}
    (clock.tick().since(start), own_cpu_seconds() - used)
}

async fn open_when_created(folder: &Path) -> Db {
    let clock = Clock::system();
    loop {
        if let Ok(db) = Db::open_sqlite(&folder.join("bench.db"), OpenMode::Existing).await {
            return db;
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

/// Stored artifacts of the other account.
async fn small_account_done(db: &Db) -> i64 {
    db.value(sql("select done from account where sub = '1'")).await.unwrap().unwrap_or(0)
}

async fn is_large_answer_stored(db: &Db) -> bool {
    let stmt = sql("select r.nth from reading r join account a on a.id = r.account where a.sub = 'large' limit 1");
    db.value::<i64>(stmt).await.unwrap().is_some()
}

async fn measure() {
    ringcx::install_tls();
    support::print_workload();
    measure_idle(env_number("IDLE", 60)).await;
    measure_large_answer(env_number("SEGMENTS", 300_000)).await;
}
