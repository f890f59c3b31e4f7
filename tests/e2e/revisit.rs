//! Summaries that are filled in or edited later: asked for again, the newest exported, the older version kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::sim::Delayed;
use support::daemon::plan::{millis, strings};
use support::daemon::{Place, Plan, Rig};

crate::e2e! { summaries_that_change_later_are_asked_for_again }

async fn summaries_that_change_later_are_asked_for_again(place: Place) {
    // Changed some two seconds after they were there; asked for again six seconds after the first answer.
    let plan = Plan::live(2 * Duration::from_secs(1)).set("fetch.revisit", strings(&["6s"])).sim(|sim| {
        sim.availability.summary_edit = Delayed::new(1.0, millis(1_500, 2_500));
        sim.availability.auto_fill = Delayed::new(1.0, millis(1_500, 2_500));
        sim.traffic.history = Duration::from_secs(2);
    });
    let rig = Rig::started(place, plan).await;
    rig.settled().await;
    // Where the machine is slow, the first answer may hold the change already; it is asked for again all the same.
    let asked_again = || rig.sim.ledger().served_again().iter().any(|line| line.contains("agent_summary"));
    rig.until("a summary is asked for again", async || asked_again()).await;
    let again = rig.sim.ledger().served_again();
    assert!(!again.iter().any(|line| line.contains(" transcript:")), "transcripts do not change: {again:?}");
}
