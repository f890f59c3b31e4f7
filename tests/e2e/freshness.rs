//! The delay from a transcript's availability to its storage, with and without a full backfill. One command:
//! `cargo test --profile bench --test e2e freshness:: -- --ignored --nocapture`. A debug build would distort the result.
//!
//! The vendor's limits and the default settings apply, sixty times as fast: 120 requests a second, and a window every five
//! seconds. Live work needs a quarter of the requests; the backfill uses the rest.
//!
//! With a backfill each request has to wait for its slot, and the segments of one dialog appear together. So the test also prints
//! the least possible delay: each transcript is requested as soon as it is available, one request per slot.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::model::Artifact;
use ringcx_extractor::sim::{Burst, DelayRange};
use serde_json::Value;
use support::test_env::scenario::{millis, strings};
use support::test_env::{Scenario, TempDatabase, TestEnv};

const SECOND: Duration = Duration::from_secs(1);
const TRAFFIC_DURATION: Duration = Duration::from_secs(140);
const REQUESTS_PER_MINUTE: u32 = 7200;
const SEGMENTS_PER_MINUTE: f64 = 1800.0;
/// Left out of the measurement: the daemon still learns when transcripts become available.
const WARM_UP: Duration = Duration::from_secs(60);

/// When transcripts become available after their segments' ends. Live windows are read five to ten seconds after those.
fn availability_cases() -> [(&'static str, DelayRange); 3] {
    [
        ("mostly available at the first request", millis(1500, 7000)),
        ("available at any time around the first request", millis(2500, 15_000)),
        ("never available at the first request", millis(15_000, 15_000)),
    ]
}

/// Sorted delays in milliseconds from availability to storage, of segments that ended during the measurement; and the least
/// possible delays with one request per slot.
async fn measure_delays(availability: DelayRange, backlog: u32) -> (Vec<i64>, Vec<i64>) {
    let scenario = Scenario::live(TRAFFIC_DURATION)
        .transcripts_only()
        .set("discovery.start", "now")
        .set("discovery.window", "15s")
        .set("discovery.offset", "5s")
        .set("discovery.interval", "5s")
        .set("discovery.max_window", "1h")
        .set("discovery.rechecks", strings(&[]))
        .set("fetch.retry_initial", "250ms")
        .set("fetch.retry_max", "6m")
        .set("limits.requests_per_minute", i64::from(REQUESTS_PER_MINUTE));
    let scenario = scenario.configure_sim(|sim| {
        sim.traffic.per_minute = SEGMENTS_PER_MINUTE;
        sim.windows.offset = 5 * SECOND;
        sim.traffic.history = Duration::ZERO;
        sim.availability.transcript_after = availability;
        sim.limits.requests_per_minute = REQUESTS_PER_MINUTE;
    });
    let env = TestEnv::with_daemon(TempDatabase::sqlite(), scenario).await;
    let account = env.main_account();
    env.wait_until("the first window is read", async || env.account_status().await["watermark"].is_string()).await;
    if backlog > 0 {
        let hour = Duration::from_secs(3600);
        env.sim.add_burst(&account, Burst { from: env.begin - 2 * hour, width: hour, count: backlog });
        env.run(&["backfill", "--from", "3h", "--to", "2s"]).await.assert_output(0, &[]);
    }
    env.clock.sleep_until_time(env.begin + TRAFFIC_DURATION + 20 * SECOND).await;
    let waiting = env.account_status().await["work"]["ready"].as_u64().unwrap();
    assert_eq!(waiting > 100, backlog > 0, "the backfill is to outlast the measurement: {waiting} left");
    assert_eq!(env.sim.stats().total_refused(), 0);
    let exported = env.run_ok(&["export"]).await;
    let ledger = env.sim.expected_archive();
    let parse = |line: &str| -> Option<(i64, i64)> {
        let line: Value = ringcx_extractor::lenient_json::from_str(line).unwrap();
        let ended = Time::parse(line["segment_end"].as_str()?)?;
        let stored = Time::parse(line["transcript"]["fetched_at"].as_str()?)?;
        let available = ledger.available_at(&account, line["segment_id"].as_str()?, Artifact::Transcript)?;
        (ended > env.begin + WARM_UP).then_some((available.0, stored.0))
    };
    let times: Vec<(i64, i64)> = exported.lines().filter_map(parse).collect();
    let mut delays: Vec<i64> = times.iter().map(|(available, stored)| stored - available).collect();
    delays.sort_unstable();
    (delays, least_possible_delays(times.into_iter().map(|(available, _)| available).collect()))
}

/// The delay of each if it were requested at the first free slot after it became available.
fn least_possible_delays(mut available: Vec<i64>) -> Vec<i64> {
    available.sort_unstable();
    let slot_ms = 60_000.0 / f64::from(REQUESTS_PER_MINUTE);
    let mut next_free_slot = 0.0;
    let delay = |available: i64| {
        let slot = (available as f64 / slot_ms).ceil().max(next_free_slot);
        next_free_slot = slot + 1.0;
        (slot * slot_ms) as i64 - available
    };
    let mut delays: Vec<i64> = available.into_iter().map(delay).collect();
    delays.sort_unstable();
    delays
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes eight minutes"]
async fn a_full_backfill_does_not_hold_up_what_is_live() {
    let mut slow = Vec::new();
    let only = std::env::var("WORLD").ok();
    for (name, availability) in
        availability_cases().into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| name.contains(only)))
    {
        let ((alone, _), (beside, least)) =
            tokio::join!(measure_delays(availability, 0), measure_delays(availability, 24_000));
        let at = |delays: &[i64], share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
        println!("transcripts {name}:");
        println!("    {:<26}{:>8}{:>10}{:>10}", "", "count", "p50 ms", "p99 ms");
        for (name, delays) in
            [("alone", &alone), ("beside a full backfill", &beside), ("the least possible beside", &least)]
        {
            println!("    {name:<26}{:>8}{:>10}{:>10}", delays.len(), at(delays, 0.5), at(delays, 0.99));
        }
        let ratio = at(&beside, 0.99) as f64 / at(&alone, 0.99) as f64;
        println!("    ratio of the p99: {ratio:.2}");
        assert!(alone.len() > 200 && beside.len() > 200);
        // A loose bound for busy machines; the printed figures are what counts.
        let costs = (at(&beside, 0.99) - at(&alone, 0.99)) as f64 / at(&least, 0.99) as f64;
        println!("    what the backfill costs, in terms of the least possible: {costs:.2}");
        if ratio > 1.5 && costs > 1.5 {
            slow.push(name);
        }
    }
    assert_eq!(slow, Vec::<&str>::new());
}
