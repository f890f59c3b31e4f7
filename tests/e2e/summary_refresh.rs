//! Summaries that change after the first answer are fetched again. The newest version is exported, older ones are kept.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot unwrap has failed")]

use crate::support;

use std::time::Duration;

use ringcx_extractor::sim::PartialDelay;
use support::test_env::scenario::{millis, strings};
use support::test_env::{Scenario, TempDatabase, TestEnv};

crate::e2e! { summaries_that_change_later_are_asked_for_again }

async fn summaries_that_change_later_are_asked_for_again(database: TempDatabase) {
    // They change about two seconds after they became available. The refresh is due six seconds after the first answer.
    let scenario =
        Scenario::live(2 * Duration::from_secs(1)).set("fetch.revisit", strings(&["6s"])).configure_sim(|sim| {
            sim.availability.summary_edit = PartialDelay::new(1.0, millis(1_500, 2_500));
            sim.availability.auto_fill = PartialDelay::new(1.0, millis(1_500, 2_500));
            sim.traffic.history = Duration::from_secs(2);
        });
    let env = TestEnv::with_daemon(database, scenario).await;
    env.expect_complete_archive().await;
    // On a slow machine the first answer may contain the change already. The refresh happens all the same.
    let asked_again = || env.sim.expected_archive().repeated_serves().iter().any(|line| line.contains("agent_summary"));
    env.wait_until("a summary is asked for again", async || asked_again()).await;
    let again = env.sim.expected_archive().repeated_serves();
    assert!(!again.iter().any(|line| line.contains(" transcript:")), "transcripts do not change: {again:?}");
}
