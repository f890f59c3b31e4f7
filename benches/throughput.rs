//! How fast artifacts are fetched and stored durably with the limits lifted, against a bare loop with the same HTTP client
//! that throws away what it gets. One command: `cargo bench --bench throughput`.
//!
//! The server is a process of its own that answers from memory, so that the figures are the extractor's. Prints a table
//! with the ratio, and CPU seconds a thousand artifacts: once without the full-text index, once until that has caught up.
//! `SEGMENTS=20000 CONCURRENCY=64 LATENCY_MS=0 ROUNDS=1` are the knobs; of several rounds the medians count.
//! `DATABASE=postgres://…` measures on Postgres, in a new database each time, and with `INDEX=0` without the index.

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
use ringcx_extractor::db::{Access, Db, sql};
use ringcx_extractor::search::words;
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
        discovery = {{ start = "1h", rechecks = [] }}
        limits = {{ requests_per_minute = 100000000, metadata_per_minute = 1000, metadata_per_15_minutes = 1000 }}
        fetch = {{ concurrency = {concurrency}, revisit = [] }}
        http = {{ listen = "" }}
        "#
    );
    support::settings(url, folder, &more)
}

/// How long it took, and CPU seconds used.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    cpu: f64,
}

/// Measures the time from now on.
struct Meter(Clock, Tick, f64);

impl Meter {
    fn start() -> Meter {
        let clock = Clock::system();
        let tick = clock.tick();
        Meter(clock, tick, cpu(0))
    }

    fn cost(&self) -> Cost {
        Cost { seconds: self.0.tick().since(self.1).as_secs_f64(), cpu: cpu(0) - self.2 }
    }
}

async fn open(settings: &config::Settings, access: Access) -> Result<Db, ringcx_extractor::db::DbError> {
    match &settings.database.url {
        config::DatabaseUrl::Sqlite(path) => Db::open_sqlite(path, access).await,
        config::DatabaseUrl::Postgres(url) => Db::open_postgres(url, access, 2).await,
    }
}

/// Stores everything; with `index`, until the full-text index has caught up too, otherwise without keeping one.
async fn ours(settings: config::Settings, segments: u64, index: bool) -> Cost {
    if !index {
        // An index that is there and stands ahead of the feed has nothing to do. A new database's first account is number 1.
        let db = open(&settings, Access::Own).await.unwrap();
        db.prepare_index(words::VERSION).await.unwrap();
        db.run(sql("insert into search_cursor (account, feed) values (1, 1000000000000)
             on conflict (account) do update set feed = excluded.feed"))
            .await
            .unwrap();
        db.close().await;
    }
    let meter = Meter::start();
    let stop = CancellationToken::new();
    let daemon = tokio::spawn(daemon::run(settings.clone(), Clock::system(), stop.clone()));
    let db = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match open(&settings, Access::Existing).await {
            Ok(db) => break db,
            Err(error) => assert!(!daemon.is_finished(), "the daemon ended: {error}"),
        }
    };
    loop {
        let done: u64 = db.accounts().await.unwrap().iter().map(|account| account.done).sum();
        if done >= segments * 3 && (!index || db.index_lags().await.unwrap().is_empty()) {
            break;
        }
        assert!(!daemon.is_finished(), "the daemon ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cost = meter.cost();
    stop.cancel();
    daemon.await.unwrap().unwrap();
    cost
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn measure() {
    ringcx::install_tls();
    let segments = knob("SEGMENTS", 20_000);
    let concurrency = usize::try_from(knob("CONCURRENCY", 64)).unwrap();
    let server = Server::start(&[]);
    bare(&server.url, segments / 10, concurrency).await;
    let kinds: &[(&str, bool)] = match (std::env::var("DATABASE").is_ok(), knob("INDEX", 1) > 0) {
        (true, false) => &[("stored durably, no index", false)],
        (true, true) => &[("stored and indexed", true)],
        (false, _) => &[("stored durably, no index", false), ("stored and indexed", true)],
    };
    // One database holds one round.
    let rounds = if std::env::var("DATABASE").is_ok() { 1 } else { knob("ROUNDS", 1) };
    let mut seen: Vec<Vec<Cost>> = vec![Vec::new(); kinds.len() + 1];
    for _ in 0..rounds {
        let meter = Meter::start();
        bare(&server.url, segments, concurrency).await;
        seen[0].push(meter.cost());
        for (nth, (_, index)) in kinds.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let settings = settings(&server.url, concurrency, folder.path());
            seen[nth + 1].push(ours(settings, segments, *index).await);
        }
    }
    let count = (segments * 3) as f64;
    println!("{:<28}{:>14}{:>22}{:>10}", "", "artifacts/s", "CPU s per 1,000", "ratio");
    for (nth, costs) in seen.iter().enumerate() {
        let name = if nth == 0 { "bare loop, discarding" } else { kinds[nth - 1].0 };
        let each = costs.iter().zip(&seen[0]);
        let ratio = median(each.map(|(cost, bare)| bare.seconds / cost.seconds).collect());
        let speed = count / median(costs.iter().map(|cost| cost.seconds).collect());
        let cpu = median(costs.iter().map(|cost| cost.cpu).collect()) * 1000.0 / count;
        println!("{name:<28}{speed:>14.0}{cpu:>22.3}{ratio:>10.2}");
    }
}
