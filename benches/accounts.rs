//! Many sub-accounts at full quota in one process: the quota that the worst account uses, and the cost against a bare loop of the
//! same requests. One command: `cargo bench --bench accounts`.
//!
//! Options: `ACCOUNTS=1000`, `QUOTA=120` requests a minute for each, `FOR=120` seconds of measurement, `SEGMENTS=200` per metadata
//! read, `DATABASE=postgres://…` instead of SQLite. An idle daemon: `ACCOUNTS=1 SEGMENTS=0 FOR=60`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot be set up has failed"
)]

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use ringcx_extractor::clock::Clock;
use ringcx_extractor::ringcx;
use support::{BenchDaemon, StubServer, cpu_seconds, env_number, own_cpu_seconds, process_memory_mb, run_bare_loop};

/// Requests of the bare loop, to measure the cost of one.
const BARE_LOOP_REQUESTS: u64 = 20_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if std::env::args().any(|arg| arg == "serve") {
        return runtime.block_on(support::serve());
    }
    runtime.block_on(measure());
}

fn write_settings(url: &str, folder: &Path, accounts: u64, quota: u64) {
    let listed: Vec<String> =
        (0..accounts).map(|sub| format!(r#"{{ rc_account_id = "1", sub_account_id = "{sub}" }}"#)).collect();
    let more = format!(
        r#"
        accounts = [{}]
        discovery = {{ start = "now" }}
        limits = {{ requests_per_minute = {quota} }}
        http = {{ listen = "127.0.0.1:0" }}
        log = {{ filter = "warn" }}
        "#,
        listed.join(", ")
    );
    support::load_settings(url, folder, &more);
}

async fn measure() {
    ringcx::install_tls();
    support::print_workload();
    let clock = Clock::system();
    let (accounts, quota) = (env_number("ACCOUNTS", 1000), env_number("QUOTA", 120));
    let (seconds, segments) = (env_number("FOR", 120), env_number("SEGMENTS", 200));
    let server = StubServer::start(&[("SEGMENTS", segments), ("FRESH", 1)]);
    let used = own_cpu_seconds();
    run_bare_loop(&server.url, BARE_LOOP_REQUESTS / 3, 64).await;
    let bare_cpu = (own_cpu_seconds() - used) * 1000.0 / BARE_LOOP_REQUESTS as f64;

    let folder = tempfile::tempdir().unwrap();
    write_settings(&server.url, folder.path(), accounts, quota);
    let began = clock.tick();
    let daemon = BenchDaemon::start(folder.path());
    // Every account has read metadata, and requested an artifact if there is one.
    let wanted = if segments > 0 { 2 } else { 1 };
    loop {
        clock.sleep(Duration::from_millis(500)).await;
        let asked = server.request_counts().await;
        if asked.iter().filter(|(sub, (all, _))| sub.parse::<u64>().is_ok() && *all >= wanted).count() as u64
            >= accounts
        {
            break;
        }
        assert!(clock.tick().since(began) < Duration::from_secs(600), "not every account has started");
    }
    let ready = clock.tick().since(began);
    clock.sleep(Duration::from_secs(10)).await;
    let (before, used, start) = (server.request_counts().await, cpu_seconds(daemon.pid()), clock.tick());
    clock.sleep_until(start + Duration::from_secs(seconds)).await;
    let took = clock.tick().since(start).as_secs_f64();
    let (after, used) = (server.request_counts().await, cpu_seconds(daemon.pid()) - used);
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.is_empty(), "the log has warnings: {}", log.lines().take(20).collect::<Vec<_>>().join("\n"));

    let mut sent: Vec<u64> = requests_between(&before, &after);
    sent.sort_unstable();
    let (all, full) = (sent.iter().sum::<u64>() as f64, quota as f64 * took / 60.0);
    let share = |sent: u64| sent as f64 / full;
    println!("{:<44}{:>12}", format!("{accounts} accounts, {quota} a minute each"), format!("{took:.0} s"));
    println!("{:<44}{:>12.1}", "seconds until every account was at work", ready.as_secs_f64());
    println!("{:<44}{:>12.0}", "requests a second", all / took);
    println!("{:<44}{:>12.3}", "quota used, worst account", share(sent[0]));
    println!("{:<44}{:>12.3}", "quota used, median account", share(sent[sent.len() / 2]));
    println!("{:<44}{:>12.3}", "quota used, best account", share(sent[sent.len() - 1]));
    println!("{:<44}{:>12.4}", "CPU cores", used / took);
    println!("{:<44}{:>12.3}", "CPU s per 1,000 requests", used * 1000.0 / all.max(1.0));
    println!("{:<44}{:>12.3}", "the same, bare loop that discards", bare_cpu);
    println!("{:<44}{:>12.2}", "ratio", used * 1000.0 / all.max(1.0) / bare_cpu);
    println!("{:<44}{:>12}", "files and sockets open", open_files(daemon.pid()));
    println!("{:<44}{:>12.1}", "memory now, MB", process_memory_mb(daemon.pid(), "VmRSS"));
    println!("{:<44}{:>12.1}", "memory at its peak, MB", process_memory_mb(daemon.pid(), "VmHWM"));
}

/// Open files. Many more than the database's connections mean that responses are slower than requests.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Requests of each account between two counts.
fn requests_between(before: &HashMap<String, (u64, u64)>, after: &HashMap<String, (u64, u64)>) -> Vec<u64> {
    after
        .iter()
        // Without the account of the bare loop.
        .filter(|(sub, _)| sub.parse::<u64>().is_ok())
        .map(|(sub, (all, _))| all - before.get(sub).map_or(0, |(all, _)| *all))
        .collect()
}
