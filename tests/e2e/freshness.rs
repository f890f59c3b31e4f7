//! How long after a transcript is there it is stored, with and without a full backfill beside it. One command:
//! `cargo test --profile bench --test freshness -- --ignored --nocapture` (a debug build needs much of what it measures for itself).
//!
//! Everything is as it is with the vendor's limits and the settings' defaults, but sixty times as fast: 120 requests a second,
//! a window every five seconds. What is live needs a quarter of that; the backfill takes all the rest.
//!
//! Beside it each request has to wait for its turn, for no limit would be used in full otherwise; and segments of one dialog turn
//! up together. So beside the measured figures stands the least possible: were everything asked for the moment it is there, one
//! request a turn. Where nothing else takes time, that is what the backfill costs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::clock::Time;
use ringcx_extractor::model::Artifact;
use ringcx_extractor::sim::{Burst, Spread};
use serde_json::Value;
use support::daemon::plan::{millis, strings};
use support::daemon::{Place, Plan, Rig};

const SECOND: Duration = Duration::from_secs(1);
const LENGTH: Duration = Duration::from_secs(140);
const PER_MINUTE: u32 = 7200;
const LIVE: f64 = 1800.0;
/// What the daemon learns in its first windows is not what it does from then on.
const WARM_UP: Duration = Duration::from_secs(60);

/// When transcripts are there, counted from their segments' ends; live windows are read five to ten seconds after those.
fn worlds() -> [(&'static str, Spread); 3] {
    [
        ("mostly there when first asked for", millis(1500, 7000)),
        ("there any time around then", millis(2500, 15_000)),
        ("never there when first asked for", millis(15_000, 15_000)),
    ]
}

/// Milliseconds from a transcript's being there to its being stored, sorted, of segments that ended while it went on; and the
/// least possible with one request a turn.
async fn delays(there: Spread, backlog: u32) -> (Vec<i64>, Vec<i64>) {
    let plan = Plan::live(LENGTH)
        .transcripts_only()
        .set("discovery.start", "now")
        .set("discovery.window", "15s")
        .set("discovery.offset", "5s")
        .set("discovery.interval", "5s")
        .set("discovery.max_window", "1h")
        .set("discovery.rechecks", strings(&[]))
        .set("fetch.retry_initial", "250ms")
        .set("fetch.retry_max", "6m")
        .set("limits.requests_per_minute", i64::from(PER_MINUTE));
    let plan = plan.sim(|sim| {
        sim.traffic.per_minute = LIVE;
        sim.windows.offset = 5 * SECOND;
        sim.traffic.history = Duration::ZERO;
        sim.availability.transcript_after = there;
        sim.limits.requests_per_minute = PER_MINUTE;
    });
    let rig = Rig::started(Place::sqlite(), plan).await;
    let account = rig.main_account();
    rig.until("the first window is read", async || rig.account().await["watermark"].is_string()).await;
    if backlog > 0 {
        let hour = Duration::from_secs(3600);
        rig.sim.add_burst(&account, Burst { from: rig.begin - 2 * hour, width: hour, count: backlog });
        rig.run(&["backfill", "--from", "3h", "--to", "2s"]).await.is(0, &[]);
    }
    rig.clock.sleep_until_time(rig.begin + LENGTH + 20 * SECOND).await;
    let waiting = rig.account().await["work"]["ready"].as_u64().unwrap();
    assert_eq!(waiting > 100, backlog > 0, "the backfill is to outlast the measurement: {waiting} left");
    assert_eq!(rig.sim.stats().refused_in_all(), 0);
    let exported = rig.output(&["export"]).await;
    let ledger = rig.sim.ledger();
    let read = |line: &str| -> Option<(i64, i64)> {
        let line: Value = ringcx_extractor::lenient_json::from_str(line).unwrap();
        let ended = Time::parse(line["segment_end"].as_str()?)?;
        let stored = Time::parse(line["transcript"]["fetched_at"].as_str()?)?;
        let there = ledger.available_at(&account, line["segment_id"].as_str()?, Artifact::Transcript)?;
        (ended > rig.begin + WARM_UP).then_some((there.0, stored.0))
    };
    let times: Vec<(i64, i64)> = exported.lines().filter_map(read).collect();
    let mut delays: Vec<i64> = times.iter().map(|(there, stored)| stored - there).collect();
    delays.sort_unstable();
    (delays, least(times.into_iter().map(|(there, _)| there).collect()))
}

/// How long each would wait if it were asked for the moment it is there, at the next free turn.
fn least(mut there: Vec<i64>) -> Vec<i64> {
    there.sort_unstable();
    let turn = 60_000.0 / f64::from(PER_MINUTE);
    let mut free = 0.0;
    let wait = |there: i64| {
        let went = (there as f64 / turn).ceil().max(free);
        free = went + 1.0;
        (went * turn) as i64 - there
    };
    let mut delays: Vec<i64> = there.into_iter().map(wait).collect();
    delays.sort_unstable();
    delays
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes eight minutes"]
async fn a_full_backfill_does_not_hold_up_what_is_live() {
    let mut slow = Vec::new();
    let only = std::env::var("WORLD").ok();
    for (name, there) in worlds().into_iter().filter(|(name, _)| only.as_ref().is_none_or(|only| name.contains(only))) {
        let ((alone, _), (beside, least)) = tokio::join!(delays(there, 0), delays(there, 24_000));
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
        // Loose, for machines that do other things: the figures are for people.
        let costs = (at(&beside, 0.99) - at(&alone, 0.99)) as f64 / at(&least, 0.99) as f64;
        println!("    what the backfill costs, in terms of the least possible: {costs:.2}");
        if ratio > 1.5 && costs > 1.5 {
            slow.push(name);
        }
    }
    assert_eq!(slow, Vec::<&str>::new());
}
