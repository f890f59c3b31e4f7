//! How fast artifacts are fetched and stored durably with the limits lifted, against a bare loop with the same HTTP client
//! that throws away what it gets. One command: `cargo bench --bench throughput`.
//!
//! The server is a process of its own that answers from memory, so that the figures are the extractor's. Prints a table
//! with the ratio, and CPU seconds a thousand artifacts. `SEGMENTS=20000 CONCURRENCY=64 LATENCY_MS=0` are the knobs,
//! `DATABASE=postgres://…` measures on Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]
#![allow(clippy::disallowed_methods, reason = "a benchmark drives the daemon from outside")]

mod support;

use std::path::Path;
use std::time::Duration;

use ringcx_extractor::clock::{Clock, Tick};
use ringcx_extractor::db::{Access, Db};
use ringcx_extractor::{config, daemon, ringcx};
use support::{Server, bare, cpu, knob};
use tokio_util::sync::CancellationToken;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "serve") {
        return runtime.block_on(support::serve());
    }
    runtime.block_on(measure());
}

fn settings(url: &str, concurrency: usize, folder: &Path) -> config::Settings {
    let more = format!(
        r#"
        accounts = [{{ rc_account_id = "1", sub_account_id = "1" }}]
        discovery = {{ start = "2024-07-22T11:20:00Z", rechecks = [] }}
        limits = {{ requests_per_minute = 100000000, metadata_per_minute = 1000, metadata_per_15_minutes = 1000 }}
        fetch = {{ concurrency = {concurrency}, revisit = [] }}
        http = {{ listen = "" }}
        "#
    );
    support::settings(url, folder, &more)
}

async fn ours(settings: config::Settings, segments: u64) {
    let stop = CancellationToken::new();
    let daemon = tokio::spawn(daemon::run(settings.clone(), Clock::system(), stop.clone()));
    let db = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let opened = match &settings.database.url {
            config::DatabaseUrl::Sqlite(path) => Db::open_sqlite(path, Access::Existing).await,
            config::DatabaseUrl::Postgres(url) => Db::open_postgres(url, Access::Existing, 2).await,
        };
        match opened {
            Ok(db) => break db,
            Err(error) => assert!(!daemon.is_finished(), "the daemon ended: {error}"),
        }
    };
    loop {
        let done: u64 = db.accounts().await.unwrap().iter().map(|account| account.done).sum();
        if done >= segments * 3 {
            break;
        }
        assert!(!daemon.is_finished(), "the daemon ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    daemon.await.unwrap().unwrap();
}

async fn measure() {
    ringcx::install_tls();
    let segments = knob("SEGMENTS", 20_000);
    let concurrency = usize::try_from(knob("CONCURRENCY", 64)).unwrap();
    let clock = Clock::system();
    let since = |tick: Tick| clock.tick().since(tick).as_secs_f64();
    let server = Server::start(&[]);
    bare(&server.url, segments / 10, concurrency).await;
    let (tick, used) = (clock.tick(), cpu(0));
    bare(&server.url, segments, concurrency).await;
    let (bare_time, bare_cpu) = (since(tick), cpu(0) - used);
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&server.url, concurrency, folder.path());
    let (tick, used) = (clock.tick(), cpu(0));
    ours(settings, segments).await;
    let (our_time, our_cpu) = (since(tick), cpu(0) - used);
    let count = (segments * 3) as f64;
    println!("{:<28}{:>14}{:>22}", "", "artifacts/s", "CPU s per 1,000");
    println!("{:<28}{:>14.0}{:>22.3}", "bare loop, discarding", count / bare_time, bare_cpu * 1000.0 / count);
    println!("{:<28}{:>14.0}{:>22.3}", "stored durably", count / our_time, our_cpu * 1000.0 / count);
    println!("{:<28}{:>14.2}", "ratio", bare_time / our_time);
}
