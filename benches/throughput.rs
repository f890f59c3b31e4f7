//! The rate at which artifacts are fetched and stored durably with the limits lifted, against a bare loop with the same HTTP client
//! that discards the answers. One command: `cargo bench --bench throughput`.
//!
//! The server is a separate process that answers from memory, so that it does not count in the figures. Prints the ratio and the CPU
//! seconds per 1,000 artifacts, without the full-text index and until the index has caught up.
//! Options: `SEGMENTS=20000`, `CONCURRENCY=64`, `LATENCY_MS=0`, `ROUNDS=1`; of several rounds the medians are printed.
//! `DATABASE=postgres://…` measures on Postgres, and needs a new database each time. `INDEX=0` measures without the index alone.
//! `SERVER_CPU=1 taskset -c 0 cargo bench …` gives the program one core and the server another. `BASELINE=FILE` compares the ratios of
//! the CPU seconds with a baseline (`scripts/bench-gate`).

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
use ringcx_extractor::db::{Db, OpenMode, sql};
use ringcx_extractor::search::tokenizer;
use ringcx_extractor::{config, daemon, ringcx};
use support::{StubServer, env_number, own_cpu_seconds, run_bare_loop};
use tokio_util::sync::CancellationToken;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "serve") {
        return runtime.block_on(support::serve());
    }
    runtime.block_on(measure());
}

fn load_settings(url: &str, concurrency: usize, folder: &Path) -> config::Settings {
    let more = format!(
        r#"
        accounts = [{{ rc_account_id = "1", sub_account_id = "1" }}]
        discovery = {{ start = "1h", rechecks = [] }}
        limits = {{ requests_per_minute = 100000000, metadata_per_minute = 1000, metadata_per_15_minutes = 1000 }}
        fetch = {{ concurrency = {concurrency}, revisit = [] }}
        http = {{ listen = "" }}
        "#
    );
    support::load_settings(url, folder, &more)
}

/// The duration of a run, and the CPU seconds that it used.
#[derive(Clone, Copy)]
struct RunCost {
    seconds: f64,
    cpu: f64,
}

/// Measures the cost since its start.
struct CostMeter(Clock, Tick, f64);

impl CostMeter {
    fn start() -> CostMeter {
        let clock = Clock::system();
        let tick = clock.tick();
        CostMeter(clock, tick, own_cpu_seconds())
    }

    fn cost(&self) -> RunCost {
        RunCost { seconds: self.0.tick().since(self.1).as_secs_f64(), cpu: own_cpu_seconds() - self.2 }
    }
}

async fn open_database(settings: &config::Settings, access: OpenMode) -> Result<Db, ringcx_extractor::db::DbError> {
    match &settings.database.url {
        config::DatabaseUrl::Sqlite(path) => Db::open_sqlite(path, access).await,
        config::DatabaseUrl::Postgres(url) => Db::open_postgres(url, access, 2).await,
    }
}

/// Runs the daemon until everything is stored; with `index` also until the full-text index has caught up, otherwise without it.
async fn measure_daemon(settings: config::Settings, segments: u64, index: bool) -> RunCost {
    if !index {
        // Move the index's cursor ahead of the feed, so that nothing is indexed. The first account of a database is number 1.
        let db = open_database(&settings, OpenMode::CreateOrMigrate).await.unwrap();
        db.prepare_index(tokenizer::TOKENIZER_VERSION).await.unwrap();
        db.run(sql("insert into search_cursor (account, feed) values (1, 1000000000000)
             on conflict (account) do update set feed = excluded.feed"))
            .await
            .unwrap();
        db.close().await;
    }
    let meter = CostMeter::start();
    let stop = CancellationToken::new();
    let daemon = tokio::spawn(daemon::run(settings.clone(), Clock::system(), stop.clone()));
    let db = loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match open_database(&settings, OpenMode::Existing).await {
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
    let segments = env_number("SEGMENTS", 20_000);
    let concurrency = usize::try_from(env_number("CONCURRENCY", 64)).unwrap();
    support::print_workload();
    let server = StubServer::start(&[]);
    run_bare_loop(&server.url, segments / 10, concurrency).await;
    let kinds: &[(&str, bool)] = match (std::env::var("DATABASE").is_ok(), env_number("INDEX", 1) > 0) {
        (_, false) => &[("stored durably, no index", false)],
        (true, true) => &[("stored and indexed", true)],
        (false, true) => &[("stored durably, no index", false), ("stored and indexed", true)],
    };
    // A Postgres database is used for one round only.
    let rounds = if std::env::var("DATABASE").is_ok() { 1 } else { env_number("ROUNDS", 1) };
    let mut costs_by_kind: Vec<Vec<RunCost>> = vec![Vec::new(); kinds.len() + 1];
    for _ in 0..rounds {
        let meter = CostMeter::start();
        run_bare_loop(&server.url, segments, concurrency).await;
        costs_by_kind[0].push(meter.cost());
        for (nth, (_, index)) in kinds.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let settings = load_settings(&server.url, concurrency, folder.path());
            costs_by_kind[nth + 1].push(measure_daemon(settings, segments, *index).await);
        }
    }
    let count = (segments * 3) as f64;
    println!("{:<28}{:>14}{:>10}{:>22}{:>10}", "", "artifacts/s", "ratio", "CPU s per 1,000", "ratio");
    let mut cpu_ratios = Vec::new();
    for (nth, costs) in costs_by_kind.iter().enumerate() {
        let name = if nth == 0 { "bare loop, discarding" } else { kinds[nth - 1].0 };
        let each = costs.iter().zip(&costs_by_kind[0]);
        let ratio = median(each.map(|(cost, bare)| bare.seconds / cost.seconds).collect());
        let speed = count / median(costs.iter().map(|cost| cost.seconds).collect());
        let cpu = median(costs.iter().map(|cost| cost.cpu).collect()) * 1000.0 / count;
        let each = costs.iter().zip(&costs_by_kind[0]);
        let cpu_ratio = median(each.map(|(cost, bare)| bare.cpu / cost.cpu).collect());
        println!("{name:<28}{speed:>14.0}{ratio:>10.2}{cpu:>22.3}{cpu_ratio:>10.2}");
        if nth > 0 {
            cpu_ratios.push((name, cpu_ratio));
        }
    }
    // CPU seconds depend less than the speed on what else the machine does.
    support::compare_with_baseline("throughput", &cpu_ratios);
}
