//! Tests that the other trials notice faults: failpoints in the program cause faults, and the daemon's work is compared with the
//! simulator's ledger, `audit` and `verify`.

use std::time::Duration;

use crate::e2e;
use crate::support::test_env::scenario::strings;
use crate::support::test_env::{Scenario, TempDatabase, TestEnv};

e2e! {
    without_a_failpoint_nothing_is_noticed,
    a_lost_commit_is_noticed,
    a_lost_result_is_noticed,
    a_doubled_claim_is_noticed,
    a_skipped_window_is_noticed,
}

const SECOND: Duration = Duration::from_secs(1);
/// Time limit for the archive to become complete.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(12);

/// Adjacent windows without overlap or rechecks, so that a skipped window is never read again.
fn scenario() -> Scenario {
    Scenario::live(6 * SECOND)
        .set("discovery.start", "25s")
        .set("discovery.window", "1s")
        .set("discovery.max_window", "2s")
        .set("discovery.rechecks", strings(&[]))
        .configure_sim(|sim| sim.latency = Duration::from_millis(20))
}

/// The faults that the checks find when the archive should be complete.
async fn find_faults(database: TempDatabase, failpoint: Option<&str>) -> Vec<String> {
    let mut env = TestEnv::new(database, scenario()).await;
    if let Some(failpoint) = failpoint {
        env.set_env_var("FAILPOINTS", failpoint);
    }
    env.start();
    env.clock.sleep_until_time(env.begin + 8 * SECOND).await;
    let deadline = env.clock.tick() + COMPLETION_TIMEOUT;
    let mut faults = env.archive_differences(&env.expected_segments()).await;
    while !faults.is_empty() && env.clock.tick() < deadline {
        env.clock.sleep(SECOND / 2).await;
        faults = env.archive_differences(&env.expected_segments()).await;
    }
    faults.extend(env.sim.expected_archive().repeated_serves());
    for command in ["audit", "verify"] {
        let output = env.run(&[command]).await;
        if output.status != 0 {
            faults.push(format!("{command} ended with {}: {}", output.status, output.text()));
        }
    }
    println!("{failpoint:?}: {} faults, the first: {:?}", faults.len(), faults.first());
    faults
}

async fn without_a_failpoint_nothing_is_noticed(database: TempDatabase) {
    assert_eq!(find_faults(database, None).await, Vec::<String>::new());
}

/// One evaluation in four triggers, beginning with the second.
const ONE_IN_FOUR: &str = "1*off->1*return->3*off->1*return->3*off->1*return->3*off->1*return";

/// Asserts that a failpoint is noticed, and that each phrase occurs in a reported fault.
async fn assert_noticed(database: TempDatabase, failpoint: &str, actions: &str, phrases: &[&str]) {
    let faults = find_faults(database, Some(&format!("{failpoint}={actions}"))).await;
    for phrase in phrases {
        assert!(faults.iter().any(|fault| fault.contains(phrase)), "{failpoint} causes no {phrase:?}: {faults:#?}");
    }
}

/// The item is fetched again, so that nothing is missing in the end; but that is one request too many.
async fn a_lost_commit_is_noticed(database: TempDatabase) {
    assert_noticed(database, "LostCommit", ONE_IN_FOUR, &["served 2 times"]).await;
}

async fn a_lost_result_is_noticed(database: TempDatabase) {
    assert_noticed(database, "LostResult", ONE_IN_FOUR, &["outcome is", "audit ended with 1"]).await;
}

async fn a_doubled_claim_is_noticed(database: TempDatabase) {
    assert_noticed(database, "DoubledClaim", "return", &["served 2 times"]).await;
}

async fn a_skipped_window_is_noticed(database: TempDatabase) {
    assert_noticed(database, "SkippedWindow", ONE_IN_FOUR, &["missing from the export"]).await;
}
