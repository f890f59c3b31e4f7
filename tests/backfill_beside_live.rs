//! A backfill of a month while live data arrives: everything is fetched, and the live lane is not delayed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::time::Duration;

use ringcx_extractor::model::TimeRange;
use ringcx_extractor::sim::{Burst, compare_export};
use support::test_env::{Scenario, TempDatabase, TestEnv};

e2e! { thirty_days_of_the_past_arrive_while_live_data_flows }

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

async fn thirty_days_of_the_past_arrive_while_live_data_flows(database: TempDatabase) {
    let scenario =
        Scenario::live(12 * SECOND).transcripts_only().set("discovery.start", "now").set("discovery.max_window", "3h");
    let scenario = scenario.configure_sim(|sim| {
        sim.traffic.history = 30 * DAY;
        sim.traffic.per_minute = 0.02;
        sim.windows.max_interval_secs = 10_800;
    });
    let env = TestEnv::with_daemon(database, scenario).await;
    let account = env.main_account();
    env.sim.add_burst(&account, Burst { from: env.begin + SECOND, width: 10 * SECOND, count: 200 });
    env.wait_until("the first window is read", async || env.account_status().await["watermark"].is_string()).await;
    env.run(&["backfill", "--from", "30d", "--to", "2s"]).await.assert_output(0, &[]);
    let all = TimeRange { from: env.begin - 31 * DAY, to: env.begin + DAY };
    let (mut max_lag, mut polls) = (0, 0);
    env.wait_until("the month is read", async || {
        let status = env.run_json(&["status", "--json"]).await;
        // The watermark belongs to the live lane, so the lag shows a delay of that lane.
        max_lag = max_lag.max(status["accounts"][0]["lag_seconds"].as_u64().unwrap());
        polls += 1;
        status["backfills"] == serde_json::json!([])
    })
    .await;
    env.wait_until("the month is complete", async || {
        let ledger = env.sim.expected_archive().segments_in(all, env.sim.now());
        ledger.len() > 900 && compare_export(&env.run_ok(&["export"]).await, &ledger, env.scenario.wants).is_empty()
    })
    .await;
    assert!(polls > 2, "the backfill was too short to measure");
    assert!(max_lag <= 6, "the live lane was {max_lag} s behind, with an offset and an interval of one second each");
    env.wait_for_audit().await;
    env.assert_contract_kept();
    assert_eq!(env.sim.expected_archive().repeated_serves(), Vec::<String>::new(), "nothing is fetched twice");
}
