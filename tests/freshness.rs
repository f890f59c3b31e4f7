//! How long after a transcript is there it is stored, with and without a full backfill beside it. One command:
//! `cargo test --test freshness -- --ignored --nocapture`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::sim::{Burst, Spread};
use serde_json::Value;
use support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);
/// How long after its segment's end every transcript is there, to the millisecond.
const THERE: Duration = Duration::from_secs(3);
const LENGTH: Duration = Duration::from_secs(50);

/// Milliseconds from a transcript's being there to its being stored, sorted, of segments that ended while it went on.
async fn delays(backlog: u32) -> Vec<i64> {
    let plan =
        Plan::live(LENGTH).transcripts_only().set("discovery.start", "now").set("limits.requests_per_minute", 600);
    let plan = plan.set("discovery.max_window", "1h").set("discovery.rechecks", support::daemon::plan::strings(&[]));
    let plan = plan.sim(|sim| {
        // Some six requests of ten a second for what is live: a window, a first try that comes too early, retries.
        sim.traffic.per_minute = 70.0;
        sim.traffic.history = Duration::ZERO;
        sim.availability.transcript_after = Spread::new(THERE, THERE);
        sim.limits.requests_per_minute = 600;
    });
    let rig = Rig::started(Place::sqlite(), plan).await;
    let account = rig.main_account();
    rig.until("the first window is read", async || rig.account().await["watermark"].is_string()).await;
    if backlog > 0 {
        let hour = Duration::from_secs(3600);
        rig.sim.add_burst(&account, Burst { from: rig.begin - 2 * hour, width: hour, count: backlog });
        rig.run(&["backfill", "--from", "3h", "--to", "2s"]).await.is(0, &[]);
    }
    rig.clock.sleep_until_time(rig.begin + LENGTH + 8 * SECOND).await;
    let exported = rig.output(&["export"]).await;
    assert_eq!(rig.sim.stats().refused_in_all(), 0);
    let waiting = rig.account().await["work"]["ready"].as_u64().unwrap();
    assert_eq!(waiting > 100, backlog > 0, "the backfill is to outlast the measurement: {waiting} left");
    let read = |line: &str| -> Option<i64> {
        let line: Value = serde_json::from_str(line).unwrap();
        let ended = Time::parse(line["segment_end"].as_str()?)?;
        let stored = Time::parse(line["transcript"]["fetched_at"].as_str()?)?;
        (ended > rig.begin + 5 * SECOND).then_some(stored.0 - (ended + THERE).0)
    };
    let mut delays: Vec<i64> = exported.lines().filter_map(read).collect();
    delays.sort_unstable();
    delays
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn a_full_backfill_does_not_hold_up_what_is_live() {
    let (alone, beside) = tokio::join!(delays(0), delays(3_000));
    let at = |delays: &[i64], share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
    println!("{:<24}{:>8}{:>10}{:>10}", "", "count", "p50 ms", "p99 ms");
    for (name, delays) in [("alone", &alone), ("beside a full backfill", &beside)] {
        println!("{name:<24}{:>8}{:>10}{:>10}", delays.len(), at(delays, 0.5), at(delays, 0.99));
    }
    println!("ratio of the p99: {:.2}", at(&beside, 0.99) as f64 / at(&alone, 0.99) as f64);
    assert!(alone.len() > 30 && beside.len() > 30);
    // Loose, for machines that do other things: the figures are for people.
    assert!(at(&beside, 0.99) < 2 * at(&alone, 0.99));
}
