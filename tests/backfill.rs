//! A month of the past, asked for while live data flows: all of it arrives, and the live lane does not notice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

mod support;

use std::time::Duration;

use ringcx_extractor::model::Stretch;
use ringcx_extractor::sim::{Burst, compare};
use support::daemon::{Place, Plan, Rig};

e2e! { thirty_days_of_the_past_arrive_while_live_data_flows }

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);

async fn thirty_days_of_the_past_arrive_while_live_data_flows(place: Place) {
    let plan =
        Plan::live(12 * SECOND).transcripts_only().set("discovery.start", "now").set("discovery.max_window", "3h");
    let plan = plan.sim(|sim| {
        sim.traffic.history = 30 * DAY;
        sim.traffic.per_minute = 0.02;
        sim.windows.widest = 10_800;
    });
    let rig = Rig::started(place, plan).await;
    let account = rig.main_account();
    rig.sim.add_burst(&account, Burst { from: rig.begin + SECOND, width: 10 * SECOND, count: 200 });
    rig.until("the first window is read", async || rig.account().await["watermark"].is_string()).await;
    rig.run(&["backfill", "--from", "30d", "--to", "2s"]).await.is(0, &[]);
    let all = Stretch { from: rig.begin - 31 * DAY, to: rig.begin + DAY };
    let (mut worst, mut seen) = (0, 0);
    rig.until("the month is read", async || {
        let status = rig.json(&["status", "--json"]).await;
        // The watermark is the live lane's: while it moves on, nothing holds that lane up.
        worst = worst.max(status["accounts"][0]["lag_seconds"].as_u64().unwrap());
        seen += 1;
        status["backfills"] == serde_json::json!([])
    })
    .await;
    rig.until("the month is complete", async || {
        let ledger = rig.sim.ledger().ledger_for(all, rig.sim.now());
        ledger.len() > 900 && compare(&rig.output(&["export"]).await, &ledger, rig.plan.wants).is_empty()
    })
    .await;
    assert!(seen > 2, "there was nothing to be seen while it went on");
    assert!(worst <= 6, "the live lane was {worst} s behind, with an offset and an interval of one second each");
    rig.audit_passes().await;
    rig.kept_the_contract();
    assert_eq!(rig.sim.ledger().served_again(), Vec::<String>::new(), "nothing is fetched twice");
}
